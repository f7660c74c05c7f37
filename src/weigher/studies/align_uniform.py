"""Alignment and uniformity against the contrastive loss they come from: each alone, both, and InfoNCE.

An encoder of 3 convolutions learns from images without labels, with the same start and the same views for every loss of
a seed. InfoNCE may choose among four temperatures, the two losses among four settings, and both beside InfoNCE among
its temperatures, by what is compared in the end, the 20-label probe, but of the training images, over all seeds; every
setting is a row. One more encoder is taught by the labels. Measured on images never seen:

    accuracy %, 20 labels (100, or 5-NN)   linear probe of the embeddings with 2 (10) labels of each class; 5-NN of all
    accuracy %, 20 labels, features        the same of what the projection is given
    gain, points                           of the 20-label probe over that of the start, seed by seed
    alignment, uniformity, gap, rank       of two fresh views of the images, on the sphere of 64 numbers (t = 2)
    above its limit, M = ...               InfoNCE with M negatives less log M, less the limit of theorem 1

Five encoders of 2 numbers, of the first seed, are drawn on the circle (`circle.png`), and tried by 5-NN.

small: scikit-learn's digits; about 8 minutes for five seeds on one core. full: also 2,520 images of CIFAR-10, and 1,680
never seen; about an hour more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from weigher.studies.harness import Claim, Context, Result, Row, Study, Tally, clearly_less, find_row
from weigher.studies.paired import Comparison, clearly_more, level, with_differences

if TYPE_CHECKING:  # torch is loaded by a run, not by listing the studies
    from torch import Tensor, nn

    from weigher.pairs.pretraining import ImageEncoder

    _Labelled = tuple[Tensor, Tensor]

START, ALIGN, UNIFORM = "random start", "alignment alone", "uniformity alone"
TEMPERATURES = {f"InfoNCE, temperature {tau:g}": tau for tau in (0.1, 0.2, 0.5, 1.0)}
MIXES = {
    f"alignment + uniformity, {a:g} : 1, t = {t:g}": (a, t) for a, t in ((1.0, 2.0), (2.0, 2.0), (3.0, 2.0), (3.0, 3.0))
}
TRIOS = {f"alignment + uniformity, 2 : 1, t = 2, + InfoNCE, temperature {tau:g}": tau for tau in TEMPERATURES.values()}
INFO, BOTH, ALL = "InfoNCE, tuned", "alignment + uniformity, tuned", "alignment + uniformity + InfoNCE, tuned"
TAUGHT = "taught by labels"
METHODS = (START, ALIGN, UNIFORM, *TEMPERATURES, *MIXES, *TRIOS, TAUGHT)
FEW, MANY, NEAR, GAIN = "accuracy %, 20 labels", "accuracy %, 100 labels", "accuracy %, 5-NN", "gain, points"
BELOW = "accuracy %, 20 labels, features"
CHOICE, SHARE = f"{FEW}, training images", "share of InfoNCE's gain %"
NEGATIVES = (4, 16, 64)
COMPARED: list[Comparison] = [(method, INFO, FEW) for method in (BOTH, ALL)]
"""What is compared seed by seed."""
_PAPER = "Wang, Isola 2020"


@dataclass(frozen=True)
class Size:
    """How much is done for a budget."""

    sets: dict[str, tuple[int, int]]
    """Images of each set, of which the last 2 of 5 are never trained on, and epochs."""
    draws: int = 10
    """Times that few labels are drawn."""


SIZES = {
    "small": Size({"digits": (1797, 40)}),
    "full": Size({"digits": (1797, 40), "CIFAR-10": (4200, 20)}),
}


def run(context: Context) -> list[Row]:
    """Train and measure every method for each seed, choose, compare, and draw the circle; see the module."""
    from weigher.studies import small_images

    size = SIZES[context.budget]
    rows: list[Row] = []
    for data, (count, _) in size.sets.items():
        read = small_images.reader(context, data, count)
        every = small_images.every_seed(context, data, METHODS, partial(_figures, size, read, data))
        chosen = {name: best(every, list(among)) for name, among in ((INFO, TEMPERATURES), (BOTH, MIXES), (ALL, TRIOS))}
        tally = Tally()
        for found in with_gains(every, chosen):
            tally.add(with_differences(found, COMPARED), data)
        rows += tally.rows()
        if data == "digits":
            drawn = context.part("circle", partial(_on_the_circle, read, chosen, context.seeds[0], size.sets[data][1]))
            rows += _circle(drawn, context.out / "circle.png")
    return rows


def with_gains(
    every: Sequence[dict[str, dict[str, float]]], chosen: dict[str, str]
) -> list[dict[str, dict[str, float]]]:
    """Add to each seed's figures those of the chosen settings, and gains over the start of that seed.

    >>> seed = {START: {FEW: 60.0}, "a": {FEW: 80.0}, "b": {FEW: 75.0}}
    >>> found = with_gains([seed], {INFO: "a", BOTH: "b"})[0]
    >>> found[INFO][GAIN], found[BOTH][GAIN], found[BOTH][SHARE]
    (20.0, 15.0, 75.0)
    """
    added = []
    for found in every:
        named = {**found, **{name: found[setting] for name, setting in chosen.items()}}
        start = found[START][FEW]
        gained = {m: {**figures, GAIN: figures[FEW] - start} for m, figures in named.items()}
        if gained[INFO][GAIN] > 0:
            gained[BOTH][SHARE] = 100 * gained[BOTH][GAIN] / gained[INFO][GAIN]
        added.append(gained)
    return added


def best(every: Sequence[dict[str, dict[str, float]]], among: Sequence[str]) -> str:
    """Return the setting with the highest figure to choose by, on average over seeds.

    >>> best([{"a": {CHOICE: 50.0}, "b": {CHOICE: 60.0}}, {"a": {CHOICE: 90.0}, "b": {CHOICE: 70.0}}], ["a", "b"])
    'a'
    """
    return max(among, key=lambda method: float(np.mean([found[method][CHOICE] for found in every])))


def _split(images: Tensor, labels: Tensor, seed: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    import torch

    order = torch.from_numpy(np.random.default_rng([seed, 0]).permutation(len(images)))
    train, test = order[: 3 * len(order) // 5], order[3 * len(order) // 5 :]
    return (images[train], labels[train]), (images[test], labels[test])


def _trained(data: str, method: str, seed: int, seen: _Labelled, *, epochs: int, embedding: int = 64) -> ImageEncoder:
    """Train an encoder by one method; that of a seed starts from the same weights, whatever the method."""
    from weigher.pairs.pretraining import pretrain
    from weigher.studies import small_images

    encoder = small_images.new_encoder(data, seed, embedding=embedding)
    config = small_images.config(data, epochs, seed)
    if method == TAUGHT:
        small_images.teach_by_labels(encoder, *seen, config)
    elif method != START:
        pretrain(encoder, _loss(method), seen[0], config, device="cpu")
    return encoder


def _loss(method: str) -> nn.Module:
    from weigher.pairs.align_uniform import AlignUniformConfig, AlignUniformLoss
    from weigher.pairs.info_nce import InfoNCELoss

    if method in TEMPERATURES:
        return InfoNCELoss(TEMPERATURES[method])
    if method in TRIOS:
        return AlignUniformLoss(AlignUniformConfig(2.0, contrast_weight=1.0, temperature=TRIOS[method]))
    align, t = {ALIGN: (1.0, 2.0), UNIFORM: (0.0, 2.0)}.get(method) or MIXES[method]
    return AlignUniformLoss(AlignUniformConfig(align, 0.0 if method == ALIGN else 1.0, t=t))


def _fresh_views(data: str, encoder: ImageEncoder, images: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    from weigher.pairs.evaluation import encode
    from weigher.pairs.views import random_views
    from weigher.studies.small_images import VIEWS

    rng = np.random.default_rng([seed, 1])
    first, second = (encode(encoder, random_views(images, VIEWS[data], rng), embeddings=True) for _ in range(2))
    return first, second


def _figures(
    size: Size, read: Callable[[], tuple[Tensor, Tensor]], data: str, method: str, seed: int
) -> dict[str, float]:
    from weigher.core.contrast import unit
    from weigher.pairs.diagnosis import diagnose
    from weigher.pairs.evaluation import encode, few_labels, nearest_labels

    (seen, seen_labels), (images, labels) = _split(*read(), seed)
    encoder = _trained(data, method, seed, (seen, seen_labels), epochs=size.sets[data][1])
    near, asked = (unit(encode(encoder, x, embeddings=True)) for x in (seen, images))
    rng = np.random.default_rng([seed, 2])
    given = {FEW: (near, asked, 2), MANY: (near, asked, 10), BELOW: (encode(encoder, seen), encode(encoder, images), 2)}
    found = {
        metric: 100 * few_labels((train, seen_labels), (test, labels), each, rng, draws=size.draws)
        for metric, (train, test, each) in given.items()
    }
    found[NEAR] = 100 * float((nearest_labels(near, seen_labels, asked) == labels).double().mean())
    train = (near, seen_labels)
    found[CHOICE] = 100 * few_labels(train, train, 2, np.random.default_rng([seed, 3]), draws=size.draws)
    first, second = _fresh_views(data, encoder, images, seed)
    told = diagnose(first, second)
    assert told.alignment is not None
    found |= {
        "alignment": told.alignment,
        "uniformity": told.uniformity,
        "uniformity gap": told.gap,
        "effective rank": told.effective_rank,
    }
    if method in TEMPERATURES:
        found |= above_the_limit(first, second, TEMPERATURES[method], rng)
    return found


def above_the_limit(first: Tensor, second: Tensor, temperature: float, rng: np.random.Generator) -> dict[str, float]:
    """Return how far InfoNCE with M negatives, drawn from all rows, less log M lies above its limit, for each M."""
    import torch

    from weigher.core.contrast import info_nce, unit
    from weigher.pairs.diagnosis import contrastive_limit

    x, y = (unit(rows.double()) for rows in (first, second))
    limit = contrastive_limit(x, y, temperature).loss
    found = {}
    for negatives in NEGATIVES:
        losses = []
        for _ in range(10):
            drawn = torch.from_numpy(rng.integers(len(x), size=(len(x), negatives)))
            each = info_nce(x[:, None], y[:, None], negatives=x[drawn], temperature=temperature)
            losses.append(float(each.mean()))
        found[f"above its limit, M = {negatives}"] = float(np.mean(losses)) - math.log(negatives) - limit
    return found


def _on_the_circle(
    read: Callable[[], tuple[Tensor, Tensor]], chosen: dict[str, str], seed: int, epochs: int
) -> dict[str, Any]:
    """Name -> points of the unseen images on the circle and distances of their views, and the images' labels."""
    from weigher.pairs.diagnosis import diagnose
    from weigher.pairs.evaluation import encode, nearest_labels

    seen, (images, labels) = _split(*read(), seed)
    drawn: dict[str, Any] = {"labels": labels.tolist(), "clouds": {}}
    for name in (START, ALIGN, UNIFORM, BOTH, INFO):
        encoder = _trained("digits", chosen.get(name, name), seed, seen, epochs=epochs, embedding=2)
        found = diagnose(*_fresh_views("digits", encoder, images, seed))
        assert found.distances is not None
        near, asked = (encode(encoder, x, embeddings=True) for x in (seen[0], images))
        drawn["clouds"][name] = {
            NEAR: 100 * float((nearest_labels(near, seen[1], asked) == labels).double().mean()),
            "points": found.plane.tolist(),
            "distances": found.distances.tolist(),
            "alignment": found.alignment,
            "uniformity": found.uniformity,
        }
    return drawn


def _circle(drawn: dict[str, Any], path: Path) -> list[Row]:
    from weigher.pairs.align_uniform import uniformity_optimum
    from weigher.plot.circle import Cloud, circles

    clouds = [
        Cloud(
            name,
            np.array(one["points"]),
            f"alignment {one['alignment']:z.2f}, uniformity {one['uniformity']:z.2f}",
            np.array(one["distances"]),
        )
        for name, one in drawn["clouds"].items()
    ]
    title = f"Digits never seen, on the circle (uniformity at best {uniformity_optimum(2):.2f})"
    circles(path, clouds, labels=drawn["labels"], title=title)
    return [
        Row.of(name, f"digits, on the circle: {metric}", [one[metric]])
        for name, one in drawn["clouds"].items()
        for metric in ("alignment", "uniformity", NEAR)
    ]


def _collapses(rows: Sequence[Row]) -> tuple[str, bool]:
    alone, start = (find_row(rows, method, "digits: uniformity") for method in (ALIGN, START))
    shown = f"{alone.mean:.4f}, at the start {start.mean:.4f}"  # where all lie near one point, too
    return shown, clearly_less(level(-0.5), alone) and clearly_less(start, alone)


def _never_aligns(rows: Sequence[Row]) -> tuple[float, bool]:
    row = find_row(rows, UNIFORM, "digits: alignment")
    return row.mean, clearly_less(level(1.0), row)


def _gains_little(method: str, rows: Sequence[Row]) -> tuple[str, bool]:
    one, both = (find_row(rows, name, f"digits: {GAIN}") for name in (method, BOTH))
    return f"{one.mean:+.1f} against {both.mean:+.1f} points", clearly_less(one, both, 0.5)


def _has_both(method: str, rows: Sequence[Row]) -> tuple[str, bool]:
    near, far = (find_row(rows, name, "digits: alignment") for name in (method, UNIFORM))
    even = find_row(rows, method, "digits: uniformity")
    shown = f"alignment {near.mean:.2f} (uniformity alone {far.mean:.2f}), uniformity {even.mean:.2f}"
    return shown, clearly_less(near, far, 0.5) and clearly_less(even, level(-1.95))


def _recovers(rows: Sequence[Row]) -> tuple[float, bool]:
    row = find_row(rows, BOTH, f"digits: {SHARE}")
    return row.mean, clearly_less(level(80.0), row)


def _tends(rows: Sequence[Row]) -> tuple[str, bool]:
    gaps = [find_row(rows, INFO, f"digits: above its limit, M = {m}") for m in NEGATIVES]
    shown = ", ".join(f"{gap.mean:.3f} at {m}" for m, gap in zip(NEGATIVES, gaps, strict=True))
    return shown, all(clearly_less(later, earlier, 1 / 1.9) for earlier, later in pairwise(gaps))


def _brief(method: str) -> str:
    """Name a method in a picture.

    >>> _brief("alignment + uniformity, 2 : 1, t = 2, + InfoNCE, temperature 0.5")
    '2 : 1, t 2, τ 0.5'
    """
    words = {"alignment + uniformity, ": "", "+ InfoNCE, ": "", "InfoNCE, ": "", "temperature": "τ", "t = ": "t "}
    for word, brief in words.items():
        method = method.replace(word, brief)
    return method


def plot(result: Result, path: Path) -> None:
    """Draw every method of the digits by its alignment and uniformity, coloured by its accuracy with 20 labels."""
    from weigher.pairs.align_uniform import uniformity_optimum
    from weigher.plot.plane import Spot, plane

    spots = []
    for method in METHODS:
        x, y, value = (find_row(result.rows, method, f"digits: {name}") for name in ("uniformity", "alignment", FEW))
        spots.append(Spot(_brief(method), x.mean, y.mean, x.std or 0.0, y.std or 0.0, value.mean))
    plane(
        path,
        spots,
        title="Digits by alignment and uniformity: alone, mixed (a : u), τ of InfoNCE",
        x_axis=f"uniformity (even: {uniformity_optimum(64):.2f})",
        y_axis="alignment (pairs coincide: 0)",
        value_axis="accuracy with 20 labels, %",
    )


STUDY = Study(
    name="align_uniform",
    card="31",
    title="Alignment and uniformity: each alone, both, and the contrastive loss they come from",
    run=run,
    claims=(
        Claim(
            "alignment alone collapses (uniformity above -0.5, and nearer to 0, which is one point, than at the start)",
            _PAPER,
            _collapses,
        ),
        Claim(
            "alignment alone gains less than half of what both gain over the start",
            _PAPER,
            partial(_gains_little, ALIGN),
        ),
        Claim("uniformity alone never aligns (alignment above 1)", _PAPER, _never_aligns),
        Claim(
            "uniformity alone gains less than half of what both gain over the start",
            _PAPER,
            partial(_gains_little, UNIFORM),
        ),
        Claim("InfoNCE, told of neither, becomes aligned and even", _PAPER, partial(_has_both, INFO)),
        Claim("both together, tuned, have 80 % of the gain of tuned InfoNCE", "the project's target", _recovers),
        *(
            Claim(
                f"{called}, tuned, beat tuned InfoNCE with 20 labels",
                _PAPER,
                partial(clearly_more, method, INFO, f"digits: {FEW}"),
            )
            for method, called in ((BOTH, "both together"), (ALL, "both beside InfoNCE"))
        ),
        Claim(
            "embeddings of an encoder taught by labels are aligned and even, too", _PAPER, partial(_has_both, TAUGHT)
        ),
        Claim("InfoNCE less log M nears its limit at least as fast as 1 / sqrt(M)", f"{_PAPER}, theorem 1", _tends),
    ),
    plot=plot,
    paper="Alignment and uniformity on the hypersphere: Wang, Isola 2020, arXiv 2005.10242",
)

"""ReLIC: does a penalty on likenesses that depend on the augmentation make better features than InfoNCE, well tuned?

An encoder of 3 convolutions learns from images without labels, with the same start and the same views for every loss of
a seed. InfoNCE (NT-Xent) may choose among six temperatures and ReLIC among six settings of alpha and temperature, by
the 20-label probe of validation images, over all seeds; every setting is a row. InfoNCE here is NT-Xent, which also
compares within a view; ReLIC with alpha 0 does not, so that the penalty itself is judged against alpha 0, tuned, too.
Further rows go along alpha at one temperature, through the directions of the divergence, and to targets by a slow copy
of the encoder. Half of the images
are learned from, a fifth validates, the rest is measured on, always by the encoder's features:

    accuracy %, 20 labels (100)      linear probe with 2 (10) labels of each class
    accuracy %, shifted style        the 100-label probe, learned on clean images, on random views of the images
    accuracy %, corrupted            the same on images spoiled in ways that no view is: the mean of four
    same digit %, same parity %      two views of an image get one answer by 100 labels: the task, and one it refines
    Fisher ratio                     median over pairs of classes (`weigher.pairs.relic.fisher_ratios`), and that of the
                                     embeddings, on which the penalty is
    invariance                       KL between likenesses under two orders of views, of embeddings, at temperature 0.2

Gains are seed by seed, of ReLIC over what stands behind "over".

small: scikit-learn's digits; about 14 minutes for five seeds on one core (8 s for each of 20 trainings of a seed).
full: also 2,100 of 4,200 images of CIFAR-10; about an hour more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from weigher.studies.harness import Claim, Context, Figures, Result, Row, Study, Tally, clearly_less, find_row
from weigher.studies.paired import level

if TYPE_CHECKING:  # torch is loaded by a run, not by listing the studies
    from torch import Tensor

    from weigher.pairs.pretraining import ImageEncoder
    from weigher.pairs.relic import Divergence

Images = tuple["Tensor", "Tensor"]


@dataclass(frozen=True)
class Setting:
    """One way to learn: ReLIC, or with alpha None InfoNCE over both views."""

    temperature: float
    alpha: float | None = None
    divergence: Divergence = "forward"
    momentum: float | None = None


START = "random start"
INFO, RELIC, PLAIN = "InfoNCE, tuned", "ReLIC, tuned", "ReLIC, alpha 0, tuned"
TEMPERATURES = {f"InfoNCE, temperature {tau:g}": Setting(tau) for tau in (0.05, 0.1, 0.2, 0.3, 0.5, 1.0)}
SWEEP = {f"ReLIC, alpha {alpha:g}, temperature 0.2": Setting(0.2, alpha) for alpha in (0.0, 1.0, 4.0, 16.0)}
NONE, ONE, FOUR, _ = SWEEP
OTHERS = {
    f"ReLIC, alpha {alpha:g}, temperature {tau:g}": Setting(tau, alpha)
    for tau in (0.1, 0.5)
    for alpha in (0.0, 1.0, 4.0)
}
RELIC_SETTINGS = {**SWEEP, **OTHERS}
TUNED = [name for name, setting in RELIC_SETTINGS.items() if setting.alpha in (1.0, 4.0)]
PLAIN_TUNED = [name for name, setting in RELIC_SETTINGS.items() if setting.alpha == 0]
REVERSE, BOTH = (f"{FOUR}, {name}" for name in ("reverse", "symmetric"))
DIRECTIONS = {REVERSE: Setting(0.2, 4.0, "reverse"), BOTH: Setting(0.2, 4.0, "symmetric")}
SLOW_NONE, SLOW_FOUR = (f"{name}, slow copy" for name in (NONE, FOUR))
SLOW = {SLOW_NONE: Setting(0.2, 0.0, momentum=0.99), SLOW_FOUR: Setting(0.2, 4.0, momentum=0.99)}
SETTINGS: dict[str, Setting | None] = {START: None, **TEMPERATURES, **RELIC_SETTINGS, **DIRECTIONS, **SLOW}
COMPARED = {
    "over InfoNCE": (RELIC, INFO),
    "over alpha 0, tuned": (RELIC, PLAIN),
    "over alpha 0": (FOUR, NONE),
    "over forward": (REVERSE, FOUR),
    "over alpha 0, slow copy": (SLOW_FOUR, SLOW_NONE),
    "over no slow copy": (SLOW_FOUR, FOUR),
}

FEW, MANY, STYLE, CORRUPTED = (
    f"accuracy %, {what}" for what in ("20 labels", "100 labels", "shifted style", "corrupted")
)
SAME, PARITY, FISHER, PENALTY = "same digit %", "same parity %", "Fisher ratio", "invariance"
FISHER_BEHIND = f"{FISHER}, embeddings"
CHOICE = "accuracy %, 20 labels, validation"
_PAPER = "Mitrovic et al. 2021"


@dataclass(frozen=True)
class Size:
    """How much is done for a budget."""

    sets: dict[str, tuple[int, int]]
    """Images of each set, of which half are learned from and a fifth validates, and epochs."""
    draws: int = 10
    """Times that few labels are drawn."""


SIZES = {
    "small": Size({"digits": (1797, 40)}),
    "full": Size({"digits": (1797, 40), "CIFAR-10": (4200, 20)}),
}


def run(context: Context) -> list[Row]:
    """Train and measure every setting for each seed, choose, and compare; see the module."""
    from weigher.studies import small_images

    size = SIZES[context.budget]
    tally = Tally()
    for data, (count, _) in size.sets.items():
        read = small_images.reader(context, data, count)
        every = small_images.every_seed(context, data, SETTINGS, partial(_figures, size, read, data))
        for found in with_gains(every):
            tally.add(found, data)
    return tally.rows()


def chosen(every: Sequence[Figures], among: Sequence[str]) -> str:
    """Return the setting of the highest accuracy on validation images, on average over seeds.

    >>> chosen([{"a": {CHOICE: 50.0}, "b": {CHOICE: 60.0}}, {"a": {CHOICE: 90.0}, "b": {CHOICE: 70.0}}], ["a", "b"])
    'a'
    """
    return max(among, key=lambda method: float(np.mean([found[method][CHOICE] for found in every])))


def with_gains(every: Sequence[Figures]) -> list[Figures]:
    """Add to each seed's figures those of the chosen settings and what one setting gains over another on that seed."""
    among = {INFO: list(TEMPERATURES), RELIC: TUNED, PLAIN: PLAIN_TUNED}
    picked = {name: chosen(every, settings) for name, settings in among.items()}
    added = []
    for found in every:
        named = {**found, **{name: found[setting] for name, setting in picked.items()}}
        gains: dict[str, dict[str, float]] = {}
        for over, (method, other) in COMPARED.items():
            one, two = named[method], named[other]
            gains[f"{method} {over}"] = {f"gain in {metric}": one[metric] - two[metric] for metric in two}
        added.append({**named, **gains})
    return added


def _parts(images: Tensor, labels: Tensor, seed: int) -> tuple[Images, Images, Images]:
    """Half to learn from, a fifth for validation, the rest to measure on."""
    import torch

    order = torch.from_numpy(np.random.default_rng([seed, 0]).permutation(len(images)))
    first, second = len(order) // 2, len(order) * 7 // 10
    learned, validation, test = order[:first], order[first:second], order[second:]
    return (
        (images[learned], labels[learned]),
        (images[validation], labels[validation]),
        (images[test], labels[test]),
    )


def _trained(data: str, setting: Setting | None, seed: int, images: Tensor, epochs: int) -> ImageEncoder:
    from weigher.pairs.info_nce import InfoNCELoss
    from weigher.pairs.pretraining import pretrain
    from weigher.pairs.relic import ReLICConfig, ReLICLoss
    from weigher.studies import small_images

    encoder = small_images.new_encoder(data, seed)
    if setting is not None:
        if setting.alpha is None:
            loss = InfoNCELoss(setting.temperature)
        else:
            loss = ReLICLoss(ReLICConfig(setting.alpha, setting.temperature, setting.divergence))
        config = small_images.config(data, epochs, seed, target_momentum=setting.momentum)
        pretrain(encoder, loss, images, config, device="cpu")
    return encoder


def _figures(size: Size, read: Callable[[], Images], data: str, method: str, seed: int) -> dict[str, float]:
    from weigher.pairs.evaluation import encode, few_labels
    from weigher.pairs.relic import fisher_ratios
    from weigher.pairs.views import random_views
    from weigher.studies import small_images

    (seen, told), (tried, tried_labels), (images, labels) = _parts(*read(), seed)
    encoder = _trained(data, SETTINGS[method], seed, seen, size.sets[data][1])
    near, asked = encode(encoder, seen), encode(encoder, images)
    rng = np.random.default_rng([seed, 1])  # the same labels, views and corruptions for every method of a seed
    found = {
        metric: 100 * few_labels((near, told), (rows, answers), each, rng, draws=size.draws)
        for metric, rows, answers, each in (
            (FEW, asked, labels, 2),
            (CHOICE, encode(encoder, tried), tried_labels, 2),
            (MANY, asked, labels, 10),
        )
    }
    views = [random_views(images, small_images.VIEWS[data], rng) for _ in range(2)]
    spoiled = [small_images.corrupted(images, kind, rng) for kind in small_images.CORRUPTIONS]
    shifted = [encode(encoder, view) for view in views]
    harmed = [encode(encoder, each) for each in spoiled]
    found |= answers_kept((near, told), shifted, harmed, labels, rng, draws=size.draws)
    found[FISHER] = float(fisher_ratios(asked, labels).median())
    found[FISHER_BEHIND] = float(fisher_ratios(encode(encoder, images, embeddings=True), labels).median())
    found[PENALTY] = _penalty(*(encode(encoder, view, embeddings=True) for view in views))
    return found


def answers_kept(
    train: Images,
    shifted: Sequence[Tensor],
    harmed: Sequence[Tensor],
    labels: Tensor,
    rng: np.random.Generator,
    *,
    draws: int,
) -> dict[str, float]:
    """Accuracy on shifted and harmed images, and how often two views get one answer; in per cent, mean over draws.

    `train` are features and labels of clean images, `shifted` features of two views, `harmed` of each corruption.
    """
    import torch

    from weigher.pairs.evaluation import linear_probe

    features, told = train
    figures: dict[str, list[float]] = defaultdict(list)
    for _ in range(draws):
        places = [(told == c).nonzero()[:, 0].numpy() for c in told.unique()]
        some = torch.from_numpy(np.concatenate([rng.choice(place, 10, replace=False) for place in places]))
        probe, coarse = (linear_probe(features[some], told[some] % most) for most in (int(told.max()) + 1, 2))
        figures[STYLE].append(probe.accuracy(shifted[0], labels))
        figures[CORRUPTED].append(float(np.mean([probe.accuracy(rows, labels) for rows in harmed])))
        for metric, one in ((SAME, probe), (PARITY, coarse)):
            first, second = (one.logits(rows).argmax(1) for rows in shifted)
            figures[metric].append(float((first == second).double().mean()))
    return {metric: 100 * float(np.mean(values)) for metric, values in figures.items()}


def _penalty(first: Tensor, second: Tensor) -> float:
    from weigher.core.contrast import unit
    from weigher.pairs.relic import invariance

    one, two = unit(first), unit(second)
    return float(invariance((one, two), (two, one), temperature=0.2).mean())


def _falls(rows: Sequence[Row]) -> tuple[str, bool]:
    along = [find_row(rows, method, f"digits: {PENALTY}") for method in SWEEP]
    shown = ", ".join(f"{row.mean:.3f}" for row in along)
    return shown, all(clearly_less(later, earlier) for earlier, later in pairwise(along))


def _gains(over: str, metric: str, rows: Sequence[Row]) -> tuple[str, bool]:
    row = find_row(rows, f"{COMPARED[over][0]} {over}", f"digits: gain in {metric}")
    return f"{row.mean:+.2f}", clearly_less(level(0.0), row)


def _carries_over(rows: Sequence[Row]) -> tuple[str, bool]:
    fine, coarse = (_gains("over alpha 0", metric, rows) for metric in (SAME, PARITY))
    return f"{fine[0]} and {coarse[0]} points", fine[1] and coarse[1]


def _directions_agree(rows: Sequence[Row]) -> tuple[str, bool]:
    row = find_row(rows, f"{REVERSE} over forward", f"digits: gain in {FEW}")
    within = clearly_less(level(-2.0), row) and clearly_less(row, level(2.0))
    return f"{row.mean:+.2f} points", within


def plot(result: Result, path: Path) -> None:
    """Draw the settings of the digits by invariance and Fisher ratio, coloured by accuracy on corrupted images."""
    from weigher.plot.plane import Spot, plane

    spots = []
    for method in (*TEMPERATURES, *RELIC_SETTINGS):
        x, y, value = (find_row(result.rows, method, f"digits: {name}") for name in (PENALTY, FISHER, CORRUPTED))
        brief = method.replace("ReLIC, alpha", "α").replace(", temperature", " τ")
        spots.append(Spot(brief, x.mean, y.mean, x.std or 0.0, y.std or 0.0, value.mean))
    plane(
        path,
        spots,
        title="Digits: a penalty α, temperatures τ",
        x_axis="KL between likenesses under two orders of views (invariant: 0)",
        y_axis="Fisher ratio, median over pairs of classes",
        value_axis="accuracy on corrupted images, %",
    )


STUDY = Study(
    name="relic",
    card="42",
    title="ReLIC: likenesses that do not depend on the augmentation, beside InfoNCE well tuned",
    run=run,
    claims=(
        Claim(
            "the divergence of unseen images falls with alpha, step by step: 0, 1, 4, 16", "the project's trial", _falls
        ),
        Claim("the penalty (alpha 4) raises the Fisher ratio", _PAPER, partial(_gains, "over alpha 0", FISHER)),
        Claim(
            "the penalty (alpha 4) raises the Fisher ratio of the embeddings",
            "the project's question",
            partial(_gains, "over alpha 0", FISHER_BEHIND),
        ),
        Claim(
            "tuned ReLIC has the higher Fisher ratio than tuned InfoNCE",
            _PAPER,
            partial(_gains, "over InfoNCE", FISHER),
        ),
        Claim("tuned ReLIC beats tuned InfoNCE with 20 labels", _PAPER, partial(_gains, "over InfoNCE", FEW)),
        Claim(
            "tuned ReLIC beats tuned InfoNCE where the style is shifted", _PAPER, partial(_gains, "over InfoNCE", STYLE)
        ),
        Claim(
            "tuned ReLIC beats tuned InfoNCE under corruptions that no view has shown",
            _PAPER,
            partial(_gains, "over InfoNCE", CORRUPTED),
        ),
        Claim(
            "the penalty, tuned, gains over alpha 0, tuned, with 20 labels",
            "the project's question",
            partial(_gains, "over alpha 0, tuned", FEW),
        ),
        Claim(
            "with the penalty (alpha 4) two views get one answer more often: of the task, and of one it refines",
            f"{_PAPER}, theorem 1",
            _carries_over,
        ),
        Claim(
            "targets by a slow copy: the penalty gains there, too, with 20 labels",
            _PAPER,
            partial(_gains, "over alpha 0, slow copy", FEW),
        ),
        Claim(
            "either direction of the divergence will do: 20 labels within 2 points",
            "the project's question",
            _directions_agree,
        ),
    ),
    plot=plot,
    paper="Representation learning via invariant causal mechanisms: Mitrovic et al. 2021, arXiv 2010.07922",
)

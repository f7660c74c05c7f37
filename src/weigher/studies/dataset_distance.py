"""Does the distance between data sets tell, without training, which source is worth learning from first?

A few labelled digits are the target. Seventeen sources are made of other digits (turned, blurred, labels made random,
classes renamed, ...); a small network learns each of them, then the target, and its gain is how much of the error of
learning the target alone is gone. Beside it stand distances between 300 examples of the source and 300 of the target's
kind: with labels (normal classes, and exact), with the means of classes alone, and plain optimal transport, which does
not see labels. Worlds: scikit-learn's digits (8 x 8), and MNIST (14 x 14) where the data folder has it.

POT's exact solver is asked for every distance with exact labels; the rows hold the largest difference.

small: about 3 minutes for three seeds on two cores. full: larger sources and longer training; about 20.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from weigher.studies.harness import Claim, Context, Result, Row, Study, Tally, clearly_less, find_row
from weigher.studies.transfer_sources import (
    CLEAN,
    INVERTED,
    LABEL_LADDER,
    RELABELLED,
    TURN_LADDER,
    Images,
    gains,
    sources,
)

if TYPE_CHECKING:  # torch is loaded by a run, not by listing the studies
    from weigher.examples.label_distances import DistanceConfig

DIGITS, MNIST = "digits", "MNIST"
MNIST_FILE = "mnist10k/mnist10k.npz"
OURS, EXACT, MEANS, FEATURES = "labels as normal laws", "labels exactly", "means of classes alone", "features alone"
MEASURES = (OURS, EXACT, MEANS, FEATURES)
GAIN, RANK, ALONE = "gain %", "rank correlation with gain", "error % without a source"
LESS = " less that of "
POT, HALVES = "largest relative difference from POT", "two samples of one source"
FOUND, ABOVE = "classes found of 10", "excess over exact labels, %"


@dataclass(frozen=True)
class Size:
    """How much is done for a budget."""

    source: int
    target: int
    measured: int
    """Examples on each side of a distance."""
    test: int
    steps: int
    repeats: int
    """Draws of the target's few examples, and networks, that a gain is the mean of."""


SIZES = {
    "small": Size(source=600, target=50, measured=300, test=500, steps=250, repeats=4),
    "full": Size(source=900, target=50, measured=390, test=500, steps=1000, repeats=10),
}


def run(context: Context) -> list[Row]:
    """Measure and train in every world for each seed; see the module."""
    size = SIZES[context.budget]
    worlds: dict[str, Callable[[], Images]] = {DIGITS: _digits}
    if context.has(MNIST_FILE):
        worlds[MNIST] = partial(_mnist, context.path(MNIST_FILE))
    tally = Tally()
    done = 0
    for seed in context.seeds:
        for world, read in worlds.items():
            tally.add(context.part(f"{seed} {world}", partial(_figures, read, size, seed)), world)
            done += 1
            context.progress("sources", done, len(worlds) * len(context.seeds))
    return tally.rows()


def distances(source: Images, other: Images) -> dict[str, float]:
    """Return the distance of two sets of images by every measure."""
    from weigher.examples.dataset_distance import dataset_distance

    return {
        name: float(dataset_distance(source.rows(), source.labels, other.rows(), other.labels, config).value)
        for name, config in _configs().items()
    }


def by_pot(source: Images, other: Images) -> float:
    """Return the distance with exact labels as POT alone gives it: a linear program of linear programs."""
    import ot

    x, y = (images.rows().astype(np.float64) for images in (source, other))
    cost = np.asarray(ot.dist(x, y))
    both = [np.unique(images.labels, return_inverse=True) for images in (source, other)]
    (classes, label), (others, theirs) = both
    between = np.array(
        [
            [ot.emd2([], [], cost[np.ix_(label == c, theirs == k)]) for k in range(len(others))]
            for c in range(len(classes))
        ]
    )
    return float(np.sqrt(ot.emd2([], [], cost + between[label][:, theirs], numItermax=1_000_000)))


def rank_correlation(measured: Sequence[float], gained: Sequence[float]) -> float:
    """Return Spearman's rank correlation, 0 where one of the two is the same everywhere.

    >>> rank_correlation([1.0, 2.0, 3.0], [9.0, 5.0, 1.0])
    -1.0
    """
    from scipy.stats import rankdata

    if min(np.ptp(measured), np.ptp(gained)) == 0:
        return 0.0
    return float(np.corrcoef(rankdata(measured), rankdata(gained))[0, 1])


def balanced(labels: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return `count` places by chance, as many of each class as can be.

    >>> places = balanced(np.array([0, 0, 0, 0, 1, 1]), 4, np.random.default_rng(0))
    >>> sorted(np.array([0, 0, 0, 0, 1, 1])[places].tolist())
    [0, 0, 1, 1]
    """
    order = rng.permutation(len(labels))
    rank = np.empty(len(labels), int)  # the how-manieth of its class each place is
    for label in np.unique(labels):
        of_class = order[labels[order] == label]
        rank[of_class] = np.arange(len(of_class))
    return order[np.argsort(rank[order], kind="stable")][:count]


def _configs() -> dict[str, DistanceConfig]:
    from weigher.examples.label_distances import DistanceConfig

    return {
        OURS: DistanceConfig(),
        EXACT: DistanceConfig(label_distance="exact"),
        MEANS: DistanceConfig(label_distance="means", feature_weight=0.0),
        FEATURES: DistanceConfig(label_weight=0.0),
    }


def _digits() -> Images:
    from sklearn.datasets import load_digits

    rows, labels = (np.asarray(part) for part in load_digits(return_X_y=True))
    return Images(rows.reshape(-1, 8, 8) / 16, labels)


def _mnist(path: Path) -> Images:
    with np.load(path, allow_pickle=False) as stored:
        pixels, labels = stored["images"], stored["labels"]
    pixels = pixels.reshape(-1, 14, 2, 14, 2).mean((2, 4)) / 255
    return Images(pixels, labels)


def _figures(read: Callable[[], Images], size: Size, seed: int) -> dict[str, dict[str, float]]:
    """Method -> metric -> figure in one world, for one seed."""
    rng = np.random.default_rng([seed, 57])
    everything = read()
    order = rng.permutation(len(everything.labels))
    clean, kind, test = (
        everything[part] for part in np.split(order, np.cumsum([size.source, size.measured, size.test]))[:3]
    )
    made = sources(clean, rng)
    drawn = []
    for repeat in range(size.repeats):
        target = kind[balanced(kind.labels, size.target, rng)]
        drawn.append(gains(made, target, test, steps=size.steps, seed=1000 * seed + repeat))
    gained = {name: float(np.mean([each[name] for each, _ in drawn])) for name in made}
    found: dict[str, dict[str, float]] = {}
    worst = excess = 0.0
    for name, source in made.items():
        measured = distances(source[: size.measured], kind)
        found[name] = {GAIN: gained[name], **measured}
        worst = max(worst, abs(by_pot(source[: size.measured], kind) / measured[EXACT] - 1))
        excess = max(excess, 100 * (measured[OURS] / measured[EXACT] - 1))
    ranked = {
        measure: rank_correlation([found[name][measure] for name in made], [gained[name] for name in made])
        for measure in MEASURES
    }
    for measure in MEASURES:
        found[measure] = {RANK: ranked[measure]}
        if measure != OURS:
            found[OURS + LESS + measure] = {RANK: ranked[OURS] - ranked[measure]}
    found[OURS] |= {FOUND: _classes_found(clean[: size.measured], kind), ABOVE: excess}
    found[EXACT] |= {POT: worst}
    found["the target alone"] = {ALONE: float(np.mean([alone for _, alone in drawn]))}
    half = size.measured // 2
    found[HALVES] = {OURS: distances(kind[:half], kind[half:])[OURS]}
    return found


def _classes_found(source: Images, other: Images) -> float:
    """How many classes of the source have the same digit as their nearest class."""
    from weigher.examples.dataset_distance import dataset_distance

    found = dataset_distance(source.rows(), source.labels, other.rows(), other.labels)
    classes, others = found.classes
    return float(sum(others[k] == c for c, k in zip(classes, found.label_distances.argmin(1).tolist(), strict=True)))


def _worlds(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.metric.partition(":")[0] for row in rows))


def _everywhere(rows: Sequence[Row], judge: Callable[[str], tuple[str, bool]]) -> tuple[str, bool]:
    """Judge each world; a claim holds where it holds in all."""
    found = {world: judge(world) for world in _worlds(rows)}
    return "; ".join(f"{world} {words}" for world, (words, _) in found.items()), all(held for _, held in found.values())


def _rises(ladder: Mapping[int, str], rows: Sequence[Row]) -> tuple[str, bool]:
    """The distance is clearly larger at each rung than at the one before."""

    def judge(world: str) -> tuple[str, bool]:
        steps = [find_row(rows, name, f"{world}: {OURS}") for name in ladder.values()]
        held = all(clearly_less(low, high) for low, high in pairwise(steps))
        return " < ".join(f"{row.mean:.2f}" for row in steps), held

    return _everywhere(rows, judge)


def _gain_falls(ladder: Mapping[int, str], rows: Sequence[Row]) -> tuple[str, bool]:
    """The gain is clearly smaller at the last rung than at the first."""

    def judge(world: str) -> tuple[str, bool]:
        steps = [find_row(rows, name, f"{world}: {GAIN}") for name in ladder.values()]
        return ", ".join(f"{row.mean:+.0f}" for row in steps), clearly_less(steps[-1], steps[0])

    return _everywhere(rows, judge)


def _blind(rows: Sequence[Row]) -> tuple[str, bool]:
    """Plain transport gives one distance to all rungs of the ladder of labels."""

    def judge(world: str) -> tuple[str, bool]:
        steps = [find_row(rows, name, f"{world}: {FEATURES}").mean for name in LABEL_LADDER.values()]
        return ", ".join(f"{mean:.3f}" for mean in steps), max(steps) - min(steps) < 1e-6 * max(steps)

    return _everywhere(rows, judge)


def _names_do_not_matter(rows: Sequence[Row]) -> tuple[str, bool]:
    def judge(world: str) -> tuple[str, bool]:
        apart = [find_row(rows, name, f"{world}: {OURS}").mean for name in (CLEAN, RELABELLED)]
        gained = [find_row(rows, name, f"{world}: {GAIN}") for name in (CLEAN, RELABELLED)]
        words = f"{apart[0]:.3f} and {apart[1]:.3f}, gain {gained[0].mean:+.0f} and {gained[1].mean:+.0f}"
        return words, abs(apart[1] / apart[0] - 1) < 1e-6 and not clearly_less(gained[1], gained[0])

    return _everywhere(rows, judge)


def _tells_more(other: str, rows: Sequence[Row]) -> tuple[str, bool]:
    """The correlation is more negative, seed by seed, by more than two standard errors."""

    def judge(world: str) -> tuple[str, bool]:
        ours, theirs = (find_row(rows, name, f"{world}: {RANK}").mean for name in (OURS, other))
        difference = find_row(rows, OURS + LESS + other, f"{world}: {RANK}")
        nothing = Row.of("nothing", difference.metric, [0.0])
        return f"{ours:.2f} against {theirs:.2f}", clearly_less(difference, nothing)

    return _everywhere(rows, judge)


def _farthest_is_worst(rows: Sequence[Row]) -> tuple[str, bool]:
    def judge(world: str) -> tuple[str, bool]:
        of_sources = [row.method for row in rows if row.metric == f"{world}: {GAIN}"]
        far = max(of_sources, key=lambda name: find_row(rows, name, f"{world}: {OURS}").mean)
        gained = find_row(rows, far, f"{world}: {GAIN}").mean
        worse = sum(find_row(rows, name, f"{world}: {GAIN}").mean < gained for name in of_sources)
        return f"{far}: gain {gained:+.0f}, {worse} sources gain less", worse == 0

    return _everywhere(rows, judge)


def _largest(method: str, metric: str, most: float, rows: Sequence[Row]) -> tuple[str, bool]:
    def judge(world: str) -> tuple[str, bool]:
        mean = find_row(rows, method, f"{world}: {metric}").mean
        return f"{mean:.2g}", mean <= most

    return _everywhere(rows, judge)


def _all_found(rows: Sequence[Row]) -> tuple[str, bool]:
    def judge(world: str) -> tuple[str, bool]:
        mean = find_row(rows, OURS, f"{world}: {FOUND}").mean
        return f"{mean:.1f}", mean == 10

    return _everywhere(rows, judge)


def plot(result: Result, path: Path) -> None:
    """Draw gain against distance for every source, and both ladders beside it, in each world."""
    from weigher.plot.transfer import Ladder, Source, transfer_picture

    def mean(name: str, metric: str) -> float:
        return find_row(result.rows, name, metric).mean

    drawn = {}
    for world in _worlds(result.rows):
        every = [
            Source(row.method, mean(row.method, f"{world}: {OURS}"), row.mean, row.std or 0.0, row.method == INVERTED)
            for row in result.rows
            if row.metric == f"{world}: {GAIN}"
        ]
        ladders = [
            Ladder(
                axis,
                tuple(ladder),
                {
                    measure: tuple(
                        mean(name, f"{world}: {measure}") / mean(CLEAN, f"{world}: {measure}")
                        for name in ladder.values()
                    )
                    for measure in (OURS, FEATURES)
                },
            )
            for axis, ladder in (("% of labels random", LABEL_LADDER), ("degrees turned", TURN_LADDER))
        ]
        drawn[world] = (every, ladders)
    transfer_picture(path, drawn, title="What a source is worth, by how far it lies from the target")


_PAPER, _CHECK = "the paper: distance predicts transfer", "the project's check"

STUDY = Study(
    name="dataset_distance",
    card="57",
    title="Distances between labelled data sets, and what seventeen sources are worth to a few labelled digits",
    paper="Alvarez-Melis, Fusi 2020, Geometric Dataset Distances via Optimal Transport, arXiv 2002.02923",
    run=run,
    claims=(
        Claim("random labels: farther at each rung", _CHECK, partial(_rises, LABEL_LADDER)),
        Claim("random labels: plain transport of features sees nothing", _CHECK, _blind),
        Claim("random labels: the gain falls", _PAPER, partial(_gain_falls, LABEL_LADDER)),
        Claim("turned images: farther at each rung", _CHECK, partial(_rises, TURN_LADDER)),
        Claim("turned images: the gain falls", _PAPER, partial(_gain_falls, TURN_LADDER)),
        Claim("renaming all classes changes neither distance nor gain", "the paper's definition", _names_do_not_matter),
        Claim("nearer sources gain more, better told than by features alone", _PAPER, partial(_tells_more, FEATURES)),
        Claim("nearer sources gain more, better told than by means of classes", _PAPER, partial(_tells_more, MEANS)),
        Claim("normal laws tell it better than exact distances of labels", _CHECK, partial(_tells_more, EXACT)),
        Claim("the farthest source gains least", _CHECK, _farthest_is_worst),
        Claim("each digit's nearest class is the same digit", "the paper, on MNIST and USPS", _all_found),
        Claim("normal laws are never above exact labels", "the paper", partial(_largest, OURS, ABOVE, 1e-9)),
        Claim("distances with exact labels are POT's", _CHECK, partial(_largest, EXACT, POT, 1e-9)),
    ),
    plot=plot,
)

"""SwAV against the contrastive loss, and without each of its parts: balance, soft codes, the queue, small crops.

A small encoder learns from images without labels. InfoNCE may choose among four temperatures and SwAV among four
strengths of the entropy of its codes, by what is compared in the end, the 20-label probe, but of the training images of
the first seed, with as many steps; every setting is a row, of that seed. What is chosen is trained for every seed, and
so are, with SwAV's choice:

    no balance       each row assigned for itself (no update of the potentials)
    hard codes       codes rounded to one prototype
    batches of 16    fewer rows than prototypes; the same with a queue of 240 rows, used in the second half
    5 x 5 crops      four small crops more of images of 8 x 8
    small crops      of MNIST: four crops of 14 x 14 more, against as many pixels in more epochs of two of 28 x 28

Measured on images never seen:

    accuracy %, 20 labels (100, or 5-NN)   linear probe of the embeddings with 2 (10) labels of each class; 5-NN of all
    accuracy %, 100 labels, features       the same of what the projection is given
    gain, points                           of the 20-label probe over that of the start, seed by seed
    prototypes used of 64                  nearest to one image at least; random prototypes where a loss has none
    purity %                               images of the main class of their nearest prototype (or k-means centre)

small: digits and 1,700 images of MNIST; about 8 minutes for five seeds on one core. full: all 8,500 of MNIST, and 5,000
images of CIFAR-10; about half an hour.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from weigher.studies.harness import Claim, Context, Figures, Result, Row, Rule, Study, Tally, clearly_less, find_row
from weigher.studies.paired import Comparison, clearly_more, level, with_differences
from weigher.studies.swav_recipes import (
    BELOW,
    CHOICE,
    CIFAR,
    COUNTS,
    DIGITS,
    EPSILONS,
    FEW,
    GAIN,
    HARD,
    INFO,
    K_MEANS,
    MANY_CROPS,
    MNIST,
    PURITY,
    SHARE,
    SIZES,
    SMALL_BATCH,
    START,
    SWAV,
    TEMPERATURES,
    TINY_CROPS,
    TWO_CROPS,
    UNBALANCED,
    USED,
    WITH_QUEUE,
    Recipe,
    crops,
    recipes,
    settings,
)

if TYPE_CHECKING:  # torch is loaded by a run, not by listing the studies
    from weigher.studies.swav_runs import World

FILES = {MNIST: "mnist10k/mnist10k.npz", CIFAR: "cifar10/train.parquet"}
_PAPER = "Caron et al. 2020"
COMPARED: list[Comparison] = [
    *((SWAV, other, FEW) for other in (INFO, HARD, TINY_CROPS)),
    (START, UNBALANCED, FEW),
    (WITH_QUEUE, SMALL_BATCH, FEW),
    (SWAV, INFO, PURITY),
]
CROPS_COMPARED: Comparison = (MANY_CROPS, TWO_CROPS, BELOW)
"""What is compared seed by seed: of the digits, and of larger images."""


def run(context: Context) -> list[Row]:
    """Tune both losses on the first seed, train and measure every recipe for each, and draw the prototypes."""
    from weigher.studies import swav_runs as runs

    size = SIZES[context.budget]
    digits = cache(partial(runs.digits, size.digits))
    larger = [
        (name, cache(partial(runs.larger_images, context.path(FILES[name]), count)), epochs)
        for name, count, epochs in size.larger
    ]
    tally, chosen, drawn = Tally(), {}, {}
    for seed in context.seeds:
        measure = partial(_measured, context, seed)
        if not chosen:
            tried = measure(DIGITS, digits, settings(size))
            tally.add({method: _numbers(found) for method, found in tried.items()}, DIGITS)
            chosen = {INFO: _best(tried, TEMPERATURES), SWAV: _best(tried, EPSILONS)}
        temperature, epsilon = TEMPERATURES[chosen[INFO]], EPSILONS[chosen[SWAV]]
        found = measure(DIGITS, digits, recipes(size, temperature, epsilon))
        drawn = drawn or {name: found[name][COUNTS] for name in (START, INFO, SWAV, UNBALANCED)}
        told = with_gains({method: _numbers(figures) for method, figures in found.items()})
        tally.add(with_differences(told, COMPARED), DIGITS)
        for name, read, epochs in larger:
            found = measure(name, read, crops(epochs, epsilon))
            told = {method: _numbers(figures) for method, figures in found.items()}
            tally.add(with_differences(told, [CROPS_COMPARED]), name)
    _draw(drawn, context.out / "prototypes.png")
    return tally.rows()


def _measured(
    context: Context, seed: int, data: str, read: Callable[[], World], every: dict[str, Recipe]
) -> dict[str, dict[str, Any]]:
    """Return method -> metric -> figure, and the counts of images at prototypes, of one seed."""
    from weigher.studies import swav_runs as runs

    found, draws = {}, SIZES[context.budget].draws
    for done, (method, recipe) in enumerate(every.items()):
        context.progress(f"{data}, seed {seed}", done, len(every))
        found[method] = context.part(f"{data} {seed} {method}", partial(runs.figures, read, recipe, seed, draws))
    return found


def with_gains(found: Figures) -> Figures:
    """Add gains over the start to the figures of a seed, and SwAV's as a share of InfoNCE's.

    >>> seed = with_gains({START: {FEW: 60.0}, INFO: {FEW: 80.0}, SWAV: {FEW: 75.0}})
    >>> seed[INFO][GAIN], seed[SWAV][GAIN], seed[SWAV][SHARE]
    (20.0, 15.0, 75.0)
    """
    gained = {method: {**figures, GAIN: figures[FEW] - found[START][FEW]} for method, figures in found.items()}
    if gained[INFO][GAIN] > 0:
        gained[SWAV][SHARE] = 100 * gained[SWAV][GAIN] / gained[INFO][GAIN]
    return gained


def _best(found: dict[str, dict[str, Any]], among: dict[str, float]) -> str:
    return max(among, key=lambda method: found[method][CHOICE])


def _numbers(figures: dict[str, Any]) -> dict[str, float]:
    return {metric: value for metric, value in figures.items() if metric != COUNTS}


def _draw(drawn: dict[str, Any], path: Path) -> None:
    from weigher.plot.prototypes import prototype_columns

    panels = {name: np.array(counts) for name, counts in drawn.items()}
    kinds = [str(kind) for kind in range(next(iter(panels.values())).shape[1])]
    prototype_columns(path, panels, kinds=kinds, title="Digits never seen, at their nearest of 64 prototypes")


def _more(method: str, other: str, metric: str = FEW) -> Rule:
    return partial(clearly_more, method, other, f"{DIGITS}: {metric}")


def _purer_than_k_means(rows: Sequence[Row]) -> tuple[str, bool]:
    ours, other = find_row(rows, SWAV, f"{DIGITS}: {PURITY}"), find_row(rows, INFO, f"{DIGITS}: {K_MEANS}")
    return f"{ours.mean:.1f} against {other.mean:.1f}", clearly_less(other, ours)


def _uses_most(rows: Sequence[Row]) -> tuple[float, bool]:
    row = find_row(rows, SWAV, f"{DIGITS}: {USED}")
    return row.mean, clearly_less(level(48), row)


def _uses_one(rows: Sequence[Row]) -> tuple[float, bool]:
    row = find_row(rows, UNBALANCED, f"{DIGITS}: {USED}")
    return row.mean, clearly_less(row, level(3)) or row.mean == 1


def _has_most(rows: Sequence[Row]) -> tuple[float, bool]:
    row = find_row(rows, SWAV, f"{DIGITS}: {SHARE}")
    return row.mean, clearly_less(level(80), row)


def plot(result: Result, path: Path) -> None:
    """Draw the accuracy of every method on the digits with 20 labels."""
    from weigher.plot.bars import horizontal_bars

    names = [START, INFO, SWAV, HARD, UNBALANCED, TINY_CROPS, SMALL_BATCH, WITH_QUEUE]
    every = [find_row(result.rows, name, f"{DIGITS}: {FEW}") for name in names]
    horizontal_bars(
        path,
        names,
        [row.mean for row in every],
        [row.std or 0.0 for row in every],
        title="What a linear probe makes of 20 labelled digits",
        axis="accuracy %",
        marked=[name == SWAV for name in names],
    )


STUDY = Study(
    name="swav",
    card="40",
    title="SwAV: balanced codes instead of negatives, and what each of its parts gives",
    run=run,
    claims=(
        Claim("SwAV has 80 % of the gain of tuned InfoNCE", "the project's target", _has_most),
        Claim("SwAV beats tuned InfoNCE with 20 labels", _PAPER, _more(SWAV, INFO)),
        Claim("SwAV uses most prototypes (more than 48 of 64)", _PAPER, _uses_most),
        Claim("without balance prototypes become one", _PAPER, _uses_one),
        Claim(
            "without balance a probe does worse than at the start",
            "the project's expectation",
            _more(START, UNBALANCED),
        ),
        Claim(
            "prototypes are purer than random ones among InfoNCE's embeddings",
            "the project's expectation",
            _more(SWAV, INFO, PURITY),
        ),
        Claim(
            "prototypes are purer than k-means of InfoNCE's embeddings",
            "the project's question",
            _purer_than_k_means,
        ),
        Claim("soft codes are better than hard ones", _PAPER, _more(SWAV, HARD)),
        Claim("a queue helps batches of 16", _PAPER, _more(WITH_QUEUE, SMALL_BATCH)),
        Claim(
            "small crops of images of 8 x 8 do harm",
            "the project's expectation",
            _more(SWAV, TINY_CROPS),
        ),
        Claim(
            "small crops of images of 28 x 28 do better than more epochs of as many pixels",
            _PAPER,
            partial(clearly_more, *CROPS_COMPARED[:2], f"{MNIST}: {BELOW}"),
        ),
    ),
    plot=plot,
    paper="SwAV: Caron, Misra, Mairal, Goyal, Bojanowski, Joulin 2020, arXiv 2006.09882",
)

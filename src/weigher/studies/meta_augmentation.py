"""Labels changed by a key for each task: what it does against meta-learners that know their training tasks by heart.

Three learners (MAML, contextual, metric) learn from tasks whose classes are grouped once and for all, from the same
groups with permuted labels, and from any classes in any order; beside them stands each as it is before any training. On
digits (2-way 1-shot; a fixed task tells a digit from its own turned copy) MAML on fixed tasks is also given dropout,
weight decay, moved images and a bottleneck, each in several strengths, all of them rows: the claim is against the best
of them on held-out tasks. Omniglot (5-way 1-shot) is tested on alphabets that training never saw.

    without support     MAML before its first step; the others with the support of another task, numbered anew
    memorisation        share of the training score (above chance) that is had without support
    H(Y|X)              counted over drawn tasks: what the class of an image leaves open about its label

The toy of the paper: six sinusoids to train on, each on an interval of its own, so that x says which one is meant;
tested with other functions, on the same intervals and on others. Targets are shifted by a number, or by one random bit.
Errors are put in relation to the same learner without shifts, seed by seed: its functions are drawn anew for each.

small: 600 steps each; about 13 minutes for three seeds on two cores. full: 3,000 steps, wider nets; about two hours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from weigher.studies.harness import Claim, Context, Result, Row, Study, Tally, clearly_less, find_row
from weigher.studies.meta_names import (
    AFTER,
    ANY,
    BEFORE,
    BIT,
    CONTEXTUAL,
    DIGITS,
    FIXED,
    HELD_OUT,
    LEARNERS,
    MAML,
    MEMORISED,
    METRIC,
    NEW,
    NUMBER,
    OMNIGLOT,
    PERMUTED,
    REGULARISERS,
    TRAINING,
    UNTRAINED,
    WAYS_OF_TASKS,
    relative,
)

_PAPER = "Rajendran, Irpan, Jang 2020"
_TARGET = "the project's target"


def run(context: Context) -> list[Row]:
    """Train and test every learner under every condition for each seed; see the module."""
    from weigher.studies.meta_figures import jobs_of

    tally = Tally()
    jobs = jobs_of(context)
    for seed in context.seeds:
        for done, (part, compute) in enumerate(jobs.items(), 1):
            tally.add(context.part(f"{seed} {part}", partial(compute, seed)))
            context.progress(f"learners, seed {seed}", done, len(jobs))
    return tally.rows()


def _row(rows: Sequence[Row], kind: str, name: str, images: str, metric: str = f"{HELD_OUT}, {AFTER}") -> Row:
    return find_row(rows, f"{kind}, {name}", f"{images}: {metric}")


def _bar(height: float) -> Row:
    return Row.of("bar", "%", [height])


def _memorised(rows: Sequence[Row]) -> tuple[str, bool]:
    fixed = _row(rows, MAML, FIXED, DIGITS, MEMORISED)
    return f"{fixed.mean:.0f} %", clearly_less(_bar(50), fixed)


def _not_memorised(rows: Sequence[Row]) -> tuple[str, bool]:
    found = {images: _row(rows, MAML, PERMUTED, images, MEMORISED) for images in (DIGITS, OMNIGLOT)}
    shown = ", ".join(f"{images} {row.mean:.1f} %" for images, row in found.items())
    return shown, all(clearly_less(row, _bar(10)) for row in found.values())


def _lifted(kind: str, images: str, below: str, above: str, rows: Sequence[Row]) -> tuple[str, bool]:
    less, more = (_row(rows, kind, name, images) for name in (below, above))
    return f"{less.mean:.1f} to {more.mean:.1f}", clearly_less(less, more)


def _above_regularisers(rows: Sequence[Row]) -> tuple[str, bool]:
    ours = _row(rows, MAML, PERMUTED, DIGITS)
    every = [_row(rows, MAML, name, DIGITS) for name in REGULARISERS]
    best = max(every, key=lambda row: row.mean)
    return f"{ours.mean:.1f} against {best.mean:.1f} ({best.method})", all(clearly_less(row, ours) for row in every)


def _blind(rows: Sequence[Row]) -> tuple[str, bool]:
    words, apart = [], []
    for images in (DIGITS, OMNIGLOT):
        fixed, permuted = (_row(rows, METRIC, name, images) for name in (FIXED, PERMUTED))
        words.append(f"{images} {fixed.mean:.1f} and {permuted.mean:.1f}")
        apart.append(abs(fixed.mean - permuted.mean))
    return "; ".join(words), max(apart) < 1


def _shift_helps(kind: str, rows: Sequence[Row]) -> tuple[str, bool]:
    words, held = [], []
    for name in (NUMBER, BIT):
        ratio = find_row(rows, f"{kind}, {name}", relative(NEW))
        words.append(f"{name}: {ratio.mean:.2f} times the error")
        held.append(clearly_less(ratio, Row.of("bar", "ratio", [1.0])))
    return ", ".join(words), all(held)


def plot(result: Result, path: Path) -> None:
    """Draw scores without and with support, of training and of held-out tasks, one panel for each set of images."""
    from weigher.plot.dumbbells import panels_of_dumbbells

    panels: dict[str, Mapping[str, Sequence[tuple[float, float]]]] = {}
    for images in (DIGITS, OMNIGLOT):
        lines = {}
        for kind in LEARNERS:
            regularised = REGULARISERS if (kind, images) == (MAML, DIGITS) else ()
            for name in (UNTRAINED, FIXED, *regularised, *WAYS_OF_TASKS[1:]):
                lines[f"{kind}, {name}"] = [
                    tuple(_row(result.rows, kind, name, images, f"{where}, {when}").mean for when in (BEFORE, AFTER))
                    for where in (TRAINING, HELD_OUT)
                ]
        panels[images] = lines
    panels_of_dumbbells(
        path,
        panels,
        groups=(TRAINING, HELD_OUT),
        title="What is known by heart, and what is learned from the support set",
        axes_names=["right answers, % (2-way 1-shot)", "right answers, % (5-way 1-shot)"],
        levels=[50, 20],
    )


STUDY = Study(
    name="meta_augmentation",
    card="56",
    title="Meta-learning with labels changed by a key for each task: digits, Omniglot, sinusoids",
    paper="Meta-augmentation: Rajendran, Irpan, Jang 2020, arXiv 2007.05549",
    run=run,
    claims=(
        Claim("on fixed tasks MAML has over half of what it knows of digits without support", _PAPER, _memorised),
        Claim("with permuted labels MAML has under 10 % of it without support", _PAPER, _not_memorised),
        *(
            Claim(
                f"{images}, {kind}: {what} above {FIXED} on held-out tasks",
                _PAPER,
                partial(_lifted, kind, images, FIXED, what),
            )
            for images in (DIGITS, OMNIGLOT)
            for kind in (MAML, CONTEXTUAL)
            for what in (PERMUTED, ANY)
        ),
        *(
            Claim(
                f"{images}, MAML: {ANY} above the {UNTRAINED} network on held-out tasks",
                _TARGET,
                partial(_lifted, MAML, images, UNTRAINED, ANY),
            )
            for images in (DIGITS, OMNIGLOT)
        ),
        Claim(
            "digits: permuted labels above dropout, weight decay, moved images and a bottleneck, in any strength tried",
            _TARGET,
            _above_regularisers,
        ),
        Claim("permuting labels moves a metric learner by less than a point", _PAPER, _blind),
        *(
            Claim(
                f"sinusoids, {kind}: shifted targets lower the error on new functions",
                _PAPER,
                partial(_shift_helps, kind),
            )
            for kind in (MAML, CONTEXTUAL)
        ),
    ),
    plot=plot,
)

"""Commentaries against training without them: weights, curricula, mixing, masks, few shots, and larger students.

    digits       scikit-learn's, half of the labels flipped; a table of weights, learned with 50 right labels
    curriculum   CIFAR-10 as it is; a network of image, label and step says the weights
    flipped      the same with 40 % of the labels flipped
    mixing       CIFAR-10, few images; a share for each pair of classes, against mixup and against random shares
    masks        MNIST among pieces of other digits; a mask for each image, against none, and against a mask network
                 that learns with the student from the training loss alone
    few shots    Omniglot, 5 ways, 5 shots, with and without one wrong label of the five; MAML with weighed examples

Every way of training chooses its rate among the same ones, constant or falling (images: falling), by its accuracy on
the same held-out examples that teach the commentary; it is tested on others. "two thirds" is a run of two thirds of the
steps, with its rate falling over these. A commentary that one student taught is also used by a larger one. Both use the
curriculum of normalised weights: without, all weights may become 2, which is no more than twice the rate.

small: about 15 minutes for three seeds on two idle cores. full: larger sets and longer lives, about four hours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from weigher.studies.harness import Claim, Context, Figures, Result, Row, Study, Tally, clearly_less, find_row
from weigher.studies.teaching_names import (
    ACCURACY,
    CLEAN,
    CURRICULUM,
    DIGITS,
    FEW_SHOTS,
    FIXED,
    FLIPPED,
    JOINT,
    KEPT,
    LARGER,
    LARGER_PLAIN,
    MAML,
    MASKED,
    MASKS,
    MIXED,
    MIXING,
    MIXUPS,
    NORMALISED,
    PLAIN,
    SHORT,
    SIZES,
    STEPS,
    TABLE,
    VALIDATION,
    WEIGHED,
)


def run(context: Context) -> list[Row]:
    """Do all experiments with each seed; see the module."""
    from weigher.studies import teaching_experiments as experiments

    cifar, mnist = context.path("cifar10"), context.path("mnist10k/mnist10k.npz")
    omniglot = [context.path(f"omniglot/images_background_small{part}.zip") for part in (1, 2)]
    size = SIZES[context.budget]
    every: dict[str, Callable[[int], Figures]] = {
        DIGITS: partial(experiments.digits, size),
        CLEAN: partial(experiments.curriculum, size, cifar, 0.0),
        FLIPPED: partial(experiments.curriculum, size, cifar, 0.4),
        MIXING: partial(experiments.mixing, size, cifar),
        MASKS: partial(experiments.masks, size, mnist),
        **{name: partial(experiments.few_shots, size, omniglot, wrong) for wrong, name in enumerate(FEW_SHOTS)},
    }
    tally = Tally()
    done, total = 0, len(context.seeds) * len(every)
    for seed in context.seeds:
        for name, experiment in every.items():
            tally.add(context.part(f"{seed} {name}", partial(experiment, seed)), name)
            done += 1
            context.progress("experiments", done, total)
    return tally.rows()


def _higher(task: str, method: str, other: str, rows: Sequence[Row], metric: str = ACCURACY) -> tuple[str, bool]:
    ours, theirs = (find_row(rows, name, f"{task}: {metric}") for name in (method, other))
    return f"{ours.mean:.1f} against {theirs.mean:.1f}", clearly_less(theirs, ours)


def _in_two_thirds(task: str, rows: Sequence[Row]) -> tuple[str, bool]:
    """A run of two thirds of the steps ends at least where the run without commentary ends."""
    ours, theirs = find_row(rows, SHORT, f"{task}: {ACCURACY}"), find_row(rows, PLAIN, f"{task}: {ACCURACY}")
    return f"{ours.mean:.1f} against {theirs.mean:.1f} after all steps", ours.mean >= theirs.mean and ours.n > 1


def _sooner(task: str, method: str, plain: str, rows: Sequence[Row]) -> tuple[str, bool]:
    """A run stands where training without commentary ends in two thirds of the steps that this takes itself."""
    ours, theirs = (find_row(rows, name, f"{task}: {STEPS}") for name in (method, plain))
    return f"after {ours.mean:.0f} steps against {theirs.mean:.0f}", clearly_less(ours, theirs, factor=2 / 3)


def _not_below(task: str, method: str, others: Sequence[str], rows: Sequence[Row]) -> tuple[str, bool]:
    ours, every = (
        find_row(rows, method, f"{task}: {ACCURACY}"),
        [find_row(rows, other, f"{task}: {ACCURACY}") for other in others],
    )
    best = max(every, key=lambda row: row.mean)
    held = not any(clearly_less(ours, row) for row in every) and ours.n > 1
    return f"{ours.mean:.1f}, best other {best.mean:.1f} ({best.method})", held


def _sees(rows: Sequence[Row]) -> tuple[str, bool]:
    found = find_row(rows, TABLE, f"{DIGITS}: AUROC of wrong labels")
    return f"{found.mean:.3f}", clearly_less(Row.of(found.method, found.metric, [0.9]), found)


def _salient(rows: Sequence[Row]) -> tuple[str, bool]:
    found = find_row(rows, MASKED, f"{MASKS}: AUROC of the digit's pixels among all ink")
    return f"AUROC {found.mean:.3f}", clearly_less(Row.of(found.method, found.metric, [0.5]), found)


def _curves(rows: Sequence[Row], task: str, methods: Sequence[str]) -> dict[str, tuple[list, list, list]]:
    """Method -> steps, means and spreads of its learning curve."""
    start, found = f"{task}: accuracy % at step ", {}
    for method in methods:
        points = sorted(
            (int(row.metric.removeprefix(start)), row.mean, row.std or 0.0)
            for row in rows
            if row.method == method and row.metric.startswith(start)
        )
        steps, means, spreads = zip(*points, strict=True)
        found[method] = (list(steps), list(means), list(spreads))
    return found


def plot(result: Result, path: Path) -> None:
    """Draw the learning curves of all tasks but the few shots."""
    from weigher.plot.learning_curves import learning_curves

    panels = {
        "Digits, half of the labels wrong": (DIGITS, (PLAIN, TABLE, VALIDATION)),
        "CIFAR-10": (CLEAN, (PLAIN, CURRICULUM, NORMALISED)),
        "CIFAR-10, 40 % of the labels wrong": (FLIPPED, (PLAIN, CURRICULUM, NORMALISED)),
        "CIFAR-10, few images": (MIXING, (PLAIN, *MIXUPS, MIXED)),
        "MNIST among clutter": (MASKS, (PLAIN, JOINT, MASKED)),
    }
    learning_curves(
        path,
        {title: _curves(result.rows, task, methods) for title, (task, methods) in panels.items()},
        title="What commentaries do for students, each with its best rate",
        x_axis="step",
        y_axis="test accuracy, %",
        strong=[TABLE, CURRICULUM, MIXED, MASKED],
    )


_PAPER, _TARGET = "Raghu et al. 2021", "the project's target"

STUDY = Study(
    name="commentaries",
    card="37",
    title="Learned weights, curricula, mixing and masks against training without them; few shots; larger students",
    paper='Raghu, Raghu, Kornblith, Duvenaud and Hinton 2021, "Teaching with commentaries", ICLR',
    run=run,
    claims=(
        *(
            Claim(
                f"{task}: with the commentary, two thirds of the steps reach the final accuracy of tuned training",
                _TARGET,
                partial(_in_two_thirds, task),
            )
            for task in (DIGITS, CLEAN, FLIPPED, MIXING)
        ),
        *(
            Claim(
                f"{task}: {method} first reaches that accuracy in two thirds of the steps of training without",
                _TARGET,
                partial(_sooner, task, method, plain),
            )
            for task, method, plain in (
                (DIGITS, TABLE, PLAIN),
                (DIGITS, KEPT, PLAIN),
                (DIGITS, LARGER, LARGER_PLAIN),
                (CLEAN, NORMALISED, PLAIN),
                (FLIPPED, NORMALISED, PLAIN),
                (MIXING, MIXED, PLAIN),
                (MASKS, MASKED, PLAIN),
            )
        ),
        Claim("digits: learned weights tell wrong labels from right ones (AUROC above 0.9)", _TARGET, _sees),
        Claim(
            "digits: learned weights beat training on the held-out examples alone",
            "the project's check",
            partial(_higher, DIGITS, TABLE, VALIDATION),
        ),
        *(
            Claim(f"{task}: {method} beats no commentary", _PAPER, partial(_higher, task, method, PLAIN))
            for task, method in (
                (DIGITS, TABLE),
                (CLEAN, CURRICULUM),
                (CLEAN, NORMALISED),
                (FLIPPED, CURRICULUM),
                (FLIPPED, NORMALISED),
                (MIXING, MIXED),
                (MASKS, MASKED),
            )
        ),
        *(
            Claim(
                f"{task}: a larger student gains from what a small one taught",
                _PAPER,
                partial(_higher, task, LARGER, LARGER_PLAIN),
            )
            for task in (DIGITS, CLEAN, FLIPPED)
        ),
        Claim(
            "mixing: learned shares are not clearly below mixup, nor below random shares",
            _PAPER,
            partial(_not_below, MIXING, MIXED, (*MIXUPS, FIXED)),
        ),
        Claim("masks: learned masks lie on the digit rather than on clutter", _PAPER, _salient),
        Claim(
            "masks: learned masks beat a mask network that learns with the student",
            _PAPER,
            partial(_higher, MASKS, MASKED, JOINT),
        ),
        *(
            Claim(f"{name}: weighed examples beat MAML", _PAPER, partial(_higher, name, WEIGHED, MAML))
            for name in FEW_SHOTS
        ),
    ),
    plot=plot,
)

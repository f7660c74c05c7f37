"""Stopping early under label noise: what is learned and what is memorised, how far the network goes, and when to stop.

    clusters   6 clusters of 3 classes with values -1, 0.1 and 1 in 20 dimensions; the network of the theory, one output
    digits     scikit-learn's, centred, of norm 1; the network of the theory, ten outputs
    CIFAR-10   few images; a convolutional network, SGD with momentum

Each with several shares of wrong labels. The rule sees held-out examples with the same share of wrong labels (clusters:
drawn anew), and no right label; it is compared with training to the end, and with the step that is best on the test.
The test has right labels, and nothing is chosen by it.

small: about 6 minutes for three seeds on two idle cores. full: more images and wider networks, about an hour.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from weigher.studies.harness import Claim, Context, Result, Row, Study, Tally, clearly_less, find_row
from weigher.studies.stopping_names import (
    BEST,
    CLUSTERS,
    DIGITS,
    DISTANCE,
    END,
    IMAGES,
    NOISE,
    STEP,
    STOPPED,
    TEST,
    WRONG_GIVEN,
    WRONG_TRUE,
    Size,
)

SIZES = {
    "small": Size(),
    "full": Size(
        check_every=10,
        points=600,
        width=1000,
        steps=4000,
        images=(5000, 1500, 5000),
        image_width=128,
        image_steps=6000,
        image_noise=(0.0, 0.2, 0.4, 0.6),
    ),
}


def run(context: Context) -> list[Row]:
    """Train on every set with every share of wrong labels, for each seed; see the module."""
    from weigher.studies import stopping_runs as runs

    size, cifar = SIZES[context.budget], context.path("cifar10")
    every: dict[str, Any] = {
        _name(kind, noise): partial(work, size, noise)
        for kind, work in ((CLUSTERS, runs.clusters), (DIGITS, runs.digits))
        for noise in NOISE[kind]
    }
    every |= {_name(IMAGES, noise): partial(runs.images, size, noise, cifar) for noise in size.image_noise}
    tally = Tally()
    done, total = 0, len(context.seeds) * len(every)
    for seed in context.seeds:
        for name, work in every.items():
            tally.add(context.part(f"{seed} {name}", partial(work, seed)), name)
            done += 1
            context.progress("runs", done, total)
    return tally.rows()


def _name(kind: str, noise: float) -> str:
    return f"{kind}, {100 * noise:.0f} % wrong"


def _names(rows: Sequence[Row]) -> list[str]:
    """All sets with wrong labels, by the names of their rows."""
    found = dict.fromkeys(row.metric.partition(":")[0] for row in rows)
    return [name for name in found if not name.endswith(", 0 % wrong")]


def _stopping_helps(kind: str, rows: Sequence[Row]) -> tuple[str, bool]:
    words, held = [], True
    for name in (name for name in _names(rows) if name.startswith(kind)):
        ours, end = (find_row(rows, method, f"{name}: {TEST}") for method in (STOPPED, END))
        words.append(f"{name} {ours.mean:.1f} against {end.mean:.1f}")
        held = held and clearly_less(end, ours)
    return "; ".join(words), held


def _near_the_best(rows: Sequence[Row]) -> tuple[str, bool]:
    """The rule loses at most 2 points against the step that is best on the test, everywhere."""
    lost = {
        name: find_row(rows, BEST, f"{name}: {TEST}").mean - find_row(rows, STOPPED, f"{name}: {TEST}").mean
        for name in dict.fromkeys(row.metric.partition(":")[0] for row in rows)
    }
    worst = max(lost, key=lambda name: lost[name])
    return f"at most {lost[worst]:.1f} points ({worst})", lost[worst] <= 2


def _ignores_wrong_labels(rows: Sequence[Row]) -> tuple[str, bool]:
    """Where the rule stops, most wrongly labelled training examples get their right label; at the end fewer."""
    words, held = [], True
    for name in _names(rows):
        early, late = (find_row(rows, method, f"{name}: {WRONG_TRUE}") for method in (STOPPED, END))
        words.append(f"{name} {early.mean:.0f} %, then {late.mean:.0f} %")
        held = held and clearly_less(late, early)
        if not name.startswith(IMAGES):
            held = held and clearly_less(Row.of(early.method, early.metric, [50.0]), early)
    return "; ".join(words), held


def _farther_with_noise(kind: str, rows: Sequence[Row]) -> tuple[str, bool]:
    found = [
        row
        for row in rows
        if row.method == END and row.metric.startswith(kind) and row.metric.endswith(f": {DISTANCE}")
    ]
    found.sort(key=lambda row: float(row.metric.removeprefix(f"{kind}, ").partition(" ")[0]))
    held = all(clearly_less(a, b) for a, b in pairwise(found)) and len(found) > 1
    return ", ".join(f"{row.mean:.3f}" for row in found), held


def _spectrum(rows: Sequence[Row]) -> tuple[str, bool]:
    metric = f"{_name(DIGITS, NOISE[DIGITS][1])}: energy in the top tenth of eigenvectors, "
    labels, noise = (find_row(rows, END, metric + what) for what in ("right labels", "wrong labels' part"))
    return f"{labels.mean:.2f} against {noise.mean:.2f}", clearly_less(noise, labels)


def plot(result: Result, path: Path) -> None:
    """Draw, for the middle share of wrong labels, what is learned and memorised, and the accuracy on the test."""
    from weigher.plot.learning_curves import learning_curves

    names = [_name(CLUSTERS, NOISE[CLUSTERS][-1]), _name(DIGITS, NOISE[DIGITS][1]), _names(result.rows)[-1]]
    panels = {}
    for name in names:
        curves = {}
        for what in (WRONG_TRUE, WRONG_GIVEN, TEST):
            start = f"{name}: {what} at step "
            points = sorted(
                (int(row.metric.removeprefix(start)), row.mean, row.std or 0.0)
                for row in result.rows
                if row.method == END and row.metric.startswith(start)
            )
            curves[what] = tuple(list(part) for part in zip(*points, strict=True))
        stop = find_row(result.rows, STOPPED, f"{name}: {STEP}").mean
        panels[f"{name}; the rule stops at {stop:.0f}"] = curves
    learning_curves(
        path,
        panels,
        title="Right labels are learned first, wrong ones memorised later",
        x_axis="step",
        y_axis="%",
        strong=[TEST],
    )


_PAPER = "Li, Soltanolkotabi and Oymak 2020"

STUDY = Study(
    name="early_stopping",
    card="58",
    title="Stopping early under label noise: learned and memorised labels, distance, and a rule without right labels",
    paper='Li, Soltanolkotabi and Oymak 2020, "Gradient descent with early stopping is provably robust to label noise"',
    run=run,
    claims=(
        *(
            Claim(
                f"{kind}: stopped by the rule, without right labels, beats training to the end, at every share",
                _PAPER,
                partial(_stopping_helps, kind),
            )
            for kind in (CLUSTERS, DIGITS, IMAGES)
        ),
        Claim("the rule loses at most 2 points against the best step", "the project's target", _near_the_best),
        Claim(
            "where the rule stops, wrongly labelled training examples get their right label more often than at the end",
            _PAPER,
            _ignores_wrong_labels,
        ),
        *(
            Claim(
                f"{kind}: the more labels are wrong, the farther the network ends from its start",
                _PAPER,
                partial(_farther_with_noise, kind),
            )
            for kind in (CLUSTERS, DIGITS, IMAGES)
        ),
        Claim(
            "digits: right labels lie in the leading eigenvectors more than the wrong labels' part does",
            _PAPER,
            _spectrum,
        ),
    ),
    plot=plot,
)

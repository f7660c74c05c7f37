"""Which confidence counts people, is calibrated, and leaves short turns alone.

Designs: the talk's three (`separate-mean`, `separate-weighted`, `self-weighted`), relatives of the last (`power` with a
learned exponent, `exp-softmax`, `auto` with a learned sharpness), all of `weigher.recordings.weigher`, and DETR's class
for nobody (`weigher.studies.alternatives`). That class is read off the head that names the labels of training, which is
gone at inference and knows nobody else: it can only be scored on people heard in training ("seen"), the others on
people never heard ("unseen") too.

Read speech, casts only. With each seed one model listens once, then each design weighs from a copy of it, as many steps
on the same conversations; differences are taken within a seed. A slot is "somebody" where training would have matched
it to a speaker. Each design counts by the threshold that counts most of some other conversations of seen people right.
A turn is found where the track of its speaker is on for half of it, whatever the confidence.

`small` is made to fit 45 minutes for 5 seeds on two idle cores: with each seed 1 minute of listening, then 7 designs of
about a minute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from weigher.studies.harness import Claim, Context, Result, Row, Study, Tally, clearly_less, find_row

if TYPE_CHECKING:  # torch is loaded by a run, not by listing the studies
    from weigher.recordings.diarizer import Diarizer
    from weigher.recordings.weigher import Confidence
    from weigher.studies.diarization import ReadSpeech
    from weigher.studies.variants import Answer, Listened

MEAN: Confidence = "separate-mean"
WEIGHTED: Confidence = "separate-weighted"
SELF: Confidence = "self-weighted"
POWER: Confidence = "power"
EXP: Confidence = "exp-softmax"
AUTO: Confidence = "auto"
DESIGNS: tuple[Confidence, ...] = (SELF, WEIGHTED, MEAN, POWER, EXP, AUTO)
RELATIVES = (POWER, EXP, AUTO)
NO_OBJECT = "no-object class"
METHODS = (*DESIGNS, NO_OBJECT)

UNSEEN, SEEN = "unseen", "seen"
COUNT, DER, ECE = "count right %", "DER %, collar 0", "ECE %"
SHORT = "recall %, turns under 1 s"
LENGTH_SECONDS = 25.0  # of a conversation
BINS = 10
LENGTHS = {"under 0.5 s": 0.0, "0.5 to 1 s": 0.5, "1 to 2 s": 1.0, "2 to 4 s": 2.0, "4 s and more": 4.0}
"""Turns by length, each from so many seconds up to the next."""


@dataclass(frozen=True)
class Size:
    """How much is done for a budget: conversations, steps, conversations in a step; to test on and to choose on."""

    recordings: int
    listen: int
    weigh: int
    batch: int
    test: int
    choose: int


SIZES = {
    "small": Size(recordings=600, listen=300, weigh=300, batch=10, test=60, choose=60),
    "full": Size(recordings=3000, listen=1500, weigh=4000, batch=20, test=200, choose=200),
}


def run(context: Context) -> list[Row]:
    """Train and test every design with each seed; see the module."""
    tally = Tally()
    for seed in context.seeds:
        start = cache(partial(_start, context, seed))  # made when the first part asks for it
        found: dict[str, dict[str, float]] = {
            method: context.part(f"{seed} {method}", partial(_figures, context, method, start)) for method in METHODS
        }
        tally.add(found | _differences(found))
    return tally.rows()


def _difference(a: str, b: str) -> str:
    return f"{a} minus {b}"


def _differences(found: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """What one design has over another with the same seed, in points."""
    pairs = [(SELF, other) for other in METHODS if other != SELF] + [(WEIGHTED, MEAN)]
    return {
        _difference(a, b): {
            f"{people}: {metric}": found[a][f"{people}: {metric}"] - found[b][f"{people}: {metric}"]
            for people in (UNSEEN, SEEN)
            for metric in (COUNT, DER, ECE, SHORT)
            if f"{people}: {metric}" in found[b]
        }
        for a, b in pairs
    }


def _start(context: Context, seed: int) -> tuple[Listened, ReadSpeech]:
    """Conversations, and the model that has listened to those of training."""
    from weigher.studies.diarization import read_speech
    from weigher.studies.variants import Training, archive_with_quiet, listen_once

    size = SIZES[context.budget]
    seen = size.choose + size.test
    speech = read_speech(context, train=size.recordings, unseen=size.test, seen=seen, seconds=LENGTH_SECONDS, seed=seed)
    training = Training(size.listen, size.weigh, size.batch, slots=5)
    archive = archive_with_quiet(speech.train, speech.hop_seconds)
    return listen_once(archive, speech.hop_seconds, training, seed=seed, progress=context.progress), speech


def _figures(context: Context, method: str, start: Callable[[], tuple[Listened, ReadSpeech]]) -> dict[str, float]:
    """Train one design and test it: metric -> figure."""
    from weigher.studies.reliability import best_threshold
    from weigher.studies.variants import answers

    listened, speech = start()
    diarizer = _trained(method, listened, context)
    choose = answers(diarizer, speech.seen[: SIZES[context.budget].choose])
    threshold = best_threshold([each.confidence for each in choose], [len(each.talk.cast) for each in choose])
    found = {"threshold": threshold, **_sharpness(method, diarizer)}
    tested = {SEEN: speech.seen[SIZES[context.budget].choose :]}
    if method != NO_OBJECT:
        tested[UNSEEN] = speech.unseen
    for people, talks in tested.items():
        figures = described(answers(diarizer, talks), diarizer, threshold)
        found |= {f"{people}: {metric}": value for metric, value in figures.items()}
    return found


def _trained(method: str, listened: Listened, context: Context) -> Diarizer:
    from weigher.studies.alternatives import NoObjectWeigher
    from weigher.studies.variants import variant

    base = listened.config
    if method == NO_OBJECT:
        loss = replace(base.learn.loss, classes="softmax")
        return variant(listened, build=NoObjectWeigher, loss=loss, progress=context.progress)
    design = next(design for design in DESIGNS if design == method)
    return variant(listened, replace(base.model.weigher, confidence=design), progress=context.progress)


def _sharpness(method: str, diarizer: Diarizer) -> dict[str, float]:
    if method not in (SELF, *RELATIVES):
        return {}
    assert diarizer.model_ is not None
    sharpness = diarizer.model_.weigher.sharpness.item()
    learned = {"learned sharpness": sharpness} if method in (POWER, AUTO) else {}
    return learned | {"pushed down below, % of a confidence of 1": 100 * turning_point(method, sharpness)}


def turning_point(design: str, sharpness: float, confidence: float = 1.0) -> float:
    """Value of a frame below which it is pushed down when the confidence q is to rise: where dq / dx changes sign.

        self-weighted q / 2        power q a / (1 + a)        exp-softmax, auto max(0, q - 1 / a)

    with a the sharpness (1 for exp-softmax).

    >>> turning_point("self-weighted", 1.0), turning_point("power", 3.0), turning_point("auto", 2.0, 0.9)
    (0.5, 0.75, 0.4)
    """
    if design in (EXP, AUTO):
        return max(0.0, confidence - 1 / sharpness)
    return confidence * sharpness / (1 + sharpness)


def described(found: Sequence[Answer], diarizer: Diarizer, threshold: float) -> dict[str, float]:
    """Count, error rates, calibration and recall by length of turn, in per cent."""
    from weigher.studies.reliability import brier, calibration_error, reliability
    from weigher.studies.variants import error_rates

    rates = error_rates(found, diarizer, threshold)
    kept = (COUNT, DER, "miss %, collar 0", "false alarm %, collar 0", "confusion %, collar 0")
    confidence = np.concatenate([each.confidence for each in found])
    somebody = np.concatenate([each.whose >= 0 for each in found])
    diagram = reliability(confidence, somebody, BINS)
    shares = {_bin(b): 100 * float(share) for b, share in enumerate(diagram.somebody) if diagram.count[b]}
    return {
        **{metric: rates[metric] for metric in kept},
        ECE: 100 * calibration_error(diagram),
        "Brier %": 100 * brier(confidence, somebody),
        **_recall(found, diarizer),
        **shares,
    }


def _bin(number: int) -> str:
    return f"somebody %, confidence {number / BINS:.1f} to {(number + 1) / BINS:.1f}"


def _recall(found: Sequence[Answer], diarizer: Diarizer) -> dict[str, float]:
    """Share of turns found, by their length, and of all that are short; nothing for lengths that no turn has."""
    from weigher.recordings.decode import hysteresis
    from weigher.studies.reliability import turns_found

    config = diarizer.config.decode
    every = []
    for each in found:
        on = hysteresis(each.tracks, config.onset, config.offset)
        slot = [int(np.flatnonzero(each.whose == person)[0]) for person in range(len(each.talk.cast))]
        every.append(turns_found(each.talk.segments, each.talk.cast, on[:, slot], each.hop_seconds))
    seconds, hits = (np.concatenate(part) for part in zip(*every, strict=True))
    borders = [*LENGTHS.values(), np.inf]
    ranges = {f"recall %, turns {name}": (borders[k], borders[k + 1]) for k, name in enumerate(LENGTHS)}
    ranges[SHORT] = (0.0, 1.0)
    shares = {}
    for name, (low, high) in ranges.items():
        chosen = (seconds >= low) & (seconds < high)
        if chosen.any():
            shares[name] = 100 * float(hits[chosen].mean())
    return shares


_NOTHING = Row("nothing", "difference", 0.0, None, 1)


def _gain(rows: Sequence[Row], a: str, b: str, metric: str) -> tuple[str, Row]:
    """Words on two designs, and the row of their difference within seeds."""
    one, other, gain = (find_row(rows, name, metric) for name in (a, b, _difference(a, b)))
    spread = "" if gain.std is None else f" ± {gain.std:.1f}"
    return f"{one.mean:.1f} against {other.mean:.1f}, {gain.mean:+.1f}{spread} within seeds", gain


def _more(a: str, b: str, metric: str) -> Callable[[Sequence[Row]], tuple[str, bool]]:
    """Held where a has clearly more than b: the mean difference is above two of its standard errors."""

    def rule(rows: Sequence[Row]) -> tuple[str, bool]:
        words, gain = _gain(rows, a, b, metric)
        return words, clearly_less(_NOTHING, gain)

    return rule


def _not_less(a: str, b: str, metric: str) -> Callable[[Sequence[Row]], tuple[str, bool]]:
    """Held where a does not have clearly less than b; one seed shows nothing."""

    def rule(rows: Sequence[Row]) -> tuple[str, bool]:
        words, gain = _gain(rows, a, b, metric)
        return words, gain.std is not None and not clearly_less(gain, _NOTHING)

    return rule


def _pushed_down(rows: Sequence[Row]) -> tuple[str, bool]:
    words, gain = _gain(rows, SELF, MEAN, f"{UNSEEN}: {SHORT}")
    return words, clearly_less(gain, _NOTHING)


def _relative_finds_more(rows: Sequence[Row]) -> tuple[str, bool]:
    metric = f"{UNSEEN}: {SHORT}"
    best = max(RELATIVES, key=lambda name: find_row(rows, name, metric).mean)
    words, gain = _gain(rows, SELF, best, metric)
    return f"{words} ({best})", clearly_less(gain, _NOTHING)


def _right_default(rows: Sequence[Row]) -> tuple[str, bool]:
    """Name the best design by each measure; held where none is clearly better than self-weighted by count or DER."""
    sides = {COUNT: 1, DER: -1, ECE: -1, SHORT: 1}
    words, held = [], True
    for metric, side in sides.items():
        every = [find_row(rows, name, f"{UNSEEN}: {metric}") for name in DESIGNS]
        best = max(every, key=lambda row: side * row.mean)
        words.append(f"{metric}: {best.method} ({best.mean:.1f})")
    for other in DESIGNS[1:]:
        count, der = (find_row(rows, _difference(SELF, other), f"{UNSEEN}: {metric}") for metric in (COUNT, DER))
        held = held and count.std is not None
        held = held and not clearly_less(count, _NOTHING) and not clearly_less(_NOTHING, der)
    return "; ".join(words), held


def plot(result: Result, path: Path) -> None:
    """Draw the reliability diagram of every design beside its recall against the length of turns."""
    from weigher.plot.confidence import plot_confidence

    def curve(method: str, metrics: Mapping[str, float]) -> list[tuple[float, float, float]]:
        rows = {row.metric: row for row in result.rows if row.method == method}
        return [(x, rows[m].mean, rows[m].std or 0.0) for m, x in metrics.items() if m in rows]

    diagrams, recalls = {}, {}
    for method in METHODS:
        people = SEEN if method == NO_OBJECT else UNSEEN
        name = f"{method} ({SEEN} people)" if method == NO_OBJECT else method
        diagrams[name] = curve(method, {f"{people}: {_bin(b)}": (b + 0.5) / BINS for b in range(BINS)})
        recalls[name] = curve(method, {f"{people}: recall %, turns {part}": k for k, part in enumerate(LENGTHS)})
    plot_confidence(path, diagrams, recalls, list(LENGTHS), strong=(SELF,))


STUDY = Study(
    name="confidence",
    card="00",
    title="How sure a weigher should be: designs of confidence, their count, calibration and short turns",
    paper="The weigher: the project's own, after a talk on diarization learned from labels of whole files",
    run=run,
    claims=(
        Claim(
            "a second track under the weights counts better than its plain mean",
            "the talk: much better",
            _more(WEIGHTED, MEAN, f"{UNSEEN}: {COUNT}"),
        ),
        Claim(
            "the track under its own weight counts no worse than a second track",
            "the talk",
            _not_less(SELF, WEIGHTED, f"{UNSEEN}: {COUNT}"),
        ),
        Claim(
            "the track under its own weight counts better than a second track",
            "the talk: better still",
            _more(SELF, WEIGHTED, f"{UNSEEN}: {COUNT}"),
        ),
        Claim(
            "it counts no worse than a class for nobody, even of people whom the head knows",
            "the project's check",
            _not_less(SELF, NO_OBJECT, f"{SEEN}: {COUNT}"),
        ),
        Claim(
            "it finds fewer turns under 1 s than where the confidence leaves the tracks alone",
            "the known weakness: frames below half the confidence are pushed down",
            _pushed_down,
        ),
        Claim(
            "power pooling, exp-softmax or auto-pool finds more turns under 1 s",
            "arXiv 2010.09985, of power pooling: better than linear softmax",
            _relative_finds_more,
        ),
        Claim(
            "self-weighted is the right default: no design counts clearly better or errs clearly less",
            "the project's choice",
            _right_default,
        ),
    ),
    plot=plot,
)

"""How far a confidence can be taken at its word, how well it counts, and which turns tracks find.

A confidence is calibrated when of all slots it gives q, a share q is somebody. With the slots in bins of equal width by
their confidence, n_b of N in bin b, q_b their mean confidence and o_b the share that is somebody:

    expected calibration error  ECE = sum_b n_b / N |o_b - q_b|          reliability diagram: o_b against q_b
    Brier score                     = mean (o - q)^2
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from weigher.io.rttm import Segment


@dataclass(frozen=True, eq=False)
class Reliability:
    """The bins [k] of a reliability diagram from 0 to 1: mean confidence, share that is somebody, and how many.

    Both are NaN in an empty bin.
    """

    confidence: np.ndarray
    somebody: np.ndarray
    count: np.ndarray


def reliability(confidence: np.ndarray, somebody: np.ndarray, bins: int = 10) -> Reliability:
    """Sort slots into bins of equal width by their confidence: [k] in [0, 1], bool [k]; a border belongs to the upper.

    >>> found = reliability(np.array([0.1, 0.3, 0.9]), np.array([False, True, True]), bins=2)
    >>> found.confidence.tolist(), found.somebody.tolist(), found.count.tolist()
    ([0.2, 0.9], [0.5, 1.0], [2, 1])
    """
    which = np.minimum((np.asarray(confidence, float) * bins).astype(int), bins - 1)
    count = np.bincount(which, minlength=bins)
    some = np.where(count, count, np.nan)
    return Reliability(np.bincount(which, confidence, bins) / some, np.bincount(which, somebody, bins) / some, count)


def calibration_error(diagram: Reliability) -> float:
    """Expected calibration error in [0, 1]. Source: Naeini, Cooper, Hauskrecht 2015 (AAAI).

    >>> calibration_error(Reliability(np.array([0.25, 1.0]), np.array([0.5, 1.0]), np.array([3, 1])))
    0.1875
    """
    gap = np.where(diagram.count > 0, np.abs(diagram.somebody - diagram.confidence), 0.0)
    return float((diagram.count * gap).sum() / diagram.count.sum())


def brier(confidence: np.ndarray, somebody: np.ndarray) -> float:
    """Mean squared distance of confidence [k] from the truth bool [k], in [0, 1]. Source: Brier 1950.

    >>> brier(np.array([0.5, 1.0]), np.array([True, True]))
    0.125
    """
    return float(np.square(np.asarray(somebody, float) - confidence).mean())


def best_threshold(confidence: Sequence[np.ndarray], counts: Sequence[int]) -> float:
    """Threshold of confidence [n] in each recording that counts most recordings right; the middle of the best range.

    Of several ranges that are as good, the first. Between neighbouring confidences nothing changes, so the middles of
    all gaps are all there is to try.

    >>> round(best_threshold([np.array([0.9, 0.2]), np.array([0.8, 0.6])], [1, 2]), 6)
    0.4
    """
    every = np.unique(np.concatenate([[0.0, 1.0], *(np.asarray(each, float) for each in confidence)]))
    tried = (every[1:] + every[:-1]) / 2
    right = np.zeros(len(tried), int)
    for each, count in zip(confidence, counts, strict=True):
        right += (np.asarray(each, float)[:, None] >= tried).sum(0) == count
    first = int(right.argmax())
    last = first
    while last + 1 < len(tried) and right[last + 1] == right[first]:
        last += 1
    return float((every[first] + every[last + 1]) / 2)


def turns_found(
    turns: Sequence[Segment], names: Sequence[str], found: np.ndarray, hop_seconds: float
) -> tuple[np.ndarray, np.ndarray]:
    """Length of each turn in seconds, and whether half of it at least is found: float and bool [turns].

    `found` bool [t, m]: when each of `names` is said to speak. A turn that covers the middle of no frame is looked for
    in the frame where it starts.

    >>> turns = [Segment(0.0, 2.0, "a"), Segment(3.0, 4.0, "a")]
    >>> [part.tolist() for part in turns_found(turns, ["a"], np.array([[True], [False], [False], [False]]), 1.0)]
    [[2.0, 1.0], [True, False]]
    """
    seconds, hits = [], []
    for turn in turns:
        first = int(np.ceil(turn.start / hop_seconds - 0.5))
        last = int(np.ceil(turn.end / hop_seconds - 0.5))
        if last <= first:
            first = int(turn.start / hop_seconds)
            last = first + 1
        part = found[first:last, names.index(turn.speaker)]
        seconds.append(turn.end - turn.start)
        hits.append(len(part) > 0 and part.mean() >= 0.5)
    return np.array(seconds), np.array(hits, bool)

"""Thresholds of "known" and "same voice", chosen on pairs that were held out, with both error rates.

Scores s of pairs that are one person (same) and of pairs that are two (different); a pair is accepted when s >= t:

    false accept  A(t) = share of different pairs with s >= t        false reject  R(t) = share of same pairs with s < t

A falls and R rises with t, so the best t that keeps A within a bound is the lowest: just above the (k + 1)-th highest
score of different pairs, k = floor(bound * different pairs). It is put half way to the next higher score of any pair.

`naming_trials` and `pair_trials` make such pairs of enrolled people by holding out one vector at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from weigher.errors import RequestError

_MOST_VECTORS = 2000  # of which all pairs are formed: two million pairs say enough


@dataclass(frozen=True, slots=True)
class Calibration:
    """A threshold, the share of different pairs it accepts and of same pairs it rejects, and how many were looked at.

    A rate below one in `different` (or `same`) cannot be told from 0: 1 % needs a hundred pairs and more.
    """

    threshold: float
    false_accept: float
    false_reject: float
    same: int
    different: int

    def __str__(self) -> str:
        rates = f"false accept {100 * self.false_accept:.2g} %, false reject {100 * self.false_reject:.2g} %"
        return (
            f"threshold {self.threshold:.3f}: {rates} of {self.different} different and {self.same} same held-out pairs"
        )


def calibrate(scores: np.ndarray, same: np.ndarray, *, false_accept: float = 0.01) -> Calibration:
    """Return the lowest threshold whose false accept rate is at most `false_accept`, with both rates as measured.

    Shapes: scores [n], any finite numbers, higher for pairs more alike; same bool [n]. `false_accept` in [0, 1).
    Raises RequestError for shapes that do not fit, scores that are not finite, and where a kind of pair is missing.

    >>> calibrate(np.array([0.9, 0.7, 0.5, 0.4, 0.2]), np.array([True, True, False, True, False]), false_accept=0.0)
    Calibration(threshold=0.6, false_accept=0.0, false_reject=0.3333333333333333, same=3, different=2)
    """
    scores, same = np.asarray(scores, np.float64), np.asarray(same)
    if scores.ndim != 1 or same.shape != scores.shape or same.dtype != bool or not np.isfinite(scores).all():
        raise RequestError(
            f"scores {scores.shape}, same {same.shape} ({same.dtype}) are given; needed are finite [n] and bool [n]"
        )
    if not 0 <= false_accept < 1:
        raise RequestError(f"the share of false accepts is {false_accept}; needed is a number from 0 to below 1")
    ours, others = scores[same], scores[~same]
    if not len(ours) or not len(others):
        raise RequestError(
            f"{len(ours)} same and {len(others)} different pairs are given; calibration needs both kinds: "
            "two people or more, one of them with two recordings or more"
        )
    allowed = math.floor(false_accept * len(others) + 1e-9)  # 0.29 * 100 is 28.999...
    highest = np.sort(others)[::-1][allowed]  # must not be accepted, and neither may its equals
    above = scores[scores > highest]
    threshold = float((highest + above.min()) / 2 if len(above) else np.nextafter(highest, np.inf))
    if threshold <= highest:  # neighbours of the number line have no half way
        threshold = float(np.nextafter(highest, np.inf))
    return Calibration(
        threshold, float((others >= threshold).mean()), float((ours < threshold).mean()), len(ours), len(others)
    )


def naming_trials(vectors: np.ndarray, people: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hold out each vector and name it as if it were new: scores and same, for `calibrate`.

    A score is the cosine to the sum of a person's other vectors. Every vector is once a stranger, whose score is that
    of the nearest other person: A is the share of strangers who are given a name, with as many people enrolled as
    there are. Every vector of a person with several is once known: R is the share of known voices that are not given
    their own name; where another person is nearer, the score is -1.

    Shapes: vectors [n, e] of unit length, people int [n]; -> float64 [m], bool [m]. Fewer than two people: no trials.
    """
    names, person = np.unique(people, return_inverse=True)
    if len(names) < 2:
        return np.empty(0), np.empty(0, bool)
    vectors = np.asarray(vectors, np.float64)
    sums = np.zeros((len(names), vectors.shape[1]))
    np.add.at(sums, person, vectors)
    rows = np.arange(len(vectors))
    others = vectors @ _directions(sums).T
    others[rows, person] = -np.inf
    stranger = others.max(1)
    own = np.einsum("ne,ne->n", vectors, _directions(sums[person] - vectors))
    several = np.bincount(person)[person] > 1
    own = np.where(own >= stranger, own, -1.0)[several]
    return np.concatenate([stranger, own]), np.arange(len(stranger) + len(own)) >= len(stranger)


def pair_trials(vectors: np.ndarray, people: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compare every vector with every other: cosines and same, for `calibrate`; A and R are then rates of single pairs.

    Shapes as in `naming_trials`. Of more than 2000 vectors, 2000 that lie evenly among them are taken.

    >>> scores, same = pair_trials(np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]), np.array([4, 4, 7]))
    >>> scores.tolist(), same.tolist()
    ([0.6, 0.0, 0.8], [True, False, False])
    """
    chosen = np.unique(np.linspace(0, len(vectors) - 1, min(len(vectors), _MOST_VECTORS)).round().astype(int))
    vectors, people = np.asarray(vectors, np.float64)[chosen], np.asarray(people)[chosen]
    one, two = np.triu_indices(len(vectors), 1)
    return (vectors @ vectors.T)[one, two], people[one] == people[two]


def _directions(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)

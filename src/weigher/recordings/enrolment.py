"""Which voice bears which name, in recordings of which only the cast is known: names shared over recordings decide.

A recording r has k_r voices with unit embeddings x_ri and a cast of names. Sought is, in every recording, a matching of
names to voices (one to one; some of either may be left over), such that the voices of one name are alike.

    start    s_r(i, n) = mean over recordings r' with n  of max_j cos(x_ri, x_r'j)
                       - mean over recordings r' without n of max_j cos(x_ri, x_r'j)
    then     s_r(i, n) = cos(x_ri, sum of the voices that bear n elsewhere, and of what is known of n already)
    match    Hungarian method on s_r in every recording, until nothing changes

The start counts on what casts say and what they do not: a voice heard in all recordings of a name and in no other is
that name's. It needs no guess, so that the second stage, which is k-means under the constraint of the casts, starts
near its best. A name that is in one recording alone gets the voice that the others leave. Names that stand in exactly
the same recordings (`twins`) cannot be told apart, and get no voice, unless all but one are known already.

Time grows with the square of the number of voices: 40,000 of them take a minute or two.

What differs from set matching in training (`core.matching`): the names have no vectors before they are found here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from weigher.errors import RequestError
from weigher.recordings.casting import twins

_ROUNDS = 50


@dataclass(frozen=True, eq=False)
class Enrolment:
    """Who bears which name: `voices[r]` holds the voice of each name found in recording r."""

    voices: tuple[dict[str, int], ...]
    agreement: dict[str, float]
    """Mean cosine between the voices of a name, what was known of it included; names with a single voice are absent."""
    ambiguous: tuple[tuple[str, ...], ...]
    """Groups of names that no cast tells apart; they got no voice."""


def assign_names(
    embeddings: Sequence[np.ndarray], casts: Sequence[Sequence[str]], known: Mapping[str, np.ndarray] | None = None
) -> Enrolment:
    """Give the names of each cast to the voices of its recording.

    Shapes: embeddings[r] `[k_r, e]` of unit length, known[name] `[m, e]`, vectors of people enrolled before. Names of a
    cast and voices of a recording may differ in number; the larger side keeps some unmatched. Names that are `known`
    count as told apart. Raises RequestError where the lists differ in length or a cast names somebody twice.

    >>> ann, ben, cy = np.eye(3)
    >>> found = assign_names([np.stack([ben, ann]), np.stack([ann, cy])], [("Ann", "Ben"), ("Ann", "Cy")])
    >>> found.voices
    ({'Ann': 1, 'Ben': 0}, {'Ann': 0, 'Cy': 1})
    """
    if len(embeddings) != len(casts) or any(len(set(cast)) < len(cast) for cast in casts):
        raise RequestError(
            f"{len(embeddings)} recordings and {len(casts)} casts are given; needed is one for each, with no name twice"
        )
    known = known or {}
    ambiguous = tuple(tuple(group) for group in twins(casts) if sum(name not in known for name in group) > 1)
    unclear = {name for group in ambiguous for name in group if name not in known}
    ambiguous = tuple(tuple(name for name in group if name in unclear) for group in ambiguous)
    # unclear names take part, so that they take up the voices that are theirs, whoever of them it is
    base = {name: known[name].sum(0) if name in known else 0.0 for cast in casts for name in cast}
    voices = _matched(embeddings, casts, _first_scores(embeddings, casts, known))
    for _ in range(_ROUNDS):
        again = _matched(embeddings, casts, _scores(embeddings, casts, base, voices))
        if again == voices:
            break
        voices = again
    clear = tuple({name: voice for name, voice in found.items() if name not in unclear} for found in voices)
    return Enrolment(clear, _agreement(embeddings, clear, known), ambiguous)


def _matched(
    embeddings: Sequence[np.ndarray], casts: Sequence[Sequence[str]], scores: Sequence[np.ndarray]
) -> list[dict[str, int]]:
    """Match in every recording: scores[r] [k_r, cast] -> voice of each name."""
    found = []
    for cast, score in zip(casts, scores, strict=True):
        slots, names = linear_sum_assignment(-score)
        pairs = sorted(zip(names.tolist(), slots.tolist(), strict=True))
        found.append({cast[name]: slot for name, slot in pairs})
    return found


def _first_scores(
    embeddings: Sequence[np.ndarray], casts: Sequence[Sequence[str]], known: Mapping[str, np.ndarray]
) -> list[np.ndarray]:
    """Score each voice by how it is echoed in the recordings with a name, and in those without it."""
    heard = [row for row, vectors in enumerate(embeddings) if len(vectors)]
    stacked = np.concatenate([embeddings[row] for row in heard]) if heard else np.empty((0, 0))
    starts = np.cumsum([0, *(len(embeddings[row]) for row in heard)])[:-1]
    column_of = {name: i for i, name in enumerate(dict.fromkeys(name for cast in casts for name in cast))}
    has = np.zeros((len(heard), len(column_of)))
    for place, row in enumerate(heard):
        has[place, [column_of[name] for name in casts[row]]] = 1
    scores = []
    for row, (vectors, cast) in enumerate(zip(embeddings, casts, strict=True)):
        columns = [column_of[name] for name in cast]
        if not len(vectors):
            scores.append(np.zeros((0, len(cast))))
            continue
        echo = np.maximum.reduceat(vectors @ stacked.T, starts, axis=1)  # [k, recordings]
        other = np.array(heard) != row
        with_, without = has[:, columns] * other[:, None], (1 - has[:, columns]) * other[:, None]
        score = echo @ with_ / np.maximum(with_.sum(0), 1) - echo @ without / np.maximum(without.sum(0), 1)
        for column, name in enumerate(cast):
            if name in known:
                score[:, column] += (vectors @ known[name].T).mean(1)
        scores.append(score)
    return scores


def _scores(
    embeddings: Sequence[np.ndarray],
    casts: Sequence[Sequence[str]],
    base: Mapping[str, np.ndarray | float],
    voices: Sequence[dict[str, int]],
) -> list[np.ndarray]:
    """Score each voice by its cosine to the voices that bear a name in the other recordings."""
    totals = dict(base)
    for vectors, found in zip(embeddings, voices, strict=True):
        for name, voice in found.items():
            totals[name] = totals[name] + vectors[voice]
    scores = []
    for vectors, cast, found in zip(embeddings, casts, voices, strict=True):
        score = np.zeros((len(vectors), len(cast)))
        for column, name in enumerate(cast):
            rest = totals[name] - (vectors[found[name]] if name in found else 0.0)
            length = np.linalg.norm(rest)
            if length > 1e-9:
                score[:, column] = vectors @ (rest / length)
        scores.append(score)
    return scores


def _agreement(
    embeddings: Sequence[np.ndarray], voices: Sequence[dict[str, int]], known: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Mean cosine over the pairs of vectors of each name."""
    sums: dict[str, np.ndarray] = {}
    counts: dict[str, int] = {}
    for vectors, found in zip(embeddings, voices, strict=True):
        for name, voice in found.items():
            before = known[name].sum(0) if name in known else 0.0
            sums[name] = sums.get(name, before) + vectors[voice]
            counts[name] = counts.get(name, len(known.get(name, ()))) + 1
    return {
        name: float((sums[name] @ sums[name] - counts[name]) / (counts[name] * (counts[name] - 1)))
        for name in sums
        if counts[name] > 1
    }

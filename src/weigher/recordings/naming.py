"""Voices and people -> names, or unknown: one to one within a recording, by cosine and a threshold.

    score of voice v for person p       s = cos(v, x_1 + ... + x_m), x the unit vectors of p
    names of a recording's voices       matching of voices to people with the greatest sum of max(s - threshold, 0)

Two voices of one recording never get one name: the diarizer says that they are two people. A voice without a partner
above the threshold is unknown, whoever is nearest to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment


@dataclass(frozen=True, slots=True)
class Naming:
    """What a voice is called: `name` is None where it is unknown; `nearest` is the most similar person."""

    name: str | None
    nearest: str | None
    """None where there is nobody to compare with."""
    score: float
    """That of `name`, or where it is unknown that of `nearest`; 0 where there is nobody."""


@dataclass(frozen=True, eq=False)
class Gallery:
    """People as one direction each: names, and float32 [p, e] of unit length."""

    names: tuple[str, ...]
    directions: np.ndarray

    @classmethod
    def of(cls, vectors: Mapping[str, np.ndarray], width: int) -> Gallery:
        """Make it of everybody's vectors [m, e], m >= 1."""
        sums = np.stack([each.sum(0) for each in vectors.values()]) if vectors else np.empty((0, width))
        lengths = np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
        return cls(tuple(vectors), (sums / lengths).astype(np.float32))


def name_voices(embeddings: np.ndarray, gallery: Gallery, threshold: float) -> list[Naming]:
    """Name the voices of one recording: embeddings [k, e] of unit length -> k namings.

    >>> gallery = Gallery.of({"Ann": np.array([[1.0, 0.0]])}, 2)
    >>> for naming in name_voices(np.array([[0.8, 0.6], [1.0, 0.0]]), gallery, threshold=0.5):
    ...     print(naming)
    Naming(name=None, nearest='Ann', score=0.800000011920929)
    Naming(name='Ann', nearest='Ann', score=1.0)
    """
    if not gallery.names:
        return [Naming(None, None, 0.0)] * len(embeddings)
    scores = np.asarray(embeddings, np.float32) @ gallery.directions.T
    nearest = scores.argmax(1)
    found = [Naming(None, gallery.names[best], float(row[best])) for row, best in zip(scores, nearest, strict=True)]
    # an offset for reaching the threshold at all, so that a score of exactly the threshold is worth a match
    worth = np.where(scores >= threshold, scores - threshold + 1e-6, 0.0)
    for voice, person in zip(*linear_sum_assignment(-worth), strict=True):
        if scores[voice, person] >= threshold:
            found[voice] = Naming(gallery.names[person], found[voice].nearest, float(scores[voice, person]))
    return found


def named_like(vectors: np.ndarray, gallery: Gallery, name: str, threshold: float) -> np.ndarray:
    """Tell which vectors [n, e] would be given this name if each were alone in its recording: bool [n]."""
    if name not in gallery.names:
        return np.zeros(len(vectors), bool)
    scores = vectors @ gallery.directions.T
    return (scores.argmax(1) == gallery.names.index(name)) & (scores.max(1) >= threshold)

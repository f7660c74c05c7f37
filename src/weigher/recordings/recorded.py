"""What an index keeps of a recording: its voices, how sure they are, when they speak, and whose they are if told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from weigher.errors import RequestError
from weigher.recordings.people_store import check_name


@dataclass(frozen=True, eq=False)
class Recorded:
    """The k voices of one recording, as an index keeps them; row i of every field is voice i."""

    recording: str
    """What the recording is called, best by its whole path."""
    embeddings: np.ndarray
    """float32 [k, e], unit length."""
    confidence: np.ndarray
    """[k], in [0, 1]."""
    turns: Sequence[np.ndarray]
    """k arrays [m, 2]: start and end of each turn in seconds."""
    people: Sequence[str | None]
    """k names, None for a voice of which nobody has told whose it is."""


def unit_vectors(vectors: np.ndarray, width: int) -> np.ndarray:
    """Return vectors [..., width] as float32 of unit length.

    Raises RequestError for another width, and for vectors that are zero or not finite: they are nobody's voice.
    """
    vectors = np.asarray(vectors, np.float64)
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if vectors.shape[-1:] != (width,) or not np.isfinite(lengths).all() or not (lengths > 0).all():
        raise RequestError(
            f"embeddings of shape {vectors.shape} are given; needed are finite vectors of size {width}, none all zero"
        )
    return (vectors / lengths).astype(np.float32)


def checked(recorded: Recorded, width: int) -> Recorded:
    """Return a recording with vectors of unit length and names as an index keeps them; RequestError where it cannot."""
    k = len(recorded.embeddings)
    if not len(recorded.confidence) == len(recorded.turns) == len(recorded.people) == k:
        raise RequestError(
            f"{recorded.recording!r} has {k} embeddings, {len(recorded.confidence)} confidences, {len(recorded.turns)} "
            f"lists of turns and {len(recorded.people)} names; needed is one of each for every voice"
        )
    vectors = unit_vectors(recorded.embeddings, width) if k else np.empty((0, width), np.float32)
    return replace(recorded, embeddings=vectors, people=[name and check_name(name) for name in recorded.people])

"""Linking windows: the slots of each window of a long recording become people of the whole.

A window's slots are matched one to one (Hungarian) to the people found so far, by

    score = cos(slot embedding, person's mean embedding) + agreement of their tracks where the windows overlap

and a slot that is like nobody becomes a new person. At the end, people who are alike and were never slots of one window
are joined, most alike first. Two slots of one window are never one person. Memory holds half-precision tracks and one
vector per person: about 0.2 MB per hour and person, and no more than 100 people are kept, however long it goes on.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment

_AGREEMENT = 0.5  # what tracks that agree fully add to a cosine
_A_LINK = 1e-6  # what a link just at the threshold is worth against none
MOST_PEOPLE = 100
"""People of one recording: a model that tells nobody apart would find them without end, and memory with them."""


@dataclass(eq=False)
class _Person:
    total: np.ndarray  # sum of embeddings, weighted by confidence
    certainty: float  # greatest confidence
    windows: set[int]
    pieces: list[tuple[int, np.ndarray]] = field(default_factory=list)  # first frame and track, of each window

    @property
    def mean(self) -> np.ndarray:
        return self.total / max(float(np.linalg.norm(self.total)), 1e-9)

    def joined(self, other: _Person) -> _Person:
        return _Person(
            self.total + other.total,
            max(self.certainty, other.certainty),
            self.windows | other.windows,
            sorted(self.pieces + other.pieces, key=_at),
        )


@dataclass(frozen=True, eq=False)
class Linked:
    """People of a whole recording: tracks float16 [t, k], confidence [k], unit embeddings [k, e]."""

    tracks: np.ndarray
    confidence: np.ndarray
    embeddings: np.ndarray


class Linker:
    """Collects windows in order of time; `threshold` is the cosine from which two embeddings are one person.

    With `hold` nobody is joined before the end, which can tell more people apart than any one window shows.

    >>> linker = Linker(threshold=0.5)
    >>> for first in (0, 8):
    ...     linker.add(first, np.ones((10, 1)), np.array([0.9]), np.array([[1.0, 0.0]]))
    >>> linker.finish(18).tracks.shape
    (18, 1)
    """

    def __init__(self, threshold: float, *, hold: bool = False) -> None:
        self.threshold = threshold
        self.hold = hold
        self.people: list[_Person] = []
        self.count = 0

    def add(self, first: int, tracks: np.ndarray, confidence: np.ndarray, embeddings: np.ndarray) -> None:
        """Add a window: its first frame, tracks [t, n], confidence [n] and unit embeddings [n, e] of its slots."""
        score = np.empty(0) if self.hold else self._scores(first, tracks, embeddings)
        taken: dict[int, int] = {}
        if score.size:
            # what lies below the threshold is no link, and must not steer the others either
            gain = np.where(score >= self.threshold, score - self.threshold + _A_LINK, 0.0)
            for slot, person in zip(*linear_sum_assignment(-gain), strict=True):
                if gain[slot, person] > 0:
                    taken[int(slot)] = int(person)
        for slot in range(tracks.shape[1]):
            if slot not in taken:
                self.people.append(_Person(np.zeros(embeddings.shape[1]), 0.0, set()))
                taken[slot] = len(self.people) - 1
            person = self.people[taken[slot]]
            person.total = person.total + confidence[slot] * embeddings[slot]
            person.certainty = max(person.certainty, float(confidence[slot]))
            person.windows.add(self.count)
            person.pieces.append((first, tracks[:, slot].astype(np.float16)))
        self.count += 1
        if len(self.people) > 2 * MOST_PEOPLE:
            self.people = self._joined(MOST_PEOPLE)

    def _scores(self, first: int, tracks: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
        """Likeness of every slot to every person, [n, k]."""
        if not self.people:
            return np.empty((tracks.shape[1], 0))
        score = embeddings @ np.stack([person.mean for person in self.people]).T
        for column, person in enumerate(self.people):
            begin, piece = person.pieces[-1]
            shared = begin + len(piece) - first
            if shared > 0:
                before = piece[-shared:].astype(np.float64)
                now = tracks[:shared]
                both = np.minimum(before[: len(now), None], now).sum(0)
                either = np.maximum(before[: len(now), None], now).sum(0)
                score[:, column] += _AGREEMENT * np.where(either > 1, both / np.maximum(either, 1e-9), 0.0)
        return score

    def finish(self, frames: int, *, least: int = 0, most: int | None = None) -> Linked:
        """Join people who are alike, and on until at most `most` are left (or the rest met in a window).

        The tracks are `frames` long. Nobody is joined where only `least` people are left. `most` None, or more than
        100, is 100.
        """
        people = self._joined(MOST_PEOPLE if most is None else min(most, MOST_PEOPLE), least)
        tracks = np.zeros((frames, len(people)), np.float16, order="F")
        for column, person in enumerate(people):
            _lay(tracks[:, column], person.pieces)
        size = self.people[0].total.shape[0] if self.people else 0
        return Linked(
            tracks=tracks,
            confidence=np.array([person.certainty for person in people]),
            embeddings=np.array([person.mean for person in people]).reshape(len(people), size),
        )

    def _joined(self, most: int, least: int = 0) -> list[_Person]:
        """Join people, most alike first: k^2 for each pair that is joined."""
        people = list(self.people)
        if not people:
            return people
        means = np.stack([person.mean for person in people])
        present = np.zeros((len(people), self.count), np.float32)
        for row, person in enumerate(people):
            present[row, list(person.windows)] = 1
        apart = present @ present.T > 0  # they met in a window, as everybody met himself
        alike = np.where(apart, -np.inf, means @ means.T)
        order = list(range(len(people)))
        while len(order) > least:
            i, j = np.unravel_index(int(alike.argmax()), alike.shape)
            if not np.isfinite(alike[i, j]) or (alike[i, j] < self.threshold and len(order) <= most):
                break
            people[i] = people[i].joined(people[j])
            order = [k for k in order if k not in (i, j)] + [int(i)]
            means[i] = people[i].mean
            apart[i] |= apart[j]
            apart[:, i], apart[:, j] = apart[i], True  # j is no more
            alike[i] = alike[:, i] = np.where(apart[i], -np.inf, means @ means[i])
            alike[j] = alike[:, j] = -np.inf
        return [people[k] for k in order]


def _at(piece: tuple[int, np.ndarray]) -> int:
    return piece[0]


def _lay(track: np.ndarray, pieces: list[tuple[int, np.ndarray]]) -> None:
    """Lay windows one after the other; where two overlap, each keeps the half away from its own edge."""
    end = 0
    for first, piece in pieces:
        begin = first + max(0, end - first) // 2 if end > first else first
        stop = max(begin, min(len(track), first + len(piece)))
        track[begin:stop] = piece[begin - first : stop - first]
        end = first + len(piece)

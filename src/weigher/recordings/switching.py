"""Who is heard when it is one at a time: laws of switching as Markov chains, and real turns on a grid of frames.

Each state of a chain belongs to a person, and several states to one where the time spent with it matters:

    independent   every frame draws anew: time says nothing
    random walk   a position in [0, 1], moved by Gaussian steps and reflected at the ends, picks one of K equal parts
    fitted        lengths of turns as a mixture of geometric laws, fitted to real ones

Symbols: b files, t frames, k people, s states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from weigher.errors import RequestError
from weigher.io.rttm import Segment
from weigher.recordings.turns import TurnLaw

_TOO_LITTLE = "{people} people hardly ever have a share of {least:g} of {frames} frames each; ask for more frames"


@dataclass(frozen=True, eq=False)
class Chain:
    """A law of switching: initial [s] and transition [s, s] probabilities, and the person [s] of each state.

    >>> Chain.independent(2).transition.tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    """

    initial: np.ndarray
    transition: np.ndarray
    owner: np.ndarray

    @property
    def people(self) -> int:
        """How many people there are."""
        return int(self.owner.max()) + 1

    @classmethod
    def independent(cls, people: int) -> Chain:
        """Draw every frame anew, everybody alike."""
        return cls.sticky(people, 1 / people)

    @classmethod
    def sticky(cls, people: int, keep: float) -> Chain:
        """Keep the person with probability `keep` in [0, 1], else pass on to one of the others, all alike.

        >>> Chain.sticky(3, 0.5).transition[0].tolist()
        [0.5, 0.25, 0.25]
        """
        return cls(np.full(people, 1 / people), sticky_transitions(np.array(keep), people), np.arange(people))

    @classmethod
    def random_walk(cls, people: int, step: float, cells: int = 120) -> Chain:
        """Walk in [0, 1] by Gaussian steps of standard deviation `step`, reflected at both ends.

        The position is one of `cells` equal cells, moves go from the middle of one; cells that are finer than the step
        change nothing that can be seen. Person floor(K x) is heard, and the start is uniform, as the walk stays.
        """
        edges = np.arange(cells + 1) / cells
        middle = (edges[1:] + edges[:-1]) / 2
        transition = np.zeros((cells, cells))
        for image in range(-int(3 * step) - 1, int(3 * step) + 2):  # mirror images of [0, 1] that a step may reach
            for low, high in (
                (2 * image + edges[:-1], 2 * image + edges[1:]),
                (2 * image - edges[1:], 2 * image - edges[:-1]),
            ):
                transition += ndtr((high - middle[:, None]) / step) - ndtr((low - middle[:, None]) / step)
        transition /= transition.sum(1, keepdims=True)
        return cls(np.full(cells, 1 / cells), transition, (middle * people).astype(int))

    @classmethod
    def fitted(cls, speakers: np.ndarray, parts: int = 3, rounds: int = 100) -> Chain:
        """Fit a semi-Markov law to who was heard, int [files, frames], everybody alike.

        The length of a turn is a mixture of `parts` geometric laws (short answers, long turns), fitted by
        expectation-maximisation in which the last turn of a file counts as cut; the next speaker is any other one.
        """
        lengths, is_cut = _turn_lengths(speakers)
        people = int(speakers.max()) + 1
        weight = np.full(parts, 1 / parts)
        leave = 1 / np.quantile(lengths, (np.arange(parts) + 0.5) / parts).clip(1.5)
        leave *= np.geomspace(1.2, 1 / 1.2, parts)  # equal parts would stay equal
        for _ in range(rounds):
            log_share = np.log(weight) + np.log1p(-leave) * (lengths[:, None] - 1)
            log_share = log_share + np.log(leave) * ~is_cut[:, None]
            share = np.exp(log_share - log_share.max(1, keepdims=True))
            share /= share.sum(1, keepdims=True)
            weight = share.mean(0).clip(1e-6)
            leave = ((share * ~is_cut[:, None]).sum(0) / (share * lengths[:, None]).sum(0)).clip(1e-6, 1 - 1e-6)
        weight /= weight.sum()
        owner = np.repeat(np.arange(people), parts)
        passed = leave[:, None] * weight / max(1, people - 1)
        transition = np.tile(passed, (people, people)) * (owner[:, None] != owner)
        transition += np.diag(np.tile(1 - leave, people))
        initial = np.tile(weight / leave, people)  # the longer a turn, the likelier that a file begins in it
        return cls(initial / initial.sum(), transition / transition.sum(1, keepdims=True), owner)

    def draw(self, files: int, frames: int, rng: np.random.Generator, least: float = 0.0) -> np.ndarray:
        """Draw who is heard, int [files, frames]; everybody in at least a share `least` of the frames of every file.

        Raises RequestError where files with so much of everybody hardly ever occur.
        """
        kept: list[np.ndarray] = []
        for _ in range(100):
            heard = self.owner[self._states(max(files, 64), frames, rng)]  # as many at little cost
            kept += list(heard[shares(heard, self.people).min(1) >= least])
            if len(kept) >= files:
                return np.stack(kept[:files])
        raise RequestError(_TOO_LITTLE.format(people=self.people, least=least, frames=frames))

    def _states(self, files: int, frames: int, rng: np.random.Generator) -> np.ndarray:
        cumulated = self.transition.cumsum(1)[:, :-1]  # the last is 1, but for rounding
        found = np.empty((files, frames), int)
        found[:, 0] = rng.choice(len(self.initial), files, p=self.initial)
        for t in range(1, frames):
            found[:, t] = (rng.random((files, 1)) > cumulated[found[:, t - 1]]).sum(1)
        return found


def sticky_transitions(keep: np.ndarray, people: int) -> np.ndarray:
    """Transitions [..., k, k] of chains that keep their state with probability keep [...], else pass on alike."""
    others = (1 - keep) / max(1, people - 1)
    return np.where(np.eye(people, dtype=bool), keep[..., None, None], others[..., None, None])


def shares(heard: np.ndarray, people: int) -> np.ndarray:
    """Share of each person in who is heard: int [b, t] -> [b, k].

    >>> shares(np.array([[0, 0, 1, 0]]), 2).tolist()
    [[0.75, 0.25]]
    """
    return (heard[..., None] == np.arange(people)).mean(1)


def one_at_a_time(segments: Sequence[Segment], frames: int, hop_seconds: float) -> np.ndarray:
    """Bring turns of people "0", "1", ... to frames in which one is heard: int [frames].

    In an overlap it is the one who began last; in a pause the one before (at the start, the first).

    >>> one_at_a_time([Segment(1.0, 4.0, "0"), Segment(2.0, 3.0, "1")], 5, 1.0).tolist()
    [0, 0, 1, 0, 0]
    """
    heard = np.full(frames, -1)
    for segment in sorted(segments, key=lambda s: s.start):
        heard[round(segment.start / hop_seconds) : round(segment.end / hop_seconds)] = int(segment.speaker)
    last = np.maximum.accumulate(np.where(heard >= 0, np.arange(frames), -1))
    return heard[np.where(last >= 0, last, np.argmax(heard >= 0))]


def windows(
    law: TurnLaw,
    people: int,
    files: int,
    frames: int,
    *,
    hop_seconds: float,
    rng: np.random.Generator,
    least: float = 0.0,
) -> np.ndarray:
    """Draw who is heard from a law of turns, int [files, frames]; everybody in at least a share `least` of them.

    Raises RequestError where such files hardly ever occur.
    """
    kept: list[np.ndarray] = []
    for _ in range(100 * files):
        heard = one_at_a_time(law.draw(people, frames * hop_seconds, rng), frames, hop_seconds)
        if shares(heard, people).min() >= least:
            kept.append(heard)
        if len(kept) == files:
            return np.stack(kept)
    raise RequestError(_TOO_LITTLE.format(people=people, least=least, frames=frames))


def _turn_lengths(speakers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lengths in frames of all turns in int [files, frames], and which of them the end of the file cuts."""
    last = np.ones_like(speakers, dtype=bool)
    last[:, :-1] = speakers[:, 1:] != speakers[:, :-1]
    lengths = np.diff(np.concatenate([[-1], np.flatnonzero(last)]))
    is_cut = (np.flatnonzero(last) + 1) % speakers.shape[1] == 0
    return lengths, is_cut

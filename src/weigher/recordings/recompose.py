"""New conversations out of an archive: stretches that are clearly one person's, put together with new casts and times.

The teacher (`weigher.recordings.teacher`) finds, in recordings of which only the cast is known, stretches where one
person is heard alone, and quiet ones. Joining them gives any number of conversations whose times are known by
construction, with overlaps and with people who never met: what the weigher has to see to generalise to strangers. No
time label enters.

Units: positions count steps of the values (feature frames or samples), times are seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from weigher.errors import RequestError, WeigherError
from weigher.recordings.silence import Mix, silence_power

GRID_SECONDS = 0.01
"""Resolution of turns."""


@dataclass(frozen=True)
class RecomposeConfig:
    """What the conversations put together in training look like."""

    seconds: float = 10.0
    """Length of one."""
    max_speakers: int = 4
    """Most people in one; 1 to this many are equally likely."""
    level_jitter: float = 0.5
    """Standard deviation of each person's level (natural logarithm of power)."""
    nearly_silent: float = 0.1
    """Share of conversations that are silent but for a moment, in which hardly anybody speaks; real ones can be."""

    def __post_init__(self) -> None:
        sizes = self.seconds > 0 and self.max_speakers >= 1 and self.level_jitter >= 0
        if not (sizes and 0 <= self.nearly_silent <= 1):
            raise RequestError(
                f"seconds = {self.seconds}, max_speakers = {self.max_speakers}, level_jitter = {self.level_jitter}, "
                f"nearly_silent = {self.nearly_silent}; needed are seconds above 0, a speaker at least, no jitter "
                "below 0, a share from 0 to 1"
            )


@dataclass(frozen=True, eq=False)
class Stretches:
    """Pieces of an archive: recording, start and end (steps) and label (-1: nobody), int64 [n] each."""

    recording: np.ndarray
    start: np.ndarray
    end: np.ndarray
    label: np.ndarray


def runs(states: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut a sequence of states [t] into maximal constant runs: starts, ends (exclusive) and states, [r] each.

    >>> [part.tolist() for part in runs(np.array([3, 3, 5]))]
    [[0, 2], [2, 3], [3, 5]]
    """
    if len(states) == 0:
        nothing = np.empty(0, np.int64)
        return nothing, nothing, states
    cuts = np.flatnonzero(np.diff(states)) + 1
    starts = np.concatenate([[0], cuts])
    return starts, np.concatenate([cuts, [len(states)]]), states[starts]


def draw_activity(speakers: int, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Draw who speaks when, on a grid of 10 ms: bool [t, speakers].

    Turn lengths are log-normal (median 1.5 s), pauses between turns normal around 0.1 s, so that a third of the turns
    overlap, with now and then a longer silence; short remarks fall into the turns of others. The person who just
    stopped seldom goes on, and people differ in how much they talk. Deliberately wider than real meetings.

    >>> draw_activity(2, 10.0, np.random.default_rng(0)).shape
    (1000, 2)
    """
    steps = round(seconds / GRID_SECONDS)
    active = np.zeros((steps, speakers), bool)

    def length(median: float, spread: float, low: float, high: float) -> int:
        return int(np.clip(rng.lognormal(np.log(median), spread), low, high) / GRID_SECONDS)

    if speakers == 1:
        t = int(rng.integers(0, 100))
        while t < steps:
            turn = length(2.5, 1.0, 0.3, 15.0)
            active[t : t + turn] = True
            t += turn + 5 + int(rng.exponential(0.8) / GRID_SECONDS)
        return active
    talkative = rng.dirichlet(np.full(speakers, 2.0)) + 0.05
    heard: set[int] = set()
    speaker, t = int(rng.integers(speakers)), int(rng.integers(0, 60))
    while t < steps:
        heard.add(speaker)
        turn = length(1.5, 1.2, 0.25, 12.0)
        active[max(t, 0) : t + turn, speaker] = True
        for _ in range(rng.poisson(0.16 * turn * GRID_SECONDS)):
            other = int(rng.integers(speakers))
            if other != speaker:
                begin = max(t + int(rng.integers(0, turn)), 0)
                active[begin : begin + length(0.8, 1.1, 0.2, 8.0), other] = True
        gap = rng.normal(0.1, 0.7) if rng.random() < 0.85 else rng.exponential(1.5)
        t += turn + max(int(gap / GRID_SECONDS), 10 - turn)
        silent = [other for other in range(speakers) if other not in heard]
        if silent and rng.random() < 0.6:
            speaker = int(rng.choice(silent))
        else:
            chance = talkative * np.where(np.arange(speakers) == speaker, 0.15, 1.0)
            speaker = int(rng.choice(speakers, p=chance / chance.sum()))
    return active


def _moment(steps: int, rng: np.random.Generator) -> np.ndarray:
    """A stretch of half a second or so anywhere in a conversation, or nothing of it: bool [steps]."""
    grid = np.arange(steps) - int(rng.integers(steps))
    return (grid >= 0) & (grid * GRID_SECONDS < rng.exponential(0.7) - 0.2)


class Recomposer:
    """Makes conversations of known times from the stretches of an archive.

    `values[i]` is recording i: [t, f] features or [t] samples; `mix` says how voices add up; `hop_seconds` is one step.
    Raises WeigherError where no label has a stretch.
    """

    def __init__(
        self,
        values: Sequence[np.ndarray],
        stretches: Stretches,
        hop_seconds: float,
        mix: Mix,
        config: RecomposeConfig | None = None,
    ) -> None:
        self.values = values
        self.config = config or RecomposeConfig()
        self.mix = mix
        self.hop_seconds = hop_seconds
        order = np.argsort(stretches.label, kind="stable")
        self.recording, self.start, self.end = (
            part[order] for part in (stretches.recording, stretches.start, stretches.end)
        )
        starts, ends, labels = runs(stretches.label[order])
        self.group = {int(label): (a, b) for a, b, label in zip(starts, ends, labels, strict=True)}
        self.labels = np.array([label for label in self.group if label >= 0])
        if not len(self.labels):
            raise WeigherError(
                "no stretch was found where one person speaks alone; train longer, or on more recordings"
            )
        self.cumulated = np.concatenate([[0], np.cumsum(self.end - self.start)])
        self._floor = [silence_power(recording) for recording in values] if mix == "log-power" else []

    def conversation(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Make one: values [t, f] or [t], activity bool [t', k] (t' on the 10 ms grid or the features' own), labels."""
        config = self.config
        most = min(config.max_speakers, len(self.labels))
        people = rng.choice(self.labels, int(rng.integers(1, most + 1)), replace=False)
        active = draw_activity(len(people), config.seconds, rng)
        if rng.random() < config.nearly_silent:
            active &= _moment(len(active), rng)[:, None]
        count = int(config.seconds / self.hop_seconds + 1e-6)
        # the state at the middle of each step; the activity of steps finer than the grid stays on the grid
        middle = ((np.arange(count) + 0.5) * self.hop_seconds / GRID_SECONDS).astype(int).clip(max=len(active) - 1)
        if self.hop_seconds > GRID_SECONDS:
            active, middle = active[middle], np.arange(count)
        if self.mix == "replace":  # features that do not add up: whoever came last is heard
            order = np.arange(1, len(people) + 1) * active
            active = active & (order == order.max(1, keepdims=True))
        sound = self._background(len(middle), rng)
        for column, label in enumerate(people):
            self._add(sound, active[middle, column], int(label), rng)
        if self.mix == "log-power":
            sound = np.log(sound)
            sound -= sound.mean(0)
        return sound, active, people

    def _background(self, length: int, rng: np.random.Generator) -> np.ndarray:
        """Quiet stretches joined (zeros, or each feature's least, where the archive has none)."""
        shape = (length, *self.values[0].shape[1:])
        if -1 in self.group:
            sound = self._joined(-1, length, rng)
        elif self.mix == "waveform":
            sound = np.zeros(shape, np.float32)
        else:
            sound = np.broadcast_to(np.asarray(self.values[0], np.float32).min(0), shape).copy()
        return np.exp(sound + np.float32(rng.normal(0, 0.5))) if self.mix == "log-power" else sound

    def _add(self, sound: np.ndarray, where: np.ndarray, label: int, rng: np.random.Generator) -> None:
        """Add a person's turns, which go on where the last one stopped."""
        level = rng.normal(0, self.config.level_jitter)
        voice = self._joined(label, int(where.sum()), rng)
        if self.mix == "log-power":
            sound[where] += voice * np.exp(level)
        elif self.mix == "waveform":
            sound[where] += voice * np.exp(level / 2)
        else:
            sound[where] = voice

    def _joined(self, label: int, length: int, rng: np.random.Generator) -> np.ndarray:
        """Join stretches of a label, longer ones more often, to `length` steps: [length, f] or [length].

        A voice that is to be added comes as its power over the silence of its recording. With that silence left in,
        the sum of silences would tell how many speak, pauses between words included, and no recording is like that.
        """
        first, last = self.group[label]
        low, high = self.cumulated[first], self.cumulated[last]
        joined = np.empty((length, *self.values[0].shape[1:]), np.float32)
        done = 0
        while done < length:
            i = int(np.searchsorted(self.cumulated, rng.integers(low, high), side="right")) - 1
            piece = self.values[self.recording[i]][self.start[i] : min(self.end[i], self.start[i] + length - done)]
            if label >= 0 and self.mix == "log-power":
                piece = np.maximum(np.exp(np.asarray(piece, np.float32)) - self._floor[self.recording[i]], 0)
            joined[done : done + len(piece)] = piece
            done += len(piece)
        return joined

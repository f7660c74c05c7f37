"""Who speaks when in made-up conversations: laws of turn taking, and the statistics that compare them.

Two laws share one method, ``draw(speakers, seconds, rng) -> tuple of Segment`` with speakers named "0", "1", ...:

- `RecordedTurns` cuts windows out of real reference files, so turn lengths, pauses, overlaps and who follows whom are
  those of real talk; where no window holds the wanted number of people it falls back on a semi-Markov chain whose
  steps are drawn from the pooled real ones.
- `RandomWalkTurns` is the toy law: a random walk held inside [0, 1] picks the speaker; it has no pauses and no overlap.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np

from weigher.errors import RequestError
from weigher.io.rttm import Segment, read_rttm
from weigher.recordings.turn_chain import draw_chain, steps_of
from weigher.recordings.turn_statistics import TurnStatistics, pooled_statistics, statistics

__all__ = [
    "RandomWalkTurns",
    "RecordedTurns",
    "TurnLaw",
    "TurnStatistics",
    "merge_turns",
    "pooled_statistics",
    "statistics",
]

SHORTEST_TURN_SECONDS = 0.1  # a shorter piece holds no sound that a listener could give to anyone
_ROUNDING = 1e-6  # seconds: a sum that meets its bound exactly, as hundredths often do, must not miss it
_NO_WINDOWS = np.zeros(0, dtype=np.int64)
_TOO_MANY = "{speakers} speakers never all spoke within {seconds:g} s: ask for fewer speakers or more seconds."
GRID_SECONDS = 1.0  # windows start on this grid, which keeps the index of a hundred hours small


class TurnLaw(Protocol):
    """Anything that can draw a conversation's turns and say what such turns should look like."""

    def draw(self, speakers: int, seconds: float, rng: np.random.Generator) -> tuple[Segment, ...]:
        """Return segments inside [0, seconds] with exactly `speakers` people named "0" ... in order of start."""
        ...

    def examples(self, speakers: int, seconds: float, count: int) -> list[tuple[Segment, ...]]:
        """Return `count` windows of the source to compare draws with; none where it holds no such window."""
        ...


def merge_turns(segments: Sequence[Segment], gap_seconds: float = 0.2) -> list[Segment]:
    """Join segments of one speaker that overlap or lie closer than `gap_seconds`, and sort them by start.

    0.2 s is about the length of a stop consonant with its closure: a shorter pause is inside a word. In the AMI
    references 0.1 % of the pauses of one speaker are shorter, in VoxConverse 8 %. A segment listed twice becomes one.

    >>> merge_turns([Segment(1.0, 2.0, "a"), Segment(2.1, 3.0, "a"), Segment(3.5, 4.0, "a")])
    [Segment(start=1.0, end=3.0, speaker='a'), Segment(start=3.5, end=4.0, speaker='a')]
    """
    merged: list[Segment] = []
    for segment in sorted(segments, key=lambda s: (s.speaker, s.start)):
        last = merged[-1] if merged else None
        if last and last.speaker == segment.speaker and segment.start - last.end < gap_seconds:
            merged[-1] = Segment(last.start, max(last.end, segment.end), last.speaker)
        else:
            merged.append(segment)
    return sorted(merged, key=lambda s: (s.start, s.end))


class RecordedTurns:
    """Turns cut out of real recordings: `{recording: segments}`, as `weigher.io.rttm.read_rttm` returns them.

    Pauses of one speaker under `merge_gap_seconds` are closed (see `merge_turns`) and segments under 0.1 s dropped.
    A person counts as being in a window from `min_speech_seconds` of speech on; whoever says less is left out of it.

    >>> law = RecordedTurns({"talk": [Segment(0.0, 4.0, "ann"), Segment(4.5, 9.0, "bob")]})
    >>> [(s.start, s.end) for s in law.draw(2, 8.0, np.random.default_rng(0))]
    [(0.0, 3.0), (3.5, 8.0)]
    """

    def __init__(
        self,
        recordings: Mapping[str, Sequence[Segment]],
        *,
        merge_gap_seconds: float = 0.2,
        min_speech_seconds: float = 0.5,
    ):
        merged = {name: merge_turns(segments, merge_gap_seconds) for name, segments in sorted(recordings.items())}
        kept = [[s for s in segments if s.end - s.start >= SHORTEST_TURN_SECONDS] for segments in merged.values()]
        self.recordings = [segments for segments in kept if segments]
        if not self.recordings:
            raise RequestError("no speech in the turn timings: give RTTM files with at least one SPEAKER line.")
        self.merge_gap_seconds = merge_gap_seconds
        self.min_speech_seconds = min_speech_seconds
        self._starts = [np.array([s.start for s in segments]) for segments in self.recordings]
        self._ends = [np.array([s.end for s in segments]) for segments in self.recordings]
        self._speech = [_cumulated_speech(segments) for segments in self.recordings]
        self._steps = np.concatenate([steps_of(segments) for segments in self.recordings])
        self._windows = lru_cache(maxsize=64)(self._index)

    @classmethod
    def read(cls, folder: str | Path, *, merge_gap_seconds: float = 0.2, min_speech_seconds: float = 0.5):
        """Read every .rttm under `folder` (or one file); a recording listed in two files counts once.

        Raises `RequestError` where there is no RTTM file.
        """
        folder = Path(folder)
        paths = sorted(folder.rglob("*.rttm")) if folder.is_dir() else [folder] if folder.is_file() else []
        if not paths:
            raise RequestError(f"no RTTM file under {str(folder)!r}: give a folder that holds *.rttm files.")
        recordings: dict[str, list[Segment]] = {}
        for path in paths:
            for name, segments in read_rttm(path).items():
                recordings.setdefault(name, []).extend(segments)
        return cls(recordings, merge_gap_seconds=merge_gap_seconds, min_speech_seconds=min_speech_seconds)

    def statistics(self) -> TurnStatistics:
        """Return the statistics of the whole recordings, from each one's first to its last word."""
        return pooled_statistics(
            ([Segment(s.start - r[0].start, s.end - r[0].start, s.speaker) for s in r], max(e) - r[0].start)
            for r, e in zip(self.recordings, self._ends, strict=True)
        )

    def examples(self, speakers: int, seconds: float, count: int) -> list[tuple[Segment, ...]]:
        """Return `count` evenly spaced real windows with exactly `speakers` people, no window where there is none.

        They walk through the recordings in order, while `draw` picks by chance: the two can be compared.
        """
        windows = self._windows(seconds).get(speakers, _NO_WINDOWS)
        if not len(windows):
            return []
        places = np.linspace(0, len(windows) - 1, count).astype(int)
        return [tuple(self._cut(int(windows[place]), seconds)) for place in places]

    def draw(self, speakers: int, seconds: float, rng: np.random.Generator) -> tuple[Segment, ...]:
        """Return a real window of `seconds` with exactly `speakers` people, who are renamed at random.

        Without such a window the turns come from a semi-Markov chain over the pooled real steps. Raises `RequestError`
        where `speakers` people do not fit into `seconds`.
        """
        _check(speakers, seconds, self.min_speech_seconds)
        windows = self._windows(seconds).get(speakers, _NO_WINDOWS)
        if len(windows):
            return _rename(self._cut(int(windows[rng.integers(len(windows))]), seconds), rng)

        for attempt in range(400):
            turns = draw_chain(
                self._steps, speakers, seconds, pause_seconds=self.merge_gap_seconds, rng=rng, in_turn=attempt >= 100
            )
            turns = _clip(turns, 0.0, seconds, self.min_speech_seconds)
            if len({s.speaker for s in turns}) == speakers:
                return _rename(turns, rng)
        raise RequestError(_TOO_MANY.format(speakers=speakers, seconds=seconds))

    def _index(self, seconds: float) -> dict[int, np.ndarray]:
        """Window codes by number of speakers; code = recording * 2^32 + grid position of the start."""
        found: dict[int, list[np.ndarray]] = {}
        for recording, (speech, ends) in enumerate(zip(self._speech, self._ends, strict=True)):
            places = int((ends.max() - seconds) // GRID_SECONDS) + 1
            if places < 1:
                continue
            grid = np.arange(places) * GRID_SECONDS
            spoken = [np.interp(grid + seconds, *curve) - np.interp(grid, *curve) for curve in speech.values()]
            counts = (np.array(spoken) >= self.min_speech_seconds - _ROUNDING).sum(0)
            for count in np.unique(counts):
                found.setdefault(int(count), []).append((recording << 32) + np.flatnonzero(counts == count))
        return {count: np.concatenate(codes) for count, codes in found.items()}

    def _cut(self, code: int, seconds: float) -> list[Segment]:
        recording, start = code >> 32, (code & 0xFFFFFFFF) * GRID_SECONDS
        inside = np.flatnonzero((self._ends[recording] > start) & (self._starts[recording] < start + seconds))
        segments = [self.recordings[recording][i] for i in inside]
        return _clip(segments, start, seconds, self.min_speech_seconds)


class RandomWalkTurns:
    """Turns from a random walk x held inside [0, 1] by reflection: speaker floor(K x) has the word.

    x moves by a Gaussian step of standard deviation `spread_per_second` * sqrt(`hop_seconds`) every `hop_seconds`. The
    K equal sub-intervals are given out by chance. All K people get at least `min_speech_seconds`.

    >>> turns = RandomWalkTurns().draw(2, 20.0, np.random.default_rng(0))
    >>> turns[0].start, turns[-1].end, sorted({s.speaker for s in turns})
    (0.0, 20.0, ['0', '1'])
    """

    def __init__(
        self, *, spread_per_second: float = 0.1, hop_seconds: float = 0.25, min_speech_seconds: float = 0.5
    ) -> None:
        self.spread_per_second = spread_per_second
        self.hop_seconds = hop_seconds
        self.min_speech_seconds = min_speech_seconds

    def examples(self, speakers: int, seconds: float, count: int) -> list[tuple[Segment, ...]]:
        """Return `count` walks drawn apart from any others."""
        rng = np.random.default_rng(2024)
        return [self.draw(speakers, seconds, rng) for _ in range(count)]

    def draw(self, speakers: int, seconds: float, rng: np.random.Generator) -> tuple[Segment, ...]:
        """Return the turns of one walk; raises `RequestError` where `speakers` people do not fit into `seconds`."""
        _check(speakers, seconds, self.min_speech_seconds)
        steps = int(np.ceil(seconds / self.hop_seconds))
        needed = self.min_speech_seconds / self.hop_seconds
        for _ in range(100):  # 64 walks at a time; the first in which everyone speaks is taken
            moves = rng.normal(0.0, self.spread_per_second * self.hop_seconds**0.5, (64, steps))
            moves[:, 0] = rng.uniform(size=64)
            folded = np.abs((np.cumsum(moves, 1) + 1) % 2 - 1)  # reflection at 0 and 1 is a triangle wave
            holder = np.minimum((folded * speakers).astype(int), speakers - 1)
            least = np.stack([(holder == k).sum(1) for k in range(speakers)]).min(0)
            if (least >= needed).any():
                return _rename(self._turns(holder[np.argmax(least >= needed)], seconds), rng)
        raise RequestError(_TOO_MANY.format(speakers=speakers, seconds=seconds))

    def _turns(self, holder: np.ndarray, seconds: float) -> list[Segment]:
        edges = np.concatenate([[0], np.flatnonzero(np.diff(holder)) + 1, [len(holder)]])
        times = np.minimum(edges * self.hop_seconds, seconds)
        return [Segment(float(times[i]), float(times[i + 1]), str(holder[edges[i]])) for i in range(len(edges) - 1)]


def _check(speakers: int, seconds: float, min_speech_seconds: float) -> None:
    if speakers < 1 or seconds < speakers * min_speech_seconds:
        need = f"at least one speaker and {min_speech_seconds:g} s for each"
        raise RequestError(f"{speakers} speakers in {seconds:g} s: a conversation needs {need}.")


def _rename(segments: Sequence[Segment], rng: np.random.Generator) -> tuple[Segment, ...]:
    names = sorted({s.speaker for s in segments})
    new = dict(zip(names, (str(k) for k in rng.permutation(len(names))), strict=True))
    return tuple(Segment(s.start, s.end, new[s.speaker]) for s in segments)


def _clip(segments: Iterable[Segment], start: float, seconds: float, min_speech_seconds: float) -> list[Segment]:
    """Segments inside the window, counted from its start, of those people who say enough in it."""
    cut = [Segment(max(s.start - start, 0.0), min(s.end - start, seconds), s.speaker) for s in segments]
    spoken: dict[str, float] = {}
    for s in cut:
        spoken[s.speaker] = spoken.get(s.speaker, 0.0) + s.end - s.start
    heard = {speaker for speaker, total in spoken.items() if total >= min_speech_seconds - _ROUNDING}
    kept = [s for s in cut if s.speaker in heard and s.end - s.start >= SHORTEST_TURN_SECONDS]
    return sorted(kept, key=lambda s: (s.start, s.end))


def _cumulated_speech(segments: Sequence[Segment]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Per speaker (times, seconds spoken until then): piecewise linear, so any window costs two interpolations."""
    curves = {}
    for speaker in sorted({s.speaker for s in segments}):
        borders = np.array([(s.start, s.end) for s in segments if s.speaker == speaker])
        spoken = np.cumsum(borders[:, 1] - borders[:, 0])
        curves[speaker] = (borders.ravel(), np.column_stack([np.append(0.0, spoken[:-1]), spoken]).ravel())
    return curves

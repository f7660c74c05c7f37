"""Tracks and confidences of slots -> who is there, and turns in seconds. Turns of different speakers may overlap.

1. Slots are kept by confidence: from a threshold on, or exactly / at least / at most so many (`choose_slots`).
2. A kept slot speaks from the frame where its track reaches `onset` until the frame where it falls below `offset`.
   Two thresholds (hysteresis) keep a track that trembles about one of them from being cut to pieces.
3. Gaps of one speaker shorter than `min_gap_seconds` are filled, then turns shorter than `min_speech_seconds` dropped.

Frame t covers [t * hop, (t + 1) * hop) seconds. No step loops over frames: four hours take well under a second.
Source: J. Canny, "A Computational Approach to Edge Detection", 1986, for hysteresis; the rest is the field's habit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from weigher.errors import RequestError
from weigher.io.rttm import Segment

_MICROSECOND = 1e-6  # what files can tell apart; a length that meets its bound exactly must not miss it by rounding
_MICROSECOND_DIGITS = 6


def _check_threshold(threshold: float) -> None:
    if not 0 <= threshold <= 1:
        raise RequestError(f"the threshold of confidence is {threshold}; needed is a number from 0 to 1")


def _check_seconds(name: str, seconds: float) -> None:
    if not 0 <= seconds < math.inf:
        raise RequestError(f"{name} is {seconds}; needed is a number of seconds, 0 or more")


@dataclass(frozen=True, slots=True)
class DecodeConfig:
    """How tracks become turns; raises RequestError for values that make no sense together."""

    onset: float = 0.4
    """Speech starts where the track reaches this value, in (0, 1]: below one half, for where two people are equally
    likely, giving the frame to the wrong one costs no more than giving it to nobody."""
    offset: float = 0.3
    """Speech ends where the track falls below this value, in (0, onset]."""
    min_speech_seconds: float = 0.1
    """Shorter turns are dropped: no listener could give them to anyone."""
    min_gap_seconds: float = 0.2
    """Shorter gaps are filled: about the length of a stop consonant with its closure."""
    threshold: float = 0.4
    """A slot is a speaker from this confidence on, in [0, 1]."""

    def __post_init__(self):
        if not 0 < self.offset <= self.onset <= 1:
            raise RequestError(
                f"onset is {self.onset} and offset {self.offset}; needed is 0 < offset <= onset <= 1: speech starts at "
                "the higher and ends below the lower"
            )
        for name in ("min_speech_seconds", "min_gap_seconds"):
            _check_seconds(name, getattr(self, name))
        _check_threshold(self.threshold)


_DEFAULT = DecodeConfig()


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """Turns in order of start, and the slot behind each speaker: speaker k + 1 is slot `slots[k]`, int64 `[k]`.

    Speakers are numbered by first appearance; those without any turn come last, most confident first.
    """

    segments: tuple[Segment, ...]
    slots: np.ndarray

    @property
    def speakers(self) -> tuple[str, ...]:
        """The names of the speakers: "speaker1", "speaker2", ..."""
        return tuple(f"speaker{number}" for number in range(1, len(self.slots) + 1))


def choose_slots(
    confidence: np.ndarray,
    *,
    min_speakers: int | None = None,
    max_speakers: int | None = None,
    num_speakers: int | None = None,
    threshold: float = 0.4,
) -> np.ndarray:
    """Return the slots that are speakers, most confident first (int64 `[k]`; of equals the first slot comes first).

    Kept is every slot with `confidence >= threshold`, then the number is raised to `min_speakers` or cut to
    `max_speakers`; `num_speakers` keeps exactly so many whatever their confidence.

    Shapes: confidence `[n]`, in [0, 1].
    Raises: RequestError where more speakers are asked for than there are slots, where the bounds contradict each
    other, and for a confidence that is not finite.

    >>> confidence = np.array([0.1, 0.9, 0.6, 0.3])
    >>> choose_slots(confidence).tolist()
    [1, 2]
    >>> choose_slots(confidence, min_speakers=3).tolist(), choose_slots(confidence, max_speakers=1).tolist()
    ([1, 2, 3], [1])
    """
    confidence = np.asarray(confidence)
    if confidence.ndim != 1 or not np.isfinite(confidence).all():
        raise RequestError(f"confidence of shape {confidence.shape} is given; needed are finite numbers, one per slot")
    _check_threshold(threshold)
    _check_bounds(len(confidence), min_speakers, max_speakers, num_speakers)
    if num_speakers is not None:
        count = num_speakers
    else:
        count = max(int((confidence >= threshold).sum()), min_speakers or 0)
        count = count if max_speakers is None else min(count, max_speakers)
    return np.argsort(-confidence, kind="stable")[:count]


def hysteresis(tracks: np.ndarray, onset: float, offset: float) -> np.ndarray:
    """Return where each track is on: from `track >= onset` until `track < offset`; between the two it stays as it was.

    Shapes: tracks `[t, k]` -> bool `[t, k]`; needed is offset <= onset. Before the first onset a track is off.

    >>> hysteresis(np.array([[0.4], [0.6], [0.4], [0.2], [0.4]]), onset=0.5, offset=0.3)[:, 0].tolist()
    [False, True, True, False, False]
    """
    up = tracks >= onset
    decisive = np.where(up | (tracks < offset), np.arange(len(tracks))[:, None], -1)
    latest = np.maximum.accumulate(decisive, axis=0)
    return (latest >= 0) & np.take_along_axis(up, np.maximum(latest, 0), axis=0)


def decode(
    tracks: np.ndarray,
    confidence: np.ndarray,
    hop_seconds: float,
    *,
    duration_seconds: float | None = None,
    min_speakers: int | None = None,
    max_speakers: int | None = None,
    num_speakers: int | None = None,
    config: DecodeConfig = _DEFAULT,
) -> tuple[Segment, ...]:
    """Return the turns alone, as `decode_slots` finds them, for callers to whom the slots behind the names are one.

    >>> decode(np.array([[0.1, 0.9], [0.1, 0.9], [0.8, 0.9], [0.8, 0.1]]), np.array([0.8, 0.9]), 0.5)
    (Segment(start=0.0, end=1.5, speaker='speaker1'), Segment(start=1.0, end=2.0, speaker='speaker2'))
    """
    return decode_slots(
        tracks,
        confidence,
        hop_seconds,
        duration_seconds=duration_seconds,
        min_speakers=min_speakers,
        max_speakers=max_speakers,
        num_speakers=num_speakers,
        config=config,
    ).segments


def decode_slots(
    tracks: np.ndarray,
    confidence: np.ndarray,
    hop_seconds: float,
    *,
    duration_seconds: float | None = None,
    min_speakers: int | None = None,
    max_speakers: int | None = None,
    num_speakers: int | None = None,
    config: DecodeConfig = _DEFAULT,
) -> Decoded:
    """Return turns with speakers "speaker1", "speaker2", ... by first appearance, and the slot behind each of them.

    Turns end at `duration_seconds` at the latest (the tracks' own length where it is None). Speakers whom
    `min_speakers` or `num_speakers` insists on speak at least once, unless their track is zero throughout: where too
    few have a turn, the most confident silent ones are decoded with the peak of their own track taken as 1, and keep
    their longest turn where all are shorter than `min_speech_seconds`.

    Shapes: tracks `[t, n]` in [0, 1], confidence `[n]` in [0, 1].
    Raises: RequestError as `choose_slots` does, for shapes that do not fit, tracks that are not finite, a hop that is
    not above 0, and a duration that is negative or not finite.

    >>> quiet = np.array([[0.9, 0.1], [0.9, 0.3], [0.9, 0.3]])
    >>> decode_slots(quiet, np.array([0.9, 0.2]), 1.0, num_speakers=2).segments[1]
    Segment(start=1.0, end=3.0, speaker='speaker2')
    """
    tracks, confidence = np.asarray(tracks), np.asarray(confidence)
    if tracks.ndim != 2 or confidence.shape != tracks.shape[1:]:
        raise RequestError(
            f"tracks of shape {tracks.shape} and confidence of shape {confidence.shape} are given; needed are "
            "[frames, slots] and [slots]"
        )
    if not 0 < hop_seconds < math.inf:
        raise RequestError(f"hop_seconds is {hop_seconds}; needed is a number above 0")
    end = len(tracks) * hop_seconds if duration_seconds is None else duration_seconds
    _check_seconds("duration_seconds", end)
    kept = choose_slots(
        confidence,
        min_speakers=min_speakers,
        max_speakers=max_speakers,
        num_speakers=num_speakers,
        threshold=config.threshold,
    )
    frames = max(0, math.ceil((end - _MICROSECOND) / hop_seconds))  # those that begin before the recording ends
    columns = [tracks[:frames, slot] for slot in kept]  # views: all tracks of a long recording fill much memory
    if not all(np.isfinite(column).all() for column in columns):
        raise RequestError("a track holds NaN or infinity; needed are weights in [0, 1]: the model is broken")
    find = partial(_turns, hop_seconds=hop_seconds, end=end)
    least = (min_speakers or 0) if num_speakers is None else num_speakers
    who, starts, ends = _insist(find(columns, config=config), least, columns, find, config)
    starts = np.round(starts, _MICROSECOND_DIGITS)
    ends = np.minimum(np.round(ends, _MICROSECOND_DIGITS), end)
    first = np.full(len(kept), np.inf)
    np.minimum.at(first, who, starts)
    order = np.argsort(first, kind="stable")  # the more confident slot comes first where two start together
    number = np.argsort(order)[who]
    segments = tuple(
        Segment(float(starts[i]), float(ends[i]), f"speaker{number[i] + 1}") for i in np.lexsort((number, ends, starts))
    )
    return Decoded(segments, kept[order])


_Turns = tuple[np.ndarray, np.ndarray, np.ndarray]  # who (column of the tracks), starts and ends in seconds


def _turns(columns: Sequence[np.ndarray], *, hop_seconds: float, end: float, config: DecodeConfig) -> _Turns:
    # one track at a time: the indices of hysteresis take many times the memory of the track
    edges = [np.flatnonzero(np.diff(_on(track, config), prepend=False, append=False)) for track in columns]
    who = np.repeat(np.arange(len(edges)), [len(each) // 2 for each in edges])  # off to on and back, in turn
    joined = np.concatenate([*edges, np.empty(0, np.intp)])
    starts, ends = joined[::2] * hop_seconds, np.minimum(joined[1::2] * hop_seconds, end)
    apart = np.ones(len(who), dtype=bool)
    apart[1:] = (who[1:] != who[:-1]) | (starts[1:] - ends[:-1] >= config.min_gap_seconds - _MICROSECOND)
    who, starts, ends = who[apart], starts[apart], ends[np.roll(apart, -1)]
    enough = ends - starts >= config.min_speech_seconds - _MICROSECOND
    return who[enough], starts[enough], ends[enough]


def _on(track: np.ndarray, config: DecodeConfig) -> np.ndarray:
    return hysteresis(_wide(track)[:, None], config.onset, config.offset)[:, 0]


def _wide(track: np.ndarray) -> np.ndarray:
    """Half precision as single: numpy would round the thresholds to it."""
    return track.astype(np.float32) if track.dtype == np.float16 else track


def _insist(
    turns: _Turns, least: int, columns: Sequence[np.ndarray], find: Callable[..., _Turns], config: DecodeConfig
) -> _Turns:
    """Add turns of silent speakers, who come most confident first in `columns`, until `least` speakers have one."""
    who, starts, ends = turns
    missing = max(0, least - np.unique(who).size)
    peaks = np.array([_wide(track).max(initial=0) for track in columns])
    silent = np.setdiff1d(np.flatnonzero(peaks > 0), who)
    for column in silent[:missing]:
        scaled = [_wide(columns[column]) / peaks[column]]
        _, opens, closes = find(scaled, config=config)
        if not opens.size:
            _, opens, closes = find(scaled, config=replace(config, min_speech_seconds=0.0))
            longest = [np.argmax(closes - opens)]
            opens, closes = opens[longest], closes[longest]
        who = np.append(who, np.full(len(opens), column))
        starts, ends = np.append(starts, opens), np.append(ends, closes)
    return who, starts, ends


def _check_bounds(slots: int, least: int | None, most: int | None, exactly: int | None) -> None:
    bounds = {"min_speakers": least, "max_speakers": most, "num_speakers": exactly}
    given = {name: value for name, value in bounds.items() if value is not None}
    for name, value in given.items():
        if value < 0:
            raise RequestError(f"{name} is {value}; needed is 0 or more")
        if value > slots and name != "max_speakers":
            raise RequestError(
                f"{name} is {value}, but there are {slots} slots to choose from, one for each speaker; ask for fewer "
                "speakers, or train a model with more slots"
            )
    values = [given[name] for name in ("min_speakers", "num_speakers", "max_speakers") if name in given]
    if values != sorted(values):
        said = " and ".join(f"{name} is {value}" for name, value in given.items())
        raise RequestError(f"{said}; these contradict each other: min <= num <= max is needed")

"""Numbers that describe how people take turns, to compare made-up conversations with the talk they imitate."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from weigher.errors import RequestError
from weigher.io.rttm import Segment


@dataclass(frozen=True, slots=True)
class TurnStatistics:
    """How people take turns, pooled over windows.

    `switches_per_minute` counts turns whose predecessor (by start) belongs to someone else; `gap_mean_seconds` is the
    mean silence between two turns; `overlap_fraction` is time with two or more voices over time with any voice;
    `silence_fraction` is time without a voice over all time; `speakers` is the mean number per window.
    """

    minutes: float
    speakers: float
    switches_per_minute: float
    turn_mean_seconds: float
    turn_median_seconds: float
    gap_mean_seconds: float
    overlap_fraction: float
    silence_fraction: float


def statistics(segments: Sequence[Segment], seconds: float | None = None) -> TurnStatistics:
    """Return the turn statistics of one recording (`seconds`: its length; default: first start to last end).

    >>> talk = [Segment(0.0, 4.0, "ann"), Segment(3.0, 6.0, "bob"), Segment(8.0, 10.0, "ann")]
    >>> s = statistics(talk, seconds=10.0)
    >>> s.switches_per_minute, s.gap_mean_seconds, s.silence_fraction, s.overlap_fraction
    (12.0, 2.0, 0.2, 0.125)
    """
    if seconds is None:
        if not segments:
            raise RequestError("statistics of no segments at all: give the length of the recording as `seconds`.")
        first = min(s.start for s in segments)
        segments = [Segment(s.start - first, s.end - first, s.speaker) for s in segments]
        seconds = max(s.end for s in segments)
    return pooled_statistics([(segments, seconds)])


def pooled_statistics(windows: Iterable[tuple[Sequence[Segment], float]]) -> TurnStatistics:
    """Return the statistics over many windows `(segments, seconds)`, each second counting once."""
    total = silent = overlapped = 0.0
    switches = speakers = count = 0
    turns: list[float] = []
    gaps: list[float] = []
    for segments, seconds in windows:
        order = sorted(segments, key=lambda s: (s.start, s.end))
        count, total = count + 1, total + seconds
        speakers += len({s.speaker for s in order})
        switches += sum(a.speaker != b.speaker for a, b in pairwise(order))
        turns += [s.end - s.start for s in order]
        # voices heard at once, as a step function over the sorted borders
        borders = np.array([s.start for s in order] + [s.end for s in order])
        at = np.argsort(borders, kind="stable")
        voices = np.cumsum(np.repeat([1, -1], len(order))[at])[:-1]
        lengths = np.diff(borders[at])
        overlapped += float(lengths[voices >= 2].sum())
        silent += seconds - float(lengths[voices >= 1].sum())
        gaps += lengths[(voices == 0) & (lengths > 1e-9)].tolist()
    if not count:
        raise RequestError("statistics need at least one window.")
    voiced = total - silent
    return TurnStatistics(
        minutes=total / 60,
        speakers=speakers / count,
        switches_per_minute=switches / (total / 60),
        turn_mean_seconds=float(np.mean(turns)) if turns else 0.0,
        turn_median_seconds=float(np.median(turns)) if turns else 0.0,
        gap_mean_seconds=float(np.mean(gaps)) if gaps else 0.0,
        overlap_fraction=overlapped / voiced if voiced else 0.0,
        silence_fraction=silent / total,
    )

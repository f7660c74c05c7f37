"""How far a diarization is from the truth: diarization error, Jaccard error and speaker count accuracy.

Time is cut at every boundary into elementary intervals within which nothing changes. With d the length of interval i
in seconds, r and h the numbers of reference and hypothesis speakers in it (overlap is scored), and M the one-to-one
mapping of speakers that shares the most time,

    total T = sum d r,  miss = sum d max(r - h, 0),  false alarm = sum d max(h - r, 0),
    confusion = sum d min(r, h) - sum over pairs of M of shared time,
    DER = (miss + false alarm + confusion) / T,
    JER = mean over reference speakers of 1 - shared / (time of either), 1 where nobody is mapped to the speaker.

Over several files, seconds are added before they are divided, and JER is the mean over the speakers of all files, as in
DIHARD. All rates are in per cent. A speaker speaks or does not: turns of one speaker that overlap count once.

Where nobody speaks in the reference, T is 0 and the rates are set, not NaN: 0 when the hypothesis is silent too, else
100 (all of it false alarm, as in pyannote.metrics). Such a file adds its false alarms to the pooled figures.

**The collar is the seconds left out on each side of every boundary of a reference turn**, as in NIST's md-eval and
dscore. `collar` of pyannote.metrics is the whole width: twice ours.

Sources: NIST RT-09 evaluation plan (DER); Ryant et al., "Second DIHARD Challenge Evaluation Plan", 2019 (JER), in the
reading of pyannote.metrics, which maps speakers once, by shared time, for both rates.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array

from weigher.errors import RequestError
from weigher.io.rttm import Segment

_SHORTEST_SECONDS = 0.5e-6  # half of what files can tell apart; shorter intervals come from rounding alone
_TIE_SECONDS = 1e-7  # how much shared time a perfect Jaccard index may outweigh when speakers are mapped


@dataclass(frozen=True, slots=True)
class FileScore:
    """The score of one recording: rates in per cent, speakers counted within the UEM but without regard to the collar.

    `reference_seconds` is the scored speaker time T; `missing` says that the hypothesis did not name the recording.
    """

    file: str
    der: float
    miss: float
    false_alarm: float
    confusion: float
    jer: float
    reference_speakers: int
    hypothesis_speakers: int
    reference_seconds: float
    missing: bool


@dataclass(frozen=True, slots=True)
class Score:
    """The score over all recordings, and of each: rates in per cent.

    `der` = `miss` + `false_alarm` + `confusion`; `count_accuracy` is the share of recordings whose number of speakers
    is right; `collar` is in seconds on each side of a boundary; `notes` says what was missing or left out.
    """

    der: float
    miss: float
    false_alarm: float
    confusion: float
    jer: float
    count_accuracy: float
    files: tuple[FileScore, ...]
    collar: float
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the score as plain numbers, strings and lists, ready for JSON; the notes are not in it."""
        plain = asdict(self)
        del plain["notes"]
        return plain | {"files": [asdict(file) for file in self.files]}


def score(
    reference: Mapping[str, Sequence[Segment]],
    hypothesis: Mapping[str, Sequence[Segment]],
    *,
    uem: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    collar: float = 0.0,
) -> Score:
    """Score a hypothesis against a reference, both `{recording: turns}` with times in seconds.

    Scored is every recording of `reference`; one that `hypothesis` does not name is all missed. `uem` gives the parts
    (start, end) to score: all other time is left out, and so are recordings it does not name. `collar` is in seconds on
    each side of every reference boundary. Recordings of the hypothesis alone are left out; `notes` tells of all these.

    Raises RequestError when there is nothing to score, when reference and hypothesis name no recording alike, for a
    negative collar, and for times that are not finite or end before they start.

    >>> truth = {"talk": [Segment(0, 6, "Anna"), Segment(6, 10, "Bo")]}
    >>> guess = {"talk": [Segment(0, 5, "1"), Segment(5, 8, "2")]}
    >>> result = score(truth, guess)
    >>> result.der, result.miss, result.false_alarm, result.confusion, result.count_accuracy
    (30.0, 20.0, 0.0, 10.0, 100.0)
    >>> round(result.jer, 2)  # Anna 1 - 5/6, Bo 1 - 2/5
    38.33
    >>> score(truth, guess, uem={"talk": [(0, 9)]}, collar=0.5).der  # 1.5 s wrong of 7.5 s scored
    20.0
    """
    if not 0 <= collar < math.inf:
        raise RequestError(f"the collar is {collar} s; it needs to be a number of seconds, 0 or more")
    files = [file for file in reference if uem is None or file in uem]
    _check_names(reference, hypothesis, files)
    tallies = [
        _tally(file, reference[file], hypothesis.get(file, ()), None if uem is None else uem[file], collar)
        for file in files
    ]
    total = sum(tallies[1:], start=tallies[0])
    right = sum(tally.reference_speakers == tally.hypothesis_speakers for tally in tallies)
    return Score(
        **total.rates(),
        count_accuracy=100.0 * right / len(files),
        files=tuple(
            FileScore(
                file=file,
                **tally.rates(),
                reference_speakers=tally.reference_speakers,
                hypothesis_speakers=tally.hypothesis_speakers,
                reference_seconds=tally.total,
                missing=file not in hypothesis,
            )
            for file, tally in zip(files, tallies, strict=True)
        ),
        collar=collar,
        notes=_notes(reference, hypothesis, files),
    )


@dataclass(frozen=True, slots=True)
class _Tally:
    """What is added over files: speaker time in seconds, errors and numbers of speakers."""

    total: float
    miss: float
    false_alarm: float
    confusion: float
    jaccard_errors: float  # sum over reference speakers of 1 - Jaccard index
    jaccard_speakers: int  # reference speakers with time left after the collar
    reference_speakers: int
    hypothesis_speakers: int

    def __add__(self, other: _Tally) -> _Tally:
        return _Tally(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))

    def rates(self) -> dict[str, float]:
        wrong = self.miss + self.false_alarm + self.confusion
        scale = 100.0 / (self.total or wrong or 1.0)
        silent_rate = 100.0 if self.false_alarm else 0.0
        return {
            "der": scale * wrong,
            "miss": scale * self.miss,
            "false_alarm": scale * self.false_alarm,
            "confusion": scale * self.confusion,
            "jer": 100.0 * self.jaccard_errors / self.jaccard_speakers if self.jaccard_speakers else silent_rate,
        }


@dataclass(frozen=True, slots=True)
class _Turns:
    """Turns as arrays: starts and ends [k] in seconds, speaker index [k], number of speakers."""

    starts: np.ndarray
    ends: np.ndarray
    who: np.ndarray
    speakers: int


def _tally(
    file: str,
    reference: Sequence[Segment],
    hypothesis: Sequence[Segment],
    regions: Sequence[tuple[float, float]] | None,
    collar: float,
) -> _Tally:
    """Return the sums of one recording."""
    ref, hyp = _turns(file, reference), _turns(file, hypothesis)
    bounds = np.concatenate([ref.starts, ref.ends])
    near = np.stack([bounds - collar, bounds + collar])
    inside = _times(file, regions or [])
    edges = np.unique(np.concatenate([bounds, hyp.starts, hyp.ends, near.ravel(), inside.ravel()]))
    length = np.where(np.diff(edges) < _SHORTEST_SECONDS, 0.0, np.diff(edges))
    in_uem = length if regions is None else length * (_cover(edges, inside[:, 0], inside[:, 1]) > 0)
    scored = in_uem * (_cover(edges, *near) == 0)

    spoken, claimed = _activity(edges, ref), _activity(edges, hyp)  # [speakers, intervals], 0 or 1
    r, h = spoken.sum(axis=0), claimed.sum(axis=0)
    ref_seconds, hyp_seconds = spoken @ scored, claimed @ scored
    shared = (spoken.multiply(scored[None]).tocsr() @ claimed.T).toarray()
    either = ref_seconds[:, None] + hyp_seconds[None] - shared
    jaccard = np.divide(shared, either, out=np.zeros_like(shared), where=either > 0)
    # Among mappings that share the same time the better Jaccard index wins, so that names and order never matter.
    pairs = linear_sum_assignment(shared + _TIE_SECONDS * jaccard, maximize=True)
    present = int((ref_seconds > 0).sum())
    return _Tally(
        total=float(scored @ r),
        miss=float(scored @ np.maximum(r - h, 0)),
        false_alarm=float(scored @ np.maximum(h - r, 0)),
        # Rounding can leave the difference of the two sums a hair below zero.
        confusion=max(0.0, float(scored @ np.minimum(r, h) - shared[pairs].sum())),
        jaccard_errors=present - float(jaccard[pairs].sum()),
        jaccard_speakers=present,
        reference_speakers=int((spoken @ in_uem > 0).sum()),
        hypothesis_speakers=int((claimed @ in_uem > 0).sum()),
    )


def _turns(file: str, segments: Sequence[Segment]) -> _Turns:
    times = _times(file, [(turn.start, turn.end) for turn in segments])
    names, who = np.unique(np.array([turn.speaker for turn in segments], dtype=object), return_inverse=True)
    some = times[:, 1] > times[:, 0]
    return _Turns(times[some, 0], times[some, 1], who[some], len(names))


def _times(file: str, pairs: Sequence[tuple[float, float]]) -> np.ndarray:
    """Return (start, end) pairs as [k, 2]; RequestError names the first bad one."""
    times = np.array(pairs, dtype=float).reshape(-1, 2)
    bad = ~(np.isfinite(times).all(axis=1) & (times[:, 1] >= times[:, 0]))
    if bad.any():
        start, end = times[bad][0]
        raise RequestError(f"a turn or region of {file!r} runs from {start} s to {end} s; it must end after it starts")
    return times


def _cover(edges: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return how many of the spans lie over each interval between edges, [intervals]."""
    steps = np.bincount(np.searchsorted(edges, starts), minlength=edges.size)
    steps -= np.bincount(np.searchsorted(edges, ends), minlength=edges.size)
    return np.cumsum(steps)[:-1]


def _activity(edges: np.ndarray, turns: _Turns) -> csr_array:
    """Return 1 where a speaker speaks, [speakers, intervals]; sparse, so that thousands of speakers fit."""
    first, last = np.searchsorted(edges, turns.starts), np.searchsorted(edges, turns.ends)
    counts = last - first
    columns = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)
    shape = (turns.speakers, max(edges.size - 1, 0))
    active = csr_array((np.ones(columns.size), (np.repeat(turns.who, counts), columns)), shape=shape)
    active.data[:] = 1.0  # the constructor has added turns of one speaker that overlap
    return active


def _check_names(
    reference: Mapping[str, object], hypothesis: Mapping[str, Sequence[Segment]], files: list[str]
) -> None:
    if not files:
        what = "the UEM names no recording of the reference" if reference else "the reference holds no recording"
        raise RequestError(f"there is nothing to score: {what}")
    speaking = [file for file, turns in hypothesis.items() if turns]
    if speaking and not any(file in hypothesis for file in reference):
        raise RequestError(
            f"no recording of the hypothesis ({_listed(speaking)}) is in the reference ({_listed(reference)}); "
            "give both the same names"
        )


def _notes(reference: Mapping[str, object], hypothesis: Mapping[str, object], files: list[str]) -> tuple[str, ...]:
    groups = {
        "not in the hypothesis, all of their speech counts as missed": [
            file for file in files if file not in hypothesis
        ],
        "not in the reference, left out": [file for file in hypothesis if file not in reference],
        "not in the UEM, left out": [file for file in reference if file not in set(files)],
    }
    return tuple(f"{what}: {_listed(found)}" for what, found in groups.items() if found)


def _listed(names: Iterable[str], most: int = 5) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more

"""Laws by which the word changes hands, how they are drawn, and how one is fitted to real talk.

*Who has the word* is told of every moment, for the simplest laws know neither pauses nor overlaps: whoever began to
speak first keeps the word until that turn ends, and through the pause after it until somebody else begins. A dwell time
is how long one person keeps it, on a grid of 0.1 s; the first and the last of a recording are cut off by its ends and
left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from weigher.io.rttm import Segment

FRAMES, FLIPS, WALK = "independent frames", "flips at a fitted rate", "bounded walk"
SEMI_MARKOV, CHAIN = "semi-Markov, log-normal", "semi-Markov, recorded turns"
HOP_SECONDS = 0.1


@dataclass(frozen=True)
class Law:
    """Draws when the word is taken in a talk: `draw(parameters, speakers, seconds, rng)`, rising, first at 0 s.

    `names` are those of the parameters, and `candidates` what is tried where they are fitted.
    """

    draw: Callable[[tuple[float, ...], int, float, np.random.Generator], np.ndarray]
    names: tuple[str, ...] = ()
    candidates: tuple[tuple[float, ...], ...] = ((),)


def changes(segments: Iterable[Segment]) -> np.ndarray:
    """Return when the word changes hands, float64 seconds, rising; the first is when the first one takes it.

    >>> talk = [Segment(0.0, 4.0, "ann"), Segment(1.0, 2.0, "bob"), Segment(3.5, 6.0, "bob"), Segment(7.0, 8.0, "bob")]
    >>> changes([*talk, Segment(9.0, 9.5, "ann")]).tolist()
    [0.0, 4.0, 9.0]
    """
    times: list[float] = []
    holder, until = None, -np.inf
    for segment in sorted(segments, key=lambda s: (s.start, s.end)):
        if segment.end > until:
            if segment.speaker != holder:
                times.append(max(segment.start, until))
                holder = segment.speaker
            until = segment.end
    return np.array(times)


def dwell_times(times: np.ndarray) -> np.ndarray:
    """Return how long the word was kept between changes at `times`, in seconds on the grid of 0.1 s, ends left out.

    >>> dwell_times(np.array([0.0, 4.0, 9.04, 9.06])).round(2).tolist()
    [5.0, 0.1]
    """
    return HOP_SECONDS * np.diff(np.unique(np.round(times[1:] / HOP_SECONDS)))


def draw_flips(parameters: tuple[float, ...], speakers: int, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Flip with one chance in every frame; without a parameter, each frame's speaker is drawn on its own."""
    chance = parameters[0] * HOP_SECONDS if parameters else 1 - 1 / speakers
    flips = rng.random(round(seconds / HOP_SECONDS)) < chance
    flips[:1] = True
    return HOP_SECONDS * np.flatnonzero(flips)


def draw_walk(parameters: tuple[float, ...], speakers: int, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """A random walk held inside [0, 1] picks the speaker, as in the simulator, where all need not speak."""
    from weigher.recordings.turns import RandomWalkTurns

    law = RandomWalkTurns(spread_per_second=parameters[0], hop_seconds=HOP_SECONDS, min_speech_seconds=0.0)
    return changes(law.draw(speakers, seconds, rng))


def draw_dwells(parameters: tuple[float, ...], speakers: int, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Dwell times are log-normal: exp of a Gaussian, given the median in seconds and the spread of the logarithm."""
    median, spread = parameters
    most = 2 + int(4 * seconds / median)  # enough: as a rule one in two is longer than the median
    times = np.cumsum(median * np.exp(spread * rng.standard_normal(most)))
    return np.append(0.0, times[times < seconds])


def laws(real: Sequence[Sequence[Segment]]) -> dict[str, Law]:
    """Return the laws by name; the last one's steps are those of the recordings it is fitted on."""
    from weigher.recordings.turn_chain import draw_chain, steps_of

    steps = np.concatenate([steps_of(segments) for segments in real])

    def chained(parameters: tuple[float, ...], speakers: int, seconds: float, rng: np.random.Generator) -> np.ndarray:
        turns = draw_chain(steps, speakers, seconds, pause_seconds=0.2, rng=rng, in_turn=False)
        times = changes(turns)
        return np.append(0.0, times[(times > 0) & (times < seconds)])

    rates = tuple((float(rate),) for rate in np.geomspace(0.02, 2.0, 24))
    spreads = tuple((float(spread),) for spread in np.geomspace(0.01, 0.6, 16))
    dwells = tuple(product(np.geomspace(0.5, 20.0, 20).tolist(), np.linspace(0.4, 2.4, 11).tolist()))
    return {
        FRAMES: Law(draw_flips),
        FLIPS: Law(draw_flips, ("flips per second",), rates),
        WALK: Law(draw_walk, ("spread per second",), spreads),
        SEMI_MARKOV: Law(draw_dwells, ("median s", "spread of the logarithm"), dwells),
        CHAIN: Law(chained),
    }


Talks = Sequence[tuple[int, float]]
"""(speakers, seconds) of recordings that a law imitates."""


def draw_talks(
    law: Law, parameters: tuple[float, ...], talks: Talks, hours: float, seed: Sequence[int]
) -> tuple[np.ndarray, float]:
    """Return dwell times and switches per minute of one draw after another like `talks`, for about `hours`."""
    rng = np.random.default_rng(seed)
    found, switches, drawn = [], 0, 0.0
    while drawn < 3600 * hours:
        speakers, seconds = talks[int(rng.integers(len(talks)))]
        times = law.draw(parameters, speakers, seconds, rng)
        found.append(dwell_times(times))
        switches, drawn = switches + len(times) - 1, drawn + seconds
    return np.concatenate(found), 60 * switches / drawn


def distance(some: np.ndarray, others: np.ndarray) -> float:
    """Largest difference of two distribution functions (Kolmogorov-Smirnov), in [0, 1]; 1 where one is empty.

    >>> distance(np.array([1.0, 2.0]), np.array([2.0, 3.0]))
    0.5
    """
    if not (len(some) and len(others)):
        return 1.0
    at = np.concatenate([some, others])
    shares = [np.searchsorted(np.sort(each), at, side="right") / len(each) for each in (some, others)]
    return float(np.abs(shares[0] - shares[1]).max())


def fit(law: Law, real: np.ndarray, talks: Talks, hours: float, seed: Sequence[int]) -> tuple[float, ...]:
    """Return the candidate whose dwell times lie nearest to the real ones; all are drawn with the same chances."""
    if len(law.candidates) == 1:
        return law.candidates[0]
    return min(law.candidates, key=lambda each: distance(draw_talks(law, each, talks, hours, seed)[0], real))

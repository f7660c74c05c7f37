"""A semi-Markov chain of turns whose every step is one that real people made: the fallback where no real window fits.

A step is (relation, offset, length): who takes the word in relation to those who had it last, how long after the latest
end (below 0: overlap), and for how long. Drawing the three together keeps short answers inside long turns.
"""

from collections.abc import Sequence

import numpy as np

from weigher.errors import RequestError
from weigher.io.rttm import Segment

SAME, BACK, THIRD = 0, 1, 2  # the person who ended last, the one who ended before that, somebody else
LEAD_SECONDS = 30.0  # the chain runs in before the window opens, so that windows may open inside a turn


def steps_of(segments: Sequence[Segment]) -> np.ndarray:
    """Return the steps (relation, offset in seconds, length in seconds) of segments sorted by start, [steps, 3].

    The offset counts from the latest end so far, not from the end of the turn before: a short "yes" inside a long turn
    must not look like a pause after it.

    >>> steps_of([Segment(0.0, 4.0, "ann"), Segment(3.5, 6.0, "bob"), Segment(7.0, 8.0, "ann")]).tolist()
    [[2.0, -0.5, 2.5], [1.0, 1.0, 1.0]]
    """
    ends: dict[str, float] = {}
    rows: list[tuple[int, float, float]] = []
    for s in segments:
        if ends:
            recent = sorted(ends, key=lambda name: -ends[name])
            relation = min(recent.index(s.speaker), THIRD) if s.speaker in ends else THIRD
            rows.append((relation, s.start - ends[recent[0]], s.end - s.start))
        ends[s.speaker] = max(s.end, ends.get(s.speaker, 0.0))
    return np.array(rows).reshape(-1, 3)


def draw_chain(
    steps: np.ndarray, speakers: int, seconds: float, *, pause_seconds: float, rng: np.random.Generator, in_turn: bool
) -> list[Segment]:
    """Return chained turns of speakers "0" ... that touch the window [0, seconds], not clipped to it.

    `pause_seconds` is the least pause between two turns of one person. Some of the speakers may stay unheard; with
    `in_turn` every step hands the word to whoever has been silent longest, for their share of the window at most.
    Raises `RequestError` where there is no step at all.
    """
    if not len(steps):
        raise RequestError("the turn timings hold too few turns to make new ones: give more RTTM files.")
    alone = steps[:, 0] == SAME
    if speakers == 1 and alone.any():
        steps = steps[alone]
    ends = {str(k): -LEAD_SECONDS - 0.01 * k for k in range(speakers)}
    start, turns = -LEAD_SECONDS, []
    while max(ends.values()) < seconds:
        relation, offset, length = steps[rng.integers(len(steps))].tolist()
        recent = sorted(ends, key=lambda name: -ends[name])
        change = speakers > 1 and (relation != SAME or in_turn)
        speaker = recent[0] if not change else recent[1] if relation == BACK and not in_turn else recent[-1]
        start = max(ends[recent[0]] + offset, start, ends[speaker] + pause_seconds)
        ends[speaker] = start + (min(length, seconds / speakers) if in_turn else length)
        turns.append(Segment(start, ends[speaker], speaker))
    return [s for s in turns if s.end > 0.0 and s.start < seconds]

"""Who speaks when in a made-up conversation, and which stretch of which utterance is heard there."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from weigher.errors import RequestError
from weigher.io.rttm import Segment
from weigher.recordings.casting import balanced_casts, cast_sizes
from weigher.recordings.render import Piece
from weigher.recordings.turns import TurnLaw
from weigher.recordings.voicebank import VoiceBank

TIME_GRID_SECONDS = 0.01  # turns start and end on it, so that features and audio share their reference times


@dataclass(frozen=True, slots=True)
class Plan:
    """One conversation before it has sound: who (`cast`, sorted), when (`segments`), how long, and its random seed."""

    name: str
    cast: tuple[str, ...]
    seconds: float
    segments: tuple[Segment, ...]
    seed: tuple[int, int]


def plan(
    speakers: Sequence[str],
    law: TurnLaw,
    *,
    recordings: int,
    seconds: float | tuple[float, float],
    max_speakers: int,
    speaker_weights: Sequence[float] | None = None,
    seed: int = 0,
    name: str = "conv",
) -> list[Plan]:
    """Return who speaks when in each recording: sizes 1 ... `max_speakers`, balanced casts, turns from `law`.

    `speaker_weights` (length `max_speakers`; default: equal) weighs the numbers of people. A range of `seconds` is
    drawn on a grid of 0.5 s. Raises `RequestError` for numbers that cannot be met.
    """
    low, high = (seconds, seconds) if isinstance(seconds, int | float) else seconds
    if recordings < 1 or max_speakers < 1 or not 0 < low <= high:
        given = f"{recordings} recordings of {low:g} to {high:g} s with up to {max_speakers} speakers"
        raise RequestError(f"{given}: give one or more of each, and the shorter length first.")
    if seed < 0:
        raise RequestError(f"seed {seed}: give a whole number of 0 or more.")
    rng = np.random.default_rng(seed)
    sizes = cast_sizes(recordings, max_speakers, speaker_weights, rng)
    casts = balanced_casts(speakers, sizes, rng)
    lengths = low + 0.5 * rng.integers(int((high - low) / 0.5) + 1, size=recordings)
    plans = []
    for i, (cast, length) in enumerate(zip(casts, lengths.tolist(), strict=True)):
        turns = law.draw(len(cast), length, np.random.default_rng([seed, i, 0]))
        named = (Segment(_on_grid(s.start), _on_grid(s.end), cast[int(s.speaker)]) for s in turns)
        plans.append(Plan(f"{name}{i:05d}", cast, length, tuple(s for s in named if s.end > s.start), (seed, i)))
    return plans


def fill(planned: Plan, bank: VoiceBank, *, level_jitter_db: float, rng: np.random.Generator) -> tuple[Piece, ...]:
    """Return the pieces of utterances that sound in the turns of a plan.

    Every speaker's utterances stand in a ring of random order, entered at a random place; turn after turn reads on
    from where the last one stopped, so no stretch comes back before all others have been heard.
    """
    length = round(planned.seconds / bank.unit_seconds)
    rings = {speaker: _Ring(bank, speaker, rng) for speaker in planned.cast}
    pieces: list[Piece] = []
    for segment in planned.segments:
        at, stop = (min(length, round(t / bank.unit_seconds)) for t in (segment.start, segment.end))
        gain_db = float(rng.uniform(-level_jitter_db, level_jitter_db))
        while at < stop:
            stretch = rings[segment.speaker].take(stop - at)
            pieces.append(Piece(*stretch, at, gain_db))
            at += stretch[-1]
    return tuple(pieces)


class _Ring:
    """A speaker's utterances in random order, entered at a random place and read round and round."""

    def __init__(self, bank: VoiceBank, speaker: str, rng: np.random.Generator) -> None:
        self.bank, self.speaker = bank, speaker
        order = [int(i) for i in rng.permutation(bank.of_speaker[speaker])]
        # lengths are asked for one by one: each costs reading the utterance
        place = next((n for n, i in enumerate(order) if bank.length(i)), None)
        if place is None:
            raise RequestError(f"speaker {speaker!r} has no utterance of 50 ms or more: leave this speaker out.")
        self.first, self.others = order[place], order[place + 1 :]
        self.entry = int(rng.integers(bank.length(self.first)))
        self._stretches = self._round_and_round()
        self._utterance, self._start, self._stop = next(self._stretches)

    def take(self, length: int) -> tuple[int, int, int]:
        """Return the next (utterance, start, length), of the asked length or up to the end of the utterance."""
        if self._start == self._stop:
            self._utterance, self._start, self._stop = next(self._stretches)
        start = self._start
        self._start = min(self._stop, start + length)
        return self._utterance, start, self._start - start

    def _round_and_round(self) -> Iterator[tuple[int, int, int]]:
        while True:
            yield self.first, self.entry, self.bank.length(self.first)
            for utterance in self.others:
                if self.bank.length(utterance):
                    yield utterance, 0, self.bank.length(utterance)
            if self.entry:
                yield self.first, 0, self.entry


def _on_grid(seconds: float) -> float:
    return round(round(seconds / TIME_GRID_SECONDS) * TIME_GRID_SECONDS, 2)

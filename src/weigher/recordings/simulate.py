"""Conversations made from single voices and a law of turn taking: recordings, casts, and times to score against.

>>> from weigher.recordings.synthesise import synthesise_voices
>>> from weigher.recordings.turns import RandomWalkTurns
>>> voices = synthesise_voices(None, speakers=3, utterances=2, seconds=2.0, seed=0)
>>> talks = list(simulate(voices, RandomWalkTurns(), recordings=3, seconds=6.0, max_speakers=2, seed=0))
>>> [talk.name for talk in talks], talks[0].values.shape
(['conv00000', 'conv00001', 'conv00002'], (96000,))
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from weigher.errors import RequestError
from weigher.io.atomic import writing
from weigher.io.audio import write_audio
from weigher.io.features import Features, write_features
from weigher.io.manifest import Recording, indistinguishable, write_cast_csv
from weigher.io.rttm import Segment, write_rttm
from weigher.io.voices import Voices
from weigher.recordings.planning import Plan, fill, plan
from weigher.recordings.render import Piece, render_audio, render_features
from weigher.recordings.turns import TurnLaw, pooled_statistics
from weigher.recordings.voicebank import FeatureBank, VoiceBank, voice_bank

__all__ = ["Conversation", "Plan", "plan", "render", "report", "simulate", "write"]


@dataclass(frozen=True, slots=True)
class Conversation:
    """One made-up recording: `values` are samples [n] (unit 1/16000 s) or log-mel energies [t, f] (unit `hop_seconds`).

    `pieces` says which stretch of which utterance stands where.
    """

    plan: Plan
    pieces: tuple[Piece, ...]
    values: np.ndarray
    hop_seconds: float

    @property
    def name(self) -> str:
        """The recording's name, which its files and RTTM lines carry."""
        return self.plan.name

    @property
    def cast(self) -> tuple[str, ...]:
        """Who appears, sorted."""
        return self.plan.cast

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.plan.seconds

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Who speaks when, sorted by start, on a grid of 0.01 s."""
        return self.plan.segments


def simulate(
    voices: Voices,
    law: TurnLaw,
    *,
    recordings: int,
    seconds: float | tuple[float, float],
    max_speakers: int,
    speaker_weights: Sequence[float] | None = None,
    noise_db: float | None = None,
    reverb_seconds: float = 0.0,
    equalise_channel: bool = True,
    level_jitter_db: float = 2.0,
    bank: VoiceBank | None = None,
    seed: int = 0,
    name: str = "conv",
    progress: Callable[[str, int, int], None] | None = None,
) -> Iterator[Conversation]:
    """Yield `recordings` conversations of `voices`, one at a time; the same arguments give the same conversations.

    Each turn is louder or softer by up to `level_jitter_db`, so that a level left over tells nothing. See `plan` for
    the numbers, `weigher.recordings.render` for noise and room, and `weigher.recordings.voicebank` for the
    equalisation; give its `voice_bank(voices)` as `bank` to prepare the voices once for several calls. Raises
    `RequestError` for a request that cannot be met.
    """
    if not 0 <= reverb_seconds < math.inf or (noise_db is not None and not math.isfinite(noise_db)):
        raise RequestError(f"reverb_seconds={reverb_seconds}, noise_db={noise_db}: give 0 or more seconds, finite dB.")
    plans = plan(
        voices.speakers,
        law,
        recordings=recordings,
        seconds=seconds,
        max_speakers=max_speakers,
        speaker_weights=speaker_weights,
        seed=seed,
        name=name,
    )
    if bank is None:
        bank = voice_bank(voices, equalise_channel=equalise_channel)
    sound = partial(
        render, bank=bank, noise_db=noise_db, reverb_seconds=reverb_seconds, level_jitter_db=level_jitter_db
    )
    return _counted(map(sound, plans), len(plans), progress or (lambda stage, done, total: None))


def _counted(
    conversations: Iterator[Conversation], total: int, progress: Callable[[str, int, int], None]
) -> Iterator[Conversation]:
    for done, conversation in enumerate(conversations):
        progress("simulate", done, total)
        yield conversation
    progress("simulate", total, total)


def render(
    planned: Plan,
    bank: VoiceBank,
    *,
    noise_db: float | None = None,
    reverb_seconds: float = 0.0,
    level_jitter_db: float = 2.0,
) -> Conversation:
    """Return the conversation of one plan; it depends on the plan and the bank only, not on others made before."""
    rng = np.random.default_rng([*planned.seed, 1])
    pieces = fill(planned, bank, level_jitter_db=level_jitter_db, rng=rng)
    length = round(planned.seconds / bank.unit_seconds)
    if isinstance(bank, FeatureBank):
        values = render_features(bank, pieces, length, noise_db=noise_db, reverb_seconds=reverb_seconds, rng=rng)
    else:
        values = render_audio(bank, pieces, length, noise_db=noise_db, reverb_seconds=reverb_seconds, rng=rng)
    return Conversation(planned, pieces, values, bank.unit_seconds)


def report(plans: Sequence[Plan], law: TurnLaw) -> dict:
    """Return what was made beside what it was drawn from, as plain numbers for JSON.

    `achieved` and `sampled_from` hold the fields of `TurnStatistics`, over all recordings and, in `by_speakers`, for
    each number of people. `sampled_from` describes about 1000 windows of the law's source, as many of each number of
    people as the recordings have; it is None where the source has no such window and the law's fallback was used.
    `casts` counts recordings per speaker; `warnings` names speakers that the casts cannot tell apart.
    """
    groups = {size: [p for p in plans if len(p.cast) == size] for size in sorted({len(p.cast) for p in plans})}
    source: dict[int, list[tuple[Sequence[Segment], float]]] = {}
    for size, group in groups.items():
        seconds = round(2 * float(np.mean([p.seconds for p in group]))) / 2  # a length drawn from, so indexed already
        count = math.ceil(1000 * len(group) / len(plans))
        source[size] = [(window, seconds) for window in law.examples(size, seconds, count)]
    appearances = Counter(name for p in plans for name in p.cast)
    return {
        "recordings": len(plans),
        "minutes": sum(p.seconds for p in plans) / 60,
        **_compared(plans, list(chain(*source.values())) if all(source.values()) else []),
        "by_speakers": {
            str(size): {"recordings": len(group), **_compared(group, source[size])} for size, group in groups.items()
        },
        "casts": {
            "speakers": len(appearances),
            "fewest_recordings_of_a_speaker": min(appearances.values()),
            "most_recordings_of_a_speaker": max(appearances.values()),
        },
        "warnings": indistinguishable([Recording(Path(p.name), p.cast, i + 2) for i, p in enumerate(plans)]),
    }


def _compared(plans: Sequence[Plan], source: Sequence[tuple[Sequence[Segment], float]]) -> dict:
    achieved = pooled_statistics((p.segments, p.seconds) for p in plans)
    return {
        "achieved": asdict(achieved),
        "sampled_from": asdict(pooled_statistics(source)) if source else None,
    }


def write(conversations: Iterable[Conversation], out_dir: str | Path, law: TurnLaw) -> dict:
    """Write conversations as they come and return their `report`, which also goes to `statistics.json`.

    `out_dir` gets `audio/NAME.flac` or `features/NAME.npz`, `rttm/NAME.rttm` (to score against, never to train from)
    and, last of all, `cast.csv`: where it is, the rest is whole, and nothing is left of a longer run that was cut off
    there. Raises `RequestError` where one is there already.
    """
    out_dir = Path(out_dir)
    cast_csv = out_dir / "cast.csv"
    if cast_csv.exists():
        raise RequestError(f"{str(cast_csv)!r} is there already: name another folder, or remove this one first.")
    rows: list[tuple[str, tuple[str, ...]]] = []
    plans: list[Plan] = []
    for talk in conversations:
        if talk.values.ndim == 1:
            file_name = f"audio/{talk.name}.flac"
            write_audio(out_dir / file_name, talk.values)
        else:
            file_name = f"features/{talk.name}.npz"
            write_features(out_dir / file_name, Features(talk.values, talk.hop_seconds))
        write_rttm(out_dir / "rttm" / f"{talk.name}.rttm", {talk.name: talk.segments})
        rows.append((file_name, talk.cast))
        plans.append(talk.plan)
    _remove_others(out_dir, [plan.name for plan in plans])
    made = report(plans, law)
    with writing(out_dir / "statistics.json", "w") as file:
        file.write(json.dumps(made, indent=2) + "\n")
    write_cast_csv(cast_csv, rows)
    return made


def _remove_others(out_dir: Path, names: Sequence[str]) -> None:
    """Remove recordings that are numbered as these are, and are none of them."""
    ours, numbered = set(names), {name.rstrip("0123456789") for name in names}
    for kind, ending in (("audio", ".flac"), ("features", ".npz"), ("rttm", ".rttm")):
        for file in (out_dir / kind).glob(f"*{ending}"):
            words = file.stem.rstrip("0123456789")
            if words in numbered and words != file.stem and file.stem not in ours:
                file.unlink()

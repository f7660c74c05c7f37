"""The flagship on real voices: cast lists against clustering, against full time labels, and against shuffled casts.

Read speech (features) and audio: speakers are split into some to train on and others that are heard for the first time
in the test; conversations are put together with the turn taking of real meetings, other meetings for the test. The real
meetings at the end are heard from start to end by the model trained on audio, and reported as they are.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from weigher.errors import WeigherError
from weigher.studies.harness import Claim, Context, Figures, Result, Row, Study, Tally, clearly_less, find_row

if TYPE_CHECKING:  # torch is loaded by a run, not by listing the studies
    from weigher.studies.diarization import ReadSpeech

CASTS, TIMES, SHUFFLED = "weigher, casts", "weigher, full time labels", "weigher, shuffled casts"
ONE = "one speaker throughout"
READ, AUDIO, MEETINGS = "read speech", "audio", "meetings"


@dataclass(frozen=True)
class Size:
    """How much is done for a budget."""

    recordings: int
    listen: int
    weigh: int
    test: int


SIZES = {"small": Size(1000, 500, 600, 50), "full": Size(3000, 1500, 4000, 200)}


def run(context: Context) -> list[Row]:
    """Train and test with each seed; see the module."""
    tally = Tally()
    for seed in context.seeds:
        for material, found in _figures(context, seed):
            tally.add(found, material)
    return tally.rows()


def _figures(context: Context, seed: int) -> Iterator[tuple[str, Figures]]:
    """Yield what one seed gives, material by material; each trained model is a part that is kept."""
    made = cache(partial(_read_speech, context, seed))  # made when the first part asks for it
    for arm in (CASTS, TIMES, SHUFFLED):
        trained = partial(_trained_on_read_speech, context, seed, arm, made)
        yield READ, context.part(f"{seed} {READ}, {arm}", trained)
    yield from context.part(f"{seed} {AUDIO}", partial(_audio, context, seed)).items()


def _diarizer(size: Size, seed: int):
    from weigher.recordings.diarizer import Diarizer

    diarizer = Diarizer(slots=5, seed=seed)
    phases = diarizer.config.learn
    phases = replace(
        phases,
        listen=replace(phases.listen, steps=size.listen, validate_every=size.listen),
        weigh=replace(phases.weigh, steps=size.weigh, validate_every=size.weigh),
    )
    diarizer.config = replace(diarizer.config, learn=phases)
    return diarizer


def _read_speech(context: Context, seed: int) -> ReadSpeech:
    from weigher.studies.diarization import read_speech

    size = SIZES[context.budget]
    return read_speech(context, train=size.recordings, unseen=size.test, seed=seed)


def _trained_on_read_speech(context: Context, seed: int, arm: str, made: Callable[[], ReadSpeech]) -> Figures:
    """Train one arm and test it; with casts, cluster its embeddings too."""
    from weigher.recordings.model import FrontConfig
    from weigher.studies import diarization as shared

    speech = made()
    train, test, hop_seconds = speech.train, speech.unseen, speech.hop_seconds
    diarizer = _diarizer(SIZES[context.budget], seed)
    front = FrontConfig(kind="features", features=train[0].values.shape[1], hop_seconds=hop_seconds)
    diarizer.config = replace(diarizer.config, model=replace(diarizer.config.model, front=front))
    archive = shared.archive_of(
        train,
        [talk.values.astype(np.float16) for talk in train],
        hop_seconds=hop_seconds * diarizer.config.model.encoder.stride,
        with_times=arm == TIMES,
        shuffled=np.random.default_rng(seed) if arm == SHUFFLED else None,
    )
    try:
        diarizer.fit(archive, progress=context.progress)
    except WeigherError:
        if arm != SHUFFLED:
            raise
        # casts that say nothing can leave the teacher without one clear stretch: then nobody is ever found
        return {arm: shared.figures(test, {talk.name: [] for talk in test})}
    found = {arm: _weigher_figures(diarizer, test)}
    return found | _baselines(diarizer, test, seed) if arm == CASTS else found


def _weigher_figures(diarizer, talks) -> dict[str, float]:
    from weigher.studies import diarization as shared

    results = shared.apply(diarizer, talks)
    figures = shared.figures(talks, {result.file_id: list(result.segments) for result in results})
    assert diarizer.history_ is not None
    minutes = sum(phase.seconds for phase in diarizer.history_) / 60
    return {**figures, "slot retrieval EER %": shared.retrieval_eer(talks, results), "training minutes": minutes}


def _baselines(diarizer, talks, seed: int) -> Figures:
    """Clusterings, given the true count and the true speech, of frame embeddings and of the features."""
    from weigher.studies import diarization as shared

    assert diarizer.model_ is not None
    hop = diarizer.model_.hop_seconds
    found = {ONE: shared.figures(talks, shared.one_speaker(talks))}
    for what, vectors in (
        ("embeddings", [shared.frame_embeddings(diarizer, talk) for talk in talks]),
        ("features", [shared.frame_features(diarizer, talk) for talk in talks]),
    ):
        for method in shared.METHODS:
            for smooth in (False, True):
                turns = shared.clustered(talks, vectors, method, hop, smooth=smooth, seed=seed)
                found[f"{method}, {what}{', 1 s mean' if smooth else ''}"] = shared.figures(talks, turns)
    return found


def _audio(context: Context, seed: int) -> dict[str, Figures]:
    """LibriSpeech and Arabic words together, from audio, casts only; then real meetings."""
    from weigher.io.voices import Voices, read_voices
    from weigher.recordings.simulate import simulate
    from weigher.recordings.turns import RecordedTurns
    from weigher.recordings.voicebank import voice_bank
    from weigher.studies import diarization as shared

    size = SIZES[context.budget]
    corpora = [read_voices(context.path(f"speech/{name}")) for name in ("librispeech", "arabic_commands")]
    timings = context.path("speech/timings/ami")
    generator = np.random.default_rng(seed)
    parts: dict[str, list] = {"train": [], "test": []}
    for corpus in corpora:
        people = generator.permutation(corpus.speakers)
        unseen = len(people) // 6
        parts["test"] += corpus.only(people[:unseen]).utterances
        parts["train"] += corpus.only(people[unseen:]).utterances
    diarizer = _diarizer(size, seed)
    made, values = {}, []
    for name, count in (("train", size.recordings // 2), ("test", size.test)):
        some = Voices(corpora[0].kind, corpora[0].hop_seconds, tuple(parts[name]))
        conversations = simulate(
            some,
            RecordedTurns.read(timings / name),
            recordings=count,
            seconds=(20.0, 30.0),
            max_speakers=4,
            noise_db=25.0,
            bank=voice_bank(some),
            seed=seed,
            progress=context.progress,
        )
        talks = []
        for conversation in conversations:
            talk = shared.Talk.of(conversation)
            if name == "train":  # samples are let go as soon as the features are there
                values += shared.prepared(diarizer, [talk])
                talk = replace(talk, values=np.empty(0))
            talks.append(talk)
        made[name] = talks
    diarizer.fit(shared.archive_of(made["train"], values), progress=context.progress)
    found = {CASTS: _weigher_figures(diarizer, made["test"])} | _baselines(diarizer, made["test"], seed)
    meetings = _meetings(context.path("speech/ami_excerpts"))
    return {AUDIO: found, MEETINGS: {CASTS: _meeting_figures(diarizer, meetings)}}


def _meetings(folder: Path) -> dict[str, tuple[Path, list]]:
    """Real excerpts: audio and reference turns by name; accents are left out of names, as the references do."""
    from weigher.io.rttm import read_rttm

    told: dict[str, list] = {}
    for file in sorted(folder.glob("*.rttm")):
        told.update(read_rttm(file))
    return {_plain(path.stem): (path, told.get(_plain(path.stem), [])) for path in sorted(folder.glob("*.flac"))}


def _plain(name: str) -> str:
    return unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()


def _meeting_figures(diarizer, meetings: dict[str, tuple[Path, list]]) -> dict[str, float]:
    from weigher.io.audio import audio_seconds, read_audio
    from weigher.studies import diarization as shared

    talks = [
        shared.Talk(name, read_audio(path), tuple(turns), audio_seconds(path))
        for name, (path, turns) in meetings.items()
    ]
    return shared.figures(talks, {r.file_id: list(r.segments) for r in shared.apply(diarizer, talks)})


def _der(rows: Sequence[Row], method: str) -> Row:
    return find_row(rows, method, f"{READ}: DER %, collar 0")


def _best_clustering(rows: Sequence[Row], smooth: bool) -> Row:
    metric = f"{READ}: DER %, collar 0"
    clusterings = [
        row
        for row in rows
        if row.metric == metric and row.method.split(",")[0] in ("kmeans", "agglomerative", "spectral")
    ]
    return min((row for row in clusterings if row.method.endswith("1 s mean") == smooth), key=lambda row: row.mean)


def _halves(rows: Sequence[Row], smooth: bool) -> tuple[str, bool]:
    ours, best = _der(rows, CASTS), _best_clustering(rows, smooth)
    words = f"{ours.mean:.1f} % against {best.mean:.1f} % ({best.method}): ratio {ours.mean / best.mean:.2f}"
    return words, clearly_less(ours, best, factor=0.5)


def _near_full(rows: Sequence[Row]) -> tuple[str, bool]:
    ours, full = _der(rows, CASTS), _der(rows, TIMES)
    words = f"{ours.mean:.1f} % against {full.mean:.1f} %: ratio {ours.mean / full.mean:.2f}"
    return words, clearly_less(ours, full, factor=1.2)


def _chance(rows: Sequence[Row]) -> tuple[str, bool]:
    shuffled, nothing = _der(rows, SHUFFLED), _der(rows, ONE)
    words = f"{shuffled.mean:.1f} % against {nothing.mean:.1f} % for one speaker throughout"
    return words, not clearly_less(shuffled, nothing)


def plot(result: Result, path: Path) -> None:
    """Draw the error of every method on read speech, best first, with the spread over seeds."""
    from weigher.plot.bars import horizontal_bars

    metric = f"{READ}: DER %, collar 0"
    rows = sorted((row for row in result.rows if row.metric == metric), key=lambda row: row.mean)
    horizontal_bars(
        path,
        [row.method for row in rows],
        [row.mean for row in rows],
        [row.std or 0.0 for row in rows],
        title="Diarization error on people never heard before",
        axis="DER %, collar 0, overlap scored",
        marked=[row.method.startswith("weigher") for row in rows],
    )


STUDY = Study(
    name="weigher",
    card="00",
    title="Diarization learned from cast lists alone, on speakers never heard before",
    paper="The weigher: the project's own, after a talk on diarization learned from labels of whole files",
    run=run,
    claims=(
        Claim(
            "at most half the error of the best clustering that ignores time, true count given",
            "the project's target",
            lambda rows: _halves(rows, smooth=False),
        ),
        Claim(
            "at most half the error of the best clustering of one-second means, true count given",
            "the project's target, with the stronger baseline",
            lambda rows: _halves(rows, smooth=True),
        ),
        Claim("within 20 % of the same network trained with full time labels", "the project's target", _near_full),
        Claim("with shuffled casts it falls to chance", "the project's check", _chance),
    ),
    plot=plot,
)

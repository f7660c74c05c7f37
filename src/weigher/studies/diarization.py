"""What the study and the demo of the flagship share: made-up conversations in memory, baselines, and figures.

Every baseline gets the true number of speakers and, more than that, the true speech and silence; the weigher gets
neither. Clustering is tried on single frames, as it is when time is ignored, and on frames averaged over one second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from weigher.io.rttm import Segment
from weigher.io.voices import Voices, read_voices
from weigher.recordings.archive import Archive
from weigher.recordings.cluster import Method, cluster_frames
from weigher.recordings.diarizer import Diarizer
from weigher.recordings.recompose import runs
from weigher.recordings.result import Diarization
from weigher.recordings.score import score
from weigher.recordings.simulate import Conversation, simulate
from weigher.recordings.turns import RecordedTurns
from weigher.recordings.voicebank import voice_bank
from weigher.studies.harness import Context

METHODS: tuple[Method, ...] = ("kmeans", "agglomerative", "spectral")
SMOOTH_SECONDS = 1.0


@dataclass(frozen=True, eq=False)
class Talk:
    """A recording in memory: values (samples or rows of features), and the truth to score against."""

    name: str
    values: np.ndarray
    segments: tuple[Segment, ...]
    seconds: float

    @classmethod
    def of(cls, conversation: Conversation) -> Talk:
        """Keep what a study needs of a simulated conversation."""
        return cls(conversation.name, conversation.values, conversation.segments, conversation.seconds)

    @property
    def cast(self) -> tuple[str, ...]:
        """Who speaks."""
        return tuple(sorted({segment.speaker for segment in self.segments}))


@dataclass(frozen=True, eq=False)
class ReadSpeech:
    """Conversations of read speech, of one to four people each.

    In `train` and `seen` four fifths of the people take part, in `unseen` the others. Turns are those of real meetings:
    of some for `train`, of others for both tests. What is said in `seen` is not said in `train`.
    """

    train: list[Talk]
    unseen: list[Talk]
    seen: list[Talk]
    hop_seconds: float


def read_speech(
    context: Context,
    *,
    train: int,
    unseen: int,
    seen: int = 0,
    seconds: float | tuple[float, float] = (20.0, 30.0),
    corpus: str = "speech/read_speech_fbank40.npz",
    people: int | None = None,
    noise_db: float | None = None,
    seed: int,
) -> ReadSpeech:
    """Make so many conversations of each kind, of some `people` or all; a `seen` test has words not heard in training.

    Conversations of one length are much faster to gather from, because they make batches.
    """
    voices = read_voices(context.path(corpus))
    timings = context.path("speech/timings/ami")
    chosen = np.random.default_rng(seed).permutation(voices.speakers)[:people]
    strangers = len(chosen) // 5
    familiar = voices.only(chosen[strangers:])
    said, kept_back = words_apart(familiar) if seen else (familiar, familiar)
    talks = partial(_talks, timings, seconds=seconds, noise_db=noise_db, seed=seed, progress=context.progress)
    return ReadSpeech(
        train=talks(said, "train", train),
        unseen=talks(voices.only(chosen[:strangers]), "test", unseen),
        seen=talks(kept_back, "test", seen) if seen else [],
        hop_seconds=voices.hop_seconds,
    )


def _talks(
    timings: Path, some: Voices, part: str, count: int, *, seconds, noise_db: float | None, seed: int, progress
) -> list[Talk]:
    made = simulate(
        some,
        RecordedTurns.read(timings / part),
        recordings=count,
        seconds=seconds,
        max_speakers=4,
        noise_db=noise_db,
        bank=voice_bank(some),
        seed=seed,
        progress=progress,
    )
    return [Talk.of(conversation) for conversation in made]


def words_apart(voices: Voices) -> tuple[Voices, Voices]:
    """Split utterances in two: of every speaker the last fifth, but one at least, is kept back.

    >>> from weigher.io.voices import Utterance
    >>> voices = Voices("features", 0.01, tuple(Utterance(s, "1", lambda: np.zeros((9, 2))) for s in "aabbbbbbbbbb"))
    >>> [[u.speaker for u in part.utterances] for part in words_apart(voices)]
    [['a', 'b', 'b', 'b', 'b', 'b', 'b', 'b', 'b'], ['a', 'b', 'b']]
    """
    by_speaker: dict[str, list] = {name: [] for name in voices.speakers}
    for utterance in voices.utterances:
        by_speaker[utterance.speaker].append(utterance)
    said, kept_back = [], []
    for spoken in by_speaker.values():
        first = len(spoken) - max(1, len(spoken) // 5)
        said += spoken[:first]
        kept_back += spoken[first:]
    return replace(voices, utterances=tuple(said)), replace(voices, utterances=tuple(kept_back))


def activity(segments: Sequence[Segment], names: Sequence[str], frames: int, hop_seconds: float) -> np.ndarray:
    """Who speaks at the middle of each frame: bool [frames, names].

    >>> activity([Segment(0.0, 0.2, "a")], ["a"], 3, 0.1).tolist()
    [[True], [True], [False]]
    """
    middle = (np.arange(frames) + 0.5) * hop_seconds
    active = np.zeros((frames, len(names)), bool)
    column = {name: index for index, name in enumerate(names)}
    for segment in segments:
        if segment.speaker in column:
            active[(middle >= segment.start) & (middle < segment.end), column[segment.speaker]] = True
    return active


def to_segments(active: np.ndarray, hop_seconds: float) -> list[Segment]:
    """Turns of a frame grid bool [t, k], speakers named by their column.

    >>> to_segments(np.array([[True], [True], [False]]), 0.5)
    [Segment(start=0.0, end=1.0, speaker='0')]
    """
    found = []
    for column in range(active.shape[1]):
        starts, ends, states = runs(active[:, column])
        found += [
            Segment(float(start * hop_seconds), float(end * hop_seconds), str(column))
            for start, end, state in zip(starts, ends, states, strict=True)
            if state
        ]
    return sorted(found, key=lambda segment: (segment.start, segment.end))


def archive_of(
    talks: Sequence[Talk],
    values: Sequence[np.ndarray],
    *,
    hop_seconds: float = 0.0,
    with_times: bool = False,
    shuffled: np.random.Generator | None = None,
) -> Archive:
    """Make a training archive of talks whose values the model has prepared; times only where they are asked for.

    `shuffled` gives every recording the cast of another one: a check that what is learned comes from the casts.
    `hop_seconds` is that of the model's frames (with times).
    """
    casts = [talk.cast for talk in talks]
    if shuffled is not None:
        casts = [casts[i] for i in shuffled.permutation(len(casts))]
    labels = tuple(sorted({name for cast in casts for name in cast}))
    number = {name: index for index, name in enumerate(labels)}
    times = None
    if with_times:
        times = [
            activity(talk.segments, cast, round(talk.seconds / hop_seconds) + 1, hop_seconds)
            for talk, cast in zip(talks, casts, strict=True)
        ]
    return Archive(list(values), [[number[name] for name in cast] for cast in casts], labels, times)


def prepared(diarizer: Diarizer, talks: Sequence[Talk]) -> list[np.ndarray]:
    """Turn talks of samples into the values of an untrained model of this configuration, in half precision."""
    from weigher.recordings.model import RecordingModel

    model = RecordingModel(diarizer.config.model)
    return [(model.values(talk.values) if talk.values.ndim == 1 else talk.values).astype(np.float16) for talk in talks]


def figures(talks: Sequence[Talk], found: dict[str, list[Segment]]) -> dict[str, float]:
    """DER at collar 0 and 0.25 s, JER and count accuracy, in per cent."""
    truth = {talk.name: list(talk.segments) for talk in talks}
    uem = {talk.name: [(0.0, talk.seconds)] for talk in talks}
    exact, loose = score(truth, found, uem=uem), score(truth, found, uem=uem, collar=0.25)
    return {
        "DER %, collar 0": exact.der,
        "miss %, collar 0": exact.miss,
        "false alarm %, collar 0": exact.false_alarm,
        "confusion %, collar 0": exact.confusion,
        "DER %, collar 0.25": loose.der,
        "JER %": exact.jer,
        "count right %": exact.count_accuracy,
    }


def apply(diarizer: Diarizer, talks: Sequence[Talk]) -> list[Diarization]:
    """Apply a model to talks, with nothing known about them."""
    return [diarizer.predict(talk.values, file_id=talk.name) for talk in talks]


@torch.inference_mode()
def frame_embeddings(diarizer: Diarizer, talk: Talk) -> np.ndarray:
    """The frame embeddings [t, e] that the model pools into slots."""
    assert diarizer.model_ is not None
    model = diarizer.model_
    values = model.values(talk.values) if talk.values.ndim == 1 else talk.values
    tensor = torch.as_tensor(np.asarray(values, np.float32))[None].to(diarizer.device)
    frames = model.frames(tensor, torch.tensor([tensor.shape[1]], device=diarizer.device))
    return frames.embeddings[0].float().cpu().numpy()


def frame_features(diarizer: Diarizer, talk: Talk) -> np.ndarray:
    """The features themselves, averaged to the model's frames: [t, f]."""
    assert diarizer.model_ is not None
    model = diarizer.model_
    values = np.asarray(model.values(talk.values) if talk.values.ndim == 1 else talk.values, np.float32)
    ratio = round(model.hop_seconds / model.step_seconds)
    whole = values[: len(values) // ratio * ratio]
    return whole.reshape(-1, ratio, whole.shape[1]).mean(1)


def clustered(
    talks: Sequence[Talk], vectors: Sequence[np.ndarray], method: Method, hop_seconds: float, *, smooth: bool, seed: int
) -> dict[str, list[Segment]]:
    """Cluster each talk's frames [t, d], given the true number of speakers and the true speech and silence."""
    found = {}
    for talk, points in zip(talks, vectors, strict=True):
        speech = activity(talk.segments, talk.cast, len(points), hop_seconds).sum(1) > 0
        width = round(SMOOTH_SECONDS / hop_seconds) if smooth else 1
        active = cluster_frames(points, speech, len(talk.cast), method, smooth_frames=width, seed=seed)
        found[talk.name] = to_segments(active, hop_seconds)
    return found


def one_speaker(talks: Sequence[Talk]) -> dict[str, list[Segment]]:
    """The answer of who knows nothing about voices: all speech, known to be speech, is one person's."""
    return {
        talk.name: to_segments(
            activity(talk.segments, talk.cast, round(talk.seconds / 0.01), 0.01).max(1, keepdims=True), 0.01
        )
        for talk in talks
    }


def retrieval_eer(talks: Sequence[Talk], results: Sequence[Diarization]) -> float:
    """Equal error rate, in per cent, of telling by their embeddings whether slots of two recordings are one person.

    A slot is the person with whom it shares most time; slots that share none are left out. 50 where nothing can be
    compared.
    """
    vectors, names, where = [], [], []
    for index, (talk, result) in enumerate(zip(talks, results, strict=True)):
        frames = len(result.tracks)
        truth = activity(talk.segments, talk.cast, frames, result.hop_seconds)
        found = activity(result.segments, result.speakers, frames, result.hop_seconds)
        shared = found.T.astype(float) @ truth
        for slot in range(shared.shape[0]):
            if shared[slot].max(initial=0) > 0:
                vectors.append(result.embeddings[slot])
                names.append(talk.cast[int(shared[slot].argmax())])
                where.append(index)
    if len(vectors) < 2:
        return 50.0
    alike = np.stack(vectors) @ np.stack(vectors).T
    i, j = np.triu_indices(len(vectors), 1)
    apart = np.array(where)[i] != np.array(where)[j]
    same = (np.array(names)[i] == np.array(names)[j])[apart]
    return equal_error_rate(alike[i, j][apart], same)


def equal_error_rate(scores: np.ndarray, same: np.ndarray) -> float:
    """Per cent of errors at the threshold where misses and false alarms are equally frequent.

    >>> equal_error_rate(np.array([0.9, 0.8, 0.2, 0.1]), np.array([True, True, False, False]))
    0.0
    """
    if same.all() or not same.any():
        return 50.0
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(same[order]) / same.sum()
    alarms = np.cumsum(~same[order]) / (~same).sum()
    crossing = int(np.argmin(np.abs((1 - hits) - alarms)))
    return float(100 * ((1 - hits[crossing]) + alarms[crossing]) / 2)

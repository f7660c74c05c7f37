"""What the studies of losses and of poolings share: files as one frozen encoder hears them, and scores of label sets.

One encoder listens to the casts of the training files (phase 1 of `weigher.recordings.learn`) and is frozen; every
method then starts from the same frames. Files to train, check and test on hold the same people with other words and
other turns. Nobody is told times in training: a weigher learns from the posteriors of the teacher, which sees casts.

Symbols: f files, t frames, m people of a file, n slots, h hidden channels, e embedding, c labels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from weigher.io.voices import Voices
from weigher.recordings.archive import Archive
from weigher.recordings.encoder import Frames
from weigher.recordings.learn import LearnConfig, Listener, listen
from weigher.recordings.loss import LossConfig, set_loss
from weigher.recordings.model import FrontConfig, LabelHead, ModelConfig, RecordingModel
from weigher.recordings.silence import quiet_frames
from weigher.recordings.simulate import simulate
from weigher.recordings.teacher import TeacherConfig, teach
from weigher.recordings.turns import RecordedTurns
from weigher.recordings.voicebank import voice_bank
from weigher.recordings.weigher import WeigherConfig
from weigher.studies.diarization import Talk, activity
from weigher.train.loop import LoopConfig, fit

Progress = Callable[[str, int, int], None]

MOST_SPEAKERS = 4
SLOTS = 5
_PARTS = {"train": (0.0, 0.7), "dev": (0.7, 0.85), "test": (0.85, 1.0)}


def words_of(voices: Voices, part: str) -> Voices:
    """Utterances of one part, "train", "dev" or "test": of every speaker the first 70 %, the next 15 %, the last.

    >>> from weigher.io.voices import Utterance
    >>> voices = Voices("features", 0.01, tuple(Utterance("a", str(k), lambda: np.zeros((9, 2))) for k in range(10)))
    >>> [len(words_of(voices, part).utterances) for part in ("train", "dev", "test")]
    [7, 1, 2]
    """
    low, high = _PARTS[part]
    kept, count, seen = [], dict.fromkeys(voices.speakers, 0), dict.fromkeys(voices.speakers, 0)
    for each in voices.utterances:
        count[each.speaker] += 1
    for each in voices.utterances:
        place = (seen[each.speaker] + 0.5) / count[each.speaker]
        seen[each.speaker] += 1
        if low <= place < high:
            kept.append(each)
    return replace(voices, utterances=tuple(kept))


def talks_of(
    voices: Voices, timings: Path, part: str, *, count: int, seconds: float, seed: Sequence[int]
) -> list[Talk]:
    """Conversations of up to four of these people, with the words and the real turns of one part."""
    some = words_of(voices, part)
    made = simulate(
        some,
        RecordedTurns.read(timings / part),
        recordings=count,
        seconds=seconds,
        max_speakers=min(MOST_SPEAKERS, len(some.speakers)),
        bank=voice_bank(some),
        seed=int(np.random.default_rng([*seed, list(_PARTS).index(part)]).integers(2**31)),
    )
    return [Talk.of(conversation) for conversation in made]


@dataclass(frozen=True, eq=False)
class Ears:
    """A frozen encoder, with the head it learned to name labels by; frames are to be had by `hear`."""

    model: RecordingModel
    listener: Listener
    labels: tuple[str, ...]

    @torch.no_grad()
    def embeddings(self, hidden: Tensor) -> Tensor:
        """Frame embeddings of hidden frames [..., h] -> [..., e]."""
        return self.model.encoder.projection(hidden)


def listened(
    talks: Sequence[Talk],
    labels: Sequence[str],
    hop_seconds: float,
    *,
    steps: int,
    batch: int,
    seed: int,
    progress: Progress | None,
) -> Ears:
    """Train an encoder on talks of which it is told the casts, and freeze it; all of `labels` get a place."""
    model = _model(talks[0].values.shape[1], hop_seconds, seed)
    number = {name: index for index, name in enumerate(labels)}
    archive = Archive(
        [talk.values.astype(np.float16) for talk in talks],
        [[number[name] for name in talk.cast] for talk in talks],
        tuple(labels),
        quiet=[_quiet(model, talk) for talk in talks],
    )
    config = LearnConfig()
    loop = replace(
        config.listen, steps=steps, warmup_steps=min(config.listen.warmup_steps, steps // 5), validate_every=steps
    )
    config = replace(config, listen=replace(loop, seed=seed), listen_batch=batch, listen_seconds=3.0)
    listener, _ = listen(model, archive, config, device="cpu", progress=progress)
    listener.eval().requires_grad_(False)
    model.eval()
    return Ears(model, listener, archive.labels)


def _model(features: int, hop_seconds: float, seed: int) -> RecordingModel:
    front = FrontConfig(kind="features", features=features, hop_seconds=hop_seconds)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return RecordingModel(ModelConfig(front=front, weigher=WeigherConfig(slots=SLOTS)))


def _quiet(model: RecordingModel, talk: Talk) -> np.ndarray:
    return quiet_frames(talk.values, round(model.hop_seconds / model.step_seconds), model.hop_seconds, model.mix)


@dataclass(frozen=True, eq=False)
class Heard:
    """Files of one length as a frozen encoder heard them.

    hidden float16 [f, t, h]; casts int [f, m] (-1: none); active bool [f, t, m]: who speaks when, to score by alone;
    posteriors [f, t, m] of the teacher, where it was asked.
    """

    hidden: Tensor
    casts: Tensor
    active: np.ndarray
    posteriors: Tensor | None = None

    def frames(self, ears: Ears, rows: Tensor | slice) -> Frames:
        """Frames of some files, as a weigher takes them."""
        hidden = self.hidden[rows].float()
        return Frames(hidden, ears.embeddings(hidden), torch.ones(hidden.shape[:2], dtype=torch.bool))


@torch.no_grad()
def hear(ears: Ears, talks: Sequence[Talk], labels: Sequence[str], *, with_teacher: bool = False) -> Heard:
    """Encode talks of one length; casts are numbers of `labels`, which the teacher takes for those of the ears."""
    model, number = ears.model, {name: index for index, name in enumerate(labels)}
    casts = torch.full((len(talks), MOST_SPEAKERS), -1)
    hidden, active, posteriors = [], [], []
    for row, talk in enumerate(talks):
        casts[row, : len(talk.cast)] = torch.tensor([number[name] for name in talk.cast])
        values = torch.from_numpy(np.asarray(talk.values, np.float32))[None]
        frames = model.frames(values, torch.tensor([values.shape[1]]))
        hidden.append(frames.hidden.half())
        known = activity(talk.segments, talk.cast, frames.hidden.shape[1], model.hop_seconds)
        active.append(np.pad(known, ((0, 0), (0, MOST_SPEAKERS - len(talk.cast)))))
        if with_teacher:
            somebody = torch.from_numpy(~_quiet(model, talk))[None]
            logits = ears.listener.head(frames.embeddings)
            found = teach(
                logits, casts[row : row + 1], ears.listener.share, model.hop_seconds, TeacherConfig(), mask=somebody
            )
            posteriors.append((found * somebody[..., None])[..., 1:])
    return Heard(torch.cat(hidden), casts, np.stack(active), torch.cat(posteriors) if with_teacher else None)


class WeigherAndHead(nn.Module):
    """A weigher with the head that names its slots: what is trained on frozen frames."""

    def __init__(self, ears: Ears, head: LabelHead) -> None:
        super().__init__()
        self.weigher = copy.deepcopy(ears.model.weigher)  # the encoder has listened, the weigher has not learned yet
        self.head = head


def fresh_head(labels: int, embedding: int, seed: int) -> LabelHead:
    """Make a head that depends on nothing but the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LabelHead(embedding, labels)


def train_weigher(
    ears: Ears,
    heard: Heard,
    both: WeigherAndHead,
    loss: LossConfig,
    loop: LoopConfig,
    *,
    batch: int,
    validate: Callable[[WeigherAndHead], Mapping[str, float]] | None = None,
    progress: Progress | None = None,
) -> None:
    """Train in place by the set loss on heard files, whose times are the teacher's posteriors."""
    posteriors = heard.posteriors
    assert posteriors is not None

    def batches(k: int, generator: np.random.Generator) -> Tensor:
        return torch.from_numpy(generator.integers(len(heard.casts), size=batch))

    def step(both: WeigherAndHead, rows: Tensor) -> dict[str, Tensor]:
        weighed = both.weigher(heard.frames(ears, rows))
        return set_loss(weighed, both.head(weighed.embeddings), heard.casts[rows], posteriors[rows], loss)

    fit(both, step, batches, loop, validate=validate, device="cpu", progress=progress)
    both.eval()


def average_precision(scores: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Average precision of every column, [r, c] and bool [r, c] -> [c]; NaN where nothing is right.

        AP = mean over right rows i of  (right rows scored at least s_i) / (rows scored at least s_i)

    >>> average_precision(np.array([[3.0], [2.0], [1.0]]), np.array([[True], [False], [True]])).round(3).tolist()
    [0.833]
    """
    order = np.argsort(-scores, axis=0, kind="stable")
    ranked, hit = np.take_along_axis(scores, order, 0), np.take_along_axis(right, order, 0)
    place = np.broadcast_to(np.arange(len(scores))[:, None], scores.shape)
    is_last = np.concatenate([ranked[1:] != ranked[:-1], np.ones_like(hit[:1])])
    last = np.minimum.accumulate(np.where(is_last, place, len(scores))[::-1], 0)[::-1]  # of those scored alike
    precision = np.take_along_axis(np.cumsum(hit, 0), last, 0) / (last + 1)
    count = right.sum(0)
    return np.where(count > 0, (precision * hit).sum(0) / np.maximum(count, 1), np.nan)


def label_table(casts: Tensor, labels: int) -> np.ndarray:
    """Casts int [f, m] (-1: none) as bool [f, c].

    >>> label_table(torch.tensor([[1, -1], [0, 1]]), 2).tolist()
    [[False, True], [True, True]]
    """
    return torch.zeros(len(casts), labels + 1).scatter_(1, casts % (labels + 1), 1.0)[:, :labels].bool().numpy()


def mean_average_precision(scores: np.ndarray, casts: Tensor) -> float:
    """Per cent, over the labels that some file has: scores [f, c], casts int [f, m].

    >>> mean_average_precision(np.array([[2.0, 9.0], [1.0, 8.0]]), torch.tensor([[0], [-1]]))
    100.0
    """
    return float(100 * np.nanmean(average_precision(scores, label_table(casts, scores.shape[1]))))

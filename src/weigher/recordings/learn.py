"""Learning from casts: hear which labels recordings share, then weigh conversations put together from what is clear.

1. listen   short crops of the recordings; encoder and head learn every frame's label from the teacher's posteriors,
            which start as equal shares of the cast and sharpen (`weigher.recordings.teacher`)
2. gather   the teacher finds stretches that are clearly one person's, and quiet ones
3. weigh    new conversations from those stretches, times known by construction (`weigher.recordings.recompose`); the
            whole model learns by the set loss (`weigher.recordings.loss`)

With `times` (who speaks when on the training recordings) steps 1 and 2 take them in place of the teacher: the same
network trained with full time labels, the upper bound of every study. Both phases run on the one loop of
`weigher.train`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weigher.errors import RequestError
from weigher.recordings.loss import LossConfig, set_loss
from weigher.recordings.model import LabelHead, ModelConfig, RecordingModel
from weigher.recordings.recompose import RecomposeConfig, Recomposer, Stretches, runs
from weigher.recordings.teacher import (
    TeacherConfig,
    clear_frames,
    label_shares,
    partial_label_loss,
    teach,
)
from weigher.train.loop import History, LoopConfig, fit

Progress = Callable[[str, int, int], None]

_QUIET = 0.3  # share of a recording's frames, the softest, in which silence is looked for
_STRETCH_SECONDS = 0.4
_QUIET_SECONDS = 0.2


@dataclass(frozen=True)
class LearnConfig:
    """How long, and on what batches, each phase trains."""

    listen: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=600, learning_rate=2e-3, warmup_steps=60, floor=0.01, clip_norm=5.0, validate_every=100
        )
    )
    """Phase 1: encoder and head from partial labels."""
    listen_batch: int = 96
    """Crops in a batch of phase 1; many short ones from different recordings teach much faster than few long ones."""
    listen_seconds: float = 4.0
    """Length of a crop of phase 1."""
    weigh: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=900, learning_rate=2e-3, warmup_steps=90, floor=0.01, clip_norm=2.0, validate_every=100
        )
    )
    """Phase 3: the whole model on conversations put together."""
    weigh_batch: int = 20
    """Conversations in a batch of phase 3."""
    encoder_rate: float = 0.5
    """Learning rate of encoder and head in phase 3, as a fraction."""
    frame_weight: float = 0.2
    """Weight of naming single frames in phase 3."""
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    """The teacher of phases 1 and 2."""
    recompose: RecomposeConfig = field(default_factory=RecomposeConfig)
    """The conversations of phase 3."""
    loss: LossConfig = field(default_factory=LossConfig)
    """The loss of phase 3."""


@dataclass(frozen=True, eq=False)
class Archive:
    """Recordings in memory: values (arrays [t, f] or [samples]), casts as label numbers, and the labels' names.

    `times[i]`, where known: bool [t', m], who of the cast speaks in each of the recording's t' encoder frames.
    """

    values: Sequence[np.ndarray]
    casts: Sequence[Sequence[int]]
    labels: tuple[str, ...]
    times: Sequence[np.ndarray] | None = None

    def cast_table(self) -> Tensor:
        """Casts as int [r, m], -1 where a cast is shorter."""
        table = torch.full((len(self.casts), max(map(len, self.casts))), -1)
        for row, cast in zip(table, self.casts, strict=True):
            row[: len(cast)] = torch.tensor(cast)
        return table


class Listener(nn.Module):
    """Encoder and head, with the share of each label as the teacher sees it."""

    share: Tensor

    def __init__(self, model: RecordingModel, labels: int) -> None:
        super().__init__()
        # registered as parts, so that the loop saves what this phase trains and nothing else
        self.encoder = model.encoder
        self.wavlm = model.wavlm
        self.head = LabelHead(model.encoder.config.embedding, labels)
        self.register_buffer("share", torch.full((labels,), 1 / labels))


def learn(
    model: RecordingModel,
    archive: Archive,
    config: LearnConfig,
    *,
    run_dir: Path | None = None,
    resume: bool = False,
    device: str | torch.device = "auto",
    tensorboard: bool = False,
    validate: Callable[[RecordingModel], dict[str, float]] | None = None,
    progress: Progress | None = None,
) -> tuple[History, History]:
    """Train `model` in place on an archive; returns what happened in phases 1 and 3.

    A run that was stopped is taken up where it stood: `run_dir` holds one folder for each phase. Raises as
    `weigher.train.loop.fit`, and WeigherError where the archive has no clear stretch of anybody.
    """
    listener = Listener(model, len(archive.labels))
    common = {"device": device, "tensorboard": tensorboard}
    listened = _listen(
        model,
        listener,
        archive,
        config,
        run_dir=_part(run_dir, "listen"),
        resume=resume,
        progress=progress,
        **common,
    )
    stretches = gather(model, listener, archive, config.teacher, progress=progress)
    recompose = replace(config.recompose, max_speakers=min(config.recompose.max_speakers, model.config.weigher.slots))
    recomposer = Recomposer(archive.values, stretches, model.step_seconds, model.mix, recompose)
    model_and_head = WithHead(model, listener.head, listener.share)
    weighed = _weigh(
        model_and_head,
        recomposer,
        config,
        run_dir=_part(run_dir, "weigh"),
        resume=resume,
        validate=validate,
        progress=progress,
        **common,
    )
    return listened, weighed


def _part(run_dir: Path | None, name: str) -> Path | None:
    return None if run_dir is None else run_dir / name


def _resumes(folder: Path | None, resume: bool) -> bool:
    """A phase that had not begun when the run was stopped starts anew."""
    return resume and folder is not None and (folder / "last.safetensors").exists()


def _named(progress: Progress | None, name: str) -> Progress | None:
    return None if progress is None else lambda stage, done, total: progress(name, done, total)


def _listen(
    model: RecordingModel,
    listener: Listener,
    archive: Archive,
    config: LearnConfig,
    *,
    run_dir: Path | None,
    resume: bool,
    progress: Progress | None,
    **common,
) -> History:
    """Phase 1."""
    cast = archive.cast_table()
    steps = round(config.listen_seconds / model.step_seconds)
    total = config.listen.steps

    def batches(k: int, generator: np.random.Generator) -> dict[str, Tensor]:
        crops = _crops(model, archive, cast, generator, count=config.listen_batch, steps=steps)
        return {"part": torch.tensor(k / total), **crops}

    def step(listener: Listener, batch: dict[str, Tensor]) -> dict[str, Tensor | float]:
        frames = model.frames(batch["values"], batch["lengths"])
        logits = listener.head(frames.embeddings)
        part = batch["part"].item()
        if "times" in batch:
            posteriors = _times_as_posteriors(batch["times"], logits.shape[1])
        else:
            # first all frames are somebody's, and evidence counts more and more; then nobody may be there
            posteriors = teach(
                logits,
                batch["cast"],
                listener.share,
                model.hop_seconds,
                config.teacher,
                sharpness=min(1.0, part / 0.4),
                with_nobody=part > 0.7,
            )
        posteriors = posteriors * frames.mask[..., None]
        loss = partial_label_loss(logits, batch["cast"], posteriors, listener.share, frames.mask)
        if listener.training:
            shares = label_shares(batch["cast"], posteriors, len(listener.share))
            listener.share.lerp_(shares.to(listener.share), 0.03)
        return {"loss": loss, "items": float(len(batch["values"]))}

    return fit(
        listener,
        step,
        batches,
        config.listen,
        run_dir=run_dir,
        resume=_resumes(run_dir, resume),
        progress=_named(progress, "listen"),
        **common,
    )


def _times_as_posteriors(times: Tensor, length: int) -> Tensor:
    """Who speaks [b, t, m] as [b, length, 1 + m] with equal shares in overlaps."""
    times = times[:, :length].float()
    times = F.pad(times, (0, 0, 0, length - times.shape[1]))
    return F.pad(times / times.sum(2, keepdim=True).clamp(min=1), (1, 0))


def _crops(
    model: RecordingModel, archive: Archive, cast: Tensor, generator: np.random.Generator, *, count: int, steps: int
) -> dict[str, Tensor]:
    """Draw crops of `steps` values from as many recordings (whole ones where they are shorter)."""
    chosen = generator.choice(len(archive.values), count, replace=count > len(archive.values))
    per_frame = round(model.hop_seconds / model.step_seconds)
    first = archive.values[0]
    values = np.zeros((count, steps, *first.shape[1:]), np.float32)
    lengths = np.zeros(count, np.int64)
    times = None
    if archive.times is not None:
        times = np.zeros((count, -(-steps // per_frame), cast.shape[1]), bool)
    for row, index in enumerate(chosen):
        whole = archive.values[index]
        begin = int(generator.integers(0, max(1, len(whole) - steps + 1))) // per_frame * per_frame
        piece = whole[begin : begin + steps]
        values[row, : len(piece)], lengths[row] = piece, len(piece)
        if times is not None and archive.times is not None:
            told = archive.times[index][begin // per_frame :][: times.shape[1]]
            times[row, : len(told), : told.shape[1]] = told
    if model.mix == "log-power":
        values += _random_tilt(count, values.shape[-1], generator)
    batch = {"values": torch.from_numpy(values), "lengths": torch.from_numpy(lengths), "cast": cast[chosen]}
    return batch if times is None else {**batch, "times": torch.from_numpy(times)}


def _random_tilt(count: int, bands: int, generator: np.random.Generator) -> np.ndarray:
    """Smooth random channel for each crop: [count, 1, bands]."""
    place = np.linspace(0, 1, bands)
    shapes = np.stack([2 * (place - 0.5), np.cos(np.pi * place), np.cos(2 * np.pi * place)])
    return (0.4 * generator.normal(size=(count, 3)) @ shapes)[:, None].astype(np.float32)


@torch.inference_mode()
def gather(
    model: RecordingModel,
    listener: Listener,
    archive: Archive,
    config: TeacherConfig,
    *,
    progress: Progress | None = None,
) -> Stretches:
    """Phase 2: find the stretches of an archive that are clearly one person's, and quiet ones."""
    device = next(listener.parameters()).device
    model.to(device).eval()
    listener.eval()
    per_frame = round(model.hop_seconds / model.step_seconds)
    found: list[np.ndarray] = []
    for rows in _alike(archive.values):
        if archive.times is None:
            values = torch.as_tensor(np.stack([archive.values[i] for i in rows]).astype(np.float32), device=device)
            frames = model.frames(values, torch.full((len(rows),), values.shape[1], device=device))
            cast = archive.cast_table()[rows].to(device)
            logits = listener.head(frames.embeddings)
            states = clear_frames(logits, cast, listener.share, model.hop_seconds, config).cpu().numpy()
        else:
            states = [_states_of_times(archive.times[i]) for i in rows]
        for index, state in zip(rows, states, strict=True):
            whole, clear = archive.values[index], state
            if archive.times is None:
                clear = _only_soft(state, whole, per_frame, model.mix)
            starts, ends, kinds = runs(clear)
            least = np.where(kinds == -1, _QUIET_SECONDS, _STRETCH_SECONDS) / model.hop_seconds
            keep = (kinds > -2) & (ends - starts >= least)
            names = np.array([*archive.casts[index], -1])[kinds[keep]]  # kind -1 takes the last, which is -1
            stop = np.minimum(ends[keep] * per_frame, len(whole))
            found.append(np.stack([np.full(keep.sum(), index), starts[keep] * per_frame, stop, names], 1))
        if progress is not None:
            progress("gather", len(found), len(archive.values))
    return Stretches(*np.concatenate(found).T)


def _alike(values: Sequence[np.ndarray], most: int = 16) -> Iterator[list[int]]:
    """Yield numbers of recordings of one length, up to `most` at a time, so that no batch is padded."""
    order = sorted(range(len(values)), key=lambda i: len(values[i]))
    for _, group in groupby(order, key=lambda i: len(values[i])):
        same = list(group)
        yield from (same[first : first + most] for first in range(0, len(same), most))


def _states_of_times(times: np.ndarray) -> np.ndarray:
    """Who speaks alone in each frame: index into the cast, -1 nobody, -2 several; times bool [t, m] -> int [t]."""
    count = times.sum(1)
    return np.where(count == 1, times.argmax(1), np.where(count == 0, -1, -2))


def _only_soft(states: np.ndarray, values: np.ndarray, per_frame: int, mix: str) -> np.ndarray:
    """Take silence back where the recording is not soft: what the head does not know may still be a voice."""
    if mix == "replace":
        return states
    whole = np.asarray(values[: len(values) // per_frame * per_frame], np.float32)
    level = whole.reshape(len(whole) // per_frame, -1)
    level = level.mean(1) if mix == "log-power" else np.square(level).mean(1)
    loud = np.pad(level > np.quantile(level, _QUIET), (0, len(states) - len(level)), constant_values=True)
    return np.where((states == -1) & loud[: len(states)], -2, states)


class WithHead(nn.Module):
    """The model with the label head and the labels' shares: what phase 3 trains."""

    share: Tensor

    def __init__(self, model: RecordingModel, head: LabelHead, share: Tensor) -> None:
        super().__init__()
        self.model = model
        self.head = head
        self.register_buffer("share", share)


def _weigh(
    both: WithHead,
    recomposer: Recomposer,
    config: LearnConfig,
    *,
    run_dir: Path | None,
    resume: bool,
    validate: Callable[[RecordingModel], dict[str, float]] | None,
    progress: Progress | None,
    **common,
) -> History:
    """Phase 3."""
    model = both.model

    def batches(k: int, generator: np.random.Generator) -> dict[str, Tensor]:
        return conversations(recomposer, config.weigh_batch, model, generator)

    def step(both: WithHead, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        weighed = both.model(batch["values"], batch["lengths"])
        length = weighed.tracks.shape[1]
        activity = F.pad(batch["activity"], (0, 0, 0, max(0, length - batch["activity"].shape[1])))[:, :length]
        parts = set_loss(weighed, both.head(weighed.embeddings), batch["labels"], activity, config.loss)
        posteriors = F.pad(activity * (activity.sum(2, keepdim=True) == 1), (1, 0))
        named = both.head(weighed.frames.embeddings)
        frames = partial_label_loss(named, batch["labels"], posteriors, both.share, weighed.frames.mask)
        return {**parts, "loss": parts["loss"] + config.frame_weight * frames, "frames": frames}

    checked = None if validate is None else (lambda both: validate(both.model))
    return fit(
        both,
        step,
        batches,
        config.weigh,
        validate=checked,
        run_dir=run_dir,
        resume=_resumes(run_dir, resume),
        progress=_named(progress, "weigh"),
        **common,
    )


def conversations(
    recomposer: Recomposer, count: int, model: RecordingModel, generator: np.random.Generator
) -> dict[str, Tensor]:
    """Make a batch: values, lengths, activity float [b, t, m] on the encoder's frames, labels int [b, m] (-1: none)."""
    made = [recomposer.conversation(generator) for _ in range(count)]
    most = max(len(people) for _, _, people in made)
    grid = max(model.step_seconds, 0.01)
    frames = int(len(made[0][1]) * grid / model.hop_seconds)
    middle = ((np.arange(frames) + 0.5) * model.hop_seconds / grid).astype(int)
    activity = np.zeros((count, frames, most), np.float32)
    labels = np.full((count, most), -1)
    for row, (_, active, people) in enumerate(made):
        activity[row, :, : len(people)] = active[middle]
        labels[row, : len(people)] = people
    # someone whose turns fell outside is not there
    labels[activity.sum(1) == 0] = -1
    values = np.stack([values for values, _, _ in made]).astype(np.float32)
    return {
        "values": torch.from_numpy(values),
        "lengths": torch.full((count,), values.shape[1]),
        "activity": torch.from_numpy(activity),
        "labels": torch.from_numpy(labels),
    }


def check_archive(archive: Archive, config: ModelConfig) -> None:
    """Raise RequestError for an archive from which nothing can be learned, or with a cast larger than the slots."""
    if len(archive.labels) < 2:
        raise RequestError(
            f"the casts hold {len(archive.labels)} name; at least 2 people are needed to learn what tells people apart"
        )
    largest = max(map(len, archive.casts))
    if largest > config.weigher.slots:
        raise RequestError(f"a cast holds {largest} people and the model has {config.weigher.slots} slots; raise slots")

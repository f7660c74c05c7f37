"""Learning from casts: hear which labels recordings share, then weigh conversations put together from what is clear.

1. listen   short crops of the recordings; encoder and head learn every frame's label from the teacher's posteriors,
            which start as equal shares of the cast and sharpen (`weigher.recordings.teacher`); long quiet
            (`weigher.recordings.silence`) is nobody's
2. gather   the teacher finds stretches that are clearly one person's, and quiet ones
3. weigh    new conversations from those stretches, times known by construction (`weigher.recordings.recompose`); the
            whole model learns by the set loss (`weigher.recordings.loss`)

In the end the slots of the training recordings, named by the head, show how voices are best compared
(`weigher.recordings.voice_space`).

While phase 1 listens, it also records how clearly each name is heard in each recording
(`weigher.recordings.cast_margins`), which changes nothing of what is learned. Training can begin from a model that has
learned before (`weigher.recordings.adapt`), of which a part is held as it is; while the encoder is, voices that are
remembered of other names are named in phase 3 too (`weigher.recordings.remembered`).

With `times` (who speaks when on the training recordings) steps 1 and 2 take them in place of the teacher: the same
network trained with full time labels, the upper bound of every study. Both phases run on the one loop of
`weigher.train`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weigher.core.matching import Matching, match
from weigher.errors import RequestError
from weigher.recordings.archive import Archive, conversations, crops
from weigher.recordings.cast_margins import CastMargins, plant, recorder, with_planted
from weigher.recordings.gather import gather, gather_voices, hold_out
from weigher.recordings.holding import holding
from weigher.recordings.learn_config import LearnConfig
from weigher.recordings.loss import class_loss, set_loss
from weigher.recordings.model import LabelHead, RecordingModel
from weigher.recordings.recompose import Recomposer, Stretches
from weigher.recordings.remembered import Remembered, remember, to_rehearse
from weigher.recordings.silence import quiet_frames
from weigher.recordings.teacher import label_shares, partial_label_loss, teach
from weigher.recordings.windows import least_values
from weigher.train.distribution import to_device
from weigher.train.loop import History, fit

Progress = Callable[[str, int, int], None]

_TAUGHT = 0.4  # share of phase 1 after which the teacher's evidence counts in full
_VALIDATION_BATCHES = 2
_REHEARSED = 32  # remembered voices in a batch of phase 3


@dataclass(frozen=True, eq=False)
class Learned:
    """What happened in phases 1 and 3, and the voices of the names as the trained model hears them."""

    listened: History
    weighed: History
    voices: Remembered


class Listener(nn.Module):
    """Encoder and head, with the share of each label as the teacher sees it, and `margins`, once it has listened."""

    share: Tensor
    margins: CastMargins

    def __init__(self, model: RecordingModel, labels: int, head: LabelHead | None = None) -> None:
        super().__init__()
        # registered as parts, so that the loop saves what this phase trains and nothing else
        self.encoder = model.encoder
        self.wavlm = model.wavlm
        self.head = head or LabelHead(model.encoder.config.embedding, labels)
        self.register_buffer("share", torch.full((labels,), 1 / labels))


def learn(
    model: RecordingModel,
    archive: Archive,
    config: LearnConfig,
    *,
    head: LabelHead | None = None,
    run_dir: Path | None = None,
    resume: bool = False,
    remembered: Remembered | None = None,
    device: str | torch.device = "auto",
    tensorboard: bool = False,
    validate: Callable[[RecordingModel], dict[str, float]] | None = None,
    progress: Progress | None = None,
) -> Learned:
    """Train `model` in place on an archive; returns what happened, and the voices it has heard.

    `head`, which names the labels of the archive, is trained in place too (default: a new one). Labels that no
    recording has keep their rows in it: they are known from before, and so may be their voices (`remembered`).

    Phase 3 ends with its best weights by `validate(model)` ("score", higher is better), by default the track loss on
    conversations of one recording in 20 that is held out for it (in archives of 60 recordings or more).

    A run that was stopped is taken up where it stood: `run_dir` holds one folder for each phase. Raises as
    `weigher.train.loop.fit`, and WeigherError where the archive has no clear stretch of anybody.
    """
    archive = _with_quiet(model, archive)  # found once for both phases
    listener, listened = listen(
        model,
        archive,
        config,
        head=head,
        run_dir=_part(run_dir, "listen"),
        resume=resume,
        device=device,
        tensorboard=tensorboard,
        progress=progress,
    )
    weighed = weigh(
        model,
        listener,
        archive,
        config,
        run_dir=_part(run_dir, "weigh"),
        resume=resume,
        remembered=remembered,
        device=device,
        tensorboard=tensorboard,
        validate=validate,
        progress=progress,
    )
    voices, people = gather_voices(model, listener.head, archive)
    if config.frozen == "nothing":
        remembered = None  # the encoder has moved, and with it all voices
        try:
            model.voice.fit(voices, people)
        except RequestError:  # too few to learn from: voices are compared as they are
            model.voice.reset()
    return Learned(listened, weighed, remember(voices, people, len(archive.labels), remembered))


def _with_quiet(model: RecordingModel, archive: Archive) -> Archive:
    """Find long quiet, where neither it nor the times are known."""
    if archive.times is not None or archive.quiet is not None or model.mix == "replace":
        return archive
    ratio = round(model.hop_seconds / model.step_seconds)
    quiet = [quiet_frames(values, ratio, model.hop_seconds, model.mix) for values in archive.values]
    return replace(archive, quiet=quiet)


def _part(run_dir: Path | None, name: str) -> Path | None:
    return None if run_dir is None else run_dir / name


def _resumes(folder: Path | None, resume: bool) -> bool:
    """A phase that had not begun when the run was stopped starts anew."""
    return resume and folder is not None and (folder / "last.safetensors").exists()


def _named(progress: Progress | None, name: str) -> Progress | None:
    return None if progress is None else lambda stage, done, total: progress(name, done, total)


def listen(
    model: RecordingModel,
    archive: Archive,
    config: LearnConfig,
    *,
    head: LabelHead | None = None,
    run_dir: Path | None = None,
    resume: bool = False,
    device: str | torch.device = "auto",
    tensorboard: bool = False,
    progress: Progress | None = None,
) -> tuple[Listener, History]:
    """Phase 1: train the encoder of `model` in place, with a head that names the labels of the archive.

    Raises as `weigher.train.loop.fit`.
    """
    archive = _with_quiet(model, archive)
    listener = Listener(model, len(archive.labels), head)
    planted = plant(archive.casts, config.planted, config.listen.seed)
    cast = with_planted(archive, planted)
    listener.margins = recorder(model, archive, cast, planted)
    steps = round(config.listen_seconds / model.step_seconds)
    if steps < least_values(model):
        raise RequestError(
            f"listen_seconds = {config.listen_seconds:g} holds no frame; needed are "
            f"{least_values(model) * model.step_seconds:g} s or more, and some seconds to hear a voice"
        )
    total = config.listen.steps

    def batches(k: int, generator: np.random.Generator) -> dict[str, Tensor]:
        drawn = crops(
            model, archive, cast, generator, count=config.listen_batch, steps=steps, hidden=config.hidden_bands
        )
        return {"part": torch.tensor(k / total), **drawn}

    def step(listener: Listener, batch: dict[str, Tensor]) -> dict[str, Tensor | float]:
        frames = model.frames(batch["values"], batch["lengths"])
        logits = listener.head(frames.embeddings)
        heard = frames.mask
        if "quiet" in batch:
            heard = heard & ~_padded(batch["quiet"], logits.shape[1])
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
                sharpness=min(1.0, part / _TAUGHT),
                with_nobody=part > 0.7,
                mask=heard,
            )
        posteriors = posteriors * heard[..., None]
        loss = partial_label_loss(logits, batch["cast"], posteriors, listener.share, heard)
        if listener.training:
            shares = label_shares(batch["cast"], posteriors, len(listener.share))
            listener.share.lerp_(shares.to(listener.share), 0.03)
            if part >= _TAUGHT and len(listener.share) > 1:
                listener.margins.add(batch["recording"], batch["begin"], logits, heard)
        return {"loss": loss, "items": float(len(batch["values"]))}

    with holding(model, listener.head, archive, config.frozen) as in_place:
        history = fit(
            listener,
            step,
            batches,
            config.listen,
            on_step=in_place,
            run_dir=run_dir,
            resume=_resumes(run_dir, resume),
            device=device,
            tensorboard=tensorboard,
            progress=_named(progress, "listen"),
        )
    return listener, history


def _times_as_posteriors(times: Tensor, length: int) -> Tensor:
    """Who speaks [b, t, m] as [b, length, 1 + m] with equal shares in overlaps."""
    times = _padded(times.mT, length).mT.float()
    return F.pad(times / times.sum(2, keepdim=True).clamp(min=1), (1, 0))


def _padded(flags: Tensor, length: int) -> Tensor:
    """Flags [..., t] cut or padded with False to [..., length]."""
    return F.pad(flags[..., :length], (0, max(0, length - flags.shape[-1])))


class WithHead(nn.Module):
    """The model with the label head and the labels' shares: what phase 3 trains."""

    share: Tensor

    def __init__(self, model: RecordingModel, head: LabelHead, share: Tensor) -> None:
        super().__init__()
        self.model = model
        self.head = head
        self.register_buffer("share", share)


def weigh(
    model: RecordingModel,
    listener: Listener,
    archive: Archive,
    config: LearnConfig,
    *,
    run_dir: Path | None = None,
    resume: bool = False,
    remembered: Remembered | None = None,
    device: str | torch.device = "auto",
    tensorboard: bool = False,
    validate: Callable[[RecordingModel], dict[str, float]] | None = None,
    matching: Callable[[Tensor, Tensor], Matching] = match,
    progress: Progress | None = None,
) -> History:
    """Phases 2 and 3: gather what `listener` hears clearly, and train all of `model` in place on it.

    The listener's encoder is the model's own; its head learns on. `matching` is that of the set loss. Raises as
    `learn`.
    """
    archive = _with_quiet(model, archive)
    absent = to_rehearse(remembered if config.frozen == "encoder" else None, archive.casts)
    stretches = gather(model, listener.head, listener.share, archive, config.teacher, progress=progress)
    recompose = replace(config.recompose, max_speakers=min(config.recompose.max_speakers, model.config.weigher.slots))
    kept, held = hold_out(stretches, len(archive.values))

    def recomposer(part: Stretches) -> Recomposer:
        return Recomposer(archive.values, part, model.step_seconds, model.mix, recompose)

    heard, checker = recomposer(kept), None if held is None else recomposer(held)
    both = WithHead(model, listener.head, listener.share)

    def batches(k: int, generator: np.random.Generator) -> dict[str, Tensor]:
        batch = conversations(heard, config.weigh_batch, model, generator, hidden=config.hidden_bands)
        if remembered is not None and len(absent):
            names = generator.choice(absent, _REHEARSED)
            batch |= {"voices": remembered.draw(names, generator), "names": torch.from_numpy(names)}
        return batch

    def step(both: WithHead, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        weighed = both.model(batch["values"], batch["lengths"])
        length = weighed.tracks.shape[1]
        activity = F.pad(batch["activity"], (0, 0, 0, max(0, length - batch["activity"].shape[1])))[:, :length]
        parts = set_loss(
            weighed, both.head(weighed.embeddings), batch["labels"], activity, config.loss, matching=matching
        )
        posteriors = F.pad(activity * (activity.sum(2, keepdim=True) == 1), (1, 0))
        named = both.head(weighed.frames.embeddings)
        frames = partial_label_loss(named, batch["labels"], posteriors, both.share, weighed.frames.mask)
        loss = parts["loss"] + config.frame_weight * frames
        if "voices" not in batch:
            return {**parts, "loss": loss, "frames": frames}
        rehearsal = class_loss(config.loss.classes, both.head(batch["voices"]), batch["names"]).mean()
        loss = loss + config.rehearsal_weight * config.loss.class_weight * rehearsal
        return {**parts, "loss": loss, "frames": frames, "rehearsal": rehearsal}

    def score(both: WithHead) -> dict[str, float]:
        """Track loss on the same conversations each time, of stretches that training never hears."""
        assert checker is not None
        generator, device, losses = np.random.default_rng(0), next(both.parameters()).device, []
        for _ in range(_VALIDATION_BATCHES):
            batch = to_device(conversations(checker, config.weigh_batch, model, generator), device)
            losses.append(float(step(both, batch)["tracks"]))
        return {"score": -float(np.mean(losses))}

    given = validate
    checks = (lambda both: given(both.model)) if given is not None else score if checker is not None else None
    with holding(model, listener.head, archive, config.frozen) as in_place:
        return fit(
            both,
            step,
            batches,
            config.weigh,
            validate=checks,
            on_step=in_place,
            run_dir=run_dir,
            resume=_resumes(run_dir, resume),
            device=device,
            tensorboard=tensorboard,
            progress=_named(progress, "weigh"),
        )

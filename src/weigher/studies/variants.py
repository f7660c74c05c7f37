"""What studies of the weigher's parts share: one listening for each seed, after which every variant starts alike.

A variant takes over whatever of the listened model has its name and shape there, which is all of the encoder and all of
the untrained weigher that the variant leaves as it was, and a copy of the listener. It then weighs the same number of
steps on the same conversations, so that what differs within a seed is the variant's doing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from weigher.core.matching import Matching, match
from weigher.recordings.archive import Archive
from weigher.recordings.decode import decode_slots
from weigher.recordings.diarizer import Diarizer, DiarizerConfig
from weigher.recordings.encoder import EncoderConfig
from weigher.recordings.learn import LearnConfig, Listener, Progress, listen, weigh
from weigher.recordings.loss import LossConfig, track_cost
from weigher.recordings.model import FrontConfig, LabelHead, ModelConfig, RecordingModel
from weigher.recordings.silence import quiet_frames
from weigher.recordings.weigher import Weigher, WeigherConfig
from weigher.studies.diarization import Talk, activity, archive_of, figures
from weigher.train.loop import History, LoopConfig

Build = Callable[[int, int, WeigherConfig, LabelHead], Weigher]
"""Channels, size of embeddings, config and the head that training names labels by -> weigher."""


@dataclass(frozen=True)
class Training:
    """How long a model listens and each variant weighs."""

    listen: int
    """Steps of listening, 96 crops of 4 s each."""
    weigh: int
    """Steps of weighing."""
    batch: int
    """Conversations in a step of weighing, of 10 s each."""
    slots: int


@dataclass(frozen=True, eq=False)
class Listened:
    """Where all variants of a seed start; `config` is that of the variant that changes nothing."""

    config: DiarizerConfig
    archive: Archive
    model: RecordingModel
    listener: Listener
    history: History


def listen_once(
    archive: Archive, hop_seconds: float, training: Training, *, seed: int, progress: Progress | None = None
) -> Listened:
    """Let a model listen to an archive of features; from the same seed and archive it is the same."""
    phases = LearnConfig()
    learn = replace(
        phases,
        listen=_shortened(phases.listen, training.listen, seed),
        weigh=_shortened(phases.weigh, training.weigh, seed),
        weigh_batch=training.batch,
    )
    front = FrontConfig(kind="features", features=archive.values[0].shape[1], hop_seconds=hop_seconds)
    config = DiarizerConfig(model=ModelConfig(front, weigher=WeigherConfig(slots=training.slots)), learn=learn)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = RecordingModel(config.model)
        listener, history = listen(model, archive, learn, progress=progress)
    return Listened(config, archive, model, listener, history)


def _shortened(loop: LoopConfig, steps: int, seed: int) -> LoopConfig:
    return replace(loop, steps=steps, warmup_steps=min(loop.warmup_steps, steps // 5), validate_every=steps, seed=seed)


def archive_with_quiet(talks: Sequence[Talk], hop_seconds: float) -> Archive:
    """Make an archive of talks of features, with the quiet that every phase would look for found once."""
    values, stride = [talk.values.astype(np.float16) for talk in talks], EncoderConfig().stride
    quiet = [quiet_frames(each, stride, hop_seconds * stride, "log-power") for each in values]
    return replace(archive_of(talks, values), quiet=quiet)


def plain_weigher(channels: int, embedding: int, config: WeigherConfig, head: LabelHead) -> Weigher:
    """Build the library's own weigher, which knows of no head."""
    return Weigher(channels, embedding, config)


def variant(
    listened: Listened,
    weigher: WeigherConfig | None = None,
    *,
    build: Build = plain_weigher,
    loss: LossConfig | None = None,
    matching: Callable[[Tensor, Tensor], Matching] = match,
    progress: Progress | None = None,
) -> Diarizer:
    """Train one variant from where `listened` stands, which stays as it is; what is not given is the default's."""
    base = listened.config
    weigher = weigher or base.model.weigher
    config = replace(
        base,
        model=replace(base.model, weigher=weigher),
        learn=replace(base.learn, loss=loss or base.learn.loss),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.learn.weigh.seed)
        model = RecordingModel(config.model)
        listener = Listener(model, len(listened.archive.labels))
        model.weigher = build(model.encoder.channels, config.model.encoder.embedding, weigher, listener.head)
        take_over(model, listened.model)
        take_over(listener, listened.listener)
        history = weigh(model, listener, listened.archive, config.learn, matching=matching, progress=progress)
    diarizer = Diarizer(config=config)
    diarizer.model_ = model.to(diarizer.device).eval()
    diarizer.labels_ = listened.archive.labels
    diarizer.history_ = (listened.history, history)
    return diarizer


def take_over(module: nn.Module, start: nn.Module) -> None:
    """Copy into `module` all parameters and buffers of `start` that it has, by name and shape.

    >>> small, large = nn.Linear(2, 1), nn.Linear(3, 1)
    >>> take_over(small, large)
    >>> torch.equal(small.bias, large.bias), small.weight.shape
    (True, torch.Size([1, 2]))
    """
    own = module.state_dict()
    theirs = {name: value for name, value in start.state_dict().items() if name in own}
    module.load_state_dict(own | {name: value for name, value in theirs.items() if value.shape == own[name].shape})


@dataclass(frozen=True, eq=False)
class Answer:
    """All slots of one talk: tracks [t, n], confidence [n], and whose they are, int [n]: of the talk's cast, or -1.

    A slot is a speaker's where training would have matched the two: where the matched tracks' cross-entropy is least.
    """

    talk: Talk
    tracks: np.ndarray
    confidence: np.ndarray
    whose: np.ndarray
    hop_seconds: float


def answers(diarizer: Diarizer, talks: Sequence[Talk]) -> list[Answer]:
    """Apply a model to talks and keep every slot."""
    slots = diarizer.config.model.weigher.slots
    found = []
    for talk in talks:
        result = diarizer.predict(talk.values, num_speakers=slots)
        active = activity(talk.segments, talk.cast, len(result.tracks), result.hop_seconds)
        whose = matched_slots(result.tracks, active)
        confidence = result.confidence.clip(0, 1)  # means of probabilities can be above 1 by a rounding
        found.append(Answer(talk, result.tracks, confidence, whose, result.hop_seconds))
    return found


def matched_slots(tracks: np.ndarray, active: np.ndarray) -> np.ndarray:
    """Whose each slot is: tracks [t, n] in [0, 1], who speaks bool [t, m] -> int [n], -1 for nobody's.

    >>> matched_slots(np.array([[0.1, 0.2, 0.9], [0.1, 0.8, 0.1]]), np.array([[True, False], [False, True]])).tolist()
    [-1, 1, 0]
    """
    logits = torch.from_numpy(tracks)[None].double().logit(1e-6)
    cost, _ = track_cost(logits, torch.from_numpy(active)[None].double(), torch.ones(1, len(tracks), dtype=torch.bool))
    pairs = match(cost)
    whose = np.full(tracks.shape[1], -1)
    whose[pairs.slot.numpy()] = pairs.label.numpy()
    return whose


def error_rates(found: Sequence[Answer], diarizer: Diarizer, threshold: float) -> dict[str, float]:
    """Error rates in per cent, where slots are speakers from `threshold` on."""
    config = replace(diarizer.config.decode, threshold=threshold)
    turns = {}
    for each in found:
        decoded = decode_slots(
            each.tracks, each.confidence, each.hop_seconds, duration_seconds=each.talk.seconds, config=config
        )
        turns[each.talk.name] = list(decoded.segments)
    return figures([each.talk for each in found], turns)


def kept_bytes(forward: Callable[[], object], parameters: Iterable[Tensor] = ()) -> int:
    """Memory that a forward pass keeps for its gradients, in bytes; a storage counts once, `parameters` do not.

    >>> x = torch.zeros(100, requires_grad=True)
    >>> kept_bytes(lambda: x.exp().exp())  # each keeps what it gives
    800
    """
    own = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    held: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> int:
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage  # held, or its place could be another's later
        return storage.data_ptr()

    def give_back(pointer: int) -> Tensor:
        raise AssertionError("nothing goes backward here")

    with torch.autograd.graph.saved_tensors_hooks(keep, give_back):
        forward()
    return sum(storage.nbytes() for pointer, storage in held.items() if pointer not in own)

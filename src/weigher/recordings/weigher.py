"""The weigher: frames in, N weight tracks out; each track pools the frames into one person and says how sure it is.

    X = sigmoid(g(h))                     tracks          [b, t, n] in [0, 1], 0 where padded
    W_tn = X_tn / sum_s X_sn              weights         sum to 1 over time
    e_n = sum_t W_tn f_t                  slot embedding  [b, n, e]
    q_n = sum_t X_tn^2 / sum_t X_tn       confidence      [b, n] in [0, 1]

g reduces channels and time, lets transformer blocks with gated relative position bias look at the whole recording,
repeats each coarse step to get the time axis back, and refines the edges on the fine frames. Scaling X changes the
confidence and leaves the weights alone, so the sum that normalising loses carries the count of people.

Two designs of g stay side by side: `linear` reads N tracks off the blocks, `iterated` (default) finds slots among the
frames first (`weigher.recordings.slots`). Source: the design is this project's own; q is linear softmax pooling (Wang,
Li, Metze 2018, arXiv 1810.09050).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weigher.core.pooling import (
    auto_pool,
    exp_softmax_pool,
    mean_pool,
    power_pool,
    self_weighted_mean,
    weighted_mean,
)
from weigher.core.weights import normalise, widen
from weigher.errors import RequestError
from weigher.recordings.blocks import EncoderBlocks
from weigher.recordings.encoder import Frames
from weigher.recordings.slots import IteratedTracks, likeness

Confidence = Literal["self-weighted", "separate-weighted", "separate-mean", "power", "exp-softmax", "auto"]

_SECOND_TRACK = ("separate-weighted", "separate-mean")
_SHARPENED = ("power", "auto")
_SHARPENING = 8.0  # a step of the optimizer moves the sharpness by some per cent, else it would stay where it starts
_MAX_DISTANCE = 200  # coarse steps; beyond, two frames are simply far apart


@dataclass(frozen=True)
class WeigherConfig:
    """Sizes and design of the weigher."""

    slots: int = 8
    """Most people in one recording (or one window of a long one)."""
    tracks: Literal["iterated", "linear"] = "iterated"
    """How tracks come about: slots found among the frames, or N outputs of the blocks."""
    confidence: Confidence = "self-weighted"
    """The track under its own weight; a second track under the weights; a second track's plain mean; relatives of the
    first: the track under a learned power of itself, under its exponential, under that of a learned multiple."""
    channel_reduction: int = 2
    """Hidden channels of the encoder to one channel of the blocks; 12 suits the 768 of WavLM."""
    time_reduction: int = 5
    """Encoder frames to one step of the blocks; 15 suits the 50 frames/s of WavLM."""
    layers: int = 2
    """Transformer blocks."""
    heads: int = 4
    """Attention heads."""
    rounds: int = 2
    """Times the slots are pooled again (iterated)."""

    def __post_init__(self) -> None:
        for name in ("slots", "channel_reduction", "time_reduction", "layers", "heads", "rounds"):
            if getattr(self, name) < 1:
                raise RequestError(f"{name} = {getattr(self, name)}; the weigher needs at least 1")
        if self.tracks not in ("iterated", "linear"):
            raise RequestError(f"tracks = {self.tracks!r}; the weigher has 'iterated' and 'linear'")
        if self.confidence not in get_args(Confidence):
            raise RequestError(f"confidence = {self.confidence!r}; the weigher has {', '.join(get_args(Confidence))}")

    def channels(self, hidden: int) -> int:
        """Channels of the blocks for so many hidden channels: a multiple of the heads."""
        return max(1, round(hidden / self.channel_reduction / self.heads)) * self.heads


@dataclass(frozen=True, eq=False)
class Weighed:
    """What the weigher gives for a batch.

    tracks [b, t, n] in [0, 1]; embeddings [b, n, e]; confidence [b, n]; logits: of the tracks after each round, coarse
    ones repeated, [b, t, n] each, the last refined; speech_logits [b, t]: that anybody speaks; frames: as they came.
    """

    tracks: Tensor
    embeddings: Tensor
    confidence: Tensor
    logits: tuple[Tensor, ...]
    speech_logits: Tensor
    frames: Frames


def track_confidence(
    design: Confidence, tracks: Tensor, second: Tensor | None, mask: Tensor, sharpness: float | Tensor = 1.0
) -> Tensor:
    """Say how sure each track is that there is somebody.

        self-weighted       sum_t X^2 / sum_t X
        separate-weighted   sum_t X Y / sum_t X                   Y: a second track per slot
        separate-mean       mean_t Y
        power               sum_t X^(1 + a) / sum_t X^a           a: the sharpness
        exp-softmax         sum_t X exp(X) / sum_t exp(X)
        auto                sum_t X exp(a X) / sum_t exp(a X)

    Shapes: tracks X and second Y [b, t, n] in [0, 1], mask bool [b, t], sharpness in [0, inf) -> [b, n] in [0, 1]; 0
    for an all-zero track (separate-mean: for a file without frames). Sources: `weigher.core.pooling`.

    >>> tracks = torch.tensor([[[0.0], [0.5], [1.0]]])
    >>> round(track_confidence("self-weighted", tracks, None, torch.ones(1, 3, dtype=torch.bool)).item(), 3)
    0.833
    """
    real = mask[..., None]
    if design == "power":
        return power_pool(tracks, 1, sharpness, real)
    if design == "auto":
        return auto_pool(tracks, 1, sharpness, real)
    if design == "exp-softmax":
        return exp_softmax_pool(tracks, 1, real)
    if design == "self-weighted" or second is None:
        return self_weighted_mean(tracks, 1, real)
    if design == "separate-weighted":
        return (normalise(tracks * real, 1) * second).sum(1)
    return mean_pool(second, 1, real)


def pool_coarse(x: Tensor, mask: Tensor, reduction: int) -> tuple[Tensor, Tensor]:
    """Average real frames over three coarse steps around each: x [b, t, e], mask [b, t] -> [b, ceil(t / r), e], mask.

    >>> pooled, mask = pool_coarse(torch.ones(1, 5, 2), torch.ones(1, 5, dtype=torch.bool), 2)
    >>> pooled.shape, pooled.max().item(), mask.shape
    (torch.Size([1, 3, 2]), 1.0, torch.Size([1, 3]))
    """
    fill = -x.shape[1] % reduction
    real = F.pad(mask, (0, fill)).to(x.dtype)
    values = F.pad(x * mask[..., None], (0, 0, 0, fill))

    def around(rows: Tensor) -> Tensor:
        return F.avg_pool1d(F.pad(rows, (reduction, reduction)), 3 * reduction, stride=reduction)

    share = around(real[:, None])
    coarse = real.unflatten(-1, (-1, reduction)).amax(-1) > 0
    return (around(values.mT) / share.clamp(min=1e-6)).mT * coarse[..., None], coarse


class Weigher(nn.Module):
    """Tracks, weights, slot embeddings and confidences of encoded frames; a padded batch equals its single files.

    >>> from weigher.recordings.encoder import FrameEncoder
    >>> encoder = FrameEncoder(40)
    >>> weigher = Weigher(encoder.channels, 256, WeigherConfig(slots=4))
    >>> out = weigher(encoder(torch.randn(2, 200, 40), torch.ones(2, 200, dtype=torch.bool)))
    >>> out.tracks.shape, out.embeddings.shape, out.confidence.shape
    (torch.Size([2, 50, 4]), torch.Size([2, 4, 256]), torch.Size([2, 4]))
    """

    def __init__(self, channels: int, embedding: int, config: WeigherConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or WeigherConfig()
        dim, ratio = config.channels(channels), config.time_reduction
        self.outputs = 2 if config.confidence in _SECOND_TRACK else 1
        if config.confidence in _SHARPENED:
            self.log_sharpness = nn.Parameter(torch.zeros(()))
        self.reduce_channels = nn.Conv1d(channels, dim, 1)
        self.reduce_time = nn.Conv1d(dim, dim, 2 * ratio + 1, stride=ratio, padding=ratio)
        layers = 1 if config.tracks == "iterated" else config.layers
        buckets = _MAX_DISTANCE // 4 * 4
        self.blocks = EncoderBlocks(dim, config.heads, layers, 2 * dim, buckets=buckets, max_distance=_MAX_DISTANCE)
        self.speech = nn.Linear(dim, 1)
        if config.tracks == "iterated":
            self.iterated = IteratedTracks(
                dim,
                embedding,
                slots=config.slots,
                outputs=self.outputs,
                rounds=config.rounds,
                layers=config.layers,
                heads=config.heads,
                max_distance=_MAX_DISTANCE,
            )
        else:
            self.linear = nn.Linear(dim, config.slots * self.outputs)
            self.of_slot = nn.Linear(embedding, dim)
        self.of_frame = nn.Linear(embedding, dim)
        self.of_likeness = nn.Linear(4, dim)
        # ReLU, for on the fine frames the slope of a GELU costs as much as the convolutions
        self.edge = nn.Sequential(nn.ReLU(), nn.Conv1d(dim, dim, 7, padding=3, groups=dim), nn.Conv1d(dim, dim, 1))
        self.edge_output = nn.Conv1d(dim, 1, 5, padding=2)

    def forward(self, frames: Frames) -> Weighed:
        """Weigh frames: hidden [b, t, c], embeddings [b, t, e], mask [b, t]."""
        mask, ratio, length = frames.mask, self.config.time_reduction, frames.hidden.shape[1]
        pooled, coarse_mask = pool_coarse(frames.embeddings, mask, ratio)
        reduced = F.gelu(self.reduce_channels(frames.hidden.mT)) * mask[:, None]
        reduced = self.reduce_time(F.pad(reduced, (0, -length % ratio))).mT
        context = self.blocks(reduced, coarse_mask)
        speech = self.speech(context)[..., 0]
        rounds, of_slots = self._coarse(context, pooled, torch.sigmoid(speech), coarse_mask)

        logits = [self.restore_time(each[..., 0], length) for each in rounds]
        logits.append(logits[-1] + self._edges(frames, logits[-1], of_slots))
        tracks = torch.sigmoid(widen(logits[-1])) * mask[..., None]
        second = torch.sigmoid(widen(self.restore_time(rounds[-1][..., 1], length))) if self.outputs == 2 else None
        return Weighed(
            tracks=tracks,
            embeddings=weighted_mean(widen(frames.embeddings), normalise(tracks, 1)),
            confidence=track_confidence(self.config.confidence, tracks, second, mask, self.sharpness),
            logits=tuple(logits),
            speech_logits=self.restore_time(speech[..., None], length)[..., 0],
            frames=frames,
        )

    @property
    def sharpness(self) -> Tensor:
        """How sharply the confidence prefers great values (power, auto): learned, positive, 1 at the start."""
        return (_SHARPENING * self.log_sharpness).exp() if self.config.confidence in _SHARPENED else torch.ones(())

    def restore_time(self, x: Tensor, length: int) -> Tensor:
        """Give coarse steps their frames back, each step repeated: [..., ceil(t / r), d] -> [..., t, d], t = length."""
        # the axis from the front: the exporter to ONNX repeats another one for -2
        return x.repeat_interleave(self.config.time_reduction, x.ndim - 2)[..., :length, :]

    def _coarse(self, context: Tensor, pooled: Tensor, speech: Tensor, mask: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return coarse logits [b, t, n, outputs] of each round, and what is known of each slot [b, n, t, d]."""
        if self.config.tracks == "iterated":
            return self.iterated(context, pooled, speech, mask)
        logits = self.linear(context).unflatten(-1, (self.config.slots, self.outputs))
        weights = normalise(torch.sigmoid(widen(logits[..., 0])) * mask[..., None], 1)
        slots = F.normalize(weights.mT @ widen(pooled), dim=-1)
        return [logits], context[:, None] + self.of_slot(slots)[:, :, None]

    def _edges(self, frames: Frames, coarse: Tensor, of_slots: Tensor) -> Tensor:
        """Correct repeated coarse logits [b, t, n] on the fine frames: [b, t, n]."""
        b, t, n = coarse.shape
        g = F.normalize(widen(frames.embeddings), dim=-1)
        weights = normalise(torch.sigmoid(widen(coarse)) * frames.mask[..., None], 1)
        slots = F.normalize(weights.mT @ widen(frames.embeddings), dim=-1)
        x = self.restore_time(of_slots, t)
        x = x + 16 * self.of_frame(g)[:, None] + self.of_likeness(likeness(g, slots))  # 16: as unit vectors are small
        x = (x * frames.mask[:, None, :, None]).reshape(b * n, t, -1).mT
        visible = frames.mask.repeat_interleave(n, 0)[:, None]
        y = F.relu(self.edge(x)) * visible
        return self.edge_output(y).view(b, n, t).mT

"""Frame encoder: acoustic features -> hidden frames and frame embeddings, seeing 1.3 s.

A slot is a weighted mean of frame embeddings, so a frame has to speak for its own moment; yet a voice is not told from
others in half a second. Dilated convolutions see the words around. What only more time can tell is left to the weigher.

    h = residual convolutions(strided convolutions(x)),    f = W h

Symbols: x [b, t, f] features, h [b, t', c] hidden frames, f [b, t', e] frame embeddings, t' = ceil(t / stride).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from weigher.errors import RequestError

_STRIDES = {1: (1, 1), 2: (2, 1), 4: (2, 2)}


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of the frame encoder."""

    kind: Literal["conv", "linear"] = "conv"
    """conv: learns from log-mel energies; linear: for features that are embeddings already (WavLM)."""
    channels: int = 192
    """Channels of the hidden frames (conv)."""
    embedding: int = 256
    """Size of frame and slot embeddings."""
    stride: Literal[1, 2, 4] = 4
    """Feature frames to one hidden frame (conv)."""
    dilations: tuple[int, ...] = (1, 2, 4, 8)
    """Dilation of each residual convolution (conv)."""

    def __post_init__(self) -> None:
        if self.kind not in ("conv", "linear"):
            raise RequestError(f"kind = {self.kind!r}; the encoder is 'conv' or 'linear'")
        if self.stride not in _STRIDES:
            raise RequestError(f"stride = {self.stride!r}; the encoder has 1, 2 and 4")
        if min(self.channels, self.embedding, *self.dilations) < 1:
            raise RequestError(
                f"channels = {self.channels}, embedding = {self.embedding}, dilations = {self.dilations}; "
                "the encoder needs at least 1 of each"
            )


@dataclass(frozen=True, eq=False)
class Frames:
    """What the encoder gives: hidden [b, t', c], embeddings [b, t', e], mask bool [b, t'], zeros where it is False."""

    hidden: Tensor
    embeddings: Tensor
    mask: Tensor


class _Convolution(nn.Module):
    """Convolution over time, normalised and rectified; padded frames are zeros, as are the ends of a single file."""

    def __init__(self, inputs: int, outputs: int, width: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.convolution = nn.Conv1d(inputs, outputs, width, stride, dilation * (width // 2), dilation)
        self.norm = nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """x [b, c, t], mask bool [b, t] -> [b, c', ceil(t / stride)] and its mask."""
        mask = mask[:, :: self.stride]
        return F.relu(self.norm(self.convolution(x))) * mask[:, None], mask


class FrameEncoder(nn.Module):
    """Features [b, t, f] and mask bool [b, t] -> `Frames`, of which a mask True on the first frames of a row stays so.

    In evaluation a padded batch gives the numbers of its single files, whatever the padding holds (NaN too).

    >>> import torch
    >>> encoder = FrameEncoder(40).eval()
    >>> frames = encoder(torch.randn(2, 101, 40), torch.ones(2, 101, dtype=torch.bool))
    >>> frames.hidden.shape, frames.embeddings.shape, frames.mask.shape
    (torch.Size([2, 26, 192]), torch.Size([2, 26, 256]), torch.Size([2, 26]))
    """

    def __init__(self, features: int, config: EncoderConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or EncoderConfig()
        self.stride = config.stride if config.kind == "conv" else 1
        self.channels = config.channels if config.kind == "conv" else features
        if config.kind == "conv":
            first, second = _STRIDES[config.stride]
            narrow = max(1, config.channels * 2 // 3)
            self.front = nn.ModuleList(
                [_Convolution(features, narrow, 5, first), _Convolution(narrow, config.channels, 5, second)]
            )
            self.residual = nn.ModuleList(
                _Convolution(config.channels, config.channels, 3, dilation=dilation) for dilation in config.dilations
            )
        else:
            self.norm = nn.LayerNorm(features)
        self.projection = nn.Linear(self.channels, config.embedding)

    def forward(self, features: Tensor, mask: Tensor) -> Frames:
        """Encode features [b, t, f] under mask bool [b, t]."""
        features = features.masked_fill(~mask[..., None], 0.0)  # by filling, because 0 * NaN is NaN
        if self.config.kind == "linear":
            hidden = self.norm(features) * mask[..., None]
        else:
            x = features.transpose(1, 2)
            for layer in self.front:
                x, mask = layer(x, mask)
            for layer in self.residual:
                x = x + layer(x, mask)[0]
            hidden = x.transpose(1, 2)
        return Frames(hidden, self.projection(hidden) * mask[..., None], mask)

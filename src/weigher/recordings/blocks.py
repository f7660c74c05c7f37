"""Transformer encoder blocks in the manner of WavLM: self-attention with a gated relative position bias.

For head h, query frame i, key frame j, x the block's input and x_i^h its part for head h:

    b_h(i, j) = E[bucket(j - i), h]                       position bias, one table for all blocks
    u, r      = sigmoid(x_i^h U + c)                      update and reset gate, two numbers per query and head
    g_h(i)    = 1 + (1 - u) + u r s_h                     gate, s_h learned, 1 at the start
    a_h(i, .) = softmax_j(q_i k_j / sqrt(d) + g_h(i) b_h(i, j))

Reference: Chen et al. 2021, "WavLM", arXiv 2110.13900, section III-B. What differs from it: LayerNorm stands before
each sub-layer (stable without a long warm-up on small data), and there is no convolution that encodes positions. As
in the published weights, the gate reads the input of the attention rather than the projected query; the attention
alone agrees with the class `WavLMAttention` of transformers.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weigher.errors import RequestError


@dataclass(frozen=True)
class BlocksConfig:
    """Sizes of a stack of encoder blocks."""

    dim: int = 256
    """Channels of the input and the output; a multiple of `heads`."""
    heads: int = 4
    """Attention heads."""
    layers: int = 2
    """Blocks, one after the other."""
    feed_forward: int = 512
    """Hidden channels of each block's feed-forward part."""
    buckets: int = 320
    """Classes of relative position, half of them for each direction; a multiple of 4."""
    max_distance: int = 800
    """Frames beyond which all distances count as equal; more than buckets / 4."""
    dropout: float = 0.0
    """Probability with which attention weights and what each sub-layer adds are dropped in training."""

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit together."""
        for name in ("dim", "heads", "layers", "feed_forward"):
            if getattr(self, name) < 1:
                raise RequestError(f"{name} is {getattr(self, name)}; encoder blocks need at least 1")
        if self.dim % self.heads:
            raise RequestError(f"dim is {self.dim}, heads is {self.heads}; make dim a multiple of heads")
        if self.buckets < 4 or self.buckets % 4:
            raise RequestError(f"buckets is {self.buckets}; it needs to be a positive multiple of 4")
        if self.max_distance <= self.buckets // 4:
            raise RequestError(f"max_distance is {self.max_distance}; it needs to be above {self.buckets // 4}")
        if not 0 <= self.dropout < 1:
            raise RequestError(f"dropout is {self.dropout}; it needs to be in [0, 1)")


def relative_buckets(offsets: Tensor, buckets: int, max_distance: int) -> Tensor:
    """Give each relative position (key minus query, in frames) its bucket.

    Zero and the past have the buckets 0 ... n - 1 with n = buckets / 2, the future n ... 2n - 1. Distances below n / 2
    have a bucket each; longer ones share buckets that grow as their logarithm up to `max_distance`, and all beyond
    share the last:

        n / 2 + floor( log(|offset| / (n / 2)) / log(max_distance / (n / 2)) * n / 2 ), at most n - 1

    Shapes: offsets int64 [...] -> int64 [...]. Source: T5 (arXiv 1910.10683) and the published WavLM.

    >>> relative_buckets(torch.tensor([0, -1, 1, -3, 3, -100, 100]), buckets=16, max_distance=20).tolist()
    [0, 1, 9, 3, 11, 7, 15]
    """
    half = buckets // 2
    exact = half // 2
    distance = offsets.abs()
    # float32, as in the published model, so that bucket edges fall on the same frames
    ratio = torch.log(distance.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    shared = (exact + ratio * (half - exact)).long().clamp(max=half - 1)
    return (offsets > 0).long() * half + torch.where(distance < exact, distance, shared)


class RelativePositionBias(nn.Module):
    """Learned bias for each relative position and head, [heads, t, t] for any length t.

    All distances beyond `max_distance` are equal, so one table of 2 * max_distance + 1 buckets serves every length:
    nothing is computed twice, and a bias costs 2t - 1 look-ups and one copy of heads * t^2 numbers.

    >>> bias = RelativePositionBias(heads=2, buckets=16, max_distance=20)(5)
    >>> bias.shape, torch.equal(bias[:, 0, 2], bias[:, 2, 4])
    (torch.Size([2, 5, 5]), True)
    """

    bucket_of_offset: Tensor

    def __init__(self, heads: int, buckets: int, max_distance: int) -> None:
        super().__init__()
        offsets = torch.arange(-max_distance, max_distance + 1)
        self.register_buffer("bucket_of_offset", relative_buckets(offsets, buckets, max_distance), persistent=False)
        self.max_distance = max_distance
        self.embedding = nn.Embedding(buckets, heads)
        nn.init.normal_(self.embedding.weight, std=0.02)  # nearly no preference for a place at the start

    def forward(self, length: int) -> Tensor:
        """Return the bias [heads, length, length]; row i, column j is for offset j - i."""
        offsets = torch.arange(1 - length, length, device=self.bucket_of_offset.device)
        offsets = offsets.clamp(-self.max_distance, self.max_distance) + self.max_distance
        by_offset = self.embedding(self.bucket_of_offset[offsets]).T  # [h, 2t - 1]
        return by_offset.unfold(-1, length, 1).flip(1)  # window k holds offsets k - (t - 1) ..., so row i is t - 1 - i


class GatedAttention(nn.Module):
    """Self-attention of all frames on all frames with a position bias gated by the query.

    Cost beside the attention itself: the gated bias, b * heads * t^2 numbers, is held in memory (and twice in
    training), since the gate differs between recordings; the ungated one, heads * t^2, is shared by batch and blocks.

    >>> attention = GatedAttention(dim=8, heads=2)
    >>> attention(torch.randn(3, 5, 8), torch.zeros(2, 5, 5)).shape
    torch.Size([3, 5, 8])
    """

    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.projection = nn.Linear(dim, 3 * dim)  # queries, keys, values
        self.output = nn.Linear(dim, dim)
        self.gate = nn.Linear(dim // heads, 2)  # update, reset
        self.reset_scale = nn.Parameter(torch.ones(heads))

    def forward(self, x: Tensor, bias: Tensor, visible: Tensor | None = None) -> Tensor:
        """Attend: x [b, t, d], bias [heads, t, t], visible bool [b, t] (keys to see, one at least) -> [b, t, d]."""
        queries, keys, values = (self._split(part) for part in self.projection(x).chunk(3, dim=-1))  # [b, h, t, d / h]
        update, reset = torch.sigmoid(self.gate(self._split(x))).unbind(-1)  # [b, h, t]
        gate = 2.0 - update + update * reset * self.reset_scale[:, None]
        gated = gate[..., None] * bias  # [b, h, t, t]
        if visible is not None:
            gated = gated.masked_fill(~visible[:, None, None, :], -math.inf)
        mixed = F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=gated.to(queries.dtype),
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.output(mixed.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [b, t, d] -> [b, h, t, d / h]


class EncoderBlock(nn.Module):
    """One block: x + attention(norm(x)), then x + feed_forward(norm(x)).

    >>> EncoderBlock(dim=8, heads=2, feed_forward=16)(torch.randn(3, 5, 8), torch.zeros(2, 5, 5)).shape
    torch.Size([3, 5, 8])
    """

    def __init__(self, dim: int, heads: int, feed_forward: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = GatedAttention(dim, heads, dropout)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, feed_forward),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(feed_forward, dim),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, bias: Tensor, visible: Tensor | None = None) -> Tensor:
        """Transform frames: x [b, t, d], bias [heads, t, t], visible bool [b, t] -> [b, t, d]."""
        x = x + self.dropout(self.attention(self.attention_norm(x), bias, visible))
        return x + self.dropout(self.feed_forward(x))


class EncoderBlocks(nn.Module):
    """A stack of encoder blocks that share one relative position bias, with a last LayerNorm.

    Shapes: x [b, t, d], mask bool [b, t] (True where a frame is real) -> [b, t, d], zero where the mask is False.
    Padded frames, whatever they hold, change nothing: a padded batch gives the numbers of its single files. A file
    without a real frame gives zeros. Raises RequestError when the sizes do not fit together (see `BlocksConfig`).

    >>> blocks = EncoderBlocks(dim=8, heads=2, layers=2, feed_forward=16)
    >>> x, mask = torch.randn(2, 5, 8), torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    >>> padded = blocks(x, mask)
    >>> torch.allclose(padded[1:, :3], blocks(x[1:, :3]), atol=1e-5)
    True
    """

    def __init__(
        self,
        dim: int = BlocksConfig.dim,
        heads: int = BlocksConfig.heads,
        layers: int = BlocksConfig.layers,
        feed_forward: int = BlocksConfig.feed_forward,
        *,
        buckets: int = BlocksConfig.buckets,
        max_distance: int = BlocksConfig.max_distance,
        dropout: float = BlocksConfig.dropout,
    ) -> None:
        super().__init__()
        self.config = BlocksConfig(dim, heads, layers, feed_forward, buckets, max_distance, dropout)
        self.position_bias = RelativePositionBias(heads, buckets, max_distance)
        self.blocks = nn.ModuleList(EncoderBlock(dim, heads, feed_forward, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encode frames x [b, t, d] under mask bool [b, t] (all real when None) -> [b, t, d]."""
        if x.shape[1] == 0:
            return x
        bias = self.position_bias(x.shape[1])
        if mask is None:
            return self.norm(self._stack(x, bias, None))
        padding = ~mask[..., None]
        # a softmax over no key is NaN in some kernels; a file without frames looks at its own zeros, erased below
        visible = mask | ~mask.any(dim=1, keepdim=True)
        # zeros, because a hidden NaN would pass through 0 * NaN
        return self.norm(self._stack(x.masked_fill(padding, 0.0), bias, visible)).masked_fill(padding, 0.0)

    def _stack(self, x: Tensor, bias: Tensor, visible: Tensor | None) -> Tensor:
        for block in self.blocks:
            x = block(x, bias, visible)
        return x

"""Slots found by iteration: seeds among the frames, then weights from what each frame has in common with a slot.

A network that must put N people into N numbered outputs has an order to invent, and learns slowly. Here there is none:

    seeds    farthest-first over smoothed frame embeddings, a few steps of soft k-means          (no gradient)
    round    similarity of every frame to every slot -> one network, shared by all slots, over time and across slots
             -> track -> pool the frames again                                                   (twice)

The round sees of a person only likeness to a slot, to slots before and to slots after it; the order of the seeds breaks
the tie where two slots hold one voice. Symbols: g [b, t, e] unit frame embeddings, s [b, n, e] unit slots.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weigher.core.weights import normalise, widen
from weigher.recordings.blocks import EncoderBlock, RelativePositionBias

_SHARPNESS = 8.0  # of the density of frames around a frame
_COMPETITION = 12.0  # of soft k-means


def seed_slots(g: Tensor, speech: Tensor, slots: int, steps: int = 3) -> Tensor:
    """Find `slots` unit vectors among frames: the densest place first, then always the frame least like those found.

    Shapes: g [b, t, e] unit vectors, speech [b, t] in [0, 1] (0 where padded) -> [b, n, e]. A recording without speech
    gives zeros. Deterministic, without gradient.

    >>> g = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]])
    >>> seed_slots(g, torch.ones(1, 3), slots=2).round().abs().tolist()
    [[[1.0, 0.0], [0.0, 1.0]]]
    """
    with torch.no_grad():
        rows = torch.arange(g.shape[0], device=g.device)
        alike = g @ g.mT  # [b, t, t]
        weight = speech * (speech > 0.5) + 1e-3 * (speech > 0)
        density = torch.einsum("bts,bs->bt", torch.exp(_SHARPNESS * (alike - 1)), weight) * weight
        # a lonely frame is far from all others and still no person
        crowd = weight * (density / density.amax(1, keepdim=True).clamp(min=1e-12)).clamp(min=1e-4) ** 0.25
        chosen = [density.argmax(1)]
        nearest = alike[rows, chosen[0]]
        for _ in range(slots - 1):
            chosen.append(((1 - nearest).clamp(min=0) * crowd).argmax(1))
            nearest = torch.maximum(nearest, alike[rows, chosen[-1]])
        found = g[rows[:, None], torch.stack(chosen, 1)] * weight.any(1)[:, None, None]
        for _ in range(steps):
            share = torch.softmax(_COMPETITION * (g @ found.mT), dim=-1) * weight[..., None]
            found = F.normalize(share.mT @ g + 1e-3 * found, dim=-1)
        return found


def likeness(g: Tensor, slots: Tensor) -> Tensor:
    """Tell what a frame has in common with a slot, and with the rest: g [b, t, e], slots [b, n, e] -> [b, n, t, 4].

    The four numbers: similarity to the slot, the greatest to a slot before it, the greatest to a slot after it (-1
    where there is none), and how far the slot leads the best of both.

    >>> likeness(torch.tensor([[[1.0, 0.0]]]), torch.eye(2)[None]).tolist()
    [[[[1.0, -1.0, 0.0, 1.0]], [[0.0, 1.0, -1.0, -1.0]]]]
    """
    own = slots @ g.mT  # [b, n, t]
    nobody = own.new_full((own.shape[0], 1, own.shape[2]), -1.0)
    before = torch.cat([nobody, own.cummax(1).values[:, :-1]], 1)
    after = torch.cat([own.flip(1).cummax(1).values.flip(1)[:, 1:], nobody], 1)
    return torch.stack([own, before, after, own - torch.maximum(before, after)], -1)


class SlotBlock(nn.Module):
    """A transformer block shared by all slots: near frames by convolution, other slots by exchange, then attention.

    Shapes: x [b, n, t, d], bias [heads, t, t], mask bool [b, t] -> [b, n, t, d].
    """

    def __init__(self, dim: int, heads: int, feed_forward: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.near = nn.Conv1d(dim, dim, 7, padding=3, groups=dim)
        self.exchange = nn.Linear(dim, dim)
        self.block = EncoderBlock(dim, heads, feed_forward)

    def forward(self, x: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
        """Transform the slots' frames."""
        b, n, t, d = x.shape
        y = self.norm(x) * mask[:, None, :, None]
        near = self.near(y.reshape(b * n, t, d).mT).mT.view(b, n, t, d)
        x = x + near + self.exchange(y).logsumexp(1, keepdim=True)
        visible = mask | ~mask.any(1, keepdim=True)  # an empty file looks at zeros: a softmax over no key is NaN
        return self.block(x.reshape(b * n, t, d), bias, visible.repeat_interleave(n, 0)).view(b, n, t, d)


class IteratedTracks(nn.Module):
    """Coarse tracks by iterated slots.

    Shapes: context [b, t, d] (what the frames around say, slots aside), pooled [b, t, e] coarse frame embeddings,
    speech [b, t] in [0, 1], mask bool [b, t] -> per round logits [b, t, n, outputs], and slot context [b, n, t, d].
    """

    def __init__(
        self,
        dim: int,
        embedding: int,
        *,
        slots: int,
        outputs: int,
        rounds: int,
        layers: int,
        heads: int,
        max_distance: int,
    ) -> None:
        super().__init__()
        self.slots = slots
        self.rounds = rounds
        self.of_frame = nn.Linear(embedding, dim)
        self.of_slot = nn.Linear(embedding, dim)
        self.of_likeness = nn.Linear(4, dim)
        buckets = 4 * max(1, min(80, max_distance // 4))
        self.position_bias = RelativePositionBias(heads, buckets, max_distance)
        self.blocks = nn.ModuleList(SlotBlock(dim, heads, 2 * dim) for _ in range(layers))
        self.output = nn.Linear(dim, outputs)

    def forward(self, context: Tensor, pooled: Tensor, speech: Tensor, mask: Tensor) -> tuple[list[Tensor], Tensor]:
        """Iterate from seeds."""
        g = F.normalize(widen(pooled), dim=-1)
        slots = seed_slots(g.detach(), widen(speech.detach()) * mask, self.slots)
        bias = self.position_bias(g.shape[1])
        rounds: list[Tensor] = []
        x = context[:, None]
        for _ in range(self.rounds):
            # 8: unit vectors of 256 numbers have products far below 1
            product = 8 * self.of_slot(slots)[:, :, None] * self.of_frame(g)[:, None]
            x = context[:, None] + product + self.of_likeness(likeness(g, slots))
            for block in self.blocks:
                x = block(x, bias, mask)
            rounds.append(self.output(x).transpose(1, 2))  # [b, t, n, outputs]
            weights = normalise(torch.sigmoid(widen(rounds[-1][..., 0])) * mask[..., None], 1)
            slots = F.normalize(weights.mT @ widen(pooled), dim=-1)
        return rounds, x

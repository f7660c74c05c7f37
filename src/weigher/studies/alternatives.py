"""Designs that the weigher is compared with and the library does not keep.

    no-object class   p = softmax(z_0, z_1 ... z_C), confidence 1 - p_0; z_0 = u e + b is the logit of nobody
    greedy            the cheapest pair first, then the cheapest of what is left
    fixed order       the first label of a cast to the first slot, the second to the second; costs do not matter
    up-convolution    coarse steps become frames by transposed convolutions that learn, in place of repetition

Symbols: e slot embedding, z_c logits of the C labels of training, cost [b, n, m] of slot n answering for label m.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from weigher.core.matching import Matching
from weigher.core.weights import widen
from weigher.recordings.encoder import Frames
from weigher.recordings.model import LabelHead
from weigher.recordings.weigher import Weighed, Weigher, WeigherConfig


def no_object_confidence(logits: Tensor, nobody: Tensor) -> Tensor:
    """Probability that a slot is somebody, by a softmax over all labels and nobody: logits [..., c], nobody [...].

    With q this confidence, - log p_c = - log q - log softmax(z_1 ... z_C)_c and - log p_0 = - log (1 - q): the one
    cross-entropy of DETR is the set loss of the library with the class loss "softmax". Source: Carion et al. 2020,
    arXiv 2005.12872.

    >>> round(no_object_confidence(torch.zeros(3), torch.tensor(0.0)).item(), 6)
    0.75
    """
    return torch.sigmoid(widen(logits).logsumexp(-1) - widen(nobody))


class NoObjectWeigher(Weigher):
    """A weigher whose confidence is read off the head that names labels: it needs the head, and people the head knows.

    Of a voice that no label of training stands for, the softmax can say nothing that means "there is somebody".
    """

    def __init__(self, channels: int, embedding: int, config: WeigherConfig, head: LabelHead) -> None:
        super().__init__(channels, embedding, config)
        self.head = head
        self.nobody = nn.Linear(embedding, 1)

    def forward(self, frames: Frames) -> Weighed:
        """Weigh frames."""
        weighed = super().forward(frames)
        e = weighed.embeddings
        return replace(weighed, confidence=no_object_confidence(self.head(e), self.nobody(e)[..., 0]))


class UpConvolvedWeigher(Weigher):
    """A weigher that restores the time axis by transposed convolutions of three coarse steps' width.

    One for the numbers of a step (logits of tracks and of speech, the same for all slots), one for the channels of the
    slots' context; both start as torch starts them.
    """

    def __init__(self, channels: int, embedding: int, config: WeigherConfig, head: LabelHead) -> None:
        super().__init__(channels, embedding, config)
        dim, ratio = config.channels(channels), config.time_reduction
        self.up_numbers = nn.ConvTranspose1d(1, 1, 3 * ratio, stride=ratio, padding=ratio)
        self.up_context = nn.ConvTranspose1d(dim, dim, 3 * ratio, stride=ratio, padding=ratio)

    def restore_time(self, x: Tensor, length: int) -> Tensor:
        """Give coarse steps [..., ceil(t / r), d] their frames back: [..., t, d], t = length."""
        columns = x.movedim(-2, -1)  # [b, k, steps] numbers of k slots, or [b, n, d, steps] context
        if x.dim() == 3:
            fine = self.up_numbers(columns.flatten(0, 1)[:, None])[:, 0]
        else:
            fine = self.up_context(columns.flatten(0, 1))
        return fine.view(*columns.shape[:-1], -1).movedim(-1, -2)[..., :length, :]


def greedy(cost: Tensor, counts: Tensor) -> Matching:
    """Pair the labels of each row with slots, always the cheapest pair of those left; shapes as `match`.

    >>> greedy(torch.tensor([[[0.0, 1.0], [1.0, 9.0]]]), torch.tensor([2])).label.tolist()  # 9; crosswise it were 2
    [0, 1]
    """
    found = []
    for row, (table, count) in enumerate(zip(cost.detach().double().cpu().clone(), counts.tolist(), strict=True)):
        table[:, count:] = torch.inf
        pairs = []
        for _ in range(count):
            slot, label = divmod(int(table.argmin()), table.shape[1])
            pairs.append([row, slot, label])
            table[slot], table[:, label] = torch.inf, torch.inf
        found += sorted(pairs)
    return _matching(found, cost)


def fixed_order(cost: Tensor, counts: Tensor) -> Matching:
    """Pair the k-th label of each row with the k-th slot, whatever it costs; shapes as `match`.

    >>> fixed_order(torch.tensor([[[9.0, 1.0], [1.0, 9.0]]]), torch.tensor([2])).label.tolist()
    [0, 1]
    """
    return _matching([[row, k, k] for row, count in enumerate(counts.tolist()) for k in range(count)], cost)


def _matching(pairs: list[list[int]], cost: Tensor) -> Matching:
    return Matching(*torch.tensor(pairs, dtype=torch.long, device=cost.device).reshape(-1, 3).unbind(1))

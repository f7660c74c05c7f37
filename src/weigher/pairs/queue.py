"""A queue of embeddings: the last rows of earlier batches, for losses that need more of them than a batch holds.

    push      rows go where the oldest ones stand, a ring of `capacity` places
    rows      the n <= capacity rows that are held, `[n, e]`, and how often each of them counts, `[n]`

They are buffers: saved with the model, restored on resuming, put back where a step failed. Under several workers push
the rows of all of them (`weigher.pairs.workers.everyones`), so that the queues of all are one and the same.

Rows of weight 0 are not kept. What is kept gets no gradient and grows stale: an encoder of earlier steps has made it.

Source: He, Fan, Wu, Xie, Girshick 2020, arXiv 1911.05722 (MoCo); for codes Caron et al. 2020, arXiv 2006.09882.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from weigher.errors import RequestError
from weigher.pairs.checks import check_weight

if TYPE_CHECKING:
    from jaxtyping import Float, Real
    from torch import Tensor


class EmbeddingQueue(nn.Module):
    """A ring of at most `capacity` rows of `width` numbers.

    >>> queue = EmbeddingQueue(capacity=3, width=1)
    >>> queue.push(torch.tensor([[1.0], [2.0]]))
    >>> queue.push(torch.tensor([[3.0], [4.0]]))
    >>> len(queue), queue.rows().flatten().tolist()
    (3, [2.0, 3.0, 4.0])
    """

    held: Tensor
    counts: Tensor
    pushed: Tensor

    def __init__(self, capacity: int, width: int):
        super().__init__()
        if min(capacity, width) < 1:
            raise RequestError(f"a queue of {capacity} rows of {width} numbers: at least 1 of both is needed")
        self.capacity = capacity
        self.register_buffer("held", torch.zeros(capacity, width))
        self.register_buffer("counts", torch.zeros(capacity))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.int64))

    def __len__(self) -> int:
        return min(int(self.pushed), self.capacity)

    def rows(self) -> Float[Tensor, "n e"]:
        """Return what is held, the oldest row first; a copy."""
        return self.held[self._places()]

    def weights(self) -> Float[Tensor, " n"]:
        """Return how often each of `rows` counts."""
        return self.counts[self._places()]

    @torch.no_grad()
    def push(self, rows: Float[Tensor, "m e"], weight: Real[Tensor, " m"] | None = None) -> None:
        """Put rows in the places of the oldest ones; of more than `capacity` the last are kept.

        Shapes: rows `[m, e]`, weight `[m]` in [0, inf); rows of weight 0 may hold anything and are left out.
        Raises: RequestError for rows of another width or that are not finite, and for weights of another number or out
        of range.
        """
        if rows.dim() != 2 or rows.shape[1] != self.held.shape[1]:
            raise RequestError(
                f"rows of shape {list(rows.shape)} for a queue of {self.held.shape[1]} numbers a row; give the queue "
                "the width of the embeddings"
            )
        counts = rows.new_ones(len(rows)) if weight is None else weight
        check_weight(counts, rows.shape[:1])
        kept = counts > 0
        rows, counts = rows[kept].to(self.held.dtype), counts[kept].to(self.counts.dtype)
        if not bool(rows.isfinite().all()):
            raise RequestError("rows for the queue hold NaN or infinity; look at what the encoder is given")
        total = int(self.pushed) + len(rows)
        rows, counts = rows[-self.capacity :], counts[-self.capacity :]
        places = torch.arange(total - len(rows), total, device=self.held.device) % self.capacity
        self.held[places], self.counts[places] = rows, counts
        self.pushed.fill_(total)

    def _places(self) -> Tensor:
        total = int(self.pushed)
        return torch.arange(max(total - self.capacity, 0), total, device=self.held.device) % self.capacity

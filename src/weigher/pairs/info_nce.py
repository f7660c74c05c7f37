"""InfoNCE as a module: NT-Xent of two views against all other rows of both, on all workers.

Formula, symbols and sources stand at `weigher.core.contrast.nt_xent`. The temperature says how far a negative may be
and still be pushed: it decides how good the loss is, and is to be tuned before anything is compared with it.

With keys by a slow copy of the encoder (`targets`) each view is compared with the other one's, both ways
(`symmetric_info_nce`), and, with a queue, with keys of earlier batches (MoCo: He et al. 2020, arXiv 1911.05722).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from weigher.core.contrast import nt_xent, symmetric_info_nce, unit
from weigher.errors import RequestError
from weigher.pairs.checks import check_positive, check_views
from weigher.pairs.queue import EmbeddingQueue
from weigher.pairs.workers import everyones, mean_over_workers

if TYPE_CHECKING:
    from jaxtyping import Float, Real

Rows = tuple[Tensor, Tensor]
"""Unit rows of two views, `[n, e]` each."""


class InfoNCELoss(nn.Module):
    """The contrastive loss of two views at one temperature; it has no parameters.

    `queue` is filled with what the slow encoder makes of the second view, and needs it.

    >>> rows = torch.eye(4)
    >>> round(InfoNCELoss(temperature=0.5)(rows, rows)["loss"].item(), 4)
    0.5944
    """

    def __init__(self, temperature: float = 0.2, queue: EmbeddingQueue | None = None):
        super().__init__()
        check_positive(temperature=temperature)
        self.temperature = temperature
        self.queue = queue

    def forward(
        self,
        first: Float[Tensor, "n e"],
        second: Float[Tensor, "n e"],
        weight: Real[Tensor, " n"] | None = None,
        targets: Sequence[Float[Tensor, "n e"]] | None = None,
    ) -> Mapping[str, Tensor]:
        """Return the loss, its mean over the pairs of all workers.

        Shapes: both `[n, e]` of any length, made unit here; `targets` the same by a slow encoder, which get no
        gradient; weight `[n]` of the pairs.
        Raises: RequestError for views of different shapes, rows that are not finite, weights out of range, for one pair
        alone, which has no negative, and for a queue without targets.
        """
        views, keys = unit_views((first, second), targets, weight, self.queue)
        loss = contrast(views, keys, self.temperature, weight, self.queue)
        enqueue(self, keys, weight)
        return {"loss": loss}


def unit_views(
    views: Rows, targets: Sequence[Tensor] | None, weight: Tensor | None, queue: EmbeddingQueue | None
) -> tuple[Rows, Rows | None]:
    """Return two views and what a slow encoder makes of them as unit rows; RequestError for what does not fit."""
    check_views(views, weight, targets=targets)
    own = (unit(views[0], weight=weight), unit(views[1], weight=weight))
    if targets is None:
        if queue is not None:
            raise RequestError(
                "a queue is of embeddings by a slow copy of the encoder: give targets (target_momentum of the loop), "
                "or leave the queue out"
            )
        return own, None
    return own, (unit(targets[0].detach(), weight=weight), unit(targets[1].detach(), weight=weight))


def contrast(
    views: Rows, keys: Rows | None, temperature: float, weight: Tensor | None, queue: EmbeddingQueue | None
) -> Float[Tensor, ""]:
    """Return the mean contrastive loss over the pairs of all workers; arguments as `unit_views` returns them.

    >>> rows = torch.eye(4)
    >>> round(contrast((rows, rows), None, 0.5, None, None).item(), 4)
    0.5944
    """
    counted = torch.ones_like(views[0][:, 0]) if weight is None else weight.to(views[0].dtype)
    (*everyone, counts), offset = everyones(*(keys or views), counted)
    chosen = None if weight is None else counts
    if keys is None:
        form = nt_xent
    else:
        form = symmetric_info_nce
        if queue is not None and len(queue):  # older keys stand behind the others, and no query is theirs
            everyone = [torch.cat([rows, queue.rows().to(rows.dtype)]) for rows in everyone]
            chosen = torch.cat([counts, queue.weights().to(counts.dtype)])
    each = form(*views, everyone=(everyone[0], everyone[1]), weight=chosen, offset=offset, temperature=temperature)
    return mean_over_workers(each, counted)


def enqueue(loss: nn.Module, keys: Rows | None, weight: Tensor | None) -> None:
    """Put the keys of the second view, of all workers, into the queue of a loss that is being trained."""
    queue = loss.queue
    if loss.training and isinstance(queue, EmbeddingQueue) and keys is not None:
        counted = torch.ones_like(keys[1][:, 0]) if weight is None else weight.to(keys[1].dtype)
        (rows, counts), _ = everyones(keys[1], counted)
        queue.push(rows, counts)

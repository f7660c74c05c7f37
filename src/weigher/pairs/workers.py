"""Losses of pairs under several workers: rows of all of them to compare with, and a mean that is the joint one.

Under `torchrun` every worker has its own part of a batch, and a loss of pairs compares across all of it. The gradients
that `weigher.train.fit` averages over workers are then those of one process with the joint batch, and the mean of what
the workers return is its loss, also where they hold different numbers of rows. That is for given embeddings: batch norm
in an encoder goes by each worker's own rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from weigher.core.weights import apply_weight, safe_ratio
from weigher.train.distribution import gather, rank, world_size

if TYPE_CHECKING:
    from jaxtyping import Float, Real
    from torch import Tensor


def everyones(*rows: Float[Tensor, "n e"]) -> tuple[tuple[Float[Tensor, "m e"], ...], int]:
    """Return the rows of all workers, with gradient, and the place of this worker's first row among them.

    Shapes: each `[n, ...]` of this worker -> `[m, ...]` of all. All that is given has the same n.

    >>> (everyone,), offset = everyones(torch.eye(2))
    >>> everyone.shape, offset
    (torch.Size([2, 2]), 0)
    """
    if world_size() == 1:
        return rows, 0
    counts = gather(torch.tensor([len(rows[0])], device=rows[0].device))
    return tuple(gather(x) for x in rows), int(counts[: rank()].sum())


def mean_over_workers(loss: Float[Tensor, " n"], weight: Real[Tensor, " n"] | None = None) -> Float[Tensor, ""]:
    """Return this worker's part of the weighted mean over the rows of all workers, such that the parts' mean is it.

        L_r = W sum_{i of r} w_i l_i / sum_{i of all} w_i,   W workers

    Shapes: loss `[n]`, weight `[n]` in [0, inf) -> `[]`; 0 where nobody has any weight.

    >>> mean_over_workers(torch.tensor([1.0, 4.0]), torch.tensor([2.0, 1.0])).item()
    2.0
    """
    wide, counted = apply_weight(loss, weight=weight)
    total = gather(counted.sum()[None]).sum()
    return (world_size() * safe_ratio((counted * wide).sum(), total)).to(loss.dtype)

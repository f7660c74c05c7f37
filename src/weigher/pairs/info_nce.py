"""InfoNCE as a module: NT-Xent of two views against all other rows of both, on all workers.

Formula, symbols and sources stand at `weigher.core.contrast.nt_xent`. The temperature says how far a negative may be
and still be pushed: it decides how good the loss is, and is to be tuned before anything is compared with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

from weigher.core.contrast import nt_xent, unit
from weigher.errors import RequestError
from weigher.pairs.align_uniform import check_same
from weigher.pairs.workers import everyones, mean_over_workers

if TYPE_CHECKING:
    from jaxtyping import Float, Real
    from torch import Tensor


class InfoNCELoss(nn.Module):
    """The contrastive loss of two views at one temperature; it has no parameters.

    >>> rows = torch.eye(4)
    >>> round(InfoNCELoss(temperature=0.5)(rows, rows)["loss"].item(), 4)
    0.5944
    """

    def __init__(self, temperature: float = 0.2):
        super().__init__()
        if not temperature > 0:
            raise RequestError(f"temperature = {temperature}: it must be above 0, such as 0.2")
        self.temperature = temperature

    def forward(
        self, first: Float[Tensor, "n e"], second: Float[Tensor, "n e"], weight: Real[Tensor, " n"] | None = None
    ) -> Mapping[str, Tensor]:
        """Return the loss, its mean over the pairs of all workers.

        Shapes: both `[n, e]` of any length, made unit here; weight `[n]` of the pairs.
        Raises: RequestError for views of different shapes, and for one pair alone, which has no negative.
        """
        check_same(first, second)
        views = unit(first, weight=weight), unit(second, weight=weight)
        counted = torch.ones_like(views[0][:, 0]) if weight is None else weight.to(views[0].dtype)
        (*everyone, counts), offset = everyones(*views, counted)
        if len(counts) < 2:
            raise RequestError(f"a contrastive loss compares pairs with others, and this batch has {len(counts)}")
        each = nt_xent(
            *views,
            everyone=(everyone[0], everyone[1]),
            weight=None if weight is None else counts,
            offset=offset,
            temperature=self.temperature,
        )
        return {"loss": mean_over_workers(each, counted)}

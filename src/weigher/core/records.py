"""Running statistics of training examples by their number: a sum and a count of each, and nothing else is kept.

    sum_i += value,   count_i += 1,   mean_i = sum_i / count_i       (NaN where count_i is 0: nothing is known of it)

Sums are float64, so that the order of millions of additions leaves no trace worth naming; counts are whole numbers.
They are buffers of a module: they move with it, are saved with its `state_dict`, and go on when a run is resumed.

Symbols: n examples, b measurements, `*c` what is measured of one (nothing for a number, `c` for one number a class).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from weigher.errors import RequestError

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class Records(nn.Module):
    """The mean of everything measured of each of n examples: `[n]`, or `[n, *columns]`.

    >>> records = Records(3)
    >>> records.add(torch.tensor([0, 2, 0]), torch.tensor([1.0, 5.0, 2.0]))
    >>> records.mean().tolist(), records.count.tolist()
    ([1.5, nan, 5.0], [2, 0, 1])
    """

    sum: Tensor
    count: Tensor

    def __init__(self, examples: int, *columns: int) -> None:
        super().__init__()
        if examples < 1 or min(columns, default=1) < 1:
            raise RequestError(f"records of {examples} examples, columns {columns}: both need to be at least 1")
        self.register_buffer("sum", torch.zeros(examples, *columns, dtype=torch.float64))
        self.register_buffer("count", torch.zeros(examples, dtype=torch.int64))

    @torch.no_grad()
    def add(self, ids: Int[Tensor, " b"], values: Float[Tensor, " b *c"]) -> None:
        """Add one measurement to each example `ids[j]`; one that stands there twice is counted twice.

        No graph is kept. Raises RequestError for shapes that do not fit each other or these records, and for ids that
        are no whole numbers from 0 to n - 1.
        """
        ids = self._checked(ids)
        if values.shape != (len(ids), *self.sum.shape[1:]):
            raise RequestError(
                f"values of shape {list(values.shape)} for {len(ids)} ids; "
                f"needed is {[len(ids), *self.sum.shape[1:]]}, one row for each id"
            )
        self.sum.index_add_(0, ids, values.detach().to(self.sum))
        self.count.index_add_(0, ids, torch.ones_like(ids))

    def mean(self) -> Float[Tensor, " n *c"]:
        """Return the mean of every example, float64; NaN where nothing was measured, never 0."""
        count = self.count.view(-1, *(1 for _ in self.sum.shape[1:]))
        return torch.where(count > 0, self.sum / count, torch.nan)

    def merge(self, other: Records) -> Records:
        """Return what one process would have recorded that had measured all that these two did; RequestError where
        they are records of different shapes.

        >>> one, two = Records(2), Records(2)
        >>> one.add(torch.tensor([0]), torch.tensor([1.0]))
        >>> two.add(torch.tensor([0]), torch.tensor([3.0]))
        >>> one.merge(two).mean().tolist()
        [2.0, nan]
        """
        if self.sum.shape != other.sum.shape:
            raise RequestError(
                f"records of shape {list(self.sum.shape)} cannot be merged with records of {list(other.sum.shape)}; "
                "both have to be of the same examples"
            )
        merged = Records(*self.sum.shape).to(self.sum.device)
        merged.sum.copy_(self.sum + other.sum.to(self.sum.device))
        merged.count.copy_(self.count + other.count.to(self.count.device))
        return merged

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Records:
        """Move along with a module, but stay float64: on the CPU beside a device that has none (MPS)."""
        device = fn(torch.zeros(0)).device
        if device.type != "mps":
            self.sum, self.count = self.sum.to(device), self.count.to(device)
        return self

    def _checked(self, ids: Tensor) -> Tensor:
        if ids.dim() != 1 or ids.is_floating_point() or ids.dtype == torch.bool:
            raise RequestError(
                f"ids are {ids.dtype} of shape {list(ids.shape)}; needed are whole numbers, one per example"
            )
        ids = ids.to(self.sum.device, torch.int64)
        n = len(self.count)
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < n:
            raise RequestError(f"ids from {int(ids.min())} to {int(ids.max())}; needed are 0 to {n - 1}: {n} examples")
        return ids

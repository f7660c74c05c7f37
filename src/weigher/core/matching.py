"""Set matching: which slot answers for which label, one to one, at the least total cost (Hungarian method).

The labels of a row have no order and neither have the slots, so a loss between them starts by pairing them. Slots may
outnumber labels; the ones left over have no label. Never the other way round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from weigher.core.weights import safe_ratio, widen
from weigher.errors import RequestError

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Matching:
    """The k matched pairs of a batch: in row `batch[i]`, slot `slot[i]` answers for label `label[i]`.

    Three int64 tensors `[k]` on the device of the cost, sorted by row, then slot; together they index any `[b, n, m]`,
    and the first two any `[b, n, ...]`.

    >>> pairs = match(torch.tensor([[[5.0], [1.0]]]))
    >>> matched = torch.zeros(1, 2, dtype=torch.bool).index_put((pairs.batch, pairs.slot), torch.tensor(True))
    >>> matched.tolist()
    [[False, True]]
    """

    batch: Tensor
    slot: Tensor
    label: Tensor


def match(cost: Float[Tensor, "b n m"], counts: Int[Tensor, " b"] | None = None) -> Matching:
    """Pair the labels of each row with slots, one to one, so that the sum of the paired costs is least.

    Shapes: cost `[b, n, m]` (finite, any sign) of slot n answering for label m; counts `[b]`: how many labels row b
    has, the first ones; the rest is padding and never read. None: all m. Every label gets a slot; n - counts[b] slots
    get none. No gradient flows through the choice.
    Raises: RequestError for a cost of another shape, a count outside 0..m, more labels than slots, or a cost that is
    not finite.
    Source: Kuhn 1955, computed by `scipy.optimize.linear_sum_assignment`; as a set loss Carion et al. 2020,
    arXiv 2005.12872.

    >>> pairs = match(torch.tensor([[[9.0, 1.0], [2.0, 9.0], [0.0, 0.0]]]))
    >>> pairs.slot.tolist(), pairs.label.tolist()
    ([0, 2], [1, 0])
    """
    if cost.dim() != 3:
        raise RequestError(f"matching cost of shape {list(cost.shape)}: needed is [batch, slots, labels]")
    rows, _, labels = cost.shape
    sizes = [labels] * rows if counts is None else counts.tolist()
    if len(sizes) != rows:
        raise RequestError(f"{len(sizes)} label counts for a batch of {rows}: give one count per row")
    table = cost.detach().to("cpu", torch.float64).numpy()
    # stays [0, 3]-shaped and typed when nothing is matched
    found = [np.empty((0, 3), dtype=np.int64)]
    for row, size in enumerate(sizes):
        _check_row(table[row], row, size)
        slot, label = linear_sum_assignment(table[row, :, :size])
        found.append(np.stack([np.full_like(slot, row), slot, label], axis=1))
    batch, slot, label = torch.from_numpy(np.concatenate(found)).to(cost.device).unbind(1)
    return Matching(batch, slot, label)


def permutation_invariant_loss(
    pair_cost: Float[Tensor, "b n m"], counts: Int[Tensor, " b"] | None = None
) -> Float[Tensor, " b"]:
    """Return each row's mean cost over its best one-to-one pairing of labels with slots.

        L_b = min over pairings pi of  1 / counts_b  sum_{m < counts_b} cost[b, pi(m), m]

    The order of slots and of labels does not matter. The gradient is that of the chosen pairs. Slots without a label
    cost nothing here; to charge them, fill up the labels with n - counts_b "nobody" columns and raise the counts to n.

    Shapes and errors: as `match`; -> `[b]`, 0 for a row without labels.
    Source: Yu, Kolbæk, Tan, Jensen 2017, arXiv 1607.00325, with the Hungarian method in place of all permutations.

    >>> permutation_invariant_loss(torch.tensor([[[9.0, 1.0], [2.0, 9.0]]])).tolist()
    [1.5]
    """
    pairs = match(pair_cost, counts)
    chosen = widen(pair_cost[pairs.batch, pairs.slot, pairs.label])
    zeros = chosen.new_zeros(len(pair_cost))
    total = zeros.index_add(0, pairs.batch, chosen)
    return safe_ratio(total, zeros.index_add(0, pairs.batch, torch.ones_like(chosen))).to(pair_cost.dtype)


def _check_row(table: np.ndarray, row: int, size: int) -> None:
    """Raise RequestError where the costs `[n, m]` of row `row` cannot be matched to its first `size` labels."""
    slots, labels = table.shape
    if not 0 <= size <= labels:
        raise RequestError(f"row {row} counts {size} labels, but the costs hold columns for 0 to {labels}")
    if size > slots:
        raise RequestError(
            f"row {row} has {size} labels and only {slots} slots: every label needs a slot of its own; "
            f"use at least {size} slots or leave the row out"
        )
    bad = np.argwhere(~np.isfinite(table[:, :size]))
    if len(bad):
        slot, label = bad[0]
        raise RequestError(
            f"cost {table[slot, label]} of slot {slot} for label {label} in row {row} ({len(bad)} such in this row): "
            "costs must be finite; look for a diverged model, or a logarithm of 0"
        )

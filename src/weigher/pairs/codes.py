"""Balanced codes: rows assigned to prototypes in equal shares, and figures of how prototypes are used.

    max_{Q >= 0} sum_ik w_i Q_ik s_ik + epsilon H(wQ),   sum_k Q_ik = 1,   sum_i w_i Q_ik = sum_i w_i / K

s `[n, k]` scores of rows to prototypes, w `[n]` how often a row counts (1). It is an optimal transport between rows and
prototypes; `weigher.core.transport.sinkhorn` updates its potentials in the log domain, so that neither raw scores nor a
small epsilon overflow. After three updates (the last is the rows') rows sum to 1 exactly, and columns nearly to n / k:
`imbalance` says how nearly.

Source: Caron, Misra, Mairal, Goyal, Bojanowski, Joulin 2020, arXiv 2006.09882; Cuturi 2013, arXiv 1306.0895.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch

from weigher.core.transport import sinkhorn
from weigher.core.weights import apply_weight, entropy, normalise
from weigher.errors import RequestError
from weigher.pairs.checks import check_positive

if TYPE_CHECKING:
    from jaxtyping import Float, Real
    from torch import Tensor

_MARGIN = 1e-3  # how far above 1 a cosine may be rounded


def balanced_codes(
    scores: Float[Tensor, "*s n k"],
    *,
    epsilon: float = 0.05,
    iterations: int = 3,
    tolerance: float = 1e-6,
    weight: Real[Tensor, "*s n"] | None = None,
) -> Float[Tensor, "*s n k"]:
    """Assign each row to prototypes such that all of them get an equal share of the rows; without gradient.

        q_i = softmax_k((s_ik + f_k) / epsilon),   f the potential of `weigher.core.transport.sinkhorn`

    Few iterations leave shares uneven; many stop where shares are equal within `tolerance`, and beyond ten each goes
    further than a plain one (`weigher.core.transport`), to the same end sooner. 0 iterations are a plain softmax. Rows
    of weight 0 count for nothing, and are assigned as the others are.

    Shapes: scores `[..., n, k]`, cosines, weight `[..., n]` in [0, inf) -> `[..., n, k]`, rows sum to 1. Range: epsilon
    in (0, inf), in units of the scores.
    Raises: RequestError for an epsilon or iterations out of range, scores that are not finite or of no floating type,
    and where nothing has any weight. Warns: of scores that are no cosines; the codes are right for these, too.

    >>> balanced_codes(torch.tensor([[0.9, 0.1], [0.8, 0.5]]), iterations=100).round(decimals=3)
    tensor([[0.9930, 0.0070],
            [0.0070, 0.9930]])
    """
    check_positive(epsilon=epsilon)
    if not scores.is_floating_point():
        raise RequestError(f"scores hold {scores.dtype}: cosines are of a floating type")
    if iterations < 0:
        raise RequestError(f"iterations = {iterations}: it must be at least 0")
    wide, counted = clean(scores.detach(), None if weight is None else weight.detach())
    each = counted[..., 0]
    if not bool(wide.isfinite().all()):
        raise RequestError("scores hold NaN or infinity; look at the embeddings and prototypes they are made of")
    if not bool((each.sum(-1) > 0).all()):
        raise RequestError("codes share prototypes among rows, and no row has any weight; leave such batches out")
    highest = float((wide.abs() * (counted > 0)).amax())
    if highest > 1 + max(_MARGIN, 4 * torch.finfo(scores.dtype).eps):
        warnings.warn(
            f"scores reach {highest:.3g}: features or prototypes are not normalised, and epsilon = {epsilon:g} is "
            "meant for cosines; make both unit rows",
            stacklevel=2,
        )
    if iterations:
        found = sinkhorn(
            -wide.mT,
            None,
            each,
            epsilon=epsilon,
            tolerance=tolerance,
            iterations=iterations,
            start=torch.zeros_like(each),
        )
        wide = wide + found.potential_a[..., None, :]
    return ((wide - wide.amax(-1, keepdim=True)) / epsilon).softmax(-1).to(scores.dtype)


def used_prototypes(
    scores: Float[Tensor, "*s n k"], *, weight: Real[Tensor, "*s n"] | None = None
) -> Float[Tensor, "*s"]:
    """Return the effective number of prototypes that are nearest to some row.

        exp(-sum_k h_k log h_k),   h_k the share of rows whose highest score is that of k

    Shapes: scores `[..., n, k]`, weight `[..., n]` -> `[...]`. Range: 1 (all rows share one) to k; 0 without rows.

    >>> used_prototypes(torch.eye(3)[[0, 0, 1, 1]]).item()
    2.0
    """
    wide, counted = clean(scores, weight)
    shares = torch.zeros_like(wide[..., 0, :]).scatter_add(-1, wide.argmax(-1), counted[..., 0])
    return torch.where(shares.sum(-1) > 0, entropy(shares, -1).exp(), 0).to(scores.dtype)


def imbalance(codes: Float[Tensor, "*s n k"], *, weight: Real[Tensor, "*s n"] | None = None) -> Float[Tensor, "*s"]:
    """Return how far the prototypes' shares are from equal ones.

        sum_k |mean_i q_ik - 1 / k|

    Shapes: codes `[..., n, k]`, weight `[..., n]` -> `[...]`. Range: 0 (balanced) to 2 - 2 / k (all on one).

    >>> imbalance(torch.tensor([[1.0, 0.0], [1.0, 0.0]])).item()
    1.0
    """
    wide, counted = clean(codes, weight)
    shares = normalise((counted * wide).sum(-2), -1)
    return (shares - 1 / codes.shape[-1]).abs().sum(-1).to(codes.dtype)


def clean(rows: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return rows, widened, in which those of weight 0 are finite, and the weight of each number."""
    return apply_weight(rows, weight=None if weight is None else weight[..., None])

"""Weights over an axis: removing, normalising, and measuring how many elements still count.

Conventions of the whole package
    mask    bool, True = the element counts. Same number of axes as the tensor it masks, broadcast to its shape.
    weight  real, in [0, inf). 0 = removed, 2 = there twice. Same number of axes, broadcast likewise.
    Nothing left on a row gives 0, never NaN, and a gradient of 0.
Half precision is computed in float32 and returned as it came.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from weigher.errors import RequestError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Real
    from torch import Tensor


def widen(x: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """Return float16 and bfloat16 as float32, and anything else as it is: sums over long axes need the digits.

    >>> widen(torch.zeros(2, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def safe_ratio(numerator: Float[Tensor, "*s"], denominator: Float[Tensor, "*d"]) -> Float[Tensor, "*r"]:
    """Return `numerator / denominator`, and 0 (with gradient 0) where the denominator is 0.

    The denominator lies in [0, inf). Below the smallest normal number of its type it counts as 0: its inverse, hence
    the gradient, would overflow. Shapes broadcast.

    >>> safe_ratio(torch.tensor([3.0, 3.0]), torch.tensor([2.0, 0.0])).tolist()
    [1.5, 0.0]
    """
    usable = denominator >= torch.finfo(denominator.dtype).tiny
    # the inner `where` keeps 0/0 out of the backward pass, the outer one out of the value
    return torch.where(usable, numerator / torch.where(usable, denominator, 1), 0)


def apply_weight(
    x: Float[Tensor, "*s"],
    mask: Bool[Tensor, "*m"] | None = None,
    weight: Real[Tensor, "*w"] | None = None,
) -> tuple[Float[Tensor, "*s"], Float[Tensor, "*s"]]:
    """Return `x` widened, and the weight of each of its elements, with all that is removed made harmless.

    Masked elements become value 0 with weight 0. Elements of weight 0 keep a finite value (their weight may be learned
    and needs its gradient) and lose an infinite or undefined one, since 0 * inf is NaN.

    Shapes: x `[...]`, mask and weight broadcast to it; both results have the shape of x.
    Raises: RequestError where mask or weight has another number of axes than x, or does not broadcast to it.

    >>> x, weight = apply_weight(torch.tensor([1.0, float("nan")]), weight=torch.tensor([2, 0]))
    >>> x.tolist(), weight.tolist()
    ([1.0, 0.0], [2.0, 0.0])
    """
    for name, given in (("mask", mask), ("weight", weight)):
        if given is not None and given.dim() != x.dim():
            raise RequestError(
                f"{name} of shape {list(given.shape)} for a tensor of shape {list(x.shape)}: both need the same number "
                f"of axes; add axes of length 1, as in {name}[..., None]"
            )
        if given is not None and any(own not in (1, size) for own, size in zip(given.shape, x.shape, strict=True)):
            raise RequestError(
                f"{name} of shape {list(given.shape)} for a tensor of shape {list(x.shape)}: every axis of the {name} "
                "must have the length of the tensor's, or 1"
            )
    x = widen(x)
    if weight is None:
        counted = torch.ones_like(x)
    else:
        counted = weight.to(x.dtype).expand_as(x)
        x = torch.where((counted > 0) | x.isfinite(), x, 0)
    if mask is None:
        return x, counted
    return torch.where(mask, x, 0), torch.where(mask, counted, 0)


def normalise(
    x: Float[Tensor, "*s"], dim: int | tuple[int, ...], mask: Bool[Tensor, "*m"] | None = None
) -> Float[Tensor, "*s"]:
    """Scale non-negative `x` to weights that sum to 1 over `dim`.

        w_t = x_t / sum_s x_s

    Shapes: x `[...]` -> `[...]`. Range: x in [0, inf), w in [0, 1]; a row that is all zero or all masked gives zeros.

    >>> normalise(torch.tensor([[1.0, 3.0], [0.0, 0.0]]), dim=1).tolist()
    [[0.25, 0.75], [0.0, 0.0]]
    """
    wide, _ = apply_weight(x, mask)
    return safe_ratio(wide, wide.sum(dim, keepdim=True)).to(x.dtype)


def _exponentials(
    scores: Tensor, dim: int, mask: Tensor | None, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return weight * exp(scores - top), the largest score that counts as top (0 where none does), clean scores."""
    # -inf is a score here (probability 0), so it stays; apply_weight only cleans what does not count
    wide, counted = apply_weight(scores, mask, weight)
    top = torch.where(counted > 0, wide, -torch.inf).amax(dim, keepdim=True).detach()
    top = torch.where(top.isfinite(), top, 0)
    # Only elements of weight 0 can lie above the top. exp(scores - top) is the slope by their weight, which may be
    # learned: it stays exact as long as its square is finite, and unclamped would give 0 * inf.
    terms = counted * (wide - top).clamp(max=math.log(torch.finfo(wide.dtype).max) / 2).exp()
    if weight is not None:  # what was cleaned has no slope: its 0 is no score
        terms = torch.where((counted > 0) | scores.isfinite(), terms, 0)
    return terms, top, wide


def softmax(
    scores: Float[Tensor, "*s"],
    dim: int,
    mask: Bool[Tensor, "*m"] | None = None,
    *,
    weight: Real[Tensor, "*w"] | None = None,
) -> Float[Tensor, "*s"]:
    """Turn scores into weights that sum to 1 over `dim`, each element counted as often as its `weight` says.

        p_t = w_t exp(s_t) / sum_r w_r exp(s_r)

    Shapes: scores `[...]` -> `[...]`. Range: scores in [-inf, inf), p in [0, 1]; a row with nothing left gives zeros.

    >>> softmax(torch.tensor([0.0, 0.0, 9.0]), dim=0, mask=torch.tensor([True, True, False])).tolist()
    [0.5, 0.5, 0.0]
    """
    terms, _, _ = _exponentials(scores, dim, mask, weight)
    return normalise(terms, dim).to(scores.dtype)


def log_softmax(
    scores: Float[Tensor, "*s"],
    dim: int,
    mask: Bool[Tensor, "*m"] | None = None,
    *,
    weight: Real[Tensor, "*w"] | None = None,
) -> Float[Tensor, "*s"]:
    """Return the logarithm of one copy's share under `softmax`, with the digits that its own logarithm would lose.

        log q_t = s_t - log sum_r w_r exp(s_r),   so that sum_t w_t q_t = 1

    Shapes: scores `[...]` -> `[...]`. Range: scores in [-inf, inf); masked elements and rows with nothing left give 0.

    >>> [round(value, 3) for value in log_softmax(torch.tensor([1000.0, 1000.0]), dim=0).tolist()]
    [-0.693, -0.693]
    """
    terms, top, wide = _exponentials(scores, dim, mask, weight)
    total = terms.sum(dim, keepdim=True)
    logs = wide - top - torch.where(total > 0, total, 1).log()
    kept = total > 0 if mask is None else (total > 0) & mask
    return torch.where(kept, logs, 0).to(scores.dtype)


def entropy(
    weight: Float[Tensor, "*s"], dim: int | tuple[int, ...], mask: Bool[Tensor, "*m"] | None = None
) -> Float[Tensor, "*r"]:
    """Return the Shannon entropy in nats of weights over `dim`, which are normalised first.

        H = -sum_t p_t log p_t,   p = w / sum w

    Shapes: weight `[..., t, ...]` -> `[...]`. Range: 0 (one element counts, or none) to log t (all alike).

    >>> round(entropy(torch.tensor([5.0, 5.0, 0.0]), dim=0).item(), 4)
    0.6931
    """
    p = normalise(widen(weight), dim, mask)
    # p log p -> 0 at 0, but its derivative is infinite there: a weight of exactly 0 adds none of its own
    return -(p * torch.where(p > 0, p, 1).log()).sum(dim).to(weight.dtype)


def effective_sample_size(
    weight: Float[Tensor, "*s"], dim: int | tuple[int, ...], mask: Bool[Tensor, "*m"] | None = None
) -> Float[Tensor, "*r"]:
    """Return how many equally weighted elements would give a mean the same variance (Kish 1965).

        n_eff = (sum_t w_t)^2 / sum_t w_t^2

    Shapes: weight `[..., t, ...]` -> `[...]`. Range: 1 (one element counts) to t (all alike); 0 where nothing counts.

    >>> effective_sample_size(torch.tensor([[2.0, 2.0, 0.0], [0.0, 0.0, 0.0]]), dim=1).tolist()
    [2.0, 0.0]
    """
    # through normalised weights, so that large ones do not overflow when squared
    squares = normalise(widen(weight), dim, mask).square().sum(dim)
    return safe_ratio(torch.ones_like(squares), squares).to(weight.dtype)


def length_mask(lengths: Int[Tensor, " b"], size: int) -> Bool[Tensor, "b size"]:
    """Return the mask of a padded batch: True on the first `lengths[i]` of `size` places of row i.

    Raises: RequestError where a length is negative or exceeds `size`.

    >>> length_mask(torch.tensor([2, 0]), 3).tolist()
    [[True, True, False], [False, False, False]]
    """
    if lengths.numel() and (int(lengths.min()) < 0 or int(lengths.max()) > size):
        raise RequestError(f"lengths {lengths.tolist()}: each must lie in 0..{size}, the padded size of the batch")
    return torch.arange(size, device=lengths.device) < lengths[:, None]

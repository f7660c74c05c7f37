"""Pooling: many values over one axis become one, each counted by a weight.

Which one when
    weighted_mean, weighted_statistics, attention_pool   vectors over time, under weights of their own: slot embeddings
    self_weighted_mean   "how sure are we that somebody is there": a 0 says little, a 1 says a lot
    power_pool, auto_pool   the same with a learnable sharpness; exp_softmax_pool is auto_pool at 1
    mean_pool, max_pool, noisy_or   the baselines of multiple-instance learning

The pools of one tensor work over any axis `dim`, drop it, and take a `mask` (bool) and a `weight` (real, 2 = the
element is there twice), see `weigher.core.weights`. A row with nothing left gives 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from weigher.core.weights import apply_weight, normalise, safe_ratio, softmax, widen

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Real
    from torch import Tensor


def weighted_mean(
    values: Float[Tensor, "*b t e"], weights: Float[Tensor, "*b t n"], mask: Bool[Tensor, "*b t"] | None = None
) -> Float[Tensor, "*b n e"]:
    """Average vectors over time under each of n weightings; the weights are normalised here.

        m_n = sum_t w_tn v_t / sum_t w_tn

    Shapes: values `[*b, t, e]`, weights `[*b, t, n]` in [0, inf), mask `[*b, t]` -> `[*b, n, e]`. A weighting that is
    zero everywhere gives the zero vector. For real-valued means over another axis see `mean_pool`.

    >>> values, weights = torch.tensor([[[0.0], [4.0]]]), torch.tensor([[[1.0, 0.0], [3.0, 0.0]]])
    >>> weighted_mean(values, weights).tolist()
    [[[3.0], [0.0]]]
    """
    wide, shares = _vectors(values, weights, mask)
    return (shares.mT @ wide).to(values.dtype)


@dataclass(frozen=True, eq=False, slots=True)
class WeightedStatistics:
    """Mean and standard deviation over time under each weighting, both `[*b, n, e]`."""

    mean: Tensor
    std: Tensor


def weighted_statistics(
    values: Float[Tensor, "*b t e"], weights: Float[Tensor, "*b t n"], mask: Bool[Tensor, "*b t"] | None = None
) -> WeightedStatistics:
    """Return mean and standard deviation over time under each of n weightings (statistics pooling).

        m_n = sum_t w_tn v_t,   s_n = sqrt(sum_t w_tn (v_t - m_n)^2),   w normalised over t

    Shapes: as `weighted_mean`; both results `[*b, n, e]`. s is the population form (no n - 1), so a repeated element
    and a doubled weight mean the same. One element, or none, gives s = 0 with gradient 0. The centred values
    `[*b, n, t, e]` are held in memory: the form E[v^2] - m^2 would save them, and lose the digits of a small s.
    Source: Okabe, Koshinaka, Shinoda 2018, arXiv 1803.10963.

    >>> weighted_statistics(torch.tensor([[1.0], [3.0]]), torch.tensor([[1.0], [1.0]])).std.tolist()
    [[1.0]]
    """
    wide, shares = _vectors(values, weights, mask)
    mean = shares.mT @ wide
    centred = wide.unsqueeze(-3) - mean.unsqueeze(-2)
    variance = (shares.mT.unsqueeze(-1) * centred.square()).sum(-2)
    spread = variance >= torch.finfo(variance.dtype).tiny
    # the square root has an infinite slope at 0
    std = torch.where(spread, torch.where(spread, variance, 1).sqrt(), 0)
    return WeightedStatistics(mean.to(values.dtype), std.to(values.dtype))


def attention_pool(
    values: Float[Tensor, "*b t e"],
    scores: Float[Tensor, "*b t n"],
    mask: Bool[Tensor, "*b t"] | None = None,
    *,
    weight: Real[Tensor, "*b t"] | None = None,
) -> Float[Tensor, "*b n e"]:
    """Average vectors over time under weights softmax_t(scores), one weighting per column of scores.

        m_n = sum_t w_t exp(s_tn) v_t / sum_t w_t exp(s_tn)

    Shapes: values `[*b, t, e]`, scores `[*b, t, n]` (real), mask and weight `[*b, t]` -> `[*b, n, e]`.
    Source: Ilse, Tomczak, Welling 2018, arXiv 1802.04712.

    >>> attention_pool(torch.tensor([[2.0], [4.0]]), torch.tensor([[0.0], [0.0]])).tolist()
    [[3.0]]
    """
    shares = softmax(
        widen(scores),
        -2,
        None if mask is None else mask[..., None],
        weight=None if weight is None else weight[..., None],
    )
    return weighted_mean(values, shares, mask)


def mean_pool(
    x: Float[Tensor, "*s"],
    dim: int,
    mask: Bool[Tensor, "*m"] | None = None,
    *,
    weight: Real[Tensor, "*w"] | None = None,
) -> Float[Tensor, "*r"]:
    """Return the weighted mean over `dim`: sum_t w_t x_t / sum_t w_t.

    Shapes: x `[..., t, ...]` (real) -> `[...]`. As the probability of "somewhere in the file" it forgets short turns.

    >>> mean_pool(torch.tensor([1.0, 4.0]), 0, weight=torch.tensor([2, 1])).item()
    2.0
    """
    wide, counted = apply_weight(x, mask, weight)
    return safe_ratio((counted * wide).sum(dim), counted.sum(dim)).to(x.dtype)


def max_pool(
    x: Float[Tensor, "*s"],
    dim: int,
    mask: Bool[Tensor, "*m"] | None = None,
    *,
    weight: Real[Tensor, "*w"] | None = None,
) -> Float[Tensor, "*r"]:
    """Return the largest value over `dim` among the elements that count; ties share the gradient.

    Shapes: x `[..., t, ...]` (real) -> `[...]`. Only the top element learns.

    >>> max_pool(torch.tensor([1.0, 4.0]), 0, torch.tensor([True, False])).item()
    1.0
    """
    wide, counted = apply_weight(x, mask, weight)
    top = torch.where(counted > 0, wide, -torch.inf).amax(dim)
    return torch.where((counted > 0).any(dim), top, 0).to(x.dtype)


def noisy_or(
    x: Float[Tensor, "*s"],
    dim: int,
    mask: Bool[Tensor, "*m"] | None = None,
    *,
    weight: Real[Tensor, "*w"] | None = None,
) -> Float[Tensor, "*r"]:
    """Return the probability that at least one of independent events over `dim` happens.

        q = 1 - prod_t (1 - x_t)^w_t = -expm1(sum_t w_t log1p(-x_t))

    Shapes: x `[..., t, ...]` in [0, 1] -> `[...]` in [0, 1]. Weights are not normalised here: more elements, more
    chances. A certain element (x = 1) gives 1 with gradient 0. Known to detect well and to localise badly
    (Wang, Li, Metze 2018, arXiv 1804.01146).

    >>> noisy_or(torch.tensor([0.5, 0.5]), 0).item()
    0.75
    """
    wide, counted = apply_weight(x, mask, weight)
    certain = wide >= 1
    # log 0 stays out of the sum: its slope is infinite while that of expm1 there is 0
    log_none = (counted * torch.log1p(-torch.where(certain, 0, wide))).sum(dim)
    return torch.where((certain & (counted > 0)).any(dim), 1, -torch.expm1(log_none)).to(x.dtype)


def self_weighted_mean(
    x: Float[Tensor, "*s"],
    dim: int,
    mask: Bool[Tensor, "*m"] | None = None,
    *,
    weight: Real[Tensor, "*w"] | None = None,
) -> Float[Tensor, "*r"]:
    """Average x under itself as the weight (contraharmonic mean, linear softmax pooling): the confidence of a track.

        q = sum_t w_t x_t^2 / sum_t w_t x_t,      dq/dx_t = w_t (2 x_t - q) / sum_s w_s x_s

    Shapes: x `[..., t, ...]` in [0, inf) -> `[...]`, between 0 and the largest x. q(a x) = a q(x), while x / sum x does
    not change. Elements below q/2 are pushed down when q should rise, and the gradient shrinks with the length of the
    axis. An all-zero row gives 0 with gradient 0.
    Source: Wang, Li, Metze 2018, arXiv 1810.09050.

    >>> self_weighted_mean(torch.tensor([0.0, 0.5, 1.0]), 0).item()
    0.8333333134651184
    """
    wide, counted = apply_weight(x, mask, weight)
    scaled, top = _scaled(wide, counted, dim, 1.0)
    shares = counted * scaled
    return (top * safe_ratio((shares * scaled).sum(dim), shares.sum(dim))).to(x.dtype)


def power_pool(
    x: Float[Tensor, "*s"],
    dim: int,
    exponent: float | Float[Tensor, "*k"],
    mask: Bool[Tensor, "*m"] | None = None,
    *,
    weight: Real[Tensor, "*w"] | None = None,
) -> Float[Tensor, "*r"]:
    """Average x under a power of itself; the exponent may be learned, one per class or slot.

        q = sum_t w_t x_t^(1 + n) / sum_t w_t x_t^n

    Shapes: x `[..., t, ...]` in [0, inf) -> `[...]`, between 0 and the largest x; exponent n in [0, inf), a number or a
    tensor that broadcasts to x (`[n]` for x `[b, t, n]`). n = 0 is the mean, n = 1 the self-weighted mean, n to
    infinity the maximum. Elements below q n / (n + 1) are pushed down when q should rise.
    Source: Liu et al. 2020, arXiv 2010.09985.

    >>> power_pool(torch.tensor([0.0, 0.5, 1.0]), 0, 0.0).item()
    0.5
    """
    wide, counted = apply_weight(x, mask, weight)
    n = torch.as_tensor(exponent, dtype=wide.dtype, device=wide.device)
    scaled, top = _scaled(wide, counted, dim, n.detach())
    # x^n has an infinite slope at 0 for n < 1: its value there, 0 (1 for n = 0), is put in by hand
    smooth = (scaled >= torch.finfo(scaled.dtype).tiny) | (n >= 1)
    power = torch.where(smooth, torch.where(smooth, scaled, 1).pow(n), (n == 0).to(wide.dtype))
    shares = counted * power
    return (top * safe_ratio((shares * scaled).sum(dim), shares.sum(dim))).to(x.dtype)


def auto_pool(
    x: Float[Tensor, "*s"],
    dim: int,
    sharpness: float | Float[Tensor, "*k"],
    mask: Bool[Tensor, "*m"] | None = None,
    *,
    weight: Real[Tensor, "*w"] | None = None,
) -> Float[Tensor, "*r"]:
    """Average x under the softmax of a multiple of itself; the sharpness may be learned.

        q = sum_t w_t x_t exp(a x_t) / sum_t w_t exp(a x_t)

    Shapes: x `[..., t, ...]` (real) -> `[...]`, between the smallest and the largest x; sharpness a is a number or a
    tensor that broadcasts to x. a = 0 is the mean, a to infinity the maximum, to -infinity the minimum.
    Source: McFee, Salamon, Bello 2018, arXiv 1804.10070.

    >>> auto_pool(torch.tensor([0.0, 1.0]), 0, 0.0).item()
    0.5
    """
    wide, counted = apply_weight(x, mask, weight)
    shares = softmax(wide * sharpness, dim, weight=counted)
    return (shares * wide).sum(dim).to(x.dtype)


def exp_softmax_pool(
    x: Float[Tensor, "*s"],
    dim: int,
    mask: Bool[Tensor, "*m"] | None = None,
    *,
    weight: Real[Tensor, "*w"] | None = None,
) -> Float[Tensor, "*r"]:
    """Average x under its own exponential: q = sum_t w_t x_t exp(x_t) / sum_t w_t exp(x_t).

    Shapes: x `[..., t, ...]` (real) -> `[...]`. On probabilities it stays near the mean: exp only spans 1 to e.
    Source: Wang, Li, Metze 2018, arXiv 1810.09050.

    >>> round(exp_softmax_pool(torch.tensor([0.0, 1.0]), 0).item(), 4)
    0.7311
    """
    return auto_pool(x, dim, 1.0, mask, weight=weight)


def _vectors(values: Tensor, weights: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return values `[*b, t, e]` with removed frames cleaned, and weights `[*b, t, n]` that sum to 1 over t."""
    column = None if mask is None else mask[..., None]
    wide, _ = apply_weight(values, column, weights.amax(-1, keepdim=True))
    return wide, normalise(weights.to(wide.dtype), -2, column)


def _scaled(x: Tensor, counted: Tensor, dim: int, exponent: float | Tensor) -> tuple[Tensor, Tensor]:
    """Return x / top, in [0, 1] where it counts, and top, the largest x that counts, without the axis `dim`.

    For a pool with q(a x) = a q(x), top * q(x / top) is q(x) for any constant top: the value can neither under- nor
    overflow nor exceed the top, and the gradient stays exact although top is detached.
    """
    top = torch.where(counted > 0, x, 0).amax(dim, keepdim=True).detach()
    top = torch.where(top >= torch.finfo(top.dtype).tiny, top, 1)
    # Only elements of weight 0 can lie above the top. The slope by their weight, which may be learned, is a power of
    # x / top: it stays exact as long as the square of (x / top)^(1 + exponent) is finite, else 0 * inf would arise.
    highest = math.sqrt(torch.finfo(x.dtype).max) ** (1 / (1 + exponent))
    return (x / top).clamp(max=highest), top.squeeze(dim)

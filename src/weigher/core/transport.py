"""Optimal transport between weighted finite sets: entropic by Sinkhorn in the log domain, exact by assignment.

    entropic  OT_e(a, b) = min_P  sum_ij P_ij C_ij + e KL(P | a b'),     P 1 = a,  P' 1 = b,  P >= 0
    plan      P_ij = a_i b_j exp((f_i + g_j - C_ij) / e)
    updates   f_i = -e log sum_j b_j exp((g_j - C_ij) / e),   g_j = -e log sum_i a_i exp((f_i - C_ij) / e)
    debiased  S_e(a, b) = OT_e(a, b) - OT_e(a, a) / 2 - OT_e(b, b) / 2,  0 for equal sets

C `[*s, n, m]` is the cost, a `[*s, n]` and b `[*s, m]` the weights (0 = removed; scaled to sum 1 here; None: all
alike), f and g the potentials, e > 0 (epsilon) the strength of the entropy in the units of the cost. Any leading axes
are a batch; shorter sets of a batch are filled up with elements of weight 0.

Each update goes further than that by a factor w: w = 2 / (1 + sqrt(1 - r)) is the best one where plain updates shrink
the error by r, which is measured on the way. It saves four iterations of five where epsilon is small.

Gradients are those of the optimum (the plan is a constant): d value / dC = P, d value / da = f, d value / db = g, with
epsilon held fixed. They cost no memory for the iterations. Costs in half precision are computed with in float32; all
but epsilon and the marginal error is returned as they came.

Sources: Cuturi 2013, arXiv 1306.0895; in the log domain with a falling epsilon: Schmitzer 2019, arXiv 1610.06519;
over-relaxed: Thibault et al. 2017, arXiv 1711.01851; debiased: Feydy et al. 2019, arXiv 1810.08278; rounding:
Altschuler, Weed, Rigollet 2017, arXiv 1705.09634.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from scipy.optimize import linear_sum_assignment

from weigher.core.weights import normalise, safe_ratio, widen
from weigher.errors import RequestError

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

_CHECK_EVERY = 10  # iterations: a look at the marginals makes a GPU wait
_MOST_RELAXED = 1.95


@dataclass(frozen=True, eq=False, slots=True)
class Transport:
    """How mass goes from one set to another, and what that costs."""

    plan: Tensor
    """`[*s, n, m]`, non-negative, sums to 1: the mass that goes from i to j. A constant of the gradient."""
    cost: Tensor
    """`[*s]`: sum P C."""
    value: Tensor
    """`[*s]`: the minimum, with the entropy; equal to `cost` for an exact plan."""
    potential_a: Tensor
    """`[*s, n]`: f, how the minimum changes with the weight of i, up to a constant."""
    potential_b: Tensor
    """`[*s, m]`: g."""
    epsilon: Tensor
    """`[*s]`: strength of the entropy, 0 for an exact plan."""
    marginal_error: Tensor
    """`[*s]`: sum |P 1 - a| + sum |P' 1 - b|."""
    iterations: int
    """Updates of both potentials; 0 for an exact plan."""
    converged: Tensor
    """`[*s]`, bool: whether the error is within twice the tolerance, once for each side."""


@dataclass(frozen=True, eq=False, slots=True)
class Debiased:
    """The debiased value `[*s]`, and the three transports it is made of."""

    value: Tensor
    ab: Transport
    aa: Transport
    bb: Transport


def relative_epsilon(
    cost: Float[Tensor, "*s n m"],
    reg: float,
    weight_a: Float[Tensor, "*s n"] | None = None,
    weight_b: Float[Tensor, "*s m"] | None = None,
) -> Float[Tensor, "*s"]:
    """Return the epsilon that is `reg` of the mean cost between the two sets.

        e = reg sum_ij a_i b_j |C_ij|

    The scale of the data then does not matter. 1 where all costs are 0 (any epsilon gives the same plan). No gradient.
    Raises: RequestError for a reg that is not above 0.

    >>> relative_epsilon(torch.tensor([[1.0, 3.0]]), 0.5).item()
    1.0
    """
    if not reg > 0:
        raise RequestError(f"reg is {reg}; needed is a number above 0, such as 0.05 (of the mean cost)")
    cost = widen(cost)
    a, b = _weights(cost, weight_a, weight_b)
    mean = torch.einsum("...n,...nm,...m->...", a, cost.abs(), b).detach()
    return torch.where(mean > 0, reg * mean, 1)


def sinkhorn(
    cost: Float[Tensor, "*s n m"],
    weight_a: Float[Tensor, "*s n"] | None = None,
    weight_b: Float[Tensor, "*s m"] | None = None,
    *,
    epsilon: Float[Tensor, "*s"] | float,
    tolerance: float = 1e-6,
    iterations: int = 2000,
    start: Float[Tensor, "*s m"] | None = None,
) -> Transport:
    """Return the entropic transport; whether it converged is in the result.

    Epsilon falls by half in each of the first iterations, from the span of the costs to what was asked for. With
    `start`, the potential of b of a problem close to this one, it does not: that is where the iterations go on.
    `tolerance` bounds the marginal error (both sides have mass 1). Shapes and ranges: see the module.
    Raises: RequestError for shapes that do not fit, costs that are not finite, weights below 0 or all 0, and an
    epsilon, a tolerance or a number of iterations that is not above 0.

    >>> found = sinkhorn(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), epsilon=0.1)
    >>> found.plan.round(decimals=3).tolist(), bool(found.converged)
    ([[0.5, 0.0], [0.0, 0.5]], True)
    """
    came, cost = cost.dtype, widen(cost)
    a, b = _weights(cost, weight_a, weight_b)
    eps = _checked(cost, epsilon, tolerance, iterations)
    with torch.no_grad():
        log_a, log_b = a.log()[..., :, None], b.log()[..., None, :]  # -inf for what is removed
        # the potential of what is removed takes no part, and may be of any size
        g = torch.zeros_like(b) if start is None else torch.where(b > 0, start.to(cost.dtype).detach(), 0)
        f = torch.zeros_like(a)
        kept = _kept(cost, a, b)
        span = _span(kept) * (start is None)
        relax = torch.ones_like(eps[..., 0])
        before = torch.full_like(relax, torch.inf)
        done = 0
        for done in range(1, iterations + 1):
            now = torch.maximum(eps, span * 0.5**done)
            best_f = -now[..., 0] * torch.logsumexp(log_b + (g[..., None, :] - kept) / now, -1)
            # what rows sum to is in how f would change; the same of columns below
            off = torch.where(a > 0, a * torch.expm1((f - best_f) / eps[..., 0]), 0).abs().sum(-1, keepdim=True)
            f = f + relax * (best_f - f)
            best_g = -now[..., 0, :] * torch.logsumexp(log_a + (f[..., :, None] - kept) / now, -2)
            if done % _CHECK_EVERY == 0 and bool((now <= eps).all()):
                off = off + torch.where(b > 0, b * torch.expm1((g - best_g) / eps[..., 0, :]), 0).abs().sum(-1, True)
                if bool((off <= tolerance).all()):
                    break
                relax, before = _relaxed(relax, off / before.clamp(min=1e-30)), off
            g = g + relax * (best_g - g)
    return _as(came, _transport(cost, a, b, f, eps, tolerance=tolerance, done=done))


def self_sinkhorn(
    cost: Float[Tensor, "*s n n"],
    weight: Float[Tensor, "*s n"] | None = None,
    *,
    epsilon: Float[Tensor, "*s"] | float,
    tolerance: float = 1e-6,
    iterations: int = 2000,
) -> Transport:
    """Return the entropic transport of a set to itself, for a symmetric cost: both potentials are one.

        f <- (f - e log sum_j a_j exp((f_j - C_ij) / e)) / 2

    needs tens of iterations where `sinkhorn` may need thousands. Otherwise as there.

    >>> found = self_sinkhorn(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), epsilon=0.1)
    >>> found.plan.round(decimals=3).tolist(), bool(found.converged)
    ([[0.5, 0.0], [0.0, 0.5]], True)
    """
    came, cost = cost.dtype, widen(cost)
    a, _ = _weights(cost, weight, weight)
    eps = _checked(cost, epsilon, tolerance, iterations)
    with torch.no_grad():
        log_a, f, kept, done = a.log()[..., None, :], torch.zeros_like(a), _kept(cost, a, a), 0
        span = _span(kept)
        for done in range(1, iterations + 1):
            now = torch.maximum(eps, span * 0.5**done)
            best = -now[..., 0] * torch.logsumexp(log_a + (f[..., None, :] - kept) / now, -1)
            if done % _CHECK_EVERY == 0 and bool((now <= eps).all()):
                off = torch.where(a > 0, a * torch.expm1((f - best) / eps[..., 0]), 0).abs().sum(-1)
                if bool((off <= tolerance).all()):
                    break
            f = (f + best) / 2
    return _as(came, _transport(cost, a, a, f, eps, tolerance=tolerance, done=done))


def sinkhorn_divergence(
    cost_ab: Float[Tensor, "*s n m"],
    cost_aa: Float[Tensor, "*s n n"],
    cost_bb: Float[Tensor, "*s m m"],
    weight_a: Float[Tensor, "*s n"] | None = None,
    weight_b: Float[Tensor, "*s m"] | None = None,
    *,
    epsilon: Float[Tensor, "*s"] | float,
    tolerance: float = 1e-6,
    iterations: int = 2000,
) -> Debiased:
    """Return the debiased entropic value: all three problems at the same epsilon.

    Non-negative where exp(-C / epsilon) is a positive kernel (for squared Euclidean distances it is), and 0 for equal
    sets, up to the square of the tolerance.
    Raises: RequestError as `sinkhorn` does.

    >>> cost = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    >>> sinkhorn_divergence(cost, cost, cost, epsilon=0.5).value.abs().item() < 1e-6
    True
    """
    limits = {"epsilon": epsilon, "tolerance": tolerance, "iterations": iterations}
    came = cost_ab.dtype
    aa, bb = (self_sinkhorn(widen(c), w, **limits) for c, w in ((cost_aa, weight_a), (cost_bb, weight_b)))
    # where both sets are equal, this start is the end
    ab = sinkhorn(widen(cost_ab), weight_a, weight_b, start=bb.potential_b, **limits)
    value = ab.value - (aa.value + bb.value) / 2  # before it is rounded: a small difference of large numbers
    return Debiased(value.to(came), *(_as(came, found) for found in (ab, aa, bb)))


def round_plan(
    plan: Float[Tensor, "*s n m"], weight_a: Float[Tensor, "*s n"], weight_b: Float[Tensor, "*s m"]
) -> Float[Tensor, "*s n m"]:
    """Return a plan near this one whose marginals are right to the last digit.

    Rows, then columns that are too heavy are scaled down, and what is missing is added as a product. The result is at
    most twice the marginal error away, and its cost an upper bound of the exact minimum. Weights must sum to 1.

    >>> plan = round_plan(torch.tensor([[0.5, 0.1], [0.1, 0.3]]), torch.tensor([0.5, 0.5]), torch.tensor([0.5, 0.5]))
    >>> plan.sum(0).tolist(), plan.sum(1).tolist()
    ([0.5, 0.5], [0.5, 0.5])
    """
    came = plan.dtype
    plan, weight_a, weight_b = widen(plan), widen(weight_a), widen(weight_b)
    plan = plan * safe_ratio(weight_a, plan.sum(-1)).clamp(max=1)[..., :, None]
    plan = plan * safe_ratio(weight_b, plan.sum(-2)).clamp(max=1)[..., None, :]
    left = (weight_a - plan.sum(-1)).clamp(min=0)
    right = (weight_b - plan.sum(-2)).clamp(min=0)
    return (plan + safe_ratio(left[..., :, None] * right[..., None, :], left.sum(-1)[..., None, None])).to(came)


def assignment(cost: Float[Tensor, "n n"]) -> Transport:
    """Return the exact transport between two sets of n elements that all weigh alike: a permutation is optimal.

    The potentials satisfy f_i + g_j <= C_ij, with equality where mass goes; they are not unique.
    Raises: RequestError for a cost that is not square or not finite.
    Source: Birkhoff 1946; the Hungarian method by `scipy.optimize.linear_sum_assignment`; potentials as shortest paths.

    >>> found = assignment(torch.tensor([[2.0, 1.0], [0.0, 5.0]]))
    >>> found.cost.item(), found.plan.tolist()
    (0.5, [[0.0, 0.5], [0.5, 0.0]])
    """
    n = cost.shape[0]
    if cost.dim() != 2 or cost.shape[1] != n or n == 0 or not bool(cost.isfinite().all()):
        raise RequestError(f"an assignment needs a square cost of finite numbers; given is one of {list(cost.shape)}")
    came, cost = cost.dtype, widen(cost)
    table = cost.detach()
    rows, columns = (torch.from_numpy(found).to(cost.device) for found in linear_sum_assignment(table.cpu().numpy()))
    plan = torch.zeros_like(table)
    plan[rows, columns] = 1 / n
    mean = cost[rows, columns].mean()
    paid = table[rows, columns]
    # f_i - f_k <= C[i, column of k] - paid_k: distances from a point that is 0 away from all, by Bellman and Ford
    length = table[:, columns] - paid
    f = torch.zeros_like(paid)
    for _ in range(n):
        shorter = torch.minimum(f, (f + length).amin(1))
        if bool(((f - shorter) <= 1e-12 * table.abs().max()).all()):
            break
        f = shorter
    g = torch.empty_like(f)
    g[columns] = paid - f
    nothing = torch.zeros_like(mean.detach())
    found = Transport(plan, mean, mean, f, g, nothing, nothing, 0, torch.ones_like(nothing, dtype=torch.bool))
    return _as(came, found)


def _as(dtype: torch.dtype, found: Transport) -> Transport:
    """Return a transport in this precision; its marginal error is that of what was computed."""
    names = ("plan", "cost", "value", "potential_a", "potential_b")
    return replace(found, **{name: getattr(found, name).to(dtype) for name in names})


def _relaxed(relax: Tensor, shrunk: Tensor) -> Tensor:
    """Choose the factor of the updates anew, from how the error shrank since the last look; [..., 1] each.

    An error that shrinks by l an iteration under the factor w shrinks by r = (l + w - 1)^2 / (l w^2) without it.
    """
    rate = shrunk.clamp(min=1e-12) ** (1 / _CHECK_EVERY)
    plain = ((rate + relax - 1).square() / (rate * relax.square())).clamp(max=0.9999)
    better = torch.maximum(relax, 2 / (1 + (1 - plain).sqrt())).clamp(max=_MOST_RELAXED)
    found = torch.where(rate > relax - 1, better, relax)
    return torch.where(rate >= 1, 1 + (relax - 1) / 2, found)


def _checked(cost: Tensor, epsilon: Tensor | float, tolerance: float, iterations: int) -> Tensor:
    """Check the settings and return epsilon as [*s, 1, 1]."""
    strength = torch.as_tensor(epsilon, dtype=cost.dtype, device=cost.device).detach().expand(cost.shape[:-2])
    if not bool((strength > 0).all()) or not tolerance > 0 or iterations < 1:
        raise RequestError(
            f"epsilon is {epsilon}, tolerance {tolerance}, iterations {iterations}; all of them need to be above 0"
        )
    return strength[..., None, None]


def _kept(cost: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return costs in which what is removed has the largest of the others: what fills up a set may cost anything."""
    counts = (a > 0)[..., :, None] & (b > 0)[..., None, :]
    return torch.where(counts, cost, cost.masked_fill(~counts, -torch.inf).amax((-2, -1), keepdim=True))


def _span(cost: Tensor) -> Tensor:
    return cost.amax((-2, -1), keepdim=True) - cost.amin((-2, -1), keepdim=True)


def _transport(cost: Tensor, a: Tensor, b: Tensor, f: Tensor, eps: Tensor, *, tolerance: float, done: int) -> Transport:
    """Make the result from the potential of a: one more update makes the columns right, and tells what is removed."""
    with torch.no_grad():
        log_a, log_b = a.log()[..., :, None], b.log()[..., None, :]
        gone_a, gone_b = (a == 0)[..., :, None], (b == 0)[..., None, :]
        most = torch.finfo(cost.dtype).max  # a removed element of any cost: its potential stays a number
        g = -eps[..., 0, :] * torch.logsumexp(log_a + (f[..., :, None] - cost.masked_fill(gone_a, 0)) / eps, -2)
        far = g.masked_fill(b == 0, 0)[..., None, :] - cost.masked_fill(gone_b, 0)
        f = torch.where(a > 0, f, -eps[..., 0] * torch.logsumexp(log_b + far / eps, -1)).clamp(-most, most)
        g = g.clamp(-most, most)
        plan = (log_a + log_b + (f[..., :, None] + g[..., None, :] - cost) / eps).exp().masked_fill(gone_a | gone_b, 0)
        error = (plan.sum(-1) - a).abs().sum(-1) + (plan.sum(-2) - b).abs().sum(-1)
        dual = (a * f).sum(-1) + (b * g).sum(-1)  # wrong by the square of what the potentials are
    moved = (plan * cost).sum((-2, -1))
    value = dual + (moved - moved.detach()) + (f * (a - a.detach())).sum(-1) + (g * (b - b.detach())).sum(-1)
    return Transport(plan, moved, value, f, g, eps[..., 0, 0], error, done, error <= 2 * tolerance)


def _weights(cost: Tensor, weight_a: Tensor | None, weight_b: Tensor | None) -> tuple[Tensor, Tensor]:
    """Check a problem and return both weights scaled to sum 1."""
    if cost.dim() < 2 or not cost.is_floating_point() or 0 in cost.shape[-2:] or not bool(cost.isfinite().all()):
        raise RequestError(
            f"the cost has the shape {list(cost.shape)} and type {cost.dtype}; needed are finite floats [..., n, m] "
            "with at least one element on each side"
        )
    found = []
    for name, weight, size in (("a", weight_a, cost.shape[-2]), ("b", weight_b, cost.shape[-1])):
        shape = (*cost.shape[:-2], size)
        given = cost.new_ones(shape) if weight is None else weight.to(cost.dtype)
        if given.shape != shape:
            raise RequestError(f"weights {name} have the shape {list(given.shape)}; the cost needs {list(shape)}")
        if not bool((given >= 0).all()) or not bool((given.sum(-1) > 0).all()) or not bool(given.isfinite().all()):
            raise RequestError(f"weights {name} need to be finite and >= 0, and one of a set above 0")
        found.append(normalise(given, -1))
    return found[0], found[1]

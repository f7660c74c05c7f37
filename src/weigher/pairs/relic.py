"""ReLIC: a contrastive loss, and a penalty where the likeness of things depends on how they were augmented.

    p^{12}_i(j) = softmax_j(a_i . b'_j / tau),   p^{21}_i(j) = softmax_j(b_i . a'_j / tau)
    L = mean_i -(log p^{12}_i(i) + log p^{21}_i(i)) / 2 + alpha mean_i D(p^{12}_i, p^{21}_i)

a, b `[n, e]` unit rows of the first and second view, a', b' those of a target encoder (a slow copy; the same rows where
there is none), i the proxy label of row i: to be told from all others is the finest task, and what is invariant for it
is invariant for every coarser one. D is KL(p || q) ("forward"), KL(q || p) ("reverse"), their mean ("symmetric"), or
the mean of both to (p + q) / 2 ("jensen-shannon"). Of more than two views every two are compared.

The penalty alone does not prevent collapse: where all embeddings are alike it is exactly 0. KL weighs each neighbour j
by p_ij, so it acts on the near ones. As evidence the paper gives `fisher_ratios`.

Source: Mitrovic, McWilliams, Walker, Buesing, Blundell 2021, arXiv 2010.07922. Unlike there: rows are made unit, the
contrastive term and the penalty are means, the weights of pairs obey the laws, and sums run in blocks. Its sum over all
ordered pairs is what "symmetric" is the mean of; "forward" and "reverse" depend on which view comes first.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from weigher.core.contrast import BLOCK, HIGHEST, Place, block_places, info_nce, log_sum_exp, unit
from weigher.core.weights import widen
from weigher.errors import RequestError
from weigher.pairs.checks import check_positive, check_rows, check_same, check_views
from weigher.pairs.workers import everyones, mean_over_workers

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Real

Divergence = Literal["forward", "reverse", "symmetric", "jensen-shannon"]
_LOG_2 = math.log(2)


@dataclass(frozen=True)
class ReLICConfig:
    """How much invariance counts, and between what."""

    alpha: float = 1.0
    """Weight of the penalty; 0 is the plain contrastive loss."""
    temperature: float = 0.2
    """Temperature of both terms."""
    divergence: Divergence = "forward"
    """How two distributions over the batch are compared."""
    detach_target: bool = False
    """Take the entropy of the first distribution for a constant of the gradient."""

    def __post_init__(self) -> None:
        check_positive(temperature=self.temperature)
        if not 0 <= self.alpha < math.inf:
            raise RequestError(f"alpha = {self.alpha}: it must be at least 0 and finite")
        _check_divergence(self.divergence, self.detach_target)


class ReLICLoss(nn.Module):
    """The loss of two or more views as a module for `weigher.pairs.pretraining`; it has no parameters.

    >>> rows = torch.eye(4)
    >>> {name: round(value.item(), 4) for name, value in ReLICLoss()(rows, rows).items()}
    {'loss': 0.02, 'contrast': 0.02, 'invariance': 0.0}
    """

    def __init__(self, config: ReLICConfig | None = None):
        super().__init__()
        self.config = config or ReLICConfig()

    def forward(
        self,
        *views: Float[Tensor, "n e"],
        targets: Sequence[Float[Tensor, "n e"]] | None = None,
        weight: Real[Tensor, " n"] | None = None,
    ) -> Mapping[str, Tensor]:
        """Return loss, contrast and invariance over the rows of all workers.

        Shapes: each view `[n, e]` of any length, made unit here; `targets` the same views by the target encoder, which
        get no gradient; weight `[n]` of the things.
        Raises: RequestError for less than two views, views that differ in shape, rows that are not finite, weights out
        of range, and one thing alone.
        """
        check_views(views, weight, targets=targets)
        config = self.config
        own = [unit(view, weight=weight) for view in views]
        keys = own if targets is None else [unit(target.detach(), weight=weight) for target in targets]
        counted = torch.ones_like(own[0][:, 0]) if weight is None else weight.to(own[0].dtype)
        (*everyone, counts), offset = everyones(*keys, counted)
        chosen = None if weight is None else counts
        contrasts, penalties = [], []
        for one, two in combinations(range(len(own)), 2):
            for query, key in ((one, two), (two, one)):
                each = info_nce(own[query], everyone[key], temperature=config.temperature, weight=chosen, offset=offset)
                contrasts.append(mean_over_workers(each, counted))
            each = invariance(
                (own[one], everyone[two]),
                (own[two], everyone[one]),
                temperature=config.temperature,
                divergence=config.divergence,
                detach_target=config.detach_target,
                weight=chosen,
            )
            penalties.append(mean_over_workers(each, counted))
        contrast, penalty = torch.stack(contrasts).mean(), torch.stack(penalties).mean()
        return {"loss": contrast + config.alpha * penalty, "contrast": contrast, "invariance": penalty}


def invariance(
    one: tuple[Float[Tensor, "*s n e"], Float[Tensor, "*s m e"]],
    two: tuple[Float[Tensor, "*s n e"], Float[Tensor, "*s m e"]],
    *,
    temperature: float = 0.2,
    divergence: Divergence = "forward",
    detach_target: bool = False,
    weight: Real[Tensor, "*s m"] | None = None,
) -> Float[Tensor, "*s n"]:
    """Return how much each row's likeness to all keys differs between two ways to augment.

        D(p_i, q_i),   p_ij = w_j exp(x_i . k_j / tau) / sum_r w_r exp(x_i . k_r / tau),  (x, k) from `one`, q of `two`

    Shapes: (queries `[..., n, e]`, keys `[..., m, e]`) twice, weight `[..., m]` in [0, inf) -> `[..., n]` in [0, inf),
    0 where nothing has any weight. Keys of weight 0 are to be finite (`unit` sees to it). Memory:
    O((n + m) e + block^2).
    Raises: RequestError for a temperature that is not above 0, an unknown divergence or one that `detach_target` is not
    for, and for queries, keys or weights whose shapes do not fit.

    >>> first, second = torch.eye(3), torch.eye(3).roll(1, 0)
    >>> invariance((first, second), (second, first), temperature=1.0)
    tensor([0.3642, 0.3642, 0.3642])
    """
    check_positive(temperature=temperature)
    _check_divergence(divergence, detach_target)
    (x, keys), (y, others) = one, two
    check_same(x, y)
    check_same(keys, others)
    wide = [widen(rows) for rows in (x / temperature, keys, y / temperature, others)]
    counted = None if weight is None else weight.to(wide[0].dtype)
    how = _How(divergence, detach_target, BLOCK)
    return cast("Tensor", _BlockDivergence.apply(how, *wide, counted)).to(x.dtype)


def _check_divergence(divergence: str, detach_target: bool) -> None:
    if divergence not in get_args(Divergence):
        raise RequestError(f"divergence = {divergence!r}: give one of {', '.join(get_args(Divergence))}")
    if detach_target and divergence == "jensen-shannon":
        raise RequestError("detach_target is of a KL divergence; leave it out for jensen-shannon")


class _How(NamedTuple):
    divergence: Divergence
    detach: bool
    block: int


class _Shares(NamedTuple):
    """A block of two distributions `[..., n, m]`: logarithms of one copy's share, and shares of all copies."""

    p: Tensor
    q: Tensor
    all_p: Tensor
    all_q: Tensor


def _shares(given: Sequence[Tensor | None], totals: Sequence[Tensor], place: Place) -> _Shares:
    """Return the block of both distributions; `totals` are the logarithms of their sums."""
    x, keys, y, others, weight = given
    rows, columns = place
    pairs = ((cast("Tensor", x), cast("Tensor", keys)), (cast("Tensor", y), cast("Tensor", others)))
    p, q = (
        (a[..., rows, :] @ b[..., columns, :].mT).sub_(total[..., rows, None])
        for (a, b), total in zip(pairs, totals, strict=True)
    )
    if weight is None:
        return _Shares(p, q, p.exp(), q.exp())
    counts = weight[..., None, columns].log()  # -inf of what is removed: its share is 0, however near it is
    return _Shares(p, q, (p + counts).exp_(), (q + counts).exp_())


def _terms(shares: _Shares, how: _How) -> tuple[Tensor, Tensor, Tensor]:
    """Return each key's part of D, and its slopes by the logarithm p and by q, `[..., n, m]` each.

    KL(p || q): P (p - q) + Q - P, P (p - q), Q - P     without the entropy, where it is detached: -P q, -P q, -P
    the middle: (P (p - m) + Q (q - m)) / 2, P (p - m) / 2, Q (q - m) / 2,   m = log((e^p + e^q) / 2)
    """
    p, q, all_p, all_q = shares
    if how.divergence == "reverse":
        value, by_q, by_p = _terms(_Shares(q, p, all_q, all_p), how._replace(divergence="forward"))
        return value, by_p, by_q
    if how.divergence == "symmetric":
        there, back = (_terms(shares, how._replace(divergence=kind)) for kind in ("forward", "reverse"))
        value, by_p, by_q = ((one + two) / 2 for one, two in zip(there, back, strict=True))
        return value, by_p, by_q
    if how.divergence == "jensen-shannon":
        middle = torch.logaddexp(p, q) - _LOG_2
        by_p, by_q = all_p * (p - middle) / 2, all_q * (q - middle) / 2
        return by_p + by_q, by_p, by_q
    if how.detach:
        value = -all_p * q
        return value, value, -all_p
    # Q - P sums to 0; with it no term is below 0 by more than its own round-off
    slope, apart = all_p * (p - q), all_q - all_p
    return slope + apart, slope, apart


def _way_back(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
    """Return the gradients of `invariance`, block by block, with T the terms and S_p, S_q the sums of their slopes.

    dD/ds_j = dT_j/dp - P_j S_p,   dD/du_j = dT_j/dq - Q_j S_q,   dD/dw_j = (T_j - P_j S_p - Q_j S_q) / w_j
    """
    *given, total_p, total_q, sum_p, sum_q, alive = ctx.saved_tensors
    x, keys, y, others, _ = given
    slope = (gradients[0] * alive)[..., None]
    wanted = zip(given, ctx.needs_input_grad[1:], strict=True)  # keys of a slow copy need none
    found = [torch.zeros_like(part) if needed else None for part, needed in wanted]
    to_x, to_keys, to_y, to_others, to_weight = found
    with torch.autocast(x.device.type, enabled=False):
        for place in block_places(x, keys, ctx.how.block):
            rows, columns = place
            own = slope[..., rows, :]
            shares = _shares(given, (total_p, total_q), place)
            _, by_p, by_q = _terms(shares, ctx.how)
            by_p = (by_p - shares.all_p * sum_p[..., rows, None]) * own
            by_q = (by_q - shares.all_q * sum_q[..., rows, None]) * own
            for each, one, two, to_one, to_two in ((by_p, x, keys, to_x, to_keys), (by_q, y, others, to_y, to_others)):
                if to_one is not None:
                    to_one[..., rows, :] += each @ two[..., columns, :]
                if to_two is not None:
                    to_two[..., columns, :] += each.mT @ one[..., rows, :]
            if to_weight is not None:
                copies = [log.clamp(max=HIGHEST).exp() for log in shares[:2]]
                term, _, _ = _terms(_Shares(shares.p, shares.q, *copies), ctx.how)
                each = term - copies[0] * sum_p[..., rows, None] - copies[1] * sum_q[..., rows, None]
                to_weight[..., columns] += (each * own).sum(-2)
    return None, *found


class _BlockDivergence(torch.autograd.Function):
    """`invariance` of scaled inputs of one type; keeps these and a few numbers for each query for the way back."""

    @staticmethod
    def forward(ctx: Any, how: _How, *given: Tensor | None) -> Tensor:
        x, keys, y, others = cast("tuple[Tensor, ...]", given[:4])
        ctx.how, weight = how, given[4]
        found = [log_sum_exp(a, b, weight=weight, block=how.block) for a, b in ((x, keys), (y, others))]
        alive = found[0].isfinite()
        totals = [torch.where(alive, total, 0) for total in found]  # where nothing counts, every share is 0
        result, sum_p, sum_q = (torch.zeros_like(totals[0]) for _ in range(3))
        with torch.autocast(x.device.type, enabled=False):
            for place in block_places(x, keys, how.block):
                rows = place[0]
                shares = _shares(given, totals, place)
                result[..., rows] += _terms(shares, how._replace(detach=False))[0].sum(-1)
                _, by_p, by_q = _terms(shares, how)
                sum_p[..., rows] += by_p.sum(-1)
                sum_q[..., rows] += by_q.sum(-1)
        ctx.save_for_backward(*given, *totals, sum_p, sum_q, alive)
        return result.clamp_(min=0)  # of distributions that are alike round-off is all there is

    backward: Any = staticmethod(once_differentiable(_way_back))


def fisher_ratios(features: Float[Tensor, "n f"], labels: Int[Tensor, " n"]) -> Float[Tensor, " c"]:
    """Return Fisher's linear discriminant ratio of every two classes: how far apart they are for their width.

        F_{kl} = ||m_k - m_l||^2 / (s_k + s_l),   m the mean, s the mean squared distance from it

    Shapes: features `[n, f]`, labels `[n]` -> one for each of the c = k (k - 1) / 2 pairs of classes, in [0, inf]; its
    median is the figure of the paper. Half precision is returned as float32. Two classes at one place that both have no
    width are not told apart at all: 0. Raises: RequestError for labels of another number, or of a single class, and for
    features that are not finite or of no floating type. Warns: of these classes, and where a class has one member,
    whose width is 0.

    >>> fisher_ratios(torch.tensor([[0.0], [2.0], [10.0], [12.0]]), torch.tensor([0, 0, 1, 1]))
    tensor([50.])
    """
    if features.dim() != 2 or labels.shape != features.shape[:1]:
        raise RequestError(
            f"features of shape {list(features.shape)} and labels of shape {list(labels.shape)}: one label for each row"
        )
    check_rows(features, torch.ones_like(labels, dtype=torch.bool), "the features")
    kinds, counts = labels.unique(return_counts=True)
    if len(kinds) < 2:
        raise RequestError(f"Fisher's ratio compares classes, and these labels name {len(kinds)}")
    if (counts == 1).any():
        warnings.warn("a class has one member: its width is 0, and its ratios are too high", stacklevel=2)
    wide = widen(features)
    groups = [wide[labels == kind] for kind in kinds]
    means = torch.stack([group.mean(0) for group in groups])
    widths = torch.stack([(group - mean).square().sum(1).mean() for group, mean in zip(groups, means, strict=True)])
    # class by class: the differences of all pairs at once would take far more memory than the features
    places = range(len(kinds))
    apart = torch.cat([(means[k + 1 :] - means[k]).square().sum(1) for k in places])
    width = torch.cat([widths[k + 1 :] + widths[k] for k in places])
    same = (apart == 0) & (width == 0)
    if same.any():
        warnings.warn(
            f"{int(same.sum())} pairs of classes lie at one place and have no width: nothing tells them apart, and "
            "their ratios are 0",
            stacklevel=2,
        )
    return torch.where(same, 0, apart / width)

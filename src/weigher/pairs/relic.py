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
contrastive term and the penalty are means, the weights of pairs obey the laws, and sums run in blocks.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from weigher.core.contrast import BLOCK, info_nce, unit
from weigher.core.weights import log_softmax, widen
from weigher.errors import RequestError
from weigher.pairs.checks import check_positive, check_rows, check_views
from weigher.pairs.workers import everyones, mean_over_workers

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Real
    from torch import Tensor

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
            raise RequestError(f"alpha = {self.alpha}: it must be at least 0")
        if self.divergence not in get_args(Divergence):
            raise RequestError(f"divergence = {self.divergence!r}: give one of {', '.join(get_args(Divergence))}")
        if self.detach_target and self.divergence == "jensen-shannon":
            raise RequestError("detach_target is of a KL divergence; leave it out for jensen-shannon")


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
    0 where nothing has any weight. Keys of weight 0 are to be finite (`unit` sees to it). Memory: O((n + m) e + block).
    Raises: RequestError for a temperature that is not above 0.

    >>> first, second = torch.eye(3), torch.eye(3).roll(1, 0)
    >>> invariance((first, second), (second, first), temperature=1.0)
    tensor([0.3642, 0.3642, 0.3642])
    """
    check_positive(temperature=temperature)

    def part(x: Tensor, y: Tensor, k: Tensor, r: Tensor, counted: Tensor | None) -> Tensor:
        masses = None if counted is None else counted[..., None, :]
        with torch.autocast(x.device.type, enabled=False):
            p, q = (log_softmax(a @ b.mT / temperature, -1, weight=masses) for a, b in ((x, k), (y, r)))
            return _divergence(p, q, masses, divergence, detach=detach_target)

    rows = max(1, BLOCK * BLOCK // max(one[1].shape[-2], 1))  # of the n x m matrices, few lie in memory at a time
    return cast("Tensor", _ByRows.apply((part, rows), one[0], two[0], one[1], two[1], weight))


def _spans(ctx: Any, count: int) -> list[slice]:
    return [slice(start, start + ctx.rows) for start in range(0, count, ctx.rows)]


def _way_back(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
    """Return the gradients of `_ByRows`, for which each part is made anew."""
    given = ctx.saved_tensors
    wanted = [number for number, needed in enumerate(ctx.needs_input_grad[1:]) if needed]
    found = {number: torch.zeros_like(given[number]) for number in wanted}
    for place in _spans(ctx, given[0].shape[-2]):
        own = [x[..., place, :] if number < 2 else x for number, x in enumerate(given)]
        leaves: list[Any] = [
            None if x is None else x.detach().requires_grad_(number in found) for number, x in enumerate(own)
        ]
        with torch.enable_grad():
            value = ctx.part(*leaves)
        each = torch.autograd.grad(value, [leaves[number] for number in wanted], slopes[0][..., place])
        for number, slope in zip(wanted, each, strict=True):
            (found[number][..., place, :] if number < 2 else found[number]).add_(slope)
    return None, *(found.get(number) for number in range(len(given)))


class _ByRows(torch.autograd.Function):
    """A function of queries (x, y) and keys (k, r, weight), some of its rows after the others.

    No part leaves anything behind: small things kept between large ones would leave the heap in pieces.
    """

    @staticmethod
    def forward(ctx: Any, how: tuple[Callable[..., Tensor], int], *given: Tensor | None) -> Tensor:
        ctx.part, ctx.rows = how
        x, y, *keys = cast("tuple[Tensor, ...]", given)
        result = x.new_empty(x.shape[:-1])
        for place in _spans(ctx, x.shape[-2]):
            result[..., place] = ctx.part(x[..., place, :], y[..., place, :], *keys)
        ctx.save_for_backward(*given)
        return result

    backward: Any = staticmethod(once_differentiable(_way_back))


def _divergence(p: Tensor, q: Tensor, weight: Tensor | None, kind: Divergence, *, detach: bool) -> Tensor:
    """Return D between logarithms of shares `[..., n, m]`, of which each counts `weight` times."""

    def kl(one: Tensor, two: Tensor) -> Tensor:
        share = one.exp() if weight is None else weight.to(one.dtype) * one.exp()
        own = (share * one).sum(-1)
        return (own.detach() if detach else own) - (share * two).sum(-1)

    if kind == "forward":
        return kl(p, q)
    if kind == "reverse":
        return kl(q, p)
    if kind == "symmetric":
        return (kl(p, q) + kl(q, p)) / 2
    middle = torch.logaddexp(p, q) - _LOG_2
    return (kl(p, middle) + kl(q, middle)) / 2


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
    if len(features) != len(labels) or features.dim() != 2:
        raise RequestError(f"features of shape {list(features.shape)} and {len(labels)} labels: one label for each row")
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
    one, two = torch.triu_indices(len(kinds), len(kinds), 1)
    apart, width = (means[one] - means[two]).square().sum(1), widths[one] + widths[two]
    same = (apart == 0) & (width == 0)
    if same.any():
        warnings.warn(
            f"{int(same.sum())} pairs of classes lie at one place and have no width: nothing tells them apart, and "
            "their ratios are 0",
            stacklevel=2,
        )
    return torch.where(same, 0, apart / width)

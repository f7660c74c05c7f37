"""Alignment and uniformity: what a contrastive loss asks of embeddings, as two figures, a loss, and a diagnosis.

    L_align(alpha) = mean_i ||x_i - y_i||^alpha                                   pairs lie close
    L_uniform(t)   = log mean_{i != j} exp(-t ||x_i - x_j||^2)                    all rows spread over the sphere
    L              = w_a L_align(X, Y) + w_u (L_uniform(X) + L_uniform(Y)) / 2 + w_c L_contrast(X, Y)

X, Y `[n, e]` rows of length 1, row i of the one and row i of the other a pair; alpha, t in (0, inf). Uniformity lies in
[-2 t n / (n - 1), 0]; the uniform distribution on the sphere has -2 t + log 0F1(; e / 2; t^2), which no distribution
goes below but a finite sample can. In its gradient a pair weighs exp(-t d_ij^2): the nearest rows get nearly all of the
push. Embeddings that have collapsed to one point exactly stay there: 0 is stationary. L_contrast is InfoNCE, left out
(w_c = 0) unless it is asked for.

With keys X', Y' by a slow copy of the encoder (`targets`), alignment is that of X with Y' and of Y with X', and with a
queue of such keys uniformity is also over the pairs of each row with it. Keys get no gradient.

`weigher.pairs.diagnosis` measures both on the embeddings of any encoder and says what they have to do with InfoNCE.

Source: Wang, Isola 2020, arXiv 2005.10242. Unlike there, sums over pairs run in blocks through a running logarithm (no
n x n matrix, no underflow), and pairs may carry weights. Rows of zeros are an error where something is measured; in the
loss they stay zeros, a point off the sphere that gets no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.special import gammaln
from torch import nn

from weigher.core.contrast import log_sum_exp
from weigher.core.losses import weighted_reduce
from weigher.core.weights import apply_weight, safe_ratio, widen
from weigher.errors import RequestError
from weigher.pairs.checks import check_positive, check_power, check_same, checked
from weigher.pairs.info_nce import contrast, enqueue, unit_views
from weigher.pairs.queue import EmbeddingQueue
from weigher.pairs.workers import everyones, mean_over_workers
from weigher.train.distribution import gather

if TYPE_CHECKING:
    from jaxtyping import Float, Real
    from torch import Tensor

_LEAST_SQUARE = 1e-12  # nearer pairs count as one point: the slope of d^alpha has no bound there for alpha < 1


@dataclass(frozen=True)
class AlignUniformConfig:
    """How much alignment and uniformity count, and the shapes of both."""

    align_weight: float = 1.0
    """Weight of alignment; what suits is the data's (`weigher study align_uniform`): on digits 2 to 1 of uniformity."""
    uniform_weight: float = 1.0
    """Weight of uniformity."""
    alpha: float = 2.0
    """Power of the distance of a pair; above 1 the worst pairs are pulled hardest."""
    t: float = 2.0
    """Sharpness of the potential between rows; 1 / (2 temperature) of a contrastive loss."""
    contrast_weight: float = 0.0
    """Weight of InfoNCE beside the two."""
    temperature: float = 0.2
    """Temperature of InfoNCE."""

    def __post_init__(self) -> None:
        weights = (self.align_weight, self.uniform_weight, self.contrast_weight)
        if not (min(weights) >= 0 < sum(weights) < math.inf):
            raise RequestError(
                f"align_weight = {self.align_weight}, uniform_weight = {self.uniform_weight}, contrast_weight = "
                f"{self.contrast_weight}: all must be at least 0 and finite, and one above it"
            )
        check_positive(t=self.t, temperature=self.temperature)
        check_power(self.alpha, stacklevel=3)


class AlignUniformLoss(nn.Module):
    """The loss of two views as a module for `weigher.pairs.pretraining`; it has no parameters.

    >>> first, second = torch.eye(4), torch.eye(4).roll(1, 0)
    >>> {name: round(value.item(), 2) for name, value in AlignUniformLoss()(first, second).items()}
    {'loss': -2.0, 'alignment': 2.0, 'uniformity': -4.0}
    """

    def __init__(self, config: AlignUniformConfig | None = None, queue: EmbeddingQueue | None = None):
        super().__init__()
        self.config = config or AlignUniformConfig()
        self.queue = queue

    def forward(
        self,
        first: Float[Tensor, "n e"],
        second: Float[Tensor, "n e"],
        weight: Real[Tensor, " n"] | None = None,
        targets: Sequence[Float[Tensor, "n e"]] | None = None,
    ) -> Mapping[str, Tensor]:
        """Return loss, alignment and uniformity (the mean of both views) over the rows of all workers.

        "contrast" is told, too, where it has a weight.

        Shapes: both `[n, e]` of any length, made unit here; `targets` the same by a slow encoder, which get no
        gradient; weight `[n]` of the pairs.
        Raises: RequestError for views of different shapes, rows that are not finite, weights out of range, one pair
        alone, and for a queue without targets.
        """
        views, keys = unit_views((first, second), targets, weight, self.queue)
        config, other = self.config, keys or views
        apart = [
            pair_distances(x, y, alpha=config.alpha, weight=weight) for x, y in zip(views, other[::-1], strict=True)
        ]
        aligned = mean_over_workers((apart[0] + apart[1]) / 2, weight)
        older = None if self.queue is None or not len(self.queue) else (self.queue.rows(), self.queue.weights())
        one, two = (joint_uniformity(rows, config.t, weight, older) for rows in views)
        spread = (one + two) / 2
        found = {"alignment": aligned, "uniformity": spread}
        loss = config.align_weight * aligned + config.uniform_weight * spread
        if config.contrast_weight:
            found["contrast"] = contrast(views, keys, config.temperature, weight, self.queue)
            loss = loss + config.contrast_weight * found["contrast"]
        enqueue(self, keys, weight)
        return {"loss": loss, **found}


def pair_distances(
    first: Float[Tensor, "*s n e"],
    second: Float[Tensor, "*s n e"],
    *,
    alpha: float = 2.0,
    weight: Real[Tensor, "*s n"] | None = None,
) -> Float[Tensor, "*s n"]:
    """Return how far each pair lies apart: d_i = ||x_i - y_i||^alpha, with gradient 0 where the two coincide.

    Unless alpha is 2, pairs nearer than 1e-6 count as coinciding: d_i = 0. Pairs of weight 0 may hold anything.

    Shapes: both `[..., n, e]`, weight `[..., n]` -> `[..., n]` in [0, 2^alpha] for unit rows.

    >>> pair_distances(torch.eye(2), torch.tensor([[1.0, 0.0], [0.0, -1.0]])).tolist()
    [0.0, 4.0]
    """
    squares = (_cleaned(first, weight)[0] - _cleaned(second, weight)[0]).square().sum(-1)
    if alpha == 2:
        return squares.to(first.dtype)
    apart = squares > _LEAST_SQUARE
    return torch.where(apart, torch.where(apart, squares, 1).pow(alpha / 2), 0).to(first.dtype)


def crowding(
    points: Float[Tensor, "*s n e"], *, t: float = 2.0, weight: Real[Tensor, "*s n"] | None = None
) -> Float[Tensor, "*s n"]:
    """Return how crowded it is around each row.

        u_i = log( sum_{j != i} w_j exp(-t ||x_i - x_j||^2) / sum_{j != i} w_j )

    Copies of i beyond itself (w_i - 1) count among the others. Where embeddings pile up it is highest.

    Shapes: `[..., n, e]`, weight `[..., n]` in [0, inf) -> `[..., n]`, in [-4 t, 0] for unit rows; 0 where nobody else
    is.

    >>> crowding(torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]), t=1.0)
    tensor([-0.6750, -0.6750, -4.0000])
    """
    sums, others, _ = _potentials(points, t, weight)
    alone = others <= 0
    level = torch.where(alone, 0, sums) - torch.where(alone, 1, others).log()
    return torch.where(alone, 0, level).to(points.dtype)


def log_potential(
    points: Float[Tensor, "*s n e"], *, t: float = 2.0, weight: Real[Tensor, "*s n"] | None = None
) -> Float[Tensor, "*s"]:
    """Return the uniformity of rows as they are, under the laws of weights.

        u = log( sum_i w_i sum_{j != i} w_j exp(-t ||x_i - x_j||^2) / sum_i w_i sum_{j != i} w_j )

    A row of weight 2 is two rows in one place, which are a pair of distance 0; a weight below 1 has no such twin.

    Shapes: `[..., n, e]`, weight `[..., n]` in [0, inf) -> `[...]`; 0 where there is no pair.

    >>> log_potential(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), t=2.0)
    tensor(-8.)
    """
    return _joined(*_potentials(points, t, weight)).to(points.dtype)


def joint_uniformity(
    points: Float[Tensor, "n e"],
    t: float,
    weight: Real[Tensor, " n"] | None = None,
    queue: tuple[Float[Tensor, "k e"], Float[Tensor, " k"]] | None = None,
) -> Float[Tensor, ""]:
    """Return `log_potential` of the rows of all workers, the same on each; a worker works on its own rows' pairs.

    `queue` holds rows and weights that all workers share: pairs with them count, pairs among them do not.

    >>> joint_uniformity(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), 2.0)
    tensor(-8.)
    """
    own = torch.ones_like(points[:, 0]) if weight is None else weight
    (everyone, counted), offset = everyones(points, own.to(widen(points).dtype))
    sums, others, mine = _potentials(points, t, own, (everyone, counted), offset)
    if queue is not None:
        kept, counts = (x.to(points.dtype) for x in queue)
        sums, others = _both(sums, others, *_potentials(points, t, own, (kept, counts), None)[:2])
    return _joined(gather(sums), gather(others), gather(mine)).to(points.dtype)


def alignment(
    first: Float[Tensor, "n e"],
    second: Float[Tensor, "n e"],
    alpha: float = 2.0,
    *,
    weight: Real[Tensor, " n"] | None = None,
    normalise: bool = True,
) -> Float[Tensor, ""]:
    """Return the mean distance of pairs to the power alpha: a metric, and a loss; 0 is perfect.

        sum_i w_i ||x_i - y_i||^alpha / sum_i w_i          (2 - 2 mean cosine for alpha = 2)

    Shapes: both `[n, e]`, made unit unless `normalise` is False, weight `[n]` -> `[]`. Range: [0, 2^alpha].
    Raises: RequestError for shapes that differ, no rows, rows that are zero or not finite, alpha that is not above 0.
    Warns: where alpha < 1 (pairs that almost coincide get huge gradients), and where rows taken as they are are not
    near length 1.

    >>> alignment(torch.eye(3), torch.eye(3).roll(1, 0))
    tensor(2.)
    """
    check_same(first, second)
    check_power(alpha, stacklevel=2)
    fit = partial(checked, weight=weight, normalise=normalise, least=1, what="alignment", each="pair")
    return weighted_reduce(pair_distances(fit(first), fit(second), alpha=alpha, weight=weight), weight)


def uniformity(
    points: Float[Tensor, "n e"],
    t: float = 2.0,
    *,
    weight: Real[Tensor, " n"] | None = None,
    queue: Float[Tensor, "k e"] | None = None,
    intra_batch: bool = True,
    normalise: bool = True,
) -> Float[Tensor, ""]:
    """Return how evenly rows are spread: a metric, and a loss; negative, lower is more even, 0 is one point.

        log mean exp(-t ||x_i - x_j||^2)   over the n (n - 1) / 2 pairs, and with a queue over the n k pairs with it

    The queue gets no gradient. `intra_batch=False` leaves the pairs among the rows out. Compare with
    `uniformity_optimum`, and with nothing measured on other rows, of another t, or on rows not made unit.

    Shapes: `[n, e]` and `[k, e]`, made unit unless `normalise` is False, weight `[n]` -> `[]`; of unit rows float32 at
    least.
    Range: [-2 t n / (n - 1), 0] without a queue.
    Raises: RequestError for less than two points, rows that are zero or not finite, widths that differ, t not above 0,
    and nothing to compare with. Warns: where rows taken as they are are not near length 1.

    >>> round(uniformity(torch.tensor([[0.0, 2.0], [0.0, -3.0], [1.0, 0.0]])).item(), 4)
    -4.3963
    """
    check_positive(t=t)
    own = checked(points, weight, normalise=normalise, least=2 if queue is None else 1, what="uniformity")
    if queue is None:
        if not intra_batch:
            raise RequestError("uniformity without the pairs among the rows needs a queue to compare with; give one")
        return log_potential(own, t=t, weight=weight)
    if queue.shape[-1] != points.shape[-1]:
        raise RequestError(f"points of shape {list(points.shape)} and a queue of {list(queue.shape)}: one width each")
    kept = checked(queue.detach(), None, normalise=normalise, least=1, what="the queue")
    sums, others, counted = _potentials(own, t, weight)
    far, _, _ = _potentials(own, t, counted, (kept, torch.ones_like(kept[:, 0])), None)
    if not intra_batch:
        return _joined(far, torch.full_like(others, len(kept)), counted).to(own.dtype)
    return _joined(*_both(sums, others, far, torch.full_like(others, len(kept))), counted).to(own.dtype)


def uniformity_optimum(dim: int, t: float = 2.0) -> float:
    """Return the uniformity of the uniform distribution on the sphere of rows with `dim` numbers.

        -2 t + log 0F1(; dim / 2; t^2)     dim = 2: -2 t + log I_0(2 t);  dim = 3: -2 t + log(sinh(2 t) / 2 t)

    Raises: RequestError for dim below 1 or t not above 0.

    >>> [round(uniformity_optimum(dim), 4) for dim in (2, 3, 10, 128)]
    [-1.575, -2.0798, -3.2465, -3.9375]
    """
    check_positive(t=t)
    if dim < 1:
        raise RequestError(f"rows of {dim} numbers lie on no sphere; dim must be at least 1")
    k = np.arange(int(4 * t) + 60)  # the terms are largest near k = t and fall faster than any power
    terms = 2 * k * np.log(t) - gammaln(dim / 2 + k) + gammaln(dim / 2) - gammaln(k + 1)
    return float(np.logaddexp.reduce(terms)) - 2 * t


def uniformity_bound(n: float, t: float = 2.0) -> float:
    """Return the lowest uniformity that n rows can have, that of a regular simplex: -2 t n / (n - 1).

    Weighted rows are as many as n = (sum w)^2 / sum w min(w, 1), and none of them goes below it: by the concavity of
    the logarithm uniformity is -t times the mean squared distance of two rows, or more, and the sum of these distances
    is 2 (sum w)^2 at most.

    >>> uniformity_bound(2), uniformity_bound(6)
    (-8.0, -4.8)
    """
    check_positive(t=t)
    if not n > 1:
        raise RequestError(f"uniformity needs at least two points, these are {n:g}")
    return -2 * t * n / (n - 1)


def _potentials(
    points: Tensor,
    t: float,
    weight: Tensor | None,
    others: tuple[Tensor, Tensor] | None = None,
    own: int | None = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return for each row log sum_j c_ij exp(-t d_ij^2) and sum_j c_ij over the others, and its own weight.

    The others are the rows themselves or, with `others`, rows and weights among which they stand at `own` (None: not
    at all).
    """
    points, counted = _cleaned(points, weight)
    keys, count = (points, counted) if others is None else _cleaned(*others)
    # distances stay as they are, and rows far from 0 keep the digits that their squares would lose
    middle = safe_ratio((count[..., None] * keys).sum(-2, keepdim=True), count.sum(-1)[..., None, None]).detach()
    points, keys = points - middle, keys - middle
    # -t ||x - y||^2 as one product: (2 t x, 1) . (y, -t |y|^2) - t |x|^2
    squares, key_squares = (x.square().sum(-1, keepdim=True) for x in (points, keys))
    left = torch.cat([2 * t * points, torch.ones_like(squares)], -1)
    sums = log_sum_exp(left, torch.cat([keys, -t * key_squares], -1), weight=count, own=own)
    total = count.sum(-1, keepdim=True).expand_as(counted)
    return sums - t * squares[..., 0], total if own is None else total - counted.clamp(max=1), counted


def _both(sums: Tensor, others: Tensor, far: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
    """Return `_potentials` among rows and with a queue in one; every pair among the rows is met from both its ends."""
    return torch.logaddexp(sums - math.log(2), far), others / 2 + among


def _cleaned(points: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    clean, counted = apply_weight(points, weight=None if weight is None else weight[..., None])
    return clean, counted[..., 0]


def _joined(sums: Tensor, others: Tensor, weight: Tensor) -> Tensor:
    """Return log( sum_i w_i exp(sums_i) / sum_i w_i others_i ), 0 where there is no pair."""
    met = others > 0
    counted = torch.where(met, weight, 0)
    keys = torch.where(met, sums, 0)[..., None]
    above = log_sum_exp(torch.ones_like(keys[..., :1, :]), keys, weight=counted)[..., 0]
    below = (counted * others).sum(-1)
    alive = below > 0
    return torch.where(alive, torch.where(alive, above, 0) - torch.where(alive, below, 1).log(), 0)

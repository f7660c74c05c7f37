"""How far apart two labelled data sets lie, without training: optimal transport of examples together with their labels.

    d^p(A, B) = min_P  sum_ij P_ij (lx |x_i - x'_j|^p + ly W[y_i, y'_j]),    P 1 = a,  P' 1 = b,  P >= 0
    W[c, k]   = W_p^p(examples of class c in A, examples of class k in B)

Two labels are as far apart as the clouds of their examples, so the label sets need nothing in common, not even their
number. The plan P says which example becomes which, its sums over classes which class becomes which, and the potentials
how much each example adds to the distance. Nothing but the geometry of the features is seen: not the model that will be
trained, nor what it could undo, as turning black to white. Embed first where pixels say little.

`value` is d, the p-th root: a metric for every p, where d^p is none. Two samples of one source are not at 0: compare
with the distance between halves (`weigher.examples.dataset_reference`), or rank.

Ways to measure labels: `weigher.examples.label_distances`.

Source: Alvarez-Melis, Fusi 2020, arXiv 2002.02923. Its code halves the costs and takes no root: d^2 / 2 in our terms.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weigher.core.transport import Transport, relative_epsilon, sinkhorn, sinkhorn_divergence
from weigher.errors import RequestError
from weigher.examples.exact_transport import exact_transport
from weigher.examples.label_distances import (
    DEFAULTS,
    DistanceConfig,
    Prepared,
    all_converged,
    check_memory,
    label_distance_matrix,
    prepare,
    squared_distances,
    to_power,
)
from weigher.examples.labelled_sets import (
    Embed,
    LabelledSet,
    check_same_width,
    labelled_set,
    stratified,
    unequal_scales,
)


@dataclass(frozen=True, eq=False)
class DatasetDistance:
    """The distance of two data sets and where it comes from; float64, differentiable in the features."""

    value: Tensor
    """d, scalar."""
    power: Tensor
    """d^p, the minimum itself (with the entropy's share where there is any), scalar."""
    feature_part: Tensor
    """lx sum P |x - x'|^p, scalar (with debias less half of each set's own)."""
    label_part: Tensor
    """ly sum P W, scalar; the two parts sum to `power` for exact transport."""
    plan: Tensor
    """[n, m], the mass that goes from example `rows[i]` of A to `columns[j]` of B."""
    label_distances: Tensor
    """[classes of A, classes of B]: W, p-th powers."""
    classes: tuple[tuple[Any, ...], tuple[Any, ...]]
    """The labels of A and of B."""
    rows: Tensor
    """int64 [n], which examples of A were transported."""
    columns: Tensor
    """int64 [m], which examples of B."""
    labels: tuple[Tensor, Tensor]
    """int64 [n] and [m], places in `classes` of the examples transported."""
    weights: tuple[Tensor, Tensor]
    """[n] and [m], the marginals of the plan."""
    potentials: tuple[Tensor, Tensor]
    """[n] and [m], how the minimum changes with the weight of an example, up to a constant."""
    converged: bool
    """False where entropic transport ran out of iterations."""

    @property
    def squared(self) -> Tensor:
        """d^2."""
        return self.value.square()

    def class_plan(self) -> Tensor:
        """Return which class becomes which: the mass between each pair of classes [classes of A, classes of B]."""
        hot = [
            torch.nn.functional.one_hot(label, len(classes)).to(self.plan)
            for label, classes in zip(self.labels, self.classes, strict=True)
        ]
        return hot[0].T @ self.plan @ hot[1]

    def example_values(self) -> tuple[Tensor, Tensor]:
        """Return how much each example pushes the sets apart: positive ones more than the rest do, [n] and [m].

            v_i = f_i - mean of f over the other examples

        It is the slope of d^p as weight moves from the others to i. A value for each of `rows` and `columns`.
        """
        a, b = (_centred(f, w) for f, w in zip(self.potentials, self.weights, strict=True))
        return a, b


def dataset_distance(
    Xa: Any,
    ya: Any,
    Xb: Any,
    yb: Any,
    config: DistanceConfig = DEFAULTS,
    *,
    weight_a: Any = None,
    weight_b: Any = None,
    embed: Embed | None = None,
    seed: int = 0,
) -> DatasetDistance:
    """Return the distance of two labelled data sets.

    Features [n, d] (arrays or tensors, more axes are flattened), labels [n] of integers or strings, weights [n] (0 =
    removed, 2 = there twice). `embed` is applied to the features of both. Exact transport between sets of different
    sizes, or weighted ones, needs the package POT (the extra "examples"). Time: see `benchmarks/dataset_distance.py`.
    Raises: RequestError for data, labels or weights that cannot be used, and for more memory than `most_bytes`. Warns
    where entropic transport did not converge, and where features, or the two sets, differ in scale by more than 1000.

    >>> found = dataset_distance([[0.0], [1.0]], [0, 1], [[10.0], [11.0]], ["a", "b"])
    >>> round(found.value.item(), 3), found.class_plan().tolist()
    (14.142, [[0.5, 0.0], [0.0, 0.5]])
    """
    a = labelled_set(Xa, ya, weight=weight_a, name="A", embed=embed)
    b = labelled_set(Xb, yb, weight=weight_b, name="B", embed=embed)
    _warn_of_scales([a, b])
    return distance_between(prepare(a, config), prepare(b, config), config, seed=seed)


def distance_between(
    a: Prepared, b: Prepared, config: DistanceConfig, *, seed: int = 0, label_distances: Tensor | None = None
) -> DatasetDistance:
    """Return the distance of two prepared data sets; with `label_distances` [ka, kb] (p-th powers) these are taken.

    Where examples are drawn, a set is drawn alike whatever it is compared with, so that the distance stays a metric.
    Raises: RequestError as `dataset_distance` does.
    """
    check_same_width([a.data, b.data])
    size = config.max_samples
    x, y = (one.data if size is None else stratified(one.data, size, np.random.default_rng(seed)) for one in (a, b))
    n, m = len(x), len(y)
    if config.reg is not None and config.debias:  # each set is compared with itself, too
        n = m = max(n, m)
    check_memory(n, m, config, what=f"against {m}", advice="set max_samples to 2000 or so")
    W = label_distance_matrix(a, b, config) if label_distances is None else label_distances
    if config.reg is None:
        found = exact_transport(_parts(x, y, W, config).sum(0).detach(), x.weight, y.weight)
        parts = _parts_of_plan(x, y, W, found.plan, config)
        power, potentials = parts.sum(), (found.potential_a, found.potential_b)
        converged = True
    else:
        power, parts, found, potentials, converged = _entropic(x, y, (a, b), W, config)
    return DatasetDistance(
        value=_root(power, config.p),
        power=power,
        feature_part=parts[0],
        label_part=parts[1],
        plan=found.plan,
        label_distances=W,
        classes=(x.classes, y.classes),
        rows=x.place,
        columns=y.place,
        labels=(x.label, y.label),
        weights=(x.weight, y.weight),
        potentials=potentials,
        converged=converged,
    )


def pairwise_dataset_distance(
    sets: Sequence[tuple[Any, Any]],
    config: DistanceConfig = DEFAULTS,
    *,
    embed: Embed | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Return the distances between all data sets (features, labels), float64 [k, k], 0 on the diagonal.

    The normal laws of a set's classes are made once. Raises: RequestError as `dataset_distance` does.

    >>> pairwise_dataset_distance([([[0.0]], [0]), ([[3.0]], [0])]).round(3).tolist()
    [[0.0, 4.243], [4.243, 0.0]]
    """
    checked = [labelled_set(x, y, name=f"data set {place}", embed=embed) for place, (x, y) in enumerate(sets, 1)]
    _warn_of_scales(checked)
    ready = [prepare(data, config) for data in checked]
    found = np.zeros((len(ready), len(ready)))
    for i, j in combinations(range(len(ready)), 2):
        found[i, j] = found[j, i] = float(distance_between(ready[i], ready[j], config, seed=seed).value.detach())
    return found


def rank_sources(
    target: tuple[Any, Any],
    sources: Mapping[str, tuple[Any, Any]],
    config: DistanceConfig = DEFAULTS,
    *,
    embed: Embed | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Return the distance of each source (features, labels) to the target, nearest first.

    >>> rank_sources(([[0.0]], [0]), {"far": ([[5.0]], [0]), "near": ([[1.0]], [3])}).keys()
    dict_keys(['near', 'far'])
    """
    named = [("the target", target), *sources.items()]
    checked = [labelled_set(*one, name=name, embed=embed) for name, one in named]
    _warn_of_scales(checked)
    ready, *others = (prepare(data, config) for data in checked)
    values = (float(distance_between(other, ready, config, seed=seed).value.detach()) for other in others)
    found = dict(zip(sources, values, strict=True))
    return dict(sorted(found.items(), key=lambda item: item[1]))


@dataclass(frozen=True)
class SampledDistance:
    """Distances of several draws of `samples` examples from each set."""

    values: tuple[float, ...]
    samples: int

    @property
    def mean(self) -> float:
        """Mean over the draws."""
        return float(np.mean(self.values))

    @property
    def std(self) -> float:
        """Sample standard deviation over the draws (0 for one)."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else 0.0


def sampled_dataset_distance(
    Xa: Any,
    ya: Any,
    Xb: Any,
    yb: Any,
    config: DistanceConfig = DEFAULTS,
    *,
    samples: int = 500,
    repeats: int = 5,
    embed: Embed | None = None,
    seed: int = 0,
) -> SampledDistance:
    """Return the distances of several small draws; the distances of labels come from all examples, once.

    Small samples lie further apart than large ones: compare only distances of equally many.
    Raises: RequestError as `dataset_distance` does, and for fewer than one sample or repeat.

    >>> x = np.arange(100.0)[:, None]
    >>> sampled_dataset_distance(x, x[:, 0] > 50, x + 3, x[:, 0] > 50, samples=50, repeats=2).samples
    50
    """
    if repeats < 1:
        raise RequestError(f"{repeats} repeats are asked for; needed is 1 or more")
    a, b = (prepare(labelled_set(x, y, name=n, embed=embed), config) for x, y, n in ((Xa, ya, "A"), (Xb, yb, "B")))
    check_same_width([a.data, b.data])
    _warn_of_scales([a.data, b.data])
    W = label_distance_matrix(a, b, config)
    drawn = replace(config, max_samples=samples)
    values = tuple(
        float(distance_between(a, b, drawn, seed=seed + draw, label_distances=W).value.detach())
        for draw in range(repeats)
    )
    return SampledDistance(values, samples)


def _warn_of_scales(sets: Sequence[LabelledSet]) -> None:
    said = unequal_scales(*sets)
    if said:
        warnings.warn(said, stacklevel=3)


def _parts(x: LabelledSet, y: LabelledSet, W: Tensor, config: DistanceConfig) -> Tensor:
    """Both terms of the cost of every pair, [2, n, m]."""
    features = to_power(squared_distances(x.features, y.features), config.p)
    return torch.stack([config.feature_weight * features, config.label_weight * W[x.label][:, y.label]])


def _parts_of_plan(x: LabelledSet, y: LabelledSet, W: Tensor, plan: Tensor, config: DistanceConfig) -> Tensor:
    """Both terms of a plan's cost, [2], from the pairs that have mass alone: exact differences, and a small graph."""
    i, j = plan.nonzero(as_tuple=True)
    squares = (x.features[i] - y.features[j]).square().sum(1)
    features = to_power(squares, config.p)
    mass = plan[i, j]
    return torch.stack(
        [
            config.feature_weight * (mass * features).sum(),
            config.label_weight * (mass * W[x.label[i], y.label[j]]).sum(),
        ]
    )


def _entropic(
    x: LabelledSet, y: LabelledSet, both: tuple[Prepared, Prepared], W: Tensor, config: DistanceConfig
) -> tuple[Tensor, Tensor, Transport, tuple[Tensor, Tensor], bool]:
    """Minimum, parts [2], plan, potentials and convergence of entropic transport, debiased where that is asked for."""
    ab = _parts(x, y, W, config)
    cost = ab.sum(0)
    epsilon = relative_epsilon(cost, config.reg or 0.0, x.weight, y.weight)
    limits = {"epsilon": epsilon, "tolerance": config.tolerance, "iterations": config.iterations}
    if not config.debias:
        found = sinkhorn(cost, x.weight, y.weight, **limits)
        converged = all_converged([found], config.iterations)
        return found.value, (found.plan * ab).sum((1, 2)), found, (found.potential_a, found.potential_b), converged
    own = [
        _parts(one, one, label_distance_matrix(whole, whole, config), config)
        for one, whole in zip((x, y), both, strict=True)
    ]
    all_of_it = sinkhorn_divergence(cost, own[0].sum(0), own[1].sum(0), x.weight, y.weight, **limits)
    found, aa, bb = all_of_it.ab, all_of_it.aa, all_of_it.bb
    parts = (found.plan * ab).sum((1, 2))
    for transport, cost_parts in ((aa, own[0]), (bb, own[1])):
        parts = parts - (transport.plan * cost_parts).sum((1, 2)) / 2
    potentials = (
        found.potential_a - (aa.potential_a + aa.potential_b) / 2,
        found.potential_b - (bb.potential_a + bb.potential_b) / 2,
    )
    return all_of_it.value.clamp(min=0), parts, found, potentials, all_converged([found, aa, bb], config.iterations)


def _root(power: Tensor, p: float) -> Tensor:
    return torch.where(power > 0, torch.where(power > 0, power, 1) ** (1 / p), 0)


def _centred(potential: Tensor, weight: Tensor) -> Tensor:
    others = (potential * weight).sum() - potential * weight
    rest = 1 - weight
    return torch.where(rest > 0, potential - others / torch.where(rest > 0, rest, 1), 0)

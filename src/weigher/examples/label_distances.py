"""How far apart two labels lie: the p-th power of the Wasserstein distance between the clouds of their examples.

Which one when (all of them W^p; the last four need p = 2)
    exact       optimal transport between the clouds: the definition; slow beyond a few hundred examples a class
    sinkhorn    debiased entropic transport between the clouds: for a GPU
    gaussian    as if classes were normal: never above exact, a thousand times faster, the default
    diagonal    the same with independent features: for thousands of features
    means       class means alone (any p); two classes around one centre are one
    upper       mean squared distance of independent draws; never below exact
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from weigher.core.gaussians import (
    Gaussians,
    bures_squared,
    class_gaussians,
    diagonal_squared,
    means_squared,
    upper_squared,
)
from weigher.core.transport import Transport, relative_epsilon, sinkhorn_divergence
from weigher.errors import RequestError
from weigher.examples.exact_transport import exact_transport
from weigher.examples.labelled_sets import LabelledSet

LabelDistance = Literal["gaussian", "exact", "sinkhorn", "diagonal", "means", "upper"]
_COPIES = 4  # of a cost matrix that a solver holds
_CLOSED = {"gaussian": bures_squared, "diagonal": diagonal_squared, "means": means_squared, "upper": upper_squared}


@dataclass(frozen=True)
class DistanceConfig:
    """What a distance means, and how it is found."""

    p: float = 2.0
    """Power of the distances, 1 or more."""
    label_distance: LabelDistance = "gaussian"
    feature_weight: float = 1.0
    """lx, 0 or more."""
    label_weight: float = 1.0
    """ly, 0 or more; 0 is plain optimal transport of the features, labels unseen."""
    reg: float | None = None
    """Entropy, as a share of the mean cost (0.05, say); None: the exact minimum."""
    debias: bool = True
    """With `reg`: take off the distances of each set to itself."""
    label_reg: float = 0.05
    """Entropy of the label distance "sinkhorn", as a share of the mean cost of two classes."""
    ddof: int = 0
    """1: covariances over n - 1. The Gaussian distance can then exceed the exact one."""
    max_samples: int | None = 2000
    """Examples of each set that are transported, drawn class by class; labels' distances use all. None: all."""
    tolerance: float = 1e-6
    """Error of the marginals at which entropic transport ends."""
    iterations: int = 5000
    """At most so many, else a warning."""
    most_bytes: int = 4 * 2**30
    """Memory that the matrices of examples against examples may take."""

    def __post_init__(self) -> None:
        if self.label_distance not in get_args(LabelDistance):
            raise RequestError(
                f"label_distance is {self.label_distance!r}; needed is one of {', '.join(get_args(LabelDistance))}"
            )
        if not self.p >= 1 or (self.p != 2 and self.label_distance in ("gaussian", "diagonal", "upper")):
            raise RequestError(
                f"p is {self.p} with label distance {self.label_distance!r}; needed is p >= 1, and 2 for closed forms "
                "of covariances: use 'exact', 'sinkhorn' or 'means' for another"
            )
        if min(self.feature_weight, self.label_weight) < 0 or not self.feature_weight + self.label_weight > 0:
            raise RequestError(
                f"feature_weight is {self.feature_weight}, label_weight {self.label_weight}; needed are numbers >= 0, "
                "not both 0"
            )
        for name, reg in (("reg", self.reg), ("label_reg", self.label_reg)):
            if reg is not None and not reg > 0:
                raise RequestError(f"{name} is {reg}; needed is a share of the mean cost above 0, such as 0.05")
        if self.max_samples is not None and self.max_samples < 1:
            raise RequestError(f"max_samples is {self.max_samples}; needed is 1 or more, or None for all")
        if self.ddof not in (0, 1):
            raise RequestError(f"ddof is {self.ddof}; needed is 0 (covariances over n) or 1 (over n - 1)")
        for name in ("tolerance", "iterations", "most_bytes"):
            if not getattr(self, name) > 0:
                raise RequestError(f"{name} is {getattr(self, name)}; needed is a number above 0")


DEFAULTS = DistanceConfig()


@dataclass(frozen=True, eq=False)
class Prepared:
    """A data set with what its distances to all others share: the normal laws of its classes, roots included."""

    data: LabelledSet
    laws: Gaussians | None


def prepare(data: LabelledSet, config: DistanceConfig) -> Prepared:
    """Make the normal laws of a data set's classes, where the config's label distance needs any."""
    if config.label_distance not in _CLOSED or config.label_weight == 0:
        return Prepared(data, None)
    weight = data.weight if data.weighted else None
    laws = class_gaussians(data.features, data.label, len(data.classes), weight, ddof=config.ddof)
    return Prepared(data, laws)


def label_distance_matrix(a: Prepared, b: Prepared, config: DistanceConfig) -> Tensor:
    """Return W [ka, kb]: the p-th power of the distance between each class of A and each of B.

    Raises: RequestError where clouds of classes are too large to be compared within `most_bytes`.
    """
    if config.label_weight == 0:
        return a.data.features.new_zeros(len(a.data.classes), len(b.data.classes))
    if a.laws is not None and b.laws is not None:
        squares = _CLOSED[config.label_distance](a.laws, b.laws)
        return to_power(squares, config.p)
    _check_clouds(a.data, b.data, config)
    if config.label_distance == "sinkhorn":
        return _sinkhorn_clouds(a.data, b.data, config)
    clouds = [[_cloud(one.data, k) for k in range(len(one.data.classes))] for one in (a, b)]
    return torch.stack([torch.stack([_exact_clouds(c, k, config.p) for k in clouds[1]]) for c in clouds[0]])


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Return |x_i - y_j|^2, [..., n, m] of [..., n, d] and [..., m, d], by one product of matrices.

    >>> squared_distances(torch.tensor([[1000.0, 0.0]]), torch.tensor([[1001.0, 2.0]])).tolist()
    [[5.0]]
    """
    shift = (x.detach().mean(-2, keepdim=True) + y.detach().mean(-2, keepdim=True)) / 2  # small numbers lose no digits
    x, y = x - shift, y - shift
    return (x.square().sum(-1)[..., :, None] + y.square().sum(-1)[..., None, :] - 2 * x @ y.mT).clamp(min=0)


def to_power(squares: Tensor, p: float) -> Tensor:
    """Return the p-th powers of distances from their squares, with gradient 0 at 0.

    >>> to_power(torch.tensor([0.0, 9.0]), 1.0).tolist()
    [0.0, 3.0]
    """
    return squares if p == 2 else torch.where(squares > 0, torch.where(squares > 0, squares, 1) ** (p / 2), 0)


def check_memory(n: int, m: int, config: DistanceConfig, *, what: str, advice: str, at_once: int = 1) -> None:
    """Raise RequestError where so many transports of n to m examples, all at once, need more than `most_bytes`."""
    needed = _COPIES * at_once * n * m * 8
    if needed > config.most_bytes:
        raise RequestError(
            f"{n} examples {what} need about {needed:,} bytes, and most_bytes is {config.most_bytes:,}; {advice}, or "
            "raise most_bytes"
        )


def all_converged(found: Sequence[Transport], iterations: int) -> bool:
    """Say whether entropic transports converged; warns where one did not."""
    done = all(bool(one.converged.all()) for one in found)
    if not done:
        worst = max(float(one.marginal_error.max()) for one in found)
        warnings.warn(
            f"entropic transport stopped after {iterations} iterations with a marginal error of {worst:.2g}; raise "
            "iterations, tolerance or reg",
            stacklevel=5,
        )
    return done


def _check_clouds(a: LabelledSet, b: LabelledSet, config: DistanceConfig) -> None:
    """Check the memory for the largest classes; of "sinkhorn" all classes of B are filled up to the largest one."""
    n, m = (int(torch.bincount(one.label).max()) for one in (a, b))
    advice = "use label_distance 'gaussian', or fewer examples (max_samples leaves labels all of them)"
    if config.label_distance == "sinkhorn":
        k, widest = len(b.classes), max(n, m)  # each class is compared with itself, too
        what = f"of a class against {widest}, for {k} classes at once,"
        check_memory(widest, widest, config, what=what, advice=advice, at_once=k)
    else:
        check_memory(n, m, config, what=f"of a class against {m}", advice=advice)


def _cloud(data: LabelledSet, place: int) -> tuple[Tensor, Tensor]:
    """Examples [k, d] of a class, and their weights [k], which sum to 1."""
    chosen = data.label == place
    weight = data.weight[chosen]
    return data.features[chosen], weight / weight.sum()


def _exact_clouds(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], p: float) -> Tensor:
    plan = exact_transport(to_power(squared_distances(a[0], b[0]), p), a[1], b[1]).plan
    i, j = plan.nonzero(as_tuple=True)
    return (plan[i, j] * to_power((a[0][i] - b[0][j]).square().sum(1), p)).sum()


def _sinkhorn_clouds(a: LabelledSet, b: LabelledSet, config: DistanceConfig) -> Tensor:
    """All classes of B at once against each of A: clouds [k, m, d], the shorter ones filled up with weight 0."""
    clouds, weights = (
        torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True)
        for parts in zip(*(_cloud(b, k) for k in range(len(b.classes))), strict=True)
    )
    bb = to_power(squared_distances(clouds, clouds), config.p)
    rows = []
    for place in range(len(a.classes)):
        x, w = (part.expand(len(clouds), *part.shape) for part in _cloud(a, place))
        ab, aa = (to_power(squared_distances(x, y), config.p) for y in (clouds, x))
        found = sinkhorn_divergence(
            ab,
            aa,
            bb,
            w,
            weights,
            epsilon=relative_epsilon(ab, config.label_reg, w, weights),
            tolerance=config.tolerance,
            iterations=config.iterations,
        )
        all_converged([found.ab, found.aa, found.bb], config.iterations)
        rows.append(found.value.clamp(min=0))
    return torch.stack(rows)

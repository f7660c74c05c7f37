"""Meta-augmentation: labels of a task changed by a random key, so that queries cannot be answered without the support.

    y' = g(eps, y) with one eps for each task, shared by support and query     H(Y'|X) > H(Y|X)

    Permute         y' = perm[y]                   classes
    Shift           y' = y + eps, eps ~ U(-s, s)   regression
    DiscreteShift   y' = y + eps, eps in {0, step, ..., (k - 1) step}; two levels: one random bit
    CircularShift   y' = (y + eps) mod period      angles
    SoftenLabels    y' = (1 - a) y + a / n         classes as shares; the largest one stays: a weak one

Images turned or blurred with their label kept leave H(Y|X) as it was, and a model that knows all training examples by
heart still needs no support. Where (eps, y) -> y' is one-to-one for every x, H(Y'|X) = H(Y|X) + H(eps). For a
permutation of n > 2 classes it is not: from H(Y|X) = 0 the entropy grows by log n, not by log n!; nor for shifts whose
results collide. `label_entropy.entropy_gain` counts exactly. The key is data: no gradient passes it, none is stopped.

Change training episodes only, normalised targets after the normalisation. Any object with `draw` and `apply` is an
augmentation. Source: Rajendran, Irpan and Jang 2020, arXiv 2007.05549; their code softens by a / 5 whatever n is, and
draws the same shifts in every step.
"""

from __future__ import annotations

import itertools
import math
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from weigher.errors import RequestError
from weigher.examples.episodes import Episodes

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Shaped

_MOST_KEYS = 40_320  # 8!


class Augmentation(Protocol):
    """A way to change the labels of tasks by keys."""

    def draw(self, y: Tensor, generator: np.random.Generator) -> Tensor:
        """Return one key for each task of labels y [b, s, ...]: [b, ...]."""
        ...

    def apply(self, key: Tensor, y: Tensor) -> Tensor:
        """Return labels of the same shape, those of task i changed by key[i]."""
        ...


def augment(episodes: Episodes, augmentation: Augmentation, generator: np.random.Generator) -> tuple[Episodes, Tensor]:
    """Change the labels of every task by a key of its own, the same for support and query; returns the keys too.

    >>> y = torch.tensor([[0, 1], [0, 1], [0, 1]])
    >>> found, key = augment(Episodes(y, y, y, y), Permute(2), np.random.default_rng(0))
    >>> torch.equal(found.support_y, found.query_y), torch.equal(found.query_y, key)
    (True, True)
    """
    key = augmentation.draw(episodes.support_y, generator).to(episodes.support_y.device)
    support, query = (augmentation.apply(key, y) for y in (episodes.support_y, episodes.query_y))
    return replace(episodes, support_y=support, query_y=query), key


class MetaAugment(nn.Module):
    """`augment` as a part of a network: in training mode alone, since scores of changed labels mean nothing.

    >>> y = torch.zeros(2, 1, 1)
    >>> change = MetaAugment(DiscreteShift(levels=2))
    >>> change(Episodes(y, y, y, y), np.random.default_rng(1)).query_y.flatten().tolist()
    [0.0, 0.5]
    """

    def __init__(self, augmentation: Augmentation) -> None:
        super().__init__()
        self.augmentation = augmentation

    def forward(self, episodes: Episodes, generator: np.random.Generator) -> Episodes:
        """Return episodes with changed labels; RequestError in evaluation mode."""
        if not self.training:
            raise RequestError(
                "labels would be changed in evaluation mode, and scores with it; judge a learner by episodes as they "
                "are, or call train() first"
            )
        return augment(episodes, self.augmentation, generator)[0]


@dataclass(frozen=True)
class Permute:
    """Permute the n labels: y' = perm[y]; of targets [b, s, n] the outputs, y'[perm[c]] = y[c].

    Raises RequestError for ways < 2 and, when used, for targets that are no labels 0..n - 1 and no n outputs.

    >>> Permute(3).apply(torch.tensor([[2, 0, 1]]), torch.tensor([[0, 1, 2, 2]])).tolist()
    [[2, 0, 1, 1]]
    """

    ways: int

    def __post_init__(self) -> None:
        if self.ways < 2:
            raise RequestError(f"ways = {self.ways}: one label has no permutation; use Shift for a single number")

    def draw(self, y: Tensor, generator: np.random.Generator) -> Int[Tensor, "b n"]:
        """Return a permutation for each task."""
        order = np.broadcast_to(np.arange(self.ways), (len(y), self.ways))
        return torch.from_numpy(generator.permuted(order, axis=1))

    def apply(self, key: Int[Tensor, "b n"], y: Shaped[Tensor, "b s *d"]) -> Shaped[Tensor, "b s *d"]:
        """Permute; `key.argsort(1)` undoes it."""
        if not y.is_floating_point() and y.dim() == 2:
            if y.numel() and not 0 <= int(y.min()) <= int(y.max()) < self.ways:
                raise RequestError(
                    f"labels from {int(y.min())} to {int(y.max())}; Permute({self.ways}) needs 0 to {self.ways - 1}: "
                    "number the classes of every task anew"
                )
            return key.gather(1, y)
        if y.dim() != 3 or y.shape[2] != self.ways:
            raise RequestError(
                f"targets {list(y.shape)} of {y.dtype}; Permute({self.ways}) needs whole labels [tasks, examples] or "
                f"{self.ways} outputs; for real targets use Shift or DiscreteShift"
            )
        return torch.empty_like(y).scatter_(2, key[:, None].expand_as(y), y)

    def keys(self) -> Int[Tensor, "k n"]:
        """Return all n! permutations; RequestError above 8 ways."""
        if math.factorial(self.ways) > _MOST_KEYS:
            raise RequestError(f"{self.ways} ways have {math.factorial(self.ways)} permutations, too many to count")
        return torch.tensor(list(itertools.permutations(range(self.ways))))


def _check_real(y: Tensor, name: str) -> None:
    if not y.is_floating_point():
        raise RequestError(f"targets of {y.dtype}; {name} needs real ones; for classes use Permute")


def _of_task(key: Tensor, y: Tensor) -> Tensor:
    """Give keys [b] the axes and the type of targets [b, s, ...]."""
    return key.reshape(-1, *[1] * (y.dim() - 1)).to(y)


@dataclass(frozen=True)
class Shift:
    """Add eps ~ U(-scale, scale) to every output of a task: y' = y + eps. The entropy it adds is not a count of bits.

    Warns for scale 0; raises RequestError for a scale that is negative or infinite, and for labels of classes.

    >>> Shift(1.0).apply(torch.tensor([0.5, -1.0]), torch.zeros(2, 2)).tolist()
    [[0.5, 0.5], [-1.0, -1.0]]
    """

    scale: float

    def __post_init__(self) -> None:
        if not 0 <= self.scale < math.inf:
            raise RequestError(f"scale = {self.scale}; needed is a finite number above 0")
        if self.scale == 0:
            warnings.warn("a shift of scale 0 is no augmentation", stacklevel=3)

    def draw(self, y: Tensor, generator: np.random.Generator) -> Float[Tensor, " b *d"]:
        """Return the shifts, one for each task and output."""
        _check_real(y, "Shift")
        return torch.from_numpy(generator.uniform(-self.scale, self.scale, (len(y), *y.shape[2:])))

    def apply(self, key: Float[Tensor, " b *d"], y: Float[Tensor, "b s *d"]) -> Float[Tensor, "b s *d"]:
        """Shift; `-key` undoes it."""
        _check_real(y, "Shift")
        return y + key[:, None].to(y)


@dataclass(frozen=True)
class DiscreteShift:
    """Add one of `levels` steps to a whole task: y' = y + eps, eps in {0, step, ..., (levels - 1) step}.

    With two levels the key is one random bit. It adds log(levels) nats where shifted values cannot meet. `step` is
    1 / levels unless given. Warns for a single level; raises RequestError for none, or a step that is 0 or infinite.

    >>> DiscreteShift(levels=4).keys().tolist()
    [0.0, 0.25, 0.5, 0.75]
    """

    levels: int = 2
    step: float | None = None

    def __post_init__(self) -> None:
        if self.levels < 1 or (self.step is not None and (self.step == 0 or not math.isfinite(self.step))):
            raise RequestError(f"levels = {self.levels}, step = {self.step}; needed are 2 or more, and a step not 0")
        if self.levels == 1:
            warnings.warn("a shift of one level is no augmentation", stacklevel=3)

    def keys(self) -> Float[Tensor, " k"]:
        """Return all shifts, float64."""
        return torch.arange(self.levels, dtype=torch.float64) * (1 / self.levels if self.step is None else self.step)

    def draw(self, y: Tensor, generator: np.random.Generator) -> Float[Tensor, " b"]:
        """Return one shift for each task."""
        _check_real(y, "DiscreteShift")
        return self.keys()[torch.from_numpy(generator.integers(self.levels, size=len(y)))]

    def apply(self, key: Float[Tensor, " b"], y: Float[Tensor, "b s *d"]) -> Float[Tensor, "b s *d"]:
        """Shift; `-key` undoes it."""
        _check_real(y, "DiscreteShift")
        return y + _of_task(key, y)


@dataclass(frozen=True)
class CircularShift:
    """Turn targets on a circle: y' = (y + eps) mod period, eps uniform on it, or one of `levels` places.

    Judge turned targets by `circular_mse`. Raises RequestError for a period not above 0, or fewer than 2 levels.

    >>> CircularShift().apply(torch.tensor([0.5]), torch.tensor([[0.25, 0.75]])).tolist()
    [[0.75, 0.25]]
    """

    period: float = 1.0
    levels: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.period < math.inf or (self.levels is not None and self.levels < 2):
            raise RequestError(
                f"period = {self.period}, levels = {self.levels}; needed are a length above 0, and 2 levels or None"
            )

    def keys(self) -> Float[Tensor, " k"]:
        """Return all shifts, float64; RequestError without levels."""
        if self.levels is None:
            raise RequestError("a circular shift without levels has more keys than can be counted; give levels")
        return torch.arange(self.levels, dtype=torch.float64) * (self.period / self.levels)

    def draw(self, y: Tensor, generator: np.random.Generator) -> Float[Tensor, " b"]:
        """Return one shift for each task."""
        _check_real(y, "CircularShift")
        if self.levels is None:
            return torch.from_numpy(generator.uniform(0, self.period, len(y)))
        return self.keys()[torch.from_numpy(generator.integers(self.levels, size=len(y)))]

    def apply(self, key: Float[Tensor, " b"], y: Float[Tensor, "b s *d"]) -> Float[Tensor, "b s *d"]:
        """Turn; `-key` undoes it."""
        _check_real(y, "CircularShift")
        return (y + _of_task(key, y)).remainder(self.period)


@dataclass(frozen=True)
class SoftenLabels:
    """Mix shares of classes [b, s, n] with the uniform ones: y' = (1 - a) y + a / n, a in {0, 0.1, ..., 0.9}.

    >>> SoftenLabels().apply(torch.tensor([0.5]), torch.tensor([[[1.0, 0.0]]])).tolist()
    [[[0.75, 0.25]]]
    """

    def keys(self) -> Float[Tensor, " k"]:
        """Return all a, float64."""
        return torch.arange(10, dtype=torch.float64) / 10

    def draw(self, y: Tensor, generator: np.random.Generator) -> Float[Tensor, " b"]:
        """Return one a for each task."""
        return self.keys()[torch.from_numpy(generator.integers(10, size=len(y)))]

    def apply(self, key: Float[Tensor, " b"], y: Float[Tensor, "b s n"]) -> Float[Tensor, "b s n"]:
        """Soften; RequestError for labels that are no shares of 2 classes or more."""
        if not y.is_floating_point() or y.dim() != 3 or y.shape[2] < 2:
            raise RequestError(f"targets {list(y.shape)} of {y.dtype}; SoftenLabels needs shares of n >= 2 classes")
        a = _of_task(key, y)
        return (1 - a) * y + a / y.shape[2]


def circular_mse(prediction: Float[Tensor, "*s"], target: Float[Tensor, "*s"], period: float = 1.0) -> Tensor:
    """Return the mean of squared distances on a circle: the shorter way round, at most half the period.

    >>> round(circular_mse(torch.tensor([0.95]), torch.tensor([0.05])).item(), 4)
    0.01
    """
    return ((prediction - target + period / 2).remainder(period) - period / 2).square().mean()

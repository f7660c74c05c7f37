"""Is a distance large? Two measures to read it by: halves of the first set, and groups shuffled between both sets.

Two samples of one source are never at 0, and further apart the smaller they are. So

    halves    distances between two halves of A: what A differs from itself by
    shuffled  distances after all groups were dealt out anew, as many to each side as before: what A and B would differ
              by if they were of one source
    p         (1 + number of shuffled distances >= the real one) / (1 + number of shuffles)

A group is what stands or falls together, such as the voices of one recording: voices of one evening resemble each
other, and dealt out one by one they would make two sources look like one another too little. Labels that are equal are
one class in both sets. A and B are `like` where p > 0.05: nothing says that they are of two sources, and sets that are
small enough always are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from weigher.errors import RequestError
from weigher.examples.dataset_distance import DatasetDistance, distance_between
from weigher.examples.label_distances import DEFAULTS, DistanceConfig, prepare
from weigher.examples.labelled_sets import labelled_set

Progress = Callable[[str, int, int], None]
UNLIKE = 0.05
"""Share of shuffles as far apart from which on two sets may be of one source."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """The distance of A and B, and those it is to be read by."""

    distance: DatasetDistance
    halves: tuple[float, ...]
    """Of A against A; empty where A is one group."""
    shuffled: tuple[float, ...]

    @property
    def p_value(self) -> float:
        """Share of shuffles that lie as far apart, the real one counted in; from 1 / (shuffles + 1) to 1."""
        real = float(self.distance.value)
        as_far = sum(other >= real * (1 - 1e-9) for other in self.shuffled)
        return (1 + as_far) / (1 + len(self.shuffled))

    @property
    def like(self) -> bool:
        """Whether A and B may be of one source."""
        return self.p_value > UNLIKE

    @property
    def spreads_beyond(self) -> float | None:
        """How many standard deviations of the shuffles A and B lie beyond their mean; None where they do not differ."""
        spread = float(np.std(self.shuffled, ddof=1))
        return (float(self.distance.value) - float(np.mean(self.shuffled))) / spread if spread > 0 else None


def compare_datasets(
    Xa: Any,
    ya: Any,
    Xb: Any,
    yb: Any,
    config: DistanceConfig = DEFAULTS,
    *,
    groups_a: Any = None,
    groups_b: Any = None,
    halves: int = 10,
    shuffles: int = 99,
    seed: int = 0,
    progress: Progress | None = None,
) -> Comparison:
    """Return the distance of two data sets with its two measures.

    Features [n, d], labels [n], groups [n] (any names; None: every example on its own). `progress` gets "compare".
    Raises: RequestError as `dataset_distance` does, for groups of another number, fewer than 19 shuffles (p could not
    be 0.05), and fewer than two groups in all.

    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(2, 40, 2))
    >>> same = np.zeros(40, int)
    >>> compare_datasets(x, same, y, same, shuffles=19).like, compare_datasets(x, same, y + 2, same, shuffles=19).like
    (True, False)
    """
    if shuffles < 19 or halves < 0:
        raise RequestError(
            f"{shuffles} shuffles, {halves} halves; needed are 19 shuffles or more, for p to reach 0.05, and no fewer "
            "than 0 halves"
        )
    a, b = labelled_set(Xa, ya, name="A"), labelled_set(Xb, yb, name="B")
    distance = distance_between(prepare(a, config), prepare(b, config), config, seed=seed)
    x, labels = [one.features.cpu().numpy() for one in (a, b)], [np.asarray(one) for one in (ya, yb)]
    groups = [_groups(one, len(part)) for one, part in ((groups_a, x[0]), (groups_b, x[1]))]
    sizes = [int(part.max()) + 1 for part in groups]
    pooled_x, pooled_y = np.concatenate(x), np.concatenate(labels)
    pooled_group = np.concatenate([groups[0], groups[1] + sizes[0]])
    rng = np.random.default_rng([seed, 1])
    done, total = 0, halves + shuffles

    def between(first: np.ndarray, second: np.ndarray) -> float:
        nonlocal done
        parts = (np.isin(pooled_group, chosen) for chosen in (first, second))
        one, two = (prepare(labelled_set(pooled_x[part], pooled_y[part]), config) for part in parts)
        found = distance_between(one, two, config, seed=seed)
        done += 1
        if progress is not None:
            progress("compare", done, total)
        return float(found.value)

    own, shuffled = [], []
    for _ in range(halves if sizes[0] > 1 else 0):
        order = rng.permutation(sizes[0])
        own.append(between(order[: sizes[0] // 2], order[sizes[0] // 2 :]))
    for _ in range(shuffles):
        order = rng.permutation(sum(sizes))
        shuffled.append(between(order[: sizes[0]], order[sizes[0] :]))
    return Comparison(distance, tuple(own), tuple(shuffled))


def _groups(given: Any, count: int) -> np.ndarray:
    """Numbers of groups from 0 on, [n]."""
    if given is None:
        return np.arange(count)
    found = np.asarray(given)
    if found.shape != (count,):
        raise RequestError(f"{count} examples have groups of shape {list(found.shape)}; needed is one for each")
    return np.unique(found, return_inverse=True)[1].reshape(-1)

"""Episodes: small tasks, each of a support set to learn from and a query set to be judged by, and how they are drawn.

    task       n classes of a pool, in an order; the place of a class in that order is its label
    fixed          groups of neighbouring classes, always in the same order:     C / n tasks
    intrashuffle   the same groups in any order:                                 C / n * n! tasks
    intershuffle   any n classes in any order:                                   C! / (C - n)! tasks

With fixed groups a class has the same label in every task, so that queries can be answered without the support set
(tasks that are not mutually exclusive). Symbols: b tasks, s support and q query examples, n ways (classes of a task).
Source of the names: Rajendran, Irpan and Jang 2020, arXiv 2007.05549.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from weigher.errors import RequestError

if TYPE_CHECKING:
    from jaxtyping import Int, Shaped

Grouping = Literal["fixed", "intrashuffle", "intershuffle"]


@dataclass(frozen=True, eq=False)
class Episodes:
    """A batch of tasks. Classes are int64 labels 0..n - 1, regression targets floats.

    >>> x, y = torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.long)
    >>> len(Episodes(x, y, x, y))
    2
    """

    support_x: Tensor
    """[b, s, ...]"""
    support_y: Tensor
    """[b, s], or [b, s, d]"""
    query_x: Tensor
    """[b, q, ...]"""
    query_y: Tensor
    """[b, q], or [b, q, d]"""
    support_id: Tensor | None = None
    """Which example, or which class, of a pool each one is, int64 [b, s]; needed only to measure tasks."""
    query_id: Tensor | None = None

    def __post_init__(self) -> None:
        shapes = [list(t.shape) for t in (self.support_x, self.support_y, self.query_x, self.query_y)]
        sx, sy, qx, qy = shapes
        fits = min(map(len, shapes)) >= 2 and sx[0] == sy[0] == qx[0] == qy[0] and sx[1] == sy[1] and qx[1] == qy[1]
        if not fits or sx[2:] != qx[2:] or sy[2:] != qy[2:] or 0 in (sx[0], sx[1], qx[1]):
            raise RequestError(
                f"support x {sx}, y {sy}, query x {qx}, y {qy}; needed are x [tasks, examples, ...] and y [tasks, "
                "examples] or [tasks, examples, d], with as many tasks everywhere and alike examples in both sets"
            )
        if self.support_y.is_floating_point() != self.query_y.is_floating_point():
            raise RequestError(
                f"support labels are {self.support_y.dtype}, query labels {self.query_y.dtype}; be alike"
            )
        if not self.support_y.is_floating_point() and len(sy) == 2:
            known = (self.query_y[:, :, None] == self.support_y[:, None]).any(2)
            if not bool(known.all()):
                task = int((~known).any(1).nonzero()[0])
                raise RequestError(
                    f"task {task} asks for the labels {sorted(set(self.query_y[task].tolist()))} and its support set "
                    f"shows {sorted(set(self.support_y[task].tolist()))}; every label asked for must be shown"
                )

    def __len__(self) -> int:
        return len(self.support_x)


class ClassPool:
    """Labelled examples from which classification tasks are drawn; classes are numbered by their sorted labels.

    x examples [n, ...], label their classes 0..C - 1 [n], names the labels as they were given [C], counts their sizes.
    """

    def __init__(self, x: Shaped[Tensor, " n *f"], label: Int[Tensor, " n"]) -> None:
        """Take examples x [n, ...] and the class of each."""
        if label.dim() != 1 or label.is_floating_point() or len(label) != len(x) or not len(x):
            raise RequestError(
                f"examples {list(x.shape)} and labels {list(label.shape)}, {label.dtype}; needed are one or more "
                "examples [n, ...] and as many whole numbers [n]"
            )
        self.x = x
        self.names, self.label = torch.unique(label.cpu(), return_inverse=True)
        members = [(self.label == c).nonzero()[:, 0].numpy() for c in range(len(self.names))]
        self.counts = np.array([len(one) for one in members])
        self._members = np.stack([np.pad(one, (0, self.counts.max() - len(one))) for one in members])

    def __len__(self) -> int:
        """Return the number of classes."""
        return len(self.names)

    def draw(
        self,
        *,
        tasks: int,
        ways: int,
        shots: int = 1,
        queries: int = 15,
        grouping: Grouping = "intershuffle",
        generator: np.random.Generator,
    ) -> Episodes:
        """Draw b tasks with `shots` support and `queries` query examples of each class, none of them in both sets.

        Every task of `all_tasks` is as likely as any other. Classes that fill no group are left out of fixed groups.
        Raises RequestError for fewer classes than ways, or a class with fewer examples than shots + queries.

        >>> pool = ClassPool(torch.arange(8.0)[:, None], torch.arange(8) // 2)
        >>> found = pool.draw(tasks=5, ways=2, queries=1, grouping="fixed", generator=np.random.default_rng(0))
        >>> found.support_x.shape, found.query_y.tolist()[0]
        (torch.Size([5, 2, 1]), [0, 1])
        """
        _check_grouping(len(self), ways, grouping)
        if min(tasks, shots, queries) < 1:
            raise RequestError(f"tasks = {tasks}, shots = {shots}, queries = {queries}; needed is 1 or more of each")
        used = len(self) if grouping == "intershuffle" else len(self) // ways * ways
        least, need = int(self.counts[:used].argmin()), shots + queries
        if self.counts[least] < need:
            raise RequestError(
                f"class {self.names[least].item()} has {self.counts[least]} examples, and {shots} shots with {queries} "
                f"queries need {need}; ask for fewer, or leave the class out"
            )
        if grouping == "intershuffle":
            chosen = generator.random((tasks, len(self))).argsort(1)[:, :ways]
        else:
            chosen = generator.integers(len(self) // ways, size=(tasks, 1)) * ways + np.arange(ways)
            if grouping == "intrashuffle":
                chosen = generator.permuted(chosen, axis=1)
        order = generator.random((tasks, ways, self._members.shape[1]))
        order[np.arange(order.shape[2]) >= self.counts[chosen][..., None]] = np.inf
        ids = np.take_along_axis(self._members[chosen], order.argsort(2)[..., :need], 2)
        labels = np.zeros_like(ids) + np.arange(ways)[:, None]
        parts = [
            torch.from_numpy(np.ascontiguousarray(one[..., part]).reshape(tasks, -1)).to(self.x.device)
            for part in (slice(shots), slice(shots, need))
            for one in (ids, labels)
        ]
        support, support_y, query, query_y = parts
        return Episodes(self.x[support], support_y, self.x[query], query_y, support, query)


def all_tasks(classes: int, ways: int, grouping: Grouping) -> list[tuple[int, ...]]:
    """Return every task that `ClassPool.draw` may draw, as classes in the order of their labels.

    >>> [len(all_tasks(4, 2, grouping)) for grouping in ("fixed", "intrashuffle", "intershuffle")]
    [2, 4, 12]
    """
    _check_grouping(classes, ways, grouping)
    if grouping == "intershuffle":
        return list(itertools.permutations(range(classes), ways))
    groups = [tuple(range(g * ways, (g + 1) * ways)) for g in range(classes // ways)]
    return groups if grouping == "fixed" else [task for group in groups for task in itertools.permutations(group)]


def mutual_exclusivity(tasks: Sequence[Sequence[int]]) -> float:
    """Return the share of classes that have different labels in different tasks; the rest can be learned by heart.

    >>> mutual_exclusivity([(0, 1), (2, 3)]), mutual_exclusivity([(0, 1), (1, 0)])
    (0.0, 1.0)
    """
    labels: dict[int, set[int]] = {}
    for task in tasks:
        for label, name in enumerate(task):
            labels.setdefault(name, set()).add(label)
    if not labels:
        raise RequestError("no task was given; needed is one or more")
    return sum(len(found) > 1 for found in labels.values()) / len(labels)


def _check_grouping(classes: int, ways: int, grouping: Grouping) -> None:
    if grouping not in get_args(Grouping):
        raise RequestError(f"grouping = {grouping!r}; needed is one of {', '.join(get_args(Grouping))}")
    if not 2 <= ways <= classes:
        raise RequestError(f"{classes} classes and ways = {ways}; needed are 2 ways or more, and as many classes")

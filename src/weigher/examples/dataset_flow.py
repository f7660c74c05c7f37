"""Moving one labelled data set toward another, downhill on their distance: features flow, labels are kept.

    x_i <- x_i - rate / (2 l w_i) d(d^2(A, B)) / dx_i,    w_i weight of i,  l weights of both terms of the cost together

With features alone and one transport, rate 1 puts every example on the mean of what it is sent to; the labels' part
moves each class as a whole, mean and covariance, toward the classes it is matched with. The plan is made anew at each
step. At the end the plan says which class of B each class of A has become.

Source: Alvarez-Melis, Fusi 2021, Dataset dynamics via gradient flows in probability space, arXiv 2010.12760 (the flow
with fixed labels).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from weigher.errors import RequestError
from weigher.examples.dataset_distance import DatasetDistance, distance_between
from weigher.examples.label_distances import DEFAULTS, DistanceConfig, prepare
from weigher.examples.labelled_sets import labelled_set

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Flow:
    """A data set on its way."""

    points: np.ndarray
    """float64 [steps + 1, n, d], the first being where it began."""
    distances: np.ndarray
    """float64 [steps + 1], d to the other set."""
    last: DatasetDistance
    """The distance at the end, with the plan that says what became of each example and class."""

    def labels(self) -> list[Any]:
        """Return for every example the label of the other set that most of its mass goes to at the end."""
        classes = self.last.classes[1]
        hot = torch.nn.functional.one_hot(self.last.labels[1], len(classes)).to(self.last.plan)
        return [classes[k] for k in (self.last.plan @ hot).argmax(1).tolist()]


def dataset_flow(
    Xa: Any,
    ya: Any,
    Xb: Any,
    yb: Any,
    config: DistanceConfig = DEFAULTS,
    *,
    steps: int = 20,
    rate: float = 0.3,
    progress: Progress | None = None,
) -> Flow:
    """Let A flow toward B for so many steps.

    All examples of A take part, so A must not be larger than `config.max_samples`; p must be 2. `rate` in (0, 1] is
    the share of the way that one step goes. `progress` gets "flow". Raises: RequestError for these, and as
    `weigher.examples.dataset_distance.dataset_distance` does.

    >>> flow = dataset_flow([[0.0], [1.0]], [0, 0], [[8.0], [9.0]], ["a", "a"], steps=30)
    >>> flow.points[-1].round(2).tolist(), flow.labels()
    ([[8.0], [9.0]], ['a', 'a'])
    """
    a, b = labelled_set(Xa, ya, name="A"), labelled_set(Xb, yb, name="B")
    if config.p != 2 or not 0 < rate <= 1 or steps < 1:
        raise RequestError(
            f"a flow with p {config.p}, rate {rate}, {steps} steps; needed are p 2, 0 < rate <= 1, steps"
        )
    if config.max_samples is not None and len(a) > config.max_samples:
        raise RequestError(
            f"A has {len(a)} examples and max_samples is {config.max_samples}: some would stay where they are; give "
            "fewer examples, or raise max_samples"
        )
    target = prepare(b, config)
    x = a.features.detach()
    # both parts pull at an example: with each at its own weight, steps go as far as the sum of them says
    pull = config.feature_weight + config.label_weight
    points, distances = [x.cpu().numpy()], []
    for step in range(steps):
        x = x.requires_grad_()
        found = distance_between(prepare(a.at(x), config), target, config)
        (slope,) = torch.autograd.grad(found.power, x)
        distances.append(float(found.value.detach()))
        x = (x - rate / (2 * pull) * slope / a.weight[:, None]).detach()
        points.append(x.cpu().numpy())
        if progress is not None:
            progress("flow", step + 1, steps)
    last = distance_between(prepare(a.at(x), config), target, config)
    return Flow(np.stack(points), np.array([*distances, float(last.value)]), last)

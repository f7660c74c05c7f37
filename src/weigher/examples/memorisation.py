"""What a meta-learner answers without its support set: which of the two kinds of overfitting it suffers from.

    before, after     score of the queries without and with the support of their task, on training and held-out tasks
    memorisation      (before - chance) / (after - chance) on training tasks: the share that needs no support
    transfer          (after - chance) on held-out tasks / the same on training tasks

Memorising, a model knows the queries of training tasks by heart: before is close to after. Learner overfitting: it
reads the support set, in a way that does not carry over: chance before, high after, low after on held-out tasks. Labels
must be as they are, not augmented. Source: Rajendran, Irpan and Jang 2020, arXiv 2007.05549; the index is ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from weigher.errors import RequestError

if TYPE_CHECKING:
    from weigher.examples.episodes import Episodes
    from weigher.examples.meta_learning import MetaLearner

Score = Callable[[Tensor, Tensor], float]
"""(predictions, targets) of all tasks -> a score, at most 1, higher is better."""

_LEARNED = 0.1  # of the way from chance to 1
_HALF = 0.5


def accuracy(answers: Tensor, labels: Tensor) -> float:
    """Return the share of right answers: logits [..., c], labels [...].

    >>> accuracy(torch.tensor([[[0.0, 1.0], [2.0, 1.0]]]), torch.tensor([[1, 1]]))
    0.5
    """
    return (answers.argmax(-1) == labels).double().mean().item()


def explained_variance(answers: Tensor, targets: Tensor) -> float:
    """Return 1 - mean squared error / variance of the targets: 1 is perfect, 0 what their common mean gets.

    >>> explained_variance(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 2.0]))
    0.5
    """
    return 1 - ((answers - targets).square().mean() / targets.var(correction=0)).item()


@dataclass(frozen=True)
class MemorisationReport:
    """Scores with and without support.

    >>> MemorisationReport(chance=0.5, train_before=0.85, train_after=0.99, test_before=0.5, test_after=0.85).verdict
    'memorises: 71 % of what it knows of training tasks needs no support'
    """

    chance: float
    train_before: float
    train_after: float
    test_before: float
    test_after: float

    @property
    def train_gain(self) -> float:
        """What the support is worth on training tasks."""
        return self.train_after - self.train_before

    @property
    def test_gain(self) -> float:
        """What the support is worth on held-out tasks."""
        return self.test_after - self.test_before

    @property
    def memorisation(self) -> float:
        """Share of the training score that needs no support; NaN where nothing was learned."""
        known = self.train_after - self.chance
        return (self.train_before - self.chance) / known if known > 0 else math.nan

    @property
    def transfer(self) -> float:
        """Share of the training score that is left on held-out tasks; NaN where nothing was learned."""
        known = self.train_after - self.chance
        return (self.test_after - self.chance) / known if known > 0 else math.nan

    @property
    def verdict(self) -> str:
        """Say which case it is, in a line."""
        if self.train_after - self.chance < _LEARNED * (1 - self.chance):
            return "has not learned its training tasks"
        if self.memorisation > _HALF:
            return f"memorises: {100 * self.memorisation:.0f} % of what it knows of training tasks needs no support"
        if self.transfer < _HALF:
            return f"the learner overfits: {100 * self.transfer:.0f} % of what it knows is left on held-out tasks"
        return f"learns from the support: {100 * self.transfer:.0f} % of what it knows is left on held-out tasks"


def scores(learner: MetaLearner, episodes: Episodes, score: Score = accuracy) -> tuple[float, float]:
    """Return the scores without and with the support, in evaluation mode and without gradient."""
    mode = learner.training
    learner.eval()
    try:
        with torch.no_grad():
            given = episodes.support_x, episodes.support_y, episodes.query_x
            before, after = (score(answer(*given), episodes.query_y) for answer in (learner.unaided, learner.predict))
    finally:
        learner.train(mode)
    return before, after


def memorisation_report(
    learner: MetaLearner, train: Episodes, test: Episodes, *, chance: float, score: Score = accuracy
) -> MemorisationReport:
    """Score a learner on training and on held-out tasks, with and without their support.

    `chance` is what guessing scores: 1 / ways for `accuracy`, 0 for `explained_variance`. Raises RequestError for a
    chance of 1 or more.

    >>> from torch import nn
    >>> from weigher.examples.episodes import Episodes
    >>> from weigher.examples.meta_learning import Metric
    >>> y = torch.tensor([[0, 1], [1, 0]])
    >>> tasks = Episodes(torch.eye(2).expand(2, 2, 2), y, torch.eye(2).expand(2, 2, 2), y)
    >>> learner = Metric(nn.Identity(), nn.functional.cross_entropy, ways=2)
    >>> found = memorisation_report(learner, tasks, tasks, chance=0.5)
    >>> found.train_before, found.train_after, found.verdict
    (0.5, 1.0, 'learns from the support: 100 % of what it knows is left on held-out tasks')
    """
    if not chance < 1:
        raise RequestError(f"chance = {chance}; needed is what guessing scores, below 1")
    return MemorisationReport(chance, *scores(learner, train, score), *scores(learner, test, score))

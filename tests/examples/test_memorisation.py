"""The report on memorising: its arithmetic, its verdicts, and learners of which the answer is known."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from weigher.errors import RequestError
from weigher.examples.episodes import Episodes
from weigher.examples.memorisation import MemorisationReport, accuracy, explained_variance, memorisation_report, scores
from weigher.examples.meta_learning import Maml, Metric


@pytest.mark.parametrize(
    ("figures", "memorisation", "transfer", "words"),
    [
        ((0.5, 0.95, 1.0, 0.5, 0.9), 0.9, 0.8, "memorises: 90 %"),
        ((0.5, 0.5, 1.0, 0.5, 0.6), 0.0, 0.2, "learner overfits: 20 %"),
        ((0.5, 0.6, 1.0, 0.5, 0.9), 0.2, 0.8, "learns from the support: 80 %"),
        ((0.2, 0.2, 0.25, 0.2, 0.25), 0.0, 1.0, "has not learned"),
        ((0.0, 0.6, 0.8, 0.1, 0.4), 0.75, 0.5, "memorises: 75 %"),
    ],
)
def test_the_verdict_follows_from_the_scores(figures, memorisation, transfer, words):
    report = MemorisationReport(*figures)
    assert report.memorisation == pytest.approx(memorisation)
    assert report.transfer == pytest.approx(transfer)
    assert words in report.verdict
    assert report.train_gain == pytest.approx(figures[2] - figures[1])
    assert report.test_gain == pytest.approx(figures[4] - figures[3])


def test_nothing_learned_gives_no_share():
    report = MemorisationReport(0.5, 0.5, 0.5, 0.5, 0.5)
    assert math.isnan(report.memorisation)
    assert math.isnan(report.transfer)
    assert "has not learned" in report.verdict


def test_scores_by_hand():
    assert accuracy(torch.tensor([[0.1, 0.9, 0.0], [0.5, 0.2, 0.3]]), torch.tensor([1, 2])) == 0.5
    targets = torch.randn(50)
    assert explained_variance(targets.mean().expand(50), targets) == pytest.approx(0, abs=1e-6)
    assert explained_variance(targets, targets) == 1


class ByHeart(nn.Module):
    """Knows that points at the right are of class 1."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return torch.stack([-x[..., 0], x[..., 0]], -1) + 0 * self.unused


def points(flipped):
    """Tasks of points at -1 and 1, whose classes are exchanged in some tasks."""
    y = torch.tensor([[0, 1]]) ^ torch.tensor(flipped)[:, None]
    x = torch.tensor([-1.0, 1.0]).expand(len(flipped), 2)[..., None]
    return Episodes(x, y, x, y)


def test_who_knows_by_heart_is_found_out_and_who_reads_the_support_is_not():
    train, test = points([0, 0, 0, 0]), points([0, 1, 0, 1])
    report = memorisation_report(Maml(ByHeart(), F.cross_entropy), train, test, chance=0.5)
    assert (report.train_before, report.train_after, report.test_before, report.test_after) == (1, 1, 0.5, 0.5)
    assert "memorises: 100 %" in report.verdict
    report = memorisation_report(Metric(nn.Identity(), F.cross_entropy, ways=2), test, test, chance=0.5)
    assert (report.train_before, report.train_after) == (0.5, 1)
    assert "learns from the support: 100 %" in report.verdict


def test_scores_leave_the_learner_as_it_was():
    learner = Maml(nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.5), nn.Linear(4, 2)), F.cross_entropy).train()
    assert scores(learner, points([0, 1])) == scores(learner, points([0, 1]))  # no dropout
    assert learner.training
    assert all(parameter.grad is None for parameter in learner.parameters())
    with pytest.raises(RequestError, match="chance = 1"):
        memorisation_report(learner, points([0]), points([0]), chance=1.0)

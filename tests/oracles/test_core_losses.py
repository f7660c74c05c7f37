"""Losses and their reduction against torch, numpy, scikit-learn and transformers."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_sample_weight
from transformers.loss.loss_for_object_detection import sigmoid_focal_loss

from weigher.core.losses import bce, class_balanced_bce, focal, softmax_cross_entropy, wbce, weighted_reduce


@pytest.fixture(params=range(3))
def problem(request):
    generator = torch.Generator().manual_seed(request.param)
    logits = 4 * torch.randn(20, 11, dtype=torch.float64, generator=generator)
    targets = torch.rand(20, 11, generator=generator) < 0.3
    targets[:, 0], targets[:, 1] = True, False
    return logits, targets.double()


def test_bce_is_torch_s(problem):
    logits, targets = problem
    torch.testing.assert_close(
        bce(logits, targets), F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    )
    soft = torch.rand_like(targets)
    torch.testing.assert_close(bce(logits, soft), F.binary_cross_entropy_with_logits(logits, soft, reduction="none"))


def test_mean_bce_is_torch_s_multilabel_loss(problem):
    logits, targets = problem
    expected = F.multilabel_soft_margin_loss(logits, targets, reduction="none")
    torch.testing.assert_close(weighted_reduce(bce(logits, targets), dim=-1), expected)


@pytest.mark.parametrize("target", [0.0, 1.0])
def test_wbce_of_one_class_is_torch_s_bce(target):
    logits = torch.linspace(-50, 50, 101, dtype=torch.float64)[:, None]
    targets = torch.full_like(logits, target)
    expected = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")[:, 0]
    torch.testing.assert_close(wbce(logits, targets), expected, rtol=1e-12, atol=1e-14)  # torch's own is 0 at -50


def test_wbce_negatives_are_numpy_s_average_under_their_own_probabilities(problem):
    logits, targets = (x.numpy() for x in problem)
    p = 1 / (1 + np.exp(-logits))
    expected = [
        np.mean(-np.log(p[i][y])) + np.average(-np.log(1 - p[i][~y]), weights=p[i][~y])
        for i, y in enumerate(targets > 0)
    ]
    torch.testing.assert_close(wbce(*problem), torch.tensor(expected, dtype=torch.float64))


def test_class_balance_is_scikit_learn_s(problem):
    logits, targets = problem
    p = logits.sigmoid().numpy()
    expected = [
        log_loss(y, q, sample_weight=compute_sample_weight("balanced", y))
        for y, q in zip(targets.numpy(), p, strict=True)
    ]
    torch.testing.assert_close(
        class_balanced_bce(logits, targets).mean(-1), torch.tensor(expected, dtype=torch.float64)
    )


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (0.5, 0.8), (0.0, None)])
def test_focal_is_transformers_s(problem, gamma, alpha):
    logits, targets = problem
    expected = sigmoid_focal_loss(logits, targets, num_boxes=1, alpha=-1 if alpha is None else alpha, gamma=gamma)
    torch.testing.assert_close(focal(logits, targets, gamma=gamma, alpha=alpha).mean(-1).sum(), expected)


def test_softmax_cross_entropy_is_torch_s(problem):
    logits, targets = problem
    torch.testing.assert_close(
        softmax_cross_entropy(logits, targets),
        F.cross_entropy(logits, targets / targets.sum(-1, keepdim=True), reduction="none"),
    )
    one = targets.argmax(-1)
    torch.testing.assert_close(
        softmax_cross_entropy(logits, F.one_hot(one, 11)), F.cross_entropy(logits, one, reduction="none")
    )


def test_reduction_is_numpy_s_average_and_scikit_learn_s_sample_weight(problem):
    logits, targets = problem
    weight = torch.rand(20, 11, dtype=torch.float64)
    losses = bce(logits, targets)
    torch.testing.assert_close(
        weighted_reduce(losses, weight, 1), torch.from_numpy(np.average(losses.numpy(), axis=1, weights=weight.numpy()))
    )
    expected = log_loss(
        targets.flatten().numpy(), logits.sigmoid().flatten().numpy(), sample_weight=weight.flatten().numpy()
    )
    assert weighted_reduce(losses, weight).item() == pytest.approx(expected)

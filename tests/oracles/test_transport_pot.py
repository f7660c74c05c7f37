"""Distances, plans, potentials and gradients against POT (Python Optimal Transport)."""

import numpy as np
import ot
import pytest
import torch

from weigher.core.gaussians import bures_squared, class_gaussians
from weigher.core.transport import assignment, sinkhorn, sinkhorn_divergence
from weigher.examples.dataset_distance import dataset_distance
from weigher.examples.exact_transport import exact_transport
from weigher.examples.label_distances import DistanceConfig


def cloud(n, seed, d=3):
    return np.random.default_rng(seed).normal(size=(n, d))


def test_sinkhorn_is_pots():
    x, y = cloud(15, 0), cloud(10, 1)
    cost = ot.dist(x, y)
    a, b = np.random.default_rng(2).dirichlet(np.ones(15)), np.full(10, 0.1)
    plan = ot.sinkhorn(a, b, cost, 1.0, method="sinkhorn_log", stopThr=1e-12, numItermax=100_000)
    found = sinkhorn(
        torch.tensor(cost), torch.tensor(a), torch.tensor(b), epsilon=1.0, tolerance=1e-11, iterations=50_000
    )
    assert np.allclose(found.plan, plan, atol=1e-9)


def test_the_debiased_value_is_pots():
    x, y = cloud(12, 0), cloud(9, 1)
    expected = ot.bregman.empirical_sinkhorn_divergence(x, y, 2.0, stopThr=1e-11, numIterMax=100_000)
    ab, aa, bb = (torch.tensor(ot.dist(*pair)) for pair in ((x, y), (x, x), (y, y)))
    # POT's divergence is of <P, C>, ours of the minimum with its entropy: compare the same thing
    found = sinkhorn_divergence(ab, aa, bb, epsilon=2.0, tolerance=1e-11, iterations=50_000)
    costs = found.ab.cost - (found.aa.cost + found.bb.cost) / 2
    assert float(costs) == pytest.approx(float(np.squeeze(expected)), abs=1e-7)


def test_bures_is_pots():
    x, y = cloud(50, 0, 4) @ np.diag([1, 2, 3, 4.0]), cloud(40, 1, 4) + 1
    laws = [class_gaussians(torch.tensor(z), torch.zeros(len(z), dtype=torch.int64), 1) for z in (x, y)]
    moments = [np.asarray(part[0]) for law in laws for part in (law.mean, law.covariance)]
    expected = ot.gaussian.bures_wasserstein_distance(moments[0], moments[2], moments[1], moments[3]) ** 2
    assert float(bures_squared(*laws)) == pytest.approx(float(expected), abs=1e-10)


@pytest.mark.parametrize("sizes", [(30, 30), (30, 17), (1, 6), (6, 1)])
def test_exact_transport_is_pots_and_its_potentials_prove_it(sizes):
    n, m = sizes
    x, y = cloud(n, 0), cloud(m, 1)
    cost, a, b = ot.dist(x, y), np.full(n, 1 / n), np.full(m, 1 / m)
    found = exact_transport(*(torch.tensor(part) for part in (cost, a, b)))
    assert float(found.cost) == pytest.approx(ot.emd2(a, b, cost), abs=1e-12)
    assert np.allclose(found.plan.sum(1), a, atol=1e-12)
    assert np.allclose(found.plan.sum(0), b, atol=1e-12)
    slack = torch.tensor(cost) - found.potential_a[:, None] - found.potential_b
    assert float(slack.min()) > -1e-9
    assert float((slack * found.plan).sum()) == pytest.approx(0, abs=1e-9)


def test_assignment_is_pots():
    cost = np.random.default_rng(0).normal(size=(40, 40))  # negative costs too
    assert float(assignment(torch.tensor(cost)).cost) == pytest.approx(ot.emd2([], [], cost), abs=1e-12)


@pytest.mark.parametrize("way", ["gaussian", "exact"])
@pytest.mark.parametrize("other", [40, 25])
def test_the_distance_and_its_gradient_are_those_of_pot(way, other):
    x, y = torch.tensor(cloud(40, 0)), torch.tensor(cloud(other, 1) + 0.5)
    label, theirs = torch.arange(40) % 3, torch.arange(other) % 2
    x.requires_grad_()
    W = torch.stack([torch.stack([_pair(way, x[label == c], y[theirs == k]) for k in range(2)]) for c in range(3)])
    cost = (x[:, None] - y[None]).square().sum(-1) + W[label][:, theirs]
    expected = ot.emd2(torch.ones(40).double() / 40, torch.ones(other).double() / other, cost)
    (slope,) = torch.autograd.grad(expected, x)
    found = dataset_distance(x, label, y, theirs, DistanceConfig(label_distance=way))
    assert float(found.power.detach()) == pytest.approx(float(expected.detach()), abs=1e-10)
    (ours,) = torch.autograd.grad(found.power, x)
    assert torch.allclose(ours, slope, atol=1e-6)


def _pair(way, a, b):
    if way == "exact":
        uniform = [torch.ones(len(z)).double() / len(z) for z in (a, b)]
        return ot.emd2(*uniform, (a[:, None] - b[None]).square().sum(-1))
    moments = [(z.mean(0), torch.cov(z.T, correction=0)) for z in (a, b)]
    (m, s), (n, t) = moments
    return ot.gaussian.bures_wasserstein_distance(m, n, s, t).squeeze() ** 2

"""Distances of normal laws: closed forms, bounds, both kinds of roots, gradients, classes that cannot be had."""

import pytest
import torch

from weigher.core.gaussians import (
    bures_squared,
    class_gaussians,
    diagonal_squared,
    means_squared,
    moment_gaussians,
    upper_squared,
)
from weigher.errors import RequestError

KINDS = (means_squared, bures_squared, upper_squared)


def clouds(n=40, d=3, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, dtype=torch.float64, generator=generator) @ torch.randn(
        d, d, dtype=torch.float64, generator=generator
    )
    label = torch.arange(n) % classes
    return x + label[:, None], label


def by_definition(a, b):
    """Squared Bures distance through matrix square roots, pair by pair."""
    found = torch.empty(len(a.mean), len(b.mean), dtype=torch.float64)
    for i, (m, s) in enumerate(zip(a.mean, a.covariance, strict=True)):
        for j, (n, t) in enumerate(zip(b.mean, b.covariance, strict=True)):
            values, vectors = torch.linalg.eigh(s)
            root = vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T
            common = torch.linalg.eigvalsh(root @ t @ root).clamp(min=0).sqrt().sum()
            found[i, j] = (m - n).square().sum() + s.trace() + t.trace() - 2 * common
    return found


@pytest.mark.parametrize(("n", "d"), [(60, 3), (12, 8)])  # more examples than axes, and fewer
def test_bures_is_its_definition(n, d):
    a, b = (class_gaussians(*clouds(n, d, classes, seed), classes) for classes, seed in ((3, 0), (2, 1)))
    assert a.root.shape == (3, min(n // 3, d), d)
    assert torch.allclose(bures_squared(a, b), by_definition(a, b), atol=1e-7)
    assert torch.allclose(bures_squared(a, b), bures_squared(b, a).T, atol=1e-10)
    assert float(bures_squared(a, a).diagonal().abs().max()) < 1e-12


def test_one_large_class_among_small_ones_makes_only_its_own_pairs_large(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 16, dtype=torch.float64, generator=generator)
    label = torch.arange(4).repeat_interleave(torch.tensor([20, 3, 1, 26]))  # roots of 16, 3, 1 and 16 rows
    laws = class_gaussians(x, label, 4)
    sides = []
    whole = torch.linalg.svdvals
    monkeypatch.setattr(torch.linalg, "svdvals", lambda m: sides.append(tuple(m.shape)) or whole(m))
    assert torch.allclose(bures_squared(laws, laws), by_definition(laws, laws), atol=1e-6)
    cost = {shape[2:]: shape[0] * shape[1] for shape in sides}
    assert cost[(16, 16)] == 4
    assert cost[(4, 4)] == cost[(1, 1)] == 1  # three rows are four, and the pairs of small classes stay small


def test_moments_of_classes_are_those_of_torch():
    x, label = clouds()
    for ddof in (0, 1):
        laws = class_gaussians(x, label, 3, ddof=ddof)
        for c in range(3):
            assert torch.allclose(laws.mean[c], x[label == c].mean(0))
            assert torch.allclose(laws.covariance[c], torch.cov(x[label == c].T, correction=ddof))
            assert torch.allclose(laws.variance[c], laws.covariance[c].diagonal())
    again = moment_gaussians(laws.mean, laws.covariance)
    assert torch.allclose(again.covariance, laws.covariance)
    other = class_gaussians(*clouds(seed=3), 3)
    assert torch.allclose(bures_squared(again, other), bures_squared(laws, other), atol=1e-8)


def test_laws_that_commute_are_closed_forms():
    one = moment_gaussians(torch.zeros(1, 2).double(), torch.diag(torch.tensor([4.0, 1.0])).double()[None])
    two = moment_gaussians(torch.tensor([[3.0, 0.0]]).double(), torch.diag(torch.tensor([9.0, 0.0])).double()[None])
    assert bures_squared(one, two).item() == pytest.approx(9 + 1 + 1)
    assert diagonal_squared(one, two).item() == pytest.approx(9 + 1 + 1)
    assert means_squared(one, two).item() == pytest.approx(9)
    assert upper_squared(one, two).item() == pytest.approx(9 + 5 + 9)


def test_the_bounds_stand_in_order():
    a, b = (class_gaussians(*clouds(seed=seed), 3) for seed in (0, 1))
    low, middle, high = (kind(a, b) for kind in KINDS)
    assert bool((low <= middle).all())
    assert bool((middle <= high).all())
    assert bool((diagonal_squared(a, b) <= middle + 1e-12).all())


def test_weights_are_copies_and_0_removes_anything():
    x, label = clouds(12)
    weight = torch.tensor([1, 2, 0, 1, 1, 3, 1, 1, 2, 1, 1, 1]).double()
    dirty = x.clone()
    dirty[2] = torch.nan
    got = class_gaussians(dirty, label, 3, weight)
    copies = class_gaussians(x.repeat_interleave(weight.long(), 0), label.repeat_interleave(weight.long()), 3)
    assert torch.allclose(got.mean, copies.mean)
    assert torch.allclose(got.covariance, copies.covariance)
    assert torch.allclose(class_gaussians(dirty, label, 3, 5 * weight).covariance, copies.covariance)


def test_gradients_hold_with_more_and_with_fewer_examples_than_axes():
    for n, d in ((14, 2), (6, 5)):
        label = torch.arange(n) % 2
        x, y = (clouds(n, d, 2, seed)[0].requires_grad_() for seed in (0, 1))

        def both(x, y, label=label):
            a, b = class_gaussians(x, label, 2), class_gaussians(y, label, 2)
            return bures_squared(a, b), diagonal_squared(a, b)

        assert torch.autograd.gradcheck(both, (x, y), atol=1e-6)


def test_gradients_are_finite_where_laws_are_equal_or_points():
    x = torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 3.0]], dtype=torch.float64, requires_grad=True)
    laws = class_gaussians(x, torch.tensor([0, 0, 1]), 2)
    (bures_squared(laws, laws).sum() + diagonal_squared(laws, laws).sum()).backward()
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())


@pytest.mark.parametrize(
    ("label", "weight", "ddof"),
    [
        ([0, 0, 0], None, 0),  # nothing of class 1
        ([0, 0, 1], None, 1),  # one example has no variance over n - 1
        ([0, 1, 1], [0.0, 1.0, 1.0], 0),
        ([0, 0, 1], [1.0, 1.0, 1.0], 1),
        ([0, 0, 1], None, 2),
    ],
)
def test_classes_that_cannot_be_had_are_told(label, weight, ddof):
    weight = None if weight is None else torch.tensor(weight)
    with pytest.raises(RequestError, match="examples of each class"):
        class_gaussians(torch.zeros(3, 2), torch.tensor(label), 2, weight, ddof=ddof)

"""Matching against scipy on random costs, and against an integer programme."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment, milp

from weigher.core.matching import match, permutation_invariant_loss


@pytest.mark.parametrize("seed", range(10))
def test_hungarian_is_scipy_s_on_random_costs(seed):
    rng = np.random.default_rng(seed)
    rows, slots = 7, int(rng.integers(3, 30))
    labels = int(rng.integers(1, slots + 1))
    cost = rng.normal(size=(rows, slots, labels)) * 10.0 ** rng.integers(-6, 6)
    counts = rng.integers(0, labels + 1, rows)
    pairs = match(torch.from_numpy(cost), torch.from_numpy(counts))
    loss = permutation_invariant_loss(torch.from_numpy(cost), torch.from_numpy(counts))
    for row in range(rows):
        slot, label = linear_sum_assignment(cost[row, :, : counts[row]])
        here = pairs.batch == row
        np.testing.assert_array_equal(pairs.slot[here], slot)
        np.testing.assert_array_equal(pairs.label[here], label)
        expected = cost[row, slot, label].mean() if counts[row] else 0.0
        assert loss[row].item() == pytest.approx(expected, rel=1e-12)


def test_hungarian_reaches_the_optimum_of_an_integer_programme():
    """An independent solver: minimise c x over 0/1 matrices with one slot per label, at most one label per slot."""
    rng = np.random.default_rng(0)
    slots, labels = 6, 4
    cost = rng.normal(size=(slots, labels))
    per_label = np.kron(np.ones((1, slots)), np.eye(labels))
    per_slot = np.kron(np.eye(slots), np.ones((1, labels)))
    solved = milp(cost.ravel(), integrality=1, bounds=(0, 1), constraints=[(per_label, 1, 1), (per_slot, -np.inf, 1)])
    got = permutation_invariant_loss(torch.from_numpy(cost)[None]).item() * labels
    assert got == pytest.approx(solved.fun)

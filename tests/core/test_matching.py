import itertools
import math

import pytest
import torch

from weigher.core.matching import match, permutation_invariant_loss
from weigher.errors import RequestError

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def cheapest(cost, size):
    """Every way to give the first `size` labels different slots, tried one by one."""
    ways = itertools.permutations(range(cost.shape[0]), size)
    return min((sum(cost[slot, label].item() for label, slot in enumerate(way)), way) for way in ways)


@pytest.mark.parametrize("seed", range(5))
def test_matching_is_the_best_of_all_permutations(seed):
    generator = torch.Generator().manual_seed(seed)
    cost = torch.randn(6, 5, 4, generator=generator, dtype=torch.float64)
    counts = torch.tensor([0, 1, 2, 3, 4, 4])
    pairs = match(cost, counts)
    for row, size in enumerate(counts.tolist()):
        here = pairs.batch == row
        total, way = cheapest(cost[row], size)
        assert cost[row, pairs.slot[here], pairs.label[here]].sum().item() == pytest.approx(total)
        assert dict(zip(pairs.label[here].tolist(), pairs.slot[here].tolist(), strict=True)) == dict(enumerate(way))


def test_costs_that_differ_in_double_precision_only_are_told_apart():
    assert match(torch.tensor([[[1.0], [1.0 - 1e-12]]], dtype=torch.float64)).slot.tolist() == [1]


def test_indices_are_sorted_typed_and_usable_for_gather():
    cost = torch.tensor([[[9.0, 1.0], [0.0, 9.0], [9.0, 9.0]], [[9.0, 9.0], [9.0, 0.0], [0.0, 9.0]]])
    pairs = match(cost)
    assert (pairs.batch.tolist(), pairs.slot.tolist(), pairs.label.tolist()) == (
        [0, 0, 1, 1],
        [0, 1, 1, 2],
        [1, 0, 1, 0],
    )
    assert {pairs.batch.dtype, pairs.slot.dtype, pairs.label.dtype} == {torch.int64}
    assert cost[pairs.batch, pairs.slot, pairs.label].tolist() == [1, 0, 0, 0]
    with pytest.raises(AttributeError):
        pairs.slot = pairs.label


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_results_lie_on_the_device_of_the_cost(device, dtype):
    cost = torch.rand(3, 4, 2, device=device, dtype=dtype, requires_grad=True)
    pairs = match(cost, torch.tensor([2, 0, 1], device=device))
    assert pairs.slot.device == cost.device
    loss = permutation_invariant_loss(cost, torch.tensor([2, 0, 1], device=device))
    loss.sum().backward()
    assert (loss.device, loss.dtype) == (cost.device, dtype)
    assert cost.grad.count_nonzero().item() == 3


def test_padding_is_never_read():
    cost = torch.rand(2, 4, 3)
    cost[0, :, 1:] = math.nan
    cost[1, :, 2] = math.inf
    pairs = match(cost, torch.tensor([1, 2]))
    assert pairs.label.tolist() in ([0, 0, 1], [0, 1, 0])
    assert permutation_invariant_loss(cost, torch.tensor([1, 2])).isfinite().all()


def test_nothing_to_match():
    for cost, counts in (
        (torch.rand(2, 3, 4), torch.tensor([0, 0])),
        (torch.rand(2, 3, 0), None),
        (torch.rand(0, 3, 2), None),
    ):
        pairs = match(cost, counts)
        assert pairs.batch.shape == pairs.slot.shape == pairs.label.shape == (0,)
        assert pairs.slot.dtype == torch.int64
        assert permutation_invariant_loss(cost, counts).tolist() == [0.0] * len(cost)


@pytest.mark.parametrize(
    ("cost", "counts", "message"),
    [
        (torch.zeros(2, 3), None, r"shape \[2, 3\].*\[batch, slots, labels\]"),
        (torch.zeros(2, 2, 3), None, "row 0 has 3 labels and only 2 slots.*at least 3 slots"),
        (torch.zeros(2, 2, 3), torch.tensor([2, 3]), "row 1 has 3 labels and only 2 slots"),
        (torch.zeros(2, 4, 3), torch.tensor([2, 4]), "row 1 counts 4 labels.*0 to 3"),
        (torch.zeros(2, 4, 3), torch.tensor([-1, 2]), "row 0 counts -1 labels"),
        (torch.zeros(2, 4, 3), torch.tensor([1]), "1 label counts for a batch of 2"),
    ],
)
def test_impossible_requests_are_refused(cost, counts, message):
    for function in (match, permutation_invariant_loss):
        with pytest.raises(RequestError, match=message):
            function(cost, counts)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_costs_that_are_not_finite_are_named(bad):
    cost = torch.zeros(2, 3, 2)
    cost[1, 2, 0] = bad
    with pytest.raises(RequestError, match=rf"cost {bad} of slot 2 for label 0 in row 1 \(1 such.*finite"):
        match(cost)


def test_labels_more_than_slots_are_fine_where_the_rest_is_padding():
    assert match(torch.rand(1, 2, 5), torch.tensor([2])).slot.tolist() == [0, 1]


def test_loss_is_the_mean_over_pairs_and_teaches_only_them():
    cost = torch.tensor([[[9.0, 1.0], [2.0, 9.0], [5.0, 5.0]]], dtype=torch.float64, requires_grad=True)
    loss = permutation_invariant_loss(cost)
    loss.sum().backward()
    assert loss.tolist() == [1.5]
    assert cost.grad.tolist() == [[[0, 0.5], [0.5, 0], [0, 0]]]


def test_order_of_slots_and_labels_does_not_matter():
    cost = torch.randn(8, 6, 4, dtype=torch.float64)
    base = permutation_invariant_loss(cost)
    shuffled = cost[:, torch.randperm(6)][:, :, torch.randperm(4)]
    torch.testing.assert_close(permutation_invariant_loss(shuffled), base)


def test_columns_for_nobody_charge_the_unmatched_slots():
    """The way the docstring gives: fill the labels up to the slots, the cheapest whole assignment is found."""
    cost, silent = torch.rand(3, 4, 2, dtype=torch.float64), torch.rand(3, 4, dtype=torch.float64)
    full = torch.cat([cost, silent[:, :, None].expand(-1, -1, 2)], dim=2)
    got = permutation_invariant_loss(full)
    for row in range(3):
        assert got[row].item() == pytest.approx(cheapest(full[row], 4)[0] / 4)

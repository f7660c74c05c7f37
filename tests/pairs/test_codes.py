"""Balanced codes: laws, limits, the direct form, POT, the best assignment, half precision, raw scores."""

import math

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from weigher.errors import RequestError
from weigher.pairs.codes import balanced_codes, imbalance, used_prototypes

LONG = dict(iterations=3000, tolerance=1e-12)


def cosines(n=12, k=4, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(n, k, generator=generator, dtype=torch.float64) - 0.5).to(dtype)


def direct(scores, epsilon, iterations):
    """The paper's form: exponentials, columns and rows in turn."""
    plan = (scores / epsilon).exp()
    for _ in range(iterations):
        plan = plan / plan.sum(0)
        plan = plan / plan.sum(1, keepdim=True)
    return plan


@pytest.mark.parametrize("iterations", [1, 2, 3, 7])
def test_the_codes_are_those_of_the_direct_form(iterations):
    scores = cosines()
    torch.testing.assert_close(balanced_codes(scores, iterations=iterations), direct(scores, 0.05, iterations))
    plain = balanced_codes(scores, iterations=0)
    torch.testing.assert_close(plain, (scores / 0.05).softmax(1))


def test_rows_sum_to_1_and_columns_come_to_their_share():
    few, many = balanced_codes(cosines()), balanced_codes(cosines(), **LONG)
    for codes in (few, many):
        torch.testing.assert_close(codes.sum(1), torch.ones(12).double(), rtol=0, atol=1e-14)
    torch.testing.assert_close(many.sum(0), torch.full((4,), 3.0).double(), rtol=0, atol=1e-10)
    assert imbalance(many) < 1e-11
    # three updates are not enough for balance: the residual is a figure to look at, not an error
    assert 0.01 < imbalance(few) < 0.5
    assert imbalance(few) < imbalance(balanced_codes(cosines(), iterations=1))


def test_the_converged_codes_are_those_of_pot():
    ot = pytest.importorskip("ot", reason="POT is not installed")
    scores = cosines(10, 5, seed=3)
    weight = torch.arange(1.0, 11).double()
    for given in (None, weight):
        masses = torch.ones(10).double() if given is None else given
        masses = masses / masses.sum()
        kinds = torch.full((5,), 0.2, dtype=torch.float64)
        options = {"method": "sinkhorn_log", "numItermax": 10_000, "stopThr": 1e-11}
        plan = ot.sinkhorn(masses.numpy(), kinds.numpy(), -scores.numpy(), reg=0.05, **options)
        expected = torch.from_numpy(plan) / masses[:, None]
        torch.testing.assert_close(balanced_codes(scores, weight=given, **LONG), expected, rtol=0, atol=1e-10)


def test_a_small_epsilon_gives_the_best_assignment_and_a_large_one_equal_codes():
    scores = cosines(8, 8, seed=1)
    codes = balanced_codes(scores, epsilon=0.002, **LONG)
    rows, columns = linear_sum_assignment(-scores.numpy())
    assert codes.argmax(1).tolist() == columns[rows].tolist()
    assert codes.amax(1).min() > 0.99
    even = balanced_codes(scores, epsilon=1e6)
    torch.testing.assert_close(even, torch.full_like(even, 1 / 8), rtol=0, atol=1e-6)


def test_where_prototypes_are_fewer_a_small_epsilon_gives_each_as_many_rows():
    scores = cosines(12, 4, seed=1)
    codes = balanced_codes(scores, epsilon=0.002, **LONG)
    rows, places = linear_sum_assignment(-scores.repeat(1, 3).numpy())  # each prototype has three places
    assert codes.argmax(1).tolist() == [places[list(rows).index(row)] % 4 for row in range(12)]


def test_over_relaxed_updates_are_no_further_from_balance_than_plain_ones():
    scores = cosines(8, 8, seed=1)
    found, plain = balanced_codes(scores, epsilon=0.01, iterations=30), direct(scores, 0.01, 30)
    assert imbalance(found) < imbalance(plain)


def test_a_constant_for_a_row_or_a_prototype_changes_nothing_in_the_end():
    scores = 0.4 * cosines()
    rows, columns = 0.4 * cosines(12, 1, seed=5), 0.1 * cosines(1, 4, seed=6)
    whole = balanced_codes(scores, **LONG)
    torch.testing.assert_close(balanced_codes(scores + rows + columns, **LONG), whole, rtol=0, atol=1e-10)
    # but after three updates it does: the first one sums over rows
    assert (balanced_codes(scores + rows) - balanced_codes(scores)).abs().max() > 0.01
    # codes are a fixed point
    torch.testing.assert_close(balanced_codes(0.05 * whole.log(), **LONG), whole, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_survives_where_exponentials_do_not(dtype):
    scores = cosines(40, 6, dtype=dtype)
    codes = balanced_codes(scores, epsilon=0.05)
    assert codes.dtype == dtype
    expected = balanced_codes(scores.double())
    torch.testing.assert_close(codes.double(), expected, rtol=0.01, atol=0.005)
    assert not (torch.ones((), dtype=torch.float16) / 0.05).exp().isfinite()


def test_any_epsilon_and_raw_scores_survive_and_raw_ones_are_told():
    scores = cosines(dtype=torch.float32)
    assert not (scores.abs().max() / 1e-3).exp().isfinite()
    codes = balanced_codes(scores, epsilon=1e-3)
    torch.testing.assert_close(codes.sum(1), torch.ones(12))
    raw = 1000 * cosines(dtype=torch.float32)
    with pytest.warns(UserWarning, match="not normalised"):
        codes = balanced_codes(raw, iterations=2000)
    assert codes.isfinite().all()
    with pytest.warns(UserWarning, match="scores reach 4"):
        torch.testing.assert_close(codes, balanced_codes(raw.double(), iterations=2000).float(), rtol=0, atol=5e-3)
    # what does not count is not looked at, and rounding is no fault
    balanced_codes(torch.tensor([[9.0, 0.0], [0.5, 1.0009]]), weight=torch.tensor([0, 1]))
    balanced_codes(torch.tensor([[1.01, 0.0]]).bfloat16())
    with pytest.warns(UserWarning, match=r"scores reach 1\.01"):
        balanced_codes(torch.tensor([[1.01, 0.0]]))


def test_prototypes_and_rows_may_come_in_any_order():
    scores = cosines()
    rows, columns = torch.randperm(12), torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(balanced_codes(scores[rows][:, columns]), balanced_codes(scores)[rows][:, columns])


def test_weights_are_copies_and_removed_rows_may_hold_anything():
    scores = cosines()
    times = torch.tensor([2, 1, 0, 1, 3, 1, 1, 0, 2, 1, 1, 1])
    copies = balanced_codes(scores.repeat_interleave(times, 0))
    for filling in (5.0, 1e38, -1e38, 1e300):
        scores[2], scores[7] = math.nan, filling
        found = balanced_codes(scores, weight=times)
        torch.testing.assert_close(found.repeat_interleave(times, 0), copies)
        assert found.isfinite().all()
    uneven = imbalance(copies)
    torch.testing.assert_close(imbalance(found, weight=times), uneven)
    torch.testing.assert_close(
        used_prototypes(scores, weight=times), used_prototypes(cosines().repeat_interleave(times, 0))
    )


def test_edges():
    one = balanced_codes(cosines(1, 5))
    torch.testing.assert_close(one, torch.full_like(one, 0.2))  # a row alone serves all alike: nothing to learn
    assert balanced_codes(cosines(6, 1)).tolist() == [[1.0]] * 6
    alike = balanced_codes(cosines(1, 5).expand(7, 5))
    torch.testing.assert_close(alike, torch.full_like(alike, 0.2))  # all embeddings alike
    twins = balanced_codes(cosines(8, 3)[:, [0, 0, 1, 2]], **LONG)
    torch.testing.assert_close(twins[:, 0], twins[:, 1])
    batched = balanced_codes(torch.stack([cosines(), cosines(seed=1)]))
    torch.testing.assert_close(batched[1], balanced_codes(cosines(seed=1)))


def test_used_prototypes_and_imbalance_count_from_one_to_all():
    assert used_prototypes(torch.eye(4)[[1, 1, 1]]).item() == 1
    assert used_prototypes(torch.eye(4)).item() == pytest.approx(4)
    shares = torch.tensor([0.75, 0.25])
    found = used_prototypes(torch.eye(4)[[0, 0, 0, 3]])
    torch.testing.assert_close(found, (-(shares * shares.log()).sum()).exp())
    assert used_prototypes(torch.eye(2), weight=torch.zeros(2)).item() == 0
    assert imbalance(torch.eye(4)[[2, 2]]).item() == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: balanced_codes(cosines(), epsilon=0.0), "epsilon = 0.0"),
        (lambda: balanced_codes(cosines(), iterations=-1), "iterations = -1"),
        (lambda: balanced_codes(cosines(), iterations=9, tolerance=0.0), "tolerance 0.0"),
        (lambda: balanced_codes(math.nan * cosines()), "NaN or infinity"),
        (lambda: balanced_codes(torch.tensor([[0.5, -math.inf]])), "NaN or infinity"),
        (lambda: balanced_codes(torch.eye(2, dtype=torch.int64)), "torch.int64: cosines"),
        (lambda: balanced_codes(cosines(3), weight=torch.zeros(3)), "no row has any weight"),
        (lambda: balanced_codes(cosines(3), weight=torch.tensor([1.0, -1.0, 3.0])), ">= 0"),
    ],
)
def test_bad_inputs_are_said(call, said):
    with pytest.raises(RequestError, match=said):
        call()

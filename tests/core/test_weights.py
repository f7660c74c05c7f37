import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weigher.core.weights import (
    apply_weight,
    effective_sample_size,
    entropy,
    length_mask,
    log_softmax,
    normalise,
    safe_ratio,
    softmax,
)
from weigher.errors import RequestError

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize("dim", [0, 1, 2, -1])
def test_normalised_weights_sum_to_one_over_any_axis(dim):
    x = torch.rand(3, 4, 5, dtype=torch.float64)
    w = normalise(x, dim)
    torch.testing.assert_close(w.sum(dim), torch.ones_like(w.sum(dim)))
    torch.testing.assert_close(w * x.sum(dim, keepdim=True), x)


def test_normalising_over_two_axes_at_once():
    w = normalise(torch.rand(3, 4, 5, dtype=torch.float64), (0, 2))
    torch.testing.assert_close(w.sum((0, 2)), torch.ones(4, dtype=torch.float64))


def test_an_all_zero_and_an_all_masked_row_give_zeros_and_no_gradient():
    x = torch.tensor([[0.0, 0.0], [1.0, 3.0], [NAN, INF]], requires_grad=True)
    mask = torch.tensor([[True, True], [True, True], [False, False]])
    w = normalise(x, 1, mask)
    assert w.tolist() == [[0, 0], [0.25, 0.75], [0, 0]]
    (w * torch.tensor([1.0, 5.0])).sum().backward()
    assert x.grad.tolist() == [[0, 0], [-0.75, 0.25], [0, 0]]  # (g_t - sum_s w_s g_s) / sum x


@given(st.floats(-25, 25))
def test_weights_do_not_depend_on_the_scale_of_x(power):
    x = torch.tensor([0.5, 1.0, 2.5, 0.0])
    torch.testing.assert_close(normalise(x * 10**power, 0), normalise(x, 0))


@pytest.mark.parametrize("tiny", [1e-39, 1e-45])
def test_subnormal_totals_count_as_zero_since_their_inverse_overflows(tiny):
    x = torch.tensor([tiny, 0.0], requires_grad=True)
    w = normalise(x, 0)
    w[0].backward()
    assert w.tolist() == [0, 0]
    assert x.grad.tolist() == [0, 0]


def test_half_precision_sums_long_axes_in_single():
    x = torch.ones(70_000, dtype=torch.float16)  # the sum overflows float16
    assert normalise(x, 0).dtype == torch.float16
    assert effective_sample_size(torch.ones(4_000, dtype=torch.bfloat16), 0).item() == 4_000
    torch.testing.assert_close(normalise(x, 0)[0].item(), 1 / 70_000, rtol=5e-3, atol=0)


def test_safe_ratio():
    denominator = torch.tensor([4.0, 0.0], requires_grad=True)
    ratio = safe_ratio(torch.tensor([2.0, 2.0]), denominator)
    ratio.sum().backward()
    assert ratio.tolist() == [0.5, 0]
    assert denominator.grad.tolist() == [-0.125, 0]


def test_apply_weight_cleans_what_does_not_count_and_nothing_else():
    x = torch.tensor([1.0, NAN, INF, NAN, -INF])
    mask = torch.tensor([True, True, False, False, True])
    cleaned, weight = apply_weight(x, mask, torch.tensor([2, 0, 1, 0, 1]))
    assert cleaned.tolist() == [1, 0, 0, 0, -INF]
    assert weight.tolist() == [2, 0, 0, 0, 1]
    assert apply_weight(x)[0] is x


def test_a_weight_of_exactly_zero_still_learns():
    weight = torch.tensor([1.0, 0.0], requires_grad=True)
    values, counted = apply_weight(torch.tensor([3.0, 5.0]), weight=weight)
    ((values * counted).sum() / counted.sum()).backward()
    assert weight.grad.tolist() == [0, 2]  # (x_t - mean) / sum w


@pytest.mark.parametrize("name", ["mask", "weight"])
def test_a_mask_that_would_broadcast_over_the_wrong_axis_is_refused(name):
    given = {name: torch.ones(4, 4, dtype=torch.bool)}
    with pytest.raises(RequestError, match=rf"{name} of shape \[4, 4\].*\[4, 4, 4\].*{name}\[\.\.\., None\]"):
        apply_weight(torch.ones(4, 4, 4), **given)


@pytest.mark.parametrize("name", ["mask", "weight"])
@pytest.mark.parametrize("shape", [(6, 1), (7, 3), (7, 0)])
def test_what_does_not_broadcast_is_refused(name, shape):
    given = {name: torch.ones(shape, dtype=torch.bool)}
    with pytest.raises(RequestError, match=rf"{name} of shape \[{shape[0]}, {shape[1]}\].*\[7, 4\].*or 1"):
        apply_weight(torch.ones(7, 4), **given)


def test_softmax_with_nothing_left_and_with_scores_of_minus_infinity():
    scores = torch.tensor([[0.0, -INF], [-INF, -INF], [7.0, 7.0]], requires_grad=True)
    mask = torch.tensor([[True, True], [True, True], [False, False]])
    p = softmax(scores, 1, mask)
    p[:, 0].sum().backward()
    assert p.tolist() == [[1, 0], [0, 0], [0, 0]]
    assert scores.grad.tolist() == [[0, 0], [0, 0], [0, 0]]


def test_no_nan_arises_on_the_way_back_even_where_it_would_be_dropped():
    """Anomaly detection, which people use to find their own NaN, stays silent."""
    scores = torch.tensor([[0.0, -INF], [-INF, -INF]], requires_grad=True)
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0]], requires_grad=True)
    torch.autograd.set_detect_anomaly(True)
    try:
        softmax(scores, 1).sum().backward()
        log_softmax(scores, 1)[:, 0].sum().backward()
        (normalise(x, 1).sum() + entropy(x, 1).sum() + effective_sample_size(x, 1).sum()).backward()
    finally:
        torch.autograd.set_detect_anomaly(False)


def test_softmax_survives_large_scores_also_removed_ones():
    p = softmax(torch.tensor([1e4, 1e4 - 1, 3e38]), 0, weight=torch.tensor([1, 1, 0]))
    torch.testing.assert_close(p, torch.tensor([1 / (1 + math.exp(-1)), 1 / (1 + math.e), 0]))


def test_log_softmax_of_nothing_and_of_large_scores():
    scores = torch.tensor([[1.0, 2.0], [3.0, 4.0], [1e4, 1e4]], requires_grad=True)
    found = log_softmax(scores, 1, torch.tensor([[True, False], [False, False], [True, True]]))
    found.sum().backward()
    torch.testing.assert_close(found, torch.tensor([[0, 0], [0, 0], [-math.log(2)] * 2]), rtol=1e-7, atol=0)
    assert scores.grad.tolist() == [[0, 0], [0, 0], [0, 0]]


def test_entropy_of_uniform_of_one_and_of_nothing():
    w = torch.tensor([[2.0, 2.0, 2.0, 2.0], [0.0, 9.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]], requires_grad=True)
    found = entropy(w, 1)
    torch.testing.assert_close(found, torch.tensor([math.log(4), 0.0, 0.0]))
    found.sum().backward()
    assert w.grad.isfinite().all()


def test_entropy_keeps_the_digits_of_tiny_weights():
    w = torch.tensor([1.0, 1e-20], dtype=torch.float64)
    assert entropy(w, 0).item() == pytest.approx(1e-20 * math.log(1e20), rel=1e-12, abs=0)


def test_effective_sample_size_between_one_and_all_and_without_overflow():
    w = torch.tensor([[1e30, 1e30, 1e30], [0.0, 5.0, 0.0], [0.0, 0.0, 0.0], [1.0, 2.0, 3.0]])
    torch.testing.assert_close(effective_sample_size(w, 1), torch.tensor([3.0, 1.0, 0.0, 36 / 14]))


def test_masked_measures_ignore_what_is_masked():
    w = torch.tensor([[1.0, 2.0, NAN]])
    mask = torch.tensor([[True, True, False]])
    for measure in (entropy, effective_sample_size):
        assert measure(w, 1, mask).item() == measure(w[:, :2], 1).item()


def test_length_mask():
    assert length_mask(torch.tensor([0, 1, 3]), 3).sum(1).tolist() == [0, 1, 3]
    assert length_mask(torch.tensor([], dtype=torch.int64), 3).shape == (0, 3)
    for bad in ([4], [-1, 2]):
        with pytest.raises(RequestError, match=r"must lie in 0\.\.3"):
            length_mask(torch.tensor(bad), 3)


def slope_of_weight_0(function, scores):
    """Gradient of the first output by the second weight, which is 0."""
    weight = torch.tensor([1.0, 0.0], dtype=scores.dtype, requires_grad=True)
    function(scores, 0, weight=weight)[0].backward()
    assert weight.grad is not None
    return weight.grad[1].item()


@pytest.mark.parametrize("function", [softmax, log_softmax])
@pytest.mark.parametrize("gap", [-30.0, 0.0, 3.0, 40.0])
def test_the_gradient_by_a_weight_of_0_is_that_of_its_score_also_above_the_top(function, gap):
    assert slope_of_weight_0(function, torch.tensor([5.0, 5.0 + gap])) == pytest.approx(-math.exp(gap))


@pytest.mark.parametrize("function", [softmax, log_softmax])
@pytest.mark.parametrize("score", [NAN, -INF, INF])
def test_a_weight_of_0_on_no_number_has_no_gradient(function, score):
    for first in (0.0, -60.0):
        assert slope_of_weight_0(function, torch.tensor([first, score])) == 0


@pytest.mark.parametrize("function", [softmax, log_softmax])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_an_enormous_score_of_learned_weight_0_leaves_values_and_gradients_finite(function, dtype):
    scores = torch.tensor([1.0, 2.0, 3e38], dtype=dtype, requires_grad=True)
    weight = torch.tensor([1.0, 1.0, 0.0], dtype=dtype, requires_grad=True)
    found = function(scores, 0, weight=weight)
    found[:2].square().sum().backward()
    torch.testing.assert_close(found[:2], function(torch.tensor([1.0, 2.0], dtype=dtype), 0))
    assert scores.grad is not None
    assert weight.grad is not None
    assert scores.grad.isfinite().all()
    assert scores.grad[2] == 0
    assert weight.grad.isfinite().all()

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weigher.core.pooling import (
    attention_pool,
    auto_pool,
    exp_softmax_pool,
    max_pool,
    mean_pool,
    noisy_or,
    power_pool,
    self_weighted_mean,
    weighted_mean,
    weighted_statistics,
)

NAN, INF = math.nan, math.inf
POOLS = {
    "mean": mean_pool,
    "max": max_pool,
    "noisy-or": noisy_or,
    "self-weighted": self_weighted_mean,
    "power 0": lambda x, dim, mask=None, **k: power_pool(x, dim, 0.0, mask, **k),
    "power 0.3": lambda x, dim, mask=None, **k: power_pool(x, dim, 0.3, mask, **k),
    "power 4": lambda x, dim, mask=None, **k: power_pool(x, dim, 4.0, mask, **k),
    "exp-softmax": exp_softmax_pool,
    "auto": lambda x, dim, mask=None, **k: auto_pool(x, dim, 6.0, mask, **k),
}
MEANS = [name for name in POOLS if name != "noisy-or"]
each_pool = pytest.mark.parametrize("name", POOLS)
each_mean = pytest.mark.parametrize("name", MEANS)


def close(got, expected, **tolerance):
    torch.testing.assert_close(got, torch.as_tensor(expected, dtype=got.dtype), **tolerance)


@each_pool
@pytest.mark.parametrize("dim", [0, 1, 2, -3, -1])
def test_pools_work_on_any_axis_and_drop_it(name, dim):
    x = torch.rand(3, 4, 5, dtype=torch.float64)
    mask = torch.rand(3, 4, 5) < 0.7
    got = POOLS[name](x, dim, mask)
    rows, masks = x.movedim(dim, -1).flatten(0, 1), mask.movedim(dim, -1).flatten(0, 1)
    pairs = zip(rows, masks, strict=True)
    expected = torch.stack([POOLS[name](row[kept], 0) if kept.any() else row[0] * 0 for row, kept in pairs])
    close(got.flatten(), expected)


@each_mean
@given(level=st.floats(1e-30, 1.0))
def test_a_constant_track_pools_to_its_level(name, level):
    close(POOLS[name](torch.full((7,), level), 0), level)


@each_pool
def test_pools_of_probabilities_are_probabilities_in_every_precision(name):
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        x = torch.rand(64, 33, generator=generator).to(dtype)
        x[::3] = 1
        x[1::3, ::2] = 0
        q = POOLS[name](x, 1)
        slack = 1e-6 if name in ("exp-softmax", "auto", "mean") else 0
        assert q.dtype == dtype
        assert (q >= 0).all()
        assert (q <= 1 + slack).all()


@each_pool
def test_an_all_zero_row_pools_to_zero_with_finite_gradient(name):
    x = torch.zeros(2, 3, requires_grad=True)
    q = POOLS[name](x, 1)
    q.sum().backward()
    assert q.tolist() == [0, 0]
    assert x.grad.isfinite().all()


@each_pool
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saturated_tracks_have_finite_gradients(name, dtype):
    x = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1e-38, 1e-45]], dtype=dtype, requires_grad=True)
    q = POOLS[name](x, 1)
    q.sum().backward()
    assert q.isfinite().all()
    assert x.grad.isfinite().all()


def test_self_weighted_mean_closed_forms():
    close(self_weighted_mean(torch.tensor([0.0, 0.7, 0.0]), 0), 0.7)  # a one-hot frame gives its value
    close(self_weighted_mean(torch.tensor([0.2, 0.4, 0.9]), 0), (0.04 + 0.16 + 0.81) / 1.5)


@given(st.floats(-30, 30))
def test_self_weighted_mean_scales_with_x_without_under_or_overflow(power):
    x = torch.tensor([0.1, 0.0, 0.9, 0.4])
    q = self_weighted_mean(x * 10**power, 0)
    close(q, (0.01 + 0.81 + 0.16) / 1.4 * 10**power, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["self-weighted", "power 0.3", "power 4"])
def test_a_removed_giant_does_not_disturb_the_scale(name):
    x = torch.tensor([1e-30, 2e-30, 1e10])
    alone = POOLS[name](x[:2], 0)
    close(POOLS[name](x, 0, weight=torch.tensor([1, 1, 0])), alone, rtol=1e-6, atol=0)
    close(POOLS[name](x, 0, torch.tensor([True, True, False])), alone, rtol=1e-6, atol=0)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_self_weighted_mean_lies_between_mean_and_max(values):
    x = torch.tensor(values)
    q = self_weighted_mean(x, 0)
    assert x.mean() * (1 - 1e-6) <= q <= x.max()


def test_self_weighted_mean_has_the_gradient_of_the_docstring():
    x = torch.rand(6, 9, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(6, 9, dtype=torch.float64)
    q = self_weighted_mean(x, 1, weight=weight)
    q.sum().backward()
    total = (weight * x).sum(1, keepdim=True)
    close(x.grad, (weight * (2 * x - q[:, None]) / total).detach())


def test_frames_below_half_the_confidence_are_pushed_down():
    x = torch.tensor([0.9, 0.8, 0.1], requires_grad=True)
    self_weighted_mean(x, 0).backward()
    assert (x.grad > 0).tolist() == [True, True, False]


def test_confidence_and_weights_are_independent():
    x = torch.rand(5, dtype=torch.float64)
    close(self_weighted_mean(0.3 * x, 0), 0.3 * self_weighted_mean(x, 0))
    close(
        weighted_mean(torch.eye(5, dtype=torch.float64), 0.3 * x[:, None]),
        weighted_mean(torch.eye(5, dtype=torch.float64), x[:, None]),
    )


def test_power_pool_contains_mean_self_weighted_mean_and_max():
    x = torch.rand(4, 9, dtype=torch.float64)
    x[0, :3] = 0
    close(power_pool(x, 1, 0.0), x.mean(1))
    close(power_pool(x, 1, 1.0), self_weighted_mean(x, 1))
    close(power_pool(x, 1, 3000.0), x.amax(1), rtol=1e-3, atol=0)
    close(power_pool(x, 1, 2.0), (x**3).sum(1) / (x**2).sum(1))


def test_power_pool_gradients_at_zero():
    x = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)

    def gradient(n):
        leaf = x.clone().requires_grad_()
        power_pool(leaf, 0, n).backward()
        return leaf.grad[0].item()

    assert gradient(0.0) == pytest.approx(1 / 3)
    assert gradient(1.0) == pytest.approx(-(1.25 / 1.5) / 1.5)  # -q / sum x
    assert gradient(2.0) == 0
    assert gradient(0.5) == 0  # the true slope is -infinity


def test_power_pool_learns_its_exponent():
    x = torch.rand(2, 5, 3, dtype=torch.float64)
    x[0, 0] = 0
    n = torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda n: power_pool(x, 1, n), n)
    close(power_pool(x, 1, n)[:, 1], self_weighted_mean(x, 1)[:, 1])


def test_power_pool_pushes_down_below_its_threshold():
    for n in (0.5, 1.0, 3.0):
        x = torch.linspace(0.05, 1, 39, dtype=torch.float64, requires_grad=True)
        q = power_pool(x, 0, n)
        q.backward()
        assert torch.equal(x.grad > 0, x > q * n / (n + 1))


def test_auto_pool_runs_from_min_over_mean_to_max():
    x = torch.rand(4, 9, dtype=torch.float64)
    close(auto_pool(x, 1, 0.0), x.mean(1))
    close(auto_pool(x, 1, 1.0), exp_softmax_pool(x, 1))
    close(auto_pool(x, 1, 1e6), x.amax(1))
    close(auto_pool(x, 1, -1e6), x.amin(1))
    alpha = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: auto_pool(x, 1, a), alpha)


def test_noisy_or_keeps_small_probabilities_that_a_product_would_lose():
    x = torch.full((100,), 1e-9)
    close(noisy_or(x, 0), 1e-7, rtol=1e-5, atol=0)  # 1 - 1e-9 is 1 in float32


def test_noisy_or_of_a_certain_event_is_one():
    x = torch.tensor([1.0, 0.3], requires_grad=True)
    q = noisy_or(x, 0)
    q.backward()
    assert q.item() == 1
    assert x.grad.tolist() == [0, 0]
    assert noisy_or(x.detach(), 0, weight=torch.tensor([0, 1])).item() == pytest.approx(0.3)


def test_max_pool_of_negative_values_and_masked_larger_ones():
    x = torch.tensor([[-3.0, -1.0, 5.0], [INF, NAN, -2.0]])
    mask = torch.tensor([[True, True, False], [False, False, True]])
    assert max_pool(x, 1, mask).tolist() == [-1, -2]


def test_weighted_mean_keeps_slots_apart_and_takes_leading_axes():
    values = torch.randn(2, 3, 6, 4, dtype=torch.float64)
    weights = torch.rand(2, 3, 6, 5, dtype=torch.float64)
    weights[0, 0, :, 2] = 0
    got = weighted_mean(values, weights)
    total = weights.sum(-2)[..., None]
    expected = (weights[..., None] * values[..., None, :]).sum(-3) / torch.where(total > 0, total, 1)
    close(got, expected)
    assert got[0, 0, 2].tolist() == [0, 0, 0, 0]


def test_weighted_mean_ignores_whatever_masked_frames_hold():
    values = torch.tensor([[[1.0], [NAN], [3.0]]], requires_grad=True)
    weights = torch.tensor([[[1.0], [INF], [1.0]]], requires_grad=True)
    mean = weighted_mean(values, weights, torch.tensor([[True, False, True]]))
    mean.sum().backward()
    assert mean.tolist() == [[[2]]]
    assert values.grad.flatten().tolist() == [0.5, 0, 0.5]
    assert weights.grad.flatten().tolist() == [-0.5, 0, 0.5]


def test_statistics_of_one_frame_or_none_are_zero_with_finite_gradient():
    values = torch.tensor([[[5.0], [9.0]]], requires_grad=True)
    weights = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]], requires_grad=True)
    found = weighted_statistics(values, weights)
    (found.std.sum() + found.mean.sum()).backward()
    assert found.mean.tolist() == [[[5], [0]]]
    assert found.std.tolist() == [[[0], [0]]]
    assert values.grad.isfinite().all()
    assert weights.grad.isfinite().all()


def test_statistics_keep_the_digits_of_a_small_spread():
    values = torch.tensor([[1000.0], [1000.5]])
    close(weighted_statistics(values, torch.ones(2, 1)).std, [[0.25]], rtol=1e-6, atol=0)  # E[v^2] - m^2 is off by 10 %


def test_attention_is_a_weighted_mean_under_softmax():
    values = torch.randn(2, 6, 4, dtype=torch.float64)
    scores = 5 * torch.randn(2, 6, 3, dtype=torch.float64)
    close(attention_pool(values, scores), weighted_mean(values, scores.softmax(1)))
    close(attention_pool(values, scores + 1e4), attention_pool(values, scores), rtol=1e-9, atol=1e-9)
    nobody = torch.tensor([[True] * 6, [False] * 6])
    assert attention_pool(values, scores, nobody)[1].abs().max() == 0


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        (self_weighted_mean, (0.9**2 - 0.2 * 0.9) / 0.2),
        (lambda x, dim, **k: power_pool(x, dim, 2.0, **k), (0.9**3 - 0.2 * 0.9**2) / 0.2**2),
        (lambda x, dim, **k: power_pool(x, dim, 0.5, **k), (0.9**1.5 - 0.2 * 0.9**0.5) / 0.2**0.5),
        (exp_softmax_pool, 0.7 * math.exp(0.7)),
    ],
)
def test_the_gradient_by_a_weight_of_0_is_exact_where_its_element_is_the_largest(pool, expected):
    weight = torch.tensor([1.0, 0.0], requires_grad=True)
    pool(torch.tensor([0.2, 0.9]), 0, weight=weight).backward()
    assert weight.grad.tolist() == pytest.approx([0, expected], rel=1e-6, abs=1e-6)  # 3.15 for the self-weighted mean


@each_mean
@pytest.mark.parametrize("giant", [3e38, INF, NAN])
def test_a_giant_of_learned_weight_0_leaves_values_and_gradients_finite(name, giant):
    x = torch.tensor([0.2, 0.9, giant], requires_grad=True)
    weight = torch.tensor([1.0, 1.0, 0.0], requires_grad=True)
    found = POOLS[name](x, 0, weight=weight)
    close(found, POOLS[name](x[:2], 0).item())
    torch.autograd.backward(found, inputs=[x])
    assert x.grad[2] == 0
    assert x.grad.isfinite().all()

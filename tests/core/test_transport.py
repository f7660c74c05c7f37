"""Sinkhorn and assignment: marginals, closed forms, gradients against differences, padding, weights, warm starts."""

import itertools

import pytest
import torch

from weigher.core.transport import (
    assignment,
    relative_epsilon,
    round_plan,
    self_sinkhorn,
    sinkhorn,
    sinkhorn_divergence,
)
from weigher.errors import RequestError


def problem(n=6, m=4, batch=(), seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*batch, n, 3, dtype=torch.float64, generator=generator)
    y = torch.randn(*batch, m, 3, dtype=torch.float64, generator=generator)
    a, b = (torch.rand(*batch, k, dtype=torch.float64, generator=generator) + 0.1 for k in (n, m))
    return torch.cdist(x, y).square(), a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True)


def test_the_plan_has_the_marginals_and_the_form_of_the_optimum():
    cost, a, b = problem(batch=(3,))
    found = sinkhorn(cost, a, b, epsilon=1.5, tolerance=1e-12)
    assert bool(found.converged.all())
    assert torch.allclose(found.plan.sum(-1), a, atol=1e-11)
    assert torch.allclose(found.plan.sum(-2), b, atol=1e-11)
    # first-order conditions: log P / (a b) + C / e is a sum of a row's and a column's number
    rest = (found.plan / (a[..., :, None] * b[..., None, :])).log() + cost / 1.5
    assert torch.allclose(
        rest - rest[..., :1, :] - rest[..., :, :1] + rest[..., :1, :1], torch.zeros(()).double(), atol=1e-9
    )
    kl = (found.plan * (found.plan / (a[..., :, None] * b[..., None, :])).log()).sum((-2, -1))
    assert torch.allclose(found.value, found.cost + 1.5 * kl, atol=1e-11)
    assert torch.allclose(found.cost, (found.plan * cost).sum((-2, -1)))


def test_two_points_against_two_is_a_closed_form():
    cost = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    found = sinkhorn(cost, epsilon=0.5, tolerance=1e-13)
    stay = 0.5 / (1 + torch.exp(torch.tensor(-2.0, dtype=torch.float64)))
    assert found.plan[0, 0].item() == pytest.approx(stay.item(), abs=1e-12)


def test_a_batch_gives_what_its_members_give_and_padding_of_weight_0_nothing():
    cost, a, b = problem(batch=(3,))
    whole = sinkhorn(cost, a, b, epsilon=torch.tensor([1.0, 1.5, 2.0]).double(), tolerance=1e-12)
    for i, epsilon in enumerate((1.0, 1.5, 2.0)):
        one = sinkhorn(cost[i], a[i], b[i], epsilon=epsilon, tolerance=1e-12)
        assert torch.allclose(whole.value[i], one.value, atol=1e-10)
    wide = torch.full((3, 8, 7), 5.0, dtype=torch.float64)
    wide[:, :6, :4] = cost
    padded = sinkhorn(
        wide,
        torch.nn.functional.pad(a, (0, 2)),
        torch.nn.functional.pad(b, (0, 3)),
        epsilon=torch.tensor([1.0, 1.5, 2.0]).double(),
        tolerance=1e-12,
    )
    assert torch.allclose(padded.value, whole.value, atol=1e-10)
    assert torch.allclose(padded.plan[:, :6, :4], whole.plan, atol=1e-10)
    assert float(padded.plan.sum()) == pytest.approx(3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("filling", [1e6, -1e6, 1e38, -1e38])
def test_what_is_removed_may_cost_anything_also_where_iterations_are_few(filling, dtype):
    cost, a, b = (part.to(dtype) for part in problem(batch=(2,)))
    wide = torch.full((2, 8, 7), filling, dtype=dtype)
    wide[:, :6, :4] = cost
    a_wide, b_wide = (torch.nn.functional.pad(w, (0, more)).requires_grad_() for w, more in ((a, 2), (b, 3)))
    for iterations in (3, 40):
        limits = {"epsilon": 0.05, "iterations": iterations}
        expected, found = sinkhorn(cost, a, b, **limits), sinkhorn(wide, a_wide, b_wide, **limits)
        assert found.iterations == expected.iterations
        torch.testing.assert_close(found.plan[:, :6, :4], expected.plan)
        torch.testing.assert_close(found.plan.sum((1, 2)), expected.plan.sum((1, 2)))
        torch.testing.assert_close(found.value, expected.value)
        torch.testing.assert_close(found.potential_a[:, :6], expected.potential_a)
        slopes = torch.autograd.grad(found.value.sum(), (a_wide, b_wide))
        assert all(slope.isfinite().all() for slope in (*slopes, found.potential_a, found.potential_b))
        aa, bb = torch.cdist(cost, cost), torch.cdist(cost.mT, cost.mT)
        filled = [torch.full((2, size, size), filling, dtype=dtype) for size in (8, 7)]
        for large, small in zip(filled, (aa, bb), strict=True):
            large[:, : small.shape[1], : small.shape[1]] = small
        expected = sinkhorn_divergence(cost, aa, bb, a, b, **limits)
        found = sinkhorn_divergence(wide, *filled, a_wide.detach(), b_wide.detach(), **limits)
        torch.testing.assert_close(found.aa.plan[:, :6, :6], expected.aa.plan)
        torch.testing.assert_close(found.value, expected.value)


def test_integer_weights_are_copies_and_their_scale_does_not_matter():
    cost, _, _ = problem()
    weight = torch.tensor([2.0, 1.0, 0.0, 3.0, 1.0, 1.0]).double()
    copies = cost.repeat_interleave(weight.long(), 0)
    expected = sinkhorn(copies, epsilon=2.0, tolerance=1e-12).value
    assert torch.allclose(sinkhorn(cost, weight * 7, epsilon=2.0, tolerance=1e-12).value, expected, atol=1e-10)
    assert torch.allclose(relative_epsilon(cost, 0.1, weight), relative_epsilon(copies, 0.1), atol=1e-12)


def test_gradients_of_the_value_are_those_of_differences():
    cost, a, b = problem(4, 3)

    def value(cost, a, b):
        return sinkhorn(cost, a, b, epsilon=2.0, tolerance=1e-13, iterations=20000).value

    leaves = [tensor.clone().requires_grad_() for tensor in (cost, a, b)]
    assert torch.autograd.gradcheck(value, leaves, eps=1e-5, atol=1e-7)
    found = sinkhorn(*leaves, epsilon=2.0, tolerance=1e-13)
    slope = torch.autograd.grad(found.value, leaves[0])[0]
    assert torch.allclose(slope, found.plan)


def test_a_warm_start_ends_sooner_at_the_same_place():
    cost, a, b = problem(40, 30)
    cold = sinkhorn(cost, a, b, epsilon=1.0, tolerance=1e-8)
    warm = sinkhorn(cost * 1.001, a, b, epsilon=1.0, tolerance=1e-8, start=cold.potential_b)
    assert warm.iterations < cold.iterations
    assert torch.allclose(warm.value, sinkhorn(cost * 1.001, a, b, epsilon=1.0, tolerance=1e-8).value, atol=1e-8)


def test_what_has_not_converged_says_so_and_rounding_makes_it_feasible():
    cost, a, b = problem(30, 20)
    rough = sinkhorn(cost, a, b, epsilon=0.01, iterations=8)
    assert not bool(rough.converged)
    assert rough.iterations == 8
    assert float(rough.marginal_error) > 1e-3
    plan = round_plan(rough.plan, a, b)
    assert torch.allclose(plan.sum(-1), a, atol=1e-15)
    assert torch.allclose(plan.sum(-2), b, atol=1e-15)
    assert bool((plan >= 0).all())
    assert float((plan - rough.plan).abs().sum()) <= 2 * float(rough.marginal_error)


def test_the_debiased_value_is_0_for_equal_sets_and_between_the_extremes_otherwise():
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(12, 2, dtype=torch.float64, generator=generator) for _ in range(2))
    xx, yy, xy = torch.cdist(x, x).square(), torch.cdist(y, y).square(), torch.cdist(x, y).square()
    assert float(sinkhorn_divergence(xx, xx, xx, epsilon=0.7).value) == pytest.approx(0, abs=1e-12)
    small = float(sinkhorn_divergence(xy, xx, yy, epsilon=0.03, tolerance=1e-4).value)
    assert small == pytest.approx(float(assignment(xy).cost), rel=0.02)
    large = float(sinkhorn_divergence(xy, xx, yy, epsilon=1e6).value)
    # towards independent coupling: the distance of the means, for squared distances
    assert large == pytest.approx(float((x.mean(0) - y.mean(0)).square().sum()), abs=1e-3)


def test_a_set_against_itself_is_the_same_problem():
    x = torch.randn(2, 15, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    weight = torch.rand(2, 15, dtype=torch.float64)
    weight[:, 3] = 0
    cost = torch.cdist(x, x).square()
    epsilon = torch.tensor([1.0, 3.0]).double()
    fast = self_sinkhorn(cost, weight, epsilon=epsilon, tolerance=1e-11)
    slow = sinkhorn(cost, weight, weight, epsilon=epsilon, tolerance=1e-9, iterations=5_000)
    assert fast.iterations < slow.iterations
    assert torch.allclose(fast.value, slow.value, atol=1e-10)
    assert torch.allclose(fast.plan, slow.plan, atol=1e-8)
    assert float(fast.plan[:, 3].sum()) == 0


def test_assignment_is_the_best_of_all_permutations_and_its_potentials_prove_it():
    cost, _, _ = problem(6, 6)
    found = assignment(cost)
    best = min(cost[range(6), order].mean().item() for order in map(list, itertools.permutations(range(6))))
    assert found.cost.item() == pytest.approx(best, abs=1e-12)
    slack = cost - found.potential_a[:, None] - found.potential_b
    assert float(slack.min()) > -1e-10
    assert float((slack * found.plan).abs().max()) < 1e-12
    assert float(found.potential_a.mean() + found.potential_b.mean()) == pytest.approx(best, abs=1e-10)


def test_large_costs_stay_finite():
    cost = torch.rand(1, 5, 5) * 1e6
    assert bool(sinkhorn(cost, epsilon=1.0, iterations=50).plan.isfinite().all())


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single_and_returned_as_it_came(kind):
    x, y = torch.randn(2, 12, 2, generator=torch.Generator().manual_seed(3))
    costs = [torch.cdist(*pair).square().to(kind) for pair in ((x, y), (x, x), (y, y))]
    ab, aa, _ = costs
    for call in (
        lambda *c: sinkhorn(c[0], epsilon=0.3),
        lambda *c: self_sinkhorn(c[1], epsilon=0.3),
        lambda *c: sinkhorn_divergence(*c, epsilon=0.3),
        lambda *c: assignment(c[0]),
    ):
        found, wide = call(*costs), call(*(cost.float() for cost in costs))
        assert found.value.dtype == kind
        assert torch.equal(found.value, wide.value.to(kind))
        one, other = (getattr(each, "ab", each) for each in (found, wide))
        assert bool(one.converged.all())
        assert one.iterations == other.iterations
        for name in ("plan", "cost", "potential_a", "potential_b"):
            assert torch.equal(getattr(one, name), getattr(other, name).to(kind))
    assert float(sinkhorn_divergence(aa, aa, aa, epsilon=0.3).value) == pytest.approx(0, abs=1e-5)
    assert torch.equal(relative_epsilon(ab, 0.05), relative_epsilon(ab.float(), 0.05))
    plan, even = sinkhorn(ab, epsilon=0.3).plan, torch.full((12,), 1 / 12, dtype=kind)
    assert torch.equal(round_plan(plan, even, even), round_plan(*(t.float() for t in (plan, even, even))).to(kind))
    leaf = ab.clone().requires_grad_()
    sinkhorn(leaf, epsilon=0.3).value.backward()
    assert leaf.grad.dtype == kind
    assert torch.allclose(leaf.grad.float(), sinkhorn(ab.float(), epsilon=0.3).plan, rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: sinkhorn(torch.zeros(0, 3), epsilon=1.0), "at least one element"),
        (lambda: sinkhorn(torch.tensor([[float("nan")]]), epsilon=1.0), "finite"),
        (lambda: sinkhorn(torch.zeros(2, 2, dtype=torch.int64), epsilon=1.0), "floats"),
        (lambda: sinkhorn(torch.zeros(2, 3), torch.ones(3), epsilon=1.0), "weights a have the shape"),
        (lambda: sinkhorn(torch.zeros(2, 2), torch.tensor([-1.0, 2.0]), epsilon=1.0), ">= 0"),
        (lambda: sinkhorn(torch.zeros(2, 2), None, torch.zeros(2), epsilon=1.0), "above 0"),
        (lambda: sinkhorn(torch.zeros(2, 2), epsilon=0.0), "epsilon is 0.0"),
        (lambda: sinkhorn(torch.zeros(2, 2), epsilon=1.0, iterations=0), "iterations 0"),
        (lambda: relative_epsilon(torch.zeros(2, 2), -1.0), "reg is -1.0"),
        (lambda: assignment(torch.zeros(2, 3)), "square"),
    ],
)
def test_wrong_requests_are_told(call, said):
    with pytest.raises(RequestError, match=said):
        call()

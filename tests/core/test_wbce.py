"""The properties claimed for wBCE, one by one."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from weigher.core.losses import bce, softmax_cross_entropy, wbce

both_modes = pytest.mark.parametrize("detach", [True, False])
logit = st.floats(-50, 50)
slots = st.lists(st.tuples(logit, st.booleans()), min_size=1, max_size=12)


def close(got, expected, **tolerance):
    torch.testing.assert_close(got, torch.as_tensor(expected, dtype=got.dtype), **tolerance)


def slot(pairs):
    return torch.tensor([z for z, _ in pairs], dtype=torch.float64), torch.tensor([y for _, y in pairs])


def gradient(logits, targets, **options):
    leaf = torch.as_tensor(logits).clone().requires_grad_()
    wbce(leaf, targets, **options).sum().backward()
    return leaf.grad


def test_the_definition_term_by_term():
    z = torch.tensor([1.0, -0.5, 2.0, -3.0, 0.4], dtype=torch.float64)
    y = torch.tensor([True, True, False, False, False])
    p = z.sigmoid()
    negatives = p[~y]
    expected = -p[y].log().mean() + (negatives * -(1 - negatives).log()).sum() / negatives.sum()
    close(wbce(z, y), expected)


@both_modes
@pytest.mark.parametrize("target", [1, 0])
@given(z=logit)
def test_one_class_is_bce_in_value_and_gradient(detach, target, z):
    logits, targets = torch.tensor([[z]], dtype=torch.float64), torch.tensor([[target]])
    close(wbce(logits, targets, detach=detach), bce(logits, targets)[:, 0], rtol=1e-12, atol=0)
    leaf = logits.clone().requires_grad_()
    expected = F.binary_cross_entropy_with_logits(leaf, targets.double())
    expected.backward()
    close(gradient(logits, targets, detach=detach), leaf.grad, rtol=1e-9, atol=1e-15)


@given(slots)
def test_never_negative_and_zero_only_at_the_right_answer(pairs):
    z, y = slot(pairs)
    loss = wbce(z, y).item()
    mistakes = bce(z, y)
    assert loss >= 0
    # every mistake shows: a positive with its share of the mean, the hardest negative at least as in a plain mean
    assert loss >= mistakes.max().item() / len(z) * (1 - 1e-9)


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_every_set_of_right_answers_reaches_zero(answers):
    y = torch.tensor(answers)
    z = torch.where(y, 50.0, -50.0).double()
    assert 0 <= wbce(z, y).item() < 1e-20


def test_a_softmax_cannot_reach_zero_for_two_answers():
    y = torch.tensor([True, True, False])
    assert wbce(torch.tensor([50.0, 50.0, -50.0]), y).item() < 1e-20
    assert softmax_cross_entropy(torch.tensor([50.0, 50.0, -50.0]), y).item() == pytest.approx(math.log(2))


@given(slots)
def test_the_negative_term_lies_between_the_mean_and_the_worst_negative(pairs):
    z, y = slot(pairs)
    if y.all():
        pairs = [*pairs, (0.5, False)]
        z, y = slot(pairs)
    negatives = wbce(z[~y], y[~y]).item()
    plain = bce(z[~y], y[~y])
    assert plain.mean().item() * (1 - 1e-9) <= negatives <= plain.max().item() * (1 + 1e-9)


@both_modes
def test_the_scale_does_not_grow_with_the_number_of_classes(detach):
    z = torch.tensor([1.0, 0.3, -4.0, -2.0], dtype=torch.float64)
    y = torch.tensor([True, False, False, False])
    few = wbce(z, y, detach=detach)
    for copies in (2, 17, 300):
        more_z, more_y = torch.cat([z[:1], z[1:].repeat(copies)]), torch.cat([y[:1], y[1:].repeat(copies)])
        close(wbce(more_z, more_y, detach=detach), few)
        close(gradient(more_z, more_y, detach=detach)[:1], gradient(z, y, detach=detach)[:1])


def test_many_easy_negatives_neither_drown_the_positive_nor_the_hard_negative():
    z = torch.full((856,), -8.0, dtype=torch.float64)
    z[:2] = torch.tensor([-1.0, 1.0])
    y = torch.arange(856) == 0
    slope, plain = gradient(z, y), torch.sigmoid(z).sub(y.double()) / 856
    close(slope[0], z[0].sigmoid() - 1)  # the full slope of one BCE, whatever C is
    assert slope[1] > 0.4
    assert plain.abs().max() < 1e-3


@both_modes
def test_the_gradient_vanishes_at_a_confident_right_answer(detach):
    y = torch.tensor([True, False, False, True])
    assert gradient(torch.where(y, 50.0, -50.0), y, detach=detach).abs().max() < 1e-20


@given(slots)
def test_detached_gradients_push_positives_up_and_negatives_down(pairs):
    z, y = slot(pairs)
    slope = gradient(z, y)
    assert (slope[y] <= 0).all()
    assert (slope[~y] >= 0).all()


def test_the_detached_gradient_is_the_one_of_the_docstring():
    z = torch.tensor([1.0, 0.3, -4.0, -2.0], dtype=torch.float64)
    y = torch.tensor([True, False, False, False])
    p = z.sigmoid()[1:]
    share = p / p.sum()
    close(gradient(z, y)[1:], share * p)
    losses = bce(z, y)[1:]
    close(gradient(z, y, detach=False)[1:], share * (p + (1 - p) * (losses - (share * losses).sum())))


def test_undetached_gradients_raise_easy_negatives():
    z, y = torch.tensor([3.0, -3.0]), torch.tensor([False, False])
    assert gradient(z, y, detach=False)[1] < 0 < gradient(z, y)[1]


def test_a_positive_does_not_feel_the_negatives_nor_other_positives():
    y = torch.tensor([True, True, False, False])
    base = gradient(torch.tensor([0.5, 1.0, -1.0, 2.0]), y)
    negatives_moved = gradient(torch.tensor([0.5, 1.0, 9.0, -7.0]), y)
    positive_moved = gradient(torch.tensor([0.5, -6.0, -1.0, 2.0]), y)
    close(negatives_moved[:2], base[:2])
    close(positive_moved[[0, 2, 3]], base[[0, 2, 3]])


def test_logits_are_not_relative_as_in_a_softmax():
    z, y = torch.tensor([0.5, -1.0, 0.2]), torch.tensor([True, False, False])
    assert wbce(z + 3, y) != pytest.approx(wbce(z, y).item(), rel=0.1)


@both_modes
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_negatives_that_all_underflow_still_share_weight_one(detach, dtype):
    z = torch.tensor([2.0, -300.0, -301.0], dtype=dtype, requires_grad=True)
    y = torch.tensor([True, False, False])
    loss = wbce(z, y, detach=detach)
    loss.backward()
    close(loss, math.log1p(math.exp(-2)), rtol=1e-2, atol=0)
    assert z.grad.isfinite().all()


def test_small_probabilities_keep_their_ratios():
    z = torch.tensor([-80.0, -81.0], dtype=torch.float32)  # p near 1e-35, p * loss underflows
    close(
        wbce(z, torch.zeros(2)), (math.exp(-160) + math.exp(-162)) / (math.exp(-80) + math.exp(-81)), rtol=1e-4, atol=0
    )


@both_modes
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_stable_at_fifty_either_way(detach, dtype):
    z = torch.tensor([50.0, -50.0, 50.0, -50.0], dtype=dtype)
    y = torch.tensor([True, True, False, False])
    close(wbce(z, y, detach=detach), 25.0 + 50.0)
    assert gradient(z, y, detach=detach).isfinite().all()


def test_one_sided_and_empty_slots():
    z = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    close(wbce(z, torch.tensor([[1, 1]])), bce(z, torch.ones(1, 2)).mean(-1))
    p = z.sigmoid()
    close(wbce(z, torch.tensor([[0, 0]])), (p * bce(z, torch.zeros(1, 2))).sum(-1) / p.sum(-1))
    assert wbce(z, torch.tensor([[1, 0]]), weight=torch.zeros(1, 2)).item() == 0


def test_a_class_weight_broadcasts_over_slots():
    z, y = torch.randn(4, 3, dtype=torch.float64), torch.rand(4, 3) < 0.5
    weight = torch.tensor([[1.0, 0.0, 2.0]])
    close(wbce(z, y, weight=weight), wbce(z[:, [0, 2, 2]], y[:, [0, 2, 2]]))


def test_permuting_the_classes_changes_nothing():
    z, y = torch.randn(4, 9, dtype=torch.float64), torch.rand(4, 9) < 0.4
    order = torch.randperm(9)
    close(wbce(z[:, order], y[:, order]), wbce(z, y))


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_a_slot_that_knows_nothing_settles_at_one_half(classes):
    """Not calibrated, as the docstring says: averaged over which class is right, the slope is 0 at p = 1/2."""
    everyone = torch.eye(classes, dtype=torch.bool)
    slope = gradient(torch.zeros(classes, classes, dtype=torch.float64), everyone).sum(0)
    close(slope, torch.zeros(classes), rtol=0, atol=1e-12)


def test_the_gradient_by_a_weight_of_0_counts_the_hardest_negative_in_full():
    z = torch.tensor([-1.0, 2.0], dtype=torch.float64)
    weight = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    wbce(z, torch.tensor([False, False]), weight=weight, detach=False).backward()
    p, cost = z.sigmoid(), F.softplus(z)
    assert weight.grad is not None
    close(weight.grad[1], (p[1] / p[0] * (cost[1] - cost[0])).item())

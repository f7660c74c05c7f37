import math

import pytest
import torch

from weigher.core.losses import (
    asymmetric,
    bce,
    class_balanced_bce,
    focal,
    softmax_cross_entropy,
    wbce,
    weighted_reduce,
)
from weigher.errors import RequestError

PER_CLASS = {
    "bce": bce,
    "class_balanced_bce": class_balanced_bce,
    "focal": focal,
    "asymmetric": asymmetric,
    "asymmetric without margin": lambda z, y: asymmetric(z, y, gamma_positive=2, gamma_negative=1, margin=0),
}
PER_SLOT = {"softmax_cross_entropy": softmax_cross_entropy, "wbce": wbce}
each_loss = pytest.mark.parametrize("name", [*PER_CLASS, *PER_SLOT])
LOSSES = PER_CLASS | PER_SLOT


def close(got, expected, **tolerance):
    torch.testing.assert_close(got, torch.as_tensor(expected, dtype=got.dtype), **tolerance)


def problem(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(*shape, dtype=torch.float64, generator=generator)
    return logits, torch.rand(*shape, generator=generator) < 0.3


@each_loss
def test_nothing_is_reduced_beyond_the_promise(name):
    logits, targets = problem(2, 3, 7)
    assert LOSSES[name](logits, targets).shape == ((2, 3, 7) if name in PER_CLASS else (2, 3))


@each_loss
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [0.0, 50.0, 1000.0])
def test_extreme_logits_stay_finite_with_finite_gradients(name, dtype, size):
    logits = torch.tensor([[size, -size, size, -size]], dtype=dtype, requires_grad=True)
    loss = LOSSES[name](logits, torch.tensor([[1, 1, 0, 0]]))
    loss.sum().backward()
    assert loss.dtype == dtype
    assert loss.isfinite().all()
    assert (loss >= 0).all()
    assert logits.grad.isfinite().all()


@each_loss
@pytest.mark.parametrize("kind", [torch.bool, torch.int64, torch.float32, torch.float64])
def test_targets_may_be_bool_whole_or_real(name, kind):
    logits, targets = problem(5, 4)
    close(LOSSES[name](logits, targets.to(kind)), LOSSES[name](logits, targets))


@each_loss
def test_a_confident_right_answer_costs_nothing_and_a_confident_wrong_one_its_distance(name):
    targets = torch.tensor([[True, False, False]])
    right = LOSSES[name](torch.tensor([[60.0, -60.0, -60.0]]), targets)
    wrong = LOSSES[name](torch.tensor([[-60.0, 60.0, -60.0]]), targets)
    assert right.abs().max() < 1e-20
    assert wrong.max() > 10


def test_bce_takes_soft_targets():
    z = torch.tensor([0.3], dtype=torch.float64)
    p = torch.sigmoid(z)
    close(bce(z, torch.tensor([0.25])), -(0.25 * p.log() + 0.75 * (1 - p).log()))


def test_bce_keeps_the_digits_of_a_small_loss():
    close(bce(torch.tensor([40.0]), torch.tensor([1])), [math.exp(-40)], rtol=1e-5, atol=0)


def test_class_balance_gives_both_sides_half_of_the_mean():
    logits, targets = problem(6, 9)
    targets[:, 0], targets[:, 1] = True, False
    mean = class_balanced_bce(logits, targets).mean(-1)
    losses = bce(logits, targets)
    both = weighted_reduce(losses, targets, -1) + weighted_reduce(losses, ~targets, -1)
    close(mean, both / 2)


@pytest.mark.parametrize("value", [True, False])
def test_class_balance_with_one_side_is_plain_bce(value):
    logits, _ = problem(6, 9)
    targets = torch.full_like(logits, value)
    close(class_balanced_bce(logits, targets), bce(logits, targets))


def test_focal_against_its_definition_and_bce_as_its_special_case():
    logits, targets = problem(6, 9)
    q = torch.where(targets, logits.sigmoid(), 1 - logits.sigmoid())
    side = torch.where(targets, 0.7, 0.3).double()
    close(focal(logits, targets, gamma=1.5, alpha=0.7), -side * (1 - q) ** 1.5 * q.log())
    close(focal(logits, targets, gamma=0, alpha=None), bce(logits, targets))


def test_focal_keeps_digits_and_slopes_where_one_minus_p_rounds_to_zero():
    z = torch.tensor([20.0, 200.0], requires_grad=True)
    loss = focal(z, torch.ones(2), gamma=0.5, alpha=None)
    loss.sum().backward()
    close(loss.detach(), [math.exp(-30), 0.0], rtol=1e-5, atol=0)
    assert z.grad.isfinite().all()


def test_asymmetric_against_its_definition_and_bce_as_its_special_case():
    logits, targets = problem(6, 9)
    p = logits.sigmoid()
    shifted = (p - 0.1).clamp(min=0)
    expected = torch.where(targets, -((1 - p) ** 0.5) * p.log(), -(shifted**3) * (1 - shifted).log())
    close(asymmetric(logits, targets, gamma_positive=0.5, gamma_negative=3, margin=0.1), expected)
    close(asymmetric(logits, targets, gamma_positive=0, gamma_negative=0, margin=0), bce(logits, targets))


def test_asymmetric_drops_negatives_below_the_margin():
    z = torch.tensor([-3.0, -2.9], dtype=torch.float64, requires_grad=True)  # p = .047 and .052
    loss = asymmetric(z, torch.zeros(2), gamma_negative=0.5)
    loss.sum().backward()
    assert (loss > 0).tolist() == [False, True]
    assert (z.grad > 0).tolist() == [False, True]


def test_asymmetric_keeps_the_digits_of_easy_negatives():
    got = asymmetric(torch.tensor([-30.0]), torch.zeros(1), gamma_negative=1, margin=0)
    close(got, [math.exp(-60)], rtol=1e-5, atol=0)


def test_asymmetric_is_never_negative_and_flat_below_the_margin_in_spite_of_rounding():
    for margin in torch.linspace(0.005, 0.95, 190).tolist():
        z = (math.log(margin / (1 - margin)) + torch.linspace(-1e-5, 1e-5, 4001)).requires_grad_()
        loss = asymmetric(z, torch.zeros(4001), gamma_negative=0, margin=margin)
        loss.sum().backward()
        below = z.detach().sigmoid() - margin <= 0
        assert 500 < below.sum() < 3500
        assert (loss >= 0).all()
        assert not loss[below].any()
        assert not z.grad[below].any()


def test_softmax_of_several_right_answers_and_of_none():
    logits, targets = problem(6, 9)
    targets[0] = False
    logs = logits.log_softmax(-1)
    count = targets.sum(-1)
    close(softmax_cross_entropy(logits, targets), -(logs * targets).sum(-1) / count.clamp(min=1))
    assert softmax_cross_entropy(logits, targets)[0] == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda z, y: focal(z, y, gamma=-1),
        lambda z, y: focal(z, y, alpha=1.5),
        lambda z, y: asymmetric(z, y, gamma_positive=-1),
        lambda z, y: asymmetric(z, y, gamma_negative=-1),
        lambda z, y: asymmetric(z, y, margin=1),
        lambda z, y: asymmetric(z, y, margin=-0.1),
    ],
)
def test_settings_out_of_range_are_refused(call):
    with pytest.raises(RequestError, match=r"must be|need"):
        call(torch.zeros(2), torch.zeros(2))


def test_reduction_divides_by_the_weights_of_the_reduced_axes():
    loss = torch.tensor([[1.0, 2.0, 6.0], [4.0, 4.0, 4.0]])
    weight = torch.tensor([[1.0, 0.0, 1.0], [0.5, 0.0, 0.0]])
    close(weighted_reduce(loss), 21 / 6)
    close(weighted_reduce(loss, dim=1), [3, 4])
    close(weighted_reduce(loss, weight, 1), [3.5, 4])
    close(weighted_reduce(loss, weight), (1 + 6 + 2) / 2.5)
    close(weighted_reduce(loss, weight, (0, 1)), (1 + 6 + 2) / 2.5)
    close(weighted_reduce(loss, torch.tensor([[1], [3]])), (9 + 3 * 12) / 12)  # broadcast first, then summed
    close(weighted_reduce(loss, weight > 0, 0), [2.5, 0, 6])


def test_reduction_removes_what_weighs_nothing_even_nan():
    loss = torch.tensor([[2.0, math.inf], [math.nan, math.nan]], requires_grad=True)
    reduced = weighted_reduce(loss, torch.tensor([[1, 0], [0, 0]]), 1)
    reduced.sum().backward()
    assert reduced.tolist() == [2, 0]
    assert loss.grad.tolist() == [[1, 0], [0, 0]]
    assert weighted_reduce(loss, torch.zeros(2, 2)).item() == 0


def test_reduction_of_half_precision_sums_in_single():
    loss = torch.full((4096,), 100.0, dtype=torch.float16)  # the sum exceeds 65504
    assert weighted_reduce(loss).item() == 100
    assert weighted_reduce(loss).dtype == torch.float16


def test_reduction_refuses_a_weight_that_would_broadcast_over_the_wrong_axis():
    with pytest.raises(RequestError, match=r"weight of shape \[3\]"):
        weighted_reduce(torch.ones(3, 3), torch.ones(3))


def test_cross_entropy_has_its_gradient_by_a_class_weight_of_0():
    logits, weight = torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.0], requires_grad=True)
    softmax_cross_entropy(logits, torch.tensor([1, 0]), weight=weight).backward()
    assert weight.grad is not None
    assert weight.grad[1].item() == pytest.approx(math.exp(2))

"""Contrastive losses: laws, closed forms, blocks against the whole matrix, and what is refused."""

from functools import partial

import pytest
import torch
from torch.autograd import gradcheck

from contract import Subject, check_laws
from weigher.core.contrast import info_nce, log_sum_exp, nt_xent, symmetric_info_nce, unit
from weigher.errors import RequestError

LOSSES = (info_nce, symmetric_info_nce, nt_xent)


def pairs(batch, size, generator):
    return tuple(torch.randn(batch, size, 3, dtype=torch.float64, generator=generator) for _ in range(2))


def views(n=7, e=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(unit(torch.randn(n, e, dtype=torch.float64, generator=generator)) for _ in range(2))


@pytest.mark.parametrize("block", [2, 1024])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_laws_of_weights_hold(loss, block):
    subject = Subject(
        f"{loss.__name__}, blocks of {block}",
        partial(loss, temperature=0.7, block=block),
        pairs,
        output="kept",
        normalised=False,  # twice as many negatives of every kind raise the loss by log 2
    )
    assert "gradcheck" in check_laws(subject)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_laws_hold_beside_a_queue(loss):
    queue = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def call(first, second, weight=None):
        return loss(first, second, weight=weight, temperature=0.7, negatives=queue.expand(len(first), 6, 3))

    check_laws(Subject(f"{loss.__name__} with a queue", call, pairs, output="kept", normalised=False))


def dense(queries, keys, weight, own):
    count = torch.ones(len(queries), len(keys), dtype=queries.dtype) * weight
    if own is not None:
        place = torch.arange(len(queries))
        count[place, own + place] = (weight[own : own + len(queries)] - 1).clamp(min=0)
    return (count * (queries @ keys.T).exp()).sum(1).log()


@pytest.mark.parametrize("own", [None, 0, 2, 3])
@pytest.mark.parametrize("block", [1, 3, 4, 100])
def test_blocks_give_what_the_whole_matrix_gives_and_its_gradients(block, own):
    generator = torch.Generator().manual_seed(0)
    queries, keys = (torch.randn(n, 3, dtype=torch.float64, generator=generator) for n in (5, 8))
    weight = torch.tensor([1.5, 0.0, 2.0, 1.2, 0.7, 3.0, 1.1, 1.9], dtype=torch.float64)
    slope = torch.linspace(-1, 2, 5, dtype=torch.float64)
    found = []
    for function in (partial(log_sum_exp, block=block), None):
        leaves = [x.clone().requires_grad_() for x in (queries, keys, weight)]
        if function is None:
            value = dense(leaves[0], leaves[1], leaves[2], own)
        else:
            value = function(leaves[0], leaves[1], weight=leaves[2], own=own)
        found.append([value, *torch.autograd.grad((value * slope).sum(), leaves)])
    for got, expected in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("learned", [(0,), (1,), (2,), (0, 2)])
def test_a_gradient_is_that_of_all_also_where_others_need_none(learned):
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(5, 3, generator=generator), torch.randn(8, 3, generator=generator), torch.rand(8)]

    def slopes(places):
        leaves = [x.clone().requires_grad_(place in places) for place, x in enumerate(given)]
        value = log_sum_exp(leaves[0], leaves[1], weight=leaves[2]).sum()
        return dict(zip(places, torch.autograd.grad(value, [leaves[place] for place in places]), strict=True))

    expected = slopes((0, 1, 2))
    for place, slope in slopes(learned).items():
        assert torch.equal(slope, expected[place])


def test_nothing_left_is_minus_infinity_with_gradient_zero_and_large_scores_do_not_overflow():
    queries, keys = torch.randn(2, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    weight = torch.zeros(4, requires_grad=True)
    value = log_sum_exp(queries, keys, weight=weight)
    assert (value == -torch.inf).all()
    gradients = torch.autograd.grad(torch.where(value.isfinite(), value, 0).sum(), (queries, keys, weight))
    assert not any(gradient.any() for gradient in gradients)
    assert (log_sum_exp(queries, keys[:0]) == -torch.inf).all()
    far = log_sum_exp(torch.full((1, 1), 1e4), torch.ones(3, 1))
    assert far.item() == pytest.approx(1e4 + torch.tensor(3.0).log().item(), abs=1e-3)
    # a removed key far above the others keeps a finite gradient of its weight
    weight = torch.tensor([1.0, 0.0], requires_grad=True)
    value = log_sum_exp(torch.ones(1, 1), torch.tensor([[0.0], [1000.0]]), weight=weight)
    (gradient,) = torch.autograd.grad(value.sum(), weight)
    assert gradient.isfinite().all()


def test_a_temperature_can_be_learned():
    first, second = views()
    temperature = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    for loss in LOSSES:
        gradcheck(lambda t, loss=loss: loss(first, second, temperature=t), (temperature,))


def test_closed_forms():
    eye = torch.eye(6, dtype=torch.float64)
    # each row meets itself in the other view and is orthogonal to 5 (one view) or 10 (both) others
    for loss, others in ((info_nce, 5), (symmetric_info_nce, 5), (nt_xent, 10)):
        e = torch.tensor(1 / 0.1, dtype=torch.float64).exp()
        expected = -(e / (e + others)).log()
        torch.testing.assert_close(loss(eye, eye, temperature=0.1), expected.expand(6), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(nt_xent(eye, eye, temperature=0.1)[0].item(), 4.5390e-4, rtol=1e-4, atol=0.0)
    # all rows alike: the logarithm of how many there are to choose from
    same = torch.ones(5, 2, dtype=torch.float64)
    assert info_nce(same, same).tolist() == pytest.approx([torch.tensor(5.0).log().item()] * 5)
    assert nt_xent(same, same).tolist() == pytest.approx([torch.tensor(9.0).log().item()] * 5)
    assert info_nce(same, same, negatives=same[:4]).tolist() == pytest.approx([torch.tensor(9.0).log().item()] * 5)
    for loss in LOSSES:
        assert not loss(same[:1], same[1:2]).any()  # one pair has no negative


def test_nt_xent_is_a_cross_entropy_over_the_masked_matrix_of_all_rows():
    first, second = views(9)
    rows = torch.cat([first, second])
    logits = (rows @ rows.T / 0.2).fill_diagonal_(-torch.inf)
    each = torch.nn.functional.cross_entropy(logits, torch.arange(18).roll(9), reduction="none")
    torch.testing.assert_close(nt_xent(first, second, temperature=0.2), (each[:9] + each[9:]) / 2)


def test_rows_at_an_offset_give_their_part_of_the_whole():
    first, second = views(8)
    weight = torch.linspace(0, 2.5, 8, dtype=torch.float64)
    for loss in (symmetric_info_nce, nt_xent):
        whole = loss(first, second, weight=weight)
        part = loss(first[3:6], second[3:6], everyone=(first, second), offset=3, weight=weight)
        torch.testing.assert_close(part, whole[3:6])
    whole = info_nce(first, second, weight=weight)
    torch.testing.assert_close(info_nce(first[3:6], second, offset=3, weight=weight), whole[3:6])


def test_the_second_direction_is_the_first_with_the_views_changed():
    first, second = views()
    torch.testing.assert_close(
        symmetric_info_nce(first, second), (info_nce(first, second) + info_nce(second, first)) / 2
    )
    assert not torch.allclose(info_nce(first, second), info_nce(second, first))


def test_half_precision_sums_in_single_precision_also_under_autocast():
    first, second = (x.float() for x in views(400, 16))
    exact = nt_xent(first, second, temperature=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(nt_xent(first, second, temperature=0.1), exact)
    low = nt_xent(first.bfloat16(), second.bfloat16(), temperature=0.1)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), exact, rtol=0.05, atol=0.1)


def test_unit_rows_and_a_row_of_zeros():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    unit(x).sum().backward()
    assert x.grad is not None
    assert x.grad[1].tolist() == [0, 0]
    tangent = torch.ones(2) - 1.4 * torch.tensor([0.6, 0.8])  # what of (1, 1) is not along the row
    torch.testing.assert_close(x.grad[0], tangent / 5)
    first = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    gradcheck(unit, (first,))


def test_a_unit_row_is_not_made_of_what_has_no_direction():
    x = torch.tensor([[3.0, 4.0], [torch.nan, 1.0], [torch.inf, 1.0], [1e30, 1e30]])
    found = unit(x)
    torch.testing.assert_close(found[0], torch.tensor([0.6, 0.8]))
    assert found[1:].isnan().all()  # and no zeros, which would make a loss of them
    removed = unit(x, weight=torch.tensor([1, 0, 0, 0]))
    assert removed.isfinite().all()
    assert info_nce(found, found)[0].isnan()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda a, b: info_nce(a, b, temperature=0.0), "temperature"),
        (lambda a, b: info_nce(a, b, temperature=float("nan")), "temperature"),
        (lambda a, b: nt_xent(a, b[:5]), r"\[5, 4\]"),
        (lambda a, b: nt_xent(a, b[:, :3]), r"\[7, 3\]"),
        (lambda a, b: info_nce(a, b, offset=1), "at 1"),
        (lambda a, b: info_nce(a, b, negatives=b[:, :2]), r"\[7, 2\]"),
        (lambda a, b: log_sum_exp(a, b, own=1), "keys 1 and following"),
        (lambda a, b: log_sum_exp(a, b, weight=torch.ones(6)), r"weight of shape \[6\]"),
        (lambda a, b: info_nce(a, b, weight=torch.ones(6)), r"weight of shape \[6, 1\]"),
        (lambda a, b: nt_xent(a, b, weight=torch.ones(6)), r"weight of shape \[6, 1\]"),
    ],
)
def test_what_cannot_be_served_is_said(call, said):
    with pytest.raises(RequestError, match=said):
        call(*views())

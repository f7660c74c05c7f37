"""Commentaries: what they begin as, their formulas, and what they refuse."""

import math

import pytest
import torch
from torch import nn

from weigher.core.hypergrad import Neumann, implicit_hypergradient
from weigher.errors import RequestError
from weigher.examples.commentaries import (
    Batch,
    CommentaryError,
    ExampleWeights,
    MaskNet,
    Masks,
    PairMixer,
    PairNet,
    WeightNet,
    each_loss,
    mixed_loss,
    weighted_mean_loss,
)

LOSS = nn.CrossEntropyLoss(reduction="none")


@pytest.fixture
def batch():
    return Batch(torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([5, 3, 1, 0, 2, 4]), time=0.25)


@pytest.fixture
def student():
    return nn.Linear(4, 3)


@pytest.mark.parametrize("normalised", [False, True])
def test_weights_begin_as_plain_training_bit_for_bit(batch, student, normalised):
    plain = LOSS(student(batch.x), batch.y).mean()
    for commentary in (
        ExampleWeights(6, normalised=normalised),
        WeightNet(nn.Linear(4, 8), embedding=8, classes=3, normalised=normalised),
    ):
        found = commentary(batch, student, LOSS)
        assert (found == plain) if not normalised else torch.isclose(found, plain)


def test_a_table_gives_each_example_its_own_weight(batch, student):
    commentary = ExampleWeights(6)
    commentary.logit.data = torch.randn(6)
    weights = commentary.weights(batch)
    torch.testing.assert_close(weights, commentary.table()[batch.ids])
    torch.testing.assert_close(commentary.table(), 2 / (1 + torch.exp(-commentary.logit.detach())))
    each = LOSS(student(batch.x), batch.y)
    torch.testing.assert_close(commentary(batch, student, LOSS), (weights * each).sum() / 6)


def test_normalised_weights_are_ratios_and_have_no_place_without_slope(batch, student):
    commentary = ExampleWeights(6, normalised=True)
    commentary.logit.data = torch.randn(6)
    weights, each = commentary.weights(batch), LOSS(student(batch.x), batch.y)
    torch.testing.assert_close(weights, 2 * torch.sigmoid(commentary.logit - commentary.logit.mean())[batch.ids])
    torch.testing.assert_close(commentary.table()[batch.ids], weights.detach())
    found = commentary(batch, student, LOSS)
    torch.testing.assert_close(found, (weights * each).sum() / weights.sum())
    (slope,) = torch.autograd.grad(found, commentary.logit)
    commentary.logit.data += 40.0
    moved = commentary(batch, student, LOSS)
    torch.testing.assert_close(moved, found)
    torch.testing.assert_close(torch.autograd.grad(moved, commentary.logit)[0], slope)
    assert slope.abs().max() > 1e-3


def test_the_order_of_examples_does_not_matter_and_time_and_label_do(batch):
    commentary = WeightNet(nn.Linear(4, 8), embedding=8, classes=3)
    nn.init.normal_(commentary.head[-1].weight)
    weights, order = commentary.weights(batch), torch.randperm(6)
    mixed = Batch(batch.x[order], batch.y[order], batch.ids[order], batch.time)
    torch.testing.assert_close(commentary.weights(mixed), weights[order])
    later = Batch(batch.x, batch.y, batch.ids, 0.75)
    relabelled = Batch(batch.x, (batch.y + 1) % 3, batch.ids, batch.time)
    assert not torch.isclose(commentary.weights(later), weights).any()
    assert not torch.isclose(commentary.weights(relabelled), weights).any()
    assert ((weights > 0) & (weights < 2)).all()


def test_integer_weights_repeat_and_zero_weights_remove():
    each = torch.tensor([1.0, 2.0, 5.0])
    found = weighted_mean_loss(each, torch.tensor([2.0, 0.0, 1.0]), normalised=True)
    torch.testing.assert_close(found, torch.tensor([1.0, 1.0, 5.0]).mean())
    scaled = weighted_mean_loss(each, torch.tensor([6.0, 0.0, 3.0]), normalised=True)
    torch.testing.assert_close(found, scaled)


def test_nothing_is_mixed_where_all_stays_or_the_partner_is_the_same(batch, student):
    plain = LOSS(student(batch.x), batch.y).mean()
    commentary = PairMixer(3)
    commentary.logit.data.fill_(-math.inf)
    assert commentary(batch, student, LOSS) == plain
    share = torch.rand(6)
    torch.testing.assert_close(mixed_loss(batch, torch.arange(6), share, student, LOSS), plain)


def test_mixing_is_the_formula_for_each_pair(batch, student):
    share, partner = torch.rand(6), torch.tensor([1, 2, 3, 4, 5, 0])
    expected = []
    for i, j in enumerate(partner.tolist()):
        out = student((share[i] * batch.x[i] + (1 - share[i]) * batch.x[j])[None])
        own, other = LOSS(out, batch.y[i : i + 1]), LOSS(out, batch.y[j : j + 1])
        expected.append(share[i] * own + (1 - share[i]) * other)
    torch.testing.assert_close(mixed_loss(batch, partner, share, student, LOSS), torch.cat(expected).mean())


def test_shares_lie_between_half_and_all_and_are_looked_up_by_own_and_other_class(batch):
    commentary, partner = PairMixer(3), torch.tensor([1, 2, 3, 4, 5, 0])
    commentary.logit.data = 100 * torch.randn(3, 3)
    shares = commentary.shares(batch, partner)
    torch.testing.assert_close(shares, commentary.table()[batch.y, batch.y[partner]])
    assert ((shares >= 0.5) & (shares <= 1)).all()
    net = PairNet(nn.Linear(4, 8), embedding=8)
    nn.init.normal_(net.head[-1].weight)
    shares = net.shares(batch, partner)
    assert ((shares > 0.5) & (shares < 1)).all()
    assert shares.unique().numel() == 6
    assert net.shares(batch, torch.arange(6))[0] != shares[0]


def test_partners_come_from_the_generator(student, batch):
    commentary = PairMixer(3)

    def drawn(seed):
        now = Batch(batch.x, batch.y, batch.ids, generator=torch.Generator().manual_seed(seed))
        return commentary(now, student, LOSS)

    assert drawn(0) == drawn(0) != drawn(1)


def test_masks_replace_pixels_in_training_and_when_measured():
    x, y = torch.randn(3, 2, 8, 12), torch.tensor([0, 1, 2])
    student = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    masks = Masks(MaskNet(2, keep=-30.0), background=0.5, area_cost=0.3)
    assert masks.masks(x).shape == (3, 1, 8, 12)
    torch.testing.assert_close(masks.masked(x, masks.masks(x)), torch.full_like(x, 0.5))
    dark = LOSS(student(torch.full_like(x, 0.5)), y).mean()
    batch = Batch(x, y, torch.arange(3))
    torch.testing.assert_close(masks(batch, student, LOSS), dark)
    torch.testing.assert_close(masks(Batch(x, y, torch.arange(3), held_out=True), student, LOSS), dark)
    whole = Masks(MaskNet(2, keep=30.0), area_cost=0.3)
    plain = LOSS(student(x), y).mean()
    torch.testing.assert_close(whole(batch, student, LOSS), plain)
    torch.testing.assert_close(whole(Batch(x, y, torch.arange(3), held_out=True), student, LOSS), plain + 0.3)


def test_held_out_examples_are_left_as_they_are_by_weights_and_mixing(batch, student):
    measured = Batch(batch.x, batch.y, batch.ids, held_out=True)
    plain = LOSS(student(batch.x), batch.y).mean()
    weights = ExampleWeights(6)
    weights.logit.data.normal_()
    for commentary in (weights, PairMixer(3)):
        assert commentary(measured, student, LOSS) == plain


def test_every_commentary_reaches_the_training_loss(batch, student):
    images = Batch(torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 0]), torch.arange(4))
    seer = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    for subject in (
        (ExampleWeights(6), student, batch),
        (WeightNet(nn.Linear(4, 8), embedding=8), student, batch),
        (PairMixer(3), student, batch),
        (PairNet(nn.Linear(4, 8), embedding=8), student, batch),
        (Masks(MaskNet(1)), seer, images),
    ):

        def loss(theta, phi, held_out, subject=subject):
            commentary, model, now = subject
            used = Batch(now.x, now.y, now.ids, now.time, held_out, torch.Generator().manual_seed(0))
            call = torch.func.functional_call
            return call(commentary, phi, (used, lambda x: call(model, theta, (x,)), LOSS))

        found = implicit_hypergradient(
            lambda t, f, loss=loss: loss(t, f, False),
            lambda t, f, loss=loss: loss(t, f, True),
            dict(subject[1].named_parameters()),
            dict(subject[0].named_parameters()),
            Neumann(0.1),
        )
        assert sum(g.abs().sum() for g in found.gradient.values()) > 0, subject[0]


def test_refusals(batch, student):
    with pytest.raises(RequestError, match=r'reduction="none"'):
        each_loss(student(batch.x), batch.y, nn.CrossEntropyLoss())
    with pytest.raises(RequestError, match=r"weights of shape \[2\]"):
        weighted_mean_loss(torch.zeros(3), torch.ones(2), normalised=False)
    with pytest.raises(CommentaryError, match="all weights of a batch are 0"):
        weighted_mean_loss(torch.zeros(3), torch.zeros(3), normalised=False)
    with pytest.raises(RequestError, match="multiples of 4"):
        MaskNet(1)(torch.zeros(1, 1, 10, 8))
    for wrong in (lambda: ExampleWeights(0), lambda: PairMixer(1), lambda: Masks(MaskNet(1), area_cost=-1.0)):
        with pytest.raises(RequestError):
            wrong()

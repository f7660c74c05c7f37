"""What every loss of pairs says of what cannot be compared: one check, and rows of weight 0 that may hold anything."""

import math

import pytest
import torch

from weigher.errors import RequestError
from weigher.pairs.align_uniform import AlignUniformConfig, AlignUniformLoss, alignment, uniformity
from weigher.pairs.checks import check_power, check_views
from weigher.pairs.diagnosis import diagnose
from weigher.pairs.info_nce import InfoNCELoss
from weigher.pairs.relic import ReLICConfig, ReLICLoss
from weigher.pairs.seqclr import SeqCLRConfig, SeqCLRLoss
from weigher.pairs.swav import SwAVConfig, SwAVLoss


def swav(temperature=0.1, dtype=torch.float64):
    config = SwAVConfig(prototypes=1, embedding=3, temperature=temperature)
    return SwAVLoss(config, generator=torch.Generator().manual_seed(0)).to(dtype)


def as_frames(temperature=0.1, dtype=torch.float64, head="none"):
    """SeqCLR of embeddings as sequences of one frame, and of weights `[n]` as those of sequences."""
    torch.manual_seed(0)
    config = SeqCLRConfig("frame", head=head, hidden=4, embedding=3, temperature=temperature)
    loss = SeqCLRLoss(config, features=3).to(dtype)

    def call(*views, weight=None):
        return loss(*(view[:, None] for view in views), weight=None if weight is None else weight[:, None])

    return call


LOSSES = {
    "align-uniform": lambda temperature=0.2, _=None: AlignUniformLoss(
        AlignUniformConfig(contrast_weight=1.0, temperature=temperature)
    ),
    "info-nce": lambda temperature=0.2, _=None: InfoNCELoss(temperature),
    "relic": lambda temperature=0.2, _=None: ReLICLoss(ReLICConfig(temperature=temperature)),
    "swav": swav,
    "seqclr": as_frames,
    "seqclr, mlp": lambda *given: as_frames(*given, head="mlp"),
    "seqclr, bilstm": lambda *given: as_frames(*given, head="bilstm"),
}
every_loss = pytest.mark.parametrize("made", LOSSES.values(), ids=LOSSES)


def views(n=5):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, 3, dtype=torch.float64, generator=generator) for _ in range(2)]


@every_loss
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 1])
def test_a_dead_encoder_is_told(made, place, wrong):
    given = views()
    given[place][3, 1] = wrong
    with pytest.raises(RequestError, match=rf"row 3 of view {place + 1} holds NaN or infinity \(1 of 5"):
        made()(*given)
    with pytest.raises(RequestError, match=r"view 1 holds NaN or infinity \(5 of 5"):
        made()(*(wrong * torch.ones(2, 5, 3, dtype=torch.float64)))


@every_loss
@pytest.mark.parametrize("anything", [math.nan, math.inf, 1e200, 1.0])
@pytest.mark.parametrize(
    ("temperature", "dtype"),
    [(0.2, torch.float64), (0.01, torch.float32), (0.007, torch.float32)],  # in these two exp overflows
)
def test_what_has_no_weight_may_hold_anything(made, anything, temperature, dtype):
    weight = torch.tensor([1.0, 0.0, 2.0, 1.0, 0.5], dtype=dtype)
    given = [view.to(dtype) - 1 for view in views()]  # far from a row of ones
    held = torch.tensor(anything, dtype=dtype)
    spoiled = [torch.where(weight[:, None] > 0, view, held).requires_grad_() for view in given]
    kept = [view[weight > 0].requires_grad_() for view in given]
    loss, other_loss = (made(temperature, dtype) for _ in range(2))
    found, expected = loss(*spoiled, weight=weight), other_loss(*kept, weight=weight[weight > 0])
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    slopes = torch.autograd.grad(found["loss"], spoiled)
    for slope, other in zip(slopes, torch.autograd.grad(expected["loss"], kept), strict=True):
        torch.testing.assert_close(slope[weight > 0], other)
        assert not slope[1].any()


@every_loss
@pytest.mark.parametrize(
    ("given", "weight", "said"),
    [
        (torch.ones(2, 0, 3), None, "this batch has 0"),
        (torch.eye(3).long().expand(2, 3, 3), None, "view 1 holds torch.int64"),
        (torch.eye(3).expand(2, 3, 3), torch.ones(2), r"weight of shape \[2"),
        (torch.eye(3).expand(2, 3, 3), torch.tensor([1.0, -0.5, 1.0]), r"weight -0.5 at \[1"),
        (torch.eye(3).expand(2, 3, 3), torch.tensor([1.0, 1.0, math.nan]), r"weight nan at \[2"),
        (torch.eye(3).expand(2, 3, 3), torch.zeros(3), "this batch has 0"),
        (torch.stack([torch.eye(3), torch.zeros(3, 3)]), None, "all 3 rows of view 2 are zeros"),
    ],
)
def test_what_cannot_be_compared_is_told(made, given, weight, said):
    given = given.double() if given.is_floating_point() else given
    with pytest.raises(RequestError, match=said):
        made()(*given, weight=weight)


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "swav"])
def test_one_thing_has_nothing_to_be_compared_with(name):
    one = torch.ones(1, 3, dtype=torch.float64)
    with pytest.raises(RequestError, match="this batch has 1; give at least 2"):
        LOSSES[name]()(one, one)
    with pytest.raises(RequestError, match="this batch has 1;"):
        LOSSES[name]()(*views(3), weight=torch.tensor([0.0, 1.0, 0.0]))


@pytest.mark.parametrize("loss", [AlignUniformLoss(), InfoNCELoss(), ReLICLoss()])
def test_targets_are_held_to_the_same(loss):
    given = views()
    for targets, said in (
        ([given[0]], "2 views and 1 targets"),
        ([given[0], given[1][:4]], r"target 2 has the shape \[4, 3\]"),
        ([given[0], given[1] * math.nan], "row 0 of target 2 holds NaN"),
    ):
        with pytest.raises(RequestError, match=said):
            loss(*given, targets=targets)


def test_weights_of_metrics_are_held_to_the_same():
    for call in (
        uniformity,
        lambda x, weight: alignment(x, x, weight=weight),
        lambda x, weight: diagnose(x, weight=weight),
    ):
        with pytest.raises(RequestError, match=r"weight of shape \[2\]"):
            call(torch.eye(3), weight=torch.ones(2))
        with pytest.raises(RequestError, match=r"weight -1 at \[0\]"):
            call(torch.eye(3), weight=torch.tensor([-1.0, 1.0, 1.0]))


def test_a_view_alone_and_views_of_other_axes_are_told():
    with pytest.raises(RequestError, match="1 views"):
        check_views([torch.eye(3)])
    with pytest.raises(RequestError, match=r"view 1 has the shape \[3\]"):
        check_views([torch.ones(3), torch.ones(3)])


def test_a_power_below_one_is_warned_of_where_it_is_set():
    with pytest.warns(UserWarning, match="alpha = 0.5") as told:
        AlignUniformConfig(alpha=0.5)
    assert told[0].filename == __file__
    with pytest.warns(UserWarning, match="alpha = 0.5") as told:
        alignment(torch.eye(2), torch.eye(2), 0.5)
    assert told[0].filename == __file__
    check_power(1.0, stacklevel=1)
    with pytest.raises(RequestError, match=r"alpha = 0\.0"):
        AlignUniformConfig(alpha=0.0)


@pytest.mark.parametrize("name", ["align-uniform", "info-nce", "relic", "seqclr"])
def test_a_row_of_zeros_gets_no_gradient_and_spoils_no_other(name):
    given = views()
    given[0][2] = 0
    given = [view.requires_grad_() for view in given]
    slopes = torch.autograd.grad(LOSSES[name]()(*given)["loss"], given)
    assert all(slope.isfinite().all() for slope in slopes)
    assert slopes[0][2].abs().max() == 0
    assert (slopes[0].abs().amax(1) > 0).tolist() == [True, True, False, True, True]


@pytest.mark.parametrize("name", ["align-uniform", "info-nce", "relic", "seqclr"])
def test_losses_keep_their_digits_under_autocast(name):
    given = [view.float() for view in views(40)]
    made = LOSSES[name](0.2, torch.float32)
    plain = made(*given)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        found = made(*given)["loss"]
    torch.testing.assert_close(found, plain, rtol=1e-6, atol=1e-6)

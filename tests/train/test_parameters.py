"""Which parameters decay, and their mean, against what torch's own averaging keeps."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from weigher.train.parameters import add_to_mean, clip_gradients, parameter_groups, parameters_replaced, put_parameters


class Every(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 3)
        self.attention = nn.MultiheadAttention(4, 2)
        self.convolution = nn.Conv1d(2, 3, 5)
        self.embedding = nn.Embedding(7, 2)
        self.image_norm = nn.LayerNorm((3, 4))
        self.batch_norm = nn.BatchNorm2d(3)
        self.group_norm = nn.GroupNorm(1, 3)
        self.rms = nn.RMSNorm((2, 2))
        self.scale = nn.Parameter(torch.ones(()))
        self.relative = nn.ParameterDict({"bias": nn.Parameter(torch.zeros(2, 3))})


def test_biases_norms_and_vectors_do_not_decay():
    model = Every()
    names = {parameter: name for name, parameter in model.named_parameters()}
    decay, free = parameter_groups(model, 0.1)
    assert (decay["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert {names[p] for p in decay["params"]} == {
        *("linear.weight", "attention.in_proj_weight", "attention.out_proj.weight", "convolution.weight"),
        "embedding.weight",
    }
    assert len(decay["params"]) + len(free["params"]) == len(names)


def with_gradients(scale, dtype=torch.float32):
    model = nn.Linear(3, 2).to(dtype)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = scale * torch.randn(parameter.shape, generator=generator).to(dtype)
    return model


@pytest.mark.parametrize("most", [None, 0.5, 100.0])
def test_clipping_is_torch_s_to_the_last_bit(most):
    ours, theirs = with_gradients(3.0), with_gradients(3.0)
    assert clip_gradients(ours, most) == nn.utils.clip_grad_norm_(theirs.parameters(), most or torch.inf)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


@pytest.mark.parametrize("scale", [1e20, 1e30, 1e38])
def test_a_gradient_whose_squares_overflow_keeps_its_direction(scale):
    ours, exact = with_gradients(scale), with_gradients(scale, torch.float64)
    norm = clip_gradients(ours, 1.0)
    torch.testing.assert_close(norm.double(), nn.utils.clip_grad_norm_(exact.parameters(), 1.0), rtol=1e-6, atol=0)
    for one, other in zip(ours.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(one.grad.double(), other.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("wrong", [torch.inf, torch.nan])
def test_a_gradient_that_is_not_finite_is_told_by_its_length(wrong):
    model = with_gradients(1.0)
    model.bias.grad[0] = wrong
    assert not clip_gradients(model, 1.0).isfinite()


def test_the_mean_is_that_of_torch_s_averaged_model():
    model, mean = nn.Linear(3, 2).double(), {}
    theirs = AveragedModel(model)
    for count in range(1, 6):
        put_parameters(model, {name: torch.randn_like(value) for name, value in model.named_parameters()})
        add_to_mean(mean, model, count)
        theirs.update_parameters(model)
    for name, value in theirs.module.named_parameters():
        torch.testing.assert_close(mean[name], value.detach(), rtol=1e-12, atol=0)
    assert not any(value.requires_grad for value in mean.values())
    before = mean["bias"].clone()
    model.bias.data.zero_()
    assert mean["bias"].equal(before)  # a copy, not the parameter itself


def test_parameters_come_back_after_the_block_whatever_happens_in_it():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    own = {name: value.clone() for name, value in model.state_dict().items()}
    there = dict(model.named_parameters())

    def broken():
        with parameters_replaced(model, {"0.bias": torch.tensor([7.0, 8.0])}):
            assert model[0].bias.tolist() == [7.0, 8.0]
            assert model[0].weight.equal(own["0.weight"])  # not named
            raise KeyError

    with pytest.raises(KeyError):
        broken()
    assert all(value.equal(own[name]) for name, value in model.state_dict().items())
    assert all(parameter is there[name] for name, parameter in model.named_parameters())  # an optimizer holds these

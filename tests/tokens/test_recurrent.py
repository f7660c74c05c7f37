"""The two cells: their equations written once more in plain numpy, torch's own cells, and what keeps a gradient."""

import numpy as np
import pytest
import torch
from torch import nn

from weigher.errors import RequestError
from weigher.tokens.recurrent import GRU, Elman, elman, gru, gru_from_torch, gru_to_torch


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def gru_by_the_book(x, matrices, biases):
    """The card's equations on joined vectors [h, x], one row and one step at a time."""
    (W_z, W_r, W), (b_z, b_r, b), states = matrices, biases, []
    for row in x:
        h, of_row = np.zeros(len(b)), []
        for token in row:
            z = sigmoid(W_z @ np.concatenate([h, token]) + b_z)
            r = sigmoid(W_r @ np.concatenate([h, token]) + b_r)
            c = np.tanh(W @ np.concatenate([r * h, token]) + b)
            h = (1 - z) * h + z * c
            of_row.append(h)
        states.append(of_row)
    return np.array(states)


def shaken(module):
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.7)
    return module.double()


def test_gru_is_its_equations():
    ours, x = shaken(GRU(3, 4)), torch.randn(2, 9, 3, dtype=torch.float64)
    with torch.no_grad():
        joined = torch.cat([ours.state_weight, ours.input_weight], 1).numpy()
        expected = gru_by_the_book(x.numpy(), np.split(joined, 3), np.split(ours.bias.numpy(), 3))
        assert np.abs(ours(x).numpy() - expected).max() < 1e-12


def test_reset_after_is_torch_both_ways():
    theirs, x = shaken(nn.GRU(3, 4, batch_first=True)), torch.randn(2, 9, 3, dtype=torch.float64)
    ours = gru_from_torch(theirs)
    assert torch.allclose(ours(x), theirs(x)[0], rtol=0, atol=1e-12)
    assert torch.allclose(gru_to_torch(ours)(x)[0], theirs(x)[0], rtol=0, atol=1e-12)
    for name, parameter in gru_from_torch(gru_to_torch(ours)).named_parameters():
        assert torch.equal(parameter, dict(ours.named_parameters())[name])
    h = torch.randn(2, 4, dtype=torch.float64)
    assert torch.allclose(ours(x, h), theirs(x, h[None])[0], rtol=0, atol=1e-12)


def test_the_two_conventions_agree_where_the_candidate_sees_each_unit_alone():
    """W (r * h) = r * (W h) for a diagonal W: there the exercise's unit is torch's, z apart."""
    ours, x = shaken(GRU(3, 4)), torch.randn(2, 9, 3, dtype=torch.float64)
    after = shaken(GRU(3, 4, reset="after"))
    with torch.no_grad():
        ours.state_weight[8:] *= torch.eye(4)
        for name in ("input_weight", "state_weight", "bias"):
            getattr(after, name).copy_(getattr(ours, name))
        after.after_bias.zero_()
    assert torch.allclose(ours(x), gru_to_torch(after)(x)[0], rtol=0, atol=1e-12)
    with torch.no_grad():
        for cell in (ours, after):
            cell.state_weight[8, 1] = 1.0
    assert not torch.allclose(ours(x), gru_to_torch(after)(x)[0], atol=1e-3)


def test_elman_is_torch():
    ours, x = shaken(Elman(3, 4)), torch.randn(2, 9, 3, dtype=torch.float64)
    theirs = nn.RNN(3, 4, nonlinearity="relu", batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(ours.input_weight)
        theirs.weight_hh_l0.copy_(ours.state_weight)
        theirs.bias_ih_l0.copy_(ours.bias)
        theirs.bias_hh_l0.zero_()
    assert torch.allclose(ours(x), theirs(x)[0], rtol=1e-12)
    h = torch.rand(2, 4, dtype=torch.float64)
    assert torch.allclose(ours(x, h), theirs(x, h[None])[0], rtol=1e-12)


@pytest.mark.parametrize("cell", [Elman(3, 4), GRU(3, 4), GRU(3, 4, reset="after")])
def test_a_state_carries_on_where_the_last_piece_ended(cell):
    cell, x = shaken(cell), torch.randn(2, 9, 3, dtype=torch.float64)
    first = cell(x[:, :4])
    assert torch.allclose(torch.cat([first, cell(x[:, 4:], first[:, -1])], 1), cell(x))


def test_gradients_are_exact():
    x = torch.randn(2, 5, 2, dtype=torch.float64, requires_grad=True)
    for cell, function in ((Elman(2, 3), elman), (GRU(2, 3), gru)):
        weights = tuple(shaken(cell).parameters())
        torch.autograd.gradcheck(function, (x, *weights))
    *weights, after_bias = shaken(GRU(2, 3, reset="after")).parameters()
    torch.autograd.gradcheck(lambda *all_: gru(*all_[:-1], after_bias=all_[-1]), (x, *weights, after_bias))


def test_what_does_not_map_is_refused():
    for theirs in (nn.GRU(3, 4, num_layers=2), nn.GRU(3, 4, bidirectional=True), nn.GRU(3, 4, bias=False)):
        with pytest.raises(RequestError, match="only one layer"):
            gru_from_torch(theirs)
    with pytest.raises(RequestError, match="reset='after'"):
        gru_to_torch(GRU(3, 4))


def test_a_fresh_elman_state_adds_up_what_it_reads():
    cell = Elman(3, 4)
    x = torch.rand(1, 200, 3)
    with torch.no_grad():
        cell.input_weight.abs_()
        expected = (x @ cell.input_weight.T).cumsum(1)
        assert torch.allclose(cell(x), expected, rtol=1e-4)


def test_skip_connections_keep_a_gradient_that_a_chain_loses():
    """Chain rule: d f(g(h(x))) is f' g' h'; with skips each layer adds 1: (1 + f') (1 + g') (1 + h') for f(x) + x."""
    layers = [nn.Linear(1, 1, dtype=torch.float64) for _ in range(30)]
    for layer in layers:
        nn.init.constant_(layer.weight, 0.5)
        nn.init.zeros_(layer.bias)
    x = torch.ones(1, dtype=torch.float64, requires_grad=True)
    chain, skip = x, x
    for layer in layers:
        chain, skip = layer(chain), skip + layer(skip)
    (lost,) = torch.autograd.grad(chain.sum(), x)
    (kept,) = torch.autograd.grad(skip.sum(), x)
    assert lost.item() == pytest.approx(0.5**30)
    assert kept.item() == pytest.approx(1.5**30)
    # as the exercise writes it, f(x + g(x + h(x))): f' (1 + g' (1 + h'))
    f, g, h = layers[:3]
    (nested,) = torch.autograd.grad(f(x + g(x + h(x))).sum(), x)
    assert nested.item() == pytest.approx(0.5 * (1 + 0.5 * (1 + 0.5)))


def test_a_gate_that_stays_shut_carries_the_gradient_over_a_hundred_words():
    """dh_t / dh_0 is the product of (1 - z) for a gate that hardly opens; a ReLU state of half weight loses it."""
    h = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
    x = torch.zeros(1, 100, 1, dtype=torch.float64)
    zeros = torch.zeros(3, 1, dtype=torch.float64)
    bias = torch.tensor([-5.0, 0.0, 0.0], dtype=torch.float64)
    (kept,) = torch.autograd.grad(gru(x, zeros, zeros, bias, state=h)[0, -1].sum(), h)
    assert kept.item() == pytest.approx((1 - 1 / (1 + np.exp(5.0))) ** 100)
    half = torch.full((1, 1), 0.5, dtype=torch.float64)
    (lost,) = torch.autograd.grad(elman(x, zeros[:1], half, bias[1:2], state=h)[0, -1].sum(), h)
    assert lost.item() == pytest.approx(0.5**100)

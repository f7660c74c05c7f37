"""Windowed attention: equal to full attention behind a band mask, under the laws, and never near t^2 memory."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from contract import Subject, check_laws
from weigher.errors import RequestError
from weigher.tokens.local_attention import (
    LocalAttention,
    attention_in_blocks,
    by_fused,
    by_products,
    first_bias,
    window_radius,
    windowed_attention,
)


def full_attention(q, k, v, window, bias=None):
    """The definition, with all t x t scores, through PyTorch's own attention."""
    distance = torch.arange(q.shape[2]) - torch.arange(q.shape[2])[:, None]
    seen = distance.abs() <= window // 2
    added = torch.zeros(1, *seen.shape, dtype=q.dtype)
    if bias is not None:
        added = bias[:, (distance + window // 2).clamp(0, window - 1)]
    added = added.masked_fill(~seen, -torch.inf)[None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=added)


def drawn(batch, heads, t, d, dtype=torch.float64):
    return (torch.randn(batch, heads, t, d, dtype=dtype) for _ in range(3))


@pytest.mark.parametrize("t", [1, 2, 5, 15, 16, 17, 33, 80])
@pytest.mark.parametrize("window", [1, 3, 5, 17, 41])
def test_equals_masked_full_attention(t, window):
    q, k, v = drawn(2, 3, t, 4)
    bias = torch.randn(3, window, dtype=torch.float64)
    for needs_gradient in (False, True):  # by fused attention, by products
        q.requires_grad_(needs_gradient)
        assert torch.allclose(windowed_attention(q, k, v, window, bias=bias), full_attention(q, k, v, window, bias))
        assert torch.allclose(windowed_attention(q, k, v, window), full_attention(q, k, v, window))


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.05)])
@pytest.mark.parametrize("window", [1, 5, 17, 41])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_the_two_ways_are_one(dtype, bound, window, masked, biased):
    q, k, v = drawn(3, 2, 70, 8, dtype)
    bias = torch.randn(2, window).to(dtype) if biased else None
    mask = torch.rand(3, 70) < 0.6 if masked else None
    ways = [attention_in_blocks(q, k, v, window, way, bias=bias, mask=mask) for way in (by_products, by_fused)]
    assert ways[0].dtype == ways[1].dtype == dtype
    assert (ways[0] - ways[1]).abs().max() < bound
    if masked:
        assert not ways[1].transpose(1, 2)[~mask].any()


def test_fused_attention_is_for_when_no_gradient_is_needed(monkeypatch):
    called = []
    true = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *x, **more: (called.append(1), true(*x, **more))[1])
    layer, x = LocalAttention(6, window=5, heads=2), torch.randn(1, 20, 6)
    layer(x).sum().backward()
    assert not called
    assert layer.bias.grad.any()
    with torch.no_grad():
        layer(x)
    assert len(called) == 1
    q, k, v = drawn(1, 2, 20, 4)
    windowed_attention(q, k, v, 5)
    assert len(called) == 2
    windowed_attention(q, k, v, 5, bias=torch.zeros(2, 5, dtype=torch.float64, requires_grad=True)).sum().backward()
    assert len(called) == 2


def test_masked_tokens_are_looked_at_by_nobody():
    q, k, v = drawn(3, 2, 40, 4)
    mask = torch.rand(3, 40) < 0.6
    bias = torch.randn(2, 5, dtype=torch.float64)
    got = windowed_attention(q, k, v, 5, bias=bias, mask=mask)
    garbage = (torch.where(mask[:, None, :, None], x, torch.nan) for x in (q, k, v))
    assert torch.equal(windowed_attention(*garbage, 5, bias=bias, mask=mask), got)
    for row in range(3):
        for i in range(40):
            if not mask[row, i]:
                assert not got[row, :, i].any()
                continue
            near = [j for j in range(max(0, i - 2), min(40, i + 3)) if mask[row, j]]
            scores = (k[row][:, near] @ q[row, :, i, :, None])[..., 0] / 2 + bias[:, [j - i + 2 for j in near]]
            expected = (scores.softmax(-1)[..., None] * v[row][:, near]).sum(1)
            assert torch.allclose(got[row, :, i], expected)


def test_far_tokens_have_no_say_and_receive_no_gradient():
    q, k, v = (x.requires_grad_() for x in drawn(1, 1, 50, 4))
    windowed_attention(q, k, v, 5)[0, 0, 20].sum().backward()
    assert v.grad[0, 0].any(-1).nonzero().flatten().tolist() == [18, 19, 20, 21, 22]
    assert k.grad[0, 0].any(-1).nonzero().flatten().tolist() == [18, 19, 20, 21, 22]
    assert q.grad[0, 0].any(-1).nonzero().flatten().tolist() == [20]


def test_gradients_are_exact():
    bias = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    inputs = [x.requires_grad_() for x in drawn(1, 2, 19, 2)]
    mask = torch.ones(1, 19, dtype=torch.bool)
    mask[0, 17:] = False
    mask[0, 5] = False
    torch.autograd.gradcheck(lambda q, k, v, a: windowed_attention(q, k, v, 5, bias=a, mask=mask), (*inputs, bias))


class _Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation gives, forward and backward."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, tuple | list) else (found,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return found


@pytest.mark.parametrize("window", [5, 33])
@pytest.mark.parametrize("train", [True, False])
def test_no_tensor_grows_faster_than_t(window, train):
    largest = []
    for t in (512, 2048):
        q, k, v = (x.requires_grad_(train) for x in drawn(1, 2, t, 4, torch.float32))
        bias = torch.zeros(2, window, requires_grad=train)
        with _Largest() as seen:
            found = windowed_attention(q, k, v, window, bias=bias)
            if train:
                found.sum().backward()
        largest.append(seen.elements)
    assert largest[1] <= 4 * largest[0]
    assert largest[1] <= 2 * 2048 * 2 * max(16, window - 1)  # heads * t * (block + halo), far from t^2


def test_a_window_needs_a_middle():
    assert window_radius(1) == 0
    for window in (0, 4, -3):
        with pytest.raises(RequestError, match="odd number"):
            windowed_attention(*drawn(1, 1, 3, 2), window)
    with pytest.raises(RequestError, match="3 heads do not divide 8"):
        LocalAttention(8, 5, heads=3)


def tiny():
    torch.manual_seed(1)
    layer = LocalAttention(6, window=5, heads=2).double()
    nn.init.normal_(layer.bias)
    return layer


def test_laws(tmp_path):
    layer = tiny()

    def call_of(model):
        by_dtype = {torch.float64: model, torch.bfloat16: copy.deepcopy(model).bfloat16()}

        def call(x, weight=None):
            mask = torch.ones(x.shape[:2], dtype=torch.bool) if weight is None else weight
            clean = torch.where(mask[..., None], x, 0)
            return torch.where(mask[..., None], by_dtype[x.dtype](clean, mask), 0)

        return call

    def reload():
        torch.save(layer.state_dict(), tmp_path / "layer.pt")
        fresh = LocalAttention(6, window=5, heads=2).double()
        fresh.load_state_dict(torch.load(tmp_path / "layer.pt", weights_only=True))
        return call_of(fresh)

    check_laws(
        Subject(
            name="local attention",
            call=call_of(layer),
            inputs=lambda b, t, g: (torch.randn(b, t, 6, dtype=torch.float64, generator=g),),
            output="kept",
            weights="mask",
            ordered=True,
            reload=reload,
        )
    )


def test_the_layer_equals_torch_multihead_attention_behind_a_band():
    layer, x = tiny(), torch.randn(2, 30, 6, dtype=torch.float64)
    nn.init.zeros_(layer.bias)
    theirs = nn.MultiheadAttention(6, 2, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(layer.project.weight)
        theirs.in_proj_bias.copy_(layer.project.bias)
        theirs.out_proj.weight.copy_(layer.out.weight)
        theirs.out_proj.bias.copy_(layer.out.bias)
    hidden = (torch.arange(30) - torch.arange(30)[:, None]).abs() > 2
    expected = x + theirs(x, x, x, attn_mask=hidden, need_weights=False)[0]
    assert torch.allclose(layer(x), expected)


def test_heads_begin_with_places_of_their_own_from_the_middle_outwards():
    shares = first_bias(7, 5).softmax(-1)
    assert shares.argmax(1)[:5].tolist() == [2, 1, 3, 0, 4]
    assert shares[:5].amax(1).min() > 0.8
    assert torch.allclose(shares[5:], torch.tensor(0.2))
    assert first_bias(3, 17).argmax(1).tolist() == [8, 7, 9]


def test_the_learned_bias_tells_before_from_after():
    """Without it, turning the text around turns the answer around; with it, the order of words matters."""
    layer, x = tiny(), torch.randn(1, 9, 6, dtype=torch.float64)
    assert not torch.allclose(layer(x.flip(1)).flip(1), layer(x))
    nn.init.zeros_(layer.bias)
    assert torch.allclose(layer(x.flip(1)).flip(1), layer(x))

import copy
import math

import pytest
import torch

from contract import Subject, check_laws
from weigher.errors import RequestError
from weigher.recordings.blocks import (
    BlocksConfig,
    EncoderBlocks,
    GatedAttention,
    RelativePositionBias,
    relative_buckets,
)


def tiny(seed=0, dropout=0.0, biased=True):
    """Small blocks in float64 whose position bias and gates matter, unlike those of fresh ones."""
    torch.manual_seed(seed)
    blocks = EncoderBlocks(4, 2, 2, 6, buckets=8, max_distance=5, dropout=dropout).double()
    if biased:
        torch.nn.init.normal_(blocks.position_bias.embedding.weight)
        for block in blocks.blocks:
            torch.nn.init.normal_(block.attention.reset_scale)
    return blocks


def reloaded(blocks, path):
    torch.save(blocks.state_dict(), path)
    fresh = tiny(seed=99)
    fresh.load_state_dict(torch.load(path, weights_only=True))
    return fresh


def test_laws(tmp_path):
    blocks = tiny()

    def call_of(model):
        by_dtype = {torch.float64: model, torch.bfloat16: copy.deepcopy(model).bfloat16()}
        return lambda x, weight=None: by_dtype[x.dtype](x, weight)

    kept = check_laws(
        Subject(
            name="encoder blocks",
            call=call_of(blocks),
            inputs=lambda b, t, g: (torch.randn(b, t, 4, dtype=torch.float64, generator=g),),
            output="kept",
            weights="mask",
            ordered=True,
            reload=lambda: call_of(reloaded(blocks, tmp_path / "blocks.pt")),
        )
    )
    assert {"padding is invisible", "empty row = zeros or error", "gradcheck", "save, load, equal"} <= set(kept)


def test_gradient_of_every_parameter_is_that_of_finite_differences():
    blocks = tiny()
    x = torch.randn(2, 4, 4, dtype=torch.float64)
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    names, values = zip(*blocks.named_parameters(), strict=True)

    def run(*parameters):
        return torch.func.functional_call(blocks, dict(zip(names, parameters, strict=True)), (x, mask))

    assert torch.autograd.gradcheck(run, values)
    gradients = torch.autograd.grad(run(*values).square().sum(), values)
    assert all(gradient.any() for gradient in gradients), "a parameter is not used"


def attention_by_loops(attention, x, bias, visible):
    b, t, d = x.shape
    h = attention.heads
    q, k, v = (attention.projection(x)[..., i * d : (i + 1) * d].reshape(b, t, h, d // h) for i in range(3))
    out = torch.zeros(b, t, d, dtype=x.dtype)
    for file in range(b):
        for head in range(h):
            part = slice(head * d // h, (head + 1) * d // h)
            for i in range(t):
                u, r = torch.sigmoid(attention.gate(x[file, i, part])).tolist()
                gate = 1 + (1 - u) + u * r * attention.reset_scale[head].item()
                seen = [j for j in range(t) if visible[file, j]]
                logits = [
                    (q[file, i, head] @ k[file, j, head] / math.sqrt(d // h) + gate * bias[head, i, j]).item()
                    for j in seen
                ]
                total = sum(math.exp(logit) for logit in logits)
                for j, logit in zip(seen, logits, strict=True):
                    out[file, i, part] += math.exp(logit) / total * v[file, j, head]
    return attention.output(out)


def test_attention_follows_its_formula():
    torch.manual_seed(1)
    attention = GatedAttention(6, 2).double()
    torch.nn.init.normal_(attention.reset_scale)
    x, bias = torch.randn(2, 5, 6, dtype=torch.float64), torch.randn(2, 5, 5, dtype=torch.float64)
    visible = torch.tensor([[True] * 5, [True, False, True, False, False]])
    with torch.no_grad():
        torch.testing.assert_close(
            attention(x, bias, visible), attention_by_loops(attention, x, bias, visible), rtol=0, atol=1e-12
        )


def test_buckets_are_exact_near_and_logarithmic_far():
    # 16 buckets, 8 a side: 0-3 exact, then 4 + floor(4 log(d / 4) / log(5)): edges at 4 * 5^(k/4) = 5.98, 8.94, 13.4
    expected = [0, 1, 2, 3, 4, 4, 5, 5, 5, 6, 6, 6, 6, 6, 7, 7]
    distances = torch.arange(16)
    assert relative_buckets(-distances, 16, 20).tolist() == expected
    assert relative_buckets(distances, 16, 20).tolist() == [0] + [8 + bucket for bucket in expected[1:]]
    assert relative_buckets(torch.tensor([-(10**6), 10**6]), 16, 20).tolist() == [7, 15]


@pytest.mark.parametrize("length", [1, 2, 7, 40])
def test_bias_is_the_table_at_every_offset(length):
    bias = RelativePositionBias(3, 16, 20)
    torch.nn.init.normal_(bias.embedding.weight)
    table, got = bias.embedding.weight, bias(length)
    for i in range(length):
        for j in range(length):
            bucket = relative_buckets(torch.tensor(j - i), 16, 20)
            assert torch.equal(got[:, i, j], table[bucket])


def test_only_the_bias_sees_order():
    x, order = torch.randn(2, 6, 4, dtype=torch.float64), torch.tensor([3, 1, 5, 0, 2, 4])
    with_bias, without = tiny(), tiny(biased=False)
    torch.nn.init.zeros_(without.position_bias.embedding.weight)
    torch.testing.assert_close(without(x[:, order]), without(x)[:, order], rtol=0, atol=1e-12)
    assert (with_bias(x[:, order]) - with_bias(x)[:, order]).abs().max() > 1e-3


def test_padded_batch_equals_single_files_in_single_precision():
    torch.manual_seed(0)
    blocks = EncoderBlocks(32, 4, 3, 64)
    lengths = [57, 1, 23, 0]
    mask = torch.arange(60) < torch.tensor(lengths)[:, None]
    x = torch.randn(4, 60, 32).masked_fill(~mask[..., None], math.nan)
    got = blocks(x, mask)
    for row, length in enumerate(lengths):
        if length:
            torch.testing.assert_close(got[row, :length], blocks(x[row : row + 1, :length])[0], rtol=0, atol=1e-5)
        assert not got[row, length:].any()
    got.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in blocks.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_finite_under_autocast_with_a_file_without_frames(dtype):
    blocks = EncoderBlocks(16, 2, 2, 32)
    mask = torch.tensor([[True] * 9, [False] * 9])
    with torch.autocast("cpu", dtype):
        got = blocks(torch.randn(2, 9, 16), mask)
    got.float().sum().backward()
    assert got.isfinite().all()
    assert not got[1].any()
    assert all(parameter.grad.isfinite().all() for parameter in blocks.parameters())


def test_no_kernel_is_asked_for_a_softmax_over_nothing(monkeypatch):
    """Some kernels and versions of torch answer 0, others NaN, as this one from the textbook does."""

    def textbook(q, k, v, attn_mask, dropout_p):
        return ((q @ k.transpose(-1, -2)) / math.sqrt(q.shape[-1]) + attn_mask).softmax(-1) @ v

    blocks, x = tiny(), torch.randn(2, 5, 4, dtype=torch.float64)
    mask = torch.tensor([[True] * 3 + [False] * 2, [False] * 5])
    expected = blocks(x, mask)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", textbook)
    got = blocks(x, mask)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    got.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in blocks.parameters())


def test_no_frames_at_all():
    assert tiny()(torch.zeros(2, 0, 4, dtype=torch.float64), torch.zeros(2, 0, dtype=torch.bool)).shape == (2, 0, 4)


def test_dropout_acts_in_training_only():
    blocks, x = tiny(dropout=0.5), torch.randn(1, 6, 4, dtype=torch.float64)
    assert not torch.equal(blocks(x), blocks(x))
    assert torch.equal(blocks.eval()(x), blocks(x))
    plain = tiny().eval()
    plain.load_state_dict(blocks.state_dict())
    assert torch.equal(plain(x), blocks(x))


def test_inference_leaves_nothing_behind_that_training_trips_over():
    blocks, x = tiny(), torch.randn(1, 6, 4, dtype=torch.float64)
    with torch.inference_mode():
        expected = blocks(x).clone()
    got = blocks(x)
    got.sum().backward()
    torch.testing.assert_close(got.detach(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"dim": 10, "heads": 4}, "dim is 10, heads is 4"),
        ({"layers": 0}, "layers is 0"),
        ({"heads": 0}, "heads is 0"),
        ({"buckets": 6}, "buckets is 6"),
        ({"buckets": 320, "max_distance": 80}, "max_distance is 80"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_sizes_that_do_not_fit_are_named(wrong, named):
    with pytest.raises(RequestError, match=named):
        BlocksConfig(**wrong)
    with pytest.raises(RequestError, match=named):
        EncoderBlocks(**wrong)

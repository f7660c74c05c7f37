import copy
import math

import pytest
import torch

from contract import Subject, check_laws
from weigher.errors import RequestError
from weigher.recordings.encoder import EncoderConfig, FrameEncoder

FEATURES = 5
CONV = [EncoderConfig(channels=6, embedding=4, stride=stride) for stride in (1, 2, 4)]
EVERY = [*CONV, EncoderConfig(kind="linear", embedding=4)]
NAMES = [f"{config.kind} {config.stride}" for config in EVERY]


def tiny(config, seed=0, dtype=torch.float64):
    """A small encoder whose normalisations have something to do, unlike those of a fresh one."""
    torch.manual_seed(seed)
    encoder = FrameEncoder(FEATURES, config).to(dtype).eval()
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            torch.nn.init.normal_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            torch.nn.init.normal_(module.bias)
        if isinstance(module, torch.nn.LayerNorm):
            torch.nn.init.normal_(module.bias)
    return encoder


def whole(b, t):
    return torch.ones(b, t, dtype=torch.bool)


@pytest.mark.parametrize("part", ["hidden", "embeddings"])
@pytest.mark.parametrize("config", [CONV[0], EVERY[-1]], ids=["conv", "linear"])
def test_laws(config, part, tmp_path):
    encoder = tiny(config)

    def call_of(model):
        by_dtype = {torch.float64: model, torch.bfloat16: copy.deepcopy(model).bfloat16()}

        def call(x, weight=None):
            mask = whole(*x.shape[:2]) if weight is None else weight
            return getattr(by_dtype[x.dtype](x, mask), part)

        return call

    def reload():
        torch.save(encoder.state_dict(), tmp_path / "encoder.pt")
        fresh = tiny(config, seed=9)
        fresh.load_state_dict(torch.load(tmp_path / "encoder.pt", weights_only=True))
        return call_of(fresh)

    kept = check_laws(
        Subject(
            name=f"{config.kind} encoder",
            call=call_of(encoder),
            inputs=lambda b, t, g: (torch.randn(b, t, FEATURES, dtype=torch.float64, generator=g),),
            output="kept",
            weights="mask",
            ordered=config.kind == "conv",
            reload=reload,
        )
    )
    assert {"padding is invisible", "empty row = zeros or error", "gradcheck", "save, load, equal"} <= set(kept)


@pytest.mark.parametrize("config", EVERY, ids=NAMES)
@pytest.mark.parametrize("garbage", [math.nan, math.inf, 1e6])
def test_padded_batch_gives_the_numbers_of_single_files(config, garbage):
    encoder = tiny(config)
    lengths = [1, 2, 3, 7, 8, 9, 0, 17]
    files = [torch.randn(length, FEATURES, dtype=torch.float64) for length in lengths]
    batch = torch.full((len(files), 19, FEATURES), garbage, dtype=torch.float64)
    mask = torch.zeros(len(files), 19, dtype=torch.bool)
    for row, file in enumerate(files):
        batch[row, : len(file)], mask[row, : len(file)] = file, True
    together = encoder(batch, mask)
    for row, file in enumerate(files):
        length = math.ceil(len(file) / encoder.stride)
        assert together.mask[row].sum() == length
        assert together.mask[row, :length].all()
        for part in ("hidden", "embeddings"):
            got = getattr(together, part)[row]
            assert not got[length:].any()
            if len(file):
                alone = getattr(encoder(file[None], whole(1, len(file))), part)[0]
                torch.testing.assert_close(got[:length], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("config", EVERY, ids=NAMES)
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 8, 13])
def test_shapes_and_mask_for_every_length(config, length):
    encoder = tiny(config)
    frames = encoder(torch.randn(2, length, FEATURES, dtype=torch.float64), whole(2, length))
    expected = math.ceil(length / encoder.stride)
    assert frames.hidden.shape == (2, expected, encoder.channels)
    assert frames.embeddings.shape == (2, expected, config.embedding)
    assert frames.mask.shape == (2, expected)
    assert frames.mask.all()


def test_linear_encoder_of_wavlm_keeps_size_and_rate():
    encoder = FrameEncoder(768, EncoderConfig(kind="linear"))
    frames = encoder(torch.randn(1, 50, 768), whole(1, 50))
    assert (encoder.channels, encoder.stride) == (768, 1)
    assert frames.hidden.shape == (1, 50, 768)
    assert frames.embeddings.shape == (1, 50, 256)


@pytest.mark.parametrize(("stride", "reach"), [(1, 19), (2, 36), (4, 66)])
def test_a_frame_sees_little_more_than_a_second(stride, reach):
    # feature frames of 10 ms: at most 66 on either side
    encoder = tiny(EncoderConfig(channels=8, embedding=4, stride=stride))
    x = torch.randn(1, 160, FEATURES, dtype=torch.float64, requires_grad=True)
    encoder(x, whole(1, 160)).embeddings[0, 80 // stride].sum().backward()
    assert x.grad is not None
    seen = x.grad[0].abs().sum(-1).nonzero()[:, 0]
    assert 0 < seen.min() >= 80 - reach
    assert 159 > seen.max() <= 80 + reach
    assert (2 * reach + 1) * 0.01 < 1.4


def test_gradient_of_every_parameter_is_that_of_finite_differences():
    # without the rectifier's corner: smooth where all is positive
    encoder = tiny(EncoderConfig(channels=3, embedding=2, stride=2, dilations=(2,)))
    x = torch.randn(2, 6, FEATURES, dtype=torch.float64)
    mask = torch.tensor([[True] * 6, [True] * 3 + [False] * 3])
    names, values = zip(*encoder.named_parameters(), strict=True)

    def run(*parameters):
        return torch.func.functional_call(encoder, dict(zip(names, parameters, strict=True)), (x, mask)).embeddings

    assert torch.autograd.gradcheck(run, values)


@pytest.mark.parametrize("config", EVERY, ids=NAMES)
def test_finite_in_bfloat16_autocast_with_padding(config):
    encoder = tiny(config, dtype=torch.float32)
    x = torch.full((3, 11, FEATURES), math.nan)
    x[0], x[1, :4] = torch.randn(11, FEATURES), torch.randn(4, FEATURES)
    mask = torch.arange(11) < torch.tensor([11, 4, 0])[:, None]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        frames = encoder(x, mask)
        loss = frames.hidden.float().square().mean() + frames.embeddings.float().square().mean()
    loss.backward()
    assert loss.isfinite()
    assert not frames.embeddings[2].any()
    assert all(p.grad.isfinite().all() for p in encoder.parameters() if p.grad is not None)


def test_settings_that_cannot_be():
    for wrong in ({"kind": "lstm"}, {"stride": 3}, {"channels": 0}, {"embedding": 0}, {"dilations": (1, 0)}):
        with pytest.raises(RequestError, match=next(iter(wrong))):
            EncoderConfig(**wrong)

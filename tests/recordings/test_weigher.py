import math
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from contract import Subject, check_laws
from weigher.core.weights import normalise
from weigher.errors import RequestError
from weigher.recordings.encoder import EncoderConfig, FrameEncoder, Frames
from weigher.recordings.weigher import Confidence, Weigher, WeigherConfig, pool_coarse, track_confidence

DESIGNS = get_args(Confidence)
TRACKS = ("iterated", "linear")
CHANNELS, EMBEDDING = 8, 6


def tiny(tracks="iterated", confidence="self-weighted", time_reduction=3, seed=0, dtype=torch.float64, **sizes):
    """A small weigher whose position biases matter, unlike those of a fresh one."""
    torch.manual_seed(seed)
    settings = {"slots": 3, "heads": 2, "layers": 1, "channel_reduction": 2, **sizes}
    config = WeigherConfig(tracks=tracks, confidence=confidence, time_reduction=time_reduction, **settings)
    weigher = Weigher(CHANNELS, EMBEDDING, config)
    for name, parameter in weigher.named_parameters():
        if "position_bias" in name:
            torch.nn.init.normal_(parameter)
    return weigher.to(dtype).eval()


def drawn(lengths, size=None, dtype=torch.float64, seed=0):
    """Frames of several files, zeros where padded."""
    generator = torch.Generator().manual_seed(seed)
    size = max(lengths) if size is None else size
    mask = torch.arange(size) < torch.tensor(lengths)[:, None]
    hidden = torch.randn(len(lengths), size, CHANNELS, dtype=dtype, generator=generator) * mask[..., None]
    embeddings = torch.randn(len(lengths), size, EMBEDDING, dtype=dtype, generator=generator) * mask[..., None]
    return Frames(hidden, embeddings, mask)


def cut(frames, row, length):
    return Frames(*(part[row : row + 1, :length] for part in (frames.hidden, frames.embeddings, frames.mask)))


PARTS = ("tracks", "embeddings", "confidence")


@pytest.mark.parametrize("tracks", TRACKS)
@pytest.mark.parametrize("confidence", DESIGNS)
@pytest.mark.parametrize("reduction", [1, 2, 3, 5, 15])
def test_padded_batch_gives_the_numbers_of_single_files(tracks, confidence, reduction):
    weigher = tiny(tracks, confidence, reduction)
    lengths = [13, 1, 2, 4, 15, 16, 7]
    frames = drawn(lengths, size=23)
    together = weigher(frames)
    for row, length in enumerate(lengths):
        alone = weigher(cut(frames, row, length))
        for part in ("embeddings", "confidence"):
            torch.testing.assert_close(getattr(together, part)[row], getattr(alone, part)[0])
        torch.testing.assert_close(together.tracks[row, :length], alone.tracks[0])
        assert not together.tracks[row, length:].any()
        torch.testing.assert_close(together.speech_logits[row, :length], alone.speech_logits[0])
        for padded, single in zip(together.logits, alone.logits, strict=True):
            torch.testing.assert_close(padded[row, :length], single[0])


@pytest.mark.parametrize("tracks", TRACKS)
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_encoder_and_weigher_whatever_the_padding_holds(tracks, stride):
    torch.manual_seed(0)
    encoder = FrameEncoder(5, EncoderConfig(channels=CHANNELS, embedding=EMBEDDING, stride=stride)).double().eval()
    weigher = tiny(tracks)
    lengths = [29, 3, 1, 14]
    x = torch.full((4, 31, 5), math.nan, dtype=torch.float64)
    mask = torch.arange(31) < torch.tensor(lengths)[:, None]
    x[mask] = torch.randn(int(mask.sum()), 5, dtype=torch.float64)
    together = weigher(encoder(x, mask))
    for row, length in enumerate(lengths):
        alone = weigher(encoder(x[row : row + 1, :length], mask[row : row + 1, :length]))
        for part in ("embeddings", "confidence"):
            torch.testing.assert_close(getattr(together, part)[row], getattr(alone, part)[0])
        torch.testing.assert_close(together.tracks[row, : alone.tracks.shape[1]], alone.tracks[0])


@pytest.mark.parametrize("tracks", TRACKS)
@pytest.mark.parametrize("confidence", DESIGNS)
def test_padding_changes_no_gradient(tracks, confidence):
    weigher = tiny(tracks, confidence)
    frames = drawn([7], size=7)
    gradients = []
    for extra in (0, 5):
        padded = Frames(
            F.pad(frames.hidden, (0, 0, 0, extra)),
            F.pad(frames.embeddings, (0, 0, 0, extra)),
            F.pad(frames.mask, (0, extra)),
        )
        leaves = [part.clone().requires_grad_() for part in (padded.hidden, padded.embeddings)]
        weigher.zero_grad()
        out = weigher(Frames(leaves[0], leaves[1], padded.mask))
        sum(getattr(out, part).square().sum() for part in PARTS).backward()
        assert all(not leaf.grad[:, 7:].any() for leaf in leaves)
        gradients.append([leaf.grad[:, :7] for leaf in leaves] + [p.grad for p in weigher.parameters()])
    for plain, padded in zip(*gradients, strict=True):
        torch.testing.assert_close(padded, plain)


@pytest.mark.parametrize("tracks", TRACKS)
@pytest.mark.parametrize("confidence", DESIGNS)
def test_a_file_without_frames_gives_zeros_and_finite_gradients(tracks, confidence):
    weigher = tiny(tracks, confidence, dtype=torch.float32)
    frames = drawn([9, 0, 4], dtype=torch.float32)
    leaves = [part.requires_grad_() for part in (frames.hidden, frames.embeddings)]
    out = weigher(frames)
    for part in PARTS:
        assert not getattr(out, part)[1].any()
        assert getattr(out, part).isfinite().all()
    loss = sum(getattr(out, part).square().sum() for part in PARTS)
    loss = loss + sum(logits.square().mean() for logits in out.logits) + out.speech_logits.square().mean()
    loss.backward()
    assert all(p.grad.isfinite().all() for p in weigher.parameters())
    assert all(leaf.grad.isfinite().all() and not leaf.grad[1].any() for leaf in leaves)


@pytest.mark.parametrize("tracks", TRACKS)
@pytest.mark.parametrize("confidence", DESIGNS)
def test_ranges_weights_and_pooling(tracks, confidence):
    weigher = tiny(tracks, confidence)
    frames = drawn([11, 6])
    out = weigher(frames)
    assert ((out.tracks >= 0) & (out.tracks <= 1)).all()
    assert ((out.confidence >= 0) & (out.confidence <= 1)).all()
    weights = normalise(out.tracks, 1)
    torch.testing.assert_close(weights.sum(1), torch.ones(2, 3, dtype=torch.float64))
    expected = torch.stack(
        [
            torch.stack([sum(weights[b, t, n] * frames.embeddings[b, t] for t in range(11)) for n in range(3)])
            for b in range(2)
        ]
    )
    torch.testing.assert_close(out.embeddings, expected)
    last = torch.sigmoid(out.logits[-1]) * frames.mask[..., None]
    torch.testing.assert_close(out.tracks, last)
    if confidence == "self-weighted":
        torch.testing.assert_close(out.confidence, out.tracks.square().sum(1) / out.tracks.sum(1))


@pytest.mark.parametrize("tracks", TRACKS)
@pytest.mark.parametrize("confidence", DESIGNS)
def test_permuting_the_batch_permutes_the_output(tracks, confidence):
    weigher = tiny(tracks, confidence)
    frames = drawn([9, 5, 7])
    order = torch.tensor([2, 0, 1])
    moved = Frames(frames.hidden[order], frames.embeddings[order], frames.mask[order])
    plain, got = weigher(frames), weigher(moved)
    for part in PARTS:
        torch.testing.assert_close(getattr(got, part), getattr(plain, part)[order])


@pytest.mark.parametrize("tracks", TRACKS)
@pytest.mark.parametrize("confidence", DESIGNS)
def test_saved_and_loaded_is_equal(tracks, confidence, tmp_path):
    weigher, fresh = tiny(tracks, confidence), tiny(tracks, confidence, seed=5)
    torch.save(weigher.state_dict(), tmp_path / "weigher.pt")
    fresh.load_state_dict(torch.load(tmp_path / "weigher.pt", weights_only=True))
    frames = drawn([9, 5])
    for part in PARTS:
        assert torch.equal(getattr(weigher(frames), part), getattr(fresh(frames), part))


def with_fixed_seeds(weigher):
    """Where nobody seems to speak all frames weigh alike for the seeds, which are detached on purpose."""
    torch.nn.init.constant_(weigher.speech.bias, -9.0)
    return weigher


@pytest.mark.parametrize("tracks", TRACKS)
@pytest.mark.parametrize("confidence", DESIGNS)
def test_gradient_of_the_input_is_that_of_finite_differences(tracks, confidence):
    weigher = with_fixed_seeds(tiny(tracks, confidence, time_reduction=2))
    frames = drawn([5, 3])

    def run(hidden, embeddings=frames.embeddings):
        out = weigher(Frames(hidden, embeddings * frames.mask[..., None], frames.mask))
        return out.tracks, out.embeddings, out.confidence

    assert torch.autograd.gradcheck(run, (frames.hidden.requires_grad_(),))
    if tracks == "linear":  # without seeds, which are made of embeddings
        assert torch.autograd.gradcheck(run, (frames.hidden, frames.embeddings.clone().requires_grad_()))


@pytest.mark.parametrize("tracks", TRACKS)
def test_every_parameter_is_used_and_its_gradient_is_that_of_finite_differences(tracks):
    weigher = with_fixed_seeds(tiny(tracks, "separate-weighted", time_reduction=2, slots=2))
    frames = drawn([4, 3])
    names, values = zip(*weigher.named_parameters(), strict=True)

    def run(*parameters):
        out = torch.func.functional_call(weigher, dict(zip(names, parameters, strict=True)), (frames,))
        return out.embeddings.square().sum() + out.confidence.square().sum() + out.speech_logits[:, 0].sum()

    gradients = torch.autograd.grad(run(*values), values)
    for name, value, gradient in zip(names, values, gradients, strict=True):
        assert gradient.any(), f"{name} is not used"
        direction, step = torch.randn_like(value), 1e-5
        with torch.no_grad():
            up, down = (run(*(v + s * direction if v is value else v for v in values)) for s in (step, -step))
        torch.testing.assert_close(
            (gradient * direction).sum(), (up - down) / (2 * step), rtol=1e-5, atol=1e-8, msg=name
        )


@pytest.mark.parametrize("tracks", TRACKS)
@pytest.mark.parametrize("confidence", DESIGNS)
def test_finite_in_bfloat16_autocast(tracks, confidence):
    weigher = tiny(tracks, confidence, dtype=torch.float32)
    frames = drawn([12, 5, 0, 1], dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = weigher(frames)
        loss = sum(getattr(out, part).square().sum() for part in PARTS)
    loss.backward()
    for part in PARTS:
        assert getattr(out, part).isfinite().all()
        assert getattr(out, part).dtype == torch.float32
    assert ((out.confidence >= 0) & (out.confidence <= 1)).all()
    assert not out.tracks[2].any()
    assert all(p.grad.isfinite().all() for p in weigher.parameters() if p.grad is not None)
    exact = weigher(frames)
    torch.testing.assert_close(out.tracks, exact.tracks, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("tracks", TRACKS)
def test_the_sizes_of_wavlm(tracks):
    torch.manual_seed(0)
    encoder = FrameEncoder(768, EncoderConfig(kind="linear")).eval()
    config = WeigherConfig(slots=4, tracks=tracks, channel_reduction=12, time_reduction=15)
    weigher = Weigher(encoder.channels, 256, config).eval()
    assert config.channels(768) == 64
    assert weigher.reduce_time.stride == (15,)
    # 2.5 s at 50 frames/s
    out = weigher(encoder(torch.randn(2, 125, 768), torch.ones(2, 125, dtype=torch.bool)))
    assert out.tracks.shape == (2, 125, 4)
    assert out.embeddings.shape == (2, 4, 256)
    assert out.confidence.shape == (2, 4)
    assert out.speech_logits.shape == (2, 125)
    assert len(out.logits) == (3 if tracks == "iterated" else 2)
    for coarse in out.logits[:-1]:
        steps = coarse.unfold(1, 15, 15)
        assert torch.equal(steps, steps[..., :1].expand_as(steps))
    assert not torch.equal(out.logits[-1], out.logits[-2])


@pytest.mark.parametrize(
    ("hidden", "reduction", "heads", "expected"), [(192, 2, 4, 96), (768, 12, 4, 64), (7, 5, 4, 4), (10, 1, 3, 9)]
)
def test_channels_of_the_blocks_are_a_multiple_of_the_heads(hidden, reduction, heads, expected):
    assert WeigherConfig(channel_reduction=reduction, heads=heads).channels(hidden) == expected


@pytest.mark.parametrize("name", ["slots", "channel_reduction", "time_reduction", "layers", "heads", "rounds"])
def test_sizes_below_one_are_refused(name):
    with pytest.raises(RequestError, match=name):
        WeigherConfig(**{name: 0})


def test_designs_that_do_not_exist_are_refused():
    with pytest.raises(RequestError, match="tracks = 'quadratic'"):
        WeigherConfig(tracks="quadratic")
    with pytest.raises(RequestError, match="confidence = 'mean'"):
        WeigherConfig(confidence="mean")


def one_track(*values):
    return torch.tensor(values, dtype=torch.float64)[None, :, None]


def everywhere(track):
    return torch.ones(track.shape[:2], dtype=torch.bool)


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=6), st.floats(0.01, 1))
@settings(deadline=None, max_examples=50)
def test_scaling_a_track_scales_its_confidence_and_leaves_its_weights(values, factor):
    track = one_track(*values)
    q = track_confidence("self-weighted", track, None, everywhere(track))
    scaled = track_confidence("self-weighted", factor * track, None, everywhere(track))
    torch.testing.assert_close(scaled, factor * q)
    torch.testing.assert_close(normalise(factor * track, 1), normalise(track, 1))
    torch.testing.assert_close(q.squeeze(), (track**2).sum() / track.sum())


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("value", [0.0, 0.1, 0.5, 1.0])
def test_a_constant_track_is_its_own_confidence(design, value):
    track = torch.full((2, 7, 3), value, dtype=torch.float64)
    q = track_confidence(design, track, track, everywhere(track))
    torch.testing.assert_close(q, torch.full((2, 3), value, dtype=torch.float64))


@pytest.mark.parametrize("value", [0.2, 1.0])
def test_a_single_frame_gives_its_value(value):
    track = one_track(0, 0, value, 0)
    assert track_confidence("self-weighted", track, None, everywhere(track)).item() == pytest.approx(value)
    second = one_track(0.9, 0.8, 0.3, 0.7)
    assert track_confidence("separate-weighted", track, second, everywhere(track)).item() == pytest.approx(0.3)
    assert track_confidence("separate-mean", track, second, everywhere(track)).item() == pytest.approx(0.675)


@pytest.mark.parametrize(
    ("design", "sharpness", "expected"),
    [
        ("power", 2.0, (0.2**3 + 0.8**3) / (0.2**2 + 0.8**2)),
        ("power", 1.0, (0.2**2 + 0.8**2) / (0.2 + 0.8)),
        ("exp-softmax", 9.0, (0.2 * math.exp(0.2) + 0.8 * math.exp(0.8)) / (math.exp(0.2) + math.exp(0.8))),
        ("auto", 3.0, (0.2 * math.exp(0.6) + 0.8 * math.exp(2.4)) / (math.exp(0.6) + math.exp(2.4))),
        ("self-weighted", 9.0, (0.2**2 + 0.8**2) / (0.2 + 0.8)),
    ],
)
def test_relatives_of_the_self_weighted_confidence(design, sharpness, expected):
    track = F.pad(one_track(0.2, 0.8), (0, 0, 0, 3))  # padding is zeros, and counts for nothing
    mask = torch.arange(5)[None] < 2
    assert track_confidence(design, track, None, mask, sharpness).item() == pytest.approx(expected)


@pytest.mark.parametrize("design", ["power", "auto"])
def test_the_sharpness_starts_at_one_and_is_learned(design):
    weigher, plain = tiny(confidence=design), tiny(confidence={"power": "self-weighted", "auto": "exp-softmax"}[design])
    frames = drawn([9, 5])
    got = weigher(frames).confidence
    torch.testing.assert_close(got, plain(frames).confidence)
    (slope,) = torch.autograd.grad(got.sum(), weigher.log_sharpness)
    assert slope > 0  # the sharper, the nearer to the maximum
    assert set(weigher.state_dict()) - set(plain.state_dict()) == {"log_sharpness"}


@pytest.mark.parametrize("tracks", TRACKS)
def test_all_that_is_coarse_gets_its_frames_back_in_one_place(tracks):
    weigher = tiny(tracks, "separate-mean", time_reduction=3)
    frames, plain, seen = drawn([10]), weigher.restore_time, []
    weigher.restore_time = lambda x, length: seen.append(tuple(x.shape)) or plain(x, length)
    out = weigher(frames)
    dim = weigher.config.channels(CHANNELS)
    numbers = [(1, 4, 3)] * (len(out.logits) - 1)  # rounds of three slots in four coarse steps
    assert sorted(seen) == sorted([*numbers, (1, 3, 4, dim), (1, 4, 3), (1, 4, 1)])  # context, second tracks, speech


@pytest.mark.parametrize("design", DESIGNS)
def test_laws_of_confidence(design):
    def call(track, second, weight=None):
        mask = everywhere(track) if weight is None else weight
        # padding is for tracks what the weigher makes it: zero; the second track may hold anything finite
        return track_confidence(design, track * mask[..., None], second, mask)

    check_laws(
        Subject(
            name=design,
            call=call,
            inputs=lambda b, t, g: tuple(torch.rand(b, t, 2, dtype=torch.float64, generator=g) for _ in range(2)),
            weights="mask",
            garbage=0.77,
        )
    )


def pool_coarse_by_loops(x, mask, reduction):
    b, t, e = x.shape
    steps = math.ceil(t / reduction)
    out, there = torch.zeros(b, steps, e, dtype=x.dtype), torch.zeros(b, steps, dtype=torch.bool)
    for row in range(b):
        for step in range(steps):
            there[row, step] = any(mask[row, step * reduction : (step + 1) * reduction])
            around = [i for i in range((step - 1) * reduction, (step + 2) * reduction) if 0 <= i < t and mask[row, i]]
            if there[row, step]:
                out[row, step] = x[row, around].mean(0)
    return out, there


@pytest.mark.parametrize("reduction", [1, 2, 5, 15])
@pytest.mark.parametrize("length", [1, 4, 5, 17])
def test_coarse_pooling_is_the_mean_of_the_real_frames_around(length, reduction):
    x = torch.randn(3, length, 2, dtype=torch.float64)
    mask = torch.arange(length) < torch.tensor([length, length // 2, 0])[:, None]
    got, coarse = pool_coarse(x, mask, reduction)
    expected, there = pool_coarse_by_loops(x, mask, reduction)
    torch.testing.assert_close(got, expected)
    assert torch.equal(coarse, there)


def test_the_fine_edges_can_follow_a_change_inside_a_coarse_step():
    # one person before frame 7, another after, steps of 5: the last logits change at 7, the coarse ones at 5 or 10
    weigher = tiny(time_reduction=5)
    frames = drawn([20])
    frames.embeddings[0, :7], frames.embeddings[0, 7:] = (
        torch.eye(6, dtype=torch.float64)[0],
        torch.eye(6, dtype=torch.float64)[1],
    )
    out = weigher(Frames(torch.zeros_like(frames.hidden), frames.embeddings, frames.mask))
    change = out.logits[-1].diff(dim=1).abs().amax((0, 2))
    coarse = out.logits[-2].diff(dim=1).abs().amax((0, 2))
    assert coarse[6] == 0
    assert change[6] > 1e-3

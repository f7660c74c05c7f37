"""Crops of sequences for the self-supervised loop: where they lie, what belongs together, what is learned of them."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from weigher.errors import RequestError
from weigher.pairs import sequences as module
from weigher.pairs.methods import LossConfig, pair_loss
from weigher.pairs.pretraining import PretrainConfig
from weigher.pairs.relic import ReLICLoss
from weigher.pairs.seqclr import SeqCLRConfig
from weigher.pairs.sequence_views import SpeechViewConfig
from weigher.pairs.sequences import Aligned, Crops, Pooled, SequenceConfig, pretrain_sequences

STILL = SpeechViewConfig(gain=0, colour=0, band_mask=0, time_masks=0, noise=0, stretch=0)
BRIEF = PretrainConfig(epochs=2, batch=4)


class Frames(nn.Module):
    """Every second frame through one layer."""

    def __init__(self, features=3, width=5):
        super().__init__()
        self.layer = nn.Linear(features, width)

    def forward(self, values, lengths):
        return self.layer(values[:, ::2]), -(-lengths // 2)


def numbered(*lengths):
    """Sequences whose frames hold the sequence's number, the frame's number, and 1."""
    return [np.stack([np.full(n, i), np.arange(n), np.ones(n)], 1).astype(np.float32) for i, n in enumerate(lengths)]


def test_every_stretch_of_a_sequence_has_its_crop_and_none_runs_over_the_end():
    crops = Crops(numbered(95, 20, 7), 20)
    assert crops.owner.tolist() == [0, 0, 0, 0, 1, 2]
    assert crops.place.tolist() == [0, 20, 40, 60, 0, 0]
    everything, rng = np.arange(6), np.random.default_rng(0)
    begins = np.stack([crops.begins(everything, rng) for _ in range(300)])
    assert begins.min(0).tolist() == [0, 10, 30, 50, 0, 0]
    assert begins.max(0).tolist() == [10, 30, 50, 70, 0, 0]
    assert Crops(numbered(45), 20).begins(np.array([1] * 300), rng).max() == 25  # the last frame is heard, too
    values, lengths = crops.draw(everything, begins[0])
    assert lengths.tolist() == [20, 20, 20, 20, 20, 7]
    for row, (owner, begin) in enumerate(zip(crops.owner, begins[0], strict=True)):
        real = values[row, : lengths[row]]
        assert (real[:, 0] == owner).all()
        assert real[:, 1].tolist() == list(range(begin, begin + int(lengths[row])))
    assert (values[5, 7:] == 0).all()


def test_neighbours_begin_no_further_apart_than_they_may():
    crops, rng = Crops(numbered(500, 400), 20), np.random.default_rng(0)
    chosen = rng.integers(len(crops), size=2000)
    first = crops.begins(chosen, rng)
    gap = crops.begins(chosen, rng, first, 30) - first
    assert (gap.min(), gap.max()) == (-30, 30)
    assert (crops.begins(chosen, rng, first, 0) == first).all()


def caught(monkeypatch, config, data, **more):
    """The views of all batches of a brief run."""
    found = []

    class Spy(nn.Module):
        def forward(self, *views, targets=None):
            found.append(views)
            if isinstance(views[0], tuple):
                return {"loss": views[0][0].square().mean()}
            return {"loss": views[0].square().mean()}

    monkeypatch.setattr(module, "pair_loss", lambda *_, **__: Spy())
    monkeypatch.setattr(module, "SeqCLRLoss", lambda *_: Spy())
    monkeypatch.setattr(module, "Aligned", lambda loss: loss)
    monkeypatch.setattr(module, "Pooled", lambda encoder, *_: encoder)
    encoder = Frames()
    with torch.no_grad():  # what comes out is what went in
        encoder.layer.weight.copy_(torch.eye(5, 3))
        encoder.layer.bias.zero_()
    loop = PretrainConfig(epochs=1, batch=4, **more)
    pretrain_sequences(encoder, 5, data, config, loop, hop_seconds=0.1, device="cpu")
    return found


def test_aligned_views_are_of_the_same_frames_and_neighbours_of_one_sequence(monkeypatch):
    data = numbered(80, 90, 100, 110)
    config = SequenceConfig("seqclr", crop_seconds=2.0, apart_seconds=1.0, views=STILL)
    more = {"learning_rate": 1e-9}
    for (first, lengths), (second, again) in caught(monkeypatch, config, data, **more):
        assert torch.equal(first, second)
        assert lengths.tolist() == again.tolist() == [10] * 4
    apart = []
    neighbours = SequenceConfig("info-nce", crop_seconds=2.0, apart_seconds=1.0, views=STILL)
    for (first, _), (second, _) in caught(monkeypatch, neighbours, data, **more):
        assert torch.allclose(first[..., 0].round(), second[..., 0].round())
        apart += (first[:, 0, 1] - second[:, 0, 1]).abs().round().tolist()
    assert 0 < max(apart) <= 10


def test_stretched_views_stay_aligned(monkeypatch):
    quick = SpeechViewConfig(gain=0, colour=0, band_mask=0, time_masks=0, noise=0, stretch=0.3)
    found = caught(monkeypatch, SequenceConfig("seqclr", views=quick), numbered(80, 90, 100, 110), learning_rate=1e-9)
    assert all(torch.equal(first, second) for (first, _), (second, _) in found)
    assert len({int(n) for (_, lengths), _ in found for n in lengths}) > 1


def test_neighbouring_crops_keep_their_speed(monkeypatch):
    quick = SpeechViewConfig(gain=0, colour=0, band_mask=0, time_masks=0, noise=0, stretch=0.3)
    found = caught(monkeypatch, SequenceConfig("info-nce", views=quick), numbered(80, 90, 100, 110), learning_rate=1e-9)
    for frames, lengths in (view for views in found for view in views):
        assert lengths.tolist() == [10] * 4
        torch.testing.assert_close(frames[..., 1].diff(), torch.full((4, 9), 2.0), atol=1e-3, rtol=0)


def test_a_sequence_without_room_for_the_windows_is_named_before_training():
    config = SequenceConfig("seqclr", seqclr=SeqCLRConfig(windows=5), views=SpeechViewConfig(time_masks=0))
    given = voices(4)
    given[2] = given[2][:4]
    with pytest.raises(RequestError, match="sequence 2 has 4 frames, of which the encoder makes 2, for 5 windows"):
        pretrain_sequences(Frames(), 5, given, config, BRIEF, hop_seconds=0.1, device="cpu")


def test_each_way_to_teach_has_its_temperature():
    config = SequenceConfig()
    assert (config.losses.temperature, config.seqclr.temperature) == (0.02, 0.05)
    assert config.losses.swav.epsilon == 0.01  # the projection of crops has no batch norm


def test_pooling_is_the_mean_of_what_is_real():
    encoder = Frames()
    pooled = Pooled(encoder, 5, 7, 4)
    values, lengths = torch.randn(3, 20, 3), torch.tensor([20, 11, 1])
    frames, counts = encoder(values, lengths)
    means = torch.stack([frame[:n].mean(0) for frame, n in zip(frames, counts, strict=True)])
    assert torch.allclose(pooled(values, lengths), pooled.projection(means), atol=1e-6)
    values[1, 12:] = torch.nan  # frame 11 and later are padding, 10 is the last that is read
    assert pooled(values, lengths).isfinite().all()


def test_the_lengths_of_both_views_reach_the_loss():
    class Spy(nn.Module):
        def forward(self, first, second, lengths, second_lengths):
            return {"loss": first.sum() + 2 * second.sum() + 10 * lengths.sum() + 100 * second_lengths.sum()}

    one, two = torch.ones(1, 2, 1), torch.ones(1, 3, 1)
    assert Aligned(Spy())((one, torch.tensor([2])), (two, torch.tensor([3])))["loss"] == 2 + 6 + 20 + 300


def voices(count=6, seed=0):
    """Sequences of noise around a spectrum of their own."""
    rng = np.random.default_rng(seed)
    return [(rng.normal(size=3) + 0.7 * rng.normal(size=(120, 3))).astype(np.float16) for _ in range(count)]


def test_crops_may_be_as_far_apart_as_a_sequence_is_long():
    far = SequenceConfig(crop_seconds=2.0, apart_seconds=1e300)
    assert pretrain_sequences(Frames(), 5, voices(4), far, BRIEF, hop_seconds=0.1, device="cpu").step > 0


@pytest.mark.parametrize("method", ["seqclr", "info-nce", "relic"])
def test_training_lowers_the_loss_and_is_the_same_twice(method):
    losses = LossConfig(temperature=0.1)
    config = SequenceConfig(method, crop_seconds=2.0, seqclr=SeqCLRConfig(windows=2), views=STILL, losses=losses)
    runs = []
    for _ in range(2):
        torch.manual_seed(0)
        encoder = Frames()
        loop = PretrainConfig(epochs=8, batch=8, learning_rate=1e-2, target_momentum=0.9 if method == "relic" else None)
        history = pretrain_sequences(encoder, 5, voices(), config, loop, hop_seconds=0.1, device="cpu")
        losses = [record["loss"] for record in history.train]
        runs.append((losses, encoder.layer.weight.detach().clone()))
    assert runs[0][0] == runs[1][0]
    assert torch.equal(runs[0][1], runs[1][1])
    assert np.mean(losses[-8:]) < np.mean(losses[:8]) - 0.1


def test_what_stands_behind_the_encoder_is_drawn_by_the_seed_alone():
    state = torch.random.get_rng_state()
    pretrain_sequences(Frames(), 5, voices(), SequenceConfig("info-nce"), BRIEF, hop_seconds=0.1, device="cpu")
    state_after = torch.random.get_rng_state()
    torch.random.set_rng_state(state)
    Frames()
    assert torch.equal(state_after, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: SequenceConfig(crop_seconds=0.0), "crop_seconds = 0.0"),
        (lambda: SequenceConfig(embedding=0), "embedding = 0"),
        (lambda: SequenceConfig(crop_seconds=math.inf), "crop_seconds = inf"),
        (lambda: SequenceConfig(apart_seconds=math.inf), "apart_seconds = inf"),
        (
            lambda: pretrain_sequences(Frames(), 5, numbered(30), SequenceConfig(crop_seconds=0.04), hop_seconds=0.1),
            "less than one frame of 0.1 s",
        ),
        (lambda: pretrain_sequences(Frames(), 5, [], hop_seconds=0.1), "0 sequences"),
        (lambda: pretrain_sequences(Frames(), 5, np.ones((9, 3)), hop_seconds=0.1), "frames of one width"),
        (lambda: pretrain_sequences(Frames(), 5, numbered(30), hop_seconds=0.0), "hop_seconds = 0.0"),
        (lambda: pretrain_sequences(Frames(), 5, numbered(9), hop_seconds=0.1), "1 sequence gives one crop of 2 s"),
        (lambda: pretrain_sequences(Frames(), 5, numbered(30, 0), hop_seconds=0.1), "frames of one width"),
        (lambda: pretrain_sequences(Frames(), 5, [np.ones((9, 3)), np.ones((9, 4))], hop_seconds=0.1), "one width"),
        (
            lambda: pretrain_sequences(
                Frames(), 5, numbered(30), SequenceConfig("seqclr", views=STILL), hop_seconds=0.1, device="cpu"
            ),
            "at least two",
        ),
        (lambda: LossConfig(queue=-1), "queue = -1"),
        (lambda: SequenceConfig("seqclr", losses=LossConfig(queue=8)), "queue = 8 with seqclr"),
        (lambda: pair_loss("info-nce", LossConfig(queue=8), 4), "set target_momentum"),
        (lambda: pair_loss("align-uniform", LossConfig(queue=8), 4), "set target_momentum"),
        (
            lambda: pretrain_sequences(
                Frames(),
                5,
                voices(),
                SequenceConfig("seqclr"),
                PretrainConfig(target_momentum=0.9),
                hop_seconds=0.1,
                device="cpu",
            ),
            "seqclr makes no use of a slow copy",
        ),
        (lambda: pair_loss("seqclr", LossConfig(), 4), "give recordings"),
        (lambda: pair_loss("swav", LossConfig(), 4, with_target=True), "swav makes no use"),
    ],
)
def test_what_cannot_be_served_is_said(call, said):
    with pytest.raises(RequestError, match=said):
        call()


def test_losses_are_made_as_they_are_set():
    assert isinstance(pair_loss("relic", LossConfig(), 4, with_target=True), ReLICLoss)
    assert pair_loss("swav", LossConfig(), 7).prototypes.shape == (64, 7)
    assert pair_loss("align-uniform", LossConfig(), 4).config.align_weight == 2.0
    for method in ("info-nce", "align-uniform"):
        assert pair_loss(method, LossConfig(), 4, with_target=True).queue is None
        assert pair_loss(method, LossConfig(queue=8), 4, with_target=True).queue.held.shape == (8, 4)


@pytest.mark.parametrize(
    ("mapping", "windows", "most"), [("window", 2, 10), ("window", 4, 5), ("all", 4, 20), ("frame", 4, 20)]
)
def test_no_hidden_stretch_is_longer_than_an_instance(mapping, windows, most):
    def run(hidden, masks=1):
        views = SpeechViewConfig(time_masks=masks, time_mask_frames=hidden)
        seqclr = SeqCLRConfig(mapping, windows)
        config = SequenceConfig("seqclr", crop_seconds=2.0, views=views, seqclr=seqclr)
        return pretrain_sequences(Frames(), 5, voices(4), config, BRIEF, hop_seconds=0.1, device="cpu")

    assert run(most).step > 0
    said = "could hide all of it" if mapping == "frame" else f" {most}: nothing of an instance would be left"
    with pytest.raises(RequestError, match=f"time_mask_frames = {most + 1} in a crop of 20 frames.*{said}"):
        run(most + 1)
    assert run(most + 1, masks=0).step > 0


@pytest.mark.parametrize(("seconds", "hidden"), [(2.0, 11), (0.1, 1)])
def test_views_that_may_hide_all_of_a_crop_are_refused(seconds, hidden):
    config = SequenceConfig(crop_seconds=seconds, views=SpeechViewConfig(time_mask_frames=hidden))  # two stretches
    with pytest.raises(RequestError, match=rf"crop_seconds = {seconds:g}\) could hide all of it"):
        pretrain_sequences(Frames(), 5, voices(4), config, BRIEF, hop_seconds=0.1, device="cpu")


def test_recordings_that_are_all_shorter_than_a_crop_are_learned_from():
    """12 frames of a crop of 20: a hidden stretch of 10 frames would be longer than a window, and is shortened."""
    config = SequenceConfig(
        "seqclr",
        crop_seconds=2.0,
        seqclr=SeqCLRConfig("window", 2),
        views=SpeechViewConfig(time_mask_frames=10, stretch=0.0),
    )
    short = [one[:12] for one in voices(4)]
    assert pretrain_sequences(Frames(), 5, short, config, BRIEF, hop_seconds=0.1, device="cpu").step > 0


def test_the_least_a_sequence_needs_holds_all_windows_at_any_speed():
    config = SequenceConfig("seqclr", crop_seconds=2.0, seqclr=SeqCLRConfig(windows=10))
    assert config.least_frames(0.01, stride=4) == (80, "room for windows = 10 at any speed")
    assert config.least_frames(0.002, stride=1) == (250, "a quarter of crop_seconds = 2")
    assert SequenceConfig("info-nce").least_frames(0.01, stride=4)[0] == 50

"""Settings of learning that cannot be, and what is left of a model's voices when it trains on."""

import numpy as np
import pytest
import torch

from weigher.errors import RequestError
from weigher.recordings.archive import Archive
from weigher.recordings.configs import overlay
from weigher.recordings.diarizer import DiarizerConfig
from weigher.recordings.encoder import EncoderConfig
from weigher.recordings.learn import LearnConfig, learn
from weigher.recordings.model import FrontConfig, ModelConfig, RecordingModel
from weigher.recordings.recompose import RecomposeConfig
from weigher.recordings.weigher import WeigherConfig
from weigher.train.loop import LoopConfig


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("listen_seconds", 0.0),
        ("listen_seconds", float("inf")),
        ("listen_batch", 0),
        ("weigh_batch", 0),
        ("hidden_bands", 2.0),
        ("hidden_bands", -1.0),
        ("frame_weight", -0.1),
        ("rehearsal_weight", -1.0),
        ("planted", 1.5),
    ],
)
def test_settings_that_cannot_be_are_named(name, value):
    with pytest.raises(RequestError, match=f"{name} = {value}"):
        LearnConfig(**{name: value})


@pytest.mark.parametrize(
    "wrong",
    [{"link_threshold": 7.0}, {"link_threshold": -1.5}, {"window_seconds": float("inf")}, {"overlap_seconds": -1.0}],
)
def test_settings_of_windows_that_cannot_be_are_named(wrong):
    with pytest.raises(RequestError, match=next(iter(wrong))):
        DiarizerConfig(**wrong)


def test_settings_in_a_file_are_named_with_it():
    with pytest.raises(RequestError, match=r"config\.json: learn\..*weigh_batch = 0"):
        overlay(DiarizerConfig(), {"learn": {"weigh_batch": 0}}, "config.json")


def small(**changes):
    """A model of features with times, which make stretches of anything, and a config of one step of each phase."""
    rng = np.random.default_rng(0)
    values = [rng.normal(size=(100, 8)).astype(np.float32) for _ in range(4)]
    archive = Archive(values, [[k % 2] for k in range(4)], ("a", "b"), [np.ones((25, 1), bool)] * 4)
    front = FrontConfig(kind="features", features=8, hop_seconds=0.01, additive=False)
    model = RecordingModel(ModelConfig(front, EncoderConfig(channels=8, embedding=8), WeigherConfig(slots=2)))
    loop = LoopConfig(steps=1, warmup_steps=0, validate_every=1)
    recompose = RecomposeConfig(seconds=1.0)
    return model, archive, LearnConfig(loop, 2, weigh=loop, weigh_batch=2, recompose=recompose, **changes)


def test_crops_shorter_than_a_row_are_refused():
    with pytest.raises(RequestError, match="listen_seconds"):
        learn(*small(listen_seconds=0.004), device="cpu")


@pytest.mark.parametrize("frozen", ["nothing", "encoder"])
def test_a_space_of_voices_outlives_no_encoder_that_has_moved(frozen):
    model, archive, config = small(frozen=frozen)
    model.voice.map.copy_(torch.full((8, 8), 2.0))
    model.voice.mean.fill_(1.0)
    learn(model, archive, config, device="cpu")  # of two people no space can be learned
    held = frozen == "encoder"
    assert model.voice.map.equal(torch.full((8, 8), 2.0) if held else torch.eye(8))
    assert model.voice.mean.equal(torch.full((8,), float(held)))

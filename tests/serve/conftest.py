"""A small diarizer that was never trained (it is asked for two speakers), sound for it, and the service before it."""

import numpy as np
import pytest
import torch

from weigher.io.audio import SAMPLE_RATE, write_audio
from weigher.recordings.configs import overlay
from weigher.recordings.diarizer import Diarizer, DiarizerConfig
from weigher.recordings.identify import open_index
from weigher.recordings.model import RecordingModel
from weigher.serve.limits import Limits
from weigher.serve.service import Service

SETTINGS = {
    "model": {
        "encoder": {"channels": 16, "embedding": 24, "dilations": [1]},
        "weigher": {"slots": 3, "heads": 2, "layers": 1, "channel_reduction": 1, "time_reduction": 5},
    },
    "window_seconds": 2.0,
    "overlap_seconds": 0.5,
}


def make_diarizer():
    torch.manual_seed(3)
    diarizer = Diarizer(config=overlay(DiarizerConfig(), SETTINGS, "these tests"), device="cpu")
    diarizer.model_ = RecordingModel(diarizer.config.model).eval()
    return diarizer


@pytest.fixture(scope="session")
def diarizer():
    return make_diarizer()


@pytest.fixture(scope="session")
def model_folder(diarizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    diarizer.save_pretrained(folder)
    return folder


def sound(seconds, seed=0):
    """Bursts of noise in two colours, with pauses."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 0.1, round(seconds * SAMPLE_RATE))
    low = np.convolve(noise, np.ones(24) / 5, "same")
    times = np.arange(len(noise)) / SAMPLE_RATE
    return np.clip(np.where(times % 2 < 1, noise, low) * (times % 1 < 0.8), -1, 1)


@pytest.fixture(scope="session")
def talk(tmp_path_factory):
    path = tmp_path_factory.mktemp("sound") / "Über uns.flac"
    write_audio(path, sound(5.0))
    return path


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "private"
    made.mkdir()
    return made


@pytest.fixture
def make_service(diarizer, tmp_path, folder):
    made = []

    def make(people=True, **limits):
        index = open_index(diarizer, tmp_path / "people", create=True) if people else None
        made.append(Service(diarizer, index, Limits(**limits), folder))
        return made[-1]

    yield make
    for service in made:
        service.close()
    assert list(folder.iterdir()) == []  # whatever a test did, nothing is left

"""Data for tiny runs of studies."""

import numpy as np
import pytest

from made_up import write_read_speech
from weigher.io.rttm import Segment


@pytest.fixture(scope="session")
def read_speech(tmp_path_factory):
    """A data folder as the studies know it: 10 people of 10 utterances of features each, and turns of three parts."""
    folder = tmp_path_factory.mktemp("data")
    turns = [Segment(float(t), t + 0.8, "wxyz"[t % 4]) for t in range(120)]
    rng, parts = np.random.default_rng(0), ("train", "dev", "test")
    write_read_speech(folder / "speech", rng, people=10, said=10, turns=turns, parts=parts)
    return folder

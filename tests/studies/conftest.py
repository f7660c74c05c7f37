"""Data for tiny runs of studies."""

import numpy as np
import pytest

from weigher.io.rttm import Segment, write_rttm


@pytest.fixture(scope="session")
def read_speech(tmp_path_factory):
    """A data folder as the studies know it: 10 people of 10 utterances of features each, and turns of three parts."""
    folder, rng = tmp_path_factory.mktemp("data") / "speech", np.random.default_rng(0)
    people, said, length = 10, 10, 300
    frames = people * said * length
    means = np.repeat(rng.normal(0, 1, (people, 40)), said * length, axis=0)
    sounding = (np.arange(frames) % 100 < 80)[:, None]
    folder.mkdir()
    np.savez(
        folder / "read_speech_fbank40.npz",
        features=(10 * np.where(sounding, means + rng.normal(0, 0.5, (frames, 40)), -6.0)).astype(np.int8),
        scale=np.float32(0.1),
        offsets=np.arange(people * said + 1) * length,
        speaker=np.repeat([f"p{k:02d}" for k in range(people)], said),
        utterance=np.array([f"u{k:03d}" for k in range(people * said)]),
    )
    turns = [Segment(float(t), t + 0.8, "wxyz"[t % 4]) for t in range(120)]
    for part in ("train", "dev", "test"):
        write_rttm(folder / f"timings/ami/{part}/{part}.rttm", {part: turns})
    return folder.parent

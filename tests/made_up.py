"""Data folders laid out as the studies know them, and small models, made up for tests."""

import io

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

from weigher.io.rttm import Segment, write_rttm

FEW_TURNS = [Segment(float(t), t + 0.3 + t % 3 / 2, "xyz"[t // 2 % 3]) for t in range(0, 120, 2)]
"""Turns of 0.3 to 1.3 s, each person twice in a row, for two minutes."""


def write_read_speech(speech, rng, *, people, said, turns, parts=("train", "test")):
    """Write the features of `people` who say `said` utterances of 3 s, each a spectrum with noise and pauses; turns."""
    length = 300
    frames = people * said * length
    means = np.repeat(rng.normal(0, 1, (people, 40)), said * length, axis=0)
    sounding = (np.arange(frames) % 100 < 80)[:, None]
    speech.mkdir(parents=True)
    np.savez(
        speech / "read_speech_fbank40.npz",
        features=(10 * np.where(sounding, means + rng.normal(0, 0.5, (frames, 40)), -6.0)).astype(np.int8),
        scale=np.float32(0.1),
        offsets=np.arange(people * said + 1) * length,
        speaker=np.repeat([f"p{k:02d}" for k in range(people)], said),
        utterance=np.array([f"u{k:03d}" for k in range(people * said)]),
    )
    for part in parts:
        write_rttm(speech / f"timings/ami/{part}/{part}.rttm", {part: turns})


def write_cifar10(folder, rng, *, train, test):
    """Write so many images of 32 x 32 random pixels, of ten classes in turn."""
    (folder / "cifar10").mkdir()
    for part, count in (("train", train), ("test", test)):
        images = []
        for pixels in rng.integers(0, 256, (count, 32, 32, 3), np.uint8):
            held = io.BytesIO()
            Image.fromarray(pixels).save(held, "PNG")
            images.append(held.getvalue())
        rows = {"image": images, "label": [k % 10 for k in range(count)]}
        pyarrow.parquet.write_table(pyarrow.table(rows), folder / f"cifar10/{part}.parquet")


def small_settings(*, channels=24, listen, weigh, listen_rate=0.01, weigh_rate=0.004, warmup=5, crops=40):
    """Return settings of a diarizer of features that learns plain spectra within so many steps of each kind."""
    return {
        "model": {
            "front": {"kind": "features", "additive": False},
            "encoder": {"channels": channels, "embedding": 32, "stride": 2, "dilations": [1]},
            "weigher": {"slots": 3, "heads": 2, "layers": 1, "channel_reduction": 1, "time_reduction": 3},
        },
        "learn": {
            "listen": {"steps": listen, "learning_rate": listen_rate, "warmup_steps": warmup},
            "listen_batch": crops,
            "listen_seconds": 2.0,
            "weigh": {"steps": weigh, "learning_rate": weigh_rate, "warmup_steps": warmup, "validate_every": weigh},
            "weigh_batch": 8,
            "recompose": {"seconds": 4.0, "max_speakers": 3},
        },
    }


def brief_settings(*, listen, weigh, crops):
    """Return settings of a tiny diarizer whose training is saved every other step: what it learns does not matter."""
    return {
        "model": {
            "encoder": {"channels": 12, "embedding": 8, "stride": 2, "dilations": [1]},
            "weigher": {"slots": 3, "heads": 2, "layers": 1, "rounds": 1},
        },
        "learn": {
            "listen": {"steps": listen, "validate_every": 2, "warmup_steps": 2},
            "listen_batch": crops,
            "listen_seconds": 1.0,
            "weigh": {"steps": weigh, "validate_every": 2, "warmup_steps": 2},
            "weigh_batch": 2,
            "teacher": {"threshold": -5.0, "temper": 3.0},
            "recompose": {"seconds": 2.0, "max_speakers": 2},
        },
    }

import numpy as np
import torch

from weigher.recordings.archive import Archive, crops
from weigher.recordings.model import FrontConfig, ModelConfig, RecordingModel

MODEL = RecordingModel(ModelConfig(front=FrontConfig(kind="features", features=4, hop_seconds=0.01)))


def archive(**known):
    """Two recordings, of 300 and 90 steps, whose values are their own step numbers."""
    values = [np.arange(count)[:, None] + np.zeros(4) for count in (300, 90)]
    return Archive(values, [[0, 1], [2]], ("a", "b", "c"), **known)


def drawn(made, count=64, steps=120):
    return crops(MODEL, made, made.cast_table(), np.random.default_rng(0), count=count, steps=steps)


def test_flags_are_those_of_the_frames_that_are_cropped():
    frames = [75, 23]
    quiet = [np.arange(frames[0]) % 3 == 0, np.arange(frames[1]) % 2 == 0]
    times = [np.stack([flags, ~flags], 1)[:, :people] for flags, people in zip(quiet, (2, 1), strict=True)]
    batch = drawn(archive(quiet=quiet, times=times))
    assert batch["quiet"].shape == (64, 30)
    assert batch["times"].shape == (64, 30, 2)
    for row in range(64):
        of = int(batch["cast"][row, 0] == 2)
        first = int(batch["values"][row, 0, 0]) // 4
        assert (batch["recording"][row], batch["begin"][row]) == (of, first)
        told = quiet[of][first : first + 30]
        assert batch["quiet"][row].tolist() == [*told, *[False] * (30 - len(told))]
        assert (batch["times"][row, : len(told), 0].numpy() == told).all()
        if of:
            assert not batch["times"][row, :, 1].any()


def test_what_is_not_known_is_not_in_the_batch():
    assert set(drawn(archive())) == {"values", "lengths", "cast", "recording", "begin"}


def test_the_smaller_a_cast_the_more_often_it_is_heard():
    batch = drawn(archive(), count=9000, steps=4)
    alone = (batch["cast"] >= 0).sum(1) == 1
    assert abs(alone.double().mean().item() - 2 / 3) < 0.02


def test_short_recordings_are_padded_and_their_length_told():
    batch = drawn(archive())
    short = batch["cast"][:, 0] == 2
    assert (batch["lengths"] == torch.where(short, 90, 120)).all()
    assert torch.equal(batch["values"][short][:, 90:], torch.zeros(int(short.sum()), 30, 4))

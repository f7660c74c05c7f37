"""What a long recording and the people in it take in memory, from the file to the turns, and that it is still exact."""

import tracemalloc

import numpy as np
import soundfile
import torch

from weigher.io.audio import SAMPLE_RATE
from weigher.recordings.decode import DecodeConfig, decode_slots
from weigher.recordings.diarizer import Diarizer, DiarizerConfig, _columns
from weigher.recordings.encoder import EncoderConfig
from weigher.recordings.link import Linker
from weigher.recordings.model import FrontConfig, ModelConfig, RecordingModel
from weigher.recordings.weigher import WeigherConfig

HOP, WINDOW, STEP = 0.04, 750, 625
PEOPLE, HOURS = 12, 0.3


def heard(linker):
    """Twelve people, four in each window; returns the frames."""
    rng, voices = np.random.default_rng(0), np.eye(PEOPLE)
    count = round(HOURS * 3600 / HOP / STEP)
    for window in range(count):
        tracks = np.repeat(rng.random((30, 4)), 25, axis=0).astype(np.float32)
        linker.add(window * STEP, tracks, np.full(4, 0.9), voices[(4 * window + np.arange(4)) % PEOPLE])
    return count * STEP


def test_an_hour_of_a_person_takes_half_a_megabyte():
    tracemalloc.start()
    try:
        linker = Linker(0.5)
        frames = heard(linker)
        linked = linker.finish(frames)
        decoded = decode_slots(linked.tracks, linked.confidence, HOP, duration_seconds=frames * HOP)
        tracks = _columns(linked.tracks, decoded.slots)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert tracks.shape == (frames, PEOPLE)
    turns = len(decoded.segments) * 200  # bytes of a turn and its two numbers
    assert (peak - turns) / 1e6 / HOURS / PEOPLE < 0.8


def test_half_precision_changes_no_turn():
    linker = Linker(0.5)
    frames = heard(linker)
    linked = linker.finish(frames)
    half, single = (
        decode_slots(linked.tracks.astype(kind), linked.confidence, HOP, num_speakers=PEOPLE)
        for kind in (np.float16, np.float32)
    )
    assert half.segments == single.segments
    assert half.slots.tolist() == single.slots.tolist()
    assert _columns(linked.tracks, half.slots).dtype == np.float32
    np.testing.assert_array_equal(_columns(linked.tracks, half.slots), linked.tracks[:, half.slots])


def test_thresholds_are_not_rounded_to_half_precision():
    below = np.float16(0.4)  # 0.39990234375
    assert float(below) < 0.4
    track = np.full((50, 1), below)
    assert decode_slots(track, np.array([0.9]), HOP).segments == ()
    up = np.full((50, 1), np.nextafter(below, np.float16(1)))
    assert len(decode_slots(up, np.array([0.9]), HOP).segments) == 1


def test_a_recording_is_streamed_from_the_disk(tmp_path):
    """Six more minutes are 23 MB of samples, of which nothing may stay."""
    front = FrontConfig(mels=20)
    encoder = EncoderConfig(channels=8, embedding=8, dilations=(1,))
    body = ModelConfig(front, encoder, WeigherConfig(slots=2, heads=1, layers=1))
    diarizer = Diarizer(config=DiarizerConfig(body, decode=DecodeConfig(threshold=0.0)), device="cpu")
    torch.manual_seed(0)
    diarizer.model_ = RecordingModel(body).eval()
    rng, peaks = np.random.default_rng(0), []
    minute = np.round(3000 * rng.standard_normal(60 * SAMPLE_RATE)).astype(np.int16)
    for minutes in (1, 2, 8):  # the first one loads what is loaded once
        with soundfile.SoundFile(tmp_path / "talk.wav", "w", SAMPLE_RATE, 1) as file:
            for _ in range(minutes):
                file.write(minute)
        tracemalloc.start()
        try:
            found = diarizer.predict(tmp_path / "talk.wav", num_speakers=2)
            peaks.append(tracemalloc.get_traced_memory()[1] / 1e6)
        finally:
            tracemalloc.stop()
        assert found.seconds == 60 * minutes
        assert len(found.speakers) == 2
    assert peaks[2] - peaks[1] < 2.0

"""Recordings of any length as windows that overlap: what the model hears at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from weigher.errors import RequestError
from weigher.io.audio import SAMPLE_RATE, audio_seconds, stream_audio
from weigher.recordings.features import WINDOW_SAMPLES
from weigher.recordings.model import FrontConfig, RecordingModel


def window_count(seconds: float, window_seconds: float, overlap_seconds: float) -> int:
    """Return how many windows a recording of so many seconds has.

    >>> window_count(30.0, 30.0, 5.0), window_count(30.1, 30.0, 5.0)
    (1, 2)
    """
    return max(1, math.ceil((seconds - overlap_seconds) / (window_seconds - overlap_seconds)))


def least_values(model: RecordingModel) -> int:
    """Return how many values make one frame: a row, or the 25 ms of samples that a WavLM needs."""
    return WINDOW_SAMPLES if model.wavlm is not None else 1


def windows(
    model: RecordingModel, recording: str | Path | np.ndarray, window_seconds: float, overlap_seconds: float
) -> Iterator[tuple[int, np.ndarray, float]]:
    """Yield windows of a recording, a path or values in memory: first frame, values, and seconds of the whole of it.

    Raises RequestError for a recording that cannot be read, values that this model cannot hear, and windows that do
    not move on by one of its frames.
    """
    # whole frames, so that windows lie on one grid
    step = round((window_seconds - overlap_seconds) / model.hop_seconds) * model.hop_seconds
    if not step:
        raise RequestError(
            f"window_seconds = {window_seconds:g} and overlap_seconds = {overlap_seconds:g}; windows need to move on "
            f"by {model.hop_seconds:g} s or more, which is one frame of this model"
        )
    if isinstance(recording, str | Path) and model.config.front.kind != "features":
        total = audio_seconds(recording)
        for start, samples in stream_audio(recording, window_seconds=window_seconds, step_seconds=step):
            yield round(start / model.hop_seconds), model.values(samples), total
        return
    whole = model.read(recording) if isinstance(recording, str | Path) else _checked(model.config.front, recording)
    in_samples = whole.ndim == 1
    unit = 1 / SAMPLE_RATE if in_samples else model.step_seconds
    total = len(whole) * unit
    width, stride = round(window_seconds / unit), round(step / unit)
    for begin in range(0, max(1, len(whole) - (width - stride)), stride):
        piece = whole[begin : begin + width]
        yield round(begin * unit / model.hop_seconds), model.values(piece) if in_samples else piece, total


def _checked(front: FrontConfig, recording: np.ndarray) -> np.ndarray:
    """Values in memory as float32; RequestError for what this model cannot hear."""
    values = np.asarray(recording, np.float32)
    size = {"log-mel": front.mels, "features": front.features, "wavlm": 0}[front.kind]
    samples = values.ndim == 1 and front.kind != "features"
    if not samples and not (size and values.ndim == 2 and values.shape[1] == size):
        needed = [] if front.kind == "features" else ["samples [n] at 16 kHz"]
        needed += [f"rows [t, {size}] of features"] if size else []
        raise RequestError(f"a recording of shape {values.shape} is given; needed are {' or '.join(needed)}")
    if not np.isfinite(values).all():
        raise RequestError("the recording holds NaN or infinity; needed are finite numbers")
    return values

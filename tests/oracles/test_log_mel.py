"""Log-mel energies against `transformers.audio_utils` and against scipy, on noise, chirps and a silent stretch."""

import numpy as np
import pytest
import scipy.signal
import torch
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from weigher.recordings.features import LogMel, LogMelConfig, log_mel, mel_filters


def signal():
    rng = np.random.default_rng(5)
    t = np.arange(40000) / 16000
    x = 0.3 * scipy.signal.chirp(t, 50, t[-1], 7500) + rng.normal(0, 1e-2, t.size) * np.linspace(0, 1, t.size)
    x[9000:12000] = 0
    return x


def bank(mels):
    return mel_filter_bank(257, mels, 20.0, 8000.0, 16000, norm=None, mel_scale="htk")


@pytest.mark.parametrize("mels", [40, 64, 80])
def test_filters_are_those_of_transformers(mels):
    np.testing.assert_allclose(mel_filters(mels, 20.0, 8000.0).numpy(), bank(mels), rtol=0, atol=1e-12)


@pytest.mark.parametrize("mels", [40, 64, 80])
def test_energies_are_those_of_transformers(mels):
    expected = spectrogram(
        signal(),
        window_function(400, "hann", periodic=True),
        frame_length=400,
        hop_length=160,
        fft_length=512,
        power=2.0,
        center=False,
        mel_filters=bank(mels),
        mel_floor=1e-7,
        log_mel="log",
    ).T
    got, mask = LogMel(LogMelConfig(mels=mels, remove_mean=False))(torch.from_numpy(signal())[None].float())
    assert mask.all()
    np.testing.assert_allclose(got[0].numpy(), expected, rtol=0, atol=2e-3)  # complex64 there, float32 here
    loud = expected > np.log(1e-3)
    assert loud.mean() > 0.5
    np.testing.assert_allclose(got[0].numpy()[loud], expected[loud], rtol=0, atol=2e-4)


def test_energies_are_those_of_scipy_in_double_precision():
    x = signal()
    window = scipy.signal.get_window("hann", 400)
    framed = np.lib.stride_tricks.sliding_window_view(x, 400)[::160]
    power = np.abs(scipy.fft.fft(framed * window, 512, axis=1)[:, :257]) ** 2
    expected = np.log(np.maximum(power @ bank(80), 1e-7))
    got = log_mel(torch.from_numpy(x)[None], torch.from_numpy(window), mel_filters(80, 20.0, 8000.0))
    np.testing.assert_allclose(got[0].numpy(), expected, rtol=0, atol=1e-9)

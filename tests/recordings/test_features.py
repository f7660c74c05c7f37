import math

import numpy as np
import pytest
import torch

from contract import Subject, check_laws
from weigher.errors import RequestError
from weigher.recordings.features import (
    LogMel,
    LogMelConfig,
    checked_lengths,
    frame_mask,
    frames,
    log_mel,
    mel_filters,
    recording_mean,
    remove_mean,
)


def noise(batch, samples, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(batch, samples, generator=generator, dtype=torch.float64) - 0.5).to(dtype)


@pytest.mark.parametrize("samples", [0, 1, 399, 400, 401, 559, 560, 561, 16000, 16079, 16080])
def test_frames_are_those_whose_window_fits(samples):
    fit = sum(start + 400 <= samples for start in range(0, samples + 1, 160))
    assert frames(samples) == fit
    values, mask = LogMel()(torch.zeros(1, samples))
    assert values.shape == (1, fit, 80)
    assert mask.shape == (1, fit)
    assert mask.all()


def test_a_pure_tone_peaks_in_its_band_with_its_energy():
    hertz, amplitude = 1000.0, 0.25  # the centre of Fourier bin 32
    tone = amplitude * torch.sin(2 * math.pi * hertz * torch.arange(16000, dtype=torch.float64) / 16000)
    values, _ = LogMel(LogMelConfig(mels=40, remove_mean=False))(tone[None])
    filters = mel_filters(40, 20.0, 8000.0)
    assert (values[0].argmax(dim=1) == filters[32].argmax()).all()
    # Parseval: energy of the windowed tone over both halves of the spectrum; a flat sum over bins keeps one half
    flat = log_mel(tone[None], torch.hann_window(400, dtype=torch.float64), torch.ones(257, 1, dtype=torch.float64))
    windowed = (tone[:400] * torch.hann_window(400, dtype=torch.float64)).square().sum() * 512 / 2
    torch.testing.assert_close(flat[0, 0, 0].exp(), windowed, rtol=1e-6, atol=0)


def test_silence_is_the_floor_and_gain_is_an_offset():
    plain = LogMel(LogMelConfig(mels=40, remove_mean=False, floor=1e-6))
    assert torch.equal(plain(torch.zeros(1, 4000))[0], torch.full((1, 23, 40), 1e-6).log())
    loud = noise(1, 4000)
    torch.testing.assert_close(plain(loud / 4)[0], plain(loud)[0] - 2 * math.log(4), rtol=0, atol=1e-5)
    front = LogMel(LogMelConfig(mels=40))
    torch.testing.assert_close(front(loud / 4)[0], front(loud)[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("remove", [True, False])
@pytest.mark.parametrize("garbage", [0.0, 1e3, math.nan])
def test_padding_never_changes_real_frames(remove, garbage):
    front = LogMel(LogMelConfig(mels=40, remove_mean=remove))
    lengths = [16000, 9999, 400, 399, 0]
    waveform = noise(5, 16000)
    for row, length in enumerate(lengths):
        waveform[row, length:] = garbage
    values, mask = front(waveform, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        alone, _ = front(waveform[row : row + 1, :length])
        count = frames(length)
        assert mask[row].tolist() == [t < count for t in range(98)]
        torch.testing.assert_close(values[row, :count], alone[0], rtol=0, atol=1e-5)
        assert not values[row, count:].any()


@pytest.mark.parametrize("at_once", [1, 7, 10**9])
def test_stretches_equal_the_whole(at_once):
    waveform = noise(3, 20000, dtype=torch.float64)
    window, filters = torch.hann_window(400, dtype=torch.float64), mel_filters(40, 20.0, 8000.0)
    whole = log_mel(waveform, window, filters)
    assert whole.shape == (3, frames(20000), 40)
    torch.testing.assert_close(log_mel(waveform, window, filters, frames_at_once=at_once), whole, rtol=0, atol=1e-10)


def test_a_window_of_a_recording_gives_its_frames():
    front = LogMel(LogMelConfig(remove_mean=False))
    waveform = noise(1, 32000)
    whole, mask = front(waveform)
    part, part_mask = front(waveform[:, 50 * 160 : 50 * 160 + 8000])
    torch.testing.assert_close(part[0], whole[0, 50 : 50 + part.shape[1]], rtol=0, atol=1e-5)
    mean = recording_mean(whole, mask)
    torch.testing.assert_close(
        remove_mean(part, part_mask, mean)[0],
        remove_mean(whole, mask)[0, 50 : 50 + part.shape[1]],
        rtol=0,
        atol=1e-5,
    )


def test_laws_of_mean_removal():
    def call(x, weight=None):
        return remove_mean(x, torch.ones(x.shape[:2], dtype=torch.bool) if weight is None else weight)

    check_laws(
        Subject(
            name="mean removal",
            call=call,
            inputs=lambda b, t, g: (torch.randn(b, t, 3, dtype=torch.float64, generator=g),),
            output="kept",
            weights="mask",
        )
    )


def test_mean_over_no_frame_is_zero():
    assert not recording_mean(torch.ones(1, 4, 3), torch.zeros(1, 4, dtype=torch.bool)).any()


def test_mean_over_real_frames_is_zero():
    values, mask = LogMel()(noise(2, 16000), torch.tensor([16000, 5000]))
    torch.testing.assert_close(recording_mean(values, mask), torch.zeros(2, 1, 80), rtol=0, atol=1e-5)


def test_gradient_reaches_the_waveform():
    front = LogMel(LogMelConfig(mels=3, floor=1e-12)).double()
    waveform = noise(1, 560, dtype=torch.float64).requires_grad_()
    rows = torch.arange(0, 560, 37)

    def run(some):
        return front(waveform.detach().index_copy(1, rows, some))[0]

    assert torch.autograd.gradcheck(run, waveform.detach()[:, rows].clone().requires_grad_())


def test_half_precision_outside_does_not_reach_the_energies():
    front, waveform = LogMel(), noise(1, 8000)
    expected, _ = front(waveform)
    with torch.autocast("cpu", torch.bfloat16):
        got, _ = front(waveform)
    assert torch.equal(got, expected)
    low, _ = front(waveform.bfloat16())
    assert low.dtype == torch.float32
    assert low.isfinite().all()


@pytest.mark.parametrize("mels", [40, 64, 80])
def test_every_band_has_bins_and_neighbours_share_the_rest(mels):
    filters = mel_filters(mels, 20.0, 8000.0).numpy()
    assert filters.shape == (257, mels)
    assert (filters.sum(axis=0) > 0).all()
    assert filters.min() == 0
    assert filters.max() <= 1
    bins = np.arange(257) * 31.25
    edges = 700 * (
        10 ** (np.linspace(2595 * np.log10(1 + 20 / 700), 2595 * np.log10(1 + 8000 / 700), mels + 2) / 2595) - 1
    )
    inside = (bins >= edges[1]) & (bins <= edges[-2])
    np.testing.assert_allclose(filters[inside].sum(axis=1), 1, atol=1e-12)  # triangles add up to 1 between the peaks


def test_masks_and_lengths():
    assert frame_mask(torch.tensor([2, 0, 3]), 3).tolist() == [[True, True, False], [False] * 3, [True] * 3]
    for lengths in ([3], [3, 11], [-1, 3]):
        with pytest.raises(RequestError, match="lengths is"):
            checked_lengths(torch.zeros(2, 10), torch.tensor(lengths))
    with pytest.raises(RequestError, match=r"shape \(10,\)"):
        LogMel()(torch.zeros(10))


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"mels": 0}, "mels is 0"),
        ({"high_hertz": 9000.0}, "high_hertz is 9000"),
        ({"low_hertz": 4000.0, "high_hertz": 3000.0}, "low_hertz is 4000"),
        ({"floor": 0.0}, "floor is 0"),
        ({"mels": 300}, "300 bands"),
    ],
)
def test_settings_that_cannot_be_served_are_named(wrong, named):
    with pytest.raises(RequestError, match=named):
        LogMel(LogMelConfig(**wrong))

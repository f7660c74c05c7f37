import io
import os
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from weigher.io.audio import (
    SAMPLE_RATE,
    AudioError,
    audio_channels,
    audio_seconds,
    read_audio,
    stream_audio,
    stream_channels,
    write_audio,
)

EXCERPTS = Path(__file__).parents[3] / "shared" / "data" / "speech" / "ami_excerpts"


def noise(seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    """Noise without the top fifth of the band, as recorded sound is: a resampler's edge band is no ground for truth."""
    values = np.random.default_rng(rate + channels).standard_normal((round(seconds * rate), channels)) * 0.1
    spectrum = np.fft.rfft(values, axis=0)
    spectrum[len(spectrum) * 4 // 5 :] = 0
    return np.fft.irfft(spectrum, len(values), axis=0)


@pytest.fixture
def save(tmp_path):
    def save(values, rate, name="a.wav", subtype=None, kind=None) -> Path:
        soundfile.write(tmp_path / name, values, rate, subtype=subtype, format=kind)
        return tmp_path / name

    return save


# --- what comes out ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000, 96000])
def test_a_sine_of_any_rate_is_the_same_sine_at_16_khz(save, rate):
    sine = np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    samples = read_audio(save(0.5 * sine, rate, subtype="FLOAT"))
    assert samples.dtype == np.float32
    assert samples.shape == (SAMPLE_RATE,)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(SAMPLE_RATE) / SAMPLE_RATE)
    inside = slice(400, -400)
    assert np.abs(samples - expected)[inside].max() < 1e-3


@pytest.mark.parametrize(
    ("name", "subtype", "tolerance"),
    [
        ("a.wav", "PCM_16", 1 / 2**15),
        ("a.wav", "PCM_24", 1 / 2**22),
        ("a.wav", "PCM_U8", 1e-2),
        ("a.wav", "FLOAT", 1e-7),
        ("a.wav", "DOUBLE", 1e-7),
        ("a.flac", "PCM_16", 1 / 2**15),
        ("a.flac", "PCM_24", 1 / 2**22),
        ("a.aiff", "PCM_16", 1 / 2**15),
        ("a.caf", "PCM_16", 1 / 2**15),
        ("a b;ñ 音.flac", "PCM_16", 1 / 2**15),
    ],
)
def test_formats_and_names(save, name, subtype, tolerance):
    values = noise(0.5, 16000)[:, 0]
    assert np.abs(read_audio(save(values, 16000, name, subtype)) - values).max() <= tolerance


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_channels_are_averaged(save, channels, rate):
    values = noise(0.6, rate, channels)
    expected = soxr.resample(values.mean(axis=1), rate, SAMPLE_RATE)
    assert np.abs(read_audio(save(values, rate, subtype="FLOAT")) - expected).max() < 1e-4


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_channels_are_kept_apart_in_their_order(save, channels, rate):
    values = noise(20, rate, channels) * np.arange(1, channels + 1)  # of several blocks
    path = save(values, rate, subtype="FLOAT")
    blocks = list(stream_channels(path))
    found = np.concatenate(blocks)
    assert len(blocks) > 1
    assert (found.shape, found.dtype) == ((20 * SAMPLE_RATE, channels), np.float32)
    expected = np.stack([soxr.resample(values[:, k], rate, SAMPLE_RATE) for k in range(channels)], axis=1)
    assert np.abs(found - expected).max() < 1e-4
    assert np.abs(found.mean(axis=1) - read_audio(path)).max() < 1e-6
    assert audio_channels(path) == channels


def test_channels_of_what_is_no_recording_fail_at_the_call(tmp_path):
    for ask in (stream_channels, audio_channels):
        with pytest.raises(AudioError, match="does not exist"):
            ask(tmp_path / "none.wav")


def test_silence_is_fine(save):
    assert not read_audio(save(np.zeros(4000), 8000)).any()
    assert audio_seconds(save(np.zeros(4000), 8000)) == 0.5


def test_length_is_that_of_the_header(save):
    assert audio_seconds(save(noise(1.5, 44100), 44100)) == 1.5


# --- parts and windows ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rate"),
    [("a.wav", 16000), ("a.flac", 16000), ("a.wav", 44100), ("a.flac", 8000), ("a.wav", 12345), ("a.ogg", 22050)],
)
@settings(max_examples=15, deadline=None)
@given(start=st.floats(0, 2.9), duration=st.none() | st.floats(1e-3, 4))
def test_a_part_is_that_slice_of_the_whole(tmp_path_factory, name, rate, start, duration):
    path = tmp_path_factory.getbasetemp() / f"{rate}-{name}"
    if not path.exists():
        soundfile.write(path, noise(3, rate, 2), rate)
    whole = read_audio(path)
    end = len(whole) if duration is None else round((start + duration) * SAMPLE_RATE)
    part = read_audio(path, start_seconds=start, duration_seconds=duration)
    expected = whole[round(start * SAMPLE_RATE) : end]
    assert part.shape == expected.shape
    assert np.abs(part - expected).max(initial=0) < 1e-4


def test_a_part_decodes_only_its_neighbourhood(save):
    path = save(np.zeros(44100 * 120), 44100)
    read_audio(path, duration_seconds=0.1)
    tracemalloc.start()
    read_audio(path, start_seconds=100, duration_seconds=0.5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6  # the whole would be 7.7e6 at 16 kHz


@pytest.mark.parametrize("rate", [16000, 44100, 8000])
@pytest.mark.parametrize(("window", "step"), [(1.0, 1.0), (2.0, 0.5), (0.33, 0.21), (30.0, 15.0), (19.0, 1.0)])
def test_windows_are_slices_of_the_whole_and_cover_it(save, rate, window, step):
    path = save(noise(20.0, rate), rate)
    whole = read_audio(path)
    covered = np.zeros(len(whole), bool)
    windows = list(stream_audio(path, window_seconds=window, step_seconds=step))
    for index, (start, samples) in enumerate(windows):
        first = index * round(step * SAMPLE_RATE)
        assert start == first / SAMPLE_RATE
        expected = whole[first : first + round(window * SAMPLE_RATE)]
        assert samples.shape == expected.shape
        assert np.abs(samples - expected).max() < 1e-4
        covered[first : first + len(samples)] = True
    assert covered.all()
    ends = [start * SAMPLE_RATE + len(samples) for start, samples in windows]
    assert [end >= len(whole) for end in ends] == [False] * (len(ends) - 1) + [True]


def test_memory_of_a_stream_does_not_grow_with_length(save):
    def peak(seconds: int) -> int:
        path = save(np.zeros((seconds * 8000, 2), np.int16), 8000)
        tracemalloc.start()
        for _ in stream_audio(path, window_seconds=10, step_seconds=5):
            pass
        result = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return result

    short = peak(60)
    assert peak(600) < short + 200_000  # the whole would be 38.4 MB
    assert short < 12e6


def test_memory_of_channels_does_not_grow_with_length(save):
    def peak(seconds: int) -> int:
        path = save(np.zeros((seconds * 8000, 2), np.int16), 8000)
        tracemalloc.start()
        for _ in stream_channels(path):
            pass
        result = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return result

    short = peak(60)
    assert peak(600) < short + 200_000  # the whole would be 76.8 MB
    assert short < 12e6


def test_windows_the_caller_keeps_are_not_overwritten(save):
    path = save(noise(3, 16000), 16000)
    windows = stream_audio(path, window_seconds=1, step_seconds=0.5)
    _, first = next(windows)
    first[:] = 7
    _, second = next(windows)
    assert (second != 7).all()


# --- bad input --------------------------------------------------------------------------------------------------------


def all_readers(path):
    yield lambda: read_audio(path)
    yield lambda: audio_seconds(path)
    yield lambda: stream_audio(path, window_seconds=1, step_seconds=1)  # at the call, before the first window


def assert_refused(path, match, readers=all_readers):
    for reader in readers(path):
        with pytest.raises(AudioError, match=match) as caught:
            reader()
        assert str(path) in str(caught.value)


def test_audio_that_may_not_be_read_says_so(tmp_path, monkeypatch):
    write_audio(tmp_path / "a.wav", np.zeros(1600))
    with monkeypatch.context() as patch:
        patch.setattr("os.access", lambda path, mode: False)
        assert_refused(tmp_path / "a.wav", r"cannot be read \(permission denied\); make it readable")


def test_missing_folder_empty_and_no_audio(tmp_path):
    assert_refused(tmp_path / "none.wav", "does not exist")
    assert_refused(tmp_path, "not a file")
    (tmp_path / "empty.wav").touch()
    assert_refused(tmp_path / "empty.wav", "0 bytes")
    (tmp_path / "text.wav").write_text("these are words, not sound")
    assert_refused(tmp_path / "text.wav", "cannot be read as audio")
    (tmp_path / "a.raw").write_bytes(bytes(100))
    assert_refused(tmp_path / "a.raw", "cannot be read as audio")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the file system refuses such names by itself")
def test_a_name_that_is_not_utf_8(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/b\xffd.wav")
    with open(path, "wb") as file:
        file.write(b"sound")
    with pytest.raises(AudioError, match=r"b\\xffd.wav is not UTF-8; rename"):
        read_audio(path)


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_no_samples(save, name):
    assert_refused(save(np.zeros(0), 16000, name), "is empty")
    assert_refused(save(np.zeros(1), 48000, name), "is empty")  # less than one sample at 16 kHz


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_cut_header(save, name):
    path = save(noise(1, 16000), 16000, name)
    path.write_bytes(path.read_bytes()[:20])
    assert_refused(path, "cannot be read as audio")


@pytest.mark.parametrize("rate", [16000, 44100])
def test_flac_cut_in_its_data(save, rate):
    path = save(noise(4, rate), rate, "a.flac")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(AudioError, match=r"a\.flac is damaged or cut short: its header promises 4.00 s"):
        read_audio(path)
    with pytest.raises(AudioError, match="cut short"):
        list(stream_audio(path, window_seconds=1, step_seconds=1))
    if rate == SAMPLE_RATE:
        assert len(read_audio(path, duration_seconds=0.5)) == 8000  # what is there can be had


def test_flac_of_unknown_length(save):
    path = save(noise(1, 16000), 16000, "a.flac")
    content = bytearray(path.read_bytes())
    start = 8 + 10  # in STREAMINFO: 20 bits rate, 3 channels, 5 depth, 36 bits of total samples, 0 = unknown
    fields = int.from_bytes(content[start : start + 8], "big")
    assert fields & (1 << 36) - 1 == 16000
    content[start : start + 8] = (fields >> 36 << 36).to_bytes(8, "big")
    path.write_bytes(content)
    assert_refused(path, "does not say how long")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("rate", "place"), [(16000, 0), (16000, 200_000), (44100, 300_000)])
def test_the_time_of_the_first_bad_value_is_named(save, value, rate, place):
    values = noise(8 * 16000 * 2 / rate + 8, rate, 2)
    values[place, 1] = value
    values[place + 5, 0] = -value
    path = save(values, rate, subtype="FLOAT")
    for read in (read_audio, lambda path: list(stream_audio(path, window_seconds=1, step_seconds=1))):
        with pytest.raises(AudioError, match=f"NaN or infinity.* at {place / rate:.4f} s") as caught:
            read(path)
        assert str(path) in str(caught.value)


def test_parts_that_make_no_sense(save):
    path = save(noise(1, 16000), 16000)
    for start, duration in [(-1, None), (np.nan, None), (0, 0), (0, -1), (0, np.nan), (1, None), (5, 1)]:
        with pytest.raises(AudioError):
            read_audio(path, start_seconds=start, duration_seconds=duration)
    for window, step in [(1, 0), (1, 2), (0, 0), (1, -1)]:
        with pytest.raises(AudioError, match="step"):
            stream_audio(path, window_seconds=window, step_seconds=step)


# --- writing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.flac", "a.wav", "b.FLAC"])
def test_written_audio_comes_back(tmp_path, name):
    values = noise(0.3, 16000)[:, 0]
    values[:2] = 1, -1
    write_audio(tmp_path / name, values)
    errors = np.abs(read_audio(tmp_path / name) - values)
    assert errors[0] <= 1 / 2**15  # +1 itself has no 16-bit level
    assert errors[1:].max() <= 0.5 / 2**15 + 1e-7
    write_audio(tmp_path / name, values, sample_rate=8000)
    assert audio_seconds(tmp_path / name) == 0.6
    assert soundfile.info(tmp_path / name).subtype == "PCM_16"


@pytest.mark.parametrize("bad", [np.zeros((4, 2)), np.zeros(0), np.array([0, 1.01]), np.array([0, np.nan])])
def test_what_cannot_be_written_is_refused_and_the_old_file_stays(tmp_path, bad):
    path = tmp_path / "a.wav"
    path.write_bytes(b"old")
    with pytest.raises(AudioError, match=r"a\.wav"):
        write_audio(path, bad)
    with pytest.raises(AudioError, match=r"\.flac or \.wav"):
        write_audio(tmp_path / "a.mp3", np.zeros(10))
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.wav"]
    assert path.read_bytes() == b"old"


@pytest.mark.skipif(not EXCERPTS.is_dir(), reason="the real meeting excerpts of ../shared/data are not on this machine")
def test_real_meetings_with_a_non_ascii_name_and_a_silent_one():
    for path in sorted(EXCERPTS.glob("*.flac")):
        samples = read_audio(path)
        reference, rate = soundfile.read(io.BytesIO(path.read_bytes()), dtype="float32")
        assert rate == SAMPLE_RATE
        assert np.array_equal(samples, reference)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_parts_of_no_sample_and_beyond_all_numbers(tmp_path, rate):
    path = tmp_path / "noise.wav"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 2 * rate), rate)
    with pytest.raises(AudioError, match=r"noise\.wav: a part of 1e-05 s from 0 s on holds no sample"):
        read_audio(path, duration_seconds=0.00001)
    for start in (2.0, 1e10, 1e305, 1.7e308):
        with pytest.raises(AudioError, match=r"2\.000 s long; a part from .{1,10} s on is not in it"):
            read_audio(path, start_seconds=start)
    whole = read_audio(path)
    for duration in (2.0, 1e10, 1e305, 1.7e308):
        assert np.array_equal(read_audio(path, duration_seconds=duration), whole)
        part = read_audio(path, start_seconds=0.5, duration_seconds=duration)
        assert part == pytest.approx(whole[8000:], abs=1e-6)

import numpy as np
import pytest

from weigher.errors import RequestError
from weigher.recordings.synthesise import Speaker, _tract, draw_speakers, synthesise, synthesise_voices


def voice(**change) -> Speaker:
    usual = {
        "pitch_hz": 120.0,
        "pitch_octaves": 0.0,
        "jitter": 0.0,
        "tract_scale": 1.0,
        "resonance_scales": (1.0, 1.0, 1.0, 1.0),
        "tilt": 0.8,
        "breath": 0.0,
        "syllables_per_second": 4.0,
    }
    return Speaker(**(usual | change))


def measured_pitch(x: np.ndarray) -> float:
    """From the highest peak of the autocorrelation between 60 and 350 Hz."""
    spectrum = np.abs(np.fft.rfft(x, 2 * len(x))) ** 2
    correlation = np.fft.irfft(spectrum)[: len(x)]
    lags = np.arange(16000 // 350, 16000 // 60)
    return 16000 / float(lags[np.argmax(correlation[lags])])


@pytest.mark.parametrize("pitch_hz", [90.0, 130.0, 210.0])
def test_a_voice_has_its_pitch(pitch_hz):
    x = synthesise(voice(pitch_hz=pitch_hz), 4.0, np.random.default_rng(0))
    assert measured_pitch(x) == pytest.approx(pitch_hz, rel=0.04)


def test_a_short_tract_lifts_the_spectrum():
    def centroid(scale: float) -> float:
        x = synthesise(voice(tract_scale=scale), 8.0, np.random.default_rng(3))
        power = np.abs(np.fft.rfft(x)) ** 2
        f = np.fft.rfftfreq(len(x), 1 / 16000)
        low = f < 2400  # the voice; above it hiss would blur the comparison
        return float((power * f)[low].sum() / power[low].sum())

    assert centroid(1.15) > 1.08 * centroid(0.85)


def test_the_tract_resonates_where_it_should_and_passes_direct_current():
    f = np.linspace(0, 8000, 8001)
    gain = _tract(f, np.array([[500.0, 1500.0, 2500.0, 3500.0]]))[0]
    assert gain[0] == pytest.approx(1.0)
    peaks = np.flatnonzero((gain[1:-1] > gain[:-2]) & (gain[1:-1] > gain[2:])) + 1
    np.testing.assert_allclose(peaks, [500, 1500, 2500, 3500], rtol=0.01)


def test_speech_comes_in_syllables_with_pauses():
    x = synthesise(voice(), 10.0, np.random.default_rng(1))
    level = 10 * np.log10((x.reshape(-1, 160).astype(float) ** 2).mean(1) + 1e-12)
    loud = level > level.max() - 30
    assert 0.5 < loud.mean() < 0.98
    onsets = int((np.diff(loud.astype(int)) == 1).sum())
    assert 5 < onsets < 50


def test_speakers_are_spread_over_every_property():
    drawn = draw_speakers(20, np.random.default_rng(0))
    pitches = np.sort([s.pitch_hz for s in drawn])
    # one in each twentieth of the octaves between 85 and 255 Hz
    assert (np.floor(np.log(pitches / 85) / np.log(3) * 20).astype(int) == np.arange(20)).all()
    assert len({(s.tilt, s.breath, s.tract_scale) for s in drawn}) == 20


def test_same_seed_same_voice_and_utterances_differ():
    one, two, other = (synthesise_voices(None, speakers=2, utterances=2, seconds=1.0, seed=s) for s in (0, 0, 1))
    loaded = [u.load() for u in one.utterances]
    for x, u in zip(loaded, two.utterances, strict=True):
        assert x.dtype == np.float32
        assert x.shape == (16000,)
        np.testing.assert_array_equal(x, u.load())
    assert not np.array_equal(loaded[0], loaded[1])
    assert not np.array_equal(loaded[0], other.utterances[0].load())


@pytest.mark.parametrize("seconds", [0.5, 0.777, 3.0])
def test_length_and_peak_are_as_promised(seconds):
    x = synthesise(voice(), seconds, np.random.default_rng(0))
    assert len(x) == round(seconds * 16000)
    assert np.abs(x).max() == pytest.approx(0.5)


def test_written_voices_are_the_unwritten_ones(tmp_path):
    request = {"speakers": 2, "utterances": 2, "seconds": 1.0, "seed": 3}
    kept, written = synthesise_voices(None, **request), synthesise_voices(tmp_path, **request)
    assert (tmp_path / "synth001" / "001.flac").is_file()
    assert [(u.speaker, u.name) for u in kept.utterances] == [(u.speaker, u.name) for u in written.utterances]
    for a, b in zip(kept.utterances, written.utterances, strict=True):
        np.testing.assert_allclose(a.load(), b.load(), atol=1e-4)


@pytest.mark.parametrize("wrong", [{"speakers": 0}, {"utterances": 0}, {"seconds": 0.1}])
def test_nothing_to_make_is_refused(wrong):
    with pytest.raises(RequestError, match="synthesised voices need"):
        synthesise_voices(None, **({"speakers": 1, "utterances": 1, "seconds": 1.0} | wrong))

import numpy as np
import pytest

from weigher.errors import RequestError
from weigher.recordings.silence import check_nats, quiet_frames, silence_power

BANDS = 12


def talk(rng, *, pause, gap, floor=0.0, loud=7.0, bands=BANDS):
    """Log-power of 3 s speech with a pause in it, a gap, 3 s speech, in 10 ms steps; and where the gap is."""
    parts = [(150, loud), (pause, floor), (150, loud), (gap, floor), (300, loud)]
    level = np.concatenate([np.full(count, height) for count, height in parts])
    values = level[:, None] + rng.normal(0, 0.3, (len(level), bands))
    begin = 300 + pause
    return values.astype(np.float16), slice(begin, begin + gap)


def test_a_gap_is_quiet_and_a_pause_between_words_is_not():
    values, gap = talk(np.random.default_rng(0), pause=40, gap=120)
    quiet = quiet_frames(values, 4, 0.04, "log-power")
    assert quiet.shape == (-(-len(values) // 4),)
    expected = np.zeros(len(values), bool)
    expected[gap] = True
    assert (np.repeat(quiet, 4)[: len(values)] != expected).mean() < 0.01


@pytest.mark.parametrize("floor", [-20.0, 0.0, 12.0])
def test_level_and_colour_of_the_recording_do_not_matter(floor):
    rng = np.random.default_rng(1)
    values, _ = talk(rng, pause=40, gap=120)
    other = values.astype(np.float64) + floor + rng.normal(0, 3, BANDS)
    assert (quiet_frames(other, 4, 0.04, "log-power") == quiet_frames(values, 4, 0.04, "log-power")).all()


def test_samples_are_judged_by_their_power():
    rng = np.random.default_rng(2)
    loud = np.repeat([1.0, 0.001, 1.0, 0.001], [16000, 4000, 16000, 16000])
    quiet = quiet_frames((loud * rng.normal(0, 0.1, len(loud))).astype(np.float32), 320, 0.02, "waveform")
    expected = np.arange(len(quiet)) * 320 >= 36000
    assert (quiet != expected).mean() < 0.01


@pytest.mark.parametrize(("gap", "found"), [(58, False), (61, True)])
def test_quiet_of_six_tenths_of_a_second_counts(gap, found):
    values = np.full((400, BANDS), 8.0)
    values[100 : 100 + gap] = 0.0
    assert quiet_frames(values, 1, 0.01, "log-power").any() == found


def test_what_never_changes_is_not_quiet_and_nothing_is_nothing():
    assert not quiet_frames(np.zeros((500, BANDS)), 4, 0.04, "log-power").any()
    assert not quiet_frames(np.zeros(16000, np.float32), 320, 0.02, "waveform").any()
    assert quiet_frames(np.zeros((0, BANDS)), 4, 0.04, "log-power").shape == (0,)


def test_features_without_level_are_refused():
    with pytest.raises(RequestError, match="have none"):
        quiet_frames(np.zeros((10, 2)), 4, 0.04, "replace")


@pytest.mark.parametrize(("least", "most", "fits"), [(-60, 15, True), (-60, 25, False), (1999, 2001, False)])
def test_what_no_power_can_be_taken_of_is_refused(least, most, fits):
    values = np.linspace(least, most, 10, dtype=np.float32)[:, None]
    if fits:
        check_nats(values, "a.npz")
        return
    with pytest.raises(RequestError, match=f"a.npz: the features span {most - least}, up to {most}; voices are added"):
        check_nats(values, "a.npz")


def test_silence_is_what_the_softest_twentieth_has_in_each_band():
    power = np.random.default_rng(3).uniform(1, 2, (2000, 3)) * [1.0, 10.0, 100.0]
    np.testing.assert_allclose(silence_power(np.log(power)), np.quantile(power, 0.05, axis=0), rtol=1e-3)

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weigher.errors import RequestError, WeigherError
from weigher.recordings.recompose import (
    GRID_SECONDS,
    RecomposeConfig,
    Recomposer,
    Stretches,
    draw_activity,
    runs,
)

PLAIN = {"level_jitter": 0.0, "nearly_silent": 0.0}
QUIET = -20.0
LEVELS = {3: 1.0, 7: 2.0, 11: 4.0}  # label -> the constant value of its stretches


def archive(mix, quiet=True):
    """One recording per label, constant, with silence and something else around the stretch; quiet ones last."""
    values, rows = [], []
    for number, (label, level) in enumerate(LEVELS.items()):
        whole = np.full(90, 99.0, np.float32)
        whole[:10] = QUIET
        whole[20:70] = level
        values.append(whole)
        rows += [(number, 20, 45, label), (number, 45, 70, label)]
    values.append(np.full(40, QUIET, np.float32))
    if quiet:
        rows.append((len(LEVELS), 5, 35, -1))
    if mix != "waveform":
        values = [np.stack([whole, whole + 0.25], 1) for whole in values]
    return values, Stretches(*np.array(rows).T)


def at_steps(active, steps, hop):
    """Activity on its own grid -> at the middle of each step of the values."""
    grid = max(hop, GRID_SECONDS)
    middle = ((np.arange(steps) + 0.5) * hop / grid).astype(int)
    return active[middle]


@given(st.lists(st.integers(-2, 2), max_size=30))
def test_runs_are_those_of_groupby(states):
    starts, ends, kinds = runs(np.array(states, int))
    expected, place = [], 0
    for state, group in itertools.groupby(states):
        size = len(list(group))
        expected.append((place, place + size, state))
        place += size
    assert list(zip(starts, ends, kinds, strict=True)) == expected


@pytest.mark.parametrize("hop", [0.01, 0.005, 0.007, 0.003, 0.02, 0.025, 0.3])
def test_log_power_adds_as_the_logarithm_of_the_sum(hop):
    recomposer = Recomposer(*archive("log-power"), hop, "log-power", RecomposeConfig(seconds=6.0, **PLAIN))
    rng, overlaps = np.random.default_rng(0), 0
    for _ in range(8):
        sound, active, people = recomposer.conversation(rng)
        assert sound.dtype == np.float32
        assert sound.shape == (int(6.0 / hop + 1e-6), 2)
        assert active.shape == (round(6.0 / max(hop, GRID_SECONDS)), len(people))
        assert set(people) <= set(LEVELS)
        assert len(set(people)) == len(people)
        spoken = at_steps(active, len(sound), hop)
        power = spoken @ np.exp([LEVELS[label] for label in people])
        expected = np.log(power + np.exp(QUIET))
        loud = spoken.any(1)
        # the mean of each band is taken away, and the level of the background is drawn: only differences are known
        gap = (sound - expected[:, None])[loud]
        assert np.ptp(gap, axis=0).max() < 1e-3
        np.testing.assert_allclose(sound.mean(0), 0, atol=1e-3)
        overlaps += (spoken.sum(1) > 1).sum()
        if loud.any() and not loud.all():
            assert sound[loud].min() > sound[~loud].max() + 10
    assert overlaps


def test_pauses_between_words_sound_like_silence_however_many_speak():
    """Recordings have a silence of their own, which is heard once: its sum would tell how many have a turn."""
    rng = np.random.default_rng(0)
    values = []
    for _ in range(3):
        words = np.where(np.arange(400) % 8 < 4, rng.normal(0, 1, 400), -5.0)  # every other 40 ms a pause
        values.append(np.stack([words, words - 1], 1).astype(np.float32))
    values.append(np.full((400, 2), [-5.0, -6.0], np.float32))
    stretches = Stretches(np.arange(4), np.zeros(4, int), np.full(4, 400), np.array([0, 1, 2, -1]))
    recomposer = Recomposer(values, stretches, 0.01, "log-power", RecomposeConfig(seconds=8.0, **PLAIN))
    pauses = 0
    for _ in range(10):
        sound, active, people = recomposer.conversation(rng)
        silence = sound[~active.any(1)]
        if len(people) < 2 or not len(silence):
            continue
        np.testing.assert_allclose(silence, np.broadcast_to(silence[0], silence.shape), atol=1e-4)
        softest = np.quantile(sound[active.sum(1) > 0], 0.2, axis=0)
        np.testing.assert_allclose(softest, silence[0], atol=1e-3)
        pauses += 1
    assert pauses >= 3


@pytest.mark.parametrize("quiet", [True, False])
@pytest.mark.parametrize("hop", [1 / 16000, 0.01, 0.0007])
def test_waveforms_add_as_sums(hop, quiet):
    recomposer = Recomposer(*archive("waveform", quiet), hop, "waveform", RecomposeConfig(seconds=3.0, **PLAIN))
    rng = np.random.default_rng(1)
    for _ in range(5):
        sound, active, people = recomposer.conversation(rng)
        assert sound.shape == (int(3.0 / hop + 1e-6),)
        spoken = at_steps(active, len(sound), hop)
        expected = spoken @ np.array([LEVELS[label] for label in people]) + (QUIET if quiet else 0.0)
        np.testing.assert_allclose(sound, expected, atol=1e-4)


@pytest.mark.parametrize("quiet", [True, False])
@pytest.mark.parametrize("hop", [0.01, 0.02, 0.1])
def test_replace_replaces(hop, quiet):
    recomposer = Recomposer(*archive("replace", quiet), hop, "replace", RecomposeConfig(seconds=6.0, **PLAIN))
    rng = np.random.default_rng(2)
    for _ in range(8):
        sound, active, people = recomposer.conversation(rng)
        assert active.sum(1).max() <= 1
        spoken = at_steps(active, len(sound), hop)
        levels = spoken @ np.array([LEVELS[label] for label in people])
        # silence is a quiet stretch or, without one, the least of the first recording
        expected = np.where(spoken.any(1), levels, QUIET)
        np.testing.assert_allclose(sound, np.stack([expected, expected + 0.25], 1), atol=1e-5)


@pytest.mark.parametrize("mix", ["log-power", "waveform", "replace"])
def test_the_generator_is_all_that_is_random(mix):
    recomposer = Recomposer(*archive(mix), 0.01, mix, RecomposeConfig(seconds=2.0))
    first, again, other = (recomposer.conversation(np.random.default_rng(seed)) for seed in (4, 4, 5))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


def test_archives_are_not_changed_and_half_precision_will_do():
    values, stretches = archive("log-power")
    half = [whole.astype(np.float16) for whole in values]
    before = [whole.copy() for whole in half]
    config = RecomposeConfig(seconds=2.0)
    sound, _, _ = Recomposer(half, stretches, 0.01, "log-power", config).conversation(np.random.default_rng(0))
    assert sound.dtype == np.float32
    assert np.isfinite(sound).all()
    assert all(np.array_equal(a, b) for a, b in zip(half, before, strict=True))


def test_levels_jitter():
    # one person alone, so that the first frame spoken differs from silence by a drawn level
    values, stretches = archive("waveform", quiet=False)
    only = Stretches(*(part[:2] for part in (stretches.recording, stretches.start, stretches.end, stretches.label)))
    recomposer = Recomposer(values, only, 0.01, "waveform", RecomposeConfig(seconds=3.0, nearly_silent=0.0))
    rng = np.random.default_rng(0)
    levels = [recomposer.conversation(rng)[0].max() for _ in range(200)]
    assert np.std(2 * np.log(levels)) == pytest.approx(0.5, rel=0.2)


def test_everybody_is_drawn_and_up_to_as_many_as_asked():
    recomposer = Recomposer(*archive("replace"), 0.1, "replace", RecomposeConfig(seconds=1.0, max_speakers=2))
    rng = np.random.default_rng(0)
    casts = [tuple(sorted(recomposer.conversation(rng)[2])) for _ in range(200)]
    assert set(casts) == {(3,), (7,), (11,), (3, 7), (3, 11), (7, 11)}
    assert np.mean([len(cast) == 1 for cast in casts]) == pytest.approx(0.5, abs=0.12)
    more = Recomposer(*archive("replace"), 0.1, "replace", RecomposeConfig(seconds=1.0, max_speakers=9))
    assert max(len(more.conversation(rng)[2]) for _ in range(50)) == 3


def test_longer_stretches_are_heard_more_often():
    # one label with stretches of 30 and 10 steps, which hold 1 and 2
    values = [np.repeat([1.0, 2.0], [30, 10]).astype(np.float32)]
    stretches = Stretches(np.array([0, 0]), np.array([0, 30]), np.array([30, 40]), np.array([0, 0]))
    recomposer = Recomposer(values, stretches, 0.01, "waveform", RecomposeConfig(seconds=10.0, **PLAIN))
    rng = np.random.default_rng(0)
    heard = np.concatenate([recomposer.conversation(rng)[0] for _ in range(20)])
    # drawn in proportion to length, and each then heard in full: 30 * 30 against 10 * 10
    assert (heard == 1).sum() / (heard == 2).sum() == pytest.approx(9, rel=0.3)


def test_an_archive_without_anybody_alone_is_refused():
    values, stretches = archive("waveform")
    nobody = Stretches(*(part[-1:] for part in (stretches.recording, stretches.start, stretches.end, stretches.label)))
    none = Stretches(*(part[:0] for part in (stretches.recording, stretches.start, stretches.end, stretches.label)))
    for wrong in (nobody, none):
        with pytest.raises(WeigherError, match="one person speaks alone"):
            Recomposer(values, wrong, 0.01, "waveform")


def test_settings_that_cannot_be():
    for wrong in ({"seconds": 0.0}, {"max_speakers": 0}, {"level_jitter": -1.0}, {"level_jitter": float("nan")}):
        with pytest.raises(RequestError, match=next(iter(wrong))):
            RecomposeConfig(**wrong)


@pytest.mark.parametrize("speakers", [1, 2, 3, 4])
def test_conversations_are_lively_but_not_absurd(speakers):
    rng = np.random.default_rng(0)
    drawn = [draw_activity(speakers, 30.0, rng) for _ in range(60)]
    assert all(active.shape == (3000, speakers) for active in drawn)
    together = np.concatenate(drawn).sum(1)
    speech, overlap = (together > 0).mean(), (together > 1).sum() / (together > 0).sum()
    assert 0.6 < speech < 0.95
    assert 0.08 < overlap < 0.25 if speakers > 1 else overlap == 0
    assert np.mean([active.any(0).mean() for active in drawn]) > 0.9
    lengths = []
    for active, person in itertools.product(drawn, range(speakers)):
        starts, ends, spoken = runs(active[:, person])
        lengths += list((ends - starts)[spoken] * GRID_SECONDS)
    assert 0.7 < np.median(lengths) < 3
    if speakers > 1:
        talk = np.stack([active.sum(0) / active.sum() for active in drawn])
        assert talk.mean(0) == pytest.approx(np.full(speakers, 1 / speakers), abs=0.1)
        assert talk.std() > 0.05


def test_activity_comes_from_the_generator():
    drawn = [draw_activity(3, 10.0, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


def test_some_conversations_are_silent_but_for_a_moment():
    def spoken(share):
        config = RecomposeConfig(seconds=8.0, level_jitter=0.0, nearly_silent=share)
        recomposer, rng = Recomposer(*archive("log-power"), 0.01, "log-power", config), np.random.default_rng(0)
        return np.array([0.01 * recomposer.conversation(rng)[1].any(1).sum() for _ in range(60)])

    assert spoken(0.0).min() > 1.0
    silent = spoken(1.0)
    assert silent.max() < 6.0
    assert 0.1 < np.median(silent[silent > 0]) < 1.0
    assert 5 < (silent == 0).sum() < 45
    assert 0 < (spoken(0.3) < 1.0).sum() < 40


def test_a_share_of_silent_conversations_beyond_one_is_refused():
    with pytest.raises(RequestError, match="from 0 to 1"):
        RecomposeConfig(nearly_silent=1.5)

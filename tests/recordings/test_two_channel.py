"""Two-channel calls that are made of known turns: the turns come back, whatever leaks, hums or differs in gain."""

import tracemalloc
from functools import cache

import numpy as np
import pytest
import soundfile

from weigher.errors import RequestError
from weigher.io.audio import SAMPLE_RATE
from weigher.io.rttm import Segment
from weigher.recordings.score import score
from weigher.recordings.synthesise import synthesise_voices
from weigher.recordings.two_channel import call_turns, channel_levels, read_turns, render_call
from weigher.recordings.voicebank import voice_bank

FIRST, SECOND = "channel1", "channel2"
TALK = (
    Segment(1.0, 5.0, FIRST),
    Segment(5.3, 9.0, SECOND),
    Segment(8.0, 14.0, FIRST),  # both for 1 s
    Segment(10.0, 10.6, SECOND),  # a short answer inside
    Segment(17.0, 24.0, SECOND),
    Segment(24.0, 29.0, FIRST),
)
SECONDS = 32.0


@cache
def babble():
    """Two voices of 20 s without a pause over 0.3 s, at the level of speech."""
    bank = voice_bank(synthesise_voices(None, speakers=2, utterances=1, seconds=30.0, seed=0))
    return [bank.piece(i)[: 20 * SAMPLE_RATE] for i in range(2)]


def parties(turns=TALK, seconds=SECONDS, noise_db=-70.0):
    """Babble [samples, 2] in the turns, over the steady noise of each line."""
    rng = np.random.default_rng(0)
    sound = rng.normal(0, 10 ** (noise_db / 20), (round(seconds * SAMPLE_RATE), 2))
    for channel, party in enumerate((FIRST, SECOND)):
        said = 0
        for turn in (turn for turn in turns if turn.speaker == party):
            first, last = round(turn.start * SAMPLE_RATE), round(turn.end * SAMPLE_RATE)
            sound[first:last, channel] += babble()[channel][said : said + last - first]
            said += last - first
    return sound


def found(call, seconds=SECONDS):
    return call_turns(channel_levels([call]), seconds)


def error(turns, truth=TALK, seconds=SECONDS):
    """DER in per cent, overlap scored, 0.1 s around borders left out; names are given, so none may be swapped."""
    scores = [
        score(
            {"call": [t for t in truth if t.speaker == party]},
            {"call": [t for t in turns if t.speaker == party]},
            uem={"call": [(0.0, seconds)]},
            collar=0.1,
        ).der
        for party in (FIRST, SECOND)
    ]
    return max(scores)


@pytest.fixture(scope="module")
def clean():
    return parties()


@pytest.mark.parametrize(
    "call",
    [
        {"leak_db": -60.0},
        {"leak_db": -25.0},
        {"leak_db": -15.0},
        {"leak_db": -25.0, "gains_db": (0.0, -20.0)},
        {"leak_db": -25.0, "gains_db": (-20.0, 0.0)},
        {"leak_db": -20.0, "leak_seconds": 0.2},
        {"leak_db": -20.0, "leak_seconds": 0.2, "gains_db": (-12.0, 0.0)},
    ],
    ids=str,
)
def test_turns_come_back_through_leaks_gains_and_echoes(clean, call):
    turns = found(render_call(clean, **call))
    assert error(turns) < 7
    # both at once, and the short answer, are heard
    assert any(t.speaker == SECOND and abs(t.start - 10.0) < 0.3 and abs(t.end - 10.6) < 0.3 for t in turns)


def test_where_the_parties_lie_near_each_other_the_louder_one_speaks(clean):
    """Two microphones in one room: 8 dB of leak leaves no overlap to be seen, and no turn is given to both."""
    alone = [Segment(1.0, 5.0, FIRST), Segment(5.3, 9.0, SECOND), Segment(10.0, 14.0, FIRST), Segment(17, 24, SECOND)]
    turns = found(render_call(parties(alone), leak_db=-8.0))
    assert error(turns, alone) < 7


def test_noise_hum_and_offset_are_no_speech():
    sound = parties(noise_db=-45.0)
    time = np.arange(len(sound)) / SAMPLE_RATE
    sound[:, 0] += 0.2  # an offset of the converter
    sound[:, 1] += 0.003 * np.sin(2 * np.pi * 50 * time)
    assert error(found(render_call(sound))) < 10


def test_digital_silence_before_the_call_does_not_lower_the_floor():
    sound = parties(noise_db=-50.0)
    call = np.concatenate([np.zeros((8 * SAMPLE_RATE, 2)), render_call(sound)])
    later = [Segment(t.start + 8, t.end + 8, t.speaker) for t in TALK]
    assert error(found(call, SECONDS + 8), later, SECONDS + 8) < 9


def test_a_soft_sound_far_below_speech_is_none_though_the_line_is_quieter_still():
    sound = parties(noise_db=-90.0)
    sound[240_000:264_000] += np.random.default_rng(0).normal(0, 10 ** (-65 / 20), (24_000, 2))  # from 15 to 16.5 s
    assert not any(t.start < 16.6 and t.end > 14.9 for t in found(render_call(sound, leak_db=-60.0)))


@pytest.mark.parametrize("leak_seconds", [0.0, 0.15])
@pytest.mark.parametrize("leak_db", [-60.0, -30.0, -15.0])
@pytest.mark.parametrize("party", [FIRST, SECOND])
def test_a_party_that_never_speaks_is_given_no_turn(party, leak_db, leak_seconds):
    truth = [t for t in TALK if t.speaker == party]
    turns = found(render_call(parties(truth), leak_db=leak_db, leak_seconds=leak_seconds))
    assert {t.speaker for t in turns} == {party}
    assert error(turns, truth) < 7


def test_silence_has_no_turns():
    assert found(np.zeros((SAMPLE_RATE, 2)), 1.0) == ()
    assert found(np.random.default_rng(0).normal(0, 1e-3, (20 * SAMPLE_RATE, 2)), 20.0) == ()


def test_borders_are_exact_to_a_few_frames():
    rng = np.random.default_rng(1)
    sound = rng.normal(0, 1e-3, (10 * SAMPLE_RATE, 2))
    for first, last, channel in ((1.0, 3.0, 0), (3.5, 6.5, 1), (6.0, 8.0, 0)):
        cut = slice(round(first * SAMPLE_RATE), round(last * SAMPLE_RATE))
        sound[cut, channel] += rng.normal(0, 0.1, cut.stop - cut.start)
    turns = found(sound, 10.0)
    assert [t.speaker for t in turns] == [FIRST, SECOND, FIRST]
    expected = [(1.0, 3.0), (3.5, 6.5), (6.0, 8.0)]
    assert np.abs(np.array([(t.start, t.end) for t in turns]) - expected).max() <= 0.05


def test_gain_of_the_whole_and_order_of_channels_change_nothing(clean):
    call = render_call(clean, gains_db=(-6.0, -12.0))
    turns = found(call)
    assert found(call * 0.5) == turns
    mirrored = {FIRST: SECOND, SECOND: FIRST}
    swapped = {(t.start, t.end, mirrored[t.speaker]) for t in found(call[:, ::-1])}
    assert swapped == {(t.start, t.end, t.speaker) for t in turns}


def test_levels_do_not_depend_on_the_blocks(clean):
    whole = channel_levels([clean])
    cuts = np.cumsum([1, 319, 320, 7, 100_000, 33])
    assert np.array_equal(channel_levels(np.split(clean, cuts)), whole)
    assert len(whole) == -(-len(clean) // 320)
    with pytest.raises(RequestError, match="no sound"):
        channel_levels([])


def test_the_same_sound_on_both_channels_is_refused(clean, tmp_path):
    mono = clean.sum(axis=1)
    with pytest.raises(RequestError, match="the same sound"):
        found(np.column_stack([mono, 0.8 * mono]))
    soundfile.write(tmp_path / "both.wav", np.column_stack([mono, mono]) * 0.5, SAMPLE_RATE)
    with pytest.raises(RequestError, match=r"both\.wav: both channels hold the same sound"):
        read_turns(tmp_path / "both.wav")


@pytest.mark.parametrize(("channels", "said"), [(1, "only 1 channel"), (3, "3 channels")])
def test_other_numbers_of_channels_are_refused(tmp_path, channels, said):
    soundfile.write(tmp_path / "a.wav", np.zeros((8000, channels)), 8000)
    with pytest.raises(RequestError, match=said):
        read_turns(tmp_path / "a.wav")


def test_a_file_of_another_rate_gives_the_same_turns(clean, tmp_path):
    call = render_call(clean)
    soundfile.write(tmp_path / "call.wav", call[::2], 8000)  # aliased, but as loud
    calls = []
    turns = read_turns(tmp_path / "call.wav", progress=lambda *stage: calls.append(stage))
    assert error(turns, found(call)) < 5
    assert calls[-1] == ("seconds heard", 32, 32)


def test_memory_of_a_long_call_is_that_of_its_levels(tmp_path):
    rng = np.random.default_rng(0)
    minute = rng.integers(-3000, 3000, (60 * 8000, 2)).astype(np.int16)
    minute[:240_000, 0] //= 100
    minute[240_000:, 1] //= 100
    with soundfile.SoundFile(tmp_path / "long.wav", "w", 8000, 2) as file:
        for _ in range(20):
            file.write(minute)
    tracemalloc.start()
    turns = read_turns(tmp_path / "long.wav")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(turns) == 40
    assert peak < 25e6  # all samples at 16 kHz would be 154 MB

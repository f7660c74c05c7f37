import json
from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from weigher.errors import RequestError
from weigher.io.audio import read_audio
from weigher.io.features import read_features
from weigher.io.manifest import read_manifest
from weigher.io.rttm import Segment, read_rttm
from weigher.io.voices import Utterance, Voices, read_voices
from weigher.recordings.casting import balanced_casts, cast_sizes, twins
from weigher.recordings.planning import Plan, fill, plan
from weigher.recordings.render import Piece, _noise, _room, render_audio, render_features
from weigher.recordings.simulate import render, report, simulate, write
from weigher.recordings.synthesise import synthesise_voices
from weigher.recordings.turns import RandomWalkTurns, RecordedTurns, pooled_statistics
from weigher.recordings.voicebank import LEVEL, active_frames, kept_frames, voice_bank

DATA = Path(__file__).parents[3] / "shared" / "data" / "speech"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the shared speech data are not here")

TALK = [Segment(0.0, 4.0, "a"), Segment(3.5, 7.0, "b"), Segment(8.0, 9.5, "a"), Segment(10.0, 14.0, "c")]


def babble(seed: int, frames: int = 200, channels: int = 6) -> np.ndarray:
    """Log energies: silence around 0, then sound around 8 with a dip of silence inside, then silence."""
    rng = np.random.default_rng(seed)
    loud = np.zeros(frames, dtype=bool)
    loud[30:90] = loud[110:170] = True
    x = rng.normal(0.0, 0.3, (frames, channels)) + loud[:, None] * (8 + rng.normal(0, 1.0, (frames, channels)))
    return x.astype(np.float32)


def feature_voices(speakers: int = 4, utterances: int = 3, change=lambda x, i: x) -> Voices:
    made = [(s, u, s * utterances + u) for s in range(speakers) for u in range(utterances)]
    return Voices(
        "features",
        0.01,
        tuple(Utterance(f"s{s}", f"u{u}", partial(lambda i: change(babble(i), i), i)) for s, u, i in made),
    )


@pytest.fixture(scope="module")
def audio_voices() -> Voices:
    voices = synthesise_voices(None, speakers=4, utterances=3, seconds=2.0, seed=1)
    loaded = [(u, u.load()) for u in voices.utterances]
    return replace(voices, utterances=tuple(replace(u, load=partial(np.copy, x)) for u, x in loaded))


# Casting


def test_sizes_meet_the_weights_as_nearly_as_whole_numbers_can():
    rng = np.random.default_rng(0)
    assert Counter(cast_sizes(100, 4, None, rng)) == {1: 25, 2: 25, 3: 25, 4: 25}
    assert Counter(cast_sizes(10, 3, [0, 1, 4], rng)) == {2: 2, 3: 8}
    for weights in ([1, 2], [0, 0, 0], [-1, 1, 1]):
        with pytest.raises(RequestError, match="weights"):
            cast_sizes(10, 3, weights, rng)


@pytest.mark.parametrize(("speakers", "recordings", "most"), [(160, 1000, 4), (40, 60, 4), (5, 8, 4), (10, 200, 8)])
def test_casts_are_balanced_and_tell_everyone_apart(speakers, recordings, most):
    rng = np.random.default_rng(speakers)
    sizes = cast_sizes(recordings, most, None, rng)
    casts = balanced_casts([f"s{i}" for i in range(speakers)], sizes, rng)
    assert [len(set(cast)) for cast in casts] == sizes
    appearances = Counter(name for cast in casts for name in cast)
    assert len(appearances) == speakers
    assert min(appearances.values()) >= 2
    assert max(appearances.values()) - min(appearances.values()) <= 1
    assert twins(casts) == []


def test_too_few_places_use_fewer_people_twice_each():
    rng = np.random.default_rng(0)
    casts = balanced_casts([f"s{i}" for i in range(251)], [2] * 20, rng)
    appearances = Counter(name for cast in casts for name in cast)
    assert set(appearances.values()) == {2}
    assert len(appearances) == 20
    assert twins(casts) == []


def test_twins_are_parted_where_dealing_makes_them():
    sizes = [2, 2, 2, 2, 2, 2]  # six people, two recordings each: dealing alone repeats a pair about one time in three
    dealt = [balanced_casts(list("abcdef"), sizes, np.random.default_rng(seed)) for seed in range(60)]
    assert all(twins(casts) == [] for casts in dealt)


def test_more_people_than_voices_are_refused():
    with pytest.raises(RequestError, match="5 speakers in one recording"):
        balanced_casts(["a", "b"], [1, 5], np.random.default_rng(0))


# Planning


def test_plans_are_complete_and_on_the_grid():
    plans = plan(list("abcdef"), RecordedTurns({"t": TALK}), recordings=12, seconds=(8, 10), max_speakers=3, seed=0)
    assert [p.name for p in plans] == [f"conv{i:05d}" for i in range(12)]
    assert {p.seconds for p in plans} <= {8.0, 8.5, 9.0, 9.5, 10.0}
    for p in plans:
        assert {s.speaker for s in p.segments} == set(p.cast)
        assert all(0 <= s.start < s.end <= p.seconds for s in p.segments)
        assert all(round(t, 2) == t for s in p.segments for t in (s.start, s.end))


@pytest.mark.parametrize(
    "wrong", [{"recordings": 0}, {"max_speakers": 0}, {"seconds": 0.0}, {"seconds": (9, 8)}, {"seed": -1}]
)
def test_impossible_numbers_are_refused(wrong):
    request = {"recordings": 4, "seconds": 8.0, "max_speakers": 2, "seed": 0} | wrong
    with pytest.raises(RequestError):
        plan(list("abc"), RandomWalkTurns(), **request)


def test_turns_read_on_and_repeat_nothing_before_all_is_heard():
    bank = voice_bank(feature_voices())
    total = {s: sum(bank.length(i) for i in bank.of_speaker[s]) for s in bank.of_speaker}
    segments = tuple(Segment(3.0 * k, 3.0 * k + 2.9, "s1") for k in range(4))
    pieces = fill(Plan("x", ("s1",), 12.0, segments, (0, 0)), bank, level_jitter_db=0.0, rng=np.random.default_rng(0))
    heard = Counter((p.utterance, t) for p in pieces for t in range(p.start, p.start + p.length))
    asked = sum(round(s.end * 100) - round(s.start * 100) for s in segments)
    assert sum(heard.values()) == asked > 2 * total["s1"]
    # the ring goes round evenly: no frame is heard a third time before every one has been heard twice
    assert len(heard) == total["s1"]
    assert max(heard.values()) - min(heard.values()) <= 1
    assert {bank.voices.utterances[p.utterance].speaker for p in pieces} == {"s1"}
    for one, two in pairwise(pieces):
        if one.utterance == two.utterance:
            assert two.start == one.start + one.length or two.start == 0
        else:
            assert one.start + one.length in (bank.length(one.utterance), one.start + one.length)
    for s in segments:  # turns are filled from border to border
        inside = [p for p in pieces if s.start * 100 <= p.at < s.end * 100]
        assert sum(p.length for p in inside) == round(s.end * 100) - round(s.start * 100)


# Features


def test_pieces_add_up_in_the_power_domain():
    bank = voice_bank(feature_voices())
    pieces = [Piece(0, 5, 60, 10, 0.0), Piece(4, 0, 50, 40, 3.0)]
    made = render_features(bank, pieces, 120, rng=np.random.default_rng(0))
    power = np.zeros((120, 6))
    power[10:70] += bank.piece(0)[5:65]
    power[40:90] += 10**0.3 * bank.piece(4)[:50]
    silence = np.exp(bank.quiet[np.random.default_rng(0).integers(len(bank.quiet), size=120)]) * bank.floor
    np.testing.assert_allclose(made, np.log(power + silence), rtol=1e-4, atol=1e-4)


def test_an_utterances_own_channel_and_level_leave_no_trace():
    def coloured(x, i):
        return x + np.random.default_rng(i).normal(0, 3, x.shape[1]).astype(np.float32)

    plans = plan([f"s{k}" for k in range(4)], RandomWalkTurns(), recordings=2, seconds=6.0, max_speakers=3, seed=0)
    plain, other = (voice_bank(feature_voices(change=change)) for change in (lambda x, i: x, coloured))
    for p in plans:
        one, two = render(p, plain).values, render(p, other).values
        # the common spectrum may differ by a constant per channel, nothing else may
        np.testing.assert_allclose(one - one.mean(0), two - two.mean(0), atol=2e-3)


def test_an_utterances_own_silence_leaves_no_trace():
    # digital silence, after the mean of each utterance was taken off, is another constant in each
    voices = feature_voices(change=lambda x, i: np.where(x < 3, -0.5 * i, x).astype(np.float32))
    bank = voice_bank(voices)
    for i in range(len(voices.utterances)):
        pauses = bank.piece(i).min(0)
        np.testing.assert_allclose(np.log(pauses + bank.floor), np.log(bank.floor), atol=1e-3)


def test_level_alone_is_equalised_where_the_channel_is_left():
    louder = feature_voices(change=lambda x, i: x + np.float32(i))
    coloured = feature_voices(change=lambda x, i: x + np.float32([i, 0, 0, 0, 0, -i]))
    p = plan([f"s{k}" for k in range(4)], RandomWalkTurns(), recordings=1, seconds=6.0, max_speakers=3, seed=0)[0]
    one, two, three = (
        render(p, voice_bank(v, equalise_channel=False)).values for v in (feature_voices(), louder, coloured)
    )
    np.testing.assert_allclose(one - one.mean(), two - two.mean(), atol=2e-3)
    assert np.abs((one - one.mean(0)) - (three - three.mean(0))).max() > 1.0  # each utterance keeps its colour


def test_features_sound_in_the_turns_and_nowhere_else():
    voices = feature_voices()
    law = RecordedTurns({"t": TALK})
    bank = voice_bank(voices)
    for talk in simulate(voices, law, recordings=6, seconds=10.0, max_speakers=3, bank=bank, seed=2):
        spoken = np.zeros(1000, dtype=bool)
        for s in talk.segments:
            spoken[round(s.start * 100) : round(s.end * 100)] = True
        loud = (talk.values - np.log(bank.floor)).mean(1) > 3.0
        assert not loud[~spoken].any()
        # 5 to 12 of 140 kept frames of `babble` are the margins, 20 the short pause inside
        assert loud[spoken].mean() > 0.7


def test_noise_stands_under_speech_by_the_wanted_decibels():
    bank = voice_bank(feature_voices())
    made = np.mean(
        [np.exp(render_features(bank, [], 2000, noise_db=20.0, rng=np.random.default_rng(s))).mean() for s in range(5)]
    )
    expected = bank.level.mean() / 100
    assert made == pytest.approx(expected + bank.floor.mean() * np.exp(bank.quiet).mean(), rel=0.03)


def test_room_tail_falls_by_sixty_decibels_and_holds_its_share():
    bank = voice_bank(feature_voices())
    piece = [Piece(0, 20, 1, 0, 0.0)]
    dry = np.exp(render_features(bank, piece, 300, rng=np.random.default_rng(0)).astype(float))
    wet = np.exp(render_features(bank, piece, 300, reverb_seconds=0.5, rng=np.random.default_rng(0)).astype(float))
    tail = (wet - dry)[1:, 0]
    assert tail.sum() / (dry[0, 0] - dry[100:, 0].mean()) == pytest.approx(0.5, rel=0.05)
    assert 10 * np.log10(tail[0] / tail[25]) == pytest.approx(30.0, abs=1.0)


def test_features_that_are_no_natural_logarithms_are_refused():
    with pytest.raises(RequestError, match="natural logarithm"):
        voice_bank(feature_voices(change=lambda x, i: x * 12))


# Audio


def test_audio_sounds_in_the_turns_and_nowhere_else(audio_voices):
    law = RecordedTurns({"t": TALK})
    for talk in simulate(audio_voices, law, recordings=4, seconds=8.0, max_speakers=3, seed=1):
        assert talk.values.shape == (128000,)
        assert np.abs(talk.values).max() <= 0.99 + 1e-6
        spoken = np.zeros(800, dtype=bool)
        for s in talk.segments:
            spoken[round(s.start * 100) : round(s.end * 100) + 1] = True  # + 1: the last 10 ms fade out
        level = 10 * np.log10((talk.values.reshape(-1, 160).astype(float) ** 2).mean(1)) - 20 * np.log10(LEVEL)
        assert level[~spoken].max() < -45
        assert (level[spoken] > -35).mean() > 0.75


def test_prepared_utterances_have_one_level_and_no_silence_around(audio_voices):
    def padded(x):
        return np.concatenate([np.zeros(16000, np.float32), 0.1 * x, np.zeros(8000, np.float32)])

    quiet = replace(
        audio_voices,
        utterances=tuple(replace(u, load=partial(lambda u: padded(u.load()), u)) for u in audio_voices.utterances),
    )
    plain, other = voice_bank(audio_voices), voice_bank(quiet)
    for i in range(4):
        one, two = plain.piece(i), other.piece(i)
        assert len(two) == pytest.approx(len(one), abs=3200)  # some 0.1 s on either side stay
        for x in (one, two):
            frames = x[: len(x) // 160 * 160].reshape(-1, 160).astype(float)
            energies = np.log((frames**2).mean(1) + 1e-10)
            active = active_frames(energies)
            assert np.sqrt((frames[active] ** 2).mean()) == pytest.approx(LEVEL, rel=0.1)


def test_the_equaliser_takes_a_channel_out(audio_voices):
    def through_a_telephone(u):
        # a second-order resonance at 1 kHz over a falling slope: some 20 dB between its loudest and its faintest part
        spectrum = np.fft.rfft(u.load())
        f = np.linspace(0, 8000, len(spectrum))
        return np.fft.irfft(spectrum * (0.1 + 1 / (1 + ((f - 1000) / 700) ** 2))).astype(np.float32)

    half = tuple(
        replace(u, load=partial(through_a_telephone, u)) if i % 2 else u for i, u in enumerate(audio_voices.utterances)
    )
    mixed = replace(audio_voices, utterances=half)

    def distance(equalise: bool) -> float:
        """Between log spectra of the two halves of the voices, in nats."""
        bank = voice_bank(mixed, equalise_channel=equalise)
        spectra = [
            np.log(
                (np.abs(np.fft.rfft(bank.piece(i)[: len(bank.piece(i)) // 512 * 512].reshape(-1, 512))) ** 2).mean(0)
            )
            for i in range(len(half))
        ]
        between = np.mean(spectra[1::2], axis=0) - np.mean(spectra[::2], axis=0)
        return float(np.abs(np.convolve(between, np.ones(16) / 16, "valid")).mean())

    assert distance(equalise=True) < 0.3 * distance(equalise=False)


def test_splices_have_no_clicks():
    tone = np.sin(2 * np.pi * 200 * np.arange(16000) / 16000).astype(np.float32)
    voices = Voices("audio", 1 / 16000, tuple(Utterance("s", f"{i}", partial(np.copy, tone)) for i in range(2)))
    bank = voice_bank(voices, equalise_channel=False)
    # a quarter of a period apart: a hard cut would jump by the whole amplitude
    pieces = [Piece(0, 0, 4000, 1000, 0.0), Piece(1, 20, 4000, 5000, 0.0)]
    made = render_audio(bank, pieces, 12000, rng=np.random.default_rng(0))
    steepest = np.abs(np.diff(bank.piece(0))).max()
    assert np.abs(np.diff(made)).max() < 1.3 * steepest


def test_loud_overlap_stays_within_full_scale(audio_voices):
    pieces = [Piece(i, 0, 8000, 1000, 25.0) for i in (0, 4, 8)]
    made = render_audio(voice_bank(audio_voices), pieces, 16000, rng=np.random.default_rng(0))
    assert np.abs(made).max() == pytest.approx(0.99)


def test_audio_noise_stands_under_speech_by_the_wanted_decibels(audio_voices):
    bank = voice_bank(audio_voices)
    made = render_audio(bank, [], 64000, noise_db=12.0, rng=np.random.default_rng(0))
    assert 20 * np.log10(LEVEL / np.sqrt((made.astype(float) ** 2).mean())) == pytest.approx(12.0, abs=0.1)


def test_noise_lies_between_white_and_pink():
    for seed in range(5):
        spectrum = np.abs(np.fft.rfft(_noise(2**17, np.random.default_rng(seed)))) ** 2
        f = np.linspace(0, 8000, len(spectrum))
        per_octave = [10 * np.log10(spectrum[(f >= lo) & (f < 2 * lo)].mean()) for lo in (250, 500, 1000, 2000, 4000)]
        slope = np.polyfit(range(5), per_octave, 1)[0]
        assert -3.3 < slope < 0.3


def test_room_impulse_response_falls_by_sixty_decibels():
    room = _room(0.4, 1 / 16000, np.random.default_rng(0))
    assert room[0] == 1
    assert (room[1:] ** 2).sum() == pytest.approx(0.5)
    left = np.cumsum(room[:0:-1] ** 2)[::-1]  # Schroeder's backward integral
    early, late = 10 * np.log10(left[[800, 4000]])
    assert (early - late) / (3200 / 16000) == pytest.approx(60 / 0.4, rel=0.05)


def test_a_voice_too_short_to_use_is_named():
    voices = Voices("audio", 1 / 16000, (Utterance("tiny", "1", partial(np.ones, 300, np.float32)),))
    with pytest.raises(RequestError, match="'tiny'"):
        list(simulate(voices, RandomWalkTurns(), recordings=1, seconds=2.0, max_speakers=1))
    empty = Voices("audio", 1 / 16000, (Utterance("none", "7", partial(np.zeros, 0, np.float32)),))
    with pytest.raises(RequestError, match="'7' of speaker 'none'"):
        list(simulate(empty, RandomWalkTurns(), recordings=1, seconds=2.0, max_speakers=1))
    with pytest.raises(RequestError, match="no utterance"):
        voice_bank(Voices("audio", 1 / 16000, ()))


def test_steady_sound_counts_as_active_and_pauses_are_shortened():
    assert active_frames(np.full(50, -3.0)).all()
    energies = np.full(300, -10.0)
    energies[100:120] = energies[140:150] = energies[230:280] = 0.0  # pauses of 0.2 and 0.8 s
    kept = kept_frames(active_frames(energies), 0.01)
    assert np.flatnonzero(kept).tolist() == [*range(95, 155), *range(225, 285)]


# Whole conversations


@pytest.mark.parametrize("kind", ["features", "audio"])
def test_same_seed_same_recordings_one_by_one_too(kind, audio_voices):
    voices = feature_voices() if kind == "features" else audio_voices
    options = {"recordings": 3, "seconds": (4, 6), "max_speakers": 2, "noise_db": 20.0, "reverb_seconds": 0.2}
    one, two, other = (list(simulate(voices, RandomWalkTurns(), seed=seed, **options)) for seed in (5, 5, 6))
    for a, b in zip(one, two, strict=True):
        assert a.plan == b.plan
        assert a.pieces == b.pieces
        np.testing.assert_array_equal(a.values, b.values)
    assert any(a.plan.segments != c.plan.segments for a, c in zip(one, other, strict=True))
    alone = render(one[2].plan, voice_bank(voices), noise_db=20.0, reverb_seconds=0.2)
    np.testing.assert_array_equal(alone.values, one[2].values)


def test_progress_counts_up_to_the_end():
    calls = []
    request = {"recordings": 3, "seconds": 4.0, "max_speakers": 2}
    list(simulate(feature_voices(), RandomWalkTurns(), progress=lambda *call: calls.append(call), **request))
    assert calls == [("simulate", done, 3) for done in range(4)]


@pytest.mark.parametrize("wrong", [{"noise_db": float("nan")}, {"reverb_seconds": -1.0}])
def test_impossible_rooms_are_refused(wrong):
    with pytest.raises(RequestError, match="noise_db"):
        simulate(feature_voices(), RandomWalkTurns(), recordings=1, seconds=4.0, max_speakers=1, **wrong)


@pytest.mark.parametrize("kind", ["features", "audio"])
def test_what_is_written_reads_back(kind, tmp_path, audio_voices):
    voices = feature_voices() if kind == "features" else audio_voices
    law = RecordedTurns({"t": TALK})
    talks = list(simulate(voices, law, recordings=6, seconds=8.0, max_speakers=3, seed=0))
    made = write(talks, tmp_path / "new" / "set", law)
    manifest = read_manifest(tmp_path / "new" / "set" / "cast.csv")
    assert [r.cast for r in manifest.recordings] == [talk.cast for talk in talks]
    for talk, recording in zip(talks, manifest.recordings, strict=True):
        if kind == "features":
            np.testing.assert_array_equal(read_features(recording.path).values, talk.values)
        else:
            np.testing.assert_allclose(read_audio(recording.path), talk.values, atol=1e-4)
        turns = read_rttm(tmp_path / "new" / "set" / "rttm" / f"{talk.name}.rttm")
        assert turns == {talk.name: sorted(talk.segments, key=lambda s: (s.start, s.end, s.speaker))}
    assert json.loads((tmp_path / "new" / "set" / "statistics.json").read_text()) == made
    with pytest.raises(RequestError, match=r"cast\.csv"):
        write(talks, tmp_path / "new" / "set", law)


def test_no_cast_list_stands_over_a_set_cut_short(tmp_path):
    def breaks_off():
        yield from simulate(feature_voices(), RandomWalkTurns(), recordings=1, seconds=4.0, max_speakers=1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(breaks_off(), tmp_path, RandomWalkTurns())
    assert not (tmp_path / "cast.csv").exists()


def test_a_shorter_run_leaves_nothing_of_the_one_that_was_cut_off(tmp_path):
    def talks(recordings):
        return simulate(feature_voices(), RandomWalkTurns(), recordings=recordings, seconds=4.0, max_speakers=1)

    def breaks_off():
        yield from talks(5)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(breaks_off(), tmp_path, RandomWalkTurns())
    for mine in ("rttm/conv.rttm", "rttm/conv00009.txt", "features/talk00009.npz", "features/conv00004b.npz"):
        (tmp_path / mine).touch()
    before = {path.name for path in tmp_path.rglob("*.*")}
    write(talks(2), tmp_path, RandomWalkTurns())
    gone = {f"conv0000{k}.{ending}" for k in (2, 3, 4) for ending in ("rttm", "npz")}
    assert {path.name for path in tmp_path.rglob("*.*")} == before - gone | {"cast.csv", "statistics.json"}


def test_report_counts_what_was_made_and_names_who_cannot_be_told_apart():
    law = RecordedTurns({"t": TALK})
    segments = (Segment(0.0, 4.0, "x"), Segment(3.0, 8.0, "y"))
    plans = [Plan(f"c{i}", ("x", "y"), 8.0, segments, (0, i)) for i in range(3)]
    made = report(plans, law)
    assert made["achieved"]["overlap_fraction"] == pytest.approx(1 / 8)
    assert made["by_speakers"]["2"]["recordings"] == 3
    source = pooled_statistics((w, 8.0) for w in law.examples(2, 8.0, 100))
    assert made["sampled_from"]["overlap_fraction"] == pytest.approx(source.overlap_fraction, abs=0.01)
    assert made["casts"] == {"speakers": 2, "fewest_recordings_of_a_speaker": 3, "most_recordings_of_a_speaker": 3}
    assert len(made["warnings"]) == 1
    many = Plan("c", tuple("abcdefgh"), 8.0, tuple(Segment(i, i + 1.0, n) for i, n in enumerate("abcdefgh")), (0, 0))
    assert report([many], law)["sampled_from"] is None  # no real window holds eight people


@needs_data
def test_real_voices_with_real_turns():
    voices = read_voices(DATA / "read_speech_fbank40.npz")
    law = RecordedTurns.read(DATA / "timings" / "ami" / "train")
    voices = voices.only(voices.speakers[:20])
    bank = voice_bank(voices)
    talks = list(simulate(voices, law, recordings=100, seconds=(20, 30), max_speakers=4, bank=bank, seed=0))
    made = report([talk.plan for talk in talks], law)
    assert made["warnings"] == []
    achieved, source = made["achieved"], made["sampled_from"]
    assert achieved["switches_per_minute"] == pytest.approx(source["switches_per_minute"], rel=0.2)
    assert achieved["overlap_fraction"] == pytest.approx(source["overlap_fraction"], abs=0.05)
    assert achieved["silence_fraction"] == pytest.approx(source["silence_fraction"], abs=0.05)
    for talk in talks[:20]:
        spoken = np.zeros(len(talk.values), dtype=bool)
        for s in talk.segments:
            spoken[round(s.start * 100) : round(s.end * 100)] = True
        loud = np.log(np.exp(talk.values - np.log(bank.floor)).mean(1)) > 2.0
        assert not loud[~spoken].any()
        assert loud[spoken].mean() > 0.55

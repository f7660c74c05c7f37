"""The study of pre-training: how voices are compared, its rules on made-up rows, and a run too small to learn."""

from dataclasses import replace

import numpy as np
import pytest

from weigher.io.rttm import Segment, write_rttm
from weigher.recordings.encoder import EncoderConfig, FrameEncoder
from weigher.recordings.synthesise import synthesise_voices
from weigher.studies import pretraining as study
from weigher.studies.diarization import Talk
from weigher.studies.harness import Context, Row, judge, run_study

LEARNS, *OF_SEQCLR, TOLD, MOST, ALONE, NEAR_25, NEAR_50, NEAR_100, BETTER = study.STUDY.claims


def rows(gain=3.0, spread=0.5, **changed):
    found = [Row(study.ONE, study.DER, 40.0, spread, 3)]
    for share in study.SHARES:
        for metric in (study.DER, study.EER):
            found.append(Row(study.of(study.SCRATCH, share), metric, 30.0, spread, 3))
            for method in (study.SEQCLR, study.NEIGHBOURS):
                found.append(Row(study.of(method, share), metric, 30.0 - gain, spread, 3))
                found.append(Row(f"{study.of(method, share)}, gain", metric, gain, spread, 3))
    found.append(Row(f"{study.SEQCLR}, gain with few less gain with all casts", study.DER, gain, spread, 3))
    found.append(Row(f"{study.SEQCLR}, no casts", study.EER, changed.get("alone", 30.0), spread, 3))
    found.append(Row(f"{study.NEIGHBOURS}, no casts", study.EER, 25.0, spread, 3))
    found.append(Row(study.UNTAUGHT, study.EER, 40.0, spread, 3))
    return found


@pytest.mark.parametrize("claim", [*OF_SEQCLR, TOLD, MOST, NEAR_25, NEAR_50, NEAR_100])
def test_a_gain_holds_where_it_is_above_its_spread(claim):
    assert judge(claim, rows()).held
    assert not judge(claim, rows(gain=-3.0)).held
    assert not judge(claim, rows(spread=5.0)).held


def test_what_has_learned_nothing_shows_nothing():
    assert judge(LEARNS, rows()).held
    found = [replace(row, mean=31.0) if row.method == study.ONE else row for row in rows(spread=0.8)]
    assert not judge(LEARNS, found).held


def test_the_encoder_alone_is_compared_with_a_random_one():
    assert judge(ALONE, rows()).held
    assert not judge(ALONE, rows(alone=41.0)).held
    assert judge(BETTER, rows()).held
    assert not judge(BETTER, rows(alone=25.5)).held


def test_above_0_pre_training_is_better_whatever_the_figure():
    metrics = (study.DER, study.CLUSTERED, study.EER, study.RANK)
    found = {}
    for share, errors in zip(study.SHARES, (30.0, 20.0, 10.0), strict=True):
        found[study.of(study.SCRATCH, share)] = dict(zip(metrics, (errors, 30.0, 20.0, 50.0), strict=True))
        found[study.of(study.SEQCLR, share)] = dict(zip(metrics, (errors - share / 25, 31.0, 15.0, 60.0), strict=True))
        found[study.of(study.NEIGHBOURS, share)] = found[study.of(study.SCRATCH, share)]
    gained = study.with_gains(found)
    few, all_of_them = (gained[f"{study.of(study.SEQCLR, share)}, gain"] for share in (25, 100))
    assert list(few.values()) == [1.0, -1.0, 5.0, 10.0]
    assert all_of_them[study.DER] == 4.0
    assert gained[f"{study.SEQCLR}, gain with few less gain with all casts"][study.DER] == -3.0
    assert set(gained[f"{study.of(study.NEIGHBOURS, 50)}, gain"].values()) == {0.0}


def talk(name, cast, seconds=6.0, hop=0.1, rng=None):
    """Turns of two seconds, one after the other, the last of them over the one before by one second."""
    turns = [Segment(2.0 * k, 2.0 * k + 2.0, who) for k, who in enumerate(cast)]
    turns[-1] = replace(turns[-1], start=turns[-1].start - 1.0)
    values = (rng or np.random.default_rng(0)).normal(size=(round(seconds / hop), 3)).astype(np.float32)
    return Talk(name, values, tuple(turns), seconds)


def test_a_voice_is_the_mean_of_what_its_owner_says_alone():
    talks = [talk("one", ("a", "b", "c")), talk("two", ("b", "a"), seconds=4.0)]
    rng = np.random.default_rng(1)
    frames = [rng.normal(size=(60, 4)), rng.normal(size=(40, 4))]
    vectors, names, where = study.voice_vectors(talks, frames, 0.1)
    assert names.tolist() == ["a", "b", "c", "a", "b"]
    assert where.tolist() == [0, 0, 0, 1, 1]
    centre = np.concatenate(frames).mean(0)
    alone = {0: frames[0][:20], 1: frames[0][20:30], 2: frames[0][40:], 3: frames[1][20:], 4: frames[1][:10]}
    for row, points in alone.items():
        expected = points.mean(0) - centre
        assert vectors[row] == pytest.approx(expected / np.linalg.norm(expected))
    late = replace(talks[0], segments=(Segment(0.0, 0.9, "a"), Segment(2.0, 6.0, "b")))
    assert study.voice_vectors([late], frames[:1], 0.1)[1].tolist() == ["b"]  # 0.9 s of a are too little


def test_rank_one_and_eer_look_at_other_talks_only():
    vectors = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 1.0], [-1.0, 0.0]])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names, where = np.array(["a", "a", "b", "b", "c"]), np.array([0, 1, 0, 1, 0])
    assert study.rank_one(vectors, names, where) == 100
    assert study.voice_eer(vectors, names, where) == 0
    assert study.rank_one(vectors, np.array(["a", "b", "b", "a", "c"]), where) == 0
    together = np.zeros(5, int)
    assert study.rank_one(vectors, names, together) == 0
    assert study.voice_eer(vectors, names, together) == 50


def test_a_tiny_run_gives_every_method_its_rows_and_a_picture(tmp_path, monkeypatch):
    data, out = tmp_path / "data", tmp_path / "out"
    turns = [Segment(2.0 * k, 2.0 * k + 2.0, "xy"[k // 15 % 2]) for k in range(120)]  # one alone for half a minute
    synthesise_voices(data / "speech/librispeech", speakers=21, utterances=1, seconds=2.0)
    for part in ("train", "test"):
        write_rttm(data / f"speech/timings/ami/{part}/{part}.rttm", {part: turns})
    monkeypatch.setitem(study.SIZES, "small", study.Size(20, 8, 2, 1, 3, 1))
    whole = study._diarizer

    def small(*arguments):
        """A model that takes a moment, and a teacher that finds a stretch in anything."""
        diarizer = whole(*arguments)
        model, learn = diarizer.config.model, diarizer.config.learn
        encoder = EncoderConfig(channels=8, embedding=8, dilations=(1,))
        model = replace(model, encoder=encoder, weigher=replace(model.weigher, layers=1, heads=2, rounds=1))
        teacher = replace(learn.teacher, threshold=-5.0, temper=3.0)
        recompose = replace(learn.recompose, seconds=2.0)
        learn = replace(learn, teacher=teacher, recompose=recompose, listen_seconds=1.0, listen_batch=4, weigh_batch=2)
        diarizer.config = replace(diarizer.config, model=model, learn=learn)
        return diarizer

    monkeypatch.setattr(study, "_diarizer", small)
    begun, heard = [], []

    def voices(encoder, talks):
        begun.append(encoder)
        heard.extend(talks)
        return {study.CLUSTERED: 30.0, study.EER: 20.0, study.RANK: 50.0}

    monkeypatch.setattr(study, "_voices", voices)
    context = Context(data=data, seeds=(0,), budget="small", out=out, progress=lambda *_: None)
    result = run_study(study.STUDY, context)
    assert {talk.values.shape for talk in heard} == {(1998, 40)}  # 20 s of log-mel energies, windows whole
    found = {(row.method, row.metric): row.mean for row in result.rows}
    for share in study.SHARES:
        for method in (study.SCRATCH, study.SEQCLR, study.NEIGHBOURS):
            assert found[study.of(method, share), study.DER] >= 0
            assert 0 <= found[study.of(method, share), "slot EER %"] <= 100
    assert found[study.UNTAUGHT, "pre-training minutes"] < found[f"{study.SEQCLR}, no casts", "pre-training minutes"]
    assert len(begun) == 3 + 9
    weights = [encoder.projection.weight for encoder in begun]
    assert not any(weights[0].equal(taught) for taught in weights[1:])
    assert not any(weights[3].equal(begun_from_it) for begun_from_it in weights[4:6])  # one seed, other beginnings
    assert (out / "pretraining.png").stat().st_size > 10_000


def test_voices_are_measured_in_the_frames_of_the_encoder():
    rng = np.random.default_rng(0)
    spectra = dict(zip("xy", rng.normal(size=(2, 3)) * 4, strict=True))
    talks = []
    for k in range(4):
        one = talk(f"u{k}", ("x", "y"), seconds=4.0, hop=0.01, rng=rng)
        for turn in one.segments:
            one.values[round(turn.start * 100) : round(turn.end * 100)] += spectra[turn.speaker]
        talks.append(one)
    found = study._voices(FrameEncoder(3, EncoderConfig(channels=16, embedding=8)), talks)
    assert found[study.RANK] == 100  # voices so different are told by any encoder
    assert found[study.EER] == 0
    assert 0 <= found[study.CLUSTERED] <= 100

"""Tags of files: how the files are made, what the scores count, and a tiny run from audio."""

import numpy as np
import pytest

from weigher.io.audio import write_audio
from weigher.io.rttm import Segment
from weigher.io.voices import Utterance
from weigher.studies import sound_tags as study
from weigher.studies.diarization import Talk
from weigher.studies.harness import Context, Row, judge, run_study

RATE = 16000


def tone(hertz, seconds=0.5):
    t = np.arange(round(seconds * RATE)) / RATE
    sound = np.sin(2 * np.pi * hertz * t)
    return np.r_[np.zeros(RATE // 10), sound, np.zeros(RATE // 5)].astype(np.float32)


def words(tags=("up", "down", "left")):
    return [
        Utterance("ann", f"{tag}_1", lambda hertz=300 * (k + 1): tone(hertz, 0.2 + 0.05 * (hertz == 600)))
        for k, tag in enumerate(tags)
    ]


def test_files_hold_what_their_tags_say_where_they_say_it():
    talks = study.tagged_files(words(), 30, 4.0, np.random.default_rng(0))
    assert {len(talk.cast) for talk in talks} == {1, 2, 3}
    hertz = {"up": 300, "down": 600, "left": 900}
    for talk in talks:
        assert talk.values.shape == (4 * RATE,)
        for one, after in zip(talk.segments, talk.segments[1:], strict=False):
            assert one.end <= after.start
        power = np.square(talk.values.reshape(-1, 160)).mean(1)
        middle = (np.arange(400) + 0.5) / 100
        told = np.any([(one.start <= middle) & (middle < one.end) for one in talk.segments], axis=0)
        assert np.mean((power > 1e-3) == told) > 0.99
        for one in talk.segments:
            piece = talk.values[round(one.start * RATE) : round(one.end * RATE)]
            peak = np.abs(np.fft.rfft(piece)).argmax() / (one.end - one.start)
            assert peak == pytest.approx(hertz[one.speaker], abs=10)


def test_a_word_for_which_there_is_no_room_is_no_tag():
    talks = study.tagged_files(words(), 20, 0.5, np.random.default_rng(0))
    assert all(len(talk.segments) <= 2 for talk in talks)
    assert all(one.start >= 0 and one.end <= 0.5 + 1e-9 for talk in talks for one in talk.segments)


class _Model:
    hop_seconds = 0.5


def test_scores_that_know_the_truth_are_perfect_and_their_opposites_worst():
    talks = [
        Talk("a", np.empty(0), (Segment(0.0, 1.0, "up"), Segment(1.0, 2.0, "down")), 2.0),
        Talk("b", np.empty(0), (Segment(0.5, 1.5, "left"),), 2.0),
    ]
    labels = ("down", "left", "up")  # of a file's tags, frames have columns in the order of its cast
    files = [np.array([0.9, 0.1, 0.8]), np.array([0.2, 0.7, 0.1])]
    frames = [np.array([[0, 0, 1, 1], [1, 1, 0, 0]]).T, np.array([[0.0, 1.0, 1.0, 0.0]]).T]
    right = study._figures(talks, labels, list(zip(files, frames, strict=True)), _Model)
    assert right == {study.MAP: 100.0, study.AUC: 100.0, study.WITHIN: 100.0}
    wrong = study._figures(talks, labels, [(-f, 1 - w) for f, w in zip(files, frames, strict=True)], _Model)
    assert wrong == {study.MAP: 50.0, study.AUC: 0.0, study.WITHIN: 0.0}


def row(method, metric, *values):
    return Row.of(method, metric, values)


def test_claims_need_a_clear_difference():
    rows = [
        *(row(study.TAGS, metric, 60.0, 62.0) for metric in (study.MAP, study.WITHIN)),
        *(row(study.SHUFFLED, metric, 10.0, 59.0) for metric in (study.MAP, study.WITHIN)),
        row(study.HEAD, study.MAP, 50.0, 51.0),
    ]
    assert [judge(claim, rows).held for claim in study.STUDY.claims] == [False, False, True]
    rows[2:4] = [row(study.SHUFFLED, metric, 10.0, 12.0) for metric in (study.MAP, study.WITHIN)]
    assert [judge(claim, rows).held for claim in study.STUDY.claims] == [True, True, True]


def test_a_tiny_run_from_audio_to_a_picture(tmp_path, monkeypatch):
    for person in range(5):
        folder = tmp_path / "data" / "speech" / "arabic_commands" / f"{person:08}"
        folder.mkdir(parents=True)
        for k, tag in enumerate(("up", "down", "left")):
            write_audio(folder / f"{tag}_{person}_NO_01.flac", 0.3 * tone(250 * (k + 1) + 10 * person))
    monkeypatch.setattr(study, "SIZES", {"small": study.Size(24, 6, 30, 2, seconds=3.0)})
    context = Context(tmp_path / "data", (0,), "small", tmp_path / "out", progress=lambda *_: None)
    result = run_study(study.STUDY, context)
    assert {each.method for each in result.rows} == {study.TAGS, study.SHUFFLED, study.HEAD}
    assert result.data == ["data/speech/arabic_commands"]
    assert (tmp_path / "out" / "sound_tags.png").is_file()
    resumed = Context(tmp_path / "data", (0,), "small", tmp_path / "out", progress=lambda *_: None, resume=True)
    assert run_study(study.STUDY, resumed).rows == result.rows

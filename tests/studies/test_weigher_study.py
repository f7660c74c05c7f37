"""The flagship's study: its rules on made-up rows, and a run too small to learn anything, on made-up data."""

from dataclasses import replace

import numpy as np
import pytest

from made_up import FEW_TURNS, write_read_speech
from weigher.io.audio import write_audio
from weigher.io.rttm import Segment, write_rttm
from weigher.recordings.synthesise import draw_speakers, synthesise
from weigher.recordings.teacher import TeacherConfig
from weigher.studies import harness
from weigher.studies import weigher as study
from weigher.studies.harness import Context, Row, judge, run_study

DER = "read speech: DER %, collar 0"
CLUSTERINGS = {"agglomerative, embeddings": 20.0, "kmeans, features": 40.0, "agglomerative, embeddings, 1 s mean": 16.0}
HALF_FRAMES, HALF_SMOOTH, NEAR_FULL, CHANCE = study.STUDY.claims


def rows(std=0.1, **ders):
    """Rows of three seeds: casts, times, shuffled, one (speaker throughout), and the clusterings."""
    names = {"casts": study.CASTS, "times": study.TIMES, "shuffled": study.SHUFFLED, "one": study.ONE}
    figures = {names[name]: der for name, der in ders.items()} | CLUSTERINGS
    return [Row(method, DER, der, std, 3) for method, der in figures.items()]


@pytest.mark.parametrize(
    ("claim", "ders", "held"),
    [
        (HALF_FRAMES, {"casts": 9.0}, True),
        (HALF_FRAMES, {"casts": 10.5}, False),
        (HALF_SMOOTH, {"casts": 9.0}, False),  # half of the smoothed clustering is less
        (HALF_SMOOTH, {"casts": 7.5}, True),
        (NEAR_FULL, {"casts": 11.0, "times": 10.0}, True),
        (NEAR_FULL, {"casts": 12.5, "times": 10.0}, False),
        (CHANCE, {"shuffled": 30.0, "one": 28.0}, True),
        (CHANCE, {"shuffled": 25.0, "one": 28.0}, False),
    ],
)
def test_claims_follow_from_the_rows(claim, ders, held):
    verdict = judge(claim, rows(**ders))
    assert verdict.held is held
    assert f"{ders.get('casts', ders.get('shuffled')):.1f} %" in verdict.measured


def test_a_spread_over_seeds_that_is_too_wide_holds_no_claim():
    assert judge(HALF_FRAMES, rows(casts=9.0)).held
    assert not judge(HALF_FRAMES, rows(casts=9.0, std=3.0)).held


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder laid out as the study knows it: 20 people of features, 24 of audio, turns, and one meeting.

    So many that four are unseen in either: conversations hold up to four people.
    """
    folder, rng = tmp_path_factory.mktemp("data") / "speech", np.random.default_rng(0)
    write_read_speech(folder, rng, people=20, said=2, turns=FEW_TURNS)
    for corpus in ("librispeech", "arabic_commands"):
        for name, speaker in zip("abcdefghijkl", draw_speakers(12, rng), strict=True):
            write_audio(folder / corpus / f"{corpus[0]}{name}" / "said.flac", synthesise(speaker, 2.0, rng))
    samples = np.concatenate([synthesise(speaker, 2.0, rng) for speaker in draw_speakers(2, rng)])
    write_audio(folder / "ami_excerpts" / "meetíng.flac", samples)
    write_rttm(folder / "ami_excerpts" / "meeting.rttm", {"meeting": [Segment(0, 2, "a"), Segment(2, 4, "b")]})
    return folder.parent


def test_a_tiny_run_gives_every_row_and_is_resumed(data, tmp_path, monkeypatch):
    monkeypatch.setitem(study.SIZES, "small", study.Size(recordings=12, listen=2, weigh=2, test=2))
    monkeypatch.setattr(harness, "commit", lambda: "the same throughout")
    plain = study._diarizer
    trained = []

    def quick(size, seed):
        """The study's diarizer with small batches, and a teacher that finds a stretch in anything."""
        trained.append(seed)
        diarizer = plain(size, seed)
        teacher = TeacherConfig(threshold=-5.0, temper=3.0)
        phases = replace(diarizer.config.learn, listen_batch=4, weigh_batch=2, teacher=teacher)
        diarizer.config = replace(diarizer.config, learn=phases)
        return diarizer

    monkeypatch.setattr(study, "_diarizer", quick)

    def context(**changes):
        given = {"data": data, "seeds": (0,), "budget": "small", "out": tmp_path, "progress": lambda *stage: None}
        return Context(**given | changes)

    result = run_study(study.STUDY, context())
    found = {(row.method, row.metric.split(": ")[0]) for row in result.rows}
    methods = {method for method, _ in found}
    assert {study.CASTS, study.TIMES, study.SHUFFLED, study.ONE} <= methods
    assert {(study.CASTS, part) for part in (study.READ, study.AUDIO, study.MEETINGS)} <= found
    # three clusterings of embeddings and of features, of frames and of one-second means
    assert sum(method.startswith(("kmeans", "agglomerative", "spectral")) for method in methods) == 12
    assert len(result.claims) == 4
    assert (tmp_path / "weigher.png").stat().st_size > 1000
    assert len(trained) == 4

    # a part that was not kept is trained again, the others are taken as they stand
    (tmp_path / "parts" / f"0 {study.READ}, {study.TIMES}.json").unlink()
    again = run_study(study.STUDY, context(resume=True))
    assert len(trained) == 5
    assert set(again.data) == set(result.data)
    timeless = [row for row in result.rows if "minutes" not in row.metric]
    assert [row for row in again.rows if "minutes" not in row.metric] == timeless

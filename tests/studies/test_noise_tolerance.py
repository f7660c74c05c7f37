"""The study of noise tolerance: its arithmetic, its rules on made-up rows, and a run too small to learn anything."""

import numpy as np
import pytest

from weigher.io.rttm import Segment, write_rttm
from weigher.studies import alternation
from weigher.studies import noise_tolerance as study
from weigher.studies.harness import Context, Row, judge, run_study

FOUR_TIMES, FOUR_TIMES_REAL, NEAR_LIMIT, NEAR_FINDABLE, NO_ARTEFACT = study.STUDY.claims


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([0.0, 4.0, 16.0], 3.0),  # halfway from 4 to 16 on [2, 4]
        ([0.0, 10.0, 16.0], 2.0),
        ([10.0, 4.0, 16.0], 0.0),  # a method that fails where it is easy has none
        ([0.0, 20.0, 4.0], 1.5),  # the first time counts
        ([0.0, 1.0, 2.0], 4.0),
    ],
)
def test_tolerance_is_where_the_line_crosses_ten_per_cent(errors, expected):
    assert study.tolerance([1.0, 2.0, 4.0], errors) == pytest.approx(expected)


def rows(*, walk=2.0, independent=0.45, limit=2.4, findable=2.3, blind=0.45, std=0.01):
    found = {study.WEIGHER: (walk, independent), study.LIMIT: (limit, 0.5), study.AT_TRUTH: (findable, 0.5)}
    for method in study.TIME_BLIND:
        found[method] = (0.3, 0.3)
    found["ward"] = (blind, 0.45)
    return [
        Row(method, f"{law}: tolerance", value, std, 3)
        for method, values in found.items()
        for law, value in zip((study.WALK, study.INDEPENDENT, study.TURNS), (*values, values[0]), strict=True)
    ]


@pytest.mark.parametrize(
    ("claim", "figures", "held"),
    [
        (FOUR_TIMES, {}, True),
        (FOUR_TIMES, {"blind": 0.55}, False),
        (FOUR_TIMES, {"std": 0.3}, False),  # too wide a spread over seeds shows nothing
        (FOUR_TIMES_REAL, {}, True),
        (FOUR_TIMES_REAL, {"blind": 0.55}, False),
        (NEAR_LIMIT, {}, True),
        (NEAR_LIMIT, {"limit": 2.6}, False),
        (NEAR_FINDABLE, {}, True),
        (NEAR_FINDABLE, {"findable": 2.6}, False),
        (NO_ARTEFACT, {}, True),
        (NO_ARTEFACT, {"independent": 0.6}, False),
        (NO_ARTEFACT, {"independent": 0.3}, False),
    ],
)
def test_claims_follow_from_the_rows(claim, figures, held):
    assert judge(claim, rows(**figures)).held is held


def test_the_best_clustering_is_named():
    assert "(ward)" in str(judge(FOUR_TIMES, rows()).measured)


def test_the_teacher_draws_anew_as_often_as_people_switch():
    assert study._stay([np.array([[0, 0, 0, 0, 1]])]) == pytest.approx(0.5)  # 1 of 4 switches, half of draws are one
    assert study._stay([np.random.default_rng(0).integers(3, size=(50, 400))]) == pytest.approx(0.0, abs=0.02)


def test_the_teacher_sees_the_cast_and_nobody_else():
    rng = np.random.default_rng(0)
    vectors = np.eye(4)[None, :3]
    frames = np.repeat(vectors[:, [0, 2]], 5, axis=1) + 0.1 * rng.normal(size=(1, 10, 4))
    found = alternation.teacher(frames, vectors, np.array([0.1]), np.array([[True, True, False]]), 0.5)
    assert found[0, :5, 0].min() > 0.99
    assert found[..., 2].max() == 0


def test_the_clusterings_are_those_that_the_claims_know():
    assert tuple(alternation.CLUSTERINGS) == study.TIME_BLIND
    heard = np.repeat([[0, 1, 0]], 20, axis=1)
    frames = 5 * np.eye(4)[heard] + np.random.default_rng(0).normal(0, 0.1, (1, 60, 4))
    for method in study.TIME_BLIND:
        found = alternation.clustered(frames, 2, method, seed=0)
        assert (found == found[0, 0]).tolist() == (heard == 0).tolist(), method


def test_a_tiny_run_gives_a_curve_for_every_method_and_law(tmp_path, monkeypatch):
    turns = [Segment(t / 2, t / 2 + 0.4, "xyz"[t // 2 % (3 if t < 120 else 2)]) for t in range(0, 240, 2)]
    for part in ("train", "test"):
        write_rttm(tmp_path / f"data/speech/timings/ami/{part}/{part}.rttm", {part: turns})
    monkeypatch.setitem(study.SIZES, "small", study.Size(4, 2, 150, 150, 40, steps=2, batch=2))
    monkeypatch.setattr(study, "WALK_STEP", 0.06)
    monkeypatch.setattr(study, "NOISES", (0.1, 0.5, 4.0))
    monkeypatch.setattr(study, "BLIND_NOISES", (0.1, 0.5))
    monkeypatch.setattr(study, "GIVEN_UP", 100.0)
    stages = set()
    context = Context(
        data=tmp_path / "data",
        seeds=(0,),
        budget="small",
        out=tmp_path / "out",
        progress=lambda stage, done, total: stages.add(stage),
    )
    result = run_study(study.STUDY, context)
    found = {(row.method, row.metric): row.mean for row in result.rows}
    for law in study.LAWS:
        for method in study.METHODS:
            assert 0 <= found[method, f"{law}: tolerance"] <= 4
            assert 0 <= found[method, f"{law}: error %, noise 0.5"] <= 70
        assert found["the files", f"{law}: switches per minute"] > 0
        assert found[study.LIMIT, f"{law}: error %, noise 0.1"] < 1
    assert ("kmeans", f"{study.WALK}: error %, noise 4") not in found
    assert found[study.LIMIT, f"{study.WALK}: error %, noise 4"] > 5
    assert [verdict.held for verdict in result.claims] == [False] * 5  # one seed shows nothing
    assert (tmp_path / "out" / "noise_tolerance.png").stat().st_size > 1000
    assert {"train, random walk", "test, real turns"} <= stages

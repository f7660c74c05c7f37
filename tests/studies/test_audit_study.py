"""The study of audits: its measures against definitions and scikit-learn, and a run too small to learn anything."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from weigher.studies import audit as study
from weigher.studies.harness import Context, Row, judge, run_study


def test_one_error_in_a_share_of_the_casts():
    truth = [[i % 6, (i + 1) % 6][: 1 + i % 2] for i in range(40)]
    spoiled = study.spoil(truth, 6, 0.5, np.random.default_rng(0))
    assert len(spoiled.wrong) + len(spoiled.missing) == 20
    assert spoiled.truth == truth
    for i, (cast, told) in enumerate(zip(truth, spoiled.listed, strict=True)):
        assert told
        assert [(i, label) for label in set(told) - set(cast)] == [pair for pair in spoiled.wrong if pair[0] == i]
        assert [(i, label) for label in set(cast) - set(told)] == [pair for pair in spoiled.missing if pair[0] == i]


@pytest.mark.parametrize("seed", range(3))
def test_auroc_agrees_with_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    scores, sought = rng.integers(0, 5, 60).astype(float), rng.random(60) < 0.3
    assert study.auroc(scores, sought) == pytest.approx(100 * roc_auc_score(sought, scores))


def test_a_perfect_ear_finds_everything_and_the_cut_offs_follow_the_planted_names():
    truth = [[i % 5, (i + 2) % 5] for i in range(50)]
    spoiled = study.spoil(truth, 5, 0.4, np.random.default_rng(1))
    planted = np.zeros((50, 5), bool)
    for i in range(0, 50, 5):
        planted[i, next(k for k in range(5) if k not in truth[i] and k not in spoiled.listed[i])] = True
    heard = np.full((50, 5), -5.0)
    for i, cast in enumerate(truth):
        heard[i, cast] = 3.0
    found = study.figures({study.AREA: heard, study.MARGIN: -heard}, spoiled, planted)
    for kind in (study.WRONG, study.MISSING):
        assert found[study.AREA][f"{kind}: AUROC %"] == 100
        assert found[study.AREA][f"{kind}: precision at k %"] == 100
        assert found[study.MARGIN][f"{kind}: AUROC %"] == 0
        assert found[study.AREA][f"{kind}: recall % at cut-off 50"] == 100
    assert found[study.AREA]["wrong: precision % at cut-off 99"] == 100
    assert found[study.AREA]["mean margin of planted names"] == -5
    chance = found[study.CHANCE]["wrong: precision at k %"]
    assert chance == pytest.approx(100 * len(spoiled.wrong) / sum(map(len, spoiled.listed)))


def rows(**figures):
    """Rows of three seeds: wrong and missing AUROC of the area and the last margin, and the means of margins."""
    metrics = {"wrong": "wrong: AUROC %", "missing": "missing: AUROC %"}
    made = [Row(study.AREA, metrics[name], value, 0.5, 3) for name, value in figures.items()]
    made += [Row(study.MARGIN, metric, 85.0, 0.5, 3) for metric in metrics.values()]
    made += [Row(study.AREA, "wrong: precision at k %", 30.0, 1.0, 3)]
    made += [Row(study.CHANCE, "wrong: precision at k %", 5.0, 0.1, 3)]
    for kind, mean in (("planted", -4.5), ("wrong", -4.4), ("right", 1.0)):
        made.append(Row(study.AREA, f"mean margin of {kind} names", mean, 0.1, 3))
    return [*made, Row(study.AREA, "wrong: recall % at cut-off 50", 55.0, 2.0, 3)]


def test_claims_follow_from_the_rows():
    of_margin, _, missing, times_chance, _, alike, as_said = study.STUDY.claims
    good = rows(wrong=90.0, missing=80.0)
    assert judge(of_margin, good).held
    assert not judge(missing, good).held
    assert judge(times_chance, good).held
    assert judge(alike, good).held
    assert judge(as_said, good).held
    assert judge(of_margin, good).measured == "90.0 % against 85.0 %"


def test_a_tiny_run_gives_every_row(read_speech, tmp_path, monkeypatch):
    monkeypatch.setitem(study.SIZES, "small", study.Size(recordings=16, people=10, steps=8, batch=8, seconds=4.0))
    context = Context(read_speech, (0, 1), "small", tmp_path, lambda *stage: None)
    result = run_study(study.STUDY, context)
    assert {row.method for row in result.rows} == {study.AREA, study.MARGIN, study.PROBABILITY, study.CHANCE}
    assert all(row.n == 2 for row in result.rows)
    assert len(result.claims) == 7
    assert (tmp_path / "audit.png").stat().st_size > 1000

"""The study of early stopping: a run too small to learn, its rules on made-up rows, and stable descent."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from made_up import write_cifar10
from weigher.examples.label_noise import FixedOutputNetwork
from weigher.studies import early_stopping as study
from weigher.studies import stopping_runs as runs
from weigher.studies.harness import Context, Row, find_row, judge, run_study

TINY = study.Size(
    points=36, width=20, steps=30, check_every=10, digits=(60, 40), images=(24, 12, 12), image_width=4, image_steps=20
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    write_cifar10(folder, rng, train=40, test=12)
    return folder


def test_a_tiny_run_gives_rows_claims_and_the_picture(data, tmp_path, monkeypatch):
    monkeypatch.setitem(study.SIZES, "small", TINY)
    result = run_study(study.STUDY, Context(data, (0,), "small", tmp_path, lambda *_: None))
    assert (tmp_path / "early_stopping.png").stat().st_size > 10_000
    assert len(result.claims) == len(study.STUDY.claims)
    for name in ("clusters, 20 % wrong", "digits, 50 % wrong", "CIFAR-10, 40 % wrong"):
        best = find_row(result.rows, study.BEST, f"{name}: {study.TEST}").mean
        assert all(find_row(result.rows, m, f"{name}: {study.TEST}").mean <= best for m in (study.STOPPED, study.END))
        assert find_row(result.rows, study.END, f"{name}: {study.DISTANCE}").mean > 0
    assert find_row(result.rows, study.END, f"digits, 0 % wrong: {study.STEP}").mean == 30


def test_clusters_with_wrong_labels_are_learned_right_first_and_memorised_later():
    size = study.Size(points=120, width=200, steps=1000, check_every=20)
    found = runs.clusters(size, 0.2, 0)
    stopped, end = found[study.STOPPED], found[study.END]
    assert stopped[study.WRONG_TRUE] > 80 > end[study.WRONG_TRUE]
    assert stopped[study.TEST] > end[study.TEST]
    assert stopped[study.DISTANCE] < end[study.DISTANCE]
    assert stopped[study.STEP] < end[study.STEP]


def test_descent_is_stable_at_its_rate():
    x = torch.nn.functional.normalize(torch.randn(30, 5))
    network, targets = FixedOutputNetwork(5, width=40), torch.randn(30, 1)
    losses = [(network(x) - targets).square().sum().item() for _ in runs._descend(network, x, targets, 50)]
    assert all(b <= a for a, b in pairwise(losses))


def rows_of(figures):
    return [Row.of(method, metric, values) for (method, metric), values in figures.items()]


def claim(start):
    return next(c for c in study.STUDY.claims if c.claim.startswith(start))


def test_the_rules_hold_where_they_should_and_not_otherwise():
    name = "digits, 30 % wrong"
    good = {
        (study.STOPPED, f"{name}: {study.TEST}"): [90.0, 92.0],
        (study.END, f"{name}: {study.TEST}"): [70.0, 72.0],
        (study.BEST, f"{name}: {study.TEST}"): [91.0, 92.0],
        (study.STOPPED, f"{name}: {study.WRONG_TRUE}"): [90.0, 92.0],
        (study.END, f"{name}: {study.WRONG_TRUE}"): [20.0, 22.0],
    }
    for start in ("digits: stopped", "the rule loses", "where the rule stops"):
        assert judge(claim(start), rows_of(good)).held, start
    assert not judge(
        claim("digits: stopped"), rows_of(good | {(study.END, f"{name}: {study.TEST}"): [80.0, 100.0]})
    ).held
    assert not judge(
        claim("the rule loses"), rows_of(good | {(study.BEST, f"{name}: {study.TEST}"): [95.0, 95.0]})
    ).held
    low = {(study.STOPPED, f"{name}: {study.WRONG_TRUE}"): [40.0, 42.0]}
    assert not judge(claim("where the rule stops"), rows_of(good | low)).held
    far = {(study.END, f"digits, {k} % wrong: {study.DISTANCE}"): [k + 1.0, k + 1.1] for k in (0, 30, 50)}
    assert judge(claim("digits: the more"), rows_of(far)).held
    assert not judge(
        claim("digits: the more"), rows_of(far | {(study.END, f"{name}: {study.DISTANCE}"): [0.5, 0.6]})
    ).held
    metric = f"{name}: energy in the top tenth of eigenvectors, "
    energy = {
        (study.END, metric + "right labels"): [0.8, 0.82],
        (study.END, metric + "wrong labels' part"): [0.2, 0.22],
    }
    assert judge(claim("digits: right labels"), rows_of(energy)).held
    energy[study.END, metric + "right labels"] = [0.1, 0.12]
    assert not judge(claim("digits: right labels"), rows_of(energy)).held

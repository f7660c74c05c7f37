"""The study of the area under the margin: a run too small to learn, its parts by hand, its rules on made-up rows."""

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from made_up import write_cifar10
from weigher.errors import RequestError
from weigher.studies import aum as study
from weigher.studies import aum_names as words
from weigher.studies import aum_runs as runs
from weigher.studies.harness import Context, Row, find_row, judge, run_study

NOISE = (words.CLEAN, (words.UNIFORM, 0.2), (words.ASYMMETRIC, 0.2))
TINY = (
    (words.DIGITS, words.World(250, 60, NOISE[:2], epochs=8, final_epochs=4, folds=2)),
    (words.MNIST, words.World(80, 20, NOISE[1:], epochs=1, final_epochs=1, width=2, augment="shift", folds=2)),
    (words.CIFAR, words.World(110, 12, NOISE[1:2], epochs=1, final_epochs=1, width=2, augment="mirror", folds=2)),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    write_cifar10(folder, rng, train=120, test=12)
    (folder / "mnist10k").mkdir()
    pixels = rng.integers(0, 256, (100, 28, 28), np.uint8)
    np.savez(folder / words.MNIST_FILE, images=pixels, labels=np.arange(100) % 10)
    return folder


def context(data, out, *seeds):
    return Context(data, seeds or (0,), "small", out, lambda *_: None)


def test_a_tiny_run_gives_rows_claims_and_the_picture(data, tmp_path, monkeypatch):
    monkeypatch.setitem(study.SIZES, "small", TINY)
    result = run_study(study.STUDY, context(data, tmp_path))
    assert (tmp_path / "aum.png").stat().st_size > 30_000
    assert len(result.claims) == len(study.STUDY.claims)
    name = "digits, uniform 20 %"
    found = {m: find_row(result.rows, words.AUM, f"{name}: {m}").mean for m in (words.PRECISION, words.RECALL)}
    assert found[words.PRECISION] > 0.6
    assert found[words.RECALL] > 0.8
    by_cut = [find_row(result.rows, cut, f"{name}: {words.FLAGGED}").mean for cut in (words.AUM, words.STRICT)]
    assert by_cut[0] > by_cut[1] > 0
    for method in (words.AUM, words.LAST, words.HELD_OUT, words.CLEANLAB):
        assert find_row(result.rows, method, f"{name}: {words.AUROC}").mean > 0.7
    assert not [r for r in result.rows if r.metric == f"digits, right labels: {words.PRECISION}"]
    clean = [
        find_row(result.rows, m, f"digits, right labels: {words.ACCURACY}").mean for m in (words.ALL, words.ORACLE)
    ]
    assert clean[0] == clean[1]  # without noise these two are one training


def test_without_cleanlab_the_study_says_what_to_install(data, tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "cleanlab" else real(name))
    with pytest.raises(RequestError, match=r"cleanlab.*pip install"):
        study.run(context(data, tmp_path))


def test_planted_labels_are_exactly_as_many_and_of_the_kind_asked_for():
    labels = torch.arange(200) % 10
    for kind in (words.UNIFORM, words.ASYMMETRIC):
        given, wrong = runs.planted(labels, kind, 0.3, 1)
        assert int(wrong.sum()) == 60
        assert torch.equal(given != labels, wrong)
    assert bool(((given - labels)[wrong] % 10 == 1).all())
    assert torch.equal(runs.planted(labels, words.UNIFORM, 0.0, 1)[0], labels)
    with pytest.raises(ValueError, match="noise 'other'"):
        runs.planted(labels, "other", 0.3, 1)


def test_figures_among_the_flagged_by_hand():
    flagged, wrong = (torch.tensor(each, dtype=torch.bool) for each in ([1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 1, 0]))
    told = runs.among(flagged, torch.tensor([6.0, 5.0, 4.0, 3.0, 2.0, 1.0]), wrong)
    assert told[words.FLAGGED] == pytest.approx(400 / 6)
    assert told[words.PRECISION] == pytest.approx(2 / 4)
    assert told[words.RECALL] == pytest.approx(2 / 3)
    assert told[words.F1] == pytest.approx(2 * (1 / 2) * (2 / 3) / (1 / 2 + 2 / 3))
    assert told[words.AUROC] == pytest.approx(7 / 9)  # of 3 x 3 pairs two are the wrong way round
    nothing = runs.among(~flagged & False, torch.zeros(6), wrong)
    assert (nothing[words.PRECISION], nothing[words.RECALL], nothing[words.AUROC]) == (0, 0, 0.5)


def test_the_gap_is_0_at_wrong_labels_and_1_at_right_ones():
    chosen = torch.tensor([[True, False, False], [False, True, False]])
    wrong = torch.tensor([False, True, False])

    def gap(extra):
        areas = torch.tensor([[extra, -2.0, 4.0], [4.0, extra, 4.0]])
        return runs.threshold_gap(SimpleNamespace(errors=SimpleNamespace(per_pass=areas), chosen=chosen), wrong)

    assert [gap(extra) for extra in (-2.0, 1.0, 4.0)] == pytest.approx([0.0, 0.5, 1.0])


def test_held_out_logits_are_of_networks_that_did_not_see_the_example(monkeypatch):
    trained = []

    def fit(x, given, outputs, config, *, seed):
        trained.append(set(x[:, 0].tolist()))
        return len(trained) - 1

    def logits_of(network, x):
        assert not trained[network] & set(x[:, 0].tolist())
        return x.expand(-1, runs.CLASSES)

    monkeypatch.setattr(runs, "fit", fit)
    monkeypatch.setattr(runs, "logits_of", logits_of)
    x = torch.arange(10.0)[:, None]
    config = dict(TINY)[words.DIGITS].config
    assert torch.equal(runs.held_out_logits(x, torch.zeros(10, dtype=torch.int64), config, 3)[:, :1], x)
    assert len(trained) == 3


def test_cleanlab_flags_what_its_logits_contradict():
    given = torch.arange(40) % runs.CLASSES
    logits = 6 * torch.nn.functional.one_hot(given, runs.CLASSES).float()
    given = given.clone()
    given[3], given[17] = 8, 0
    flagged, quality = runs.by_cleanlab(logits, given)
    assert flagged.nonzero()[:, 0].tolist() == [3, 17]
    assert set(quality.argsort()[:2].tolist()) == {3, 17}


def test_test_images_are_scaled_as_those_of_training():
    x = torch.rand(6, 1, 4, 4) * 9 + 3
    scaled, test = runs._scaled_alike(x, x[:2])
    assert torch.allclose(scaled[:2], test, atol=1e-6)


def rows_of(figures):
    return [Row.of(method, metric, values) for (method, metric), values in figures.items()]


def claims(start):
    found = [claim for claim in study.STUDY.claims if claim.claim.startswith(start)]
    assert found, start
    return found


def held(start, figures):
    return {judge(claim, rows_of(figures)).held for claim in claims(start)}


def test_the_rules_hold_where_they_should_and_not_otherwise():
    name, clean = "MNIST, uniform 20 %", "MNIST, right labels"
    good = {
        (words.AUM, f"{name}: {words.PRECISION}"): [0.94, 0.95],
        (words.AUM, f"{name}: {words.RECALL}"): [0.9, 0.92],
        (words.STRICT, f"{name}: {words.PRECISION}"): [0.97, 0.98],
        (words.STRICT, f"{name}: {words.RECALL}"): [0.7, 0.7],
        (words.AUM, f"{name}: {words.GAP}"): [0.1, 0.2],
        (words.AUM, f"{clean}: {words.FLAGGED}"): [1.0, 2.0],
    }
    for metric, ours, theirs in (
        (words.AUROC, 0.99, 0.8),
        (words.F1, 0.9, 0.8),
        (words.ACCURACY, 97.0, 80.0),
    ):
        good[words.AUM, f"{name}: {metric}"] = [ours, ours + 0.001]
        for other in (words.LAST, words.CLEANLAB, words.ALL):
            good[other, f"{name}: {metric}"] = [theirs, theirs + 0.001]
    good[words.ORACLE, f"{name}: {words.ACCURACY}"] = [98.0, 98.2]
    for method in (words.AUM, words.ALL):
        good[method, f"{clean}: {words.ACCURACY}"] = [98.0, 98.2]
    for start, changed in (
        ("MNIST: at 20", {(words.AUM, f"{name}: {words.PRECISION}"): [0.89, 0.9]}),
        ("MNIST: AUM ranks", {(words.AUM, f"{name}: {words.AUROC}"): [0.6, 0.99]}),
        ("MNIST: AUM flags", {(words.AUM, f"{name}: {words.F1}"): [0.8, 0.8]}),
        ("MNIST: AUM leaves", {(words.AUM, f"{name}: {words.ACCURACY}"): [80.0, 80.1]}),
        ("at 20 % uniform", {(words.ORACLE, f"{name}: {words.ACCURACY}"): [99.5, 99.6]}),
        ("the extra class", {(words.AUM, f"{name}: {words.GAP}"): [0.6, 0.7]}),
        ("of right labels", {(words.AUM, f"{clean}: {words.FLAGGED}"): [6.0, 7.0]}),
        ("without noise", {(words.AUM, f"{clean}: {words.ACCURACY}"): [99.8, 99.9]}),
    ):
        assert held(start, good) == {True}, start
        assert held(start, good | changed) == {False}, start
    strict = {(words.AUM, f"{name}: {words.PRECISION}"): [0.7], (words.STRICT, f"{name}: {words.RECALL}"): [0.81]}
    assert held("MNIST: at 20", good | strict) == {True}
    assert held("digits: AUM", good) == {False}  # nothing was measured


def test_every_budget_has_the_noise_that_the_claims_speak_of():
    for worlds in study.SIZES.values():
        noise = {}
        for name, world in worlds:
            noise.setdefault(name, []).extend(world.noise)
        for name in (words.DIGITS, words.MNIST, words.CIFAR):
            assert {(words.UNIFORM, 0.2), (words.ASYMMETRIC, 0.2)} <= set(noise[name])
            assert len(set(noise[name])) == len(noise[name])  # nothing is measured twice
        assert words.CLEAN in noise[words.DIGITS]
        assert words.CLEAN in noise[words.MNIST]

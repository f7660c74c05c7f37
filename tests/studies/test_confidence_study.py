"""The study of confidences: its arithmetic, its rules on made-up rows, and a run too small to learn anything."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from made_up import FEW_TURNS, write_read_speech
from weigher.io.rttm import Segment
from weigher.recordings.decode import choose_slots
from weigher.recordings.encoder import Frames
from weigher.recordings.learn import LearnConfig
from weigher.recordings.loss import LossConfig, set_loss
from weigher.recordings.model import LabelHead
from weigher.recordings.teacher import TeacherConfig
from weigher.recordings.weigher import WeigherConfig, track_confidence
from weigher.studies import confidence as study
from weigher.studies import variants
from weigher.studies.alternatives import NoObjectWeigher, no_object_confidence
from weigher.studies.diarization import activity
from weigher.studies.harness import Context, Row, judge, run_study
from weigher.studies.reliability import best_threshold, brier, calibration_error, reliability, turns_found

slots_of_a_file = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40)


@given(slots_of_a_file, st.integers(1, 12))
def test_bins_of_the_reliability_diagram_by_a_loop(slots, bins):
    found = reliability(np.array([q for q, _ in slots]), np.array([o for _, o in slots]), bins)
    expected = 0.0
    for b in range(bins):
        inside = [(q, o) for q, o in slots if b == min(int(q * bins), bins - 1)]
        assert found.count[b] == len(inside)
        if inside:
            confidence, somebody = (sum(part) / len(inside) for part in zip(*inside, strict=True))
            assert found.confidence[b] == pytest.approx(confidence)
            assert found.somebody[b] == pytest.approx(somebody)
            expected += len(inside) / len(slots) * abs(somebody - confidence)
        else:
            assert np.isnan(found.confidence[b])
            assert np.isnan(found.somebody[b])
    assert calibration_error(found) == pytest.approx(expected)


@pytest.mark.parametrize(("confidence", "share"), [(0.35, 0.75), (0.9, 0.5), (0.0, 1.0), (1.0, 1.0)])
def test_calibration_error_and_brier_score_of_a_constant(confidence, share):
    somebody = np.arange(100) < 100 * share
    constant = np.full(100, confidence)
    assert calibration_error(reliability(constant, somebody)) == pytest.approx(abs(share - confidence))
    expected = share * (1 - confidence) ** 2 + (1 - share) * confidence**2
    assert brier(constant, somebody) == pytest.approx(expected)


def test_an_honest_confidence_has_no_error_and_its_brier_score_is_its_variance():
    rng = np.random.default_rng(0)
    q = rng.uniform(size=200_000)
    somebody = rng.uniform(size=q.size) < q
    assert calibration_error(reliability(q, somebody)) < 0.005
    assert brier(q, somebody) == pytest.approx(1 / 6, abs=0.002)  # the mean of q (1 - q)


@given(st.integers(0, 10_000))
def test_the_best_threshold_counts_as_many_right_as_any(seed):
    rng = np.random.default_rng(seed)
    confidence = [rng.uniform(size=4).round(1) for _ in range(6)]
    counts = rng.integers(0, 5, size=6).tolist()

    def right(threshold):
        return sum(len(choose_slots(q, threshold=threshold)) == k for q, k in zip(confidence, counts, strict=True))

    found = best_threshold(confidence, counts)
    assert 0 <= found <= 1
    assert right(found) == max(right(t) for t in np.linspace(0.001, 0.999, 999))


@given(st.integers(0, 10_000))
def test_turns_found_by_the_frames_whose_middles_they_cover(seed):
    rng = np.random.default_rng(seed)
    hop, names = 0.04, ("a", "b")
    found = rng.uniform(size=(50, 2)) < 0.5
    starts = rng.uniform(0, 1.5, size=8).round(2)
    turns = [Segment(s, s + rng.uniform(0.05, 0.5), names[k % 2]) for k, s in enumerate(starts.tolist())]
    seconds, hits = turns_found(turns, names, found, hop)
    for turn, length, hit in zip(turns, seconds, hits, strict=True):
        covered = activity([turn], [turn.speaker], 50, hop)[:, 0]
        share = found[covered, names.index(turn.speaker)].mean()
        assert length == pytest.approx(turn.end - turn.start)
        assert hit == (share >= 0.5)


def test_a_turn_between_two_middles_is_looked_for_where_it_starts():
    turns = [Segment(0.021, 0.03, "a")]
    assert turns_found(turns, ["a"], np.array([[True], [False]]), 0.04)[1].tolist() == [True]
    assert turns_found(turns, ["a"], np.array([[False], [True]]), 0.04)[1].tolist() == [False]


def test_slots_are_matched_as_the_best_of_all_permutations():
    rng = np.random.default_rng(0)
    for _ in range(20):
        tracks, active = rng.uniform(0.01, 0.99, size=(30, 4)), rng.uniform(size=(30, 3)) < 0.4

        def cost(slots, tracks=tracks, active=active):
            x = tracks[:, list(slots)]
            return -np.where(active, np.log(x), np.log(1 - x)).sum()

        best = min(itertools.permutations(range(4), 3), key=cost)
        whose = variants.matched_slots(tracks, active)
        assert [int(np.flatnonzero(whose == k)[0]) for k in range(3)] == list(best)
        assert (whose == -1).sum() == 1


@pytest.mark.parametrize(
    ("design", "sharpness"), [("self-weighted", 1.0), ("power", 0.6), ("power", 3.0), ("auto", 4.0)]
)
def test_frames_below_the_turning_point_are_pushed_down_and_no_others(design, sharpness):
    x = torch.rand(1, 40, 1, dtype=torch.float64, requires_grad=True)
    q = track_confidence(design, x, None, torch.ones(1, 40, dtype=torch.bool), sharpness)
    (slope,) = torch.autograd.grad(q.sum(), x)
    low = x < study.turning_point(design, sharpness, q.item())
    assert 0 < int(low.sum()) < 40
    assert torch.equal(slope < 0, low)


def test_exp_softmax_pushes_no_probability_down():
    x = torch.rand(1, 40, 1, dtype=torch.float64, requires_grad=True)
    q = track_confidence("exp-softmax", x, None, torch.ones(1, 40, dtype=torch.bool))
    assert study.turning_point("exp-softmax", 1.0, q.item()) == 0
    assert (torch.autograd.grad(q.sum(), x)[0] > 0).all()


def test_the_loss_of_a_class_for_nobody_is_the_set_loss_with_its_confidence():
    logits, nobody = torch.randn(6, 9, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    labels = torch.randint(9, (6,))
    q = no_object_confidence(logits, nobody)
    joint = torch.cat([nobody[:, None], logits], 1)
    torch.testing.assert_close(q, 1 - joint.softmax(1)[:, 0])
    matched = F.cross_entropy(joint, labels + 1, reduction="none")
    torch.testing.assert_close(matched, -q.log() + F.cross_entropy(logits, labels, reduction="none"))
    unmatched = F.cross_entropy(joint, torch.zeros_like(labels), reduction="none")
    torch.testing.assert_close(unmatched, -(1 - q).log())


def test_the_class_for_nobody_learns_from_the_set_loss_and_needs_the_head():
    head = LabelHead(6, 5)
    weigher = NoObjectWeigher(8, 6, WeigherConfig(slots=3, heads=2, layers=1), head)
    frames = Frames(torch.randn(2, 20, 8), torch.randn(2, 20, 6), torch.ones(2, 20, dtype=torch.bool))
    out = weigher(frames)
    logits = head(out.embeddings)
    expected = 1 - torch.cat([weigher.nobody(out.embeddings), logits], -1).softmax(-1)[..., 0]
    torch.testing.assert_close(out.confidence, expected)
    parts = set_loss(out, logits, torch.tensor([[0, 1], [4, -1]]), None, LossConfig(classes="softmax"))
    parts["confidence"].backward()
    for parameter in (*weigher.nobody.parameters(), head.vectors):
        assert parameter.grad.abs().sum() > 0


def test_what_is_taken_over_has_name_and_shape():
    torch.manual_seed(0)
    small, large = torch.nn.Linear(3, 2), torch.nn.Linear(4, 2)
    before = small.weight.clone()
    variants.take_over(small, large)
    assert torch.equal(small.weight, before)
    assert torch.equal(small.bias, large.bias)


def test_kept_memory_is_that_of_the_tensors_kept():
    x, w = torch.randn(30, 20), torch.randn(20, 10, requires_grad=True)
    assert variants.kept_bytes(lambda: x @ w) == x.nbytes  # w itself needs only x for its gradient
    assert variants.kept_bytes(lambda: (x @ w).tanh().tanh()) == x.nbytes + 2 * 4 * 300
    assert variants.kept_bytes(w.square, [w]) == 0


UNSEEN_COUNT, SEEN_COUNT = f"{study.UNSEEN}: {study.COUNT}", f"{study.SEEN}: {study.COUNT}"
UNSEEN_SHORT, UNSEEN_DER = f"{study.UNSEEN}: {study.SHORT}", f"{study.UNSEEN}: {study.DER}"
MUCH, NO_WORSE, STILL, NOBODY, WEAKNESS, RELATIVES, DEFAULT = study.STUDY.claims


def rows(noise=1.0, **changes):
    """Rows of five seeds: every design alike but for `changes`, {method: {metric: mean}}."""
    found = {}
    for seed, shift in enumerate((-2, -1, 0, 1, 2)):
        for method in study.METHODS:
            people = (study.SEEN,) if method == study.NO_OBJECT else (study.SEEN, study.UNSEEN)
            metrics = {f"{p}: {m}": 50.0 for p in people for m in (study.COUNT, study.DER, study.ECE, study.SHORT)}
            metrics |= changes.get(method.replace("-", "_").replace(" ", "_"), {})
            place = study.METHODS.index(method)
            wobble = noise * ((seed * 7 + place * 3) % 5 - 2)  # differs from design to design within a seed
            found.setdefault(seed, {})[method] = {m: v + 10 * shift + wobble for m, v in metrics.items()}
    values = {}
    for each in found.values():
        for method, metrics in (each | study._differences(each)).items():
            for metric, value in metrics.items():
                values.setdefault((method, metric), []).append(value)
    return [Row.of(method, metric, figures) for (method, metric), figures in values.items()]


@pytest.mark.parametrize(
    ("claim", "changes", "held"),
    [
        (MUCH, {"separate_weighted": {UNSEEN_COUNT: 60.0}}, True),
        (MUCH, {"separate_weighted": {UNSEEN_COUNT: 51.0}}, False),
        (NO_WORSE, {}, True),
        (NO_WORSE, {"self_weighted": {UNSEEN_COUNT: 40.0}}, False),
        (STILL, {}, False),
        (STILL, {"self_weighted": {UNSEEN_COUNT: 60.0}}, True),
        (NOBODY, {}, True),
        (NOBODY, {"no_object_class": {SEEN_COUNT: 60.0}}, False),
        (WEAKNESS, {}, False),
        (WEAKNESS, {"self_weighted": {UNSEEN_SHORT: 40.0}}, True),
        (RELATIVES, {}, False),
        (RELATIVES, {"power": {UNSEEN_SHORT: 60.0}}, True),
        (DEFAULT, {}, True),
        (DEFAULT, {"auto": {UNSEEN_COUNT: 60.0}}, False),
        (DEFAULT, {"auto": {UNSEEN_DER: 40.0}}, False),
        (DEFAULT, {"auto": {UNSEEN_DER: 60.0}}, True),
    ],
)
def test_claims_follow_from_the_rows(claim, changes, held):
    assert judge(claim, rows(**changes)).held is held


def test_too_wide_a_spread_within_seeds_and_a_single_seed_hold_nothing():
    better = {"separate_weighted": {UNSEEN_COUNT: 60.0}}
    assert not judge(MUCH, rows(noise=10.0, **better)).held
    alone = [replace(row, std=None, n=1) for row in rows(**better)]
    assert not any(judge(claim, alone).held for claim in study.STUDY.claims)


def test_the_best_designs_are_named():
    told = judge(DEFAULT, rows(power={UNSEEN_COUNT: 60.0}, auto={UNSEEN_DER: 40.0})).measured
    assert f"{study.COUNT}: power" in told
    assert f"{study.DER}: auto" in told


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder laid out as the study knows it: 20 people of features with four utterances each, and turns."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    write_read_speech(folder / "speech", rng, people=20, said=4, turns=FEW_TURNS)
    return folder


def test_a_tiny_run_gives_every_row(data, tmp_path, monkeypatch):
    plain = LearnConfig(teacher=TeacherConfig(threshold=-5.0, temper=3.0), listen_batch=4, listen_seconds=2.0)
    monkeypatch.setattr(variants, "LearnConfig", lambda: plain)  # a teacher that finds a stretch in anything
    monkeypatch.setitem(study.SIZES, "small", study.Size(recordings=12, listen=1, weigh=2, batch=2, test=3, choose=2))
    monkeypatch.setattr(study, "LENGTH_SECONDS", 8.0)
    listened = []
    once = variants.listen_once
    monkeypatch.setattr(variants, "listen_once", lambda *a, **k: listened.append(once(*a, **k)) or listened[-1])
    kept = {}
    train = study._trained

    def trained(method, start, context):
        before = {name: value.clone() for name, value in start.model.state_dict().items()}
        kept[method] = train(method, start, context)
        for name, value in start.model.state_dict().items():
            assert torch.equal(value, before[name]), f"{method} changes {name} of the model it starts from"
        return kept[method]

    monkeypatch.setattr(study, "_trained", trained)
    context = Context(data=data, seeds=(0,), budget="small", out=tmp_path, progress=lambda stage, done, total: None)
    result = run_study(study.STUDY, context)
    assert len(listened) == 1  # one listening for all designs
    assert list(kept) == list(study.METHODS)
    found = {(row.method, row.metric): row.mean for row in result.rows}
    for method in study.METHODS:
        for people in (study.UNSEEN, study.SEEN):
            there = (method, f"{people}: {study.ECE}") in found
            assert there == (method != study.NO_OBJECT or people == study.SEEN)
        assert 0 <= found[method, "threshold"] <= 1
        assert 0 <= found[method, f"{study.SEEN}: {study.SHORT}"] <= 100
    assert found["power", "learned sharpness"] != 1
    assert found["self-weighted", "pushed down below, % of a confidence of 1"] == 50
    gain = found["self-weighted minus power", UNSEEN_DER]
    assert gain == pytest.approx(found["self-weighted", UNSEEN_DER] - found["power", UNSEEN_DER])
    nobody = kept[study.NO_OBJECT]
    assert nobody.config.learn.loss.classes == "softmax"
    assert isinstance(nobody.model_.weigher, NoObjectWeigher)
    assert (tmp_path / "confidence.png").stat().st_size > 1000
    # the same design from the same start is the same: nothing is left of those that came before
    torch.rand(1)
    again = train("separate-mean", listened[0], context)
    for name, value in kept["separate-mean"].model_.state_dict().items():
        assert torch.equal(value, again.model_.state_dict()[name])

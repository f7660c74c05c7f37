"""The study of class losses: its arithmetic and rules, worlds whose answer is known, and a run too small to learn."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from weigher.core.losses import wbce
from weigher.recordings.encoder import Frames
from weigher.studies import slot_naming as naming
from weigher.studies import wbce as study
from weigher.studies.harness import Context, Row, judge, run_study
from weigher.studies.label_sets import mean_average_precision

BETTER, NOT_BEATEN, STRANGERS, FASTER, DETACHED, DEFAULT = study.STUDY.claims


def rows(std=0.1, **changes):
    """Rows of three seeds in which all losses are alike, but for wBCE: (mAP, EER, steps)."""
    figures = {loss: (60.0, 10.0, 100.0) for loss in study.LOSSES} | changes.pop("others", {})
    figures[study.WBCE] = (changes.get("map", 70.0), changes.get("eer", 8.0), changes.get("steps", 50.0))
    return [
        Row(loss, f"{world}: {metric}", value, std, 3)
        for loss, values in figures.items()
        for world in study.WORLDS
        for metric, value in zip((study.MAP, study.EER, study.STEPS), values, strict=True)
    ]


@pytest.mark.parametrize(
    ("claim", "changes", "held"),
    [
        (BETTER, {}, True),
        (BETTER, {"map": 60.1}, False),
        (BETTER, {"std": 9.0}, False),
        (NOT_BEATEN, {"map": 60.0}, True),
        (NOT_BEATEN, {"others": {study.SOFTMAX: (80.0, 10.0, 100.0)}}, False),
        (STRANGERS, {}, True),
        (STRANGERS, {"eer": 12.0}, False),
        (FASTER, {}, True),
        (FASTER, {"steps": 150.0}, False),
        (DETACHED, {}, True),
        (DETACHED, {"others": {study.UNDETACHED: (75.0, 10.0, 100.0)}}, False),
    ],
)
def test_claims_follow_from_the_rows(claim, changes, held):
    assert judge(claim, rows(**changes)).held is held


def test_one_world_in_which_it_fails_is_enough_for_a_claim_to_fail():
    found = [row for row in rows() if (row.method, row.metric) != (study.WBCE, f"{study.MANY}: {study.MAP}")]
    assert not judge(BETTER, [*found, Row(study.WBCE, f"{study.MANY}: {study.MAP}", 50.0, 0.1, 3)]).held


def test_the_default_is_held_against_the_best_mean_rank(monkeypatch):
    assert next(iter(study.mean_ranks(rows()))) == study.WBCE
    ranks = study.mean_ranks(rows(others={study.SOFTMAX: (80.0, 5.0, 20.0)}))
    assert ranks[study.SOFTMAX] == 1
    assert ranks[study.WBCE] == 2
    assert ranks[study.BCE] == 5  # the mean of places 3 to 7
    monkeypatch.setattr("weigher.recordings.loss.LossConfig", lambda: SimpleNamespace(classes="softmax"))
    assert not judge(DEFAULT, rows()).held
    assert judge(DEFAULT, rows(others={study.SOFTMAX: (80.0, 5.0, 20.0)})).held


def test_the_losses_are_those_that_the_claims_know():
    assert set(study.LOSSES) == set(naming.LOSSES)
    assert len(set(naming.KINDS.values())) == 6


def test_weights_that_are_not_detached_pass_gradient():
    logits = torch.tensor([[0.5, 1.0, -1.0]], requires_grad=True)
    answers = torch.tensor([0])
    slopes = {}
    for name in (study.WBCE, study.UNDETACHED):
        (slopes[name],) = torch.autograd.grad(naming.loss_of(name, logits, answers).sum(), logits)
    expected = torch.autograd.grad(wbce(logits, torch.tensor([[1, 0, 0]]), detach=False).sum(), logits)[0]
    assert torch.equal(slopes[study.UNDETACHED], expected)
    assert slopes[study.WBCE][0, 2] > 0 > slopes[study.UNDETACHED][0, 2]  # exact gradient raises an easy negative


def test_only_the_softmax_takes_labels_for_rivals():
    logits = torch.tensor([[1.0, 2.0]])
    assert naming.log_probability(study.SOFTMAX, logits).exp().sum().item() == pytest.approx(1)
    for name in set(study.LOSSES) - {study.SOFTMAX}:
        assert torch.allclose(naming.log_probability(name, logits).exp(), logits.sigmoid()), name


def test_made_up_slots_keep_to_what_is_stated():
    world = naming.made_up(30, files=400, test=100, unseen=10, rng=np.random.default_rng(0))
    assert [len(part.casts) for part in (world.train, world.dev, world.test, world.unseen)] == [400, 50, 100, 20]
    for part, low, high in ((world.train, 0, 30), (world.unseen, 30, 40)):
        there = part.casts >= 0
        assert set(there.sum(1).tolist()) == {1, 2, 3}
        assert low <= part.casts[there].min() <= part.casts[there].max() < high
        assert all(len(set(cast[cast >= 0].tolist())) == (cast >= 0).sum() for cast in part.casts)
        assert torch.equal(part.whose[:, :3], part.casts)
        assert (part.whose[:, 3] == -1).all()
        assert (part.confidence[part.whose >= 0] >= 0.5).all()
        assert (part.confidence[part.whose < 0] <= 0.5).all()
    alone = (world.train.casts >= 0).sum(1) == 1
    # all slots of a file of one person are that person's
    torch.testing.assert_close(world.train.vectors[alone][:, :1].expand(-1, 4, -1), world.train.vectors[alone])
    # what moves a label from file to file lies in 16 directions, the same for all labels
    few = naming.made_up(3, files=3000, test=4, unseen=3, rng=np.random.default_rng(0)).train
    alone = (few.casts >= 0).sum(1) == 1
    seen = [few.vectors[alone, 0][few.casts[alone, 0] == label] for label in range(3)]
    within = torch.cat([each - each.mean(0) for each in seen])
    spread = torch.linalg.svdvals(within.T.cov())
    assert spread[:16].mean().item() == pytest.approx(16 + 1.2**2, rel=0.1)
    assert spread[16:].mean().item() == pytest.approx(1.2**2, rel=0.1)


@pytest.mark.parametrize("name", study.LOSSES)
def test_every_loss_learns_an_easy_world_and_finds_strangers(name):
    world = naming.made_up(8, files=200, test=100, unseen=8, rng=np.random.default_rng(1))
    named = naming.train_namer(world, name, learning_rate=0.03, bias=-2.0, steps=60, batch=32, seed=0)
    found = mean_average_precision(naming.file_scores(named.namer, name, world.test), world.test.casts)
    assert found > 80  # a label is in a quarter of the files
    assert naming.retrieval(named.namer, world.unseen)["slot retrieval EER %"] < 35
    assert len(named.curve) == 20
    assert named.curve[-1][0] == 60
    assert max(score for _, score in named.curve) > named.curve[0][1]


def test_the_same_seed_gives_the_same_figures():
    world = naming.made_up(8, files=50, test=40, unseen=4, rng=np.random.default_rng(1))
    curves = [
        naming.train_namer(world, study.WBCE, learning_rate=0.03, bias=-2.0, steps=4, batch=8, seed=seed).curve
        for seed in (0, 0, 1)
    ]
    assert curves[0] == curves[1] != curves[2]


class Plain:
    """Slots that are their own embeddings and logits."""

    def embed(self, vectors):
        return vectors

    def __call__(self, vectors):
        return vectors


def files(vectors, confidence, casts, whose):
    return naming.SlotFiles(*map(torch.tensor, (vectors, confidence, casts, whose)))


def test_a_file_scores_by_its_surest_slot_of_a_label():
    some = files([[[2.0, -1.0], [3.0, 4.0]]], [[0.9, 0.1]], [[0]], [[0, -1]])
    expected = [
        max(np.log(0.9) + np.log(1 / (1 + np.exp(-2))), np.log(0.1) + np.log(1 / (1 + np.exp(-3)))),
        max(np.log(0.9) + np.log(1 / (1 + np.exp(1))), np.log(0.1) + np.log(1 / (1 + np.exp(-4)))),
    ]
    assert naming.file_scores(Plain(), study.BCE, some)[0] == pytest.approx(expected, rel=1e-5)


def test_strangers_are_looked_for_in_other_files_only():
    east, north = [1.0, 0.1], [0.1, 1.0]
    right = files([[east, north], [east, north]], [[1.0, 1.0]] * 2, [[5, 6]] * 2, [[5, 6]] * 2)
    assert naming.retrieval(Plain(), right) == {"slot retrieval EER %": 0.0, "slot retrieval mAP %": 100.0}
    wrong = files([[east, north], [east, north]], [[1.0, 1.0]] * 2, [[5, 6]] * 2, [[5, 6], [6, 5]])
    assert naming.retrieval(Plain(), wrong)["slot retrieval mAP %"] == pytest.approx(50)
    # nobody else says who that is: slots of one file are no pair, and nobody's slot is left out
    alone = files([[east, east], [north, east]], [[1.0, 1.0]] * 2, [[5, -1], [6, -1]], [[5, 5], [6, -1]])
    assert naming.retrieval(Plain(), alone) == {"slot retrieval EER %": 50.0, "slot retrieval mAP %": 0.0}


def test_a_slot_is_the_mean_of_its_frames_and_belongs_to_whom_it_shares_most_time_with():
    hidden = torch.arange(8.0).reshape(1, 4, 2)
    tracks = torch.tensor([[[0.0, 0.5, 1.0], [0.0, 0.5, 1.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]])
    heard = SimpleNamespace(
        casts=torch.tensor([[7, 9, -1]]),
        active=np.array([[[0, 1, 0], [0, 1, 0], [1, 0, 0], [1, 0, 0]]], bool),
        frames=lambda ears, rows: Frames(hidden[rows], hidden[rows], torch.ones(len(rows), 4, dtype=torch.bool)),
    )
    weigher = SimpleNamespace(
        weigher=lambda frames: SimpleNamespace(tracks=tracks, confidence=tracks.amax(1), frames=frames)
    )
    found = naming.slots_of(None, weigher, heard)
    assert found.whose.tolist() == [[7, -1, 9]]
    assert found.vectors[0].tolist() == [[5.0, 6.0], [1.0, 2.0], [1.0, 2.0]]
    assert found.confidence.tolist() == [[1.0, 0.5, 1.0]]


def test_the_level_is_that_of_the_best_loss_and_may_never_be_reached():
    found = {
        "good": {"curve": [[10, 50.0], [20, 91.0], [30, 100.0]], study.MAP: 3.0},
        "bad": {"curve": [[10, 50.0], [20, 60.0], [30, 89.0]], study.MAP: 2.0},
    }
    assert study.with_steps(found) == {
        "good": {study.MAP: 3.0, study.STEPS: 20},
        "bad": {study.MAP: 2.0, study.STEPS: 30},
    }


def test_a_tiny_run_gives_every_row_and_discloses_every_try(read_speech, tmp_path, monkeypatch):
    size = study.Size(
        listen=2, listen_batch=3, weigh=2, steps=2, batch=4, seconds=6.0, train_files=1, people=(4, 6), labels=0.01
    )
    monkeypatch.setitem(study.SIZES, "small", size)
    monkeypatch.setattr(study, "RATES", (0.03,))
    context = Context(
        data=read_speech, seeds=(0, 1), budget="small", out=tmp_path, progress=lambda stage, done, total: None
    )
    result = run_study(study.STUDY, context)
    found = {(row.method, row.metric): row for row in result.rows}
    for loss in study.LOSSES:
        for world in study.WORLDS:
            assert 0 < found[loss, f"{world}: {study.MAP}"].mean <= 100
            assert 0 <= found[loss, f"{world}: {study.EER}"].mean <= 100
            assert found[loss, f"{world}: {study.STEPS}"].mean in (1, 1.5, 2)
            assert found[loss, f"{world}: {study.MAP}"].n == 2
        tries = [row for row in result.rows if row.method == loss and "to choose by" in row.metric]
        assert len(tries) == 2 * 3  # two settings, three worlds in which they are chosen
        assert {row.n for row in tries} == {1}
    assert len(result.claims) == 6
    assert {name.partition("/")[2] for name in result.data} == {"speech/read_speech_fbank40.npz", "speech/timings/ami"}
    assert (tmp_path / "wbce.png").stat().st_size > 1000

"""The study of poolings: scores whose truth is known, its rules on made-up rows, and a run too small to learn."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score

from weigher.recordings.encoder import Frames
from weigher.recordings.model import LabelHead
from weigher.studies import frame_tagging as tagging
from weigher.studies import pooling as study
from weigher.studies.harness import Context, Row, judge, run_study
from weigher.studies.label_sets import Heard
from weigher.train.loop import LoopConfig

MAP_CLAIM, AUC_CLAIM, SPEECH_CLAIM, TEACHER_CLAIM, PLACES_CLAIM = study.STUDY.claims


def rows(std=0.1, **changes):
    """Rows of three seeds: (mAP, frame AUC, frame AUC within speech)."""
    figures = {method: (60.0, 70.0, 65.0) for method in study.METHODS}
    figures |= {study.WEIGHER: (80.0, 90.0, 85.0), "noisy-or": (60.0, 60.0, 55.0)} | changes
    return [
        Row(method, metric, value, std, 3)
        for method, values in figures.items()
        for metric, value in zip((study.MAP, study.AUC, study.AUC_SPEECH), values, strict=True)
    ]


@pytest.mark.parametrize(
    ("claim", "changes", "held"),
    [
        (MAP_CLAIM, {}, True),
        (MAP_CLAIM, {"std": 20.0}, False),
        (MAP_CLAIM, {"attention": (85.0, 70.0, 65.0)}, False),  # one that is better is enough
        (AUC_CLAIM, {"attention": (85.0, 70.0, 65.0)}, True),
        (AUC_CLAIM, {"max": (60.0, 90.0, 65.0)}, False),
        (SPEECH_CLAIM, {}, True),
        (SPEECH_CLAIM, {"mean": (60.0, 70.0, 86.0)}, False),
        (TEACHER_CLAIM, {}, True),
        (TEACHER_CLAIM, {study.TEACHER: (81.0, 70.0, 65.0)}, False),
        (MAP_CLAIM, {study.TEACHER: (81.0, 70.0, 65.0)}, True),  # it is no pooling
        (PLACES_CLAIM, {}, True),
        (PLACES_CLAIM, {"noisy-or": (60.0, 71.0, 55.0)}, False),
    ],
)
def test_claims_follow_from_the_rows(claim, changes, held):
    assert judge(claim, rows(**changes)).held is held


def test_the_poolings_are_those_that_the_claims_know():
    assert set(study.POOLINGS) == {*tagging.POOLS, tagging.ATTENTION}


def test_frame_auc_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    scores, active = rng.normal(size=(3, 50, 4)).round(1), rng.uniform(size=(3, 50, 4)) < 0.3
    active[:, :, 3] = False  # nobody there: no pair
    active[0, :, 0] = True  # always speaking: neither
    for within_speech in (False, True):
        expected = []
        for f in range(3):
            counted = active[f].any(1) if within_speech else np.ones(50, bool)
            expected += [
                roc_auc_score(active[f, counted, m], scores[f, counted, m])
                for m in range(3)
                if 0 < active[f, counted, m].sum() < counted.sum()
            ]
        assert len(expected) == 8
        found = tagging.frame_auc(scores, active, within_speech=within_speech)
        assert found == pytest.approx(100 * np.mean(expected))


def test_silence_alone_is_worth_nothing_within_speech():
    active = np.zeros((1, 30, 2), bool)
    active[0, :10, 0] = active[0, 10:20, 1] = True
    speech = active.any(2, keepdims=True) * np.ones((1, 1, 2))
    assert tagging.frame_auc(speech, active) == pytest.approx(75)
    assert tagging.frame_auc(speech, active, within_speech=True) == pytest.approx(50)


def heads(pool, frames=5):
    torch.manual_seed(0)
    return tagging.FrameTagger(pool, LabelHead(8, 3), frames)


def test_every_pooling_is_what_it_is_called():
    x = torch.randn(2, 5, 8)
    p = heads("max").head(x).sigmoid()
    weight = torch.softmax(p, 1)
    expected = {
        "max": p.amax(1),
        "mean": p.mean(1),
        "exp-softmax": (weight * p).sum(1),
        "linear softmax": p.square().sum(1) / p.sum(1),
        "attention": p.mean(1),  # before it has learned
    }
    for pool, files in expected.items():
        frames, found = heads(pool)(x)
        torch.testing.assert_close(found, files, msg=pool)
        torch.testing.assert_close(frames, p)
    tagger = heads("noisy-or", frames=50)
    torch.testing.assert_close(tagger.head.bias, heads("max").head.bias - np.log(50))
    p = tagger.head(x).sigmoid()
    torch.testing.assert_close(tagger(x)[1], 1 - (1 - p).prod(1))


def test_attention_weighs_the_frames_of_each_label_apart():
    tagger, x = heads("attention"), torch.randn(2, 5, 8)
    assert tagger.attend is not None
    torch.nn.init.normal_(tagger.attend.weight)
    p, files = tagger(x)
    shares = torch.softmax(F.linear(x, tagger.attend.weight, tagger.attend.bias), 1)
    torch.testing.assert_close(files, (shares * p).sum(1))


def made(files=24, frames=20, labels=4):
    """Files of two of four labels, whose frames are noisy unit vectors: half is one label's, half the other's."""
    rng = np.random.default_rng(0)
    casts = np.stack([rng.permutation(labels)[:2] for _ in range(files)])
    who = np.repeat([[0, 1]], frames // 2, axis=1).repeat(files, 0).reshape(files, frames)
    who = np.sort(who, axis=1)
    vectors = np.eye(8)[np.take_along_axis(casts, who, 1)] + 0.1 * rng.normal(size=(files, frames, 8))
    active = who[..., None] == np.arange(2)
    return Heard(torch.from_numpy(vectors).half(), torch.from_numpy(casts), active)


def deaf(labels=4):
    """Ears to which the frames are their own embeddings."""
    return SimpleNamespace(labels=tuple("abcdefgh"[:labels]), embeddings=lambda hidden: hidden)


@pytest.mark.parametrize("pool", study.POOLINGS)
@pytest.mark.parametrize("kind", study.LOSSES)
def test_every_pooling_learns_labels_and_places_of_an_easy_world(pool, kind):
    heard = made()
    torch.manual_seed(0)
    tagger = tagging.FrameTagger(pool, LabelHead(8, 4), 20)
    loop = LoopConfig(steps=120, learning_rate=0.1, warmup_steps=2, validate_every=120, precision="float32")
    tagging.train_tagger(deaf(), heard, tagger, loop, kind=kind, batch=8)
    found = tagging.figures(tagging.score_tagger(deaf(), tagger, heard), heard)
    assert found[study.MAP] > 85  # a label is in half of the files
    # these two learn from their highest frames, which may be the wrong ones
    assert found[study.AUC] > (70 if pool in ("max", "linear softmax") else 90)
    assert found[study.AUC_SPEECH] == pytest.approx(found[study.AUC])  # somebody always speaks


def test_a_weigher_scores_by_its_slots():
    tracks = torch.tensor([[[1.0, 0.2], [0.5, 0.4]]])
    logits = torch.tensor([[[2.0, -3.0, 0.0], [-1.0, 1.0, 4.0]]])
    weighed = SimpleNamespace(tracks=tracks, embeddings=logits, confidence=torch.tensor([[0.9, 0.3]]))
    heard = SimpleNamespace(
        casts=torch.tensor([[2, 0]]),
        frames=lambda ears, rows: Frames(tracks, tracks, torch.ones(1, 2, dtype=torch.bool)),
    )
    both = SimpleNamespace(weigher=lambda frames: weighed, head=lambda embeddings: embeddings)
    found = tagging.score_weigher(None, both, heard)
    p, q = logits.sigmoid()[0], weighed.confidence[0]
    assert np.exp(found.files[0]) == pytest.approx((q[:, None] * p).amax(0).numpy(), rel=1e-5)
    expected = [[max(tracks[0, t, n] * p[n, c] for n in (0, 1)) for c in (2, 0)] for t in (0, 1)]
    assert found.frames[0] == pytest.approx(np.array(expected), rel=1e-5)


def test_the_teachers_head_is_a_softmax_with_the_shares_of_labels():
    heard = made()
    torch.manual_seed(0)
    head, share = LabelHead(8, 4), torch.tensor([0.4, 0.3, 0.2, 0.1])
    ears = SimpleNamespace(**vars(deaf()), listener=SimpleNamespace(head=head, share=share))
    found = tagging.score_listener(ears, "mean", heard)
    odds = head(heard.hidden.float()).exp() * share
    p = odds / odds.sum(-1, keepdim=True)
    assert found.files == pytest.approx(p.mean(1).detach().numpy(), rel=1e-4)
    assert found.frames[3, :, 1] == pytest.approx(p[3, :, heard.casts[3, 1]].detach().numpy(), rel=1e-4)


def test_a_tiny_run_gives_every_row_and_discloses_every_try(read_speech, tmp_path, monkeypatch):
    size = study.Size(people=6, listen=2, listen_batch=3, steps=2, batch=2, seconds=6.0, train_files=1, test_files=2)
    monkeypatch.setitem(study.SIZES, "small", size)
    monkeypatch.setattr(study, "RATES", (0.03,))
    monkeypatch.setattr(study, "WEIGHER_RATES", (0.003,))
    context = Context(
        data=read_speech, seeds=(0,), budget="small", out=tmp_path, progress=lambda stage, done, total: None
    )
    result = run_study(study.STUDY, context)
    found = {(row.method, row.metric): row.mean for row in result.rows}
    for method in study.METHODS:
        for metric in (study.MAP, study.AUC, study.AUC_SPEECH):
            assert 0 < found[method, metric] <= 100
        tries = [row for row in result.rows if row.method == method and "to choose by" in row.metric]
        assert len(tries) == {study.WEIGHER: 1, study.TEACHER: 5}.get(method, 2)
    head = 6 * 256 + 2
    assert found["max", "trained parameters"] == head
    assert found["attention", "trained parameters"] == head + 6 * 257
    assert found[study.WEIGHER, "trained parameters"] > 10 * head
    assert found[study.TEACHER, "trained parameters"] == 0
    assert [verdict.held for verdict in result.claims] == [False] * 5  # one seed shows nothing
    assert (tmp_path / "pooling.png").stat().st_size > 1000

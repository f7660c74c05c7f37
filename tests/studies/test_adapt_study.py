"""The study of training on: its rules on made-up rows, naming against a model that is known, and a tiny run."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from weigher.io.rttm import Segment
from weigher.recordings.diarizer import Diarizer
from weigher.recordings.encoder import Frames
from weigher.recordings.teacher import TeacherConfig
from weigher.recordings.weigher import Weighed
from weigher.studies import adapt as study
from weigher.studies.diarization import Talk
from weigher.studies.harness import Context, Row, judge, run_study

ALONE, BEFORE, KEPT, REHEARSED, FORGOTTEN, MIXED = study.STUDY.claims


def row(method, group, metric, mean):
    return Row(method, f"{group}: {metric}", mean, 0.5, 3)


@pytest.mark.parametrize(
    ("claim", "ours", "other", "held"),
    [
        (ALONE, row(study.HELD, study.NEW, study.DER, 20.0), row(study.SCRATCH, study.NEW, study.DER, 30.0), True),
        (ALONE, row(study.HELD, study.NEW, study.DER, 30.0), row(study.SCRATCH, study.NEW, study.DER, 30.5), False),
        (BEFORE, row(study.HELD, study.NEW, study.DER, 20.0), row(study.BEFORE, study.NEW, study.DER, 25.0), True),
        (KEPT, row(study.HELD, study.OLD, study.NAMED, 58.0), row(study.BEFORE, study.OLD, study.NAMED, 60.0), True),
        (KEPT, row(study.HELD, study.OLD, study.NAMED, 40.0), row(study.BEFORE, study.OLD, study.NAMED, 60.0), False),
        (
            FORGOTTEN,
            row(study.FREE, study.OLD, study.NAMED, 9.0),
            row(study.BEFORE, study.OLD, study.NAMED, 60.0),
            True,
        ),
        (
            REHEARSED,
            row(study.UNREHEARSED, study.OLD, study.NAMED, 30.0),
            row(study.HELD, study.OLD, study.NAMED, 38.0),
            True,
        ),
        (MIXED, row(study.FREE, study.OLD, study.NAMED, 9.0), row(study.MIXED, study.OLD, study.NAMED, 50.0), True),
    ],
)
def test_claims_follow_from_the_rows(claim, ours, other, held):
    assert judge(claim, [ours, other]).held is held


class Known(torch.nn.Module):
    """A model of two slots, one for each half of a recording, whose embeddings are the first two axes."""

    hop_seconds = 0.1

    def forward(self, values, lengths):
        t = values.shape[1]
        tracks = torch.stack([torch.arange(t) < t // 2, torch.arange(t) >= t // 2], -1).float()[None] * 0.98 + 0.01
        embeddings = torch.eye(3)[None, :2]
        frames = Frames(tracks, tracks, torch.ones(1, t, dtype=torch.bool))
        return Weighed(tracks, embeddings, torch.ones(1, 2), (tracks.logit(),), torch.zeros(1, t), frames)


@pytest.mark.parametrize(
    ("labels", "right"), [(("a", "b", "c"), 100.0), (("b", "a", "c"), 0.0), (("a", "c", "b"), 50.0)]
)
def test_a_name_is_right_where_the_slot_is_the_persons(labels, right):
    diarizer = Diarizer(device="cpu")
    diarizer.model_, diarizer.head_, diarizer.labels_ = Known(), torch.nn.Identity(), labels
    talk = Talk("x", np.zeros((40, 2)), (Segment(0, 2, "a"), Segment(2, 4, "b")), 4.0)
    assert study.named_right(diarizer, [talk]) == right


def test_a_tiny_run_gives_every_row(read_speech, tmp_path, monkeypatch):
    size = study.Size((6, 4), (10, 6), (2, 1), (2, 1), (4, 2), 1, seconds=5.0)
    monkeypatch.setitem(study.SIZES, "small", size)
    plain = study._diarizer

    def quick(*given):
        """The study's diarizer with a teacher that finds a stretch in anything."""
        diarizer = plain(*given)
        teacher = TeacherConfig(threshold=-5.0, temper=3.0)
        diarizer.config = replace(diarizer.config, learn=replace(diarizer.config.learn, teacher=teacher))
        return diarizer

    monkeypatch.setattr(study, "_diarizer", quick)
    context = Context(read_speech, (0,), "small", tmp_path, lambda *stage: None)
    result = run_study(study.STUDY, context)
    found = {(row.method, row.metric) for row in result.rows}
    arms = (study.BEFORE, study.HELD, study.UNREHEARSED, study.FREE, study.MIXED, study.SCRATCH)
    assert {(arm, f"{group}: {study.DER}") for arm in arms for group in (study.OLD, study.NEW)} <= found
    assert {arm for arm, metric in found if metric == f"{study.OLD}: {study.NAMED}"} == {*arms} - {study.SCRATCH}
    assert {arm for arm, metric in found if metric == f"{study.NEW}: {study.NAMED}"} == {*arms} - {study.BEFORE}
    assert len(result.claims) == 6
    assert (tmp_path / "adapt.png").stat().st_size > 1000

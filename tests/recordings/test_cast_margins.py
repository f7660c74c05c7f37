"""Margins of casts against the same written out frame by frame, and an audit of records that are known."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from launching import saved_by_workers
from weigher.errors import RequestError
from weigher.recordings import cast_margins
from weigher.recordings.archive import Archive
from weigher.recordings.audit import audit, places, said
from weigher.recordings.cast_margins import CastMargins, Heard, plant, with_planted
from weigher.recordings.encoder import EncoderConfig
from weigher.recordings.learn import LearnConfig, listen
from weigher.recordings.model import FrontConfig, ModelConfig, RecordingModel
from weigher.train.distribution import join_workers, rank
from weigher.train.loop import LoopConfig

FRAMES, BLOCK, LABELS = (10, 25, 7), 4, 5
CASTS = torch.tensor([[0, 1], [2, -1], [3, 4]])


def recorder(planted=(-1, -1, -1)):
    return CastMargins(FRAMES, CASTS, np.array(planted), LABELS, block_frames=BLOCK)


def by_hand(crops):
    """Mean margin of every block and label, from the definition; blocks heard once are left out."""
    seen = {}
    for recording, begin, logits, heard in crops:
        parts = {}
        for t in range(len(logits)):
            if heard[t]:
                parts.setdefault((begin + t) // BLOCK, []).append(logits[t])
        for block, rows in parts.items():
            if len(rows) >= BLOCK / 2:
                margins = [[row[k] - np.delete(row, k).max() for k in range(LABELS)] for row in rows]
                seen.setdefault((recording, block), []).append(np.mean(margins, 0))
    return {place: np.mean(rows, 0) for place, rows in seen.items() if len(rows) > 1}


@given(st.integers(0, 2**31))
def test_blocks_by_their_definition(seed):
    rng, recorded, crops = np.random.default_rng(seed), recorder(), []
    for _ in range(5):
        n, t = 4, 9
        rows, logits = rng.integers(3, size=n), rng.normal(size=(n, t, LABELS)).astype(np.float32)
        begins = np.array([rng.integers(0, max(1, FRAMES[i] - t + 1)) for i in rows])
        real = np.arange(t) < np.minimum(t, np.array(FRAMES)[rows] - begins)[:, None]
        heard = real & (rng.random((n, t)) < 0.7)
        recorded.add(*map(torch.from_numpy, (rows, begins, logits, heard)))
        crops += list(zip(rows, begins, logits.astype(float), heard, strict=True))
    found, truth = recorded.heard(), by_hand(crops)
    assert [len(blocks) for blocks in found.blocks] == [3, 7, 2]
    for i, blocks in enumerate(found.blocks):
        for b, margins in enumerate(blocks):
            if (i, b) in truth:
                np.testing.assert_allclose(margins, truth[i, b], atol=1e-5)
            else:
                assert np.isnan(margins).all()
        some = [truth[place] for place in truth if place[0] == i]
        np.testing.assert_allclose(found.best[i], np.max(some, 0) if some else np.full(LABELS, -np.inf), atol=1e-5)


def test_of_a_large_archive_only_listed_names_are_recorded(monkeypatch):
    whole = recorder()
    monkeypatch.setattr(cast_margins, "_MOST_NUMBERS", 10)
    few = recorder()
    rng = np.random.default_rng(0)
    crop = (torch.tensor([0, 1, 2]), torch.tensor([0, 8, 0]), torch.from_numpy(rng.normal(size=(3, 7, LABELS))))
    for each in (whole, few):
        for _ in range(2):
            each.add(*crop, torch.ones(3, 7, dtype=torch.bool))
    assert few.records.sum.shape == (12, 2)
    found = few.heard()
    assert not found.every_name
    monkeypatch.undo()
    everything = whole.heard()
    for i, cast in enumerate(CASTS.tolist()):
        for column, label in enumerate(cast):
            if label >= 0:
                np.testing.assert_array_equal(found.blocks[i][:, column], everything.blocks[i][:, label])
    result = audit(found, [[0, 1], [2], [3, 4]], 0.5)
    assert len(result.wrong) == 5
    assert result.missing == ()
    assert not result.every_name


def test_planted_names_are_of_others_and_the_same_again():
    casts = [[i % 7, (i + 1) % 7] for i in range(50)]
    planted = plant(casts, 0.3, seed=4)
    assert (planted >= 0).sum() == 15
    assert all(label not in cast for label, cast in zip(planted, casts, strict=True))
    assert np.array_equal(planted, plant(casts, 0.3, seed=4))
    assert not np.array_equal(planted, plant(casts, 0.3, seed=5))
    assert (plant([[0, 1], [0, 1]], 1.0, seed=0) == -1).all()  # nobody is left to plant
    with pytest.raises(RequestError, match="from 0 to 1"):
        plant(casts, 1.5, seed=0)
    archive = Archive([np.zeros((4, 2))] * 50, casts, tuple("abcdefg"))
    assert with_planted(archive, planted)[:, 2].tolist() == planted.tolist()
    assert with_planted(archive, np.full(50, -1)).shape == (50, 2)


def known():
    """Three recordings of four names; 1 is listed in the first and not there, 3 is there in the second, not listed."""
    best = np.array([[4.0, -6.0, -3.0, -5.0], [-4.0, 3.0, -7.0, 5.0], [-2.0, -6.5, 2.0, -np.inf]])
    blocks = [np.stack([row - 1, row, row - 2]) for row in best]
    names = np.broadcast_to(np.arange(4), (3, 4))
    return Heard(names, best, blocks, np.array([-1, -1, 1]), every_name=True)


def test_wrong_and_missing_names_come_first_and_cut_offs_are_percentiles():
    found = audit(known(), [[0, 1], [1], [2, 3]], 0.5, percentile=50)
    assert [(one.recording, one.label) for one in found.wrong] == [(0, 1), (2, 2), (1, 1), (0, 0)]
    assert [(one.recording, one.label) for one in found.missing][:2] == [(1, 3), (2, 0)]
    assert (2, 1) not in {(one.recording, one.label) for one in (*found.wrong, *found.missing)}  # planted
    assert found.wrong_below == -6.5  # the one planted name
    assert found.missing_above == np.median([4.0, -6.0, 3.0, 2.0])
    assert [one.likely for one in found.missing][:2] == [True, False]
    assert not any(one.likely for one in found.wrong)  # -6 is above -6.5
    assert found.unheard == 1
    assert found.planted == 1
    assert len(audit(known(), [[0, 1], [1], [2, 3]], 0.5, top=1).wrong) == 1


@pytest.mark.parametrize(
    ("margins", "lost"),
    [([-9.0, -8.0, -7.0, 4.0], (2,)), ([-9.0, -8.0, -5.0, 4.0], ()), ([-9.0, -8.0, -np.inf, 4.0], ())],
    ids=["all marked", "one above the cut-off", "only two were heard"],
)
def test_a_name_that_is_wrong_wherever_it_is_listed_was_lost_in_training(margins, lost):
    best = np.array(
        [[3.0, -9.0, margins[0]], [2.0, -9.0, margins[1]], [1.0, -9.0, margins[2]], [2.0, -6.0, margins[3]]]
    )
    heard = Heard(
        np.broadcast_to(np.arange(3), (4, 3)),
        best,
        [best[i : i + 1] for i in range(4)],
        np.array([-1, -1, -1, 1]),
        True,
    )
    casts = [[0, 2, 1], [0, 2, 1], [0, 2], [0]]  # 1 is marked in both of its recordings: too few to tell
    assert audit(heard, casts, 0.5).lost == lost
    assert audit(heard, casts, 0.5, top=1).lost == lost  # whatever is shown
    unplanted = Heard(heard.names, best, heard.blocks, np.full(4, -1), True)
    assert audit(unplanted, casts, 0.5).lost == ()


def test_without_planted_names_there_is_no_cut_off_for_wrong_ones():
    heard = known()
    nothing = Heard(heard.names, heard.best, heard.blocks, np.full(3, -1), every_name=True)
    found = audit(nothing, [[0, 1], [1], [2, 3]], 0.5)
    assert found.wrong_below is None
    assert not any(one.likely for one in found.wrong)
    listed, planted = said(nothing, [[0, 1], [1], [2, 3]])
    assert listed.sum() == 5
    assert not planted.any()


def test_what_cannot_be_judged_is_refused():
    heard = known()
    for percentile in (0.0, 101.0):
        with pytest.raises(RequestError, match="percentile"):
            audit(heard, [[0], [1], [2]], 0.5, percentile=percentile)
    silent = Heard(heard.names, np.full((3, 4), -np.inf), heard.blocks, heard.planted, every_name=True)
    with pytest.raises(RequestError, match="nothing was recorded"):
        audit(silent, [[0], [1], [2]], 0.5)


def test_places_are_the_clearest_and_lie_within_the_recording():
    assert places(np.array([np.nan, np.nan]), 0.5) == ()
    assert places(np.array([1.0]), 0.5) == ((0.0, 0.5),)
    margins = np.full(40, -9.0)
    margins[[5, 20, 39]] = 1.0
    assert places(margins, 0.5) == ((2.0, 3.5), (9.5, 11.0), (19.0, 20.0))


def listened(folder, *, planted=0.25, resume=False, stop_at=None):
    """Listen for 12 steps to eight short recordings of five people."""
    rng = np.random.default_rng(0)
    casts = [[i % 5, (i + 2) % 5] for i in range(8)]
    archive = Archive([rng.normal(size=(120, 6)).astype(np.float32) for _ in casts], casts, tuple("abcde"))
    front = FrontConfig(kind="features", features=6, hop_seconds=0.02, additive=False)
    encoder = EncoderConfig(channels=12, embedding=8, stride=2, dilations=(1,))
    config = LearnConfig(listen=LoopConfig(steps=12, warmup_steps=2, validate_every=4), listen_batch=6, planted=planted)

    def progress(stage, done, total):
        if done == stop_at:
            raise RuntimeError("the power went")

    torch.manual_seed(0)
    model = RecordingModel(ModelConfig(front=front, encoder=encoder))
    config = replace(config, listen_seconds=1.0)
    listener, _ = listen(model, archive, config, run_dir=folder, resume=resume, device="cpu", progress=progress)
    return listener


def test_a_stopped_run_records_the_same_bit_for_bit(tmp_path):
    whole = listened(tmp_path / "whole")
    with pytest.raises(RuntimeError, match="power"):
        listened(tmp_path / "stopped", stop_at=9)
    resumed = listened(tmp_path / "stopped", resume=True)
    for name, value in whole.state_dict().items():
        assert value.equal(resumed.state_dict()[name]), name
    assert whole.margins.records.count.sum() > 0
    assert (whole.margins.planted >= 0).sum() == 2


def test_recording_changes_nothing_of_what_is_learned(tmp_path, monkeypatch):
    recorded = listened(tmp_path / "one", planted=0.0)
    monkeypatch.setattr(CastMargins, "add", lambda *_: None)
    unrecorded = listened(tmp_path / "two", planted=0.0)
    assert unrecorded.margins.records.count.sum() == 0
    for name, value in recorded.state_dict().items():
        if not name.startswith("margins.records"):
            assert value.equal(unrecorded.state_dict()[name]), name


def _crops(worker):
    rng = np.random.default_rng(worker)
    logits = torch.from_numpy(rng.normal(size=(2, 8, LABELS)))
    return torch.tensor([0, 1 + worker]), torch.tensor([0, 0]), logits, torch.ones(2, 8, dtype=torch.bool)


def worker(folder):
    join_workers(torch.device("cpu"))
    recorded = recorder()
    recorded.add(*_crops(rank()))
    torch.save(recorded.state_dict(), folder / f"{rank()}.pt")


def test_every_worker_holds_what_all_of_them_heard(tmp_path):
    alone = recorder()
    for one in range(2):
        alone.add(*_crops(one))
    for state in saved_by_workers(__file__, tmp_path):
        torch.testing.assert_close(state, dict(alone.state_dict()))


if __name__ == "__main__":
    worker(Path(sys.argv[1]))

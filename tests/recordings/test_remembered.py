"""Remembered voices: means and spread against numpy, what is kept from before, what is drawn, what is rehearsed."""

import numpy as np
import pytest
import torch

from weigher.errors import RequestError
from weigher.recordings.archive import Archive
from weigher.recordings.holding import Frozen
from weigher.recordings.learn import LearnConfig, learn
from weigher.recordings.model import FrontConfig, LabelHead, ModelConfig, RecordingModel
from weigher.recordings.recompose import RecomposeConfig
from weigher.recordings.remembered import VOICES, Remembered, keep_voices, kept_voices, remember, to_rehearse
from weigher.recordings.weigher import WeigherConfig
from weigher.train.loop import LoopConfig
from weigher.train.state import save_tensors


def test_voices_that_are_drawn_have_the_means_and_the_covariance_of_those_that_were_heard():
    rng = np.random.default_rng(0)
    scales = np.array([0.3, 0.1, 0.02])
    people = np.repeat([0, 2], 4000)
    centres = np.array([[1.0, 0, 0], [0, 0, 0], [0, 0, 1.0]])
    heard = centres[people] + rng.normal(size=(8000, 3)) * scales
    unit = heard / np.linalg.norm(heard, axis=1, keepdims=True)
    voices = remember(heard, people, names=4)
    for name in (0, 2):
        drawn = voices.draw(np.full(40_000, name), rng).numpy()
        np.testing.assert_allclose(drawn.mean(0), unit[people == name].mean(0), atol=5e-3)
        within = np.cov(np.concatenate([unit[people == k] - unit[people == k].mean(0) for k in (0, 2)]).T)
        np.testing.assert_allclose(np.cov(drawn.T), within, atol=3e-3)
    assert voices.known().tolist() == [True, False, True, False]


def test_names_that_are_not_heard_again_keep_what_is_known_of_them():
    before = remember(np.eye(3), np.array([0, 1, 2]), names=3)
    after = remember(np.array([[0.0, 1.0, 0.0]]), np.array([3]), 4, before)
    torch.testing.assert_close(after.means, torch.eye(3)[[0, 1, 2, 1]])
    assert after.spread is before.spread
    heard_again = remember(np.array([[0.0, 1.0, 0.0]]), np.array([0]), 3, before)
    torch.testing.assert_close(heard_again.means, torch.eye(3)[[1, 1, 2]])


def test_who_was_heard_once_or_never_can_be_remembered():
    once = remember(np.array([[3.0, 4.0]]), np.array([1]), names=2)
    assert (
        once.draw(np.array([1, 1]), np.random.default_rng(0)).tolist() == [[pytest.approx(0.6), pytest.approx(0.8)]] * 2
    )
    nobody = remember(np.empty((0, 2)), np.empty(0, int), names=2)
    assert not nobody.known().any()
    assert to_rehearse(nobody, []).tolist() == []
    assert to_rehearse(None, [[0]]).tolist() == []


def test_voices_are_kept_in_the_run_and_those_of_another_run_are_refused(tmp_path):
    assert kept_voices(tmp_path, 3) is None
    keep_voices(tmp_path, Remembered(torch.eye(3), torch.ones(3, 3)))
    assert kept_voices(tmp_path, 3).means.equal(torch.eye(3))
    with pytest.raises(RequestError, match="does not hold the voices of the 4 names"):
        kept_voices(tmp_path, 4)
    save_tensors(tmp_path / VOICES, {"means": torch.eye(3)}, {})
    with pytest.raises(RequestError, match="does not hold the voices"):
        kept_voices(tmp_path, 3)


def test_new_rows_are_pushed_off_the_voices_that_are_rehearsed():
    rng = np.random.default_rng(0)
    values = [rng.normal(size=(100, 8)).astype(np.float32) for _ in range(4)]
    casts, times = [[4 + k % 2] for k in range(4)], [np.ones((25, 1), bool)] * 4
    archive = Archive(values, casts, ("a", "b", "c", "d", "new", "newer"), times)
    front = FrontConfig(kind="features", features=8, hop_seconds=0.01, additive=False)

    def learned(frozen: Frozen, *, remembers: bool) -> tuple[float, set[str]]:
        """Train two new rows that begin on old voices; how near they still are, and the parts of the loss."""
        torch.manual_seed(0)
        model = RecordingModel(ModelConfig(front=front, weigher=WeigherConfig(slots=2)))
        head = LabelHead(256, 6)
        voices = torch.nn.functional.normalize(torch.randn(4, 256), dim=1)
        with torch.no_grad():
            head.vectors[:4] = voices
            head.vectors[4:] = voices[:2] + 0.03 * torch.randn(2, 256)  # at the voice itself cosines have no slope
        config = LearnConfig(
            listen=LoopConfig(steps=1, learning_rate=1e-4),
            weigh=LoopConfig(steps=10, learning_rate=1e-2, warmup_steps=0, validate_every=10),
            listen_batch=2,
            weigh_batch=2,
            recompose=RecomposeConfig(seconds=1.0),
            frozen=frozen,
        )
        remembered = Remembered(voices, torch.zeros(256, 256)) if remembers else None
        found = learn(model, archive, config, head=head, remembered=remembered, device="cpu")
        near = torch.nn.functional.cosine_similarity(head.vectors[4:].detach(), voices[:2], dim=1)
        return near.max().item(), set(found.weighed.train[0])

    near, parts = learned("encoder", remembers=True)
    still_near, without = learned("encoder", remembers=False)
    assert near < still_near - 0.05
    assert parts - without == {"rehearsal"}
    # the encoder moves, and what is remembered is out of date
    assert learned("nothing", remembers=True)[1] == without

"""What the studies of losses and poolings share: scores against scikit-learn, files as a frozen encoder hears them."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from weigher.io.voices import Utterance, Voices, read_voices
from weigher.recordings.loss import LossConfig
from weigher.studies import label_sets
from weigher.train.loop import LoopConfig


@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_agrees_with_scikit_learn(ties):
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(40, 6)).round(0 if ties else 9)
    right = rng.uniform(size=(40, 6)) < 0.3
    expected = [average_precision_score(right[:, k], scores[:, k]) for k in range(6)]
    assert label_sets.average_precision(scores, right) == pytest.approx(expected)


def test_labels_of_no_file_do_not_enter_the_mean():
    casts = torch.tensor([[0, 2], [-1, -1], [2, -1]])
    scores = np.array([[9.0, 0.0, 1.0], [1.0, 0.0, 2.0], [0.0, 9.0, 3.0]])
    assert label_sets.mean_average_precision(scores, casts) == pytest.approx(100 * (1 + (1 + 2 / 3) / 2) / 2)


def test_parts_share_no_words_and_all_speakers_are_in_each():
    said = [Utterance(who, f"{who}{k}", lambda: np.zeros((9, 2))) for k in range(20) for who in "ab"]
    voices = Voices("features", 0.01, tuple(said))
    parts = [{u.name for u in label_sets.words_of(voices, part).utterances} for part in ("train", "dev", "test")]
    assert [len(part) for part in parts] == [28, 6, 6]
    assert set.union(*parts) == {u.name for u in said}
    assert all(label_sets.words_of(voices, part).speakers == ("a", "b") for part in ("train", "dev", "test"))


@pytest.fixture(scope="module")
def heard(read_speech):
    """Ears that have listened for two steps, and three files of ten people."""
    voices = read_voices(read_speech / "speech/read_speech_fbank40.npz")
    talks = label_sets.talks_of(voices, read_speech / "speech/timings/ami", "train", count=3, seconds=6.0, seed=[0])
    ears = label_sets.listened(talks, voices.speakers, 0.01, steps=2, batch=3, seed=0, progress=None)
    return talks, ears, label_sets.hear(ears, talks, ears.labels, with_teacher=True)


def test_files_are_heard_as_the_model_hears_them(heard):
    talks, ears, files = heard
    values = torch.from_numpy(talks[1].values)[None]
    expected = ears.model.frames(values, torch.tensor([600]))
    found = files.frames(ears, slice(1, 2))
    torch.testing.assert_close(found.hidden, expected.hidden, atol=2e-3, rtol=2e-3)  # kept in half precision
    torch.testing.assert_close(found.embeddings, expected.embeddings, atol=5e-3, rtol=5e-3)
    assert found.mask.all()
    assert not found.embeddings.requires_grad


def test_truth_and_teacher_stand_in_the_order_of_the_cast(heard):
    talks, ears, files = heard
    assert files.posteriors is not None
    for row, talk in enumerate(talks):
        assert [ears.labels[k] for k in files.casts[row] if k >= 0] == list(talk.cast)
        first = next(s for s in talk.segments)
        frame = int((first.start + first.end) / 2 / ears.model.hop_seconds)
        assert files.active[row, frame, talk.cast.index(first.speaker)]
    absent = (files.casts < 0)[:, None].expand(files.posteriors.shape)
    assert files.posteriors[absent].max() == 0
    assert files.posteriors.sum(2).max() <= 1 + 1e-5
    assert not files.active[absent.numpy()].any()


def test_training_a_weigher_leaves_the_ears_as_they_are(heard):
    _, ears, files = heard
    before = {name: tensor.clone() for name, tensor in ears.model.state_dict().items()}
    both = label_sets.WeigherAndHead(ears, label_sets.fresh_head(10, 256, seed=0))
    loop = LoopConfig(steps=2, warmup_steps=1, validate_every=2)
    label_sets.train_weigher(ears, files, both, LossConfig(), loop, batch=2)
    for name, tensor in ears.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    changed = both.weigher.state_dict()
    assert any(not torch.equal(changed[name], tensor) for name, tensor in ears.model.weigher.state_dict().items())

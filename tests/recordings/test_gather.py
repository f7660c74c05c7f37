import numpy as np
import pytest
import torch
from torch import nn

from weigher.recordings import gather
from weigher.recordings.archive import Archive
from weigher.recordings.model import ModelConfig, RecordingModel
from weigher.recordings.weigher import Weighed, WeigherConfig


class Told(nn.Module):
    """A model whose slots are told: the first value of a recording names the embeddings of its three slots."""

    step_seconds = 0.01

    def __init__(self, embeddings, confidence):
        super().__init__()
        self.slots, self.sure = torch.tensor(embeddings), torch.tensor(confidence)
        self.encoder = RecordingModel(ModelConfig(weigher=WeigherConfig(slots=3))).encoder
        self.heard = []

    def forward(self, values, lengths):
        self.heard.append((values.shape[1], lengths.tolist()))
        which = values[:, 0, 0].long()
        return Weighed(
            **{name: None for name in Weighed.__dataclass_fields__}
            | {"embeddings": self.slots[which], "confidence": self.sure[which]}
        )


class Named(nn.Module):
    """A head whose logit of label c is entry c of the embedding."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, embeddings):
        return embeddings[..., :4] + self.bias


def embedding(**logits):
    row = np.zeros(256, np.float32)
    for name, value in logits.items():
        row["abcd".index(name)] = value
    return row


@pytest.fixture
def told():
    slots = np.stack(
        [
            [embedding(a=5), embedding(b=3, a=4), embedding(c=9)],
            [embedding(d=2), embedding(d=1), embedding(a=1)],
        ]
    )
    return Told(slots, np.array([[0.9, 0.8, 0.9], [0.9, 0.9, 0.3]], np.float32))


def test_labels_of_a_cast_are_given_to_slots_one_to_one_and_unsure_slots_stay_out(told):
    values = [np.full((600, 40), index, np.float16) for index in (0, 1, 1)]
    archive = Archive(values, [[0, 1], [0, 3], [3]], tuple("abcd"))  # c is heard, but in no cast
    vectors, labels = gather.gather_voices(told, Named(), archive)
    assert sorted(labels.tolist()) == [0, 1, 3, 3]  # a of the second recording is only 30 % sure
    for vector, label in zip(vectors, labels, strict=True):
        assert vector[label] == {0: 5, 1: 3, 3: 2}[label]


def test_the_first_half_minute_of_a_share_of_a_large_archive_is_heard(told, monkeypatch):
    monkeypatch.setattr(gather, "_MOST_RECORDINGS", 5)
    values = [np.zeros((100 * (index + 1), 40), np.float16) for index in range(50)]
    archive = Archive(values, [[0]] * 50, tuple("abcd"))
    _, labels = gather.gather_voices(told, Named(), archive)
    assert len(labels) == 5
    assert max(length for length, _ in told.heard) == 3000


def test_slots_that_are_never_sure_give_nothing(told):
    told.sure.zero_()
    vectors, labels = gather.gather_voices(told, Named(), Archive([np.zeros((9, 40))], [[0]], tuple("abcd")))
    assert vectors.shape == (0, 256)
    assert labels.shape == (0,)

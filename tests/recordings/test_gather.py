import numpy as np
import pytest
import torch
from torch import nn

from weigher.recordings import gather
from weigher.recordings.archive import Archive
from weigher.recordings.encoder import EncoderConfig
from weigher.recordings.model import FrontConfig, LabelHead, ModelConfig, RecordingModel
from weigher.recordings.teacher import TeacherConfig
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


def gathered(model, archive, frames_heard):
    """Gather from an archive, noting how much the model hears at once."""
    heard = model.frames

    def noting(values, lengths):
        frames_heard.append((len(values), values.shape[1]))
        return heard(values, lengths)

    model.frames = noting
    labels = len(archive.labels)
    head = LabelHead(model.encoder.config.embedding, labels)
    share = torch.full((labels,), 1 / labels)
    found = gather.gather(model, head, share, archive, TeacherConfig(threshold=-5.0, temper=3.0))
    assert (found.end > found.start).all()
    return found


def test_long_recordings_are_heard_fewer_at_once_and_short_ones_sixteen():
    rng, heard = np.random.default_rng(0), []
    front = FrontConfig(kind="features", features=4, hop_seconds=0.1)
    encoder = EncoderConfig(channels=8, embedding=8, dilations=(1,))
    model = RecordingModel(ModelConfig(front, encoder, WeigherConfig(slots=2)))
    lengths = [*[300] * 20, *[600] * 9, *[9000] * 2]  # half a minute, a minute, a quarter of an hour
    values = [rng.normal(size=(length, 4)).astype(np.float16) for length in lengths]
    found = gathered(model, Archive(values, [[0, 1]] * len(values), ("a", "b")), heard)
    assert heard == [(16, 300), (4, 300), (8, 600), (1, 600), (1, 9000), (1, 9000)]
    assert set(found.recording) == set(range(len(values)))


def test_the_table_of_casts_is_made_once(told, monkeypatch):
    made, whole = [], Archive.cast_table
    monkeypatch.setattr(Archive, "cast_table", lambda archive: made.append(1) or whole(archive))
    values = [np.zeros((20 + index, 40), np.float16) for index in range(12)]
    archive = Archive(values, [[0, 1]] * 12, tuple("abcd"))
    gather.gather_voices(told, Named(), archive)
    assert len(made) == 1
    gathered(RecordingModel(ModelConfig(weigher=WeigherConfig(slots=2))), archive, [])
    assert len(made) == 2


def test_wavlm_hears_a_long_recording_by_windows_which_are_joined_frame_by_frame(tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = transformers.WavLMConfig(**size, conv_dim=(4,) * 7, num_conv_pos_embedding_groups=2)
    transformers.WavLMModel(config).save_pretrained(tmp_path)
    encoder = EncoderConfig(kind="linear", channels=8, embedding=8)
    model = RecordingModel(ModelConfig(FrontConfig(kind="wavlm", wavlm=str(tmp_path)), encoder)).eval()
    monkeypatch.setattr(gather, "_WINDOW_SECONDS", 2.0)
    monkeypatch.setattr(gather, "_OVERLAP_SECONDS", 0.64)
    for length in (32000, 32001, 56000, 56319, 56320, 90123):
        values, heard = torch.randn(2, length), []
        whole = model.frames(values, torch.full((2,), length)).embeddings
        listen = model.frames
        model.frames = lambda *given, listen=listen, heard=heard: heard.append(given[0].shape[1]) or listen(*given)
        with torch.inference_mode():
            joined = gather._embeddings(model, values)
        model.frames = listen
        assert joined.shape == whole.shape
        assert max(heard) <= 32000
        if length == 32000:
            assert joined.equal(whole)
            continue
        for begin in range(0, length - 10240, 21760):  # past the middle of an overlap the next window is heard
            part = values[:, begin : begin + 32000]
            alone = model.frames(part, torch.full((2,), part.shape[1])).embeddings
            hop = round(model.hop_seconds * 16000)
            first, last = 5120 // hop if begin else 0, 26880 // hop
            torch.testing.assert_close(joined[:, begin // hop + first : begin // hop + last], alone[:, first:last])

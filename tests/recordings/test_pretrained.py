import errno
import json
import pickle
import shutil

import pytest
import torch
from torch import nn

from weigher.errors import RequestError, WeigherError
from weigher.io import atomic
from weigher.recordings.configs import from_plain, to_plain
from weigher.recordings.encoder import EncoderConfig
from weigher.recordings.model import FrontConfig, ModelConfig, RecordingModel
from weigher.recordings.pretrained import load_folder, save_folder
from weigher.recordings.weigher import WeigherConfig

TINY = ModelConfig(
    FrontConfig(kind="features", features=5, hop_seconds=0.01),
    EncoderConfig(channels=6, embedding=4),
    WeigherConfig(slots=2, heads=2, layers=1),
)
FILES = ["README.md", "config.json", "model.safetensors"]


def tiny(seed=0, config=TINY):
    torch.manual_seed(seed)
    model = RecordingModel(config)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.normal_(module.running_mean)
    return model.eval()


def saved(folder, seed=0, config=TINY, card="# card\n"):
    save_folder(folder, tiny(seed, config), {"config": to_plain(config), "labels": ["Ann", "بوب"]}, card)
    return folder


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_folder_gives_the_same_model_back(tmp_path):
    folder = saved(tmp_path / "runs" / "a model")
    assert sorted(file.name for file in folder.iterdir()) == FILES
    assert (folder / "README.md").read_text(encoding="utf-8") == "# card\n"
    plain, fill = load_folder(folder)
    assert plain["labels"] == ["Ann", "بوب"]
    config = from_plain(ModelConfig, plain["config"], folder / "config.json")
    assert config == TINY
    model = tiny(seed=7, config=config)
    x, lengths = torch.randn(2, 50, 5), torch.tensor([50, 31])
    expected = tiny()(x, lengths)
    assert not torch.equal(model(x, lengths).tracks, expected.tracks)
    fill(model)
    got = model(x, lengths)
    for part in ("tracks", "embeddings", "confidence"):
        assert torch.equal(getattr(got, part), getattr(expected, part))


def test_saving_again_replaces(tmp_path):
    folder = saved(saved(tmp_path / "model"), seed=3, card="# second\n")
    model = tiny(seed=9)
    load_folder(folder)[1](model)
    for name, tensor in tiny(seed=3).state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    assert (folder / "README.md").read_text() == "# second\n"
    assert sorted(file.name for file in folder.iterdir()) == FILES


def test_weights_that_share_memory_or_lie_askew(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 3, bias=False)
            self.b = nn.Linear(3, 3, bias=False)
            self.b.weight = self.a.weight
            self.register_buffer("turned", torch.arange(6.0).view(2, 3).T)

    model, fresh = Tied(), Tied()
    save_folder(tmp_path / "m", model, {}, "")
    load_folder(tmp_path / "m")[1](fresh)
    assert torch.equal(fresh.a.weight, model.a.weight)
    assert torch.equal(fresh.turned, model.turned)


def test_no_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "none", tmp_path / "file"):
        with pytest.raises(RequestError, match="there is no model folder") as caught:
            load_folder(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_is_missing(name, tmp_path):
    folder = saved(tmp_path / "model")
    (folder / name).unlink()
    with pytest.raises(RequestError, match=name) as caught:
        load_folder(folder)
    assert str(folder) in str(caught.value)
    (folder / name).mkdir()
    with pytest.raises(RequestError, match=name):
        load_folder(folder)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "no JSON"),
        (b'{"format": "weigher.diarizer.1"', "no JSON"),
        (b"\xff\xfe\x00", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"[]", "needed is 'weigher.diarizer.1'"),
        (b"null", "needed is 'weigher.diarizer.1'"),
        (b"{}", "needed is 'weigher.diarizer.1'"),
        (b'{"format": "weigher.diarizer.2"}', "needed is 'weigher.diarizer.1'"),
        (b'{"model_type": "wavlm"}', "needed is 'weigher.diarizer.1'"),
    ],
)
def test_a_configuration_that_is_not_ours(content, told, tmp_path):
    folder = saved(tmp_path / "model")
    (folder / "config.json").write_bytes(content)
    with pytest.raises(RequestError, match=told) as caught:
        load_folder(folder)
    assert str(folder / "config.json") in str(caught.value)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_weights_cut_short(keep, tmp_path):
    folder = saved(tmp_path / "model")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:keep])
    with pytest.raises(RequestError, match="damaged or cut short") as caught:
        load_folder(folder)
    assert str(folder / "model.safetensors") in str(caught.value)


def test_weights_of_another_model(tmp_path):
    plain_design = ModelConfig(TINY.front, TINY.encoder, WeigherConfig(slots=2, heads=2, layers=1, tracks="linear"))
    wider = ModelConfig(TINY.front, EncoderConfig(channels=8, embedding=4), TINY.weigher)
    for other in (plain_design, wider):
        folder = saved(tmp_path / "model", config=other)
        model = tiny()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with pytest.raises(RequestError, match="a different model") as caught:
            load_folder(folder)[1](model)
        assert "model.safetensors" in str(caught.value)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.pkl", "last.ckpt", "A.PKL"])
def test_pickles_are_refused_unopened(name, tmp_path):
    folder = saved(tmp_path / "model")
    (folder / name).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(RequestError, match=f"{name}, a pickle"):
        load_folder(folder)  # whatever stands beside it
    (folder / "model.safetensors").unlink()
    with pytest.raises(RequestError, match=f"{name}, a pickle"):
        load_folder(folder)
    # nor under a false name
    shutil.move(folder / name, folder / "model.safetensors")
    with pytest.raises(RequestError, match="damaged"):
        load_folder(folder)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("survives", [0, 1, 2])
def test_a_full_disk_leaves_all_that_stood_there(number, survives, tmp_path, monkeypatch):
    folder = saved(tmp_path / "model")
    before = contents(folder)
    real = atomic._WatchedFile.write
    written, refused = set(), set()

    def write(self, data, /):
        written.add(self.name)
        if len(written) > survives:
            refused.add(self.name)
            raise OSError(number, "No space left on device")
        return real(self, data)

    # `survives` files get onto the disk before it is full
    monkeypatch.setattr(atomic._WatchedFile, "write", write)
    other = ModelConfig(TINY.front, EncoderConfig(channels=8, embedding=4), TINY.weigher)
    with pytest.raises(WeigherError, match="disk is full"):
        saved(folder, config=other, card="# new\n")
    monkeypatch.undo()
    assert refused
    assert len(written - refused) <= survives
    assert contents(folder) == before
    load_folder(folder)[1](tiny(seed=5))


@pytest.mark.parametrize("survives", [0, 1, 2])
def test_a_disk_that_fills_while_files_are_forced_out(survives, tmp_path, monkeypatch):
    folder = saved(tmp_path / "model")
    before, calls = contents(folder), []

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) > survives:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", fsync)
    with pytest.raises(WeigherError, match="disk is full"):
        saved(folder, seed=1, card="# new\n")
    monkeypatch.undo()
    assert contents(folder) == before


def test_nothing_is_left_of_a_model_that_cannot_be_written(tmp_path):
    with pytest.raises(TypeError):
        save_folder(tmp_path / "model", tiny(), {"config": object()}, "")
    assert not (tmp_path / "model").exists()


def test_a_place_where_no_folder_can_be(tmp_path):
    (tmp_path / "file").write_text("kept")
    for path in (tmp_path / "file", tmp_path / "file" / "model"):
        with pytest.raises(RequestError, match="cannot write"):
            saved(path)
    assert (tmp_path / "file").read_text() == "kept"


def test_configuration_is_plain_json(tmp_path):
    plain = json.loads((saved(tmp_path / "model") / "config.json").read_text(encoding="utf-8"))
    assert plain["format"] == "weigher.diarizer.1"
    assert plain["config"] == to_plain(TINY)

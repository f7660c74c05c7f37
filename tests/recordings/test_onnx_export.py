"""A model as ONNX gives the model's own numbers, whatever the batch, the length and the padding."""

import builtins
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from weigher.cli.main import main
from weigher.errors import RequestError, WeigherError
from weigher.recordings import onnx_export
from weigher.recordings.diarizer import Diarizer, DiarizerConfig
from weigher.recordings.encoder import EncoderConfig
from weigher.recordings.model import FrontConfig, ModelConfig, RecordingModel
from weigher.recordings.onnx_export import OUTPUTS, TOLERANCE, export_onnx
from weigher.recordings.weigher import WeigherConfig

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

BANDS = 6
ITERATED = ModelConfig(
    FrontConfig(kind="features", features=BANDS, hop_seconds=0.01),
    EncoderConfig(channels=12, embedding=8, dilations=(1, 2)),
    WeigherConfig(slots=3, heads=2, layers=1),
)
# the other design, another confidence, another stride, features that are embeddings
LINEAR = ModelConfig(
    FrontConfig(kind="features", features=BANDS, hop_seconds=0.02, additive=False),
    EncoderConfig(kind="linear", embedding=8),
    WeigherConfig(slots=3, heads=2, layers=1, tracks="linear", confidence="separate-weighted", time_reduction=4),
)


def made(config):
    """A model of random weights whose normalisations have seen something, and voices in a space of their own."""
    torch.manual_seed(0)
    model = RecordingModel(config)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    nn.init.normal_(model.voice.map)
    nn.init.normal_(model.voice.mean)
    return model.eval()


@pytest.fixture(scope="module", params=[ITERATED, LINEAR], ids=["iterated", "linear"])
def pair(request, tmp_path_factory):
    """A model and its exported twin."""
    model, path = made(request.param), tmp_path_factory.mktemp("onnx") / "model.onnx"
    assert export_onnx(model, path) <= TOLERANCE
    return model, onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def told(model, session, values, lengths):
    with torch.inference_mode():
        out = model(values, lengths)
        ours = out.tracks, model.voice(out.embeddings), out.confidence, out.frames.mask
    return ours, session.run(list(OUTPUTS), {"features": values.numpy(), "lengths": lengths.numpy()})


@pytest.mark.parametrize("rows", [1, 3, 4, 5, 19, 20, 21, 399, 403, 404, 1000, 3001])
def test_any_length_gives_the_models_numbers(pair, rows):
    ours, theirs = told(*pair, torch.randn(1, rows, BANDS), torch.tensor([rows]))
    for name, one, other in zip(OUTPUTS, ours, theirs, strict=True):
        np.testing.assert_allclose(other, one.numpy(), atol=TOLERANCE, err_msg=name)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_padded_batches_give_the_numbers_of_single_files(pair, batch):
    model, session = pair
    lengths = torch.tensor([777, 1, 400, 23, 776][:batch])
    values = torch.randn(batch, 777, BANDS)
    for row, length in enumerate(lengths):
        values[row, length:] = torch.nan  # what padding holds does not matter
    ours, theirs = told(model, session, values, lengths)
    for name, one, other in zip(OUTPUTS, ours, theirs, strict=True):
        np.testing.assert_allclose(other, one.numpy(), atol=TOLERANCE, err_msg=name)
    for row, length in enumerate(lengths.tolist()):
        _, alone = told(model, session, values[row : row + 1, :length], lengths[row : row + 1])
        frames = alone[0].shape[1]
        np.testing.assert_allclose(theirs[0][row, :frames], alone[0][0], atol=TOLERANCE)
        assert not theirs[0][row, frames:].any()
        assert theirs[3][row].tolist() == [True] * frames + [False] * (theirs[3].shape[1] - frames)
        np.testing.assert_allclose(theirs[1][row], alone[1][0], atol=TOLERANCE)
        np.testing.assert_allclose(theirs[2][row], alone[2][0], atol=TOLERANCE)


def test_the_file_says_what_it_is(pair):
    model, session = pair
    about = session.get_modelmeta().custom_metadata_map
    assert float(about["hop_seconds"]) == model.hop_seconds
    assert float(about["step_seconds"]) == model.step_seconds
    assert about["features"] == str(BANDS)
    assert [(each.name, each.shape) for each in session.get_inputs()] == [
        ("features", ["batch", "rows", BANDS]),
        ("lengths", ["batch"]),
    ]
    assert [each.name for each in session.get_outputs()] == list(OUTPUTS)


def test_exporting_leaves_the_model_as_it_was(tmp_path):
    model = made(ITERATED)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    export_onnx(model, tmp_path / "m.onnx")
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_command_line_writes_what_predict_says(tmp_path, capsys):
    front = replace(ITERATED.front, kind="log-mel", mels=BANDS)
    config = DiarizerConfig(model=replace(ITERATED, front=front))
    diarizer = Diarizer(config=config, device="cpu")
    diarizer.model_ = made(config.model)
    diarizer.save_pretrained(tmp_path / "model")
    assert main(["export", str(tmp_path / "model"), "--out", str(tmp_path / "sub" / "m.onnx"), "--json"]) == 0
    assert '"largest_difference"' in capsys.readouterr().out
    assert main(["export", str(tmp_path / "model"), "--out", str(tmp_path / "m.onnx")]) == 0
    assert "MB" in capsys.readouterr().out
    values = np.random.default_rng(0).normal(size=(1, 600, BANDS)).astype(np.float32)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    tracks, voices, confidence, _ = session.run(None, {"features": values, "lengths": np.array([600])})
    found = diarizer.predict(values[0], num_speakers=3)
    order = next(  # speakers are slots in order of appearance
        list(order)
        for order in itertools.permutations(range(3))
        if np.allclose(confidence[0][list(order)], found.confidence, atol=TOLERANCE)
    )
    np.testing.assert_allclose(tracks[0][:, order], found.tracks, atol=TOLERANCE)
    np.testing.assert_allclose(voices[0][order], found.embeddings, atol=TOLERANCE)


def test_what_cannot_be_exported_is_told(tmp_path, monkeypatch, capsys):
    model = made(ITERATED)
    model.wavlm = nn.Identity()
    with pytest.raises(RequestError, match="WavLM"):
        export_onnx(model, tmp_path / "m.onnx")
    model.wavlm = None
    monkeypatch.setattr(onnx_export, "_difference", lambda *_: 0.5)
    with pytest.raises(WeigherError, match=r"differ .* by 0\.5"):
        export_onnx(model, tmp_path / "m.onnx")
    real = builtins.__import__

    def without(name, *more):
        if name == "onnxruntime":
            raise ImportError(name)
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RequestError, match=r"weigher\[onnx\]"):
        export_onnx(model, tmp_path / "m.onnx")
    with pytest.raises(RequestError, match="learned nothing"):
        Diarizer(config=DiarizerConfig(model=ITERATED), device="cpu").export_onnx(tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()

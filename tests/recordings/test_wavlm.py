import json
import pickle
import sys

import numpy as np
import pytest
import torch
import transformers
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model, WavLMConfig, WavLMModel

from weigher.errors import RequestError
from weigher.recordings.diarizer import Diarizer, DiarizerConfig
from weigher.recordings.encoder import EncoderConfig
from weigher.recordings.model import FrontConfig, ModelConfig, RecordingModel
from weigher.recordings.wavlm import WavLMFeatures
from weigher.recordings.weigher import WeigherConfig

SIZE = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": (8,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "num_buckets": 16,
    "max_bucket_distance": 20,
}
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}


def save(folder, seed=0, **changes):
    torch.manual_seed(seed)
    WavLMModel(WavLMConfig(**SIZE, **changes)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return save(tmp_path_factory.mktemp("large"), **LARGE)


@pytest.fixture(params=["base", "large"])
def folder(request):
    return request.getfixturevalue(request.param)


def speechlike(batch, samples, seed=0):
    return torch.randn(batch, samples, generator=torch.Generator().manual_seed(seed)) * 0.1


def test_features_are_the_mixed_hidden_states_of_transformers(folder):
    front, theirs = WavLMFeatures(folder), WavLMModel.from_pretrained(folder).eval()
    with torch.no_grad():
        front.layer_logits.copy_(torch.tensor([0.0, 1.0, -2.0]))
    waveform = speechlike(1, 1000)  # short, so that the variance's denominator shows
    standardised = Wav2Vec2FeatureExtractor(do_normalize=True)(waveform[0].numpy(), sampling_rate=16000)
    entering = torch.from_numpy(standardised["input_values"][0])[None] if front.standardise else waveform
    with torch.no_grad():
        output = theirs(entering, output_hidden_states=True)
    layers = (*output.hidden_states[:-1], output.last_hidden_state)
    weights = torch.tensor([0.0, 1.0, -2.0]).softmax(0)
    got, mask = front(waveform)
    expected = sum(weight * layer for weight, layer in zip(weights, layers, strict=True))
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-6)
    assert mask.all()


def test_padded_batch_equals_single_files(folder):
    front = WavLMFeatures(folder)
    lengths = [8000, 5000, 400, 399, 8000, 0]
    waveform = speechlike(6, 8000)
    for row, length in enumerate(lengths):
        waveform[row, length:] = float("nan")
    got, mask = front(waveform, torch.tensor(lengths))
    assert got.shape == (6, 24, 16)
    for row, length in enumerate(lengths):
        count = front.frames(length)
        assert mask[row].sum() == count
        if count:
            alone, _ = front(waveform[row : row + 1, :length])
            torch.testing.assert_close(got[row, :count], alone[0], rtol=0, atol=1e-5)
        assert not got[row, count:].any()


def test_plain_padding_would_shift_the_base_model(base):
    """The reason for grouping: transformers' own masks do not undo what group norm did over the padding."""
    front, waveform = WavLMFeatures(base), speechlike(1, 5000)
    padded = torch.cat([waveform, torch.zeros(1, 3000)], dim=1)
    alone, _ = front(waveform)
    naive, _ = front(padded)
    assert (naive[:, : alone.shape[1]] - alone).abs().max() > 1e-3


@pytest.mark.parametrize("samples", [0, 1, 399, 400, 719, 720, 16000, 16079, 16080, 16400])
def test_frames_are_those_of_the_model(base, samples):
    front = WavLMFeatures(base)
    features, mask = front(torch.zeros(1, samples))
    assert features.shape[1] == mask.shape[1] == front.frames(samples)
    if samples >= 400:
        assert front.frames(samples) == int(front.model._get_feat_extract_output_lengths(torch.tensor(samples)))
    assert front.hop_seconds == 0.02
    assert front.features == 16


def test_frozen_body_learns_nothing_and_the_mix_does(folder):
    front = WavLMFeatures(folder).train()
    assert not front.model.training
    features, _ = front(speechlike(2, 4000), torch.tensor([4000, 3000]))
    features.square().sum().backward()
    assert front.layer_logits.grad.any()
    assert all(parameter.grad is None for parameter in front.model.parameters())
    assert [name for name, parameter in front.named_parameters() if parameter.requires_grad] == ["layer_logits"]
    again, _ = front(speechlike(2, 4000), torch.tensor([4000, 3000]))
    assert torch.equal(again, features)  # no dropout in the frozen body


def test_gradient_of_the_mix_is_that_of_finite_differences(base):
    front = WavLMFeatures(base).double()
    waveform = speechlike(1, 1000).double()

    def run(logits):
        return torch.func.functional_call(front, {"layer_logits": logits}, (waveform,))[0]

    assert torch.autograd.gradcheck(run, torch.randn(3, dtype=torch.float64, requires_grad=True))


def test_fine_tuned_body_learns_everywhere(folder):
    front = WavLMFeatures(folder, fine_tune=True).train()
    assert front.model.training
    torch.manual_seed(0)
    features, _ = front(speechlike(2, 4000), torch.tensor([4000, 3000]))
    features.square().sum().backward()
    idle = [n for n, p in front.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    # softmax over keys does not see what is added to all of them
    assert [name for name in idle if "k_proj.bias" not in name] == []
    front.eval()
    assert not front.model.training
    assert not front(speechlike(1, 4000))[0].isnan().any()


def test_layers_are_never_skipped_in_training(tmp_path):
    front = WavLMFeatures(save(tmp_path, layerdrop=0.99), fine_tune=True)
    assert front.model.config.layerdrop == 0
    assert not front.model.config.apply_spec_augment
    assert front(speechlike(1, 1000))[0].isfinite().all()


def test_the_preprocessor_file_decides_on_standardising(tmp_path):
    assert not WavLMFeatures(save(tmp_path / "a")).standardise
    assert WavLMFeatures(save(tmp_path / "b", **LARGE)).standardise
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(tmp_path / "a")
    front = WavLMFeatures(tmp_path / "a")
    assert front.standardise
    torch.testing.assert_close(front(speechlike(1, 4000))[0], front(9 * speechlike(1, 4000) + 1)[0], rtol=0, atol=1e-4)
    Wav2Vec2FeatureExtractor(sampling_rate=8000).save_pretrained(tmp_path / "b")
    with pytest.raises(RequestError, match="8000 Hz"):
        WavLMFeatures(tmp_path / "b")


def test_half_precision_file_is_read_in_single_precision(tmp_path):
    torch.manual_seed(0)
    WavLMModel(WavLMConfig(**SIZE)).half().save_pretrained(tmp_path)
    assert WavLMFeatures(tmp_path)(speechlike(1, 1000))[0].dtype == torch.float32


def test_bfloat16_autocast_is_finite(folder):
    with torch.autocast("cpu", torch.bfloat16):
        features, _ = WavLMFeatures(folder)(speechlike(2, 4000), torch.tensor([4000, 100]))
    assert features.isfinite().all()


def test_state_saved_and_loaded_is_equal(base, tmp_path):
    first = WavLMFeatures(base, fine_tune=True).eval()
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(0.01)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = WavLMFeatures(base).eval()
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(second(speechlike(1, 2000))[0], first(speechlike(1, 2000))[0])


def test_without_transformers_the_extra_is_named(base, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(RequestError, match=r"pip install 'weigher\[wavlm\]'"):
        WavLMFeatures(base)


def test_a_folder_never_asks_the_network_and_a_name_may(base, monkeypatch):
    seen = []

    def record(source, **options):
        seen.append((source, options["local_files_only"], options["use_safetensors"]))
        raise OSError("no such model")

    monkeypatch.setattr(transformers.WavLMModel, "from_pretrained", record)
    with pytest.raises(RequestError, match=r"a folder.*no such model"):
        WavLMFeatures(base)
    with pytest.raises(RequestError, match=r"name on the Hugging Face hub.*no such model.*model\.safetensors"):
        WavLMFeatures("someone/wavlm")
    assert seen == [(str(base), True, True), ("someone/wavlm", False, True)]


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


def test_a_pickle_is_never_opened(base, tmp_path):
    (tmp_path / "config.json").write_text((base / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(RequestError, match=r"model\.safetensors found"):
        WavLMFeatures(tmp_path)


def test_folders_that_cannot_be_loaded_whole_are_refused(base, tmp_path):
    with pytest.raises(RequestError, match="cannot load WavLM"):
        WavLMFeatures(tmp_path)  # empty

    weights, config = (base / "model.safetensors").read_bytes(), json.loads((base / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RequestError, match="cannot load WavLM"):
        WavLMFeatures(tmp_path)  # cut short

    (tmp_path / "model.safetensors").write_bytes(weights)
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(RequestError, match="its weights lack"):
        WavLMFeatures(tmp_path)  # a layer too few

    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_size": 32}))
    with pytest.raises(RequestError, match="cannot load WavLM"):
        WavLMFeatures(tmp_path)  # other shapes

    (tmp_path / "config.json").write_text("{")
    with pytest.raises(RequestError, match="cannot load WavLM"):
        WavLMFeatures(tmp_path)


def test_another_family_of_model_is_refused(tmp_path):
    names = {key: value for key, value in SIZE.items() if key not in ("num_buckets", "max_bucket_distance")}
    Wav2Vec2Model(Wav2Vec2Config(**names)).save_pretrained(tmp_path)
    with pytest.raises(RequestError, match="cannot load WavLM"):
        WavLMFeatures(tmp_path)


def test_a_clip_too_short_for_a_frame_is_silence(base):
    """25 ms make a frame; a microphone that was touched makes less."""
    front = FrontConfig(kind="wavlm", wavlm=str(base))
    model = ModelConfig(front, EncoderConfig(kind="linear", embedding=8), WeigherConfig(slots=2))
    diarizer = Diarizer(config=DiarizerConfig(model), device="cpu")
    diarizer.model_ = RecordingModel(model).eval()
    for length in (0, 1, 399, 400):
        found = diarizer.predict(np.zeros(length, np.float32))
        assert found.seconds == length / 16000
        assert len(found.tracks) == (length == 400)

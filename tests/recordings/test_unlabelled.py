"""Recordings read without labels, and the folder of an encoder taught from them."""

import json

import numpy as np
import pytest
import soundfile
import torch

from weigher.errors import RequestError
from weigher.io.features import Features, write_features
from weigher.recordings.encoder import EncoderConfig, FrameEncoder
from weigher.recordings.model import FrontConfig, ModelConfig, RecordingModel
from weigher.recordings.pretrained_encoder import Hearing, encoder_folder, load_encoder, save_encoder
from weigher.recordings.unlabelled import read_unlabelled

RATE = 16000


def test_audio_becomes_what_the_model_would_hear(tmp_path):
    samples = 0.1 * np.random.default_rng(0).normal(size=RATE)
    (tmp_path / "sub").mkdir()
    soundfile.write(tmp_path / "sub" / "a.wav", samples, RATE)
    soundfile.write(tmp_path / "b.flac", samples[: RATE // 2], RATE)
    heard = read_unlabelled(tmp_path, mels=24)
    model = RecordingModel(ModelConfig(front=FrontConfig(mels=24)))
    for values, path in zip(heard.values, ("b.flac", "sub/a.wav"), strict=True):
        assert values.dtype == np.float16
        assert np.array_equal(values, model.read(tmp_path / path).astype(np.float16))
    assert (heard.front, heard.hop_seconds, heard.skipped) == (FrontConfig(mels=24), 0.01, ())


def test_features_come_from_folders_files_and_containers(tmp_path):
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=(n, 6)).astype(np.float32) for n in (30, 40)]
    for index, values in enumerate(rows):
        write_features(tmp_path / f"{index}.npz", Features(values, 0.02))
    heard = read_unlabelled(tmp_path)
    assert [len(values) for values in heard.values] == [30, 40]
    assert (heard.front.kind, heard.front.features, heard.hop_seconds) == ("features", 6, 0.02)
    assert len(read_unlabelled(tmp_path / "1.npz").values) == 1
    container = tmp_path / "container" / "voices.npz"
    container.parent.mkdir()
    names = {"speaker": np.array(["a", "b"]), "utterance": np.array(["1", "2"])}
    np.savez(container, features=np.concatenate(rows), offsets=np.array([0, 30, 70]), hop_seconds=0.02, **names)
    again = read_unlabelled(container)
    assert all(np.array_equal(one, two) for one, two in zip(heard.values, again.values, strict=True))
    assert again.front == heard.front
    assert (heard.names, again.names) == ((None, None), ("a", "b"))
    (tmp_path / "cast.csv").write_text("file_name,speakers\n0.npz,Ann\n1.npz,Ann;Ben\n", encoding="utf-8")
    assert read_unlabelled(tmp_path / "cast.csv").names == ("Ann", None)


def write_rows(folder, *told):
    """Write a file of features for each (rows, width, hop in seconds)."""
    rng = np.random.default_rng(0)
    for index, (rows, width, hop) in enumerate(told):
        write_features(folder / f"{index}.npz", Features(rng.normal(size=(rows, width)).astype(np.float32), hop))


def test_what_does_not_fit_is_left_out_and_said(tmp_path):
    # the first is not of the kind of most
    write_rows(tmp_path, (30, 7, 0.02), (30, 6, 0.02), (30, 6, 0.01), (5, 6, 0.02))
    (tmp_path / "4.npz").write_bytes(b"PK nonsense")
    write_features(tmp_path / "5.npz", Features(np.full((30, 6), 2.0, np.float32), 0.02))
    calls = []
    heard = read_unlabelled(
        tmp_path, least=lambda hop: (round(0.2 / hop), "so it is"), progress=lambda *told: calls.append(told)
    )
    assert [values.shape for values in heard.values] == [(30, 6)]
    assert (heard.front.features, heard.front.hop_seconds) == (6, 0.02)
    said = [
        ("3.npz", "5 frames, needed are 10: so it is"),
        ("4.npz", "cannot"),
        ("5.npz", "is the same from its first frame to its last (silence?)"),
        ("0.npz", "7 features every 0.02", "most hold 6"),
        ("2.npz", "every 0.01 s"),
    ]
    for reason, words in zip(heard.skipped, said, strict=True):
        assert all(word in reason for word in words)
    assert calls[-1] == ("read", 6, 6)
    with pytest.raises(RequestError, match=r"no recording of .* can be used"):
        read_unlabelled(tmp_path, least=lambda hop: (1000, "why"))


def test_as_many_features_of_one_kind_as_of_another_are_refused(tmp_path):
    write_rows(tmp_path, (30, 6, 0.02), (30, 7, 0.02))
    with pytest.raises(RequestError, match=r"hold 6 features every 0\.02 s as 7 features every 0\.02 s \(1\)"):
        read_unlabelled(tmp_path)


def test_a_hop_in_single_precision_is_no_other_kind(tmp_path):
    write_rows(tmp_path, (30, 6, 0.02), (30, 6, float(np.float32(0.02))))
    assert len(read_unlabelled(tmp_path).values) == 2


def test_of_a_folder_of_several_kinds_audio_is_taken_and_the_rest_is_told(tmp_path):
    write_rows(tmp_path, (30, 6, 0.02), (40, 6, 0.02))
    (tmp_path / "cover.png").touch()
    features = read_unlabelled(str(tmp_path))
    assert len(features.values) == 2
    assert "1 file of" in features.skipped[0]
    assert "hold images: with features (.npz) in it, these are read" in features.skipped[0]
    soundfile.write(tmp_path / "a.wav", 0.1 * np.random.default_rng(0).normal(size=RATE), RATE)
    heard = read_unlabelled(tmp_path)
    assert (heard.front.kind, len(heard.values)) == ("log-mel", 1)
    assert [reason[:10].strip() for reason in heard.skipped] == ["2 files of", "1 file of"]
    assert all("with audio in it, these are read" in reason for reason in heard.skipped)


def test_links_to_folders_are_told(tmp_path):
    write_rows(tmp_path, (30, 6, 0.02))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "more").symlink_to(tmp_path)
    heard = read_unlabelled(tmp_path)
    assert len(heard.values) == 1
    assert "more, a link to a folder; give what it leads to" in heard.skipped[0]


@pytest.mark.parametrize(("level", "spread"), [(0, 1e5), (2000, 0.3), (30000, 1e-2), (0, 1e-9)])
def test_features_that_float16_does_not_hold_are_kept_as_they_are(tmp_path, level, spread):
    write_rows(tmp_path, (30, 6, 0.02))
    rows = (level + spread * np.random.default_rng(1).normal(size=(30, 6))).astype(np.float32)
    write_features(tmp_path / "1.npz", Features(rows, 0.02))
    heard = read_unlabelled(tmp_path)
    assert heard.skipped == ()
    assert [values.dtype for values in heard.values] == [np.float16, np.float32]
    assert np.array_equal(heard.values[1], rows)


def test_sound_that_is_too_loud_to_be_computed_is_told(tmp_path):
    sound = np.random.default_rng(0).normal(size=RATE).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", 0.1 * sound, RATE)
    soundfile.write(tmp_path / "b.wav", 1e30 * sound, RATE, subtype="FLOAT")
    heard = read_unlabelled(tmp_path)
    assert len(heard.values) == 1
    assert "b.wav is too loud for its energies" in heard.skipped[0]


def test_silence_is_left_out(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(RATE), RATE)
    soundfile.write(tmp_path / "b.wav", 0.1 * np.random.default_rng(0).normal(size=RATE), RATE)
    heard = read_unlabelled(tmp_path)
    assert len(heard.values) == 1
    assert "a.wav is the same from its first frame to its last" in heard.skipped[0]


def test_a_list_of_two_kinds_is_refused(tmp_path):
    write_features(tmp_path / "a.npz", Features(np.arange(18, dtype=np.float32).reshape(9, 2), 0.02))
    soundfile.write(tmp_path / "b.wav", np.zeros(RATE), RATE)
    (tmp_path / "cast.csv").write_text("file_name,speakers\na.npz,Ann\nb.wav,Ben\n")
    with pytest.raises(RequestError, match="of one kind"):
        read_unlabelled(tmp_path / "cast.csv")
    (tmp_path / "cast.csv").write_text("file_name,speakers\na.npz,Ann\ngone.npz,Ben\n")
    assert "gone.npz" in read_unlabelled(tmp_path / "cast.csv").skipped[0]


@pytest.mark.parametrize("additive", [True, False])
def test_an_encoder_hears_as_it_does_in_the_whole_model(additive):
    front = FrontConfig(kind="features", features=6, hop_seconds=0.02, additive=additive)
    model = RecordingModel(ModelConfig(front=front, encoder=EncoderConfig(channels=8, embedding=4))).eval()
    values, lengths = 3 + torch.randn(2, 50, 6), torch.tensor([50, 33])
    frames, counts = Hearing(model.encoder, additive=additive)(values, lengths)
    expected = model.frames(values, lengths)
    assert torch.equal(frames, expected.embeddings)
    assert torch.equal(counts, expected.mask.sum(1))


def test_a_folder_gives_back_the_encoder_bit_for_bit_and_refuses_what_is_not_one(tmp_path):
    config, front = EncoderConfig(channels=8, embedding=4, stride=2), FrontConfig(mels=12)
    encoder = FrameEncoder(12, config)
    save_encoder(str(tmp_path / "encoder"), encoder, front, {"method": "seqclr"})
    again, same = load_encoder(str(tmp_path / "encoder"))
    assert (again.config, same) == (config, front)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in encoder.state_dict().items())
    assert '"method": "seqclr"' in (tmp_path / "encoder" / "README.md").read_text(encoding="utf-8")
    assert encoder_folder(tmp_path) == encoder_folder(tmp_path / "encoder") == tmp_path / "encoder"
    assert encoder_folder(tmp_path / "nowhere") is None
    settings = json.loads((tmp_path / "encoder" / "config.json").read_text(encoding="utf-8"))
    settings["config"]["model"]["front"]["mels"] = 13
    (tmp_path / "encoder" / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(RequestError, match="different model"):
        load_encoder(tmp_path / "encoder")
    settings["config"]["model"]["front"]["kind"] = "wavlm"
    (tmp_path / "encoder" / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(RequestError, match="needed are log-mel"):
        load_encoder(tmp_path / "encoder")
    (tmp_path / "encoder" / "model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(RequestError, match="pickle"):
        load_encoder(tmp_path / "encoder")

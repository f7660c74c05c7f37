import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile

from weigher.errors import RequestError
from weigher.io.audio import SAMPLE_RATE, AudioError
from weigher.io.voices import Utterance, Voices, read_voices

SPEECH = Path(__file__).parents[3] / "shared" / "data" / "speech"


@pytest.fixture
def folder(tmp_path):
    """Three speakers, with what else lies about in such folders."""
    files = ["ann/b.flac", "ann/a.wav", "Zoë Ñ/1 2.ogg", "ben;x/1.WAV"]
    for index, name in enumerate(files):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, np.full((8000, 2), 0.1 * (index + 1)), 8000, format=path.suffix[1:].upper())
    for name in ["README.md", "ann/text.txt", "ann/.hidden.wav", ".cache/x.wav", "nobody/notes.txt"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("no sound")
    return tmp_path


def container(path, **changes) -> Path:
    arrays = {
        "features": np.arange(-6, 6, dtype=np.int8).reshape(6, 2),
        "scale": np.float32(0.5),
        "offsets": np.array([0, 1, 4, 6]),
        "speaker": np.array(["s1", "s2", "s1"]),
        "utterance": np.array(["u1", "u2", "u3"]),
    } | changes
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return path


def test_folders_of_audio(folder):
    voices = read_voices(folder)
    assert voices.kind == "audio"
    assert voices.hop_seconds == 1 / SAMPLE_RATE
    names = [(utterance.speaker, utterance.name) for utterance in voices.utterances]
    assert names == [("Zoë Ñ", "1 2.ogg"), ("ann", "a.wav"), ("ann", "b.flac"), ("ben;x", "1.WAV")]
    assert voices.speakers == ("Zoë Ñ", "ann", "ben;x")
    samples = voices.utterances[1].load()
    assert samples.dtype == np.float32
    assert samples.shape == (SAMPLE_RATE,)
    assert samples[4000:-4000] == pytest.approx(0.2, abs=1e-3)


def test_audio_is_read_only_when_it_is_loaded(folder):
    (folder / "ann" / "a.wav").write_bytes(b"damaged")
    voices = read_voices(folder)
    with pytest.raises(AudioError, match=r"a\.wav"):
        voices.utterances[1].load()


def test_a_container_of_features(tmp_path):
    voices = read_voices(container(tmp_path / "v.npz"))
    assert voices.kind == "features"
    assert voices.hop_seconds == 0.01
    assert [(u.speaker, u.name) for u in voices.utterances] == [("s1", "u1"), ("s2", "u2"), ("s1", "u3")]
    loaded = [utterance.load() for utterance in voices.utterances]
    assert [x.dtype for x in loaded] == [np.float32] * 3
    assert np.array_equal(loaded[1], [[-2, -1.5], [-1, -0.5], [0, 0.5]])
    assert np.array_equal(np.concatenate(loaded), np.arange(-6, 6).reshape(6, 2) / 2)
    assert read_voices(container(tmp_path / "h.npz", hop_seconds=0.02)).hop_seconds == 0.02


def test_loaded_features_are_the_callers_own(tmp_path):
    for name, changes in (("int8", {}), ("float", {"features": np.ones((6, 2), np.float32), "scale": None})):
        utterance = read_voices(container(tmp_path / f"{name}.npz", **changes)).utterances[0]
        first = utterance.load()
        expected = first.copy()
        first[:] = 99
        assert np.array_equal(utterance.load(), expected)


def test_utterances_travel_to_worker_processes(tmp_path, folder):
    for voices in (read_voices(folder), read_voices(container(tmp_path / "v.npz"))):
        back = pickle.loads(pickle.dumps(voices))
        assert np.array_equal(back.utterances[0].load(), voices.utterances[0].load())


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"offsets": np.array([0, 1, 6])}, r"speaker is <U2 \(3,\); needed is text \[2\]"),
        ({"offsets": np.array([0, 1, 4, 5])}, "rise from 0 to 6"),
        ({"offsets": np.array([1, 2, 4, 6])}, "rise from 0 to 6"),
        ({"offsets": np.array([0, 4, 1, 6])}, "rise from 0 to 6"),
        ({"offsets": np.array([0, 4, 4, 6])}, "by 1 or more"),
        ({"offsets": np.array([0.0, 1, 4, 6])}, "offsets are float64"),
        ({"offsets": np.array([0])}, "offsets are int64"),
        ({"offsets": None}, "it also needs offsets"),
        ({"speaker": np.array([1, 2, 1])}, "speaker is int64"),
        ({"utterance": np.array(["u1"])}, "utterance is <U2"),
        ({"speaker": np.array(["a", "b", None], object)}, "without pickles"),
        ({"scale": None}, "needs the number `scale`"),
        ({"features": np.zeros((6, 2), np.int32)}, "type int32"),
        ({"features": np.zeros(6, np.int8)}, r"shape \(6,\)"),
        ({"features": np.full((6, 2), np.nan)}, "NaN"),
        ({"hop_seconds": -1.0}, "hop_seconds"),
    ],
)
def test_a_wrong_container_is_named(tmp_path, changes, match):
    path = container(tmp_path / "v.npz", **changes)
    with pytest.raises(RequestError, match=match) as caught:
        read_voices(path)
    assert str(path) in str(caught.value)


def test_a_wrong_folder_says_what_layout_is_needed(tmp_path):
    def refused(path, match):
        with pytest.raises(RequestError, match=match) as caught:
            read_voices(path)
        assert str(path) in str(caught.value)
        assert "SPEAKER/name.flac" in str(caught.value)

    refused(tmp_path / "none", "do not exist")
    refused(tmp_path, "holds no audio")
    (tmp_path / "cast.csv").touch()
    refused(tmp_path / "cast.csv", "holds no voices")
    deep = tmp_path / "set" / "speaker"
    deep.mkdir(parents=True)
    soundfile.write(deep / "x.wav", np.zeros(100), 16000)
    refused(tmp_path, r"has its audio deeper down \(set/speaker/x\.wav\)")  # is `set` the speaker? Not for us to guess
    refused(deep, r"has its audio right in it \(x\.wav\)")
    assert read_voices(tmp_path / "set").speakers == ("speaker",)


def test_only_keeps_the_utterances_of_some():
    utterances = tuple(Utterance(speaker, str(i), lambda: np.zeros((1, 1))) for i, speaker in enumerate("abcab"))
    voices = Voices("features", 0.01, utterances)
    assert [u.name for u in voices.only({"b", "a"}).utterances] == ["0", "1", "3", "4"]
    assert voices.only("c").speakers == ("c",)
    assert voices.only([]).utterances == ()
    with pytest.raises(RequestError, match="x, y"):
        voices.only(["a", "y", "x"])


@pytest.mark.skipif(not SPEECH.is_dir(), reason="the real voices of ../shared/data are not on this machine")
def test_real_voices():
    audio = read_voices(SPEECH / "librispeech")
    assert len(audio.speakers) == len(audio.utterances) == 251
    assert 10 < len(audio.utterances[0].load()) / SAMPLE_RATE < 20
    features = read_voices(SPEECH / "read_speech_fbank40.npz")
    assert len(features.speakers) == 200
    assert len(features.utterances) == 10_000
    values = features.utterances[-1].load()
    with np.load(SPEECH / "read_speech_fbank40.npz") as stored:
        expected = stored["features"][stored["offsets"][-2] :] * stored["scale"]
    assert np.array_equal(values, expected)
    with pytest.raises(RequestError, match="deeper"):
        read_voices(SPEECH.parent)

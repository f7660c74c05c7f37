import json
import sys
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weigher.errors import RequestError
from weigher.io.rttm import Segment, read_rttm
from weigher.recordings.result import Diarization

spans = st.tuples(st.integers(0, 20), st.integers(0, 9)).map(lambda s: (float(s[0]), float(sum(s))))


def talk(**changes):
    parts = {
        "file_id": "trñ 00",
        "segments": (Segment(0.0, 1.5, "speaker1"), Segment(1.0, 2.0, "speaker2"), Segment(3.0, 3.5, "speaker1")),
        "speakers": ("speaker1", "speaker2"),
        "confidence": np.array([0.9, 0.7], dtype=np.float32),
        "embeddings": np.eye(2, 4),
        "tracks": np.full((8, 2), 0.6),
        "hop_seconds": 0.5,
        "seconds": 3.9,
    }
    return Diarization(**(parts | changes))


def nobody():
    return talk(segments=(), speakers=(), confidence=np.zeros(0), embeddings=np.zeros((0, 4)), tracks=np.zeros((8, 0)))


def test_rttm_reads_back_as_the_turns(tmp_path):
    path = tmp_path / "talk.rttm"
    path.write_text(talk().to_rttm(), encoding="utf-8")
    assert read_rttm(path) == {"trñ 00": list(talk().segments)}
    assert nobody().to_rttm() == ""


def test_json_holds_plain_values():
    assert json.loads(talk().to_json()) == {
        "file_id": "trñ 00",
        "seconds": 3.9,
        "hop_seconds": 0.5,
        "speakers": [
            {"name": "speaker1", "confidence": 0.9, "speaking_seconds": 2.0},
            {"name": "speaker2", "confidence": 0.7, "speaking_seconds": 1.0},
        ],
        "segments": [
            {"start": 0.0, "end": 1.5, "speaker": "speaker1"},
            {"start": 1.0, "end": 2.0, "speaker": "speaker2"},
            {"start": 3.0, "end": 3.5, "speaker": "speaker1"},
        ],
    }
    assert talk().to_json().isascii()
    assert json.loads(nobody().to_json())["speakers"] == []


@given(st.lists(spans, max_size=8))
def test_speaking_time_counts_every_second_once(spoken):
    result = talk(segments=tuple(Segment(*span, "speaker2") for span in spoken))
    seconds = {second for start, end in spoken for second in range(int(start), int(end))}
    assert result.speaking_seconds == {"speaker1": 0.0, "speaker2": float(len(seconds))}


def test_a_result_does_not_change():
    with pytest.raises(FrozenInstanceError):
        talk().seconds = 1.0
    assert replace(talk(), file_id="b").file_id == "b"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"confidence": np.zeros(3)}, r"2 speakers and confidence \(3,\)"),
        ({"confidence": np.zeros((2, 1))}, "confidence"),
        ({"embeddings": np.zeros((1, 4))}, r"embeddings \(1, 4\)"),
        ({"embeddings": np.zeros(2)}, r"embeddings \(2,\)"),
        ({"tracks": np.zeros((2, 8))}, r"tracks \(2, 8\)"),
        ({"tracks": np.zeros(2)}, r"tracks \(2,\)"),
        ({"speakers": ("a", "a"), "segments": ()}, "share a name"),
        ({"segments": (Segment(0, 1, "bob"),)}, "bob"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, words):
    with pytest.raises(RequestError, match=words):
        talk(**changes)


@pytest.mark.parametrize(("name", "head"), [("a.png", b"\x89PNG"), ("new folder/B.SVG", b"<?xml"), ("c.pdf", b"%PDF")])
def test_pictures_are_written_in_the_format_of_the_name(tmp_path, name, head):
    rng = np.random.default_rng(0)
    figure = talk().plot(tmp_path / name, reference=[Segment(0, 2, "Anna")], samples=rng.standard_normal(4000))
    assert (tmp_path / name).read_bytes().startswith(head)
    texts = {text.get_text() for text in figure.axes[0].texts}
    assert {"trñ 00", "speaker1", "2.0 s", "0.90", "Anna", "reference", "sound"} <= texts


def test_a_picture_of_nobody_can_be_drawn(tmp_path):
    nobody().plot(tmp_path / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("name", ["picture", "picture.doc"])
def test_an_ending_that_is_no_format_is_refused(tmp_path, name):
    with pytest.raises(RequestError, match="png"):
        talk().plot(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    for module in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(RequestError, match=r"weigher\[plot\]"):
        talk().plot()


def test_a_result_is_made_without_matplotlib_and_torch():
    import subprocess

    code = "import sys, weigher.recordings.result; print([m for m in ('torch', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "[]\n"

"""Which voices of an index stand on its map, and the verb that draws it."""

import json

import numpy as np
import pytest

from weigher.cli.main import main
from weigher.recordings.index import PeopleIndex
from weigher.recordings.recorded import Recorded
from weigher.recordings.voice_map import voices_to_map


@pytest.fixture
def index(tmp_path):
    rng = np.random.default_rng(0)
    index = PeopleIndex.create(tmp_path / "index", model="m", width=8)

    def near(axis):
        return np.eye(8)[axis] + 0.05 * rng.normal(size=8)

    people = {
        name: [(f"{name}{take}.wav", near(axis)) for take in range(3)] for axis, name in enumerate(("Ann", "Ben"))
    }
    index.enroll(people)
    index.recalibrate()
    heard = [
        Recorded(f"r{k}.wav", np.stack([near(0), near(5)]), np.full(2, 0.9), [np.array([[0.0, 1.0]])] * 2, [None] * 2)
        for k in range(4)
    ]
    index.remember(heard)
    return index


def test_enrolled_and_heard_voices_with_their_names(index):
    voices = voices_to_map(index)
    assert voices.vectors.shape == (14, 8)
    np.testing.assert_allclose(np.linalg.norm(voices.vectors, axis=1), 1, atol=1e-5)
    assert voices.enrolled.tolist() == [True] * 6 + [False] * 8
    assert sorted(voices.names[:6]) == ["Ann"] * 3 + ["Ben"] * 3
    for name, vector in zip(voices.names[6:], voices.vectors[6:], strict=True):
        assert name == ("Ann" if vector[0] > 0.5 else None)
    assert voices.names[6:].count("Ann") == 4


@pytest.mark.parametrize("most", [1, 3, 6, 8, 14, 99])
def test_of_many_some_are_drawn(index, most):
    assert len(voices_to_map(index, most).names) == min(most, 14)


def test_the_command_line_draws_the_map(index, tmp_path, capsys):
    where = ["--index", str(index.folder)]
    assert main(["people", "map", *where, "--out", str(tmp_path / "map.png"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"written": str(tmp_path / "map.png"), "voices": 14, "people": 2, "unknown": 4}
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    assert main(["people", "map", *where, "--out", str(tmp_path / "map.xyz")]) == 2
    assert "end in one of" in capsys.readouterr().err
    PeopleIndex.create(tmp_path / "empty", model="m", width=8)
    assert main(["people", "map", "--index", str(tmp_path / "empty"), "--out", str(tmp_path / "e.png")]) == 2
    assert "no voice" in capsys.readouterr().err


def test_what_somebody_told_goes_before_likeness(index):
    stranger = np.eye(8)[6:7]
    told = Recorded("told.wav", stranger, np.ones(1), [np.array([[0.0, 1.0]])], ["Ben"])
    index.enroll({}, [told])
    voices = voices_to_map(index)
    assert [name for name, vector in zip(voices.names, voices.vectors, strict=True) if vector[6] > 0.9] == ["Ben"]

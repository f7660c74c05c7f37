"""Enrolling many recordings: their tracks go one by one, and what was heard before an interruption is not lost."""

import os
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from weigher.errors import RequestError
from weigher.io.rttm import Segment
from weigher.recordings import database
from weigher.recordings.diarizer import Diarizer
from weigher.recordings.identify import enroll
from weigher.recordings.index import PeopleIndex
from weigher.recordings.result import Diarization

PEOPLE = ("Ann", "Ben", "Cid")


class Knowing(Diarizer):
    """Hears who is in a recording from its name, in any order; keeps count of the tracks that are still there."""

    def __init__(self):
        super().__init__(device="cpu")
        self.model_ = torch.nn.Linear(1, 1, bias=False)
        self.heard, self.stop_before = [], None
        self.tracks = []
        self.most = 0

    def predict(self, recording, **bounds):
        if Path(recording) == self.stop_before:
            raise KeyboardInterrupt
        self.heard.append(Path(recording))
        there = [PEOPLE.index(name) for name in reversed(Path(recording).name.split("-")[1:])]
        k = len(there)
        assert bounds == {"max_speakers": k}
        silent = (k > 1) * 1  # the last of several says nothing, and is no voice
        speakers = tuple(f"speaker{i}" for i in range(k + silent))
        tracks = np.zeros((1000, k + silent), np.float32)
        self.tracks.append(weakref.ref(tracks))
        self.most = max(self.most, sum(each() is not None for each in self.tracks))
        return Diarization(
            file_id="talk",
            segments=tuple(Segment(i, i + 0.5, name) for i, name in enumerate(speakers[:k])),
            speakers=speakers,
            confidence=np.linspace(0.9, 0.6, k + silent),
            embeddings=np.eye(len(PEOPLE) + 1)[[*there, len(PEOPLE)]][: k + silent],
            tracks=tracks,
            hop_seconds=0.01,
            seconds=10.0,
        )


@pytest.fixture
def diarizer():
    return Knowing()


@pytest.fixture
def index(tmp_path):
    return PeopleIndex.create(tmp_path / "index", model="m", width=4)


@pytest.fixture
def casts(tmp_path):
    """Who is in three recordings, which are there."""
    found = [(tmp_path / f"{n}-{'-'.join(cast)}", cast) for n, cast in enumerate((PEOPLE[:2], PEOPLE[1:], PEOPLE[::2]))]
    for path, _ in found:
        path.write_bytes(b"sound")
    return found


def test_recordings_are_enrolled_without_keeping_their_tracks(diarizer, index, casts):
    found = enroll(diarizer, index, casts)
    assert found.recordings == dict.fromkeys(PEOPLE, 2)
    assert diarizer.most <= 2  # one is being heard while the last one goes
    assert index.count() == (3, 6)
    for person, told in zip(PEOPLE, index.export()["people"], strict=True):
        theirs = [(str(path), cast[::-1].index(person)) for path, cast in casts if person in cast]
        assert told["name"] == person
        assert [each["source"] for each in told["vectors"]] == [path for path, _ in theirs]
        assert all(np.argmax(each["vector"]) == PEOPLE.index(person) for each in told["vectors"])
        spoken = [(each["recording"], each["turns"]) for each in told["recordings"]]
        assert spoken == [(path, [[at, at + 0.5]]) for path, at in theirs]


def cut_off(diarizer, index, casts):
    """Enrol until the last recording."""
    diarizer.stop_before = casts[-1][0]
    with pytest.raises(KeyboardInterrupt):
        enroll(diarizer, index, casts)
    diarizer.heard.clear()
    diarizer.stop_before = None


def test_what_was_heard_is_not_heard_again(diarizer, index, casts, tmp_path):
    other = PeopleIndex.create(tmp_path / "other", model="m", width=4)
    cut_off(diarizer, index, casts)
    assert (index.people(), index.count()) == ([], (0, 0))  # nobody is found by it
    found = enroll(diarizer, index, casts)
    assert diarizer.heard == [casts[-1][0]]
    assert found == enroll(diarizer, other, casts)
    assert index.export() == other.export()
    diarizer.heard.clear()
    enroll(diarizer, index, casts)  # what was asked for once more is done once more
    assert len(diarizer.heard) == 3


def test_what_has_changed_is_heard_again(diarizer, index, casts):
    first, second, third = (path for path, _ in casts)
    cut_off(diarizer, index, casts)
    os.utime(first, (0, 0))
    enroll(diarizer, index, casts)
    assert diarizer.heard == [first, third]
    cut_off(diarizer, index, casts)
    diarizer.model_.weight.data += 1
    enroll(diarizer, index, casts)
    assert diarizer.heard == [first, second, third]
    cut_off(diarizer, index, [*casts[:1], *casts])  # which cast counts is not clear
    enroll(diarizer, index, casts)
    assert diarizer.heard == [first, third]


@pytest.mark.parametrize("voices", ["{}", "[", '{"embeddings": "a", "confidence": [], "turns": []}', "3"])
def test_what_was_damaged_is_heard_again(diarizer, index, casts, voices):
    cut_off(diarizer, index, casts)
    with database.writing(index.folder) as db:
        db.execute("UPDATE heard SET voices = ?", (voices,))
    assert enroll(diarizer, index, casts).recordings == dict.fromkeys(PEOPLE, 2)
    assert len(diarizer.heard) == 3


def test_forgetting_removes_what_was_heard_of_anybody(diarizer, index, casts):
    enroll(diarizer, index, casts[:2])
    cut_off(diarizer, index, casts)
    assert b'"embeddings"' in (index.folder / "people.sqlite").read_bytes()
    index.forget(["Ann"])
    assert b'"embeddings"' not in (index.folder / "people.sqlite").read_bytes()
    enroll(diarizer, index, casts)
    assert len(diarizer.heard) == 3


def test_a_recording_that_is_not_there_is_said_by_what_hears_it(diarizer, index, casts):
    def predict(*_, **__):
        raise RequestError("not there")

    casts[0][0].unlink()
    diarizer.predict = predict
    with pytest.raises(RequestError, match="not there"):
        enroll(diarizer, index, casts)

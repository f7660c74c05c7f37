import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from weigher.io.rttm import Segment
from weigher.recordings.naming import Naming
from weigher.recordings.result import Diarization
from weigher.serve.drawing import draw
from weigher.serve.hearing import Heard


@pytest.fixture
def heard():
    tracks = np.array([[1.0, 0.0], [1.0, 0.5], [0.0, 0.5], [0.0, 1.0]])
    result = Diarization(
        file_id="talk",
        segments=(Segment(0, 2, "Ann"), Segment(3, 4, "unknown1")),
        speakers=("Ann", "unknown1"),
        confidence=np.array([0.875, 0.5]),
        embeddings=np.eye(2),
        tracks=tracks,
        hop_seconds=1.0,
        seconds=4.0,
    )
    namings = (Naming("Ann", "Ann", 0.9), Naming(None, "Ann", 0.25))
    return Heard("talk.wav", Path("nowhere"), "sha256:0", result, namings, np.linspace(0, 1, 1200))


def parsed(text):
    return ElementTree.fromstring(text.replace(" download>", ' download="">'))


def test_turns_lie_where_they_are_in_time_and_carry_their_numbers(heard):
    turns = parsed(draw(heard, "job")).findall(".//rect")
    assert [(t.get("data-turn"), float(t.get("x")), float(t.get("width"))) for t in turns] == [
        ("0", 0, 500),
        ("1", 750, 250),
    ]
    assert turns[1].findtext("title") == "unknown1, 0:03.0 to 0:04.0"


def test_ribbons_are_as_high_as_the_track_and_full_where_the_speaker_speaks(heard):
    _, second = parsed(draw(heard, "job")).findall(".//svg")
    paths = {path.get("class"): path.get("d") for path in second.findall("path")}
    assert paths["pale"] == "M0 64H250V34H750V4H1000V64Z"  # the ground is at 64, a weight of 1 at 4
    assert paths["full"] == "M0 64H750V4H1000V64Z"
    numbers = np.array(re.findall(r"[\d.]+", paths["wave"]), float).reshape(-1, 2)
    assert numbers.min() >= 0
    assert numbers[:, 1].max() <= 64


def test_confidence_names_and_likeness_are_told(heard):
    text = draw(heard, "a/job")
    assert 'aria-valuenow="0.88"' in text
    assert "width:87.5%" in text
    assert "like Ann 0.25" in text
    assert re.findall(r'href="([^"]*)"', text)[0] == "api/jobs/a/job/result?format=rttm"


def test_names_from_outside_are_escaped(heard):
    evil = '<img src=x onerror="alert(1)">'
    result = replace(heard.result, speakers=(evil, "b"), segments=(Segment(0, 2, evil),))
    root = parsed(draw(replace(heard, name=evil, result=result, namings=(Naming(None, evil, 1.0),) * 2), '"><b>'))
    assert root.find(".//img") is None
    assert evil in "".join(root.itertext())


def test_nobody_speaks(heard):
    nobody = replace(
        heard.result,
        segments=(),
        speakers=(),
        confidence=np.zeros(0),
        embeddings=np.zeros((0, 2)),
        tracks=np.zeros((4, 0)),
    )
    assert "nobody is heard to speak" in draw(replace(heard, result=nobody, namings=()), "job")

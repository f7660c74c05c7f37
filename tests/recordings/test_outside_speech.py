"""Outside of the speech that another program found nobody speaks; inside nothing changes."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from weigher.cli.main import main
from weigher.errors import RequestError
from weigher.io.features import Features, write_features
from weigher.recordings.decode import DecodeConfig
from weigher.recordings.diarizer import Diarizer, DiarizerConfig
from weigher.recordings.encoder import EncoderConfig
from weigher.recordings.model import FrontConfig, ModelConfig, RecordingModel
from weigher.recordings.outside_speech import within
from weigher.recordings.weigher import WeigherConfig

HOP, BANDS = 0.02, 6
CONFIG = DiarizerConfig(
    model=ModelConfig(
        FrontConfig(kind="features", features=BANDS, hop_seconds=HOP),
        EncoderConfig(channels=12, embedding=8, stride=2, dilations=(1,)),
        WeigherConfig(slots=3, heads=2, layers=1),
    ),
    decode=DecodeConfig(onset=0.2, offset=0.1, threshold=0.0),  # an untrained model hears everybody everywhere
    window_seconds=8.0,
    overlap_seconds=2.0,
)


@pytest.fixture(scope="module")
def diarizer():
    torch.manual_seed(0)
    diarizer = Diarizer(config=CONFIG, device="cpu")
    diarizer.model_ = RecordingModel(CONFIG.model).eval()
    return diarizer


VALUES = np.random.default_rng(0).normal(size=(2000, BANDS)).astype(np.float32)  # 40 s: several windows


@pytest.mark.parametrize("rows", [300, 2000], ids=["one window", "several"])
def test_nobody_speaks_outside_and_nothing_changes_inside(diarizer, rows):
    speech = [(1.0, 3.0), (2.5, 4.0), (20.0, 30.0)]
    free, bound = (diarizer.predict(VALUES[:rows], speech=given) for given in (None, speech))
    times = (np.arange(len(free.tracks)) + 0.5) * free.hop_seconds
    inside = ((times >= 1) & (times < 4)) | ((times >= 20) & (times < 30))
    assert free.tracks[~inside].max() > 0.1
    assert not bound.tracks[~inside].any()
    assert bound.segments
    grid = free.hop_seconds
    for turn in bound.segments:
        assert any(start - grid <= turn.start and turn.end <= end + grid for start, end in ((1, 4), (20, 30)))
    if rows == 300:  # slots of one window; of several, who is linked to whom goes by what is heard
        np.testing.assert_array_equal(bound.tracks.sum(1)[inside], free.tracks.sum(1)[inside])


def test_all_of_it_is_as_if_nothing_was_told(diarizer):
    free, bound = (diarizer.predict(VALUES, speech=given) for given in (None, [(0, 100)]))
    np.testing.assert_array_equal(free.tracks, bound.tracks)
    assert free.to_json() == bound.to_json()


def test_no_speech_is_nobody(diarizer):
    model, config = diarizer.model_, replace(CONFIG, decode=DecodeConfig(onset=0.2, offset=0.1))
    strict = Diarizer(config=config, device="cpu")
    strict.model_ = model
    for rows in (300, 2000):
        found = strict.predict(VALUES[:rows], speech=[])
        assert (found.segments, found.speakers) == ((), ())
    assert len(strict.predict(VALUES, speech=[(3, 4)], num_speakers=2).speakers) == 2  # bounds hold all the same
    with pytest.raises(RequestError, match="speech from"):
        strict.predict(VALUES, speech=[(2, 1)])


def test_within_is_that_of_the_definition():
    rng = np.random.default_rng(0)
    edges = np.sort(rng.random(20)).reshape(-1, 2)
    times = np.concatenate([rng.random(200), edges.ravel()])
    expected = [any(start <= time < end for start, end in edges) for time in times]
    assert within(tuple(map(tuple, edges.tolist())), times).tolist() == expected


def test_the_command_line_takes_a_file(diarizer, tmp_path, capsys):
    diarizer.save_pretrained(tmp_path / "model")
    for name in ("a", "b"):
        write_features(tmp_path / f"{name}.npz", Features(VALUES, HOP))
    (tmp_path / "s.uem").write_text("a 1 1.0 4.0\nb 1 10 12\n")
    (tmp_path / "s.txt").write_text("1.0\t4.0\tspeech\n")
    model, a, b = (str(tmp_path / name) for name in ("model", "a.npz", "b.npz"))
    assert main(["apply", model, a, b, "--speech", str(tmp_path / "s.uem"), "--json", "--quiet"]) == 0
    one, two = json.loads(capsys.readouterr().out)["recordings"]
    assert all(0.9 <= turn["start"] < turn["end"] <= 4.1 for turn in one["segments"])
    assert all(9.9 <= turn["start"] < turn["end"] <= 12.1 for turn in two["segments"])
    assert main(["apply", model, a, "--speech", str(tmp_path / "s.txt"), "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["recordings"][0]["segments"] == one["segments"]
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(a, folder)
    out = ["--out", str(tmp_path / "out")]
    assert main(["apply", model, str(folder), *out, "--speech", str(tmp_path / "s.uem"), "--quiet"]) == 0
    assert json.loads((tmp_path / "out" / "a.json").read_text())["segments"] == one["segments"]
    for wrong, said in (
        ([a, b, "--speech", str(tmp_path / "s.txt")], "one recording"),
        ([str(folder), *out, "--speech", str(tmp_path / "s.txt")], "one recording"),
        ([a, "--speech", a], "end in"),
    ):
        assert main(["apply", model, *wrong]) == 2
        assert said in capsys.readouterr().err

"""`weigher apply` on folders, and its formats: exit codes, what is printed and what is said."""

import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch

from weigher.cli.main import main
from weigher.io.audio import write_audio
from weigher.recordings import apply_archive as module
from weigher.recordings.configs import from_plain
from weigher.recordings.diarizer import Diarizer, DiarizerConfig
from weigher.recordings.model import RecordingModel

TINY = {
    "model": {
        "encoder": {"channels": 8, "embedding": 8, "dilations": [1]},
        "weigher": {"slots": 3, "heads": 2, "layers": 1},
    }
}


@pytest.fixture
def world(tmp_path):
    for seed, name in enumerate(("model", "other")):
        config = from_plain(DiarizerConfig, TINY, tmp_path / "config.json")
        torch.manual_seed(seed)
        diarizer = Diarizer(config=config, device="cpu")
        diarizer.model_ = RecordingModel(config.model).eval()
        diarizer.save_pretrained(tmp_path / name)
    for index, name in enumerate(("a.wav", "sub/b.flac")):
        noise = np.random.default_rng(index).uniform(-0.5, 0.5, 16000)
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        write_audio(tmp_path / "in" / name, noise)
    return tmp_path


def call(world, *arguments, model="model"):
    return main(["apply", str(world / model), *map(str, arguments), "--num-speakers", "2", "--device", "cpu"])


@pytest.mark.parametrize("place", [".", "a.wav"])
def test_what_something_else_made_is_not_replaced(world, capsys, place):
    (world / "in" / "a.rttm").write_text("a reference\n")
    (world / "in" / "a.json").write_text('{"not": "ours"}')
    code = call(world, world / "in" / place, "--out", world / "in")
    assert code == (1 if place == "." else 2)
    assert "a.rttm is there already" in capsys.readouterr().err
    assert (world / "in" / "a.rttm").read_text() == "a reference\n"
    assert (world / "in" / "a.json").read_text() == '{"not": "ours"}'
    assert call(world, world / "in" / place, "--out", world / "out") == 0
    assert call(world, world / "in" / place, "--out", world / "out", "--num-speakers", "1") == 0  # ours is


def test_a_place_for_results_that_is_none_is_said_before_the_work(world, capsys, monkeypatch):
    monkeypatch.setattr(module, "apply_one", lambda *given: pytest.fail("it has begun to work"))
    (world / "out.txt").write_text("notes")
    assert call(world, world / "in", "--out", world / "out.txt") == 2
    assert "no results can be written to" in capsys.readouterr().err


def test_what_is_wrong_names_the_recording(world, capsys):
    assert main(["apply", str(world / "model"), str(world / "in"), "--out", str(world), "--num-speakers", "9"]) == 1
    said = capsys.readouterr().err
    for name in ("a.wav", "b.flac"):
        assert f"{name}: num_speakers is 9" in said


def test_a_folder_is_done_once_and_a_bad_recording_is_listed(world, capsys):
    asked = (world / "in", "--out", world / "out")
    assert call(world, *asked) == 0
    printed, said = capsys.readouterr()
    assert (printed, said) == ("", "2 recordings: 2 done, 0 finished before, 0 left out\n")
    assert {path.relative_to(world / "out").as_posix() for path in (world / "out").rglob("*.*")} == {
        "a.json",
        "a.rttm",
        "sub/b.json",
        "sub/b.rttm",
    }
    (world / "in" / "bad.mp3").write_bytes(b"no sound")
    assert call(world, *asked, "--json") == 1
    printed, said = capsys.readouterr()
    told = json.loads(printed)
    assert told["counts"] == {"done": 0, "redone": 0, "kept": 2, "failed": 1}
    assert told["recordings"][1] == {
        "file": str(world / "in" / "sub" / "b.flac"),
        "result": str(world / "out" / "sub" / "b.json"),
        "status": "kept",
        "people": 2,
    }
    assert [failure["file"] for failure in told["failed"]] == [str(world / "in" / "bad.mp3")]
    assert "cannot be read as audio" in told["failed"][0]["reason"]
    assert said == (f"left out: {told['failed'][0]['reason']}\n3 recordings: 0 done, 2 finished before, 1 left out\n")
    assert call(world, *asked, "--quiet", model="other") == 1
    assert capsys.readouterr() == ("", f"left out: {told['failed'][0]['reason']}\n")
    assert call(world, *asked) == 1
    assert "2 done again (another model or other settings had made their results)" in capsys.readouterr().err


def test_processes_and_ray_are_asked_for_by_their_options(world, monkeypatch):
    asked = []
    monkeypatch.setattr(
        module, "apply_archive", lambda *_, **options: asked.append(options) or module.ArchiveReport(())
    )
    assert call(world, world / "in", "--out", world / "out", "--workers", 3, "--format", "elan", "--format", "csv") == 0
    assert call(world, world / "in" / "a.wav", "--out", world / "out", "--ray") == 0
    told = [(options["workers"], options["with_ray"], options["formats"]) for options in asked]
    assert told == [(3, False, ("elan", "csv")), (1, True, ("rttm",))]


def test_one_recording_is_printed_in_any_format(world, capsys):
    audio = world / "in" / "a.wav"
    result = Diarizer.from_pretrained(world / "model", device="cpu").predict(audio, num_speakers=2)
    texts = {"csv": result.to_csv(), "audacity": result.to_audacity(), "elan": result.to_elan(audio)}
    texts |= {"rttm": result.to_rttm(), "json": result.to_json()}
    for kind, text in texts.items():
        assert call(world, audio, "--format", kind, "--quiet") == 0
        assert capsys.readouterr() == (text, "")
    assert ET.fromstring(texts["elan"].encode()).tag == "ANNOTATION_DOCUMENT"


def test_several_recordings_are_one_table(world, capsys):
    assert call(world, world / "in" / "a.wav", world / "in" / "sub" / "b.flac", "--format", "csv", "--quiet") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.startswith("file,channel") for line in lines] == [True] + [False] * (len(lines) - 1)
    assert {line.split(",")[0] for line in lines[1:]} == {"a", "b"}


def test_formats_are_written_beside_the_json(world):
    out = world / "out"
    assert call(world, world / "in" / "a.wav", "--out", out, "--format", "audacity", "--format", "elan", "--quiet") == 0
    assert {path.name for path in out.iterdir()} == {"a.txt", "a.eaf", "a.json"}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["in"], "need a folder; name one with --out"),
        (["in/a.wav", "--workers", "2"], "need a folder; name one with --out"),
        (["in/a.wav", "--format", "csv", "--format", "elan"], "several formats need a folder"),
        (["in/a.wav", "in/sub/b.flac", "--format", "elan"], "cannot be printed as one elan file"),
        (["in", "--out", "out", "--workers", "0"], "0 workers are asked for"),
        (["in/none", "in", "--out", "out"], "does not exist"),
        (["in/a.wav", "--format", "doc"], "invalid choice"),
    ],
)
def test_requests_that_cannot_be_served(world, capsys, monkeypatch, asked, said):
    monkeypatch.chdir(world)
    assert call(world, *asked) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert not (world / "out").exists()

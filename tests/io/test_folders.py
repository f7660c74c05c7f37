"""Model folders: what is written is read, all files or none, and nothing that could run."""

import json
import os

import pytest
import torch

from weigher.errors import RequestError
from weigher.io import folders
from weigher.io.folders import CARD, CONFIG, WEIGHTS, read_folder, write_folder


def write(folder, value=1.0):
    write_folder(folder, "line.1", {"slope": torch.full((2,), value)}, {"width": value}, {CARD: "# A line"})


def test_what_is_written_is_read(tmp_path):
    write(tmp_path / "new" / "model")
    config, weights = read_folder(tmp_path / "new" / "model", "line.1")
    assert config == {"format": "line.1", "width": 1.0}
    assert weights["slope"].tolist() == [1, 1]
    assert (tmp_path / "new" / "model" / CARD).read_text() == "# A line"


def test_a_failure_leaves_the_old_folder_as_it_was(tmp_path, monkeypatch):
    write(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(number):
        raise OSError(5, "broken disk")

    monkeypatch.setattr(folders.os, "fsync", fail)
    with pytest.raises(OSError, match="broken disk"):
        write(tmp_path, 2.0)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_no_file_takes_its_place_before_all_are_on_the_disk(tmp_path, monkeypatch):
    done = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *given, name=name, real=real: (done.append(name), real(*given))[1])
    write(tmp_path)
    assert done[:3] == ["fsync"] * 3
    assert done.count("replace") == 3


def test_numbers_that_json_lacks_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write(tmp_path / "model", float("nan"))
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / WEIGHTS).unlink(), "it is not there"),
        (lambda folder: (folder / WEIGHTS).rename(folder / "pytorch_model.bin"), "pytorch_model.bin, a pickle"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"x" * 20), "damaged or cut short"),
        (lambda folder: (folder / CONFIG).unlink(), "incomplete"),
        (lambda folder: (folder / CONFIG).write_text("[" * 100_000), "is no JSON"),
        (lambda folder: (folder / CONFIG).write_text("[1]"), "needed is 'line.1'"),
        (lambda folder: (folder / CONFIG).write_text(json.dumps({"format": "line.2"})), "the format 'line.2'"),
    ],
)
def test_what_is_damaged_is_refused(tmp_path, spoil, message):
    write(tmp_path)
    spoil(tmp_path)
    with pytest.raises(RequestError, match=message):
        read_folder(tmp_path, "line.1")


def test_no_folder(tmp_path):
    with pytest.raises(RequestError, match="there is no model folder"):
        read_folder(tmp_path / "none", "line.1")

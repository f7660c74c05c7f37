import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys

import pytest
import torch

from weigher import __version__
from weigher.cli import doctor
from weigher.cli.main import main
from weigher.train import provenance


@pytest.fixture(autouse=True)
def no_data_is_asked_for(monkeypatch):
    monkeypatch.delenv("WEIGHER_DATA", raising=False)


def test_json_says_what_is_installed(capsys):
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["versions"]["weigher"] == __version__
    assert found["versions"]["python"] == platform.python_version()
    for package in ("torch", "numpy", "scipy", "soundfile"):
        assert found["versions"][package] == importlib.metadata.version(package)
    assert "libsndfile" in found["versions"]
    assert "cpu" in found["devices"]
    assert found["threads"]["torch"] >= 1
    assert found["disk_free_gib"] > 0
    assert found["problems"] == []
    assert {"wavlm", "score", "plot", "study"} <= set(found["extras"])
    assert not {"test", "docs"} & set(found["extras"])


def test_table_says_the_same_in_words(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for word in ("torch", "libsndfile", "extra plot", "threads", "data", "disk free"):
        assert word in out


def test_extras_follow_from_the_metadata(monkeypatch):
    requirements = [
        "numpy>=1.26",
        "absent-package>=1; extra == 'one'",
        'numpy>=1.26; extra == "one"',
        "numpy; extra == 'two'",
        "weigher[one]; extra == 'test'",
    ]
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: requirements)
    assert doctor.extras() == {
        "one": doctor.Extra(present=False, missing=["absent-package"], install="pip install 'weigher[one]'"),
        "two": doctor.Extra(present=True, missing=[], install="pip install 'weigher[two]'"),
    }


def test_a_missing_extra_shows_its_pip_line_with_brackets(monkeypatch, capsys):
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: ["absent-package; extra == 'one'"])
    assert main(["doctor"]) == 0
    assert "pip install 'weigher[one]'" in capsys.readouterr().out


@pytest.mark.parametrize("package", ["torch", "soundfile"])
def test_a_base_package_that_does_not_load_is_a_problem(monkeypatch, capsys, package):
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["doctor", "--json"]) == 1
    assert any(package in problem for problem in json.loads(capsys.readouterr().out)["problems"])


BROKEN = {  # what such packages raise where a part of them is missing, or built for another machine
    "torch": 'OSError("libcudart.so.12: cannot open shared object file")',
    "numpy": 'RuntimeError("built for another Python")',
    "scipy": 'ImportError("libopenblas is missing")',
    "safetensors": 'SystemError("initialization failed")',
    "soundfile": 'OSError("sndfile library not found")',
    "soxr": 'ImportError("soxr_ext is missing")',
}


@pytest.mark.parametrize("package", BROKEN)
def test_doctor_itself_needs_no_package_that_may_be_broken(tmp_path, package):
    (tmp_path / f"{package}.py").write_text(f"raise {BROKEN[package]}\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "weigher", "doctor", "--json"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert done.returncode == 1
    found = json.loads(done.stdout)
    said = BROKEN[package].split('"')[1]
    assert any(problem.startswith(f"{package} does not load: {said}") for problem in found["problems"])
    assert {"weigher", "python", "torch", "numpy"} <= set(found["versions"])  # as installed, loaded or not
    assert found["commit"] == provenance.commit()
    told = any(problem.startswith("torch does not load") for problem in found["problems"])
    assert (found["devices"] == []) is told  # a torch may or may not load without numpy


def test_all_base_packages_are_tried():
    needed = [line for line in importlib.metadata.requires("weigher") or [] if "extra ==" not in line]
    assert {re.split(r"[^\w-]", line)[0] for line in needed} == set(doctor.BASE)


def test_devices_that_cannot_be_asked_are_a_problem(monkeypatch, capsys):
    def broken():
        raise RuntimeError("the driver is too old")

    monkeypatch.setattr(torch.cuda, "device_count", broken)
    assert main(["doctor", "--json"]) == 1
    assert "the driver is too old" in json.loads(capsys.readouterr().out)["problems"][0]


def test_data_is_where_the_environment_says(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("WEIGHER_DATA", str(tmp_path))
    main(["doctor", "--json"])
    assert json.loads(capsys.readouterr().out)["data"] == str(tmp_path)


def test_data_that_is_not_there_is_a_problem(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("WEIGHER_DATA", str(tmp_path / "nowhere"))
    assert main(["doctor", "--json"]) == 1
    assert "nowhere" in json.loads(capsys.readouterr().out)["problems"][0]

import importlib.metadata
import json
import platform
import sys

import pytest

from weigher import __version__
from weigher.cli import doctor
from weigher.cli.main import main


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


def test_data_is_where_the_environment_says(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("WEIGHER_DATA", str(tmp_path))
    main(["doctor", "--json"])
    assert json.loads(capsys.readouterr().out)["data"] == str(tmp_path)


def test_data_that_is_not_there_is_a_problem(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("WEIGHER_DATA", str(tmp_path / "nowhere"))
    assert main(["doctor", "--json"]) == 1
    assert "nowhere" in json.loads(capsys.readouterr().out)["problems"][0]

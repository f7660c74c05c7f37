import importlib
import json
from pathlib import Path

import pytest

import weigher.studies
from weigher.cli.main import main
from weigher.studies import harness

FAKES = Path(__file__).parents[1] / "studies" / "fakes"


@pytest.fixture(autouse=True)
def only_the_fake(monkeypatch, tmp_path):
    importlib.import_module("weigher.cli.study")  # while the folder that it imports from is still in its place
    monkeypatch.setattr(weigher.studies, "__path__", [str(FAKES)])
    monkeypatch.setattr(harness, "_root", lambda: tmp_path / "checkout")
    monkeypatch.delenv("WEIGHER_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


def test_a_run_prints_its_table_and_writes_its_result(tmp_path, capsys):
    assert main(["study", "precision", "--seeds", "2"]) == 0
    shown = capsys.readouterr()
    assert "weighted mean" in shown.out
    assert "weights lower the error" in shown.out
    assert shown.err == "written: run/studies/precision/results.json\n"
    written = json.loads((tmp_path / "run/studies/precision/results.json").read_text())
    assert written["seeds"] == 2
    assert (tmp_path / "run/studies/precision/precision.png").exists()


def test_json_on_stdout_is_what_the_file_holds(tmp_path, capsys):
    assert main(["study", "precision", "--json", "--out", "here", "--budget", "full", "--quiet"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert json.loads(shown.out) == json.loads((tmp_path / "here/results.json").read_text())
    assert json.loads(shown.out)["budget"] == "full"


def test_list_shows_each_study_and_its_last_result(tmp_path, capsys):
    assert main(["study", "--list"]) == 0
    assert "none kept" in capsys.readouterr().out
    assert main(["study", "--list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "studies": [{"name": "precision", "card": "00", "title": "plain against precision-weighted mean", "last": None}]
    }
    assert main(["study", "precision", "--quiet"]) == 0
    kept = tmp_path / "checkout" / "docs" / "results" / "precision.json"
    kept.parent.mkdir(parents=True)
    Path("run/studies/precision/results.json").rename(kept)
    capsys.readouterr()
    assert main(["study", "--list"]) == 0
    assert "1 of 1 claims held" in " ".join(capsys.readouterr().out.split())
    assert main(["study", "--list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["studies"][0]["last"] == json.loads(kept.read_text())


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "name a study"),
        (["precison"], "did you mean 'precision'"),
        (["precision", "--seeds", "0"], "at least one seed"),
        (["precision", "--data", "nowhere"], "nowhere"),
        (["precision", "--budget", "huge"], "small"),
    ],
)
def test_wrong_requests_end_with_two_and_one_message(tmp_path, capsys, arguments, text):
    assert main(["study", *arguments]) == 2
    shown = capsys.readouterr()
    assert text in shown.err
    assert shown.out == ""
    assert not (tmp_path / "run").exists()

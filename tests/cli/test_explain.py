"""From a file of texts to a model to the words that count, through the command line."""

import json
import typing

import pytest

from weigher.cli import tokens
from weigher.cli.main import main
from weigher.tokens.token_scores import MODELS


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "reviews.csv"
    rows = ["text,label"]
    for i in range(60):
        rows += [f"a good film {i % 7} !,pos", f"a bad film {i % 7} !,neg"]
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="module")
def model(texts):
    run = texts.parent / "run"
    assert main(["tokens", str(texts), "--out", str(run), "--model", "token-mlp", "--epochs", "25", "--quiet"]) == 0
    return run / "model"


def test_the_command_line_knows_the_models():
    assert typing.get_args(typing.get_type_hints(tokens.Options)["model"]) == MODELS


def test_a_run_leaves_its_settings_metrics_and_model(model, texts, capsys):
    run = model.parent
    assert json.loads((run / "config.json").read_text())["scorer"]["model"] == "token-mlp"
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[0])["kind"] == "train"
    assert {path.name for path in model.iterdir()} >= {"config.json", "model.safetensors", "vocabulary.json"}
    assert main(["tokens", str(texts), "--out", str(run)]) == 2
    assert "--resume" in capsys.readouterr().err


def test_json_at_the_end_of_training(texts, tmp_path, capsys):
    assert main(["tokens", str(texts), "--out", str(tmp_path), "--epochs", "1", "--json", "--quiet"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["texts"] == 120
    assert done["classes"] == ["neg", "pos"]
    assert done["tokens_per_second"] > 0
    assert main(["tokens", str(texts), "--out", str(tmp_path), "--epochs", "1", "--resume", "--quiet"]) == 0
    assert "learned from 120 texts" in capsys.readouterr().out


def test_explain_shows_the_answer_the_text_and_the_figures(model, capsys):
    assert main(["explain", str(model), "A good film, [bold]strange[/bold]"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("pos (")
    assert "A good film, [bold]strange[/bold]" in out
    assert "strange (unknown)" in out
    assert "contribution" in out


def test_a_long_text_shows_its_strongest_words(model, capsys):
    assert main(["explain", str(model), "a film 0 ! " * 10 + "bad"]) == 0
    out = capsys.readouterr().out
    assert "the 20 strongest of 41 words" in out
    assert "bad" in out.partition("contribution")[2].split("\n")[2]  # the first row below the header


def test_json_has_every_word_and_adds_up(model, capsys):
    assert main(["explain", str(model), "Not a good film", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [word["word"] for word in found["words"]] == ["Not", "a", "good", "film"]
    assert sum(word["weight"] * word["score"] for word in found["words"]) == pytest.approx(found["logit"], abs=1e-12)
    assert found["prediction"] == "pos"
    assert found["words"][0]["known"] is False


def test_html_is_written_and_escaped(model, tmp_path, capsys):
    page = tmp_path / "words.html"
    assert main(["explain", str(model), "<img src=x> good film", "--html", str(page)]) == 0
    written = page.read_text(encoding="utf-8")
    assert "<img" not in written
    assert "&lt;" in written
    assert f"written: {page}" in "".join(capsys.readouterr().err.split("\n"))


def test_a_text_without_words(model, capsys):
    assert main(["explain", str(model), ""]) == 0
    assert "50.0%" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explain", "nowhere", "text"], "there is no model folder nowhere"),
        (["tokens", "nowhere.csv", "--out", "run"], "does not exist"),
        (["tokens", "texts.txt", "--out", "run"], "needs to end in"),
        (["tokens", "one.csv", "--out", "run"], "1 kinds, needed are two"),
        (["tokens", "latin.csv", "--out", "run"], "line 2: this is not UTF-8"),
    ],
)
def test_wrong_requests_end_with_two_and_one_message(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.csv").write_text("text,label\ngood good,1\nfine fine,1\n")
    (tmp_path / "latin.csv").write_bytes(b"text,label\nr\xe9sum\xe9,1\n")
    (tmp_path / "texts.txt").write_text("good")
    assert main([*arguments, "--json"]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.out == ""
    assert not (tmp_path / "run").exists()

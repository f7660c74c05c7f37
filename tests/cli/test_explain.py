"""From a file of texts to a model to the words that count, through the command line."""

import io
import json
import os
import re
import subprocess
import sys
import typing
import unicodedata

import numpy as np
import pytest

from weigher.cli import run_folder, tokens
from weigher.cli.main import main
from weigher.tokens.classifier import SentimentClassifier
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
    # good and bad have the same neighbours here, and begin as one
    options = ["--model", "token-mlp", "--epochs", "30", "--learning-rate", "0.01", "--quiet"]
    assert main(["tokens", str(texts), "--out", str(run), *options]) == 0
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
    card = (tmp_path / "model" / "README.md").read_text()
    assert "- Data: `reviews.csv`" in card
    assert "- Vectors for: 12 different words" in card
    assert main(["tokens", str(texts), "--out", str(tmp_path), "--epochs", "2", "--resume", "--quiet"]) == 2
    assert "epochs = 1 (now 2)" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    "held",
    [
        *("config.json", "model/model.safetensors", "model.safetensors", "last.safetensors", "listen/last.safetensors"),
        *("list.json", "encoder/config.json", "data.json", "results.json", "people.sqlite", "metrics.jsonl"),
    ],
)
@pytest.mark.parametrize("resume", [False, True])
def test_another_run_or_model_is_left_alone(held, resume, texts, tmp_path, capsys):
    path = tmp_path / "run" / held
    path.parent.mkdir(parents=True)
    path.write_text("another's")
    assert main(["tokens", str(texts), "--out", str(tmp_path / "run"), *(["--resume"] if resume else [])]) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert ("holds no run of `weigher tokens`" if resume else held.partition("/")[0]) in shown
    assert path.read_text() == "another's"
    assert len(list((tmp_path / "run").rglob("*"))) == held.count("/") + 1


@pytest.mark.parametrize("inside", ["", "/deeper/run"])
def test_a_run_cannot_be_in_a_file(inside, texts, tmp_path, capsys):
    (tmp_path / "taken").write_text("mine")
    assert main(["tokens", str(texts), "--out", f"{tmp_path}/taken{inside}"]) == 2
    assert "is a file; give a folder" in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_folder_that_may_not_be_written_to_is_told_before_the_work(texts, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run_folder.os, "access", lambda path, mode: False)
    assert main(["tokens", str(texts), "--out", str(tmp_path / "run")]) == 2
    assert "may not write" in " ".join(capsys.readouterr().err.split())


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


def test_figures_of_a_very_long_text_are_no_row_of_noughts(model, tmp_path, capsys):
    page = tmp_path / "words.html"
    assert main(["explain", str(model), "a film 0 ! " * 1000 + "bad", "--html", str(page)]) == 0
    row = capsys.readouterr().out.partition("contribution")[2].split("\n")[2]
    weight, contribution = (float(cell.strip(" \u2502")) for cell in row.split("\u2502")[3:5])
    assert weight == pytest.approx(1 / 4001, rel=1e-2)
    assert contribution == pytest.approx(weight * float(row.split("\u2502")[2]), rel=1e-2)
    assert "weight 0.000250" in page.read_text(encoding="utf-8")


def test_the_folder_of_a_run_is_no_model_but_says_where_it_is(model, capsys):
    assert main(["explain", str(model.parent), "good"]) == 2
    assert f"give its model, {model}" in capsys.readouterr().err.replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "name", "size"),
    [(["--window", "9"], "window", 9), (["--model", "gru", "--hidden", "7"], "hidden", 7)],
)
def test_sizes_that_are_asked_for_are_those_of_the_model(arguments, name, size, texts, tmp_path):
    rate = ["--learning-rate", "0.01"]
    assert main(["tokens", str(texts), "--out", str(tmp_path), "--epochs", "1", "--quiet", *arguments, *rate]) == 0
    config = SentimentClassifier.from_pretrained(tmp_path / "model").config
    assert (getattr(config.scorer, name), config.learning_rate) == (size, 0.01)


def test_json_has_every_word_and_adds_up(model, capsys):
    assert main(["explain", str(model), "Not a good film", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [word["word"] for word in found["words"]] == ["Not", "a", "good", "film"]
    assert sum(word["weight"] * word["score"] for word in found["words"]) == pytest.approx(found["logit"], abs=1e-12)
    assert found["prediction"] == "pos"
    assert found["words"][0]["known"] is False


def test_a_dash_reads_the_text_from_standard_input(model, monkeypatch, capsys):
    text = "\ufeffA good film \u2026 " * 20_000  # too long for a command line
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode()), encoding="ascii"))
    assert main(["explain", str(model), "-", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["words"]) == 80_000  # byte-order marks are not seen
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("good café".encode("latin-1"))))
    assert main(["explain", str(model), "-"]) == 2
    assert "standard input is not UTF-8 (byte 8)" in capsys.readouterr().err


def test_letters_that_the_output_does_not_know_are_question_marks(model):
    """In a process of its own, whose output is a pipe of ASCII."""
    program = "import sys; from weigher.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "explain", str(model), "A good café …"]
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, env=ascii_only, check=False)
    assert done.returncode == 0, done.stderr
    assert b"A good caf? ?" in done.stdout
    assert b"contribution" in done.stdout


def test_a_terminal_that_knows_colours_gets_them(model):
    """In a process of its own, blue and orange of the strongest words; the colours are those of `_mixed`."""
    program = "import sys; from weigher.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "explain", str(model), "good film bad"]
    coloured = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    coloured |= {"FORCE_COLOR": "1", "COLORTERM": "truecolor", "TERM": "xterm-256color"}
    done = subprocess.run(command, capture_output=True, text=True, env=coloured, check=False)
    assert done.returncode == 0, done.stderr
    shown = {word: re.search(rf"48;2;(\d+);\d+;(\d+)m{word}\x1b\[0m", done.stdout) for word in ("good", "film", "bad")}
    red, blue = ({word: int(found[part]) for word, found in shown.items()} for part in (1, 2))
    assert blue["good"] > red["good"]
    assert red["bad"] > blue["bad"]
    assert red["film"] > red["good"]


def test_a_terminal_gets_no_command_from_a_text_or_a_label(model, tmp_path, capsys):
    loaded = SentimentClassifier.from_pretrained(model)
    loaded.classes_ = np.array(["neg", "p\x1b[5mos"])
    loaded.save_pretrained(tmp_path / "spoilt")
    assert main(["explain", str(tmp_path / "spoilt"), "a good\x1b[2J film \x9b31m\x07!"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("p\ufffd[5mos (")
    assert "a good\ufffd[2J film \ufffd31m\ufffd!" in out
    assert "\ufffd (unknown)" in out
    assert not {unicodedata.category(sign) for sign in out if sign != "\n"} & {"Cc"}


def test_an_answer_that_is_no_number_is_told(model, tmp_path, capsys):
    loaded = SentimentClassifier.from_pretrained(model)
    loaded.model_.embedding.weight.data.fill_(float("nan"))
    loaded.save_pretrained(tmp_path / "spoilt")
    assert main(["explain", str(tmp_path / "spoilt"), "a good film"]) == 1
    assert "no finite logit" in capsys.readouterr().err


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


@pytest.mark.parametrize("rate", ["0", "-1", "nan", "inf"])
def test_a_learning_rate_that_cannot_be_is_told_before_the_work(rate, texts, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["tokens", str(texts), "--out", str(run), f"--learning-rate={rate}", "--quiet"]) == 2
    assert f"learning_rate = {float(rate)}" in capsys.readouterr().err
    assert not run.exists()


def test_a_run_tells_the_settings_that_its_vectors_brought_about_and_needs_them_to_go_on(texts, tmp_path, capsys):
    (tmp_path / "v.txt").write_text("good 1 2 3\nbad 3 2 1\n")
    options = ["--vectors", str(tmp_path / "v.txt"), "--epochs", "1", "--quiet"]
    assert main(["tokens", str(texts), "--out", str(tmp_path / "run"), *options]) == 0
    scorer = json.loads((tmp_path / "run" / "config.json").read_text())["scorer"]
    assert (scorer["embedding"], scorer["heads"]) == (3, 3)
    assert main(["tokens", str(texts), "--out", str(tmp_path / "run"), *options[2:], "--resume"]) == 2
    assert "began with given word vectors, and now none are given" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explain", "nowhere", "text"], "there is no model folder nowhere"),
        (["tokens", "nowhere.csv", "--out", "run"], "does not exist"),
        (["tokens", "texts.txt", "--out", "run"], "needs to end in"),
        (["tokens", "one.csv", "--out", "run", "--seed", "-1"], "seed = -1"),
        (["tokens", "one.csv", "--out", "run", "--window", "4"], "window = 4; attention needs an odd number"),
        (["tokens", "one.csv", "--out", "run", "--model", "gru", "--window", "5"], "--window is for local-attention"),
        (["tokens", "one.csv", "--out", "run", "--hidden", "5"], "--hidden is for rnn and gru"),
        (["tokens", "one.csv", "--out", "run", "--resume"], "holds no run"),
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

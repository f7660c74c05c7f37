"""A run goes on with what it began with, or not at all: other texts, labels, names or settings are refused."""

import json

import pytest
import torch

from weigher.errors import RequestError
from weigher.tokens.classifier import SentimentClassifier
from weigher.tokens.learning import ClassifierConfig
from weigher.tokens.token_scores import ScorerConfig

TEXTS = ["a good film", "a bad film", "so good !", "so bad !"] * 10
LABELS = ["pos", "neg"] * 20


def fit(folder, texts=TEXTS, labels=LABELS, *, resume=False, scorer=None, vectors=None, **settings):
    scorer = ScorerConfig("token-mlp", **{"embedding": 6, "layers": (4,), **(scorer or {})})
    settings = {"epochs": 2, "batch": 8, **settings}
    classifier = SentimentClassifier(config=ClassifierConfig(scorer=scorer, **settings), device="cpu")
    return classifier.fit(texts, labels, run_dir=folder, resume=resume, vectors=vectors)


def test_the_same_texts_and_settings_go_on(tmp_path):
    first = fit(tmp_path)
    kept = json.loads((tmp_path / "texts.json").read_text())
    assert (kept["classes"], kept["texts"], kept["settings"]["scorer.layers"]) == (["neg", "pos"], 40, [4])
    again = fit(tmp_path, iter(TEXTS), resume=True)
    assert torch.equal(first.model_.embedding.weight, again.model_.embedding.weight)


OTHER = ["pos" if label == "neg" else "neg" for label in LABELS]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"labels": OTHER}, "not the same texts with the same labels"),
        ({"labels": ["yes" if label == "pos" else "no" for label in LABELS]}, "labelled 'no' or 'yes'"),
        ({"texts": ["a good story", *TEXTS[1:]]}, "not the same texts"),
        ({"labels": [*LABELS[:-2], "neg", "pos"]}, "not the same texts"),
        ({"texts": [*TEXTS[:-1], "so good !"]}, "not the same texts"),
        ({"texts": [text.replace("film", "fin") for text in TEXTS]}, "not the same texts"),  # as frequent, and in order
        ({"texts": TEXTS[::-1], "labels": LABELS[::-1]}, "in the same order"),
        ({"texts": TEXTS[:-2], "labels": LABELS[:-2]}, "these 38"),
        ({"epochs": 3}, r"epochs = 2 \(now 3\); resume with the same settings"),
        ({"seed": 1, "batch": 4}, r"batch = 8 \(now 4\), seed = 0 \(now 1\)"),
        ({"scorer": {"dropout": 0.1}}, r"scorer.dropout = 0.5 \(now 0.1\)"),
    ],
)
def test_another_run_is_refused_and_nothing_is_written(given, message, tmp_path):
    fit(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(RequestError, match=message):
        fit(tmp_path, **given, resume=True)
    with pytest.raises(RequestError, match="holds a run already"):
        fit(tmp_path, **given)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.fixture
def vectors(tmp_path):
    """Files of vectors for words of the texts: two of the usual width, one of another, and none."""
    contents = {
        "some": "good 1 2 3 4 5 6\nbad 6 5 4 3 2 1\n",
        "others": "good 1 2 3 4 5 6\nbad 6 5 4 3 2 1.5\n",
        "wide": "good 1 2 3 4 5 6 7\nbad 7 6 5 4 3 2 1\n",
        "swapped": "unheard 1 1 1 1 1 1\nbad 6 5 4 3 2 1\ngood 1 2 3 4 5 6\n",
    }
    for name, content in contents.items():
        (tmp_path / f"{name}.txt").write_text(content)
    return {None: None} | {name: tmp_path / f"{name}.txt" for name in contents}


@pytest.mark.parametrize(
    ("began", "now", "message"),
    [
        (None, "some", "began with no word vectors, and now some are given; resume with those it began with"),
        (None, "wide", "began with no word vectors, and now some are given"),
        ("some", None, "began with given word vectors, and now none are given"),
        ("wide", None, "began with given word vectors, and now none are given"),
        ("some", "others", "began with given word vectors, and now others are given"),
        ("some", "wide", "began with given word vectors, and now others are given"),
    ],
)
def test_other_vectors_are_refused(began, now, message, vectors, tmp_path):
    fit(tmp_path / "run", vectors=vectors[began])
    with pytest.raises(RequestError, match=message):
        fit(tmp_path / "run", vectors=vectors[now], resume=True)


def test_the_same_vectors_go_on_in_whatever_order_they_stand(vectors, tmp_path):
    fit(tmp_path / "run", vectors=vectors["some"])
    fit(tmp_path / "run", vectors=vectors["swapped"], resume=True)
    with pytest.raises(RequestError, match="not the same texts"):  # the vectors are not blamed for other texts
        fit(tmp_path / "run", [text.replace("bad", "dull") for text in TEXTS], vectors=vectors["some"], resume=True)


def test_ids_are_told_apart_as_well(tmp_path):
    rows = [[0, 1, 2], [3, 4]] * 10
    fit(tmp_path, rows, [0, 1] * 10)
    with pytest.raises(RequestError, match="not the same texts"):
        fit(tmp_path, [[0, 1], [2, 3, 4]] * 10, [0, 1] * 10, resume=True)  # the same ids in a row


@pytest.mark.parametrize("content", [None, "{", "[]", '{"classes": [0, 1]}'])
def test_a_folder_without_its_record_is_not_resumed(content, tmp_path):
    fit(tmp_path)
    (tmp_path / "texts.json").unlink() if content is None else (tmp_path / "texts.json").write_text(content)
    with pytest.raises(RequestError, match=r"texts\.json"):
        fit(tmp_path, resume=True)

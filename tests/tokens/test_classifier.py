"""The estimator: it learns, explains what adds up, takes any tokens, keeps its word on disk, and refuses bad input."""

import copy
import html
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.base import clone, is_classifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import NotFittedError
from sklearn.metrics import average_precision_score, f1_score, make_scorer
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.utils.validation import check_is_fitted
from torch.utils._python_dispatch import TorchDispatchMode

from weigher.errors import RequestError, WeigherError
from weigher.tokens import cooccurrence, learning
from weigher.tokens.classifier import SentimentClassifier
from weigher.tokens.cooccurrence import neighbour_vectors
from weigher.tokens.inputs import two_classes
from weigher.tokens.learning import ClassifierConfig, settling_bias
from weigher.tokens.sequences import Sequences
from weigher.tokens.token_scores import MODELS, VECTOR_SCALE, ScorerConfig
from weigher.tokens.words import split_words

GOOD, BAD = ("good", "great", "fine", "lovely"), ("bad", "awful", "dull", "poor")
FILLERS = ("the", "film", "was", "a", "story", "and", "it", "really", ",", "!")


def reviews(count, seed=0, negate=False):
    """Texts of 4 to 20 words whose label one word decides; with `negate`, a "not" right before it turns it around."""
    rng = np.random.default_rng(seed)
    texts, labels = [], []
    for _ in range(count):
        words = [str(word) for word in rng.choice(FILLERS, rng.integers(3, 19))]
        label, turned = int(rng.integers(2)), bool(negate and rng.integers(2))
        place = int(rng.integers(len(words) + 1))
        words[place:place] = (["not"] if turned else []) + [str(rng.choice(GOOD if label != turned else BAD))]
        if negate and not turned:  # "not" alone says nothing
            words.append("not")
        texts.append(" ".join(words))
        labels.append(label)
    return texts, labels


def config(model="token-mlp", **more):
    scorer = ScorerConfig(model, embedding=10, hidden=16, layers=(16,), heads=2, dropout=0.1)
    return ClassifierConfig(
        scorer=scorer,
        **{"epochs": 12, "batch": 16, "learning_rate": 1e-2, "weight_decay": 0.01, "word_dropout": 0.1, **more},
    )


@pytest.fixture(scope="module")
def fitted():
    found = {}

    def get(model):
        if model not in found:
            found[model] = SentimentClassifier(config=config(model)).fit(*reviews(200))
        return found[model]

    return get


@pytest.mark.parametrize("model", MODELS)
def test_every_model_learns_and_its_words_add_up(model, fitted):
    classifier = fitted(model)
    texts, labels = reviews(100, seed=1)
    assert classifier.score(texts, labels) > 0.9
    assert classifier.predict(texts).tolist() == (classifier.predict_proba(texts)[:, 1] > 0.5).astype(int).tolist()
    logits = classifier.decision_function(texts)
    for text, logit in zip(texts[:20], logits, strict=False):
        found = classifier.explain(text)
        assert found.tokens == tuple(text.split())
        assert sum(found.weights * found.scores) == pytest.approx(logit, abs=1e-5)
        assert found.logit == pytest.approx(logit, abs=1e-5)
        assert found.probability == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-6)
        assert found.weights.sum() == pytest.approx(len(found.tokens) if model in ("rnn", "gru") else 1, abs=1e-6)


def test_the_word_that_decides_stands_out(fitted):
    found = fitted("token-mlp").explain("The film was lovely, and a really dull story!")
    strongest = np.argsort(found.contributions)
    assert found.tokens[strongest[-1]] == "lovely"
    assert found.tokens[strongest[0]] == "dull"


def test_neighbours_turn_a_word_around_where_attention_sees_them():
    """A model of single words cannot learn it: the same words in another order have another label."""
    texts, labels = reviews(600, negate=True)
    held_texts, held = reviews(200, seed=1, negate=True)
    alone = SentimentClassifier(config=config("weighted-mlp")).fit(texts, labels)
    local = SentimentClassifier(config=config("local-attention", word_dropout=0.0)).fit(texts, labels)
    assert alone.score(held_texts, held) < 0.7
    assert local.score(held_texts, held) > 0.95
    assert local.explain("the film was good and it not").prediction == 1
    assert local.explain("the film was not good and it").prediction == 0


def test_ids_of_any_tokens_padded_and_as_lists():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 12, 300)
    ids = rng.integers(0, 30, (300, 12))
    lists = [row[:length].tolist() for row, length in zip(ids, lengths, strict=True)]
    labels = [int(sum(token < 5 for token in row) > sum(token >= 25 for token in row)) for row in lists]
    padded = SentimentClassifier(config=config(epochs=12)).fit(ids, labels, lengths)
    assert padded.score(ids, labels, lengths) > 0.9
    unpadded = SentimentClassifier(config=config(epochs=12)).fit(lists, labels)
    assert np.array_equal(unpadded.decision_function(lists), padded.decision_function(torch.tensor(ids), lengths))
    found = padded.explain([3, 28, 99])
    assert (found.tokens, found.text) == (("3", "28", "99"), "3 28 99")
    assert found.known == (True, True, False)
    assert found.contributions[0] > 0 > found.contributions[1]


def test_ids_are_known_by_the_rule_of_words_and_their_size_costs_nothing(tmp_path):
    """Ids and the words that they stand for give one and the same model."""
    texts, labels = reviews(80)
    number = {word: 10**12 * (place + 1) for place, word in enumerate(sorted({w for t in texts for w in t.split()}))}
    ids = [[number[word] for word in text.split()] for text in texts]
    settings = config(epochs=2, least_count=3, most_words=12)
    by_words = SentimentClassifier(config=settings).fit(texts, labels)
    by_ids = SentimentClassifier(config=settings).fit(ids, labels)
    assert by_ids.ids_.tolist() == [number[word] for word in by_words.vocabulary_.words]
    assert (len(by_ids.ids_), by_words.ids_, by_ids.vocabulary_) == (12, None, None)
    assert np.array_equal(by_ids.decision_function(ids), by_words.decision_function(texts))
    rare = next(number[word] for word in number if word not in by_words.vocabulary_)
    assert by_ids.explain([0, rare, int(by_ids.ids_[0]), 10**12 + 1]).known == (False, False, True, False)
    by_ids.save_pretrained(tmp_path)
    loaded = SentimentClassifier.from_pretrained(tmp_path)
    assert np.array_equal(loaded.decision_function(ids), by_ids.decision_function(ids))
    loaded.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "vocabulary.json").read_text() == (tmp_path / "vocabulary.json").read_text()


@pytest.mark.parametrize(
    "ids", [[0, 1], [0, 1, 2, 3], [0, 0, 1], [0, -1, 1], [0, 1, "2"], [0, 1, True], [0, 1, 2**70], {"0": 1}, None]
)
def test_a_list_of_ids_that_is_not_the_model_s_is_refused(ids, tmp_path):
    SentimentClassifier(config=config(epochs=1)).fit([[0, 1], [2]] * 5, [0, 1] * 5).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "vocabulary.json").read_text()) == {"ids": [0, 1, 2]}
    (tmp_path / "vocabulary.json").write_text(json.dumps({"ids": ids}))
    with pytest.raises(RequestError, match="is not the list of ids of this model, 3 of them"):
        SentimentClassifier.from_pretrained(tmp_path)


def test_same_seed_same_model_and_another_seed_another():
    texts, labels = reviews(80)
    runs = [SentimentClassifier(config=config("gru", epochs=2), seed=seed).fit(texts, labels) for seed in (1, 1, 2)]
    first, second, third = (run.decision_function(texts) for run in runs)
    assert np.array_equal(first, second)
    assert not np.array_equal(first, third)


@pytest.mark.parametrize("model", MODELS)
def test_a_saved_model_is_the_model(model, fitted, tmp_path):
    classifier, (texts, _) = fitted(model), reviews(30, seed=2)
    classifier.save_pretrained(tmp_path / "model")
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert names == {"config.json", "model.safetensors", "vocabulary.json", "README.md"}
    loaded = SentimentClassifier.from_pretrained(tmp_path / "model")
    assert np.array_equal(loaded.decision_function(texts), classifier.decision_function(texts))
    assert loaded.classes_.tolist() == [0, 1]
    assert loaded.config == loaded.config_ == classifier.config_


def test_a_saved_model_of_ids_keeps_its_labels(tmp_path):
    classifier = SentimentClassifier(config=config(epochs=2)).fit([[0, 1], [2]] * 5, ["no", "yes"] * 5)
    classifier.save_pretrained(tmp_path)
    loaded = SentimentClassifier.from_pretrained(tmp_path)
    assert loaded.classes_.tolist() == ["no", "yes"]
    assert set(loaded.predict([[0], [2], [7]]).tolist()) <= {"no", "yes"}
    with pytest.raises(RequestError, match="has learned ids"):
        loaded.predict(["a text"])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "cannot be read"),
        (lambda folder: (folder / "config.json").write_text("{"), "is no JSON"),
        (lambda folder: (folder / "config.json").write_text('{"format": "weigher.diarizer.1"}'), "weigher.diarizer.1"),
        (lambda folder: rewrite(folder, lambda plain: plain["config"].update(colour=1)), "does not describe"),
        (lambda folder: rewrite(folder, lambda plain: plain["config"]["scorer"].update(embedding="x")), "not describe"),
        (lambda folder: rewrite(folder, lambda plain: plain["config"]["scorer"].update(embedding=12)), "embedding"),
        (lambda folder: rewrite(folder, lambda plain: plain.pop("classes")), "does not describe"),
        (lambda folder: (folder / "vocabulary.json").write_text('{"words": ["a"]}'), "not the vocabulary"),
        (lambda folder: (folder / "vocabulary.json").unlink(), "cannot be read"),
        (lambda folder: (folder / "vocabulary.json").write_text("[1]"), "not the vocabulary"),
        (lambda folder: words(folder, lambda known: [0, *known[1:]]), "not the vocabulary"),
        (lambda folder: rewrite(folder, lambda plain: plain.update(classes=[[], "1"])), r"classes are \[\[\], '1'\]"),
        (lambda folder: rewrite(folder, lambda plain: plain.update(classes=[True, False])), "classes are"),
        (lambda folder: rewrite(folder, lambda plain: plain.update(classes=[1, 1])), "classes are"),
        (lambda folder: rewrite(folder, lambda plain: plain.update(classes=[0, 1, 2])), "does not describe"),
        (lambda folder: rewrite(folder, lambda plain: plain["config"].update(epochs=2.5)), "epochs is 2.5"),
        (lambda folder: rewrite(folder, lambda plain: plain["config"].update(held_out=float("nan"))), "not describe"),
        (lambda folder: rewrite(folder, lambda plain: plain["origin"].update(accuracy="much")), "accuracy of its"),
        (lambda folder: rewrite(folder, lambda plain: plain["config"]["scorer"].update(layers=[16, 4])), "head.2"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"1234"), "damaged"),
        (lambda folder: (folder / "model.safetensors").rename(folder / "model.pt"), "a pickle"),
    ],
)
def test_a_damaged_folder_is_refused(spoil, message, fitted, tmp_path):
    fitted("token-mlp").save_pretrained(tmp_path)
    spoil(tmp_path)
    with pytest.raises(RequestError, match=message):
        SentimentClassifier.from_pretrained(tmp_path)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "spoil",
    [
        lambda plain: plain.update(tokens=3_000_000),
        lambda plain: plain.update(tokens=10**15),
        lambda plain: plain.update(tokens=10**30),
        lambda plain: plain["config"]["scorer"].update(embedding=10**8, heads=10**8),
        lambda plain: plain["config"]["scorer"].update(hidden=10**9, window=10**9 + 1, layers=[10**9]),
    ],
)
def test_sizes_that_a_folder_boasts_of_are_never_made(model, spoil, fitted, tmp_path):
    fitted(model).save_pretrained(tmp_path)
    rewrite(tmp_path, spoil)
    with _Frugal(), pytest.raises(RequestError, match=r"shape|describe|not the vocabulary"):
        SentimentClassifier.from_pretrained(tmp_path)


class _Frugal(TorchDispatchMode):
    """Lets no operation make a tensor of 1,000 numbers or more in real memory."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, tuple | list) else (found,):
            if isinstance(tensor, torch.Tensor) and tensor.device.type != "meta":
                assert tensor.numel() < 1000
        return found


def test_the_card_says_where_a_model_comes_from_and_keeps_it(tmp_path):
    texts, labels = reviews(400)
    classifier = SentimentClassifier(config=config(epochs=2, held_out=0.1)).fit(texts, labels, data="re`views.csv")
    classifier.save_pretrained(tmp_path / "first")
    card = (tmp_path / "first" / "README.md").read_text(encoding="utf-8")
    best = next(r for r in classifier.history_.validation if r["step"] == classifier.history_.best_step)
    for line in (
        "- Data: `re'views.csv`",
        "- Texts: 400",
        f"- Vectors for: {len(classifier.vocabulary_)} different words",
        "- Classes: 0, 1",
        "- Epochs: 2",
        "- Seed: 0",
        f"- Right: {best['accuracy']:.1%} of 40 held-out texts",
    ):
        assert f"{line}\n" in card
    assert f"torch {torch.__version__}" in card
    SentimentClassifier.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    assert (tmp_path / "second" / "README.md").read_text(encoding="utf-8") == card
    rewrite(tmp_path / "first", lambda plain: plain.pop("origin"))  # of a folder of before nothing is known
    SentimentClassifier.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "third")
    plain = (tmp_path / "third" / "README.md").read_text(encoding="utf-8")
    assert not any(word in plain for word in ("Data:", "Texts:", "Right", "Commit", "torch"))


def words(folder, change):
    path = folder / "vocabulary.json"
    path.write_text(json.dumps({"words": change(json.loads(path.read_text())["words"])}))


def rewrite(folder, change):
    plain = json.loads((folder / "config.json").read_text())
    change(plain)
    (folder / "config.json").write_text(json.dumps(plain))


def test_scikit_learn_clones_it_validates_it_and_searches_its_settings():
    texts, labels = reviews(240)
    words = ["bad" if label == 0 else "good" for label in labels]
    classifier = SentimentClassifier(config=config(epochs=12), device="cpu")
    fitted = classifier.fit(texts, words)
    copy = clone(fitted)
    assert copy.model_ is None
    assert (
        copy.get_params()
        == fitted.get_params()
        == {"model": None, "seed": None, "device": "cpu"} | {"config": config(epochs=12)}
    )
    scores = cross_val_score(copy, texts, words, cv=3, scoring="roc_auc")
    assert scores.mean() > 0.8
    grid = {"model": ["token-mlp", "weighted-mlp"], "config": [config(epochs=1), config(epochs=12)]}
    search = GridSearchCV(copy, grid, cv=2).fit(texts, words)
    assert search.best_params_["config"] == config(epochs=12)
    assert search.best_estimator_.score(texts, words) > 0.9
    assert is_classifier(copy)
    with pytest.raises(RequestError, match="'epochs' is no parameter; there are model, seed, config, device"):
        copy.set_params(epochs=3)


@pytest.mark.parametrize("kind", [int, str])
def test_scikit_learn_scores_and_calibrates_it(kind):
    texts, numbers = reviews(120)
    labels = [number if kind is int else ("no", "yes")[number] for number in numbers]
    classifier = SentimentClassifier(config=config(epochs=12), device="cpu")
    yes = labels[numbers.index(1)]
    for scoring in (make_scorer(f1_score, pos_label=yes), "neg_log_loss", "roc_auc"):
        assert np.isfinite(cross_val_score(classifier, texts, labels, cv=2, scoring=scoring, error_score="raise")).all()
    precision = make_scorer(average_precision_score, response_method="predict_proba", pos_label=yes)
    for scoring in (precision, *(["average_precision"] if kind is int else [])):
        assert cross_val_score(classifier, texts, labels, cv=2, scoring=scoring, error_score="raise").mean() > 0.7
    assert cross_val_predict(classifier, texts, labels, cv=2, method="predict_proba").shape == (120, 2)
    calibrated = CalibratedClassifierCV(classifier, cv=2).fit(texts, labels)
    assert calibrated.score(texts, labels) > 0.8
    with pytest.raises(NotFittedError):
        check_is_fitted(classifier)
    check_is_fitted(classifier.fit(texts, labels))


@pytest.mark.parametrize("kind", [int, str])
def test_what_explains_predicts_a_label_as_predict_does(kind, tmp_path):
    texts, numbers = reviews(60)
    labels = [number if kind is int else ("no", "yes")[number] for number in numbers]
    classifier = SentimentClassifier(config=config(epochs=6)).fit(texts, labels)
    assert isinstance(classifier.classes_, np.ndarray)
    assert classifier.classes_.dtype == classifier.predict(texts).dtype
    for text, predicted in zip(texts[:10], classifier.predict(texts), strict=False):
        found = classifier.explain(text)
        assert (type(found.prediction), found.prediction) == (kind, predicted)
        assert found.prediction in labels
        plain = json.loads(json.dumps(found.to_dict()))
        assert plain["prediction"] == str(predicted)
        assert list(plain["probability"]) == [str(label) for label in classifier.classes_]
        assert html.escape(str(predicted)) in found.to_html()
    classifier.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["classes"] == sorted(set(labels))


@pytest.mark.parametrize("as_ids", [False, True])
def test_without_given_vectors_words_with_like_neighbours_begin_alike(as_ids):
    texts, labels = reviews(60)
    frozen = config(epochs=1, learning_rate=1e-12, averaged=0.0)
    plain = SentimentClassifier(config=frozen).fit(texts, labels)
    ids = [plain.vocabulary_.ids(split_words(text)) for text in texts]
    classifier = SentimentClassifier(config=frozen).fit(ids, labels) if as_ids else plain
    count = len(plain.vocabulary_)
    wanted = VECTOR_SCALE * torch.from_numpy(neighbour_vectors(Sequences.of(ids), count, 10))
    assert wanted.any(1).all()
    assert torch.allclose(classifier.model_.embedding.weight[:count].detach(), wanted, atol=1e-6)
    anywhere = (
        SentimentClassifier(config=replace(frozen, neighbours=0)).fit(texts, labels).model_.embedding.weight.detach()
    )
    assert anywhere[:count].std() == pytest.approx(VECTOR_SCALE, rel=0.2)
    assert not torch.allclose(anywhere[:count], wanted, atol=0.05)


def test_vectors_that_are_given_are_where_learning_begins(tmp_path):
    texts, labels = reviews(60)
    lines = [f"{word} {i}.5 -1 2 0\n" for i, word in enumerate((*GOOD, *BAD, "unheard"))]
    (tmp_path / "glove.txt").write_text("".join(lines))
    frozen = config(learning_rate=1e-12, epochs=1, least_count=1)
    classifier = SentimentClassifier(config=frozen).fit(texts, labels, vectors=tmp_path / "glove.txt")
    assert classifier.config_.scorer.embedding == 4
    row = classifier.vocabulary_.ids(["great"])[0]
    assert classifier.model_.embedding.weight[row].tolist() == pytest.approx([1.5, -1, 2, 0], abs=1e-9)
    attention = SentimentClassifier(config=config("local-attention", epochs=1))  # 2 heads, which do not divide 3
    (tmp_path / "glove.txt").write_text("good 1 2 3\n")
    attention.fit(texts, labels, vectors=tmp_path / "glove.txt")
    assert (attention.config_.scorer.embedding, attention.config_.scorer.heads) == (3, 1)
    assert attention.config == config("local-attention", epochs=1)  # the next fit begins with what was asked for
    attention.save_pretrained(tmp_path / "model")
    assert SentimentClassifier.from_pretrained(tmp_path / "model").config == attention.config_
    attention.fit(texts, labels)
    assert attention.config_ == attention.config
    assert attention.model_.embedding.embedding_dim == 10
    (tmp_path / "glove.txt").write_text("good 1 nan\n")
    with pytest.raises(RequestError, match="line 1, word 'good': the vector holds NaN"):
        SentimentClassifier(config=config()).fit(texts, labels, vectors=tmp_path / "glove.txt")
    with pytest.raises(RequestError, match="with ids"):
        SentimentClassifier(config=config()).fit([[1], [2]], [0, 1], vectors=tmp_path / "glove.txt")


@pytest.mark.parametrize("model", MODELS)
def test_empty_texts_and_texts_of_unknown_words_have_an_answer(model, fitted):
    classifier = fitted(model)
    assert classifier.predict_proba([""]).tolist() == [[0.5, 0.5]]
    nothing = classifier.explain(" ")
    assert (nothing.tokens, nothing.logit) == ((), 0.0)
    strange = classifier.explain("zyzzyva qwerty")
    assert strange.known == (False, False)
    assert 0.02 < strange.probability < 0.98
    assert np.isfinite(classifier.predict_proba(["zyzzyva", "", "good"])).all()
    assert classifier.predict([]).tolist() == []
    assert classifier.explain("caf\udce9 good").tokens == ("caf", "?", "good")  # half a surrogate pair


def test_half_a_surrogate_pair_is_shown_as_a_question_mark_and_not_read_as_one():
    texts, labels = reviews(60)
    texts = [text + (" ?" if label else " \ud83d") for text, label in zip(texts, labels, strict=True)]
    classifier = SentimentClassifier(config=config()).fit(texts, labels)
    for text in ("\ud83d", "a film \ud83d", "a film ?", "\ud83d\ude00 film"):
        found = classifier.explain(text)
        assert found.logit == pytest.approx(classifier.decision_function([text])[0], abs=1e-6)
        assert found.text == text.replace("\ud83d", "?").replace("\ude00", "?")
        assert found.tokens == tuple(split_words(found.text))
        found.to_html().encode()


def test_empty_texts_in_training_are_no_fault():
    texts, labels = reviews(60)
    with_empty = SentimentClassifier(config=config(epochs=2)).fit(["", *texts, ""], [0, *labels, 1])
    assert np.isfinite(with_empty.decision_function(texts)).all()


@pytest.mark.parametrize(
    ("texts", "labels", "lengths", "message"),
    [
        ([], [], None, "0 texts and 0 labels"),
        ("good", [1], None, "one text is given"),
        (["a a", "b b"], [1], None, "2 texts and 1 labels"),
        (["a a", "b b"], [1, 1], None, "the labels are 1: 1 kinds"),
        (["a a", "b b", "c"], [1, 2, 3], None, "1, 2, 3: 3 kinds"),
        (["a a", "b b"], [0.5, 1.0], None, r"labels\[0\] is 0.5 \(float\)"),
        (["a a", "b b"], ["1", 0], None, r"labels\[1\] is 0 \(int\)"),
        (["a a", "b b"], [None, 1], None, r"labels\[0\] is None"),
        (["a a", "b b"], [float("nan"), 1], None, r"labels\[0\] is nan"),
        (["", "  "], [0, 1], None, "none holds a token"),
        (["a", "b"], [0, 1], None, "occurs 2 times"),
        (["a a", 7], [0, 1], None, r"texts\[1\] is int 7; needed are texts throughout"),
        (["a a"] * 19 + [None, 7], [0, 1] * 10, None, r"texts\[19\] is NoneType None"),
        (["a a"] * 19 + [float("nan")], [0, 1] * 10, None, r"texts\[19\] is float nan"),
        ([[1], "a a"], [0, 1], None, r"texts\[0\] is list \[1\]"),
        ([None, None], [0, 1], None, r"texts\[0\] is NoneType None"),
        ([[1, [2]], [3]], [0, 1], None, r"texts\[0\] is list \[1, \[2\]\]"),
        (None, [0, 1], None, "the texts are NoneType None"),
        (["a a", "b b"], 5, None, "the labels are int 5"),
        (["a a", "b b"], None, None, "the labels are NoneType None"),
        (["a a", "b b"], np.array(5), None, "the labels are ndarray"),
        ([[0, 1], [0.5]], [0, 1], None, r"texts\[1\] is list \[0.5\]"),
        ([[0, -1], [2]], [0, 1], None, "sequence 0 holds the id -1"),
        ([[0], [2**63]], [0, 1], None, r"texts\[1\] holds the id 9223372036854775808; give whole numbers below 2\^63"),
        ([[0], [1, 2**64]], [0, 1], None, r"texts\[1\] is list .* whole numbers below 2\^63"),
        (np.full((2, 3), 2**63 + 1, np.uint64), [0, 1], [3, 3], r"ids hold 9223372036854775809; .* below 2\^63"),
        (np.zeros((2, 3), int), [0, 1], np.array([3, 2**63], np.uint64), "lengths hold 9223372036854775808"),
        (np.zeros((2, 3), int), [0, 1], None, "without lengths"),
        (np.zeros((2, 3), int), [0, 1], [3], "2 rows of ids and 1 lengths"),
        (np.zeros((2, 3), int), [0, 1], [3, 4], r"lengths\[1\] is 4"),
        (np.zeros((2, 3)), [0, 1], [3, 3], "type float64"),
        ([[1, 2], [3]], [0, 1], [2, 1], "unequal lengths"),
        ([[0], [10**9]], [0, 1], None, "none holds a token that occurs 2 times"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(texts, labels, lengths, message):
    with pytest.raises(RequestError, match=message):
        SentimentClassifier(config=config()).fit(texts, labels, lengths)


def test_what_cannot_be_applied_is_refused(fitted):
    with pytest.raises(RequestError, match="learned nothing yet"):
        SentimentClassifier().predict(["good"])
    for wrong in ([[1, 2]], [3.5]):
        with pytest.raises(RequestError, match="has learned texts"):
            fitted("token-mlp").predict(wrong)
    with pytest.raises(RequestError, match="has learned texts"):
        fitted("token-mlp").explain([1, 2])
    with pytest.raises(RequestError, match="one text is given"):
        fitted("token-mlp").predict("good")
    with pytest.raises(RequestError, match="texts are NoneType None"):
        fitted("token-mlp").predict(None)
    with pytest.raises(RequestError, match=r"texts\[1\] is NoneType None"):
        fitted("token-mlp").predict(["good", None])
    with pytest.raises(RequestError, match="labels are NoneType None"):
        fitted("token-mlp").score(["good"], None)
    with pytest.raises(RequestError, match="was not learned"):
        fitted("token-mlp").score(["good"], ["good"])
    with pytest.raises(RequestError, match="1 texts and 2 labels"):
        fitted("token-mlp").score(["good"], [0, 1])
    for wrong in (
        {"epochs": 0},
        {"held_out": 1.0},
        {"word_dropout": -0.1},
        {"neighbours": -1},
        {"averaged": 1.5},
        {"seed": -1},
        {"learning_rate": 0.0},
        {"learning_rate": -1.0},
        {"learning_rate": float("nan")},
        {"learning_rate": float("inf")},
        {"weight_decay": -0.1},
        {"weight_decay": float("nan")},
    ):
        with pytest.raises(RequestError, match=next(iter(wrong))):
            replace(ClassifierConfig(), **wrong)


def test_labels_keep_their_kind():
    assert two_classes([True, False], 2)[0] == (0, 1)
    assert two_classes(np.array(["b", "a"]), 2)[0] == ("a", "b")
    assert two_classes(torch.tensor([3, -1]), 2)[1].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("labels", "plain"),
    [
        ([np.True_, np.False_], (0, 1)),
        ([np.True_, False], (0, 1)),
        ([np.int8(3), 1], (1, 3)),
        ([np.str_("b"), "a"], ("a", "b")),
        ([np.str_("b"), np.str_("a")], ("a", "b")),
    ],
)
def test_numpy_s_values_in_a_list_are_plain_ones(labels, plain):
    classes, targets = two_classes(labels, 2)
    assert classes == plain
    assert [type(label) for label in classes] == [type(label) for label in plain]
    assert targets.tolist() == [1, 0]
    classifier = SentimentClassifier(config=config(epochs=1)).fit(["a a", "b b"] * 4, labels * 4)
    assert 0 <= classifier.score(["a", "b"], labels) <= 1
    with pytest.raises(RequestError, match=r"labels\[1\] is 0.5 \(float\)"):
        two_classes([np.int64(1), np.float64(0.5)], 2)


def calm(classifier):
    """The same, or for an rnn one whose state cannot grow beyond a float32."""
    if classifier.config.scorer.model == "rnn":
        classifier = copy.deepcopy(classifier)
        classifier.model_.recurrence.state_weight.data.copy_(0.5 * torch.eye(16))
    return classifier


@pytest.mark.parametrize(
    ("model", "words"),
    [
        *(("token-mlp", 100_000), ("weighted-mlp", 100_000), ("local-attention", 1_000_000)),
        *(("gru", 100_000), ("rnn", 100_000)),
    ],
)
def test_a_text_of_up_to_a_million_words(model, words, fitted):
    """It says the same again and again: a mean over T words, of which the edges alone differ, is a + b / T.

    A state that runs around in circles has settled after 2,000 words.
    """
    classifier, text = calm(fitted(model)), "the film was good ! "
    found = classifier.explain(text * (words // 5))
    assert len(found.tokens) == words
    times = 400 if model in ("gru", "rnn") else 100
    short, long = classifier.decision_function([text * times, text * 2 * times])
    edges = short - long  # b / (10 times)
    rounding = 5e-3 if model == "rnn" else 1e-3  # of 100,000 changes of a logit, the same few again and again
    assert found.logit == pytest.approx(long - edges + edges * 10 * times / words, abs=rounding)


@pytest.mark.parametrize("model", MODELS)
def test_a_long_text_beside_a_short_one_is_what_it_is_alone(model, fitted):
    classifier, text = calm(fitted(model)), "the film was good ! " * (learning._PIECE // 5 + 100)
    together = classifier.decision_function([text, "bad"])
    for logit, alone in zip(together, (text, "bad"), strict=True):
        assert logit == pytest.approx(classifier.explain(alone).logit, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("model", MODELS)
def test_probabilities_are_right_on_average_however_much_was_left_out_in_training(model):
    both = [(text, label) for text, label in zip(*reviews(300), strict=True) if label or len(text) % 3 == 0]
    texts, labels = zip(*both, strict=True)  # classes of unlike size
    scorer = ScorerConfig(model, embedding=10, hidden=16, layers=(16,), heads=2)
    hard = replace(config(model, word_dropout=0.5), scorer=scorer)
    found = SentimentClassifier(config=hard).fit(texts, labels).predict_proba(texts)[:, 1]
    assert found.mean() == pytest.approx(np.mean(labels), abs=1e-4)


@pytest.mark.parametrize("shift", [-30.0, 0.0, 2.0])
def test_the_bias_that_settles_probabilities_makes_up_for_any_shift(shift):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, 200)
    targets = (rng.random(200) < 1 / (1 + np.exp(-logits))).astype(int)
    found, shifted = settling_bias(logits, targets), settling_bias(logits + shift, targets)
    assert abs(found) < 0.5
    assert shifted == pytest.approx(found - shift, abs=1e-6)
    assert (1 / (1 + np.exp(-logits - found))).sum() == pytest.approx(targets.sum(), abs=1e-6)
    assert settling_bias(logits, np.ones(200)) == 0  # no number makes all of them certain
    assert settling_bias(np.array([-2.0, 8.0]), np.array([0, 1])) == pytest.approx(-3)  # half-way between the classes


def test_a_state_that_explodes_is_told_and_never_an_answer():
    torch.manual_seed(0)
    classifier = SentimentClassifier(config=config("rnn", epochs=1)).fit(*reviews(60))
    classifier.model_.recurrence.state_weight.data.copy_(1.2 * torch.eye(16))  # 1.2^500 is still a float32
    assert np.isfinite(classifier.decision_function(["good film " * 100])).all()
    for length in (500, 5000):  # the second is read in pieces
        text = "good film " * length
        why = rf"has {2 * length:,} tokens and no finite logit: a state of ReLU .* train a gru"
        with pytest.raises(WeigherError, match=rf"^texts\[1\] {why}"):
            classifier.predict(["good", text])
        with pytest.raises(WeigherError, match=f"^the text {why}"):
            classifier.explain(text)
        assert not classifier.model_.training


def test_a_state_of_relu_learns_from_a_few_long_texts_without_exploding():
    """A whole step away from the identity, to the power of a thousand words: 1e27 where the rate begins high."""
    rng = np.random.default_rng(0)
    ids, labels = rng.integers(0, 500, (40, 1000)), [0, 1] * 20
    classifier = SentimentClassifier("rnn", config=ClassifierConfig(epochs=2, batch=8)).fit(ids, labels, [1000] * 40)
    assert max(record["loss"] for record in classifier.history_.train) < 1e8


@pytest.mark.parametrize("model", MODELS)
def test_weights_that_are_no_numbers_are_told(model):
    classifier = SentimentClassifier(config=config(model, epochs=1)).fit(*reviews(60))
    name, weight = list(classifier.model_.named_parameters())[-1]
    weight.data.fill_(torch.nan)
    for ask in (lambda: classifier.predict_proba(["a film"]), lambda: classifier.explain("a film")):
        with pytest.raises(WeigherError, match=rf"2 tokens and no finite logit: {name} of the model holds NaN"):
            ask()
    assert classifier.predict_proba([""]).tolist() == [[0.5, 0.5]]


def test_a_stopped_run_goes_on_to_the_same_model(tmp_path):
    texts, labels = reviews(80)
    whole = SentimentClassifier(config=config(epochs=3)).fit(texts, labels)
    asked = []

    def stop(stage, done, total):
        if stage == "train" and done == 7:
            asked.append(done)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        SentimentClassifier(config=config(epochs=3)).fit(texts, labels, run_dir=tmp_path, progress=stop)
    again = SentimentClassifier(config=config(epochs=3)).fit(texts, labels, run_dir=tmp_path, resume=True)
    assert asked == [7]
    assert np.array_equal(again.decision_function(texts), whole.decision_function(texts))


def test_held_out_texts_choose_the_epoch():
    """Labels that mean nothing are learned by heart: the longer, the worse on texts that are held out."""
    texts, labels = reviews(400)[0], np.random.default_rng(1).integers(0, 2, 400)
    settings = config(epochs=10, held_out=0.1, learning_rate=3e-2, word_dropout=0.0, averaged=0.75)
    classifier = SentimentClassifier(config=settings).fit(texts, labels)
    history = classifier.history_
    assert len(history.validation) == 10
    ends = [record for record in history.validation if record["step"] > 0.25 * history.step]  # with the mean of weights
    best = max(ends, key=lambda record: record["score"])
    assert len(ends) == 8
    assert best is not ends[-1]
    assert (history.best_step, history.best_score) == (best["step"], best["score"])
    held = np.random.default_rng([settings.seed, 0]).permutation(400)[:40]
    logits = torch.from_numpy(classifier.decision_function([texts[row] for row in held]))
    loss = F.binary_cross_entropy_with_logits(logits, torch.from_numpy(labels[held]).double())
    assert loss.item() == pytest.approx(-best["score"], rel=1e-6)  # the weights are those of that epoch

    texts, labels = reviews(400)
    assert len(SentimentClassifier(config=config(epochs=3)).fit(texts, labels).history_.validation) == 3
    assert not SentimentClassifier(config=config(epochs=1)).fit(texts[:99], labels[:99]).history_.validation


def test_progress_is_told_of_every_stage_to_its_end(monkeypatch):
    monkeypatch.setattr(cooccurrence, "_DENSE", 2)  # more tokens than these get their first vectors step by step
    told = []
    texts, labels = reviews(60)
    classifier = SentimentClassifier(config=config(epochs=1))
    classifier.fit(texts, labels, progress=lambda *what: told.append(what))
    assert list(dict.fromkeys(stage for stage, *_ in told)) == [
        "words",
        "neighbours",
        "first vectors",
        "train",
        "settle",
    ]
    assert [done for stage, done, _ in told if stage == "neighbours"] == [1, 2, 3, 4, 5]
    classifier.predict_proba(texts, progress=lambda *what: told.append(what))
    ends = {stage: (done, total) for stage, done, total in told}
    assert all(done == total for done, total in ends.values())
    assert (ends["settle"], ends["apply"]) == ((60, 60), (60, 60))

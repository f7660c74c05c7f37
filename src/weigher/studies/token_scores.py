"""Sentiment of film reviews by five models whose every word carries a score, against counting words.

Train and test are the two files of IMDb, whose films do not overlap. Each model is trained anew for each seed: the
recurrent ones at several sizes of their state, the token MLP in six shapes, local attention with four windows, and
without what it knows of the place of a word, which the exercise's did not know either. Beside the measured rows stand
the figures of the exercise that the five models come from; it tested on a small sample, and on another split. Two peers
count words: logistic regression on TF-IDF of single words, and of words and their pairs.

Behaviour is a table of its own: the exercise's two sentences, and forty negations with their plain twins. Faithfulness:
deletion and insertion, by the models' own scores, integrated gradients and leave-one-out.

small: 2,000 reviews of each file, two sizes, one shape, two windows; about 15 minutes for three seeds on two cores.
full: all reviews, sizes, shapes and windows; about four hours for three seeds on one core.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weigher.studies.harness import Claim, Context, Result, Row, Study, Tally, clearly_less, find_row
from weigher.studies.negations import PAIRS

if TYPE_CHECKING:  # torch is loaded by a run, not by listing the studies
    from weigher.io.texts import LabelledTexts
    from weigher.tokens.learning import ClassifierConfig
    from weigher.tokens.token_scores import ScorerConfig

RNN, GRU, MLP, WEIGHTED, LOCAL = "rnn 64", "gru 120", "token-mlp 64-32-16", "weighted-mlp", "local-attention 5"
UNPLACED = f"{LOCAL}, place unknown"
MAIN = (RNN, GRU, MLP, WEIGHTED, LOCAL)
COUNTING, COUNTING_PAIRS = "logistic regression, words", "logistic regression, words and pairs"
SHAPES = ((50,), (64, 32), (64, 32, 16), (200, 50), (32, 16), (8, 16, 32))
WINDOWS = (3, 5, 9, 17)
SENTENCES = {
    "Not what I expected": False,
    "I really can not understand why people said this is a good movie": False,
}
"""The exercise's two sentences, and whether they are positive."""

EXERCISE = {
    RNN: (84.0, 85.0, 92.9),
    GRU: (88.0, 89.1, 94.0),
    "token-mlp 50": (86.2, 82.1, 92.3),
    "token-mlp 64-32": (85.8, 86.3, 93.7),
    MLP: (86.2, 86.0, 93.6),
    "token-mlp 200-50": (85.2, 87.1, 94.5),
    "token-mlp 32-16": (86.0, 85.7, 93.0),
    "token-mlp 8-16-32": (82.4, 86.5, 93.2),
    WEIGHTED: (84.8, 84.6, 93.9),
    LOCAL: (87.8, 87.3, 94.2),
}
"""What the exercise reports, on a small sample: accuracy, F1 and AUC in per cent."""
METRICS = ("accuracy %", "F1 %", "AUC %")
_TARGET = "the project's target"
_MARGIN = 2.0  # points of accuracy that a model is to be better than its figure
_ALL, _MOST_SECONDS = 25_000, 60.0  # reviews of IMDb's training file, and how long the token MLP may take for them
_READ, _EPOCH = ("training file", "reviews learned from"), "training seconds an epoch"


@dataclass(frozen=True)
class Size:
    """How much is done for a budget."""

    reviews: int | None
    """Of each file; None: all."""
    epochs: int
    batch: int
    hidden: tuple[int, ...]
    """Sizes of the state, of both recurrent models."""
    shapes: tuple[tuple[int, ...], ...]
    windows: tuple[int, ...]
    explained: int
    """Reviews whose scores are put to the test of faithfulness."""


SIZES = {
    "small": Size(2000, 5, 16, (64, 120), SHAPES[2:3], (5, 17), explained=10),
    "full": Size(None, 3, 64, (16, 32, 64, 96, 112, 120, 128), SHAPES, WINDOWS, explained=200),
}


def run(context: Context) -> list[Row]:
    """Train and test every model for each seed; see the module."""
    size = SIZES[context.budget]
    paths = [context.path(f"imdb/{part}.parquet") for part in ("train", "test")]
    data: list[tuple[LabelledTexts, LabelledTexts]] = []

    def read() -> tuple[LabelledTexts, LabelledTexts]:
        if not data:  # a study that is resumed may not need it
            data.append((_reviews(paths[0], size.reviews), _reviews(paths[1], size.reviews)))
        return data[0]

    tally = Tally()

    for method, pairs in ((COUNTING, False), (COUNTING_PAIRS, True)):
        tally.add({method: context.part(method, lambda pairs=pairs: _count(*read(), pairs))})
    models = variants(size)
    for seed in context.seeds:
        for done, (method, scorer) in enumerate(models.items(), 1):
            found = context.part(f"{seed} {method}", partial(_figures, context, read, method, scorer, seed))
            tally.add({method: found})
            context.progress(f"models, seed {seed}", done, len(models))
    tally.add({_READ[0]: {_READ[1]: float(_learned_from(paths[0], size.reviews))}})
    for method in models:
        if method in EXERCISE:
            tally.add({_reported(method): dict(zip(METRICS, EXERCISE[method], strict=True))})
    return tally.rows()


def variants(size: Size) -> dict[str, ScorerConfig]:
    """Return every model of a budget by its name."""
    from weigher.tokens.token_scores import ScorerConfig

    found = {f"rnn {hidden}": ScorerConfig("rnn", hidden=hidden) for hidden in size.hidden}
    found |= {f"gru {hidden}": ScorerConfig("gru", hidden=hidden) for hidden in size.hidden}
    for layers in size.shapes:
        found[f"token-mlp {'-'.join(map(str, layers))}"] = ScorerConfig("token-mlp", layers=layers)
    found[WEIGHTED] = ScorerConfig("weighted-mlp")
    found |= {f"local-attention {window}": ScorerConfig("local-attention", window=window) for window in size.windows}
    return found | {UNPLACED: ScorerConfig("local-attention", place=False)}


def classification(positive: Sequence[bool], logits: Sequence[float]) -> dict[str, float]:
    """Return accuracy, F1 of the positive class and area under the ROC curve, in per cent.

    >>> found = classification([True, True, False, False], [2.0, -1.0, -0.5, -2.0])
    >>> {metric: round(figure, 1) for metric, figure in found.items()}
    {'accuracy %': 75.0, 'F1 %': 66.7, 'AUC %': 75.0}
    """
    from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

    said = [logit > 0 for logit in logits]
    figures = (accuracy_score(positive, said), f1_score(positive, said), roc_auc_score(positive, logits))
    return {metric: 100 * float(figure) for metric, figure in zip(METRICS, figures, strict=True)}


def behaviour(logits: Mapping[str, float]) -> dict[str, float]:
    """Return which share of the negations is put right, from the logit of each sentence (`sentences`).

    In per cent: negations, their plain twins, pairs of which both are right, and negations for each distance between
    the negation and the word it turns around. Beside them 100 or 0 for each of the exercise's two sentences.
    """
    found: dict[str, float] = {}
    every = [(distance, pair) for distance, pairs in PAIRS.items() for pair in pairs]
    plain = [(logits[pair.plain] > 0) == pair.plain_is_positive for _, pair in every]
    negated = [(logits[pair.negated] > 0) != pair.plain_is_positive for _, pair in every]
    found["negations right %"] = _share(negated)
    found["plain twins right %"] = _share(plain)
    found["pairs right %"] = _share([a and b for a, b in zip(plain, negated, strict=True)])
    for distance in PAIRS:
        of_group = [right for (of, _), right in zip(every, negated, strict=True) if of == distance]
        found[f"negations right %, {distance} words apart"] = _share(of_group)
    for sentence, is_positive in SENTENCES.items():
        found[f"right %: {sentence}"] = _share([(logits[sentence] > 0) == is_positive])
    return found


def sentences() -> list[str]:
    """Return all sentences of the behavioural table."""
    pairs = [sentence for group in PAIRS.values() for pair in group for sentence in (pair.plain, pair.negated)]
    return [*SENTENCES, *pairs]


def _share(right: Sequence[bool]) -> float:
    return 100 * sum(right) / len(right)


def _reviews(path: Path, most: int | None) -> LabelledTexts:
    """All reviews of a file, or so many, evenly spread over it."""
    from weigher.io.texts import LabelledTexts, read_texts

    every = read_texts(path)
    step = 1 if most is None else max(1, len(every.texts) // most)
    return LabelledTexts(every.texts[::step][:most], every.labels[::step][:most])


def _learned_from(path: Path, most: int | None) -> int:
    """How many reviews `_reviews` gives, without reading them."""
    import pyarrow.parquet

    every = pyarrow.parquet.read_metadata(path).num_rows
    return every if most is None else min(every, most)


def _count(train: LabelledTexts, test: LabelledTexts, pairs: bool) -> dict[str, float]:
    """A peer: TF-IDF of words (and pairs of words), logistic regression with scikit-learn's settings."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    from weigher.tokens.words import split_words

    def spaced(texts: Sequence[str]) -> list[str]:
        return [" ".join(split_words(text)) for text in texts]

    terms = (1, 2) if pairs else (1, 1)
    counts = TfidfVectorizer(token_pattern=r"\S+", lowercase=False, ngram_range=terms, min_df=2)
    model = make_pipeline(counts, LogisticRegression(max_iter=1000))
    model.fit(spaced(train.texts), train.labels)
    found = classification([label == 1 for label in test.labels], model.decision_function(spaced(test.texts)).tolist())
    return found | behaviour(dict(zip(sentences(), model.decision_function(spaced(sentences())).tolist(), strict=True)))


def _figures(context: Context, read: Any, method: str, scorer: ScorerConfig, seed: int) -> dict[str, float]:
    """Metric -> figure of one model and seed."""
    from statistics import median

    import numpy as np

    from weigher.studies.faithfulness import mean_areas
    from weigher.tokens.classifier import SentimentClassifier
    from weigher.tokens.learning import ClassifierConfig
    from weigher.tokens.words import split_words

    train, test = read()
    size = SIZES[context.budget]

    def progress(stage: str, done: int, total: int) -> None:
        context.progress(f"{stage}, {method}, seed {seed}", done, total)

    # the mean of the last weights is taken, whatever its score: no review need be held out to choose by
    config: ClassifierConfig = ClassifierConfig(
        scorer=scorer, epochs=size.epochs, batch=size.batch, held_out=0.0, seed=seed
    )
    classifier = SentimentClassifier(config=config, device="cpu").fit(train.texts, train.labels, progress=progress)
    history, vocabulary, model = classifier.history_, classifier.vocabulary_, classifier.model_
    assert history is not None
    assert vocabulary is not None
    assert model is not None
    logits = classifier.decision_function(test.texts, progress=progress)
    found = classification([label == 1 for label in test.labels], logits.tolist())
    said = classifier.decision_function(sentences())
    found |= behaviour(dict(zip(sentences(), said.tolist(), strict=True)))
    found["training tokens/s"] = median(record["items_per_second"] for record in history.train)
    found[_EPOCH] = history.seconds / size.epochs
    if method in MAIN:
        for sentence in SENTENCES:
            for place, contribution in enumerate(classifier.explain(sentence).contributions):
                found[_word(sentence, place)] = float(contribution)
        chosen = np.random.default_rng([seed, 1]).permutation(len(test.texts))
        short = [ids for i in chosen if 20 <= len(ids := vocabulary.ids(split_words(test.texts[i]))) <= 200]
        for way, (deletion, insertion) in mean_areas(model, short[: size.explained], seed).items():
            found[f"deletion area, {way}"], found[f"insertion area, {way}"] = deletion, insertion
    return found


def _word(sentence: str, place: int) -> str:
    return f"logit by word {place}: {sentence}"


def _reported(method: str) -> str:
    return f"{method}, as the exercise reports"


def _above_its_figure(method: str, rows: Sequence[Row]) -> tuple[str, bool]:
    ours, figure = find_row(rows, method, "accuracy %"), find_row(rows, _reported(method), "accuracy %")
    bar = Row.of(figure.method, figure.metric, [figure.mean + _MARGIN])
    return f"{ours.mean:.1f} against {figure.mean:.1f}", clearly_less(bar, ours)


def _above_all(method: str, others: Sequence[str], rows: Sequence[Row]) -> tuple[str, bool]:
    ours = find_row(rows, method, "accuracy %")
    every = [find_row(rows, other, "accuracy %") for other in others]
    best = max(every, key=lambda row: row.mean)
    return f"{ours.mean:.1f} against {best.mean:.1f} ({best.method})", all(clearly_less(row, ours) for row in every)


def _gru_above_rnn(rows: Sequence[Row]) -> tuple[str, bool]:
    sizes = dict.fromkeys(row.method.removeprefix("rnn ") for row in rows if row.method.startswith("rnn "))
    sizes.pop(_reported(RNN).removeprefix("rnn "))
    both = {size: [find_row(rows, f"{cell} {size}", "accuracy %") for cell in ("rnn", "gru")] for size in sizes}
    shown = ", ".join(f"{size}: {gru.mean - rnn.mean:+.1f}" for size, (rnn, gru) in both.items())
    return shown, all(clearly_less(rnn, gru) for rnn, gru in both.values())


def _is_fast(rows: Sequence[Row]) -> tuple[str, bool]:
    seconds, reviews = find_row(rows, MLP, _EPOCH).mean, find_row(rows, *_READ).mean
    needed = seconds * _ALL / reviews
    on_how_many = "" if reviews == _ALL else f", in proportion to {seconds:.3g} s on {reviews:,.0f}"
    return f"{needed:.3g} s{on_how_many}", needed < _MOST_SECONDS


def _turned(rows: Sequence[Row]) -> tuple[str, bool]:
    first, second = ([find_row(rows, model, f"right %: {sentence}").mean for model in MAIN] for sentence in SENTENCES)
    shown = "; ".join(f"{model} {a:.0f} and {b:.0f}" for model, a, b in zip(MAIN, first, second, strict=True))
    return shown, first[-1] > 50 and max(first[:-1]) < 50 and second[-1] < 50


def plot(result: Result, path: Path) -> None:
    """Draw the exercise's two sentences as each of the five models scores their words."""
    from weigher.plot.scored_sentences import ScoredSentence, scored_sentences
    from weigher.tokens.words import locate_words

    drawn = []
    for sentence in SENTENCES:
        tokens = [sentence[word.start : word.end] for word in locate_words(sentence)]
        for method in MAIN:
            figures = [find_row(result.rows, method, _word(sentence, place)).mean for place in range(len(tokens))]
            drawn.append(ScoredSentence(method, tuple(tokens), tuple(figures)))
    scored_sentences(path, drawn, title="What five models make of two negative sentences, word by word")


STUDY = Study(
    name="token_scores",
    card="01",
    title="Sentiment by words that carry scores: five models, counting words, negations, faithfulness",
    run=run,
    claims=(
        *(
            Claim(
                f"{method}: 2 points of accuracy above the exercise",
                _TARGET,
                partial(_above_its_figure, method),
            )
            for method in MAIN
        ),
        Claim(
            "local attention is the best of the token models",
            "the exercise",
            partial(_above_all, LOCAL, (MLP, WEIGHTED)),
        ),
        Claim("the GRU beats the RNN at every size of the state", "the exercise", _gru_above_rnn),
        Claim(
            "local attention beats logistic regression on words",
            _TARGET,
            partial(_above_all, LOCAL, (COUNTING,)),
        ),
        Claim(
            "local attention beats logistic regression on words and pairs",
            _TARGET,
            partial(_above_all, LOCAL, (COUNTING_PAIRS,)),
        ),
        Claim(
            "only local attention finds 'Not what I expected' negative, and no window of 5 helps the longer sentence",
            "the exercise",
            _turned,
        ),
        Claim("the token MLP takes under 60 s an epoch on 25,000 reviews", _TARGET, _is_fast),
    ),
    plot=plot,
)

"""The estimator: learn two classes of texts, or of any sequences of tokens, then say which words made it so.

>>> texts = ["a good film", "a bad film", "good, very good", "bad, so bad"] * 5
>>> model = SentimentClassifier("token-mlp", config=ClassifierConfig(epochs=30, batch=4)).fit(texts, [1, 0, 1, 0] * 5)
>>> model.predict(["good film", "bad film"]).tolist()
[1, 0]
>>> explanation = model.explain("Good!")
>>> explanation.tokens, bool(sum(explanation.weights * explanation.scores) == explanation.logit)
(('Good', '!'), True)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from weigher.errors import RequestError
from weigher.io.vectors import read_vectors
from weigher.tokens.cooccurrence import neighbour_vectors
from weigher.tokens.explanation import Explanation
from weigher.tokens.folders import Saved, read_classifier, write_classifier
from weigher.tokens.inputs import Label, Texts, are_texts, listed, listed_labels, sequences_of, split_all, two_classes
from weigher.tokens.learning import ClassifierConfig, Progress, decide, learn, no_finite_logit, read_tokens
from weigher.tokens.model_card import Origin, origin_of
from weigher.tokens.sequences import Sequences
from weigher.tokens.token_scores import VECTOR_SCALE, Model, TokenScorer
from weigher.tokens.training_data import TrainingData, keep_data
from weigher.tokens.words import KnownIds, Vocabulary, locate_words
from weigher.train.distribution import resolve_device
from weigher.train.loop import History


class SentimentClassifier:
    """Two classes of texts told apart by scores that can be read word by word.

    `fit(texts, labels)` takes texts, `fit(ids, labels, lengths)` padded ids `[n, t]` of any tokens, `fit(ids, labels)`
    a list of lists of them. `predict`, `predict_proba`, `decision_function` and `score` are those of scikit-learn,
    whose `clone`, `cross_val_score` and `GridSearchCV` take the classifier; `explain` returns an `Explanation`. Only
    words, or ids, that are frequent in training are known (`least_count`, `most_words`); all others are one.

    After fit: `classes_` (array of two labels, sorted), `vocabulary_` (the known words; None for ids), `ids_` (the
    known ids; None for texts), `config_` (`config`, with the width of the vectors that were given), `history_`,
    `model_`.
    """

    def __init__(
        self,
        model: Model | None = None,
        *,
        seed: int | None = None,
        config: ClassifierConfig | None = None,
        device: str = "auto",
    ) -> None:
        self._given = {"model": model, "seed": seed, "config": config, "device": device}
        config = config or ClassifierConfig()
        if model is not None:
            config = replace(config, scorer=replace(config.scorer, model=model))
        self.config = config if seed is None else replace(config, seed=seed)
        self.device = resolve_device(device)
        self.model_: TokenScorer | None = None
        self.config_: ClassifierConfig | None = None
        self.classes_: np.ndarray = np.empty(0)
        self.history_: History | None = None
        self._known: Vocabulary | KnownIds = Vocabulary([])
        self._origin = Origin()

    @property
    def vocabulary_(self) -> Vocabulary | None:
        """The words with a vector of their own; None for ids, and before fit."""
        return self._known if self.model_ is not None and isinstance(self._known, Vocabulary) else None

    @property
    def ids_(self) -> np.ndarray | None:
        """The ids with a vector of their own, int64 `[known]`, frequent ones first; None for texts, and before fit."""
        return self._known.ids if isinstance(self._known, KnownIds) else None

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return what the classifier was made with, so that scikit-learn can make another like it (`clone`)."""
        return dict(self._given)

    def set_params(self, **params: Any) -> SentimentClassifier:
        """Make the classifier anew with other parameters (model, seed, config, device), as if never fitted.

        >>> SentimentClassifier(seed=3).set_params(model="gru").get_params()["seed"]
        3
        """
        if strange := sorted(params.keys() - self._given.keys()):
            raise RequestError(f"{strange[0]!r} is no parameter; there are {', '.join(self._given)}")
        SentimentClassifier.__init__(self, **{**self._given, **params})
        return self

    def __sklearn_is_fitted__(self) -> bool:
        """Tell scikit-learn whether the classifier has learned."""
        return self.model_ is not None

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn, which asks where it is installed, that this is a classifier of two classes of texts."""
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=True),
            classifier_tags=ClassifierTags(multi_class=False),
            input_tags=InputTags(one_d_array=True, two_d_array=False, string=True),
        )

    def fit(
        self,
        texts: Texts,
        labels: Iterable[Label],
        lengths: Any = None,
        *,
        vectors: str | Path | None = None,
        run_dir: str | Path | None = None,
        resume: bool = False,
        data: str = "",
        progress: Progress | None = None,
    ) -> SentimentClassifier:
        """Learn from texts, or ids of tokens, with a label each: whole numbers or words, two different ones.

        `vectors` is a text file of vectors to begin with (GloVe, word2vec), those of known words; all then have its
        width, and attention the largest number of heads, up to the configured one, that divides it. In `run_dir` go
        metrics and checkpoints, from which `resume` goes on with the same texts, labels, settings and vectors. `data`
        is the name of the texts for the model card. Raises RequestError for what cannot be learned from or resumed,
        WeigherError where training fails.
        """
        given: Any = listed(texts) if lengths is None else texts
        config, first = self.config, {}
        if lengths is None and are_texts(given):
            classes, targets = two_classes(labels, len(given))
            words = split_all(given, progress)
            known = Vocabulary.of(words, least_count=config.least_count, most_words=config.most_words)
            corpus = Sequences.of(map(known.ids, words))
        elif vectors is not None:
            raise RequestError("word vectors are given with ids; only the words of texts can be looked up in them")
        else:
            corpus = sequences_of(given, lengths)
            classes, targets = two_classes(labels, len(corpus))
            known = KnownIds.of(corpus.tokens, least_count=config.least_count, most_ids=config.most_words)
            corpus = Sequences(known.numbers(corpus.tokens), corpus.offsets)
        if not len(known):
            raise RequestError(
                f"{len(corpus)} texts are given, and none holds a token that occurs {config.least_count} times in all "
                "(least_count); give more texts, or lower least_count"
            )
        if vectors is not None and isinstance(known, Vocabulary):
            first = read_vectors(vectors, known, progress=progress)
            width = len(next(iter(first.values())))
            heads = next(count for count in range(config.scorer.heads, 0, -1) if width % count == 0)
            config = replace(config, scorer=replace(config.scorer, embedding=width, heads=heads))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            model = TokenScorer(len(known), config.scorer)
        start = model.embedding.weight.data
        if first and isinstance(known, Vocabulary):
            start[torch.from_numpy(known.ids(list(first)))] = torch.from_numpy(np.stack(list(first.values())))
        elif config.neighbours:
            found = neighbour_vectors(
                corpus,
                len(known),
                config.scorer.embedding,
                window=config.neighbours,
                seed=config.seed,
                progress=progress,
            )
            placed = torch.from_numpy(np.flatnonzero(found.any(1)))
            start[placed] = VECTOR_SCALE * torch.from_numpy(found)[placed]
        folder = None if run_dir is None else Path(run_dir)
        if folder is not None:
            names = known.words if isinstance(known, Vocabulary) else known.ids.tolist()
            keep_data(folder, TrainingData.of(classes, corpus, targets, names, config, vectors=first), resume=resume)
        self.history_ = learn(
            model,
            corpus,
            targets,
            config,
            run_dir=folder,
            resume=resume,
            device=self.device,
            progress=progress,
        )
        self.config_, self.model_, self._known, self.classes_ = config, model.eval(), known, np.array(classes)
        self._origin = origin_of(self.history_, config, data=data, texts=len(corpus), device=self.device)
        return self

    def decision_function(
        self,
        texts: Texts,
        lengths: Any = None,
        *,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Return the logit of the second class, float64 `[n]`; 0 for a text without words, of which nothing is known.

        Raises RequestError for a model that was not fitted, and for texts where it has learned ids, or ids for texts;
        WeigherError, naming the text, for a logit that is not finite, as an `rnn` may give for long texts.
        """
        model = self._fitted()
        corpus = self._corpus(listed(texts) if lengths is None else texts, lengths, progress)
        return decide(model, corpus, progress=progress)

    def predict_proba(
        self,
        texts: Texts,
        lengths: Any = None,
        *,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Return the probabilities of the two `classes_`, float64 `[n, 2]`."""
        second = 0.5 * (1 + np.tanh(self.decision_function(texts, lengths, progress=progress) / 2))
        return np.stack([1 - second, second], axis=1)

    def predict(
        self,
        texts: Texts,
        lengths: Any = None,
        *,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Return the likelier label of each text, `[n]`; the first of `classes_` where nothing speaks for either."""
        logits = self.decision_function(texts, lengths, progress=progress)
        return self.classes_[(logits > 0).astype(int)]

    def score(self, texts: Texts, labels: Iterable[Label], lengths: Any = None) -> float:
        """Return the share of texts whose label `predict` finds, from 0 to 1."""
        wanted = listed_labels(labels)
        found = self.predict(texts, lengths)
        if len(found) != len(wanted) or not wanted:
            raise RequestError(f"{len(found)} texts and {len(wanted)} labels are given; each text needs one label")
        classes = self._plain_classes()
        strange = next((label for label in wanted if label not in classes), None)
        if strange is not None:
            raise RequestError(f"the label {strange!r} was not learned; this model knows {classes}")
        return float(np.mean([a == b for a, b in zip(found.tolist(), wanted, strict=True)]))

    def explain(self, text: str | Sequence[int] | np.ndarray) -> Explanation:
        """Say what each word of one text (or each of its ids) adds to the prediction.

        Raises RequestError as `decision_function`.
        """
        model = self._fitted()
        if isinstance(self._known, Vocabulary) and isinstance(text, str):
            words = locate_words(text)
            ids = self._known.ids([word.word for word in words])
            shown = text.encode("utf-8", "replace").decode("utf-8")  # half of a surrogate pair cannot be printed
            places = tuple((word.start, word.end) for word in words)
        else:
            ids = self._corpus([text])[0]
            names = [str(number) for number in np.asarray(text)]
            ends = np.cumsum([len(name) + 1 for name in names]) - 1
            places = tuple((int(end) - len(name), int(end)) for name, end in zip(names, ends, strict=True))
            shown = " ".join(names)
        found = read_tokens(model, *Sequences.of([ids]).padded(np.array([0])))
        scores, weights = (part[0, : len(ids)].double().cpu().numpy() for part in (found.scores, found.weights))
        if not (np.isfinite(scores).all() and np.isfinite(weights).all()):
            raise no_finite_logit(model, "the text", len(ids))
        return Explanation(
            text=shown,
            tokens=tuple(shown[start:end] for start, end in places),
            places=places,
            known=tuple((ids < len(self._known)).tolist()),
            scores=scores,
            weights=weights,
            classes=self._plain_classes(),
        )

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json`, `model.safetensors`, `vocabulary.json` (words or ids) and a model card."""
        model, config = self._fitted(), self.config_
        assert config is not None
        write_classifier(Path(folder), Saved(config, model, self._known, self._plain_classes(), self._origin))

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, device: str = "auto") -> SentimentClassifier:
        """Load a model folder; nothing in it is executed. Raises RequestError that says what is wrong."""
        saved = read_classifier(Path(folder))
        classifier = cls(config=saved.config, device=device)
        classifier.config_, classifier._known, classifier.classes_ = saved.config, saved.known, np.array(saved.classes)
        classifier._origin, classifier.model_ = saved.origin, saved.model.to(classifier.device)
        return classifier

    def _fitted(self) -> TokenScorer:
        if self.model_ is None:
            raise RequestError("this classifier has learned nothing yet; call fit(texts, labels) or from_pretrained")
        return self.model_

    def _plain_classes(self) -> tuple[Label, Label]:
        """The two labels as Python's own values."""
        first, second = self.classes_.tolist()
        return first, second

    def _corpus(self, given: Any, lengths: Any = None, progress: Progress | None = None) -> Sequences:
        """Texts or ids as the numbers of their vectors."""
        is_text = lengths is None and are_texts(given)
        if isinstance(self._known, Vocabulary) and is_text:
            return Sequences.of(map(self._known.ids, split_all(given, progress)))
        if isinstance(self._known, Vocabulary):
            raise RequestError("this model has learned texts, and was given ids, or something that is no text")
        if is_text and len(given):
            raise RequestError("this model has learned ids, and was given texts; number their words as in training")
        corpus = sequences_of(given, lengths)
        return Sequences(self._known.numbers(corpus.tokens), corpus.offsets)

"""What a user gives to the classifier, checked and put in order: texts, ids with or without padding, two labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from weigher.errors import RequestError
from weigher.tokens.sequences import Sequences
from weigher.tokens.words import split_words

Label = int | str
Texts = Iterable[str] | Iterable[Sequence[int]] | np.ndarray


def listed(texts: Any) -> list[Any]:
    """Return what was given as a list; RequestError for one text alone, no list, or padded ids of unknown lengths.

    >>> listed(text for text in ("a", "b"))
    ['a', 'b']
    """
    if isinstance(texts, str):
        raise RequestError("one text is given; give a list of texts")
    if getattr(texts, "ndim", 1) != 1:
        raise RequestError(f"ids of shape {list(texts.shape)} are given without lengths; give the length of each row")
    if not isinstance(texts, Iterable):
        raise RequestError(f"the texts are {_named(texts)}; needed is a list of texts, or of lists of whole numbers")
    return list(texts)


def are_texts(given: Sequence[Any]) -> bool:
    """Say whether all that is given is text; RequestError, naming the first that is none, where only some of it is.

    >>> are_texts(["a", "b"]), are_texts([[3, 1], [2]])
    (True, False)
    """
    other = next((place for place, text in enumerate(given) if not isinstance(text, str)), None)
    if other is not None and any(isinstance(text, str) for text in given):
        raise RequestError(f"texts[{other}] is {_named(given[other])}; needed are texts throughout")
    return other is None


def split_all(texts: Sequence[str], progress: Callable[[str, int, int], None] | None = None) -> list[list[str]]:
    """Split texts into words; `progress` gets "words", done, total.

    >>> split_all(["It's good."])
    [['it', "'s", 'good', '.']]
    """
    words = []
    for done, text in enumerate(texts, 1):
        words.append(split_words(text))
        if progress is not None and (done % 1000 == 0 or done == len(texts)):
            progress("words", done, len(texts))
    return words


def sequences_of(ids: Any, lengths: Any = None) -> Sequences:
    """Return ids as sequences: padded `[n, t]` with their lengths `[n]`, or a list of lists without.

    Raises RequestError where they are no whole numbers, are negative or not below 2^63, or do not fit the lengths.

    >>> sequences_of([[3, 1, 0], [2, 0, 0]], [2, 1]).tokens.tolist()
    [3, 1, 2]
    """
    corpus = Sequences.of(_rows(ids) if lengths is None else _cut(ids, lengths))
    negative = np.flatnonzero(corpus.tokens < 0)
    if len(negative):
        row = int(np.searchsorted(corpus.offsets, negative[0], side="right")) - 1
        raise RequestError(f"sequence {row} holds the id {corpus.tokens[negative[0]]}; ids are 0 or more")
    return corpus


def two_classes(labels: Any, count: int) -> tuple[tuple[Label, Label], np.ndarray]:
    """Return the two kinds of label, sorted, and for each of `count` labels which it is, int64 `[n]` of 0 and 1.

    Raises RequestError for labels that are neither whole numbers nor words, mixed, too many or too few, and where
    there are not just two kinds.

    >>> two_classes(["pos", "neg", "pos"], 3)
    (('neg', 'pos'), array([1, 0, 1]))
    """
    given = listed_labels(labels)
    if len(given) != count or not given:
        raise RequestError(f"{count} texts and {len(given)} labels are given; each text needs one label")
    kind = str if isinstance(given[0], str) else int
    for place, label in enumerate(given):
        if not isinstance(label, kind):
            raise RequestError(
                f"labels[{place}] is {label!r} ({type(label).__name__}); needed are whole numbers throughout, or words"
            )
    kinds = sorted(set(given))
    if len(kinds) != 2:
        shown = ", ".join(map(repr, kinds[:5])) + (", ..." if len(kinds) > 5 else "")
        raise RequestError(f"the labels are {shown}: {len(kinds)} kinds, needed are two; give texts of both")
    first, second = (kind if isinstance(kind, str) else int(kind) for kind in kinds)
    return (first, second), np.array([label == second for label in given], np.int64)


def listed_labels(labels: Any) -> list[Any]:
    """Return labels as a list of plain values; RequestError for what is no list.

    >>> listed_labels(np.array([1, 0])), listed_labels([np.True_, np.str_("good")])
    ([1, 0], [True, 'good'])
    """
    plain: Any = labels.tolist() if hasattr(labels, "tolist") else labels
    if not isinstance(plain, Iterable):
        raise RequestError(f"the labels are {_named(labels)}; needed is a list with one label for each text")
    return [label.item() if isinstance(label, np.generic) else label for label in plain]


def _named(value: object) -> str:
    return f"{type(value).__name__} {value!r}"[:60]


def _rows(ids: Any) -> list[np.ndarray]:
    rows = []
    for place, row in enumerate(ids):
        try:
            array = np.asarray(row)
        except ValueError:  # rows of unequal lengths in one sequence
            array = np.asarray(None)
        if array.ndim != 1 or not (len(array) == 0 or np.issubdtype(array.dtype, np.integer)):
            raise RequestError(
                f"texts[{place}] is {_named(row)}; needed are texts throughout, or lists of whole numbers below 2^63"
            )
        rows.append(_signed(array, f"texts[{place}] holds the id"))
    return rows


def _cut(ids: Any, lengths: Any) -> list[np.ndarray]:
    values, counts = _whole(ids, "ids", "[n, t]"), _whole(lengths, "lengths", "[n]")
    if len(values) != len(counts):
        raise RequestError(f"{len(values)} rows of ids and {len(counts)} lengths are given; each row needs its length")
    wrong = np.flatnonzero((counts < 0) | (counts > values.shape[1]))
    if len(wrong):
        row = wrong[0]
        raise RequestError(f"lengths[{row}] is {counts[row]}; it needs to be from 0 to {values.shape[1]}, ids a row")
    return [row[:count] for row, count in zip(values, counts, strict=True)]


def _whole(values: Any, name: str, shape: str) -> np.ndarray:
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise RequestError(f"{name} are rows of unequal lengths; pad them, or give them without lengths") from error
    if array.ndim != shape.count(",") + 1 or not np.issubdtype(array.dtype, np.integer):
        raise RequestError(
            f"{name} of shape {list(array.shape)} and type {array.dtype} are given; needed are whole numbers {shape} "
            "below 2^63"
        )
    return _signed(array, f"{name} hold")


def _signed(array: np.ndarray, holds: str) -> np.ndarray:
    """Whole numbers as int64; those from 2^63 on would turn into negative ones."""
    largest = int(array.max(initial=0))
    if largest >= 2**63:
        raise RequestError(f"{holds} {largest}; give whole numbers below 2^63")
    return array.astype(np.int64)

r"""Words of a text, where they stand in it, and the vocabulary that numbers them.

The rule, in this order: `<br />` is white space; a run of letters and digits is a word; n't, 's, 're, 've, 'll, 'd and
'm at its end are words of their own, so that "didn't" is "did" and "n't", as in the Penn Treebank and in GloVe's word
lists; any other visible sign is a word. Case is dropped. Languages that write no spaces need a tokeniser of their own:
give the classifier ids instead of texts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

_END = r"(?![^\W_])"
_PATTERN = re.compile(
    rf"<br\s*/?>|(n['’]t{_END}|[^\W_]+(?=n['’]t{_END})|[^\W_]+|['’](?:s|re|ve|ll|d|m){_END}|[^\s\w]|_)", re.IGNORECASE
)


class Word(NamedTuple):
    """A word as the models see it, and where it stands: `text[start:end]`."""

    word: str
    start: int
    end: int


def split_words(text: str) -> list[str]:
    """Return the words of a text, in lower case.

    >>> split_words("I didn't <br /> like it: it's 2 out of 10!")
    ['i', 'did', "n't", 'like', 'it', ':', 'it', "'s", '2', 'out', 'of', '10', '!']
    """
    return [_plain(found) for found in _PATTERN.findall(text) if found]


def locate_words(text: str) -> list[Word]:
    """Return the words of a text with their places in it.

    >>> locate_words("Can’t stop")
    [Word(word='ca', start=0, end=2), Word(word="n't", start=2, end=5), Word(word='stop', start=6, end=10)]
    """
    return [Word(_plain(found[1]), *found.span(1)) for found in _PATTERN.finditer(text) if found[1]]


def _plain(word: str) -> str:
    return word.lower().replace("’", "'")


class Vocabulary:
    """Words with the ids 0, 1, ...; every other word has the id `len(vocabulary)`.

    >>> vocabulary = Vocabulary(["good", "bad"])
    >>> vocabulary.ids(["bad", "awful", "good"]).tolist()
    [1, 2, 0]
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)
        self._numbers = {word: number for number, word in enumerate(self.words)}

    @classmethod
    def of(cls, texts: Iterable[Sequence[str]], *, least_count: int = 1, most_words: int | None = None) -> Vocabulary:
        """Number the words that occur `least_count` times or more in texts split into words, frequent ones first.

        >>> Vocabulary.of([["a", "b"], ["b", "c", "b", "a"]], least_count=2).words
        ('b', 'a')
        """
        counts = Counter(word for text in texts for word in text)
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return cls([word for word, count in ranked[:most_words] if count >= least_count])

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self._numbers

    def ids(self, words: Sequence[str]) -> np.ndarray:
        """Return the ids of words, int64 `[t]`."""
        unknown = len(self.words)
        return np.fromiter((self._numbers.get(word, unknown) for word in words), np.int64, len(words))

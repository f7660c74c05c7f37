r"""Words of a text, where they stand in it, and the vocabulary that numbers them.

The rule, in this order: `<br />` is white space; a run of letters and digits is a word; n't, 's, 're, 've, 'll, 'd and
'm at its end are words of their own, so that "didn't" is "did" and "n't", as in the Penn Treebank and in GloVe's word
lists; any other visible sign is a word. Marks (accents, vowel signs of Hindi or Arabic) belong to the sign before them.
What is not seen is passed over: format characters (Unicode's category Cf: the soft hyphen, joiners, byte-order marks)
and variation selectors; the zero-width space is white space. Control characters that are no white space are words of
their own: in texts read in a wrong encoding they stand where dashes and quotes stood, and part words as these do. Case
is dropped, and words are composed (NFC): "é" is the same letter whether it was typed as one sign or as two. Languages
that write no spaces need a tokeniser of their own: give the classifier ids instead of texts.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

_ZERO_WIDTH_SPACE = 0x200B  # of the category Cf, yet made to part words
_VARIATION_SELECTORS = {*range(0x180B, 0x180E), 0x180F, *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)}


def _rule(mark: str) -> re.Pattern[str]:
    """The rule of the header, where `mark` matches a mark, or is empty; a match without a group is white space."""
    more, marks, nor = (rf"(?:{mark}[^\W_]*)*", f"{mark}*", f"|{mark}") if mark else ("", "", "")
    word, end = rf"[^\W_]+{more}", rf"(?![^\W_]{nor})"
    # case is ignored in parts: in a set of marks it would let iota pass for the mark that is written below letters
    not_, clitic = rf"(?i:n['’]t){end}", rf"['’](?i:s|re|ve|ll|d|m){end}"
    return re.compile(rf"(?i:<br)\s*/?>|\u200b|({not_}|{word}(?={not_})|{word}|{clitic}|(?:[^\s\w]|_){marks})")


_WITHOUT_MARKS = _rule("")


@cache
def _unicode() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """The rule for any text, and a pattern of a sign that is not seen; made once, in some milliseconds."""
    codes = (*range(0x80, 0x20000), *range(0xE0000, 0xE1000))  # elsewhere are Chinese letters and private signs
    kinds = {code: unicodedata.category(chr(code)) for code in codes}
    hidden = {code for code, kind in kinds.items() if kind == "Cf"} - {_ZERO_WIDTH_SPACE} | _VARIATION_SELECTORS
    marks = [code for code, kind in kinds.items() if kind[0] == "M" and code not in hidden]
    return _rule(_one_of(marks)), re.compile(_one_of(sorted(hidden)))


def _one_of(codes: Sequence[int]) -> str:
    """A set of so many signs, sorted, told by the gaps between them: a common sign is then found at the first look."""
    gaps = [(before + 1, after - 1) for before, after in pairwise((-1, *codes, 0x110000)) if after - before > 1]
    return "[^" + "".join(f"{chr(first)}-{chr(last)}" for first, last in gaps) + "]"


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
    if text.isascii():
        return [found for found in _WITHOUT_MARKS.findall(text.lower()) if found]
    rule, hidden = _unicode()
    return [_plain(found) for found in rule.findall(hidden.sub("", text)) if found]


def locate_words(text: str) -> list[Word]:
    """Return the words of a text with their places in it; what is not seen belongs to the word before it.

    >>> locate_words("Can’t stop")
    [Word(word='ca', start=0, end=2), Word(word="n't", start=2, end=5), Word(word='stop', start=6, end=10)]
    """
    rule, hidden = _unicode()
    gone = [found.start() for found in hidden.finditer(text)]
    kept = np.delete(np.arange(len(text) + 1), gone).tolist()  # places of the signs that are seen, and the end
    matches = rule.finditer(hidden.sub("", text))
    return [Word(_plain(found[1]), kept[found.start()], kept[found.end()]) for found in matches if found[1]]


def _plain(word: str) -> str:
    if word.isascii():
        return word.lower()
    return unicodedata.normalize("NFC", word.lower().replace("’", "'"))


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


class KnownIds:
    """Ids of tokens with the numbers 0, 1, ...; every other id has the number `len(known)`.

    >>> known = KnownIds(np.array([70, 3]))
    >>> known.numbers(np.array([3, 5, 70])).tolist()
    [1, 2, 0]
    """

    def __init__(self, ids: np.ndarray) -> None:
        self.ids = ids
        self._order = np.argsort(ids)

    @classmethod
    def of(cls, tokens: np.ndarray, *, least_count: int = 1, most_ids: int | None = None) -> KnownIds:
        """Number the ids that occur `least_count` times or more among `tokens`, as `Vocabulary.of` does words.

        >>> KnownIds.of(np.array([8, 5, 5, 9, 5, 8]), least_count=2).ids.tolist()
        [5, 8]
        """
        ids, counts = np.unique(tokens, return_counts=True)
        ranked = np.argsort(-counts, kind="stable")[:most_ids]
        return cls(ids[ranked[counts[ranked] >= least_count]])

    def __len__(self) -> int:
        return len(self.ids)

    def numbers(self, tokens: np.ndarray) -> np.ndarray:
        """Return the numbers of tokens, int64 `[t]`."""
        found = np.append(self._order, len(self))[np.searchsorted(self.ids, tokens, sorter=self._order)]
        return np.where(np.append(self.ids, -1)[found] == tokens, found, len(self))  # no id is below 0

"""Words: what the rule makes of sentences, places that lead back to the text, a vocabulary that knows no more."""

import re
import time
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weigher.tokens.words import KnownIds, Vocabulary, Word, locate_words, split_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It's 10/10!!", ["it", "'s", "10", "/", "10", "!", "!"]),
        ("can't, won't, DIDN’T", ["ca", "n't", ",", "wo", "n't", ",", "did", "n't"]),
        ("rock'n'roll 'quoted' dogs'", ["rock", "'", "n", "'", "roll", "'", "quoted", "'", "dogs", "'"]),
        ("well<br /><br>made<BR/>film", ["well", "made", "film"]),
        ("a<b snake_case", ["a", "<", "b", "snake", "_", "case"]),
        ("Crème brûlée, İstanbul 映画は良い", ["crème", "brûlée", ",", "i̇stanbul", "映画は良い"]),
        ("we'll I'm they've he'd you're", ["we", "'ll", "i", "'m", "they", "'ve", "he", "'d", "you", "'re"]),
        ("हिन्दी फिल्म अच्छी है।", ["हिन्दी", "फिल्म", "अच्छी", "है", "।"]),  # vowel signs and viramas are marks
        ("cafe\u0301 de\u0301ja\u0300", ["café", "déjà"]),  # accents of their own are those of the letters
        ("مُحَمَّد", ["مُحَمَّد"]),  # vowel signs
        ("I ❤\ufe0f it 1\ufe0f\u20e3", ["i", "❤", "it", "1\u20e3"]),  # signs that choose a picture are no words
        ("co\u00adop\u200cer\u200date\u2060\ufeff d\u00adidn't", ["cooperate", "did", "n't"]),
        ("zero\u200bwidth", ["zero", "width"]),  # the space without width is a space
        ("👩\u200d🚀!", ["👩", "🚀", "!"]),
        ("≠ =\u0338", ["≠", "≠"]),
        ("didn't\u0301 it's\u00ad", ["didn", "'", "t\u0301", "it", "'s"]),
        (
            "!\u03b9 \u0345\u03b9",
            ["!", "\u03b9", "\u0345", "\u03b9"],
        ),  # iota is no mark, though one mark is iota written small
        ("\u0301 \ufe0f\u200d\u00ad", ["\u0301"]),  # a mark on nothing is seen, the others are not
        ("caf\u0065\u0301s' _\u0301", ["cafés", "'", "_\u0301"]),
        ("good\x96bad \x1b[0m\x85\x1f", ["good", "\x96", "bad", "\x1b", "[", "0m"]),  # control characters are words
        (" \n\t", []),
        ("", []),
    ],
)
def test_the_rule(text, words):
    assert split_words(text) == words


INVISIBLE = "\u00ad\u200d\ufe0f\U000e0100"


def plain(text):
    """A word by its definition: without what is not seen, in lower case, one apostrophe, composed letters."""
    seen = "".join(sign for sign in text if sign not in INVISIBLE)
    return unicodedata.normalize("NFC", seen.lower().replace("’", "'"))


@given(st.text(alphabet=st.sampled_from("aZé09'’nt <br/>_.!\n\ud800映\u0301ी\u200b" + INVISIBLE)))
def test_places_cover_every_visible_sign_once_and_in_order(text):
    found = locate_words(text)
    assert [word.word for word in found] == split_words(text)
    end, rest = 0, ""
    for word in found:
        assert end <= word.start < word.end
        assert plain(text[word.start : word.end]) == word.word
        rest += text[end : word.start]
        end = word.end
    left = (rest + text[end:]).lower().translate(dict.fromkeys(map(ord, INVISIBLE)))
    while "<br" in left:  # only breaks and blanks belong to no word
        head, _, tail = left.partition("<br")
        assert tail.lstrip().startswith((">", "/>"))
        left = head + tail.partition(">")[2]
    assert not left.replace("\u200b", " ").strip()


def test_places_of_words_with_signs_that_are_not_seen():
    assert locate_words("\ufeffGo\u00adod ❤\ufe0f\u200b!") == [
        Word("good", 1, 6),
        Word("❤", 7, 9),  # with the sign that chooses its picture, from which it must not be parted
        Word("!", 10, 11),
    ]


@given(st.text(alphabet=st.characters(max_codepoint=127)))
def test_words_of_ascii_are_what_they_always_were(text):
    """The pattern of before, letter by letter."""
    end = r"(?![^\W_])"
    before = rf"<br\s*/?>|(n't{end}|[^\W_]+(?=n't{end})|[^\W_]+|'(?:s|re|ve|ll|d|m){end}|[^\s\w]|_)"
    found = [match for match in re.finditer(before, text, re.IGNORECASE) if match[1]]
    assert locate_words(text) == [Word(match[1].lower(), *match.span(1)) for match in found]
    assert split_words(text) == [match[1].lower() for match in found]


def test_a_million_words_and_a_word_of_a_million_letters_take_a_moment():
    began = time.perf_counter()
    assert len(split_words("not good " * 500_000)) == 1_000_000
    assert len(split_words("n" * 1_000_000)) == 1
    assert len(split_words("n" + "\u0301" * 200_000)) == 1
    assert len(split_words("n\u0308" * 200_000)) == 1
    assert len(split_words("न\u093f" * 200_000)) == 1
    assert time.perf_counter() - began < 10


def test_a_vocabulary_numbers_frequent_words_first_and_ties_by_name():
    vocabulary = Vocabulary.of([["b", "a", "c"], ["b", "a", "d"], ["b"]], least_count=2, most_words=5)
    assert vocabulary.words == ("b", "a")
    assert vocabulary.ids(["a", "c", "b"]).tolist() == [1, 2, 0]
    assert vocabulary.ids([]).tolist() == []
    assert "a" in vocabulary
    assert "c" not in vocabulary
    assert Vocabulary.of([["b", "a", "c"], ["b"]], most_words=2).words == ("b", "a")


def test_ids_are_numbered_as_words_are():
    tokens = np.array([7, 10**15, 7, 3, 3, 10**15, 7, 0, 5, 5])
    known = KnownIds.of(tokens, least_count=2, most_ids=3)
    assert known.ids.tolist() == [7, 3, 5]  # frequent ones first, ties by the id; 0 is too rare, the large one too many
    assert known.numbers(np.array([3, 7, 10**15, 0, 4, 99])).tolist() == [1, 0, 3, 3, 3, 3]
    assert known.numbers(np.zeros(0, np.int64)).tolist() == []
    assert len(KnownIds.of(np.zeros(0, np.int64), least_count=1, most_ids=5)) == 0
    assert KnownIds(np.zeros(0, np.int64)).numbers(tokens).tolist() == [0] * 10

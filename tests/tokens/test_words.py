"""Words: what the rule makes of sentences, places that lead back to the text, a vocabulary that knows no more."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weigher.tokens.words import Vocabulary, locate_words, split_words


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
        (" \n\t", []),
        ("", []),
    ],
)
def test_the_rule(text, words):
    assert split_words(text) == words


@given(st.text(alphabet=st.sampled_from("aZé09'’nt <br/>_.!\n\ud800映")))
def test_places_cover_every_visible_sign_once_and_in_order(text):
    found = locate_words(text)
    assert [word.word for word in found] == split_words(text)
    end, rest = 0, ""
    for word in found:
        assert end <= word.start < word.end
        assert text[word.start : word.end].lower().replace("’", "'") == word.word
        rest += text[end : word.start]
        end = word.end
    left = (rest + text[end:]).lower()
    while "<br" in left:  # only breaks and blanks belong to no word
        head, _, tail = left.partition("<br")
        assert tail.lstrip().startswith((">", "/>"))
        left = head + tail.partition(">")[2]
    assert not left.strip()


def test_a_million_words_and_a_word_of_a_million_letters_take_a_moment():
    began = time.perf_counter()
    assert len(split_words("not good " * 500_000)) == 1_000_000
    assert len(split_words("n" * 1_000_000)) == 1
    assert time.perf_counter() - began < 10


def test_a_vocabulary_numbers_frequent_words_first_and_ties_by_name():
    vocabulary = Vocabulary.of([["b", "a", "c"], ["b", "a", "d"], ["b"]], least_count=2, most_words=5)
    assert vocabulary.words == ("b", "a")
    assert vocabulary.ids(["a", "c", "b"]).tolist() == [1, 2, 0]
    assert vocabulary.ids([]).tolist() == []
    assert "a" in vocabulary
    assert "c" not in vocabulary
    assert Vocabulary.of([["b", "a", "c"], ["b"]], most_words=2).words == ("b", "a")

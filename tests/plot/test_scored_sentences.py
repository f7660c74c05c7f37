"""The picture of scored words: one row a sentence, wrapped where it is long, whatever the words hold."""

import math
import re

import pytest

from weigher.plot import scored_sentences as drawing
from weigher.plot.scored_sentences import ScoredSentence, scored_sentences


def test_the_answer_is_the_sum_of_the_words():
    assert ScoredSentence("m", ("a", "b"), (1.5, -0.5)).probability == pytest.approx(1 / (1 + math.exp(-1)))
    assert ScoredSentence("m", (), ()).probability == 0.5


def test_any_words_can_be_drawn_and_rows_make_the_picture_taller(tmp_path):
    sizes = []
    for count in (1, 5):
        one = ScoredSentence("m_$x$", ("$not$", "{a}", r"\frac", "_"), (0.0, 1.0, -2.0, 0.5))
        scored_sentences(tmp_path / f"{count}.png", [one] * count, title="words")
        sizes.append(_height(tmp_path / f"{count}.png"))
    assert sizes[1] > sizes[0] + 200


def test_blue_is_for_and_orange_against_and_the_strongest_word_has_the_full_colour(tmp_path):
    picture, (blue, orange) = tmp_path / "words.svg", ("#0072b2", "#d55e00")
    scored_sentences(picture, [ScoredSentence("m", ("good", "so", "bad"), (2.0, 1.0, -4.0))], title="words")
    drawn = picture.read_text(encoding="utf-8")
    boxes = re.findall(r"fill: (#\w{6}); fill-opacity: ([\d.]+)", drawn)
    assert boxes == [(blue, "0.375"), (blue, "0.1875"), (orange, "0.75")]
    assert f'"fill: {orange}"' in drawn  # of the answer, which is negative
    assert f'"fill: {blue}"' not in drawn


def test_long_sentences_go_on_in_the_next_line():
    places = drawing._lines([1.0] * 20)
    room = drawing._WIDTH - drawing._NAME - drawing._VERDICT
    assert all(x + 1.0 <= room for _, x in places)
    assert places[-1][0] == math.ceil(20 / math.floor(room)) - 1
    assert drawing._lines([99.0, 1.0]) == [(0, 0.0), (1, 0.0)]


def _height(path):
    return int.from_bytes(path.read_bytes()[20:24], "big")

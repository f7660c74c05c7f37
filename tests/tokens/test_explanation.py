"""What is shown of a text: figures that add up, colours, and HTML from which no text can break out."""

import html
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from weigher.tokens.explanation import Explanation
from weigher.tokens.words import locate_words


def explained(text, scores, weights=None, known=None, classes=("neg", "pos")):
    words = locate_words(text)
    return Explanation(
        text=text,
        tokens=tuple(text[word.start : word.end] for word in words),
        places=tuple((word.start, word.end) for word in words),
        known=tuple(known or [True] * len(words)),
        scores=np.array(scores, float),
        weights=np.full(len(words), 1 / max(1, len(words))) if weights is None else np.array(weights),
        classes=classes,
    )


def test_figures_add_up_to_the_answer():
    found = explained("not so good", [-7.5, 0.5, 3.0], [0.5, 0.25, 0.25])
    assert found.contributions.tolist() == [-3.75, 0.125, 0.75]
    assert found.logit == -2.875
    assert found.probability == pytest.approx(1 / (1 + np.exp(2.875)), rel=1e-12)
    assert found.prediction == "neg"
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert sum(word["contribution"] for word in plain["words"]) == plain["logit"]
    assert [word["word"] for word in plain["words"]] == ["not", "so", "good"]
    assert sum(plain["probability"].values()) == pytest.approx(1)


def test_a_text_without_words_says_nothing():
    found = explained("  ", [])
    assert (found.logit, found.probability) == (0.0, 0.5)
    assert "50.0%" in found.to_html()
    assert found.to_rich().plain == "  "


def test_colours_say_for_and_against_and_how_much():
    found = explained("Bad, but good!", [-4.0, 0.0, -1.0, 4.0, 0.0], known=[True, True, True, True, False])
    shown = found.to_rich()
    assert shown.plain == "Bad, but good!"
    colours = {shown.plain[span.start : span.end]: span.style for span in shown.spans}
    red, _, blue = colours["Bad"].bgcolor.triplet
    assert red > 200 > blue  # orange
    red, _, blue = colours["good"].bgcolor.triplet
    assert blue > 150 > red  # blue
    assert colours[","].bgcolor.triplet == (255, 255, 255)
    assert colours["but"].bgcolor.triplet[2] > colours["Bad"].bgcolor.triplet[2]  # paler
    assert colours["!"].italic
    assert not colours["good"].italic


def test_a_terminal_obeys_no_sign_of_a_text_and_words_keep_their_places():
    text = "\x1b[31mgood\x07\tfilm\r\n\x9b2J not\x96bad\x7f\rso\u00e9\x00"
    words = [text[word.start : word.end] for word in locate_words(text)]
    shown = explained(text, np.linspace(-1, 1, len(words))).to_rich()
    assert shown.plain == "\ufffd[31mgood\ufffd\tfilm \n\ufffd2J not\ufffdbad\ufffd\ufffdso\u00e9\ufffd"
    spans = [shown.plain[span.start : span.end] for span in shown.spans]
    assert spans == ["".join("\ufffd" if sign in "\x1b\x07\x9b\x96\x7f\0" else sign for sign in word) for word in words]


class _Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


def test_html_is_the_text_and_no_text_breaks_out_of_it():
    text = "<script>alert('x')</script> & \"good\" {0} </p><img src=x onerror=1>"
    words = locate_words(text)
    found = explained(text, np.linspace(-1, 1, len(words)), classes=("<b>neg", "<i>pos"))
    page = found.to_html()
    reader = _Reader()
    reader.feed(page)
    assert {tag for tag, _ in reader.tags} == {"html", "meta", "title", "style", "h1", "p", "span"}
    assert "".join(reader.text).strip().endswith(text)
    shown = page.partition('class="text">')[2].rpartition("</p>")[0]
    plain = re.sub(r"</?span[^>]*>", "", shown)
    assert not set(plain) & set("<>\"'")  # all of it is escaped
    assert html.unescape(plain) == text
    spans = [attributes for tag, attributes in reader.tags if tag == "span" and "title" in attributes]
    assert len(spans) == len(words)
    assert all(set(attributes) == {"style", "title"} for attributes in spans)
    assert spans[0]["title"].startswith("score -1.000, weight ")

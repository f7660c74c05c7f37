"""What a model says of one text, word by word, and how to show it: numbers, colours in a terminal, a page of HTML."""

from __future__ import annotations

import html
import math
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from weigher.tokens.inputs import Label

if TYPE_CHECKING:
    from rich.text import Text

_FOR, _AGAINST = (0, 114, 178), (213, 94, 0)  # blue and orange (Okabe and Ito 2008): told apart by the colour-blind too
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # Unicode's category Cc but for the tab and the line feed


@dataclass(frozen=True, eq=False)
class Explanation:
    """The prediction for one text and what each of its words had to do with it.

        logit = sum_t weights_t scores_t,   probability = sigmoid(logit), that of the second of the two `classes`

    tokens   the words as they stand in the text                  places   where: `text[start:end]`
    scores   what each word says, float64 [t], above 0: for the second class
    weights  how much each word counts, float64 [t]               known    whether the model has a vector for it
    """

    text: str
    tokens: tuple[str, ...]
    places: tuple[tuple[int, int], ...]
    known: tuple[bool, ...]
    scores: np.ndarray
    weights: np.ndarray
    classes: tuple[Label, Label]

    @cached_property
    def contributions(self) -> np.ndarray:
        """By how much each word moves the logit: weight * score, [t]."""
        return self.weights * self.scores

    @cached_property
    def logit(self) -> float:
        """Sum of the contributions, rounded once; 0 for a text without words."""
        return math.fsum(self.contributions)

    @property
    def probability(self) -> float:
        """Probability of the second class."""
        return 0.5 * (1 + math.tanh(self.logit / 2))

    @property
    def prediction(self) -> Label:
        """The likelier class, the label that `predict` gives.

        Here one text is summed in float64, there padded ones in float32: with a logit within about 1e-6 of 0, or 1e-5
        where a recurrent model has read thousands of words, the two may differ.
        """
        return self.classes[int(self.logit > 0)]

    def to_dict(self) -> dict[str, object]:
        """Return everything as plain data, fit for JSON, the classes as text."""
        against, favour = map(str, self.classes)
        columns = zip(self.tokens, self.scores, self.weights, self.contributions, self.known, strict=True)
        return {
            "prediction": str(self.prediction),
            "probability": {against: 1 - self.probability, favour: self.probability},
            "logit": self.logit,
            "words": [
                {"word": word, "score": float(s), "weight": float(w), "contribution": float(c), "known": bool(k)}
                for word, s, w, c, k in columns
            ],
        }

    def to_rich(self) -> Text:
        """Return the text for a terminal: blue speaks for the second class, orange against it; unknown words slant.

        Control characters are replaced (`printable`).
        """
        from rich.style import Style
        from rich.text import Text

        shown, text, end = Text(), printable(self.text), 0
        for place, known, strength in zip(self.places, self.known, self._strengths(), strict=True):
            red, green, blue = _mixed(strength)
            style = Style(color="#000000", bgcolor=f"#{red:02x}{green:02x}{blue:02x}", italic=not known)
            shown.append(text[end : place[0]])
            shown.append(text[slice(*place)], style)
            end = place[1]
        return shown.append(text[end:])

    def to_html(self) -> str:
        """Return a page of its own, without scripts; the text is escaped, and each word's figures show on pointing."""
        parts, end = [], 0
        columns = zip(self.tokens, self.places, self.known, self.scores, self.weights, self._strengths(), strict=True)
        for token, place, known, score, weight, strength in columns:
            red, green, blue = _mixed(strength)
            title = f"score {score:+.3f}, weight {weight:#.3g}{'' if known else ', unknown word'}"
            style = f"background:rgb({red},{green},{blue}){'' if known else ';font-style:italic'}"
            parts.append(html.escape(self.text[end : place[0]]))
            parts.append(f'<span style="{style}" title="{title}">{html.escape(token)}</span>')
            end = place[1]
        parts.append(html.escape(self.text[end:]))
        return _PAGE.format(
            verdict=html.escape(f"{self.prediction} ({self.probability:.1%} {self.classes[1]})"),
            against=html.escape(str(self.classes[0])),
            favour=html.escape(str(self.classes[1])),
            left="rgb({},{},{})".format(*_mixed(-1.0)),
            right="rgb({},{},{})".format(*_mixed(1.0)),
            words="".join(parts),
        )

    def _strengths(self) -> np.ndarray:
        """Contributions from -1 to 1: the largest has the full colour."""
        return self.contributions / max(np.abs(self.contributions).max(initial=0.0), np.finfo(float).tiny)


def printable(text: str) -> str:
    r"""Return a text as a terminal may show it: signs that it would obey, such as ESC, are replaced one by one.

    >>> printable("good\x1b[2J film\r\n\tbad")
    'good�[2J film \n\tbad'
    """
    return _CONTROL.sub("\ufffd", text.replace("\r\n", " \n"))


def _mixed(strength: float) -> tuple[int, int, int]:
    """The colour of a strength from -1 to 1: white at 0, never so dark that black letters cannot be read on it."""
    share, full = 0.75 * abs(strength), _FOR if strength > 0 else _AGAINST
    red, green, blue = (round(255 + share * (part - 255)) for part in full)
    return red, green, blue


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{verdict}</title>
<style>
body {{ font: 17px/1.8 sans-serif; max-width: 46em; margin: 2em auto; padding: 0 1em; color: #000; background: #fff }}
span {{ border-radius: 3px; padding: 1px 2px }}
.text {{ white-space: pre-wrap; overflow-wrap: anywhere }}
</style>
<h1>{verdict}</h1>
<p><span style="background:{left}">{against}</span> <span style="background:{right}">{favour}</span></p>
<p class="text">{words}</p>
</html>
"""

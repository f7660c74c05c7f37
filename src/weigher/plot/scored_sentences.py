"""The picture of scored words: sentences one under another, each word in the colour of what it adds to the answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from weigher.plot.tracks import PALETTE

_FOR, _AGAINST = PALETTE[0], PALETTE[1]  # blue and orange, told apart by the colour-blind too
_INK, _FAINT = "#222222", "#767676"
_WIDTH, _NAME, _VERDICT, _ROW, _GAP, _TOP = 11.0, 1.9, 1.5, 0.46, 0.28, 0.6  # inches
_SPACE, _LEAST = 0.09, 0.36  # inches between words, and of a short word, so that its figure has room


@dataclass(frozen=True)
class ScoredSentence:
    """A sentence as one model reads it: its name, the words, and what each adds to the logit."""

    name: str
    tokens: tuple[str, ...]
    contributions: tuple[float, ...]

    @property
    def probability(self) -> float:
        """Probability of the class that positive contributions speak for."""
        return 0.5 * (1 + math.tanh(math.fsum(self.contributions) / 2))


def scored_sentences(path: Path, sentences: Sequence[ScoredSentence], *, title: str) -> None:
    """Draw one row for each sentence and write the picture to `path`; rows with the same words stand together.

    Blue speaks for the positive class, orange against it, in the full colour where a word weighs most in its row. What
    it adds stands beneath; at the right the answer. Long sentences go on in the next line.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "words.png"
    >>> scored_sentences(target, [ScoredSentence("a model", ("not", "good"), (-2.0, 1.0))], title="t")
    >>> target.stat().st_size > 0
    True
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    measure = FigureCanvasAgg(Figure(dpi=100))
    renderer, ruler = measure.get_renderer(), measure.figure.text(0, 0, "", fontsize=11)

    def inches(word: str) -> float:
        ruler.set_text(word)
        return max(_LEAST, ruler.get_window_extent(renderer).width / 100 + _SPACE)

    laid = [(one, _lines([inches(_plain(token)) for token in one.tokens])) for one in sentences]
    groups = [list(group) for _, group in groupby(laid, key=lambda pair: pair[0].tokens)]
    lines = sum(1 + max((line for line, _ in places), default=0) for _, places in laid)
    height = _TOP + lines * _ROW + len(groups) * _GAP
    figure = Figure(figsize=(_WIDTH, height))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, _WIDTH)
    axes.set_ylim(height, 0)
    axes.axis("off")
    axes.text(0.15, 0.3, _plain(title), fontsize=13, fontweight="bold", color=_INK, va="center")
    y = _TOP
    for group in groups:
        for one, places in group:
            axes.text(0.15, y + 0.13, _plain(one.name), fontsize=10, color=_INK, va="center")
            _words(axes, y, one, places)
            positive = one.probability > 0.5
            verdict = f"{'positive' if positive else 'negative'}  {max(one.probability, 1 - one.probability):.0%}"
            colour = _FOR if positive else _AGAINST
            axes.text(_WIDTH - 0.15, y + 0.13, verdict, fontsize=10, color=colour, va="center", ha="right")
            y += _ROW * (1 + max((line for line, _ in places), default=0))
        y += _GAP
    figure.savefig(path, dpi=150)


def _lines(widths: Sequence[float]) -> list[tuple[int, float]]:
    """The line and the place, in inches, of each word of one sentence."""
    places, line, x = [], 0, 0.0
    for width in widths:
        if x > 0 and x + width > _WIDTH - _NAME - _VERDICT:
            line, x = line + 1, 0.0
        places.append((line, x))
        x += width
    return places


def _words(axes, y: float, one: ScoredSentence, places: Sequence[tuple[int, float]]) -> None:
    from matplotlib.colors import to_rgba

    most = max(map(abs, one.contributions), default=0.0) or 1.0
    for token, value, (line, x) in zip(one.tokens, one.contributions, places, strict=True):
        shade = to_rgba(_FOR if value > 0 else _AGAINST, 0.75 * abs(value) / most)
        box = {"boxstyle": "round,pad=0.15", "facecolor": shade, "edgecolor": "none"}
        top = y + line * _ROW + 0.13
        axes.text(_NAME + x, top, _plain(token), fontsize=11, color="#000000", va="center", bbox=box)
        axes.text(_NAME + x, top + 0.2, f"{value:+.1f}", fontsize=6.5, color=_FAINT, va="center")


def _plain(text: str) -> str:
    """Text as it stands: a dollar sign would begin a formula."""
    return text.replace("$", r"\$")

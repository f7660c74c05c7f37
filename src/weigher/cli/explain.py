"""``weigher explain``: what a model says of a text, and what each word had to do with it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from weigher.cli import console
from weigher.cli.arguments import optional
from weigher.errors import RequestError

if TYPE_CHECKING:
    from rich.table import Table

    from weigher.tokens.explanation import Explanation

SHOWN = 20
"""Words in the table of a long text; JSON and HTML have all of them."""


@dataclass(frozen=True)
class Options:
    """Say which words of a text make a model answer as it does; the words' figures add up to the answer."""

    model: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MODEL")]
    """Folder of a model that `weigher tokens` wrote (RUN/model)."""
    text: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TEXT")]
    """The text, in quotes; - reads it from standard input, as UTF-8."""
    html: Annotated[Path | None, optional("FILE")] = None
    """Write a page with the coloured text, too."""
    device: str = "auto"
    """cpu, cuda, cuda:1, or auto for the best there is."""
    json: bool = False
    """Print one JSON object with every word instead of colours and a table."""


def run(options: Options) -> int:
    """Explain one text; RequestError for a folder that holds no such model."""
    from rich.console import Console

    from weigher.io.atomic import writing
    from weigher.io.folders import CONFIG
    from weigher.tokens.classifier import SentimentClassifier
    from weigher.tokens.explanation import printable

    if (options.model / "model" / CONFIG).is_file():
        raise RequestError(f"{options.model} is the folder of a run; give its model, {options.model / 'model'}")
    classifier = SentimentClassifier.from_pretrained(options.model, device=options.device)
    explanation = classifier.explain(_read_stdin() if options.text == "-" else options.text)
    if options.html is not None:
        with writing(options.html, "w") as file:
            file.write(explanation.to_html())
        console.message(f"written: {options.html}")
    if options.json:
        console.print_json(explanation.to_dict())
        return 0
    out = Console()
    likely = max(explanation.probability, 1 - explanation.probability)
    verdict = f"{explanation.prediction} ({likely:.1%}, logit {explanation.logit:+.3f})"
    with out.capture() as captured:
        out.print(printable(verdict), markup=False, highlight=False)
        out.print(explanation.to_rich())
        if explanation.tokens:
            out.print(_table(explanation))
    encoding = sys.stdout.encoding or "utf-8"  # of a terminal or pipe that may not know all letters of the text
    sys.stdout.write(captured.get().encode(encoding, "replace").decode(encoding))
    return 0


def _read_stdin() -> str:
    """Return standard input as text; RequestError where it is not UTF-8."""
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(
            f"standard input is not UTF-8 (byte {error.start}); turn it into UTF-8, for instance with iconv"
        ) from error


def _table(explanation: Explanation) -> Table:
    """Each word's figures, the strongest first where there are too many to show."""
    import numpy as np
    from rich.markup import escape
    from rich.table import Table

    from weigher.tokens.explanation import printable

    order = np.arange(len(explanation.tokens))
    title = None
    if len(order) > SHOWN:
        order = np.argsort(-np.abs(explanation.contributions), kind="stable")[:SHOWN]
        title = f"the {SHOWN} strongest of {len(explanation.tokens)} words"
    table = Table("word", title=title)
    for header in ("score", "weight", "contribution"):
        table.add_column(header, justify="right")
    for i in order:
        word = escape(printable(explanation.tokens[i])) + ("" if explanation.known[i] else " (unknown)")
        figures = (explanation.scores[i], explanation.weights[i], explanation.contributions[i])
        # significant digits: among a million words a weight is a millionth
        table.add_row(word, f"{figures[0]:+.3f}", f"{figures[1]:#.3g}", f"{figures[2]:+#.3g}")
    return table

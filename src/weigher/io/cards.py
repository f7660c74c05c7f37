"""Model cards: Markdown in which what is not known has no line."""

from __future__ import annotations

from collections.abc import Mapping


def section(title: str, about: str, lines: Mapping[str, object]) -> str:
    """Return a part of a card, with a line for each figure that is known; nothing where none is.

    >>> section("Data", "", {"Texts": 120, "Hours": ""})
    '\\n## Data\\n\\n- Texts: 120\\n'
    """
    known = [f"- {name}: {value}" for name, value in lines.items() if value]
    return "\n".join(["", f"## {title}", "", *([about, ""] if about else []), *known, ""]) if known else ""


def one_line(text: str) -> str:
    """Return text for one line of Markdown: what it holds begins no line, code or link of its own.

    >>> one_line("a `b`\\n# c")
    "a 'b' # c"
    """
    return " ".join(text.replace("`", "'").encode("utf-8", "replace").decode().split())

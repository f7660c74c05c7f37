"""Fonts for names in any script, as far as this machine has them."""

from __future__ import annotations

_FONTS = ("Inter", "Source Sans 3", "Helvetica Neue", "Segoe UI", "Arial", "DejaVu Sans")
_SCRIPTS = ("Noto Sans CJK JP", "Hiragino Sans", "Microsoft YaHei", "Noto Sans Arabic", "Arial Unicode MS")


def font_family() -> list[str]:
    """Return the fonts to write with, in order: the first Latin one that is there, other scripts, matplotlib's own."""
    from matplotlib.font_manager import get_font_names

    there = set(get_font_names())
    latin = next((name for name in _FONTS if name in there), "DejaVu Sans")
    return [latin, *(name for name in _SCRIPTS if name in there), "DejaVu Sans"]


def drawable(text: str, family: list[str]) -> str:
    """Return the text with a box for each letter that no font at hand can draw: matplotlib would warn of each."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    fonts = [get_font(findfont(FontProperties(family=name))) for name in family]
    return "".join(letter if any(font.get_char_index(ord(letter)) for font in fonts) else "□" for letter in text)

"""Where the names of points in a panel stand, so that they can be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.legend import Legend

LINE = 0.042
"""Height of a line of names, as a share of the panel."""
_INK, _FAINT = "#222222", "#767676"
_WIDE = 0.0105  # of a letter
_STEPS = (0, 1, -1, 2, -2, 3, -3, 4, -4, 5, -5, 6, -6)


def name_places(names: Sequence[str], points: Sequence[tuple[float, float]]) -> list[tuple[float, float, str]]:
    """Return where each name stands, in shares of the panel, and on which side of that: (x, y, "left" or "right").

    Names go beside their points, higher or lower where other names or points are in the way.

    >>> name_places(["a", "b"], [(0.5, 0.5), (0.53, 0.5)])
    [(0.488, 0.5, 'right'), (0.542, 0.5, 'left')]
    """
    taken = [(x - 0.008, x + 0.008, y - 0.012, y + 0.012) for x, y in points]
    found = []
    for name, (x, y) in zip(names, points, strict=True):
        wide = _WIDE * len(name)
        tries = [(x + 0.012, y + step * LINE, "left") for step in _STEPS]
        tries += [(x - 0.012, y + step * LINE, "right") for step in _STEPS]
        tries.sort(key=lambda one: (abs(one[1] - y), one[2]))

        def box(one: tuple[float, float, str], wide: float = wide) -> tuple[float, float, float, float]:
            left = one[0] if one[2] == "left" else one[0] - wide
            return left, left + wide, one[1] - LINE / 2, one[1] + LINE / 2

        def clashes(one: tuple[float, float, str], box=box) -> int:
            left, right, low, high = box(one)
            others = sum(left < x1 and x0 < right and low < y1 and y0 < high for x0, x1, y0, y1 in taken)
            return others + (left < 0 or right > 1.05 or low < 0 or high > 1)

        best = min(tries, key=clashes)
        taken.append(box(best))
        found.append(best)
    return found


def write_names(axes: Axes, names: Sequence[str], points: Sequence[tuple[float, float]], *, size: float = 8) -> None:
    """Write the names of points (in data) on a panel whose limits are set; a line leads to one that stands off."""
    axes.autoscale_view()  # limits that nobody set are otherwise found only when the panel is drawn
    to_shares = axes.transData + axes.transAxes.inverted()
    at = [(float(x), float(y)) for x, y in to_shares.transform(list(points))]
    for name, point, (x, y, side) in zip(names, at, name_places(names, at), strict=True):
        axes.annotate(
            name,
            point,
            (x, y),
            xycoords="axes fraction",
            textcoords="axes fraction",
            fontsize=size,
            color=_INK,
            parse_math=False,
            va="center",
            ha=side,
            arrowprops={"arrowstyle": "-", "color": _FAINT, "linewidth": 0.5} if abs(y - point[1]) > LINE / 2 else None,
        )


def write_plainly(legend: Legend) -> None:
    """Have the names in a legend written letter by letter: what stands between dollar signs is no formula."""
    for text in legend.get_texts():
        text.set_parse_math(False)

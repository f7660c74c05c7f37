"""Methods as points in the plane of two figures, coloured by a third."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from weigher.plot.names import write_names

_FAINT, _GRID = "#767676", "#E6E6E6"


@dataclass(frozen=True)
class Spot:
    """A method: its name, its place with the spread along both axes, and the figure that colours it."""

    name: str
    x: float
    y: float
    x_spread: float
    y_spread: float
    value: float


def plane(
    path: str | os.PathLike[str], spots: Sequence[Spot], *, title: str, x_axis: str, y_axis: str, value_axis: str
) -> None:
    """Draw named points with their spread and a scale of colours, and write the picture to `path`.

    >>> import tempfile
    >>> from pathlib import Path
    >>> target = Path(tempfile.mkdtemp()) / "plane.png"
    >>> plane(target, [Spot("a", 0, 1, 0.1, 0.1, 5)], title="t", x_axis="x", y_axis="y", value_axis="v")
    >>> target.stat().st_size > 0
    True
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    x, y = [spot.x for spot in spots], [spot.y for spot in spots]
    axes.errorbar(
        x,
        y,
        xerr=[spot.x_spread for spot in spots],
        yerr=[spot.y_spread for spot in spots],
        fmt="none",
        ecolor=_FAINT,
        elinewidth=1,
    )
    drawn = axes.scatter(x, y, c=[spot.value for spot in spots], s=90, cmap="viridis", zorder=3, edgecolors="white")
    axes.margins(x=0.3, y=0.12)
    axes.grid(color=_GRID)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(x_axis)
    axes.set_ylabel(y_axis)
    axes.set_title(title, loc="left", fontweight="bold")
    figure.colorbar(drawn, ax=axes, label=value_axis)
    write_names(axes, [f"{spot.name} ({spot.value:.0f})" for spot in spots], [(spot.x, spot.y) for spot in spots])
    figure.savefig(path, dpi=150)

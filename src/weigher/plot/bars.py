"""Bars for figures of several methods, with their spread."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

_OURS, _OTHERS = "#0072B2", "#B8B8B8"


def horizontal_bars(
    path: Path,
    names: Sequence[str],
    means: Sequence[float],
    spreads: Sequence[float],
    *,
    title: str,
    axis: str,
    marked: Sequence[bool],
) -> None:
    """Draw one bar for each name from top to bottom, `marked` ones in colour, and write the picture to `path`.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "bars.png"
    >>> horizontal_bars(target, ["a", "b"], [1.0, 2.0], [0.1, 0.0], title="t", axis="x", marked=[True, False])
    >>> target.stat().st_size > 0
    True
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.9 + 0.32 * len(names)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    colours = [_OURS if mark else _OTHERS for mark in marked]
    places = range(len(names))
    axes.barh(places, means, xerr=spreads, color=colours, ecolor="#444444", height=0.7)
    for place, mean, spread in zip(places, means, spreads, strict=True):
        axes.text(mean + spread, place, f" {mean:.1f}", va="center", fontsize=9, color="#333333")
    axes.set_yticks(places, names, fontsize=9)
    axes.invert_yaxis()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.12)
    if min(means, default=0) >= 0:
        axes.set_xlim(left=0)  # a spread may reach below what can be
    axes.set_xlabel(axis)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")  # over the names, too: bars alone are narrow
    figure.savefig(path, dpi=150)

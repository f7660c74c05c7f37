"""Curves of several methods over one quantity, in panels that share their axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from weigher.plot.tracks import PALETTE

Curve = tuple[Sequence[float], Sequence[float], Sequence[float]]
"""Places, means, spreads."""


def panels_of_curves(
    path: Path,
    panels: Mapping[str, Mapping[str, Curve]],
    *,
    title: str,
    x_axis: str,
    y_axis: str,
    levels: Mapping[str, float],
    strong: Sequence[str],
) -> None:
    """Draw one panel for each title, a curve for each name, and write the picture to `path`.

    A panel has a dashed line at its own of `levels`, if any. Names keep their colour from panel to panel; those in
    `strong` are drawn heavily. The horizontal axis is logarithmic: places above 0.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "curves.png"
    >>> one = {"a": ([0.1, 1.0], [1.0, 2.0], [0.1, 0.0])}
    >>> panels_of_curves(target, {"p": one}, title="t", x_axis="x", y_axis="y", levels={"p": 1.5}, strong=["a"])
    >>> target.stat().st_size > 0
    True
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator

    figure = Figure(figsize=(1 + 4 * len(panels), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    every = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    measured = sorted({place for curves in panels.values() for places, _, _ in curves.values() for place in places})
    for axes, (panel, curves) in zip(every, panels.items(), strict=True):
        if panel in levels:
            axes.axhline(levels[panel], color="#767676", linewidth=1, linestyle=(0, (4, 3)))
        for name, (places, means, spreads) in curves.items():
            colour, heavy = PALETTE[names.index(name) % len(PALETTE)], name in strong
            axes.plot(
                places, means, color=colour, label=name, linewidth=2.6 if heavy else 1.3, zorder=3 if heavy else 2
            )
            low, high = zip(*((m - s, m + s) for m, s in zip(means, spreads, strict=True)), strict=True)
            axes.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(measured if len(measured) <= 4 else [0.1, 0.2, 0.5, 1, 2, 5, 10]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_ylim(bottom=0)
        axes.grid(color="#E6E6E6")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(panel, loc="left", fontsize=10)
    figure.supxlabel(x_axis, fontsize=10)
    every[0].set_ylabel(y_axis)
    handles = {}
    for axes in every:
        handles.update({label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)})
    figure.legend(handles.values(), handles.keys(), loc="outside right center", frameon=False, fontsize=9)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    figure.savefig(path, dpi=150)

"""Pairs of figures, before and after something, as dumbbells: one line for each method, panels side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from weigher.plot.tracks import PALETTE

Pair = tuple[float, float]
"""Before and after."""


def panels_of_dumbbells(
    path: Path,
    panels: Mapping[str, Mapping[str, Sequence[Pair]]],
    *,
    groups: Sequence[str],
    title: str,
    axes_names: Sequence[str],
    levels: Sequence[float | None],
) -> None:
    """Draw one panel for each title, a line for each name, in it a pair for each of `groups`, and write it to `path`.

    A hollow dot is before, a full one after. `axes_names` and `levels` (a dashed line, or None) are one for each panel.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "pairs.png"
    >>> panels = {"p": {"a": [(0.5, 0.9)], "b": [(0.8, 0.9)]}}
    >>> panels_of_dumbbells(target, panels, groups=["test"], title="t", axes_names=["x"], levels=[0.5])
    >>> target.stat().st_size > 0
    True
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    most = max(len(lines) for lines in panels.values())
    figure = Figure(figsize=(1 + 5 * len(panels), 1.6 + 0.42 * most), layout="constrained")
    FigureCanvasAgg(figure)
    every = figure.subplots(1, len(panels), squeeze=False)[0]
    height = 0.5 / len(groups)
    for axes, (panel, lines), name, level in zip(every, panels.items(), axes_names, levels, strict=True):
        if level is not None:
            axes.axvline(level, color="#767676", linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        for row, pairs in enumerate(lines.values()):
            for group, pair in enumerate(pairs):
                place, colour = row + (group - (len(groups) - 1) / 2) * height, PALETTE[group]
                axes.plot(pair, [place, place], color=colour, linewidth=2, alpha=0.5, zorder=2)
                axes.scatter(pair[0], place, s=34, facecolor="white", edgecolor=colour, linewidth=1.5, zorder=3)
                axes.scatter(pair[1], place, s=38, color=colour, zorder=4)
        axes.set_yticks(range(len(lines)), lines, fontsize=9)
        axes.invert_yaxis()
        axes.grid(axis="x", color="#E6E6E6")
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.set_title(panel, loc="left", fontsize=10)
        axes.set_xlabel(name)
    marks = [
        Line2D(
            [], [], color=PALETTE[g], marker="o", markerfacecolor=face, linestyle="", label=f"{group}, {when} support"
        )
        for g, group in enumerate(groups)
        for when, face in (("without", "white"), ("with", PALETTE[g]))
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), frameon=False, fontsize=9)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    figure.savefig(path, dpi=150)

"""Learning curves of several ways to train, one panel for each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from weigher.plot.tracks import PALETTE

Curve = tuple[Sequence[float], Sequence[float], Sequence[float]]
"""Steps, means, spreads."""


def learning_curves(
    path: Path,
    panels: Mapping[str, Mapping[str, Curve]],
    *,
    title: str,
    x_axis: str,
    y_axis: str,
    strong: Sequence[str],
) -> None:
    """Draw one panel for each title, a curve with its spread for each name, and write the picture to `path`.

    Each panel has its own axes and names its own curves; those in `strong` are drawn heavily.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "curves.png"
    >>> one = {"a": ([10, 20], [50.0, 60.0], [1.0, 0.0])}
    >>> learning_curves(target, {"p": one}, title="t", x_axis="step", y_axis="%", strong=["a"])
    >>> target.stat().st_size > 0
    True
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1 + 3.6 * len(panels), 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    every = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (panel, curves) in zip(every, panels.items(), strict=True):
        for name, (steps, means, spreads) in curves.items():
            colour, heavy = PALETTE[names.index(name) % len(PALETTE)], name in strong
            style = {"linewidth": 2.6, "zorder": 3} if heavy else {"linewidth": 1.4, "zorder": 2}
            axes.plot(steps, means, color=colour, label=name, **style)
            low, high = zip(*((m - s, m + s) for m, s in zip(means, spreads, strict=True)), strict=True)
            axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.grid(color="#E6E6E6")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(panel, loc="left", fontsize=10)
        axes.set_xlabel(x_axis)
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.16))
    every[0].set_ylabel(y_axis)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    figure.savefig(path, dpi=150)

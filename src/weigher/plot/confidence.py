"""The picture of confidences: how often a slot that is so sure is somebody, and which turns its track finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from weigher.plot.tracks import PALETTE

Points = Sequence[tuple[float, float, float]]
"""Place, mean in per cent, spread."""


def plot_confidence(
    path: Path,
    diagrams: Mapping[str, Points],
    recalls: Mapping[str, Points],
    lengths: Sequence[str],
    *,
    strong: Sequence[str],
) -> None:
    """Draw reliability diagrams (places in [0, 1]) beside recall by length of turn (places are numbers of `lengths`).

    Names keep their colour in both; those in `strong` are drawn heavily. Spreads are shown for these alone, for bands
    of all would cover each other.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "confidence.png"
    >>> plot_confidence(target, {"a": [(0.5, 40.0, 1.0)]}, {"a": [(0, 90.0, 2.0)]}, ["all"], strong=["a"])
    >>> target.stat().st_size > 0
    True
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.5, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 100], color="#767676", linewidth=1, linestyle=(0, (4, 3)))
    for axes, curves in ((left, diagrams), (right, recalls)):
        for index, (name, points) in enumerate(curves.items()):
            if not points:
                continue
            colour, heavy = PALETTE[index % len(PALETTE)], name in strong
            places, means, spreads = zip(*points, strict=True)
            style = {"linewidth": 2.6, "zorder": 3} if heavy else {"linewidth": 1.3, "zorder": 2}
            axes.plot(places, means, color=colour, label=name, marker="o", markersize=4, **style)
            if heavy:
                low, high = zip(*((m - s, m + s) for m, s in zip(means, spreads, strict=True)), strict=True)
                axes.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.set_ylim(0, 100)
        axes.grid(color="#E6E6E6")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    left.set(xlim=(0, 1), xlabel="confidence of a slot", ylabel="% of slots that are somebody")
    left.set_title("Reliability: the dashed line is honest", loc="left", fontsize=10)
    right.set_xticks(range(len(lengths)), lengths, fontsize=9)
    right.set(xlim=(-0.3, len(lengths) - 0.7), xlabel="length of a turn", ylabel="% of turns found")
    right.set_title("Recall of turns", loc="left", fontsize=10)
    handles = {}
    for axes in (left, right):
        handles.update({label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)})
    figure.legend(handles.values(), handles.keys(), loc="outside right center", frameon=False, fontsize=9)
    figure.suptitle("How far a confidence can be taken at its word", x=0.01, ha="left", fontweight="bold")
    figure.savefig(path, dpi=150)

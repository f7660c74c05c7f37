"""Two views of one sequence cut into windows, and how alike each window of the one is to each of the other."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float

_EDGE = "#D55E00"


def instances_picture(
    path: str | os.PathLike[str],
    views: Float[np.ndarray, "2 h w"],
    cosines: Float[np.ndarray, "m m"],
    *,
    title: str,
) -> None:
    """Draw both views with the borders of their m windows, and the cosines (first view down), and write to `path`.

    >>> import tempfile
    >>> from pathlib import Path
    >>> target = Path(tempfile.mkdtemp()) / "instances.png"
    >>> instances_picture(target, np.random.default_rng(0).random((2, 6, 20)), np.eye(4), title="t")
    >>> target.stat().st_size > 0
    True
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count, width = len(cosines), views.shape[2]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    places = figure.subplot_mosaic([["one", "all"], ["two", "all"]], width_ratios=[2, 1.3])
    for name, view, words in zip(("one", "two"), views, ("first view", "second view"), strict=True):
        axes = places[name]
        axes.imshow(view, cmap="gray_r", aspect="equal", interpolation="nearest")
        for edge in np.arange(1, count) * width / count - 0.5:
            axes.axvline(edge, color=_EDGE, linewidth=1)
        axes.set_xticks((np.arange(count) + 0.5) * width / count - 0.5, np.arange(1, count + 1), fontsize=8)
        axes.set_yticks([])
        axes.tick_params(length=0)
        axes.set_title(words, loc="left", fontsize=9)
    axes = places["all"]
    shown = axes.imshow(cosines, cmap="RdBu_r", vmin=-1, vmax=1)
    for ticks in (axes.set_xticks, axes.set_yticks):
        ticks(np.arange(count), np.arange(1, count + 1), fontsize=8)
    axes.tick_params(length=0)
    axes.set_xlabel("window of the second view", fontsize=9)
    axes.set_ylabel("window of the first view", fontsize=9)
    figure.colorbar(shown, ax=axes, label="cosine")
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    figure.savefig(path, dpi=150)

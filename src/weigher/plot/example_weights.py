"""The picture of learned example weights: how they are spread, and the images that count least."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

_RIGHT, _WRONG = "#0072B2", "#D55E00"


def plot_example_weights(
    path: Path,
    weights: np.ndarray,
    images: np.ndarray,
    labels: Sequence[int | str],
    *,
    title: str,
    wrong: np.ndarray | None = None,
    shown: int = 18,
) -> None:
    """Draw a histogram of weights `[n]` beside the images `[n, h, w]` of least weight with their labels; write `path`.

    `wrong` (bool `[n]`), where it is known, colours what is labelled wrongly. Images may also be `[n, h, w, 3]`.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "weights.png"
    >>> plot_example_weights(target, np.array([0.1, 1.0]), np.zeros((2, 8, 8)), [3, 4], title="t")
    >>> target.stat().st_size > 0
    True
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(1, 1.2))[0]
    axes = left.subplots()
    bins = np.linspace(0, max(1.0, float(weights.max())), 31).tolist()
    if wrong is None:
        axes.hist(weights, bins, color=_RIGHT)
    else:
        groups, colours = [weights[~wrong], weights[wrong]], [_RIGHT, _WRONG]
        axes.hist(groups, bins, color=colours, label=["right label", "wrong label"], stacked=True)
        axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("learned weight (1: as if there were none)")
    axes.set_ylabel("training examples")
    least = np.argsort(weights, kind="stable")[:shown]
    columns = min(6, max(1, len(least)))
    rows = -(-len(least) // columns)
    grid = right.subplots(max(rows, 1), columns, squeeze=False)
    for place, cell in enumerate(grid.flat):
        cell.set_axis_off()
        if place < len(least):
            index = int(least[place])
            cell.imshow(images[index], cmap="gray_r")
            is_wrong = wrong is not None and bool(wrong[index])
            colour = _WRONG if is_wrong else "#222222"
            cell.set_title(f"“{labels[index]}”", fontsize=10, color=colour, pad=2, parse_math=False)
    right.suptitle("The examples that count least, with their labels", fontsize=10)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold", parse_math=False)
    figure.savefig(path, dpi=130)

"""Which things each prototype has taken: one column for each, as high as it has things, coloured by their kind."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np

from weigher.errors import RequestError
from weigher.plot.tracks import PALETTE

_FAINT = "#767676"


def prototype_columns(
    path: str | os.PathLike[str], panels: Mapping[str, np.ndarray], *, kinds: Sequence[str], title: str = ""
) -> None:
    """Draw one panel of columns for each method, and write the picture to `path`.

    A panel is a table of counts `[k, c]`, how many things of kind c have prototype k as their nearest. Columns of one
    main kind stand together, the highest first; a dashed line is the equal share n / k. Unused prototypes are blank.

    Raises: RequestError for a table whose columns are not the kinds, or without any thing.

    >>> import tempfile
    >>> from pathlib import Path
    >>> target = Path(tempfile.mkdtemp()) / "prototypes.png"
    >>> prototype_columns(target, {"two of three": np.array([[3, 0], [0, 2], [0, 0]])}, kinds=["a", "b"])
    >>> target.stat().st_size > 0
    True
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    for name, counts in panels.items():
        if counts.ndim != 2 or counts.shape[1] != len(kinds) or not counts.sum() > 0:
            raise RequestError(
                f"{name!r}: counts of shape {list(counts.shape)} for {len(kinds)} kinds; needed are [k, c]"
            )
    figure = Figure(figsize=(9, 0.8 + 1.7 * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)
    every = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axes, (name, counts) in zip(every, panels.items(), strict=True):
        table = counts[column_order(counts)]
        places, ground = np.arange(len(table)), np.zeros(len(table))
        for kind, label in enumerate(kinds):
            colour = PALETTE[kind % len(PALETTE)]
            axes.bar(places, table[:, kind], bottom=ground, color=colour, width=0.9, label=label)
            ground += table[:, kind]
        axes.axhline(counts.sum() / len(counts), color=_FAINT, linewidth=1, linestyle=(0, (4, 3)))
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(-0.6, len(table) - 0.4)
        axes.set_xticks([])
        axes.set_ylabel("things")
        used, right = int((counts.sum(1) > 0).sum()), counts.max(1).sum() / counts.sum()
        note = f"{name}: {used} of {len(counts)} prototypes used, {100 * right:.0f} % of their main kind"
        axes.set_title(note, loc="left", fontsize=10)
    handles, labels = every[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=9)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    figure.savefig(path, dpi=150)


def column_order(counts: np.ndarray) -> np.ndarray:
    """Return the order of prototypes in a panel: by their main kind, the highest first, unused ones at the end.

    >>> column_order(np.array([[0, 0], [1, 2], [4, 0], [0, 5]])).tolist()
    [2, 3, 1, 0]
    """
    total = counts.sum(1)
    main = np.where(total > 0, counts.argmax(1), counts.shape[1])
    return np.lexsort((-total, main))

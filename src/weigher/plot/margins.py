"""The picture of areas under the margin: how they are spread, how margins went, and the images that look wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from weigher.plot.names import write_plainly
from weigher.plot.tracks import PALETTE

_INK, _GRID = "#222222", "#E6E6E6"
_BINS, _COLUMNS, _ROWS = 40, 6, 3


@dataclass(frozen=True, eq=False)
class MarginPanel:
    """One set: its name, groups of examples, and what is drawn of them."""

    name: str
    areas: Mapping[str, np.ndarray]
    """AUM of the examples of each group [n]; NaN is left out."""
    curves: Mapping[str, np.ndarray]
    """Margins of the examples of each group by epoch [t, n]; drawn are the median and the middle half."""
    cuts: Sequence[float]
    """The cut-off of each pass."""
    images: np.ndarray | None = None
    """The images of lowest AUM, uint8 or float, [n, h, w] or [n, h, w, 3]; at most 18 are shown."""
    said: Sequence[str] = field(default_factory=tuple)
    """What each of these images is said to be."""
    wrong: np.ndarray | None = None
    """Which of these labels are wrong, where that is known, bool [n]."""


def margins_picture(path: Path, panels: Sequence[MarginPanel], *, title: str) -> None:
    """Draw a row for each set: histograms of AUM, margins over epochs, the lowest images; and write it to `path`.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "margins.png"
    >>> one = MarginPanel("p", {"kept": np.array([1.0, 2.0])}, {"kept": np.ones((3, 2))}, [0.5])
    >>> margins_picture(target, [one], title="t")
    >>> target.stat().st_size > 0
    True
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    seen = any(panel.images is not None for panel in panels)
    figure = Figure(figsize=(13 if seen else 9, 0.5 + 3.6 * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold", parse_math=False)
    rows = figure.subfigures(len(panels), 2 if seen else 1, squeeze=False, width_ratios=(2, 1) if seen else None)
    names = list(dict.fromkeys(name for panel in panels for name in (*panel.areas, *panel.curves)))
    colours = {name: PALETTE[place % len(PALETTE)] for place, name in enumerate(names)}
    for row, panel in zip(rows, panels, strict=True):
        left, right = row[0].subplots(1, 2)
        _histograms(left, panel, colours)
        _trajectories(right, panel, colours)
        if seen and panel.images is not None:
            _images(row[1], panel)
    figure.savefig(path, dpi=130)


def _histograms(axes, panel: MarginPanel, colours: Mapping[str, str]) -> None:
    areas = {name: values[np.isfinite(values)] for name, values in panel.areas.items()}
    every = np.concatenate(list(areas.values()))
    low, high = np.quantile(every, [0.002, 0.998]) if len(every) else (0.0, 1.0)
    bins = np.linspace(low, max(high, low + 1e-6), _BINS + 1)
    for name, values in areas.items():
        inside = values.clip(bins[0], bins[-1])
        axes.hist(inside, bins, color=colours[name], alpha=0.55, label=f"{name} ({len(values)})", density=True)
    for cut in panel.cuts:
        axes.axvline(cut, color=_INK, linewidth=1, linestyle=":")
    axes.set_title(panel.name, loc="left", fontsize=10, parse_math=False)
    axes.set_xlabel("area under the margin (dotted: cut-off of each pass)")
    axes.set_ylabel("density in each group")
    write_plainly(axes.legend(frameon=False, fontsize=8))
    axes.spines[["top", "right"]].set_visible(False)


def _trajectories(axes, panel: MarginPanel, colours: Mapping[str, str]) -> None:
    for name, margins in panel.curves.items():
        if not margins.shape[1]:
            continue
        low, middle, high = np.nanquantile(margins, [0.25, 0.5, 0.75], axis=1)
        epochs = np.arange(1, len(margins) + 1)
        axes.plot(epochs, middle, color=colours[name], label=name)
        axes.fill_between(epochs, low, high, color=colours[name], alpha=0.18, linewidth=0)
    axes.axhline(0, color=_INK, linewidth=0.6)
    axes.set_xlabel("epoch")
    axes.set_ylabel("margin: median and middle half")
    axes.grid(color=_GRID)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _images(part, panel: MarginPanel) -> None:
    assert panel.images is not None
    axes = part.subplots()
    for place, image in enumerate(panel.images[: _ROWS * _COLUMNS]):
        row, column = divmod(place, _COLUMNS)
        axes.imshow(image, cmap="gray_r", extent=(column, column + 0.9, -1.25 * row - 0.9, -1.25 * row))
        wrong = panel.wrong is not None and bool(panel.wrong[place])
        colour = PALETTE[1] if wrong else _INK
        words = {"fontsize": 8, "color": colour, "ha": "center", "parse_math": False}
        axes.text(column + 0.45, 0.05 - 1.25 * row, panel.said[place], **words)
    axes.set_xlim(0, _COLUMNS)
    axes.set_ylim(-1.25 * _ROWS, 0.3)
    axes.set_axis_off()
    axes.set_title("lowest AUM, and what they are said to be", fontsize=10)

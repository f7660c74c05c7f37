"""Pictures of data sets in the plane: a map of several of them, and one that flows toward another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from weigher.errors import RequestError
from weigher.plot.names import write_names
from weigher.plot.tracks import PALETTE

_INK, _FAINT, _GRID = "#222222", "#767676", "#E6E6E6"


def map_picture(
    path: Path,
    names: Sequence[str],
    places: np.ndarray,
    *,
    title: str,
    note: str = "",
    kinds: Sequence[int] | None = None,
    joined: Sequence[tuple[int, int]] = (),
) -> None:
    """Draw data sets as points at `places` [k, 2]; `kinds` [k] choose colours, `joined` pairs get a line between them.

    Both axes have one scale, for distances on the map are the message; `note`, such as the stress, stands beneath.
    Raises: RequestError where names, kinds and places differ in number.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "map.png"
    >>> map_picture(target, ["a", "b"], np.array([[0.0, 0.0], [1.0, 2.0]]), title="t", joined=[(0, 1)])
    >>> target.stat().st_size > 0
    True
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    colours = [0] * len(names) if kinds is None else list(kinds)
    if np.shape(places) != (len(names), 2) or len(colours) != len(names):
        raise RequestError(
            f"{len(names)} names, {len(colours)} kinds and places of shape {np.shape(places)}; needed is one of each, "
            "in the plane"
        )
    figure = Figure(figsize=(8, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for i, j in joined:
        axes.plot(*places[[i, j]].T, color=_GRID, linewidth=1.2, zorder=1)
    middle = (places.max(0) + places.min(0)) / 2
    half = max(np.ptp(places[:, 0]) / 1.25, np.ptp(places[:, 1]), 1e-9) * 0.6  # room for names at the right
    low = middle - half * np.array([1.15, 1.0])
    size = 2 * half * np.array([1.3, 1.0])
    axes.set_xlim(low[0], low[0] + size[0])
    axes.set_ylim(low[1], low[1] + size[1])
    axes.set_aspect("equal")
    axes.scatter(*places.T, s=60, color=[PALETTE[kind % len(PALETTE)] for kind in colours], zorder=2)
    write_names(axes, names, [(float(x), float(y)) for x, y in places], size=9)
    axes.tick_params(labelsize=8, colors=_FAINT)
    axes.spines[["top", "right", "left", "bottom"]].set_color(_GRID)
    axes.grid(color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(note, fontsize=9, color=_FAINT, loc="left", parse_math=False)
    axes.set_title(title, loc="left", fontweight="bold", color=_INK, parse_math=False)
    figure.savefig(path, dpi=150)


def flow_picture(
    path: Path,
    flow: tuple[np.ndarray, Sequence[int]],
    target: tuple[np.ndarray, Sequence[int]],
    distances: Sequence[float],
    *,
    title: str,
    moments: int = 4,
) -> None:
    """Draw a flow at some moments, equally far apart, with the target pale behind and the way of every point.

    Shapes: flow points `[steps + 1, n, 2]` and labels `[n]`, target `[m, 2]` and labels `[m]`, distances `[steps + 1]`.
    Colours are those of the labels' numbers, on either side. Raises: RequestError for points not in the plane.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "flow.png"
    >>> way = np.linspace(0, 1, 5)[:, None, None] * np.ones((1, 3, 2))
    >>> flow_picture(target, (way, [0, 1, 1]), (np.ones((2, 2)), [0, 1]), [4, 3, 2, 1, 0], title="t")
    >>> target.stat().st_size > 0
    True
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    (points, labels), (there, others) = flow, target
    if points.ndim != 3 or points.shape[2] != 2 or there.ndim != 2 or there.shape[1] != 2:
        raise RequestError(f"points of shape {points.shape} and {there.shape} are no way in the plane; give 2 features")
    shown = np.unique(np.linspace(0, len(points) - 1, moments).round().astype(int))
    figure = Figure(figsize=(3.1 * len(shown), 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(shown), squeeze=False, sharex=True, sharey=True)[0]
    near, own = ([PALETTE[label % len(PALETTE)] for label in each] for each in (others, labels))
    for axes, step in zip(panels, shown, strict=True):
        axes.scatter(*there.T, s=22, c=near, alpha=0.25, linewidths=0)
        for way in points[: step + 1].swapaxes(0, 1):
            axes.plot(*way.T, color="#C8C8C8", linewidth=0.6, zorder=1)
        axes.scatter(*points[step].T, s=20, c=own, edgecolors="white", linewidths=0.4, zorder=2)
        axes.set_title(f"step {step}, distance {distances[step]:.2f}", loc="left", fontsize=9, color=_INK)
        axes.set_aspect("equal", adjustable="box")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[["top", "right", "left", "bottom"]].set_color(_GRID)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold", color=_INK, parse_math=False)
    figure.savefig(path, dpi=150)

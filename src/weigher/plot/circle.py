"""Embeddings on the circle: where they lie, how evenly, class by class, and how far the rows of a pair lie apart.

Rows of two numbers on the unit circle are drawn on a ring for each class, from the first class outside to the last
inside; rows of a plane through a sphere of more dimensions where they fall within the circle. Around it stands the
density of their angles (von Mises kernels), against a dashed line for the uniform one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ive

from weigher.errors import RequestError
from weigher.plot.names import write_plainly
from weigher.plot.tracks import PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _FAINT, _GRID = "#222222", "#767676", "#E6E6E6"
_CONCENTRATION = 60.0  # of the kernels, whose width is then about 7 degrees
_GROUND, _UNIT, _REACH = 1.06, 0.16, 0.5  # radius where density is 0, height of the uniform one, greatest height
_INNERMOST = 0.35


@dataclass(frozen=True)
class Cloud:
    """One circle: its name, points `[n, 2]` within it, a line of figures, and the distances of pairs, if there are."""

    name: str
    points: np.ndarray
    note: str = ""
    distances: np.ndarray | None = None


def angle_density(points: np.ndarray, angles: np.ndarray, concentration: float = _CONCENTRATION) -> np.ndarray:
    """Return the density of the points' angles at `angles`, as a multiple of the uniform density.

        f(a) = 2 pi / n sum_i exp(k cos(a - a_i)) / (2 pi I_0(k))

    Shapes: points `[n, 2]`, angles `[m]` in radians -> `[m]`. Points at the origin have no angle and are left out.

    >>> even = np.stack([np.cos(np.arange(40) / 40 * 2 * np.pi), np.sin(np.arange(40) / 40 * 2 * np.pi)], 1)
    >>> bool(np.allclose(angle_density(even, np.linspace(0, 6, 7)), 1, atol=1e-3))
    True
    """
    far = points[np.abs(points).max(1) > 0]
    if not len(far):
        return np.zeros(len(angles))
    gap = angles[:, None] - np.arctan2(far[:, 1], far[:, 0])[None]
    return np.exp(concentration * (np.cos(gap) - 1)).mean(1) / ive(0, concentration)


def circles(
    path: str | os.PathLike[str],
    clouds: Sequence[Cloud],
    *,
    labels: Sequence[object] | None = None,
    title: str = "",
) -> None:
    """Draw one circle for each cloud, histograms of the distances beneath, and write the picture to `path`.

    `labels`, one for each point, colour the points of every cloud. Raises RequestError for points that are not `[n, 2]`
    and finite, and for labels of another number.

    >>> import tempfile
    >>> from pathlib import Path
    >>> target = Path(tempfile.mkdtemp()) / "circle.png"
    >>> circles(target, [Cloud("north", np.array([[0.0, 1.0], [0.1, 0.9]]), distances=np.array([0.3]))])
    >>> target.stat().st_size > 0
    True
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    for cloud in clouds:
        if cloud.points.ndim != 2 or cloud.points.shape[1] != 2 or not np.isfinite(cloud.points).all():
            raise RequestError(f"{cloud.name}: points of shape {list(cloud.points.shape)}; needed are finite [n, 2]")
        if labels is not None and len(labels) != len(cloud.points):
            raise RequestError(f"{cloud.name}: {len(cloud.points)} points and {len(labels)} labels; give one for each")
    with_pairs = any(cloud.distances is not None for cloud in clouds)
    figure = Figure(figsize=(0.3 + 2.9 * len(clouds), 5.1 if with_pairs else 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2 if with_pairs else 1, len(clouds), height_ratios=[3.2, 1] if with_pairs else [1])
    named = None if labels is None else np.array([str(label) for label in labels])
    kinds = [] if named is None else sorted(set(named), key=lambda name: (len(name), name))
    for column, cloud in enumerate(clouds):
        _circle(figure.add_subplot(grid[0, column]), cloud, named, kinds)
        if cloud.distances is not None:
            _histogram(figure.add_subplot(grid[1, column]), cloud.distances)
    if kinds:
        handles = [_dot(PALETTE[place % len(PALETTE)], name) for place, name in enumerate(kinds)]
        place = {"loc": "outside right center", "frameon": False, "fontsize": 8, "handletextpad": 0.1}
        write_plainly(figure.legend(handles=handles, **place))
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", parse_math=False)
    figure.savefig(path, dpi=150)


def _circle(axes: Axes, cloud: Cloud, labels: np.ndarray | None, kinds: Sequence[str]) -> None:
    turn = np.linspace(0, 2 * np.pi, 361)
    ring = np.stack([np.cos(turn), np.sin(turn)])
    height = np.minimum(_UNIT * angle_density(cloud.points, turn), _REACH)
    outer = (_GROUND + height) * ring
    axes.fill(
        np.concatenate([outer[0], _GROUND * ring[0][::-1]]),
        np.concatenate([outer[1], _GROUND * ring[1][::-1]]),
        color="#56B4E9",
        alpha=0.55,
        linewidth=0,
    )
    axes.plot(*((_GROUND + _UNIT) * ring), color=_FAINT, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.plot(*ring, color=_GRID, linewidth=1)
    points, size = cloud.points, float(np.clip(1500 / max(len(cloud.points), 1), 0.6, 14))
    if labels is None:
        axes.scatter(points[:, 0], points[:, 1], s=size, color=PALETTE[0], alpha=0.6, linewidths=0)
    on_circle = bool(np.allclose(np.linalg.norm(points, axis=1), 1, atol=1e-3))
    for place, name in enumerate(kinds):
        radius = 1 - (1 - _INNERMOST) * place / max(len(kinds) - 1, 1) if on_circle else 1.0
        mine = radius * points[labels == name]
        axes.scatter(
            mine[:, 0], mine[:, 1], s=size, color=PALETTE[place % len(PALETTE)], alpha=0.6, linewidths=0, zorder=3
        )
    axes.set_title(cloud.name, fontsize=10, fontweight="bold", color=_INK, parse_math=False)
    axes.set_xlabel(cloud.note, fontsize=8, color=_INK, parse_math=False)
    reach = _GROUND + _REACH + 0.02
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _histogram(axes: Axes, distances: np.ndarray) -> None:
    axes.hist(distances, bins=np.linspace(0, 2, 41).tolist(), color="#B8B8B8")
    axes.axvline(float(distances.mean()), color="#D55E00", linewidth=1.5)
    axes.set_xlabel(f"distance of a pair (mean {distances.mean():.2f})", fontsize=8)
    axes.set(xlim=(0, 2), yticks=[])
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _dot(colour: str, name: str):
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, marker="o", linestyle="", markersize=5, label=name)

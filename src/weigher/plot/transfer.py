"""The picture of sources: what each gains against how far it lies, and ladders along which one thing grows worse."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from weigher.plot.names import write_names
from weigher.plot.tracks import PALETTE

_INK, _FAINT, _GRID = "#222222", "#767676", "#D9D9D9"
_TICKS = (0.1, 0.2, 0.5, 1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50, 100)


@dataclass(frozen=True)
class Source:
    """A source: its name, its distance, its gain in per cent and that gain's spread; `marked` ones stand out."""

    name: str
    distance: float
    gain: float
    spread: float
    marked: bool = False


@dataclass(frozen=True)
class Ladder:
    """Distances by several measures at each rung, relative to the first one."""

    axis: str
    rungs: tuple[float, ...]
    curves: Mapping[str, tuple[float, ...]]


def transfer_picture(
    path: Path, worlds: Mapping[str, tuple[Sequence[Source], Sequence[Ladder]]], *, title: str
) -> None:
    """Draw a line of panels for each world: gain against distance, and its ladders.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "transfer.png"
    >>> one = [Source("near", 1.0, 30.0, 2.0), Source("far", 3.0, -5.0, 4.0, marked=True)]
    >>> transfer_picture(target, {"digits": (one, [Ladder("degrees", (0, 90), {"ours": (1.0, 2.0)})])}, title="t")
    >>> target.stat().st_size > 0
    True
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.5, 0.5 + 4.4 * len(worlds)), layout="constrained")
    FigureCanvasAgg(figure)
    columns = 1 + max(len(ladders) for _, ladders in worlds.values())
    table = figure.subplots(len(worlds), columns, squeeze=False, width_ratios=[2.3] + [1.0] * (columns - 1))
    for axes, (world, (sources, ladders)) in zip(table, worlds.items(), strict=True):
        _scatter(axes[0], world, sources)
        for panel, ladder in zip(axes[1:], ladders, strict=False):
            _ladder(panel, ladder)
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold", color=_INK)
    figure.savefig(path, dpi=150)


def _scatter(axes, world: str, sources: Sequence[Source]) -> None:
    from matplotlib.ticker import NullLocator, ScalarFormatter

    axes.axhline(0, color=_FAINT, linewidth=0.8)
    for source in sources:
        colour = PALETTE[1] if source.marked else PALETTE[0]
        axes.errorbar(source.distance, source.gain, source.spread, fmt="o", color=colour, ecolor=_GRID, markersize=5)
    # in the logarithm of the distance: one source is far beyond all others
    axes.set_xscale("log")
    near, far = min(source.distance for source in sources), max(source.distance for source in sources)
    span = math.log(far / near) or 1.0
    axes.set_xlim(near * math.exp(-0.1 * span), far * math.exp(0.25 * span))
    write_names(axes, [s.name for s in sources], [(s.distance, s.gain) for s in sources])
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    first, last = math.ceil(near), math.floor(far)
    axes.set_xticks(range(first, last + 1) if last - first < 6 else [k for k in _TICKS if near <= k <= far])
    axes.set_xlabel("distance to the target")
    axes.set_ylabel("error saved by learning the source first, %")
    axes.set_title(world, loc="left", fontsize=11, color=_INK)
    _plain(axes)


def _ladder(axes, ladder: Ladder) -> None:
    for colour, (name, values) in zip(PALETTE, ladder.curves.items(), strict=False):
        axes.plot(ladder.rungs, values, "o-", color=colour, label=name, markersize=4)
    axes.set_xticks(ladder.rungs)
    axes.set_xlabel(ladder.axis)
    axes.set_ylabel("distance, of the unchanged source = 1")
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    axes.margins(y=0.25)
    _plain(axes)


def _plain(axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, colors=_INK)

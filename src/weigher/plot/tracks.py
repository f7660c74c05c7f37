"""The picture of a diarization: one ribbon of weights for each person, over the waveform, above who really spoke."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from weigher.errors import RequestError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C6BB1", "#7F7F7F")
"""Colours that stay apart for most eyes (Okabe and Ito, 2008, and two more)."""


class Turn(Protocol):
    """Anything with a start, an end (seconds) and a speaker."""

    @property
    def start(self) -> float: ...  # noqa: D102
    @property
    def end(self) -> float: ...  # noqa: D102
    @property
    def speaker(self) -> str: ...  # noqa: D102


class Drawable(Protocol):
    """What the picture needs of a result: tracks [t, k], confidence [k], k speakers, turns, and times in seconds."""

    @property
    def tracks(self) -> np.ndarray: ...  # noqa: D102
    @property
    def confidence(self) -> np.ndarray: ...  # noqa: D102
    @property
    def speakers(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def segments(self) -> Sequence[Turn]: ...  # noqa: D102
    @property
    def hop_seconds(self) -> float: ...  # noqa: D102
    @property
    def seconds(self) -> float: ...  # noqa: D102


def plot_tracks(
    result: Drawable,
    path: str | Path | None = None,
    *,
    reference: Sequence[Turn] | None = None,
    samples: np.ndarray | None = None,
) -> Figure:
    """Draw the tracks of a result, and write the picture to `path` if one is given (the ending says the format).

    Each person found has a ribbon, as high as the weight, with its turns as a line beneath and its confidence at the
    right. `samples` [n] of the recording are drawn above; `reference` turns below, in the colour of the person found
    with whom they share most time, grey where there is none.

    Raises RequestError where matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise RequestError("a picture needs matplotlib; run: pip install 'weigher[plot]'") from error
    names = list(dict.fromkeys(turn.speaker for turn in reference or ()))
    found = len(result.speakers)
    heights = [0.9] * (samples is not None) + [1.0] * found + [0.25 + 0.22 * len(names)] * bool(names)
    figure = Figure(figsize=(10, 0.8 + 0.75 * sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(np.atleast_1d(figure.subplots(max(1, len(heights)), 1, sharex=True, height_ratios=heights or [1.0])))
    if samples is not None:
        _waveform(panels.pop(0), samples, result.seconds)
    for column, name in enumerate(result.speakers):
        _ribbon(panels[column], result, column, name)
    if names and reference is not None:
        _reference(panels[found], result, reference, names)
    last = figure.axes[-1]
    last.set_xlim(0, result.seconds)
    last.set_xlabel("seconds")
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _colour(column: int) -> str:
    return COLOURS[column % len(COLOURS)]


def _bare(axes: Any, label: str, colour: str = "#333333") -> None:
    """Leave of an axis no more than its name."""
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    axes.tick_params(axis="x", length=0)
    axes.set_yticks([])
    axes.set_ylabel(label, rotation=0, ha="right", va="center", color=colour, fontsize=10)


def _waveform(axes: Any, samples: np.ndarray, seconds: float) -> None:
    """Draw the envelope: least and greatest sample of about 1500 stretches."""
    width = max(1, len(samples) // 1500)
    pieces = samples[: len(samples) // width * width].reshape(-1, width)
    if len(pieces):
        place = np.linspace(0, seconds, len(pieces))
        axes.fill_between(place, pieces.min(1), pieces.max(1), color="#9A9A9A", linewidth=0)
    _bare(axes, "waveform", "#666666")


def _ribbon(axes: Any, result: Drawable, column: int, name: str) -> None:
    track, colour = result.tracks[:, column], _colour(column)
    place = (np.arange(len(track)) + 0.5) * result.hop_seconds
    axes.fill_between(place, 0, track, color=colour, alpha=0.75, linewidth=0)
    for turn in result.segments:
        if turn.speaker == name:
            axes.plot([turn.start, turn.end], [-0.12, -0.12], color=colour, linewidth=3, solid_capstyle="butt")
    axes.set_ylim(-0.25, 1.05)
    _bare(axes, name, colour)
    sure = f"sure {100 * float(result.confidence[column]):.0f} %"
    axes.text(1.01, 0.45, sure, transform=axes.transAxes, color=colour, fontsize=10, va="center")


def _reference(axes: Any, result: Drawable, reference: Sequence[Turn], names: Sequence[str]) -> None:
    colours = matching_colours(result, reference, names)
    for row, name in enumerate(names):
        turns = [(turn.start, turn.end - turn.start) for turn in reference if turn.speaker == name]
        axes.broken_barh(turns, (row - 0.38, 0.76), facecolors=colours[row])
    axes.set_ylim(len(names) - 0.4, -0.6)
    _bare(axes, "who really\nspoke", "#666666")
    axes.spines["bottom"].set_visible(True)
    axes.tick_params(axis="x", length=3)
    for row, name in enumerate(names):
        axes.text(1.01, row, name, transform=axes.get_yaxis_transform(), color=colours[row], fontsize=8, va="center")


def matching_colours(result: Drawable, reference: Sequence[Turn], names: Sequence[str]) -> list[str]:
    """Give each reference speaker the colour of the person found with whom most time is shared, each colour once."""
    from scipy.optimize import linear_sum_assignment

    shared = np.zeros((len(names), len(result.speakers)))
    for turn in reference:
        for other in result.segments:
            common = min(turn.end, other.end) - max(turn.start, other.start)
            if common > 0:
                shared[names.index(turn.speaker), list(result.speakers).index(other.speaker)] += common
    colours = ["#B0B0B0"] * len(names)
    for row, column in zip(*linear_sum_assignment(-shared), strict=True):
        if shared[row, column] > 0:
            colours[int(row)] = _colour(int(column))
    return colours

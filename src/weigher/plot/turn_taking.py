"""The picture of turn taking: a two-channel call, who has the word in it and in laws, and how long the word is kept.

At the top the envelope of each channel over the spectrogram of the call; under it one lane for each account of who
speaks, the two channels in their colours; at the bottom, for each corpus, the distribution of dwell times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from weigher.errors import RequestError
from weigher.plot.tracks import PALETTE, Turn

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _FAINT, _GRID, _PAPER = "#222222", "#767676", "#E6E6E6", "#F3F3F3"
_WINDOW_SECONDS, _COLUMNS = 0.032, 1500
_RANGE_DB = 60.0
_TOP_HZ = 4000.0
_ENVELOPE_SECONDS = 0.1


@dataclass(frozen=True)
class Lane:
    """One account of who speaks: its name, turns of the call's two speakers, and a few words at the right."""

    name: str
    turns: Sequence[Turn]
    note: str = ""


@dataclass(frozen=True, eq=False)
class Call:
    """A call: samples [n, 2] at `sample_rate`, levels [t, 2] in dB every `hop_seconds`, its speakers by channel."""

    samples: np.ndarray
    sample_rate: int
    levels: np.ndarray
    hop_seconds: float
    speakers: tuple[str, str]
    lanes: Sequence[Lane]

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return len(self.samples) / self.sample_rate


@dataclass(frozen=True)
class Curve:
    """Dwell times in seconds at the shares of the panel; the real recordings have None for a colour and are black."""

    name: str
    seconds: Sequence[float]
    colour: str | None


def plot_turn_taking(
    call: Call, dwells: Mapping[str, Sequence[Curve]], shares: Sequence[float], *, title: str, note: str
) -> Figure:
    """Return the picture as a matplotlib figure; `figure.savefig(path)` writes it.

    `dwells` holds, by name of a corpus, curves of dwell times at `shares` (rising, in (0, 1)). `note` stands under the
    title and says what the call is. Raises RequestError where matplotlib is not installed.

    >>> rng = np.random.default_rng(0)
    >>> call = Call(rng.normal(0, 0.1, (16000, 2)), 16000, np.full((50, 2), -20.0), 0.02, ("a", "b"), [Lane("x", [])])
    >>> curve = Curve("real", [1.0, 2.0], None)
    >>> len(plot_turn_taking(call, {"AMI": [curve]}, [0.25, 0.75], title="t", note="n").axes)
    4
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise RequestError("pictures need matplotlib; run: pip install 'weigher[plot]'") from error
    lanes = 0.36 * len(call.lanes)
    heights = [2.3, lanes, 2.5]
    figure = Figure(figsize=(10, sum(heights) + 2.2), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    tall = float(figure.get_size_inches()[1])

    def place(left: float, top: float, width: float, height: float) -> Axes:
        """Axes at inches from the left and top of the page."""
        return figure.add_axes((left / 10, 1 - (top + height) / tall, width / 10, height / tall))

    figure.text(0.03, 1 - 0.36 / tall, title, fontsize=13, weight="bold", color=_INK)
    figure.text(0.03, 1 - 0.58 / tall, note, fontsize=9, color=_FAINT)
    left, width, top = 1.75, 7.1, 0.8
    sound = place(left, top, width, heights[0])
    _sound(sound, call)
    below = place(left, top + heights[0] + 0.06, width, lanes)
    _lanes(below, call)
    panels = list(dwells.items())
    gap, names = 0.45, 2.0
    each = (9.7 - 0.75 - names - gap * (len(panels) - 1)) / max(len(panels), 1)
    for index, (name, curves) in enumerate(panels):
        axes = place(0.75 + index * (each + gap), top + heights[0] + lanes + 0.95, each, heights[2] - 0.35)
        _dwells(axes, name, curves, shares)
        if index == 0:
            axes.set_ylabel("% of the times it is kept", fontsize=8.5, color=_FAINT)
        if index == len(panels) - 1:
            axes.legend(fontsize=8.5, frameon=False, loc="center left", bbox_to_anchor=(1.02, 0.5))
    return figure


def _sound(axes: Axes, call: Call) -> None:
    window = round(_WINDOW_SECONDS * call.sample_rate)
    mono = np.pad(call.samples.mean(axis=1), (0, window))
    starts = np.linspace(0, len(mono) - window, _COLUMNS).astype(int)
    frames = np.lib.stride_tricks.sliding_window_view(mono, window)[starts]
    rows = int(_TOP_HZ * window / call.sample_rate) + 1
    decibels = 20 * np.log10(np.abs(np.fft.rfft(frames * np.hanning(window)))[:, :rows].T + 1e-9)
    loud = float(decibels.max())
    axes.imshow(
        decibels,
        origin="lower",
        aspect="auto",
        cmap="Greys",
        vmin=loud - _RANGE_DB,
        vmax=loud + 5,  # never quite black: the envelopes stand over it
        extent=(0, call.seconds, 0, _TOP_HZ / 1000),
    )
    axes.set(ylabel="kHz", yticks=[0, 1, 2, 3, 4], xlim=(0, call.seconds))
    over = axes.twinx()
    around = max(1, round(_ENVELOPE_SECONDS / call.hop_seconds))
    times = (np.arange(len(call.levels)) + 0.5) * call.hop_seconds
    top = float(call.levels.max())
    for channel, speaker in enumerate(call.speakers):
        power = np.convolve(10 ** (call.levels[:, channel] / 10), np.ones(around) / around, mode="same")
        level = 10 * np.log10(power)
        over.plot(times, level, color="white", linewidth=2.4, alpha=0.7)
        over.plot(times, level, color=PALETTE[channel], linewidth=1.1, label=speaker)
    over.set(ylim=(top - _RANGE_DB, top + 6), ylabel="envelope, dB")
    over.legend(loc="upper right", ncols=2, fontsize=8.5, frameon=True, framealpha=0.9, edgecolor="none")
    for each in (axes, over):
        each.tick_params(labelsize=8, colors=_FAINT, length=0)
        each.yaxis.label.set(color=_FAINT, fontsize=8.5)
        each.spines[:].set_visible(False)
    axes.tick_params(labelbottom=False)


def _lanes(axes: Axes, call: Call) -> None:
    for index, lane in enumerate(call.lanes):
        y = len(call.lanes) - 1 - index
        axes.axhspan(y + 0.1, y + 0.9, color=_PAPER, linewidth=0, zorder=0)
        for channel, speaker in enumerate(call.speakers):
            spans = [(turn.start, turn.end - turn.start) for turn in lane.turns if turn.speaker == speaker]
            axes.broken_barh(spans, (y + 0.5 - 0.4 * channel, 0.4), facecolors=PALETTE[channel], linewidth=0)
        axes.text(-0.01, y + 0.5, lane.name, transform=axes.get_yaxis_transform(), ha="right", va="center", fontsize=9)
        axes.text(
            1.01, y + 0.5, lane.note, transform=axes.get_yaxis_transform(), va="center", fontsize=8.5, color=_FAINT
        )
    axes.set(xlim=(0, call.seconds), ylim=(0, len(call.lanes)), yticks=[], xlabel="seconds")
    axes.tick_params(labelsize=8, colors=_FAINT, length=0)
    axes.xaxis.label.set(color=_FAINT, fontsize=8.5)
    axes.spines[:].set_visible(False)


def _dwells(axes: Axes, name: str, curves: Sequence[Curve], shares: Sequence[float]) -> None:
    percent = 100 * np.asarray(shares)
    for curve in curves:
        real = curve.colour is None
        axes.plot(
            curve.seconds,
            percent,
            color=curve.colour or _INK,
            linewidth=2.6 if real else 1.5,
            marker="o",
            markersize=4.5 if real else 3.5,
            label=curve.name,
            zorder=3 if real else 2,
        )
    axes.set_xscale("log")
    ticks = [0.1, 0.3, 1, 3, 10, 30, 100, 300]
    low = min(min(curve.seconds) for curve in curves)
    high = max(max(curve.seconds) for curve in curves)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set(xlim=(0.8 * low, 1.3 * high), ylim=(0, 100), yticks=[0, 25, 50, 75, 100])
    axes.minorticks_off()
    axes.grid(color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_title(name, loc="left", fontsize=10, weight="bold", color=_INK)
    axes.set_xlabel("the word is kept for at most so many seconds", fontsize=8.5, color=_FAINT)
    axes.tick_params(labelsize=8, colors=_FAINT, length=0)
    axes.spines[:].set_visible(False)

"""The picture of a diarization: tracks as ribbons over time, with sound, reference and confidence around them.

Each speaker has one row. The height of its ribbon is the weight of the track at that moment: in full colour where the
speaker is said to speak, pale elsewhere. Turns are drawn as a line beneath. The reference, if there is one, follows in
the colours of the speakers it fits best, and what fits nobody is grey.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from scipy.optimize import linear_sum_assignment

from weigher.errors import RequestError
from weigher.plot.fonts import drawable, font_family

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito (2008) without black and yellow, then four of Tol's "muted": told apart by the colour-blind too.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#332288", "#882255", "#999933", "#117733")
_INK, _FAINT, _GRID, _PAPER = "#222222", "#767676", "#E6E6E6", "#F3F3F3"
_NOBODY = ("#8C8C8C", "#B5B5B5")  # reference speakers whom no found speaker fits

# Inches. All of the picture has one vertical axis in inches, so that rows, names and bars share their places.
_WIDTH, _LEFT, _RIGHT, _BAR, _TOP, _BOTTOM = 10.0, 1.35, 1.5, 0.75, 0.66, 0.5
_SOUND, _LANE, _SPACE = 0.5, 0.2, 0.2
_COLUMNS = 1600  # more steps than this cannot be seen at the width of the picture
_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800)
_LONGEST_NAME = 16


class Turn(Protocol):
    """Whatever has a start and an end in seconds and a speaker."""

    @property
    def start(self) -> float:
        """When the turn begins, in seconds."""
        ...

    @property
    def end(self) -> float:
        """When the turn ends, in seconds."""
        ...

    @property
    def speaker(self) -> str:
        """Who speaks."""
        ...


def plot_tracks(
    tracks: np.ndarray,
    hop_seconds: float,
    speakers: Sequence[str],
    *,
    segments: Iterable[Turn] | None = None,
    confidence: np.ndarray | None = None,
    reference: Iterable[Turn] = (),
    samples: np.ndarray | None = None,
    seconds: float | None = None,
    title: str = "",
) -> Figure:
    """Return the picture as a matplotlib figure; `figure.savefig(path)` writes it.

    Shapes: tracks `[t, k]` in [0, 1] (frame t covers [t * hop, (t + 1) * hop)), speakers k names, confidence `[k]` in
    [0, 1], samples `[any]` of the whole recording at any rate. `seconds` is the length of the recording (that of the
    tracks where it is None); a track of more than 1600 frames is drawn as the mean of neighbouring ones. Without
    `segments` all of a ribbon is in full colour, and a reference is grey: nothing says whom it fits.
    Raises: RequestError for shapes that do not fit, and where matplotlib is not installed.

    >>> figure = plot_tracks(np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9]]), 0.5, ["ann", "bob"], title="talk")
    >>> len(figure.axes)
    1
    """
    tracks = np.asarray(tracks, dtype=np.float64)
    if tracks.ndim != 2 or tracks.shape[1] != len(speakers):
        raise RequestError(
            f"tracks of shape {tracks.shape} and {len(speakers)} speakers are given; needed are [frames, speakers]"
        )
    if confidence is not None and np.shape(confidence) != (len(speakers),):
        raise RequestError(f"confidence of shape {np.shape(confidence)} is given; needed is [{len(speakers)}]")
    turns, truth = list(segments or ()), list(reference)
    length = seconds or len(tracks) * hop_seconds or max((turn.end for turn in truth), default=1.0)
    colours = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(speakers)}
    lanes = match_colours(colours, turns, truth)
    row = min(0.56, max(0.28, 3.6 / max(len(speakers), 1)))
    sound = None if samples is None or not np.size(samples) else np.asarray(samples)

    height = _TOP + max(len(speakers), 1) * row + _BOTTOM
    height += (_SOUND + _SPACE if sound is not None else 0) + (_SPACE + len(lanes) * _LANE if lanes else 0)
    page = _Page.open(height, length)
    page.heading(title, f"{_count(len(speakers))} · {_clock(length, length >= 60)}{'' if length >= 60 else ' s'}")
    y = height - _TOP
    if sound is not None:
        y -= _SOUND
        page.sound(y, sound)
        y -= _SPACE
    for index, name in enumerate(speakers):
        y -= row
        own = None if segments is None else [turn for turn in turns if turn.speaker == name]
        page.ribbon(y, row, (tracks[:, index], hop_seconds), colours[name], own)
        page.name(y, row, name, colours[name], own)
        if confidence is not None:
            page.confidence(y, row, float(confidence[index]), colours[name], first=index == 0)
    if not speakers:
        y -= row
        page.write(
            length / 2, y + row / 2, "nobody speaks", color=_FAINT, ha="center", va="center", backgroundcolor="white"
        )
    if lanes:
        y -= _SPACE
        for index, (name, colour) in enumerate(lanes.items()):
            y -= _LANE
            page.lane(y, name, colour, [turn for turn in truth if turn.speaker == name], first=index == 0)
    page.time(y)
    return page.figure


def match_colours(colours: dict[str, str], segments: Sequence[Turn], reference: Sequence[Turn]) -> dict[str, str]:
    """Return `{reference speaker: colour}`: that of the found speaker, one to one, with whom most time is shared.

    Matched speakers come first, in the order of `colours`; whoever matches nobody is grey.

    >>> from types import SimpleNamespace as Turn
    >>> found = [Turn(start=0, end=4, speaker="1"), Turn(start=4, end=6, speaker="2")]
    >>> truth = [Turn(start=0, end=1, speaker="zoe"), Turn(start=1, end=4, speaker="ann")]
    >>> truth += [Turn(start=4, end=5, speaker="zoe")]
    >>> match_colours({"1": "blue", "2": "red"}, found, truth)
    {'ann': 'blue', 'zoe': 'red'}
    """
    people = list(dict.fromkeys(turn.speaker for turn in sorted(reference, key=lambda turn: turn.start)))
    shared = np.array([[_shared(segments, name, reference, person) for person in people] for name in colours])
    shared = shared.reshape(len(colours), len(people))
    pairs = [(i, j) for i, j in zip(*linear_sum_assignment(-shared), strict=True) if shared[i, j] > 0]
    matched = {people[j]: list(colours.values())[i] for i, j in pairs}
    rest = [person for person in people if person not in matched]
    return matched | {person: _NOBODY[i % len(_NOBODY)] for i, person in enumerate(rest)}


def _shared(segments: Sequence[Turn], name: str, reference: Sequence[Turn], person: str) -> float:
    """Seconds that turns of a found and of a reference speaker have in common."""
    a, b = (
        np.array([(turn.start, turn.end) for turn in turns if turn.speaker == who]).reshape(-1, 2)
        for turns, who in ((segments, name), (reference, person))
    )
    both = np.minimum(a[:, None, 1], b[None, :, 1]) - np.maximum(a[:, None, 0], b[None, :, 0])
    return float(np.maximum(both, 0).sum())


@dataclass(frozen=True)
class _Page:
    """One figure with one vertical axis in inches; every method draws one thing at height `y`."""

    figure: Figure
    axes: Axes
    height: float
    seconds: float
    family: list[str]

    @classmethod
    def open(cls, height: float, seconds: float) -> _Page:
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        except ImportError as error:
            raise RequestError("pictures need matplotlib; run: pip install 'weigher[plot]'") from error
        figure = Figure(figsize=(_WIDTH, height), dpi=160, facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.add_axes((_LEFT / _WIDTH, 0.0, (_WIDTH - _LEFT - _RIGHT) / _WIDTH, 1.0))
        axes.set(xlim=(0, seconds), ylim=(0, height))
        axes.set_axis_off()
        return cls(figure, axes, height, seconds, font_family())

    def inch(self, inches: float) -> float:
        """Return a horizontal distance in seconds."""
        return inches * self.seconds / (_WIDTH - _LEFT - _RIGHT)

    def write(self, x: float, y: float, text: str, **style) -> None:
        style = {"color": _INK, "fontsize": 9, "family": self.family, "parse_math": False} | style
        self.axes.text(x, y, drawable(text, self.family), **style)

    def bars(self, y: float, height: float, turns: Sequence[Turn], colour: str) -> None:
        spans = [(turn.start, min(turn.end, self.seconds) - turn.start) for turn in turns if turn.start < self.seconds]
        self.axes.broken_barh(spans, (y, height), facecolors=colour, linewidth=0, zorder=3)

    def heading(self, title: str, summary: str) -> None:
        self.write(0, self.height - 0.33, title, fontsize=13, weight="bold", va="baseline")
        right = {"ha": "right"} if title else {}
        self.write(self.seconds if title else 0, self.height - 0.33, summary, color=_FAINT, fontsize=10, **right)

    def sound(self, y: float, samples: np.ndarray) -> None:
        loudest = np.abs(np.nan_to_num(samples.astype(np.float64), posinf=0, neginf=0))
        edges = _edges(len(loudest))
        envelope = np.maximum.reduceat(loudest, edges[:-1])
        full = max(float(np.quantile(envelope, 0.99)), 1e-12)  # one bang must not flatten all speech
        envelope = 0.5 * _SOUND * np.minimum(envelope / full, 1.0)
        middle = y + 0.5 * _SOUND
        times = edges * (self.seconds / len(loudest))
        style = {"fill": True, "color": "#9A9A9A", "linewidth": 0}
        self.axes.stairs(middle + envelope, times, baseline=middle - envelope, **style)
        self.write(-self.inch(0.12), middle, "sound", color=_FAINT, ha="right", va="center")

    def ribbon(
        self, y: float, row: float, weights: tuple[np.ndarray, float], colour: str, turns: Sequence[Turn] | None
    ) -> None:
        track, hop_seconds = weights
        middle = (np.arange(len(track)) + 0.5) * hop_seconds
        inside = np.full(len(track), turns is None)
        for turn in turns or ():
            inside[np.searchsorted(middle, turn.start) : np.searchsorted(middle, turn.end)] = True
        base, tall = y + 0.15 * row, 0.72 * row
        self.axes.plot([0, self.seconds], [base, base], color=_GRID, linewidth=0.8, zorder=1)
        if len(track):
            edges = _edges(len(track))
            width = np.diff(edges)
            times = np.minimum(edges * hop_seconds, self.seconds)
            pale = "#" + "".join(f"{round(255 - 0.3 * (255 - int(colour[i : i + 2], 16))):02x}" for i in (1, 3, 5))
            for values, shade in ((track, pale), (track * inside, colour)):
                means = np.add.reduceat(np.clip(values, 0, 1), edges[:-1]) / width
                self.axes.stairs(
                    base + tall * means, times, baseline=base, fill=True, color=shade, linewidth=0, zorder=2
                )
        self.bars(base - 0.05, 0.03, turns or (), colour)

    def name(self, y: float, row: float, name: str, colour: str, turns: Sequence[Turn] | None) -> None:
        spoken = sum(turn.end - turn.start for turn in turns or ())
        two_lines = turns is not None and row > 0.4
        middle = y + 0.15 * row + 0.36 * row
        x = -self.inch(0.12)
        self.write(
            x, middle + (0.085 if two_lines else 0), _short(name), color=colour, weight="bold", ha="right", va="center"
        )
        if two_lines:
            self.write(x, middle - 0.085, f"{spoken:.1f} s", color=_FAINT, fontsize=8, ha="right", va="center")

    def confidence(self, y: float, row: float, value: float, colour: str, *, first: bool) -> None:
        middle, thick = y + 0.15 * row + 0.36 * row, 0.11
        x = self.seconds + self.inch(0.2)
        for share, shade in ((1.0, _GRID), (min(max(value, 0.0), 1.0), colour)):
            self.axes.broken_barh(
                [(x, self.inch(_BAR) * share)],
                (middle - thick / 2, thick),
                facecolors=shade,
                linewidth=0,
                clip_on=False,
            )
        self.write(x + self.inch(_BAR + 0.08), middle, f"{value:.2f}", fontsize=8.5, va="center")
        if first:
            self.write(x, y + row + 0.04, "confidence", color=_FAINT, fontsize=8.5, va="bottom")

    def lane(self, y: float, name: str, colour: str, turns: Sequence[Turn], *, first: bool) -> None:
        middle = y + _LANE / 2
        self.axes.axhspan(y + 0.03, y + _LANE - 0.03, color=_PAPER, linewidth=0, zorder=1)
        self.bars(y + 0.03, _LANE - 0.06, turns, colour)
        self.write(-self.inch(0.12), middle, _short(name), fontsize=8.5, ha="right", va="center")
        if first:
            self.write(self.seconds + self.inch(0.2), middle, "reference", color=_FAINT, fontsize=8.5, va="center")

    def time(self, y: float) -> None:
        step = next((step for step in _TICKS if self.seconds / step <= 10), _TICKS[-1])
        ticks = [number * step for number in range(math.floor(self.seconds / step + 1e-6) + 1)]
        low, high = y - 0.08, self.height - _TOP
        self.axes.vlines(ticks, low, high, colors=_GRID, linewidth=0.6, zorder=0, clip_on=False)
        for tick in ticks:
            unit = " s" if tick == ticks[-1] and self.seconds < 60 else ""
            self.write(tick, low - 0.05, _clock(tick, self.seconds >= 60) + unit, color=_FAINT, ha="center", va="top")


def _edges(length: int) -> np.ndarray:
    """Return where the drawn steps begin, and the end: `[steps + 1]` of at most `_COLUMNS` steps, none empty."""
    return np.linspace(0, length, min(length, _COLUMNS) + 1).round().astype(np.int64)


def _clock(seconds: float, minutes: bool) -> str:
    """Return seconds as 7, 7.5, 1:05 or 1:02:05."""
    if not minutes:
        return f"{seconds:.1f}".removesuffix(".0")
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def _count(speakers: int) -> str:
    return f"{speakers} speaker" + ("" if speakers == 1 else "s")


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"

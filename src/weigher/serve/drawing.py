"""The picture of a recording as HTML: ribbons of weight over the waveform, one row for each speaker.

The height of a ribbon is the weight of the track at that moment: in full colour where the speaker is said to speak,
pale elsewhere. The waveform lies behind each of them. Turns can be clicked and reached by the keyboard; they carry
their number in `data-turn`. All that comes from outside is escaped. Colours of text and ground are those of the page,
light or dark; a narrow screen has names above the ribbons, and a long recording is wider than the screen and scrolls.
"""

from __future__ import annotations

from html import escape
from urllib.parse import quote

import numpy as np

from weigher.io.rttm import Segment
from weigher.plot.tracks import PALETTE
from weigher.recordings.archive_files import FORMAT_SUFFIXES
from weigher.serve.hearing import Heard

_WIDE, _TALL = 1000, 64  # of a row's own coordinates; the browser stretches them
_LEFTWARD = 'class="end" '  # the last figure must not run over the edge
_TICKS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)
_TITLES = {"rttm": "RTTM", "json": "JSON", "csv": "CSV", "audacity": "Audacity labels", "elan": "ELAN"}

STYLE = """
.weigher-tracks { --ground: var(--background-fill-secondary, #f4f4f5); font-size: 14px; }
.weigher-tracks .head { display: flex; flex-wrap: wrap; gap: .2rem 1rem; align-items: baseline; margin-bottom: .6rem; }
.weigher-tracks .head b { font-size: 1.15rem; overflow-wrap: anywhere; }
.weigher-tracks .faint, .weigher-tracks small { color: var(--body-text-color); opacity: .68; }
.weigher-tracks .scroll { overflow-x: auto; }
.weigher-tracks .inner { min-width: calc(var(--stretch) * 100%); position: relative; }
.weigher-tracks .row { display: grid; grid-template-columns: 8.5rem minmax(0, 1fr) 8rem; align-items: center;
  gap: .75rem; margin-bottom: .45rem; }
.weigher-tracks .who, .weigher-tracks .sure { position: sticky; background: var(--block-background-fill); z-index: 2; }
.weigher-tracks .who { left: 0; text-align: right; overflow: hidden; text-overflow: ellipsis; }
.weigher-tracks .who b { color: var(--colour); overflow-wrap: anywhere; }
.weigher-tracks .who small, .weigher-tracks .sure small { display: block; }
.weigher-tracks .sure { right: 0; }
.weigher-tracks .bar { height: .5rem; border-radius: .25rem; background: var(--ground); overflow: hidden; }
.weigher-tracks .bar i { display: block; height: 100%; background: var(--colour); }
.weigher-tracks svg { width: 100%; height: 4rem; display: block; background: var(--ground); border-radius: .3rem; }
.weigher-tracks .wave { fill: var(--body-text-color-subdued); opacity: .5; }
.weigher-tracks .pale { fill: var(--colour); opacity: .3; }
.weigher-tracks .full { fill: var(--colour); opacity: .78; }
.weigher-tracks .turn { fill: var(--colour); fill-opacity: 0; cursor: pointer; }
.weigher-tracks .turn:hover, .weigher-tracks .turn:focus { fill-opacity: .2; outline: none; stroke: var(--colour);
  stroke-width: 2px; vector-effect: non-scaling-stroke; }
.weigher-tracks .time { position: relative; height: 1.4rem; font-variant-numeric: tabular-nums; }
.weigher-tracks .time span { position: absolute; transform: translateX(-50%); font-size: .8rem; }
.weigher-tracks .time span:first-child { transform: none; }
.weigher-tracks .time span.end { transform: translateX(-100%); }
.weigher-tracks .downloads { margin-top: .8rem; display: flex; flex-wrap: wrap; gap: .5rem; align-items: center; }
.weigher-tracks .downloads a { padding: .3rem .8rem; border: 1px solid var(--border-color-primary); border-radius: 1rem;
  color: var(--body-text-color); text-decoration: none; }
.weigher-tracks .downloads a:hover { border-color: var(--color-accent); color: var(--color-accent); }
.dark .weigher-tracks .who b, .dark .weigher-tracks svg .full, .dark .weigher-tracks svg .pale,
.dark .weigher-tracks .bar i { filter: brightness(1.35) saturate(.9); }
@media (max-width: 640px) {
  .weigher-tracks .row { grid-template-columns: minmax(0, 1fr) 6.5rem; gap: .1rem .75rem; }
  .weigher-tracks .row > :nth-child(2) { grid-column: 1 / -1; grid-row: 2; }
  .weigher-tracks .who { text-align: left; }
  .weigher-tracks .who small { display: inline; margin-left: .4rem; }
  .weigher-tracks .last > :first-child, .weigher-tracks .last > :last-child { display: none; }
  .weigher-tracks svg { height: 3.2rem; }
}
"""


def draw(heard: Heard, job: str) -> str:
    """Return the picture, with links from which the results of the job can be downloaded."""
    result = heard.result
    spoken = result.speaking_seconds
    wave = _mirrored(heard.envelope)
    rows = []
    for i, name in enumerate(result.speakers):
        naming = heard.namings[i]
        turns = [(number, turn) for number, turn in enumerate(result.segments) if turn.speaker == name]
        near = f"like {naming.nearest} {naming.score:.2f}" if naming.nearest and naming.name is None else ""
        told = f"{spoken[name]:.1f} s" + (f" · {near}" if near else "")
        sure = float(result.confidence[i])
        rows.append(
            f'<div class="row" style="--colour:{PALETTE[i % len(PALETTE)]}">'
            f'<div class="who"><b>{escape(name)}</b> <small>{escape(told)}</small></div>'
            f"{_ribbon(heard, i, turns, wave)}"
            f'<div class="sure"><small>sure to {100 * sure:.0f} %</small>'
            f'<div class="bar" role="meter" aria-label="confidence" aria-valuenow="{sure:.2f}" aria-valuemin="0" '
            f'aria-valuemax="1"><i style="width:{100 * sure:.1f}%"></i></div></div></div>'
        )
    if not rows:
        rows.append('<div class="row"><div></div><div class="faint">nobody is heard to speak</div><div></div></div>')
    stretch = len(heard.envelope) / 1200
    count = f"{len(result.speakers)} speaker{'' if len(result.speakers) == 1 else 's'}"
    return (
        f'<div class="weigher-tracks" style="--stretch:{stretch:g}"><div class="head"><b>{escape(heard.name)}</b>'
        f'<span class="faint">{count} · {clock(result.seconds)} · click a turn to hear it</span></div>'
        f'<div class="scroll"><div class="inner">{"".join(rows)}'
        f'<div class="row last"><div></div><div class="time faint">{_axis(result.seconds)}</div><div></div></div>'
        f"</div></div>{_downloads(job)}</div>"
    )


def clock(seconds: float) -> str:
    """Return a time as minutes, seconds and tenths, with hours where there are any.

    >>> clock(5.25), clock(65.0), clock(3725.0)
    ('0:05.2', '1:05.0', '1:02:05.0')
    """
    tenths = int(seconds * 10 + 1e-6)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    head = f"{hours}:{minutes:02}" if hours else f"{minutes}"
    return f"{head}:{rest // 10:02}.{rest % 10}"


def _ribbon(heard: Heard, row: int, turns: list[tuple[int, Segment]], wave: str) -> str:
    result = heard.result
    length = max(result.seconds, 1e-9)
    track = np.clip(result.tracks[:, row], 0, 1)
    middle = (np.arange(len(track)) + 0.5) * result.hop_seconds
    inside = np.zeros(len(track), bool)
    for _, turn in turns:
        inside[np.searchsorted(middle, turn.start) : np.searchsorted(middle, turn.end)] = True
    end = len(track) * result.hop_seconds / length
    width = len(heard.envelope)
    shapes = "".join(
        f'<path class="{shade}" d="{_hill(_averaged(values, width), end)}"/>'
        for shade, values in (("pale", track), ("full", track * inside))
        if len(values)
    )
    unit = _WIDE / length
    places = "".join(
        f'<rect class="turn" data-turn="{number}" role="button" tabindex="0" x="{turn.start * unit:.2f}" y="1" '
        f'width="{max((turn.end - turn.start) * unit, 0.5):.2f}" height="{_TALL - 2}">'
        f"<title>{escape(turn.speaker)}, {clock(turn.start)} to {clock(turn.end)}</title></rect>"
        for number, turn in turns
    )
    return (
        f'<svg viewBox="0 0 {_WIDE} {_TALL}" preserveAspectRatio="none" aria-label="track of '
        f'{escape(result.speakers[row])}"><path class="wave" d="{wave}"/>{shapes}{places}</svg>'
    )


def _averaged(values: np.ndarray, width: int) -> np.ndarray:
    """Return at most `width` means of neighbouring values, in order."""
    edges = np.linspace(0, len(values), min(len(values), width) + 1).round().astype(np.int64)
    return np.add.reduceat(values, edges[:-1]) / np.diff(edges)


def _hill(heights: np.ndarray, end: float) -> str:
    """Return a path of steps that stand on the ground from 0 to `end`, the right side being 1; flat runs are one step.

    >>> _hill(np.array([0.0, 1.0, 1.0, 0.0]), 1.0)
    'M0 64H250V4H750V64H1000V64Z'
    """
    heights = np.round(_TALL - (_TALL - 4) * heights, 1)
    edges = np.linspace(0, end * _WIDE, len(heights) + 1)
    starts = np.flatnonzero(np.diff(heights, prepend=np.nan) != 0)
    steps = [f"V{heights[i]:g}H{x:.5g}" for i, x in zip(starts, [*edges[starts[1:]], edges[-1]], strict=True)]
    path = "".join(steps)
    return f"M0 {_TALL}{path.removeprefix(f'V{_TALL}')}V{_TALL}Z"


def _mirrored(envelope: np.ndarray) -> str:
    """Return the path of a waveform about the middle of a row."""
    middle = _TALL / 2
    high = 0.92 * middle * np.sqrt(envelope)  # soft speech is to be seen beside loud
    x = np.linspace(0, _WIDE, len(envelope))
    over = [f"{a:.1f} {middle - b:.1f}" for a, b in zip(x, high, strict=True)]
    under = [f"{a:.1f} {middle + b:.1f}" for a, b in zip(x[::-1], high[::-1], strict=True)]
    return f"M{'L'.join(over + under)}Z"


def _axis(seconds: float) -> str:
    step = next((step for step in _TICKS if seconds / step <= 8), _TICKS[-1])
    ticks = np.arange(0, seconds + 1e-6, step)
    shares = 100 * ticks / max(seconds, 1e-9)
    return "".join(
        f'<span {_LEFTWARD if share > 97 else ""}style="left:{share:.2f}%">{clock(tick).removesuffix(".0")}</span>'
        for tick, share in zip(ticks, shares, strict=True)
    )


def _downloads(job: str) -> str:
    links = "".join(
        f'<a href="api/jobs/{quote(job)}/result?format={kind}" download>{_TITLES[kind]}</a>' for kind in FORMAT_SUFFIXES
    )
    return f'<div class="downloads"><span class="faint">Download</span>{links}</div>'

"""``weigher simulate``: conversations with cast lists, made from recordings of single voices."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.table import Table

from weigher.cli import console
from weigher.cli.arguments import optional
from weigher.errors import RequestError

if TYPE_CHECKING:
    from weigher.recordings.turns import TurnLaw

_ROWS = {
    "switches_per_minute": "changes of speaker per minute",
    "turn_mean_seconds": "turn, mean (s)",
    "turn_median_seconds": "turn, median (s)",
    "gap_mean_seconds": "pause, mean (s)",
    "overlap_fraction": "overlap / speech",
    "silence_fraction": "silence / all",
}


@dataclass(frozen=True)
class Options:
    """Make conversations out of single voices: audio or features, cast.csv, and RTTM to score against."""

    voices: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="VOICES")]
    """Folder SPEAKER/*.flac (or .wav, ...), or one .npz container of log-mel energies."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder to write to; it must not hold a cast.csv yet."""
    timings: Annotated[Path | None, optional("DIR")] = None
    """Folder of *.rttm files of real talk, whose turns are used; where not given, a random walk picks the speaker."""
    recordings: int = 100
    """How many recordings to make."""
    max_speakers: int = 4
    """Each recording holds 1 to this many people, each number equally often."""
    seconds: Annotated[str, tyro.conf.arg(metavar="S|LOW-HIGH")] = "20-30"
    """Length of a recording, or the range it is drawn from."""
    noise_db: Annotated[float | None, optional("DB")] = None
    """Add steady noise this many dB under the speech; none where not given."""
    reverb_seconds: float = 0.0
    """Put everyone into a room whose echo falls by 60 dB in this time; 0: no room."""
    seed: int = 0
    """The same seed, voices and options make the same recordings."""
    json: bool = False
    """Print one JSON object instead of a table."""
    quiet: bool = False
    """Show no progress."""


def run(options: Options) -> int:
    """Make the recordings and print what came out beside what it was drawn from."""
    from weigher.io.voices import read_voices
    from weigher.recordings.simulate import simulate, write

    seconds = seconds_range(options.seconds)
    voices = read_voices(options.voices)
    law = _law(options.timings)
    with console.progress_bar(options.quiet) as progress:
        conversations = simulate(
            voices,
            law,
            recordings=options.recordings,
            seconds=seconds,
            max_speakers=options.max_speakers,
            noise_db=options.noise_db,
            reverb_seconds=options.reverb_seconds,
            seed=options.seed,
            progress=progress,
        )
        made = write(conversations, options.out, law)
    for warning in made["warnings"]:
        console.message(f"warning: {warning}")
    if options.json:
        console.print_json({"out": str(options.out), "kind": voices.kind, "seed": options.seed, **made})
    else:
        Console().print(_table(made))
        console.message(f"written: {options.out / 'cast.csv'}")
    return 0


def seconds_range(text: str) -> tuple[float, float]:
    """Return the shortest and longest length that `--seconds` names; RequestError where it names none.

    >>> seconds_range("25"), seconds_range("20-30.5")
    ((25.0, 25.0), (20.0, 30.5))
    """
    found = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*(?:-\s*(\d+\.?\d*|\.\d+)\s*)?", text)
    low, high = (float(found[1]), float(found[2] or found[1])) if found else (0.0, 0.0)
    if not 0 < low <= high:
        raise RequestError(f"--seconds is {text!r}; give a length such as 25, or a range such as 20-30")
    return low, high


def _law(timings: Path | None) -> TurnLaw:
    from weigher.recordings.turns import RandomWalkTurns, RecordedTurns

    if timings is None:
        console.message("no --timings given: a random walk picks who speaks, without pauses and overlap")
        return RandomWalkTurns()
    return RecordedTurns.read(timings)


def _table(made: dict) -> Table:
    title = f"{made['recordings']} recordings, {made['minutes']:.1f} min, {made['casts']['speakers']} speakers"
    table = Table("turns", title=title, caption="for each number of speakers apart: statistics.json")
    for column in ("made", "drawn from"):
        table.add_column(column, justify="right", no_wrap=True)
    achieved, source = made["achieved"], made["sampled_from"]
    for key, label in _ROWS.items():
        table.add_row(label, f"{achieved[key]:.2f}", f"{source[key]:.2f}" if source else "–")
    return table

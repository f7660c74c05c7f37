"""``weigher score``: how far RTTM files are from the truth, each recording and all of them together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from weigher.cli import console
from weigher.cli.arguments import optional

if TYPE_CHECKING:
    from weigher.recordings.score import Score


@dataclass(frozen=True)
class Options:
    """Compare who speaks when with the truth: diarization error, Jaccard error, speaker count accuracy, in per cent."""

    reference: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="REF")]
    """The truth: an RTTM file, or a folder of *.rttm files."""
    hypothesis: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="HYP")]
    """What is scored: an RTTM file, or a folder of *.rttm files."""
    uem: Annotated[Path | None, optional("UEM")] = None
    """UEM file, or folder of *.uem files, that says which parts to score; all the time there is where not given."""
    collar: Annotated[float, tyro.conf.arg(metavar="SECONDS")] = 0.0
    """Seconds left out on each side of every boundary of the truth (pyannote.metrics counts both sides: twice this)."""
    json: bool = False
    """Print one JSON object instead of a table."""


def run(options: Options) -> int:
    """Print the score; RequestError where a file is missing or wrong, or no recording is in both."""
    from weigher.io.rttm import read_rttm_tree, read_uem_tree
    from weigher.recordings.score import score  # scipy comes with it, and --help need not wait for that

    result = score(
        read_rttm_tree(options.reference),
        read_rttm_tree(options.hypothesis),
        uem=None if options.uem is None else read_uem_tree(options.uem),
        collar=options.collar,
    )
    for note in result.notes:
        console.message(note)
    if options.json:
        console.print_json(result.to_dict())
    else:
        Console().print(_table(result, uem=options.uem is not None))
    return 0


def _table(result: Score, *, uem: bool) -> Table:
    table = Table(caption=_conditions(result.collar, uem=uem), show_footer=len(result.files) > 1)
    columns = {
        "DER": result.der,
        "miss": result.miss,
        "false alarm": result.false_alarm,
        "confusion": result.confusion,
        "JER": result.jer,
    }
    table.add_column("recording", f"all {len(result.files)}", overflow="fold")
    for name, rate in columns.items():
        table.add_column(name, f"{rate:.2f}", justify="right", no_wrap=True)
    table.add_column("speakers", f"{result.count_accuracy:.2f} % right", justify="right", no_wrap=True)
    for file in result.files:
        rates = (file.der, file.miss, file.false_alarm, file.confusion, file.jer)
        count = "missing" if file.missing else f"{file.hypothesis_speakers} of {file.reference_speakers}"
        table.add_row(escape(file.file), *(f"{rate:.2f}" for rate in rates), count)
    return table


def _conditions(collar: float, *, uem: bool) -> str:
    """Return what the figures hold for, in one line.

    >>> _conditions(0.25, uem=False)
    'in per cent; collar 0.25 s on each side, overlap scored, no UEM'
    """
    return f"in per cent; collar {collar:g} s on each side, overlap scored, {'within the UEM' if uem else 'no UEM'}"

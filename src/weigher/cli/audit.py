"""``weigher audit``: which names of a training list are likely wrong or missing, and where to listen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from weigher.cli import console
from weigher.cli.arguments import optional
from weigher.errors import RequestError

if TYPE_CHECKING:
    from weigher.recordings.audit import Audit, Suspect
    from weigher.recordings.training_list import TrainingList


@dataclass(frozen=True)
class Options:
    """Rank the names of a training list that are likely wrong (listed, not there) or missing (there, not listed).

    It reads what `weigher train --out RUN` recorded while it listened; nothing is trained or applied. A run of `weigher
    train --audit` also knows from where on a name is likely wrong.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder of a run, finished or not."""
    top: Annotated[int, tyro.conf.arg(metavar="N")] = 20
    """Rows of each kind, likeliest first."""
    percentile: Annotated[float, tyro.conf.arg(metavar="P")] = 50.0
    """How many per cent of the wrong names are to be marked: more finds more of them, and marks more right ones."""
    out: Annotated[Path | None, optional("CSV")] = None
    """File for the rows, instead of printing them."""
    json: bool = False
    """Print one JSON object."""


def run(options: Options) -> int:
    """Print the ranking; RequestError for a folder that is no run, or has recorded nothing."""
    from weigher.recordings.audit import audit_run

    if options.top < 1:
        raise RequestError(f"--top {options.top}: needed is 1 or more")
    found, told = audit_run(options.run, top=options.top, percentile=options.percentile)
    rows = [_row(one, told) for one in (*found.wrong, *found.missing)]
    for note in _notes(found, told):
        console.message(note)
    if options.out is not None:
        _write(options.out, rows)
    if options.json:
        cut_offs = {"wrong_below": found.wrong_below, "missing_above": found.missing_above}
        lost = [told.labels[label] for label in found.lost]
        judged = {"planted": found.planted, "unheard": found.unheard, "lost": lost}
        console.print_json({"suspects": rows, **cut_offs, **judged})
    elif options.out is None:
        _print(rows)
    return 0


def _row(one: Suspect, told: TrainingList) -> dict[str, object]:
    return {
        "kind": one.kind,
        "file_name": str(told.recordings[one.recording]),
        "name": told.labels[one.label],
        "margin": round(one.margin, 3),
        "likely": one.likely,
        "times": [list(pair) for pair in one.times],
    }


def _notes(found: Audit, told: TrainingList) -> list[str]:
    notes = []
    if found.wrong_below is None:
        notes.append("no name was planted, so there is no cut-off for wrong ones; `weigher train --audit` plants some")
    if not found.every_name:
        notes.append("the archive is too large for names that are not listed to be recorded: none can be missing")
    if found.unheard:
        notes.append(f"{found.unheard} listed names were in no part that was heard, and are not judged; train longer")
    for name in (told.labels[label] for label in found.lost):
        notes.append(
            f"every recording that lists {name} is marked: sooner than in the list, the fault is in the training, "
            "which never came to know that voice; train longer or with another --seed, and audit again"
        )
    return notes


def _times(row: dict[str, object]) -> str:
    pairs = row["times"]
    assert isinstance(pairs, list)
    return " ".join(f"{start:g}-{end:g}" for start, end in pairs)


def _write(path: Path, rows: list[dict[str, object]]) -> None:
    import csv

    from weigher.io.atomic import writing

    with writing(path, "w") as file:
        table = csv.writer(file)
        table.writerow(["kind", "file_name", "name", "margin", "likely", "times"])
        for row in rows:
            likely = "yes" if row["likely"] else "no"
            table.writerow([row["kind"], row["file_name"], row["name"], row["margin"], likely, _times(row)])


def _print(rows: list[dict[str, object]]) -> None:
    """Print two tables as plain text: a star marks what is likely."""
    for kind, title in (("wrong", "listed, likely not there"), ("missing", "there, likely not listed")):
        print(f"{title} (* beyond the cut-off)")
        for row in (row for row in rows if row["kind"] == kind):
            star = "*" if row["likely"] else " "
            print(f"{star} {row['margin']:>8.2f}  {row['name']}  {row['file_name']}  listen at {_times(row)} s")

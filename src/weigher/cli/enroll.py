"""``weigher enroll``: make people known by name, from recordings of them alone or from whole recordings with a cast."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from weigher.cli import console
from weigher.cli.arguments import optional
from weigher.errors import RequestError

if TYPE_CHECKING:
    from weigher.recordings.identify import Enrolled
    from weigher.recordings.people_store import Thresholds


@dataclass(frozen=True)
class Options:
    """Make people known by name: `enroll NAME FILES...`, or everybody in `--cast cast.csv`.

    FILES are recordings in which NAME speaks alone, or nearly so; of several voices the surest is taken. With --cast
    the recordings may be whole meetings. Which voice bears which name is found by what the casts share: the voice that
    is heard in all recordings of a name and in no other is that name's, and no two names get one voice of a recording.
    A name in one recording only gets the voice that the others leave; names that always appear together cannot be told
    apart and are left out, unless all but one of them are known already.

    All or nothing is enrolled, the voices of the recordings too, so that `weigher search` finds them; the same command
    after an interruption need not hear again what it has heard. The threshold of "unknown" is chosen anew from
    everybody who is known, each vector held out once.
    """

    model: Annotated[Path, tyro.conf.arg(metavar="MODEL")]
    """Model folder, as `weigher train` wrote it (RUN/model)."""
    index: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder of the index; made where there is none."""
    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")] = ""
    """Who speaks in FILES."""
    files: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="FILES")] = ()
    """Recordings of this person alone: any format libsndfile reads; .npz for a model on features."""
    cast: Annotated[Path | None, optional("CAST")] = None
    """List of recordings and who appears in each (CSV, JSON lines, RTTM whose times are dropped)."""
    false_accept: Annotated[float | None, optional("RATE")] = None
    """Share of strangers who may be given a name, 0 to 1; what was asked for last where not given, at first 0.01."""
    device: str = "auto"
    """cpu, cuda, cuda:1, or auto for the best there is."""
    skip_bad: bool = False
    """Leave out rows and recordings that cannot be read, and list them."""
    quiet: bool = False
    """No progress and no notes on stderr."""
    json: bool = False
    """Print one JSON object instead of a table."""


def run(options: Options) -> int:
    """Enrol; RequestError for a name, recording, cast, model or index that cannot be used."""
    from weigher.io.manifest import read_manifest
    from weigher.recordings.diarizer import Diarizer
    from weigher.recordings.identify import enroll, open_index
    from weigher.recordings.people_store import check_name

    if options.false_accept is not None and not 0 <= options.false_accept < 1:
        raise RequestError(f"--false-accept is {options.false_accept}; needed is a number from 0 to below 1")
    failed: list[tuple[str, str]] = []
    if options.cast is not None:
        if options.name or options.files:
            raise RequestError(
                "both NAME FILES and --cast were given; enrol one person by name, or everybody by --cast"
            )
        manifest = read_manifest(options.cast, skip_bad=options.skip_bad)
        casts = [(recording.path, recording.cast) for recording in manifest.recordings]
        failed = [(f"line {skipped.line}", skipped.reason) for skipped in manifest.skipped]
    elif options.name and options.files:
        if Path(options.name).is_file():
            raise RequestError(f"{options.name} is a file; say first who speaks in the files: NAME FILES...")
        casts = [(path, (check_name(options.name),)) for path in dict.fromkeys(options.files)]
    else:
        raise RequestError("nobody to enrol; give NAME and one file or more, or --cast with a list of recordings")
    diarizer = Diarizer.from_pretrained(options.model, device=options.device)
    index = open_index(diarizer, options.index, create=True)
    with console.progress_bar(options.quiet) as progress:
        found = enroll(diarizer, index, casts, skip_bad=options.skip_bad, progress=progress)
    thresholds = index.recalibrate(false_accept=options.false_accept)
    plain = _plain(found, failed, thresholds)
    if options.json:
        console.print_json(plain)
    else:
        Console().print(_table(found))
    if not options.quiet:
        _tell(plain, thresholds)
    return 0


def _plain(found: Enrolled, failed: list[tuple[str, str]], thresholds: Thresholds) -> dict[str, Any]:
    return {
        "enrolled": [
            {"name": name, "recordings": count, "agreement": found.agreement.get(name)}
            for name, count in sorted(found.recordings.items())
        ],
        "missing": [{"recording": recording, "name": name} for recording, name in found.missing],
        "ambiguous": [list(group) for group in found.ambiguous],
        "failed": [{"file": file, "reason": reason} for file, reason in [*failed, *found.failed]],
        "thresholds": thresholds.to_dict(),
    }


def _table(found: Enrolled) -> Table:
    table = Table("name", "recordings", "agreement")
    for name, count in sorted(found.recordings.items()):
        alike = found.agreement.get(name)
        table.add_row(escape(name), str(count), "" if alike is None else f"{alike:.2f}")
    return table


def _tell(plain: dict[str, Any], thresholds: Thresholds) -> None:
    for group in plain["ambiguous"]:
        console.message(
            f"left out: {', '.join(group)} always appear together; enrol one of them from a recording alone"
        )
    for row in plain["missing"]:
        console.message(f"left out: {row['recording']} has no voice for {row['name']}")
    for row in plain["failed"]:
        console.message(f"left out: {row['reason']}")
    console.message(thresholds.said())

"""``weigher people``: list, rename, merge, forget, export and map the people whom an index knows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
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
    from weigher.recordings.index import PeopleIndex

Folder = Annotated[Path, tyro.conf.arg(metavar="DIR", help="Folder of the index.")]
Json = Annotated[bool, tyro.conf.arg(help="Print one JSON object.")]


@dataclass(frozen=True)
class ListPeople:
    """Show everybody, with how many vectors and recordings; and the thresholds with their error rates."""

    index: Folder
    json: Json = False


@dataclass(frozen=True)
class Rename:
    """Give a person another name."""

    old: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OLD")]
    """The name now."""
    new: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NEW")]
    """The name from now on; nobody else may bear it."""
    index: Folder
    json: Json = False


@dataclass(frozen=True)
class Merge:
    """Make several names one person, and choose the thresholds anew."""

    names: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="NAMES")]
    """Names that are one person; the last one stays."""
    index: Folder
    json: Json = False


@dataclass(frozen=True)
class Forget:
    """Remove people: every vector of theirs, and every voice in recordings that is theirs, from the disk too.

    A voice in a recording is theirs because a cast told so, or, where nothing told, because it would be given the name.
    Backups and copies of the folder are not touched.
    """

    names: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="NAMES")]
    """Who is forgotten."""
    index: Folder
    json: Json = False


@dataclass(frozen=True)
class Export:
    """Write what is known of people as JSON: vectors with their sources, recordings with turns in seconds."""

    names: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="NAMES")]
    """Who; everybody where nobody is named."""
    index: Folder
    out: Annotated[Path | None, optional("FILE")] = None
    """File to write; standard output where not given."""
    json: Json = False


@dataclass(frozen=True)
class Map:
    """Draw all voices as points, alike ones near each other, in the colours of their names (needs the [plot] extra).

    Enrolled voices are framed, those heard in recordings are not, unknown ones are grey; of many, some are drawn.
    """

    index: Folder
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """Picture to write; its ending says the format (.png, .svg, .pdf)."""
    json: Json = False


Options = (
    Annotated[ListPeople, tyro.conf.subcommand("list")]
    | Annotated[Rename, tyro.conf.subcommand("rename")]
    | Annotated[Merge, tyro.conf.subcommand("merge")]
    | Annotated[Forget, tyro.conf.subcommand("forget")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Map, tyro.conf.subcommand("map")]
)


def run(options: ListPeople | Rename | Merge | Forget | Export | Map) -> int:
    """Do what the sub-verb says; RequestError for a name that nobody bears, or an index that cannot be used."""
    from weigher.recordings.index import PeopleIndex

    index = PeopleIndex(options.index)
    match options:
        case ListPeople():
            _list(index, options.json)
        case Rename():
            index.rename(options.old, options.new)
            _say(options.json, f"{options.old} is now {options.new}", {"renamed": options.old, "to": options.new})
        case Merge():
            if len(options.names) < 2:
                raise RequestError("merging needs two names or more; the last one stays")
            *names, into = options.names
            index.merge(names, into)
            index.recalibrate()
            _say(options.json, f"{', '.join(names)} merged into {into}", {"merged": names, "into": into})
        case Forget():
            if not options.names:
                raise RequestError("nobody is named; say who is to be forgotten")
            counts = index.forget(options.names)
            index.recalibrate()
            told = [{"name": name, "vectors": v, "slots": s} for name, (v, s) in counts.items()]
            words = [
                f"{name}: {v} vector{'s' * (v != 1)}, {s} slot{'s' * (s != 1)} of recordings"
                for name, (v, s) in counts.items()
            ]
            _say(options.json, "forgotten: " + "; ".join(words), {"forgotten": told})
        case Export():
            _export(index, options)
        case Map():
            _map(index, options)
    return 0


def _say(as_json: bool, text: str, plain: dict[str, Any]) -> None:
    if as_json:
        console.print_json(plain)
    else:
        console.message(text)


def _list(index: PeopleIndex, as_json: bool) -> None:
    people, (recordings, slots), thresholds = index.people(), index.count(), index.thresholds()
    if as_json:
        told = {"model": index.model, "width": index.width, "people": [asdict(person) for person in people]}
        console.print_json({**told, "recordings": recordings, "slots": slots, "thresholds": thresholds.to_dict()})
        return
    table = Table("name", "vectors", "recordings")
    for person in people:
        table.add_row(escape(person.name), str(person.vectors), str(person.recordings))
    Console().print(table)
    console.message(f"{len(people)} people; {slots} voices in {recordings} recordings can be searched")
    console.message(thresholds.said())


def _export(index: PeopleIndex, options: Export) -> None:
    import json

    from weigher.io.atomic import writing

    plain = index.export(options.names)
    if options.out is None:
        console.print_json(plain)
        return
    with writing(options.out, "w") as file:
        file.write(json.dumps(plain, indent=2, allow_nan=False) + "\n")
    count = len(plain["people"])
    _say(options.json, f"written: {options.out}, {count} people", {"written": str(options.out), "people": count})


def _map(index: PeopleIndex, options: Map) -> None:
    from weigher.recordings.voice_map import draw_map

    voices = draw_map(index, options.out)
    people = len({name for name in voices.names if name is not None})
    unknown = sum(name is None for name in voices.names)
    told = {"written": str(options.out), "voices": len(voices.names), "people": people, "unknown": unknown}
    _say(options.json, f"written: {options.out}, {told['voices']} voices of {people} people, {unknown} unknown", told)

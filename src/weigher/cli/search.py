"""``weigher search``: find the recordings in which the voice of a clip appears, and when."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from weigher.cli import console
from weigher.errors import RequestError

if TYPE_CHECKING:
    from weigher.recordings.index import Hit

_SHOWN_TURNS = 3


@dataclass(frozen=True)
class Options:
    """Find the recordings in which a voice appears, most alike first, and when it speaks there.

    Searched are the recordings that `weigher enroll` and `weigher identify --remember` have kept in the index.
    """

    model: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MODEL")]
    """Model folder, the one that the index was made with."""
    clip: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CLIP")]
    """Recording of one voice, some seconds long."""
    index: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder of the index."""
    top: Annotated[int, tyro.conf.arg(metavar="K")] = 10
    """So many recordings at most."""
    exact: bool = False
    """Compare with every voice; without it, an index of more than 100,000 looks at those nearby, which is faster."""
    device: str = "auto"
    """cpu, cuda, cuda:1, or auto for the best there is."""
    quiet: bool = False
    """No notes on stderr."""
    json: bool = False
    """Print one JSON object instead of a table."""


def run(options: Options) -> int:
    """Search; RequestError for a model, an index or a clip that cannot be used."""
    from weigher.recordings.diarizer import Diarizer
    from weigher.recordings.identify import clip_voice, open_index

    if options.top < 1:
        raise RequestError(f"--top is {options.top}; needed is 1 or more")
    diarizer = Diarizer.from_pretrained(options.model, device=options.device)
    index = open_index(diarizer, options.index)
    recordings, slots = index.count()
    if not slots:
        raise RequestError(
            f"the index {options.index} holds no recordings yet; `weigher identify --remember` puts them in"
        )
    hits = index.search(clip_voice(diarizer, options.clip), options.top, exact=options.exact)
    thresholds = index.thresholds()
    if options.json:
        threshold = thresholds.to_dict()["search"]
        found = {
            "recordings": recordings,
            "slots": slots,
            "threshold": threshold,
            "hits": [_plain(hit) for hit in hits],
        }
        console.print_json({"clip": str(options.clip), **found})
        return 0
    Console().print(_table(hits))
    if not options.quiet:
        console.message(
            f"{sum(hit.same for hit in hits)} of the {len(hits)} best of {recordings} recordings are the same voice"
        )
        console.message(thresholds.said("search"))
    return 0


def _plain(hit: Hit) -> dict[str, Any]:
    return {
        "recording": hit.slot.recording,
        "score": round(hit.score, 6),
        "same": hit.same,
        "name": hit.name,
        "confidence": round(hit.slot.confidence, 6),
        "turns": [[round(start, 6), round(end, 6)] for start, end in hit.slot.turns.tolist()],
    }


def _table(hits: list[Hit]) -> Table:
    table = Table("score", "same voice", "name", Column("recording", overflow="fold"), "when")
    for hit in hits:
        first = [f"{console.clock(start)}-{console.clock(end)}" for start, end in hit.slot.turns[:_SHOWN_TURNS]]
        more = len(hit.slot.turns) - len(first)
        when = ", ".join(first) + (f" and {more} more" if more > 0 else "")
        name = escape(hit.name or "unknown")
        table.add_row(f"{hit.score:.2f}", "yes" if hit.same else "no", name, escape(hit.slot.recording), when)
    return table

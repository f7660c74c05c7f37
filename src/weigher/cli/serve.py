"""``weigher serve``: a page to look and listen, and a JSON API under it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from weigher.cli import console
from weigher.cli.arguments import optional


@dataclass(frozen=True)
class Options:
    """Serve a page that tells who speaks when in what is dropped on it, and a JSON API; Ctrl-C stops it.

    Only this machine can reach it unless --host says otherwise. Needs the [serve] extra.
    """

    model: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MODEL")]
    """Model folder, as `weigher train` wrote it (RUN/model)."""
    people: Annotated[Path | None, optional("DIR")] = None
    """Folder of an index of people, made where there is none; it names voices, and names given are written to it."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 is every one this machine has, and everybody who reaches it may use the page."""
    port: int = 7860
    """Port to listen on; 0 is any free one."""
    max_megabytes: Annotated[float, tyro.conf.arg(metavar="MB")] = 200.0
    """Largest upload."""
    max_minutes: Annotated[float, tyro.conf.arg(metavar="M")] = 120.0
    """Longest recording."""
    queue: Annotated[int, tyro.conf.arg(metavar="N")] = 8
    """Recordings that may wait or be worked on at a time."""
    keep_minutes: Annotated[float, tyro.conf.arg(metavar="M")] = 60.0
    """Recordings and results are removed so long after the last look at them."""
    device: str = "auto"
    """cpu, cuda, cuda:1, or auto for the best there is."""
    quiet: bool = False
    """Say nothing but warnings and errors."""


def run(options: Options) -> int:
    """Serve until Ctrl-C; RequestError for a model, an index, a port or limits that cannot be used."""
    from weigher.serve.guard import is_loopback
    from weigher.serve.limits import Limits
    from weigher.serve.server import serve

    limits = Limits(options.max_megabytes, options.max_minutes, options.queue, options.keep_minutes)
    if not is_loopback(options.host):
        console.message(
            f"warning: --host {options.host} lets everybody who reaches this machine use the page. There is no "
            "password and no encryption: put a proxy that has both before it, or keep to 127.0.0.1"
        )

    def ready(address: str) -> None:
        if not options.quiet:
            console.message(f"serving {options.model} on {address} (Ctrl-C stops it)")

    serve(
        options.model,
        people=options.people,
        host=options.host,
        port=options.port,
        limits=limits,
        device=options.device,
        ready=ready,
    )
    return 0

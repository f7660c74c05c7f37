"""The folder of a run of ``weigher pretrain``: what is kept in it at the beginning, and with what it goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weigher.cli.run_folder import alone_in, check_place, nothing_left
from weigher.errors import RequestError
from weigher.io.atomic import writing
from weigher.io.folders import read_json
from weigher.recordings.configs import to_plain
from weigher.train.distribution import rank
from weigher.train.state import load_tensors

Progress = Callable[[str, int, int], None]
CONFIG, DATA, METRICS, LAST = "config.json", "data.json", "metrics.jsonl", "last.safetensors"
_SETTINGS = "settings"  # in DATA: the name of what CONFIG held at the beginning


@dataclass(frozen=True)
class Place:
    """Where a run is kept, and how it goes."""

    data: Path
    out: Path
    resume: bool
    device: str
    progress: Progress


@contextmanager
def beginning(place: Place, settings: Any, held: dict[str, Any]) -> Iterator[None]:
    """Keep settings and what the data are beside the run, unless it is refused before it has learned anything.

    A resumed run must have the same data, and the settings that it began with.
    """
    if rank() > 0:
        if place.resume:
            _check_goes_on(place, held)
        yield
        return
    if place.resume:
        with alone_in(place.out):
            _check_goes_on(place, held)
            yield
        return
    is_ours = False

    def is_kept() -> bool:
        return not is_ours or _has_learned(place.out)

    with nothing_left(place.out, (LAST, METRICS, CONFIG, DATA), is_kept=is_kept), alone_in(place.out):
        check_place(place.out, new=True, beginning=left_by_kill(place.out))  # once more: reading may have taken hours
        is_ours = True
        for name in left_by_kill(place.out):
            (place.out / name).unlink(missing_ok=True)
        text = json.dumps(to_plain(settings), indent=2)
        data = json.dumps({**held, _SETTINGS: _name(text.encode())}, indent=2)
        for name, content in ((DATA, data), (CONFIG, text)):  # the first tells what is left by a kill between the two
            with writing(place.out / name, "w") as file:
                file.write(content)
        yield


def _has_learned(out: Path) -> bool:
    metrics = out / METRICS
    return metrics.is_file() and metrics.stat().st_size > 0


def _check_goes_on(place: Place, held: dict[str, Any]) -> None:
    before = read_json(place.out / DATA)
    settings = before.pop(_SETTINGS, None) if isinstance(before, dict) else None
    if before != held:
        raise RequestError(
            f"{place.out} began with {_words(before)}, and {place.data} holds {_words(held)}: give the data it "
            "began with, or begin a run in another folder (versions may differ in what they leave out, such as silence)"
        )
    if settings is not None and settings != _name((place.out / CONFIG).read_bytes()):
        raise RequestError(
            f"{place.out / CONFIG} was changed since the run began, which goes on with what it began with: put it "
            "back, or begin a run in another folder"
        )


def left_by_kill(out: Path) -> tuple[str, ...]:
    """Return the names of what a run leaves that is killed before its first step; none where it is somebody else's.

    What tells that it is one comes last: removed in this order, the rest is known as such to the end.
    """
    try:
        held = read_json(out / DATA)
        steps = load_tensors(out / LAST)[1]["position"]["step"] if (out / LAST).exists() else 0
    except (RequestError, KeyError):
        return ()
    is_of_a_run = isinstance(held, dict) and "values" in held and {"images", "recordings"} & held.keys()
    return (LAST, METRICS, CONFIG, DATA) if is_of_a_run and not steps and not _has_learned(out) else ()


def _name(content: bytes) -> str:
    """Return a short name of what a file holds."""
    return hashlib.sha256(content).hexdigest()[:16]


def _words(held: Any) -> str:
    return ", ".join(f"{name} {value}" for name, value in held.items()) if isinstance(held, dict) else "damage"

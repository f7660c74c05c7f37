"""Where a new run may be written: nothing that is there is replaced."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from weigher.errors import RequestError

_OF_A_RUN = (
    *("config.json", "model", "model.safetensors", "last.safetensors", "best.safetensors", "metrics.jsonl"),
    *("list.json", "listen", "weigh", "encoder", "data.json", "results.json", "people.sqlite"),
    "start.safetensors",
)
"""What folders of runs and models hold; one of them, and the folder is not ours to write to."""


def check_place(out: Path, *, new: bool, beginning: Collection[str] = ()) -> None:
    """Raise RequestError for a folder that cannot be written to and, for a new run, one that holds a run or a model.

    `beginning` names what a run of this kind leaves where it was refused or killed at once: nothing is lost with it.
    """
    nearest = next(place for place in (out, *out.absolute().parents) if place.exists())
    if not nearest.is_dir():
        raise RequestError(f"--out {out}: {nearest} is a file; give a folder, new or empty")
    if not os.access(nearest, os.W_OK):
        raise RequestError(f"--out {out}: this user may not write to {nearest}; give another folder")
    held = [name for name in _OF_A_RUN if name not in beginning and (out / name).exists()]
    if new and held:
        raise RequestError(
            f"{out} holds a run or a model already ({', '.join(held)}); give another folder, or --resume to go on with "
            "a run of this kind"
        )


def forget_beginning(out: Path, names: Iterable[str]) -> None:
    """Remove what a run that was refused has left of its beginning, and its folder where that is empty then."""
    for name in names:
        (out / name).unlink(missing_ok=True)
    with suppress(OSError):  # somebody's folder that was there before may hold something
        out.rmdir()

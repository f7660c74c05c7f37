"""Where a new run may be written: nothing that is there is replaced, and a run that is refused leaves nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from weigher.errors import RequestError
from weigher.io.locks import try_lock

_OF_A_RUN = (
    *("config.json", "model", "model.safetensors", "last.safetensors", "best.safetensors", "metrics.jsonl"),
    *("list.json", "listen", "weigh", "encoder", "data.json", "results.json", "people.sqlite"),
    "start.safetensors",
)
"""What folders of runs and models hold; one of them, and the folder is not ours to write to."""


def check_place(out: Path, *, new: bool, beginning: Collection[str] = ()) -> None:
    """Raise RequestError for a folder that cannot be written to and, for a new run, one that holds a run or a model.

    `beginning` names what is known to be left there of a run that was killed at once: nothing is lost with it.
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


@contextmanager
def nothing_left(out: Path, names: Collection[str], *, is_kept: Callable[[], bool]) -> Iterator[None]:
    """Remove `names` of a new run that is refused, and the folders that were made for it, unless it `is_kept`."""
    made = [place for place in (out, *out.parents) if not place.exists()]
    try:
        yield
    except RequestError:
        if not is_kept():
            for name in names:
                (out / name).unlink(missing_ok=True)
            for place in made:
                with suppress(OSError):  # something else was put there
                    place.rmdir()
        raise


@contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Hold a folder, made where it is missing, for one run; RequestError where another run is going on in it."""
    out.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":  # a folder cannot be opened there
        yield
        return
    descriptor = os.open(out, os.O_RDONLY)
    try:
        if try_lock(descriptor) is False:
            raise RequestError(f"another run is going on in {out}; wait for it to end, or give another folder")
        yield
    finally:
        os.close(descriptor)

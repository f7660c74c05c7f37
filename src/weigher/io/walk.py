"""The files of a folder, at any depth."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from weigher.errors import RequestError


def walk_files(folder: Path) -> Iterator[Path]:
    """Yield all files of a folder at any depth, those of a folder in order before those of the folders beneath it.

    Hidden files and folders are passed over, and links to folders are not followed. Raises RequestError for a folder
    that cannot be listed.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "sub").mkdir()
    >>> for name in ("b.wav", "sub/a.flac", ".c.wav"):
    ...     (folder / name).touch()
    >>> [path.name for path in walk_files(folder)]
    ['b.wav', 'a.flac']
    """
    for place, below, names in os.walk(folder, onerror=_unlisted):
        below[:] = sorted(name for name in below if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(names) if not name.startswith("."))


def linked_folders(folder: Path) -> list[Path]:
    """Return the links to folders that `walk_files` passes over, at any depth, in order; errors as there.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "more").symlink_to(tempfile.gettempdir())
    >>> [path.name for path in linked_folders(folder)]
    ['more']
    """
    return sorted(
        Path(place, name)
        for place, below, _ in os.walk(folder, onerror=_unlisted)
        for name in below
        if not name.startswith(".") and os.path.islink(os.path.join(place, name))
    )


def _unlisted(error: OSError) -> None:
    raise RequestError(f"cannot list {error.filename}: {error.strerror}; make the folder readable, or leave it out")

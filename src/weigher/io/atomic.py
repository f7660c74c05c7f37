"""Files that appear whole or not at all: written beside their place, forced to disk, then renamed over it.

A checkpoint, a manifest or a recording cut short by a full disk, an exception or Ctrl-C never replaces the good one
that stood there before.
"""

from __future__ import annotations

import errno
import io
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Literal, TextIO, cast, overload

from weigher.errors import RequestError, WeigherError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # no space, quota used up, larger than a file may be here
_WRONG_PLACE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EEXIST}


class _WatchedFile(io.FileIO):
    """A raw file that remembers why a write failed: some writers on top of it swallow or rename the OSError."""

    failure: OSError | None = None

    def write(self, b, /):
        try:
            return super().write(b)
        except OSError as error:
            self.failure = error
            raise


@overload
def writing(path: str | os.PathLike[str], mode: Literal["wb"] = "wb") -> AbstractContextManager[BinaryIO]: ...
@overload
def writing(path: str | os.PathLike[str], mode: Literal["w"]) -> AbstractContextManager[TextIO]: ...
def writing(path: str | os.PathLike[str], mode: Literal["wb", "w"] = "wb") -> AbstractContextManager[BinaryIO | TextIO]:
    """Open a file for writing that replaces `path` only when the block has ended well and all of it is on the disk.

    The bytes go to a hidden file in the same folder (made where it is missing), are flushed and fsynced, and the file
    is renamed over `path`. On any failure, Ctrl-C included, the hidden file is removed and what stood at `path` stays.
    `mode` is "wb", or "w" for UTF-8 text whose line ends are written as they are given.

    Raises WeigherError when the disk is full, RequestError when `path` cannot be written at all (a folder, a device,
    no permission); other exceptions of the block pass unchanged.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "notes.txt"
    >>> with writing(path, "w") as file:
    ...     _ = file.write("kept")
    >>> path.read_text()
    'kept'
    """
    if mode not in ("wb", "w"):
        raise ValueError(f"mode is {mode!r}; writing() needs 'wb' (bytes) or 'w' (UTF-8 text)")
    return _replacing(Path(path), text=mode == "w")


@contextmanager
def _replacing(path: Path, *, text: bool) -> Iterator[BinaryIO | TextIO]:
    target = Path(os.path.realpath(path))  # through a symbolic link, so that the link survives
    if target.exists() and not target.is_file():
        kind = "a folder" if target.is_dir() else "a device, not a regular file"
        raise RequestError(f"cannot write {path}: it is {kind}; give the name of a file")
    temporary = target.parent / f".weigher-{secrets.token_hex(6)}.tmp"  # short: the target's name may be near the limit
    raw: _WatchedFile | None = None
    file: BinaryIO | TextIO | None = None
    try:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            raw = _WatchedFile(temporary, "xb")
        except OSError as error:
            raise _explained(error, path) from error
        file = cast(BinaryIO, io.BufferedWriter(raw))
        if text:
            file = io.TextIOWrapper(file, encoding="utf-8", newline="")
        yield file
        file.flush()
        os.fsync(raw.fileno())
        file.close()
        if target.exists():
            shutil.copymode(target, temporary)
        try:
            os.replace(temporary, target)
        except OSError as error:
            raise _explained(error, path) from error
        _sync_folder(target.parent)
    except BaseException as error:
        if raw is not None:
            with suppress(OSError, ValueError):  # closing flushes once more, and fails once more on a full disk
                (file or raw).close()
            with suppress(OSError):
                raw.close()
            with suppress(FileNotFoundError):
                temporary.unlink()
        if isinstance(error, Exception) and not isinstance(error, WeigherError):
            failure = error if isinstance(error, OSError) else raw.failure if raw is not None else None
            if failure is not None and failure.errno in _FULL:
                raise _explained(failure, path) from error
        raise


def _explained(error: OSError, path: Path) -> WeigherError:
    """Say what a failed write means and what to do about it."""
    if error.errno in _FULL:
        return WeigherError(
            f"the disk is full: {path} could not be written ({error.strerror}). What stood there before is untouched; "
            f"free some space on the disk of {path.parent} or write elsewhere, then run again"
        )
    kind = RequestError if error.errno in _WRONG_PLACE else WeigherError
    return kind(f"cannot write {path}: {error.strerror or error}; give a place this user may write to")


def _sync_folder(folder: Path) -> None:
    """Force the rename itself to disk where the system can (not on Windows, not on every network disk)."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

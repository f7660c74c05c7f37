"""Locks on open files and folders, which the system lets go of with the process, however that ends."""

from __future__ import annotations

import sys


def try_lock(descriptor: int) -> bool | None:
    """Lock an open file or folder until it is closed, without waiting.

    Returns True where it is held now, False where somebody else holds it, and None where the system or the disk has no
    such locks, as Windows and some network disks.

    >>> import tempfile
    >>> with tempfile.TemporaryFile() as file:
    ...     try_lock(file.fileno()) is False
    False
    """
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True

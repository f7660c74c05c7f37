"""Where a result comes from: versions of what it depends on, commit and changes of the checkout weigher runs from."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import subprocess
from contextlib import suppress
from pathlib import Path

from weigher import __version__


def versions() -> dict[str, str]:
    """Return the versions of what a result depends on, without importing any of it.

    >>> list(versions())[:2]
    ['weigher', 'python']
    """
    found = {"weigher": __version__, "python": platform.python_version()}
    for name in ("torch", "numpy", "scipy", "scikit-learn"):
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def commit(root: Path | None = None) -> str | None:
    """Return the commit of a checkout, with ``-dirty`` where files differ from it; None where it is none.

    `root` is its folder, by default the one weigher runs from.
    """
    said = git(root or checkout(), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    return said and said.strip()


def changes(root: Path) -> str | None:
    """Return a short name of what differs from the commit below ``src``, new files included; None where nothing does.

    Two trees can be dirty and not the same.
    """
    differs = git(root, "diff", "HEAD", "--", "src") or ""
    new = git(root, "ls-files", "-z", "--others", "--exclude-standard", "--", "src") or ""
    found = hashlib.sha256((differs + new).encode(errors="surrogateescape"))
    for path in (root / name for name in new.split("\0") if name):
        found.update(hashlib.sha256(path.read_bytes() if path.is_file() else b"").digest())
    return found.hexdigest()[:12] if differs or new else None


def checkout() -> Path:
    """Return the folder of the checkout, if weigher runs from one: the folder above ``src``."""
    return Path(__file__).resolve().parents[3]


def git(root: Path, *command: str) -> str | None:
    """Return what git says of a checkout; None where it is none, or there is no git."""
    if not (root / ".git").exists():
        return None
    try:
        whole = ["git", "-C", str(root), *command]
        # What a file or its name holds need not be UTF-8.
        return subprocess.run(whole, capture_output=True, encoding="utf-8", errors="surrogateescape", check=True).stdout
    except (OSError, subprocess.CalledProcessError):  # no git, or nothing committed yet
        return None

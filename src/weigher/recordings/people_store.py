"""People on disk: names and vectors. All functions work within the transaction of the database they are given."""

from __future__ import annotations

import difflib
import json
import re
import sqlite3
import unicodedata
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np

from weigher.errors import RequestError
from weigher.recordings.calibrate import Calibration
from weigher.recordings.database import get_meta, put_meta
from weigher.recordings.naming import Gallery

DEFAULT_THRESHOLD = 0.5
"""Where nothing was calibrated: the cosine from which a diarizer links windows of one recording."""
_UNKNOWN = re.compile(r"unknown\d*", re.IGNORECASE)
_UNFIT = re.compile("[\ud800-\udfff\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What an index accepts: `name` for a voice and a person, `search` for two voices; None: never calibrated."""

    name: Calibration | None = None
    search: Calibration | None = None

    def of_name(self) -> float:
        """Return the score from which a voice is given a name."""
        return DEFAULT_THRESHOLD if self.name is None else self.name.threshold

    def to_dict(self) -> dict[str, dict[str, float | int | None]]:
        """Return both as plain data; rates are None where nothing was calibrated."""
        never = {"threshold": DEFAULT_THRESHOLD, "false_accept": None, "false_reject": None, "same": 0, "different": 0}
        return {
            key: never if value is None else asdict(value)
            for key, value in (("name", self.name), ("search", self.search))
        }

    def of_search(self) -> float:
        """Return the score from which two voices are called the same."""
        return DEFAULT_THRESHOLD if self.search is None else self.search.threshold

    def said(self, kind: str = "name") -> str:
        """Return in words what one of them, "name" or "search", accepts and at which rates.

        >>> Thresholds().said()
        'threshold 0.500, never calibrated: its error rates are not known'
        """
        found = {"name": self.name, "search": self.search}[kind]
        never = f"threshold {DEFAULT_THRESHOLD:.3f}, never calibrated: its error rates are not known"
        return never if found is None else str(found)


def check_name(name: str) -> str:
    """Return a name as an index keeps it: stripped, and with its accents composed (NFC).

    Raises RequestError for an empty name, control characters, invalid Unicode, and "unknown", "unknown1", ..., which
    stand for voices without a name.

    >>> check_name(" Zoe\u0308; jr "), len(check_name("Zoe\u0308"))
    ('Zoë; jr', 3)
    """
    tidy = unicodedata.normalize("NFC", name.strip())
    if not tidy or _UNFIT.search(tidy):
        raise RequestError(
            f"{name!r} cannot be a person's name; needed is at least one letter, and no control characters"
        )
    if _UNKNOWN.fullmatch(tidy):
        raise RequestError(f"{name!r} cannot be a person's name: voices without a name are called so; take another")
    return tidy


def known_name(db: sqlite3.Connection, name: str) -> tuple[int, str]:
    """Return number and name of a person; RequestError, with the nearest name, where nobody bears it."""
    tidy = unicodedata.normalize("NFC", name.strip())
    if not _UNFIT.search(tidy):
        row = db.execute("SELECT id, name FROM people WHERE name = ?", (tidy,)).fetchone()
        if row is not None:
            return row
    names = all_names(db)
    near = difflib.get_close_matches(tidy, names, n=1)
    meant = f"did you mean {near[0]!r}? " if near else ""
    raise RequestError(
        f"the index knows nobody called {name!r}; {meant}`weigher people list` shows its {len(names)} people"
    )


def all_names(db: sqlite3.Connection) -> list[str]:
    """Return all names, sorted."""
    return [name for (name,) in db.execute("SELECT name FROM people ORDER BY name")]


def samples(db: sqlite3.Connection) -> list[tuple[str, str, np.ndarray]]:
    """Return name, source and vector float32 [e] of every sample, sorted by name and source."""
    query = "SELECT name, source, vector FROM samples JOIN people ON people.id = person ORDER BY name, source"
    return [(name, source, np.frombuffer(vector, "<f4")) for name, source, vector in db.execute(query)]


def gallery(db: sqlite3.Connection, width: int) -> Gallery:
    """Return everybody who has a vector."""
    return Gallery.of(by_name((name, vector) for name, _, vector in samples(db)), width)


def by_name(rows: Iterable[tuple[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Collect the vectors of each name as [m, e]."""
    found: dict[str, list[np.ndarray]] = {}
    for name, vector in rows:
        found.setdefault(name, []).append(vector)
    return {name: np.stack(vectors) for name, vectors in found.items()}


def thresholds(db: sqlite3.Connection) -> Thresholds:
    """Return the stored thresholds."""
    told = get_meta(db, "thresholds")
    try:
        plain = {} if told is None else json.loads(told)
        return Thresholds(**{key: None if value is None else Calibration(**value) for key, value in plain.items()})
    except (ValueError, TypeError, AttributeError) as error:
        raise RequestError(
            f"the thresholds of the index are damaged ({error}); put a copy of the index in its place, or enrol anew"
        ) from error


def put_thresholds(db: sqlite3.Connection, found: Thresholds) -> None:
    """Store thresholds."""
    put_meta(db, "thresholds", json.dumps(asdict(found)))

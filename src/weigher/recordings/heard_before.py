"""What an enrolment that was cut off had heard: the voices of its recordings, kept in the index until it is done.

    heard    recording, made_with, voices

`made_with` says what the voices depend on (`what_it_depends_on`); rows made with something else are not used. Nobody is
named by these rows or found through them. They go when an enrolment is done, and when anybody is forgotten.

All functions work within the transaction of the database they are given, which is a writing one.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from weigher.recordings.recorded import Recorded

_TABLE = """CREATE TABLE IF NOT EXISTS heard
            (recording TEXT PRIMARY KEY, made_with TEXT NOT NULL, voices TEXT NOT NULL)"""


def what_it_depends_on(path: Path, model: str, max_speakers: int) -> str:
    """Return model, bound, and size and time of the recording as one line of text; OSError where it is not there.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.wav"
    >>> path.write_bytes(b"sound")
    5
    >>> what_it_depends_on(path, "m", 2) == what_it_depends_on(path, "m", 3)
    False
    """
    state = path.stat()
    return json.dumps([model, max_speakers, state.st_size, state.st_mtime_ns])


def keep(database: sqlite3.Connection, heard: Recorded, made_with: str) -> None:
    """Keep the voices of a recording, in the place of what was kept of it."""
    voices = {
        "embeddings": np.asarray(heard.embeddings, np.float64).tolist(),
        "confidence": np.asarray(heard.confidence, np.float64).tolist(),
        "turns": [np.asarray(each, np.float64).tolist() for each in heard.turns],
    }
    database.execute(_TABLE)
    row = (heard.recording, made_with, json.dumps(voices))
    database.execute("INSERT OR REPLACE INTO heard VALUES (?, ?, ?)", row)


def look_up(database: sqlite3.Connection, wanted: Mapping[str, str], width: int) -> dict[str, Recorded]:
    """Return the recordings of `wanted` (recording to `made_with`) that are kept; whose the voices are is untold."""
    database.execute(_TABLE)
    found = {}
    for recording, made_with in wanted.items():
        query = "SELECT voices FROM heard WHERE recording = ? AND made_with = ?"
        for (text,) in database.execute(query, (recording, made_with)):
            with suppress(ValueError, TypeError, KeyError):  # damaged: it is heard once more
                found[recording] = _recorded(recording, json.loads(text), width)
    return found


def _recorded(recording: str, voices: dict[str, Any], width: int) -> Recorded:
    return Recorded(
        recording,
        np.array(voices["embeddings"], np.float32).reshape(-1, width),
        np.array(voices["confidence"], np.float64),
        [np.array(each, np.float64).reshape(-1, 2) for each in voices["turns"]],
        [None] * len(voices["turns"]),
    )


def clear(database: sqlite3.Connection) -> None:
    """Remove all that is kept."""
    database.execute(_TABLE)
    database.execute("DELETE FROM heard")

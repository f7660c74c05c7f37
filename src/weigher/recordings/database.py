"""The one file of an index of people: SQLite, opened for each piece of work, whole or not at all.

    people      id, name                            cells       id, centre                       (from 100,000 slots on)
    samples     person, source, vector              blocks      cell, up to 128 slots and their vectors
    recordings  id, name                            slots       recording, person if told, confidence, turns, block
    meta        key, value                          heard       see `heard_before`               (once there is any)

Why SQLite and not a vector store such as LanceDB (0.40 was measured):

- Forgetting. There the bytes of a deleted vector stayed in the data file after optimizing and cleaning up (4 of 20,000
  were deleted), and in the search index. Here they are overwritten with zeros (`secure_delete`) within the transaction,
  and the file is packed (`VACUUM`) after it.
- Crashes. There a commit is not forced to disk (no fsync), and people and recordings are two tables with a commit each.
  Here one transaction holds all of it, and a journal undoes what was not finished, after SIGKILL or a power cut.
- Two writers. There cleaning up at once, which forgetting needs, fails others who are at work. Here the second waits.
- Size. There 350 MB of packages and a second to import them. SQLite comes with Python.

What SQLite lacks, approximate search, is what `cells` and `slot_store` do; `benchmarks/index.py` compares them. The
file belongs on a local disk: locks of network disks are often broken.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from weigher.errors import RequestError, WeigherError

FILE = "people.sqlite"
_KIND, _VERSION = 0x77676872, 1  # application_id and user_version: an index of weigher, its schema
_PAGE_BYTES = 32768  # a block of vectors in few pieces
_CACHE_KIB = 65536
_WAIT_SECONDS = 600.0  # a writer may be regrouping a million slots
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE samples (id INTEGER PRIMARY KEY, person INTEGER NOT NULL REFERENCES people ON DELETE CASCADE,
                      source TEXT NOT NULL, vector BLOB NOT NULL, UNIQUE (person, source));
CREATE TABLE recordings (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE slots (id INTEGER PRIMARY KEY, recording INTEGER NOT NULL REFERENCES recordings ON DELETE CASCADE,
                    person INTEGER REFERENCES people ON DELETE SET NULL, confidence REAL NOT NULL, turns BLOB NOT NULL,
                    block INTEGER NOT NULL);
CREATE INDEX slots_of_recording ON slots (recording);
CREATE INDEX slots_of_person ON slots (person) WHERE person IS NOT NULL;
CREATE TABLE blocks (id INTEGER PRIMARY KEY, cell INTEGER NOT NULL, size INTEGER NOT NULL, slots BLOB NOT NULL,
                     vectors BLOB NOT NULL);
CREATE INDEX blocks_of_cell ON blocks (cell, size);
CREATE TABLE cells (id INTEGER PRIMARY KEY, center BLOB NOT NULL);
"""


def create(folder: Path, meta: dict[str, str]) -> None:
    """Make an index with these first entries of `meta`, unless there is one already (made by another process, say).

    Raises RequestError where there can be none, WeigherError where the disk is full.
    """
    path = folder / FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"cannot make the index folder {folder} ({error.strerror}); name another place") from error
    with _explained(path), _opened(path, "rwc") as database:
        database.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        database.execute("BEGIN IMMEDIATE")
        if not _tables(database):
            for statement in _SCHEMA.split(";"):
                database.execute(statement)
            database.execute(f"PRAGMA application_id = {_KIND}")
            database.execute(f"PRAGMA user_version = {_VERSION}")
            database.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
        database.execute("COMMIT")


@contextmanager
def reading(folder: Path) -> Iterator[sqlite3.Connection]:
    """Open an index and look at it as it is at this moment, whatever others write meanwhile.

    Raises RequestError where there is no index, or a damaged one; WeigherError where it stays locked.
    """
    with _checked(folder) as database:
        database.execute("BEGIN")
        yield database


@contextmanager
def writing(folder: Path) -> Iterator[sqlite3.Connection]:
    """Open an index alone; what the block has done is all there when it ends, and none of it when it fails.

    Raises as `reading`, RequestError also where the place is read-only.
    """
    with _checked(folder) as database:
        if _purge_is_due(database):
            _purge(database)
        database.execute("BEGIN IMMEDIATE")
        yield database
        database.execute("COMMIT")
        if _purge_is_due(database):
            _purge(database)


def demand_purge(database: sqlite3.Connection) -> None:
    """Have the file packed after this transaction: at its end, or, after a crash, before the next one."""
    put_meta(database, "purge", "due")


def get_meta(database: sqlite3.Connection, key: str) -> str | None:
    """Return one entry of `meta`, None where there is none."""
    row = database.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return None if row is None else str(row[0])


def put_meta(database: sqlite3.Connection, key: str, value: str) -> None:
    """Write one entry of `meta`."""
    database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))


def _purge_is_due(database: sqlite3.Connection) -> bool:
    return get_meta(database, "purge") is not None


def _purge(database: sqlite3.Connection) -> None:
    """Write all that is left into a new file in the place of the old; the old pages are gone, and the note with them.

    The note is taken away last: a crash in between has the file packed once more.
    """
    database.execute("VACUUM")
    database.execute("DELETE FROM meta WHERE key = 'purge'")


@contextmanager
def _checked(folder: Path) -> Iterator[sqlite3.Connection]:
    path = folder / FILE
    if not path.is_file():
        raise RequestError(f"there is no index of people in {folder}; `weigher enroll` makes one")
    with _explained(path), _opened(path, "rw") as database:
        kind, version = (
            database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
        )
        if not _tables(database):
            raise RequestError(f"the index {path} is empty; remove the file, and `weigher enroll` makes a new one")
        if (kind, version) != (_KIND, _VERSION):
            raise RequestError(f"{path} is a database of another kind or version; needed is an index of this weigher")
        try:
            yield database
        except WeigherError:
            raise
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            # what cannot be, such as a name that is NULL, is damage where SQLite finds some, else our own mistake
            if _is_whole(database):
                raise
            raise RequestError(_damaged(path, error)) from error


@contextmanager
def _opened(path: Path, mode: str) -> Iterator[sqlite3.Connection]:
    """Open the file; closing it takes back what was not committed."""
    # "rw" falls back to reading where the file is read-only, and can undo what a killed writer left where it is not
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    database = sqlite3.connect(uri, uri=True, timeout=_WAIT_SECONDS, isolation_level=None)
    try:
        for setting in (
            "secure_delete = ON",
            "synchronous = EXTRA",
            "foreign_keys = ON",
            f"cache_size = -{_CACHE_KIB}",
        ):
            database.execute(f"PRAGMA {setting}").fetchall()
        yield database
    finally:
        database.close()


def _is_whole(database: sqlite3.Connection) -> bool:
    return [row for (row,) in database.execute("PRAGMA quick_check").fetchall()] == ["ok"]


def _damaged(path: Path, error: Exception) -> str:
    return f"the index {path} is damaged ({error}); put a copy in its place, or enrol anew"


def _tables(database: sqlite3.Connection) -> int:
    return database.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Say what an error of SQLite means and what to do about it."""
    try:
        yield
    except UnicodeDecodeError as error:  # SQLite tells of damage in the words of the damaged file
        raise RequestError(_damaged(path, error)) from error
    except sqlite3.DatabaseError as error:
        told = f"({error})"
        code = getattr(error, "sqlite_errorcode", None)
        if code is None and isinstance(error, sqlite3.OperationalError):  # Python's own: bytes that are no UTF-8
            raise RequestError(_damaged(path, error)) from error
        kind = (code or 0) & 0xFF
        if kind in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise WeigherError(
                f"{path} has been locked by another process for {_WAIT_SECONDS:g} s; try later"
            ) from error
        if kind in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
            raise RequestError(
                f"{path} cannot be opened for this {told}; give a place this user may write to"
            ) from error
        if kind == sqlite3.SQLITE_FULL:
            raise WeigherError(
                f"the disk is full: nothing was changed in {path}; free some space, then run again"
            ) from error
        # ERROR: our statements are all right, so that the schema they are read against is not
        if kind in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT):
            raise RequestError(_damaged(path, error)) from error
        if kind == sqlite3.SQLITE_IOERR:
            raise WeigherError(f"{path} could not be read or written {told}; look at the disk") from error
        raise

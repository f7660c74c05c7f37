"""Slots of recordings on disk: put in, taken out, searched; exactly while they are few, by cells when they are many.

Vectors lie in blocks of up to 128, each block within one cell (see `cells`), so that a search reads few and long
pieces. Up to `EXACT_SLOTS` slots there is one cell, and every search looks at everything. Past that the slots are
grouped into cells, and again whenever their number has grown fourfold; new ones go to the cell of their nearest centre.

All functions work within the transaction of the database they are given.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from weigher.recordings.cells import PROBES, cell_count, learn_centers, nearest_cell, sample_size
from weigher.recordings.database import get_meta, put_meta
from weigher.recordings.recorded import Recorded

EXACT_SLOTS = 100_000
_BLOCK = 128
_GROWTH = 4
_REGROUPED_BLOCKS = 1024  # read at once: 134 MB of vectors of 256 numbers
_FLOAT, _INT, _SECONDS = "<f4", "<i8", "<f8"  # on disk, whatever the machine


@dataclass(frozen=True, eq=False)
class Slot:
    """One slot that was found."""

    recording: str
    person: str | None
    confidence: float
    turns: np.ndarray
    vector: np.ndarray


def put(database: sqlite3.Connection, recordings: Sequence[Recorded], people: Mapping[str, int]) -> None:
    """Put recordings in, each in the place of what was known of it; `people` holds the numbers of the names in them."""
    numbers = {}
    for each in recordings:
        database.execute("INSERT OR IGNORE INTO recordings (name) VALUES (?)", (each.recording,))
        (numbers[each.recording],) = database.execute(
            "SELECT id FROM recordings WHERE name = ?", (each.recording,)
        ).fetchone()
    old = "SELECT id FROM slots WHERE recording = ?"
    remove(database, [slot for number in numbers.values() for (slot,) in database.execute(old, (number,))])
    latest = {each.recording: each for each in recordings}  # a recording that is given twice counts once
    rows = [
        (numbers[name], people.get(person or ""), float(sure), np.asarray(turns, _SECONDS).tobytes())
        for name, each in latest.items()
        for person, sure, turns in zip(each.people, each.confidence, each.turns, strict=True)
    ]
    if not rows:
        return
    vectors = np.concatenate([each.embeddings for each in latest.values()]).astype(_FLOAT)
    slots = _last(database, "slots") + 1 + np.arange(len(rows), dtype=_INT)
    cells, centers = _centers(database, vectors.shape[1])
    cell = cells[nearest_cell(vectors, centers)] if len(cells) else np.zeros(len(rows), np.int64)
    blocks = _fill(database, cell, slots, vectors)
    added = zip(slots.tolist(), rows, blocks.tolist(), strict=True)
    database.executemany("INSERT INTO slots VALUES (?, ?, ?, ?, ?, ?)", ((s, *row, block) for s, row, block in added))
    _regroup_where_due(database, vectors.shape[1])


def remove(database: sqlite3.Connection, slots: Iterable[int], *, recenter: bool = False) -> int:
    """Take slots out and return how many; `recenter` leaves no trace of them in the centres of their cells."""
    places: defaultdict[int, list[int]] = defaultdict(list)
    for slot in slots:
        for (block,) in database.execute("SELECT block FROM slots WHERE id = ?", (slot,)):
            places[block].append(slot)
    touched = set()
    for block, gone in places.items():
        cell, held, vectors = _block(database, block)
        keep = ~np.isin(held, gone)
        touched.add(cell)
        if keep.any():
            _write(database, block, cell, held[keep], vectors[keep])
        else:
            database.execute("DELETE FROM blocks WHERE id = ?", (block,))
        database.executemany("DELETE FROM slots WHERE id = ?", ((slot,) for slot in gone))
    if recenter and database.execute("SELECT 1 FROM cells LIMIT 1").fetchone():
        for cell in touched:
            sums = [vectors.sum(0, dtype=np.float64) for _, vectors in _within(database, cell)]
            database.execute("DELETE FROM cells WHERE id = ?", (cell,))
            if sums:
                center = np.sum(sums, 0) / max(float(np.linalg.norm(np.sum(sums, 0))), 1e-12)
                database.execute("INSERT INTO cells VALUES (?, ?)", (cell, center.astype(_FLOAT).tobytes()))
    return sum(map(len, places.values()))


def blocks(database: sqlite3.Connection, width: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield all there is, piece by piece: slots int64 [m] and their vectors float32 [m, e]."""
    for slots, vectors in database.execute("SELECT slots, vectors FROM blocks"):
        yield np.frombuffer(slots, _INT), np.frombuffer(vectors, _FLOAT).reshape(-1, width)


def compare(database: sqlite3.Connection, query: np.ndarray, *, exact: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return the slots that a search looks at, int64 [m], and their cosines to the unit vector query [e], float32 [m].

    All slots where there are no cells, or with `exact`; else those of the cells nearest to the query.
    """
    cells, centers = _centers(database, len(query))
    if exact or not len(cells):
        pieces = blocks(database, len(query))
    else:
        nearest = cells[np.argsort(-(centers @ query), kind="stable")[:PROBES]]
        pieces = (piece for cell in nearest.tolist() for piece in _within(database, cell))
    found = [(slots, vectors @ query) for slots, vectors in pieces]
    slots = [each for each, _ in found]
    return np.concatenate([np.empty(0, _INT), *slots]), np.concatenate([np.empty(0, _FLOAT), *(s for _, s in found)])


def look_up(database: sqlite3.Connection, slot: int) -> Slot:
    """Return what is known of a slot."""
    recording, person, confidence, turns, block = database.execute(
        "SELECT r.name, p.name, confidence, turns, block FROM slots JOIN recordings AS r ON r.id = recording "
        "LEFT JOIN people AS p ON p.id = person WHERE slots.id = ?",
        (slot,),
    ).fetchone()
    _, held, vectors = _block(database, block)
    times = np.frombuffer(turns, _SECONDS).reshape(-1, 2)
    return Slot(recording, person, confidence, times, vectors[int(np.flatnonzero(held == slot)[0])])


def recording_of(database: sqlite3.Connection, slot: int) -> str:
    """Return which recording a slot is in."""
    query = "SELECT name FROM recordings WHERE id = (SELECT recording FROM slots WHERE id = ?)"
    return database.execute(query, (slot,)).fetchone()[0]


def slots_of(database: sqlite3.Connection, person: int) -> set[int]:
    """Return the slots of which somebody told that they are this person's."""
    return {slot for (slot,) in database.execute("SELECT id FROM slots WHERE person = ?", (person,))}


def untold(database: sqlite3.Connection, slots: Iterable[int]) -> set[int]:
    """Return those of the slots of which nobody told whose they are."""
    query = "SELECT 1 FROM slots WHERE id = ? AND person IS NULL"
    return {slot for slot in slots if database.execute(query, (slot,)).fetchone()}


def is_told(database: sqlite3.Connection, recording: str) -> bool:
    """Return whether somebody told of a voice of this recording whose it is."""
    query = """SELECT 1 FROM slots WHERE person IS NOT NULL
               AND recording = (SELECT id FROM recordings WHERE name = ?)"""
    return database.execute(query, (recording,)).fetchone() is not None


def told_of(database: sqlite3.Connection, person: int) -> list[dict[str, Any]]:
    """Return the slots of which somebody told that they are this person's, as plain data."""
    query = """SELECT r.name, confidence, turns FROM slots JOIN recordings AS r ON r.id = recording
               WHERE person = ? ORDER BY r.name, slots.id"""
    return [
        {"recording": recording, "confidence": sure, "turns": np.frombuffer(turns, _SECONDS).reshape(-1, 2).tolist()}
        for recording, sure, turns in database.execute(query, (person,))
    ]


def _fill(database: sqlite3.Connection, cell: np.ndarray, slots: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Append vectors to the blocks of their cells; returns the block of each, int64 [n]."""
    block_of = np.empty(len(slots), np.int64)
    order = np.argsort(cell, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(cell[order])) + 1):
        here, rows = int(cell[group[0]]), group
        unfinished = database.execute("SELECT id FROM blocks WHERE cell = ? AND size < ?", (here, _BLOCK)).fetchone()
        while len(rows):
            if unfinished:
                (block,) = unfinished
                _, held, known = _block(database, block)
            else:
                block, held, known = _last(database, "blocks") + 1, slots[:0], vectors[:0]
            now, rows = rows[: _BLOCK - len(held)], rows[_BLOCK - len(held) :]
            held, known = np.concatenate([held, slots[now]]), np.concatenate([known, vectors[now]])
            _write(database, block, here, held, known)
            block_of[now] = block
            unfinished = None
    return block_of


def _regroup_where_due(database: sqlite3.Connection, width: int) -> None:
    """Group slots into cells where they have become many; counting them is slow, so that numbers bound the count."""
    due, look_at = (int(get_meta(database, key) or EXACT_SLOTS) for key in ("regroup_slots", "regroup_look_at"))
    last = _last(database, "slots")
    if last <= look_at:
        return
    (count,) = database.execute("SELECT COUNT(*) FROM slots").fetchone()
    if count > due:
        _regroup(database, count, width)
        due = _GROWTH * count
    put_meta(database, "regroup_slots", str(due))
    put_meta(database, "regroup_look_at", str(last + due - count))


def _regroup(database: sqlite3.Connection, count: int, width: int) -> None:
    """Learn new cells and write all vectors anew, cell by cell, with few of them in memory."""
    rng = np.random.default_rng(count)
    cells = cell_count(count)
    old = np.array([block for (block,) in database.execute("SELECT id FROM blocks ORDER BY id")])
    sample: list[np.ndarray] = []
    drawn = 0
    for block in rng.permutation(old).tolist():
        if drawn >= sample_size(cells):
            break
        sample.append(_block(database, block)[2])
        drawn += len(sample[-1])
    centers = learn_centers(np.concatenate(sample), cells, rng)
    # new numbers, so that no block of the old grouping is taken for an unfinished one of the new
    (first,) = database.execute("SELECT COALESCE(MAX(cell), 0) + 1 FROM blocks").fetchone()
    database.execute("DELETE FROM cells")
    rows = ((first + i, center.astype(_FLOAT).tobytes()) for i, center in enumerate(centers))
    database.executemany("INSERT INTO cells VALUES (?, ?)", rows)
    for begin in range(0, len(old), _REGROUPED_BLOCKS):
        piece = old[begin : begin + _REGROUPED_BLOCKS].tolist()
        read = [_block(database, block) for block in piece]
        slots, vectors = np.concatenate([held for _, held, _ in read]), np.concatenate([known for _, _, known in read])
        places = _fill(database, first + nearest_cell(vectors, centers), slots, vectors).tolist()
        database.executemany("UPDATE slots SET block = ? WHERE id = ?", zip(places, slots.tolist(), strict=True))
        database.executemany("DELETE FROM blocks WHERE id = ?", ((block,) for block in piece))


def _centers(database: sqlite3.Connection, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the cells, int64 [c], and their centres, float32 [c, e]; c = 0 while every slot is looked at."""
    rows = database.execute("SELECT id, center FROM cells ORDER BY id").fetchall()
    centers = np.frombuffer(b"".join(center for _, center in rows), _FLOAT).reshape(len(rows), width)
    return np.array([cell for cell, _ in rows], np.int64), centers


def _within(database: sqlite3.Connection, cell: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for size, slots, vectors in database.execute("SELECT size, slots, vectors FROM blocks WHERE cell = ?", (cell,)):
        yield np.frombuffer(slots, _INT), np.frombuffer(vectors, _FLOAT).reshape(size, -1)


def _block(database: sqlite3.Connection, block: int) -> tuple[int, np.ndarray, np.ndarray]:
    """Read a block: its cell, slots int64 [m], vectors float32 [m, e]."""
    cell, slots, vectors = database.execute("SELECT cell, slots, vectors FROM blocks WHERE id = ?", (block,)).fetchone()
    held = np.frombuffer(slots, _INT)
    return cell, held, np.frombuffer(vectors, _FLOAT).reshape(len(held), -1)


def _write(database: sqlite3.Connection, block: int, cell: int, slots: np.ndarray, vectors: np.ndarray) -> None:
    row = (block, cell, len(slots), slots.astype(_INT).tobytes(), vectors.astype(_FLOAT).tobytes())
    database.execute("INSERT OR REPLACE INTO blocks VALUES (?, ?, ?, ?, ?)", row)


def _last(database: sqlite3.Connection, table: str) -> int:
    return database.execute(f"SELECT COALESCE(MAX(id), 0) FROM {table}").fetchone()[0]

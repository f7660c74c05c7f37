"""Which voices of an index a map shows, and whose they are: enrolled vectors, and slots of recordings."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from weigher.errors import RequestError
from weigher.io.atomic import writing
from weigher.recordings import database, people_store, slot_store
from weigher.recordings.index import PeopleIndex
from weigher.recordings.naming import name_voices

T = TypeVar("T")
MOST_VOICES = 1500
"""More points than this hide each other."""


@dataclass(frozen=True, eq=False)
class MappedVoices:
    """Unit vectors [m, e], the name of each (None: unknown), and bool [m]: enrolled, not only heard in a recording."""

    vectors: np.ndarray
    names: tuple[str | None, ...]
    enrolled: np.ndarray


def voices_to_map(index: PeopleIndex, most: int = MOST_VOICES) -> MappedVoices:
    """Return all enrolled vectors and slots of recordings, evenly drawn where there are more than `most` in all.

    A slot is called as somebody told, else by its own likeness to people, as `PeopleIndex.search` calls it.

    >>> import tempfile
    >>> index = PeopleIndex.create(tempfile.mkdtemp(), model="some model", width=2)
    >>> index.enroll({"Ann": [("a.wav", np.array([1.0, 0.0])), ("b.wav", np.array([0.0, 1.0]))]})
    >>> voices_to_map(index).names
    ('Ann', 'Ann')
    """
    with database.reading(index.folder) as db:
        samples = _evenly(people_store.samples(db), most)
        told = dict(db.execute("SELECT slots.id, name FROM slots LEFT JOIN people ON people.id = person").fetchall())
        chosen = np.array(_evenly(sorted(told), most - len(samples)), np.int64)
        gallery, threshold = people_store.gallery(db, index.width), people_store.thresholds(db).of_name()
        rows = [vector for _, _, vector in samples]
        names: list[str | None] = [name for name, _, _ in samples]
        for slots, vectors in slot_store.blocks(db, index.width):
            for place in np.flatnonzero(np.isin(slots, chosen)):
                rows.append(vectors[place])
                known = told[int(slots[place])]
                names.append(known or name_voices(vectors[[place]], gallery, threshold)[0].name)
    enrolled = np.arange(len(rows)) < len(samples)
    return MappedVoices(np.array(rows, np.float32).reshape(-1, index.width), tuple(names), enrolled)


def draw_map(index: PeopleIndex, path: str | os.PathLike[str], most: int = MOST_VOICES) -> MappedVoices:
    """Draw the map of an index to `path`, whose ending says the format (.png, .svg, .pdf), and return what is on it.

    Raises RequestError for an index without any voice, another ending, and without the [plot] extra.
    """
    from weigher.plot.embedding_map import lay_out, plot_embedding_map

    voices = voices_to_map(index, most)
    if not voices.names:
        raise RequestError(f"the index {index.folder} holds no voice yet; `weigher enroll` puts some in")
    people = len({name for name in voices.names if name is not None})
    title = f"{len(voices.names)} voices · {people} people"
    figure = plot_embedding_map(lay_out(voices.vectors), voices.names, enrolled=voices.enrolled, title=title)
    kind = Path(path).suffix.lower().removeprefix(".")
    known = sorted(figure.canvas.get_supported_filetypes())
    if kind not in known:
        raise RequestError(f"cannot draw to {os.fspath(path)!r}: its name needs to end in one of {', '.join(known)}")
    with writing(path) as file:
        figure.savefig(file, format=kind)
    return voices


def _evenly(items: list[T], most: int) -> list[T]:
    """Items at equal distances, `most` of them at most."""
    if len(items) <= most:
        return items
    return [items[place] for place in np.linspace(0, len(items) - 1, max(most, 0)).round().astype(int)]

"""People by name and voice, and the voices of whole archives, in one folder on disk.

Every vector is the unit embedding of one voice in one recording, by one model; vectors of two models do not compare, so
an index belongs to a model and refuses others. People have several vectors each, one for each source. A voice is named
as `naming` says, and a search returns recordings by their most similar slot, cos(v, x).

Thresholds come from `calibrate` on the enrolled people, one vector held out at a time, and are stored with the rates of
both errors. Writers wait for each other, a killed one leaves no trace, and what is forgotten is gone from the disk: see
`database`. Searches are exact up to 100,000 slots and look at the nearest cells past that: see `slot_store`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weigher.errors import RequestError
from weigher.recordings import database, heard_before, people_store, slot_store
from weigher.recordings.calibrate import Calibration, calibrate, naming_trials, pair_trials
from weigher.recordings.naming import Naming, name_voices, named_like
from weigher.recordings.people_store import Thresholds, check_name, known_name
from weigher.recordings.recorded import Recorded, checked, unit_vectors
from weigher.recordings.slot_store import EXACT_SLOTS, Slot

FALSE_ACCEPT = 0.01
"""The share of strangers who may be given a name, where nobody asks for another."""


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody an index knows: how many vectors, and in how many recordings somebody told that they are there."""

    name: str
    vectors: int
    recordings: int


@dataclass(frozen=True, slots=True)
class Hit:
    """A recording in which a voice was searched: its most similar slot."""

    slot: Slot
    score: float
    same: bool
    """The score reaches the threshold of searches."""
    name: str | None
    """Whose the slot is: as somebody told, else by its own likeness to people; None where it is unknown."""


class PeopleIndex:
    """An index of people in a folder; each call opens it, does one thing whole, and closes it.

    >>> import tempfile
    >>> index = PeopleIndex.create(tempfile.mkdtemp(), model="some model", width=2)
    >>> index.enroll({"Ann": [("a.wav", np.array([1.0, 0.0]))], "Ben": [("b.wav", np.array([0.0, 1.0]))]})
    >>> [naming.name for naming in index.name(np.array([[0.9, 0.1], [-1.0, 0.0]]))]
    ['Ann', None]
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Open an index. Raises RequestError where there is none, or a damaged one."""
        self.folder = Path(folder)
        with database.reading(self.folder) as db:
            self.model = database.get_meta(db, "model") or ""
            self.width = int(database.get_meta(db, "width") or 0)

    @classmethod
    def create(
        cls, folder: str | os.PathLike[str], *, model: str, width: int, exact_slots: int = EXACT_SLOTS
    ) -> PeopleIndex:
        """Make an index for embeddings [width] of a model, or open the one that is there; raises as `check_model`.

        Up to `exact_slots` slots, searches look at all of them. An index that holds nothing is made anew.
        """
        exact = {"regroup_slots": str(exact_slots), "regroup_look_at": str(exact_slots)}
        meta = {"model": model, "width": str(width), **exact}
        database.create(Path(folder), meta)
        index = cls(folder)
        if (model, width) != (index.model, index.width):
            with database.writing(index.folder) as db:
                if not any(db.execute(f"SELECT 1 FROM {table}").fetchone() for table in ("people", "recordings")):
                    db.execute("DELETE FROM meta")
                    db.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
            index = cls(folder)
        index.check_model(model, width)
        return index

    def check_model(self, model: str, width: int) -> None:
        """Raise RequestError where the vectors in this index are not those of this model."""
        if (model, width) != (self.model, self.width):
            raise RequestError(
                f"the index {self.folder} holds embeddings of size {self.width} by model {self.model}; given is model "
                f"{model} with size {width}. Use the model it was made with, or another folder"
            )

    def people(self) -> list[Person]:
        """Return everybody, sorted by name."""
        query = """SELECT name, (SELECT COUNT(*) FROM samples WHERE person = people.id),
                          (SELECT COUNT(DISTINCT recording) FROM slots WHERE person = people.id)
                   FROM people ORDER BY name"""
        with database.reading(self.folder) as db:
            return [Person(*row) for row in db.execute(query)]

    def count(self) -> tuple[int, int]:
        """Return how many recordings and how many slots can be searched."""
        with database.reading(self.folder) as db:
            recordings, slots = (db.execute(f"SELECT COUNT(*) FROM {t}").fetchone()[0] for t in ("recordings", "slots"))
        return recordings, slots

    def vectors(self) -> dict[str, np.ndarray]:
        """Return the vectors float32 [m, e] of everybody who has any."""
        with database.reading(self.folder) as db:
            return people_store.by_name((name, vector) for name, _, vector in people_store.samples(db))

    def enroll(
        self, samples: Mapping[str, Sequence[tuple[str, np.ndarray]]], recordings: Sequence[Recorded] = ()
    ) -> None:
        """Add people's vectors, each with its source, and put recordings in with them: all or nothing.

        Vectors [e] are brought to unit length. One of the same person and source takes the place of the earlier one,
        and so does a recording. Raises RequestError for names and vectors that cannot be.
        """
        rows = [
            (check_name(n), source, unit_vectors(v, self.width))
            for n, several in samples.items()
            for source, v in several
        ]
        told = [checked(recording, self.width) for recording in recordings]
        names = {name for name, _, _ in rows} | {name for each in told for name in each.people if name is not None}
        with database.writing(self.folder) as db:
            db.executemany("INSERT OR IGNORE INTO people (name) VALUES (?)", ((name,) for name in sorted(names)))
            numbers = {name: known_name(db, name)[0] for name in names}
            db.executemany(
                "INSERT OR REPLACE INTO samples (person, source, vector) VALUES (?, ?, ?)",
                ((numbers[name], source, vector.astype("<f4").tobytes()) for name, source, vector in rows),
            )
            slot_store.put(db, told, numbers)

    def remember(self, recordings: Sequence[Recorded]) -> None:
        """Put recordings in for `search`, each in the place of what was known of it; whose the voices are stays untold.

        Recordings of which somebody has told who is who stay as they are. Raises RequestError for unfit vectors.
        """
        given = [checked(recording, self.width) for recording in recordings]
        with database.writing(self.folder) as db:
            slot_store.put(db, [each for each in given if not slot_store.is_told(db, each.recording)], {})

    def heard_before(self, made_with: Mapping[str, str]) -> dict[str, Recorded]:
        """Return those recordings that an enrolment which was cut off has heard in just this way."""
        with database.writing(self.folder) as db:
            return heard_before.look_up(db, made_with, self.width)

    def keep_heard(self, heard: Recorded, made_with: str) -> None:
        """Keep what an enrolment has heard, until it is done."""
        with database.writing(self.folder) as db:
            heard_before.keep(db, heard, made_with)

    def drop_heard(self) -> None:
        """Remove what enrolments have heard and not yet enrolled."""
        with database.writing(self.folder) as db:
            heard_before.clear(db)

    def rename(self, old: str, new: str) -> None:
        """Give a person another name. Raises RequestError where nobody bears the old one or somebody the new one."""
        new = check_name(new)
        with database.writing(self.folder) as db:
            number, old = known_name(db, old)
            if old != new and new in people_store.all_names(db):
                raise RequestError(f"there is a {new!r} already; if the two are one person, merge {old!r} into {new!r}")
            db.execute("UPDATE people SET name = ? WHERE id = ?", (new, number))

    def merge(self, names: Iterable[str], into: str) -> None:
        """Make people one: the vectors and recordings of `names` become those of `into`, and the names are gone.

        Of two vectors from one source, that of `into` stays. Raises RequestError for a name that nobody bears.
        """
        with database.writing(self.folder) as db:
            target, _ = known_name(db, into)
            for number in {known_name(db, name)[0] for name in names} - {target}:
                db.execute("UPDATE OR IGNORE samples SET person = ? WHERE person = ?", (target, number))
                db.execute("UPDATE slots SET person = ? WHERE person = ?", (target, number))
                db.execute("DELETE FROM people WHERE id = ?", (number,))

    def forget(self, names: Sequence[str]) -> dict[str, tuple[int, int]]:
        """Remove people: every vector of theirs and every slot that is theirs; returns how many of each, by name.

        Slots are theirs because somebody told so, or, where nobody told, because they would be given the name. The
        bytes are overwritten and the file is packed. Where nobody bears a name, nobody is removed: RequestError.
        """
        counts: dict[str, tuple[int, int]] = {}
        with database.writing(self.folder) as db:
            bearers = dict.fromkeys(known_name(db, name) for name in names)
            gallery, threshold = people_store.gallery(db, self.width), people_store.thresholds(db).of_name()
            for number, name in bearers:
                theirs = slot_store.slots_of(db, number)
                for slots, vectors in slot_store.blocks(db, self.width):
                    theirs |= slot_store.untold(db, slots[named_like(vectors, gallery, name, threshold)].tolist())
                (vectors,) = db.execute("SELECT COUNT(*) FROM samples WHERE person = ?", (number,)).fetchone()
                counts[name] = (vectors, slot_store.remove(db, sorted(theirs), recenter=True))
                db.execute("DELETE FROM people WHERE id = ?", (number,))
            heard_before.clear(db)
            database.demand_purge(db)
        return counts

    def export(self, names: Sequence[str] = ()) -> dict[str, Any]:
        """Return people (all, where none is named) as plain data for JSON: vectors with sources, recordings with turns.

        Raises RequestError for a name that nobody bears.
        """
        with database.reading(self.folder) as db:
            samples = people_store.samples(db)
            people = [
                {
                    "name": name,
                    "vectors": [{"source": s, "vector": v.tolist()} for bearer, s, v in samples if bearer == name],
                    "recordings": slot_store.told_of(db, number),
                }
                for number, name in (known_name(db, name) for name in names or people_store.all_names(db))
            ]
        return {"model": self.model, "width": self.width, "people": people}

    def thresholds(self) -> Thresholds:
        """Return the stored thresholds with their rates."""
        with database.reading(self.folder) as db:
            return people_store.thresholds(db)

    def recalibrate(self, *, false_accept: float | None = None) -> Thresholds:
        """Choose both thresholds anew from the people as they are now, store and return them.

        `false_accept` None is what was asked for last, at first 1 %. A threshold of which there are no pairs (see
        `calibrate`) stays as it was.
        """
        with database.writing(self.folder) as db:
            samples, before = people_store.samples(db), people_store.thresholds(db)
            bound = (
                float(database.get_meta(db, "false_accept") or FALSE_ACCEPT) if false_accept is None else false_accept
            )
            vectors = np.array([vector for _, _, vector in samples]).reshape(-1, self.width)
            people = np.unique([name for name, _, _ in samples], return_inverse=True)[1]
            found = Thresholds(
                name=_calibrated(naming_trials(vectors, people), bound) or before.name,
                search=_calibrated(pair_trials(vectors, people), bound) or before.search,
            )
            people_store.put_thresholds(db, found)
            database.put_meta(db, "false_accept", str(bound))
        return found

    def set_thresholds(self, thresholds: Thresholds) -> None:
        """Store thresholds that were chosen elsewhere, say by `calibrate` on people who are not in the index."""
        with database.writing(self.folder) as db:
            people_store.put_thresholds(db, thresholds)

    def name(self, embeddings: np.ndarray) -> list[Naming]:
        """Name the voices [k, e] of one recording; no two of them get one name."""
        voices = unit_vectors(embeddings, self.width)
        with database.reading(self.folder) as db:
            return name_voices(voices, people_store.gallery(db, self.width), people_store.thresholds(db).of_name())

    def search(self, embedding: np.ndarray, top: int = 10, *, exact: bool = False) -> list[Hit]:
        """Return the `top` recordings in which a voice [e] appears most likely, best first.

        `exact` looks at all slots, however many there are. Raises RequestError for `top` below 1.
        """
        if top < 1:
            raise RequestError(f"{top} recordings are asked for; needed is 1 or more")
        query = unit_vectors(embedding, self.width)
        with database.reading(self.folder) as db:
            gallery, thresholds = people_store.gallery(db, self.width), people_store.thresholds(db)
            slots, scores = slot_store.compare(db, query, exact=exact)
            best: dict[str, tuple[int, float]] = {}
            for place in np.argsort(-scores, kind="stable"):
                best.setdefault(
                    slot_store.recording_of(db, int(slots[place])), (int(slots[place]), float(scores[place]))
                )
                if len(best) == top:
                    break
            found = [(slot_store.look_up(db, slot), score) for slot, score in best.values()]
        return [
            Hit(
                slot,
                score,
                same=score >= thresholds.of_search(),
                name=slot.person or name_voices(slot.vector[None], gallery, thresholds.of_name())[0].name,
            )
            for slot, score in found
        ]


def _calibrated(trials: tuple[np.ndarray, np.ndarray], bound: float) -> Calibration | None:
    scores, same = trials
    return calibrate(scores, same, false_accept=bound) if same.any() and not same.all() else None

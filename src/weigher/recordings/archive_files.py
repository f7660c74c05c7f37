"""Which recordings an archive holds, where their results go, and which of them are finished.

The result of `FOLDER/sub/a.wav` is `OUT/sub/a.json` and, beside it, a file for each format asked for. The JSON is
written whole, and says what it was made with: the model's fingerprint (SHA-256 of its weights and settings), the bounds
on the number of people, and the size and time of the recording. It is written first without any format, as a sign that
the files beside it are ours, and last with all of them. A recording is finished when its JSON says just that, so that a
run that was interrupted, however hard, goes on where it stopped, and another model's results are made anew.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

from weigher.errors import RequestError, WeigherError
from weigher.io.atomic import writing
from weigher.io.folders import CONFIG, WEIGHTS
from weigher.io.speech import Regions, speech_of
from weigher.io.walk import walk_files
from weigher.recordings.diarizer import Diarizer
from weigher.recordings.result import Diarization

Format = Literal["rttm", "json", "csv", "audacity", "elan"]
FORMAT_SUFFIXES: dict[Format, str] = {
    "rttm": ".rttm",
    "json": ".json",
    "csv": ".csv",
    "audacity": ".txt",
    "elan": ".eaf",
}
"""How the files of each format end."""


class Bounds(TypedDict):
    """Bounds on the number of people, by the names `Diarizer.predict` has for them."""

    min_speakers: int | None
    max_speakers: int | None
    num_speakers: int | None


@dataclass(frozen=True)
class Source:
    """A recording of an archive and what it is called: its path in the archive without the ending, with `/`."""

    path: Path
    name: str


@dataclass(frozen=True)
class Job:
    """What is done to each recording of an archive."""

    model: Path
    fingerprint: str
    out: Path
    formats: tuple[Format, ...] = ("rttm",)
    min_speakers: int | None = None
    max_speakers: int | None = None
    num_speakers: int | None = None
    device: str = "auto"
    speech: Mapping[str, Regions] | None = None
    """Where somebody speaks, by the name of the recording; None: that is left to the model."""

    @property
    def bounds(self) -> Bounds:
        """The bounds on the number of people."""
        return Bounds(min_speakers=self.min_speakers, max_speakers=self.max_speakers, num_speakers=self.num_speakers)


@dataclass(frozen=True)
class Outcome:
    """What became of one recording: its `name` in the archive, and the number of people found where there is one.

    "done": a new result; "redone": one that replaced a result made with something else; "kept": it was finished before;
    "failed": there is none, for `reason`.
    """

    source: Source
    status: Literal["done", "redone", "kept", "failed"]
    people: int = 0
    reason: str = ""


def find_recordings(places: Sequence[Path], suffixes: frozenset[str]) -> list[Source]:
    """Return the recordings in order of their names: files as given, and from folders, at any depth, those so ending.

    Hidden files and folders are passed over, and links to folders are not followed. Raises RequestError for a place
    that does not exist, a folder that cannot be listed, and where there is no recording at all.

    >>> import tempfile
    >>> from weigher.io.audio import LIBSNDFILE_SUFFIXES
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "sub").mkdir()
    >>> for name in ("b.WAV", "sub/a.flac", ".c.wav", "notes.txt"):
    ...     (folder / name).touch()
    >>> [source.name for source in find_recordings([folder], LIBSNDFILE_SUFFIXES)]
    ['b', 'sub/a']
    """
    found = [source for place in places for source in _found(place, suffixes)]
    if not found:
        raise RequestError(
            f"there is no recording in {', '.join(map(str, places))}; looked for files that end in "
            f"{' '.join(sorted(suffixes))}"
        )
    unique = {os.path.abspath(source.path): source for source in found}
    return sorted(unique.values(), key=lambda source: (source.name, str(source.path)))


def _found(place: Path, suffixes: frozenset[str]) -> Iterator[Source]:
    if not place.exists():
        raise RequestError(f"{place} does not exist; give a recording, or a folder of recordings")
    if not place.is_dir():
        yield Source(place, place.stem)
        return
    for path in walk_files(place):
        if path.suffix.lower() in suffixes:
            yield Source(path, path.relative_to(place).with_suffix("").as_posix())


def fingerprint(model: Path) -> str:
    """Return the SHA-256 of a model folder's settings and weights, in hexadecimal; RequestError without them."""
    digest = hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        try:
            with (model / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise RequestError(f"cannot read {model / name}: {error.strerror}; give a model folder") from error
    return digest.hexdigest()


def standing(job: Job, source: Source) -> tuple[Literal["finished", "stale", "missing"], int]:
    """Return how far a recording is, and the number of people in the result that is there.

    "stale" is a result made with something else: another model, other bounds, fewer formats, or before the recording
    was changed.
    """
    record = _record(job, source)
    done = None if record is None else record.get("formats")
    if record is None or done == []:  # nothing, or the sign of a run that was cut off before its last file
        return "missing", 0
    files = all(_place(job, source, kind).is_file() for kind in job.formats)
    same = record.get("made_with") == made_with(job, source)
    made = same and isinstance(done, list) and set(job.formats) <= {*done}
    return "finished" if made and files else "stale", len(record.get("speakers", ()))


def made_with(job: Job, source: Source) -> dict[str, Any]:
    """Return what a result depends on: model, bounds, the recording as it is now (size and time), speech if given."""
    try:
        state = source.path.stat()
        size, time = state.st_size, state.st_mtime_ns
    except OSError:  # it went away; what is wrong with it is said when it is read
        size, time = -1, -1
    recording = {"file": source.path.name, "bytes": size, "modified_ns": time}
    made: dict[str, Any] = {"model": job.fingerprint, "recording": recording, **job.bounds}
    if job.speech is not None:
        regions = json.dumps(job.speech.get(source.name))
        made["speech"] = hashlib.sha256(regions.encode()).hexdigest()
    return made


def save(job: Job, source: Source, result: Diarization, made: dict[str, Any]) -> None:
    """Write the result in all formats of the job, each file whole or not at all, the JSON last.

    `made` is `made_with` as it was before the recording was read: one that changed meanwhile is then done again.
    """
    before = _record(job, source)
    others = before.get("formats", []) if before and before.get("made_with") == made else []

    def record(formats: Sequence[Format]) -> None:
        with writing(_place(job, source, "json"), "w") as file:
            json.dump({**result.to_dict(), "made_with": made, "formats": formats}, file, indent=2, allow_nan=False)

    if before is None:
        record([])  # a run that is killed before the last file is written finds that the others are its own
    for kind in job.formats:
        if kind != "json":
            with writing(_place(job, source, kind), "w") as file:
                file.write(as_text(result, kind, source.path))
    record(sorted({*job.formats, *others}))


def apply_one(diarizer: Diarizer, job: Job, source: Source) -> Outcome:
    """Apply the model to one recording and write the result; what is wrong with the recording is in the outcome.

    Raises WeigherError where no recording could be done (the disk is full).
    """
    try:
        check_ours(job.out, source.name, job.formats)
        replaces, made = standing(job, source)[0] == "stale", made_with(job, source)
        speech = None if job.speech is None else speech_of(source.name, job.speech, "the file of speech")
        result = diarizer.predict(source.path, file_id=source.name, speech=speech, **job.bounds)
        save(job, source, result, made)
    except RequestError as error:
        said = str(error)  # what is wrong with the bounds does not name the recording
        return Outcome(source, "failed", reason=said if str(source.path) in said else f"{source.path}: {said}")
    except WeigherError:
        raise
    except Exception as error:  # one odd recording in a hundred thousand does not cost the others theirs
        return Outcome(source, "failed", reason=f"{source.path}: {type(error).__name__}: {error}")
    return Outcome(source, "redone" if replaces else "done", len(result.speakers))


def as_text(result: Diarization, kind: Format, media: Path) -> str:
    """Return a result as the text of one file; ELAN opens the recording `media` beside it."""
    texts: dict[Format, Callable[[], str]] = {
        "rttm": result.to_rttm,
        "json": result.to_json,
        "csv": result.to_csv,
        "audacity": result.to_audacity,
        "elan": lambda: result.to_elan(media),
    }
    return texts[kind]()


def check_ours(out: Path, name: str, formats: Sequence[Format]) -> None:
    """Raise RequestError where a result would replace a file that no result of ours, in JSON beside it, vouches for.

    JSON that cannot be read vouches, too: it may be a result of ours that a failing disk has damaged.
    """
    record = out / f"{name}{FORMAT_SUFFIXES['json']}"
    places = [out / f"{name}{FORMAT_SUFFIXES[kind]}" for kind in formats]
    there = next((place for place in (*places, record) if place.exists()), None)
    found = _json(record)
    vouched = record.exists() and (found is None or _is_result(found))
    if there is not None and not vouched:
        raise RequestError(
            f"{there} is there already, and no result of this program beside it says that it made it; move it, or name "
            "another folder for the results"
        )


def _place(job: Job, source: Source, kind: Format) -> Path:
    return job.out / f"{source.name}{FORMAT_SUFFIXES[kind]}"


def _record(job: Job, source: Source) -> dict[str, Any] | None:
    """The JSON beside a result; None where there is none, or none of ours."""
    found = _json(_place(job, source, "json"))
    return found if _is_result(found) else None


def _json(path: Path) -> Any:
    """What a file of JSON holds; None where there is none, or it is damaged."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def _is_result(found: Any) -> bool:
    return isinstance(found, dict) and isinstance(found.get("speakers"), list)

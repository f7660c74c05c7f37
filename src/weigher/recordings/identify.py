"""From recordings to the index of people and back: enrol, name, remember, and the voice of a clip.

A voice is a slot that a diarizer keeps and that speaks at all. A recording is known in an index by its absolute path.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from weigher.errors import RequestError
from weigher.io.rttm import Segment
from weigher.recordings.configs import to_plain
from weigher.recordings.diarizer import Diarizer
from weigher.recordings.enrolment import assign_names
from weigher.recordings.heard_before import what_it_depends_on
from weigher.recordings.index import PeopleIndex
from weigher.recordings.naming import Naming
from weigher.recordings.people_store import check_name
from weigher.recordings.recorded import Recorded, checked
from weigher.recordings.result import Diarization

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Named:
    """A recording whose speakers bear the names of people, or "unknown1", "unknown2", ...; naming i is speaker i's."""

    result: Diarization
    namings: tuple[Naming, ...]


@dataclass(frozen=True)
class Enrolled:
    """What came of an enrolment."""

    recordings: dict[str, int]
    """From how many recordings each name got a vector."""
    agreement: dict[str, float]
    """Mean cosine between the vectors of a name: far below that of other names means that recordings disagree."""
    missing: tuple[tuple[str, str], ...]
    """Recording and name, where a cast told of somebody for whom there was no voice."""
    ambiguous: tuple[tuple[str, ...], ...]
    """Names that no cast tells apart: they always appear together. None of them was enrolled."""
    failed: tuple[tuple[str, str], ...]
    """Recordings that could not be read, and why."""


def fingerprint(diarizer: Diarizer) -> str:
    """Return what tells models apart: 16 hexadecimal digits of the SHA-256 of all weights, names and shapes included.

    Raises RequestError for a diarizer that was not fitted.

    >>> from weigher.recordings.model import RecordingModel
    >>> diarizer = Diarizer(device="cpu")
    >>> diarizer.model_ = RecordingModel(diarizer.config.model)
    >>> len(fingerprint(diarizer))
    16
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(_fitted(diarizer).state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def open_index(diarizer: Diarizer, folder: str | os.PathLike[str], *, create: bool = False) -> PeopleIndex:
    """Open the index of a model, with `create` also where there is none yet.

    Raises RequestError where there is none, where it is damaged, and where it belongs to another model.
    """
    told = {"model": fingerprint(diarizer), "width": diarizer.config.model.encoder.embedding}
    if create:
        return PeopleIndex.create(folder, **told)
    index = PeopleIndex(folder)
    index.check_model(**told)
    return index


def recording_name(path: str | os.PathLike[str]) -> str:
    """Return what a recording is called in an index: its absolute path, with bytes that are no UTF-8 shown as escapes.

    >>> recording_name("/a/../b.wav")
    '/b.wav'
    """
    return os.fsencode(os.path.abspath(path)).decode("utf-8", "backslashreplace")


def identify(diarizer: Diarizer, index: PeopleIndex, recording: str | Path, **predict) -> Named:
    """Say who speaks when, by name where people are known.

    `predict` goes to `Diarizer.predict`; raises as that does.
    """
    return name_speakers(diarizer.predict(recording, **predict), index)


def name_speakers(result: Diarization, index: PeopleIndex) -> Named:
    """Give each speaker of a result the name of the person they are, or "unknown1", "unknown2", ..."""
    namings = index.name(result.embeddings) if result.speakers else []
    unknown = iter(range(1, len(namings) + 1))
    names = tuple(naming.name or f"unknown{next(unknown)}" for naming in namings)
    called = dict(zip(result.speakers, names, strict=True))
    segments = tuple(Segment(turn.start, turn.end, called[turn.speaker]) for turn in result.segments)
    return Named(replace(result, speakers=names, segments=segments), tuple(namings))


def as_recorded(result: Diarization, recording: str) -> Recorded:
    """Return the voices of a result that `speaking` lists, as an index keeps them; whose they are stays untold."""
    chosen = speaking(result)
    turns = [
        np.array([(turn.start, turn.end) for turn in result.segments if turn.speaker == result.speakers[i]])
        for i in chosen
    ]
    return Recorded(recording, result.embeddings[chosen], result.confidence[chosen], turns, [None] * len(chosen))


def speaking(result: Diarization) -> list[int]:
    """Return the numbers of the speakers who say anything at all."""
    spoken = result.speaking_seconds
    return [i for i, name in enumerate(result.speakers) if spoken[name] > 0]


def clip_voice(diarizer: Diarizer, clip: str | Path) -> np.ndarray:
    """Return the embedding [e] of the voice of a clip in which one person speaks, the surest where there are several.

    Raises RequestError where nobody speaks in it, and as `Diarizer.predict`.
    """
    result = diarizer.predict(clip, max_speakers=1)
    if not speaking(result):
        raise RequestError(f"nobody is heard to speak in {clip}; give a clip of one voice, some seconds long")
    return result.embeddings[speaking(result)[0]]


def enroll(
    diarizer: Diarizer,
    index: PeopleIndex,
    casts: Sequence[tuple[Path, Sequence[str]]],
    *,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> Enrolled:
    """Enrol everybody whom casts name, from whole recordings, and keep the recordings for searches: all or nothing.

    A recording is heard with at most as many speakers as its cast has names. Which voice bears which name is found by
    what casts share (see `enrolment`), people enrolled before being a help. Names that no cast tells apart, and those
    for whom there is no voice, are left out and listed; with `skip_bad` recordings that cannot be read are too. What
    was heard when it is cut off need not be heard again (see `heard_before`).

    Raises RequestError where a recording cannot be read, for names that cannot be, and where no name finds a voice.
    """
    told: list[list[str]] = []
    heard: list[Recorded] = []  # without tracks: those of a long cast list would fill any memory
    failed: list[tuple[str, str]] = []
    tidy = [(path, [check_name(name) for name in cast]) for path, cast in casts]
    made_with = _made_with(diarizer, tidy)
    before = index.heard_before(made_with)
    for done, (path, cast) in enumerate(tidy, start=1):
        name = recording_name(path)
        try:
            each = before.get(name)
            if each is None:
                each = checked(as_recorded(diarizer.predict(path, max_speakers=len(cast)), name), index.width)
                if name in made_with:
                    index.keep_heard(each, made_with[name])
            heard.append(each)
            told.append(cast)
        except RequestError as error:
            if not skip_bad:
                raise
            failed.append((str(path), str(error)))
        if progress is not None:
            progress("enroll", done, len(tidy))
    found = assign_names([each.embeddings for each in heard], told, index.vectors())
    samples: dict[str, list[tuple[str, np.ndarray]]] = {}
    recordings: list[Recorded] = []
    missing: list[tuple[str, str]] = []
    unclear = {name for group in found.ambiguous for name in group}
    for each, cast, voice_of in zip(heard, told, found.voices, strict=True):
        bearer = {voice: name for name, voice in voice_of.items()}
        recordings.append(replace(each, people=[bearer.get(i) for i in range(len(each.embeddings))]))
        for name, voice in voice_of.items():
            samples.setdefault(name, []).append((each.recording, each.embeddings[voice]))
        missing += [(each.recording, name) for name in cast if name not in voice_of and name not in unclear]
    if not samples:
        together = "; ".join(", ".join(group) for group in found.ambiguous)
        why = f"these names always appear together: {together}" if together else "nobody is heard to speak in them"
        raise RequestError(f"nobody could be enrolled from {len(casts)} recording(s): {why}")
    index.enroll(samples, recordings)
    index.drop_heard()
    counts = {name: len(rows) for name, rows in samples.items()}
    return Enrolled(counts, found.agreement, tuple(missing), found.ambiguous, tuple(failed))


def _made_with(diarizer: Diarizer, casts: Sequence[tuple[Path, Sequence[str]]]) -> dict[str, str]:
    """What the voices of each recording depend on; those that are not there, or are there twice, are left out."""
    settings = json.dumps(to_plain(diarizer.config), sort_keys=True)
    model = fingerprint(diarizer) + hashlib.sha256(settings.encode()).hexdigest()[:16]
    times = Counter(recording_name(path) for path, _ in casts)
    found = {}
    for path, cast in casts:
        with suppress(OSError):  # what is wrong with it is said when it is heard
            found[recording_name(path)] = what_it_depends_on(path, model, len(cast))
    return {name: made_with for name, made_with in found.items() if times[name] == 1}


def _fitted(diarizer: Diarizer) -> torch.nn.Module:
    if diarizer.model_ is None:
        raise RequestError("this diarizer has learned nothing yet; call fit(cast) or from_pretrained(folder) first")
    return diarizer.model_

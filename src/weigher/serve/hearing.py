"""One recording heard: who speaks when, how sure that is, what it looks like; and names given to its voices.

With an index of people, voices are named by it and names given here are written to it:

    a voice nobody knows gets a name     its vector is enrolled under that name, which may be a new one
    a person gets another name           they are renamed in the index, and in every recording that is held
    a voice is somebody else after all   its vector is enrolled under the other name; where the first name came from
                                         this recording alone, it is taken back

Without an index a name is kept with the recording, and goes with it. A vector's source is the hash of the recording, so
that the same recording sent twice counts once. Nothing else of a recording is kept.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from weigher.errors import RequestError
from weigher.io.audio import SAMPLE_RATE, AudioError, read_audio, stream_audio
from weigher.io.rttm import Segment
from weigher.recordings.decode import choose_slots
from weigher.recordings.diarizer import Diarizer
from weigher.recordings.identify import name_speakers
from weigher.recordings.index import PeopleIndex
from weigher.recordings.naming import Naming
from weigher.recordings.people_store import check_name
from weigher.recordings.result import Diarization
from weigher.serve.jobs import Progress
from weigher.serve.limits import Limits

LONGEST_CUT_SECONDS = 300.0
"""As much of a recording as is played at a time."""
_READ_SECONDS = 30.0


@dataclass(frozen=True, eq=False)
class Heard:
    """What is known of one recording; naming i is that of speaker i, with name None where nobody in the index is it."""

    name: str
    """The name it was sent with, for show."""
    path: Path
    """Where its sound is."""
    source: str
    """What tells its content from that of others."""
    result: Diarization
    namings: tuple[Naming, ...]
    envelope: np.ndarray
    """[columns], in [0, 1]: the loudest sample of each part, the loudest of all being 1."""

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain data, and of each speaker whether it is a known person, how alike, and to whom."""
        told = self.result.to_dict()
        for speaker, naming in zip(told["speakers"], self.namings, strict=True):
            speaker |= {"known": naming.name is not None, "score": round(naming.score, 6), "nearest": naming.nearest}
        return told


class Listener:
    """A diarizer and, where there is one, the index of the people whom it knows by name.

    Only one thread at a time may give names: `Service` sees to it.
    """

    def __init__(self, diarizer: Diarizer, index: PeopleIndex | None, limits: Limits) -> None:
        """Raises RequestError for a model that hears no sound."""
        if diarizer.config.model.front.kind == "features":
            raise RequestError(
                "this model hears features made elsewhere, which nobody can drop on a page; serve a model that hears "
                "sound: train one with the front end log-mel or wavlm"
            )
        self.diarizer, self.index, self.limits = diarizer, index, limits

    def check_bounds(self, bounds: Mapping[str, int | None], seconds: float) -> None:
        """Raise RequestError for numbers of speakers that contradict each other, or are more than there can be."""
        choose_slots(
            np.zeros(self.diarizer.most_speakers(seconds)),
            min_speakers=bounds["min_speakers"],
            max_speakers=bounds["max_speakers"],
            num_speakers=bounds["num_speakers"],
        )

    def listen(self, path: Path, name: str, bounds: Mapping[str, int | None], progress: Progress) -> Heard:
        """Hear a recording; raises AudioError where it is damaged and TooLargeError where it is too long."""
        envelope = read_envelope(path, self.limits, progress)
        result = self.diarizer.predict(
            path,
            file_id=Path(name).stem,
            progress=progress,
            min_speakers=bounds["min_speakers"],
            max_speakers=bounds["max_speakers"],
            num_speakers=bounds["num_speakers"],
        )
        with path.open("rb") as file:
            source = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        if self.index is None:
            nobody = (Naming(None, None, 0.0),) * len(result.speakers)
            return Heard(name, path, source, result, nobody, envelope)
        named = name_speakers(result, self.index)
        return Heard(name, path, source, named.result, named.namings, envelope)

    def name_voice(self, heard: Heard, speaker: str, name: str) -> Heard:
        """Say that a voice of a recording is this person's, and return the recording so named.

        Raises RequestError for a speaker who is not in it, names that cannot be, and a name that another voice bears.
        """
        name = check_name(name)
        row = _row(heard, speaker)
        if name == speaker:
            return heard
        if name in heard.result.speakers:
            raise RequestError(f"another voice of {heard.name} is called {name!r}; two voices are two people")
        if self.index is None:
            return _renamed(heard, row, name, heard.namings[row])
        old, people = heard.namings[row].name, {person.name for person in self.index.people()}
        if old is not None and self._only_from(heard, old):
            self.index.merge([old], name) if name in people else self.index.rename(old, name)
        else:
            self.index.enroll({name: [(heard.source, heard.result.embeddings[row])]})
        self.index.recalibrate()
        return _renamed(heard, row, name, Naming(name, name, 1.0))

    def rename_person(self, old: str, new: str) -> str:
        """Give a person in the index another name, and return it as the index keeps it; raises as `rename` there."""
        new = check_name(new)
        self.people().rename(old, new)
        return new

    def people(self) -> PeopleIndex:
        """Return the index; RequestError where there is none."""
        if self.index is None:
            raise RequestError("this server keeps no people; start it with `--people DIR` to know them by name")
        return self.index

    def _only_from(self, heard: Heard, name: str) -> bool:
        """Tell whether all that is known of a person comes from this recording."""
        (person,) = self.people().export([name])["people"]
        return all(each["source"] == heard.source for each in person["vectors"]) and not person["recordings"]


def with_person_renamed(heard: Heard, old: str, new: str) -> Heard:
    """Return a recording in which the voice of the person `old`, if there is one, bears the name `new`."""
    rows = [row for row, naming in enumerate(heard.namings) if naming.name == old]
    if not rows or new in heard.result.speakers:
        return heard
    return _renamed(heard, rows[0], new, replace(heard.namings[rows[0]], name=new))


def read_cut(heard: Heard, start: float, end: float) -> np.ndarray:
    """Return the sound from start to end in seconds, within ±1: [samples] at 16 kHz, at most five minutes of it.

    Raises RequestError where not 0 <= start < end, and AudioError for a part that is not in the recording.
    """
    if not 0 <= start < end:
        raise RequestError(f"a part from {start:g} s to {end:g} s is asked for; needed is 0 <= start < end")
    try:
        samples = read_audio(heard.path, start_seconds=start, duration_seconds=min(end - start, LONGEST_CUT_SECONDS))
    except AudioError as error:  # the name that the sender knows, not a path on this machine
        raise AudioError(str(error).replace(str(heard.path), heard.name)) from error
    return samples / max(1.0, float(np.abs(samples).max()))


def as_wav(samples: np.ndarray) -> bytes:
    """Return samples [any] within ±1 at 16 kHz as a WAV file of 16 bits."""
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()


def read_envelope(path: Path, limits: Limits, progress: Progress) -> np.ndarray:
    """Decode a whole recording once, and return how loud it is in [0, 1]: [columns], some for each pixel of a screen.

    Raises AudioError where it is damaged, and TooLargeError as soon as it is too long, whatever its header says.
    """
    seconds = limits.check_recording(path)
    width = columns(seconds)
    found, first = np.zeros(width, np.float32), 0
    for start, samples in stream_audio(path, window_seconds=_READ_SECONDS, step_seconds=_READ_SECONDS):
        limits.check_seconds(start + len(samples) / SAMPLE_RATE)
        places = (first + np.arange(len(samples))) / SAMPLE_RATE / seconds * width
        np.maximum.at(found, np.minimum(places.astype(np.int64), width - 1), np.abs(samples))
        first += len(samples)
        progress("read", min(first, round(seconds * SAMPLE_RATE)) // SAMPLE_RATE, round(seconds))
    return found / max(float(found.max()), 1e-9)


def columns(seconds: float) -> int:
    """Return how many columns a picture of so many seconds has: 1200 up to five minutes, at most 6000.

    >>> columns(30.0), columns(600.0), columns(7200.0)
    (1200, 2400, 6000)
    """
    return round(1200 * min(max(seconds / 300, 1.0), 5.0))


def _row(heard: Heard, speaker: str) -> int:
    if speaker not in heard.result.speakers:
        known = ", ".join(heard.result.speakers) or "nobody"
        raise RequestError(f"nobody in {heard.name} is called {speaker!r}; there are {known}")
    return heard.result.speakers.index(speaker)


def _renamed(heard: Heard, row: int, name: str, naming: Naming) -> Heard:
    result = heard.result
    old = result.speakers[row]
    speakers = tuple(name if i == row else each for i, each in enumerate(result.speakers))
    segments = tuple(Segment(t.start, t.end, name if t.speaker == old else t.speaker) for t in result.segments)
    namings = tuple(naming if i == row else each for i, each in enumerate(heard.namings))
    return replace(heard, result=replace(result, speakers=speakers, segments=segments), namings=namings)

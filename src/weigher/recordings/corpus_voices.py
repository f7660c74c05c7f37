"""The voices of a corpus as points with labels: every slot that speaks, and whose it is where a cast list tells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from weigher.errors import RequestError
from weigher.io.audio import LIBSNDFILE_SUFFIXES
from weigher.io.manifest import read_manifest
from weigher.recordings.archive_files import find_recordings
from weigher.recordings.diarizer import Diarizer
from weigher.recordings.enrolment import assign_names
from weigher.recordings.identify import speaking

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class CorpusVoices:
    """Voices of a corpus: row i of `vectors` is labelled `labels[i]` and comes from `recordings[i]`."""

    vectors: np.ndarray
    """float32 [n, e], unit length."""
    labels: tuple[str, ...]
    """Names from the cast list; a voice nobody names has the name of its recording and slot."""
    recordings: tuple[str, ...]
    named: bool
    """Whether the corpus has a cast list."""
    failed: tuple[tuple[str, str], ...]
    """Recordings that could not be read, and why."""


def corpus_voices(
    diarizer: Diarizer, corpus: Path, *, skip_bad: bool = False, progress: Progress | None = None
) -> CorpusVoices:
    """Hear all recordings of a corpus: a folder (its recordings at any depth), or a cast list (`read_manifest`).

    In a recording with a cast at most so many voices are taken as it names; which is whose is found by what recordings
    share (`assign_names`). `progress` gets "hear". Raises RequestError for a corpus that cannot be read or in which
    nobody speaks, and for a recording that cannot be read, unless `skip_bad`.
    """
    if corpus.is_dir():
        suffixes = frozenset({".npz"}) if diarizer.config.model.front.kind == "features" else LIBSNDFILE_SUFFIXES
        work = [(source.path, source.name, None) for source in find_recordings([corpus], suffixes)]
        failed: list[tuple[str, str]] = []
    else:
        manifest = read_manifest(corpus, skip_bad=skip_bad)
        work = [(recording.path, str(recording.path), recording.cast) for recording in manifest.recordings]
        failed = [(f"line {skipped.line}", skipped.reason) for skipped in manifest.skipped]
    heard: list[tuple[str, np.ndarray, tuple[str, ...]]] = []
    for done, (path, name, cast) in enumerate(work, 1):
        try:
            result = diarizer.predict(path, max_speakers=None if cast is None else len(cast))
            heard.append((name, result.embeddings[speaking(result)], cast or ()))
        except RequestError as error:
            if not skip_bad:
                raise
            failed.append((str(path), str(error)))
        if progress is not None:
            progress("hear", done, len(work))
    if not any(len(vectors) for _, vectors, _ in heard):
        raise RequestError(f"nobody is heard to speak in the {len(work)} recordings of {corpus}; is the model trained?")
    named = not corpus.is_dir()
    found = assign_names([vectors for _, vectors, _ in heard], [cast for _, _, cast in heard]) if named else None
    labels, recordings = [], []
    for place, (name, vectors, _) in enumerate(heard):
        told = {} if found is None else {slot: person for person, slot in found.voices[place].items()}
        labels += [told.get(slot, f"{name}#{slot}") for slot in range(len(vectors))]
        recordings += [name] * len(vectors)
    vectors = np.concatenate([vectors for _, vectors, _ in heard])
    return CorpusVoices(vectors, tuple(labels), tuple(recordings), named, tuple(failed))

"""Recordings without any labels, as features in memory: what pre-training hears."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from weigher.errors import RequestError
from weigher.io.audio import SAMPLE_RATE, read_audio
from weigher.io.features import load_arrays, read_features
from weigher.io.manifest import read_manifest
from weigher.io.voices import read_voices
from weigher.recordings.archive_files import LIBSNDFILE_SUFFIXES, find_recordings
from weigher.recordings.features import HOP_SAMPLES, LogMel, LogMelConfig
from weigher.recordings.model import FrontConfig

Progress = Callable[[str, int, int], None]
_HOP_SECONDS = HOP_SAMPLES / SAMPLE_RATE  # of log-mel energies
_SHOWN = 5  # reasons in one message


@dataclass(frozen=True, eq=False)
class Unlabelled:
    """Recordings in memory."""

    values: list[np.ndarray]
    """float16 [t, f] each."""
    front: FrontConfig
    """What the values are: log-mel energies, or features of this size and hop."""
    skipped: tuple[str, ...]
    """What was left out, and why."""
    names: tuple[str | None, ...]
    """Who speaks in each, where the source names one person alone. Nothing is learned from it."""

    @property
    def hop_seconds(self) -> float:
        """Seconds from one row of the values to the next."""
        return _HOP_SECONDS if self.front.kind == "log-mel" else self.front.hop_seconds


def read_unlabelled(
    place: Path,
    mels: int = 40,
    *,
    least: Callable[[float], int] = lambda hop_seconds: 1,
    progress: Progress | None = None,
) -> Unlabelled:
    """Read recordings: a folder of audio or of features (`.npz`) at any depth, a cast list, a container, or one file.

    Audio becomes `mels` log-mel energies every 10 ms. Of a cast list (`read_manifest`) the names are kept of those who
    are alone. Of a container of features (`read_voices`) every utterance is a recording. What cannot be read, or has
    less frames than `least` says for the seconds from one to the next, is left out and listed in `skipped`. `progress`
    gets "read".

    Raises RequestError where there is nothing, or nothing is left; where a folder holds features of two kinds.
    """
    skipped: list[str] = []
    found = list(_found(place, mels, skipped))
    front, values, names = FrontConfig(mels=mels), [], []
    for done, (name, who, load) in enumerate(found, 1):
        try:
            loaded, hop_seconds = load()
            if hop_seconds:
                own = replace(front, kind="features", features=loaded.shape[1], hop_seconds=hop_seconds)
                if values and own != front:
                    raise RequestError(
                        f"{name} holds {own.features} features every {own.hop_seconds:g} s, others have "
                        f"{front.features} every {front.hop_seconds:g} s; give recordings computed alike"
                    )
                front = own
            needed = least(hop_seconds or _HOP_SECONDS)
            if len(loaded) < needed:
                raise RequestError(f"{name} is too short to learn from: {len(loaded)} frames, needed are {needed}")
            values.append(loaded.astype(np.float16))
            names.append(who)
        except RequestError as error:
            skipped.append(str(error))
        if progress is not None:
            progress("read", done, len(found))
    if not values:
        more = f"\n  and {len(skipped) - _SHOWN} more" if len(skipped) > _SHOWN else ""
        raise RequestError(f"no recording of {place} can be used:\n  " + "\n  ".join(skipped[:_SHOWN]) + more)
    return Unlabelled(values, front, tuple(skipped), tuple(names))


Loaded = tuple[np.ndarray, float]
"""Rows [t, f], and their hop in seconds where they are features (0: log-mel)."""


def _found(place: Path, mels: int, skipped: list[str]) -> Iterator[tuple[str, str | None, Callable[[], Loaded]]]:
    """Yield what each recording is called, who alone speaks in it where that is told, and how to load it."""
    suffix = place.suffix.lower()
    cast: dict[Path, str] = {}
    if suffix == ".npz" and "offsets" in load_arrays(place, (), optional=("offsets",)):
        voices = read_voices(place)
        for one in voices.utterances:
            yield f"{place}: {one.speaker} {one.name}", one.speaker, partial(_utterance, one.load, voices.hop_seconds)
        return
    log_mel = LogMel(LogMelConfig(mels=mels, remove_mean=False))
    if place.is_dir():
        try:
            paths = [source.path for source in find_recordings([place], LIBSNDFILE_SUFFIXES)]
        except RequestError:
            paths = [source.path for source in find_recordings([place], frozenset({".npz"}))]
    elif suffix == ".npz" or suffix in LIBSNDFILE_SUFFIXES:
        paths = [place]
    else:
        manifest = read_manifest(place, skip_bad=True)
        skipped += [f"line {one.line}: {one.reason}" for one in manifest.skipped]
        paths = [one.path for one in manifest.recordings]
        cast = {one.path: one.cast[0] for one in manifest.recordings if len(one.cast) == 1}
        kinds = {path.suffix.lower() == ".npz" for path in paths}
        if len(kinds) > 1:
            raise RequestError(f"{place} lists features (.npz) and audio; give a list of one kind")
    for path in paths:
        load = _features if path.suffix.lower() == ".npz" else partial(_audio, log_mel)
        yield str(path), cast.get(path), partial(load, path)


def _utterance(load: Callable[[], np.ndarray], hop_seconds: float) -> Loaded:
    return load(), hop_seconds


def _features(path: Path) -> Loaded:
    features = read_features(path)
    return features.values, features.hop_seconds


@torch.inference_mode()
def _audio(log_mel: LogMel, path: Path) -> Loaded:
    return log_mel(torch.from_numpy(read_audio(path))[None])[0][0].numpy(), 0.0

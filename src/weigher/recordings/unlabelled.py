"""Recordings without any labels, as features in memory: what pre-training hears."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from weigher.errors import RequestError
from weigher.io.audio import LIBSNDFILE_SUFFIXES, SAMPLE_RATE, read_audio
from weigher.io.features import load_arrays, read_features
from weigher.io.manifest import read_manifest
from weigher.io.unlabelled import holdings
from weigher.io.voices import read_voices
from weigher.io.walk import linked_folders
from weigher.recordings.archive_files import find_recordings
from weigher.recordings.features import HOP_SAMPLES, LogMel, LogMelConfig, compact
from weigher.recordings.model import FrontConfig

Progress = Callable[[str, int, int], None]
_HOP_SECONDS = HOP_SAMPLES / SAMPLE_RATE  # of log-mel energies
_SHOWN = 5  # reasons in one message


@dataclass(frozen=True, eq=False)
class Unlabelled:
    """Recordings in memory."""

    values: list[np.ndarray]
    """[t, f] each: float16, or float32 where `weigher.recordings.features.compact` leaves it."""
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
    place: str | os.PathLike[str],
    mels: int = 40,
    *,
    least: Callable[[float], tuple[int, str]] = lambda hop_seconds: (1, "a row"),
    progress: Progress | None = None,
) -> Unlabelled:
    """Read recordings: a folder of audio or of features (`.npz`) at any depth, a cast list, a container, or one file.

    Audio becomes `mels` log-mel energies every 10 ms. Of a cast list (`read_manifest`) the names are kept of those who
    are alone. Of a container of features (`read_voices`) every utterance is a recording. Left out and listed in
    `skipped` are what cannot be read; what has less frames than `least` says, with why, for the seconds from one to the
    next; what is the same from its first frame to its last, as silence is; features of another width or hop than most;
    and what else lies in a folder: of audio and features, audio is taken. `progress` gets "read".

    Raises RequestError where there is nothing, or nothing is left; where no kind of features is that of most.
    """
    place = Path(place)
    skipped: list[str] = []
    found = list(_found(place, mels, skipped))
    read: list[_Read] = []
    counted: Counter[_Kind] = Counter()
    for done, (name, who, load) in enumerate(found, 1):
        try:
            one = _Read(name, who, *load())
            counted[one.kind] += 1
            one.check(least)
            read.append(one)
        except RequestError as error:
            skipped.append(str(error))
        if progress is not None:
            progress("read", done, len(found))
    kind = _kind_of_most(counted, place)
    others = [one for one in read if one.kind != kind]
    skipped += [f"{one.name} holds {_words(one.kind)}, and most hold {_words(kind)}" for one in others]
    read = [one for one in read if one.kind == kind]
    if not read:
        more = f"\n  and {len(skipped) - _SHOWN} more" if len(skipped) > _SHOWN else ""
        raise RequestError(f"no recording of {place} can be used:\n  " + "\n  ".join(skipped[:_SHOWN]) + more)
    front = FrontConfig(mels=mels)
    if kind is not None:
        front = replace(front, kind="features", features=kind[0], hop_seconds=read[0].hop_seconds)
    return Unlabelled([one.values for one in read], front, tuple(skipped), tuple(one.who for one in read))


_Kind = tuple[int, float] | None  # width and hop in seconds of features; None: log-mel energies


class _Read:
    def __init__(self, name: str, who: str | None, values: np.ndarray, hop_seconds: float):
        self.name, self.who, self.hop_seconds = name, who, hop_seconds
        self.values = compact(values) if hop_seconds else values.astype(np.float16)
        # hops are told apart as models do: a file may hold 0.02 in single precision
        self.kind: _Kind = (values.shape[1], float(f"{hop_seconds:.3g}")) if hop_seconds else None

    def check(self, least: Callable[[float], tuple[int, str]]) -> None:
        """Raise RequestError where there is nothing to learn from."""
        needed, why = least(self.hop_seconds or _HOP_SECONDS)
        if len(self.values) < needed:
            raise RequestError(
                f"{self.name} is too short to learn from: {len(self.values)} frames, needed are {needed}: {why}"
            )
        if len(self.values) > 1 and (self.values == self.values[0]).all():
            raise RequestError(
                f"{self.name} is the same from its first frame to its last (silence?): there is nothing to learn"
            )


def _kind_of_most(counted: Counter[_Kind], place: Path) -> _Kind:
    most = counted.most_common(2)
    if len(most) > 1 and most[0][1] == most[1][1]:
        (first, count), (second, _) = most
        raise RequestError(
            f"as many recordings of {place} hold {_words(first)} as {_words(second)} ({count}): give recordings "
            "computed alike"
        )
    return most[0][0] if most else None


def _words(kind: _Kind) -> str:
    return "audio" if kind is None else f"{kind[0]} features every {kind[1]:g} s"


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
        suffixes, kind = LIBSNDFILE_SUFFIXES, "audio"
        held = holdings(place)
        if not held[kind] and held["features (.npz)"]:
            suffixes, kind = frozenset({".npz"}), "features (.npz)"
        paths = [source.path for source in find_recordings([place], suffixes)]
        for other in sorted(held.keys() - {kind}):
            files = "1 file" if held[other] == 1 else f"{held[other]} files"
            skipped.append(f"{files} of {place} that by the ending hold {other}: with {kind} in it, these are read")
        skipped += [f"{link}, a link to a folder; give what it leads to" for link in linked_folders(place)]
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
    energies = log_mel(torch.from_numpy(read_audio(path))[None])[0][0].numpy()
    if not np.isfinite(energies).all():
        raise RequestError(f"{path} is too loud for its energies to be computed; scale it into -1 ... 1")
    return energies, 0.0

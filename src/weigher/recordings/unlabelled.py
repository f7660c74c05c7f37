"""Recordings without any labels, as features in memory: what pre-training hears."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
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
from weigher.recordings.archive_files import find_recordings
from weigher.recordings.features import HOP_SAMPLES, LogMel, LogMelConfig
from weigher.recordings.model import FrontConfig

Progress = Callable[[str, int, int], None]
_HOP_SECONDS = HOP_SAMPLES / SAMPLE_RATE  # of log-mel energies
_MOST = float(np.finfo(np.float16).max)
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
    for done, (name, who, load) in enumerate(found, 1):
        try:
            values, hop_seconds = load()
            with np.errstate(over="ignore"):
                values = values.astype(np.float16)
            if not np.isfinite(values).all():
                raise RequestError(f"{name} holds values beyond +-{_MOST:g}, the most of float16: scale the features")
            read.append(_Read(name, who, values, (values.shape[1], hop_seconds) if hop_seconds else None))
        except RequestError as error:
            skipped.append(str(error))
        if progress is not None:
            progress("read", done, len(found))
    kind = _kind_of_most(read, place)
    fit = []
    for one in read:
        reason = one.unfit(kind, least)
        if reason is None:
            fit.append(one)
        else:
            skipped.append(f"{one.name} {reason}")
    if not fit:
        more = f"\n  and {len(skipped) - _SHOWN} more" if len(skipped) > _SHOWN else ""
        raise RequestError(f"no recording of {place} can be used:\n  " + "\n  ".join(skipped[:_SHOWN]) + more)
    front = FrontConfig(mels=mels)
    if kind is not None:
        front = replace(front, kind="features", features=kind[0], hop_seconds=kind[1])
    return Unlabelled([one.values for one in fit], front, tuple(skipped), tuple(one.who for one in fit))


@dataclass(frozen=True, eq=False)
class _Read:
    name: str
    who: str | None
    values: np.ndarray
    kind: tuple[int, float] | None
    """Width and hop in seconds of features; None: log-mel energies."""

    def unfit(self, kind: tuple[int, float] | None, least: Callable[[float], tuple[int, str]]) -> str | None:
        """Say why nothing can be learned from it beside others of this kind; None where it can."""
        if self.kind != kind:
            return f"holds {_words(self.kind)}, and most hold {_words(kind)}; give recordings computed alike"
        needed, why = least(_HOP_SECONDS if kind is None else kind[1])
        if len(self.values) < needed:
            return f"is too short to learn from: {len(self.values)} frames, needed are {needed}: {why}"
        if len(self.values) > 1 and (self.values == self.values[0]).all():
            return "is the same from its first frame to its last (silence?): there is nothing to learn"
        return None


def _kind_of_most(read: Sequence[_Read], place: Path) -> tuple[int, float] | None:
    counted = Counter(one.kind for one in read).most_common(2)
    if len(counted) > 1 and counted[0][1] == counted[1][1]:
        (first, count), (second, _) = counted
        raise RequestError(
            f"as many recordings of {place} hold {_words(first)} as {_words(second)} ({count}): give recordings "
            "computed alike"
        )
    return counted[0][0] if counted else None


def _words(kind: tuple[int, float] | None) -> str:
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
            skipped.append(f"{files} of {place} that by the ending hold {other}: it is read as one of {kind}")
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

"""Voices to make recordings from: single-speaker utterances in folders of audio or in one container of features."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from weigher.errors import RequestError
from weigher.io.audio import AUDIO_SUFFIXES, SAMPLE_RATE, read_audio
from weigher.io.features import dequantise, load_arrays, positive_scalar, quantisation_scale

_LAYOUT = (
    "needed is a folder with one folder for each speaker and that speaker's recordings right in it "
    f"(SPEAKER/name.flac; {' '.join(AUDIO_SUFFIXES)}), or one .npz container of features"
)


@dataclass(frozen=True)
class Utterance:
    """A stretch in which one person speaks; `load` reads it anew at each call."""

    speaker: str
    name: str
    load: Callable[[], np.ndarray]
    """-> float32 [samples] at 16 kHz (audio) or [t, f] (features)"""


@dataclass(frozen=True)
class Voices:
    """Utterances of one kind, on one time grid."""

    kind: Literal["audio", "features"]
    hop_seconds: float
    """Seconds between neighbouring samples or rows: 1 / 16000 for audio."""
    utterances: tuple[Utterance, ...]

    @property
    def speakers(self) -> tuple[str, ...]:
        """The different speakers, sorted."""
        return tuple(sorted({utterance.speaker for utterance in self.utterances}))

    def only(self, speakers: Iterable[str]) -> Voices:
        """The utterances of these speakers, in their order here; raises RequestError when one of them is not here.

        >>> voices = Voices("features", 0.01, tuple(Utterance(s, "1", lambda: np.zeros((9, 2))) for s in "abc"))
        >>> voices.only(["c", "a"]).speakers
        ('a', 'c')
        """
        wanted = {speakers} if isinstance(speakers, str) else set(speakers)
        unknown = sorted(wanted - set(self.speakers))
        if unknown:
            raise RequestError(f"no utterance is by {', '.join(unknown[:10])}; {len(self.speakers)} others are there")
        return replace(self, utterances=tuple(u for u in self.utterances if u.speaker in wanted))


def read_voices(path: str | os.PathLike[str]) -> Voices:
    """List the utterances of a folder SPEAKER/*.{flac,wav,...} or of an .npz container of features.

    A container holds `features` int8 [frames, f] with a scalar `scale` (or floats without), `offsets` int64
    [utterances + 1] (utterance i is rows offsets[i]:offsets[i + 1]), `speaker` and `utterance` text [utterances], and
    `hop_seconds` (0.01 where it is absent). Audio is read, and int8 is turned into float32, only when an utterance
    is loaded. Hidden files and files of other kinds are passed over. Names of speakers are taken as manifests take
    them: accents composed (NFC), no white space around.

    Raises RequestError that says which layout is needed.

    >>> import tempfile
    >>> from weigher.io.audio import write_audio
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_audio(folder / "anna" / "1.flac", np.zeros(1600))
    >>> voices = read_voices(folder)
    >>> voices.speakers, voices.utterances[0].name, voices.utterances[0].load().shape
    (('anna',), '1.flac', (1600,))
    """
    path = Path(path)
    if path.is_dir():
        return _audio_voices(path)
    if not path.exists():
        raise RequestError(f"the voices {path} do not exist; {_LAYOUT}")
    if path.suffix.lower() != ".npz":
        raise RequestError(f"{path} holds no voices; {_LAYOUT}")
    return _feature_voices(path)


def _audio_voices(folder: Path) -> Voices:
    speakers = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    utterances = tuple(
        Utterance(_name(speaker.name), file.name, partial(read_audio, file))
        for speaker in speakers
        for file in sorted(speaker.iterdir())
        if _is_audio(file)
    )
    if not utterances:
        raise RequestError(f"{folder} {_what_is_there(folder)}; {_LAYOUT}")
    return Voices("audio", 1 / SAMPLE_RATE, utterances)


def _name(speaker: str) -> str:
    """One spelling for one person, or casts and turns would differ."""
    return unicodedata.normalize("NFC", speaker.strip())


def _is_audio(file: Path) -> bool:
    return file.suffix.lower() in AUDIO_SUFFIXES and not file.name.startswith(".") and file.is_file()


def _what_is_there(folder: Path) -> str:
    """How a folder without SPEAKER/*.flac differs from one: nothing is guessed, since a wrong guess mixes up people."""
    found = next((file for file in sorted(folder.rglob("*")) if _is_audio(file)), None)
    if found is None:
        return "holds no audio"
    depth = "right in it" if found.parent == folder else "deeper down"
    return f"has its audio {depth} ({found.relative_to(folder)})"


def _feature_voices(path: Path) -> Voices:
    arrays = load_arrays(path, ("features", "offsets", "speaker", "utterance"), optional=("scale", "hop_seconds"))
    features, offsets, speaker, name = (arrays[key] for key in ("features", "offsets", "speaker", "utterance"))
    scale = quantisation_scale(path, arrays)
    hop_seconds = positive_scalar(path, "hop_seconds", arrays.get("hop_seconds", np.array(0.01)))
    if features.ndim != 2 or not features.size:
        raise RequestError(f"{path}: features have the shape {features.shape}; needed is [frames, features], not empty")
    if scale is None and not np.isfinite(features).all():
        raise RequestError(f"{path}: features hold NaN or infinity; compute them again")
    if offsets.ndim != 1 or offsets.dtype.kind not in "iu" or len(offsets) < 2:
        raise RequestError(f"{path}: offsets are {offsets.dtype} {offsets.shape}; needed is int64 [utterances + 1]")
    count = len(offsets) - 1
    for key, array in (("speaker", speaker), ("utterance", name)):
        if array.dtype.kind != "U" or array.shape != (count,):
            raise RequestError(
                f"{path}: {key} is {array.dtype} {array.shape}; needed is text [{count}], one for each utterance"
            )
    edges = offsets.astype(np.int64)
    if edges[0] != 0 or edges[-1] != len(features) or (np.diff(edges) <= 0).any():
        raise RequestError(
            f"{path}: offsets run from {edges[0]} to {edges[-1]}; they need to rise from 0 to {len(features)}, "
            "the number of frames, by 1 or more for each utterance"
        )
    utterances = tuple(
        Utterance(_name(str(speaker[i])), str(name[i]), partial(dequantise, features[edges[i] : edges[i + 1]], scale))
        for i in range(count)
    )
    return Voices("features", hop_seconds, utterances)

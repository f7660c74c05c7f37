"""What a diarizer says about one recording: who is there, how sure it is, and when each of them speaks."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from weigher.errors import RequestError
from weigher.io.atomic import writing
from weigher.io.exports import format_audacity, format_csv, format_elan
from weigher.io.rttm import Segment, format_rttm

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DIGITS = 6  # of what is written: microseconds, and more than single precision has to say about a confidence


@dataclass(frozen=True, eq=False, kw_only=True)
class Diarization:
    """One recording's k speakers, in order of first appearance; row i of every array is speaker i.

    Turns of different speakers may overlap. A speaker can be sure to be there (`confidence`) and say little
    (`speaking_seconds`): these are two questions. Raises RequestError where the parts do not fit together.

    >>> result = Diarization(
    ...     file_id="talk", seconds=2.0, hop_seconds=1.0, speakers=("ann",), segments=(Segment(0.0, 1.0, "ann"),),
    ...     confidence=np.array([0.9]), embeddings=np.ones((1, 1)), tracks=np.array([[0.9], [0.1]]),
    ... )
    >>> print(result.to_rttm(), end="")
    SPEAKER talk 1 0.000 1.000 <NA> <NA> ann <NA> <NA>
    >>> result.speaking_seconds
    {'ann': 1.0}
    """

    file_id: str
    """What the recording is called, in RTTM too."""
    segments: tuple[Segment, ...]
    """Turns in order of start."""
    speakers: tuple[str, ...]
    """k names, all different."""
    confidence: np.ndarray
    """[k], in [0, 1]: how sure it is that this speaker is there."""
    embeddings: np.ndarray
    """[k, e], unit length: alike for one person in two recordings."""
    tracks: np.ndarray
    """[t, k], in [0, 1]: the weight of frame t, which covers [t * hop, (t + 1) * hop) seconds."""
    hop_seconds: float
    """Seconds from one frame to the next."""
    seconds: float
    """Length of the recording."""

    def __post_init__(self):
        k = len(self.speakers)
        shapes = {name: np.shape(getattr(self, name)) for name in ("confidence", "embeddings", "tracks")}
        fits = shapes["confidence"] == (k,) and shapes["embeddings"][:1] == (k,) and shapes["tracks"][1:] == (k,)
        if not fits or len(shapes["embeddings"]) != 2:
            told = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise RequestError(f"{self.file_id!r} has {k} speakers and {told}; needed are [{k}], [{k}, e] and [t, {k}]")
        if len(set(self.speakers)) < k:
            raise RequestError(
                f"speakers of {self.file_id!r} share a name: {', '.join(self.speakers)}; name them apart"
            )
        strangers = sorted({turn.speaker for turn in self.segments} - set(self.speakers))
        if strangers:
            raise RequestError(f"turns of {self.file_id!r} name {', '.join(strangers)}, who is none of its speakers")

    @property
    def speaking_seconds(self) -> dict[str, float]:
        """Seconds each speaker speaks, by name; turns of one speaker that overlap count once."""
        return {name: _covered([turn for turn in self.segments if turn.speaker == name]) for name in self.speakers}

    def to_rttm(self) -> str:
        """Return the turns as RTTM lines; empty where nobody speaks."""
        return format_rttm(self.file_id, self.segments)

    def to_dict(self) -> dict[str, Any]:
        """Return who is there and the turns as plain numbers, strings and lists, without the arrays of frames."""
        spoken = self.speaking_seconds
        return {
            "file_id": self.file_id,
            "seconds": _plain(self.seconds),
            "hop_seconds": _plain(self.hop_seconds),
            "speakers": [
                {"name": name, "confidence": _plain(sure), "speaking_seconds": _plain(spoken[name])}
                for name, sure in zip(self.speakers, self.confidence, strict=True)
            ],
            "segments": [
                {"start": _plain(turn.start), "end": _plain(turn.end), "speaker": turn.speaker}
                for turn in self.segments
            ],
        }

    def to_json(self) -> str:
        """Return `to_dict` as one JSON object.

        Keys: file_id, seconds, hop_seconds, speakers (name, confidence, speaking_seconds) and segments (start, end,
        speaker); letters outside ASCII are escaped, so that any terminal and file can hold it.
        """
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def to_csv(self) -> str:
        """Return the turns as CSV with CTM's fields: file, channel, start, duration, speaker, confidence."""
        return format_csv(self.file_id, self.segments, dict(zip(self.speakers, self.confidence, strict=True)))

    def to_audacity(self) -> str:
        """Return the turns as an Audacity label track: start, end and name between tabs."""
        return format_audacity(self.segments)

    def to_elan(self, media: str | os.PathLike[str] | None = None) -> str:
        """Return the turns as an ELAN document (.eaf), one tier for each speaker; ELAN opens `media` beside it."""
        return format_elan(self.segments, media=None if media is None else Path(media))

    def plot(
        self,
        path: str | os.PathLike[str] | None = None,
        reference: Iterable[Segment] | None = None,
        samples: np.ndarray | None = None,
    ) -> Figure:
        """Return the picture of the tracks as a matplotlib figure, and write it to `path` if one is given.

        The format goes by the ending of the path (.png, .svg, .pdf and others). `reference` is drawn beneath in
        matching colours; `samples` `[any]` are the sound of the whole recording at any rate.
        Raises: RequestError where matplotlib is not installed and for an ending that stands for no format.
        """
        from weigher.plot.tracks import plot_tracks

        figure = plot_tracks(
            self.tracks,
            self.hop_seconds,
            self.speakers,
            segments=self.segments,
            confidence=self.confidence,
            reference=reference or (),
            samples=samples,
            seconds=self.seconds,
            title=self.file_id,
        )
        if path is not None:
            kind = Path(path).suffix.lower().removeprefix(".")
            known = sorted(figure.canvas.get_supported_filetypes())
            if kind not in known:
                raise RequestError(
                    f"cannot draw to {os.fspath(path)!r}: its name needs to end in one of {', '.join(known)}"
                )
            with writing(path) as file:
                figure.savefig(file, format=kind)
        return figure


def _covered(turns: list[Segment]) -> float:
    """Return the seconds that at least one of the turns covers."""
    times = np.array(sorted((turn.start, turn.end) for turn in turns)).reshape(-1, 2)
    reached = np.maximum.accumulate(times[:, 1])
    begins = np.maximum(times[1:, 0], reached[:-1])
    return float(np.sum(times[:1, 1] - times[:1, 0]) + np.sum(np.maximum(times[1:, 1] - begins, 0.0)))


def _plain(number: float) -> float:
    return round(float(number), _DIGITS)

"""What applying a model gives: who speaks when, how sure it is, and what each person sounds like."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from weigher.io.rttm import Segment, format_rttm

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Diarization:
    """Who speaks when in one recording.

    segments: turns in order of start; speakers: k names; confidence [k] in [0, 1]; embeddings [k, e], unit length;
    tracks [t, k] in [0, 1] on frames of hop_seconds; seconds: length of the recording.
    """

    file_id: str
    segments: tuple[Segment, ...]
    speakers: tuple[str, ...]
    confidence: np.ndarray
    embeddings: np.ndarray
    tracks: np.ndarray
    hop_seconds: float
    seconds: float

    def speaking_seconds(self) -> dict[str, float]:
        """How long each speaker speaks, overlaps counted for each."""
        total = dict.fromkeys(self.speakers, 0.0)
        for segment in self.segments:
            total[segment.speaker] += segment.end - segment.start
        return total

    def to_rttm(self) -> str:
        """The turns as RTTM text."""
        return format_rttm(self.file_id, self.segments)

    def to_json(self) -> str:
        """One JSON object: file_id, seconds, hop_seconds, speakers (name, confidence, speaking_seconds), segments."""
        seconds = self.speaking_seconds()
        return json.dumps(
            {
                "file_id": self.file_id,
                "seconds": round(self.seconds, 3),
                "hop_seconds": self.hop_seconds,
                "speakers": [
                    {"name": name, "confidence": round(float(sure), 4), "speaking_seconds": round(seconds[name], 3)}
                    for name, sure in zip(self.speakers, self.confidence, strict=True)
                ],
                "segments": [
                    {"start": round(s.start, 3), "end": round(s.end, 3), "speaker": s.speaker} for s in self.segments
                ],
            },
            ensure_ascii=False,
        )

    def plot(self, path: str | Path | None = None, **more) -> Figure:
        """Draw the tracks; see `weigher.plot.tracks.plot_tracks`."""
        from weigher.plot.tracks import plot_tracks

        return plot_tracks(self, path, **more)

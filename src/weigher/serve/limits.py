"""What strangers may hand in: how many bytes, how many minutes, how many at once, and under which names.

A recording is known by its content alone. The name that came with it is shown and written into results, never used as
a path and never trusted to tell the format.
"""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from weigher.errors import RequestError
from weigher.io.audio import audio_seconds

_LONGEST_NAME = 120
_UNSEEN = re.compile("[\x00-\x1f\x7f\u2028\u2029\ud800-\udfff]+")


class TooLargeError(RequestError):
    """More bytes or more minutes than this server takes."""


@dataclass(frozen=True)
class Limits:
    """How much a server takes; raises RequestError for limits under which nothing could be done."""

    megabytes: float = 200.0
    """Largest upload, in 10^6 bytes."""
    minutes: float = 120.0
    """Longest recording."""
    queue: int = 8
    """Recordings that may wait or be worked on at a time, those still being sent included."""
    keep_minutes: float = 60.0
    """A result and its recording are removed so long after they were last asked for."""
    upload_seconds: float = 900.0
    """Longest time that one upload may take."""

    def __post_init__(self) -> None:
        for name in ("megabytes", "minutes", "queue", "keep_minutes", "upload_seconds"):
            if not 0 < getattr(self, name) < math.inf:
                raise RequestError(f"the limit of {name} is {getattr(self, name)}; needed is a finite number above 0")

    @property
    def bytes(self) -> int:
        """Largest upload in bytes."""
        return round(self.megabytes * 1e6)

    def check_bytes(self, count: int) -> None:
        """Raise TooLargeError for more bytes than one upload may have.

        >>> Limits(megabytes=1).check_bytes(1_000_000)
        """
        if count > self.bytes:
            raise TooLargeError(f"the upload is larger than {self.megabytes:g} MB, the most that this server takes")

    def check_seconds(self, seconds: float) -> None:
        """Raise TooLargeError for a recording longer than this server takes.

        >>> Limits(minutes=2).check_seconds(120.0)
        """
        if seconds > self.minutes * 60:
            raise TooLargeError(f"the recording is longer than {self.minutes:g} min, the most that this server takes")

    def check_recording(self, path: Path) -> float:
        """Return the seconds of a recording, as its header tells them.

        Raises AudioError for what is no audio, whatever its name, and TooLargeError for what is too long.
        """
        seconds = audio_seconds(path)
        self.check_seconds(seconds)
        return seconds


def display_name(told: str | None) -> str:
    r"""Return the name of an upload as it is shown: no folders, no control characters, at most 120 letters.

    >>> display_name("../../etc/Über uns.wav"), display_name("C:\\talks\\a.wav"), display_name(""), display_name("..")
    ('Über uns.wav', 'a.wav', 'recording', 'recording')
    """
    name = unicodedata.normalize("NFC", _UNSEEN.sub(" ", told or "")).replace("\\", "/").rsplit("/", 1)[-1].strip()
    return name[-_LONGEST_NAME:] if name.strip(". ") else "recording"

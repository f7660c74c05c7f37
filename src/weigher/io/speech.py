"""Where somebody speaks, as another program found it: RTTM or UEM by recording, or Audacity labels of one recording."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from weigher.errors import RequestError
from weigher.io.rows import text_of
from weigher.io.rttm import read_uem, rttm_turns

Regions = tuple[tuple[float, float], ...]
"""Start and end in seconds, in order, none touching the next."""

_KINDS = (".rttm", ".uem", ".txt")


def joined(regions: Iterable[tuple[float, float]]) -> Regions:
    """Return regions in order, those that touch or overlap as one, those without length left out.

    Raises RequestError for times that are negative or not finite, and for regions that end before they start.

    >>> joined([(5, 6), (0, 2), (1, 3), (3, 4)])
    ((0.0, 4.0), (5.0, 6.0))
    """
    found: list[tuple[float, float]] = []
    for start, end in sorted((float(start), float(end)) for start, end in regions):
        if not 0 <= start <= end < math.inf:
            raise RequestError(f"speech from {start} s to {end} s is given; needed is 0 <= start <= end")
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        elif end > start:
            found.append((start, end))
    return tuple(found)


def read_speech(path: str | os.PathLike[str], file_id: str) -> Regions:
    """Read where somebody speaks in the recording `file_id`; who speaks is not heeded.

    By the name's ending: `.rttm`, `.uem`, or `.txt`, the labels of Audacity (start, end and name between tabs) of one
    recording, whatever it is called. Raises RequestError for a file that cannot be read, is of another kind, or tells
    nothing of this recording: one in which nobody speaks has a turn of no length in RTTM, and labels without lines.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "speech.txt"
    >>> _ = path.write_text("0.5\\t2.0\\tspeech\\n2.0\\t3.5\\tspeech\\n")
    >>> read_speech(path, "any")
    ((0.5, 3.5),)
    """
    source = Path(path)
    if source.suffix.lower() == ".txt":
        return joined(_labels(source))
    return speech_of(file_id, read_speech_of_all(source), str(source))


def speech_of(file_id: str, told: Mapping[str, Regions], source: str) -> Regions:
    """Return where somebody speaks in one recording of many; RequestError, naming the source, if it is not among them.

    >>> speech_of("a", {"a": ((0.0, 2.0),)}, "speech.uem")
    ((0.0, 2.0),)
    """
    if file_id not in told:
        raise RequestError(
            f"{source} tells nothing of {file_id!r}, but of {_named(list(told))}; add it (in RTTM with a turn of no "
            "length where nobody speaks), or name another"
        )
    return told[file_id]


def read_speech_of_all(path: str | os.PathLike[str]) -> dict[str, Regions]:
    """Read where somebody speaks in each recording that an RTTM or UEM file tells of, by the recording's name.

    Raises RequestError as `read_speech` does, and for Audacity labels, which do not say what they are of.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "speech.uem"
    >>> _ = path.write_text("a 1 0.0 2.0\\nsub/b 1 1.0 4.0\\n")
    >>> read_speech_of_all(path)
    {'a': ((0.0, 2.0),), 'sub/b': ((1.0, 4.0),)}
    """
    source = Path(path)
    kind = source.suffix.lower()
    if kind == ".txt":
        raise RequestError(f"{source} holds labels of one recording; name one, or give RTTM or UEM for several")
    if kind not in _KINDS:
        raise RequestError(f"speech is read from {source}; its name needs to end in {', '.join(_KINDS)}")
    told: dict[str, list[tuple[float, float]]] = {}
    if kind == ".uem":
        told = read_uem(source)
    else:
        for name, turn in rttm_turns(source):  # a recording of turns of no length alone is told of: nobody speaks
            told.setdefault(name, []).append((turn.start, turn.end))
    return {name: joined(regions) for name, regions in told.items()}


def _labels(source: Path) -> list[tuple[float, float]]:
    found = []
    for line, content in enumerate(text_of(source).split("\n"), start=1):
        fields = content.rstrip("\r").split("\t")
        if not content.strip() or fields[0] == "\\":  # a second line of a label tells of frequencies
            continue
        try:
            start, end = (float(field.replace(",", ".")) for field in fields[:2])  # some systems write decimal commas
        except ValueError as error:
            shown = content if len(content) <= 80 else content[:80] + "..."
            raise RequestError(
                f"{source}, line {line}: {shown!r} is no label; needed are start, end and a name between tabs"
            ) from error
        if not 0 <= start <= end < math.inf:
            raise RequestError(f"{source}, line {line}: a label from {start} s to {end} s; needed is 0 <= start <= end")
        found.append((start, end))
    return found


def _named(names: list[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "") or "nothing"

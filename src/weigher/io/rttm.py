"""RTTM files (who speaks when) and UEM files (which parts are scored), read and written.

One turn is one line, `SPEAKER file channel start duration <NA> <NA> speaker <NA> <NA>`, in seconds; one scored region
is `file channel start end`. The channel is read over and written as 1. Fields end at spaces, so names are written with
percent escapes (see `escape_name`); files are UTF-8. Times are kept to the microsecond.

Source: NIST, "The 2009 (RT-09) Rich Transcription Meeting Recognition Evaluation Plan", appendix A (RTTM), and the UEM
format of the same campaigns.
"""

from __future__ import annotations

import math
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, unquote

from weigher.errors import RequestError
from weigher.io.atomic import writing

_OTHER_TYPES = {"SEGMENT", "NOSCORE", "NO_RT_METADATA", "LEXEME", "NON-LEX", "NON-SPEECH", "FILLER", "EDIT", "SU", "IP"}
_OTHER_TYPES |= {"CB", "A/P", "SPKR-INFO"}
# \s: every space of Unicode, where other readers split; after a double quote, some read on to the next one
_UNSAFE = re.compile(r"[\s\x00-\x1f\x7f-\x9f%\"]|^;|^<(?=NA>$)")
_ESCAPED = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
_MICROSECOND_DIGITS = 6
_Entry = TypeVar("_Entry")


@dataclass(frozen=True, slots=True)
class Segment:
    """One turn: `speaker` talks from `start` to `end`, in seconds."""

    start: float
    end: float
    speaker: str


def escape_name(name: str) -> str:
    """Return a name as one field of an RTTM or UEM line; `unescape_name` gives it back.

    White space of any kind, control characters, `"` and `%` become percent escapes of their UTF-8 bytes, as in web
    addresses (a space is `%20`), and so does the first letter of `<NA>` and of names that begin with `;`, which mean
    something else in these files. All other letters, of any script, stay as they are.

    Raises RequestError for an empty name and for one that is no valid Unicode.

    >>> escape_name("Anna Löf"), escape_name("100%"), escape_name("<NA>")
    ('Anna%20Löf', '100%25', '%3CNA>')
    """
    if not name:
        raise RequestError("a name of a speaker or file is empty; RTTM and UEM files need at least one letter")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"the name {name!r} is no valid Unicode and cannot be written; rename it") from error
    return _UNSAFE.sub(lambda match: quote(match[0], safe=""), name)


def unescape_name(field: str) -> str:
    """Return the name a field stands for; a `%` that begins no escape of UTF-8 text is taken as it stands.

    >>> unescape_name("Anna%20Löf"), unescape_name("100%"), unescape_name("%FF")
    ('Anna Löf', '100%', '%FF')
    """
    return _ESCAPED.sub(_unquoted, field)


def read_rttm(path: str | os.PathLike[str]) -> dict[str, list[Segment]]:
    """Read one RTTM file as `{recording: turns}`, recordings in their order in the file, turns sorted by start.

    Lines of RTTM's other types, comments (`;;`), empty lines and turns shorter than a microsecond are left out; parts
    that are not to be scored belong in a UEM file, `NOSCORE` lines are not heeded. Raises as `rttm_turns`.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "talk.rttm"
    >>> write_rttm(path, {"talk": [Segment(0.5, 2.25, "Anna Löf")]})
    >>> read_rttm(path)
    {'talk': [Segment(start=0.5, end=2.25, speaker='Anna Löf')]}
    """
    recordings: dict[str, list[Segment]] = {}
    for recording, turn in rttm_turns(path):
        if turn.end > turn.start:
            recordings.setdefault(recording, []).append(turn)
    return {recording: sorted(turns, key=_by_time) for recording, turns in recordings.items()}


def rttm_turns(path: str | os.PathLike[str]) -> Iterator[tuple[str, Segment]]:
    """Yield recording and turn of every `SPEAKER` line in its order, turns of no length included.

    Raises RequestError with file and line for what is no RTTM line: a wrong number of fields, times that are no
    numbers or negative, a turn without a speaker, bytes that are no UTF-8; and where the file cannot be read.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "talk.rttm"
    >>> _ = path.write_text("SPEAKER talk 1 0.5 0.0 <NA> <NA> Ann <NA> <NA>")
    >>> list(rttm_turns(path))
    [('talk', Segment(start=0.5, end=0.5, speaker='Ann'))]
    """
    for line, fields in _lines(Path(path)):
        if fields[0] in _OTHER_TYPES:
            continue
        if fields[0] != "SPEAKER" or len(fields) not in (9, 10):
            raise RequestError(
                f"{path}, line {line}: {_shown(fields)} is no RTTM line; needed are the 10 fields `SPEAKER file 1 "
                "start duration <NA> <NA> speaker <NA> <NA>`, with %20 for a space within a name"
            )
        start = _time(path, line, "start", fields[3])
        end = round(start + _time(path, line, "duration", fields[4]), _MICROSECOND_DIGITS)
        if fields[7] == "<NA>":
            raise RequestError(f"{path}, line {line}: the turn has no speaker; give the name in the 8th field")
        yield unescape_name(fields[1]), Segment(start, end, unescape_name(fields[7]))


def read_rttm_tree(path: str | os.PathLike[str]) -> dict[str, list[Segment]]:
    """Read one RTTM file, or every `*.rttm` in a folder and the folders below it, as `read_rttm` does.

    A file without turns stands for a recording in which nobody speaks: it is there, with an empty list. It is called
    like the file without `.rttm`, and in a folder by the path below it (`sub/a`), as `weigher apply` calls recordings.
    Accents in names of recordings are composed (NFC), so that a name typed on two systems is one name.

    Raises RequestError as `read_rttm` does, where there is no RTTM file, and where two files tell of one recording.
    """
    return _read_tree(Path(path), "*.rttm", lambda file, name: read_rttm(file) or {name: []}, _by_time)


def recording_ids(paths: Iterable[str | os.PathLike[str]]) -> list[str]:
    """Return what recordings are called in RTTM, their file names without ending (accents composed), no name twice.

    Raises RequestError where two recordings have the same name, for then nothing tells their turns apart.

    >>> recording_ids(["calls/a b.wav", "calls/c.flac"])
    ['a b', 'c']
    """
    named: dict[str, str | os.PathLike[str]] = {}
    for path in paths:
        name = unicodedata.normalize("NFC", Path(path).stem)
        if name in named:
            raise RequestError(
                f"{os.fspath(named[name])!r} and {os.fspath(path)!r} have the same name, {name!r}, and nothing would "
                "tell their results apart; take them one by one, or give the folder that holds both"
            )
        named[name] = path
    return list(named)


def format_rttm(file_id: str, segments: Iterable[Segment]) -> str:
    """Return one recording as RTTM lines, sorted by start; turns shorter than a microsecond leave no line.

    Raises RequestError for times that are negative or not finite, turns that end before they start, and empty names.

    >>> print(format_rttm("talk", [Segment(0.5, 2.25, "Anna"), Segment(0, 1, "Bo")]), end="")
    SPEAKER talk 1 0.000 1.000 <NA> <NA> Bo <NA> <NA>
    SPEAKER talk 1 0.500 1.750 <NA> <NA> Anna <NA> <NA>
    """
    lines = []
    for turn in sorted(segments, key=_by_time):
        start, end = _microseconds(file_id, turn.start, turn.end)
        if end > start:
            times = f"{_seconds(start)} {_seconds(end - start)}"
            lines.append(f"SPEAKER {escape_name(file_id)} 1 {times} <NA> <NA> {escape_name(turn.speaker)} <NA> <NA>\n")
    return "".join(lines)


def write_rttm(path: str | os.PathLike[str], recordings: Mapping[str, Iterable[Segment]]) -> None:
    """Write recordings as one RTTM file, whole or not at all.

    A recording in which nobody speaks leaves no line: RTTM cannot say so, save by an empty file of its name (see
    `read_rttm_tree`). Raises as `format_rttm` does, and as `weigher.io.atomic.writing` does where writing fails.
    """
    text = "".join(format_rttm(file_id, segments) for file_id, segments in recordings.items())
    with writing(path, "w") as file:
        file.write(text)


def read_uem(path: str | os.PathLike[str]) -> dict[str, list[tuple[float, float]]]:
    """Read one UEM file as `{recording: [(start, end), ...]}` in seconds, sorted by start.

    Raises RequestError with file and line for a line that is not `file channel start end` with 0 <= start < end, and
    where the file cannot be read.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "talk.uem"
    >>> write_uem(path, {"talk": [(0, 2142.709375)]})
    >>> read_uem(path)
    {'talk': [(0.0, 2142.709375)]}
    """
    recordings: dict[str, list[tuple[float, float]]] = {}
    for line, fields in _lines(Path(path)):
        if len(fields) != 4:
            raise RequestError(
                f"{path}, line {line}: {_shown(fields)} is no UEM line; needed is `file 1 start end`, "
                "with %20 for a space within a name"
            )
        start, end = (_time(path, line, what, field) for what, field in zip(("start", "end"), fields[2:], strict=True))
        if end <= start:
            raise RequestError(f"{path}, line {line}: the region ends at {end} s, not after its start at {start} s")
        recordings.setdefault(unescape_name(fields[0]), []).append((start, end))
    return {recording: sorted(regions) for recording, regions in recordings.items()}


def read_uem_tree(path: str | os.PathLike[str]) -> dict[str, list[tuple[float, float]]]:
    """Read one UEM file, or every `*.uem` in a folder and the folders below it, as `read_uem` does.

    Accents in names are composed, as by `read_rttm_tree`. Raises RequestError as `read_uem` does, where there is no UEM
    file, and where two files tell of one recording.
    """
    return _read_tree(Path(path), "*.uem", lambda file, _: read_uem(file), lambda region: region)


def write_uem(path: str | os.PathLike[str], recordings: Mapping[str, Iterable[tuple[float, float]]]) -> None:
    """Write the scored regions of recordings, (start, end) in seconds, as one UEM file, whole or not at all.

    Raises RequestError for regions without length or with times that are negative or not finite, and for empty names.
    """
    lines = []
    for file_id, regions in recordings.items():
        for region in sorted(regions):
            start, end = _microseconds(file_id, *region)
            if end == start:
                raise RequestError(f"the region {region} of {file_id!r} has no length; it must end after it starts")
            lines.append(f"{escape_name(file_id)} 1 {_seconds(start)} {_seconds(end)}\n")
    with writing(path, "w") as file:
        file.write("".join(lines))


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the fields of each line that holds something."""
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name, which another list gave
        reason = getattr(error, "strerror", None) or error
        raise RequestError(f"cannot read {path}: {reason}; name a file that is there") from error
    for number, raw in enumerate(content.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        try:
            fields = raw.decode().replace("\t", " ").split(" ")
        except UnicodeDecodeError as error:
            raise RequestError(f"{path}, line {number}: this is no UTF-8 text; save the file as UTF-8") from error
        fields = [field for field in fields if field]
        if fields and not fields[0].startswith(";;"):
            yield number, fields


def _read_tree(
    path: Path,
    pattern: str,
    read: Callable[[Path, str], Mapping[str, list[_Entry]]],
    order: Callable[[_Entry], tuple],
) -> dict[str, list[_Entry]]:
    """Read a file, or those of a folder, by `read(file, its name)`."""
    in_folder = path.is_dir()
    recordings: dict[str, list[_Entry]] = {}
    told_by: dict[str, Path] = {}
    for file in sorted(path.rglob(pattern)) if in_folder else [path]:
        name = file.relative_to(path).with_suffix("").as_posix() if in_folder else file.stem
        for spelling, entries in read(file, name).items():
            recording = unicodedata.normalize("NFC", spelling)
            if told_by.setdefault(recording, file) != file:
                raise RequestError(f"{file} and {told_by[recording]} both tell of {recording!r}; keep one")
            recordings[recording] = sorted([*recordings.get(recording, []), *entries], key=order)
    if not told_by and in_folder:
        raise RequestError(f"there is no {pattern} file in the folder {path}; name a file, or a folder that holds some")
    return recordings


def _shown(fields: list[str], most: int = 100) -> str:
    line = " ".join(fields)
    return repr(line if len(line) <= most else line[:most] + "...")


def _time(path: str | os.PathLike[str], line: int, what: str, field: str) -> float:
    try:
        seconds = float(field)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise RequestError(f"{path}, line {line}: the {what} is {field!r}; needed is a number of seconds, 0 or more")
    return round(seconds, _MICROSECOND_DIGITS)


def _microseconds(file_id: str, start: float, end: float) -> tuple[int, int]:
    # Both ends are rounded, not the duration: turns that touch still touch once they are read back.
    if not 0 <= start <= end < math.inf:
        raise RequestError(
            f"a turn or region of {file_id!r} runs from {start} s to {end} s; 0 <= start <= end is needed"
        )
    return round(start * 1e6), round(end * 1e6)


def _seconds(microseconds: int) -> str:
    return f"{microseconds / 1e6:.6f}".removesuffix("000")


def _by_time(segment: Segment) -> tuple[float, float, str]:
    return segment.start, segment.end, segment.speaker


def _unquoted(match: re.Match[str]) -> str:
    try:
        return unquote(match[0], errors="strict")
    except UnicodeDecodeError:
        return match[0]

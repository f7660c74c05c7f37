"""Rows of manifests as they stand in files: CSV, JSON lines, and RTTM whose times are dropped.

A reader gives a `Row` for each line that tells of a recording, at fault or not; `weigher.io.manifest` checks them all.
Formats of other programs are in `weigher.io.interchange` and `weigher.io.pyannote_lists`.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from weigher.errors import RequestError
from weigher.io.audio import AUDIO_SUFFIXES
from weigher.io.rttm import read_rttm, unescape_name

_NAME_COLUMNS = ("speakers", "speaker", "speaker_id")


class ManifestError(RequestError):
    """A manifest, or rows of it, that cannot be used; the message names the file and the lines."""


@dataclass(frozen=True)
class Row:
    """A row as it stands in the file; `problem` says why it is none."""

    line: int
    file_name: str = ""
    names: Sequence[str] = ()
    problem: str = ""
    endings: Sequence[str] = ("",)
    """What may follow `file_name` in the name of the file."""
    or_here: bool = False
    """Whether a relative name may also be meant from the working folder."""


def tidy(name: str) -> str:
    """Return a name without white space around it, its accents composed (NFC)."""
    return unicodedata.normalize("NFC", name.strip())


def shortened(path: Path, most: int = 300) -> str:
    """Return a path as text for a message: a damaged list may name one of megabytes.

    >>> shortened(Path("a" * 1000), most=8)
    'aaaa...aaaa'
    """
    text = str(path)
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-most // 2 :]}"


def text_of(source: Path) -> str:
    """Return the text of a manifest; ManifestError where it is not there or no UTF-8."""
    if not os.path.isfile(source):  # unlike Path.is_file, false for names that are too long to be one
        raise ManifestError(f"the manifest {shortened(source)} does not exist; check its name")
    content = source.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ManifestError(f"{source}, line {line}: this is not UTF-8; save the manifest as UTF-8 text") from error


def csv_rows(source: Path) -> Iterator[Row]:
    """Yield the rows of a CSV: file_name, and speakers with `;` between names, or one name in speaker or speaker_id."""
    reader = csv.reader(io.StringIO(text_of(source), newline=""), strict=True)  # strict: an open quote swallows no rows
    header: list[str] = []
    who = ""
    while True:
        line = reader.line_num + 1
        try:
            values = next(reader, None)
        except csv.Error as error:
            raise ManifestError(f"{source}, line {line}: this is no CSV ({error}); check its quotes") from error
        if values is None:
            break
        values = [value.strip() for value in values]
        if not any(values):
            continue
        if not header:
            header = values
            who = next((column for column in _NAME_COLUMNS if column in header), "")
            if header.count("file_name") != 1 or not who or header.count(who) != 1:
                raise ManifestError(
                    f"{source}, line {line}: the header is {','.join(header)!r}; it needs the columns file_name and "
                    "speakers (or speaker, or speaker_id), each once, with commas between columns"
                )
        elif len(values) != len(header):
            found = f"{len(values)} value" + "s" * (len(values) != 1)
            yield Row(line, problem=f"{found} where the header has {len(header)}; a value with a comma needs quotes")
        else:
            row = dict(zip(header, values, strict=True))
            names = _split_names(row[who]) if who == "speakers" else [tidy(row[who])]
            yield Row(line, row["file_name"], names)


def json_lines(text: str) -> Iterator[tuple[int, dict | None, str]]:
    """Yield (line, object, problem) for each line that holds something; the object is None where it is none."""
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except (ValueError, RecursionError) as error:
            yield line, None, f"this is no JSON ({error}); each line needs to be one object"
            continue
        yield (line, row, "") if isinstance(row, dict) else (line, None, "")


def json_rows(text: str) -> Iterator[Row]:
    """Yield the rows of JSON lines: file_name, and the list speakers, or one name in speaker or speaker_id."""
    for line, row, problem in json_lines(text):
        names = None if row is None else json_names(row)
        file_name = None if row is None else row.get("file_name")
        if isinstance(file_name, str) and names is not None:
            yield Row(line, file_name, names)
        else:
            needed = 'needed is {"file_name": "text", "speakers": ["text", ...]}, or one name as "speaker"'
            yield Row(line, problem=problem or needed)


def json_names(row: dict) -> list[str] | None:
    """Return the names of an object: the list speakers, or the one speaker or speaker_id; None where there are none."""
    if "speakers" in row:
        names = row["speakers"]
        fits = isinstance(names, list) and all(isinstance(name, str) for name in names)
        return [tidy(name) for name in names] if fits else None
    name = one_name(row, _NAME_COLUMNS[1:])
    return None if name is None else [name]


def one_name(row: dict, keys: Sequence[str]) -> str | None:
    """Return the first text or whole number (many data sets number their people) that stands under one of the keys."""
    for key in keys:
        if isinstance(row.get(key), str | int) and not isinstance(row[key], bool):
            return tidy(str(row[key]))
    return None


def rttm_rows(source: Path) -> Iterator[Row]:
    """Yield the recordings of an RTTM file; their files are called like them, with an audio ending."""
    lines_of: dict[str, int] = {}
    for line, content in enumerate(re.split("\r\n|\r|\n", text_of(source)), start=1):
        fields = [part for part in re.split("[ \t]", content) if part]
        if fields[:1] == ["SPEAKER"] and len(fields) > 1:
            lines_of.setdefault(unescape_name(fields[1]), line)
    for file_id, turns in read_rttm(source).items():
        names = dict.fromkeys(tidy(turn.speaker) for turn in turns)
        yield Row(lines_of[file_id], file_id, list(names), endings=(*AUDIO_SUFFIXES, ".npz"))


def _split_names(text: str) -> list[str]:
    """Names between `;`; a backslash makes a `;` or a backslash behind it part of a name, and is itself otherwise."""
    parts = [""] if text else []
    for token in re.findall(r"\\[\\;]|.", text, re.DOTALL):
        if token == ";":
            parts.append("")
        else:
            parts[-1] += token[-1]
    return [tidy(part) for part in parts]

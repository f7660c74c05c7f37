"""Manifests: which recordings there are and who appears in each, as CSV, JSON lines, RTTM, or lists of other programs.

A manifest is checked as a whole before any work begins: all its problems come in one error with their lines, or, where
the caller asks for it, the rows at fault are left out and listed.
"""

from __future__ import annotations

import csv
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from weigher.errors import RequestError
from weigher.io.atomic import writing
from weigher.io.interchange import is_nemo, kaldi_rows, nemo_rows
from weigher.io.pyannote_lists import pyannote_rows, split_selection
from weigher.io.rows import ManifestError, Row, csv_rows, json_rows, rttm_rows, text_of

_COLUMNS = ("file_name", "speakers")
_SUFFIXES = (".csv", ".jsonl", ".ndjson", ".json", ".rttm", ".scp")
_IN_FOLDERS = ("metadata.csv", "metadata.jsonl", "wav.scp", "database.yml")
_SHOWN = 10  # problems, names or groups in one message; the rest is counted
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Recording:
    """One recording and the names that appear in it, in the manifest's order."""

    path: Path
    cast: tuple[str, ...]
    line: int
    """Where the manifest tells of it, from 1."""


@dataclass(frozen=True)
class Skipped:
    """A row that was left out, and why; `path` is None where the row does not even name a file."""

    line: int
    path: Path | None
    reason: str


@dataclass(frozen=True)
class Manifest:
    """The recordings of one manifest."""

    source: Path
    recordings: tuple[Recording, ...]
    skipped: tuple[Skipped, ...] = ()


def read_manifest(
    path: str | os.PathLike[str], *, skip_bad: bool = False, audio_folder: str | os.PathLike[str] | None = None
) -> Manifest:
    r"""Read a manifest and check every row of it.

    By the name's ending: `.csv` with the header `file_name,speakers` and `;` between names (a `;` within a name is
    written `\;`, a backslash before either `\\`); `.jsonl` with {"file_name": ..., "speakers": [...]} on each line;
    `.rttm`, whose times are dropped and whose recordings are files called like their id with an audio ending. File
    names are relative to `audio_folder`, by default the manifest's own folder. UTF-8, with or without a byte-order
    mark. White space around names is dropped, and letters with accents are composed (NFC), so that a name typed on two
    systems is one name. Other columns and keys are not heeded.

    Lists of other programs: `metadata.csv` and `metadata.jsonl` of a Hugging Face audiofolder, which may have one name
    for each file, as `speaker` or `speaker_id`; NeMo's `.json` or `.jsonl` with `audio_filepath` (`nemo_rows`); a
    `wav.scp` of Kaldi with `utt2spk` beside it (`kaldi_rows`); `database.yml` of pyannote.database, with `#` and the
    name of one of its lists where it has several (`pyannote_rows`). Or the folder that holds one of them.

    A row is at fault when it lacks a column, names a file that is not there or was listed before, or when its cast is
    empty or holds an empty name or a name twice. With `skip_bad` such rows are listed in `.skipped` and the rest is
    used; otherwise all of them are shown in one ManifestError. An unreadable manifest, one without columns or rows, and
    one of which no row is left raise ManifestError in any case.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "a b.wav").touch()
    >>> _ = (folder / "cast.csv").write_text("file_name,speakers\na b.wav,Zoë; Ben\nc.wav,Zoë\n", encoding="utf-8")
    >>> manifest = read_manifest(folder / "cast.csv", skip_bad=True)
    >>> [(r.path.name, r.cast, r.line) for r in manifest.recordings], [s.line for s in manifest.skipped]
    ([('a b.wav', ('Zoë', 'Ben'), 2)], [3])
    """
    source, rows = _listed(Path(path), None if audio_folder is None else Path(audio_folder))
    folder = source.parent if audio_folder is None else Path(audio_folder)
    good: list[Recording] = []
    bad: list[Skipped] = []
    lines_of: dict[str, int] = {}
    for row in rows:
        file, missing = _find(folder, row)
        problem = row.problem or missing or _cast_problem(row.names)
        first = lines_of.setdefault(os.path.abspath(file), row.line) if file else row.line
        if first != row.line:
            problem = f"{file} is listed twice, first on line {first}"
        if file is None or problem:
            bad.append(Skipped(row.line, file, problem if not file or str(file) in problem else f"{file}: {problem}"))
        else:
            good.append(Recording(file, tuple(row.names), row.line))
    if not good and not bad:
        raise ManifestError(f"{source} lists no recordings; needed is at least one row below the header")
    return _checked(Manifest(source, tuple(good)), bad, skip_bad)


def check_readable(
    manifest: Manifest,
    read: Callable[[Path], object],
    *,
    skip_bad: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> Manifest:
    """Try `read` (say `audio_seconds` for the headers, `read_audio` for all of it) on every recording of a manifest.

    Returns the manifest, with `skip_bad` without the recordings on which `read` raised RequestError, which are then in
    `.skipped`; otherwise raises ManifestError that names them with their lines. `progress` gets "check", done, total.

    >>> import tempfile
    >>> from weigher.io.audio import audio_seconds
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "empty.wav").touch()
    >>> write_cast_csv(folder / "cast.csv", [("empty.wav", ["Ben"])])
    >>> try:
    ...     check_readable(read_manifest(folder / "cast.csv"), audio_seconds)
    ... except ManifestError as error:
    ...     print("0 bytes" in str(error), "line 2" in str(error))
    True True
    """
    good: list[Recording] = []
    bad: list[Skipped] = []
    for done, recording in enumerate(manifest.recordings, start=1):
        try:
            read(recording.path)
            good.append(recording)
        except RequestError as error:
            bad.append(Skipped(recording.line, recording.path, str(error)))
        if progress is not None:
            progress("check", done, len(manifest.recordings))
    return _checked(replace(manifest, recordings=tuple(good)), bad, skip_bad)


def check_cast_sizes(recordings: Sequence[Recording], slots: int) -> None:
    """Raise ManifestError when a cast is larger than the model has slots: nobody is ever cut off silently.

    >>> check_cast_sizes([Recording(Path("a.wav"), ("Ann", "Ben"), 2)], slots=2)
    """
    large = [recording for recording in recordings if len(recording.cast) > slots]
    if large:
        listed = [f"line {r.line}: {r.path} has {len(r.cast)} names" for r in large]
        needed = max(len(recording.cast) for recording in large)
        raise ManifestError(
            f"{_count(len(large), 'cast')} too large for the model's {slots} slots; raise slots to {needed} or more, "
            f"or leave these recordings out:\n{_lines(listed)}"
        )


def indistinguishable(recordings: Sequence[Recording]) -> list[str]:
    """Warnings about names that training cannot tell apart: those in one recording only, and those always together.

    >>> casts = [("Ann", "Ben", "Cy"), ("Ann", "Ben"), ("Dee",), ("Dee", "Ann", "Ben")]
    >>> for warning in indistinguishable([Recording(Path(f"{i}.wav"), cast, i + 2) for i, cast in enumerate(casts)]):
    ...     print(warning)
    1 name appears in one recording only and cannot be learned apart from its company: Cy (0.wav)
    2 names always appear together (in 3 recordings) and cannot be told apart: Ann, Ben
    """
    places: defaultdict[str, list[int]] = defaultdict(list)
    for index, recording in enumerate(recordings):
        for name in recording.cast:
            places[name].append(index)
    warnings = []
    once = [f"{name} ({recordings[found[0]].path.name})" for name, found in places.items() if len(found) == 1]
    if once:
        verb, whose = ("appears", "its") if len(once) == 1 else ("appear", "their")
        warnings.append(
            f"{_count(len(once), 'name')} {verb} in one recording only and cannot be learned apart from {whose} "
            f"company: {_list(once)}"
        )
    together: defaultdict[tuple[int, ...], list[str]] = defaultdict(list)
    for name, found in places.items():
        if len(found) > 1:
            together[tuple(found)].append(name)
    groups = [(found, names) for found, names in together.items() if len(names) > 1]
    warnings += [
        f"{len(names)} names always appear together (in {len(found)} recordings) and cannot be told apart: "
        f"{_list(names)}"
        for found, names in groups[:_SHOWN]
    ]
    if len(groups) > _SHOWN:
        warnings.append(f"{len(groups) - _SHOWN} more groups of names always appear together")
    return warnings


def write_cast_csv(path: str | os.PathLike[str], rows: Iterable[tuple[str | os.PathLike[str], Iterable[str]]]) -> None:
    """Write (file name, names) rows as a manifest that `read_manifest` reads back, whole or not at all.

    File names are written as they are given: relative ones are relative to the manifest. Raises ManifestError for what
    would not be read back: an empty cast, a name twice, empty, or with white space at its ends, or no valid Unicode.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "cast.csv"
    >>> write_cast_csv(path, [("a.wav", ["Ann", "B;n"])])
    >>> print(path.read_text(), end="")
    file_name,speakers
    a.wav,Ann;B\\;n
    """
    table = []
    for file_name, names in rows:
        name, cast = os.fspath(file_name), [unicodedata.normalize("NFC", text) for text in names]
        problem = _cast_problem(cast)
        if not name or any(text != text.strip() for text in (name, *cast)):
            problem = "it has no file name, or a name with white space at its ends"
        if problem or _LONE_SURROGATE.search(name):
            raise ManifestError(f"cannot write {path}, {name!r} with {cast}: {problem or 'it is no valid Unicode'}")
        table.append((name, ";".join(text.replace("\\", "\\\\").replace(";", "\\;") for text in cast)))
    with writing(path, "w") as file:
        # Python's writer gives a lone carriage return no quotes where lines end in "\n", and no reader gets it back.
        quoting = csv.QUOTE_ALL if any("\r" in value for row in table for value in row) else csv.QUOTE_MINIMAL
        csv.writer(file, lineterminator="\n", quoting=quoting).writerows([_COLUMNS, *table])


def _listed(path: Path, folder: Path | None) -> tuple[Path, Iterable[Row]]:
    """The file whose lines are counted, and its rows."""
    source = _in_folder(path) if path.is_dir() else path
    found = split_selection(source)
    if found is not None:
        return pyannote_rows(*found, folder)
    suffix = source.suffix.lower()
    if suffix not in _SUFFIXES:
        raise ManifestError(
            f"{source} is no manifest: its name needs to end in {', '.join(_SUFFIXES)} or .yml, or it needs to be a "
            f"folder with one of {', '.join(_IN_FOLDERS)}"
        )
    if suffix in (".csv", ".rttm", ".scp"):
        return source, {".csv": csv_rows, ".rttm": rttm_rows, ".scp": kaldi_rows}[suffix](source)
    text = text_of(source)
    return source, nemo_rows(source, text) if is_nemo(text) else json_rows(text)


def _in_folder(folder: Path) -> Path:
    found = [name for name in _IN_FOLDERS if (folder / name).is_file()]
    if len(found) != 1:
        held = f"holds {' and '.join(found)}; name the one that is meant" if found else "holds no manifest"
        raise ManifestError(f"the folder {folder} {held} (looked for: {', '.join(_IN_FOLDERS)})")
    return folder / found[0]


def _cast_problem(names: Sequence[str]) -> str:
    if not names:
        return "its cast is empty; say who appears in it"
    if not all(names):
        return "it has an empty name"
    twice = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if twice is not None:
        return f"it names {twice!r} twice"
    if any(_LONE_SURROGATE.search(name) for name in names):
        return "it has a name that is no valid Unicode"
    return ""


def _find(folder: Path, row: Row) -> tuple[Path | None, str]:
    """The file a row means, and what is wrong with it ("" where nothing is)."""
    if not row.file_name:
        return None, "it names no file"
    # A name with accents may have been typed on another system than the one that made the file: try both spellings.
    spellings = dict.fromkeys([row.file_name, *(unicodedata.normalize(form, row.file_name) for form in ("NFC", "NFD"))])
    places = [folder, Path.cwd()] if row.or_here else [folder]
    found = []
    for ending in row.endings:
        files = (place / (spelling + ending) for place in places for spelling in spellings)
        found += [file for file in files if os.path.isfile(file)][:1]
    if len(found) == 1:
        return found[0], ""
    if found:
        return found[0], f"several files fit: {_list([str(file) for file in found])}; keep one"
    wanted = folder / row.file_name
    kinds = f" with an ending of {' '.join(row.endings)}" if len(row.endings) > 1 else ""
    return wanted, f"{wanted}{kinds} does not exist, or is no file"


def _checked(manifest: Manifest, bad: Sequence[Skipped], skip_bad: bool) -> Manifest:
    """The manifest with its rows at fault skipped, or one error about all of them."""
    listed = _lines([f"line {row.line}: {row.reason}" for row in bad])
    if bad and not skip_bad:
        raise ManifestError(
            f"{manifest.source} has {_count(len(bad), 'row')} at fault; correct what is listed, or have it "
            f"skipped (skip_bad=True, --skip-bad):\n{listed}"
        )
    if bad and not manifest.recordings:
        raise ManifestError(f"{manifest.source} has no row that can be used:\n{listed}")
    return replace(manifest, skipped=tuple(sorted((*manifest.skipped, *bad), key=lambda row: row.line)))


def _lines(items: Sequence[str]) -> str:
    more = [f"... and {len(items) - _SHOWN} more"] if len(items) > _SHOWN else []
    return "\n".join(f"  {item}" for item in [*items[:_SHOWN], *more])


def _list(items: Sequence[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

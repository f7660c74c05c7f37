"""Lists of pyannote.database (`database.yml`) read as rows of a manifest.

Read is what a cast list needs: of one protocol's one subset, `uri` (a list of recordings) and `annotation` (RTTM), and
where the audio is (`Databases`). Templates hold `{uri}`, `{database}` and `{subset}`; relative names are meant from the
folder of `database.yml`, or for lists from the working folder too.

Source: the documentation of pyannote.database (https://github.com/pyannote/pyannote-database).
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from weigher.errors import RequestError
from weigher.io.interchange import only_recording
from weigher.io.rows import ManifestError, Row, shortened, text_of, tidy
from weigher.io.rttm import Segment, read_rttm, unescape_name

_SELECTION = re.compile(r"(?P<file>.+\.ya?ml)(?:#(?P<name>.*))?", re.DOTALL | re.IGNORECASE)
_FIELD = re.compile(r"\{(\w*)\}")
_MOST_ENTRIES = 100_000  # of all mappings, as they are once those they refer to are merged in
_LEARNED_FROM = ("train", "files")  # files: what a Collection has instead of subsets


@dataclass(frozen=True)
class _Subset:
    """One list of a protocol: its name in four parts, where labels hold ("file", "database", "global"), its entries."""

    name: tuple[str, str, str, str]
    scope: str | None
    entries: Mapping[Any, Any]

    @property
    def full_name(self) -> str:
        return ".".join(self.name)


def split_selection(path: Path) -> tuple[Path, str] | None:
    """Return the file and the protocol a path means, None where it is no `.yml`.

    >>> split_selection(Path("data/database.yml#AMI.SpeakerDiarization.only_words.train"))[1]
    'AMI.SpeakerDiarization.only_words.train'
    """
    match = _SELECTION.fullmatch(path.name)
    return None if match is None else (path.with_name(match["file"]), match["name"] or "")


def pyannote_rows(source: Path, name: str, folder: Path | None) -> tuple[Path, Iterator[Row]]:
    """Return the list (`.lst`) that a protocol's subset names, and its recordings as rows, with the lines of that list.

    `name` is `Database.Task.Protocol.subset`; without the subset it is train, and it may be empty where the file has
    one protocol only. `folder` is where relative names of audio are meant from, None standing for that of `source`.

    Raises ManifestError where the file has no such list, where the list lacks an annotation or audio, and where its
    `scope` is "file" (pyannote's default): names then mean another person in each recording. RequestError where PyYAML
    is not installed.
    """
    content = _yaml(source)
    subset = _chosen(source, _subsets(content.get("Protocols")), name)
    if subset.scope not in ("database", "global"):
        raise ManifestError(
            f"{source}: the names of {subset.full_name} hold within one recording (scope: {subset.scope or 'file'}); "
            "casts need names that hold across recordings: where they do, set the scope to database or global"
        )
    listed = subset.entries.get("uri", subset.entries.get("uris"))
    annotation = subset.entries.get("annotation")
    for entry, value in (("uri", listed), ("annotation", annotation)):
        if not isinstance(value, str):
            raise ManifestError(f"{source}: {subset.full_name} names no file as {entry!r}; casts are taken from both")
    audio = _mapping(content.get("Databases")).get(subset.name[0])
    audio = audio if isinstance(audio, list) else [audio]
    templates = [template for template in audio if isinstance(template, str)]
    if len(templates) < max(1, len(audio)):
        raise ManifestError(f"{source}: `Databases` does not say where the audio of {subset.name[0]!r} is")
    uris = _place(source, str(listed))
    texts = [(line, uri.strip()) for line, uri in enumerate(text_of(uris).split("\n"), start=1) if uri.strip()]
    folder = (folder or source.parent).absolute()
    return uris, _rows(source, subset, texts, annotation=str(annotation), audio=templates, folder=folder)


def _rows(
    source: Path, subset: _Subset, uris: list[tuple[int, str]], *, annotation: str, audio: list[str], folder: Path
) -> Iterator[Row]:
    read: dict[Path, dict[str, list[Segment]]] = {}
    for line, uri in uris:
        fields = {"uri": uri, "database": subset.name[0], "subset": subset.name[3]}
        found = [match for template in audio for match in _matches(source, folder, template, fields)]
        if len(found) != 1:
            places = f"looked for: {', '.join(str(folder / _filled(source, template, fields)) for template in audio)}"
            what = f"{len(found)} files fit {uri!r}; keep one" if found else f"there is no audio of {uri!r}"
            yield Row(line, problem=f"{what} ({places})")
            continue
        path = _place(source, _filled(source, annotation, fields))
        try:
            if path not in read:
                read = {path: read_rttm(path)}  # one file for all, or one for each: the last one is all that is needed
            turns = read[path].get(unescape_name(uri))
            if turns is None:
                turns = only_recording(path, read[path], uri) if "{uri}" in annotation else []
            yield Row(line, found[0], list(dict.fromkeys(tidy(turn.speaker) for turn in turns)))
        except RequestError as error:
            yield Row(line, found[0], problem=str(error))


def _yaml(source: Path) -> Mapping[Any, Any]:
    try:
        import yaml
    except ImportError as error:
        raise RequestError("database.yml is read with PyYAML; run: pip install 'weigher[yaml]'") from error
    try:
        content = yaml.load(text_of(source), Loader=_loader(yaml))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ManifestError(f"{source} is no YAML: {error}") from error
    return _mapping(content)


def _loader(yaml: ModuleType) -> type:
    """PyYAML's safe loader with an end to merge keys (`<<`), some lines of which would fill any memory."""

    class Loader(yaml.SafeLoader):
        merged = 0

        def flatten_mapping(self, node: Any) -> None:
            super().flatten_mapping(node)  # asks for each mapping that is merged, and only then copies their entries
            self.merged += len(node.value)
            if self.merged > _MOST_ENTRIES:
                told = f"more than {_MOST_ENTRIES} entries"
                raise yaml.constructor.ConstructorError(None, None, told, node.start_mark)

    return Loader


def _mapping(value: object) -> Mapping[Any, Any]:
    return value if isinstance(value, dict) else {}


def _subsets(protocols: object) -> list[_Subset]:
    """Every list of a file, without those that only refer to others (database X)."""
    found = []
    for database, tasks in _mapping(protocols).items():
        for task, names in _mapping(tasks).items():
            for name, subsets in _mapping(names).items():
                scope = _mapping(subsets).get("scope")
                lists = {"files": subsets} if task == "Collection" else subsets
                for subset, entries in _mapping(lists).items():
                    if isinstance(entries, dict) and database != "X":
                        full = (str(database), str(task), str(name), str(subset))
                        found.append(_Subset(full, scope if isinstance(scope, str) else None, entries))
    return found


def _chosen(source: Path, subsets: list[_Subset], name: str) -> _Subset:
    fits = [subset for subset in subsets if subset.full_name == name]
    if not fits:
        fits = [
            subset for subset in subsets if name in ("", ".".join(subset.name[:3])) and subset.name[3] in _LEARNED_FROM
        ]
    if len(fits) == 1:
        return fits[0]
    held = ", ".join(subset.full_name for subset in subsets) or "none"
    wanted = f"has no list {name!r}" if name else f"has {len(fits)} lists to train from, and one is needed"
    raise ManifestError(f"{source} {wanted}; name one as {source.name}#DATABASE.TASK.PROTOCOL.subset; it holds: {held}")


def _place(source: Path, name: str) -> Path:
    """Where a list or an annotation is: from the working folder, as pyannote.database has it, or beside the file."""
    here = Path(os.path.expanduser(name))  # unlike Path.expanduser, leaves a user nobody knows as it stands
    return here if os.path.isfile(here) else source.parent / here


def _filled(source: Path, template: str, fields: Mapping[str, str]) -> str:
    unknown = [field for field in _FIELD.findall(template) if field not in fields]
    if unknown:
        raise ManifestError(f"{source}: {template!r} holds {{{unknown[0]}}}; known are {', '.join(fields)}")
    return _FIELD.sub(lambda match: fields[match[1]], template)


def _matches(source: Path, folder: Path, template: str, fields: Mapping[str, str]) -> list[str]:
    """The files that a template means; a `*` in it stands for any letters, `**` for any folders."""
    if "*" not in template:
        path = folder / _filled(source, template, fields)
        return [str(path)] if os.path.isfile(path) else []
    pattern = _filled(source, template, {name: glob.escape(value) for name, value in fields.items()})
    try:
        return sorted(str(folder / match) for match in glob.glob(pattern, root_dir=folder, recursive=True))
    except (OSError, ValueError, RecursionError) as error:
        raise ManifestError(f"{source}: {shortened(Path(template))!r} is no pattern of files ({error})") from error

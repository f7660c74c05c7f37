"""Texts with labels, as parquet, CSV or JSON lines with the columns `text` and `label`."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from weigher.errors import RequestError

Label = int | str
_COLUMNS = ("text", "label")
_SHOWN = 10  # rows at fault in one message; the rest is counted


class TextsError(RequestError):
    """A file of texts that cannot be used; the message names the file and its lines."""


@dataclass(frozen=True, slots=True)
class LabelledTexts:
    """Texts and the label of each: whole numbers where all are, words otherwise."""

    texts: tuple[str, ...]
    labels: tuple[Label, ...]


def read_texts(path: str | os.PathLike[str]) -> LabelledTexts:
    """Read texts with labels and check every row.

    By the name's ending: `.parquet` (needs the extra `parquet`), `.csv` with a header, `.jsonl` or `.ndjson` with
    {"text": ..., "label": ...} on each line. UTF-8, with or without a byte-order mark. A label is a whole number, true
    or false, or a word; in CSV labels are numbers where all of them are written as numbers are, and words otherwise (01
    and 1 are two words). Other columns are not heeded. An empty text is a text.

    Raises TextsError, naming lines (rows of a parquet file, from 1), for a file that is missing, of another kind, not
    UTF-8, damaged, without these columns or without rows, for rows without a text or a label, and for numbers and words
    among the labels of one file.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "reviews.csv"
    >>> _ = path.write_text('text,label\\n"Well, no.",0\\nYes!,1\\n', encoding="utf-8")
    >>> read_texts(path)
    LabelledTexts(texts=('Well, no.', 'Yes!'), labels=(0, 1))
    """
    source = Path(path)
    readers: dict[str, Callable[[Path], Iterator[tuple[int, object, object]]]] = {
        ".parquet": _parquet_rows,
        ".csv": _csv_rows,
        ".jsonl": _json_rows,
        ".ndjson": _json_rows,
    }
    reader = readers.get(source.suffix.lower())
    if reader is None:
        raise TextsError(f"{source} is no file of texts: its name needs to end in .parquet, .csv or .jsonl")
    if not os.path.isfile(source):
        raise TextsError(f"the file of texts {source} does not exist; check its name")
    texts: list[str] = []
    labels: list[Label] = []
    faults: list[str] = []
    for line, text, label in reader(source):
        if not isinstance(text, str):
            faults.append(f"line {line}: the text is {_brief(text)}; needed is a text")
        elif not isinstance(label, int | str) or label == "":
            faults.append(f"line {line}: the label is {_brief(label)}; needed is a whole number or a word")
        elif labels and isinstance(label, str) != isinstance(labels[0], str):
            other = _brief(labels[0])
            faults.append(
                f"line {line}: the label is {_brief(label)}, and one before it {other}; needed are numbers or words"
            )
        else:
            texts.append(text)
            labels.append(int(label) if isinstance(label, int) else label)
    if faults:
        more = [f"... and {len(faults) - _SHOWN} more"] if len(faults) > _SHOWN else []
        listed = "\n".join(f"  {fault}" for fault in [*faults[:_SHOWN], *more])
        raise TextsError(f"{source} has rows at fault ({len(faults)}); correct them:\n{listed}")
    if not texts:
        raise TextsError(f"{source} holds no texts; needed is at least one row")
    return LabelledTexts(tuple(texts), _as_numbers(labels) if source.suffix.lower() == ".csv" else tuple(labels))


def _parquet_rows(source: Path) -> Iterator[tuple[int, object, object]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise TextsError(f"{source} is parquet, which needs pyarrow: pip install 'weigher[parquet]'") from error
    try:
        with pyarrow.parquet.ParquetFile(source) as file:
            _check_columns(file.schema_arrow.names, f"{source}")
            line = 0
            for batch in file.iter_batches(columns=list(_COLUMNS)):
                for text, label in zip(batch["text"].to_pylist(), batch["label"].to_pylist(), strict=True):
                    line += 1
                    yield line, text, label
    except UnicodeDecodeError as error:
        raise TextsError(f"{source}: a text is not UTF-8 ({error}); write the file anew with UTF-8 texts") from error
    except (pyarrow.ArrowException, OSError) as error:
        raise TextsError(f"{source} is damaged or no parquet file ({error}); write or copy it anew") from error


def _csv_rows(source: Path) -> Iterator[tuple[int, object, object]]:
    text = _decoded(source)
    # Python's reader refuses fields of more than 131,072 letters, and a text may be longer; the limit is global
    limit = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)  # strict: an open quote swallows no rows
        header: list[str] = []
        while True:
            line = reader.line_num + 1
            try:
                values = next(reader, None)
            except csv.Error as error:
                raise TextsError(f"{source}, line {line}: this is no CSV ({error}); check its quotes") from error
            if values is None:
                break
            if not values:
                continue
            if not header:
                header = [value.strip() for value in values]
                _check_columns(header, f"{source}, line {line}")
            elif len(values) != len(header):
                raise TextsError(
                    f"{source}, line {line}: {len(values)} values where the header has {len(header)}; a text with a "
                    "comma needs quotes"
                )
            else:
                row = dict(zip(header, values, strict=True))
                yield line, row["text"], row["label"].strip()
    finally:
        csv.field_size_limit(limit)


def _json_rows(source: Path) -> Iterator[tuple[int, object, object]]:
    for line, content in enumerate(_decoded(source).split("\n"), start=1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise TextsError(f"{source}, line {line}: this is no JSON ({error}); write one object a line") from error
        if not isinstance(row, dict):
            raise TextsError(f'{source}, line {line}: needed is {{"text": "...", "label": ...}}')
        yield line, row.get("text"), row.get("label")


def _decoded(source: Path) -> str:
    content = source.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise TextsError(f"{source}, line {line}: this is not UTF-8; save the file as UTF-8 text") from error


def _check_columns(names: list[str], where: str) -> None:
    if any(names.count(column) != 1 for column in _COLUMNS):
        raise TextsError(f"{where}: the columns are {', '.join(names)}; needed are text and label, each once")


def _as_numbers(labels: list[Label]) -> tuple[Label, ...]:
    """Labels of a CSV file as whole numbers, where all of them are; as they stand otherwise.

    Python reads 01 and 1_0 as numbers, too, which would make one label of two.
    """
    try:
        numbers = [int(label) for label in labels]
    except ValueError:
        return tuple(labels)
    return tuple(numbers if [str(number) for number in numbers] == labels else labels)


def _brief(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 40 else f"{shown[:40]}..."

"""Word vectors from text files: a word and its numbers on each line, as GloVe and word2vec write them."""

from __future__ import annotations

import os
from collections.abc import Callable, Container
from pathlib import Path

import numpy as np

from weigher.errors import RequestError

_PROGRESS_LINES = 10_000


def read_vectors(
    path: str | os.PathLike[str],
    words: Container[str],
    *,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, np.ndarray]:
    """Return the vectors of those `words` that a file holds, float32 `[e]` each; the first of a word counts.

    Each line is a word and its numbers with single blanks between; a first line of two whole numbers (word2vec) is
    skipped. The word may hold blanks, as some of GloVe's do: the width is that of the first line. `progress` gets
    "vectors" in bytes.

    Raises RequestError, naming the line, for a file that is missing, not UTF-8, of uneven width (where a line is too
    long, as far as it begins with one of the words), or with anything but finite numbers, and where it holds none of
    the words.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "vectors.txt"
    >>> _ = path.write_text("good 0.5 1\\nbad -0.5 1\\n")
    >>> {word: vector.tolist() for word, vector in read_vectors(path, ["bad", "odd"]).items()}
    {'bad': [-0.5, 1.0]}
    """
    source = Path(path)
    if not os.path.isfile(source):
        raise RequestError(f"the file of word vectors {source} does not exist; check its name")
    total, width, done = source.stat().st_size, 0, 0
    found: dict[str, np.ndarray] = {}
    with source.open("rb") as file:
        for line, content in enumerate(file, start=1):
            done += len(content)
            if progress is not None and (line % _PROGRESS_LINES == 0 or done == total):
                progress("vectors", done, total)
            try:
                text = content.decode("utf-8-sig" if line == 1 else "utf-8").rstrip("\r\n ")
            except UnicodeDecodeError as error:
                raise RequestError(f"{source}, line {line}: this is not UTF-8; save the file as UTF-8 text") from error
            parts = text.split(" ")
            if not text or (line == 1 and len(parts) == 2 and all(part.isdigit() for part in parts)):
                continue
            width = width or len(parts) - 1
            word = " ".join(parts[:-width]) if width else ""
            if not word:
                raise RequestError(
                    f"{source}, line {line}: needed is a word and {width or 'its'} numbers with single blanks between"
                )
            if len(parts) > width + 1 and word not in words and (head := _without_numbers(parts[:-width])) in words:
                raise RequestError(
                    f"{source}, line {line}: the word {head!r} has {len(parts) - 1 - head.count(' ')} numbers, and the "
                    f"first line has {width}; give each line as many"
                )
            if word in words and word not in found:
                found[word] = _numbers(parts[-width:], f"{source}, line {line}, word {word!r}")
    if not found:
        raise RequestError(f"{source} has a vector for none of the words of the texts; is it of another language?")
    return found


def _without_numbers(parts: list[str]) -> str:
    """The beginning of a word with blanks, without the numbers that follow it."""
    last = len(parts)
    while last > 1 and _is_number(parts[last - 1]):
        last -= 1
    return " ".join(parts[:last])


def _is_number(part: str) -> bool:
    try:
        float(part)
    except ValueError:
        return False
    return True


def _numbers(parts: list[str], where: str) -> np.ndarray:
    try:
        with np.errstate(over="ignore"):  # what is too large becomes infinity, and is told below
            vector = np.array(parts, np.float32)
    except ValueError as error:
        raise RequestError(f"{where}: {error}; needed are finite numbers") from error
    if not np.isfinite(vector).all():
        raise RequestError(f"{where}: the vector holds NaN or infinity; needed are finite numbers")
    return vector

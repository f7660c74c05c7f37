"""Labelled examples of any of the kinds that are read here: arrays in .npz, parquet of images, drawings in a zip."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from weigher.errors import RequestError
from weigher.io.features import load_arrays
from weigher.io.image_sets import read_drawings, read_images

_WHOLE = re.compile(r"-?\d{1,18}")  # as many digits as surely fit in 64 bits


@dataclass(frozen=True, eq=False)
class LabelledData:
    """Examples [n, f], [n, h, w] or [n, h, w, c], and one label each: whole numbers or words [n]."""

    x: np.ndarray
    labels: np.ndarray


def read_labelled(path: str | os.PathLike[str], labels: str | os.PathLike[str] | None = None) -> LabelledData:
    """Read labelled examples.

    `.npz` with `x` and `y`, or `images` and `labels`; `.parquet` with `image` and `label`; `.zip` of
    ALPHABET/CHARACTER/*.png. `labels`, a text file with one label a line, takes the place of the labels that are there
    (`y` may then be missing). Raises RequestError for what is missing, damaged, of other shapes, or not one label each.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "two.npz"
    >>> np.savez(path, x=np.zeros((2, 3)), y=["cat", "dog"])
    >>> read_labelled(path).labels.tolist()
    ['cat', 'dog']
    """
    source = Path(path)
    if not source.is_file():
        raise RequestError(f"{source} does not exist or is not a file; give a .npz, .parquet or .zip of labelled data")
    kind = source.suffix.lower()
    if kind == ".npz":
        x, given = _arrays(source, labels is None)
    elif kind == ".parquet":
        x, given = read_images(source)
    elif kind == ".zip":
        drawings = read_drawings(source)
        x = np.concatenate(list(drawings.values()))
        given = np.repeat(list(drawings), [len(each) for each in drawings.values()])
    else:
        raise RequestError(f"{source}: its name ends in {kind or 'nothing'}; needed is .npz, .parquet or .zip")
    if labels is not None:
        given = _lines(Path(labels))
    assert given is not None
    whose = source if labels is None else labels
    if x.dtype.kind not in "biuf" or x.ndim not in (2, 3, 4):
        raise RequestError(
            f"{source}: x is {x.dtype} of shape {list(x.shape)}; needed are numbers [n, features], [n, height, width] "
            "or [n, height, width, channels]"
        )
    if given.dtype.kind not in "biuU" or given.ndim != 1:
        raise RequestError(
            f"{whose}: labels are {given.dtype} of shape {list(given.shape)}; needed are whole numbers or words, one "
            "for each example"
        )
    if len(given) != len(x):
        raise RequestError(f"{source} holds {len(x)} examples and {whose} {len(given)} labels; needed is one for each")
    return LabelledData(x, given)


def _arrays(source: Path, with_labels: bool) -> tuple[np.ndarray, np.ndarray | None]:
    held = load_arrays(source, (), optional=("x", "y", "images", "labels"))
    for inputs, answers in (("x", "y"), ("images", "labels")):
        if inputs in held and (answers in held or not with_labels):
            return held[inputs], held.get(answers)
    needed = "x and y, or images and labels" if with_labels else "x or images"
    raise RequestError(f"{source} holds {', '.join(held) or 'none of them'}; needed are {needed}")


def _lines(path: Path) -> np.ndarray:
    """One label a line: whole numbers where all of them are, of at most 18 digits; words otherwise."""
    if not path.is_file():
        raise RequestError(f"the file of labels {path} does not exist; give a text file with one label a line")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is no text in UTF-8 ({error}); give one label a line") from error
    for number, line in enumerate(lines, 1):
        if not line:
            raise RequestError(f"{path}, line {number} is empty; give one label a line")
    if all(_WHOLE.fullmatch(line) for line in lines):
        return np.array([int(line) for line in lines], dtype=np.int64)
    return np.array(lines, dtype=np.str_)

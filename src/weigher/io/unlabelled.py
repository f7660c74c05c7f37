"""What a set that is learned without labels is made of, and the images of such a set."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from weigher.errors import RequestError
from weigher.io.audio import AUDIO_SUFFIXES
from weigher.io.features import load_arrays
from weigher.io.image_sets import is_deep
from weigher.io.labelled_data import read_labelled

if TYPE_CHECKING:
    from PIL import Image

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm")
"""File-name endings, in lower case, of images in a folder."""


def kind_of(path: str | os.PathLike[str]) -> Literal["images", "recordings"]:
    """Say whether a folder or file holds images or recordings, by names alone.

    A folder that holds any audio or features (`.npz`), at any depth, is one of recordings. An `.npz` is a set of images
    where it holds `images` or `x`. What has another name may be a list of recordings.

    Raises RequestError for what does not exist, and for a folder without recordings and images.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "digits.npz"
    >>> np.savez(path, images=np.zeros((3, 8, 8)))
    >>> kind_of(path), kind_of(path.parent)
    ('images', 'recordings')
    """
    source = Path(path)
    if source.is_dir():
        endings = {file.suffix.lower() for file in _files(source)}
        if endings & {".npz", *AUDIO_SUFFIXES}:
            return "recordings"
        if endings & set(IMAGE_SUFFIXES):
            return "images"
        raise RequestError(f"{source} holds no audio, no features (.npz) and no images; give a folder of one of them")
    if not source.exists():
        raise RequestError(f"{source} does not exist; give recordings (a folder, a list) or images")
    if source.suffix.lower() == ".npz":
        return "images" if load_arrays(source, (), optional=("images", "x")) else "recordings"
    return "images" if source.suffix.lower() in (".parquet", ".zip") else "recordings"


@dataclass(frozen=True, eq=False)
class Images:
    """Images of one size."""

    values: np.ndarray
    """float32 [n, c, h, w], from 0 to 1."""
    labels: np.ndarray | None
    """Whole numbers or words [n]; None where nothing tells them."""
    skipped: tuple[str, ...]
    """What was left out, and why."""


def read_unlabelled_images(path: str | os.PathLike[str]) -> Images:
    """Read images, and their labels where there are any.

    A folder of images at any depth, whose label is the folder right beneath it if all of them lie in one; `.npz` with
    `images` or `x`, and perhaps `labels` or `y`; `.parquet` and `.zip` as `read_labelled`. In a folder, what cannot be
    read is left out and listed. Bytes are divided by 255; other numbers, also those of images of 16 or 32 bits in a
    folder, are taken as they are within 0 to 1, else scaled to it from the least to the greatest of all.

    Raises RequestError for what is missing, damaged, no images, not finite, of several sizes, or in a folder of several
    types of numbers.
    """
    source = Path(path)
    skipped: tuple[str, ...] = ()
    if source.is_dir():
        x, labels, skipped = _folder(source)
    elif source.suffix.lower() == ".npz":
        held = load_arrays(source, (), optional=("images", "labels", "x", "y"))
        inputs, answers = ("images", "labels") if "images" in held else ("x", "y")
        if inputs not in held:
            raise RequestError(f"{source} holds neither images nor x; one of them is needed")
        x, labels = held[inputs], None
        if answers in held:
            labels = read_labelled(source).labels
    else:
        data = read_labelled(source)
        x, labels = data.x, data.labels
    if x.dtype.kind not in "biuf" or x.ndim not in (3, 4) or not x.size:
        raise RequestError(
            f"{source}: the images are {x.dtype} of shape {list(x.shape)}; needed are numbers [n, height, width] or "
            "[n, height, width, channels]"
        )
    last = x[:, None] if x.ndim == 3 else x.transpose(0, 3, 1, 2)
    return Images(_from_0_to_1(np.ascontiguousarray(last), source), labels, skipped)


def _files(folder: Path) -> Iterator[Path]:
    """Yield all files at any depth in order; hidden ones are passed over."""
    for place, below, names in os.walk(folder):
        below[:] = sorted(name for name in below if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(names) if not name.startswith("."))


def _folder(folder: Path) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
    from PIL import Image

    images, labels, skipped = [], [], []
    first: tuple[Path, np.ndarray] | None = None
    for path in (path for path in _files(folder) if path.suffix.lower() in IMAGE_SUFFIXES):
        try:
            with Image.open(path) as opened:
                image = _pixels(opened)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # SyntaxError: a broken PNG
            skipped.append(f"{path} cannot be read as an image ({error})")
            continue
        first = first or (path, image)
        if image.shape[:2] != first[1].shape[:2]:
            raise RequestError(
                f"{first[0]} has {_size(first[1])} pixels and {path} {_size(image)}; images of one size are "
                "needed: scale or cut them alike"
            )
        if image.dtype != first[1].dtype:
            raise RequestError(
                f"{first[0]} holds {first[1].dtype} and {path} {image.dtype} values, which have no common "
                "scale; images of one type are needed: convert them alike"
            )
        images.append(image)
        beneath = path.relative_to(folder).parts
        labels.append(beneath[0] if len(beneath) > 1 else "")
    if not images:
        raise RequestError(f"no image of {folder} can be read: {'; '.join(skipped[:3]) or 'there is none'}")
    if any(image.ndim == 3 for image in images):  # grey among colours
        images = [image if image.ndim == 3 else np.repeat(image[..., None], 3, 2) for image in images]
    return np.stack(images), np.array(labels) if all(labels) else None, tuple(skipped)


def _pixels(opened: Image.Image) -> np.ndarray:
    """Return bytes [h, w] or [h, w, 3]; deeper images, which all are grey, in their own type [h, w]."""
    if is_deep(opened):
        deep = np.asarray(opened)
        return deep.astype(deep.dtype.newbyteorder("="))
    return np.asarray(opened.convert("L" if opened.mode in ("1", "L") else "RGB"))


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]} x {image.shape[0]}"


def _from_0_to_1(x: np.ndarray, source: Path) -> np.ndarray:
    if x.dtype == np.uint8:
        return x.astype(np.float32) / 255
    values = x.astype(np.float32)
    if not np.isfinite(values).all():
        raise RequestError(f"{source}: the images hold NaN or infinity; write them again from their source")
    least, most = float(values.min()), float(values.max())
    return values if least >= 0 and most <= 1 else (values - least) / (most - least or 1)

"""What a set that is learned without labels is made of, and the images of such a set."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from weigher.errors import RequestError
from weigher.io.audio import LIBSNDFILE_SUFFIXES
from weigher.io.features import load_arrays
from weigher.io.image_sets import is_deep
from weigher.io.labelled_data import read_labelled
from weigher.io.walk import linked_folders, walk_files

if TYPE_CHECKING:
    from PIL import Image

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm")
"""File-name endings, in lower case, of images in a folder."""

_KINDS = {
    # .mat holds sound now and then, and MATLAB's labels of images as a rule
    **dict.fromkeys(LIBSNDFILE_SUFFIXES - {".mat"}, "audio"),
    **dict.fromkeys(IMAGE_SUFFIXES, "images"),
    ".npz": "features (.npz)",
}
_LAST, _SECOND = (1, 3, 4), (1, 3)  # sizes of an axis that tell that it holds colours; the last is asked first


def kind_of(path: str | os.PathLike[str]) -> Literal["images", "recordings"]:
    """Say whether a folder or file holds images or recordings, by names alone.

    A folder that holds any audio or features (`.npz`), at any depth, is one of recordings. An `.npz` is a set of images
    where it holds `images` or `x`. What has another name may be a list of recordings.

    Raises RequestError for what does not exist or cannot be listed, for a folder without recordings and images, and
    for one image alone.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> np.savez(folder / "digits.npz", images=np.zeros((3, 8, 8)))
    >>> (folder / "sub").mkdir()
    >>> (folder / "sub" / "talk.wav").touch()
    >>> kind_of(folder / "digits.npz"), kind_of(folder / "sub")
    ('images', 'recordings')
    """
    source = Path(path)
    if source.is_dir():
        held = holdings(source)
        if held["audio"]:
            return "recordings"
        if held["features (.npz)"]:
            _check_features(next(file for file in walk_files(source) if file.suffix.lower() == ".npz"))
            return "recordings"
        if held["images"]:
            return "images"
        links = f" (links to folders are not followed: {linked[0]})" if (linked := linked_folders(source)) else ""
        raise RequestError(
            f"{source} holds no audio, no features (.npz) and no images{links}; give a folder of one of them"
        )
    if not source.exists():
        raise RequestError(f"{source} does not exist; give recordings (a folder, a list) or images")
    if source.suffix.lower() in IMAGE_SUFFIXES:
        raise RequestError(f"{source} is one image; at least two are compared, give a folder of images")
    if source.suffix.lower() == ".npz":
        return "images" if _is_of_images(source) else "recordings"
    return "images" if source.suffix.lower() in (".parquet", ".zip") else "recordings"


def _is_of_images(file: Path) -> bool:
    return bool(load_arrays(file, (), optional=("images", "x")))


def _check_features(file: Path) -> None:
    """Raise RequestError where the `.npz` files of a folder are sets of images; what cannot be read is told later."""
    try:
        is_of_images = _is_of_images(file)
    except RequestError:
        return
    if is_of_images:
        raise RequestError(f"{file} is a set of images by itself; give this file, and not its folder")


def holdings(folder: Path) -> Counter[str]:
    """Count the files of a folder, at any depth, by what their names say they hold; hidden ones are passed over.

    Raises RequestError where a folder cannot be listed.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("a.wav", "cover.png", "b.WAV", "notes.txt"):
    ...     (folder / name).touch()
    >>> sorted(holdings(folder).items())
    [('audio', 2), ('images', 1)]
    """
    return Counter(_KINDS[suffix] for file in walk_files(folder) if (suffix := file.suffix.lower()) in _KINDS)


@dataclass(frozen=True, eq=False)
class Images:
    """Images of one size."""

    values: np.ndarray
    """float32 [n, c, h, w], from 0 to 1."""
    scale: tuple[float, float]
    """What stood in the source for 0 and for 1."""
    labels: np.ndarray | None
    """Whole numbers or words [n]; None where nothing tells them."""
    skipped: tuple[str, ...]
    """What was left out, and why."""


def read_unlabelled_images(path: str | os.PathLike[str]) -> Images:
    """Read images, and their labels where there are any.

    A folder of images at any depth, whose label is the folder right beneath it if all of them lie in one; `.npz` with
    `images` or `x`, and perhaps `labels` or `y`; `.parquet` and `.zip` as `read_labelled`. In a folder, what cannot be
    read is left out and listed. Arrays are `[n, h, w]`, `[n, h, w, c]` with 1, 3 or 4 colours or, where the last axis
    is of another size, `[n, c, h, w]` with 1 or 3. Bytes are divided by 255; other numbers, also those of images of 16
    or 32 bits in a folder, are taken as they are within 0 to 1, else scaled to it from the least to the greatest of
    all; `scale` says which.

    Labels that are of no use, such as fractions, are left out.

    Raises RequestError for what is missing, damaged, no images, not finite, of several sizes, or in a folder of several
    types of numbers.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "digits.npz"
    >>> np.savez(path, images=np.arange(17.0).repeat(4).reshape(17, 2, 2))
    >>> images = read_unlabelled_images(path)
    >>> images.values.shape, images.scale
    ((17, 1, 2, 2), (0.0, 16.0))
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
            try:
                labels = read_labelled(source).labels
            except RequestError as error:  # what is not learned from stops nothing
                skipped = (f"labels: {error}",)
    else:
        data = read_labelled(source)
        x, labels = data.x, data.labels
    if x.dtype.kind not in "biuf" or x.ndim not in (3, 4) or not x.size:
        raise RequestError(
            f"{source}: the images are {x.dtype} of shape {list(x.shape)}; needed are numbers [n, height, width], "
            "[n, height, width, colours] or [n, colours, height, width]"
        )
    if x.ndim == 3:
        x = x[:, None]
    elif x.shape[3] in _LAST:
        x = x.transpose(0, 3, 1, 2)
    elif x.shape[1] not in _SECOND:
        raise RequestError(
            f"{source}: of images of shape {list(x.shape)} no axis can be one of colours; needed are 1, 3 or 4 in the "
            "last, or 1 or 3 in the second. Other channels can be given in Python (weigher.pairs.pretraining.pretrain)"
        )
    values, scale = _from_0_to_1(np.ascontiguousarray(x), source)
    return Images(values, scale, labels, skipped)


def _folder(folder: Path) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
    from PIL import Image

    images, labels, skipped = [], [], []
    first: tuple[Path, np.ndarray] | None = None
    loose: Path | None = None
    for path in (path for path in walk_files(folder) if path.suffix.lower() in IMAGE_SUFFIXES):
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
        loose = loose or (path if len(beneath) == 1 else None)
    if not images:
        raise RequestError(f"no image of {folder} can be read: {'; '.join(skipped[:3]) or 'there is none'}")
    if any(image.ndim == 3 for image in images):  # grey among colours
        images = [image if image.ndim == 3 else np.repeat(image[..., None], 3, 2) for image in images]
    if loose and any(labels):
        skipped.append(f"the folders' names as labels, since {loose} lies in none of them")
    return np.stack(images), None if loose else np.array(labels), tuple(skipped)


def _pixels(opened: Image.Image) -> np.ndarray:
    """Return bytes [h, w] or [h, w, 3]; deeper images, which all are grey, in their own type [h, w]."""
    if is_deep(opened):
        deep = np.asarray(opened)
        return deep.astype(deep.dtype.newbyteorder("="))
    return np.asarray(opened.convert("L" if opened.mode in ("1", "L") else "RGB"))


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]} x {image.shape[0]}"


def _from_0_to_1(x: np.ndarray, source: Path) -> tuple[np.ndarray, tuple[float, float]]:
    if x.dtype == np.uint8:
        return x.astype(np.float32) / 255, (0.0, 255.0)
    with np.errstate(over="ignore"):
        values = x.astype(np.float32)
    if not np.isfinite(values).all():
        raise RequestError(
            f"{source}: the images hold NaN, infinity, or numbers beyond float32; write them again from their source"
        )
    least, most = float(values.min()), float(values.max())
    if least >= 0 and most <= 1:
        return values, (0.0, 1.0)
    return (values - least) / (most - least or 1), (least, most)

"""Small sets of labelled images: parquet of encoded images, arrays in .npz, and folders of drawings in a zip file."""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections import defaultdict
from pathlib import Path, PurePosixPath
from reprlib import Repr
from typing import TYPE_CHECKING, Any

import numpy as np

from weigher.errors import RequestError

if TYPE_CHECKING:
    from PIL import Image

_SHOWN = 3  # rows that an error names
_BRIEF = Repr()


def read_images(path: str | os.PathLike[str], most: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return images uint8 `[n, h, w, c]` and labels, int64 or words `[n]`, the first `most` of them.

    `.parquet` with the columns `image` (encoded bytes) and `label`; needs pyarrow and Pillow. `.npz` with `images`
    uint8 `[n, h, w]` or `[n, h, w, c]` and `labels`. All images of a file have one size.

    Raises RequestError for a file that is missing, of another kind, or without these columns, for encoded images that
    are broken or of more than 8 bits, and for labels that are neither whole numbers of 64 bits nor words (rows named,
    from 0).

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "digits.npz"
    >>> np.savez(path, images=np.zeros((3, 28, 28), np.uint8), labels=np.arange(3))
    >>> [part.shape for part in read_images(path, most=2)]
    [(2, 28, 28, 1), (2,)]
    """
    source = Path(path)
    if not source.is_file():
        raise RequestError(f"the file of images {source} does not exist; check its name")
    if source.suffix == ".npz":
        with np.load(source, allow_pickle=False) as held:
            if not {"images", "labels"} <= set(held.files):
                raise RequestError(f"{source} holds {', '.join(held.files)}; needed are images and labels")
            images, labels = held["images"][:most], held["labels"][:most]
        return (images if images.ndim == 4 else images[..., None]), _whole_or_words(labels.tolist(), source)
    if source.suffix != ".parquet":
        raise RequestError(f"{source} is no file of images: its name needs to end in .parquet or .npz")
    return _parquet(source, most)


def read_drawings(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Return the drawings of a zip of folders ALPHABET/CHARACTER/*.png by "ALPHABET/CHARACTER": bool `[n, h, w]`, ink.

    Raises RequestError for a file that is missing, damaged, encrypted, no zip, without drawings, or with some that are
    broken or of more than 8 bits.
    """
    source = Path(path)
    if not source.is_file():
        raise RequestError(f"the file of drawings {source} does not exist; check its name")
    found: dict[str, list[np.ndarray]] = defaultdict(list)
    try:
        with zipfile.ZipFile(source) as held:
            for name in sorted(held.namelist()):
                parts = PurePosixPath(name).parts
                if len(parts) >= 3 and name.endswith(".png") and not parts[-1].startswith("."):
                    ink = _decoded(held.read(name), "L", f"{source}: {name}") < 128
                    found["/".join(parts[-3:-1])].append(ink)
    except (zipfile.BadZipFile, OSError, zlib.error) as error:
        raise RequestError(f"{source} is damaged or no zip file ({error}); copy it anew") from error
    except RuntimeError as error:  # how zipfile says that a password is needed
        raise RequestError(f"{source} cannot be read ({error}); needed is a zip that is not encrypted") from error
    if not found:
        raise RequestError(f"{source} holds no ALPHABET/CHARACTER/*.png; images of other folders are read unpacked")
    if len({drawing.shape for drawings in found.values() for drawing in drawings}) != 1:
        raise RequestError(f"{source} holds drawings of several sizes; needed are drawings, all of one size")
    return {name: np.stack(drawings) for name, drawings in found.items()}


def is_deep(image: Image.Image) -> bool:
    """Tell whether a Pillow image holds more than 8 bits a value: `convert` would cut them off at 255.

    >>> from PIL import Image
    >>> [is_deep(Image.new(mode, (1, 1))) for mode in ("L", "RGB", "I;16", "F")]
    [False, False, True, True]
    """
    return image.mode.startswith("I") or image.mode == "F"


def _decoded(content: Any, mode: str, where: str) -> np.ndarray:
    """Return an encoded image of 8 bits as an array of a Pillow `mode`; RequestError that says where it stands."""
    from PIL import Image, UnidentifiedImageError

    if not isinstance(content, bytes):
        raise RequestError(f"{where} holds {_BRIEF.repr(content)}; needed are the bytes of an encoded image")
    try:
        opened = Image.open(io.BytesIO(content))
        if not is_deep(opened):
            return np.asarray(opened.convert(mode))
    except UnidentifiedImageError as error:  # its own text shows an object of Python
        raise RequestError(f"{where} cannot be read as an image (of no known kind); mend it or leave it out") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # SyntaxError: a broken PNG
        raise RequestError(f"{where} cannot be read as an image ({error}); mend it or leave it out") from error
    raise RequestError(
        f"{where} holds an image of mode {opened.mode}, more than 8 bits a value; needed are 8: scale it to 0 ... 255, "
        "or give all images as arrays in .npz"
    )


def _whole_or_words(labels: list[Any], source: Path) -> np.ndarray:
    """Return labels as int64 where all are whole numbers, and as they are where all are words: [n]."""
    # a column has one type, so that words and numbers are never mixed
    wrong = [
        row
        for row, label in enumerate(labels)
        if not isinstance(label, str) and not (isinstance(label, int) and -(2**63) <= label < 2**63)
    ]
    if not wrong:
        return np.array(labels, np.str_ if labels and isinstance(labels[0], str) else np.int64)
    shown = ", ".join(f"row {row} holds {labels[row]!r}" for row in wrong[:_SHOWN])
    raise RequestError(
        f"{source}: {len(wrong)} of {len(labels)} labels are neither whole numbers of 64 bits nor words ({shown}); "
        "needed is one of them for each image"
    )


def _parquet(source: Path, most: int | None) -> tuple[np.ndarray, np.ndarray]:
    try:
        import PIL  # noqa: F401 (needed below)
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise RequestError(f"{source} needs pyarrow and Pillow: pip install 'weigher[study]'") from error
    images, labels = [], []
    try:
        with pyarrow.parquet.ParquetFile(source) as file:
            names = file.schema_arrow.names
            if not {"image", "label"} <= set(names):
                raise RequestError(f"{source}: the columns are {', '.join(names)}; needed are image and label")
            for batch in file.iter_batches(columns=["image", "label"]):
                for image, label in zip(batch["image"].to_pylist(), batch["label"].to_pylist(), strict=True):
                    if len(images) == most:
                        break
                    content = image.get("bytes") if isinstance(image, dict) else image
                    images.append(_decoded(content, "RGB", f"{source}: row {len(images)}"))
                    labels.append(label)
    except (pyarrow.ArrowException, OSError) as error:
        raise RequestError(f"{source} is damaged or no parquet file of images ({error}); copy it anew") from error
    sizes = sorted({image.shape for image in images})
    if len(sizes) != 1:
        raise RequestError(f"{source} holds images of {len(sizes)} sizes; needed are images, all of one size")
    return np.stack(images), _whole_or_words(labels, source)

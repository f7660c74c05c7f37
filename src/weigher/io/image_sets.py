"""Small sets of labelled images: parquet of encoded images, arrays in .npz, and folders of drawings in a zip file."""

from __future__ import annotations

import io
import os
import zipfile
from collections import defaultdict
from pathlib import Path, PurePosixPath

import numpy as np

from weigher.errors import RequestError


def read_images(path: str | os.PathLike[str], most: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return images uint8 `[n, h, w, c]` and labels int64 `[n]`, the first `most` of them.

    `.parquet` with the columns `image` (encoded bytes) and `label`; needs pyarrow and Pillow. `.npz` with `images`
    uint8 `[n, h, w]` or `[n, h, w, c]` and `labels`. All images of a file have one size.

    Raises RequestError for a file that is missing, of another kind, or without these columns.

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
        return (images if images.ndim == 4 else images[..., None]), labels.astype(np.int64)
    if source.suffix != ".parquet":
        raise RequestError(f"{source} is no file of images: its name needs to end in .parquet or .npz")
    return _parquet(source, most)


def read_drawings(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Return the drawings of a zip of folders ALPHABET/CHARACTER/*.png by "ALPHABET/CHARACTER": bool `[n, h, w]`, ink.

    Raises RequestError for a file that is missing, no zip, or without drawings.
    """
    from PIL import Image

    source = Path(path)
    if not source.is_file():
        raise RequestError(f"the file of drawings {source} does not exist; check its name")
    found: dict[str, list[np.ndarray]] = defaultdict(list)
    try:
        with zipfile.ZipFile(source) as held:
            for name in sorted(held.namelist()):
                parts = PurePosixPath(name).parts
                if len(parts) >= 3 and name.endswith(".png") and not parts[-1].startswith("."):
                    drawing = np.asarray(Image.open(io.BytesIO(held.read(name))).convert("L"))
                    found["/".join(parts[-3:-1])].append(drawing < 128)
    except (zipfile.BadZipFile, OSError) as error:
        raise RequestError(f"{source} is damaged or no zip file ({error}); copy it anew") from error
    if not found:
        raise RequestError(f"{source} holds no ALPHABET/CHARACTER/*.png")
    if len({drawing.shape for drawings in found.values() for drawing in drawings}) != 1:
        raise RequestError(f"{source} holds drawings of several sizes; needed are drawings, all of one size")
    return {name: np.stack(drawings) for name, drawings in found.items()}


def _parquet(source: Path, most: int | None) -> tuple[np.ndarray, np.ndarray]:
    try:
        import pyarrow
        import pyarrow.parquet
        from PIL import Image
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
                    content = image["bytes"] if isinstance(image, dict) else image
                    images.append(np.asarray(Image.open(io.BytesIO(content)).convert("RGB")))
                    labels.append(label)
    except (pyarrow.ArrowException, OSError) as error:
        raise RequestError(f"{source} is damaged or no parquet file of images ({error}); copy it anew") from error
    sizes = sorted({image.shape for image in images})
    if len(sizes) != 1:
        raise RequestError(f"{source} holds images of {len(sizes)} sizes; needed are images, all of one size")
    return np.stack(images), np.asarray(labels, np.int64)

"""Features of one recording in one .npz file without pickles: `features` [t, f] and the scalar `hop_seconds`."""

from __future__ import annotations

import os
import zipfile
import zlib
from dataclasses import dataclass

import numpy as np

from weigher.errors import RequestError
from weigher.io.atomic import writing

# What NumPy and zipfile raise on a damaged file, a pickle (ValueError), a lone array (TypeError: no context manager), a
# foreign or encrypted zip (RuntimeError), and a damaged shape that asks for more memory than there is.
_UNREADABLE = (OSError, ValueError, EOFError, TypeError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Features:
    """A matrix of features: row i describes the sound around i * hop_seconds."""

    values: np.ndarray
    """float32 [t, f]"""
    hop_seconds: float
    """Seconds from one row to the next."""


def read_features(path: str | os.PathLike[str]) -> Features:
    """Read the features of one recording from an .npz file.

    The file holds `features` [t, f] as float16, float32, float64, or int8 with a scalar `scale` (the values are
    int8 * scale), and the scalar `hop_seconds` > 0. Nothing in it is ever unpickled.

    Raises RequestError (file named) when it is missing, is no .npz, lacks an array, or holds one of a wrong shape or
    type, no rows, NaN or infinity.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "meeting.npz"
    >>> np.savez(path, features=np.array([[-4, 0], [2, 8]], np.int8), scale=0.5, hop_seconds=0.02)
    >>> read_features(path)
    Features(values=array([[-2.,  0.],
           [ 1.,  4.]], dtype=float32), hop_seconds=0.02)
    """
    arrays = load_arrays(path, ("features", "hop_seconds"), optional=("scale",))
    values = dequantise(arrays["features"], quantisation_scale(path, arrays))
    hop_seconds = positive_scalar(path, "hop_seconds", arrays["hop_seconds"])
    _check(path, values, hop_seconds)
    return Features(values, hop_seconds)


def write_features(path: str | os.PathLike[str], features: Features) -> None:
    """Write the features of one recording as float32 .npz, whole or not at all.

    Raises RequestError on what `read_features` would refuse, and on a name that does not end in .npz; WeigherError when
    the disk is full.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "meeting.npz"
    >>> write_features(path, Features(np.ones((3, 2), np.float32), hop_seconds=0.01))
    >>> read_features(path).values.shape
    (3, 2)
    """
    if not os.fspath(path).lower().endswith(".npz"):
        raise RequestError(f"cannot write {path}: the name of a file of features needs to end in .npz")
    values = dequantise(np.asarray(features.values), None)
    _check(path, values, features.hop_seconds)
    with writing(path) as file:
        np.savez(file, features=values, hop_seconds=np.float64(features.hop_seconds))


def load_arrays(
    path: str | os.PathLike[str], needed: tuple[str, ...], optional: tuple[str, ...] = ()
) -> dict[str, np.ndarray]:
    """Load the named arrays of an .npz file without unpickling; raises RequestError that says what is missing.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "a.npz"
    >>> np.savez(path, x=np.arange(3), y=1)
    >>> load_arrays(path, ("x",))
    {'x': array([0, 1, 2])}
    """
    if not os.path.isfile(path):
        raise RequestError(f"{path} does not exist or is not a file; give the name of an .npz file")
    try:
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):  # numpy would take it for a pickle, and say how to load that
                raise ValueError("it is no zip archive")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                missing = [name for name in needed if name not in archive]
                arrays = {name: archive[name] for name in (*needed, *optional) if name in archive}
                found = ", ".join(archive.files) or "nothing"
        for name, value in arrays.items():  # numpy gives the bytes of what is no array
            if not isinstance(value, np.ndarray):
                raise ValueError(f"{name} is no array")
    except PermissionError as error:
        raise RequestError(f"{path} cannot be read ({error.strerror}); make it readable, or leave it out") from error
    except _UNREADABLE as error:
        raise RequestError(
            f"{path} cannot be read as .npz without pickles ({error}); write it again with numpy.savez and plain arrays"
        ) from error
    if missing:
        raise RequestError(f"{path} holds {found}; it also needs {', '.join(missing)}")
    return arrays


def quantisation_scale(path: str | os.PathLike[str], arrays: dict[str, np.ndarray]) -> float | None:
    """Check the type of `features` and return its `scale` (int8) or None (floats); raises RequestError."""
    features = arrays["features"]
    if features.dtype == np.int8:
        if "scale" not in arrays:
            raise RequestError(f"{path} holds int8 features; it also needs the number `scale` they are multiplied by")
        return positive_scalar(path, "scale", arrays["scale"])
    if features.dtype.kind == "f":
        return None
    raise RequestError(
        f"{path} holds features of type {features.dtype}; needed is float16, float32, or int8 with scale"
    )


def dequantise(values: np.ndarray, scale: float | None) -> np.ndarray:
    """Stored features -> float32: values * scale, or the values themselves where `scale` is None.

    >>> dequantise(np.array([[-2, 4]], np.int8), 0.25)
    array([[-0.5,  1. ]], dtype=float32)
    """
    with np.errstate(over="ignore"):  # beyond float32 becomes infinity, and the caller's check names the place
        floats = values.astype(np.float32)
        return floats if scale is None else floats * np.float32(scale)


def positive_scalar(path: str | os.PathLike[str], name: str, value: np.ndarray) -> float:
    """A 0-dimensional number above 0 and finite, or RequestError."""
    if value.ndim or value.dtype.kind not in "fiu" or not 0 < float(value) < np.inf:
        raise RequestError(f"{path}: {name} is {value!r}; needed is one number above 0")
    return float(value)


def _check(path: str | os.PathLike[str], values: np.ndarray, hop_seconds: float) -> None:
    positive_scalar(path, "hop_seconds", np.asarray(hop_seconds))
    if values.ndim != 2 or not values.size:
        raise RequestError(f"{path}: features have the shape {values.shape}; needed is [frames, features], not empty")
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise RequestError(
            f"{path}: features hold NaN or infinity in frame {row} ({row * hop_seconds:.3f} s); compute them again"
        )

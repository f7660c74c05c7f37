"""A map of data sets: places in the plane whose distances come as near as can be to a table of distances."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from weigher.errors import RequestError

_ROUNDS = 500


@dataclass(frozen=True, eq=False)
class DatasetMap:
    """Places [k, dimensions] and how much they distort: `stress` 0 shows all distances, 0.2 and more misleads."""

    places: np.ndarray
    stress: float


def dataset_map(distances: np.ndarray, *, dimensions: int = 2) -> DatasetMap:
    """Return places for a symmetric table of distances, float64 [k, k].

        stress^2 = sum_ij (|z_i - z_j| - d_ij)^2 / sum_ij d_ij^2

    Classical scaling gives a start, which majorisation of the stress improves (SMACOF, de Leeuw 1977). The axes have
    no meaning; the longest extent lies along the first.
    Raises: RequestError for a table that is not square, symmetric, finite, 0 on the diagonal and >= 0.

    >>> found = dataset_map(np.array([[0.0, 3.0, 5.0], [3.0, 0.0, 4.0], [5.0, 4.0, 0.0]]))
    >>> float(np.linalg.norm(found.places[0] - found.places[2]).round(6)), found.stress < 1e-6
    (5.0, True)
    """
    d = np.asarray(distances, np.float64)
    square = d.ndim == 2 and d.shape[0] == d.shape[1] > 0 and np.isfinite(d).all()
    if not square or not np.allclose(d, d.T) or (np.diag(d) != 0).any() or (d < 0).any():
        raise RequestError(
            f"a map needs a symmetric table of distances >= 0 with 0 on its diagonal; given is one of shape {d.shape}"
        )
    k = len(d)
    centring = np.eye(k) - 1 / k
    z = _principal(-centring @ d**2 @ centring / 2, dimensions)
    stress = _stress(z, d)
    for _ in range(_ROUNDS):
        now = _between(z)
        ratio = np.divide(d, now, out=np.zeros_like(d), where=now > 1e-12)
        z = (np.diag(ratio.sum(1)) - ratio) @ z / k
        before, stress = stress, _stress(z, d)
        if before - stress < 1e-9:
            break
    z = z - z.mean(0)
    _, _, axes = np.linalg.svd(z, full_matrices=False)
    return DatasetMap(z @ axes.T if len(axes) == dimensions else z, stress)


def _principal(products: np.ndarray, dimensions: int) -> np.ndarray:
    values, vectors = np.linalg.eigh(products)
    found = vectors[:, ::-1] * np.sqrt(np.clip(values[::-1], 0, None))
    return np.pad(found[:, :dimensions], ((0, 0), (0, max(0, dimensions - len(products)))))


def _between(z: np.ndarray) -> np.ndarray:
    return np.linalg.norm(z[:, None] - z[None], axis=-1)


def _stress(z: np.ndarray, d: np.ndarray) -> float:
    total = (d**2).sum()
    return float(np.sqrt(((_between(z) - d) ** 2).sum() / total)) if total else 0.0

"""Cells: unit vectors grouped by their nearest centre, so that a search looks at a few groups and not at all vectors.

    train   spherical k-means of a sample: centre of a cell = direction of the sum of its vectors
    search  the `PROBES` cells whose centres are most like the query, and every vector in them, exactly

With c = 2 sqrt(n) cells a search reads about PROBES sqrt(n) / 2 of n vectors. Source: inverted files as in Jégou,
Douze, Schmid, "Product Quantization for Nearest Neighbor Search", 2011; vectors are kept whole here, so nothing but the
choice of cells is approximate.
"""

from __future__ import annotations

import math

import numpy as np

PROBES = 64
_ROUNDS = 8
_SAMPLE_PER_CELL = 40
_CHUNK = 8192  # rows of one product with the centres


def cell_count(vectors: int) -> int:
    """Return how many cells so many vectors get.

    >>> cell_count(1_000_000)
    2000
    """
    return max(1, round(2 * math.sqrt(vectors)))


def sample_size(cells: int) -> int:
    """Return how many vectors are enough to learn so many centres."""
    return _SAMPLE_PER_CELL * cells


def learn_centers(sample: np.ndarray, cells: int, rng: np.random.Generator) -> np.ndarray:
    """Return the centres of `cells` groups of unit vectors, by spherical k-means from vectors drawn by chance.

    Shapes: sample [n, e], n >= cells >= 1 -> float32 [cells, e] of unit length. A cell that loses all its vectors takes
    one by chance.

    >>> sample = np.repeat(np.eye(2, dtype=np.float32), 5, axis=0)
    >>> sorted(learn_centers(sample, 2, np.random.default_rng(1)).tolist())
    [[0.0, 1.0], [1.0, 0.0]]
    """
    centers = sample[rng.choice(len(sample), cells, replace=False)]
    for _ in range(_ROUNDS):
        cell = nearest_cell(sample, centers)
        order = np.argsort(cell, kind="stable")
        filled, first = np.unique(cell[order], return_index=True)
        centers = sample[rng.integers(len(sample), size=cells)]
        centers[filled] = np.add.reduceat(sample[order], first, axis=0)
        centers /= np.maximum(np.linalg.norm(centers, axis=1, keepdims=True), 1e-12)
    return centers.astype(np.float32)


def nearest_cell(vectors: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Return the number of the nearest centre of each vector: vectors [n, e], centers [c, e] -> int64 [n]."""
    found = np.empty(len(vectors), np.int64)
    for begin in range(0, len(vectors), _CHUNK):
        found[begin : begin + _CHUNK] = (vectors[begin : begin + _CHUNK] @ centers.T).argmax(1)
    return found

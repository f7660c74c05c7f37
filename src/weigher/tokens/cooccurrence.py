"""First word vectors, from the texts themselves: words that stand among the same words begin alike.

    c_ij    how often j stands up to `window` places from i in a text, each time counted as 1 / distance
    m_ij    max(0, log(c_ij / (c_i p_j))),   c_i = sum_j c_ij,   p_j = c_j^(3/4) / sum_k c_k^(3/4)
    m ~ U S V^T, truncated;   the vector of i is row i of U S^(1/2), scaled to a mean square of 1

No label is needed for that. Words that the labels hardly speak of, being rare, then stand where their like do, instead
of being learned by heart from the few texts that hold them.

Source: Levy, Goldberg, Dagan 2015, "Improving distributional similarity with lessons learned from word embeddings"
(positive pointwise mutual information, the power 3/4, the root of S); 1 / distance as GloVe, Pennington et al. 2014;
Musco and Musco 2015, arXiv 1504.05477 (the singular vectors of a large matrix, from a random block of vectors).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import sparse

from weigher.errors import RequestError
from weigher.tokens.sequences import Sequences

Progress = Callable[[str, int, int], None]

_TOKENS = 5_000_000  # of a part of the corpus that is counted at once
_POWER = 0.75
_MOST = 50_000  # tokens that are placed: others are too rare to have a place, and would fill the memory
_DENSE = 500  # tokens up to which all singular vectors are computed
_SPARE = 10  # vectors more than are asked for, so that the last ones that are do not lag behind
_PRODUCTS = 7  # of the matrix with each vector: the sizes found of 10,000 tokens are then within 0.2 % of S


def count_neighbours(corpus: Sequences, tokens: int, window: int, progress: Progress | None = None) -> sparse.csr_array:
    """Return how often each token stands near each other one, c of the header, symmetric float64 `[tokens, tokens]`.

    Ids from `tokens` on, unknown words, take up a place and count for nothing. `progress` gets "neighbours", done,
    total. Raises RequestError where no neighbour is near enough to count (a window below 1).

    >>> count_neighbours(Sequences.of([[0, 1, 1], [2, 0]]), 3, window=2).toarray().tolist()
    [[0.0, 1.5, 1.0], [1.5, 2.0, 0.0], [1.0, 0.0, 0.0]]
    """
    if window < 1:
        raise RequestError(f"window = {window}; words have neighbours from 1 place away on")
    counts = sparse.csr_array((tokens, tokens))
    texts = np.repeat(np.arange(len(corpus)), corpus.lengths)
    begins = range(0, len(corpus.tokens), _TOKENS)
    for number, begin in enumerate(begins):
        part = slice(begin, begin + _TOKENS + window)  # pairs whose first token is in this part
        ids, owners = corpus.tokens[part], texts[part]
        for distance in range(1, min(window, len(ids) - 1) + 1):
            first, second = ids[:-distance][:_TOKENS], ids[distance:][:_TOKENS]
            near = (owners[:-distance] == owners[distance:])[:_TOKENS] & (first < tokens) & (second < tokens)
            weights = np.full(int(near.sum()), 1 / distance)
            counts = counts + sparse.coo_array((weights, (first[near], second[near])), shape=counts.shape).tocsr()
            if progress is not None:
                progress("neighbours", number * window + distance, len(begins) * window)
    return counts + counts.T


def positive_information(counts: sparse.csr_array) -> sparse.csr_array:
    """Return the positive pointwise mutual information m of the header, of counts `[n, n]` as `count_neighbours` gives.

    >>> positive_information(sparse.csr_array(np.array([[0.0, 2.0], [2.0, 0.0]]))).toarray().round(3).tolist()
    [[0.0, 0.693], [0.693, 0.0]]
    """
    found = counts.tocoo()
    row, column = found.row, found.col
    totals = np.asarray(counts.sum(axis=1)).ravel()
    expected = totals**_POWER
    expected = expected / max(expected.sum(), np.finfo(np.float64).tiny)
    information = np.log(found.data / (totals[row] * expected[column]))
    above = information > 0
    return sparse.csr_array((information[above], (row[above], column[above])), shape=counts.shape)


def neighbour_vectors(
    corpus: Sequences,
    tokens: int,
    width: int,
    *,
    window: int = 5,
    seed: int = 0,
    progress: Progress | None = None,
) -> np.ndarray:
    """Return a vector for each token, float32 `[tokens, width]`, each of length sqrt(width).

    The 50,000 most frequent tokens are placed; the others, and those without neighbours, have zeros. Channels that few
    tokens do not need are 0. `progress` gets what `count_neighbours` and `first_singular` tell.

    >>> vectors = neighbour_vectors(Sequences.of([[0, 2], [1, 2]]), tokens=3, width=4)
    >>> bool(np.allclose(vectors[0], vectors[1], atol=1e-6)), bool(abs(vectors[0] @ vectors[2]) < 1e-6)
    (True, True)
    """
    frequent = np.argsort(-np.bincount(corpus.tokens, minlength=tokens)[:tokens], kind="stable")[:_MOST]
    count = len(frequent)
    place = np.full(max(tokens, int(corpus.tokens.max(initial=0)) + 1), count)
    place[frequent] = np.arange(count)
    known = Sequences(place[corpus.tokens], corpus.offsets)
    information = positive_information(count_neighbours(known, count, window, progress))
    vectors = np.zeros((tokens, width), np.float32)
    if not information.nnz:
        return vectors
    near = np.flatnonzero(np.diff(information.indptr))  # tokens with neighbours: the rows of all others are 0
    left, sizes = first_singular(information[near], width, seed=seed, progress=progress)
    found = left * np.sqrt(sizes)
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    is_placed = lengths > 1e-6 * np.sqrt(sizes[0])  # what rounding left of nothing is not scaled up
    placed = np.where(is_placed, width**0.5 * found / np.where(is_placed, lengths, 1), 0)
    vectors[frequent[near], : len(sizes)] = placed
    return vectors


def first_singular(
    matrix: sparse.csr_array, width: int, *, seed: int = 0, progress: Progress | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the first left singular vectors `[n, k]` of a matrix `[n, m]` and their sizes `[k]`, the largest first.

        space of  [A X, A A^T A X, (A A^T)^2 A X, ...],   X random [m, k + spare];   there, all of SVD

    k is `width`, or fewer where the matrix has fewer rows or columns. A matrix of up to 500 rows is decomposed as a
    whole; of a larger one `progress` gets "first vectors", done, total. A rank below k does no harm: a decomposition by
    reflections (QR) fills up the space, and with the same seed it does so in the same way, where a Lanczos iteration as
    ARPACK's goes on from new random numbers of its own.

    >>> left, sizes = first_singular(sparse.csr_array(np.diag([1.0, 3.0, 2.0])), 2)
    >>> abs(left).round(3).tolist(), sizes.round(3).tolist()
    ([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [3.0, 2.0])
    """
    shape: Any = matrix.shape
    rows, columns = shape
    if rows <= max(_DENSE, width):
        dense = matrix[:, np.flatnonzero(np.bincount(matrix.indices, minlength=columns))].toarray()
        left, sizes, _ = np.linalg.svd(dense, full_matrices=False)
        return left[:, :width], sizes[:width]
    turned = matrix.T.tocsr()
    block = min(width + _SPARE, rows, columns)
    x = np.random.default_rng(seed).standard_normal((columns, block))
    space = np.empty((rows, _PRODUCTS * block))
    for first in range(0, space.shape[1], block):
        y = np.linalg.qr(matrix @ x)[0]  # in each block, or the largest would drown the others
        space[:, first : first + block] = y
        x = turned @ y
        if progress is not None:
            progress("first vectors", first + block, space.shape[1])
    space = np.linalg.qr(space)[0]
    # A ~ space (A^T space)^T = space R^T Q^T, so that the right singular vectors of R are the left ones of A
    _, sizes, right = np.linalg.svd(np.linalg.qr(turned @ space, mode="r"))
    return space @ right[:width].T, sizes[:width]

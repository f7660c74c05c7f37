"""First word vectors from neighbours: counts by brute force, information by its definition, vectors by all of SVD."""

import numpy as np
import pytest
from scipy import sparse

from weigher.errors import RequestError
from weigher.tokens import cooccurrence
from weigher.tokens.cooccurrence import count_neighbours, neighbour_vectors, positive_information
from weigher.tokens.sequences import Sequences


def made_up(seed=0, texts=40, tokens=12, unknown=3):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, tokens + unknown, rng.integers(0, 15)) for _ in range(texts)]


def counted(texts, tokens, window):
    found = np.zeros((tokens, tokens))
    for text in texts:
        for i, first in enumerate(text):
            for j, second in enumerate(text):
                if 0 < abs(i - j) <= window and first < tokens and second < tokens:
                    found[first, second] += 1 / abs(i - j)
    return found


@pytest.mark.parametrize("window", [1, 2, 5, 100])
@pytest.mark.parametrize("part", [1, 7, 5_000_000])
def test_neighbours_are_counted_within_texts_alone(monkeypatch, window, part):
    monkeypatch.setattr(cooccurrence, "_TOKENS", part)  # a corpus is counted in parts, whose borders must not show
    texts = made_up()
    found = count_neighbours(Sequences.of(texts), 12, window).toarray()
    assert np.allclose(found, counted(texts, 12, window), rtol=1e-12)


@pytest.mark.parametrize("dense", [500, 2])
def test_nothing_to_count(monkeypatch, dense):
    monkeypatch.setattr(cooccurrence, "_DENSE", dense)
    for texts in ([], [[]], [[3]], [[], [1], []], [[9, 9]]):
        assert count_neighbours(Sequences.of(texts), 5, 3).nnz == 0
        assert not neighbour_vectors(Sequences.of(texts), 5, 4).any()
    with pytest.raises(RequestError, match="window = 0"):
        count_neighbours(Sequences.of([[1, 2]]), 5, 0)


def test_information_is_that_of_the_definition():
    counts = counted(made_up(1), 12, 3)
    context = counts.sum(0) ** 0.75 / (counts.sum(0) ** 0.75).sum()
    with np.errstate(divide="ignore"):
        wanted = np.maximum(0, np.log(counts / counts.sum(1, keepdims=True) / context))
    assert (wanted > 0).sum() > 20
    assert np.allclose(positive_information(sparse.csr_array(counts)).toarray(), wanted)


@pytest.mark.parametrize("dense", [500, 5])
def test_vectors_are_the_first_singular_ones_by_either_way(monkeypatch, dense):
    monkeypatch.setattr(cooccurrence, "_DENSE", dense)  # below it all singular vectors are computed, above it the first
    texts, width = made_up(2, texts=200), 4
    vectors = neighbour_vectors(Sequences.of(texts), 12, width, window=2)
    left, sizes, _ = np.linalg.svd(positive_information(sparse.csr_array(counted(texts, 12, 2))).toarray())
    wanted = left[:, :width] * np.sqrt(sizes[:width])
    wanted *= width**0.5 / np.linalg.norm(wanted, axis=1, keepdims=True)
    assert np.allclose(vectors @ vectors.T, wanted @ wanted.T, atol=1e-6)  # a singular vector may be turned around
    assert np.allclose(np.linalg.norm(vectors, axis=1), width**0.5)
    assert np.array_equal(vectors, neighbour_vectors(Sequences.of(texts), 12, width, window=2))


@pytest.mark.parametrize(
    "texts",
    [
        [[0, other] for other in range(1, 600)],  # a star: of rank 2
        [[i, i + 1] for i in range(0, 40, 2)] + [[i] for i in range(600)],  # 20 pairs, and many without neighbours
        [[hub, other] for hub in range(3) for other in range(3, 600)],
    ],
)
def test_many_tokens_of_a_low_rank_have_the_same_vectors_each_time_and_those_of_all_of_svd(texts):
    """Where the vectors asked for are more than the rank, an iteration may wander into what is drawn anew each time."""
    runs = [neighbour_vectors(Sequences.of(texts), 600, 100) for _ in range(3)]
    assert np.array_equal(runs[0], runs[1])
    assert np.array_equal(runs[0], runs[2])
    left, sizes, _ = np.linalg.svd(positive_information(sparse.csr_array(counted(texts, 600, 5))).toarray())
    wanted = left[:, :100] * np.sqrt(sizes[:100])
    lengths = np.linalg.norm(wanted, axis=1, keepdims=True)
    wanted = np.where(lengths > 1e-6 * sizes[0] ** 0.5, wanted / np.maximum(lengths, 1e-30), 0)
    assert np.allclose(runs[0] @ runs[0].T / 100, wanted @ wanted.T, atol=1e-5)


def test_vectors_of_many_tokens_hold_nearly_all_that_as_many_channels_can():
    rng = np.random.default_rng(0)
    texts = [(1000 ** rng.random(200)).astype(int) for _ in range(500)]  # frequent and rare tokens, by Zipf's law
    information = positive_information(count_neighbours(Sequences.of(texts), 1000, 5))
    found, sizes = cooccurrence.first_singular(information, 50, seed=0)
    wanted = np.linalg.svd(information.toarray(), compute_uv=False)
    assert np.allclose(found.T @ found, np.eye(50), atol=1e-9)
    assert np.all(sizes <= wanted[:50] * (1 + 1e-9))
    assert np.all(sizes >= 0.98 * wanted[:50])
    assert ((information.T @ found) ** 2).sum() > 0.99 * (wanted[:50] ** 2).sum()


def test_few_tokens_leave_channels_and_rare_ones_rows_of_zeros(monkeypatch):
    texts = [[0, 2], [1, 2], [0, 2], [4]]
    vectors = neighbour_vectors(Sequences.of(texts), 5, 8)
    assert vectors.shape == (5, 8)
    assert vectors.dtype == np.float32
    assert [bool(row.any()) for row in vectors] == [True, True, True, False, False]
    assert np.allclose(vectors[0], vectors[1], atol=1e-6)  # the same neighbours
    monkeypatch.setattr(cooccurrence, "_MOST", 2)  # 2 and 0 are the most frequent
    assert [bool(row.any()) for row in neighbour_vectors(Sequences.of(texts), 5, 8)] == [
        True,
        False,
        True,
        False,
        False,
    ]

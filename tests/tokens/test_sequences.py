"""Batches: every row once, little padding, and never more places than allowed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weigher.tokens.sequences import Sequences, plan_batches


@given(
    st.lists(st.integers(0, 40), max_size=60), st.integers(1, 9), st.integers(1, 60), st.one_of(st.none(), st.just(3))
)
def test_every_row_is_in_one_batch_within_the_limits(lengths, size, most, seed):
    lengths = np.array(lengths, np.int64)
    batches = plan_batches(lengths, size, most, None if seed is None else np.random.default_rng(seed))
    assert sorted(row for batch in batches for row in batch.tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert 1 <= len(batch) <= size
        assert len(batch) == 1 or len(batch) * lengths[batch].max() <= most


def test_batches_differ_from_epoch_to_epoch_and_hold_little_padding():
    rng = np.random.default_rng(0)
    lengths = rng.lognormal(5.2, 0.6, 20_000).astype(np.int64)  # like film reviews
    first, second = (plan_batches(lengths, 32, 65_536, rng) for _ in range(2))
    assert {tuple(batch) for batch in first}.isdisjoint(tuple(batch) for batch in second)
    places = sum(len(batch) * lengths[batch].max() for batch in first)
    assert places < 1.1 * lengths.sum()
    means = [lengths[batch].mean() for batch in first]
    assert np.corrcoef(means[:-1], means[1:])[0, 1] < 0.1  # short and long batches come in any order


def test_one_very_long_text_is_alone():
    lengths = np.array([100] * 40 + [1_000_000])
    batches = plan_batches(lengths, 32, 65_536, np.random.default_rng(0))
    assert [batch.tolist() for batch in batches if 40 in batch] == [[40]]


def test_padding_follows_the_longest_of_the_chosen():
    corpus = Sequences.of([[3, 1, 4, 1], [], [5, 9]])
    ids, lengths = corpus.padded(np.array([2, 1, 0]))
    assert ids.tolist() == [[5, 9, 0, 0], [0, 0, 0, 0], [3, 1, 4, 1]]
    assert lengths.tolist() == [2, 0, 4]
    ids, lengths = corpus.padded(np.array([0, 2]), most=3)
    assert ids.tolist() == [[3, 1, 4], [5, 9, 0]]
    assert lengths.tolist() == [3, 2]
    assert corpus.padded(np.array([1]))[0].shape == (1, 1)  # a text without words still has a place


def test_sequences_are_what_they_were_made_of():
    parts = [[3, 1], [], [2]]
    corpus = Sequences.of(np.array(part, np.int32) for part in parts)
    assert [corpus[i].tolist() for i in range(len(corpus))] == parts
    assert len(Sequences.of([])) == 0
    with pytest.raises(IndexError):
        corpus[3]

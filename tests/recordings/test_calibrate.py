import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from weigher.errors import RequestError
from weigher.recordings.calibrate import calibrate, naming_trials, pair_trials


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.mark.parametrize("bound", [0.0, 0.01, 0.05, 0.29, 0.5, 0.99])
def test_evenly_spread_scores_have_their_rates_in_closed_form(bound):
    different, same = np.arange(100) / 100, np.arange(50, 150) / 100 + 0.005
    found = calibrate(np.concatenate([different, same]), np.arange(200) >= 100, false_accept=bound)
    lowest = 1 - bound  # of scores 0.00 ... 0.99, exactly 100 * bound are at least 1 - bound
    assert found.false_accept == pytest.approx(bound)
    assert lowest - 0.01 < found.threshold <= lowest + 1e-12
    assert found.false_reject == pytest.approx(max(0.0, math.floor((lowest - 0.5) * 100 + 1e-9) / 100), abs=0.0101)
    assert (found.same, found.different) == (100, 100)


def test_rates_of_two_normal_distributions():
    """Scores N(0, 1) and N(3, 1): at 1 % false accept the threshold is the 99th percentile, 2.326."""
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.normal(0, 1, 200_000), rng.normal(3, 1, 50_000)])
    found = calibrate(scores, np.arange(250_000) >= 200_000, false_accept=0.01)
    assert found.threshold == pytest.approx(norm.ppf(0.99), abs=0.03)
    assert found.false_accept == pytest.approx(0.01, abs=1e-5)
    assert found.false_reject == pytest.approx(norm.cdf(norm.ppf(0.99) - 3), abs=0.01)


@given(
    st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=2, max_size=20).filter(
        lambda pairs: len({same for _, same in pairs}) == 2
    ),
    st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9]),
)
def test_no_threshold_rejects_less_within_the_bound(pairs, bound):
    scores = np.array([score for score, _ in pairs], float)
    same = np.array([same for _, same in pairs])
    found = calibrate(scores, same, false_accept=bound)
    assert found.false_accept == np.mean(scores[~same] >= found.threshold) <= bound
    assert found.false_reject == np.mean(scores[same] < found.threshold)
    for other in np.arange(-0.5, 9.5, 0.5):
        if np.mean(scores[~same] >= other) <= bound:
            assert np.mean(scores[same] < other) >= found.false_reject


def test_neighbours_of_the_number_line_are_told_apart():
    low = 0.5
    found = calibrate(np.array([low, np.nextafter(low, 1)]), np.array([False, True]), false_accept=0.0)
    assert (found.false_accept, found.false_reject) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("scores", "same", "bound", "said"),
    [
        ([1.0, 2.0], [True, True], 0.01, "2 same and 0 different"),
        ([], [], 0.01, "0 same and 0 different"),
        ([1.0, np.nan], [True, False], 0.01, "finite"),
        ([1.0], [True, False], 0.01, "finite"),
        ([1.0, 0.0], [True, False], 1.0, "below 1"),
        ([1.0, 0.0], [True, False], -0.1, "below 1"),
    ],
)
def test_what_cannot_be_calibrated(scores, same, bound, said):
    with pytest.raises(RequestError, match=said):
        calibrate(np.array(scores), np.array(same, bool), false_accept=bound)


def test_naming_trials_are_what_a_loop_finds():
    rng = np.random.default_rng(1)
    vectors, people = unit(rng.standard_normal((12, 5))), np.array([3, 3, 3, 7, 7, 9, 3, 9, 9, 7, 4, 7])
    strangers, known = [], []
    for i, person in enumerate(people):

        def to(others, vector=vectors[i]):
            total = vectors[others].sum(0)
            return float(vector @ total / np.linalg.norm(total))

        nearest = max(to(people == other) for other in set(people.tolist()) - {int(person)})
        strangers.append(nearest)
        rest = (people == person) & (np.arange(12) != i)
        if rest.any():
            own = to(rest)
            known.append(own if own >= nearest else -1.0)
    scores, same = naming_trials(vectors, people)
    np.testing.assert_allclose(scores, strangers + known)
    assert same.tolist() == [False] * 12 + [True] * 11  # the person with one vector is never known
    assert naming_trials(vectors, np.zeros(12))[0].size == 0
    assert naming_trials(np.empty((0, 5)), np.empty(0))[0].size == 0


def test_pairs_are_all_pairs_of_few_and_many_pairs_of_many():
    rng = np.random.default_rng(2)
    vectors, people = unit(rng.standard_normal((2500, 4))), rng.integers(0, 50, 2500)
    whole = rng.integers(-9, 10, (9, 4)).astype(float)  # products of these are the same in any order of their sums
    scores, same = pair_trials(whole, people[:9])
    assert scores.tolist() == [float(whole[i] @ whole[j]) for i in range(9) for j in range(i + 1, 9)]
    assert same.tolist() == [bool(people[i] == people[j]) for i in range(9) for j in range(i + 1, 9)]
    assert len(pair_trials(vectors, people)[0]) == 2000 * 1999 // 2
    assert pair_trials(vectors[:0], people[:0])[0].size == 0

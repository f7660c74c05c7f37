"""Alternating vectors: the laws' statistics, and the limit against brute force over all sequences of states."""

from itertools import pairwise, permutations, product

import numpy as np
import pytest
import torch

from weigher.errors import RequestError
from weigher.io.rttm import Segment
from weigher.recordings.alternating import (
    evidence,
    forward_backward,
    frame_errors,
    frames_of,
    person_posteriors,
    unit_vectors,
)
from weigher.recordings.switching import Chain, one_at_a_time, shares, windows
from weigher.recordings.teacher import sticky_posteriors
from weigher.recordings.turns import RandomWalkTurns


def brute_force(log_likely, chain):
    """Posteriors [t, s], log-likelihood and expected share of stays, by summing over every sequence of states."""
    frames, states = log_likely.shape
    joint, stays = np.zeros((frames, states)), 0.0
    total = 0.0
    for path in product(range(states), repeat=frames):
        p = chain.initial[path[0]] * np.prod([chain.transition[a, b] for a, b in pairwise(path)])
        p *= np.exp(sum(log_likely[t, s] for t, s in enumerate(path)))
        total += p
        stays += p * np.mean([a == b for a, b in pairwise(path)])
        joint[np.arange(frames), path] += p
    return joint / total, np.log(total), stays / total


@pytest.mark.parametrize("people", [2, 3])
def test_forward_backward_is_the_sum_over_all_sequences(people):
    rng = np.random.default_rng(people)
    drawn = rng.dirichlet(np.ones(4), size=5)  # no symmetry that would hide a transposed matrix
    chain = Chain(drawn[0], drawn[1:], np.array([0, 1, people - 1, 0]))
    log_likely = rng.normal(0, 2, (3, 5, 4))
    found = forward_backward(log_likely, chain.initial, chain.transition)
    per_row = forward_backward(log_likely, np.tile(chain.initial, (3, 1)), np.tile(chain.transition, (3, 1, 1)))
    for row in range(3):
        posteriors, likelihood, stays = brute_force(log_likely[row], chain)
        for each in (found, per_row):
            np.testing.assert_allclose(each.posteriors[row], posteriors, atol=1e-12)
            assert each.log_likelihood[row] == pytest.approx(likelihood, abs=1e-12)
            assert each.stays[row] == pytest.approx(stays, abs=1e-12)


def test_limit_of_a_walk_is_the_sum_over_all_walks():
    chain = Chain.random_walk(2, step=0.3, cells=4)
    rng = np.random.default_rng(0)
    vectors = unit_vectors(rng, 1, 2, 8)
    heard = chain.draw(1, 5, rng)
    frames = frames_of(vectors, heard, 0.6, rng)
    # from the definition: densities of a normal law around each vector
    log_density = -np.square(frames[0][:, None] - vectors[0]).sum(-1) / (2 * 0.6**2)
    posteriors, _, _ = brute_force(log_density[:, chain.owner], chain)
    summed = np.stack([posteriors[:, chain.owner == k].sum(1) for k in range(2)], 1)
    np.testing.assert_allclose(person_posteriors(evidence(frames, vectors, 0.6), chain)[0], summed, atol=1e-12)


def test_sticky_chain_agrees_with_the_teachers_own_recursion():
    said = np.random.default_rng(1).normal(0, 1, (2, 40, 3))
    # keeping with probability 0.9 in all = drawing anew with 0.15, of which a third stays
    found = person_posteriors(said, Chain.sticky(3, 0.9))
    other = sticky_posteriors(torch.from_numpy(said), torch.full((2, 3), 1 / 3, dtype=torch.float64), stay=0.85)
    np.testing.assert_allclose(found, other.numpy(), atol=1e-9)


@pytest.mark.parametrize("chain", [Chain.random_walk(3, 0.02), Chain.sticky(3, 0.95)], ids=["walk", "sticky"])
def test_the_limit_is_as_wrong_as_it_says(chain):
    # the posterior is calibrated only if draws and limit know the same law, and the same order of people
    rng = np.random.default_rng(2)
    heard = chain.draw(100, 300, rng)
    vectors = unit_vectors(rng, 100, 3, 32)
    said = evidence(frames_of(vectors, heard, 0.6, rng), vectors, 0.6)
    posteriors = person_posteriors(said, chain)
    wrong = (posteriors.argmax(-1) != heard).mean(1)
    assert wrong.mean() == pytest.approx((1 - posteriors.max(-1)).mean(), abs=4 * wrong.std() / 10)
    without_time = (said.argmax(-1) != heard).mean(1)
    assert wrong.mean() < 0.6 * without_time.mean()


def test_renaming_people_renames_the_posteriors_and_nothing_else():
    rng = np.random.default_rng(3)
    chain, order = Chain.sticky(3, 0.9), [2, 0, 1]
    vectors = unit_vectors(rng, 4, 3, 16)
    frames = frames_of(vectors, chain.draw(4, 30, rng), 0.5, rng)
    found = person_posteriors(evidence(frames, vectors, 0.5), chain)
    np.testing.assert_allclose(
        person_posteriors(evidence(frames, vectors[:, order], 0.5), chain), found[..., order], atol=1e-12
    )


def test_frame_errors_are_the_least_over_all_mappings():
    rng = np.random.default_rng(4)
    heard, found = rng.integers(3, size=(2, 20, 50))
    least = [
        min((np.array(mapping)[f] != h).mean() for mapping in permutations(range(3)))
        for f, h in zip(found, heard, strict=True)
    ]
    np.testing.assert_allclose(frame_errors(found, heard, 3), least, atol=1e-12)
    np.testing.assert_allclose(frame_errors(np.array([1, 2, 0])[found], heard, 3), least, atol=1e-12)
    assert frame_errors(np.zeros((1, 4), int), np.array([[0, 0, 0, 2]]), 3).tolist() == [0.25]


@pytest.mark.parametrize("people", [2, 3])
def test_independent_frames_switch_as_often_as_chance_has_it(people):
    heard = Chain.independent(people).draw(20, 500, np.random.default_rng(5))
    assert (np.diff(heard) != 0).mean() == pytest.approx(1 - 1 / people, abs=0.02)


def test_walk_is_reflected_uniform_and_as_fast_as_asked():
    chain = Chain.random_walk(3, step=0.05, cells=120)
    np.testing.assert_allclose(chain.transition.sum(1), 1)
    np.testing.assert_allclose(chain.initial @ chain.transition, chain.initial, atol=1e-5)  # it stays uniform
    middle = (np.arange(120) + 0.5) / 120
    moves = middle - middle[60]
    assert chain.transition[60] @ moves == pytest.approx(0, abs=1e-9)
    assert (chain.transition[60] @ moves**2) ** 0.5 == pytest.approx(0.05, rel=0.01)
    assert np.bincount(chain.owner).tolist() == [40, 40, 40]


def test_a_long_step_wraps_more_than_once():
    chain = Chain.random_walk(2, step=3.0, cells=10)
    np.testing.assert_allclose(chain.transition, 0.1, atol=1e-3)


def test_walk_switches_as_the_continuous_one_does():
    rng = np.random.default_rng(6)
    cells = (np.diff(Chain.random_walk(2, step=0.05).draw(300, 300, rng)) != 0).mean(1)
    law = RandomWalkTurns(spread_per_second=0.05, hop_seconds=1.0, min_speech_seconds=0.0)
    continuous = np.array([(np.diff(one_at_a_time(law.draw(2, 300.0, rng), 300, 1.0)) != 0).mean() for _ in range(300)])
    spread = (cells.var() / 300 + continuous.var() / 300) ** 0.5
    assert cells.mean() == pytest.approx(continuous.mean(), abs=4 * spread)


def test_a_fitted_law_switches_as_often_and_turns_last_as_long():
    rng = np.random.default_rng(7)
    lengths = np.where(rng.random(4000) < 0.5, rng.geometric(0.5, 4000), rng.geometric(0.02, 4000))  # answers and talks
    heard = np.repeat(np.arange(4000) % 2, lengths)
    heard = heard[: len(heard) // 500 * 500].reshape(-1, 500)
    chain = Chain.fitted(heard)
    np.testing.assert_allclose(chain.transition.sum(1), 1)
    drawn = chain.draw(200, 500, rng)
    assert (np.diff(drawn) != 0).mean() == pytest.approx((np.diff(heard) != 0).mean(), rel=0.1)
    # short answers: turns of one frame, which no single geometric law of this mean has so often
    single = [((np.diff(one)[:, 1:] != 0) & (np.diff(one)[:, :-1] != 0)).mean() for one in (heard, drawn)]
    assert single[1] == pytest.approx(single[0], rel=0.2)


def test_everybody_gets_the_least_share_or_it_is_said_that_they_cannot():
    rng = np.random.default_rng(8)
    assert shares(Chain.random_walk(3, 0.1).draw(20, 200, rng, least=0.1), 3).min() >= 0.1
    with pytest.raises(RequestError, match="hardly ever"):
        Chain.sticky(3, 1.0).draw(2, 10, rng, least=0.1)


def test_turns_on_a_grid_have_one_speaker_in_overlaps_pauses_and_before_the_first():
    turns = [Segment(1.0, 2.0, "0"), Segment(1.5, 3.0, "1"), Segment(4.0, 5.0, "0")]
    assert one_at_a_time(turns, 12, 0.5).tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0]


def test_windows_hold_everybody():
    rng = np.random.default_rng(9)
    law = RandomWalkTurns(spread_per_second=0.3)
    heard = windows(law, 3, 5, 100, hop_seconds=0.3, rng=rng, least=0.1)
    assert heard.shape == (5, 100)
    assert shares(heard, 3).min() >= 0.1
    with pytest.raises(RequestError, match="hardly ever"):
        windows(law, 3, 1, 100, hop_seconds=0.3, rng=rng, least=0.34)


def test_noise_has_the_size_that_was_asked_for():
    rng = np.random.default_rng(10)
    vectors, heard = unit_vectors(rng, 2, 2, 32), Chain.independent(2).draw(2, 400, rng)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1)
    clean = frames_of(vectors, heard, 0.0, rng)
    np.testing.assert_array_equal(clean[1, 7], vectors[1, heard[1, 7]])
    noisy = frames_of(vectors, heard, np.array([0.5, 2.0]), rng) - clean
    np.testing.assert_allclose(noisy.std((1, 2)), [0.5, 2.0], rtol=0.03)

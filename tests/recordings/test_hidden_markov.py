"""The hidden Markov model of one file: it finds what is plain, and uses time."""

import numpy as np

from weigher.recordings.alternating import evidence, frame_errors, frames_of, unit_vectors
from weigher.recordings.hidden_markov import fit_hidden_markov
from weigher.recordings.switching import Chain


def files(noise, people=2, count=4, frames=400):
    rng = np.random.default_rng(0)
    heard = Chain.sticky(people, 0.98).draw(count, frames, rng, least=0.1)
    vectors = unit_vectors(rng, count, people, 32)
    return frames_of(vectors, heard, noise, rng), vectors, heard


def test_little_noise_is_no_trouble():
    frames, _, heard = files(0.1, people=3)
    assert frame_errors(fit_hidden_markov(frames, 3), heard, 3).max() < 0.02


def test_time_helps_beyond_what_single_frames_tell():
    frames, vectors, heard = files(0.8)
    best_without_time = (evidence(frames, vectors, 0.8).argmax(-1) != heard).mean()
    assert frame_errors(fit_hidden_markov(frames, 2), heard, 2).mean() < 0.5 * best_without_time


def test_a_file_is_answered_alike_whatever_its_scale_and_seed_repeats():
    frames, _, _ = files(0.3)
    found = fit_hidden_markov(frames, 2, seed=3)
    np.testing.assert_array_equal(found, fit_hidden_markov(frames, 2, seed=3))
    # two starts may end alike under other names, and rounding chooses between them
    assert frame_errors(fit_hidden_markov(8.0 * frames, 2, seed=3), found, 2).max() == 0


def test_it_can_begin_at_given_vectors_and_ends_where_noise_is_high_better_than_from_its_own():
    frames, vectors, heard = files(1.6, people=3, count=6)
    begun = frame_errors(fit_hidden_markov(frames, 3, begin=vectors), heard, 3).mean()
    assert begun < frame_errors(fit_hidden_markov(frames, 3), heard, 3).mean() - 0.03
    renamed = fit_hidden_markov(frames, 3, begin=vectors[:, [1, 2, 0]])
    np.testing.assert_array_equal(np.array([1, 2, 0])[renamed], fit_hidden_markov(frames, 3, begin=vectors))

"""Vectors that alternate in time: one of K people is heard in each frame, and what is best possible is known exactly.

    x_t = v_{y_t} + noise * n_t,   n_t ~ N(0, I),   y_t = owner(s_t),   s_t a hidden chain (`Chain`)

Each person is a random unit vector v. With the true vectors, the true noise and the true chain, forward-backward gives
P(y_t | x_1 ... x_T) exactly; naming the likeliest person of each frame then makes the fewest errors that anybody can
make (`person_posteriors`). Sources: L. Rabiner, "A tutorial on hidden Markov models", 1989; the simulation is the
project's card 00. Symbols: b files, t frames, d dimensions, k people, s states.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from weigher.core.matching import match
from weigher.recordings.switching import Chain


def unit_vectors(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Random directions: [..., d] of length 1."""
    drawn = rng.normal(size=shape)
    return drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)


def frames_of(vectors: np.ndarray, heard: np.ndarray, noise: float | np.ndarray, rng: np.random.Generator):
    """Noisy frames [b, t, d] of vectors [b, k, d] and who is heard int [b, t]; noise >= 0: one, or one per file."""
    clean = np.take_along_axis(vectors, heard[..., None], 1)
    return clean + np.reshape(noise, (-1, 1, 1)) * rng.normal(size=clean.shape)


def evidence(frames: np.ndarray, vectors: np.ndarray, noise: float | np.ndarray) -> np.ndarray:
    """Log-likelihood of each person up to a constant, (x v - |v|^2 / 2) / noise^2: [b, t, d], [b, k, d] -> [b, t, k].

    >>> evidence(np.array([[[1.0, 0.0]]]), np.eye(2)[None], 0.5).tolist()
    [[[2.0, -2.0]]]
    """
    products = frames @ np.swapaxes(vectors, 1, 2) - np.square(vectors).sum(-1)[:, None] / 2
    return products / np.reshape(noise, (-1, 1, 1)) ** 2


@dataclass(frozen=True, eq=False)
class Smoothed:
    """What forward-backward gives: posteriors [b, t, s], log-likelihood [b], expected share of stays [b]."""

    posteriors: np.ndarray
    log_likelihood: np.ndarray
    stays: np.ndarray


def forward_backward(log_likely: np.ndarray, initial: np.ndarray, transition: np.ndarray) -> Smoothed:
    """Posterior of every state in every frame of a hidden Markov model, given all frames.

    Shapes: log_likely [b, t, s] (finite), initial [s] or [b, s], transition [s, s] or [b, s, s]. The recursion over
    frames is vectorised over files and scaled in every frame, as in Rabiner 1989.

    >>> found = forward_backward(np.zeros((1, 2, 2)), np.array([1.0, 0.0]), np.array([[0.75, 0.25], [0.5, 0.5]]))
    >>> found.posteriors.tolist(), found.log_likelihood.tolist(), found.stays.tolist()
    ([[[1.0, 0.0], [0.75, 0.25]]], [0.0], [0.75])
    """
    files, frames, _ = log_likely.shape
    top = log_likely.max(-1, keepdims=True)
    likely = np.exp(log_likely - top)
    keep = np.diagonal(transition, axis1=-2, axis2=-1)
    forward, scale = np.empty_like(likely), np.empty((files, frames))
    state = np.broadcast_to(initial, likely[:, 0].shape)
    for t in range(frames):
        state = (_moved(state, transition) if t else state) * likely[:, t]
        scale[:, t] = state.sum(-1)
        forward[:, t] = state = state / scale[:, t, None]
    posteriors, stays, later = forward.copy(), np.zeros(files), np.ones_like(state)
    back = np.swapaxes(transition, -1, -2)
    for t in range(frames - 2, -1, -1):
        coming = later * likely[:, t + 1]
        later = _moved(coming, back) / scale[:, t + 1, None]
        stays += (forward[:, t] * keep * coming).sum(-1) / scale[:, t + 1]
        posteriors[:, t] *= later
    posteriors /= posteriors.sum(-1, keepdims=True)
    return Smoothed(posteriors, np.log(scale).sum(1) + top.sum((1, 2)), stays / max(1, frames - 1))


def _moved(state: np.ndarray, transition: np.ndarray) -> np.ndarray:
    return state @ transition if transition.ndim == 2 else (state[:, None] @ transition)[:, 0]


def person_posteriors(evidence: np.ndarray, chain: Chain) -> np.ndarray:
    """P(y_t | x_1 ... x_T) for each person under a chain: evidence [b, t, k] -> [b, t, k].

    >>> person_posteriors(np.zeros((1, 3, 2)), Chain.random_walk(2, step=0.1)).round(6).tolist()
    [[[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]]
    """
    found = forward_backward(evidence[..., chain.owner], chain.initial, chain.transition)
    return found.posteriors @ np.eye(chain.people)[chain.owner]


def frame_errors(found: np.ndarray, heard: np.ndarray, people: int) -> np.ndarray:
    """Share of frames given to the wrong person, after the best one-to-one mapping: int [b, t], int [b, t] -> [b].

    >>> frame_errors(np.array([[1, 1, 0, 1]]), np.array([[0, 0, 1, 1]]), 2).tolist()
    [0.25]
    """
    each = np.arange(people)
    together = ((found[..., None] == each)[..., None] & (heard[..., None] == each)[..., None, :]).sum(1)
    pairs = match(torch.from_numpy(-together.astype(float)))
    right = together[pairs.batch.numpy(), pairs.slot.numpy(), pairs.label.numpy()].reshape(len(found), people).sum(1)
    return 1 - right / heard.shape[1]

"""A hidden Markov model fitted to one file by expectation-maximisation: it knows time and learns nothing from others.

    x_t ~ N(v_{y_t}, variance * I),   P(y_t = y_{t-1}) = keep,   else any other person alike

Everything is found on the file itself: vectors, the one variance, how sticky the turns are. It starts from means over
stretches of the file, several times, and the likeliest answer is kept. Source: L. Rabiner 1989; the starts are
k-means++ (D. Arthur and S. Vassilvitskii 2007) on means of neighbouring frames. Symbols as in
`weigher.recordings.alternating`.
"""

from __future__ import annotations

import numpy as np

from weigher.recordings.alternating import evidence, forward_backward
from weigher.recordings.switching import sticky_transitions


def fit_hidden_markov(
    frames: np.ndarray,
    people: int,
    *,
    stretch: int = 25,
    starts: int = 4,
    rounds: int = 20,
    keep: float = 0.95,
    begin: np.ndarray | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Say who is heard in each frame of each file by itself: float [b, t, d] -> int [b, t], people numbered by chance.

    `stretch` frames are averaged for the starts; `keep` is where the stickiness begins. `begin` float [b, k, d] are
    vectors to begin from in place of those: from the true ones, nobody who must find the vectors on the file does much
    better.

    >>> rng = np.random.default_rng(0)
    >>> heard = np.repeat([0, 1, 0], 50)
    >>> found = fit_hidden_markov(3 * np.eye(4)[heard][None] + rng.normal(size=(1, 150, 4)), people=2)
    >>> [len(np.unique(found[0, part])) for part in (heard == 0, heard == 1)]
    [1, 1]
    """
    files, length, size = frames.shape
    rng = np.random.default_rng(seed)
    starts = starts if begin is None else 1
    rows = np.repeat(frames, starts, axis=0)
    vectors = _seeds(rows, people, min(stretch, length // people), rng) if begin is None else begin
    variance = rows.var(axis=(1, 2))
    kept = np.full(len(rows), keep)
    squares = np.square(rows).sum((1, 2))
    even = np.full(people, 1 / people)
    for _ in range(rounds):
        found = forward_backward(evidence(rows, vectors, np.sqrt(variance)), even, sticky_transitions(kept, people))
        mass = found.posteriors.sum(1).clip(1e-6)
        vectors = np.swapaxes(found.posteriors, 1, 2) @ rows / mass[..., None]
        variance = (squares - (mass * np.square(vectors).sum(-1)).sum(1)) / (length * size)
        kept = found.stays.clip(1e-3, 1 - 1e-3)
    found = forward_backward(evidence(rows, vectors, np.sqrt(variance)), even, sticky_transitions(kept, people))
    likely = found.log_likelihood - squares / (2 * variance) - length * size * np.log(variance) / 2
    best = likely.reshape(files, starts).argmax(1) + starts * np.arange(files)
    return found.posteriors[best].argmax(-1)


def _seeds(rows: np.ndarray, people: int, stretch: int, rng: np.random.Generator) -> np.ndarray:
    """Vectors [b, k, d] to start from: means of `stretch` frames as k-means++ chooses, refined by Lloyd's steps."""
    whole = rows.shape[1] // stretch * stretch
    means = rows[:, :whole].reshape(len(rows), -1, stretch, rows.shape[2]).mean(2)
    each = np.arange(len(rows))
    chosen = [means[each, rng.integers(means.shape[1], size=len(rows))]]
    for _ in range(people - 1):
        far = np.square(means[:, :, None] - np.stack(chosen, 1)[:, None]).sum(-1).min(-1) + 1e-12
        place = (far.cumsum(1) < rng.random((len(rows), 1)) * far.sum(1, keepdims=True)).sum(1)
        chosen.append(means[each, place])
    vectors = np.stack(chosen, 1)
    for _ in range(10):
        nearest = np.square(means[:, :, None] - vectors[:, None]).sum(-1).argmin(-1)
        share = (nearest[..., None] == np.arange(people)).astype(float)
        total = share.sum(1)[..., None]
        vectors = np.where(total > 0, np.swapaxes(share, 1, 2) @ means / total.clip(1), vectors)
    return vectors

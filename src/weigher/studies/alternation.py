"""What the study of noise tolerance trains and compares: a weigher on alternating vectors, and clusterings of them.

There is nothing to encode here: the frames are their own embeddings, and the head that names labels is the vectors of
the batch themselves, which are drawn anew for every batch. Training knows of a file only its cast: the teacher is
`sticky_posteriors` over the batch's vectors that are in it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weigher.recordings.alternating import evidence, frames_of, unit_vectors
from weigher.recordings.cluster import Method, cluster_frames
from weigher.recordings.encoder import Frames
from weigher.recordings.loss import LossConfig, set_loss
from weigher.recordings.teacher import sticky_posteriors
from weigher.recordings.weigher import Weighed, Weigher, WeigherConfig
from weigher.train.loop import LoopConfig, fit

DIMENSIONS = 32
_MOST = 3  # people in a file


class AlternatingWeigher(nn.Module):
    """The library's weigher on vectors [b, t, d] that need no encoder; logits are cosines with given vectors."""

    def __init__(self, config: WeigherConfig, dimensions: int = DIMENSIONS, channels: int = 32) -> None:
        super().__init__()
        self.lift = nn.Linear(dimensions, channels)
        self.weigher = Weigher(channels, dimensions, config)
        nn.init.constant_(self.weigher.speech.bias, 4.0)  # in these files somebody is always heard
        self.scale = nn.Parameter(torch.tensor(12.0))
        self.bias = nn.Parameter(torch.tensor(-4.0))

    def forward(self, x: Tensor) -> Weighed:
        """Weigh frames x [b, t, d], at any common scale."""
        x = x / x.square().mean((1, 2), keepdim=True).sqrt()
        return self.weigher(Frames(self.lift(x), x, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)))

    def name(self, embeddings: Tensor, vectors: Tensor) -> Tensor:
        """Score embeddings [b, n, d] against vectors [c, d] -> [b, n, c]."""
        return self.scale * F.linear(F.normalize(embeddings, dim=-1), vectors) + self.bias


@dataclass(frozen=True)
class Training:
    """How a weigher is trained on one law."""

    steps: int
    batch: int
    most_noise: float
    """Noise is uniform up to this; it is reached after half of the steps."""
    stay: float
    """Of the teacher: the probability that no new speaker is drawn."""
    least_noise: float = 0.05
    learning_rate: float = 3e-3


def train(
    model: AlternatingWeigher,
    heard: Sequence[np.ndarray],
    training: Training,
    *,
    seed: int,
    progress: Callable[[str, int, int], None] | None = None,
) -> None:
    """Train in place, casts only; `heard`: who is heard, an array int [files, frames] for each number of people.

    The weigher and its loss never see that, only frames made from it and the cast.
    """
    everything = np.concatenate(heard)
    people = np.concatenate([np.full(len(one), one.max() + 1) for one in heard])

    def batches(k: int, generator: np.random.Generator) -> dict[str, Tensor]:
        chosen = generator.integers(len(everything), size=training.batch)
        top = training.most_noise * min(1.0, 0.15 + 2 * k / training.steps)
        noise = generator.uniform(training.least_noise, top, size=training.batch)
        vectors = unit_vectors(generator, training.batch, _MOST, DIMENSIONS)
        frames = frames_of(vectors, everything[chosen], noise, generator)
        labels = np.arange(training.batch * _MOST).reshape(training.batch, _MOST)
        labels[np.arange(_MOST) >= people[chosen][:, None]] = -1
        return {
            "frames": torch.from_numpy(frames.astype(np.float32)),
            "labels": torch.from_numpy(labels),
            "vectors": torch.from_numpy(vectors.astype(np.float32)),
            "posteriors": teacher(frames, vectors, noise, labels >= 0, training.stay),
        }

    def step(model: AlternatingWeigher, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        weighed = model(batch["frames"])
        named = model.name(weighed.embeddings, batch["vectors"].flatten(0, 1))
        return set_loss(weighed, named, batch["labels"], batch["posteriors"], LossConfig())

    config = LoopConfig(
        steps=training.steps,
        learning_rate=training.learning_rate,
        warmup_steps=min(30, training.steps // 4),
        clip_norm=2.0,
        validate_every=training.steps,
        seed=seed,
    )
    fit(model, step, batches, config, device="cpu", progress=progress)


def teacher(frames: np.ndarray, vectors: np.ndarray, noise: np.ndarray, in_cast: np.ndarray, stay: float) -> Tensor:
    """Posteriors of a cast from its own vectors: [b, t, d], [b, m, d], [b], bool [b, m] -> [b, t, m], 0 outside it."""
    prior = torch.from_numpy(in_cast / in_cast.sum(1, keepdims=True))
    return sticky_posteriors(torch.from_numpy(evidence(frames, vectors, noise)), prior, stay).float()


@torch.inference_mode()
def weigh(model: AlternatingWeigher, frames: np.ndarray, people: int, batch: int = 16) -> np.ndarray:
    """Say who is heard in each frame, given how many there are: the K most confident slots compete: int [b, t]."""
    model.eval()
    found = []
    for part in torch.from_numpy(frames.astype(np.float32)).split(batch):
        weighed = model(part)
        surest = weighed.confidence.topk(people, dim=1).indices
        tracks = weighed.logits[-1].gather(2, surest[:, None].expand(-1, part.shape[1], -1))
        found.append(tracks.argmax(2).numpy())
    return np.concatenate(found)


def clustered(frames: np.ndarray, people: int, method: str, seed: int) -> np.ndarray:
    """Who is heard, int [b, t], by a clustering of the frames of each file that is given the number of people."""
    return np.stack([CLUSTERINGS[method](one, people, seed) for one in frames])


def _by_direction(method: Method, points: np.ndarray, people: int, seed: int) -> np.ndarray:
    return cluster_frames(points, np.ones(len(points), bool), people, method, seed=seed).argmax(1)


def _spectral(points: np.ndarray, people: int, seed: int) -> np.ndarray:
    """On the graph of the 5 % nearest by cosine; it is sparse, while `cluster_frames` takes the cube of the frames."""
    from sklearn.cluster import SpectralClustering

    directions = points / np.linalg.norm(points, axis=1, keepdims=True)
    near = min(len(points), max(10, len(points) // 20))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Graph is not fully connected")  # with little noise: that is the answer
        return SpectralClustering(
            people, affinity="nearest_neighbors", n_neighbors=near, random_state=seed
        ).fit_predict(directions)


def _mixture(points: np.ndarray, people: int, seed: int) -> np.ndarray:
    """Spherical normal distributions: the true shape of these data."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return GaussianMixture(people, covariance_type="spherical", n_init=3, random_state=seed).fit_predict(points)


CLUSTERINGS: dict[str, Callable[[np.ndarray, int, int], np.ndarray]] = {
    "kmeans": partial(_by_direction, "kmeans"),
    "agglomerative": partial(_by_direction, "agglomerative"),
    "ward": partial(_by_direction, "ward"),
    "spectral": _spectral,
    "Gaussian mixture": _mixture,
}

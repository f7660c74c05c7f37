"""What a run remembers of the voices of its names, so that training on does not give them to others.

While the encoder is held, the embedding of a voice stays where it is. New names are learned from recordings in which
none of the old people speaks, so that nothing keeps the new rows of the head off the old voices. Voices that are drawn
from memory stand in for the recordings, and are to be named like slots:

    x = mean_c + L g,   g ~ N(0, I)

    mean_c  [e]     mean of the unit embeddings of slots that answered for the name c, over the training recordings
    L       [e, e]  L L' is the covariance within one person, one for all, shrunk as in `weigher.recordings.voice_space`

Source: Zhu, Zhang, Wang, Yin, Liu 2021, Prototype augmentation and self-supervision for incremental learning (CVPR),
which draws around class means with one radius; here the covariance is learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from weigher.errors import RequestError
from weigher.recordings.voice_space import shrunk_covariance
from weigher.train.state import load_tensors, save_tensors

VOICES = "voices.safetensors"


@dataclass(frozen=True, eq=False)
class Remembered:
    """Voices of names: `means` [c, e], rows of zeros for names that were never heard, and `spread` L [e, e]."""

    means: Tensor
    spread: Tensor

    def known(self) -> np.ndarray:
        """Return which names were heard, bool [c]."""
        return self.means.abs().sum(1).numpy() > 0

    def draw(self, names: np.ndarray, generator: np.random.Generator) -> Tensor:
        """Return a voice for each name, int [k] -> [k, e].

        >>> voices = Remembered(means=torch.eye(3), spread=torch.zeros(3, 3))
        >>> voices.draw(np.array([2, 0]), np.random.default_rng(0)).tolist()
        [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
        """
        noise = torch.from_numpy(generator.standard_normal((len(names), len(self.spread)), np.float32))
        return self.means[names] + noise @ self.spread.T


def remember(embeddings: np.ndarray, people: np.ndarray, names: int, before: Remembered | None = None) -> Remembered:
    """Return the voices of `names` names, from embeddings [m, e] and whose they are, int [m].

    Names that are not among `people` keep what is known from `before`, whose names come first; so does the spread, for
    it usually stands on more people than those that a model learns afterwards.

    >>> rows, people = np.array([[2.0, 0.0], [0.0, 3.0], [0.0, 4.0]]), np.array([0, 2, 2])
    >>> remember(rows, people, names=3).means.tolist()
    [[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]
    """
    x = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True).clip(1e-12)
    counts = np.bincount(people, minlength=names)
    means = np.zeros((names, x.shape[1]))
    np.add.at(means, people, x)
    means /= counts.clip(1)[:, None]
    if before is None:
        rest = x - means[people]
        free = len(x) - np.count_nonzero(counts)  # each mean took one of the m degrees of freedom
        covariance = shrunk_covariance(rest) * len(x) / free if free else np.zeros((x.shape[1],) * 2)
        values, directions = np.linalg.eigh(covariance)  # not Cholesky: few voices leave directions without variance
        spread = torch.from_numpy(directions * np.sqrt(values.clip(0))).float()
    else:
        old = np.flatnonzero(counts[: len(before.means)] == 0)
        means[old] = before.means[old].numpy()
        spread = before.spread
    return Remembered(torch.from_numpy(means).float(), spread)


def to_rehearse(remembered: Remembered | None, casts: Sequence[Sequence[int]]) -> np.ndarray:
    """Return the names that are remembered and that no cast has, int [k].

    >>> to_rehearse(Remembered(torch.eye(4)[:3], torch.eye(4)), [[1, 5], [5]]).tolist()
    [0, 2]
    """
    if remembered is None:
        return np.empty(0, int)
    return np.setdiff1d(np.flatnonzero(remembered.known()), [name for cast in casts for name in cast])


def keep_voices(run_dir: Path, remembered: Remembered) -> None:
    """Keep the voices in the folder of a run; raises WeigherError where the disk is full."""
    save_tensors(run_dir / VOICES, {"means": remembered.means, "spread": remembered.spread}, {})


def kept_voices(run_dir: Path, names: int) -> Remembered | None:
    """Return the voices of a run of so many names, None where it holds none; RequestError for another run's file."""
    path = run_dir / VOICES
    if not path.is_file():
        return None
    tensors, _ = load_tensors(path)
    means, spread = tensors.get("means"), tensors.get("spread")
    if means is None or spread is None or len(means) != names:
        raise RequestError(f"{path} does not hold the voices of the {names} names of this run; remove it or restore it")
    return Remembered(means, spread)

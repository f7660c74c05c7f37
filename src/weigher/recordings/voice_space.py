"""Where voices are compared: what differs between people counts there, what varies within one person does not.

Slot embeddings of unit length, x = mean + person + rest, with covariances B between people and W within one:

    B v_i = s_i W v_i,  v_i' W v_i = 1        (s_i: variance between people, in units of that within one)
    u_i(x) = sqrt(s_i / (2 s_i + 1)) v_i' (x - mean)
    voice = u / |u|

u(x)' u(y) is the part of the log-likelihood ratio "one person : two people" that x and y share, when both are Gaussian
(two-covariance model: Ioffe 2006, Probabilistic linear discriminant analysis; Brümmer and de Villiers 2010). Both
covariances are learned from the training recordings, whose slots the label head names among their casts
(`weigher.recordings.gather`); times are not needed. W is shrunk toward a multiple of the identity as far as its own
noise asks for (Ledoit and Wolf 2004), and so is B where it stands on a few people only.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.linalg import eigh
from torch import Tensor, nn

from weigher.errors import RequestError

_FEW_PEOPLE = 20  # below this many, directions between them say little about others
_FEWEST_PEOPLE = 10  # and below this many nothing: strangers were told apart no better than without


class VoiceSpace(nn.Module):
    """Embeddings of slots -> voices of unit length; at first it only sets the length.

    >>> VoiceSpace(2)(torch.tensor([[3.0, 4.0]]))
    tensor([[0.6000, 0.8000]])
    """

    mean: Tensor
    map: Tensor

    def __init__(self, embedding: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(embedding))
        self.register_buffer("map", torch.eye(embedding))

    def forward(self, embeddings: Tensor) -> Tensor:
        """Map embeddings [..., e] of any length but 0."""
        return F.normalize(F.linear(F.normalize(embeddings.float(), dim=-1) - self.mean, self.map), dim=-1)

    def reset(self) -> None:
        """Forget what was learned: voices are compared by the cosine of their embeddings, as at first."""
        self.mean.zero_()
        self.map.copy_(torch.eye(len(self.map)))

    def fit(self, embeddings: np.ndarray, people: np.ndarray) -> None:
        """Learn the space from embeddings [m, e] and whose they are, int [m]; people with one vector count for little.

        Raises RequestError where fewer than ten people have two vectors or more each.
        """
        mean, mapped = two_covariances(embeddings, people)
        self.mean.copy_(torch.from_numpy(mean))
        self.map.copy_(torch.from_numpy(mapped))


def two_covariances(embeddings: np.ndarray, people: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean [e] and map [e, e] of the space in which unit vectors [m, e] of people int [m] are best compared.

    Raises RequestError where fewer than ten people have two vectors or more each.

    >>> rng = np.random.default_rng(0)
    >>> people = np.arange(400) // 4
    >>> rows = rng.normal(size=(100, 3))[people] * [2, 0, 0] + rng.normal(size=(400, 3)) * [1, 5, 1] + [0, 0, 50]
    >>> _, mapped = two_covariances(rows, people)  # the first direction tells people apart, the second does not
    >>> bool(np.linalg.norm(mapped[:, 0]) > 10 * np.linalg.norm(mapped[:, 1]))
    True
    """
    x = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True).clip(1e-12)
    names, person, counts = np.unique(people, return_inverse=True, return_counts=True)
    if (counts > 1).sum() < _FEWEST_PEOPLE:
        raise RequestError(
            f"{len(x)} voices of {len(names)} people are given; needed are {_FEWEST_PEOPLE} people or more with 2 "
            "voices or more each"
        )
    sums = np.zeros((len(names), x.shape[1]))
    np.add.at(sums, person, x)
    means = sums / counts[:, None]
    rest = x - means[person]
    mean = x.mean(0)
    within = shrunk_covariance(rest) * len(rest) / (len(rest) - len(names))
    among = means - means.mean(0)
    between = among.T @ among / len(among) if len(names) >= _FEW_PEOPLE else shrunk_covariance(among)
    between *= len(names) / (len(names) - 1)
    variances, directions = eigh(between, within)
    variances = np.maximum(variances - (1 / counts).mean(), 0.0)  # means of few vectors vary by themselves
    if not variances.any():  # people differ no more than one person does; only what varies within is evened out
        variances = np.ones_like(variances)
    return mean, (directions * np.sqrt(variances / (2 * variances + 1))).T


def shrunk_covariance(rows: np.ndarray) -> np.ndarray:
    """Covariance [e, e] of rows [m, e] whose mean is 0, shrunk toward (trace / e) I as far as its noise asks for.

    Source: Ledoit and Wolf 2004, A well-conditioned estimator for large-dimensional covariance matrices.
    """
    m, e = rows.shape
    sample = rows.T @ rows / m
    scale = np.trace(sample) / e
    distance = ((sample - scale * np.eye(e)) ** 2).sum()
    noise = (((rows**2).sum(1) ** 2).sum() / m - (sample**2).sum()) / m
    share = 1.0 if distance <= 0 else min(1.0, max(0.0, noise / distance))
    return (1 - share) * sample + share * scale * np.eye(e)

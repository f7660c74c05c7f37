"""The tasks and learners of the study of meta-augmentation: digits, characters of alphabets, sinusoids on intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weigher.errors import RequestError
from weigher.examples.episodes import ClassPool, Episodes, Grouping
from weigher.examples.meta_learning import Bottleneck, Contextual, Maml, MetaLearner, Metric

INTERVALS = 10
TRAINED = 6
"""Intervals with a function of their own to train on; the others are never seen."""
_STARTS = np.array([4.0, -1.0, -2.0, 1.0, 3.0, -3.0, -5.0, 2.0, 0.0, -4.0])
_CODE = 32  # numbers that a bottleneck lets through


@dataclass(frozen=True)
class Condition:
    """How tasks are made and what is done against learning them by heart."""

    grouping: Grouping = "fixed"
    permute: bool = False
    dropout: float = 0.0
    weight_decay: float = 0.0
    moved: bool = False
    """Move every image by up to one pixel: an augmentation that keeps H(Y|X)."""
    price: float | None = None
    """Of a nat through a bottleneck; None: no bottleneck."""


@dataclass(frozen=True)
class Shape:
    """What images of a set are like, and how MAML steps on them."""

    side: int
    channels: int
    """Of three convolutions; 0: a perceptron of 64 - 64 instead."""
    inner_lr: float
    inner_steps: int
    learning_rate: float = 2e-3
    """Of the training over tasks, for every learner."""


def digit_pools() -> tuple[ClassPool, ClassPool]:
    """Return classes to train on (digits 0 to 5, upright and turned: 12) and held-out ones (6 to 9: 8).

    A digit and its own turned copy are neighbours, and so a fixed group of two.
    """
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    images = torch.from_numpy(x.reshape(-1, 1, 8, 8) / 16).float()
    images = torch.cat([images, images.rot90(1, (2, 3))])
    label = torch.cat([torch.from_numpy(2 * y), torch.from_numpy(2 * y + 1)])
    train = label < 12
    return ClassPool(images[train], label[train]), ClassPool(images[~train], label[~train])


def character_pools(folder: Path, side: int, seed: int) -> tuple[ClassPool, ClassPool]:
    """Return the characters of the first file's alphabets, and those of alphabets that only the second file has.

    Drawings are averaged down to side x side pixels, ink = 1. Raises RequestError where no alphabet is left over.
    """
    from weigher.io.image_sets import read_drawings

    first, second = (read_drawings(folder / f"images_background_small{part}.zip") for part in (1, 2))
    known = {name.split("/")[0] for name in first}
    others = {name: drawn for name, drawn in second.items() if name.split("/")[0] not in known}
    if not others:
        raise RequestError(f"both files in {folder} hold the alphabets {sorted(known)}; none is left to test on")
    train, test = (_characters(drawn, side) for drawn in (first, others))
    return ClassPool(train[0], _shuffled(train[1], seed)), ClassPool(*test)


def _characters(drawn: dict[str, np.ndarray], side: int) -> tuple[Tensor, Tensor]:
    images = [torch.from_numpy(drawn[name]).float()[:, None] for name in sorted(drawn)]
    label = torch.arange(len(images)).repeat_interleave(torch.tensor([len(one) for one in images]))
    return F.interpolate(torch.cat(images), (side, side), mode="area"), label


def _shuffled(label: Tensor, seed: int) -> Tensor:
    """Number the classes in a random order: neighbours make a fixed group, and would be of one alphabet otherwise."""
    order = np.random.default_rng([seed, 7]).permutation(int(label.max()) + 1)
    return torch.from_numpy(order)[label]


def moved(episodes: Episodes, generator: np.random.Generator) -> Episodes:
    """Move every image by -1, 0 or 1 pixel along both axes; what comes in is empty."""
    return replace(
        episodes,
        support_x=_moved(episodes.support_x, generator),
        query_x=_moved(episodes.query_x, generator),
    )


def _moved(x: Tensor, generator: np.random.Generator) -> Tensor:
    images = x.flatten(0, 1)
    height, width = images.shape[2:]
    windows = F.pad(images, (1, 1, 1, 1)).unfold(2, height, 1).unfold(3, width, 1)
    row, column = (torch.from_numpy(generator.integers(3, size=len(images))) for _ in range(2))
    return windows[torch.arange(len(images)), :, row, column].reshape(x.shape)


def image_learner(kind: str, condition: Condition, shape: Shape, ways: int) -> MetaLearner:
    """Make a learner for images 1 x side x side."""
    embed = _body(shape, condition.dropout)
    size = embed(torch.zeros(1, 1, shape.side, shape.side)).shape[1]
    if condition.price is not None:
        channel = nn.Sequential(embed, nn.Linear(size, 2 * _CODE))
        return Bottleneck(channel, _maml(_perceptron(_CODE, ways), shape), price=condition.price)
    if kind == "MAML":
        return _maml(nn.Sequential(embed, nn.Linear(size, ways)), shape)
    if kind == "contextual":
        coder = nn.Sequential(nn.Linear(size + ways, 64), nn.ReLU(), nn.Linear(64, 64))
        decoder = nn.Sequential(nn.Linear(size + 64, 64), nn.ReLU(), nn.Linear(64, ways))
        return Contextual(coder, decoder, F.cross_entropy, embed=embed, ways=ways)
    return Metric(nn.Sequential(embed, nn.Linear(size, 64)), F.cross_entropy, ways=ways)


def _maml(model: nn.Module, shape: Shape) -> Maml:
    return Maml(model, F.cross_entropy, inner_lr=shape.inner_lr, inner_steps=shape.inner_steps, test_steps=10)


def _body(shape: Shape, dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    if shape.channels:
        before = 1
        for _ in range(3):
            layers += [nn.Conv2d(before, shape.channels, 3, 2, 1), nn.GroupNorm(1, shape.channels), nn.ReLU()]
            before = shape.channels
        layers.append(nn.Flatten())
    else:
        layers += [nn.Flatten(), nn.Linear(shape.side**2, 64), nn.ReLU()]
        layers += [nn.Dropout(dropout)] * (dropout > 0) + [nn.Linear(64, 64), nn.ReLU()]
    return nn.Sequential(*layers, *[nn.Dropout(dropout)] * (dropout > 0))


def _perceptron(inputs: int, outputs: int, width: int = 64) -> nn.Sequential:
    hidden = [nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Linear(width, outputs))


@dataclass(frozen=True, eq=False)
class Sinusoids:
    """The paper's toy: y = a sin(x - p) on intervals of width 0.5, each interval with a function of its own.

    a in U(0.1, 5), p in U(0, pi). From x alone a model can tell which function is meant.
    """

    waves: np.ndarray
    """Amplitude and phase of each interval's function, [2, 10]."""

    @classmethod
    def drawn(cls, seed: int) -> Sinusoids:
        """Draw a function for each interval."""
        return cls(_drawn_waves(INTERVALS, np.random.default_rng([seed, 11])))

    def train(self, shots: int, queries: int, generator: np.random.Generator, *, repeat: int = 1) -> Episodes:
        """Draw examples of all functions to train on, one task for each, `repeat` times."""
        which = np.tile(np.arange(TRAINED), repeat)
        return _sampled(self.waves[:, which], _STARTS[which], shots, queries, generator)

    @staticmethod
    def new(shots: int, queries: int, generator: np.random.Generator, *, where: Sequence[int], repeat: int) -> Episodes:
        """Draw tasks with functions of their own on these intervals, `repeat` of each."""
        which = np.tile(np.asarray(where), repeat)
        return _sampled(_drawn_waves(len(which), generator), _STARTS[which], shots, queries, generator)


def _drawn_waves(count: int, generator: np.random.Generator) -> np.ndarray:
    return np.stack([generator.uniform(0.1, 5, count), generator.uniform(0, np.pi, count)])


def _sampled(
    waves: np.ndarray, start: np.ndarray, shots: int, queries: int, generator: np.random.Generator
) -> Episodes:
    """Draw examples of tasks; waves [2, b], amplitude and phase."""
    amplitude, phase = waves
    x = start[:, None] + generator.uniform(0, 0.5, (len(start), shots + queries))
    y = amplitude[:, None] * np.sin(x - phase[:, None])
    both = [torch.from_numpy(one[..., None]).float() for one in (x, y)]
    (support_x, query_x), (support_y, query_y) = ((one[:, :shots], one[:, shots:]) for one in both)
    return Episodes(support_x, support_y, query_x, query_y)


def sinusoid_learner(kind: str) -> MetaLearner:
    """Make a learner of one number from one number, two hidden layers of 40; MAML steps as in the paper's code."""
    if kind == "MAML":
        body = _perceptron(1, 1, width=40)
        return Maml(body, F.mse_loss, inner_lr=1e-3, inner_steps=1, test_steps=10)
    return Contextual(_perceptron(2, 40, width=40), _perceptron(41, 1, width=40), F.mse_loss)

"""The data and the students of the study of commentaries: what is trained on, held out and tested on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from weigher.examples.commentaries import Batch, Commentary, ExampleLoss, Predict, mixed_loss
from weigher.examples.episodes import ClassPool
from weigher.examples.teaching import Curve, MakeOptimiser, train_student
from weigher.io.image_sets import read_drawings, read_images

LOSS = nn.CrossEntropyLoss(reduction="none")
RATES = (0.01, 0.03, 0.1, 0.3)
"""Beyond the best on both sides: weights that are all 2 would else pass for knowledge, being twice the rate."""
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Task:
    """Examples for training, for measuring a commentary, and for testing; and the student that learns them."""

    train: Pair
    held_out: Pair
    test: Pair
    student: Callable[[], nn.Module]
    steps: int
    batch: int
    check_every: int
    truth: Tensor
    """What a perfect commentary would see: bool, by training example or by pixel of test images."""


@dataclass(frozen=True, eq=False)
class Run:
    """One way to train, with the setting that was best on held-out examples."""

    setting: str
    curve: Curve
    """Test accuracy in per cent by step."""

    @property
    def final(self) -> float:
        """Mean accuracy of the last three checks, in per cent."""
        return float(np.mean([accuracy for _, accuracy in self.curve[-3:]]))

    @property
    def best(self) -> float:
        """Highest accuracy of all checks, in per cent: what stopping at the right time would give."""
        return max(accuracy for _, accuracy in self.curve)

    def steps_to(self, level: float) -> int:
        """First step of a check that stands at `level`; all steps where none does."""
        return next((step for step, accuracy in self.curve if accuracy >= level), self.curve[-1][0])


def optimisers(steps: int) -> dict[str, MakeOptimiser]:
    """Return what every way of training may choose among: four rates, each constant or falling to 0 (cosine).

    >>> len(optimisers(10))
    8
    """
    return {
        f"rate {rate:g}, {'falling' if falls else 'constant'}": partial(_descent, rate, steps if falls else None)
        for falls in (True, False)
        for rate in RATES
    }


def _descent(rate: float, falls_over: int | None, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    optimiser = torch.optim.SGD(parameters, lr=rate, momentum=0.9)
    if falls_over is not None:
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, falls_over)
        optimiser.register_step_post_hook(lambda *_: schedule.step())
    return optimiser


def accuracy(student: nn.Module, pair: Pair, see: Callable[[Tensor], Tensor] | None = None) -> float:
    """Return the share of right answers in per cent; `see` changes inputs first."""
    x, y = pair
    with torch.no_grad():
        parts = [student(part if see is None else see(part)).argmax(1) for part in x.split(500)]
    return 100 * float((torch.cat(parts) == y).float().mean())


def train_tuned(
    task: Task,
    commentary: Commentary | None,
    *,
    seed: int,
    student: Callable[[], nn.Module] | None = None,
    steps: int | None = None,
    see: Callable[[Tensor], Tensor] | None = None,
    falling_only: bool = False,
) -> Run:
    """Train with every setting, and return the run whose last student is best on the held-out examples."""
    steps, runs = steps or task.steps, []
    for setting, optimiser in optimisers(steps).items():
        if falling_only and ("constant" in setting or "0.01" in setting):
            continue
        torch.manual_seed(seed)
        trained = train_student(
            (student or task.student)(),
            LOSS,
            task.train,
            commentary,
            steps=steps,
            batch=task.batch,
            optimiser=optimiser,
            horizon=steps,
            seed=seed,
            check=lambda model: accuracy(model, task.test, see),
            check_every=task.check_every,
        )
        runs.append((accuracy(trained.student, task.held_out, see), Run(setting, trained.curve)))
    return max(runs, key=lambda run: run[0])[1]


class Mixup(Commentary):
    """Mixup with shares drawn from Beta(alpha, alpha); nothing is learned. Source: Zhang et al. 2018, 1710.09412."""

    def __init__(self, alpha: float, seed: int) -> None:
        super().__init__()
        self.beta, self.rng = alpha, np.random.default_rng(seed)

    def training_loss(self, batch: Batch, predict: Predict, loss: ExampleLoss) -> Tensor:
        """Return the mean of the mixed losses; one share for the batch, as its authors do."""
        share = torch.full((len(batch.x),), float(self.rng.beta(self.beta, self.beta)))
        return mixed_loss(batch, torch.randperm(len(batch.x), generator=batch.generator), share, predict, loss)


class FixedMixer(Commentary):
    """A share for each pair of classes that is drawn once, from U(1/2, 1): the control of learned shares."""

    def __init__(self, classes: int, seed: int) -> None:
        super().__init__()
        self.shares = torch.from_numpy(np.random.default_rng(seed).uniform(0.5, 1, (classes, classes))).float()

    def training_loss(self, batch: Batch, predict: Predict, loss: ExampleLoss) -> Tensor:
        """Return the mean of the mixed losses."""
        partner = torch.randperm(len(batch.x), generator=batch.generator)
        return mixed_loss(batch, partner, self.shares[batch.y, batch.y[partner]], predict, loss)


def perceptron(*sizes: int) -> nn.Sequential:
    """Return dense layers with ReLU between them, on flattened inputs.

    >>> len(perceptron(64, 32, 10))
    4
    """
    layers: list[nn.Module] = [nn.Flatten()]
    for k, (a, b) in enumerate(pairwise(sizes)):
        layers += [nn.Linear(a, b)] if k == 0 else [nn.ReLU(), nn.Linear(a, b)]
    return nn.Sequential(*layers)


def two_blocks(channels: int, outputs: int, width: int = 16) -> nn.Sequential:
    """Return the paper's small student for 32 x 32 images: two blocks of strided convolution, norm, ReLU and pool."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 5, stride=2, padding=2),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * width, outputs),
    )


class _Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.way = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.short = nn.Conv2d(inputs, outputs, 1, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return (self.way(x) + self.short(x)).relu()


def residual_network(channels: int, outputs: int, width: int = 16) -> nn.Sequential:
    """Return a residual network of seven convolutions, larger and deeper than `two_blocks`."""
    stem = [nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    blocks = [_Residual(width, 2 * width), _Residual(2 * width, 4 * width)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, outputs))


def noisy_digits(seed: int, *, flipped: float, steps: int) -> Task:
    """scikit-learn's digits: 1,247 with labels of which a share is another one, 50 held out and 500 to test, right."""
    from sklearn.datasets import load_digits

    rng = np.random.default_rng(seed)
    images, labels = load_digits(return_X_y=True)
    x, y, order = torch.from_numpy(images / 16).float(), torch.from_numpy(labels).long(), rng.permutation(len(images))
    train, held_out, test = (torch.from_numpy(part) for part in np.split(order, [1247, 1297]))
    wrong = torch.from_numpy(rng.random(len(train)) < flipped)
    given = torch.where(wrong, (y[train] + torch.from_numpy(rng.integers(1, 10, len(train)))) % 10, y[train])
    right, tested = ((x[part], y[part]) for part in (held_out, test))
    new = partial(perceptron, 64, 128, 128, 10)
    return Task((x[train], given), right, tested, new, steps, 100, max(1, steps // 50), wrong)


def images(
    path: Path, seed: int, *, counts: tuple[int, int, int], steps: int, batch: int, flipped: float = 0.0
) -> Task:
    """CIFAR-10: train and held-out images from its training file, test images from its test file.

    A share `flipped` of the training labels is another one.
    """
    train, held_out, test = counts
    rng = np.random.default_rng(seed)
    x, y = _normal(read_images(path / "train.parquet", train + held_out))
    first, other = (torch.from_numpy(part) for part in np.split(rng.permutation(train + held_out), [train]))
    wrong = torch.from_numpy(rng.random(train) < flipped)
    given = torch.where(wrong, (y[first] + torch.from_numpy(rng.integers(1, 10, train))) % 10, y[first])
    last = _normal(read_images(path / "test.parquet", test))
    every = max(1, steps // 15)
    return Task((x[first], given), (x[other], y[other]), last, partial(two_blocks, 3, 10), steps, batch, every, wrong)


def _normal(read: tuple[np.ndarray, np.ndarray]) -> Pair:
    pixels, labels = read
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - 0.47) / 0.25, torch.from_numpy(labels)


def cluttered_digits(path: Path, seed: int, *, counts: tuple[int, int, int], steps: int, pieces: int = 12) -> Task:
    """MNIST at half size, somewhere in an image of 32 x 32 among pieces of other digits; truth: the digit's pixels."""
    rng = np.random.default_rng(seed)
    pixels, labels = read_images(path)
    small = pixels[..., 0].reshape(-1, 14, 2, 14, 2).mean((2, 4)) / 255
    order = rng.permutation(len(small))[: sum(counts)]
    canvas = np.zeros((len(order), 32, 32))
    ink = np.zeros(canvas.shape, bool)
    for place, digit in enumerate(order):
        for _ in range(pieces):
            piece = small[rng.integers(len(small))][5:10, 4:9]
            top, left = rng.integers(0, 28, 2)
            part = canvas[place, top : top + 5, left : left + 5]
            np.maximum(part, piece[: part.shape[0], : part.shape[1]], out=part)
        top, left = rng.integers(0, 19, 2)
        canvas[place, top : top + 14, left : left + 14] = small[digit]
        ink[place, top : top + 14, left : left + 14] = small[digit] > 0.2
    x, y = torch.from_numpy(canvas).float()[:, None], torch.from_numpy(labels[order])
    bounds = np.cumsum((0, *counts))
    parts = [(x[a:b], y[a:b]) for a, b in pairwise(bounds)]
    truth = torch.from_numpy(ink[bounds[2] :])
    return Task(parts[0], parts[1], parts[2], partial(two_blocks, 1, 10), steps, 64, max(1, steps // 15), truth)


def characters(path: Path) -> ClassPool:
    """Omniglot's characters at 14 x 14, 20 drawings [196] of ink in [0, 1] for each."""
    found, labels = [], []
    for label, drawings in enumerate(read_drawings(path).values()):
        ink = torch.from_numpy(drawings).float()[:, None]
        found.append(nn.functional.adaptive_avg_pool2d(ink, 14).flatten(1).clamp(0, 0.4) / 0.4)
        labels.append(torch.full((len(ink),), label))
    return ClassPool(torch.cat(found), torch.cat(labels))

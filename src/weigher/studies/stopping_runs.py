"""What the study of early stopping does with one seed: one set, one share of wrong labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from weigher.examples.early_stopping import MemorisationMonitor, NoiseRobustStopping, corrupt_labels
from weigher.examples.label_noise import (
    FixedOutputNetwork,
    clusterability,
    gram,
    rate_limit,
    spectral_shares,
)
from weigher.io.image_sets import read_images
from weigher.studies.harness import Figures
from weigher.studies.stopping_names import (
    BEST,
    DISTANCE,
    END,
    STEP,
    STOPPED,
    TEST,
    WRONG_GIVEN,
    WRONG_TRUE,
    Size,
)
from weigher.studies.teaching_tasks import two_blocks

PATIENCE = 40
"""Checks without a better one, after which the rule stops."""


@dataclass(frozen=True, eq=False)
class Parts:
    """Inputs and labels: given ones to train on and to stop by, right ones to test; right ones of training beside."""

    x: Tensor
    given: Tensor
    true: Tensor
    held_out: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def clusters(size: Size, noise: float, seed: int) -> Figures:
    """Points around six centres, three classes with the values -1, 0.1 and 1, one output."""
    values = torch.tensor([-1.0, 0.1, 1.0])
    generator = torch.Generator().manual_seed(seed)
    centres = nn.functional.normalize(torch.randn(6, 20, generator=generator))

    def drawn(count: int) -> tuple[Tensor, Tensor, Tensor]:
        member = torch.arange(count) % 6
        away = nn.functional.normalize(torch.randn(count, 20, generator=generator))
        x = centres[member] + 0.35 * torch.rand(count, 1, generator=generator) * away
        return nn.functional.normalize(x), member % 3, member

    x, y, member = drawn(size.points)
    held_x, held_y, _ = drawn(size.points // 3)
    test_x, test_y, _ = drawn(2 * size.points)
    given = corrupt_labels(y, noise, classes=3, seed=seed)[0]
    parts = Parts(x, given, y, (held_x, corrupt_labels(held_y, noise, classes=3, seed=seed + 1)[0]), (test_x, test_y))
    network = FixedOutputNetwork(20, width=size.width, seed=seed)

    def predict(x: Tensor) -> Tensor:
        return (network(x) - values).abs().argmin(1)

    figures = _followed(network, parts, _descend(network, x, values[given][:, None], 2 * size.steps), predict, size)
    found = clusterability(x, values[y], member)
    figures[END] |= {"radius of the clusters": found.radius, "condition of the centres": found.condition}
    return figures


def digits(size: Size, noise: float, seed: int) -> Figures:
    """Handwritten digits, centred and of norm 1, ten outputs."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x = torch.from_numpy(images).float()
    x, y = nn.functional.normalize(x - x.mean(0)), torch.from_numpy(labels).long()
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(x)))
    train, held_out, test = order.split([*size.digits, len(x) - sum(size.digits)])
    given, wrong = corrupt_labels(y[train], noise, classes=10, seed=seed)
    held = corrupt_labels(y[held_out], noise, classes=10, seed=seed + 1)[0]
    parts = Parts(x[train], given, y[train], (x[held_out], held), (x[test], y[test]))
    network = FixedOutputNetwork(64, width=size.width, outputs=10, seed=seed)
    targets = nn.functional.one_hot(given, 10).float()
    figures = _followed(
        network, parts, _descend(network, x[train], targets, size.steps), lambda x: network(x).argmax(1), size
    )
    if bool(wrong.any()):
        kernel = gram(x[train], network.W_0).double()
        right = nn.functional.one_hot(y[train], 10).double()
        top = len(train) // 10
        for what, part in (("right labels", right - right.mean(0)), ("wrong labels' part", targets.double() - right)):
            shares = spectral_shares(kernel, part)
            figures[END][f"energy in the top tenth of eigenvectors, {what}"] = float(shares[:top].sum())
    return figures


def images(size: Size, noise: float, path: Path, seed: int) -> Figures:
    """CIFAR-10, a convolutional network."""
    train, held_out, test = size.images
    pixels, labels = read_images(path / "train.parquet", train + held_out)
    test_pixels, test_labels = read_images(path / "test.parquet", test)
    x, test_x = ((torch.from_numpy(p).permute(0, 3, 1, 2).float() / 255 - 0.47) / 0.25 for p in (pixels, test_pixels))
    y = torch.from_numpy(labels)
    first, other = torch.from_numpy(np.random.default_rng(seed).permutation(len(y))).split([train, held_out])
    given = corrupt_labels(y[first], noise, classes=10, seed=seed)[0]
    held = corrupt_labels(y[other], noise, classes=10, seed=seed + 1)[0]
    parts = Parts(x[first], given, y[first], (x[other], held), (test_x, torch.from_numpy(test_labels)))
    torch.manual_seed(seed)
    network = two_blocks(3, 10, size.image_width)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.03, momentum=0.9)

    def steps() -> Iterator[int]:
        done = 0
        while True:
            for batch in torch.randperm(train).split(64):
                network.train()
                loss = nn.functional.cross_entropy(network(parts.x[batch]), given[batch])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                network.eval()
                done += 1
                yield done
                if done == size.image_steps:
                    return

    def predict(x: Tensor) -> Tensor:
        return torch.cat([network(part).argmax(1) for part in x.split(500)])

    return _followed(network, parts, steps(), predict, size)


def _descend(network: FixedOutputNetwork, x: Tensor, targets: Tensor, steps: int) -> Iterator[int]:
    """Full-batch gradient descent on half the squared error, at half the rate at which the start would diverge."""
    rate = rate_limit(gram(x, network.W_0).double()) / 2
    for step in range(1, steps + 1):
        slope = torch.autograd.grad((network(x) - targets).square().sum() / 2, network.W)[0]
        with torch.no_grad():
            network.W.sub_(rate * slope)
        yield step


def _followed(
    network: nn.Module, parts: Parts, steps: Iterator[int], predict: Callable[[Tensor], Tensor], size: Size
) -> Figures:
    """Train to the end, and note what is learned on the way, where the rule would have stopped, and how good it was."""
    monitor = MemorisationMonitor(network, parts.given, parts.true)
    stopping = NoiseRobustStopping(PATIENCE)
    checks: dict[int, dict[str, float]] = {}
    stopped = False
    for step in steps:
        if step % size.check_every:
            continue
        with torch.no_grad():
            moment = monitor.record(step, predict(parts.x))
            score = float((predict(parts.held_out[0]) == parts.held_out[1]).float().mean())
            test = float((predict(parts.test[0]) == parts.test[1]).float().mean())
        assert moment.true is not None
        checks[step] = {
            TEST: 100 * test,
            DISTANCE: moment.distance,
            "training accuracy, given labels %": 100 * moment.given,
            "training accuracy, right labels %": 100 * moment.true,
        }
        if moment.wrong_true is not None and moment.wrong_given is not None:
            checks[step] |= {WRONG_TRUE: 100 * moment.wrong_true, WRONG_GIVEN: 100 * moment.wrong_given}
        stopped = stopped or stopping.check(step, score, network, distance=moment.distance)
    assert stopping.best_step is not None
    chosen = {STOPPED: stopping.best_step, END: max(checks), BEST: max(checks, key=lambda step: checks[step][TEST])}
    figures: Figures = {method: {STEP: float(step), **checks[step]} for method, step in chosen.items()}
    for step, found in checks.items():
        figures[END] |= {
            f"{what} at step {step}": found[what] for what in (TEST, WRONG_TRUE, WRONG_GIVEN) if what in found
        }
    return figures

"""Suspects of a labelled set: the recipe of the area under the margin with small networks of its own.

    x [n, f]                 features, each column scaled       f - 256 - 256 - outputs, ReLU
    x [n, c, h, w]           images, the whole scaled           below 12 pixels as above, else three convolutions, or a
                                                                residual network of seven
    margins m [r, t, n]      of pass r, epoch t, example i, from the logits of training, before the step
    AUM_i                    mean of m over epochs and over the passes in which i had its own label

SGD with Nesterov's momentum at one rate throughout: no drop, after which wrong labels would be learned by heart. Who
has a network and a loop of their own records with `AreaUnderMargin` instead. Source: Pleiss et al. 2020, arXiv
2001.10528; its networks and lengths of training are larger.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from weigher.core.margins import label_margin
from weigher.core.randomness import generator_for
from weigher.core.records import Records
from weigher.errors import RequestError
from weigher.examples.area_under_margin import (
    PERCENTILE,
    AreaUnderMargin,
    Combine,
    LabelErrors,
    ThresholdClass,
    check_cut,
    find_label_errors,
)
from weigher.train.distribution import autocast, resolve_device

Augment = Literal["none", "shift", "mirror"]
Network = Literal["small", "residual"]
Seen = Callable[[int, Tensor, Tensor], None]
"""Is told (epoch, ids [b], logits [b, outputs]) of every step, before the parameters change."""
Progress = Callable[[str, int, int], None]

SMALLEST_IMAGE = 12
HIDDEN = 256


@dataclass(frozen=True, slots=True)
class SuspectConfig:
    """How the networks learn and where the cut lies."""

    epochs: int = 30
    batch: int = 64
    """Small on purpose: large batches memorise sooner."""
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 1e-4
    network: Network = "small"
    """For images of 12 pixels and more: three convolutions, or seven with skip connections."""
    width: int = 16
    """Channels of the first convolution."""
    augment: Augment = "none"
    """Of images, in training: moved by up to an eighth (shift), and mirrored as well (mirror)."""
    passes: int = 2
    percentile: float = PERCENTILE
    combine: Combine = "all"
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        """Raise RequestError for what cannot be trained with."""
        for name in ("epochs", "batch", "width", "passes"):
            if not (isinstance(getattr(self, name), int) and getattr(self, name) > 0):
                raise RequestError(f"{name} = {getattr(self, name)}; needed is a whole number, more than 0")
        if not 0 < self.learning_rate < math.inf:
            raise RequestError(f"learning_rate = {self.learning_rate}; needed is more than 0")
        if not 0 <= self.momentum < 1 or not 0 <= self.weight_decay < math.inf:
            raise RequestError(
                f"momentum = {self.momentum}, weight_decay = {self.weight_decay}; needed are 0 or more, of momentum "
                "below 1"
            )
        check_cut(self.percentile, self.combine)
        for name, choices in (("augment", Augment), ("network", Network)):
            if getattr(self, name) not in get_args(choices):
                raise RequestError(f"{name} = {getattr(self, name)!r}; needed is one of {', '.join(get_args(choices))}")


@dataclass(frozen=True, eq=False)
class Suspects:
    """What was found: flags and ranking, and where they come from."""

    errors: LabelErrors
    margins: Tensor
    """float32 [r, t, n]."""
    chosen: Tensor
    """bool [r, n]: examples that had the extra class in a pass."""
    taken_for: Tensor
    """int64 [n]: the class, other than its label, that the networks took an example for most."""

    def curves(self) -> Tensor:
        """Return the margins [t, n], each the mean over the passes in which an example had its own label."""
        return torch.where(self.chosen[:, None], torch.nan, self.margins).nanmean(0)


def scaled(x: Tensor) -> Tensor:
    """Return inputs of mean 0 and variance 1 as float32: each column of `[n, f]`, or all of `[n, c, h, w]` together.

    Constant columns become 0. Raises RequestError for other shapes and for inputs that are not finite.

    >>> scaled(torch.tensor([[1.0, 5.0], [3.0, 5.0]])).tolist()
    [[-1.0, 0.0], [1.0, 0.0]]
    """
    if x.dim() not in (2, 4) or not x.numel():
        raise RequestError(f"inputs have the shape {list(x.shape)}; needed is [n, features] or [n, channels, h, w]")
    x = x.double()
    if not bool(torch.isfinite(x).all()):
        first = int((~torch.isfinite(x)).flatten(1).any(1).nonzero()[0])
        raise RequestError(f"example {first} holds NaN or infinite values; repair it or leave it out")
    over = (0,) if x.dim() == 2 else (0, 1, 2, 3)
    x = x - x.mean(over, keepdim=True)
    spread = x.square().mean(over, keepdim=True).sqrt()
    return (x / torch.where(spread > 0, spread, 1.0)).float()


def small_network(shape: tuple[int, ...], outputs: int, width: int = 16) -> nn.Sequential:
    """Return the network for one example of this shape, (f,) or (c, h, w).

    >>> small_network((3, 32, 32), 11)(torch.zeros(2, 3, 32, 32)).shape, small_network((5,), 3)(torch.zeros(2, 5)).shape
    (torch.Size([2, 11]), torch.Size([2, 3]))
    """
    if len(shape) == 1 or min(shape[1:]) < SMALLEST_IMAGE:
        inputs = torch.Size(shape).numel()
        layers: list[nn.Module] = [nn.Flatten(), nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN)]
        return nn.Sequential(*layers, nn.ReLU(), nn.Linear(HIDDEN, outputs))
    return nn.Sequential(
        *_convolution(shape[0], width, 5, stride=2),
        *_convolution(width, 2 * width),
        nn.MaxPool2d(2),
        *_convolution(2 * width, 4 * width),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, outputs),
    )


def residual_network(shape: tuple[int, ...], outputs: int, width: int = 16) -> nn.Sequential:
    """Return a residual network for one image (c, h, w) of 12 pixels and more.

    >>> residual_network((3, 32, 32), 11)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 11])
    """
    return nn.Sequential(
        *_convolution(shape[0], width, 5, stride=2),
        *_convolution(width, 2 * width),
        nn.MaxPool2d(2),
        _Residual(2 * width),
        *_convolution(2 * width, 4 * width),
        nn.MaxPool2d(2),
        _Residual(4 * width),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, outputs),
    )


class _Residual(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*_convolution(width, width), *_convolution(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def _convolution(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False)
    return convolution, nn.BatchNorm2d(outputs), nn.ReLU()


def fit(
    x: Tensor,
    labels: Tensor,
    outputs: int,
    config: SuspectConfig,
    *,
    seed: int,
    drops: tuple[float, ...] = (),
    seen: Seen | None = None,
    progress: Progress | None = None,
    stage: str = "train",
) -> nn.Module:
    """Train a new small network on scaled inputs, and return it, ready to predict.

    The rate falls to a tenth at each share of the epochs in `drops`; a detector has none, the last training 0.5 and
    0.75. Convolutions are computed in bfloat16 where the device multiplies it fast. The same seed gives the same
    network on one machine.
    """
    device, shape = resolve_device(config.device), tuple(x.shape[1:])
    convolves = len(shape) == 3 and min(shape[1:]) >= SMALLEST_IMAGE
    build = residual_network if convolves and config.network == "residual" else small_network
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(shape, outputs, config.width).to(device)
    x, labels = x.to(device), labels.to(device)
    context = autocast(device, "auto" if convolves else "float32")
    generator = generator_for("order of examples", seed)  # not the one that chose them: see `generator_for`
    optimiser = torch.optim.SGD(
        network.parameters(),
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.momentum > 0,
    )
    network.train()
    for epoch in range(config.epochs):
        rate = config.learning_rate * 0.1 ** sum(epoch >= share * config.epochs for share in drops)
        for group in optimiser.param_groups:
            group["lr"] = rate
        for ids in _batches(torch.randperm(len(x), generator=generator), config.batch):
            batch = ids.to(device)
            varied = _varied(x[batch], config.augment, generator)
            if convolves:  # on the CPU, convolutions are up to a fifth faster with channels last
                varied = varied.contiguous(memory_format=torch.channels_last)
            with context:
                logits = network(varied)
            logits = logits.float()
            if seen is not None:
                seen(epoch, batch, logits.detach())
            loss = nn.functional.cross_entropy(logits, labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        if progress is not None:
            progress(stage, epoch + 1, config.epochs)
    return network.eval()


def _batches(order: Tensor, size: int) -> tuple[Tensor, ...]:
    """Cut an order into batches; a last one of a single example, of which no variance can be taken, joins the others.

    >>> [part.tolist() for part in _batches(torch.arange(5), 2)]
    [[0, 1], [2, 3, 4]]
    """
    parts = order.split(size)
    if size > 1 and len(parts) > 1 and len(parts[-1]) == 1:
        return (*parts[:-2], torch.cat(parts[-2:]))
    return parts


@torch.no_grad()
def logits_of(network: nn.Module, x: Tensor) -> Tensor:
    """Return the logits [n, outputs] of scaled inputs, on the CPU."""
    device = next(network.parameters()).device
    return torch.cat([network(part.to(device)).cpu() for part in x.split(500)])


def find_suspects(
    x: Tensor,
    labels: Tensor,
    classes: int,
    config: SuspectConfig | None = None,
    *,
    progress: Progress | None = None,
) -> Suspects:
    """Train one network a pass on features [n, f] or images [n, c, h, w], and say which labels are likely wrong.

    Labels are int64 [n] in 0 ... classes - 1. Raises RequestError as `scaled` and `find_label_errors` do,
    and where training diverges.

    >>> x = torch.randn(60, 2, generator=torch.Generator().manual_seed(0)) + torch.tensor([[4.0], [-4.0]]).repeat(30, 1)
    >>> found = find_suspects(x, torch.tensor([1, *[1, 0] * 29, 1]), 2, SuspectConfig(batch=8))
    >>> int(found.errors.ranking()[0]), found.margins.shape
    (0, torch.Size([2, 30, 60]))
    """
    config = config or SuspectConfig()
    if len(x) != len(labels):
        raise RequestError(f"{len(x)} examples and {len(labels)} labels; needed is one label for each example")
    inputs, n = scaled(x), len(labels)
    margins = torch.full((config.passes, config.epochs, n), torch.nan)
    answers = Records(n, classes)

    def train(given: Tensor, outputs: int, number: int) -> Tensor:
        aum = AreaUnderMargin(n)

        def seen(epoch: int, ids: Tensor, logits: Tensor) -> None:
            ids, logits = ids.cpu(), logits.cpu()
            if not bool(torch.isfinite(logits).all()):
                raise RequestError(
                    f"training diverged in epoch {epoch + 1}: the learning rate {config.learning_rate:g} is too high; "
                    "give a tenth of it"
                )
            aum.update(logits, given[ids], ids)
            margins[number, epoch, ids] = label_margin(logits, given[ids])
            answers.add(ids, logits.log_softmax(1)[:, :classes])

        stage = f"pass {number + 1} of {config.passes}"
        fit(inputs, given, outputs, config, seed=config.seed + number, seen=seen, progress=progress, stage=stage)
        return aum.compute()

    found = find_label_errors(
        train,
        labels,
        classes,
        passes=config.passes,
        percentile=config.percentile,
        combine=config.combine,
        seed=config.seed,
    )
    plan = ThresholdClass(labels, classes, passes=config.passes, seed=config.seed)
    chosen = torch.stack([plan.chosen(number) for number in range(config.passes)])
    others = answers.mean().scatter(1, labels[:, None], -torch.inf)
    return Suspects(found, margins, chosen, others.argmax(1))


def _varied(x: Tensor, augment: Augment, generator: torch.Generator) -> Tensor:
    """Move a batch of images by up to an eighth of their size, all alike, and mirror each of them or not."""
    if augment == "none" or x.dim() != 4:
        return x
    h, w = x.shape[2:]
    most = max(1, min(h, w) // 8)
    top, left = torch.randint(0, 2 * most + 1, (2,), generator=generator).tolist()
    x = nn.functional.pad(x, (most,) * 4, mode="replicate")[:, :, top : top + h, left : left + w]
    if augment == "shift":
        return x
    mirrored = (torch.rand(len(x), 1, 1, 1, generator=generator) < 0.5).to(x.device)
    return torch.where(mirrored, x.flip(3), x)

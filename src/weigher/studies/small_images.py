"""Small images for studies of pairs: scikit-learn's digits and CIFAR-10, their views, and what spoils them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weigher.pairs.pretraining import ImageEncoder, ImageEncoderConfig, PretrainConfig, pretrain_drawn
from weigher.pairs.views import ViewConfig, random_views
from weigher.studies.harness import Context, Figures

T = TypeVar("T")
DIGITS, CIFAR = "digits", "CIFAR-10"
Corruption = Literal["blur", "salt and pepper", "patch", "low contrast"]
CORRUPTIONS: tuple[Corruption, ...] = get_args(Corruption)
"""None of them is among the changes that views make."""
VIEWS = {
    DIGITS: ViewConfig(),
    CIFAR: ViewConfig(rotation_degrees=10, shift=0.15, scale=0.25, gain=0.5, noise=0.03, mirror=True),
}
ENCODERS = {
    DIGITS: ImageEncoderConfig(colours=1, channels=(16, 32, 64)),
    CIFAR: ImageEncoderConfig(colours=3, channels=(32, 64, 128), first_stride=2),
}
BATCHES = {DIGITS: 256, CIFAR: 128}
"""Images of a batch; of CIFAR-10 half as many, so that 20 epochs have the steps of 40."""


def once(read: Callable[[], T]) -> Callable[[], T]:
    """Return `read` such that it reads once, and not at all where a resumed study needs nothing of it."""
    held: list[T] = []

    def get() -> T:
        if not held:
            held.append(read())
        return held[0]

    return get


def read(path: Path | None, count: int) -> tuple[Tensor, Tensor]:
    """Return the first images, float `[n, c, h, w]` from 0 to 1, and labels `[n]`: digits where there is no path."""
    if path is None:
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        made = torch.from_numpy(images.astype(np.float32) / 16).view(-1, 1, 8, 8)
        return made[:count], torch.from_numpy(labels.astype(np.int64))[:count]
    from weigher.io.image_sets import read_images

    images, labels = read_images(path, count)
    return torch.from_numpy(images.astype(np.float32) / 255).permute(0, 3, 1, 2), torch.from_numpy(labels)


def reader(context: Context, data: str, count: int) -> Callable[[], tuple[Tensor, Tensor]]:
    """Return what reads the first images of a set when they are first asked for."""
    return once(partial(read, context.path("cifar10/train.parquet") if data == CIFAR else None, count))


def every_seed(
    context: Context, data: str, methods: Collection[str], figures: Callable[[str, int], dict[str, float]]
) -> list[Figures]:
    """Return, for each seed, what `figures(method, seed)` gives for each method; each is a part that is kept."""
    every: list[Figures] = []
    for seed in context.seeds:
        found: Figures = {}
        for done, method in enumerate(methods):
            context.progress(f"{data}, seed {seed}", done, len(methods))
            found[method] = context.part(f"{data} {seed} {method}", partial(figures, method, seed))
        every.append(found)
    return every


def new_encoder(data: str, seed: int, *, embedding: int = ImageEncoderConfig.embedding) -> ImageEncoder:
    """Return the encoder that every method of a seed starts from."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ImageEncoder(replace(ENCODERS[data], embedding=embedding))


def config(data: str, epochs: int, seed: int, *, target_momentum: float | None = None) -> PretrainConfig:
    """Return how every method of a study learns from a set."""
    return PretrainConfig(epochs, BATCHES[data], views=VIEWS[data], target_momentum=target_momentum, seed=seed)


class _WithLabels(nn.Module):
    """An encoder whose views carry their labels to the loss."""

    def __init__(self, encoder: ImageEncoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return self.encoder(images), labels


class _CrossEntropy(nn.Module):
    """A linear layer on embeddings, and how surprising the labels are to it."""

    def __init__(self, embedding: int, classes: int):
        super().__init__()
        self.layer = nn.Linear(embedding, classes)

    def forward(self, *views: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        each = [F.cross_entropy(self.layer(embeddings), labels) for embeddings, labels in views]
        return {"loss": torch.stack(each).mean()}


def teach_by_labels(encoder: ImageEncoder, images: Tensor, labels: Tensor, config: PretrainConfig) -> None:
    """Teach an encoder to tell labels from its embeddings, as long and on such views as the others without labels."""

    def draw(chosen: np.ndarray, generator: np.random.Generator) -> list[tuple[Tensor, Tensor]]:
        some = torch.from_numpy(chosen)
        return [(random_views(images[some], config.views, generator), labels[some]) for _ in range(2)]

    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        loss = _CrossEntropy(encoder.config.embedding, int(labels.max()) + 1)
    pretrain_drawn(_WithLabels(encoder), loss, len(images), draw, config, device="cpu")


def corrupted(images: Tensor, kind: Corruption, generator: np.random.Generator) -> Tensor:
    """Return images `[n, c, h, w]` that are spoiled: blurred, 15 % of pixels black or white, a patch hidden, or pale.

    >>> corrupted(torch.tensor([[[[0.0, 1.0]]]]), "low contrast", np.random.default_rng(0)).flatten().tolist()
    [0.25, 0.75]
    """
    n, _, h, w = images.shape
    if kind == "blur":
        return F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    if kind == "low contrast":
        mean = images.mean((1, 2, 3), keepdim=True)
        return mean + (images - mean) / 2
    if kind == "salt and pepper":
        drawn = torch.from_numpy(generator.uniform(size=(n, 1, h, w)).astype(np.float32))
        return torch.where(drawn < 0.075, 0.0, torch.where(drawn > 0.925, 1.0, images))
    side = max(1, round(h * 3 / 8))
    top, left = (torch.from_numpy(generator.integers(0, most - side + 1, n)) for most in (h, w))
    rows, columns = torch.arange(h)[:, None], torch.arange(w)
    down, right = rows - top[:, None, None], columns - left[:, None, None]
    hidden = (down >= 0) & (down < side) & (right >= 0) & (right < side)
    return images.masked_fill(hidden[:, None], 0.0)

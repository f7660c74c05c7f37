"""Trainings of the study `swav`: recipes of losses and views, and what is measured of the encoders they give."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from weigher.core.contrast import unit
from weigher.pairs.crops import CropConfig, multi_crop
from weigher.pairs.evaluation import encode, few_labels, nearest_labels
from weigher.pairs.info_nce import InfoNCELoss
from weigher.pairs.pretraining import ImageEncoder, ImageEncoderConfig, PretrainConfig, pretrain
from weigher.pairs.swav import SwAVConfig, SwAVLoss
from weigher.pairs.views import ViewConfig, random_views
from weigher.studies import small_images
from weigher.studies.swav_recipes import (
    BELOW,
    CHOICE,
    COUNTS,
    FEW,
    K_MEANS,
    MANY,
    NEAR,
    PROTOTYPES,
    PURITY,
    USED,
    Recipe,
)

if TYPE_CHECKING:
    from jaxtyping import Int

_COLOURS = ViewConfig(rotation_degrees=0, shift=0, scale=0, gain=0.5, noise=0.03, mirror=True)
_PIXELS = ViewConfig(rotation_degrees=0, shift=0, scale=0)
Views = Callable[[Tensor, np.random.Generator], list[Tensor]]


@dataclass(frozen=True)
class World:
    """Images float `[n, c, h, w]` from 0 to 1 and labels `[n]`, and the shape of the encoder they need."""

    images: Tensor
    labels: Tensor
    encoder: ImageEncoderConfig

    def split(self, seed: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return images and labels to train on, 3 of 5, and those never seen."""
        order = torch.from_numpy(np.random.default_rng([seed, 0]).permutation(len(self.images)))
        train, test = order[: 3 * len(order) // 5], order[3 * len(order) // 5 :]
        return (self.images[train], self.labels[train]), (self.images[test], self.labels[test])


def digits(count: int) -> World:
    """Return scikit-learn's digits, 8 x 8."""
    return World(*small_images.read(None, count), small_images.ENCODERS[small_images.DIGITS])


def larger_images(path: Path, count: int) -> World:
    """Return the first images of a file such as those of MNIST or CIFAR-10."""
    images, labels = small_images.read(path, count)
    grey = ImageEncoderConfig(channels=(8, 16, 32))
    return World(images, labels, grey if images.shape[1] == 1 else small_images.ENCODERS[small_images.CIFAR])


def views_of(world: World, *, small_crops: bool) -> Views:
    """Return the views of a world's images: two of full size, and four small crops where these are asked for."""
    size, is_coloured = world.images.shape[-1], world.images.shape[1] > 1
    if size >= 16:
        small = [CropConfig(4, size // 2, (0.15, 0.5))] if small_crops else []
        return multi_crop(CropConfig(2, size, (0.5, 1.0)), *small, changes=_COLOURS if is_coloured else _PIXELS)
    crops = multi_crop(CropConfig(4, 5, (0.2, 0.5)), changes=_PIXELS)

    def views(images: Tensor, generator: np.random.Generator) -> list[Tensor]:
        full = [random_views(images, ViewConfig(), generator) for _ in range(2)]
        return full + crops(images, generator) if small_crops else full

    return views


def taught(world: World, images: Tensor, recipe: Recipe, seed: int) -> tuple[ImageEncoder, nn.Module | None]:
    """Return an encoder taught by a recipe, and its loss; all of a seed start from the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = ImageEncoder(world.encoder)
    if recipe.loss == "none":
        return encoder, None
    loss: nn.Module = InfoNCELoss(recipe.temperature)
    if recipe.loss == "swav":
        settings = {"prototypes": PROTOTYPES, "embedding": 64, "temperature": recipe.temperature, **recipe.settings}
        loss = SwAVLoss(SwAVConfig(**settings), generator=torch.Generator().manual_seed(seed))
    config = PretrainConfig(epochs=recipe.epochs, batch=recipe.batch, learning_rate=recipe.learning_rate, seed=seed)
    with warnings.catch_warnings():  # some are to collapse
        warnings.filterwarnings("ignore", message="SwAV has collapsed|a batch of")
        views = views_of(world, small_crops=recipe.small_crops)
        pretrain(encoder, loss, images, config, views=views, device="cpu")
    return encoder, loss


def figures(read: Callable[[], World], recipe: Recipe, seed: int, draws: int) -> dict[str, Any]:
    """Return metric -> figure of one recipe and seed, and the counts `[k][c]` of unseen images at each prototype."""
    world = read()
    (seen, seen_labels), (images, labels) = world.split(seed)
    encoder, loss = taught(world, seen, recipe, seed)
    near, asked = (unit(encode(encoder, x, embeddings=True)) for x in (seen, images))
    rng = np.random.default_rng([seed, 2])
    given = {
        FEW: (near, asked, 2),
        MANY: (near, asked, 10),
        BELOW: (encode(encoder, seen), encode(encoder, images), 10),
    }
    found: dict[str, Any] = {
        metric: 100 * few_labels((train, seen_labels), (test, labels), each, rng, draws=draws)
        for metric, (train, test, each) in given.items()
    }
    found[NEAR] = 100 * float((nearest_labels(near, seen_labels, asked) == labels).double().mean())
    train = (near, seen_labels)
    found[CHOICE] = 100 * few_labels(train, train, 2, np.random.default_rng([seed, 3]), draws=draws)
    if isinstance(loss, SwAVLoss):
        prototypes = unit(loss.prototypes.detach())
    else:
        prototypes = unit(torch.randn(PROTOTYPES, 64, generator=torch.Generator().manual_seed(seed)))
        found[K_MEANS] = 100 * purity(_k_means(near, asked, seed), labels)
    nearest = (asked @ prototypes.T).argmax(1)
    counts = torch.zeros(PROTOTYPES, int(world.labels.max()) + 1, dtype=torch.int64)
    counts.index_put_((nearest, labels), torch.ones_like(labels), accumulate=True)
    found[USED] = float((counts.sum(1) > 0).sum())
    found[PURITY] = 100 * purity(nearest, labels)
    found[COUNTS] = counts.tolist()
    return found


def purity(clusters: Int[Tensor, " n"], labels: Int[Tensor, " n"]) -> float:
    """Return the share of rows that have the label most rows of their cluster have.

    >>> purity(torch.tensor([0, 0, 0, 5, 5]), torch.tensor([1, 1, 2, 3, 3]))
    0.8
    """
    return sum(int(labels[clusters == c].bincount().max()) for c in clusters.unique()) / len(labels)


def _k_means(train: Tensor, test: Tensor, seed: int) -> Tensor:
    """Return the clusters of `test` by as many centres of `train` as there are prototypes."""
    from sklearn import cluster

    k_means: Any = cluster.KMeans  # whose annotations say that n_init is a word
    fitted = k_means(min(PROTOTYPES, len(train)), n_init=3, random_state=seed).fit(train.numpy())
    return torch.from_numpy(fitted.predict(test.numpy()).astype(np.int64))

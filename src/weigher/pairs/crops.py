"""Many views of an image, most of them small: random crops of several sizes, as cheap as few large ones.

    crop      a rectangle of a share `area` of the image, of a random shape, anywhere in it, made `size` x `size` pixels
    views     every crop is one of the whole image, and then changed as `weigher.pairs.views` says

Small crops cost in proportion to their pixels: two of 32 x 32 and four of 16 x 16 cost as much as three of 32 x 32. Put
the full sizes first: a loss such as SwAV makes its codes from them.

Source: Caron et al. 2020, arXiv 2006.09882 (multi-crop); Szegedy et al. 2015, arXiv 1409.4842 (area and shape).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from weigher.errors import RequestError
from weigher.pairs.views import ViewConfig, random_views

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class CropConfig:
    """Some crops of one size; the defaults are the two full ones of images of 32 x 32."""

    count: int = 2
    """Crops of an image."""
    size: int = 32
    """Height and width of a crop in pixels."""
    area: tuple[float, float] = (0.14, 1.0)
    """Least and greatest share of the image's area."""
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Least and greatest width over height, in pixels of the image."""

    def __post_init__(self) -> None:
        if min(self.count, self.size) < 1:
            raise RequestError(f"count = {self.count}, size = {self.size}: at least 1 of both is needed")
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise RequestError(f"area = {self.area}: needed are two shares in (0, 1], the least first")
        if not 0 < self.aspect[0] <= self.aspect[1] < math.inf:
            raise RequestError(f"aspect = {self.aspect}: needed are two numbers above 0, the least first")


def multi_crop(
    *groups: CropConfig, changes: ViewConfig | None = None
) -> Callable[[Tensor, np.random.Generator], list[Tensor]]:
    """Return what `weigher.pairs.pretraining.pretrain` takes for `views`: the crops of every group, in that order.

    `changes` says how each crop is changed besides (the defaults of `ViewConfig` where left out).
    Raises: RequestError for less than two crops.

    >>> views = multi_crop(CropConfig(2, 32), CropConfig(4, 16, (0.1, 0.3)))
    >>> [list(view.shape) for view in views(torch.rand(5, 3, 32, 32), np.random.default_rng(0))][1:3]
    [[5, 3, 32, 32], [5, 3, 16, 16]]
    """
    if sum(group.count for group in groups) < 2:
        raise RequestError(f"crops {groups}: a loss of pairs needs two views of an image at least")
    config = changes or ViewConfig()

    def views(images: Tensor, generator: np.random.Generator) -> list[Tensor]:
        return [
            random_views(random_crops(images, group, generator), config, generator)
            for group in groups
            for _ in range(group.count)
        ]

    return views


def random_crops(
    images: Float[Tensor, "b c h w"], config: CropConfig, generator: np.random.Generator
) -> Float[Tensor, "b c s s"]:
    """Return one random crop of each image; `config.count` is not looked at.

    A crop whose shape does not fit the image is narrowed to the image. Pixels between those of the image are
    interpolated linearly; a crop is not blurred where it gets smaller.

    >>> whole = CropConfig(size=4, area=(1, 1), aspect=(1, 1))
    >>> image = torch.rand(1, 1, 4, 4)
    >>> torch.allclose(random_crops(image, whole, np.random.default_rng(0)), image, atol=1e-6)
    True
    """
    b, c, height, width = images.shape
    area, shape, down, right = generator.uniform(size=(4, b))
    share = config.area[0] + (config.area[1] - config.area[0]) * area
    low, high = (math.log(a * height / width) for a in config.aspect)  # of sides as shares of the image's
    stretch = np.exp(low + (high - low) * shape)
    wide, tall = np.minimum(np.sqrt(share * stretch), 1), np.minimum(np.sqrt(share / stretch), 1)
    # rows map places of the crop to places of the image, both from -1 to 1
    none = np.zeros(b)
    moves = np.stack([wide, none, (1 - wide) * (2 * right - 1), none, tall, (1 - tall) * (2 * down - 1)], 1)
    theta = torch.from_numpy(moves.astype(np.float32)).view(b, 2, 3).to(images.device)
    grid = F.affine_grid(theta, [b, c, config.size, config.size], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)

"""Random views of images: moved, turned, scaled, mirrored, brighter, noisier.

Each view of an image draws its own figures, all of them from the generator it is given, so that a batch can be made
again. Images are float `[b, c, h, w]`, about 0 to 1; what is moved in from outside is the image's border.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from weigher.errors import check_ranges

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class ViewConfig:
    """How different two views of an image may be; the defaults suit small drawings."""

    rotation_degrees: float = 15.0
    """Largest turn to either side."""
    shift: float = 0.12
    """Largest shift along either axis, as a fraction of the image."""
    scale: float = 0.2
    """Largest change of size, as a fraction: 0.2 is 0.8 to 1.2."""
    gain: float = 0.3
    """Largest change of brightness of each channel, as a factor: 0.3 is 0.7 to 1.3."""
    noise: float = 0.1
    """Standard deviation of what is added to each number."""
    mirror: bool = False
    """Whether half of the views are mirrored left to right."""

    def __post_init__(self) -> None:
        check_ranges(
            self,
            {
                "rotation_degrees": (0 <= self.rotation_degrees <= 180, "degrees from 0 to 180"),
                "shift": (0 <= self.shift < 1, "a fraction from 0 to below 1"),
                "scale": (0 <= self.scale < 1, "a fraction from 0 to below 1"),
                "gain": (0 <= self.gain <= 1, "a factor from 0 to 1"),
                "noise": (0 <= self.noise < math.inf, "a finite number, 0 or more"),
            },
        )


def random_views(
    images: Float[Tensor, "b c h w"], config: ViewConfig, generator: np.random.Generator
) -> Float[Tensor, "b c h w"]:
    """Return one random view of each image.

    >>> still = ViewConfig(rotation_degrees=0, shift=0, scale=0, gain=0, noise=0)
    >>> image = torch.rand(1, 1, 4, 4)
    >>> torch.allclose(random_views(image, still, np.random.default_rng(0)), image, atol=1e-6)
    True
    """
    b, c = images.shape[:2]
    drawn = torch.from_numpy(generator.uniform(-1, 1, (b, 5 + c)).astype(np.float32)).to(images.device)
    turn, size, right, down, side = drawn[:, :5].T
    angle = turn * math.radians(config.rotation_degrees)
    zoom = 1 + size * config.scale
    sign = torch.where(side < 0, -1.0, 1.0) if config.mirror else torch.ones_like(side)
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    # rows map places of the view to places of the image, both from -1 to 1
    moves = torch.stack([cos * sign, -sin, 2 * config.shift * right, sin * sign, cos, 2 * config.shift * down], 1)
    grid = F.affine_grid(moves.view(b, 2, 3), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    gained = moved * (1 + config.gain * drawn[:, 5:])[:, :, None, None]
    noise = torch.from_numpy(generator.standard_normal(images.shape, dtype=np.float32)).to(images.device)
    return gained + config.noise * noise

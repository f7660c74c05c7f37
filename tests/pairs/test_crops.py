"""Random crops: sizes, shares and shapes, places, and a crop read by hand."""

import math

import numpy as np
import pytest
import torch

from weigher.errors import RequestError
from weigher.pairs.crops import CropConfig, multi_crop, random_crops
from weigher.pairs.views import ViewConfig

STILL = ViewConfig(rotation_degrees=0, shift=0, scale=0, gain=0, noise=0)


def places(n, height, width):
    """Images whose two channels are the row and the column of each pixel, from -1 to 1 at the borders."""
    row = ((torch.arange(height) + 0.5) * 2 / height - 1)[:, None].expand(height, width)
    column = ((torch.arange(width) + 0.5) * 2 / width - 1).expand(height, width)
    return torch.stack([row, column]).expand(n, 2, height, width)


def sides(crops):
    """Height and width of each crop as shares of the image's, from how fast the places change in its middle."""
    size = crops.shape[-1]
    tall = (crops[:, 0, -2, 1] - crops[:, 0, 1, 1]) * size / (size - 3) / 2
    wide = (crops[:, 1, 1, -2] - crops[:, 1, 1, 1]) * size / (size - 3) / 2
    return tall, wide


def test_crops_have_the_shares_and_shapes_that_are_asked_for():
    config = CropConfig(size=12, area=(0.1, 0.4), aspect=(0.5, 2.0))
    tall, wide = sides(random_crops(places(2000, 40, 80), config, np.random.default_rng(0)))
    inside = wide < 0.999  # a crop of a wide image can be as high as it
    share, aspect = (tall * wide)[inside], (wide * 80 / (tall * 40))[inside]
    assert 0.095 < share.min() < 0.11
    assert 0.38 < share.max() < 0.405
    assert share.mean().item() == pytest.approx(0.25, abs=0.01)
    assert 0.45 < aspect.min() < 0.6
    assert 1.8 < aspect.max() < 2.1
    assert aspect.log().mean().item() == pytest.approx(0, abs=0.05)


def test_crops_lie_anywhere_and_within_the_image():
    crops = random_crops(places(2000, 32, 32), CropConfig(size=8, area=(0.2, 0.2)), np.random.default_rng(1))
    tall, wide = sides(crops)
    for channel, side in ((0, tall), (1, wide)):
        middle = crops[:, channel].mean((1, 2))
        edge = middle.abs() + side
        assert edge.max() < 1 + 0.05
        assert edge.max() > 0.95
        assert middle.mean().abs() < 0.03
        assert middle.std() > 0.25


def test_a_crop_is_a_part_of_its_own_image():
    images = torch.rand(3, 2, 9, 9)
    third = CropConfig(size=3, area=(1 / 9, 1 / 9), aspect=(1, 1))

    class Corner:
        """Draws the lower left of each image."""

        def uniform(self, size):
            drawn = np.full(size, 0.5)
            drawn[2], drawn[3] = 1.0, 0.0
            return drawn

    torch.testing.assert_close(random_crops(images, third, Corner()), images[:, :, 6:, :3])


def test_every_group_gives_its_crops_and_a_seed_gives_them_again():
    images = torch.rand(4, 1, 20, 20)
    views = multi_crop(CropConfig(2, 16), CropConfig(3, 7, (0.1, 0.2)), changes=STILL)
    one, two, other = (views(images, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert [list(view.shape[1:]) for view in one] == [[1, 16, 16]] * 2 + [[1, 7, 7]] * 3
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one[0], other[0])
    assert not torch.equal(one[0], one[1])
    changed = multi_crop(CropConfig(2, 16))(images, np.random.default_rng(0))
    assert not torch.allclose(changed[0], one[0])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: CropConfig(size=0), "size = 0"),
        (lambda: CropConfig(area=(0.0, 0.5)), r"area = \(0.0, 0.5\)"),
        (lambda: CropConfig(area=(0.5, 0.2)), "least first"),
        (lambda: CropConfig(aspect=(1.0, math.inf)), "aspect"),
        (lambda: multi_crop(CropConfig(1)), "two views"),
    ],
)
def test_what_cannot_be_served_is_said(call, said):
    with pytest.raises(RequestError, match=said):
        call()

"""Views of images are made where the images are."""

import numpy as np
import pytest
import torch

from weigher.pairs.crops import CropConfig, multi_crop
from weigher.pairs.views import ViewConfig, random_views


@pytest.mark.parametrize("mirror", [False, True])
def test_views_are_made_on_the_device_of_the_images(mirror):
    images = torch.empty(4, 3, 9, 7, device="meta")  # knows shapes and devices alone, and mixes with no other
    view = random_views(images, ViewConfig(mirror=mirror), np.random.default_rng(0))
    assert (view.device.type, view.shape) == ("meta", images.shape)
    crops = multi_crop(CropConfig(2, 6), CropConfig(1, 4))(images, np.random.default_rng(0))
    assert [(crop.device.type, crop.shape[-1]) for crop in crops] == [("meta", 6), ("meta", 6), ("meta", 4)]

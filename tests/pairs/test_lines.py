"""Teaching an encoder of text lines: it sees no padding, it learns, and what is wrong is said."""

import math

import numpy as np
import pytest
import torch

from weigher.errors import RequestError
from weigher.pairs.lines import LineEncoder, pretrain_lines
from weigher.pairs.pretraining import PretrainConfig
from weigher.pairs.seqclr import SeqCLRConfig
from weigher.pairs.sequence_views import LineViewConfig

WIDTHS = torch.tensor([40, 33, 48, 29, 40, 36, 45, 31, 47, 40, 34, 42])
LOOP = PretrainConfig(epochs=8, batch=6)
CONFIG = SeqCLRConfig(windows=4)
VIEWS = LineViewConfig(shift_pixels=0.3, slant=0.03)


def lines():
    """Upright strokes at places of their own; 7 beyond the end, which nobody is to see."""
    images = (torch.rand(12, 1, 10, 48, generator=torch.Generator().manual_seed(0)) > 0.7).float()
    return images.masked_fill(torch.arange(48) >= WIDTHS[:, None, None, None], 7.0)


def encoder(representation="visual"):
    torch.manual_seed(0)
    return LineEncoder(10, representation, width=16)


@pytest.mark.parametrize("representation", ["visual", "context", "both"])
def test_the_encoder_sees_no_padding(representation):
    model, clean = encoder(representation).eval(), lines() * (torch.arange(48) < WIDTHS[:, None, None, None])
    features, lengths = model(clean, WIDTHS)
    assert features.shape[2] == model.features == (32 if representation == "both" else 16)
    for row, width in enumerate(WIDTHS.tolist()):
        alone, (length,) = model(clean[row : row + 1, ..., :width], WIDTHS[row : row + 1])
        assert length == lengths[row] == math.ceil(width / 2)
        torch.testing.assert_close(features[row, :length], alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("representation", ["visual", "both"])
def test_learning_lowers_the_loss_and_what_lies_beyond_the_end_counts_for_nothing(representation):
    made = []
    for images in (lines(), lines().clamp(max=1)):
        model = encoder(representation)
        history = pretrain_lines(model, model.features, images, WIDTHS, CONFIG, loop=LOOP, views=VIEWS, device="cpu")
        made.append((torch.cat([p.detach().flatten() for p in model.parameters()]), history))
    (one, history), (other, _) = made
    assert torch.equal(one, other)
    losses = [record["loss"] for record in history.train]
    assert len(losses) == 16
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 0.2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"images": torch.zeros(12, 10, 48)}, r"\[12, 10, 48\]: needed are lines"),
        ({"widths": WIDTHS[:3]}, "for 12 sequences"),
        ({"widths": WIDTHS + 5}, "row 2 has the length 53"),
        ({"config": SeqCLRConfig(windows=15), "views": LineViewConfig()}, "half an instance"),
        ({"widths": WIDTHS.scatter(0, torch.tensor(7), 6)}, "line 7 is 6 pixels wide, 3 frames for"),
        ({"config": SeqCLRConfig("frame"), "views": LineViewConfig()}, "half an instance is 1"),
    ],
)
def test_what_cannot_be_served_is_said(given, said):
    asked = {"images": lines(), "widths": WIDTHS, "config": CONFIG, "views": VIEWS, **given}
    with pytest.raises(RequestError, match=said):
        pretrain_lines(encoder(), 16, **asked, device="cpu")

"""Teaching an encoder of text lines without labels: SeqCLR on images of lines, for the self-supervised loop.

Each line is seen in two views that keep order and time (`weigher.pairs.sequence_views.line_view`); its frames, or
windows of them, are told from all others (`weigher.pairs.seqclr`). The encoder is any module that takes images
`[b, c, h, w]` and widths `[b]` and returns frames `[b, t, f]` and how many of each row are real `[b]`, such as
`LineEncoder`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from weigher.core.weights import length_mask
from weigher.errors import RequestError
from weigher.pairs.pretraining import PretrainConfig, Progress, pretrain_drawn
from weigher.pairs.seqclr import SeqCLRConfig, SeqCLRLoss, checked_lengths
from weigher.pairs.sequence_views import LineViewConfig, check_aligned, furthest, line_view
from weigher.pairs.sequences import Aligned
from weigher.train.loop import History

if TYPE_CHECKING:
    from jaxtyping import Float, Int

Representation = Literal["visual", "context", "both"]
STRIDE = 2
"""Pixels to a frame of `LineEncoder`."""


class LineEncoder(nn.Module):
    """Images of lines, small and grey -> a feature vector for every two pixels: three convolutions, an LSTM both ways.

    The features are those of the convolutions ("visual"), of the LSTM ("context"), or both side by side. Padding is not
    seen, but for the statistics of the normalisation in training.

    >>> features, lengths = LineEncoder(12)(torch.zeros(2, 1, 12, 20), torch.tensor([20, 13]))
    >>> features.shape, lengths.tolist()
    (torch.Size([2, 10, 64]), [10, 7])
    """

    def __init__(self, height: int, representation: Representation = "visual", width: int = 64):
        super().__init__()
        self.representation = representation
        self.convolutions = nn.ModuleList(
            [nn.Conv2d(1, 16, 3, 2, 1), nn.Conv2d(16, 32, 3, (2, 1), 1), nn.Conv2d(32, 48, 3, 1, 1)]
        )
        self.norms = nn.ModuleList([nn.BatchNorm2d(16), nn.BatchNorm2d(32), nn.BatchNorm2d(48)])
        self.visual = nn.Linear(48 * -(height // -4), width)
        self.context = nn.LSTM(width, width // 2, batch_first=True, bidirectional=True)
        self.features = 2 * width if representation == "both" else width

    def forward(
        self, images: Float[Tensor, "b 1 h w"], widths: Int[Tensor, " b"]
    ) -> tuple[Float[Tensor, "b t f"], Int[Tensor, " b"]]:
        """Return features `[b, t, f]` of images `[b, 1, h, w]`, 0 beyond their widths, and lengths `[b]`."""
        lengths = (widths + STRIDE - 1) // STRIDE
        real = length_mask(lengths, -(images.shape[3] // -STRIDE))[:, None, None]
        x = images
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.relu(norm(convolution(x))) * real
        seen = F.relu(self.visual(x.permute(0, 3, 1, 2).flatten(2)))
        if self.representation == "visual":
            return seen, lengths
        packed = pack_padded_sequence(seen, lengths.cpu(), batch_first=True, enforce_sorted=False)
        read, _ = pad_packed_sequence(self.context(packed)[0], batch_first=True, total_length=seen.shape[1])
        return (read if self.representation == "context" else torch.cat([seen, read], 2)), lengths


def pretrain_lines(
    encoder: nn.Module,
    features: int,
    images: Float[Tensor, "n c h w"],
    widths: Int[Tensor, " n"],
    config: SeqCLRConfig | None = None,
    *,
    loop: PretrainConfig | None = None,
    views: LineViewConfig | None = None,
    stride: int = STRIDE,
    run_dir: Path | None = None,
    resume: bool = False,
    device: str | torch.device = "auto",
    progress: Progress | None = None,
) -> History:
    """Teach an encoder of lines in place by two views of each, and return what happened.

    `features` is the number f of features that a frame of the encoder has, `stride` how many pixels it makes one frame
    of, `widths` how many columns of each image are real. `loop.views` is not heeded; `loop.seed` also draws the head
    behind the encoder.

    Raises: RequestError for images of another number of axes, widths out of range, a line with fewer frames than
    windows, and where two views of a line would be further apart than half an instance; what
    `weigher.pairs.pretraining.pretrain_drawn` and the loss raise.

    >>> images, widths = torch.rand(8, 1, 12, 60), torch.full((8,), 60)
    >>> encoder = LineEncoder(height=12)
    >>> history = pretrain_lines(encoder, encoder.features, images, widths, loop=PretrainConfig(epochs=2, batch=4))
    >>> history.step
    4
    """
    config, loop, views = config or SeqCLRConfig(), loop or PretrainConfig(), views or LineViewConfig()
    if images.dim() != 4:
        raise RequestError(f"images of shape {list(images.shape)}: needed are lines, [n, c, h, w]")
    checked_lengths(images[:, 0].mT, widths)
    if config.mapping == "window" and (frames := -(int(widths.min()) // -stride)) < config.windows:
        raise RequestError(
            f"line {int(widths.argmin())} is {int(widths.min())} pixels wide, {frames} frames for {config.windows} "
            "windows: leave out lines that narrow, or take fewer windows"
        )
    apart = views.apart(images.shape[2])
    check_aligned(apart, furthest(int(widths.min()), config.mapping, config.windows, stride=stride))

    def draw(chosen: np.ndarray, generator: np.random.Generator) -> list[tuple[Tensor, Tensor]]:
        some = torch.from_numpy(chosen)
        real = widths[some]
        lines = images[some][..., : int(real.max())]
        return [(line_view(lines, real, views, generator), real) for _ in range(2)]

    with torch.random.fork_rng():
        torch.manual_seed(loop.seed)
        loss = Aligned(SeqCLRLoss(config, features))
    return pretrain_drawn(
        encoder, loss, len(images), draw, loop, run_dir=run_dir, resume=resume, device=device, progress=progress
    )

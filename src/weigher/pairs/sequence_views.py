"""Views of sequences that keep order and time: lines of text as images, and speech as log-mel energies.

Whatever moves things along a sequence by more than half an instance makes a pair of what does not belong together.
Between two views of a line a thing is apart by up to

    2 (s + slant (h - 1) / 2) pixels,   s the largest shift, h the height of the image

which `check_aligned` holds against half an instance. Two views of speech are never apart: what stretches the one
stretches the other as much. Each sequence draws its own figures, all of them from the generator that is given; padding
is neither read nor counted, may hold anything, and is 0 afterwards.

Source: the kinds of change are those of Aberdam et al. 2021, arXiv 2012.10873, for lines, and of Park et al. 2019,
arXiv 1904.08779, for speech.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from weigher.core.weights import length_mask
from weigher.errors import RequestError, check_ranges
from weigher.pairs.seqclr import InstanceMapping, checked_lengths

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


@dataclass(frozen=True)
class LineViewConfig:
    """How different two views of a line of text may be; the defaults suit small drawings about 12 pixels high."""

    shift_down: float = 0.1
    """Largest shift up or down, as a fraction of the height."""
    zoom_down: float = 0.15
    """Largest change of height, as a fraction."""
    shift_pixels: float = 1.0
    """Largest shift along the line, in pixels: keep it small."""
    slant: float = 0.1
    """Largest slant, in pixels along the line for each pixel of height."""
    wave: float = 0.04
    """Largest swing of the base line, as a fraction of the height."""
    contrast: float = 0.3
    """Largest change of contrast, as a factor: 0.3 is 0.7 to 1.3."""
    blur: float = 0.6
    """Largest share of the blurred image that is mixed in, or, to sharpen, taken off."""
    noise: float = 0.05
    """Standard deviation of what is added to each number."""

    def __post_init__(self) -> None:
        _check_ranges(self, {"shift_down": 1, "zoom_down": 0.9, "wave": 1, "contrast": 1, "blur": 1})

    def apart(self, height: int) -> float:
        """Return how many pixels along the line two views of one thing may be apart.

        >>> LineViewConfig(shift_pixels=1.0, slant=0.1).apart(11)
        3.0
        """
        return 2 * (self.shift_pixels + self.slant * (height - 1) / 2)


@dataclass(frozen=True)
class SpeechViewConfig:
    """How different two views of speech may be: log-mel energies, natural logarithm."""

    gain: float = 0.5
    """Largest change of level."""
    colour: float = 0.5
    """Largest change of a band by the channel: a smooth curve over the bands, the same at all times."""
    band_mask: float = 0.2
    """Largest share of neighbouring bands that is hidden."""
    time_masks: int = 2
    """Stretches of time that are hidden from each view."""
    time_mask_frames: int = 10
    """Most frames of such a stretch; keep it short against an instance."""
    noise: float = 0.2
    """Standard deviation of what is added to each number."""
    stretch: float = 0.1
    """Largest change of speed of aligned views, as a fraction, shared by both; neighbouring crops keep their speed."""

    def __post_init__(self) -> None:
        _check_ranges(self, {"band_mask": 1, "stretch": 0.9})


def furthest(length: float, mapping: InstanceMapping, windows: int = 5, *, stride: int = 1) -> float:
    """Return how far two views of one thing may be apart: half an instance of a sequence of `length` pixels or frames.

    `stride` is how many of these the encoder makes one frame of.

    >>> furthest(60, "window", 5), furthest(60, "frame", stride=2), furthest(60, "all")
    (6.0, 1.0, 30.0)
    """
    return {"frame": stride / 2, "window": length / (2 * windows), "all": length / 2}[mapping]


def check_aligned(apart: float, most: float) -> None:
    """Raise RequestError where two views of one thing are further apart than half an instance (`furthest`).

    >>> check_aligned(LineViewConfig().apart(12), furthest(60, "window", 5))
    """
    if apart > most:
        raise RequestError(
            f"two views of one thing may be {apart:.3g} apart along the sequence, and half an instance is {most:.3g}: "
            "pairs would hold different things; shift and slant less, or take fewer windows"
        )


def line_view(
    images: Float[Tensor, "b c h w"],
    widths: Int[Tensor, " b"] | None,
    config: LineViewConfig,
    generator: np.random.Generator,
) -> Float[Tensor, "b c h w"]:
    """Return one random view of each line; two calls give two views.

    Shapes: images `[b, c, h, w]`, about 0 to 1, of which the first `widths` `[b]` columns are real. What is moved in
    from outside is the border of the line. Raises: RequestError for another number of axes and widths out of range.

    >>> still = LineViewConfig(**dict.fromkeys(("shift_down", "zoom_down", "shift_pixels", "slant", "wave"), 0.0),
    ...                        contrast=0.0, blur=0.0, noise=0.0)
    >>> line = torch.rand(1, 1, 5, 9)
    >>> torch.allclose(line_view(line, None, still, np.random.default_rng(0)), line, atol=1e-5)
    True
    """
    if images.dim() != 4:
        raise RequestError(f"images of shape {list(images.shape)}: expected are (batch, colours, height, width)")
    b, c, h, w = images.shape
    widths = checked_lengths(images[:, 0].mT, widths)
    real = length_mask(widths, w)[:, None, None]
    clean = images.masked_fill(~real, 0)
    drawn = torch.from_numpy(generator.uniform(-1, 1, (b, 8)).astype(np.float32)).to(images.device)
    down, zoom, right, slant, swing, phase, contrast, blur = drawn.T[..., None, None]  # each [b, 1, 1]
    y = torch.arange(h, device=images.device)[:, None] - (h - 1) / 2
    # beyond the end of a line its last column is repeated, as an image without padding does at its border
    x = torch.minimum(torch.arange(w, device=images.device), widths[:, None] - 1)[:, None]  # [b, 1, w]
    wave = config.wave * h * swing * torch.sin(2 * math.pi * (x / (4 * h) + phase))
    row = y / (1 + config.zoom_down * zoom) + (h - 1) / 2 + config.shift_down * h * down + wave
    column = x + config.shift_pixels * right + config.slant * slant * y
    column = torch.minimum(column.clamp(min=0), widths[:, None, None] - 1)
    grid = torch.stack([2 * column / max(w - 1, 1) - 1, 2 * row / max(h - 1, 1) - 1], -1)
    view = F.grid_sample(clean, grid.to(clean.dtype), padding_mode="border", align_corners=True)
    level = (view * real).sum((1, 2, 3)) / (widths * c * h)
    level = level[:, None, None, None]
    view = level + (1 + config.contrast * contrast[:, None]) * (view - level)
    view = view + config.blur * blur[:, None] * (_blurred(view) - view)
    noise = torch.from_numpy(generator.standard_normal(images.shape, dtype=np.float32)).to(view)
    return (view + config.noise * noise).masked_fill(~real, 0)


def _blurred(images: Tensor) -> Tensor:
    """Average each pixel with its neighbours, 1 : 2 : 1 along both axes."""
    wide = F.pad(images, (1, 1, 1, 1), mode="replicate")
    across = (wide[..., :-2] + 2 * wide[..., 1:-1] + wide[..., 2:]) / 4
    return (across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]) / 4


def speech_views(
    values: Float[Tensor, "b t f"],
    lengths: Int[Tensor, " b"] | None,
    config: SpeechViewConfig,
    generator: np.random.Generator,
    *,
    instances: int = 1,
) -> tuple[Float[Tensor, "b u f"], Float[Tensor, "b u f"], Int[Tensor, " b"]]:
    """Return two aligned random views of each recording, and how many of their frames are real.

    Shapes: values `[b, t, f]`, lengths `[b]` -> `[b, u, f]` twice, and `[b]`. What is hidden becomes the mean of its
    band over the real frames of the view. No stretch of time that is hidden is longer than one of `instances` equal
    parts of the recording, and a frame is left: of short ones less is hidden. Raises: RequestError for another number
    of axes and lengths out of range.

    >>> first, second, lengths = speech_views(torch.randn(2, 50, 8), None, SpeechViewConfig(), np.random.default_rng(0))
    >>> first.shape == second.shape, lengths.tolist()
    (True, [51, 48])
    """
    lengths = checked_lengths(values, lengths)
    factor = 1 + config.stretch * generator.uniform(-1, 1, len(values))
    new = (lengths.cpu().double() * torch.from_numpy(factor)).round().long().clamp(min=1).to(lengths.device)
    both = stretched(values, lengths, new)
    first, second = (speech_view(both, new, config, generator, instances=instances) for _ in range(2))
    return first, second, new


def speech_view(
    values: Float[Tensor, "b t f"],
    lengths: Int[Tensor, " b"] | None,
    config: SpeechViewConfig,
    generator: np.random.Generator,
    *,
    instances: int = 1,
) -> Float[Tensor, "b t f"]:
    """Return one random view of each recording, at its own speed; `instances` and errors as in `speech_views`.

    >>> still = SpeechViewConfig(gain=0, colour=0, band_mask=0, time_masks=0, noise=0)
    >>> values = torch.randn(1, 6, 4)
    >>> torch.equal(speech_view(values, None, still, np.random.default_rng(0)), values)
    True
    """
    lengths = checked_lengths(values, lengths)
    b, t, f = values.shape
    real = length_mask(lengths, t)[..., None]
    drawn = torch.from_numpy(generator.uniform(0, 1, (b, 6 + 2 * config.time_masks)).astype(np.float32)).to(values)
    place, frame = torch.arange(f, device=values.device), torch.arange(t, device=values.device)
    # three half waves over the bands, each with at most a third of the change
    waves = torch.cos(math.pi * torch.arange(1, 4, device=values.device)[:, None] * (place + 0.5) / f).to(values)
    colour = config.colour / 3 * (2 * drawn[:, :3] - 1) @ waves
    view = values + (config.gain * (2 * drawn[:, 3, None] - 1) + colour)[:, None]
    noise = torch.from_numpy(generator.standard_normal(values.shape, dtype=np.float32)).to(values)
    view = (view + config.noise * noise).masked_fill(~real, 0)
    # of the view: the mean of the recording would tell, at every hidden place, how the view was changed
    mean = view.sum(1, keepdim=True) / lengths[:, None, None]
    hidden = _within(place, drawn[:, 4], drawn[:, 5], torch.full((b,), f).to(lengths), int(config.band_mask * f))[
        :, None
    ]
    # all stretches together leave a frame, also of a recording that is shorter than they may be
    longest = torch.minimum(lengths // instances, (lengths - 1) // max(config.time_masks, 1))
    longest = longest.clamp(max=config.time_mask_frames)
    for k in range(6, drawn.shape[1], 2):
        hidden = hidden | _within(frame, drawn[:, k], drawn[:, k + 1], lengths, longest)[..., None]
    return torch.where(hidden & real, mean, view)


def _within(place: Tensor, start: Tensor, size: Tensor, lengths: Tensor, most: int | Tensor) -> Tensor:
    """Say which places [t] of each row lie in a stretch drawn by start and size in [0, 1): bool [b, t].

    Its size is a whole number from 0 to `most` (`[b]`), and it lies within the first `lengths` places.
    """
    span = torch.minimum((size * (most + 1)).floor(), lengths)
    first = (start * (lengths - span + 1)).floor()
    return (place >= first[:, None]) & (place < (first + span)[:, None])


def stretched(
    values: Float[Tensor, "b t f"], lengths: Int[Tensor, " b"], new_lengths: Int[Tensor, " b"]
) -> Float[Tensor, "b u f"]:
    """Return each sequence with its first `lengths` frames spread over `new_lengths`, by straight lines between frames.

        v'_j = v((j + 1/2) n / n' - 1/2),   j < n'

    Shapes: values `[b, t, f]`, both lengths `[b]`, at least 1 -> `[b, u, f]`, u the largest new length, 0 beyond each.

    >>> stretched(torch.tensor([[[0.0], [1.0]]]), torch.tensor([2]), torch.tensor([4])).flatten().tolist()
    [0.0, 0.25, 0.75, 1.0]
    """
    size = int(new_lengths.max())
    frame = torch.arange(size, device=values.device)
    place = ((frame + 0.5) * (lengths / new_lengths)[:, None] - 0.5).clamp(min=0)
    place = torch.minimum(place, lengths[:, None] - 1)
    before = place.floor().long()
    after = torch.minimum(before + 1, lengths[:, None] - 1)
    share = (place - before).to(values.dtype)[..., None]
    row = torch.arange(len(values), device=values.device)[:, None]
    made = (1 - share) * values[row, before] + share * values[row, after]
    return made.masked_fill(~length_mask(new_lengths, size)[..., None], 0)


def _check_ranges(config: LineViewConfig | SpeechViewConfig, most: dict[str, float]) -> None:
    ranges = {}
    for each in fields(config):
        value, limit = getattr(config, each.name), most.get(each.name, math.inf)
        needed = "a finite number, 0 or more" if limit == math.inf else f"a share from 0 to {limit:g}"
        ranges[each.name] = (0 <= value <= limit and value < math.inf, needed)
    check_ranges(config, ranges)

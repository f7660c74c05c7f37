"""Lines of handwritten digits for the study of SeqCLR: made-up lines, what is learned of them, a recogniser (CTC)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weigher.io.image_sets import read_images
from weigher.pairs.evaluation import linear_probe
from weigher.pairs.lines import STRIDE, LineEncoder, Representation, pretrain_lines
from weigher.pairs.pretraining import PretrainConfig
from weigher.pairs.seqclr import SeqCLRConfig
from weigher.pairs.sequence_views import LineViewConfig, line_view
from weigher.train.loop import History, LoopConfig, fit

VIEWS = LineViewConfig(shift_pixels=0.3, slant=0.03)
"""Two views are less than a pixel apart: half a frame."""
_SHORTEST, _LONGEST = 3, 6


@dataclass(frozen=True, eq=False)
class Lines:
    """Images `[n, 1, h, w]` of lines, their widths `[n]`, and what they say: digits `[n, 6]`, -1 beyond the end.

    `centres` `[n, 6]` are the middles of the digits, in pixels.
    """

    images: Tensor
    widths: Tensor
    digits: Tensor
    centres: Tensor

    def __len__(self) -> int:
        return len(self.widths)

    def __getitem__(self, chosen: slice | Tensor) -> Lines:
        """The lines of a slice or of indices, no wider than the widest of them needs."""
        widths = self.widths[chosen]
        widest = int(widths.max())
        return Lines(self.images[chosen][..., :widest], widths, self.digits[chosen], self.centres[chosen])

    @property
    def lengths(self) -> Tensor:
        """Digits of each line."""
        return (self.digits >= 0).sum(1)


def digit_images(path: Path | None, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return digits [n, s, s] from 0 to 1 and their labels [n], three parts: to train, to choose, and to test on.

    Without a path they are scikit-learn's, 8 pixels high; else those of a file, averaged down to half their size.
    """
    if path is None:
        images, labels = _small_digits()
    else:
        found, labels = read_images(path)
        n, h, w, _ = found.shape
        images = found[..., 0].reshape(n, h // 2, 2, w // 2, 2).mean((2, 4)) / 255
    order = np.random.default_rng([seed, 10]).permutation(len(images))
    parts = np.split(order, [len(order) * 3 // 5, len(order) * 3 // 4])
    return [(images[part].astype(np.float32), labels[part].astype(np.int64)) for part in parts]


@cache
def _small_digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    flat, labels = (np.asarray(part) for part in load_digits(return_X_y=True))
    return flat.reshape(-1, 8, 8) / 16, labels


def digit_lines(
    images: np.ndarray, labels: np.ndarray, count: int, generator: np.random.Generator, *, styled: bool
) -> Lines:
    """Put digits side by side into `count` lines of 3 to 6, with gaps, each digit at a height of its own.

    With a style each line has a brightness, a ground, stripes and a slant of its own.

    >>> made = digit_lines(np.ones((2, 8, 8)), np.array([3, 5]), 4, np.random.default_rng(0), styled=False)
    >>> made.images.shape[:3], bool(((made.lengths >= 3) & (made.lengths <= 6)).all())
    (torch.Size([4, 1, 12]), True)
    """
    side = images.shape[1]
    height, gap = side * 3 // 2, side // 3
    width = _LONGEST * (side + gap) + gap
    drawn = np.zeros((count, height, width), np.float32)
    widths = np.zeros(count, np.int64)
    digits, centres = np.full((count, _LONGEST), -1), np.zeros((count, _LONGEST), np.float32)
    for row in range(count):
        place = int(generator.integers(1, gap + 1))
        for k in range(int(generator.integers(_SHORTEST, _LONGEST + 1))):
            one = int(generator.integers(len(images)))
            top = int(generator.integers(height - side + 1))
            drawn[row, top : top + side, place : place + side] = images[one]
            digits[row, k], centres[row, k] = labels[one], place + (side - 1) / 2
            place += side + int(generator.integers(gap + 1))
        widths[row] = min(place, width)
    if styled:
        drawn = _styled(drawn, generator)
    drawn *= np.arange(width) < widths[:, None, None]
    return Lines(*map(torch.from_numpy, (drawn[:, None], widths, digits, centres)))


def _styled(drawn: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Give each line a gain, a ground, stripes, and a slant of at most a pixel at top and bottom."""
    n, height, _ = drawn.shape
    gain, ground, depth = (generator.uniform(*limits, (n, 1, 1)) for limits in ((0.7, 1.1), (0, 0.25), (0, 0.1)))
    period, phase = generator.uniform(2, 5, (n, 1, 1)), generator.uniform(0, 2 * np.pi, (n, 1, 1))
    y = np.arange(height)[:, None]
    stripes = depth * (1 + np.sin(2 * np.pi * y / period + phase)) / 2
    slant = generator.uniform(-1, 1, n)
    shifts = np.rint(slant[:, None] * (np.arange(height) - (height - 1) / 2) / (height / 2)).astype(int)
    moved = np.stack(
        [[np.roll(row, by) for row, by in zip(*both, strict=True)] for both in zip(drawn, shifts, strict=True)]
    )
    return (gain * moved + (1 - moved) * (ground + stripes)).astype(np.float32)


def line_encoder(lines: Lines, seed: int, representation: Representation = "visual") -> LineEncoder:
    """Return the encoder that every method of a seed starts from."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LineEncoder(lines.images.shape[2], representation).eval()


def teach(encoder: LineEncoder, lines: Lines, config: SeqCLRConfig, *, epochs: int, seed: int) -> History:
    """Teach `encoder` in place by two views of each line; the labels are not looked at."""
    loop = PretrainConfig(epochs=epochs, batch=48, seed=seed)
    given = (encoder.features, lines.images, lines.widths, config)
    history = pretrain_lines(encoder, *given, loop=loop, views=VIEWS, device="cpu")
    encoder.eval()
    return history


@torch.no_grad()
def line_features(encoder: nn.Module, lines: Lines) -> tuple[Tensor, Tensor]:
    """Return the features [n, t, f] of lines as they are, and lengths [n]."""
    parts = [encoder(lines.images[k : k + 256], lines.widths[k : k + 256]) for k in range(0, len(lines), 256)]
    return torch.cat([part for part, _ in parts]), torch.cat([lengths for _, lengths in parts])


def position_probe(encoder: nn.Module, labelled: Lines, *tests: Lines) -> list[float]:
    """Return the accuracy on each of `tests` of a logistic regression of the frames in the middle of digits."""

    def middles(lines: Lines) -> tuple[Tensor, Tensor]:
        features, _ = line_features(encoder, lines)
        row, place = (lines.digits >= 0).nonzero(as_tuple=True)
        return features[row, (lines.centres[row, place] / STRIDE).long()], lines.digits[row, place]

    probe = linear_probe(*middles(labelled))
    return [probe.accuracy(*middles(lines)) for lines in tests]


class Recogniser(nn.Module):
    """An encoder of lines and a linear decoder: logits [b, t, 11] of nothing (0) and the ten digits."""

    def __init__(self, encoder: LineEncoder, seed: int):
        super().__init__()
        self.encoder = encoder
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.decoder = nn.Linear(encoder.features, 11)


def train_recogniser(
    recogniser: Recogniser, lines: Lines, *, steps: int, frozen: bool, seed: int, batch: int = 16
) -> None:
    """Teach a recogniser in place by CTC: all of it on views of lines, or the decoder alone on frozen features."""
    held = line_features(recogniser.encoder, lines) if frozen else None

    def batches(k: int, generator: np.random.Generator):
        chosen = torch.from_numpy(generator.choice(len(lines), min(batch, len(lines)), replace=False))
        if held is not None:
            return held[0][chosen], held[1][chosen], lines.digits[chosen]
        part = lines[chosen]
        return line_view(part.images, part.widths, VIEWS, generator), part.widths, part.digits

    def step(model: Recogniser, given):
        seen, sizes, digits = given
        features, lengths = (seen, sizes) if held is not None else model.encoder(seen, sizes)
        return {"loss": ctc(model.decoder(features), lengths, digits)}

    loop = LoopConfig(
        steps=steps,
        learning_rate=1e-2,
        warmup_steps=steps // 20,
        clip_norm=5.0,
        validate_every=steps,
        precision="float32",
        seed=seed,
    )
    fit(recogniser, step, batches, loop, device="cpu")
    recogniser.eval()


def ctc(logits: Tensor, lengths: Tensor, digits: Tensor) -> Tensor:
    """Return the mean over lines of -log p(digits) per digit: logits [b, t, 11], lengths [b], digits [b, k] or -1."""
    said = digits >= 0
    each = F.ctc_loss(
        logits.log_softmax(2).transpose(0, 1),
        (digits + 1)[said],
        lengths,
        said.sum(1),
        reduction="none",
        zero_infinity=True,
    )
    return (each / said.sum(1)).mean()


@torch.no_grad()
def recognised(recogniser: Recogniser, lines: Lines) -> list[list[int]]:
    """Return what a recogniser reads: of each frame the likeliest, without repeats and nothings."""
    features, lengths = line_features(recogniser.encoder, lines)
    best = recogniser.decoder(features).argmax(2)
    return [spelled(row[:n].tolist()) for row, n in zip(best, lengths.tolist(), strict=True)]


def spelled(frames: list[int]) -> list[int]:
    """Return the digits of a path of 0 (nothing) and 1 + digit: repeats are one, and nothing parts two.

    >>> spelled([0, 4, 4, 0, 4, 2, 2])
    [3, 3, 1]
    """
    kept = [now for before, now in zip([0, *frames], frames, strict=False) if now != before]
    return [now - 1 for now in kept if now]


def edits(said: list[int], heard: list[int]) -> int:
    """Return how many digits must be put in, left out or changed to make one of the other (Levenshtein).

    >>> edits([1, 2, 3], [2, 3, 3]), edits([], [5, 5])
    (2, 2)
    """
    costs = list(range(len(heard) + 1))
    for k, one in enumerate(said, 1):
        diagonal, costs[0] = costs[0], k
        for j, other in enumerate(heard, 1):
            diagonal, costs[j] = costs[j], min(costs[j] + 1, costs[j - 1] + 1, diagonal + (one != other))
    return costs[-1]


def reading_errors(recogniser: Recogniser, lines: Lines) -> tuple[float, float]:
    """Return the share of lines that are read rightly, and the share of digits that are not, both in per cent."""
    heard = recognised(recogniser, lines)
    said = [[digit for digit in row if digit >= 0] for row in lines.digits.tolist()]
    right = np.mean([one == other for one, other in zip(said, heard, strict=True)])
    wrong = sum(map(edits, said, heard)) / sum(map(len, said))
    return 100 * float(right), 100 * float(wrong)

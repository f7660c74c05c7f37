"""Sources to learn from before the real task: images changed in seventeen ways, and what each is worth to a network.

    gain = 100 (e - e_s) / e %

e is the test error of a network that learns the target's few examples from nothing, e_s of one that learned source s
first and keeps all layers but the last. All networks of a seed begin alike and are trained side by side, as one batch
of matrices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

CLEAN, RELABELLED, INVERTED = "unchanged", "classes renamed", "black for white"
LABEL_LADDER = {0: CLEAN, 30: "30 % random labels", 60: "60 % random labels", 100: "100 % random labels"}
TURN_LADDER = {0: CLEAN, 15: "turned 15°", 30: "turned 30°", 60: "turned 60°", 90: "turned 90°"}
_HIDDEN, _RATE, _BATCH = 64, 3e-3, 100


@dataclass(frozen=True, eq=False)
class Images:
    """Images [n, s, s] in 0..1 and their labels [n], 0..9."""

    pixels: np.ndarray
    labels: np.ndarray

    def rows(self) -> np.ndarray:
        """Pixels as float32 [n, s s]."""
        return self.pixels.reshape(len(self.pixels), -1).astype(np.float32)

    def __getitem__(self, chosen: slice | np.ndarray) -> Images:
        return Images(self.pixels[chosen], self.labels[chosen])


def sources(clean: Images, rng: np.random.Generator) -> dict[str, Images]:
    """Return the seventeen sources made of one set of images, all of its size.

    >>> made = sources(Images(np.zeros((20, 8, 8)), np.arange(20) % 10), np.random.default_rng(0))
    >>> len(made), {len(source.labels) for source in made.values()}
    (17, {20})
    """
    from scipy.ndimage import gaussian_filter, rotate, shift

    pixels, labels = clean.pixels, clean.labels
    size = pixels.shape[1]
    found = {CLEAN: clean, RELABELLED: Images(pixels, rng.permutation(10)[labels])}
    anything, order = rng.integers(0, 10, len(labels)), rng.permutation(len(labels))
    for share, name in LABEL_LADDER.items():
        wrong = np.isin(np.arange(len(labels)), order[: round(len(labels) * share / 100)])
        found[name] = Images(pixels, np.where(wrong, anything, labels))
    for degrees, name in TURN_LADDER.items():
        found[name] = Images(
            rotate(pixels, degrees, axes=(1, 2), reshape=False, order=1) if degrees else pixels, labels
        )
    some = np.flatnonzero(labels < 5)
    covered = pixels.copy()
    covered[:, :, size // 2 :] = 0
    noise = rng.normal(0, 0.3, pixels.shape)
    found |= {
        INVERTED: Images(1 - pixels, labels),
        "faint": Images(pixels / 2, labels),
        "moved by an eighth": Images(shift(pixels, (0, size / 8, size / 8), order=1), labels),
        "blurred": Images(gaussian_filter(pixels, (0, size / 8, size / 8)), labels),
        "noise on pixels": Images((pixels + noise).clip(0, 1), labels),
        "mirrored": Images(pixels[:, :, ::-1].copy(), labels),
        "right half covered": Images(covered, labels),
        "classes 0 to 4 alone": clean[np.resize(some, len(labels))],
    }
    return found


def gains(
    made: Mapping[str, Images], target: Images, test: Images, *, steps: int, seed: int
) -> tuple[dict[str, float], float]:
    """Return the gain of each source in per cent, and the test error in per cent of learning the target alone."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    width = target.rows().shape[1]
    fresh = _layers(width, generator)
    many = len(made)
    before = [layer.repeat(many, 1, 1) for layer in fresh]
    pixels = torch.from_numpy(np.stack([source.rows() for source in made.values()]))
    labels = torch.from_numpy(np.stack([source.labels for source in made.values()]).astype(np.int64))
    learned = _train(before, pixels, labels, steps, generator)
    # the last place learns the target alone; the head is drawn anew, for what was learned is in line with the old one
    # where it began, class by class, and a source whose classes bear other names would lose by that
    start = [torch.cat([layer, first[None]]) for layer, first in zip(learned[:-2], fresh[:-2], strict=True)]
    start += [layer.repeat(many + 1, 1, 1) for layer in _layers(width, generator)[-2:]]
    rows, wanted = torch.from_numpy(target.rows()), torch.from_numpy(target.labels.astype(np.int64))
    tuned = _train(start, rows.expand(many + 1, -1, -1), wanted.expand(many + 1, -1), steps, generator)
    with torch.no_grad():
        said = _logits(tuned, torch.from_numpy(test.rows()).expand(many + 1, -1, -1)).argmax(-1).numpy()
    errors = 100 * (said != test.labels).mean(1)
    alone = float(errors[-1])
    return {name: 100 * (alone - float(error)) / alone for name, error in zip(made, errors, strict=False)}, alone


def _layers(width: int, generator: torch.Generator) -> list[torch.Tensor]:
    """Weights and biases of width-64-64-64-10, as torch.nn.Linear begins; biases are rows [1, outputs]."""
    import torch

    found = []
    sizes = (width, _HIDDEN, _HIDDEN, _HIDDEN, 10)
    for inputs, outputs in pairwise(sizes):
        bound = inputs**-0.5
        for shape in ((inputs, outputs), (1, outputs)):
            found.append((2 * torch.rand(*shape, generator=generator) - 1) * bound)
    return found


def _logits(layers: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Logits [v, n, 10] of v networks, x [v, n, d]."""
    import torch

    for place in range(0, len(layers) - 2, 2):
        x = torch.baddbmm(layers[place + 1], x, layers[place]).relu()
    return torch.baddbmm(layers[-1], x, layers[-2])


def _train(
    layers: list[torch.Tensor], x: torch.Tensor, y: torch.Tensor, steps: int, generator: torch.Generator
) -> list[torch.Tensor]:
    """Train v networks on their own data x [v, n, d], y [v, n], with Adam, and return their layers."""
    import torch
    import torch.nn.functional as F

    layers = [layer.clone().requires_grad_() for layer in layers]
    optimizer = torch.optim.Adam(layers, lr=_RATE)
    for _ in range(steps):
        chosen = torch.randperm(x.shape[1], generator=generator)[:_BATCH]
        logits = _logits(layers, x[:, chosen])
        # a sum over networks: the gradient of each is that of its own mean
        loss = F.cross_entropy(logits.flatten(0, 1), y[:, chosen].flatten()) * len(x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [layer.detach() for layer in layers]

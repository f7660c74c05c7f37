"""What the study `swav` trains and measures: names of methods and figures, recipes, sizes. Torch is not loaded."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

START, INFO, SWAV = "random start", "InfoNCE, tuned", "SwAV, tuned"
TEMPERATURES = {f"InfoNCE, temperature {tau:g}": tau for tau in (0.1, 0.2, 0.5, 1.0)}
EPSILONS = {f"SwAV, epsilon {epsilon:g}": epsilon for epsilon in (0.1, 0.05, 0.02, 0.01)}
UNBALANCED, HARD, TINY_CROPS = "SwAV, no balance", "SwAV, hard codes", "SwAV, 5 x 5 crops more"
SMALL_BATCH, WITH_QUEUE = "SwAV, batches of 16", "SwAV, batches of 16 and a queue"
TWO_CROPS, MANY_CROPS = "SwAV, two crops", "SwAV, two crops and four small ones"
DIGITS, MNIST, CIFAR = "digits", "MNIST", "CIFAR-10"
PROTOTYPES = 64
FEW, MANY, BELOW = "accuracy %, 20 labels", "accuracy %, 100 labels", "accuracy %, 100 labels, features"
NEAR, CHOICE = "accuracy %, 5-NN", f"{FEW}, training images"
USED, PURITY, K_MEANS = f"prototypes used of {PROTOTYPES}", "purity %", "purity %, k-means"
GAIN, SHARE, COUNTS = "gain, points", "share of InfoNCE's gain %", "counts"


@dataclass(frozen=True)
class Recipe:
    """How an encoder is taught; one of 0 epochs is the start of all others."""

    loss: Literal["none", "info-nce", "swav"] = "none"
    temperature: float = 0.1
    epochs: int = 0
    batch: int = 256
    learning_rate: float = 3e-3
    small_crops: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    """Of SwAVConfig, besides the temperature."""


@dataclass(frozen=True)
class Size:
    """How much is done for a budget."""

    digits: int = 1797
    epochs: int = 40
    small_batch_epochs: int = 10
    larger: tuple[tuple[str, int, int], ...] = ((MNIST, 1700, 30),)
    """Sets of larger images, for small crops: name, images, epochs."""
    draws: int = 10
    """Times that few labels are drawn."""


SIZES = {"small": Size(), "full": Size(larger=((MNIST, 8500, 15), (CIFAR, 5000, 45)))}


def settings(size: Size) -> dict[str, Recipe]:
    """Return what both losses are tuned by."""
    info = {name: Recipe("info-nce", tau, epochs=size.epochs) for name, tau in TEMPERATURES.items()}
    return info | {
        name: Recipe("swav", epochs=size.epochs, settings={"epsilon": epsilon}) for name, epsilon in EPSILONS.items()
    }


def recipes(size: Size, temperature: float, epsilon: float) -> dict[str, Recipe]:
    """Return the recipes of the digits, with the settings that were chosen."""
    swav = Recipe("swav", epochs=size.epochs, settings={"epsilon": epsilon})
    small = replace(swav, epochs=size.small_batch_epochs, batch=16, learning_rate=1e-3)
    after = size.small_batch_epochs // 2 * (3 * size.digits // 5 // 16)  # embeddings have to settle first
    return {
        START: Recipe(),
        INFO: Recipe("info-nce", temperature, epochs=size.epochs),
        SWAV: swav,
        UNBALANCED: replace(swav, settings={"epsilon": epsilon, "iterations": 0}),
        HARD: replace(swav, settings={"epsilon": epsilon, "hard": True}),
        TINY_CROPS: replace(swav, small_crops=True),
        SMALL_BATCH: small,
        WITH_QUEUE: replace(small, settings={"epsilon": epsilon, "queue": 240, "queue_after": after}),
    }


def crops(epochs: int, epsilon: float) -> dict[str, Recipe]:
    """Return the recipes of larger images: as many pixels with four crops of a quarter as without."""
    two = Recipe("swav", epochs=epochs, batch=128, settings={"epsilon": epsilon})
    many = replace(two, epochs=max(1, 2 * epochs // 3), small_crops=True)
    return {START: Recipe(), TWO_CROPS: two, MANY_CROPS: many}

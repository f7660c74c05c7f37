"""The words of the study of the area under the margin: its sets, noise, methods and metrics, and how much is done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch is loaded by a run, not by listing the studies
    from weigher.examples.suspects import Augment, Network, SuspectConfig

DIGITS, MNIST, CIFAR = "digits", "MNIST", "CIFAR-10"
MNIST_FILE = "mnist10k/mnist10k.npz"
UNIFORM, ASYMMETRIC = "uniform", "asymmetric"
AUM, LAST, HELD_OUT, CLEANLAB = "AUM", "last margin", "held-out margin", "cleanlab"
STRICT = "AUM, strict cut"
ALL, ORACLE = "everything", "right labels alone"
PRECISION, RECALL, F1, AUROC = "precision", "recall", "F1", "AUROC"
FLAGGED, ACCURACY = "flagged %", "test accuracy %"
GAP = "mean of the extra class, from wrong labels 0 to right ones 1"
SHOWN = 18
CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
Noise = tuple[str, float]
CLEAN: Noise = (UNIFORM, 0.0)
EVERY: tuple[Noise, ...] = (CLEAN, *((kind, share / 10) for kind in (UNIFORM, ASYMMETRIC) for share in (1, 2, 3, 4)))


@dataclass(frozen=True)
class World:
    """One set: how many images, what noise, how the networks learn."""

    train: int
    test: int
    noise: tuple[Noise, ...]
    epochs: int
    final_epochs: int
    width: int = 8
    augment: Augment = "none"
    folds: int = 3
    strict: float = 50.0
    """Percentile of the surely wrong at which the strict cut lies; the paper's is the 99th."""
    network: Network = "small"
    learning_rate: float = 0.05
    weight_decay: float = 1e-4

    @property
    def config(self) -> SuspectConfig:
        """How the detectors learn."""
        from weigher.examples.suspects import SuspectConfig

        return SuspectConfig(
            epochs=self.epochs,
            width=self.width,
            augment=self.augment,
            network=self.network,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
        )

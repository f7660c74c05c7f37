"""The words of the study of meta-augmentation: its learners, tasks and metrics, and how much a budget does."""

from __future__ import annotations

from dataclasses import dataclass

MAML, CONTEXTUAL, METRIC = "MAML", "contextual", "metric"
LEARNERS = (MAML, CONTEXTUAL, METRIC)
UNTRAINED = "untrained"
FIXED, PERMUTED, ANY = "fixed tasks", "labels permuted", "any classes"
WAYS_OF_TASKS = (FIXED, PERMUTED, ANY)
REGULARISERS = (
    "dropout 0.2",
    "dropout 0.5",
    "weight decay 0.3",
    "weight decay 3",
    "moved images",
    "bottleneck 0.001",
    "bottleneck 0.01",
)
DIGITS, OMNIGLOT, TOY = "digits", "Omniglot", "sinusoids"
BEFORE, AFTER = "without support %", "with support %"
TRAINING, HELD_OUT = "training tasks", "held-out tasks"
MEMORISED = "memorisation %"
PLAIN, DECAY, NUMBER, BIT = "no shift", "weight decay 1", "shift by a number", "shift by a bit"
NEW, ELSEWHERE = "new functions, same intervals", "new functions, new intervals"


@dataclass(frozen=True)
class Size:
    """How much is done for a budget."""

    steps: int
    """Steps of training on images."""
    toy_steps: int
    tested: int
    """Tasks of each kind to test on."""
    channels: int
    """Of the convolutions for characters."""


SIZES = {
    "small": Size(steps=600, toy_steps=1000, tested=400, channels=16),
    "full": Size(steps=3000, toy_steps=10000, tested=1000, channels=32),
}


def relative(where: str) -> str:
    """Return the metric of errors divided by those of the same learner without shifts."""
    return f"{TOY}: {where}, error in relation to {PLAIN}"

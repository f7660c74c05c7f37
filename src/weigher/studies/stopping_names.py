"""The words of the study of early stopping: its sets, ways of stopping and metrics, and how much a budget does."""

from __future__ import annotations

from dataclasses import dataclass

CLUSTERS, DIGITS, IMAGES = "clusters", "digits", "CIFAR-10"
STOPPED, END, BEST = "stopped by the rule", "trained to the end", "best step on the test"
TEST, DISTANCE, STEP = "test accuracy %", "distance from the start", "step"
WRONG_TRUE, WRONG_GIVEN = "wrongly labelled: right label said %", "wrongly labelled: wrong label said %"
NOISE = {CLUSTERS: (0.0, 0.1, 0.2), DIGITS: (0.0, 0.3, 0.5)}
"""Shares of wrong labels. One output stands less: the mean of -1, 0.1 and 1 is nearest to 0.1."""


@dataclass(frozen=True)
class Size:
    """How much is done for a budget."""

    points: int = 300
    """Of the clusters."""
    width: int = 400
    """Of the network of the theory."""
    steps: int = 1500
    """Of digits; clusters have twice as many."""
    check_every: int = 5
    digits: tuple[int, int] = (600, 200)
    """To train on, and held out."""
    images: tuple[int, int, int] = (1200, 400, 1000)
    """To train on, held out, to test."""
    image_width: int = 48
    image_steps: int = 900
    image_noise: tuple[float, ...] = (0.0, 0.4)

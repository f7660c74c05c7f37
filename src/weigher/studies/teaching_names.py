"""The words of the study of commentaries: its tasks, ways of training and metrics, and how much a budget does."""

from __future__ import annotations

from dataclasses import dataclass

PLAIN, SHORT, VALIDATION = "no commentary", "two thirds of the steps", "held-out examples alone"
LARGER_PLAIN, LARGER = "larger student, no commentary", "larger student"
TABLE, KEPT, LAST = "learned weights", "learned weights above 1 kept", "last student of teaching"
CURRICULUM, NORMALISED = "curriculum", "curriculum, normalised"
MIXUPS, FIXED, MIXED = {"mixup 0.2": 0.2, "mixup 1": 1.0}, "random shares", "learned shares"
JOINT, MASKED = "mask network without teaching", "learned masks"
MAML, WEIGHED = "MAML", "MAML with weighed examples"
ACCURACY, STEPS = "accuracy %", "steps to the final accuracy without commentary"
BEST = "best accuracy on the way %"
DIGITS, CLEAN, FLIPPED, MIXING, MASKS = "digits", "curriculum", "flipped", "mixing", "masks"
FEW_SHOTS = ("few shots", "few shots, one wrong")


@dataclass(frozen=True)
class Size:
    """How much is done for a budget; counts are of training, held-out and test examples."""

    digits: int = 500
    """Steps of a student; lives of the teaching are half as long."""
    digits_taught: int = 1500
    images: tuple[int, int, int] = (6000, 1000, 1000)
    image_steps: int = 240
    image_taught: int = 150
    mixed: tuple[int, int, int] = (1500, 1000, 1000)
    mixed_steps: int = 300
    mixed_taught: int = 200
    cluttered: tuple[int, int, int] = (1500, 500, 1000)
    mask_steps: int = 200
    mask_taught: int = 100
    meta_steps: int = 400
    meta_tests: int = 100


SIZES = {
    "small": Size(),
    "full": Size(
        digits_taught=3000,
        images=(20_000, 5000, 5000),
        image_steps=2000,
        image_taught=2000,
        mixed=(10_000, 5000, 5000),
        mixed_steps=4000,
        mixed_taught=2000,
        cluttered=(5000, 1500, 2000),
        mask_steps=2000,
        mask_taught=1500,
        meta_steps=4000,
        meta_tests=600,
    ),
}

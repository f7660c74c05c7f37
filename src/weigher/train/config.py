"""How long and how fast to train: the settings of `fit`, and the learning rate that follows from them.

step k = 1 ... steps
rate(k) = learning_rate * k / warmup_steps                                       for k <= warmup_steps
          learning_rate * (floor + (1 - floor) * (1 + cos(pi * progress)) / 2)   after, progress from 0 to 1
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from weigher.errors import check_ranges


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast to train."""

    steps: int = 1000
    """Training steps, one batch each."""
    learning_rate: float = 3e-4
    """Highest learning rate, reached at the end of the warm-up."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises from 0."""
    floor: float = 0.05
    """Learning rate of the last step, as a fraction of the highest."""
    weight_decay: float = 0.01
    """Decay of weight matrices per unit of learning rate; biases, norms and vectors have none."""
    average_from: float | None = None
    """Share of the steps after which weights are averaged; buffers stay as they are. None: no mean is taken. The best
    validation is then one of the mean, if there is any. A run resumed with more steps goes on with the mean it has."""
    clip_norm: float | None = 1.0
    """Greatest joint norm of the gradients; longer ones are shortened to it. None: as they are."""
    validate_every: int = 200
    """Steps between two validations, and between two saved states."""
    patience: int | None = None
    """Stop after this many validations without a better score. None: never."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the forward pass; auto mixes in bfloat16 where the device multiplies it fast."""
    seed: int = 0
    """Seed of everything that is drawn during training."""
    time_limit_seconds: float | None = None
    """Stop after this time, earlier parts of a resumed run included. None: no limit. What was learned until then is
    validated, too; a run that is resumed later knows nothing of that, and ends as if it had never stopped."""

    def __post_init__(self) -> None:
        limit, most = self.time_limit_seconds, self.clip_norm
        check_ranges(
            self,
            {
                "steps": (self.steps >= 1, "1 or more"),
                "learning_rate": (0 < self.learning_rate < math.inf, "a finite number above 0"),
                "warmup_steps": (self.warmup_steps >= 0, "0 or more"),
                "floor": (0 <= self.floor <= 1, "a share from 0 to 1"),
                "weight_decay": (0 <= self.weight_decay < math.inf, "a finite number, 0 or more"),
                "average_from": (
                    self.average_from is None or 0 <= self.average_from < 1,
                    "a share from 0 to below 1, or none",
                ),
                "clip_norm": (most is None or 0 < most < math.inf, "a finite number above 0, or none"),
                "validate_every": (self.validate_every >= 1, "1 or more"),
                "patience": (self.patience is None or self.patience >= 1, "1 or more, or none"),
                "precision": (self.precision in ("auto", "float32", "bfloat16"), "auto, float32 or bfloat16"),
                "seed": (0 <= self.seed < 2**63, "a whole number from 0 to below 2^63"),
                "time_limit_seconds": (limit is None or limit > 0, "a number above 0, or none"),
            },
        )


def learning_rate(step: int, config: LoopConfig) -> float:
    """Return the learning rate of step 1 ... `config.steps`.

    >>> config = LoopConfig(steps=10, warmup_steps=2, learning_rate=1.0, floor=0.1)
    >>> [round(learning_rate(step, config), 2) for step in (1, 2, 6, 10)]
    [0.5, 1.0, 0.55, 0.1]
    """
    if step <= config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    progress = (step - config.warmup_steps) / (config.steps - config.warmup_steps)
    return config.learning_rate * (config.floor + (1 - config.floor) * (1 + math.cos(math.pi * progress)) / 2)

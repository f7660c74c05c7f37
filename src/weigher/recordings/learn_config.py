"""The settings of learning from casts (`weigher.recordings.learn`)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from weigher.errors import RequestError
from weigher.recordings.holding import Frozen
from weigher.recordings.loss import LossConfig
from weigher.recordings.recompose import RecomposeConfig
from weigher.recordings.teacher import TeacherConfig
from weigher.train.loop import LoopConfig


@dataclass(frozen=True)
class LearnConfig:
    """How long, and on what batches, each phase trains."""

    listen: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=600, learning_rate=2e-3, warmup_steps=60, floor=0.01, clip_norm=5.0, validate_every=100
        )
    )
    """Phase 1: encoder and head from partial labels."""
    listen_batch: int = 96
    """Crops in a batch of phase 1; many short ones from different recordings teach much faster than few long ones."""
    listen_seconds: float = 4.0
    """Length of a crop of phase 1."""
    weigh: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=900, learning_rate=2e-3, warmup_steps=90, floor=0.01, clip_norm=2.0, validate_every=100
        )
    )
    """Phase 3: the whole model on conversations put together."""
    weigh_batch: int = 20
    """Conversations in a batch of phase 3."""
    hidden_bands: float = 0.3
    """Largest share of neighbouring bands that is hidden from a crop or conversation (log-power features only)."""
    frame_weight: float = 0.2
    """Weight of naming single frames in phase 3."""
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    """The teacher of phases 1 and 2."""
    recompose: RecomposeConfig = field(default_factory=RecomposeConfig)
    """The conversations of phase 3."""
    loss: LossConfig = field(default_factory=LossConfig)
    """The loss of phase 3."""
    planted: float = 0.0
    """Share of the recordings whose cast is given, in phase 1, one name that is not there, for `weigher audit` to learn
    from them how clearly such names are heard."""
    frozen: Frozen = "nothing"
    """What is held as it is: nothing, or the encoder of frames and the space of voices, for a model that has learned
    before and by whose voices people are known."""
    rehearsal_weight: float = 2.0
    """Weight of naming remembered voices against naming slots, while the encoder is held: more keeps the old names
    better and learns the new ones less."""
    begun_from: Literal["nothing", "encoder", "model"] = "nothing"
    """What training began from, as `weigher train` notes it, so that a run is never resumed from less."""

    def __post_init__(self) -> None:
        needed = {
            "listen_seconds": (0 < self.listen_seconds < math.inf, "more than 0 s"),
            "listen_batch": (self.listen_batch >= 1, "1 or more"),
            "weigh_batch": (self.weigh_batch >= 1, "1 or more"),
            "hidden_bands": (0 <= self.hidden_bands <= 1, "a share from 0 to 1"),
            "frame_weight": (0 <= self.frame_weight < math.inf, "a weight of 0 or more"),
            "planted": (0 <= self.planted <= 1, "a share from 0 to 1"),
            "rehearsal_weight": (0 <= self.rehearsal_weight < math.inf, "a weight of 0 or more"),
        }
        for name, (fits, what) in needed.items():
            if not fits:
                raise RequestError(f"{name} = {getattr(self, name)}; needed is {what}")

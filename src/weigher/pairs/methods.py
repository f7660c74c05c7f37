"""The losses of pairs by their names, for commands and settings."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from torch import nn

from weigher.errors import RequestError
from weigher.pairs.align_uniform import AlignUniformConfig, AlignUniformLoss
from weigher.pairs.info_nce import InfoNCELoss
from weigher.pairs.queue import EmbeddingQueue
from weigher.pairs.relic import ReLICConfig, ReLICLoss
from weigher.pairs.swav import SwAVConfig, SwAVLoss

Method = Literal["info-nce", "align-uniform", "swav", "relic", "seqclr"]


@dataclass(frozen=True)
class LossConfig:
    """The settings of each loss; only those of the method that is asked for are looked at."""

    temperature: float = 0.2
    """Temperature of info-nce."""
    align_uniform: AlignUniformConfig = field(default_factory=lambda: AlignUniformConfig(align_weight=2.0))
    """Weights and shapes of align-uniform."""
    relic: ReLICConfig = field(default_factory=ReLICConfig)
    """Weight of the penalty, temperature, divergence of relic."""
    swav: SwAVConfig = field(default_factory=SwAVConfig)
    """Prototypes and codes of swav; the width of its embeddings is that of the encoder."""
    queue: int = 0
    """Embeddings of earlier batches, by a slow copy of the encoder, that info-nce and align-uniform compare with."""

    def __post_init__(self) -> None:
        if self.queue < 0:
            raise RequestError(f"queue = {self.queue}: it must be at least 0")


def pair_loss(method: Method, config: LossConfig, embedding: int, *, with_target: bool = False) -> nn.Module:
    """Return the loss of embeddings of `embedding` numbers.

    Raises: RequestError for seqclr, which compares sequences, for swav `with_target`, as it knows no embeddings by a
    slow copy of the encoder, and for a queue of such embeddings without them.

    >>> pair_loss("info-nce", LossConfig(temperature=0.5), 64).temperature
    0.5
    """
    if with_target and method in ("swav", "seqclr"):
        raise RequestError(f"{method} makes no use of a slow copy of the encoder; leave target_momentum out")
    if method in ("info-nce", "align-uniform"):
        if config.queue and not with_target:
            raise RequestError(
                f"queue = {config.queue} holds embeddings by a slow copy of the encoder: set target_momentum, such as "
                "0.99, or leave the queue out"
            )
        queue = EmbeddingQueue(config.queue, embedding) if config.queue else None
        if method == "info-nce":
            return InfoNCELoss(config.temperature, queue)
        return AlignUniformLoss(config.align_uniform, queue)
    if method == "relic":
        return ReLICLoss(config.relic)
    if method == "swav":
        return SwAVLoss(replace(config.swav, embedding=embedding))
    raise RequestError("seqclr compares the parts of sequences in their order: give recordings, or another method")

"""The losses of pairs by their names, for commands and settings."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from torch import nn

from weigher.errors import RequestError, check_ranges
from weigher.pairs.align_uniform import AlignUniformConfig, AlignUniformLoss
from weigher.pairs.checks import check_positive
from weigher.pairs.info_nce import InfoNCELoss
from weigher.pairs.queue import EmbeddingQueue
from weigher.pairs.relic import ReLICConfig, ReLICLoss
from weigher.pairs.swav import SwAVConfig, SwAVLoss

Method = Literal["info-nce", "align-uniform", "swav", "relic", "seqclr"]
_WITH_QUEUE: tuple[Method, ...] = ("info-nce", "align-uniform")


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
        check_positive(temperature=self.temperature)
        check_ranges(self, {"queue": (self.queue >= 0, "0 or more")})

    def check_queue(self, method: Method) -> None:
        """Raise RequestError for a queue that this method would not look at."""
        if self.queue and method not in _WITH_QUEUE:
            more = "; that of swav is losses.swav.queue" if method == "swav" else ""
            raise RequestError(
                f"queue = {self.queue} with {method}: it is for {' and '.join(_WITH_QUEUE)}, leave it out{more}"
            )


def pair_loss(method: Method, config: LossConfig, embedding: int, *, with_target: bool = False) -> nn.Module:
    """Return the loss of embeddings of `embedding` numbers.

    Raises: RequestError for seqclr, which compares sequences, for swav `with_target`, as it knows no embeddings by a
    slow copy of the encoder, and for a queue of such embeddings without them, or where the method looks at none.

    >>> pair_loss("info-nce", LossConfig(temperature=0.5), 64).temperature
    0.5
    """
    if with_target and method in ("swav", "seqclr"):
        raise RequestError(f"{method} makes no use of a slow copy of the encoder; leave target_momentum out")
    config.check_queue(method)
    if method in _WITH_QUEUE:
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

"""The losses of pairs by their names, for commands and settings."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from torch import nn

from weigher.errors import RequestError
from weigher.pairs.align_uniform import AlignUniformConfig, AlignUniformLoss
from weigher.pairs.info_nce import InfoNCELoss
from weigher.pairs.relic import ReLICConfig, ReLICLoss
from weigher.pairs.swav import SwAVConfig, SwAVLoss

Method = Literal["info-nce", "align-uniform", "swav", "relic", "seqclr"]


@dataclass(frozen=True)
class LossConfig:
    """The settings of each loss; only those of the method that is asked for are looked at."""

    temperature: float = 0.2
    """Temperature of info-nce."""
    align_uniform: AlignUniformConfig = field(default_factory=lambda: AlignUniformConfig(align_weight=3.0))
    """Weights and shapes of align-uniform."""
    relic: ReLICConfig = field(default_factory=ReLICConfig)
    """Weight of the penalty, temperature, divergence of relic."""
    swav: SwAVConfig = field(default_factory=SwAVConfig)
    """Prototypes and codes of swav; the width of its embeddings is that of the encoder."""


def pair_loss(method: Method, config: LossConfig, embedding: int, *, with_target: bool = False) -> nn.Module:
    """Return the loss of embeddings of `embedding` numbers.

    Raises: RequestError for seqclr, which compares sequences, and, `with_target`, for losses that know no embeddings by
    a slow copy of the encoder.

    >>> pair_loss("info-nce", LossConfig(temperature=0.5), 64).temperature
    0.5
    """
    if with_target and method != "relic":
        raise RequestError(f"{method} makes no use of a slow copy of the encoder; leave target_momentum out")
    if method == "info-nce":
        return InfoNCELoss(config.temperature)
    if method == "align-uniform":
        return AlignUniformLoss(config.align_uniform)
    if method == "relic":
        return ReLICLoss(config.relic)
    if method == "swav":
        return SwAVLoss(replace(config.swav, embedding=embedding))
    raise RequestError("seqclr compares the parts of sequences in their order: give recordings, or another method")

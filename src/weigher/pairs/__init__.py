"""Weighing pairs: which views of a thing belong together, which things to keep apart, and encoders taught by that."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from weigher.pairs.align_uniform import (
        AlignUniformConfig,
        AlignUniformLoss,
        alignment,
        uniformity,
        uniformity_optimum,
    )
    from weigher.pairs.codes import balanced_codes
    from weigher.pairs.crops import CropConfig, multi_crop
    from weigher.pairs.diagnosis import Diagnosis, diagnose
    from weigher.pairs.info_nce import InfoNCELoss
    from weigher.pairs.queue import EmbeddingQueue
    from weigher.pairs.relic import ReLICConfig, ReLICLoss
    from weigher.pairs.swav import SwAVConfig, SwAVLoss

_HOMES = {
    "AlignUniformConfig": "align_uniform",
    "AlignUniformLoss": "align_uniform",
    "CropConfig": "crops",
    "Diagnosis": "diagnosis",
    "EmbeddingQueue": "queue",
    "InfoNCELoss": "info_nce",
    "ReLICConfig": "relic",
    "ReLICLoss": "relic",
    "SwAVConfig": "swav",
    "SwAVLoss": "swav",
    "alignment": "align_uniform",
    "balanced_codes": "codes",
    "diagnose": "diagnosis",
    "multi_crop": "crops",
    "uniformity": "align_uniform",
    "uniformity_optimum": "align_uniform",
}
__all__ = [
    "AlignUniformConfig",
    "AlignUniformLoss",
    "CropConfig",
    "Diagnosis",
    "EmbeddingQueue",
    "InfoNCELoss",
    "ReLICConfig",
    "ReLICLoss",
    "SwAVConfig",
    "SwAVLoss",
    "alignment",
    "balanced_codes",
    "diagnose",
    "multi_crop",
    "uniformity",
    "uniformity_optimum",
]


def __getattr__(name: str) -> object:
    """Import a method when it is asked for: the library is looked at without loading torch."""
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(f"weigher.pairs.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

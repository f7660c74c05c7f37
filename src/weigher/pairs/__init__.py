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
    from weigher.pairs.lines import LineEncoder, pretrain_lines
    from weigher.pairs.methods import LossConfig, pair_loss
    from weigher.pairs.pretrained import load_image_encoder, save_image_encoder
    from weigher.pairs.pretraining import ImageEncoder, ImageEncoderConfig, PretrainConfig, pretrain
    from weigher.pairs.queue import EmbeddingQueue
    from weigher.pairs.relic import ReLICConfig, ReLICLoss
    from weigher.pairs.seqclr import SeqCLRConfig, SeqCLRLoss, instances
    from weigher.pairs.sequence_views import LineViewConfig, SpeechViewConfig, line_view, speech_views
    from weigher.pairs.sequences import SequenceConfig, pretrain_sequences
    from weigher.pairs.swav import SwAVConfig, SwAVLoss

_HOMES = {
    "AlignUniformConfig": "align_uniform",
    "AlignUniformLoss": "align_uniform",
    "CropConfig": "crops",
    "Diagnosis": "diagnosis",
    "EmbeddingQueue": "queue",
    "ImageEncoder": "pretraining",
    "ImageEncoderConfig": "pretraining",
    "InfoNCELoss": "info_nce",
    "LineEncoder": "lines",
    "LineViewConfig": "sequence_views",
    "LossConfig": "methods",
    "PretrainConfig": "pretraining",
    "ReLICConfig": "relic",
    "ReLICLoss": "relic",
    "SeqCLRConfig": "seqclr",
    "SeqCLRLoss": "seqclr",
    "SequenceConfig": "sequences",
    "SpeechViewConfig": "sequence_views",
    "SwAVConfig": "swav",
    "SwAVLoss": "swav",
    "alignment": "align_uniform",
    "balanced_codes": "codes",
    "diagnose": "diagnosis",
    "instances": "seqclr",
    "line_view": "sequence_views",
    "load_image_encoder": "pretrained",
    "multi_crop": "crops",
    "pair_loss": "methods",
    "pretrain": "pretraining",
    "pretrain_lines": "lines",
    "pretrain_sequences": "sequences",
    "save_image_encoder": "pretrained",
    "speech_views": "sequence_views",
    "uniformity": "align_uniform",
    "uniformity_optimum": "align_uniform",
}
__all__ = [
    "AlignUniformConfig",
    "AlignUniformLoss",
    "CropConfig",
    "Diagnosis",
    "EmbeddingQueue",
    "ImageEncoder",
    "ImageEncoderConfig",
    "InfoNCELoss",
    "LineEncoder",
    "LineViewConfig",
    "LossConfig",
    "PretrainConfig",
    "ReLICConfig",
    "ReLICLoss",
    "SeqCLRConfig",
    "SeqCLRLoss",
    "SequenceConfig",
    "SpeechViewConfig",
    "SwAVConfig",
    "SwAVLoss",
    "alignment",
    "balanced_codes",
    "diagnose",
    "instances",
    "line_view",
    "load_image_encoder",
    "multi_crop",
    "pair_loss",
    "pretrain",
    "pretrain_lines",
    "pretrain_sequences",
    "save_image_encoder",
    "speech_views",
    "uniformity",
    "uniformity_optimum",
]


def __getattr__(name: str) -> object:
    """Import a method when it is asked for: the library is looked at without loading torch."""
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(f"weigher.pairs.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

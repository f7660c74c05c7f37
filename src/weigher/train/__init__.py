"""Training for every method: one plain loop, checkpoints that resume bit for bit, metrics, `torchrun`."""

from weigher.train.distribution import gather, join_workers, rank, resolve_device, world_size
from weigher.train.logging import read_metrics
from weigher.train.loop import History, LoopConfig, fit
from weigher.train.state import batch_generator, load_tensors, load_weights, save_tensors

__all__ = [
    "History",
    "LoopConfig",
    "batch_generator",
    "fit",
    "gather",
    "join_workers",
    "load_tensors",
    "load_weights",
    "rank",
    "read_metrics",
    "resolve_device",
    "save_tensors",
    "world_size",
]

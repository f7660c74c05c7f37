"""Training for every method: one plain loop, checkpoints that resume bit for bit, metrics, `torchrun`."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from weigher.train.config import LoopConfig
    from weigher.train.distribution import gather, join_workers, rank, resolve_device, world_size
    from weigher.train.logging import read_metrics
    from weigher.train.loop import History, fit
    from weigher.train.state import batch_generator, load_tensors, load_weights, save_tensors

_HOMES = {
    "History": "loop",
    "LoopConfig": "config",
    "batch_generator": "state",
    "fit": "loop",
    "gather": "distribution",
    "join_workers": "distribution",
    "load_tensors": "state",
    "load_weights": "state",
    "rank": "distribution",
    "read_metrics": "logging",
    "resolve_device": "distribution",
    "save_tensors": "state",
    "world_size": "distribution",
}
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


def __getattr__(name: str) -> object:
    """Import a part when it is asked for: telling versions and commit needs no torch, which may be what is broken."""
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(f"weigher.train.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

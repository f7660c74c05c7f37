"""Weighing frames: who is in a recording, how sure, and when, learned from cast lists alone."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from weigher.recordings.diarizer import Diarizer, DiarizerConfig

__all__ = ["Diarizer", "DiarizerConfig"]


def __getattr__(name: str) -> object:
    """Import the estimator when it is asked for: scoring and simulating need no torch."""
    if name in __all__:
        from weigher.recordings import diarizer

        return getattr(diarizer, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

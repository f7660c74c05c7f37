"""Weighing tokens: which words, or any other discrete steps, count for an answer, and how each one speaks for it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from weigher.tokens.classifier import ClassifierConfig, SentimentClassifier
    from weigher.tokens.explanation import Explanation

_HOMES = {"ClassifierConfig": "classifier", "SentimentClassifier": "classifier", "Explanation": "explanation"}
__all__ = ["ClassifierConfig", "Explanation", "SentimentClassifier"]


def __getattr__(name: str) -> object:
    """Import the estimator when it is asked for: splitting a text into words needs no torch."""
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(f"weigher.tokens.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

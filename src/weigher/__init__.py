"""weigher: learn what counts. Imports no torch, so that ``weigher --help`` answers at once."""

__version__ = "0.1.0"

__all__ = ["__version__"]

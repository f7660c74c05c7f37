"""Folders of diarizers: `config.json`, `model.safetensors` and a model card, as `weigher.io.folders` keeps them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from weigher.io.folders import CARD, WEIGHTS, read_folder, write_folder
from weigher.train.state import load_weights

FORMAT = "weigher.diarizer.1"
"""What `config.json` of a diarizer says it is."""


def save_folder(folder: Path, model: nn.Module, config: dict[str, Any], card: str) -> None:
    """Write a model folder; raises as `weigher.io.folders.write_folder`."""
    write_folder(folder, FORMAT, model.state_dict(), config, {CARD: card})


def load_folder(folder: Path) -> tuple[dict[str, Any], Callable[[nn.Module], None]]:
    """Read a model folder: its configuration, and a function that puts the weights into a model.

    Raises RequestError that says what is wrong with the folder, or, in the function, with the weights.
    """
    config, weights = read_folder(folder, FORMAT)
    return config, lambda model: load_weights(model, weights, folder / WEIGHTS)

"""Model folders: `config.json`, `model.safetensors` and a model card. Nothing in them is ever executed or unpickled."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import nn

from weigher.errors import RequestError
from weigher.io.atomic import writing
from weigher.train.state import load_weights

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
_FORMAT = "weigher.diarizer.1"
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


def save_folder(folder: Path, model: nn.Module, config: dict[str, Any], card: str) -> None:
    """Write a model folder; its files appear together, once all of them are on the disk, the weights last.

    Raises WeigherError when the disk is full; all files that stood there before are then untouched. RequestError where
    there can be no such folder.
    """
    weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    # one around the other, so that new settings never stand beside old weights; they close from the last to the first
    with (
        writing(folder / WEIGHTS) as weights_file,
        writing(folder / CONFIG, "w") as config_file,
        writing(folder / CARD, "w") as card_file,
    ):
        weights_file.write(safetensors.torch.save(weights, metadata={"format": "pt"}))
        json.dump({"format": _FORMAT, **config}, config_file, indent=2)
        card_file.write(card)
        for file in (weights_file, config_file):  # the card's is next, on closing
            file.flush()
            os.fsync(file.fileno())


def load_folder(folder: Path) -> tuple[dict[str, Any], Callable[[nn.Module], None]]:
    """Read a model folder: its configuration, and a function that puts the weights into a model.

    Raises RequestError where the folder is missing, incomplete, damaged, of another kind, or holds only a pickle.
    """
    if not folder.is_dir():
        raise RequestError(f"there is no model folder {folder}; give the folder that `weigher train` wrote (RUN/model)")
    weights = folder / WEIGHTS
    if not weights.is_file():
        pickles = sorted(file.name for file in folder.iterdir() if file.suffix in _PICKLES)
        found = f"it holds {pickles[0]}, a pickle, which can run code and is refused" if pickles else "it is not there"
        raise RequestError(f"{folder} needs {WEIGHTS}: {found}; save the model with save_pretrained")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(
            f"{folder / CONFIG} cannot be read ({error.strerror}); the model folder is incomplete"
        ) from error
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{folder / CONFIG} is no JSON ({error}); the model folder is damaged") from error
    if not isinstance(config, dict) or config.get("format") != _FORMAT:
        raise RequestError(f"{folder / CONFIG} does not describe a diarizer (format {_FORMAT!r} is needed)")
    try:
        tensors = safetensors.torch.load_file(weights)
    except (SafetensorError, OSError, ValueError) as error:
        raise RequestError(f"{weights} is damaged or cut short ({error}); copy or train the model anew") from error
    return config, lambda model: load_weights(model, tensors, weights)

"""Model folders: `config.json`, `model.safetensors`, a model card, further texts. Nothing in them is ever executed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
from safetensors import SafetensorError

from weigher.errors import RequestError
from weigher.io.atomic import writing

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


def write_folder(
    folder: Path, kind: str, weights: Mapping[str, Tensor], config: Mapping[str, Any], texts: Mapping[str, str]
) -> None:
    """Write a model folder of a `kind`, with further `texts` by file name (the model card among them).

    Its files appear together, once all of them are on the disk, the weights last. Raises WeigherError when the disk is
    full; all files that stood there before are then untouched. RequestError where there can be no such folder.

    >>> import tempfile, torch
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_folder(folder, "line.1", {"slope": torch.ones(2)}, {"width": 2}, {CARD: "# A line"})
    >>> config, weights = read_folder(folder, "line.1")
    >>> config["width"], weights["slope"].tolist()
    (2, [1.0, 1.0])
    """
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    contents = {CONFIG: json.dumps({"format": kind, **config}, indent=2, allow_nan=False), **texts}
    with ExitStack() as stack:
        # the files close from the last to the first, so that new settings never stand beside old weights
        files = [stack.enter_context(writing(folder / name)) for name in (WEIGHTS, *contents)]
        files[0].write(safetensors.torch.save(plain, metadata={"format": "pt"}))
        for file, text in zip(files[1:], contents.values(), strict=True):
            file.write(text.encode())
        for file in files:  # none takes its place before all are on the disk
            file.flush()
            os.fsync(file.fileno())


def read_folder(folder: Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the configuration and the weights of a model folder of this `kind`.

    Raises RequestError where the folder is missing, incomplete, damaged, of another kind, or holds a pickle.
    """
    if not folder.is_dir():
        raise RequestError(f"there is no model folder {folder}; give the folder of a trained model (RUN/model)")
    weights = folder / WEIGHTS
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix.lower() in _PICKLES)
    if pickles:
        raise RequestError(
            f"{folder} holds {pickles[0]}, a pickle, which can run code and is refused: remove it; needed is "
            f"{WEIGHTS}, as save_pretrained writes it"
        )
    if not weights.is_file():
        raise RequestError(f"{folder} needs {WEIGHTS}: it is not there; save the model with save_pretrained")
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict) or config.get("format") != kind:
        given = config.get("format") if isinstance(config, dict) else config
        raise RequestError(f"{folder / CONFIG} has the format {given!r}; needed is {kind!r}, give a model of that kind")
    try:
        return config, safetensors.torch.load_file(weights)
    except (SafetensorError, OSError, ValueError) as error:
        raise RequestError(f"{weights} is damaged or cut short ({error}); copy or train the model anew") from error


def read_json(path: Path) -> Any:
    """Return what a JSON file of a model folder holds; RequestError where it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"{path} cannot be read ({error.strerror}); the model folder is incomplete") from error
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{path} is no JSON ({error}); the model folder is damaged") from error

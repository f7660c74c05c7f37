"""Folders of image encoders: `config.json`, `model.safetensors` and a card, as `weigher.io.folders` keeps them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from weigher.errors import RequestError
from weigher.io.folders import CARD, CONFIG, WEIGHTS, read_folder, read_json, write_folder
from weigher.pairs.pretraining import ImageEncoder, ImageEncoderConfig
from weigher.train.state import load_weights

_FORMAT = "weigher.image-encoder.2"
_BEFORE = "weigher.image-encoder.1"  # without batch norm in the projection


def save_image_encoder(folder: str | os.PathLike[str], encoder: ImageEncoder, told: Mapping[str, Any]) -> None:
    """Write an encoder; `told` says for its card how it came about (plain data).

    Raises as `weigher.io.folders.write_folder`.
    """
    config = {"encoder": asdict(encoder.config), "told": dict(told)}
    write_folder(Path(folder), _FORMAT, encoder.state_dict(), config, {CARD: _card(told)})


def load_image_encoder(folder: str | os.PathLike[str]) -> ImageEncoder:
    """Read an encoder, in evaluation mode; RequestError that says what is wrong with the folder.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> save_image_encoder(folder, ImageEncoder(ImageEncoderConfig(channels=(4,))), {})
    >>> load_image_encoder(folder).config.channels
    (4,)
    """
    folder = Path(folder)
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else None
    if isinstance(config, dict) and config.get("format") == _BEFORE:
        raise RequestError(
            f"{folder} holds an encoder that was saved before its projection had batch norm ({_BEFORE}): teach it anew "
            "(weigher pretrain), or load it with the version of weigher that wrote it"
        )
    plain, weights = read_folder(folder, _FORMAT)
    try:
        sizes = plain["encoder"]
        encoder = ImageEncoder(ImageEncoderConfig(**{**sizes, "channels": tuple(sizes["channels"])}))
    except (KeyError, TypeError, RuntimeError) as error:
        raise RequestError(f"{folder / CONFIG} does not describe an encoder of this version ({error})") from error
    load_weights(encoder, weights, folder / WEIGHTS)
    return encoder.eval()


def _card(told: Mapping[str, Any]) -> str:
    return f"""---
library_name: weigher
tags: [images, self-supervised]
---

# Image encoder taught without labels

```python
from weigher.pairs.evaluation import encode
from weigher.pairs.pretrained import load_image_encoder

features = encode(load_image_encoder("this folder"), images)  # float [n, c, h, w] from 0 to 1 -> [n, f]
```

## How it came about

```json
{json.dumps(dict(told), indent=2)}
```
"""

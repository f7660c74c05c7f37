"""A frame encoder by itself, as pre-training without labels leaves it: how it hears, and the folder it is kept in.

A folder holds `config.json` (front end and encoder settings, under the names they have in a diarizer's), `README.md`
and `model.safetensors`. Training begins from it by `weigher.recordings.adapt.read_start`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from weigher.errors import RequestError
from weigher.io.folders import CARD, CONFIG, WEIGHTS, read_folder, read_json, write_folder
from weigher.recordings.configs import from_plain, to_plain
from weigher.recordings.encoder import FrameEncoder
from weigher.recordings.features import frame_mask, remove_mean
from weigher.recordings.model import FrontConfig, ModelConfig
from weigher.train.state import load_weights

_FORMAT = "weigher.frame-encoder.1"


class Hearing(nn.Module):
    """A frame encoder as the whole model calls it: each feature's mean over the crop is taken off first.

    Values `[b, t, f]`, of which the first `lengths` `[b]` frames are real -> frame embeddings `[b, t', e]`, and how
    many of them are real `[b]`.

    >>> import torch
    >>> frames, lengths = Hearing(FrameEncoder(40))(torch.randn(2, 101, 40), torch.tensor([101, 50]))
    >>> frames.shape, lengths.tolist()
    (torch.Size([2, 26, 256]), [26, 13])
    """

    def __init__(self, encoder: FrameEncoder, *, additive: bool = True) -> None:
        super().__init__()
        self.encoder = encoder
        self.additive = additive

    def forward(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode."""
        mask = frame_mask(lengths, values.shape[1])
        frames = self.encoder(remove_mean(values, mask) if self.additive else values, mask)
        return frames.embeddings, frames.mask.sum(1)


def save_encoder(
    folder: str | os.PathLike[str], encoder: FrameEncoder, front: FrontConfig, told: Mapping[str, Any]
) -> None:
    """Write an encoder with the front end it was taught on; `told` says for its card how (plain data).

    Raises as `weigher.io.folders.write_folder`.
    """
    config = {"config": {"model": {"front": to_plain(front), "encoder": to_plain(encoder.config)}}, "told": dict(told)}
    write_folder(Path(folder), _FORMAT, encoder.state_dict(), config, {CARD: _card(told)})


def load_encoder(folder: str | os.PathLike[str]) -> tuple[FrameEncoder, FrontConfig]:
    """Read an encoder and the front end it was taught on; RequestError that says what is wrong with the folder."""
    folder = Path(folder)
    plain, weights = read_folder(folder, _FORMAT)
    settings = plain.get("config", {})
    config = from_plain(ModelConfig, settings.get("model", {}) if isinstance(settings, dict) else {}, folder / CONFIG)
    front = config.front
    if front.kind == "wavlm" or (front.kind == "features" and front.features < 1):
        raise RequestError(f"{folder / CONFIG}: needed are log-mel energies, or features with their size")
    encoder = FrameEncoder(front.mels if front.kind == "log-mel" else front.features, config.encoder)
    load_weights(encoder, weights, folder / WEIGHTS)
    return encoder, front


def encoder_folder(path: Path) -> Path | None:
    """Return the folder of the encoder that `path` is or, as a run of `weigher pretrain`, holds; None for others.

    Raises RequestError for such a run that is not finished.
    """
    if (path / "encoder" / WEIGHTS).is_file():  # the weights are written last; an empty folder is no encoder yet
        path = path / "encoder"
    elif (path / "last.safetensors").is_file() and not (path / WEIGHTS).is_file():
        raise RequestError(f"the run {path} is not finished: it holds no encoder; go on with it (--resume) before")
    if not (path / CONFIG).is_file():
        return None
    config = read_json(path / CONFIG)
    return path if isinstance(config, dict) and config.get("format") == _FORMAT else None


def _card(told: Mapping[str, Any]) -> str:
    return f"""---
library_name: weigher
tags: [speech, self-supervised]
---

# Frame encoder taught without labels

Turns features of a recording into embeddings of its frames. It tells nobody apart until it is trained on casts:

```
weigher train cast.csv --from "this folder" --out run
```

## How it came about

```json
{json.dumps(dict(told), indent=2)}
```
"""

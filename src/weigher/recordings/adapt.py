"""Training that begins from a model: its weights, and, from a whole run, the names it knows and the head for them.

A model folder holds no head: it starts encoder and weigher, and the names are all new. A run holds one in its last
state: names that it knows keep their rows (and go on learning where the new list has them, too), new ones are added
behind them. An encoder that was pre-trained without labels starts the encoder alone. What is taken over is kept in the
new run, which can then be resumed without the old one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from weigher.errors import RequestError
from weigher.io.folders import CONFIG, WEIGHTS, read_json
from weigher.recordings.configs import from_plain, to_plain
from weigher.recordings.model import LabelHead, ModelConfig, RecordingModel
from weigher.recordings.pretrained import FORMAT, load_folder
from weigher.recordings.pretrained_encoder import encoder_folder, load_encoder
from weigher.recordings.remembered import Remembered, kept_voices
from weigher.recordings.training_list import read_list
from weigher.train.state import load_tensors, load_weights, save_tensors

START = "start.safetensors"
_LAST = Path("weigh") / "last.safetensors"


@dataclass(frozen=True, eq=False)
class Start:
    """Where training begins: a model, its settings as plain data, and the names its head knows (from a run)."""

    model: RecordingModel
    settings: Mapping[str, Any]
    labels: tuple[str, ...] = ()
    head: LabelHead | None = None
    whole: bool = True
    """Whether all of `model` has learned, or its encoder alone."""
    voices: Remembered | None = None
    """The voices of those names, as the run has heard them."""

    def fits(self, config: ModelConfig) -> bool:
        """Say whether what has learned can be put into a model of this shape."""
        own = self.model.config
        return config == own if self.whole else (config.front, config.encoder) == (own.front, own.encoder)

    def names(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the labels of the new training: those known, in their order, then the new ones, sorted.

        >>> Start(RecordingModel(), {}, ("Zoe", "Ann")).names(["Ben", "Ann", "Al"])
        ('Zoe', 'Ann', 'Al', 'Ben')
        """
        return (*self.labels, *sorted(set(names) - set(self.labels)))

    @torch.no_grad()
    def give(self, model: RecordingModel, head: LabelHead) -> None:
        """Put what is known into a new model that it `fits` and a head of `names`, known ones first."""
        source = Path("the model to begin from")
        load_weights(_part(model, self.whole), _part(self.model, self.whole).state_dict(), source)
        if self.head is not None:
            head.vectors[: len(self.labels)] = self.head.vectors
            head.scale.copy_(self.head.scale)
            head.bias.copy_(self.head.bias)


def read_start(path: str | os.PathLike[str]) -> Start:
    """Read a model folder, a finished run with the names it knows, or an encoder pre-trained without labels.

    Raises RequestError for a folder that is neither, a run that is not finished, and files that are damaged.
    """
    path = Path(path)
    is_run = (path / "listen").is_dir() or (path / "list.json").is_file()
    if is_run and not (path / "model").is_dir():
        raise RequestError(f"the run {path} is not finished: it holds no model; go on with it (--resume) before")
    if not is_run and (encoder := encoder_folder(path)) is not None:
        return _encoder_start(encoder)
    if not is_run:
        _check_may_start(path)
    folder = path / "model" if is_run else path
    plain, load = load_folder(folder)
    settings = plain["config"] if isinstance(plain.get("config"), dict) else {}
    config = from_plain(ModelConfig, settings.get("model", {}), folder / CONFIG)
    model = RecordingModel(config)
    load(model)
    if not is_run:
        return Start(model, settings)
    tensors, _ = load_tensors(path / _LAST)
    part = "best" if any(name.startswith("best.") for name in tensors) else "model"
    rows = {name.removeprefix(f"{part}.head."): tensors[name] for name in tensors if name.startswith(f"{part}.head.")}
    labels = read_list(path).labels
    head = _head(rows, config.encoder.embedding, len(labels), path / _LAST)
    return Start(model, settings, labels, head, voices=kept_voices(path, len(labels)))


def _check_may_start(path: Path) -> None:
    """Raise RequestError for what holds no model at all, or one of another kind, such as an encoder of images."""
    wanted = "give RUN of `weigher train`, its model folder, or RUN of `weigher pretrain` on recordings"
    if not path.is_dir():
        raise RequestError(f"there is no model folder {path}; {wanted}")
    folder = path / "encoder" if (path / "encoder").is_dir() else path
    if not any((folder / name).exists() for name in (CONFIG, WEIGHTS)):
        raise RequestError(f"{folder} holds no model, which needs {WEIGHTS} and {CONFIG}; {wanted}")
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    held = config.get("format") if isinstance(config, dict) else None
    if isinstance(held, str) and held != FORMAT:
        raise RequestError(f"{folder} has the format {held!r}, and training begins from {FORMAT!r}; {wanted}")


def keep_start(run_dir: Path, start: Start) -> None:
    """Keep in the folder of a new run what it begins from; raises WeigherError where the disk is full."""
    tensors = {f"model.{name}": value for name, value in _part(start.model, start.whole).state_dict().items()}
    if start.head is not None:
        tensors |= {f"head.{name}": value for name, value in start.head.state_dict().items()}
    if start.voices is not None:
        tensors |= {"voices.means": start.voices.means, "voices.spread": start.voices.spread}
    record = {"labels": list(start.labels), "settings": dict(start.settings), "whole": start.whole}
    save_tensors(run_dir / START, tensors, record)


def kept_start(run_dir: Path, config: ModelConfig) -> Start | None:
    """Return what a run began from, None where it began from nothing."""
    path = run_dir / START
    if not path.is_file():
        return None
    tensors, record = load_tensors(path)
    model, labels, whole = RecordingModel(config), tuple(record["labels"]), record.get("whole", True)
    learned = {n.removeprefix("model."): v for n, v in tensors.items() if n.startswith("model.")}
    load_weights(_part(model, whole), learned, path)
    rows = {name.removeprefix("head."): value for name, value in tensors.items() if name.startswith("head.")}
    head = _head(rows, config.encoder.embedding, len(labels), path) if rows else None
    voices = Remembered(tensors["voices.means"], tensors["voices.spread"]) if "voices.means" in tensors else None
    return Start(model, record["settings"], labels, head, whole, voices)


def _encoder_start(folder: Path) -> Start:
    encoder, front = load_encoder(folder)
    model = RecordingModel(ModelConfig(front=front, encoder=encoder.config))
    load_weights(model.encoder, encoder.state_dict(), folder)
    settings = {"model": {"front": to_plain(front), "encoder": to_plain(encoder.config)}}
    return Start(model, settings, whole=False)


def _part(model: RecordingModel, whole: bool) -> nn.Module:
    return model if whole else model.encoder


def _head(rows: dict[str, Tensor], embedding: int, labels: int, source: Path) -> LabelHead:
    head = LabelHead(embedding, labels)
    load_weights(head, rows, source)
    return head

"""What a run needs to go on bit for bit: one file of tensors and JSON, written beside its place and then renamed.

A checkpoint is a safetensors file (no pickle) whose metadata holds the rest as JSON. Its tensors are

    model.NAME              weights and buffers of the model, by their names in `state_dict`
    best.NAME               the same at the best validation, where there was one
    mean.NAME               mean of the weights over the steps averaged so far, where they are
    optimizer.SLOT.NAME     one entry of the optimizer (`exp_avg`, `exp_avg_sq`, `step`) for the parameter NAME

Randomness needs no place in it: every step starts from generators made of (seed, step, worker), so that step k draws
the same numbers in a run that was stopped and resumed as in one that never was.
"""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from weigher.errors import RequestError, WeigherError

FORMAT = 1
_KEY = "weigher"
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ADVICE = "give the file of that very run, or train again in a new folder"
_BATCHES, _STEP = 0, 1  # independent streams of random numbers within one step


class WriteError(WeigherError):
    """A file of the run could not be written: the disk is full, or the folder is not ours."""


@dataclass
class Position:
    """How far a run has come.

    `step` steps done, the one last `validated`, the best validation so far and the number of those since (`stale`), the
    mean of the weights and over how many steps it is (`averaged`).
    """

    step: int = 0
    validated: int = 0
    stale: int = 0
    seconds: float = 0.0
    best_step: int | None = None
    best_score: float | None = None
    best: dict[str, Tensor] = field(default_factory=dict)
    averaged: int = 0
    mean: dict[str, Tensor] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """Return all but the weights, fit for JSON."""
        return {name: value for name, value in vars(self).items() if name not in ("best", "mean")}


def save_tensors(path: Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Write tensors and a JSON record as one safetensors file that appears whole or not at all.

    Tensors may share memory (tied weights) and live on any device. Raises WeigherError when the file cannot be written
    (a full disk); what stood at `path` before is then untouched.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "x.safetensors"
    >>> save_tensors(path, {"w": torch.ones(2)}, {"step": 3})
    >>> load_tensors(path)
    ({'w': tensor([1., 1.])}, {'step': 3})
    """
    note = {"format": FORMAT, "names": sorted(tensors), "record": record}
    data = safetensors.torch.save(
        {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()},
        metadata={_KEY: json.dumps(note, allow_nan=False)},
    )
    partial = path.with_name(f".{path.name}.partial")  # one name: what a killed run left behind is written over
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError):
            raise cannot_write(path, error) from error
        raise
    with suppress(OSError):  # not every system lets a folder be forced to disk
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def cannot_write(path: Path, error: OSError) -> WriteError:
    """Return the error that says why `path` was not written and what to do."""
    why = "the disk is full" if error.errno in _DISK_FULL else "it could not be written"
    return WriteError(
        f"{path}: {why} ({error.strerror or error}). The state saved before is untouched; free some space there, or "
        "copy the folder to a larger disk, and resume the run"
    )


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read back what `save_tensors` wrote, on the CPU.

    Raises RequestError when the file is missing, cut short, incomplete, or no checkpoint of this library.
    """
    if not path.is_file():
        raise RequestError(f"{path}: there is no such file; {_ADVICE}")
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            note = json.loads((file.metadata() or {}).get(_KEY, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (the file is no dictionary)
    except (SafetensorError, OSError, ValueError) as error:
        raise RequestError(f"{path}: the file is cut short or damaged ({error}); {_ADVICE}") from error
    if not isinstance(note, dict) or "format" not in note:
        raise RequestError(f"{path}: these are tensors, but no checkpoint of weigher; {_ADVICE}")
    if note["format"] != FORMAT:
        raise RequestError(f"{path}: format {note['format']}, this version reads {FORMAT}; install a newer weigher")
    if not {"names", "record"} <= set(note):
        raise RequestError(f"{path}: the note in it is damaged; {_ADVICE}")
    if missing := sorted(set(note["names"]) - set(tensors)):
        raise RequestError(f"{path}: {len(missing)} tensors are missing, the first is {missing[0]!r}; {_ADVICE}")
    return tensors, note["record"]


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights and buffers of a model by name (no copies).

    Raises RequestError where `get_extra_state` of a module gives anything but a tensor: register a buffer instead.
    """
    weights = model.state_dict()
    for name, value in weights.items():
        if not isinstance(value, Tensor):
            raise RequestError(
                f"{name!r} of {type(model).__name__} is a {type(value).__name__}, and a checkpoint holds tensors only; "
                "keep it in a buffer (register_buffer)"
            )
    return weights


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], source: Path) -> None:
    """Copy weights into a model of the same names, shapes and types; `source` is named in the error.

    Raises RequestError, before anything is changed, where the two do not fit.
    """
    own = weights_of(model)
    faults = [f"{name} is missing" for name in own if name not in weights]
    faults += [f"{name} is not part of the model" for name in weights if name not in own]
    for name in own.keys() & weights.keys():
        if own[name].shape != weights[name].shape or own[name].dtype != weights[name].dtype:
            faults.append(f"{name} is {_kind(weights[name])}, the model needs {_kind(own[name])}")
    if faults:
        raise RequestError(
            f"{source}: the weights are those of a different model ({len(faults)} differences, such as: "
            f"{'; '.join(sorted(faults)[:3])}). Build the model with the settings of that run, or use a new folder"
        )
    model.load_state_dict(dict(weights))


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def save_run(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, position: Position, extra: Mapping[str, Any]
) -> None:
    """Write everything a run needs to go on, with `extra` (JSON) beside it; raises WeigherError as `save_tensors`."""
    tensors = {f"model.{name}": tensor for name, tensor in weights_of(model).items()}
    tensors |= {f"best.{name}": tensor for name, tensor in position.best.items()}
    tensors |= {f"mean.{name}": tensor for name, tensor in position.mean.items()}
    for name, parameter in model.named_parameters():
        for slot, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{slot}.{name}"] = value
    save_tensors(path, tensors, {**extra, "position": position.record()})


def load_run(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, extra: Mapping[str, Any]) -> Position:
    """Put a model and its optimizer back where `save_run` left them and return the position.

    Raises RequestError where the file cannot be used, the model is a different one, or `extra` differs from what the
    run was started with: the run would then not be the same run.
    """
    tensors, record = load_tensors(path)
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "mean": {}, "optimizer": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = tensor
    if "position" not in record:
        raise RequestError(f"{path}: these are weights, not the state of a run; resume from the file of the last state")
    for name in extra:
        if record.get(name) != extra[name]:
            raise RequestError(
                f"{path}: the run was started with {name} = {record.get(name)}, this request has {extra[name]}, and "
                "the run would not be the same; give the first value, or start another run in a new folder"
            )
    load_weights(model, parts["model"], path)
    parameters = dict(model.named_parameters())
    for name, tensor in parts["optimizer"].items():
        slot, _, owner = name.partition(".")
        if owner not in parameters:
            raise RequestError(f"{path}: {owner} has an optimizer state but is no parameter of this model; {_ADVICE}")
        place = torch.device("cpu") if slot == "step" else parameters[owner].device  # AdamW counts on the CPU
        optimizer.state[parameters[owner]][slot] = tensor.to(place, copy=True)
    best = {name: tensor.clone() for name, tensor in parts["best"].items()}
    if strange := sorted(parts["mean"].keys() - parameters.keys()):
        raise RequestError(f"{path}: {strange[0]} has a mean but is no parameter of this model; {_ADVICE}")
    mean = {name: tensor.to(parameters[name].device, copy=True) for name, tensor in parts["mean"].items()}
    return Position(**record["position"], best=best, mean=mean)


def batch_generator(seed: int, step: int, rank: int = 0) -> np.random.Generator:
    """Return the generator that the batch of one step on one worker is drawn with.

    >>> batch_generator(0, 7).integers(100, size=3)
    array([60, 27, 71])
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(step, rank, _BATCHES)))


def seed_step(seed: int, step: int, rank: int = 0) -> None:
    """Set the global generators of torch, numpy and Python to their place at the start of one step on one worker.

    >>> seed_step(0, 7)
    >>> first = torch.rand(2)
    >>> seed_step(0, 7)
    >>> torch.equal(first, torch.rand(2))
    True
    """
    state = np.random.SeedSequence(seed, spawn_key=(step, rank, _STEP)).generate_state(3)
    torch.manual_seed(int(state[0]))
    np.random.seed(state[1])
    random.seed(int(state[2]))


@contextmanager
def kept_randomness(device: torch.device) -> Iterator[None]:
    """Give the caller's global generators (torch, numpy, Python) back as they were when the block ends."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)


@contextmanager
def stop_signals() -> Iterator[list[float]]:
    """Give a list that the times of Ctrl-C and SIGTERM are put in; one more Ctrl-C raises KeyboardInterrupt at once.

    It must come a second later: `torchrun` passes on a Ctrl-C that its workers have had from the terminal.
    """
    asked: list[float] = []

    def note(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if asked and number == signal.SIGINT and now - asked[0] > 1:
            raise KeyboardInterrupt("training was stopped at once")
        asked.append(now)

    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield asked
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    heeded = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    for number in heeded:
        signal.signal(number, note)
    try:
        yield asked
    finally:
        for number in heeded:
            signal.signal(number, before[number])

"""Where a run computes: the device, the precision, and the workers that `torchrun` started.

Every worker is one process with its own part of each batch. `weigher.train.fit` finds the others by itself under
`torchrun`; a method whose loss compares rows of the whole batch joins them with `gather`.
"""

from __future__ import annotations

import atexit
import gc
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from weigher.errors import RequestError

Step = Callable[[Any, Any], Mapping[str, Tensor | float]]
"""Maps (model, batch) to the numbers of one step: "loss", a scalar with gradient, and others to be logged."""


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Return the device that a request means: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1", "mps".

    Under `torchrun`, "auto" and "cuda" give every worker its own GPU. Raises RequestError for a device that this
    machine, or this build of torch, does not have.

    >>> resolve_device("cpu")
    device(type='cpu')
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        device = "cuda" if gpus else "cpu"
    try:
        asked = torch.device(device)
    except RuntimeError as error:
        raise RequestError(f"{str(device)!r} is no device; give auto, cpu, cuda, or cuda:0 and so on") from error
    if asked.type == "cpu":
        return asked
    if asked.type == "mps":
        if torch.backends.mps.is_available():
            return asked
        raise RequestError("the device mps was asked for, and this machine has none; give auto or cpu")
    if asked.type != "cuda":
        raise RequestError(f"{str(device)!r} is no device this library runs on; give auto, cpu, cuda, or cuda:0")
    if not gpus:
        why = "torch sees no GPU here" if torch.version.cuda else "this torch is built without CUDA"
        raise RequestError(
            f"the GPU {str(asked)!r} was asked for, but {why}; give cpu (or auto), or install a driver and the CUDA "
            "build of torch"
        )
    index = _local_rank() if asked.index is None else asked.index
    if index >= gpus:
        raise RequestError(f"GPU {index} was asked for, and there are {gpus}, counted from 0; give one of them or auto")
    return torch.device("cuda", index)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which a model runs: "float32", "bfloat16" (mixed), or "auto", mixed where it is fast.

    That is on a GPU that has bfloat16, and on a CPU that multiplies it faster. Weights, gradients and optimizer stay in
    the model's own type. Raises RequestError for a GPU without bfloat16.
    """
    has_it = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "bfloat16" and not has_it:
        raise RequestError("bfloat16 was asked for, and this GPU has none; give precision float32 or auto")
    fast = _cpu_multiplies_bfloat16() if device.type == "cpu" else device.type == "cuda" and has_it
    mixed = precision == "bfloat16" or (precision == "auto" and fast)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=mixed)


def _cpu_multiplies_bfloat16() -> bool:
    """Say whether this processor multiplies bfloat16 faster than float32.

    Tiles (AMX) do; the vectors of AVX-512 do on AMD's, and on Intel's they are no faster than those of float32, so that
    the conversions cost a fifth of the time on top (`benchmarks/training.py`).
    """
    known = getattr(torch.cpu, "get_capabilities", dict)()  # not in older versions of torch
    is_intel = "intel" in str(known.get("cpu_name", "")).lower()
    return bool(known.get("amx_bf16") or (known.get("avx512_bf16") and not is_intel))


def rank() -> int:
    """Return the number of this worker, from 0; only worker 0 writes files. It is 0 without `torchrun`."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank()
    return int(os.environ["RANK"]) if _launched() else 0


def world_size() -> int:
    """Return how many workers there are; 1 without `torchrun`."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size()
    return int(os.environ["WORLD_SIZE"]) if _launched() else 1


def _launched() -> bool:
    return dist.is_available() and dist.is_torchelastic_launched()


def _local_rank() -> int:
    return int(os.environ["LOCAL_RANK"]) if _launched() else 0


def join_workers(device: torch.device) -> None:
    """Join the workers that `torchrun` started (gloo on a CPU, nccl on a GPU) until the process ends.

    Does nothing in a process of its own, or where the workers are joined already. They part only at the end, since a
    second meeting in one job would read the addresses of the first.
    """
    if not _launched() or dist.is_initialized():
        return
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", device_id=device if cuda else None)
    atexit.register(_leave)


def _leave() -> None:
    """Leave the other workers, with no thread of the group left running: C++ would abort the process over it."""
    gc.collect()  # an exception that was caught may hold frames, and these a model that holds the group
    dist.destroy_process_group()


def wait_for_all() -> None:
    """Wait until every worker has come to this line."""
    if world_size() > 1:
        dist.barrier()


def mean_numbers(numbers: Mapping[str, Tensor | float], device: torch.device) -> dict[str, float]:
    """Return the mean of each number over the workers, the same on all of them.

    Raises ValueError for anything that is not one number. It waits once for the device, whatever there is to fetch.

    >>> mean_numbers({"loss": torch.tensor(0.5), "items": 3}, torch.device("cpu"))
    {'loss': 0.5, 'items': 3.0}
    """
    values = _stacked(numbers, device)
    if world_size() > 1:
        dist.all_reduce(values)
        values /= world_size()
    return dict(zip(numbers, values.tolist(), strict=True))


def first_numbers(numbers: Mapping[str, Tensor | float], device: torch.device) -> dict[str, float]:
    """Return worker 0's numbers on every worker; raises ValueError for anything that is not one number."""
    values = _stacked(numbers, device)
    if world_size() > 1:
        dist.broadcast(values, src=0)
    return dict(zip(numbers, values.tolist(), strict=True))


@torch.no_grad()
def share_buffers(model: nn.Module) -> None:
    """Give every worker the buffers of worker 0: what a step does to running statistics is each worker's own.

    >>> share_buffers(nn.BatchNorm1d(3))  # one worker alone: nothing to do
    """
    for buffer in model.buffers() if world_size() > 1 else ():
        values = buffer.contiguous()
        dist.broadcast(values, src=0)
        buffer.copy_(values)


def _stacked(numbers: Mapping[str, Tensor | float], device: torch.device) -> Tensor:
    dtype = torch.float32 if device.type == "mps" else torch.float64
    tensors = {
        name: value.detach() if isinstance(value, Tensor) else torch.tensor(value, dtype=dtype)
        for name, value in numbers.items()
    }
    if shaped := {name: list(tensor.shape) for name, tensor in tensors.items() if tensor.numel() != 1}:
        raise ValueError(f"only single numbers are logged, these have shapes: {shaped}; return their means")
    return torch.stack([tensor.to(device, dtype).reshape(()) for tensor in tensors.values()])


def gather(rows: Tensor) -> Tensor:
    """Join the rows of all workers, in the order of the workers, with gradient.

    rows [b, ...] of worker r -> [b_0 + b_1 + ..., ...] on every worker. Each worker may hold another number of rows.
    The gradient of a row is the sum over the workers' losses, so that the mean over workers, which the training loop
    takes of all gradients, is that of the mean loss. Returns `rows` itself where there is one worker.

    >>> gather(torch.eye(2)).shape
    torch.Size([2, 2])
    """
    return rows if world_size() == 1 else cast(Tensor, _Gather.apply(rows))


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        count = torch.tensor([len(rows)], device=rows.device)
        counts = [torch.empty_like(count) for _ in range(world_size())]
        dist.all_gather(counts, count)
        ctx.counts = [int(n) for n in counts]
        padded = rows.new_zeros(max(ctx.counts), *rows.shape[1:])  # all_gather needs the same shape everywhere
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in ctx.counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:n] for part, n in zip(parts, ctx.counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.split(ctx.counts)[rank()]


class Forward(nn.Module):
    """A method's `step` as a module, so that DistributedDataParallel sees one forward pass whatever `step` calls."""

    def __init__(self, model: nn.Module, step: Step, context: torch.autocast):
        super().__init__()
        self.model = model
        self.step = step
        self.context = context
        self.unreached = nn.Parameter(torch.zeros(1))  # DDP prints a warning where it looks for such and finds none

    def forward(self, batch: Any) -> dict[str, Tensor | float]:
        """Return the outputs of `step`; all but the loss without gradient."""
        with self.context:
            outputs = dict(self.step(self.model, batch))
        return {
            name: value.detach() if isinstance(value, Tensor) and name != "loss" else value
            for name, value in outputs.items()
        }


def shared_gradients(forward: Forward) -> nn.Module:
    """Return `forward` such that its gradients are means over the workers and its weights those of worker 0."""
    if world_size() == 1:
        return forward
    # A method may thaw and reach parameters in stages: all are announced as trainable, and looked for in each step.
    flags = [parameter.requires_grad for parameter in forward.parameters()]
    forward.requires_grad_(True)
    shared = DistributedDataParallel(forward, find_unused_parameters=True)
    for parameter, flag in zip(forward.parameters(), flags, strict=True):
        parameter.requires_grad_(flag)
    return shared


def to_device(batch: Any, device: torch.device) -> Any:
    """Return a batch with the tensors in its dictionaries, lists, tuples and dataclasses moved to a device.

    >>> to_device({"x": torch.zeros(2), "names": ["a", "b"]}, torch.device("cpu"))
    {'x': tensor([0., 0.]), 'names': ['a', 'b']}
    """
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {name: to_device(part, device) for name, part in batch.items()}
    if isinstance(batch, list | tuple):
        parts = [to_device(part, device) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    if is_dataclass(batch) and not isinstance(batch, type):
        return replace(batch, **{part.name: to_device(getattr(batch, part.name), device) for part in fields(batch)})
    return batch


def tensors_in(batch: Any, name: str = "batch") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in a batch, each with its place.

    >>> [(name, len(tensor)) for name, tensor in tensors_in({"x": torch.zeros(2), "y": [torch.zeros(3)]})]
    [('batch.x', 2), ('batch.y.0', 3)]
    """
    if isinstance(batch, Tensor):
        yield name, batch
    elif isinstance(batch, dict):
        for key, part in batch.items():
            yield from tensors_in(part, f"{name}.{key}")
    elif isinstance(batch, list | tuple):
        for index, part in enumerate(batch):
            yield from tensors_in(part, f"{name}.{index}")
    elif is_dataclass(batch) and not isinstance(batch, type):
        for part in fields(batch):
            yield from tensors_in(getattr(batch, part.name), f"{name}.{part.name}")

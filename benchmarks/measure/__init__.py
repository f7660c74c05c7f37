"""What the benchmarks share: a stopwatch for stages, and figures stored with the command and the hardware."""

from __future__ import annotations

import json
import platform
import resource
import shlex
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weigher.io.atomic import writing

if TYPE_CHECKING:
    import torch
    from torch import nn


class Stopwatch:
    """Adds up the seconds of named stages; on a GPU it waits for the work to be done, which costs a few per cent."""

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.device = str(device)
        self.seconds: dict[str, float] = defaultdict(float)
        self.begun: list[float] = []

    def now(self) -> float:
        """Return seconds since some moment, once the device has done what it was given."""
        if self.device.startswith("cuda"):
            import torch

            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def start(self, *_: Any) -> None:
        """Begin a stage; stages may lie within others."""
        self.begun.append(self.now())

    def stop(self, stage: str) -> None:
        """End the stage that began last."""
        self.seconds[stage] += self.now() - self.begun.pop()

    def wrapped(self, function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        """Return `function` with its time added to `stage`."""

        @wraps(function)
        def timed(*args: Any, **more: Any) -> Any:
            self.start()
            try:
                return function(*args, **more)
            finally:
                self.stop(stage)

        return timed

    def wrapped_generator(self, function: Callable[..., Iterator[Any]], stage: str) -> Callable[..., Iterator[Any]]:
        """Return a generator function with the time to make each of its items added to `stage`."""

        @wraps(function)
        def timed(*args: Any, **more: Any) -> Iterator[Any]:
            following = self.wrapped(lambda items: next(items, None), stage)
            items = function(*args, **more)
            while (item := following(items)) is not None:
                yield item

        return timed

    def watch(self, module: nn.Module, stage: str) -> None:
        """Add the forward passes of a module to `stage`."""
        module.register_forward_pre_hook(self.start)
        module.register_forward_hook(lambda *_: self.stop(stage))


def peak_megabytes() -> float:
    """Return the most memory this process has held so far (Linux counts in KiB, macOS in bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def hardware(device: str | torch.device) -> dict[str, Any]:
    """Say what the figures were measured on."""
    import torch

    name = torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else _processor()
    return {
        "processor": name,
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _processor() -> str:
    """Return the processor's name where the system tells it."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text(encoding="utf-8").splitlines() if told.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor() or "unknown"


def store(path: Path | None, result: dict[str, Any]) -> None:
    """Write a result with the command that made it, if a path is given."""
    if path is not None:
        command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
        path.parent.mkdir(parents=True, exist_ok=True)
        with writing(path, "w") as file:
            file.write(json.dumps({"command": command, **result}, indent=2, allow_nan=False) + "\n")

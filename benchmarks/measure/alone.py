"""Benchmarks of which each figure comes from a process of its own, so that its peak memory is its own."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from measure import hardware, peak_megabytes, store

Figure = Callable[[dict[str, Any]], dict[str, Any]]
T = TypeVar("T")


class Alone:
    """The frame of such a benchmark: options that all have, figures measured apart, and the file they are kept in.

    `figure(what)` measures one figure in the process that calls it; `what` is plain data. A script adds options of its
    own to `parser`, then asks (`ask`), measures (`measured`, `rounds`) and keeps (`keep`).
    """

    def __init__(self, name: str, doc: str | None, figure: Figure, *, rounds: int, quick: str) -> None:
        self.name, self.figure, self.began = name, figure, time.perf_counter()
        self.parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
        add = self.parser.add_argument
        add("--rounds", type=int, default=rounds, help="times each figure is measured")
        add("--threads", type=int, help="threads of torch; all cores where left out")
        add("--quick", action="store_true", help=f"{quick} and one round, to see that it runs")
        add("--note", default="", help="words kept with the figures, such as what else was running")
        add("--out", type=Path, help="file for the figures (JSON)")
        add("--one", help=argparse.SUPPRESS)

    def ask(self) -> argparse.Namespace:
        """Return the options; a process that was started for one figure prints it and ends here."""
        self.asked = asked = self.parser.parse_args()
        import torch

        if asked.threads:
            torch.set_num_threads(asked.threads)
        if asked.one:
            print(json.dumps(self.figure(json.loads(asked.one))))
            raise SystemExit(0)
        return asked

    @property
    def rounds(self) -> int:
        """Times that each figure is measured."""
        return 1 if self.asked.quick else self.asked.rounds

    def measured(self, what: dict[str, Any]) -> dict[str, Any]:
        """Return `what` with its figures, measured in a process of its own (here, where it is to be quick)."""
        if self.asked.quick:
            return {**what, **self.figure(what)}
        command = [sys.executable, sys.argv[0], "--one", json.dumps(what)]
        if self.asked.threads:
            command += ["--threads", str(self.asked.threads)]
        return {**what, **json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)}

    def keep(self, settings: dict[str, Any], **figures: Any) -> None:
        """Write figures and settings, with the hardware, if a file is named."""
        result = {
            "benchmark": self.name,
            "hardware": hardware("cpu"),
            "note": self.asked.note,
            "settings": {"rounds": self.rounds, **settings},
            **figures,
            "seconds": time.perf_counter() - self.began,
        }
        store(self.asked.out, result)


def timed(step: Callable[[], T], rounds: int) -> tuple[dict[str, float], T]:
    """Return median seconds of a step, megabytes it held above what was held before, and what the last one gave."""
    before, seconds, found = peak_megabytes(), [], []
    for _ in range(max(1, rounds)):
        began = time.perf_counter()
        found = [step()]
        seconds.append(time.perf_counter() - began)
    return {"seconds": median(seconds), "megabytes": peak_megabytes() - before}, found[0]

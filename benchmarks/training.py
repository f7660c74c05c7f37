"""How fast training goes, and where its time is spent: both phases, in float32 and bfloat16.

    python benchmarks/training.py [--steps N] [--rounds R] [--device cpu] [--threads T] [--quick] [--out FILE]

It runs `weigher.recordings.learn` itself, on log-mel energies that are noise: the cost of a step does not depend on
what is in them, nor the stretches of people, which are therefore given. One frame is 10 ms of recording. Number formats
take turns within one run, so that their ratio does not depend on what else the machine does; figures are medians over
the rounds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np
import torch
from measure import Stopwatch, hardware, store
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from weigher.recordings import learn as learning
from weigher.recordings.learn import Archive, LearnConfig, learn
from weigher.recordings.model import LabelHead, ModelConfig, RecordingModel
from weigher.recordings.recompose import Stretches
from weigher.train.distribution import resolve_device

PHASES = ("listen", "weigh")
FORMATS = ("float32", "bfloat16")
STAGES = ("batch making", "front", "encoder", "weigher", "teacher", "loss", "backward", "optimizer", "other")
PEOPLE, RECORDINGS, SECONDS, FRAMES_PER_SECOND = 40, 50, 30, 100
WARM_UP = 2  # steps of a phase that are not counted


def archive_of_noise(rng: np.random.Generator) -> tuple[Archive, Stretches]:
    """Make recordings of 4 people each, and who is clearly heard where: 3 s each, the rest quiet."""
    values = [rng.normal(size=(SECONDS * FRAMES_PER_SECOND, 40)).astype(np.float16) for _ in range(RECORDINGS)]
    casts = [[(4 * i + j) % PEOPLE for j in range(4)] for i in range(RECORDINGS)]
    rows = [(i, 300 * j, 300 * (j + 1), name) for i, cast in enumerate(casts) for j, name in enumerate([*cast, -1])]
    return Archive(values, casts, tuple(f"person{i}" for i in range(PEOPLE))), Stretches(*np.array(rows).T)


@contextmanager
def watched(watch: Stopwatch, model: RecordingModel) -> Iterator[None]:
    """Time the stages of training while the context lasts."""
    watch.watch(model.encoder, "encoder")
    watch.watch(model.weigher, "weigher")
    with ExitStack() as stack:

        def replaced(owner: Any, name: str, stage: str) -> None:
            stack.enter_context(mock.patch.object(owner, name, watch.wrapped(getattr(owner, name), stage)))

        replaced(model, "frames", "frames")
        replaced(learning, "teach", "teacher")
        for name in ("partial_label_loss", "label_shares", "set_loss"):
            replaced(learning, name, "loss")
        replaced(LabelHead, "forward", "loss")
        replaced(torch.Tensor, "backward", "backward")
        replaced(nn.utils, "clip_grad_norm_", "optimizer")
        handles = [
            register_optimizer_step_pre_hook(lambda *_: watch.start()),
            register_optimizer_step_post_hook(lambda *_: watch.stop("optimizer")),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def run_once(precision: str, config: LearnConfig, device: torch.device) -> dict[str, dict[str, float]]:
    """Train both phases once; returns for each of them the seconds of a step, in all and by stage."""
    archive, stretches = archive_of_noise(np.random.default_rng(0))
    torch.manual_seed(0)
    model = RecordingModel(ModelConfig())
    phases = {phase: replace(getattr(config, phase), precision=precision) for phase in PHASES}
    watch = Stopwatch(device)
    begun: dict[str, float] = {}
    stages: dict[str, dict[str, float]] = {}

    def progress(stage: str, done: int, total: int) -> None:
        if done == WARM_UP:
            watch.seconds.clear()
            begun[stage] = watch.now()
        if done == total:
            stages[stage] = {"total": watch.now() - begun[stage], **watch.seconds}

    with watched(watch, model), mock.patch.object(learning, "gather", return_value=stretches):
        learned = learn(model, archive, replace(config, **phases), device=device, progress=progress)
    found = {}
    for phase, history in zip(PHASES, (learned.listened, learned.weighed), strict=True):
        seconds = {stage: total / (history.step - WARM_UP) for stage, total in stages[phase].items()}
        seconds["front"] = seconds.pop("frames") - seconds["encoder"]
        seconds["batch making"] = float(np.mean([record["batch_seconds"] for record in history.train[WARM_UP:]]))
        seconds["other"] = seconds["total"] - sum(seconds.get(stage, 0.0) for stage in STAGES)
        found[phase] = {name: seconds.get(name, 0.0) for name in ("total", *STAGES)}
    return found


def measure(config: LearnConfig, rounds: int, device: torch.device) -> list[dict[str, Any]]:
    """Return one row for each phase and number format."""
    runs: dict[str, list[dict[str, dict[str, float]]]] = {precision: [] for precision in FORMATS}
    for number in range(rounds):
        for precision in FORMATS if number % 2 == 0 else reversed(FORMATS):
            runs[precision].append(run_once(precision, config, device))
    frames = {
        "listen": config.listen_batch * config.listen_seconds * FRAMES_PER_SECOND,
        "weigh": config.weigh_batch * config.recompose.seconds * FRAMES_PER_SECOND,
    }
    rows = []
    for phase in PHASES:
        for precision in FORMATS:
            of_all = [run[phase] for run in runs[precision]]
            step = {name: median(one[name] for one in of_all) for name in of_all[0]}
            pairs = zip(runs["float32"], runs[precision], strict=True)
            ratios = [full[phase]["total"] / this[phase]["total"] for full, this in pairs]
            rows.append(
                {
                    "phase": phase,
                    "precision": precision,
                    "frames_per_second": frames[phase] / step["total"],
                    "speed_over_float32": median(ratios),
                    "step_seconds": step.pop("total"),
                    "stage_seconds": step,
                }
            )
    return rows


def table(rows: list[dict[str, Any]]) -> Table:
    """Draw the rows: speed, then the share of each stage in a step."""
    drawn = Table(title="training: frames/s, and per cent of a step by stage")
    for header in ("phase", "format", "frames/s", "x float32", "s/step", *STAGES):
        drawn.add_column(header, justify="left" if header in ("phase", "format") else "right")
    for row in rows:
        shares = (f"{100 * row['stage_seconds'][stage] / row['step_seconds']:.0f}" for stage in STAGES)
        speed = (f"{row['frames_per_second']:,.0f}", f"{row['speed_over_float32']:.2f}", f"{row['step_seconds']:.3f}")
        drawn.add_row(row["phase"], row["precision"], *speed, *shares)
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=12, help="steps of each phase, of which 2 are not counted")
    parser.add_argument("--rounds", type=int, default=3, help="times each number format is measured")
    parser.add_argument("--device", default="cpu", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=int, help="threads of torch; all cores where left out")
    parser.add_argument("--quick", action="store_true", help="tiny batches and few steps, to see that it runs")
    parser.add_argument("--note", default="", help="words kept with the figures, such as what else was running")
    parser.add_argument("--out", type=Path, help="file for the figures (JSON)")
    asked = parser.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    device = resolve_device(asked.device)
    steps, rounds = (WARM_UP + 1, 1) if asked.quick else (asked.steps, asked.rounds)
    if steps <= WARM_UP or rounds < 1:
        parser.error(f"--steps {steps} --rounds {rounds}: needed are more than {WARM_UP} steps and at least 1 round")
    config = LearnConfig()
    phases = {p: replace(getattr(config, p), steps=steps, warmup_steps=1, validate_every=10 * steps) for p in PHASES}
    config = replace(config, **phases)
    if asked.quick:
        config = replace(config, listen_batch=4, weigh_batch=2)
    began = time.perf_counter()
    rows = measure(config, rounds, device)
    result = {
        "benchmark": "training",
        "hardware": hardware(device),
        "note": asked.note,
        "settings": {
            "steps": steps,
            "rounds": rounds,
            "listen_batch": config.listen_batch,
            "listen_seconds": config.listen_seconds,
            "weigh_batch": config.weigh_batch,
            "weigh_seconds": config.recompose.seconds,
            "labels": PEOPLE,
        },
        "rows": rows,
        "seconds": time.perf_counter() - began,
    }
    Console(width=170).print(table(rows))
    store(asked.out, result)


if __name__ == "__main__":
    main()

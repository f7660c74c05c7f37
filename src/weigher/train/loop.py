"""One plain training loop for every method: it draws a batch, steps, validates, keeps the best, and can be stopped.

AdamW (Loshchilov and Hutter, arXiv 1711.05101), gradients clipped by their joint norm. Where asked for, the weights of
all steps from a share of the training on are averaged (Izmailov et al., arXiv 1803.05407), and their mean is validated
and kept. All that is random in step k comes from (seed, k, worker): on a CPU a resumed run repeats a whole one exactly.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from weigher.errors import RequestError, WeigherError
from weigher.train import distribution, state
from weigher.train.config import LoopConfig, learning_rate
from weigher.train.logging import Metrics, Record
from weigher.train.parameters import add_to_mean, clip_gradients, parameter_groups, parameters_replaced, put_parameters

M = TypeVar("M", bound=nn.Module)
B = TypeVar("B")
Stopped = Literal["steps", "patience", "time limit"]
_OWN = {"kind", "step", "seconds", "batch_seconds", "learning_rate", "gradient_norm", "items_per_second"}
_FREE = ("steps", "patience", "validate_every", "time_limit_seconds")  # settings a resumed run may change


@dataclass(frozen=True)
class History:
    """What happened: records of training and validation, where it ended and why, and where it was best."""

    train: tuple[Record, ...]
    validation: tuple[Record, ...]
    step: int
    seconds: float
    stopped: Stopped
    best_step: int | None
    best_score: float | None


def fit(
    model: M,
    step: Callable[[M, B], Mapping[str, Tensor | float]],
    batches: Callable[[int, np.random.Generator], B],
    config: LoopConfig,
    *,
    validate: Callable[[M], Mapping[str, float]] | None = None,
    on_step: Callable[[int, M], None] | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    resume: bool = False,
    device: str | torch.device = "auto",
    tensorboard: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> History:
    """Train `model` in place and return what happened; it ends with the best weights, where there was a validation.

    Without one it ends with the last weights, or with their mean (`average_from`).

    `batches(k, generator)` makes the batch of step k = 1, 2, ... on every worker, from the generator and nothing else
    that changes. Its tensors (in dictionaries, lists, tuples, dataclasses) are moved to the device.
    `step(model, batch)` returns scalars: "loss" with its gradient, a mean over the batch; the number of "items" in it
    (else the rows of its first tensor are counted); others are logged. `validate(model)`, without gradient and in
    evaluation mode, returns numbers with a "score", higher is better; it runs on every worker, and worker 0's count.
    `on_step(k, model)` is called before step k; calling it twice must do the same as once.

    In `run_dir`: `metrics.jsonl`, `last.safetensors` (all of the run), `best.safetensors` (weights). Ctrl-C or SIGTERM
    ends the step, saves, and raises KeyboardInterrupt. Raises RequestError for what cannot be served (no such device,
    a folder that holds a run already, a state of a different model), WeigherError for a loss or gradient that is not
    finite and for a full disk; the state before is kept then, as after any error of the method's own.

    >>> weight = nn.Linear(1, 1, bias=False)
    >>> def line(k, generator):
    ...     return torch.as_tensor(generator.normal(size=(16, 1)), dtype=torch.float32)
    >>> def step(model, x):
    ...     return {"loss": ((model(x) - 2 * x) ** 2).mean()}
    >>> history = fit(weight, step, line, LoopConfig(steps=200, learning_rate=0.1), device="cpu")
    >>> history.stopped, round(weight.weight.item(), 1)
    ('steps', 2.0)
    """
    device = distribution.resolve_device(device)
    context = distribution.autocast(device, config.precision)
    distribution.join_workers(device)
    with ExitStack() as stack:
        stack.enter_context(state.kept_randomness(device))
        asked = stack.enter_context(state.stop_signals())
        forward = distribution.Forward(model, step, context).to(device)
        folder = None if run_dir is None else Path(run_dir)
        run = _Run(forward, batches, config, validate, on_step, folder, resume, device, tensorboard, asked)
        stack.enter_context(closing(run.metrics))
        try:
            while (stopped := run.settle()) is None:
                run.take_step()
                if progress is not None and run.rank == 0:
                    progress("train", run.at.step, config.steps)
        except BaseException as error:
            run.keep_after(error)
            raise
    at, records = run.at, run.metrics.records
    if stopped == "interrupted":
        kept = f"; its state is kept in {run.last}, resume to go on" if run.last else ""
        raise KeyboardInterrupt(f"training was stopped after step {at.step}{kept}")
    if at.best:
        model.load_state_dict(at.best)
    else:
        put_parameters(model, at.mean)
    distribution.share_buffers(model)
    train, validation = (tuple(one for one in records if one["kind"] == kind) for kind in ("train", "validation"))
    return History(train, validation, at.step, at.seconds, stopped, at.best_step, at.best_score)


@dataclass
class _Run:
    """A run of `fit` as it stands between two steps."""

    method: distribution.Forward
    batches: Callable[[int, np.random.Generator], Any]
    config: LoopConfig
    validate: Callable[[Any], Mapping[str, float]] | None
    on_step: Callable[[int, Any], None] | None
    run_dir: Path | None
    resume: bool
    device: torch.device
    tensorboard: bool
    asked: list[float]

    def __post_init__(self) -> None:
        config = self.config
        self.rank = distribution.rank()
        self.model: Any = self.method.model.train()
        self.optimizer = torch.optim.AdamW(parameter_groups(self.model, config.weight_decay), lr=config.learning_rate)
        self.last = self.run_dir and self.run_dir / "last.safetensors"
        fixed = {name: value for name, value in asdict(config).items() if name not in _FREE}
        self.settings = {**fixed, "workers": distribution.world_size()}
        self.at = self._start()
        self.begun = time.monotonic() - self.at.seconds
        self.is_interrupted = False
        self.is_late = config.time_limit_seconds is not None and self.at.seconds >= config.time_limit_seconds
        self.is_torn = False  # while the optimizer changes weights, they belong to no step
        self.buffers: dict[str, Tensor] = {}
        self.saved = (self.at.step, self.at.validated) if self.resume else None
        self.forward = distribution.shared_gradients(self.method)
        folder = self.run_dir if self.rank == 0 else None
        board = self.tensorboard and self.rank == 0
        self.metrics = Metrics(folder, self.at.step, self.at.validated, tensorboard=board)

    def _start(self) -> state.Position:
        """Return where to start: at 0, or where the last saved state stands."""
        if self.last is None and self.resume:
            raise RequestError("to resume a run its folder is needed; give run_dir")
        if self.last is None:
            return state.Position()
        distribution.wait_for_all()  # worker 0 may still be writing the end of the run before
        if self.resume:
            at = state.load_run(self.last, self.model, self.optimizer, self.settings)
            self._save_best(at)  # the file may be newer than the last state, where the run was killed between the two
        elif self.last.exists():
            raise RequestError(f"{self.last.parent} holds a run already; resume it, or give another folder")
        else:
            at = state.Position()
        distribution.wait_for_all()  # before the first state is written, which the others would take for an old run
        return at

    def settle(self) -> Stopped | Literal["interrupted"] | None:
        """Validate and save where it is time to; return why the run is over, None while it is not."""
        step, stopped = self.at.step, self._reason_to_stop()
        on_grid = step % self.config.validate_every == 0  # step 0 too: a full disk is found out before the work
        due = on_grid or step >= self.config.steps
        if due and stopped != "interrupted":
            self._validate()
            stopped = self._reason_to_stop()
        if due or stopped:
            self.save()
        if stopped == "time limit":
            self._validate()  # for who goes no further; not in the state, as a whole run has no validation here
        return stopped

    def _reason_to_stop(self) -> Stopped | Literal["interrupted"] | None:
        if self.is_interrupted:
            return "interrupted"
        if self.at.step >= self.config.steps:
            return "steps"
        if self.config.patience is not None and self.at.stale >= self.config.patience:
            return "patience"
        return "time limit" if self.is_late else None

    def take_step(self) -> None:
        """Draw a batch and move the weights once; before the weights move, any error leaves the step undone."""
        k, config, began = self.at.step + 1, self.config, time.monotonic()
        self._remember_buffers()
        state.seed_step(config.seed, k, self.rank)
        if self.on_step is not None:
            self.on_step(k, self.model)
        batch = self.batches(k, state.batch_generator(config.seed, k, self.rank))
        batch = distribution.to_device(batch, self.device)
        batch_seconds = time.monotonic() - began
        self.optimizer.zero_grad()
        outputs = self.forward(batch)
        _check_names(outputs, "step", needs="loss")
        outputs["loss"].backward()
        norm = clip_gradients(self.model, config.clip_norm)
        items = outputs.pop("items", None)
        if items is None:
            items = next((len(tensor) for _, tensor in distribution.tensors_in(batch) if tensor.dim()), 1)
        numbers = self._over_workers(outputs, gradient_norm=norm, items=items)
        if not (math.isfinite(numbers["loss"]) and math.isfinite(numbers["gradient_norm"])):
            self._refuse(k, batch, outputs["loss"], norm)
        rate = learning_rate(k, config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.is_torn = True
        self.optimizer.step()
        self.at.step, self.buffers = k, {}
        self._average()
        self.at.seconds = time.monotonic() - self.begun
        per_second = numbers.pop("items") * distribution.world_size() / max(time.monotonic() - began, 1e-9)
        times = {"seconds": self.at.seconds, "batch_seconds": batch_seconds}
        self.metrics.add("train", k, {**times, "learning_rate": rate, "items_per_second": per_second, **numbers})
        self.is_torn = False

    def _average(self) -> None:
        """Take the weights of a step into their mean, once it is time to."""
        at, share = self.at, self.config.average_from
        # A mean goes on without a gap, also where a resumed run has more steps: it is of the last `averaged` of them.
        if share is not None and (at.averaged or at.step > share * self.config.steps):
            at.averaged += 1
            add_to_mean(at.mean, self.model, at.averaged)

    def _over_workers(self, outputs: Mapping[str, Tensor | float], **own: Tensor | float) -> dict[str, float]:
        """Return all numbers of a step as means over the workers, and agree with them on whether to stop."""
        limit = self.config.time_limit_seconds
        is_late = limit is not None and time.monotonic() - self.begun >= limit
        wishes = {"stop asked": len(self.asked), "stop late": int(is_late)}
        agreed = distribution.mean_numbers({**outputs, **own, **wishes}, self.device)
        self.is_interrupted, self.is_late = agreed.pop("stop asked") > 0, agreed.pop("stop late") > 0
        return agreed

    def _refuse(self, k: int, batch: Any, loss: Tensor, norm: Tensor) -> None:
        """Raise the error for a loss or gradient that is not finite, once the state before it is saved."""
        self._undo_buffers()
        self.save()
        seed, rank = self.config.seed, self.rank
        bad = [name for name, tensor in distribution.tensors_in(batch) if not torch.isfinite(tensor).all()]
        cause = f"{', '.join(bad)} holds numbers that are not finite" if bad else "the batch itself is finite"
        kept = f"; the state after step {k - 1} is kept in {self.last}" if self.last else ""
        raise WeigherError(
            f"training broke at step {k}: loss {loss.item()}, gradient norm {norm.item()} on worker {rank}; {cause} "
            f"(the batch is batches({k}, batch_generator({seed}, {k}, {rank}))){kept}. Repair the data, or lower the "
            f"learning rate ({learning_rate(k, self.config):.3g} here)"
        )

    def _remember_buffers(self) -> None:
        self.buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}

    def _undo_buffers(self) -> None:
        """Put back the buffers that a step or a validation has changed before it failed."""
        for name, buffer in self.model.named_buffers():
            if name in self.buffers:
                buffer.copy_(self.buffers[name])
        self.buffers = {}

    def _validate(self) -> None:
        """Score the model, or the mean of its weights, where this step was not scored yet."""
        if self.validate is not None and self.at.validated < self.at.step:
            distribution.share_buffers(self.model)
            with parameters_replaced(self.model, self.at.mean):
                self._score(self.validate)

    def _score(self, validate: Callable[[Any], Mapping[str, float]]) -> None:
        """Score the model, and keep its weights where it is better than ever."""
        modes = {module: module.training for module in self.model.modules()}  # a frozen part may be in evaluation mode
        self.model.eval()
        self._remember_buffers()
        state.seed_step(self.config.seed, 0, self.rank)  # the same numbers at each validation, so that scores compare
        try:
            with torch.no_grad():
                numbers = dict(validate(self.model))
        finally:
            for module, mode in modes.items():
                module.training = mode
        _check_names(numbers, "validate", needs="score")
        numbers = distribution.first_numbers(numbers, self.device)
        at, score = self.at, numbers["score"]
        if not math.isfinite(score):
            raise WeigherError(
                f"validation after step {at.step} gave the score {score}; it must be finite to choose by"
            )
        self.is_torn = True
        at.seconds = time.monotonic() - self.begun
        self.metrics.add("validation", at.step, {"seconds": at.seconds, **numbers})
        at.validated, at.stale, self.buffers = at.step, at.stale + 1, {}
        if at.best_score is None or score > at.best_score or self._is_first_of_the_mean():
            at.best_step, at.best_score, at.stale = at.step, score, 0
            weights = state.weights_of(self.model)
            at.best = {name: tensor.detach().to("cpu", copy=True) for name, tensor in weights.items()}
            self._save_best(at)
        self.is_torn = False

    def _is_first_of_the_mean(self) -> bool:
        """Say whether weights are averaged now and were not when the run was best: the two do not compete.

        A mean of few steps may score below a lucky single one on the examples held out, and is better on others.
        """
        return self.at.averaged > 0 and (self.at.best_step or 0) <= self.at.step - self.at.averaged

    def _save_best(self, at: state.Position) -> None:
        if self.run_dir is not None and self.rank == 0 and at.best:
            record = {"step": at.best_step, "score": at.best_score}
            state.save_tensors(self.run_dir / "best.safetensors", at.best, record)

    def save(self) -> None:
        """Write the last state, where it is not written already."""
        here = (self.at.step, self.at.validated)
        if self.last is None or self.rank > 0 or self.saved == here:
            return
        self.metrics.sync()
        state.save_run(self.last, self.model, self.optimizer, self.at, self.settings)
        self.saved = here

    def keep_after(self, error: BaseException) -> None:
        """Undo, and save, the step that an error or Ctrl-C has cut off, unless saving was what failed."""
        if isinstance(error, state.WriteError):
            return
        if self.is_torn:
            error.add_note(f"it came while the weights were changing; {self.last or 'nothing'} holds an earlier step")
            return
        try:
            self._undo_buffers()
            if self.last is not None and self.rank == 0:
                self.save()
                error.add_note(f"the state after step {self.at.step} is kept in {self.last}")
        except Exception as second:  # after a failure of the device nothing can be read from it
            error.add_note(f"the state after step {self.at.step} could not be kept: {second}")


def _check_names(numbers: Mapping[str, Any], source: str, *, needs: str) -> None:
    if needs not in numbers:
        raise ValueError(f"{source} returned {sorted(numbers)}; it needs {needs!r}")
    if clash := _OWN & numbers.keys():
        raise ValueError(f"{source} returned {sorted(clash)}, which the loop logs itself; give them other names")

"""Teaching with commentaries: learn one by differentiating the held-out loss through training; train students with it.

    repeat   the student takes `window` steps on L_T(theta, phi)
             phi takes one step of Adam along dL_V/dphi (`weigher.core.hypergrad`)
             after `reset_every` steps a fresh student begins at time 0

    implicit   the hypergradient is taken where the student stands, by the implicit function theorem, on a fresh
               training batch: memory does not grow with the window (algorithm 2 of the paper; window 1 there)
    unrolled   the hypergradient is taken through the window's steps; with window = reset_every through a whole life
               (algorithm 1 of the paper)

In ten lines, on your own model and loss:

    >>> from torch import nn
    >>> x = torch.randn(300, 5)
    >>> y = (x[:, 0] > 0).long()
    >>> y[200:] = torch.randint(2, (100,))                                      # the last labels are guesses
    >>> held_out, data = (x[:40], y[:40]), (x[40:], y[40:])
    >>> commentary = ExampleWeights(len(x) - 40)
    >>> loss, new = nn.CrossEntropyLoss(reduction="none"), lambda: nn.Linear(5, 2)
    >>> taught = teach(commentary, new, loss, data, held_out, config=TeachConfig(hyper_steps=100, reset_every=50))
    >>> student = train_student(new(), loss, data, commentary, steps=100).student
    >>> bool(commentary.table()[160:].mean() < commentary.table()[:160].mean())  # guesses count less
    True

While teaching, students are in evaluation mode, so that no dropout makes the two losses those of different students;
normalisation layers alone use the statistics of their batch, in both. Students and commentaries stay on the device that
they are given on; the data may be anything that has a length and gives (inputs, targets) for an int64 tensor of places,
such as a `TensorDataset`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import TensorDataset

from weigher.core.hypergrad import Hypergradient, Neumann, descend, implicit_hypergradient, unrolled_hypergradient
from weigher.errors import RequestError, WeigherError
from weigher.examples.commentaries import Batch, Commentary, ExampleLoss, ExampleWeights, each_loss

__all__ = ["Curve", "ExampleWeights", "Examples", "Taught", "TeachConfig", "Trained", "teach", "train_student"]


class Examples(Protocol):
    """Examples by place."""

    def __len__(self) -> int:
        """Return how many there are."""
        ...

    def __getitem__(self, ids: Tensor, /) -> tuple[Tensor, ...]:
        """Return inputs and targets of the examples `ids` (int64 `[b]`)."""
        ...


Data = Examples | tuple[Tensor, Tensor]
"""Examples, or (inputs, targets)."""
Method = Literal["implicit", "unrolled"]
MakeOptimiser = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


@dataclass(frozen=True)
class TeachConfig:
    """How a commentary is learned."""

    method: Method = "implicit"
    """How the hypergradient is taken."""
    hyper_steps: int = 500
    """Steps of the commentary."""
    commentary_lr: float = 0.1
    """Rate of the commentary's steps (Adam)."""
    window: int = 1
    """Steps of the student for each step of the commentary; unrolled: the steps that are differentiated."""
    reset_every: int = 250
    """Steps after which a fresh student begins; it is also the span of time from 0 to 1."""
    lr: float = 0.1
    """Rate of the student's steps; implicit: also that of the series."""
    momentum: float = 0.9
    """Momentum of the student's steps."""
    optimiser: MakeOptimiser | None = None
    """Makes another optimiser of the student from its parameters (implicit only). None: descent with momentum."""
    terms: int = 1
    """Products with the Hessian, for each step of the commentary (implicit only)."""
    damping: float = 0.0
    """Added to the Hessian (implicit only)."""
    batch: int = 100
    """Examples of a training batch."""
    held_out_batch: int | None = None
    """Examples that measure the student, of each step of the commentary. None: all."""
    seed: int = 0
    """Seed of the batches and of the students."""

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise RequestError(f"method = {self.method!r}; needed is one of {', '.join(get_args(Method))}")
        _check_counts(hyper_steps=self.hyper_steps, window=self.window, reset_every=self.reset_every, batch=self.batch)
        for name in ("lr", "commentary_lr"):
            if not 0 < getattr(self, name) < float("inf"):
                raise RequestError(f"{name} = {getattr(self, name)}: needed is a rate above 0")
        if not 0 <= self.momentum < 1:
            raise RequestError(f"momentum = {self.momentum}: needed is 0 or more, below 1")
        if self.reset_every % self.window:
            raise RequestError(f"reset_every = {self.reset_every} is no multiple of window = {self.window}")
        if self.method == "unrolled" and self.optimiser is not None:
            raise RequestError("unrolled teaching differentiates descent with momentum alone; leave optimiser out")
        _check_counts(held_out_batch=self.held_out_batch)
        Neumann(self.lr, self.terms, self.damping)


@dataclass(frozen=True, eq=False, slots=True)
class Taught:
    """How teaching went."""

    student: nn.Module
    """The last student, as its life ended."""
    held_out_losses: tuple[float, ...]
    """L_V at each step of the commentary."""
    products: int
    """Products with the Hessian, in all."""


Curve = list[tuple[int, float]]
"""(step, figure)."""


@dataclass(frozen=True, eq=False, slots=True)
class Trained:
    """A trained student, and what `check` said of it on the way."""

    student: nn.Module
    curve: Curve


def teach(
    commentary: Commentary,
    new_student: Callable[[], nn.Module],
    loss: ExampleLoss,
    data: Data,
    held_out: Data,
    *,
    config: TeachConfig | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Taught:
    """Learn a commentary (in place) on students that are made anew, from training data and held-out data.

    `new_student()` makes a fresh student each time; torch's global seed is set before, so that students differ and runs
    repeat. `loss(outputs, targets)` gives one number for each example.

    Raises RequestError for empty data, held-out class numbers that are all the same, students without parameters to
    train, losses that are reduced, a table of fewer weights than examples, and commentaries that do not reach the
    training loss; HypergradientError, naming the step, where a hypergradient is not finite.
    """
    config = config or TeachConfig()
    train, valid = _examples(data, "training data"), _examples(held_out, "held-out data")
    _check_classes(valid)
    _check_table(commentary, train)
    generator = torch.Generator().manual_seed(config.seed)
    batches, measures = (
        _draws(len(train), config.batch, generator),
        _draws(len(valid), config.held_out_batch or len(valid), generator),
    )
    adam = torch.optim.Adam(commentary.parameters(), lr=config.commentary_lr)
    losses: list[float] = []
    products, lives, age = 0, 0, config.reset_every
    life: _Life | None = None
    for done in range(config.hyper_steps):
        if life is None or age >= config.reset_every:
            torch.manual_seed(config.seed * 100_003 + lives)
            life, lives, age = (
                _Life(new_student(), commentary, loss, train, config=config, generator=generator),
                lives + 1,
                0,
            )
        x, y = valid[measure := next(measures)]
        try:
            found = life.hypergradient(
                batches, Batch(x, y, measure, _time(age, config.reset_every), held_out=True), age
            )
        except WeigherError as error:
            raise type(error)(f"step {done} of the commentary: {error}") from error
        for name, parameter in commentary.named_parameters():
            parameter.grad = found.gradient.get(name)
        adam.step()
        adam.zero_grad()
        losses.append(found.validation_loss)
        products, age = products + found.products, age + config.window
        if progress is not None:
            progress("teaching", done + 1, config.hyper_steps)
    assert life is not None
    return Taught(life.finished(), tuple(losses), products)


def train_student(
    student: nn.Module,
    loss: ExampleLoss,
    data: Data,
    commentary: Commentary | None = None,
    *,
    steps: int,
    batch: int = 100,
    optimiser: MakeOptimiser | None = None,
    horizon: int | None = None,
    seed: int = 0,
    check: Callable[[nn.Module], float] | None = None,
    check_every: int = 50,
    progress: Callable[[str, int, int], None] | None = None,
) -> Trained:
    """Train a student in place, with a commentary that stays as it is (in evaluation mode), or without one.

    Any student may use a commentary, larger ones than those that taught it too. `horizon` is the number of steps over
    which time goes from 0 to 1 (None: all; then it stays at 1). `optimiser` makes one from the parameters; None: SGD
    with rate 0.1 and momentum 0.9. `check(student)` is called every `check_every` steps and at the end, in evaluation
    mode without gradients. With the same seed the batches are the same with and without commentary.

    Raises RequestError for empty data, losses that are reduced, a table of fewer weights than examples, and numbers
    below 1.
    """
    examples = _examples(data, "training data")
    _check_counts(steps=steps, batch=batch, horizon=horizon, check_every=check_every)
    _check_table(commentary, examples)
    generator, partners = (torch.Generator().manual_seed(s) for s in (seed, seed + 1))
    trained = [p for p in student.parameters() if p.requires_grad]
    optimise = optimiser(trained) if optimiser else torch.optim.SGD(trained, lr=0.1, momentum=0.9)
    shapers = [] if commentary is None else [p for p in commentary.parameters() if p.requires_grad]
    modes = {} if commentary is None else {part: part.training for part in commentary.modules()}
    if commentary is not None:
        commentary.eval()
    for parameter in shapers:
        parameter.requires_grad_(False)
    curve: Curve = []
    try:
        student.train()
        for step, ids in zip(range(steps), _draws(len(examples), batch, generator), strict=False):
            x, y = examples[ids]
            if commentary is None:
                value = each_loss(student(x), y, loss).mean()
            else:
                now = Batch(x, y, ids, _time(step, horizon or steps), generator=partners)
                value = commentary(now, student, loss)
            optimise.zero_grad()
            value.backward()
            optimise.step()
            if check is not None and ((step + 1) % check_every == 0 or step + 1 == steps):
                student.eval()
                with torch.no_grad():
                    curve.append((step + 1, check(student)))
                student.train()
            if progress is not None:
                progress("training", step + 1, steps)
    finally:
        for parameter in shapers:
            parameter.requires_grad_()
        for part, mode in modes.items():
            part.training = mode
    return Trained(student.eval(), curve)


class _Life:
    """One student from its birth: its parameters as it trains on what the commentary makes of the data."""

    def __init__(
        self,
        student: nn.Module,
        commentary: Commentary,
        loss: ExampleLoss,
        train: Examples,
        *,
        config: TeachConfig,
        generator: torch.Generator,
    ) -> None:
        self.student, self.commentary, self.loss, self.train = student.eval(), commentary, loss, train
        self.config, self.generator = config, generator
        for module in student.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                module.train()
        self.places: dict[str, Tensor] = {name: p for name, p in student.named_parameters() if p.requires_grad}
        if not self.places:
            raise RequestError("the student has no parameters that require a gradient; thaw some of them")
        self.velocity = {name: torch.zeros_like(p) for name, p in self.places.items()}
        make = config.optimiser or (lambda p: torch.optim.SGD(p, lr=config.lr, momentum=config.momentum))
        self.optimiser = make([p for p in student.parameters() if p.requires_grad])

    def hypergradient(self, batches: Iterator[Tensor], held_out: Batch, age: int) -> Hypergradient:
        """Take the steps of a window, and return the hypergradient that the config asks for."""
        phi: dict[str, Tensor] = {name: p for name, p in self.commentary.named_parameters() if p.requires_grad}
        config = self.config

        def loss_of(theta: dict[str, Tensor], phi: dict[str, Tensor], batch: Batch) -> Tensor:
            def predict(x: Tensor) -> Tensor:
                return functional_call(self.student, theta, (x,))

            return functional_call(self.commentary, phi, (batch, predict, self.loss))

        def drawn(k: int) -> Batch:
            x, y = self.train[ids := next(batches)]
            return Batch(x, y, ids, _time(age + k, config.reset_every), generator=self.generator)

        if config.method == "unrolled":

            def step(state: tuple, phi: dict[str, Tensor], k: int) -> tuple:
                batch = drawn(k)
                return descend(lambda p: loss_of(p, phi, batch), *state, lr=config.lr, momentum=config.momentum)

            found, (theta, self.velocity) = unrolled_hypergradient(
                step,
                (self.places, self.velocity),
                phi,
                lambda state, phi: loss_of(state[0], phi, held_out),
                steps=config.window,
            )
            self.places = theta
            return found
        names = list(self.places)
        for k in range(config.window):
            slopes = torch.autograd.grad(
                loss_of(self.places, phi, drawn(k)), [self.places[name] for name in names], allow_unused=True
            )
            for name, slope in zip(names, slopes, strict=True):
                self.places[name].grad = slope
            self.optimiser.step()
        fresh = drawn(config.window)
        return implicit_hypergradient(
            lambda theta, phi: loss_of(theta, phi, fresh),
            lambda theta, phi: loss_of(theta, phi, held_out),
            self.places,
            phi,
            Neumann(config.lr, config.terms, config.damping),
        )

    def finished(self) -> nn.Module:
        """Return the student with its parameters as they are now, in evaluation mode."""
        with torch.no_grad():
            for name, parameter in self.student.named_parameters():
                if name in self.places:
                    parameter.copy_(self.places[name])
        self.optimiser.zero_grad()
        return self.student.eval()


def _examples(data: Data, name: str) -> Examples:
    if isinstance(data, tuple):
        x, y = data
        if len(x) != len(y):
            raise RequestError(f"{name}: {len(x)} inputs and {len(y)} targets; needed is one target for each input")
        data = TensorDataset(x, y)
    if not len(data):
        raise RequestError(f"{name} is empty; give at least one example")
    return data


def _check_counts(**given: int | None) -> None:
    for name, count in given.items():
        if count is not None and count < 1:
            raise RequestError(f"{name} = {count}: needed is 1 or more")


def _check_table(commentary: Commentary | None, train: Examples) -> None:
    if isinstance(commentary, ExampleWeights) and len(commentary.logit) < len(train):
        raise RequestError(
            f"{len(commentary.logit)} weights for {len(train)} training examples; needed is one for each: "
            f"ExampleWeights({len(train)})"
        )


def _check_classes(valid: Examples) -> None:
    y = valid[torch.arange(len(valid))][1]
    if not y.is_floating_point() and y.dim() == 1 and len(y) > 1 and bool((y == y[0]).all()):
        raise RequestError(f"all {len(y)} held-out targets are {y[0].item()}; they need to show what is to be learned")


def _draws(count: int, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Places of one batch after another: every example once, in random order, then anew; batches are full."""
    batch = min(batch, count)
    while True:
        order = torch.randperm(count, generator=generator)
        yield from (part for part in order.split(batch) if len(part) == batch)


def _time(step: int, horizon: int) -> float:
    return min(1.0, step / horizon)

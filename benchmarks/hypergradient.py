"""What a hypergradient costs beside a plain training step, as the student grows: time and memory.

    python benchmarks/hypergradient.py [--parameters N ...] [--threads T] [--rounds R] [--quick] [--out FILE]

The student is a perceptron with two hidden layers of equal width, on 64 features and 10 classes, batches of 100 and a
learned weight for each example. "plain step" is forward, backward and SGD; "neumann K" an implicit hypergradient with K
products; "conjugate gradient" ten products at most; "unrolled n" differentiates n steps. Each figure comes from a
process of its own, so that its peak memory is its own: what it holds above the student, its data and what is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from measure.alone import Alone, timed
from rich.console import Console
from rich.table import Table

PARAMETERS, QUICK = (10**4, 10**5, 10**6, 10**7), (10**4, 10**5)
PLAIN = "plain step"
WAYS = (PLAIN, "neumann 0", "neumann 1", "neumann 10", "conjugate gradient", "unrolled 1", "unrolled 10")
FEATURES, CLASSES, BATCH = 64, 10, 100


def width_for(parameters: int) -> int:
    """Width w of the hidden layers that gives about so many parameters: 64 w + w^2 + 10 w + 2 w + 10."""
    linear = FEATURES + CLASSES + 2
    return max(1, round((-linear + math.sqrt(linear**2 + 4 * (parameters - CLASSES))) / 2))


def prepared(parameters: int) -> dict[str, Callable[[], Any]]:
    """Return each way as something to call, for a student of so many parameters."""
    import torch
    from torch import nn
    from torch.func import functional_call

    from weigher.core.hypergrad import (
        ConjugateGradient,
        Neumann,
        descend,
        implicit_hypergradient,
        unrolled_hypergradient,
    )

    torch.manual_seed(0)
    width = width_for(parameters)
    student = nn.Sequential(
        nn.Linear(FEATURES, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, CLASSES)
    )
    x, y = torch.randn(BATCH, FEATURES), torch.randint(CLASSES, (BATCH,))
    theta, phi = dict(student.named_parameters()), torch.zeros(BATCH)
    optimiser = torch.optim.SGD(student.parameters(), lr=1e-3)
    each = nn.CrossEntropyLoss(reduction="none")

    def train(theta: Any, phi: Any) -> Any:
        return (2 * phi.sigmoid() * each(functional_call(student, theta, (x,)), y)).mean()

    def val(theta: Any, _: Any) -> Any:
        return each(functional_call(student, theta, (x,)), y).mean()

    def plain() -> None:
        optimiser.zero_grad()
        train(theta, phi).backward()
        optimiser.step()

    def unrolled(steps: int) -> Any:
        still = {name: torch.zeros_like(p) for name, p in theta.items()}
        return unrolled_hypergradient(
            lambda state, phi, _: descend(lambda p: train(p, phi), *state, lr=1e-3),
            (theta, still),
            phi,
            lambda state, phi: val(state[0], phi),
            steps=steps,
        )

    def implicit(inverse: Any) -> Any:
        return implicit_hypergradient(train, val, theta, phi, inverse)

    # so strong a damping that every product is taken: the curvature is positive, and the tolerance is not reached
    gradients = ConjugateGradient(steps=10, tolerance=0.0, damping=1.0)
    return {
        PLAIN: plain,
        **{f"neumann {terms}": lambda terms=terms: implicit(Neumann(1e-3, terms)) for terms in (0, 1, 10)},
        "conjugate gradient": lambda: implicit(gradients),
        **{f"unrolled {steps}": lambda steps=steps: unrolled(steps) for steps in (1, 10)},
    }


def figure(what: dict[str, Any]) -> dict[str, Any]:
    """Measure one way at one size in this process."""
    call = prepared(what["parameters"])[what["way"]]
    prepared(100)[what["way"]]()  # what is loaded at first use counts for nobody
    return timed(call, what["rounds"])[0]


def table(rows: list[dict[str, Any]]) -> Table:
    """Draw the figures: a line for each way, columns for each number of parameters."""
    drawn = Table(title="time (in plain steps) and MB above the start, by parameters")
    drawn.add_column("")
    sizes = sorted({row["parameters"] for row in rows})
    for size in sizes:
        drawn.add_column(f"{size:,}", justify="right")
    found = {(row["way"], row["parameters"]): row for row in rows}
    for way in WAYS:
        cells = []
        for size in sizes:
            row, plain = found[way, size], found[PLAIN, size]
            times = row["seconds"] / plain["seconds"]
            cells.append(f"{1000 * row['seconds']:,.1f} ms ({times:.1f}) {row['megabytes']:,.0f} MB")
        drawn.add_row(way, *cells)
    return drawn


def main() -> None:
    bench = Alone("hypergradient", __doc__, figure, rounds=7, quick="small students")
    bench.parser.add_argument(
        "--parameters", type=int, nargs="+", help="numbers of parameters; 10^4 to 10^7 where left out"
    )
    asked = bench.ask()
    rows = [
        bench.measured({"way": way, "parameters": parameters, "rounds": bench.rounds})
        for parameters in (QUICK if asked.quick else asked.parameters or PARAMETERS)
        for way in WAYS
    ]
    Console(width=150).print(table(rows))
    bench.keep({"batch": BATCH, "features": FEATURES, "classes": CLASSES}, rows=rows)


if __name__ == "__main__":
    main()

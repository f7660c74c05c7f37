"""Distance between two labelled data sets against their size: examples a second, beside POT alone and by entropy.

    python benchmarks/dataset_distance.py [--features D] [--classes C] [--threads T] [--device D] [--quick] [--out FILE]

Two sets of n examples each, drawn from normal classes. `ours` is the library's default (labels as normal laws, exact
transport), `unequal` the same with one example less on one side, which needs POT's simplex for the transport; `pot`
what POT alone gives for the same distance: its Bures distance for every pair of classes and `ot.emd2` on the cost;
`entropic` the debiased Sinkhorn of the library. Examples a second count both sets. `sampled` draws 2000 of each set and
takes the laws of classes from all.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from measure import hardware, store
from rich.console import Console
from rich.table import Table

SIZES, QUICK = (250, 500, 1000, 2000, 20_000), (60,)
WAYS = ("ours", "unequal", "pot", "entropic", "sampled")
MOST = {"ours": 2000, "unequal": 2000, "pot": 2000, "entropic": 1000}
"""Larger sets are left to `sampled`."""
_RIDGE = 1e-5  # for POT alone: its Bures distance is NaN where an eigenvalue comes out below 0 by rounding


def sets(n: int, features: int, classes: int) -> tuple[Any, Any, Any, Any]:
    """Draw both sets: features and labels of each."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % classes
    centres = rng.normal(0, 2, (classes, features))
    shapes = rng.normal(0, 1 / features**0.5, (classes, features, features))
    drawn = []
    for shift in (0.0, 0.5):
        noise = rng.normal(size=(n, features))
        drawn += [centres[labels] + shift + np.einsum("nf,nfg->ng", noise, shapes[labels]), labels]
    return tuple(drawn)


def by_pot(x: Any, label: Any, y: Any, other: Any) -> float:
    """Return the distance through POT's own functions."""
    import ot

    ridge = _RIDGE * np.eye(x.shape[1])
    kinds = [np.unique(each) for each in (label, other)]
    moments = [
        [(part.mean(0), np.cov(part.T, ddof=0) + ridge) for part in (z[of == kind] for kind in unique)]
        for z, of, unique in ((x, label, kinds[0]), (y, other, kinds[1]))
    ]
    between = np.array(
        [
            [float(np.squeeze(ot.gaussian.bures_wasserstein_distance(m, k, s, t))) ** 2 for k, t in moments[1]]
            for m, s in moments[0]
        ]
    )
    cost = ot.dist(x, y) + between[label][:, other]
    return float(np.sqrt(ot.emd2([], [], cost, numItermax=10_000_000)))


def measure(way: str, n: int, asked: argparse.Namespace, rounds: int) -> dict[str, Any]:
    """Time one way at one size."""
    import torch

    from weigher.examples.dataset_distance import dataset_distance
    from weigher.examples.label_distances import DistanceConfig

    x, label, y, other = sets(n, asked.features, asked.classes)
    config = DistanceConfig(
        reg=0.05 if way == "entropic" else None, tolerance=1e-4, max_samples=2000 if way == "sampled" else None
    )
    tensors = [torch.from_numpy(z).to(asked.device) for z in (x, y)]
    seconds, value = [], 0.0
    for _ in range(rounds):
        began = time.perf_counter()
        if way == "pot":
            value = by_pot(x, label, y, other)
        else:
            last = n - 1 if way == "unequal" else n
            value = float(dataset_distance(tensors[0], label, tensors[1][:last], other[:last], config).value)
        seconds.append(time.perf_counter() - began)
    return {
        "way": way,
        "n": n,
        "seconds": median(seconds),
        "examples_per_second": 2 * n / median(seconds),
        "value": value,
    }


def table(rows: list[dict[str, Any]]) -> Table:
    """Draw the figures: a line for each size, a column for each way."""
    drawn = Table("examples of each set", title="seconds, and examples a second")
    for way in WAYS:
        drawn.add_column(way, justify="right")
    for n in sorted({row["n"] for row in rows}):
        found = {
            row["way"]: f"{row['seconds']:.3g} s {row['examples_per_second']:,.0f}" for row in rows if row["n"] == n
        }
        drawn.add_row(f"{n:,}", *(found.get(way, "left out") for way in WAYS))
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--features", type=int, default=64, help="features of an example")
    parser.add_argument("--classes", type=int, default=10, help="classes of each set")
    parser.add_argument("--rounds", type=int, default=3, help="times each figure is measured")
    parser.add_argument("--threads", type=int, help="threads of torch; all cores where left out")
    parser.add_argument("--device", default="cpu", help="where the library computes")
    parser.add_argument("--quick", action="store_true", help="small sets and one round, to see that it runs")
    parser.add_argument("--note", default="", help="words kept with the figures, such as what else was running")
    parser.add_argument("--out", type=Path, help="file for the figures (JSON)")
    asked = parser.parse_args()
    import torch

    if asked.threads:
        torch.set_num_threads(asked.threads)
    began = time.perf_counter()
    measure("ours", 40, asked, 1)  # what is loaded at first use counts for nobody
    rows = [
        measure(way, n, asked, 1 if asked.quick else asked.rounds)
        for n in (QUICK if asked.quick else SIZES)
        for way in WAYS
        if n <= MOST.get(way, n)
    ]
    Console(width=140).print(table(rows))
    settings = {"features": asked.features, "classes": asked.classes, "rounds": asked.rounds}
    result = {
        "benchmark": "dataset distance",
        "hardware": hardware(asked.device),
        "note": asked.note,
        "settings": settings,
        "rows": rows,
        "seconds": time.perf_counter() - began,
    }
    store(asked.out, result)


if __name__ == "__main__":
    main()

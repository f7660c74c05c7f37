"""One step of losses of pairs, forward and backward, by batch size and width; NT-Xent beside pytorch-metric-learning.

    python benchmarks/contrast.py [--rounds R] [--threads T] [--largest 100000] [--quick] [--out FILE]

`own` works in blocks; `whole` is a cross-entropy over the 2n x 2n matrix of similarities in plain PyTorch; `pml` is
pytorch-metric-learning's `NTXentLoss`, left out where it is not installed. Each figure comes from a process of its own,
so that its peak memory is its own: what it holds above what it held before. A way that would need more than
--most-gigabytes is left out. The other losses of the library, with the settings that they come with, have no peer here:
both terms of `align-uniform`, `relic` (InfoNCE in both directions and its penalty), `swav` (its prototypes and codes,
from two views), and `seqclr` (of n windows, 10 to a sequence, without a head). --largest adds one step of InfoNCE in
one direction, of that many rows of 128 numbers: 100,000 are to fit in 2 GB, where the matrix alone would take 40.
"""

from __future__ import annotations

import importlib.util
from typing import Any

from measure.alone import Alone, timed
from rich.console import Console
from rich.table import Table

BATCHES, QUICK = (64, 256, 1024, 4096, 16_384), (32, 64)
WIDTHS, QUICK_WIDTHS = (64, 128, 512), (8,)
WAYS = ("own", "whole", "pml")
OTHERS = ("align-uniform", "relic", "swav", "seqclr")
WINDOWS = 10
TEMPERATURE = 0.2


def loss(way: str, first: Any, second: Any) -> Any:
    """Return the mean NT-Xent of two views of unit rows, by one of the ways."""
    import torch
    import torch.nn.functional as F

    from weigher.core.contrast import nt_xent

    if way == "own":
        return nt_xent(first, second, temperature=TEMPERATURE).mean()
    rows, n = torch.cat([first, second]), len(first)
    if way == "whole":
        logits = (rows @ rows.T / TEMPERATURE).fill_diagonal_(-torch.inf)
        return F.cross_entropy(logits, torch.arange(2 * n).roll(n))
    from pytorch_metric_learning.losses import NTXentLoss

    return NTXentLoss(TEMPERATURE)(rows, torch.arange(n).repeat(2))


def ways() -> tuple[str, ...]:
    """Return the ways that this machine has."""
    return WAYS if importlib.util.find_spec("pytorch_metric_learning") else WAYS[:2]


def figure(what: dict[str, Any]) -> dict[str, Any]:
    """Time one way at one size, in this process; "one direction" is our InfoNCE for --largest."""
    import torch

    from weigher.core.contrast import info_nce, unit
    from weigher.pairs.methods import LossConfig, pair_loss
    from weigher.pairs.seqclr import SeqCLRConfig, SeqCLRLoss

    torch.manual_seed(0)
    n, width, other = what["n"], what["width"], None
    shape = (n, width)
    if what["way"] == "seqclr":
        other, shape = SeqCLRLoss(SeqCLRConfig("window", WINDOWS, "none"), width), (n // WINDOWS, WINDOWS, width)
    elif what["way"] in OTHERS:
        other = pair_loss(what["way"], LossConfig(), width)

    def step(views: Any) -> Any:
        leaves = [view.detach().requires_grad_() for view in views]
        if what["way"] == "one direction":
            one = info_nce(*leaves, temperature=TEMPERATURE).mean()
        elif other is not None:
            one = other(*leaves)["loss"]
        else:
            one = loss(what["way"], *leaves)
        one.backward()
        return one

    views = [unit(torch.randn(shape)) for _ in range(2)]
    step([view[:128] for view in views])  # what is loaded at first use counts for nobody
    figures, found = timed(lambda: step(views), what["rounds"])
    return {**figures, "loss": found.item()}


def gigabytes(way: str, n: int) -> float:
    """What the matrices of a way take: three of all pairs of rows, or four of positives x negatives in the library."""
    return {"whole": 3 * (2 * n) ** 2, "pml": 4 * (2 * n) ** 3}.get(way, 0) * 4 / 2**30


def table(rows: list[dict[str, Any]]) -> Table:
    """Draw the figures: a line for each size, a column for each way of NT-Xent and for each other loss."""
    columns = (*WAYS, *OTHERS)
    drawn = Table(title="one step of NT-Xent in three ways, and of other losses: ms, and MB above the start")
    for header in ("pairs", "width", *columns):
        drawn.add_column(header, justify="right")
    for n, width in sorted({(row["n"], row["width"]) for row in rows if row["way"] in columns}):
        cells = []
        for way in columns:
            found = [row for row in rows if (row["n"], row["width"], row["way"]) == (n, width, way)]
            cells += [f"{1000 * row['seconds']:,.1f} ms {row['megabytes']:,.0f} MB" for row in found] or ["left out"]
        drawn.add_row(f"{n:,}", str(width), *cells)
    for row in rows:
        if row["way"] not in columns:
            said = f"{row['seconds']:,.0f} s {row['megabytes']:,.0f} MB, one direction"
            drawn.add_row(f"{row['n']:,}", str(row["width"]), said)
    return drawn


def main() -> None:
    bench = Alone("contrast", __doc__, figure, rounds=5, quick="small batches")
    add = bench.parser.add_argument
    add("--largest", type=int, help="rows of one more step, in one direction; minutes for 100,000")
    add("--most-gigabytes", type=float, default=8.0, help="ways that need more are left out")
    asked = bench.ask()
    batches, widths = (QUICK, QUICK_WIDTHS) if asked.quick else (BATCHES, WIDTHS)
    wanted = [
        {"way": way, "n": n, "width": width, "rounds": bench.rounds}
        for n in batches
        for width in widths
        for way in (*ways(), *OTHERS)
        if gigabytes(way, n) <= asked.most_gigabytes
    ]
    if asked.largest:
        wanted.append({"way": "one direction", "n": asked.largest, "width": 128, "rounds": 1})
    rows = [bench.measured(what) for what in wanted]
    Console(width=180).print(table(rows))
    bench.keep({"temperature": TEMPERATURE}, rows=rows)


if __name__ == "__main__":
    main()

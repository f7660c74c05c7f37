"""Readings of unequal noise: their plain mean against the mean weighted by how sure each reading is."""

import numpy as np

from weigher.studies.harness import Claim, Context, Result, Row, Study, clearly_less, find_row


def squared_errors(seed: int, trials: int) -> tuple[float, float]:
    random = np.random.default_rng(seed)
    noise = random.uniform(0.1, 3.0, size=(trials, 10))
    readings = random.normal(0.0, noise)
    weighted = (readings / noise**2).sum(1) / (1 / noise**2).sum(1)
    return float((readings.mean(1) ** 2).mean()), float((weighted**2).mean())


def run(context: Context) -> list[Row]:
    trials = {"small": 200, "full": 5000}[context.budget]
    errors = []
    for done, seed in enumerate(context.seeds, start=1):
        errors.append(squared_errors(seed, trials))
        context.progress("seeds", done, len(context.seeds))
    plain, weighted = zip(*errors, strict=True)
    return [Row.of("plain mean", "squared error", plain), Row.of("weighted mean", "squared error", weighted)]


def weights_win(rows):
    weighted, plain = (find_row(rows, method, "squared error") for method in ("weighted mean", "plain mean"))
    return f"{weighted.mean:.3f} against {plain.mean:.3f}", clearly_less(weighted, plain)


def plot(result: Result, path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 3), layout="constrained")
    axes = figure.subplots()
    axes.bar([row.method for row in result.rows], [row.mean for row in result.rows])
    axes.set_ylabel("squared error")
    figure.savefig(path)


STUDY = Study(
    name="precision",
    card="00",
    title="plain against precision-weighted mean",
    run=run,
    claims=(Claim("weights lower the error", "Aitken 1935", weights_win),),
    plot=plot,
)

"""Windowed attention against full attention behind a mask: time and memory by length; and training tokens/s by model.

    python benchmarks/windowed_attention.py [--window W] [--heads H] [--threads T] [--rounds R] [--quick] [--out FILE]

Four ways to the same result: `own`, blocks by matrix products, as the library trains; `fused`, the same blocks through
PyTorch's `scaled_dot_product_attention`, as the library applies what it has learned; `full`, all t x t scores, masked;
`full fused`, PyTorch's attention with a t x t mask. "train" is forward and backward, with the learned bias of distances
where a way can take its gradient; "apply" forward alone, without gradients. Each figure comes from a process of its
own, so that its peak memory is its own: what it holds above what it held before. A way that would need more than
--most-gigabytes is left out; with --heads 1 full attention fits at every length. Models train on random ids of the
lengths of film reviews, with the settings of the library.
"""

from __future__ import annotations

from statistics import median
from typing import Any

from measure.alone import Alone, timed
from rich.console import Console
from rich.table import Table

LENGTHS, QUICK = (256, 1024, 4096, 16_384), (64, 256)
WAYS = ("own", "fused", "full", "full fused")
CHANNELS = 20
MODELS = ("rnn", "gru", "token-mlp", "weighted-mlp", "local-attention")


def attend(way: str, qkv: Any, window: int, bias: Any) -> Any:
    """Return what attention within a window gives, by one of the ways."""
    import torch
    import torch.nn.functional as F

    from weigher.tokens.local_attention import attention_in_blocks, by_fused, by_products

    q, k, v = qkv
    if way in ("own", "fused"):
        return attention_in_blocks(q, k, v, window, by_products if way == "own" else by_fused, bias=bias)
    t, radius = q.shape[2], window // 2
    place = torch.arange(t) - torch.arange(t)[:, None] + radius
    added = bias[:, place.clamp(0, window - 1)].masked_fill((place < 0) | (place >= window), -torch.inf)
    if way == "full":
        return (q @ k.mT * q.shape[-1] ** -0.5 + added).softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=added[None])


def attention_row(way: str, t: int, window: int, heads: int, rounds: int, *, train: bool) -> dict[str, Any]:
    """Time one way at one length, in this process."""
    import torch

    torch.manual_seed(0)
    qkv = [torch.randn(1, heads, t, CHANNELS, requires_grad=train) for _ in range(3)]
    bias = torch.zeros(heads, window, requires_grad=train)
    attend(way, [x[:, :, :32] for x in qkv], window, bias)  # what is loaded at first use counts for nobody

    def step() -> None:
        found = attend(way, qkv, window, bias)
        if train:
            found.sum().backward()

    return timed(step, rounds)[0]


def model_row(model: str, texts: int) -> dict[str, Any]:
    """Training speed of one model, in this process: real tokens a second, the median over the steps."""
    import numpy as np

    from weigher.tokens.classifier import SentimentClassifier
    from weigher.tokens.learning import ClassifierConfig

    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(5.3, 0.6, texts), 10, 2500).astype(int)
    corpus = [rng.integers(0, 30_000, length) for length in lengths]
    labels = (np.arange(texts) % 2).tolist()
    classifier = SentimentClassifier(model, config=ClassifierConfig(epochs=1, held_out=0.0), device="cpu")
    history = classifier.fit(corpus, labels).history_
    assert history is not None
    return {
        "tokens_per_second": median(record["items_per_second"] for record in history.train),
        "seconds_an_epoch_of_25k": history.seconds / lengths.sum() * 25_000 * lengths.mean(),
    }


def gigabytes(way: str, t: int, heads: int, *, train: bool) -> float:
    """What the t x t scores of a full way take: three copies on the way back, two without."""
    return 0.0 if way in ("own", "fused") else (3 if train else 2) * heads * t * t * 4 / 2**30


def figure(what: dict[str, Any]) -> dict[str, Any]:
    """Measure one figure in this process."""
    return model_row(**what) if "model" in what else attention_row(**what)


def table(rows: list[dict[str, Any]], models: list[dict[str, Any]]) -> list[Table]:
    """Draw the figures: a way for each column pair, and a line for each model."""
    speed = Table(title="ms and MB above the start, by length")
    speed.add_column("t", justify="right")
    speed.add_column("")
    for way in WAYS:
        speed.add_column(way, justify="right")
    for t, train in sorted({(row["t"], row["train"]) for row in rows}):
        cells = []
        for way in WAYS:
            found = [row for row in rows if (row["t"], row["train"], row["way"]) == (t, train, way)]
            cells += [f"{1000 * row['seconds']:,.1f} ms {row['megabytes']:,.0f} MB" for row in found] or ["left out"]
        speed.add_row(f"{t:,}", "train" if train else "apply", *cells)
    training = Table("model", title="training")
    for header in ("tokens/s", "s for 25,000 reviews"):
        training.add_column(header, justify="right")
    for row in models:
        training.add_row(row["model"], f"{row['tokens_per_second']:,.0f}", f"{row['seconds_an_epoch_of_25k']:,.0f}")
    return [speed, training]


def main() -> None:
    bench = Alone("windowed attention", __doc__, figure, rounds=5, quick="short texts")
    add = bench.parser.add_argument
    add("--window", type=int, default=17, help="tokens that one token looks at")
    add("--heads", type=int, default=5, help="heads of the attention, of 20 channels each")
    add("--texts", type=int, default=2000, help="texts of an epoch, for the models; 0 leaves them out")
    add("--most-gigabytes", type=float, default=8.0, help="ways that need more are left out")
    asked = bench.ask()
    texts, lengths = (32, QUICK) if asked.quick else (asked.texts, LENGTHS)
    sizes = {"window": asked.window, "heads": asked.heads}
    rows = [
        bench.measured({"way": way, "t": t, **sizes, "rounds": bench.rounds, "train": train})
        for t in lengths
        for train in (True, False)
        for way in WAYS
        if gigabytes(way, t, asked.heads, train=train) <= asked.most_gigabytes
    ]
    models = [bench.measured({"model": model, "texts": texts}) for model in MODELS if texts]
    for drawn in table(rows, models):
        Console(width=150).print(drawn)
    bench.keep({**sizes, "channels": CHANNELS, "texts": texts}, rows=rows, models=models)


if __name__ == "__main__":
    main()

"""How fast and how rightly a voice is found among a million: brute force, the index on disk, and other indexes.

    python benchmarks/index.py [--slots N] [--width E] [--threads T] [--quick] [--out FILE]

Voices are random directions, with 20 slots each on average; a slot is its voice with noise, such that two slots of one
voice have the cosine --likeness. Queries are voices with fresh noise. Recall@10: the share of the 10 slots that brute
force finds which a method finds too. Times are of one query at a time, from the vector to the answer; brute force and
faiss hold all vectors in memory, weigher and LanceDB read them from disk. faiss and LanceDB are measured where they are
installed (pip install faiss-cpu lancedb), with as many cells and probes as weigher has.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from measure import hardware, store

from weigher.recordings import database, slot_store
from weigher.recordings.cells import PROBES, cell_count
from weigher.recordings.index import PeopleIndex
from weigher.recordings.recorded import Recorded
from weigher.recordings.slot_store import EXACT_SLOTS

SLOTS_PER_VOICE, SLOTS_PER_RECORDING, TOP = 20, 4, 10
PIECE = 20_000  # slots that are put in at a time
TURNS = [np.array([[0.0, 2.5], [4.0, 7.5]])] * SLOTS_PER_RECORDING

Search = Callable[[np.ndarray], np.ndarray]


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def draw(slots: int, width: int, queries: int, likeness: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw slots float32 [n, e] and queries [q, e]."""
    rng = np.random.default_rng(0)
    noise = np.float32(np.sqrt((1 / likeness - 1) / width))
    voices = unit(rng.standard_normal((max(1, slots // SLOTS_PER_VOICE), width), np.float32))
    heard = [voices[rng.integers(len(voices), size=size)] for size in (slots, queries)]
    found = []
    for vectors in heard:
        for begin in range(0, len(vectors), PIECE):  # in place: a million vectors are a gigabyte
            piece = vectors[begin : begin + PIECE]
            piece += noise * rng.standard_normal(piece.shape, np.float32)
            piece /= np.linalg.norm(piece, axis=1, keepdims=True)
        found.append(vectors)
    return found[0], found[1]


def timed(search: Search, queries: np.ndarray) -> tuple[list[np.ndarray], dict[str, float]]:
    """Return what each query finds, and the milliseconds that takes: median and 95th percentile."""
    search(queries[0])  # whatever is read once is read now
    answers, seconds = [], []
    for query in queries:
        began = time.perf_counter()
        answers.append(search(query))
        seconds.append(time.perf_counter() - began)
    middle, slow = 1e3 * np.quantile(seconds, [0.5, 0.95])
    return answers, {"query_milliseconds": float(middle), "query_milliseconds_95": float(slow)}


def megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20


def ours(vectors: np.ndarray, folder: Path) -> PeopleIndex:
    """Put all vectors into an index, four to a recording."""
    exact = min(EXACT_SLOTS, len(vectors) // 2)  # small runs have cells too
    index = PeopleIndex.create(folder, model="benchmark", width=vectors.shape[1], exact_slots=exact)
    sure, nobody = np.ones(SLOTS_PER_RECORDING), [None] * SLOTS_PER_RECORDING
    for begin in range(0, len(vectors), PIECE):
        piece = vectors[begin : begin + PIECE].reshape(-1, SLOTS_PER_RECORDING, vectors.shape[1])
        first = begin // SLOTS_PER_RECORDING
        index.remember([Recorded(f"{first + i}", four, sure, TURNS, nobody) for i, four in enumerate(piece)])
    return index


def slots_of(index: PeopleIndex, *, exact: bool) -> Search:
    """Search for slots, by their number from 0: they were put in one after the other."""

    def search(query: np.ndarray) -> np.ndarray:
        with database.reading(index.folder) as db:
            slots, scores = slot_store.compare(db, query, exact=exact)
        return slots[best(scores)] - 1

    return search


def best(scores: np.ndarray) -> np.ndarray:
    most = np.argpartition(-scores, min(TOP, len(scores)) - 1)[:TOP]
    return most[np.argsort(-scores[most])]


def faiss_index(vectors: np.ndarray, cells: int, probes: int) -> Search:
    import faiss

    width = vectors.shape[1]
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, cells, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors[: 40 * cells])
    index.add(vectors)
    index.nprobe = probes
    return lambda query: index.search(query[None], TOP)[1][0]


def lance_index(vectors: np.ndarray, cells: int, probes: int, folder: Path) -> Search:
    import lancedb
    import pyarrow as pa
    from lancedb.index import IvfFlat

    rows = pa.FixedSizeListArray.from_arrays(vectors.ravel(), vectors.shape[1])
    table = lancedb.connect(folder).create_table("slots", pa.table({"vector": rows, "slot": np.arange(len(vectors))}))
    table.create_index("vector", config=IvfFlat(distance_type="dot", num_partitions=cells))

    def search(query: np.ndarray) -> np.ndarray:
        asked = table.search(query).distance_type("dot").nprobes(probes).limit(TOP).select(["slot", "_distance"])
        return asked.to_arrow()["slot"].to_numpy()

    return search


def measure(asked: argparse.Namespace, rows: list[dict[str, Any]], folder: Path) -> dict[str, float]:
    """Fill the rows, method by method; returns the seconds of single operations on the full index."""
    vectors, queries = draw(asked.slots, asked.width, asked.queries, asked.likeness)
    cells = cell_count(len(vectors))
    truth, times = timed(lambda query: best(vectors @ query), queries)
    rows.append({"method": "brute force in memory", "recall_at_10": 1.0, "build_seconds": 0.0, **times})

    def add(method: str, search: Search, seconds: float, size: float | None = None) -> None:
        found, times = timed(search, queries)
        recall = float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, truth, strict=True)]))
        told = {"method": method, "recall_at_10": recall, "build_seconds": seconds, "disk_megabytes": size, **times}
        rows.append(told)
        print(f"{method}: recall@10 {recall:.3f}, {times['query_milliseconds']:.1f} ms", file=sys.stderr)

    began = time.perf_counter()
    index = ours(vectors, folder / "weigher")
    built, size = time.perf_counter() - began, megabytes(folder / "weigher")
    add("weigher, all slots", slots_of(index, exact=True), built, size)
    for probes in sorted({PROBES // 4, PROBES // 2, PROBES, 2 * PROBES}):
        with mock.patch.object(slot_store, "PROBES", probes):
            add(f"weigher, {probes} of {cells} cells", slots_of(index, exact=False), built, size)
    if importlib.util.find_spec("faiss"):
        import faiss

        faiss.omp_set_num_threads(asked.threads or 1)
        began = time.perf_counter()
        search = faiss_index(vectors, cells, PROBES)
        add(f"faiss IVF in memory, {PROBES} of {cells} cells", search, time.perf_counter() - began)
    if importlib.util.find_spec("lancedb"):
        began = time.perf_counter()
        search = lance_index(vectors, cells, PROBES, folder / "lance")
        built = time.perf_counter() - began
        add(f"LanceDB IVF, {PROBES} of {cells} cells", search, built, megabytes(folder / "lance"))
    return operations(index, queries)


def operations(index: PeopleIndex, queries: np.ndarray) -> dict[str, float]:
    """Time what people do: ask for recordings with names and turns, add one recording, forget one person."""
    seconds: dict[str, float] = {}
    index.enroll({"Ann": [("a", queries[0])], "Ben": [("b", queries[1])]})
    four = np.repeat(queries[:1], SLOTS_PER_RECORDING, axis=0)
    added = Recorded("added", four, np.ones(SLOTS_PER_RECORDING), TURNS, [None] * SLOTS_PER_RECORDING)
    for name, call in {
        "search for 10 recordings": lambda: index.search(queries[2], TOP),
        "add a recording": lambda: index.remember([added]),
        "forget a person": lambda: index.forget(["Ann"]),
    }.items():
        began = time.perf_counter()
        call()
        seconds[name] = time.perf_counter() - began
    return seconds


def show(rows: list[dict[str, Any]], seconds: dict[str, float]) -> None:
    from rich.console import Console
    from rich.table import Table

    drawn = Table("method", "recall@10", "ms/query", "95th percentile", "build s", "MB on disk")
    for row in rows:
        size = row.get("disk_megabytes")
        times = (
            f"{row['query_milliseconds']:.2f}",
            f"{row['query_milliseconds_95']:.2f}",
            f"{row['build_seconds']:.1f}",
        )
        drawn.add_row(row["method"], f"{row['recall_at_10']:.3f}", *times, "" if size is None else f"{size:.0f}")
    Console(width=150).print(drawn)
    print(", ".join(f"{name}: {value:.3f} s" for name, value in seconds.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--slots", type=int, default=1_000_000, help="how many there are, a multiple of 4")
    parser.add_argument("--width", type=int, default=256, help="size of an embedding")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--likeness", type=float, default=0.7, help="cosine of two slots of one voice")
    parser.add_argument("--threads", type=int, help="threads of numpy, torch and faiss; numpy keeps to OMP_NUM_THREADS")
    parser.add_argument("--quick", action="store_true", help="2,000 slots of size 16, to see that it runs")
    parser.add_argument("--note", default="", help="words kept with the figures, such as what else was running")
    parser.add_argument("--out", type=Path, help="file for the figures (JSON)")
    parser.add_argument("--folder", type=Path, help="where the indexes lie meanwhile; a temporary folder if left out")
    asked = parser.parse_args()
    if asked.quick:
        asked.slots, asked.width, asked.queries = 2000, 16, 10
    if asked.threads:
        import torch

        torch.set_num_threads(asked.threads)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        seconds = measure(asked, rows, Path(folder))
    show(rows, seconds)
    settings = {name: getattr(asked, name) for name in ("slots", "width", "queries", "likeness")}
    told = {"benchmark": "index", "hardware": hardware("cpu"), "note": asked.note, "settings": settings}
    store(asked.out, {**told, "rows": rows, "operation_seconds": seconds})


if __name__ == "__main__":
    main()

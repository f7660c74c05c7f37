"""How long a window takes from features to tracks in PyTorch and, exported, in onnxruntime.

    python benchmarks/onnx_runtime.py [--model FOLDER] [--threads T] [--rounds R] [--quick] [--out FILE]

Windows of 5, 30 and 120 s, one by one and eight at a time, of noise: what is heard makes no difference to the time.
Both take turns, so that whatever else the machine does disturbs both, and the median counts. Without --model, the model
is the default one, not trained. (The script is not called onnx.py, which would stand in the way of the package.)
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measure import hardware, store

WINDOWS, BATCHES = (5.0, 30.0, 120.0), (1, 8)
QUICK = ((1.0,), (1, 2))


def measure(model: Path | None, threads: int | None, rounds: int, quick: bool) -> dict[str, Any]:
    """Export, run both, and return the figures of each window and batch."""
    import onnxruntime
    import torch

    from weigher.recordings.diarizer import Diarizer
    from weigher.recordings.model import RecordingModel

    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    if model is None:
        diarizer = Diarizer(slots=8, device="cpu")
        diarizer.model_ = RecordingModel(diarizer.config.model).eval()
    else:
        diarizer = Diarizer.from_pretrained(model, device="cpu")
    body = diarizer.model_
    assert body is not None
    with tempfile.TemporaryDirectory() as folder:
        path, began = Path(folder) / "model.onnx", time.perf_counter()
        difference = diarizer.export_onnx(path)
        export_seconds, size = time.perf_counter() - began, path.stat().st_size
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    front = diarizer.config.model.front
    width = front.mels if front.kind == "log-mel" else front.features
    rows = []
    for seconds in QUICK[0] if quick else WINDOWS:
        for batch in QUICK[1] if quick else BATCHES:
            values = torch.randn(batch, round(seconds / body.step_seconds), width)
            lengths = torch.full((batch,), values.shape[1])
            given = {"features": values.numpy(), "lengths": lengths.numpy()}
            taken: dict[str, list[float]] = {"torch": [], "onnxruntime": []}
            for turn in range(rounds + 1):
                for name, seconds_taken in taken.items():
                    began = time.perf_counter()
                    if name == "torch":
                        with torch.inference_mode():
                            body(values, lengths)
                    else:
                        session.run(None, given)
                    if turn:  # the first of each lays out its memory
                        seconds_taken.append(time.perf_counter() - began)
            ours, theirs = (statistics.median(each) for each in taken.values())
            figures = {"torch_seconds": ours, "onnxruntime_seconds": theirs, "speed_over_torch": ours / theirs}
            rows.append({"window_seconds": seconds, "batch": batch, **figures})
    return {
        "hardware": hardware("cpu"),
        "onnxruntime": onnxruntime.__version__,
        "export_seconds": export_seconds,
        "megabytes": size / 1e6,
        "largest_difference": difference,
        "rows": rows,
    }


def show(result: dict[str, Any]) -> None:
    """Draw the rows."""
    from rich.console import Console
    from rich.table import Table

    drawn = Table(title="features to tracks: PyTorch and onnxruntime (medians)")
    for header in ("window", "batch", "PyTorch ms", "onnxruntime ms", "speed over PyTorch"):
        drawn.add_column(header, justify="right")
    for row in result["rows"]:
        times = (f"{1e3 * row[f'{name}_seconds']:.1f}" for name in ("torch", "onnxruntime"))
        drawn.add_row(f"{row['window_seconds']:g} s", str(row["batch"]), *times, f"{row['speed_over_torch']:.2f}")
    Console().print(drawn)
    told = f"{result['megabytes']:.1f} MB, exported in {result['export_seconds']:.1f} s"
    print(f"{told}; numbers differ by {result['largest_difference']:.1g} at most", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, help="folder of a trained model; the default model untrained if left out")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of both")
    parser.add_argument("--rounds", type=int, default=11, help="times each is measured")
    parser.add_argument("--quick", action="store_true", help="1 s, three rounds, to see that it runs")
    parser.add_argument("--note", default="", help="words kept with the figures, such as what else was running")
    parser.add_argument("--out", type=Path, help="file for the figures (JSON)")
    asked = parser.parse_args()
    result = measure(asked.model, asked.threads, 3 if asked.quick else asked.rounds, asked.quick)
    show(result)
    settings = {"model": "given" if asked.model else "default, not trained"}
    store(asked.out, {"benchmark": "onnx_runtime", "note": asked.note, "settings": settings, **result})


if __name__ == "__main__":
    main()

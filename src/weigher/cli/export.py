"""``weigher export``: write the part of a model from features to tracks as ONNX, to be run without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from weigher.cli import console


@dataclass(frozen=True)
class Options:
    """Write a model as one ONNX file, from features to tracks, embeddings and confidence (needs the [onnx] extra).

    The file is run on padded batches of several lengths before it is written: its numbers are the model's to 1e-4.
    """

    model: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MODEL")]
    """Model folder, as `weigher train` wrote it (RUN/model)."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """File to write, say model.onnx."""
    json: bool = False
    """Print one JSON object."""


def run(options: Options) -> int:
    """Export; RequestError for a model that cannot be exported."""
    from weigher.recordings.diarizer import Diarizer

    difference = Diarizer.from_pretrained(options.model, device="cpu").export_onnx(options.out)
    size = options.out.stat().st_size
    if options.json:
        console.print_json({"file": str(options.out), "bytes": size, "largest_difference": difference})
    else:
        print(f"{options.out}: {size / 1e6:.1f} MB; its numbers differ from the model's by {difference:.1g} at most")
    return 0

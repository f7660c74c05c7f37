"""The numbers of a run as JSON lines, one line a step and one a validation, and in TensorBoard on request.

    {"kind": "train", "step": 7, "seconds": 1.9, "learning_rate": 2.1e-05, "items_per_second": 310.2, "loss": 0.61, ...}
    {"kind": "validation", "step": 200, "seconds": 55.1, "score": 0.81, ...}

Numbers that are not finite stand as null, since JSON has no other word for them.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from weigher.errors import RequestError
from weigher.train.state import cannot_write

Record = dict[str, Any]


def read_metrics(path: Path) -> list[Record]:
    """Return the records of a metrics file in order; a line cut short by a kill is left out.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "metrics.jsonl"
    >>> _ = path.write_text('{"kind": "train", "step": 1}\\n{"kind": "tr')
    >>> read_metrics(path)
    [{'kind': 'train', 'step': 1}]
    """
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(json.JSONDecodeError):
            records.append(json.loads(line))
    return records


class Metrics:
    """The records of a run, in memory and, where a folder is given, in its `metrics.jsonl`.

    A resumed run takes over the records up to its last saved state: training steps up to `step`, validations up to
    `validated`. What was written after that state will be written again, with the same numbers.
    """

    def __init__(self, folder: Path | None, step: int = 0, validated: int = 0, *, tensorboard: bool = False):
        self.records: list[Record] = []
        self.path = None if folder is None else folder / "metrics.jsonl"
        self.file = None
        self.board = _board(folder, step) if tensorboard else None
        if self.path is None:
            return
        if step and self.path.is_file():
            last = {"train": step, "validation": validated}
            self.records = [record for record in read_metrics(self.path) if record["step"] <= last[record["kind"]]]
        partial = self.path.with_name(f".{self.path.name}.partial")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text("".join(map(_line, self.records)), encoding="utf-8")
            os.replace(partial, self.path)
            self.file = self.path.open("a", encoding="utf-8")
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def add(self, kind: str, step: int, numbers: Mapping[str, float]) -> None:
        """Keep one record; raises WeigherError when it cannot be written."""
        finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        record = {"kind": kind, "step": step, **finite}
        self.records.append(record)
        if self.file is not None and self.path is not None:
            try:
                self.file.write(_line(record))
                self.file.flush()
            except OSError as error:
                raise cannot_write(self.path, error) from error
        if self.board is not None:
            for name, value in numbers.items():
                self.board.add_scalar(f"{kind}/{name}", value, step)

    def sync(self) -> None:
        """Force the lines to disk, so that they are there when a state that counts on them is saved."""
        if self.file is not None and self.path is not None:
            try:
                os.fsync(self.file.fileno())
            except OSError as error:
                raise cannot_write(self.path, error) from error

    def close(self) -> None:
        """Close the files; a line that the disk had no room for has been reported already."""
        if self.file is not None:
            with suppress(OSError):
                self.file.close()
        if self.board is not None:
            self.board.close()


def _line(record: Record) -> str:
    return json.dumps(record, allow_nan=False) + "\n"


def _board(folder: Path | None, step: int) -> Any:
    if folder is None:
        raise RequestError("TensorBoard was asked for without a folder to write to; give the run a folder")
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise RequestError(
            "TensorBoard was asked for and is not installed; run `pip install 'weigher[log]'`, or leave it out: the "
            "same numbers are in metrics.jsonl"
        ) from error
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

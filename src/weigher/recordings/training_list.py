"""What a run was trained on, kept beside it: its recordings, who is said to be in each, and the names of its labels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weigher.errors import RequestError
from weigher.io.atomic import writing
from weigher.io.folders import read_json
from weigher.io.manifest import Recording

LIST = "list.json"


@dataclass(frozen=True)
class TrainingList:
    """Recordings and casts as training saw them; `labels[c]` is the name of label c; seconds of a recorded block."""

    recordings: tuple[Path, ...]
    casts: tuple[tuple[str, ...], ...]
    labels: tuple[str, ...]
    block_seconds: float

    @classmethod
    def of(cls, recordings: Sequence[Recording], labels: Sequence[str], block_seconds: float) -> TrainingList:
        """Take the rows of a manifest, with absolute paths."""
        paths = tuple(one.path.resolve() for one in recordings)
        return cls(paths, tuple(one.cast for one in recordings), tuple(labels), block_seconds)


def keep_list(run_dir: Path, told: TrainingList, *, resume: bool) -> None:
    """Keep the list in the folder of a run.

    Raises RequestError where a run is to be resumed with other casts than it began with; recordings may have moved.
    """
    if resume and (run_dir / LIST).is_file():
        before = read_list(run_dir)
        if (before.casts, before.labels) != (told.casts, told.labels):
            raise RequestError(
                f"{run_dir} began with {len(before.casts)} recordings of {len(before.labels)} names, and this list of "
                f"{len(told.casts)} recordings of {len(told.labels)} names is another one; resume with the same lists"
            )
    rows = [
        {"file_name": str(path), "speakers": list(cast)} for path, cast in zip(told.recordings, told.casts, strict=True)
    ]
    plain = {"labels": list(told.labels), "block_seconds": told.block_seconds, "recordings": rows}
    with writing(run_dir / LIST, "w") as file:
        json.dump(plain, file, indent=1)


def read_list(run_dir: Path) -> TrainingList:
    """Read the list of a run; RequestError where the folder holds none, or one that is damaged."""
    path = run_dir / LIST
    if not path.is_file():
        raise RequestError(f"{run_dir} is no run of this version of `weigher train`: it holds no {LIST}; give RUN")
    plain: Any = read_json(path)
    try:
        return TrainingList(
            recordings=tuple(Path(row["file_name"]) for row in plain["recordings"]),
            casts=tuple(tuple(map(str, row["speakers"])) for row in plain["recordings"]),
            labels=tuple(map(str, plain["labels"])),
            block_seconds=float(plain["block_seconds"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(f"{path} is damaged ({error!r}); `weigher train --resume` writes it anew") from error

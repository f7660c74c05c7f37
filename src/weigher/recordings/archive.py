"""An archive in memory: recordings and casts, and the batches of training: crops, and conversations made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from weigher.errors import RequestError
from weigher.recordings.model import ModelConfig, RecordingModel
from weigher.recordings.recompose import Recomposer


@dataclass(frozen=True, eq=False)
class Archive:
    """Recordings in memory: values (arrays [t, f] or [samples]), casts as label numbers, and the labels' names.

    `times[i]`, where known: bool [t', m], who of the cast speaks in each of the recording's t' encoder frames.
    `quiet[i]`, where found: bool [t'], which of those frames lie in a quiet stretch.
    """

    values: Sequence[np.ndarray]
    casts: Sequence[Sequence[int]]
    labels: tuple[str, ...]
    times: Sequence[np.ndarray] | None = None
    quiet: Sequence[np.ndarray] | None = None

    def cast_table(self) -> Tensor:
        """Casts as int [r, m], -1 where a cast is shorter."""
        table = torch.full((len(self.casts), max(map(len, self.casts))), -1)
        for row, cast in zip(table, self.casts, strict=True):
            row[: len(cast)] = torch.tensor(cast)
        return table


def check_archive(archive: Archive, config: ModelConfig) -> None:
    """Raise RequestError for an archive from which nothing can be learned, or with a cast larger than the slots."""
    if len(archive.labels) < 2:
        raise RequestError(
            f"the casts hold {len(archive.labels)} name; at least 2 people are needed to learn what tells people apart"
        )
    largest = max(map(len, archive.casts))
    if largest > config.weigher.slots:
        raise RequestError(f"a cast holds {largest} people and the model has {config.weigher.slots} slots; raise slots")


def hide_bands(values: np.ndarray, most: float, generator: np.random.Generator) -> None:
    """Hide neighbouring bands of each recording in place, up to a share `most` of them: values [b, t, f].

    What is hidden is constant, and nothing is left of it where the mean over time is removed. Training that never hears
    all of a voice has to know it by more than one trait. Source: SpecAugment (Park et al. 2019, arXiv 1904.08779).

    >>> values = np.ones((1, 3, 40))
    >>> hide_bands(values, 0.5, np.random.default_rng(0))
    >>> int((values == 0).all(axis=(0, 1)).sum()), int(values.min(axis=2).sum())
    (6, 0)
    """
    bands = values.shape[2]
    for row in values:
        first = int(generator.integers(bands))
        row[:, first : first + int(generator.integers(int(most * bands) + 1))] = 0.0


def crops(
    model: RecordingModel,
    archive: Archive,
    cast: Tensor,
    generator: np.random.Generator,
    *,
    count: int,
    steps: int,
    hidden: float = 0.0,
) -> dict[str, Tensor]:
    """Draw crops of `steps` values from recordings (whole ones where they are shorter).

    A recording is drawn in inverse proportion to the size of its cast, for the fewer people there are, the more a cast
    tells. `hidden` is the largest share of bands that a crop may lack (`hide_bands`; log-power only). "recording" and
    "begin" of a crop are the recording it was drawn from, and the first of its encoder frames.
    """
    telling = 1 / (cast >= 0).sum(1).clamp(min=1).double().numpy()
    chosen = generator.choice(len(telling), count, p=telling / telling.sum())
    per_frame = round(model.hop_seconds / model.step_seconds)
    first = archive.values[0]
    values = np.zeros((count, steps, *first.shape[1:]), np.float32)
    lengths = np.zeros(count, np.int64)
    begins = np.zeros(count, np.int64)
    frames = -(-steps // per_frame)
    known = {}
    if archive.times is not None:
        known["times"] = archive.times, np.zeros((count, frames, cast.shape[1]), bool)
    if archive.quiet is not None:
        known["quiet"] = archive.quiet, np.zeros((count, frames), bool)
    for row, index in enumerate(chosen):
        whole = archive.values[index]
        begin = int(generator.integers(0, max(1, len(whole) - steps + 1))) // per_frame * per_frame
        piece = whole[begin : begin + steps]
        values[row, : len(piece)], lengths[row], begins[row] = piece, len(piece), begin // per_frame
        for all_of_it, part in known.values():
            told = all_of_it[index][begin // per_frame :][:frames]
            part[row, : len(told)][..., : told.shape[-1]] = told
    if model.mix == "log-power":
        hide_bands(values, hidden, generator)
    batch = {"values": torch.from_numpy(values), "lengths": torch.from_numpy(lengths), "cast": cast[chosen]}
    batch |= {"recording": torch.from_numpy(chosen), "begin": torch.from_numpy(begins)}
    return batch | {name: torch.from_numpy(part) for name, (_, part) in known.items()}


def conversations(
    recomposer: Recomposer, count: int, model: RecordingModel, generator: np.random.Generator, *, hidden: float = 0.0
) -> dict[str, Tensor]:
    """Make a batch: values, lengths, activity float [b, t, m] on the encoder's frames, labels int [b, m] (-1: none)."""
    made = [recomposer.conversation(generator) for _ in range(count)]
    most = max(len(people) for _, _, people in made)
    grid = max(model.step_seconds, 0.01)
    frames = int(len(made[0][1]) * grid / model.hop_seconds)
    middle = ((np.arange(frames) + 0.5) * model.hop_seconds / grid).astype(int)
    activity = np.zeros((count, frames, most), np.float32)
    labels = np.full((count, most), -1)
    for row, (_, active, people) in enumerate(made):
        activity[row, :, : len(people)] = active[middle]
        labels[row, : len(people)] = people
    # someone whose turns fell outside is not there
    labels[activity.sum(1) == 0] = -1
    values = np.stack([values for values, _, _ in made]).astype(np.float32)
    if model.mix == "log-power":
        hide_bands(values, hidden, generator)
    return {
        "values": torch.from_numpy(values),
        "lengths": torch.full((count,), values.shape[1]),
        "activity": torch.from_numpy(activity),
        "labels": torch.from_numpy(labels),
    }

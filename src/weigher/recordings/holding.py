"""What training holds as it is: a frozen encoder, and the rows of names that no recording of the archive has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn

from weigher.recordings.archive import Archive
from weigher.recordings.model import LabelHead, RecordingModel

Frozen = Literal["nothing", "encoder"]


@contextmanager
def holding(
    model: RecordingModel, head: LabelHead, archive: Archive, frozen: Frozen
) -> Iterator[Callable[[int, nn.Module], None]]:
    """Hold what is frozen, and the directions of names without recordings, while the context lasts.

    Gives what is to be called before each step (`on_step` of `weigher.train.fit`): a frozen encoder hears as it does
    when it is applied, for the statistics of its normalisation would drift, too.
    """
    parts = [part for part in (model.encoder, model.wavlm) if part is not None and frozen == "encoder"]
    learned = [each for part in parts for each in part.parameters() if each.requires_grad]
    unheard = torch.ones(len(archive.labels), dtype=torch.bool)
    unheard[sorted({label for cast in archive.casts for label in cast})] = False
    hook = head.vectors.register_hook(lambda slope: slope.masked_fill(unheard.to(slope.device)[:, None], 0.0))
    for each in learned:
        each.requires_grad_(False)

    def in_place(k: int, module: nn.Module) -> None:
        for part in parts:
            part.eval()

    try:
        yield in_place
    finally:
        hook.remove()
        for each in learned:
            each.requires_grad_(True)

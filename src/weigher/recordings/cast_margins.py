"""Margins of casts, recorded while the labels are told apart: how clearly each name is heard in each half second.

    m_tk = z_tk - max_{j != k} z_tj                     margin of name k in frame t
    A_bk = mean of m_tk over block b and over training  the block's area under the margin
    A_ik = max over the blocks b of recording i         somewhere in it, k is heard more clearly than anyone else

An area under the margin (Pleiss et al. 2020, arXiv 2001.10528) adapted to lists of names: the example is a block of a
recording, any of the names may be its label, and a cast claims that each of its names has a block and that nobody else
has one. A listed name with a low A is likely not there, an unlisted one with a high A likely missing. A block that was
heard only once tells nothing. No logit is computed for this: they are those of training. While the teacher's evidence
is still being brought in, all names of a cast are treated alike, and nothing is recorded.

To learn how low is low, some casts are given one name of somebody else (`plant`): never there, and treated in training
like any name of a cast.

Symbols: r recordings, b blocks, c labels, m names of a cast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from weigher.core.margins import every_label_margin
from weigher.core.records import Records
from weigher.errors import RequestError
from weigher.recordings.archive import Archive
from weigher.recordings.model import RecordingModel
from weigher.train.distribution import gather

BLOCK_SECONDS = 0.5
_LEAST = 2  # measurements of a block; among many blocks some single one always stands out by chance
_MOST_NUMBERS = 2**24  # 128 MiB of sums, in memory and in every saved state; beyond, listed names alone are recorded


def plant(casts: Sequence[Sequence[int]], share: float, seed: int) -> np.ndarray:
    """Choose names to plant: for that share of the recordings one that some other recording lists, int [r], else -1.

    Raises RequestError for a share that is not from 0 to 1.

    >>> plant([[0, 1], [2], [1, 2], [0]], 0.5, seed=0).tolist()
    [2, -1, -1, 2]
    """
    if not 0 <= share <= 1:
        raise RequestError(f"planted = {share}; needed is a share of the recordings, from 0 to 1")
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0x706C616E,)))
    people = np.unique([name for cast in casts for name in cast])
    planted = np.full(len(casts), -1)
    for index in rng.permutation(len(casts))[: round(share * len(casts))]:
        others = np.setdiff1d(people, casts[index])
        if len(others):
            planted[index] = rng.choice(others)
    return planted


def with_planted(archive: Archive, planted: np.ndarray) -> Tensor:
    """Casts as int [r, m], planted names last, -1 where there is none."""
    table = archive.cast_table()
    added = torch.from_numpy(planted)[:, None]
    return torch.cat([table, added], 1) if (planted >= 0).any() else table


@dataclass(frozen=True, eq=False)
class Heard:
    """What was recorded: the areas under the margin of k names of each recording, and what was planted.

    names int [r, k] (-1: none), all labels or, of a large archive, those that were listed; best [r, k], -inf where
    nothing was recorded; blocks: one array [b, k] for each recording, NaN where unheard; planted int [r], -1: nothing;
    every_name: that k goes over all labels.
    """

    names: np.ndarray
    best: np.ndarray
    blocks: list[np.ndarray]
    planted: np.ndarray
    every_name: bool


class CastMargins(nn.Module):
    """Records margins of blocks of `block_frames` frames of recordings that have `frames[i]` of them.

    A module, so that it is saved with the run and resumed; every worker holds what all of them saw.
    """

    casts: Tensor
    planted: Tensor
    first: Tensor

    def __init__(
        self, frames: Sequence[int], casts: Tensor, planted: np.ndarray, labels: int, *, block_frames: int
    ) -> None:
        super().__init__()
        self.block_frames = block_frames
        blocks = -(-torch.as_tensor(frames) // block_frames)
        self.register_buffer("first", torch.cat([torch.zeros(1, dtype=torch.int64), blocks.cumsum(0)]))
        self.register_buffer("casts", casts.clone())
        self.register_buffer("planted", torch.from_numpy(planted))
        total = int(self.first[-1])
        self.labels, self.every_name = labels, total * labels <= _MOST_NUMBERS
        self.records = Records(total, labels if self.every_name else casts.shape[1])

    @torch.no_grad()
    def add(self, recordings: Tensor, begins: Tensor, logits: Tensor, heard: Tensor) -> None:
        """Record crops: recordings int [n], first frames int [n], logits [n, t, c], what is no quiet bool [n, t].

        A block of which a crop holds less than half is left out.
        """
        n, t, c = logits.shape
        begin, end = self.first[recordings][:, None], self.first[recordings + 1][:, None]
        block = (begins[:, None] + torch.arange(t, device=logits.device)) // self.block_frames
        block = torch.minimum(block, end - begin - 1)  # rounding may leave a frame behind the end
        local = block - block[:, :1] + torch.arange(n, device=logits.device)[:, None] * (t // self.block_frames + 2)
        rows = n * (t // self.block_frames + 2)
        margins = every_label_margin(logits.float()) * heard[..., None]
        sums = margins.new_zeros(rows, c).index_add_(0, local.flatten(), margins.flatten(0, 1))
        count = margins.new_zeros(rows).index_add_(0, local.flatten(), heard.flatten().to(margins))
        ids = (begin + block).flatten()
        of_row = torch.zeros(rows, dtype=torch.int64, device=ids.device).scatter_(0, local.flatten(), ids)
        kept = count >= self.block_frames / 2
        means = sums[kept] / count[kept, None]
        if not self.every_name:
            owner = torch.arange(n, device=ids.device).repeat_interleave(rows // n)[kept]
            means = means.gather(1, self.casts[recordings][owner].clamp(min=0))
        self.records.add(gather(of_row[kept]), gather(means))

    def heard(self) -> Heard:
        """Return what was recorded."""
        return heard_in({name: value.cpu() for name, value in self.state_dict().items()}, self.labels)


def recorder(model: RecordingModel, archive: Archive, casts: Tensor, planted: np.ndarray) -> CastMargins:
    """Make the records of an archive, for casts as training is told them."""
    per_frame = round(model.hop_seconds / model.step_seconds)
    frames = [-(-len(values) // per_frame) for values in archive.values]
    return CastMargins(frames, casts, planted, len(archive.labels), block_frames=block_frames(model.hop_seconds))


def block_frames(hop_seconds: float) -> int:
    """Return how many frames make a block.

    >>> block_frames(0.04)
    12
    """
    return max(1, round(BLOCK_SECONDS / hop_seconds))


def heard_in(state: dict[str, Tensor], labels: int) -> Heard:
    """Read what was recorded from the state of a `CastMargins` of so many labels, such as one saved with a run."""
    first, planted, casts = (state[name].numpy() for name in ("first", "planted", "casts"))
    records = Records(*state["records.sum"].shape)
    records.load_state_dict({name: state[f"records.{name}"] for name in ("sum", "count")})
    mean = records.mean().masked_fill((records.count < _LEAST)[:, None], torch.nan).numpy()
    every_name = len(mean) * labels <= _MOST_NUMBERS
    names = np.broadcast_to(np.arange(labels), (len(planted), labels)) if every_name else casts
    best = np.maximum.reduceat(np.where(np.isnan(mean), -np.inf, mean), first[:-1], axis=0)
    return Heard(names, best, np.split(mean, first[1:-1]), planted, every_name)

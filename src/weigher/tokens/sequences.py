"""Many sequences of different lengths without padding, and the batches that keep padding small.

A corpus is one flat array of tokens with the places where each sequence begins. A batch holds sequences of like length,
is padded to its own longest only, and never holds more than so many places, padding included: one very long text cannot
make its batch explode.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_POOL = 50  # batches that are sorted by length together: less padding, and still other neighbours every epoch


@dataclass(frozen=True, eq=False)
class Sequences:
    """Sequence i is `tokens[offsets[i] : offsets[i + 1]]`.

    >>> corpus = Sequences.of([[3, 1], [], [2]])
    >>> len(corpus), corpus[0].tolist(), corpus.lengths.tolist()
    (3, [3, 1], [2, 0, 1])
    """

    tokens: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, sequences: Iterable[Sequence[int] | np.ndarray]) -> Sequences:
        """Join sequences of whole numbers."""
        parts = [np.asarray(sequence, np.int64) for sequence in sequences]
        offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts], dtype=np.int64)])
        return cls(np.concatenate([*parts, np.zeros(0, np.int64)]), offsets.astype(np.int64))

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sequence, int64 `[n]`."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]

    def padded(self, rows: np.ndarray, most: int | None = None) -> tuple[Tensor, Tensor]:
        """Return some sequences, each up to `most` tokens, as ids `[b, t]`, padded with 0, and lengths `[b]`.

        >>> ids, lengths = Sequences.of([[3, 1], [], [2]]).padded(np.array([0, 2]))
        >>> ids.tolist(), lengths.tolist()
        ([[3, 1], [2, 0]], [2, 1])
        """
        lengths = self.lengths[rows] if most is None else np.minimum(self.lengths[rows], most)
        places = np.arange(max(1, lengths.max(initial=0)))
        real = places < lengths[:, None]
        ids = np.zeros(real.shape, np.int64)
        ids[real] = self.tokens[(self.offsets[rows][:, None] + places)[real]]
        return torch.from_numpy(ids), torch.from_numpy(lengths)


def plan_batches(
    lengths: np.ndarray, size: int, most_places: int, rng: np.random.Generator | None = None
) -> list[np.ndarray]:
    """Split rows into batches of like length: up to `size` rows, and up to `most_places` places with padding.

    With a generator, rows are shuffled, sorted by length among some thousands, and the batches shuffled. Without one,
    all are sorted. Every row is in one batch; a row longer than `most_places` is a batch of its own.

    >>> [batch.tolist() for batch in plan_batches(np.array([1, 9, 2, 2]), size=3, most_places=8)]
    [[0, 2, 3], [1]]
    """
    rows = np.arange(len(lengths)) if rng is None else rng.permutation(len(lengths))
    pool = max(1, len(rows) if rng is None else _POOL * size)
    batches: list[np.ndarray] = []
    for begin in range(0, len(rows), pool):
        order = rows[begin : begin + pool]
        order = order[np.argsort(lengths[order], kind="stable")]
        first = 0
        for last in range(1, len(order) + 1):
            full = last == len(order) or last - first == size
            if full or (last - first + 1) * lengths[order[last]] > most_places:
                batches.append(order[first:last])
                first = last
    return batches if rng is None else [batches[place] for place in rng.permutation(len(batches))]

"""Generators that share a seed and draw nothing alike."""

from __future__ import annotations

import zlib

import numpy as np
import torch


def generator_for(purpose: str, seed: int) -> torch.Generator:
    """Return a generator on the CPU for one purpose and a seed of 0 or more.

    Whoever draws a permutation with `torch.Generator().manual_seed(seed)` for two purposes draws the same one twice:
    the examples that one of them chooses are then the first that the other one shows.

    >>> order, choice = (torch.randperm(4, generator=generator_for(purpose, 0)) for purpose in ("order", "choice"))
    >>> order.tolist() == choice.tolist(), torch.equal(order, torch.randperm(4, generator=generator_for("order", 0)))
    (False, True)
    """
    words = np.random.SeedSequence([seed, zlib.crc32(purpose.encode())]).generate_state(2)
    return torch.Generator().manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)

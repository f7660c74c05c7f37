"""Pooling by learned queries: a sentence of any length becomes a few vectors, one for each question asked of it.

    m_n = sum_t p_tn v_t,    p_tn = softmax_t(u_n . k_t / sqrt(d))

    u     queries, learned, the same for every text     [n, d]
    k, v  keys and values, W_k x_t and W_v x_t          [b, t, d]
    m     what the text answers to each query           [b, n, d]

This is cross-attention whose queries are parameters. The exercise has n = 4: four vectors of one sentence, one for each
quadrant of a sheet of paper. It needs no recurrence, and every word is one step away from every answer.

Source: the same exercise; Lee et al. 2019, "Set transformer", arXiv 1810.00825 (pooling by attention).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from weigher.core.pooling import attention_pool


class QueryPool(nn.Module):
    """Cross-attention with `queries` learned queries: x `[b, t, e]`, mask `[b, t]` -> `[b, queries, e]`.

    A row without tokens gives zeros.

    >>> QueryPool(6, queries=4)(torch.randn(2, 9, 6)).shape
    torch.Size([2, 4, 6])
    """

    def __init__(self, embedding: int, queries: int = 4) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(queries, embedding))
        self.keys = nn.Linear(embedding, embedding, bias=False)
        self.values = nn.Linear(embedding, embedding, bias=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return one vector for each query."""
        scores = self.keys(x) @ self.queries.T * x.shape[-1] ** -0.5  # [b, t, n]
        return attention_pool(self.values(x), scores, mask)

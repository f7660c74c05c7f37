"""Pooling by learned queries: PyTorch's attention gives the same, and the laws hold."""

import torch
import torch.nn.functional as F

from contract import Subject, check_laws
from weigher.tokens.query_pool import QueryPool


def tiny():
    torch.manual_seed(0)
    return QueryPool(6, queries=4).double()


def test_four_queries_make_four_vectors_of_a_sentence_as_cross_attention_does():
    pool, x = tiny(), torch.randn(2, 9, 6, dtype=torch.float64)
    mask = torch.arange(9) < torch.tensor([[9], [4]])
    queries = pool.queries.expand(2, 4, 6)
    expected = F.scaled_dot_product_attention(queries, pool.keys(x), pool.values(x), attn_mask=mask[:, None])
    assert torch.allclose(pool(x, mask), expected)
    assert pool(x).shape == (2, 4, 6)
    assert torch.linalg.matrix_rank(pool(x)[0]) == 4  # the queries ask different things


def test_laws():
    pool = tiny()
    low = QueryPool(6, queries=4).bfloat16()
    check_laws(
        Subject(
            name="query pool",
            call=lambda x, weight=None: (low if x.dtype == torch.bfloat16 else pool)(x, weight),
            inputs=lambda b, t, g: (torch.randn(b, t, 6, dtype=torch.float64, generator=g),),
            weights="mask",
        )
    )

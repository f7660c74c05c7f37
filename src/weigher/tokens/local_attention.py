"""Windowed self-attention: every token looks at the `window` tokens around it, at a cost of O(t * window).

    o_i = sum_j p_ij v_j,    p_ij = softmax_j(q_i . k_j / sqrt(d) + a_{j-i}),    |j - i| <= r,    window = 2 r + 1

    q, k, v   queries, keys, values       [b, h, t, d], h heads
    a         learned bias of a distance  [h, window]: attention alone does not know what comes before what

The queries are cut into blocks of B = max(16, 2 r). A block is multiplied by its own keys and r more on either side, so
that t (B + 2 r) scores are held where full attention holds t^2. Where no gradient is needed, PyTorch's fused attention
works on the blocks, 1.0 to 1.7 times as fast on one core. Training multiplies matrices, because the bias needs its
gradient, which the fused kernel of the CPU does not give: asked for it, PyTorch multiplies matrices there, too, 0.9 to
1.4 times as fast as `by_products` (`benchmarks/windowed_attention.py`, both kept results).

Source: Beltagy, Peters, Cohan 2020, arXiv 2004.05150 (sliding window); Shaw, Uszkoreit, Vaswani 2018, arXiv 1803.02155
(relative positions; here one number for each head and distance, as Raffel et al. 2020, arXiv 1910.10683).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weigher.errors import RequestError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

_PREFERENCE = 3.0  # e^3 : 1, so that a head in a window of 5 begins with five sixths of its weight in one place
_LEAST_BLOCK = 16  # queries: smaller products are slower than the scores that they would save


def window_radius(window: int) -> int:
    """Return how far a token sees to either side; RequestError for a window that has no middle.

    >>> window_radius(5)
    2
    """
    if window < 1 or window % 2 == 0:
        raise RequestError(f"window = {window}; attention needs an odd number of tokens, the middle one and its sides")
    return window // 2


def check_heads(embedding: int, heads: int) -> None:
    """Raise RequestError where the channels of a word vector cannot be dealt out to the heads evenly."""
    if embedding % heads:
        raise RequestError(f"{heads} heads do not divide {embedding} channels evenly; change one of the two")


def windowed_attention(
    q: Float[Tensor, "b h t d"],
    k: Float[Tensor, "b h t d"],
    v: Float[Tensor, "b h t d"],
    window: int,
    *,
    bias: Float[Tensor, "h window"] | None = None,
    mask: Bool[Tensor, "b t"] | None = None,
) -> Float[Tensor, "b h t d"]:
    """Attend to the `window` tokens around each token, among those that `mask` counts.

    The formula stands in the header. Shapes: q, k, v `[b, h, t, d]`, bias `[h, window]` (real; the middle column is the
    token itself), mask `[b, t]` -> `[b, h, t, d]`. Nobody looks at a masked token, and it gives 0, whatever it holds.
    Raises RequestError for an even window.

    >>> x = torch.tensor([1.0, 3.0, 8.0]).view(1, 1, 3, 1)
    >>> windowed_attention(torch.zeros_like(x), x, x, window=3).flatten().tolist()
    [2.0, 4.0, 5.5]
    """
    given = (q, k, v) if bias is None else (q, k, v, bias)
    needs_gradient = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)
    return attention_in_blocks(q, k, v, window, by_products if needs_gradient else by_fused, bias=bias, mask=mask)


Attend = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""Queries [b, h, n, B, d], keys and values [b, h, n, d, B + 2 r], who sees whom [b, 1, n, B, B + 2 r], bias of these
places [h, B, B + 2 r] or None -> [b, h, n, B, d], n blocks."""


def attention_in_blocks(
    q: Float[Tensor, "b h t d"],
    k: Float[Tensor, "b h t d"],
    v: Float[Tensor, "b h t d"],
    window: int,
    attend: Attend,
    *,
    bias: Float[Tensor, "h window"] | None = None,
    mask: Bool[Tensor, "b t"] | None = None,
) -> Float[Tensor, "b h t d"]:
    """Return what `windowed_attention` returns, by one of the two ways to it (`by_products`, `by_fused`).

    >>> x = torch.randn(1, 2, 40, 4)
    >>> ways = [attention_in_blocks(x, x, x, 5, attend) for attend in (by_products, by_fused)]
    >>> torch.allclose(*ways, atol=1e-6)
    True
    """
    radius, t = window_radius(window), q.shape[2]
    size = max(_LEAST_BLOCK, 2 * radius)
    count = max(1, -(-t // size))
    fill = count * size - t
    if mask is None:
        mask = q.new_ones(q.shape[0], t, dtype=torch.bool)
    real = mask[:, None, :, None]
    q, k, v = (torch.where(real, x, 0) for x in (q, k, v))

    queries = F.pad(q, (0, 0, 0, fill)).unflatten(2, (count, size))  # [b, h, count, size, d]
    around = (radius, radius + fill)
    keys, values = (F.pad(x, (0, 0, *around)).unfold(2, size + 2 * radius, size) for x in (k, v))
    looked_at = F.pad(mask, around).unfold(1, size + 2 * radius, size)  # [b, count, size + 2 radius]

    rows, columns = torch.arange(size, device=q.device), torch.arange(size + 2 * radius, device=q.device)
    place = columns - rows[:, None]  # of a key in the window of a query: 0 ... 2 radius
    inside = (place >= 0) & (place < window)
    # a padded query sees itself, so that no softmax is without a term
    seen = inside & (looked_at[:, None, :, None] | (place == radius))
    added = None if bias is None else bias[:, place.clamp(0, window - 1)]
    found = attend(queries, keys, values, seen, added)
    return torch.where(real, found.flatten(2, 3)[:, :, :t], 0)


def by_products(queries: Tensor, keys: Tensor, values: Tensor, seen: Tensor, added: Tensor | None) -> Tensor:
    """Attend within blocks (`Attend`) by matrix products, which give every gradient."""
    scores = queries @ keys * queries.shape[-1] ** -0.5  # [b, h, n, B, B + 2 r]
    if added is not None:
        scores = scores + added[:, None]
    return scores.masked_fill(~seen, -torch.inf).softmax(-1) @ values.mT


def by_fused(queries: Tensor, keys: Tensor, values: Tensor, seen: Tensor, added: Tensor | None) -> Tensor:
    """Attend within blocks (`Attend`) by PyTorch's fused attention, which takes the n blocks for heads."""
    q, k, v = (x.flatten(0, 1) for x in (queries, keys.mT, values.mT))  # [b h, n, ., d], views: nothing is copied
    if added is not None:
        seen = torch.where(seen, added[:, None].to(q.dtype), -torch.inf)
    looked_at = seen.expand(*queries.shape[:2], -1, -1, -1).flatten(0, 1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=looked_at).unflatten(0, queries.shape[:2])


def first_bias(heads: int, window: int) -> Float[Tensor, "h window"]:
    """Return biases under which each head begins with one place of the window, from the middle outwards.

    Heads that all begin with the mean of their window have to find out by themselves that places differ, and on film
    reviews they hardly do. More heads than places: the others begin without a preference.

    >>> first_bias(3, 5).argmax(1).tolist()
    [2, 1, 3]
    """
    bias = torch.zeros(heads, window)
    for head in range(min(heads, window)):
        outwards = (head + 1) // 2
        bias[head, window // 2 + (-outwards if head % 2 else outwards)] = _PREFERENCE
    return bias


class LocalAttention(nn.Module):
    """A token and what it finds around it: x + dropout(W_o attention(W_q x, W_k x, W_v x)), with several heads.

    The skip connection keeps the word itself, and its gradient. Shapes: x `[b, t, e]`, mask `[b, t]` -> `[b, t, e]`.
    Raises RequestError where the heads do not divide e.

    >>> LocalAttention(8, window=5, heads=2)(torch.randn(3, 7, 8)).shape
    torch.Size([3, 7, 8])
    """

    def __init__(self, embedding: int, window: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        window_radius(window)
        check_heads(embedding, heads)
        self.window, self.heads = window, heads
        self.project = nn.Linear(embedding, 3 * embedding)
        self.out = nn.Linear(embedding, embedding)
        self.dropout = nn.Dropout(dropout)
        self.bias = nn.Parameter(first_bias(heads, window))
        # at torch's default scale neighbours are so faint beside the word itself that "not good" is hardly ever learned
        for matrix in (*self.project.weight.split(embedding), self.out.weight):
            nn.init.xavier_uniform_(matrix)
        for layer in (self.project, self.out):
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the tokens in their surroundings."""
        q, k, v = self.project(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [b, h, t, d] each
        found = windowed_attention(q, k, v, self.window, bias=self.bias, mask=mask)
        return x + self.dropout(self.out(found.transpose(1, 2).flatten(2)))

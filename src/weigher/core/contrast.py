"""Contrastive losses of pairs, none of them reduced, in memory that grows with the rows and not with their square.

Which one when
    info_nce            one direction: queries against keys, such as those of a slow encoder, and a queue of older ones
    symmetric_info_nce  two views, each row against the other view alone, both ways (CLIP, ReLIC)
    nt_xent             two views, each row against all others of both views (SimCLR, SeqCLR)

Row i of the one view and row i of the other are a pair. Rows are used as they are: pass them through `unit` for cosine
similarity. `weight` `[..., m]` says how often a pair counts among the keys: 0 removes it, 2 is two copies of it, where
a row's own copies beyond the first are negatives like any other. Average what is returned with
`weigher.core.losses.weighted_reduce` under the same weight.

Under several workers a loss is called with the rows of one as queries, those of all as keys, and `offset`, the place of
the first query among the keys; nothing here knows of processes.

Similarities live in blocks of `block x block`; the way back makes them anew, so that memory grows with n + m and the
work is that of four products instead of three.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch.autograd.function import once_differentiable

from weigher.core.weights import apply_weight, safe_ratio, widen
from weigher.errors import RequestError

if TYPE_CHECKING:
    from jaxtyping import Float, Real
    from torch import Tensor

BLOCK = 1024  # a block of single precision then fits the cache of a core
HIGHEST = 60.0  # exponents of a removed key's gradient: it may lie far above all that count

Place = tuple[slice, slice]
"""Which queries and which keys a block holds."""


def unit(x: Float[Tensor, "*s e"], *, weight: Real[Tensor, "*s"] | None = None) -> Float[Tensor, "*s e"]:
    """Scale rows to length 1; a row of zeros stays as it is, with gradient 0.

        u = x / ||x||_2

    A row that holds NaN or infinity becomes NaN. Rows of weight 0, such as padding, may hold anything: what is not
    finite becomes 0.

    Shapes: x `[..., e]`, weight `[...]` -> `[..., e]`, half precision as float32.

    >>> unit(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    wide = widen(_counted(x, weight)[0])
    length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    wrong = ~length.isfinite() if weight is None else ~length.isfinite() & (weight[..., None] > 0)
    return torch.where(wrong, torch.nan, safe_ratio(wide, length))


def log_sum_exp(
    queries: Float[Tensor, "*s n e"],
    keys: Float[Tensor, "*s m e"],
    *,
    weight: Real[Tensor, "*s m"] | None = None,
    own: int | None = None,
    block: int = BLOCK,
) -> Float[Tensor, "*s n"]:
    """Return the logarithm of each query's sum over all keys, without ever holding all n x m similarities.

        L_i = log sum_j c_ij exp(q_i . k_j),   c_ij = w_j, but max(w_j - 1, 0) for j = own + i

    With `own` the queries are keys `own`, `own + 1`, ... themselves, and one copy of each does not meet itself. The
    gradient reaches queries, keys and weight, once (there is no second derivative).

    Shapes: queries `[..., n, e]`, keys `[..., m, e]`, weight `[..., m]` in [0, inf) -> `[..., n]`; -inf, with gradient
    0, where nothing is left to sum. Memory: O((n + m) e + block^2) for each of the leading axes.
    Raises: RequestError where the shapes do not fit.

    >>> log_sum_exp(torch.zeros(2, 3), torch.ones(4, 3)).exp()
    tensor([4., 4.])
    >>> log_sum_exp(torch.zeros(2, 3), torch.zeros(2, 3), own=0).exp()
    tensor([1., 1.])
    """
    if queries.shape[-1] != keys.shape[-1] or queries.shape[:-2] != keys.shape[:-2]:
        raise RequestError(
            f"queries of shape {list(queries.shape)} and keys of shape {list(keys.shape)}: all axes but the last but "
            "one must agree"
        )
    if own is not None and not 0 <= own <= keys.shape[-2] - queries.shape[-2]:
        raise RequestError(
            f"{queries.shape[-2]} queries are said to be keys {own} and following, and there are {keys.shape[-2]} keys"
        )
    if weight is not None and weight.shape != keys.shape[:-1]:
        raise RequestError(f"weight of shape {list(weight.shape)} for keys of shape {list(keys.shape)}: one per key")
    keys, weight = _counted(keys, weight)
    queries, keys = (widen(x) for x in (queries, keys))
    common = torch.promote_types(queries.dtype, keys.dtype)
    return cast("Tensor", _BlockLogSumExp.apply(queries.to(common), keys.to(common), weight, (own, block)))


def info_nce(
    queries: Float[Tensor, "*s n e"],
    keys: Float[Tensor, "*s m e"],
    *,
    temperature: float | Float[Tensor, ""] = 0.1,
    weight: Real[Tensor, "*s m"] | None = None,
    negatives: Float[Tensor, "*s k e"] | None = None,
    offset: int = 0,
    block: int = BLOCK,
) -> Float[Tensor, "*s n"]:
    """Return how surprising each query's own key is among all keys and further negatives.

        l_i = -q_i . k_i / tau + log( sum_j w_j exp(q_i . k_j / tau) + sum_r exp(q_i . n_r / tau) )

    k_i is key `offset + i`. Queue and keys of a slow encoder are passed detached.

    Shapes: queries `[..., n, e]`, keys `[..., m, e]`, m >= n + offset, weight `[..., m]`, negatives `[..., k, e]` ->
    `[..., n]`, in [0, inf), up to rounding, for weights of at least 1. Range: temperature in (0, inf), a tensor where
    it is learned. One pair without negatives gives 0; so do rows (of the leading axes) without any weight.
    Raises: RequestError for a temperature out of range, or shapes that do not fit.
    Source: van den Oord, Li, Vinyals 2018, arXiv 1807.03748; the queue: He et al. 2020, arXiv 1911.05722.

    >>> info_nce(torch.eye(3), torch.eye(3), temperature=1.0)
    tensor([0.5514, 0.5514, 0.5514])
    """
    settings = _Settings(temperature, weight, negatives, offset, block)
    return _losses(queries, keys, None, settings)


def symmetric_info_nce(
    first: Float[Tensor, "*s n e"],
    second: Float[Tensor, "*s n e"],
    *,
    everyone: tuple[Float[Tensor, "*s m e"], Float[Tensor, "*s m e"]] | None = None,
    temperature: float | Float[Tensor, ""] = 0.1,
    weight: Real[Tensor, "*s m"] | None = None,
    negatives: Float[Tensor, "*s k e"] | None = None,
    offset: int = 0,
    block: int = BLOCK,
) -> Float[Tensor, "*s n"]:
    """Return the mean of `info_nce` from the first view to the second and from the second to the first, for each pair.

    Shapes, ranges, errors as in `info_nce`. `everyone` holds both views of all workers; left out, there is but one.
    Source: Radford et al. 2021, arXiv 2103.00020; Mitrovic et al. 2021, arXiv 2010.07922.

    >>> symmetric_info_nce(torch.eye(2), torch.eye(2), temperature=0.5)
    tensor([0.1269, 0.1269])
    """
    all_first, all_second = everyone or (first, second)
    settings = _Settings(temperature, weight, negatives, offset, block)
    return (_losses(first, all_second, None, settings) + _losses(second, all_first, None, settings)) / 2


def nt_xent(
    first: Float[Tensor, "*s n e"],
    second: Float[Tensor, "*s n e"],
    *,
    everyone: tuple[Float[Tensor, "*s m e"], Float[Tensor, "*s m e"]] | None = None,
    temperature: float | Float[Tensor, ""] = 0.1,
    weight: Real[Tensor, "*s m"] | None = None,
    negatives: Float[Tensor, "*s k e"] | None = None,
    offset: int = 0,
    block: int = BLOCK,
) -> Float[Tensor, "*s n"]:
    """Return the normalised temperature-scaled cross-entropy of each pair, the mean over its two rows.

        l_i = (l(a_i) + l(b_i)) / 2
        l(a_i) = -a_i . b_i / tau + log( sum_j w_j exp(a_i . b_j / tau) + sum_{j != i} w_j exp(a_i . a_j / tau) )

    Shapes, ranges, errors as in `info_nce`; `everyone` as in `symmetric_info_nce`. Of a pair with weight w > 1 the
    copies of a_i beyond itself (w - 1) stand in the second sum, too.
    Source: Sohn 2016; Chen et al. 2020, arXiv 2002.05709.

    >>> nt_xent(torch.eye(2), torch.eye(2), temperature=0.5)
    tensor([0.2395, 0.2395])
    """
    all_first, all_second = everyone or (first, second)
    settings = _Settings(temperature, weight, negatives, offset, block)
    there = _losses(first, all_second, all_first, settings)
    return (there + _losses(second, all_first, all_second, settings)) / 2


class _Settings(NamedTuple):
    temperature: float | Tensor
    weight: Tensor | None
    negatives: Tensor | None
    offset: int
    block: int


def _losses(queries: Tensor, keys: Tensor, own_view: Tensor | None, settings: _Settings) -> Tensor:
    """Return each query's loss against `keys`, the other rows of its own view where there are any, and negatives."""
    temperature, weight, negatives, offset, block = settings
    degree = float(temperature) if isinstance(temperature, int | float) else temperature.item()
    if not degree > 0:
        raise RequestError(f"temperature = {degree}: it must be above 0, such as 0.1")
    if not 0 <= offset <= keys.shape[-2] - queries.shape[-2] or queries.shape[-1] != keys.shape[-1]:
        raise RequestError(
            f"queries of shape {list(queries.shape)} at {offset} of keys of shape {list(keys.shape)}: every query "
            "needs its own key, of the same width"
        )
    here = slice(offset, offset + queries.shape[-2])
    queries, _ = _counted(queries, None if weight is None else weight[..., here])
    keys, counted = _counted(keys, weight)
    alive = None if counted is None else (counted > 0).any(-1, keepdim=True)
    scaled = widen(queries) / temperature
    total = log_sum_exp(scaled, keys, weight=counted, block=block)
    if alive is not None:
        total = torch.where(alive, total, 0)  # logaddexp of two empty sums would send back NaN
    if own_view is not None:
        total = torch.logaddexp(total, log_sum_exp(scaled, own_view, weight=counted, own=offset, block=block))
    if negatives is not None:
        total = torch.logaddexp(total, log_sum_exp(scaled, negatives, block=block))
    loss = total - (scaled * widen(keys[..., here, :])).sum(-1)
    return (loss if alive is None else torch.where(alive, loss, 0)).to(queries.dtype)


def _counted(rows: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return rows in which those of weight 0 are finite, and the weight in their type."""
    if weight is None:
        return rows, None
    clean, _ = apply_weight(rows, weight=weight[..., None])
    return clean.to(rows.dtype), weight.to(clean.dtype)


def block_places(queries: Float[Tensor, "*s n e"], keys: Float[Tensor, "*s m e"], block: int) -> Iterator[Place]:
    """Yield which queries and which keys each block holds, all keys of some queries before the next queries.

    >>> [(rows.start, columns.start) for rows, columns in block_places(torch.ones(2, 1), torch.ones(5, 1), 3)]
    [(0, 0), (0, 3)]
    """

    def spans(size: int) -> list[slice]:
        return [slice(start, min(start + block, size)) for start in range(0, size, block)]

    return product(spans(queries.shape[-2]), spans(keys.shape[-2]))


def _scores(queries: Tensor, keys: Tensor, weight: Tensor | None, own: int | None, place: Place) -> Tensor:
    """Return the block of log c_ij + q_i . k_j."""
    rows, columns = place
    scores = queries[..., rows, :] @ keys[..., columns, :].mT
    twins = _twins(scores, own, place)
    alone = None if twins is None else twins[0].clone()
    if weight is not None:
        scores += weight[..., None, columns].log()
    if twins is not None and alone is not None:
        diagonal, met = twins
        diagonal.copy_(alone.fill_(-torch.inf) if weight is None else alone + (weight[..., met] - 1).clamp(min=0).log())
    return scores


def _twins(block: Tensor, own: int | None, place: Place) -> tuple[Tensor, slice] | None:
    """Return a view of the places of a block where a query meets itself, and the keys these are."""
    rows, columns = place
    if own is None:
        return None
    start, stop = max(rows.start + own, columns.start), min(rows.stop + own, columns.stop)
    if start >= stop:
        return None
    part = block[..., start - own - rows.start : stop - own - rows.start, start - columns.start : stop - columns.start]
    return part.diagonal(dim1=-2, dim2=-1), slice(start, stop)


def _way_back(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
    """Return the gradients of `log_sum_exp`, block by block."""
    queries, keys, weight, result = ctx.saved_tensors
    own, block = ctx.layout
    slope = gradients[0]
    found = torch.where(result.isfinite(), result, 0)  # where nothing is summed, every score is -inf
    wanted = zip((queries, keys, weight), ctx.needs_input_grad, strict=False)  # keys of a slow encoder need none
    to_queries, to_keys, to_weight = (torch.zeros_like(part) if needed else None for part, needed in wanted)
    with torch.autocast(queries.device.type, enabled=False):
        for place in block_places(queries, keys, block):
            rows, columns = place
            scores = _scores(queries, keys, weight, own, place)
            share = scores.sub_(found[..., rows, None]).exp_().mul_(slope[..., rows, None])
            if to_queries is not None:
                to_queries[..., rows, :] += share @ keys[..., columns, :]
            if to_keys is not None:
                to_keys[..., columns, :] += share.mT @ queries[..., rows, :]
            if to_weight is not None:
                each = queries[..., rows, :] @ keys[..., columns, :].mT - found[..., rows, None]
                each = each.clamp(max=HIGHEST).exp_().mul_(slope[..., rows, None])
                each.masked_fill_(~result[..., rows, None].isfinite(), 0)
                if (twins := _twins(each, own, place)) is not None:
                    twins[0].mul_(weight[..., twins[1]] > 1)
                to_weight[..., columns] += each.sum(-2)
    return to_queries, to_keys, to_weight, None


class _BlockLogSumExp(torch.autograd.Function):
    """`log_sum_exp` with inputs of one type; keeps its inputs and the n results for the way back."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, weight: Tensor | None, layout: tuple[int | None, int]
    ) -> Tensor:
        own, block = layout
        result = queries.new_full(queries.shape[:-1], -torch.inf)
        with torch.autocast(queries.device.type, enabled=False):
            for place in block_places(queries, keys, block):
                scores = _scores(queries, keys, weight, own, place)
                rows = place[0]
                result[..., rows] = torch.logaddexp(result[..., rows], scores.logsumexp(-1))
        ctx.layout = layout
        ctx.save_for_backward(queries, keys, weight, result)
        return result

    backward: Any = staticmethod(once_differentiable(_way_back))

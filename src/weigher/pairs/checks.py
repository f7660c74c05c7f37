"""What losses of pairs ask of what they are given, and how they say what is wrong with it.

A NaN that gets into a mean stays there, and one that is cleaned away hides an encoder that has died: losses raise. Rows
of weight 0 are not there and may hold anything.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from weigher.core.contrast import unit
from weigher.core.weights import widen
from weigher.errors import RequestError
from weigher.train.distribution import gather

if TYPE_CHECKING:
    from torch import Tensor


class DeadRowsError(RequestError):
    """Rows that are not finite, or all of them zeros: what they come from is broken, or the encoder that made them."""


def check_views(
    views: Sequence[Tensor], weight: Tensor | None = None, *, targets: Sequence[Tensor] | None = None, least: int = 2
) -> None:
    """Raise RequestError where views, `[n, e]` each, and what a slow encoder makes of them can not be compared.

    Needed are two views, all of one shape and of a floating type, as many targets, a weight `[n]` in [0, inf), finite
    rows where it is above 0, not all of them zeros, and `least` such rows over all workers.

    >>> check_views((torch.eye(3), torch.eye(3)), torch.tensor([1.0, 2.0, 0.0]))
    """
    if len(views) < 2:
        raise RequestError(f"{len(views)} views: a loss of pairs compares two views at least")
    if targets is not None and len(targets) != len(views):
        raise RequestError(f"{len(views)} views and {len(targets)} targets: give as many targets")
    named = {f"view {place}": view for place, view in enumerate(views, 1)}
    named |= {f"target {place}": target for place, target in enumerate(targets or (), 1)}
    for name, rows in named.items():
        if rows.shape != views[0].shape or rows.dim() != 2:
            raise RequestError(
                f"{name} has the shape {list(rows.shape)} and view 1 {list(views[0].shape)}: all need a row of numbers "
                "for each thing, and one width"
            )
    check_weight(weight, views[0].shape[:1])
    kept = torch.ones_like(views[0][:, 0], dtype=torch.bool) if weight is None else weight > 0
    for name, rows in named.items():
        check_embedded(rows, kept, name)
    check_count(gather(kept.sum()[None]).sum(), "rows", least=least)


def check_rows(rows: Tensor, kept: Tensor, name: str) -> None:
    """Raise RequestError where rows `[n, ...]` are of no floating type, or one that is `kept` `[n]` is not finite.

    >>> check_rows(torch.tensor([[1.0], [torch.nan]]), torch.tensor([True, False]), "view 1")
    """
    if not rows.is_floating_point():
        raise RequestError(f"{name} holds {rows.dtype}: embeddings are of a floating type, as an encoder gives them")
    wrong = (kept & ~rows.isfinite().flatten(1).all(1)).nonzero()
    if len(wrong):
        raise DeadRowsError(
            f"row {int(wrong[0])} of {name} holds NaN or infinity ({len(wrong)} of {len(rows)} rows do); look at what "
            "the encoder is given"
        )


def check_embedded(rows: Tensor, kept: Tensor, name: str) -> None:
    """Raise RequestError as `check_rows` does, and where an encoder has died: all rows that are `kept` are zeros.

    >>> check_embedded(torch.tensor([[1.0], [0.0]]), torch.tensor([True, True]), "view 1")
    """
    check_rows(rows, kept, name)
    if kept.any() and not rows[kept].any():
        raise DeadRowsError(
            f"all {int(kept.sum())} rows of {name} are zeros, which have no direction: the encoder has died; look at "
            "its learning rate and its last layer"
        )


def check_weight(weight: Tensor | None, shape: Sequence[int]) -> None:
    """Raise RequestError for a weight of another shape, or that is not in [0, inf) everywhere.

    >>> check_weight(torch.tensor([0.5, 2.0]), (2,))
    """
    if weight is None:
        return
    if list(weight.shape) != list(shape):
        raise RequestError(f"weight of shape {list(weight.shape)} for rows {list(shape)}: one for each")
    wrong = (~((weight >= 0) & (weight < math.inf))).nonzero()
    if len(wrong):
        place = wrong[0].tolist()
        raise RequestError(f"weight {weight[tuple(place)].item():g} at {place}: weights must lie in [0, inf)")


def check_count(count: int | Tensor, what: str, *, least: int = 2) -> None:
    """Raise RequestError for less than `least` things to compare.

    >>> check_count(2, "rows")
    """
    if int(count) < least:
        raise RequestError(
            f"a loss of pairs compares {what} with others, and this batch has {int(count)}; give at least {least}, of "
            "weight above 0"
        )


def check_same(first: Tensor, second: Tensor) -> None:
    """Raise RequestError where two views differ in shape."""
    if first.shape != second.shape:
        raise RequestError(
            f"views of shapes {list(first.shape)} and {list(second.shape)}: row i of both must be a pair"
        )


def check_positive(**given: float) -> None:
    """Raise RequestError, naming it, for a number that is not above 0 and finite."""
    for name, value in given.items():
        if not 0 < value < math.inf:
            raise RequestError(f"{name} = {value}: it must be above 0 and finite")


def check_power(alpha: float, *, stacklevel: int) -> None:
    """Raise RequestError for a power of the distance of pairs that is not above 0; warn of one below 1."""
    check_positive(alpha=alpha)
    if alpha < 1:
        warnings.warn(
            f"alpha = {alpha}: below 1 the gradient of a pair grows without bound as it closes",
            stacklevel=stacklevel + 1,
        )


def checked(
    rows: Tensor, weight: Tensor | None, *, normalise: bool, least: int, what: str, each: str = "point"
) -> Tensor:
    """Return rows `[n, e]` fit to be measured, made unit if `normalise`; messages call a row `each`.

    Raises and warns as `weigher.pairs.align_uniform.alignment` says.
    """
    if rows.dim() != 2 or not rows.is_floating_point():
        raise RequestError(
            f"{what} is measured on embeddings [rows, numbers] of a floating type, these are {rows.dtype} of shape "
            f"{list(rows.shape)}"
        )
    check_weight(weight, rows.shape[:1])
    kept = rows if weight is None else rows[weight > 0]
    if len(kept) < least:
        needed = f"one {each}" if least == 1 else f"two {each}s"
        raise RequestError(f"{what} needs at least {needed}, these are {len(kept)}")
    norms = torch.linalg.vector_norm(widen(kept.detach()), dim=-1)
    if not norms.isfinite().all():
        raise RequestError(f"{what}: {int((~norms.isfinite()).sum())} of {len(kept)} rows hold NaN or infinity")
    if not normalise:
        if (norms - 1).abs().max() > 1e-2:
            warnings.warn(
                f"{what}: rows taken as they are have lengths {norms.min():.3g} to {norms.max():.3g}; its range and "
                "its optimum are those of rows of length 1",
                stacklevel=3,
            )
        return rows
    if not norms.all():
        raise RequestError(f"{what}: {int((norms == 0).sum())} of {len(kept)} rows are zero and have no direction")
    return unit(rows, weight=weight)

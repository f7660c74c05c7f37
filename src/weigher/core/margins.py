"""Margins: by how much the logit of what an example is said to be leads the rest. Pure functions; no gradient is cut.

    one label y              m = z_y - max_{k != y} z_k
    every label at once      m_k = z_k - max_{j != k} z_j                  what m would be, were k the label
    labels by themselves     m_k = z_k where k is said to be there, -z_k where not       (z against 0: a sigmoid's)

m > 0: the example is taken for what it is said to be; m < 0: for something else; 0: a tie. Adding a constant to a row
of logits changes nothing but the margins of labels by themselves, so that log-softmax gives the margins of logits
(probabilities do not). The largest rival is found among the two largest logits: nothing of the size of z is copied, in
the first even where there are 10^5 labels. Margins of float16 and bfloat16 logits are float32: a difference may exceed
their range, and loses digits. Rounding to half precision first, as the reference code does, moves margins by up to a
per mille of the largest logit.

Symbols: z logits [..., c]. Source: Pleiss et al. 2020 (arXiv 2001.10528) for one label; the others are this project's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from weigher.core.weights import widen
from weigher.errors import RequestError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor


def label_margin(logits: Float[Tensor, "*b c"], labels: Int[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """Return by how much the logit of the label leads the largest other one: z_y - max_{k != y} z_k.

    Raises RequestError for fewer than two classes, labels that are no whole numbers in 0..c - 1, shapes that do not
    fit.

    >>> z = torch.tensor([[1.0, 2.0, 3.0], [6.0, 5.0, 4.0], [7.0, 8.0, 9.0]])
    >>> label_margin(z, torch.tensor([1, 0, 2])).tolist()
    [-1.0, 1.0, 1.0]
    """
    _check_classes(logits)
    if labels.is_floating_point() or labels.dtype == torch.bool or labels.shape != logits.shape[:-1]:
        raise RequestError(
            f"labels are {labels.dtype} of shape {list(labels.shape)} for logits of shape {list(logits.shape)}; "
            "needed is one whole number for each row"
        )
    c = logits.shape[-1]
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < c:
        raise RequestError(
            f"labels from {int(labels.min())} to {int(labels.max())} for logits of {c} classes; needed are 0 to {c - 1}"
        )
    labels = labels.to(logits.device, torch.int64)[..., None]
    best, where = logits.topk(2, -1)
    rival = torch.where(where[..., :1] == labels, best[..., 1:], best[..., :1])
    return (widen(logits.gather(-1, labels)) - widen(rival))[..., 0]


def every_label_margin(logits: Float[Tensor, "*b c"]) -> Float[Tensor, "*b c"]:
    """Return the margin each label would have, were it the label; RequestError for fewer than two classes.

    At most one of a row is above 0.

    >>> every_label_margin(torch.tensor([1.0, 5.0, 3.0])).tolist()
    [-4.0, 2.0, -2.0]
    """
    _check_classes(logits)
    logits = widen(logits)
    best, where = logits.topk(2, -1)
    return (logits - best[..., :1]).scatter(-1, where[..., :1], best[..., :1] - best[..., 1:])


def multi_label_margin(logits: Float[Tensor, "*b c"], members: Bool[Tensor, "*b c"]) -> Float[Tensor, "*b c"]:
    """Return the margin of every label by itself: z where it is said to be there, -z where it is said not to be.

    Any set of labels has such margins, the empty one and the full one too. Raises RequestError where `members` is not
    bool or of another shape.

    >>> multi_label_margin(torch.tensor([2.0, 3.0]), torch.tensor([True, False])).tolist()
    [2.0, -3.0]
    """
    if members.dtype != torch.bool or members.shape != logits.shape:
        raise RequestError(
            f"members are {members.dtype} of shape {list(members.shape)} for logits of shape {list(logits.shape)}; "
            "needed is one bool for each logit"
        )
    logits = widen(logits)
    return torch.where(members, logits, -logits)


def _check_classes(logits: Tensor) -> None:
    if logits.dim() < 1 or logits.shape[-1] < 2:
        raise RequestError(
            f"logits of shape {list(logits.shape)}: a margin needs a rival, so at least 2 classes along the last axis"
        )

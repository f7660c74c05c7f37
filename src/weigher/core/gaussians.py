"""Wasserstein distances between normal laws: Bures, diagonal, means alone, and the bound of independent coupling.

    Bures      W^2(c, k) = |mu_c - mu_k|^2 + tr S_c + tr S_k - 2 tr (S_c^(1/2) S_k S_c^(1/2))^(1/2)
    diagonal   |mu_c - mu_k|^2 + sum_d (s_cd - s_kd)^2,   s the standard deviation along axis d
    means      |mu_c - mu_k|^2
    upper      |mu_c - mu_k|^2 + tr S_c + tr S_k

For any two laws with these means and *population* covariances (ddof 0): means <= Bures <= W_2^2 <= upper (Gelbrich
1990). With ddof 1 the middle one can break.

The last trace of Bures is the sum of the singular values of R_c R_k', where R'R = S: no root of a product is taken, and
no accuracy lost to squares. A root R `[r, d]` is made once for each law: the centred examples themselves where they are
fewer than the axes, so that matrices are as small as the smaller of the two numbers, else what QR leaves of them. Its
gradient has no gaps of singular values in a denominator: U V' exists for repeated and vanishing ones too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from weigher.errors import RequestError

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

_PIECE = 2**24  # numbers of products of roots at a time


@dataclass(frozen=True, eq=False, slots=True)
class Gaussians:
    """Normal laws of c classes: `mean` [c, d] and `root` [c, r, d], root' root being the covariance."""

    mean: Tensor
    root: Tensor

    @property
    def variance(self) -> Tensor:
        """Variances along the axes, [c, d]."""
        return self.root.square().sum(1)

    @property
    def covariance(self) -> Tensor:
        """Covariances, [c, d, d]."""
        return self.root.mT @ self.root


def class_gaussians(
    x: Float[Tensor, "n d"],
    label: Int[Tensor, " n"],
    classes: int,
    weight: Float[Tensor, " n"] | None = None,
    *,
    ddof: int = 0,
) -> Gaussians:
    """Return the mean and covariance of every class.

        mu_c = sum_i w_i x_i / W_c,   S_c = sum_i w_i (x_i - mu_c)(x_i - mu_c)' / W_c,   W_c = sum_i w_i over class c

    With `ddof` 1 (no weights) the denominator of S is n_c - 1. A class of one example has the covariance 0.
    Shapes: x `[n, d]`, label `[n]` in 0..classes - 1, weight `[n]` in [0, inf).
    Raises: RequestError for a class without examples (or weight), and for ddof 1 with weights or a class of one.

    >>> found = class_gaussians(torch.tensor([[0.0], [2.0], [5.0]]), torch.tensor([0, 0, 1]), 2)
    >>> found.mean.tolist(), found.covariance.round(decimals=4).tolist()
    ([[1.0], [5.0]], [[[1.0]], [[0.0]]])
    """
    w = torch.ones_like(x[:, 0]) if weight is None else weight.to(x.dtype)
    x, label, w = x[w > 0], label[w > 0], w[w > 0]  # what is removed may hold anything
    counts = torch.bincount(label, minlength=classes)
    least = 1 + ddof
    if ddof not in (0, 1) or (ddof and weight is not None) or bool((counts < least).any()):
        raise RequestError(
            f"classes have {counts.tolist()} examples, ddof is {ddof}{'' if weight is None else ', with weights'}; "
            f"needed is ddof 0, or 1 without weights, and {least} or more examples of each class"
        )
    total = x.new_zeros(classes).index_add(0, label, w)
    mean = x.new_zeros(classes, x.shape[1]).index_add(0, label, w[:, None] * x) / total[:, None]
    centred = (w / (total - ddof)[label]).sqrt()[:, None] * (x - mean[label])
    roots = [_compressed(centred[label == c]) for c in range(classes)]
    size = max(len(root) for root in roots)
    return Gaussians(mean, torch.stack([_filled(root, size) for root in roots]))


def moment_gaussians(mean: Float[Tensor, "c d"], covariance: Float[Tensor, "c d d"]) -> Gaussians:
    """Return the laws of given means and covariances; what is negative in a covariance by rounding counts as 0.

    >>> found = moment_gaussians(torch.zeros(1, 2), torch.tensor([[[4.0, 0.0], [0.0, 0.0]]]))
    >>> found.covariance.tolist()
    [[[4.0, 0.0], [0.0, 0.0]]]
    """
    values, vectors = torch.linalg.eigh(covariance)
    return Gaussians(mean, values.clamp(min=0).sqrt()[..., None] * vectors.mT)


def means_squared(a: Gaussians, b: Gaussians) -> Float[Tensor, "c k"]:
    """Return |mu_c - mu_k|^2 of all pairs.

    >>> point = moment_gaussians(torch.tensor([[0.0], [3.0]]), torch.zeros(2, 1, 1))
    >>> means_squared(point, point).tolist()
    [[0.0, 9.0], [9.0, 0.0]]
    """
    return (a.mean[:, None] - b.mean[None]).square().sum(-1)


def upper_squared(a: Gaussians, b: Gaussians) -> Float[Tensor, "c k"]:
    """Return the mean squared distance of independent draws: |mu_c - mu_k|^2 + tr S_c + tr S_k of all pairs.

    >>> law = moment_gaussians(torch.zeros(1, 1), torch.ones(1, 1, 1))
    >>> upper_squared(law, law).tolist()
    [[2.0]]
    """
    return means_squared(a, b) + a.variance.sum(-1)[:, None] + b.variance.sum(-1)


def diagonal_squared(a: Gaussians, b: Gaussians) -> Float[Tensor, "c k"]:
    """Return the squared distance of the laws with independent axes, of all pairs: O(d) for each.

    >>> one, two = (moment_gaussians(torch.zeros(1, 1), torch.full((1, 1, 1), s)) for s in (1.0, 9.0))
    >>> diagonal_squared(one, two).tolist()
    [[4.0]]
    """
    one, two = (_root(law.variance) for law in (a, b))
    return means_squared(a, b) + (one[:, None] - two[None]).square().sum(-1)


def bures_squared(a: Gaussians, b: Gaussians) -> Float[Tensor, "c k"]:
    """Return the squared 2-Wasserstein distance of all pairs of laws.

    Never below 0, and 0 for equal laws but for rounding. Time O(r s min(r, s)) for roots of r and s rows.
    Source: Dowson, Landau 1982; the name after Bures 1969.

    >>> one, two = (moment_gaussians(torch.zeros(1, 1), torch.full((1, 1, 1), s)) for s in (1.0, 9.0))
    >>> bures_squared(one, two).tolist()
    [[4.0]]
    """
    common = a.mean.new_zeros(len(a.mean), len(b.mean))
    for rows, one in _by_height(a.root):
        for columns, other in _by_height(b.root):
            step = max(1, _PIECE // (len(other) * one.shape[1] * other.shape[1]))
            common[rows[:, None], columns] = torch.cat(
                [torch.linalg.svdvals(torch.einsum("crd,ksd->ckrs", piece, other)).sum(-1) for piece in one.split(step)]
            )
    return (upper_squared(a, b) - 2 * common).clamp(min=0)


def _by_height(root: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Roots [c, r, d] in groups of like height, the zeros below them left out: places [g] and roots [g, height, d].

    A height is a power of two, or r: one large class does not make every pair of small ones cost what it does.
    """
    r = root.shape[1]
    used = (root.detach() != 0).any(-1) * torch.arange(1, r + 1, device=root.device)
    heights = torch.tensor([min(r, 1 << (h - 1).bit_length()) for h in used.amax(1).clamp(min=1).tolist()])
    return [
        (places := (heights == height).nonzero()[:, 0].to(root.device), root[places, :height])
        for height in heights.unique().tolist()
    ]


def _compressed(rows: Tensor) -> Tensor:
    """Rows [n, d] -> at most d rows with the same rows' rows; with a gradient as they are, for QR needs full rank."""
    return rows if len(rows) <= rows.shape[1] or rows.requires_grad else torch.linalg.qr(rows, mode="r").R


def _filled(root: Tensor, size: int) -> Tensor:
    return torch.cat([root, root.new_zeros(size - len(root), root.shape[1])])


def _root(x: Tensor) -> Tensor:
    """Return the square root, with gradient 0 at 0."""
    return torch.where(x > 0, torch.where(x > 0, x, 1).sqrt(), 0)

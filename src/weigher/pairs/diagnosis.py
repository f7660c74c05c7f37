"""What any encoder's embeddings are like: how aligned, how even, how far from the optimum, of how many dimensions.

    found = diagnose(embeddings)                  # [n, e], of any length: rows are made unit
    found = diagnose(first_views, second_views)   # with pairs, alignment too
    print(found); found.plot("embeddings.png")

    uniformity gap   L_uniform(t) less that of the uniform distribution on the sphere; 0 is even, 2 t and less collapsed
    effective rank   exp H(s / sum s), s the singular values of the rows, H in nats: 1 (a line) to e (all alike)
    mean cosine      of two different rows: near 1 they lie in a narrow cone, 0 is even; two copies of a row (weight 2)
                     are two rows, a weight below 1 has no such twin, as in `log_potential`

The limit of InfoNCE: with M negatives its loss less log M tends to the two figures, as M grows (theorem 1).

Sources: Wang, Isola 2020, arXiv 2005.10242; the effective rank: Roy, Vetterli 2007.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from weigher.core.contrast import log_sum_exp
from weigher.core.weights import normalise
from weigher.pairs.align_uniform import log_potential, pair_distances, uniformity_bound, uniformity_optimum
from weigher.pairs.checks import check_positive, check_same, checked

if TYPE_CHECKING:
    from jaxtyping import Float, Real


@dataclass(frozen=True)
class Diagnosis:
    """The figures of embeddings, see the module; `alignment` is None where no pairs were given."""

    rows: int
    dim: int
    t: float
    alignment: float | None
    """Mean squared distance of pairs; 0 is the optimum, so this is its gap, too."""
    uniformity: float
    optimum: float
    """Uniformity of the uniform distribution on the sphere of this dimension."""
    lowest: float
    """Uniformity that this number of rows, with their weights, cannot go below."""
    effective_rank: float
    mean_cosine: float
    plane: np.ndarray
    """The rows `[n, 2]` in the plane of their two strongest directions; the rows themselves where dim is 2."""
    distances: np.ndarray | None
    """Distance of each pair `[n]`."""

    @property
    def gap(self) -> float:
        """Return uniformity less its optimum; below 0 where few rows lie more evenly than chance."""
        return self.uniformity - self.optimum

    def __str__(self) -> str:
        lines = [f"{self.rows:,} rows of {self.dim} numbers"]
        if self.alignment is not None:
            lines.append(f"alignment       {self.alignment:8.3f}   optimum 0")
        lines += [
            f"uniformity      {self.uniformity:8.3f}   optimum {self.optimum:.3f}, gap {self.gap:.3f} (t = {self.t:g})",
            f"effective rank  {self.effective_rank:8.1f}   of {min(self.dim, self.rows)}",
            f"mean cosine     {self.mean_cosine:8.3f}   even 0, collapsed 1",
        ]
        return "\n".join(lines)

    def plot(
        self, path: str | os.PathLike[str], labels: Sequence[object] | None = None, title: str = "embeddings"
    ) -> None:
        """Draw the rows in their plane within the circle, and write the picture; needs the `plot` extra."""
        from weigher.plot.circle import Cloud, circles

        said = f"alignment {self.alignment:z.2f}, " if self.alignment is not None else ""
        note = f"{said}uniformity {self.uniformity:z.2f} (optimum {self.optimum:.2f})"
        circles(path, [Cloud(title, self.plane, note, self.distances)], labels=labels)


@torch.no_grad()
def diagnose(
    embeddings: Tensor | np.ndarray,
    others: Tensor | np.ndarray | None = None,
    *,
    t: float = 2.0,
    weight: Real[Tensor, " n"] | np.ndarray | None = None,
) -> Diagnosis:
    """Measure embeddings; `others` are the second views, row by row.

    Shapes: `[n, e]`, weight `[n]` in [0, inf), how often a row counts; each a tensor or an array, on any device: it is
    worked on that of `embeddings`. Time grows with n^2, memory with n.
    Raises: RequestError for less than two rows, rows that are zero or not finite, views of different shapes, and
    weights that are negative or of another number.

    >>> found = diagnose(torch.eye(4))
    >>> round(found.uniformity, 2), round(found.effective_rank, 2), round(found.mean_cosine, 2)
    (-4.0, 4.0, 0.0)
    """
    check_positive(t=t)
    first = torch.as_tensor(embeddings)
    weight = None if weight is None else torch.as_tensor(weight, device=first.device)
    x = checked(first, weight, normalise=True, least=2, what="a diagnosis")
    counted = torch.ones_like(x[:, 0]) if weight is None else weight.to(x.dtype)
    kept = counted > 0
    x, counted = x[kept], counted[kept]
    distances = None
    if others is not None:
        second = torch.as_tensor(others, device=first.device)
        check_same(first, second)
        y = checked(second, weight, normalise=True, least=2, what="a diagnosis")[kept]
        distances = pair_distances(x, y, alpha=1.0)
    shares = normalise(counted.double(), 0)
    wide = x.double()
    # the squares of the singular values are the eigenvalues of an e x e matrix, however many rows there are
    powers, directions = torch.linalg.eigh((wide * shares[:, None]).T @ wide)
    singular = normalise(powers.clamp(min=0).sqrt(), 0)
    rank = torch.special.entr(singular).sum().exp().item()
    plane = wide if x.shape[1] <= 2 else wide @ directions[:, -2:].flip(1)
    own = counted.double()
    # of all products of two sums, those of a copy with itself are left out; a weight below 1 has no other copy
    alone = (own * own.clamp(max=1)).sum()
    cosine = ((wide * own[:, None]).sum(0).square().sum() - alone) / (own.sum().square() - alone)
    return Diagnosis(
        rows=len(x),
        dim=x.shape[1],
        t=t,
        alignment=None if distances is None else float((distances.double().square() * shares).sum()),
        uniformity=float(log_potential(x, t=t, weight=None if weight is None else counted)),
        optimum=uniformity_optimum(x.shape[1], t),
        lowest=uniformity_bound(float(own.sum().square() / alone), t),
        effective_rank=rank,
        mean_cosine=float(cosine),
        plane=F.pad(plane, (0, 2 - plane.shape[1])).float().cpu().numpy(),  # one number: a line in it
        distances=None if distances is None else distances.cpu().numpy(),
    )


@dataclass(frozen=True)
class ContrastiveLimit:
    """What InfoNCE with M negatives, less log M, tends to as M grows: the sum of two terms, which `bound` is above."""

    alignment_term: float
    uniformity_term: float
    bound: float

    @property
    def loss(self) -> float:
        """Return the limit of the loss less log M."""
        return self.alignment_term + self.uniformity_term


@torch.no_grad()
def contrastive_limit(
    first: Float[Tensor, "n e"], second: Float[Tensor, "n e"], temperature: float
) -> ContrastiveLimit:
    """Return the limit of theorem 1, with the rows of `first` as all there is to draw negatives from.

        alignment_term  = -mean_i x_i . y_i / tau = (L_align(2) - 2) / (2 tau)
        uniformity_term = mean_i log mean_j exp(x_i . x_j / tau)
        bound           = alignment_term + log mean_ij exp(x_i . x_j / tau), reached where all rows are equally crowded

    Shapes: both `[n, e]`, made unit here. Raises: RequestError as `alignment`; for a temperature not above 0.

    >>> rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    >>> found = contrastive_limit(rows, rows, 1.0)
    >>> round(found.loss, 4), round(found.bound, 4)
    (-0.5662, -0.5662)
    """
    check_same(first, second)
    check_positive(temperature=temperature)
    fit = partial(checked, weight=None, normalise=True, least=1, what="the limit", each="pair")
    x, y = fit(first).double(), fit(second).double()
    own = -float((x * y).sum(-1).mean()) / temperature
    each = log_sum_exp(x / temperature, x) - torch.tensor(len(x), dtype=x.dtype).log()
    overall = each.logsumexp(0) - torch.tensor(len(x), dtype=x.dtype).log()
    return ContrastiveLimit(own, float(each.mean()), own + float(overall))

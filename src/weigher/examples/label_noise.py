"""What the theory of early stopping under label noise speaks of: a wide network, its Gram matrix, clusters, distances.

    f(x)     = V (phi(W x) - phi(W_0 x))                    one hidden layer; V is fixed, +-1/sqrt(k); W_0 ~ N(0, 1)
    JJ^T     = (X X^T) * (phi'(X W^T) phi'(X W^T)^T) / k    Gram matrix of one output by W, elementwise *      [n, n]
    Sigma(C) = (C C^T) * E_g[phi'(C g) phi'(C g)^T]         its limit for k -> inf on the centres of clusters  [K, K]
    r_t      = (I - eta JJ^T)^t r_0                         residuals of gradient descent while J stays as it is

    X [n, d] inputs of norm 1; W [k, d]; V [c, k]; phi softplus; eta the rate for the loss 1/2 sum (y - f)^2

The part of the labels along an eigenvector u_i of JJ^T is learned to the share 1 - (1 - eta lambda_i)^t: clean labels
of clusters lie in few directions of large lambda, noise in the many others. Descent converges for eta < 2 / lambda_max.

Source: Li, Soltanolkotabi and Oymak 2020, arXiv 1903.11680. Several outputs and the subtraction of f at W_0 are
practice; constants of the theorems are not used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap
from torch.nn.functional import softplus

from weigher.errors import RequestError

Activation = Literal["softplus", "relu"]
MOST = 20_000  # rows of a Gram matrix: 3 GB in double precision


class FixedOutputNetwork(nn.Module):
    """The network of the theory: x `[n, d]` -> f `[n, outputs]`, 0 at the start; only `W` learns.

    >>> network = FixedOutputNetwork(4, width=6, outputs=2, seed=0)
    >>> network(torch.randn(3, 4)).tolist()
    [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    """

    def __init__(self, features: int, *, width: int = 1000, outputs: int = 1, seed: int = 0) -> None:
        if width < 2 or width % 2:
            raise RequestError(f"width = {width}: needed is an even number, half of the outputs' weights are negative")
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.W = nn.Parameter(torch.randn(width, features, generator=generator))
        signs = torch.ones(width)
        signs[width // 2 :] = -1
        drawn = torch.stack([signs[torch.randperm(width, generator=generator)] for _ in range(outputs)])
        self.V: Tensor
        self.W_0: Tensor
        self.register_buffer("V", drawn / math.sqrt(width))
        self.register_buffer("W_0", self.W.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Return f."""
        return (softplus(x @ self.W.T) - softplus(x @ self.W_0.T)) @ self.V.T


def gram(x: Tensor, W: Tensor, activation: Activation = "softplus") -> Tensor:
    """Return JJ^T of one output `[n, n]` from x `[n, d]` and W `[k, d]`, without making J.

    Raises RequestError above 20,000 examples, and for an activation that is not known.

    >>> gram(torch.eye(2), torch.zeros(4, 2)).tolist()                       # phi'(0) = 1/2
    [[0.25, 0.0], [0.0, 0.25]]
    """
    _check_size(x)
    slopes = _slope(x @ W.T, activation)
    return (x @ x.T) * (slopes @ slopes.T) / len(W)


def output_jacobian_gram(model: nn.Module, x: Tensor) -> Tensor:
    """Return JJ^T `[n, n]` of any network on x `[n, ...]`, J by all its parameters that require a gradient.

        K_ij = sum over outputs c of <df_c(x_i)/dtheta, df_c(x_j)/dtheta>

    J is made: n times outputs times parameters numbers. Examples go through one by one, so put a network with dropout
    or BatchNorm into evaluation mode. No gradient. Raises RequestError above 20,000 examples, and for a network without
    such parameters.

    >>> output_jacobian_gram(nn.Linear(2, 3, bias=False), torch.eye(2)).tolist()
    [[3.0, 0.0], [0.0, 3.0]]
    """
    _check_size(x)
    learned = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    if not learned:
        raise RequestError("the network has no parameters that require a gradient, so no derivatives by them")

    def outputs(parameters: dict[str, Tensor], one: Tensor) -> Tensor:
        return functional_call(model, parameters, (one[None],)).flatten()

    slopes = [slope.flatten(1) for slope in vmap(jacrev(outputs), (None, 0))(learned, x).values()]
    return torch.stack([slope @ slope.T for slope in slopes]).sum(0).detach()


def neural_covariance(
    centres: Tensor, activation: Activation = "softplus", *, samples: int = 10_000, seed: int = 0
) -> Tensor:
    """Return Sigma(C) `[K, K]` of centres `[K, d]` of norm 1: in closed form for ReLU, else from `samples` Gaussians.

        ReLU: Sigma_ab = c_a . c_b (pi - angle(c_a, c_b)) / (2 pi)

    Raises RequestError for centres that are not of norm 1, and for an activation that is not known.

    >>> neural_covariance(torch.eye(2), "relu").tolist()
    [[0.5, 0.0], [0.0, 0.5]]
    """
    _check_activation(activation)
    norms = centres.norm(dim=1)
    if not torch.allclose(norms, torch.ones_like(norms), atol=1e-4):
        raise RequestError(f"centres have norms from {norms.min():.3g} to {norms.max():.3g}; divide each by its norm")
    if activation == "relu":
        cosines = (centres @ centres.T).clamp(-1, 1)
        cosines = torch.where(cosines > 1 - 1e-7, 1.0, cosines)  # arccos has no digits there
        return cosines * (math.pi - cosines.arccos()) / (2 * math.pi)
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(samples, centres.shape[1], generator=generator, dtype=centres.dtype)
    return gram(centres, directions, activation)


@dataclass(frozen=True, slots=True)
class Clusters:
    """How well data cluster."""

    radius: float
    """eps_0: largest distance from a point to the centre of its cluster."""
    separation: float
    """delta: smallest distance between the values of two classes."""
    clusters: int
    classes: int
    condition: float
    """Largest over smallest eigenvalue of Sigma of the centres; infinite where two centres are one."""


def clusterability(x: Tensor, values: Tensor, cluster: Tensor, activation: Activation = "relu") -> Clusters:
    """Measure clusters from inputs `[n, d]`, class values `[n]` and cluster numbers `[n]` (0 ... K - 1).

    Inputs are scaled to norm 1, and so are centres, their means. Raises RequestError for an input of norm 0, where a
    cluster is empty, holds several values or has the mean 0, and where there is a single class.

    >>> found = clusterability(torch.eye(2), torch.tensor([-1.0, 1.0]), torch.tensor([0, 1]))
    >>> found.radius, found.separation, found.condition
    (0.0, 2.0, 1.0)
    """
    norms = x.norm(dim=1, keepdim=True)
    if not bool((norms > 0).all()):
        raise RequestError(f"example {int(norms.argmin())} is 0 everywhere and has no direction; leave it out")
    x = x / norms
    count = int(cluster.max()) + 1
    centres = []
    for number in range(count):
        members = cluster == number
        if not bool(members.any()) or values[members].unique().numel() > 1:
            raise RequestError(f"cluster {number} is empty or holds several class values; needed is one value in each")
        mean = x[members].mean(0)
        if float(mean.norm()) < 1e-6:
            raise RequestError(f"the directions of cluster {number} cancel out: its mean has no direction; divide it")
        centres.append(mean / mean.norm())
    found = values.unique()
    if len(found) < 2:
        raise RequestError("all examples are of one class; there is nothing to separate")
    C = torch.stack(centres)
    eigenvalues = torch.linalg.eigvalsh(neural_covariance(C, activation).double())
    smallest, largest = float(eigenvalues[0]), float(eigenvalues[-1])
    return Clusters(
        radius=float((x - C[cluster]).norm(dim=1).max()),
        separation=float(found.diff().min()),
        clusters=count,
        classes=len(found),
        condition=largest / smallest if smallest > 1e-12 * largest else math.inf,
    )


def rate_limit(matrix: Tensor) -> float:
    """Return 2 / lambda_max, below which gradient descent with this Gram matrix converges; infinite for zeros.

    By power iteration, n products at most (100 for small ones): it comes near the limit from above.

    >>> round(rate_limit(torch.diag(torch.tensor([1.0, 4.0]))), 5)
    0.5
    """
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(len(matrix), generator=generator, dtype=torch.float64).to(matrix)
    largest = 0.0
    for _ in range(max(100, len(matrix))):
        vector = matrix @ (vector / vector.norm())
        before, largest = largest, float(vector.norm())
        if largest - before <= 4 * torch.finfo(matrix.dtype).eps * largest:
            break
    return 2 / largest if largest else math.inf


def learned_share(matrix: Tensor, rate: float, steps: int) -> Tensor:
    """Return 1 - (1 - eta lambda_i)^t for each eigenvector `[n]`, largest eigenvalue first: descent as a filter.

    Raises RequestError where rate <= 0 or not below the limit of `rate_limit`, or steps < 0.

    >>> [round(s, 3) for s in learned_share(torch.diag(torch.tensor([0.1, 1.0])), 0.5, 2).tolist()]
    [0.75, 0.098]
    """
    limit = rate_limit(matrix)
    if not 0 < rate < limit:
        raise RequestError(f"rate = {rate:g}: descent converges only between 0 and {limit:.4g}")
    if steps < 0:
        raise RequestError(f"steps = {steps}: needed is 0 or more")
    return 1 - (1 - rate * torch.linalg.eigvalsh(matrix).flip(0)) ** steps


def spectral_shares(matrix: Tensor, labels: Tensor) -> Tensor:
    """Return the share of the labels' energy along each eigenvector `[n]`, largest eigenvalue first; they sum to 1.

    labels: `[n]` or `[n, c]`, real. Zeros give zeros.

    >>> spectral_shares(torch.diag(torch.tensor([1.0, 4.0])), torch.tensor([3.0, 0.0])).tolist()
    [0.0, 1.0]
    """
    vectors = torch.linalg.eigh(matrix).eigenvectors.flip(1)
    energy = (vectors.T @ labels.reshape(len(labels), -1)).square().sum(1)
    return energy / energy.sum().clamp(min=torch.finfo(energy.dtype).tiny)


def least_distance(gap: float, apart: float, W_0: Tensor) -> float:
    """Return the least |W - W_0| at which one softplus output of two inputs `apart` can have moved apart by `gap`.

        gap <= apart R (1 + (|W_0|_op + R) / (4 sqrt(k))),   solved for R

    `gap` is |[f(x_1) - f(x_2)] - [f_0(x_1) - f_0(x_2)]| for inputs of norm at most 1. Infinite where two inputs are the
    same and their outputs are to differ. Raises RequestError for negative numbers.

    >>> least_distance(1.0, 0.0, torch.ones(4, 2)), least_distance(0.0, 0.5, torch.ones(4, 2))
    (inf, 0.0)
    """
    if gap < 0 or apart < 0:
        raise RequestError(f"gap = {gap}, apart = {apart}: needed are 0 or more")
    if gap == 0:
        return 0.0
    if apart == 0:
        return math.inf
    curve = 1 / (4 * math.sqrt(len(W_0)))
    slope = 1 + curve * float(torch.linalg.matrix_norm(W_0, 2))
    return (-slope + math.sqrt(slope**2 + 4 * curve * gap / apart)) / (2 * curve)


def _check_size(x: Tensor) -> None:
    if len(x) > MOST:
        raise RequestError(f"a Gram matrix of {len(x)} examples does not fit; give {MOST} of them or fewer")


def _check_activation(activation: Activation) -> None:
    if activation not in get_args(Activation):
        raise RequestError(f"activation = {activation!r}; needed is one of {', '.join(get_args(Activation))}")


def _slope(z: Tensor, activation: Activation) -> Tensor:
    _check_activation(activation)
    return z.sigmoid() if activation == "softplus" else (z > 0).to(z.dtype)

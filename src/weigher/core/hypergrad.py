"""Hypergradients: how the validation loss after training answers to what shapes the training loss.

    theta*(phi) = argmin_theta L_T(theta, phi)                                      what training finds
    dL_V/dphi   = dL_V/dphi directly - p^T d^2 L_T / dtheta dphi,   H p = v         implicit function theorem
    v = dL_V/dtheta,   H = d^2 L_T / dtheta^2 + damping I

    L_T, L_V      training and validation loss, each a function of (theta, phi) that returns a scalar
    theta, phi    parameters of the student and whatever is to be learned: nested dicts, lists and tuples of tensors
    p             v with H divided out; the ways to divide are `Neumann`, `ConjugateGradient` and `Exact`

The formula is exact where dL_T/dtheta = 0, and used elsewhere as an approximation. H, its inverse and dtheta/dphi are
never formed (but by `Exact`, for small models and for tests): a product H u is one backward pass through the gradient,
whose graph is made once. Memory is that of one such graph, however long the student has trained before and however many
products are taken. `unrolled_hypergradient` differentiates the steps themselves: exact after any number of steps, at
the price of all their graphs.

Source: Lorraine et al. 2020, arXiv 1911.02590 (implicit, Neumann); Raghu et al. 2021, arXiv 2011.03037 (commentaries).
`terms` counts the products H u: Raghu et al. say "one term" where their code takes one product, `terms=1`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.func import jvp
from torch.utils._pytree import tree_flatten, tree_unflatten

from weigher.errors import RequestError, WeigherError

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

Tree = Any
"""A tensor, or a dict, list or tuple of trees."""
Loss = Callable[[Tree, Tree], "Tensor"]
"""(theta, phi) -> scalar."""
Vector = Sequence["Tensor"]
"""One tensor for each tensor of theta."""
Product = Callable[[Vector], list["Tensor"]]
"""u -> H u."""


class HypergradientError(WeigherError):
    """A hypergradient that cannot be had: it is not finite, or the Hessian cannot be divided out."""


class Inverse(Protocol):
    """A way to divide by H: (product, v) -> p with H p = v, or near it."""

    def __call__(self, product: Product, v: Vector) -> list[Tensor]:
        """Return p."""
        ...


@dataclass(frozen=True, slots=True)
class Neumann:
    """Divide by H with the first terms of a geometric series.

        p = lr sum_{j=0..terms} (I - lr (H + damping I))^j v

    It converges to H^-1 v where 0 < lr (lambda + damping) < 2 for every eigenvalue lambda of H, and at a minimum it is
    what differentiating `terms` + 1 steps of gradient descent with rate lr gives. `terms` = 0 takes no product.

    Raises RequestError where lr <= 0, terms < 0 or damping < 0.

    >>> double = lambda u: [2 * u[0]]
    >>> [round(Neumann(lr=0.1, terms=k)(double, [torch.ones(1)])[0].item(), 3) for k in (0, 1, 50)]
    [0.1, 0.18, 0.5]
    """

    lr: float
    """Rate of the student's steps."""
    terms: int = 1
    """Number of products with H."""
    damping: float = 0.0
    """Added to every eigenvalue of H: more of it for a Hessian that is not positive."""

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:
            raise RequestError(f"lr = {self.lr!r}: needed is the rate of the student's steps, above 0")
        if self.terms < 0:
            raise RequestError(f"terms = {self.terms!r}: needed is a number of Hessian products, 0 or more")
        _check_damping(self.damping)

    def __call__(self, product: Product, v: Vector) -> list[Tensor]:
        """Return p."""
        current, total = list(v), list(v)
        for _ in range(self.terms):
            curved = product(current)
            current = [
                c - self.lr * (h + self.damping * c) if self.damping else c - self.lr * h
                for c, h in zip(current, curved, strict=True)
            ]
            total = [t + c for t, c in zip(total, current, strict=True)]
        return [self.lr * t for t in total]


@dataclass(frozen=True, slots=True)
class ConjugateGradient:
    """Divide by H + damping I with conjugate gradients, one product a step; needs no rate.

    It stops after `steps`, or where |H p - v| <= `tolerance` |v|, or where the curvature of the next direction is not
    positive; what was found before then stands. Raises HypergradientError where the curvature along v itself is not
    positive: H is not positive definite, and wants damping. Source: Hestenes and Stiefel 1952.

    >>> double = lambda u: [2 * u[0]]
    >>> ConjugateGradient()(double, [torch.ones(1)])
    [tensor([0.5000])]
    """

    steps: int = 20
    """Most products with H."""
    tolerance: float = 1e-6
    """Residual, relative to v, that is small enough."""
    damping: float = 0.0
    """Added to every eigenvalue of H."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise RequestError(f"steps = {self.steps!r}: conjugate gradients need at least 1")
        if not 0 <= self.tolerance < 1:
            raise RequestError(f"tolerance = {self.tolerance!r}: needed is a share of |v|, from 0 to below 1")
        _check_damping(self.damping)

    def __call__(self, product: Product, v: Vector) -> list[Tensor]:
        """Return p."""
        solution = [torch.zeros_like(x) for x in v]
        residual, direction = list(v), list(v)
        size = start = _dot(residual, residual)
        for step in range(self.steps):
            if size <= self.tolerance**2 * start:
                break
            curved = [h + self.damping * d for h, d in zip(product(direction), direction, strict=True)]
            curvature = _dot(direction, curved)
            if not curvature > 0:
                if step == 0:
                    raise HypergradientError(
                        f"the curvature of the training loss along v is {curvature / start:.3g}, and conjugate "
                        "gradients need it above 0; give damping above its size, or use Neumann"
                    )
                break
            length = size / curvature
            solution = [s + length * d for s, d in zip(solution, direction, strict=True)]
            residual = [r - length * h for r, h in zip(residual, curved, strict=True)]
            before, size = size, _dot(residual, residual)
            direction = [r + size / before * d for r, d in zip(residual, direction, strict=True)]
        return solution


@dataclass(frozen=True, slots=True)
class Exact:
    """Divide by H + damping I after writing H down: n products and n^2 numbers for n parameters.

    Raises RequestError above 20,000 parameters, HypergradientError where H is singular.

    >>> Exact()(lambda u: [2 * u[0]], [torch.ones(2)])
    [tensor([0.5000, 0.5000])]
    """

    damping: float = 0.0
    """Added to every eigenvalue of H."""

    def __post_init__(self) -> None:
        _check_damping(self.damping)

    def __call__(self, product: Product, v: Vector) -> list[Tensor]:
        """Return p."""
        flat = _flat(v)
        if len(flat) > 20_000:
            raise RequestError(f"a Hessian of {len(flat)} parameters is too large to write down; use Neumann")
        unit = torch.eye(len(flat), dtype=flat.dtype, device=flat.device)
        hessian = torch.stack([_flat(product(_unflat(row, v))) for row in unit]) + self.damping * unit
        solution, failed = torch.linalg.solve_ex(hessian, flat)
        if failed:
            raise HypergradientError("the Hessian of the training loss is singular; give damping, or a weight decay")
        return _unflat(solution, v)


@dataclass(frozen=True, slots=True, eq=False)
class Hypergradient:
    """A hypergradient and what it took."""

    gradient: Tree
    """dL_V/dphi, of the structure of phi; 0 for tensors of phi that neither loss uses."""
    validation_loss: float
    """L_V at theta."""
    products: int
    """Number of products with the Hessian."""


def implicit_hypergradient(
    train_loss: Loss, val_loss: Loss, params: Tree, hparams: Tree, inverse: Inverse
) -> Hypergradient:
    """Return dL_V/dphi by the implicit function theorem at the parameters as they stand; nothing is changed.

        dL_V/dphi_j directly - sum_i p_i d^2 L_T / dtheta_i dphi_j

    Takes 3 + `products` backward passes. `params` and `hparams` are trees of floating-point tensors, taken as values:
    their own graphs are not followed. A tensor of theta that the training loss does not use is given no gradient.

    Raises RequestError where the training loss does not depend on theta or on phi, or an operation in it has no second
    derivative; HypergradientError where the result is not finite.

    >>> train = lambda w, log_decay: ((w - 1) ** 2).sum() / 2 + log_decay.exp() / 2 * (w**2).sum()
    >>> best = torch.full((3,), 0.5)                                        # for a decay of 1
    >>> found = implicit_hypergradient(train, lambda w, _: w.sum(), best, torch.zeros(()), Exact())
    >>> found.gradient, found.products                                      # w = 1 / (1 + decay)
    (tensor(-0.7500), 3)
    """
    theta, theta_tree = _leaves(params)
    phi, phi_tree = _leaves(hparams)
    with torch.enable_grad():
        rebuilt, shape = tree_unflatten(theta, theta_tree), tree_unflatten(phi, phi_tree)
        validation = _scalar(val_loss(rebuilt, shape), "validation")
        if not validation.requires_grad:
            raise RequestError("the validation loss does not depend on the parameters; check what it is given")
        slopes = _gradient(validation, [*theta, *phi])
        v, direct = slopes[: len(theta)], slopes[len(theta) :]
        training = _scalar(train_loss(rebuilt, shape), "training")
        with _told_without_second_derivative():
            inner = torch.autograd.grad(training, theta, create_graph=True, allow_unused=True)
            used = [i for i, slope in enumerate(inner) if slope is not None and slope.requires_grad]
            if not used:
                raise RequestError(
                    "the slope of the training loss is constant; check that it depends on the parameters"
                )
            inner, v = [inner[i] for i in used], [v[i] for i in used]
            weighed = [theta[i] for i in used]
            products = 0

            def product(u: Vector) -> list[Tensor]:
                nonlocal products
                products += 1
                return _gradient(inner, weighed, u)

            p = inverse(product, v)
            mixed = torch.autograd.grad(inner, phi, list(p), allow_unused=True)
    if all(slope is None for slope in mixed):
        raise RequestError(
            "the commentary does not reach the training loss: its derivative by the parameters does not depend on phi; "
            "check that phi is used in it, and not detached"
        )
    gradient = [d if m is None else d - m for d, m in zip(direct, mixed, strict=True)]
    _check_finite(gradient, "give a smaller lr, fewer terms, or more damping")
    return Hypergradient(tree_unflatten(gradient, phi_tree), validation.item(), products)


def unrolled_hypergradient(
    step: Callable[[Tree, Tree, int], Tree], state: Tree, hparams: Tree, val_loss: Loss, *, steps: int
) -> tuple[Hypergradient, Tree]:
    """Return dL_V/dphi through `steps` steps of training from `state`, and the state they lead to (without a graph).

    `step(state, phi, k)`, k = 0 ... steps - 1, returns the next state as differentiable operations on both, such as
    `descend` makes; val_loss gets (last state, phi). Memory and time grow with the number of steps.

    Raises RequestError where steps < 1, phi reaches neither the steps nor the validation loss, or an operation has no
    second derivative; HypergradientError where the result is not finite.

    >>> def step(w, rate, k):
    ...     return w - rate * w                                              # gradient descent on w^2 / 2
    >>> found, last = unrolled_hypergradient(
    ...     step, torch.tensor(1.0), torch.tensor(0.5), lambda w, _: w, steps=2
    ... )
    >>> found.gradient, last                                                 # (1 - rate)^2
    (tensor(-1.), tensor(0.2500))
    """
    if steps < 1:
        raise RequestError(f"steps = {steps!r}: needed is at least one step to differentiate")
    theta, theta_tree = _leaves(state)
    phi, phi_tree = _leaves(hparams)
    with torch.enable_grad(), _told_without_second_derivative():
        current, shape = tree_unflatten(theta, theta_tree), tree_unflatten(phi, phi_tree)
        for k in range(steps):
            current = step(current, shape, k)
        validation = _scalar(val_loss(current, shape), "validation")
        found = torch.autograd.grad(validation, phi, allow_unused=True) if validation.requires_grad else [None]
    if all(slope is None for slope in found):
        raise RequestError("the commentary does not reach the training loss: the steps do not depend on phi")
    gradient = [torch.zeros_like(x) if g is None else g for x, g in zip(phi, found, strict=True)]
    _check_finite(gradient, "give a smaller rate or fewer steps")
    last, tree = tree_flatten(current)
    result = Hypergradient(tree_unflatten(gradient, phi_tree), validation.item(), 0)
    return result, tree_unflatten([x.detach() for x in last], tree)


def descend(
    loss: Callable[[Tree], Tensor], params: Tree, velocity: Tree, *, lr: float, momentum: float = 0.0
) -> tuple[Tree, Tree]:
    """Return (theta', velocity') after one step of gradient descent that can be differentiated.

        velocity' = momentum velocity + dL/dtheta,   theta' = theta - lr velocity'

    As `torch.optim.SGD`; parameters that the loss does not use keep their place.

    >>> descend(lambda w: (w**2).sum(), torch.ones(1, requires_grad=True), torch.zeros(1), lr=0.1)[0].tolist()
    [0.800000011920929]
    """
    theta, tree = tree_flatten(params)
    slopes = torch.autograd.grad(loss(params), theta, create_graph=True, allow_unused=True)
    moved = [
        momentum * x + (torch.zeros_like(x) if slope is None else slope)
        for x, slope in zip(tree_flatten(velocity)[0], slopes, strict=True)
    ]
    places = [x - lr * m for x, m in zip(theta, moved, strict=True)]
    return tree_unflatten(places, tree), tree_unflatten(moved, tree)


def alignment(example_losses: Callable[[Tree], Tensor], params: Tree, v: Tree) -> Float[Tensor, " b"]:
    """Return how each example's gradient agrees with a direction, <dl_i/dtheta, v>, in one forward pass for all.

    With v = dL_V/dtheta and L_T = (1/b) sum_i w_i l_i this is the hypergradient of all weights without any product:
    after one step of rate lr, dL_V/dw_i = -(lr / b) <dl_i/dtheta, v>. Shapes: example_losses(theta) `[b]` -> `[b]`.

    >>> losses = lambda w: w * torch.tensor([1.0, -2.0])
    >>> alignment(losses, torch.tensor(3.0), torch.tensor(0.5)).tolist()
    [0.5, -1.0]
    """
    with warnings.catch_warnings():
        # torch's own forward mode is written in TorchScript, which newer versions of torch deprecate
        warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
        return jvp(example_losses, (params,), (v,))[1].detach()


@contextmanager
def _told_without_second_derivative() -> Iterator[None]:
    """Raise RequestError for what torch says of an operation that cannot be differentiated twice."""
    try:
        yield
    except RuntimeError as error:
        if not any(sign in str(error) for sign in ("derivative", "double backward", "cudnn RNN backward")):
            raise
        raise RequestError(
            f"an operation of the training loss has no second derivative ({str(error).splitlines()[0]}); for "
            "attention choose the math kernel (torch.nn.attention.sdpa_kernel), for a recurrent network switch "
            "cuDNN off"
        ) from error


def _leaves(tree: Tree) -> tuple[list[Tensor], Any]:
    """The tensors of a tree as leaves of a graph of their own, and its structure."""
    tensors, structure = tree_flatten(tree)
    if not tensors or not all(isinstance(x, torch.Tensor) and x.is_floating_point() for x in tensors):
        kinds = sorted({str(getattr(x, "dtype", type(x).__name__)) for x in tensors})
        raise RequestError(f"parameters are {', '.join(kinds) or 'empty'}; needed are floating-point tensors")
    return [x.detach().requires_grad_() for x in tensors], structure


def _gradient(outputs: Any, inputs: list[Tensor], weights: Vector | None = None) -> list[Tensor]:
    """Gradients by inputs with zeros for what is not used; the graph is kept only where products go on from it."""
    attached = outputs if isinstance(outputs, list) else [outputs]
    found = torch.autograd.grad(
        attached,
        inputs,
        None if weights is None else list(weights),
        retain_graph=weights is not None,
        allow_unused=True,
    )
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]


def _scalar(loss: Tensor, name: str) -> Tensor:
    if loss.dim():
        raise RequestError(f"the {name} loss has the shape {list(loss.shape)}; needed is one number: take its mean")
    if not loss.isfinite():
        raise HypergradientError(f"the {name} loss is {loss.item()}; give a smaller rate")
    return loss


def _check_finite(gradient: list[Tensor], advice: str) -> None:
    if not all(bool(g.isfinite().all()) for g in gradient):
        raise HypergradientError(f"the hypergradient is not finite; {advice}")


def _check_damping(damping: float) -> None:
    if not 0 <= damping < math.inf:
        raise RequestError(f"damping = {damping!r}: needed is 0 or more")


def _dot(a: Vector, b: Vector) -> float:
    return sum(torch.sum(x * y).item() for x, y in zip(a, b, strict=True))


def _flat(v: Vector) -> Tensor:
    return torch.cat([x.reshape(-1) for x in v])


def _unflat(flat: Tensor, like: Vector) -> list[Tensor]:
    parts = flat.split([x.numel() for x in like])
    return [part.view_as(x) for part, x in zip(parts, like, strict=True)]

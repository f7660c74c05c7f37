"""Hypergradients against TorchOpt's implicit differentiation."""

import pytest
import torch
from torch.nn import functional as F

from weigher.core.hypergrad import ConjugateGradient, Exact, Neumann, implicit_hypergradient

# TorchOpt 0.7.3 calls functorch by its old name
pytestmark = pytest.mark.filterwarnings("ignore:We've integrated functorch:FutureWarning")
torchopt = pytest.importorskip("torchopt", reason="TorchOpt is not installed")

x, x_val = torch.randn(30, 4, dtype=torch.float64), torch.randn(20, 4, dtype=torch.float64)
y, y_val = (torch.randint(3, (n,)) for n in (30, 20))


def train(params, weights):
    each = F.cross_entropy(x @ params["w"] + params["b"], y, reduction="none")
    return (weights.sigmoid() * each).mean() + 0.05 * sum((p**2).sum() for p in params.values())


def val(params, _=None):
    return F.cross_entropy(x_val @ params["w"] + params["b"], y_val)


def by_torchopt(params, weights, solve):
    names = tuple(params)

    def optimality(w, b, weights):
        return torch.func.grad(lambda pair: train(dict(zip(names, pair, strict=True)), weights))((w, b))

    @torchopt.diff.implicit.custom_root(lambda pair, weights: optimality(*pair, weights), argnums=1, solve=solve)
    def solver(pair, weights):
        return tuple(p.detach() for p in pair)

    weights = weights.clone().requires_grad_()
    found = solver(tuple(p.clone().requires_grad_() for p in params.values()), weights)
    return torch.autograd.grad(val(dict(zip(names, found, strict=True))), weights)[0]


@pytest.mark.parametrize(
    ("inverse", "solve"),
    [
        (Exact(), torchopt.linear_solve.solve_normal_cg(maxiter=200, atol=0.0, rtol=1e-12)),
        (ConjugateGradient(steps=60, tolerance=1e-12), torchopt.linear_solve.solve_cg(maxiter=60, atol=0, rtol=1e-12)),
        (Neumann(lr=0.4, terms=5), torchopt.linear_solve.solve_inv(ns=True, maxiter=5, alpha=0.4)),
    ],
)
def test_the_hypergradients_of_example_weights_agree(inverse, solve):
    params = {"w": torch.randn(4, 3, dtype=torch.float64), "b": torch.randn(3, dtype=torch.float64)}
    weights = torch.randn(30, dtype=torch.float64)
    for _ in range(300):
        slopes = torch.func.grad(train)(params, weights)
        params = {name: p - 0.5 * slopes[name] for name, p in params.items()}
    ours = implicit_hypergradient(train, val, params, weights, inverse).gradient
    torch.testing.assert_close(ours, by_torchopt(params, weights, solve), rtol=1e-5, atol=1e-10)

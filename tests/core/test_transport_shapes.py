"""The shapes written in the signatures of transport and of normal laws, checked by jaxtyping (in tests only)."""

import inspect

import jaxtyping
import pytest
import torch

from weigher.core import gaussians, transport

COST, SQUARE, A, B = torch.rand(2, 4, 3), torch.rand(2, 4, 4), torch.rand(2, 4), torch.rand(2, 3)
X, LABEL = torch.rand(6, 2), torch.arange(6) % 2
LAWS = gaussians.class_gaussians(X, LABEL, 2)
OTHERS = gaussians.class_gaussians(X, torch.arange(6) % 3, 3)

CALLS = {
    transport: {
        "relative_epsilon": ((COST, 0.1, A, B), {}),
        "sinkhorn": ((COST, A, B), {"epsilon": torch.tensor([1.0, 2.0]), "start": B}),
        "self_sinkhorn": ((SQUARE + SQUARE.mT, A), {"epsilon": 1.0}),
        "sinkhorn_divergence": ((COST, SQUARE, COST.mT @ COST, A, B), {"epsilon": 1.0}),
        "round_plan": ((COST, A, B), {}),
        "assignment": ((SQUARE[0],), {}),
    },
    gaussians: {
        "class_gaussians": ((X, LABEL, 2, X[:, 0]), {}),
        "moment_gaussians": ((LAWS.mean, LAWS.covariance), {}),
        "means_squared": ((LAWS, OTHERS), {}),
        "upper_squared": ((LAWS, OTHERS), {}),
        "diagonal_squared": ((LAWS, OTHERS), {}),
        "bures_squared": ((LAWS, OTHERS), {}),
    },
}
EVERY = [(module, name) for module, calls in CALLS.items() for name in calls]


@pytest.mark.parametrize(("module", "name"), EVERY, ids=[name for _, name in EVERY])
def test_shapes_are_as_written(checked, module, name):
    arguments, settings = CALLS[module][name]
    checked(module, name)(*arguments, **settings)


@pytest.mark.parametrize(
    ("module", "name", "arguments"),
    [
        (transport, "relative_epsilon", (COST, 0.1, B)),
        (transport, "round_plan", (COST, B, A)),
        (transport, "assignment", (COST[0],)),
        (gaussians, "class_gaussians", (X, LABEL[:5], 2)),
        (gaussians, "moment_gaussians", (LAWS.mean, LAWS.mean)),
    ],
)
def test_other_shapes_are_caught(checked, module, name, arguments):
    with pytest.raises(jaxtyping.TypeCheckError):
        checked(module, name)(*arguments)


@pytest.mark.parametrize("module", CALLS)
def test_every_public_function_is_called_here(module):
    public = {
        name
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
    }
    assert public == set(CALLS[module])

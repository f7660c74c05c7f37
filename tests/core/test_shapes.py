"""The shapes written in the signatures of the core, checked by jaxtyping at run time (in tests only)."""

import inspect

import jaxtyping
import pytest
import torch

from weigher.core import losses, margins, matching, pooling, weights

B, T, N, E, C = 2, 5, 3, 4, 6
X, MASK = torch.rand(B, T, N), torch.rand(B, T, 1) < 0.9
Z, Y = torch.randn(B, N, C), torch.rand(B, N, C) < 0.3
V, S, FRAMES = torch.randn(B, T, E), torch.rand(B, T, N), torch.rand(B, T) < 0.9
COUNT = torch.randint(0, 3, (B, T, 1))
PAIRS = torch.rand(B, N, 2)

CALLS = {
    weights: {
        "widen": (X,),
        "safe_ratio": (X, X),
        "apply_weight": (X, MASK, COUNT),
        "normalise": (X, 1, MASK),
        "softmax": (X, 1, MASK),
        "log_softmax": (X, 1, MASK),
        "entropy": (X, 1, MASK),
        "effective_sample_size": (X, 1, MASK),
        "length_mask": (torch.tensor([1, 2]), 4),
    },
    pooling: {
        "weighted_mean": (V, S, FRAMES),
        "weighted_statistics": (V, S, FRAMES),
        "attention_pool": (V, S, FRAMES),
        "mean_pool": (X, 1, MASK),
        "max_pool": (X, 1, MASK),
        "noisy_or": (X, 1, MASK),
        "self_weighted_mean": (X, 1, MASK),
        "power_pool": (X, 1, torch.ones(N), MASK),
        "auto_pool": (X, 1, torch.ones(N), MASK),
        "exp_softmax_pool": (X, 1, MASK),
    },
    losses: {
        "weighted_reduce": (Z, Y, -1),
        "bce": (Z, Y),
        "class_balanced_bce": (Z, Y),
        "focal": (Z, Y),
        "asymmetric": (Z, Y),
        "softmax_cross_entropy": (Z, Y),
        "wbce": (Z, Y),
    },
    margins: {
        "label_margin": (Z, Y.long().argmax(-1)),
        "every_label_margin": (Z,),
        "multi_label_margin": (Z, Y),
    },
    matching: {
        "match": (PAIRS, torch.tensor([1, 2])),
        "permutation_invariant_loss": (PAIRS, torch.tensor([1, 2])),
    },
}
EVERY = [(module, name) for module, calls in CALLS.items() for name in calls]


@pytest.mark.parametrize(("module", "name"), EVERY, ids=[name for _, name in EVERY])
def test_shapes_are_as_written(checked, module, name):
    checked(module, name)(*CALLS[module][name])


@pytest.mark.parametrize(
    ("module", "name", "arguments"),
    [
        (pooling, "weighted_mean", (V, S[:, :-1], None)),
        (pooling, "attention_pool", (V, S, MASK)),
        (losses, "wbce", (Z, Y[:, :, :-1])),
        (losses, "bce", (Y, Y)),
        (matching, "match", (PAIRS, torch.tensor([1, 2, 1]))),
        (weights, "length_mask", (torch.tensor([1.0]), 4)),
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

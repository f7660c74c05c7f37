"""A model's parameters: which of them decay, and the mean of what they were over the last steps.

    mean_n = mean_{n-1} + (parameter - mean_{n-1}) / n      for the n-th step taken into it

The mean is that of Izmailov et al. (arXiv 1803.05407); matrices decay, as in Loshchilov and Hutter (arXiv 1711.05101).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from weigher.errors import RequestError

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split parameters in those that decay (matrices) and those that do not: biases, norms, vectors, scalars.

    Frozen parameters are in it, so that a method may thaw them later. Raises RequestError where all are frozen.

    >>> groups = parameter_groups(nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2)), 0.1)
    >>> [(group["weight_decay"], len(group["params"])) for group in groups]
    [(0.1, 1), (0.0, 3)]
    """
    norms = {parameter for module in model.modules() if isinstance(module, _NORMS) for parameter in module.parameters()}
    decay, free = [], []
    for name, parameter in model.named_parameters():
        is_free = parameter.dim() < 2 or parameter in norms or name.rpartition(".")[2] == "bias"
        (free if is_free else decay).append(parameter)
    if not any(parameter.requires_grad for parameter in decay + free):
        raise RequestError(f"{type(model).__name__} has no parameter to train; thaw one (requires_grad_(True))")
    groups = ({"params": decay, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0})
    return [group for group in groups if group["params"]]


@torch.no_grad()
def add_to_mean(mean: dict[str, Tensor], model: nn.Module, count: int) -> None:
    """Take the model's parameters into `mean`, which is of `count` of them then (1: the first).

    >>> layer, mean = nn.Linear(1, 1, bias=False), {}
    >>> for count, value in enumerate((2.0, 4.0), start=1):
    ...     put_parameters(layer, {"weight": torch.tensor([[value]])})
    ...     add_to_mean(mean, layer, count)
    >>> mean["weight"].item()
    3.0
    """
    for name, parameter in model.named_parameters():
        if name in mean:
            mean[name].lerp_(parameter, 1 / count)
        else:
            mean[name] = parameter.detach().clone()


@torch.no_grad()
def put_parameters(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Give the parameters that are named these values."""
    for name, parameter in model.named_parameters():
        if name in values:
            parameter.copy_(values[name])


@contextmanager
def parameters_replaced(model: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Let the model have these values for the parameters that are named, until the block ends.

    >>> layer = nn.Linear(1, 1, bias=False)
    >>> own = layer.weight.item()
    >>> with parameters_replaced(layer, {"weight": torch.tensor([[5.0]])}):
    ...     layer.weight.item()
    5.0
    >>> layer.weight.item() == own
    True
    """
    own = {name: parameter.detach().clone() for name, parameter in model.named_parameters() if name in values}
    put_parameters(model, values)
    try:
        yield
    finally:
        put_parameters(model, own)

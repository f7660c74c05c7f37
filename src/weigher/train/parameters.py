"""A model's parameters: which of them decay, their gradients made shorter, and the mean over the last steps.

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


def clip_gradients(model: nn.Module, most: float | None) -> Tensor:
    """Shorten the gradients of all parameters, as one vector, to the length `most`, and return the length they had.

        g <- g min(1, most / ||g||_2)

    What is finite stays so: numbers of which the squares overflow, as a recurrent network sends back through a long
    text, keep their direction. None shortens nothing.

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> layer.weight.grad = torch.tensor([[3e30, 4e30]])
    >>> f"{clip_gradients(layer, 1.0):.3g}", [round(number, 3) for number in layer.weight.grad[0].tolist()]
    ('5e+30', [0.6, 0.8])
    """
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    if most is None:
        return norm
    if norm.isinf() and all(bool(gradient.isfinite().all()) for gradient in gradients):
        largest = torch.stack([gradient.abs().amax().to(norm.device) for gradient in gradients]).amax()
        for gradient in gradients:
            gradient.div_(largest.to(gradient.device))
        norm = nn.utils.get_total_norm(gradients)
        nn.utils.clip_grads_with_norm_(model.parameters(), most, norm)
        return norm.double() * largest
    nn.utils.clip_grads_with_norm_(model.parameters(), most, norm)
    return norm


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

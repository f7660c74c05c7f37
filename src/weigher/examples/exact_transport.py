"""Exact optimal transport of two weighted sets: by assignment where they match in number, else by POT's simplex."""

from __future__ import annotations

import torch
from torch import Tensor

from weigher.core.transport import Transport, assignment
from weigher.errors import RequestError, WeigherError


def exact_transport(cost: Tensor, weight_a: Tensor, weight_b: Tensor) -> Transport:
    """Return the transport of least cost; cost [n, m], weights [n] and [m] that sum to 1.

    Sets of equally many elements of equal weight, and single elements, need nothing but SciPy; others need the package
    POT (the extra "examples"). No gradient.
    Raises: RequestError without POT where it is needed, WeigherError where its solver gives up.

    >>> found = exact_transport(torch.tensor([[1.0, 2.0]]), torch.ones(1), torch.tensor([0.5, 0.5]))
    >>> found.cost.item(), found.plan.tolist()
    (1.5, [[0.5, 0.5]])
    """
    n, m = cost.shape
    cost = cost.detach()
    if min(n, m) == 1:
        plan = weight_a[:, None] * weight_b
        f, g = (cost[:, 0], torch.zeros_like(weight_b)) if m == 1 else (torch.zeros_like(weight_a), cost[0])
        return _exact(cost, plan, f, g)
    if n == m and all(bool((weight == weight[0]).all()) for weight in (weight_a, weight_b)):
        return assignment(cost)
    try:
        import ot
    except ModuleNotFoundError as error:
        raise RequestError(
            f"exact transport of {n} to {m} examples, or of weighted ones, needs the package POT: pip install "
            "'weigher[examples]'; or set reg for entropic transport, or max_samples below both sizes"
        ) from error
    a, b, table = (tensor.cpu().double().numpy() for tensor in (weight_a, weight_b, cost))
    plan, log = ot.emd(a / a.sum(), b / b.sum(), table, numItermax=100_000_000, log=True)
    if log["warning"] is not None:
        raise WeigherError(f"the exact solver gave up on {n} x {m}: {log['warning']}; set reg for entropic transport")
    plan, f, g = (torch.as_tensor(part).to(cost) for part in (plan, log["u"], log["v"]))
    return _exact(cost, plan, f, g)


def _exact(cost: Tensor, plan: Tensor, f: Tensor, g: Tensor) -> Transport:
    total = (plan * cost).sum()
    nothing = torch.zeros_like(total)
    return Transport(plan, total, total, f, g, nothing, nothing, 0, torch.ones_like(nothing, dtype=torch.bool))

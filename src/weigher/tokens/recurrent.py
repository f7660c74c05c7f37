"""Two recurrent cells written from their equations: an Elman network with ReLU, and a gated recurrent unit.

    Elman   h_t = relu(W_h h_{t-1} + W_x x_t + b)

    GRU     z_t = sigmoid(W_z [h_{t-1}, x_t] + b_z)            how much of the state is replaced
            r_t = sigmoid(W_r [h_{t-1}, x_t] + b_r)            how much of it the candidate sees
            c_t = tanh(W_c [r_t * h_{t-1}, x_t] + b_c)         candidate
            h_t = (1 - z_t) * h_{t-1} + z_t * c_t              h_0 = 0

`torch.nn.GRU` has the same unit in another convention: its z keeps the state where this one replaces it, so that W_z
and b_z change sign, and it applies r after the product, r_t * (W_ch h_{t-1} + b_n). The first is a matter of names; the
second is another function, unless the reset gate is the same for all units or W_ch is diagonal. `reset="after"` is that
function, and the only one that maps to and from torch exactly.

Source: Elman 1990, Cognitive Science 14; Cho et al. 2014, arXiv 1406.1078 (reset before the product); Le, Jaitly,
Hinton 2015, arXiv 1504.00941 (the identity as first W_h, so that a ReLU state neither dies nor explodes).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weigher.errors import RequestError

if TYPE_CHECKING:
    from jaxtyping import Float

Reset = Literal["before", "after"]


def elman(
    x: Float[Tensor, "b t e"],
    input_weight: Float[Tensor, "h e"],
    state_weight: Float[Tensor, "h h"],
    bias: Float[Tensor, " h"],
    *,
    state: Float[Tensor, "b h"] | None = None,
) -> Float[Tensor, "b t h"]:
    """Return the state of an Elman network after each token.

        h_t = relu(W_h h_{t-1} + W_x x_t + b)

    Shapes: x `[b, t, e]` with t >= 1, `state` h_0 `[b, h]` (zeros where not given) -> `[b, t, h]` in [0, inf).

    >>> one = torch.ones(1, 1)
    >>> elman(torch.tensor([[[1.0], [-3.0], [2.0]]]), one, one, torch.zeros(1)).flatten().tolist()
    [1.0, 0.0, 2.0]
    """
    steps = F.linear(x, input_weight, bias).transpose(0, 1).contiguous()  # the input's part for all t at once
    h = steps.new_zeros(steps.shape[1:]) if state is None else state
    states = []
    for step in steps:
        h = torch.relu(torch.addmm(step, h, state_weight.T))
        states.append(h)
    return torch.stack(states, 1)


def gru(
    x: Float[Tensor, "b t e"],
    input_weight: Float[Tensor, "hhh e"],
    state_weight: Float[Tensor, "hhh h"],
    bias: Float[Tensor, " hhh"],
    *,
    after_bias: Float[Tensor, " h"] | None = None,
    state: Float[Tensor, "b h"] | None = None,
) -> Float[Tensor, "b t h"]:
    """Return the state of a gated recurrent unit after each token; the equations stand in the header.

    The rows of weights and bias are those of z, r and c. With `after_bias` b_n the reset gate is applied after the
    product, c_t = tanh(W_cx x_t + b_c + r_t * (W_ch h_{t-1} + b_n)), without it before.
    Shapes: x `[b, t, e]` with t >= 1, `state` h_0 `[b, h]` (zeros where not given) -> `[b, t, h]`; from h_0 = 0 in
    (-1, 1).

    >>> zeros = torch.zeros(3, 1), torch.zeros(3, 1), torch.tensor([0.0, 0.0, 20.0])  # c = 1: half of the way each time
    >>> gru(torch.zeros(1, 3, 1), *zeros).flatten().tolist()
    [0.5, 0.75, 0.875]
    """
    size = state_weight.shape[1]
    steps = F.linear(x, input_weight, bias).transpose(0, 1).contiguous()
    h = steps.new_zeros(steps.shape[1], size) if state is None else state
    gates, candidate = state_weight.split((2 * size, size))
    states = []
    for step in steps:
        z, r = torch.sigmoid(torch.addmm(step[:, : 2 * size], h, gates.T)).chunk(2, -1)
        if after_bias is None:
            c = torch.tanh(torch.addmm(step[:, 2 * size :], r * h, candidate.T))
        else:
            c = torch.tanh(step[:, 2 * size :] + r * torch.addmm(after_bias, h, candidate.T))
        h = torch.lerp(h, c, z)  # (1 - z) h + z c
        states.append(h)
    return torch.stack(states, 1)


class Elman(nn.Module):
    """An Elman network with ReLU whose state starts by adding up what it reads (the identity as W_h).

    >>> Elman(3, 5)(torch.randn(2, 7, 3)).shape
    torch.Size([2, 7, 5])
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.input_weight = nn.Parameter(torch.randn(hidden, inputs) * inputs**-0.5)
        self.state_weight = nn.Parameter(torch.eye(hidden))
        self.bias = nn.Parameter(torch.zeros(hidden))

    def forward(self, x: Tensor, state: Tensor | None = None) -> Tensor:
        """Return the states `[b, t, h]` of x `[b, t, e]`."""
        return elman(x, self.input_weight, self.state_weight, self.bias, state=state)


class GRU(nn.Module):
    """A gated recurrent unit; `reset="before"` is the equations', `"after"` that of `torch.nn.GRU`.

    The gate z begins at sigmoid(-2): a state that forgets half of itself at each word never sees the first sentence.

    >>> GRU(3, 5)(torch.randn(2, 7, 3)).shape
    torch.Size([2, 7, 5])
    """

    def __init__(self, inputs: int, hidden: int, reset: Reset = "before") -> None:
        super().__init__()
        self.input_weight = nn.Parameter(torch.empty(3 * hidden, inputs))
        self.state_weight = nn.Parameter(torch.empty(3 * hidden, hidden))
        self.bias = nn.Parameter(torch.zeros(3 * hidden))
        self.after_bias = nn.Parameter(torch.zeros(hidden)) if reset == "after" else None
        for rows in self.input_weight.split(hidden):
            nn.init.xavier_uniform_(rows)
        for rows in self.state_weight.split(hidden):
            nn.init.orthogonal_(rows)
        nn.init.constant_(self.bias[:hidden], -2.0)

    def forward(self, x: Tensor, state: Tensor | None = None) -> Tensor:
        """Return the states `[b, t, h]` of x `[b, t, e]`."""
        return gru(x, self.input_weight, self.state_weight, self.bias, after_bias=self.after_bias, state=state)


def gru_from_torch(theirs: nn.GRU) -> GRU:
    """Return the unit, with its reset after the product, that gives what one layer of `torch.nn.GRU` gives.

    Raises RequestError for several layers, two directions, or a GRU without biases.

    >>> theirs = nn.GRU(3, 5, batch_first=True)
    >>> x = torch.randn(2, 7, 3)
    >>> torch.allclose(gru_from_torch(theirs)(x), theirs(x)[0], atol=1e-6)
    True
    """
    if theirs.num_layers != 1 or theirs.bidirectional or not theirs.bias:
        raise RequestError("only one layer of torch.nn.GRU, of one direction and with biases, maps to this unit")
    weights, size = theirs.state_dict(), theirs.hidden_size
    # beside z and r the two biases of torch only ever appear as a sum; that of the candidate stays apart
    shared, candidate = weights["bias_hh_l0"].split((2 * size, size))
    ours = GRU(theirs.input_size, size, reset="after").to(candidate)
    ours.load_state_dict(
        {
            "input_weight": _from_torch(weights["weight_ih_l0"]),
            "state_weight": _from_torch(weights["weight_hh_l0"]),
            "bias": _from_torch(weights["bias_ih_l0"] + F.pad(shared, (0, size))),
            "after_bias": candidate,
        }
    )
    return ours


def gru_to_torch(ours: GRU) -> nn.GRU:
    """Return the `torch.nn.GRU` (batch first) that gives what this unit gives.

    Raises RequestError where the reset gate is applied before the product: torch has no such unit.

    >>> ours = GRU(3, 5, reset="after")
    >>> x = torch.randn(2, 7, 3)
    >>> torch.allclose(gru_to_torch(ours)(x)[0], ours(x), atol=1e-6)
    True
    """
    if ours.after_bias is None:
        raise RequestError(
            "torch.nn.GRU applies the reset gate after the product, this unit before it, and no weights make the two "
            "equal; build the unit with reset='after' to exchange weights with torch"
        )
    size = ours.state_weight.shape[1]
    theirs = nn.GRU(ours.input_weight.shape[1], size, batch_first=True).to(ours.state_weight)
    theirs.load_state_dict(
        {
            "weight_ih_l0": _to_torch(ours.input_weight),
            "weight_hh_l0": _to_torch(ours.state_weight),
            "bias_ih_l0": _to_torch(ours.bias),
            "bias_hh_l0": F.pad(ours.after_bias, (2 * size, 0)),
        }
    )
    return theirs


def _from_torch(rows: Tensor) -> Tensor:
    """Rows of torch's r, z, n as rows of z, r, c: 1 - sigmoid(a) = sigmoid(-a)."""
    r, z, c = rows.chunk(3)
    return torch.cat([-z, r, c])


def _to_torch(rows: Tensor) -> Tensor:
    """Rows of z, r, c as rows of torch's r, z, n."""
    z, r, c = rows.chunk(3)
    return torch.cat([r, -z, c])

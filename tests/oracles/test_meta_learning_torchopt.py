"""MAML against TorchOpt's differentiable descent."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from weigher.examples.episodes import Episodes
from weigher.examples.meta_learning import Maml

# TorchOpt 0.7.3 calls functorch by its old name
pytestmark = pytest.mark.filterwarnings("ignore:We've integrated functorch:FutureWarning")
torchopt = pytest.importorskip("torchopt", reason="TorchOpt is not installed")


@pytest.mark.parametrize("steps", [1, 3])
def test_the_gradients_of_the_start_agree(steps):
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x, queries = torch.randn(3, 6, 4, dtype=torch.float64), torch.randn(3, 9, 4, dtype=torch.float64)
    episodes = Episodes(x, torch.arange(3).repeat(2).expand(3, 6), queries, torch.randint(3, (3, 9)))
    Maml(model, F.cross_entropy, inner_lr=0.4, inner_steps=steps)(episodes).backward()
    ours = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    start = torchopt.extract_state_dict(model, by="reference")
    for task in range(3):
        torchopt.recover_state_dict(model, start)
        descent = torchopt.MetaSGD(model, lr=0.4)
        for _ in range(steps):
            descent.step(F.cross_entropy(model(episodes.support_x[task]), episodes.support_y[task]))
        (F.cross_entropy(model(episodes.query_x[task]), episodes.query_y[task]) / 3).backward()
    torchopt.recover_state_dict(model, start)
    theirs = [parameter.grad for parameter in model.parameters()]
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)

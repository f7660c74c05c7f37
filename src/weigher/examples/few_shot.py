"""Few-shot learning whose inner steps weigh the support examples: MAML with a commentary.

    p_0 = theta,   p_{j+1} = p_j - lr d/dp (1/n) sum_i w_i l(f(x_i; p_j), y_i)                   support, n examples
    L   = mean over tasks of mean over queries of l(f(x; p_J), y)                                 gradient by theta, phi

    w_i = n s_i / sum_j s_j,   s_i = sigmoid(g(own_i, other_i))                                   `SupportWeights`
    own_i      cosine between the embedding of x_i and the mean of the others with its label
    other_i    largest cosine between it and the mean of another label

Both gradients go through the inner steps (second order), for all tasks of a batch at once. Weights begin at 1, as MAML,
and have the mean 1, so that they cannot act as a rate of the inner steps. It is trained as any learner of
`weigher.examples.meta_learning`.

Source: Finn et al. 2017, arXiv 1703.03400 (MAML); Raghu et al. 2021, arXiv 2011.03037 (weights in its inner loop). What
the paper's network sees is not published; the two cosines are ours.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from weigher.core.weights import normalise, safe_ratio
from weigher.errors import RequestError
from weigher.examples.commentaries import ExampleLoss, weight_head
from weigher.examples.episodes import Episodes
from weigher.examples.meta_learning import Maml


class SupportWeights(nn.Module):
    """Weighs support examples by how they fit the others of their label: x `[n, ...]`, y `[n]` -> w `[n]`, of mean 1.

    encoder: x -> [n, e]. The order of the examples and the numbers of the labels do not matter.

    >>> weigher = SupportWeights(nn.Linear(4, 8), ways=2)
    >>> weigher(torch.randn(4, 4), torch.tensor([0, 0, 1, 1])).tolist()
    [1.0, 1.0, 1.0, 1.0]
    """

    def __init__(self, encoder: nn.Module, *, ways: int, hidden: int = 16) -> None:
        super().__init__()
        self.encoder, self.ways = encoder, ways
        self.head = weight_head(2, hidden)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return one weight for each example."""
        return len(x) * normalise(self.head(self.fit(x, y))[:, 0].sigmoid(), 0)

    def fit(self, x: Tensor, y: Tensor) -> Tensor:
        """Return (own, other) of each example `[n, 2]`, in [-1, 1]; own is 0 for the only one of its label."""
        seen = nn.functional.normalize(self.encoder(x), dim=-1)
        member = (y[:, None] == torch.arange(self.ways, device=y.device)).to(seen.dtype)  # [n, ways]
        sums, counts = member.mT @ seen, member.sum(0)
        rest = member @ sums - seen  # of its label, without itself
        own = (nn.functional.normalize(rest, dim=-1) * seen).sum(-1)
        own = torch.where(member @ counts > 1, own, 0)
        means = nn.functional.normalize(safe_ratio(sums, counts[:, None]), dim=-1)
        other = torch.where(member > 0, -1, seen @ means.mT).amax(-1)
        return torch.stack([own, other], -1)


class WeighedMaml(Maml):
    """MAML whose inner steps take the weighted mean of the support examples' losses; the weigher is learned with it.

    `loss` gives one number for each example. Raises as `Maml`.

    >>> each = nn.CrossEntropyLoss(reduction="none")
    >>> learner = WeighedMaml(nn.Linear(4, 2), each, SupportWeights(nn.Linear(4, 8), ways=2), inner_steps=1)
    >>> x, y = torch.randn(3, 6, 4), torch.tensor([[0, 0, 0, 1, 1, 1]] * 3)
    >>> learner.predict(x, y, x).shape
    torch.Size([3, 6, 2])
    """

    def __init__(
        self,
        model: nn.Module,
        loss: ExampleLoss,
        weigher: SupportWeights,
        *,
        inner_lr: float = 0.1,
        inner_steps: int = 3,
        test_steps: int | None = None,
    ) -> None:
        def mean_loss(answers: Tensor, y: Tensor) -> Tensor:
            return loss(answers, y).mean()

        super().__init__(model, mean_loss, inner_lr=inner_lr, inner_steps=inner_steps, test_steps=test_steps)
        self.each_loss, self.weigher = loss, weigher

    def support_loss(self, answers: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Return the weighted mean, the weights of mean 1."""
        return (self.weigher(x, y) * self.each_loss(answers, y)).mean()


def mislabel(episodes: Episodes, *, ways: int, wrong_shots: int) -> tuple[Episodes, Tensor]:
    """Give the first `wrong_shots` support examples of each class the label of the next class; tell which, bool [b, s].

    Every label still has as many examples. The episodes are those of `ClassPool.draw`: classes in the order of their
    labels. Raises RequestError where that is more than half of a class: most of a label could be of another class then.

    >>> x, y = torch.zeros(1, 4, 3), torch.tensor([[0, 0, 1, 1]])
    >>> changed, wrong = mislabel(Episodes(x, y, x, y), ways=2, wrong_shots=1)
    >>> changed.support_y.tolist(), wrong.tolist()
    ([[1, 0, 0, 1]], [[True, False, True, False]])
    """
    tasks, examples = episodes.support_y.shape
    shots = examples // ways
    if not 0 <= 2 * wrong_shots <= shots:
        raise RequestError(f"{wrong_shots} wrong of {shots} shots: needed is at most half, for most to be right")
    wrong = (torch.arange(examples, device=episodes.support_y.device) % shots < wrong_shots).expand(tasks, -1)
    labels = torch.where(wrong, (episodes.support_y + 1) % ways, episodes.support_y)
    return replace(episodes, support_y=labels), wrong

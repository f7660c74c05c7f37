"""Few-shot learning whose inner steps weigh the support examples: MAML with a commentary.

    p_0 = theta,   p_{j+1} = p_j - lr d/dp (1/n) sum_i w_i l(f(x_i; p_j), y_i)                   support, n examples
    L   = mean over tasks of mean over queries of l(f(x; p_J), y)                                 gradient by theta, phi

    w_i = n s_i / sum_j s_j,   s_i = sigmoid(g(own_i, other_i))                                   `SupportWeights`
    own_i      cosine between the embedding of x_i and the mean of the others with its label
    other_i    largest cosine between it and the mean of another label

Both gradients go through the inner steps (second order), for all tasks of a batch at once. Weights begin at 1, as MAML,
and have the mean 1, so that they cannot act as a rate of the inner steps.
Support examples without weights, or `weigher=None`, are MAML itself.

Source: Finn et al. 2017, arXiv 1703.03400 (MAML); Raghu et al. 2021, arXiv 2011.03037 (weights in its inner loop). What
the paper's network sees is not published; the two cosines are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from weigher.core.weights import normalise, safe_ratio
from weigher.errors import RequestError
from weigher.examples.commentaries import ExampleLoss, weight_head


@dataclass(frozen=True, eq=False, slots=True)
class Episodes:
    """Tasks of equal size: support and query examples with labels 0 ... ways - 1."""

    support_x: Tensor
    """[tasks, ways * shots, ...]"""
    support_y: Tensor
    """int64 [tasks, ways * shots]"""
    query_x: Tensor
    """[tasks, ways * queries, ...]"""
    query_y: Tensor
    """int64 [tasks, ways * queries]"""
    wrong: Tensor
    """Support examples whose label is not their own, bool [tasks, ways * shots]"""


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


def sample_episodes(
    classes: Sequence[Tensor],
    *,
    tasks: int,
    ways: int,
    shots: int,
    queries: int,
    generator: torch.Generator,
    wrong_shots: int = 0,
) -> Episodes:
    """Draw tasks: `ways` classes in random order, `shots` support and `queries` query examples of each.

    classes: for each class its examples `[m, ...]`. `wrong_shots` support examples of each class carry the label of the
    next class of the task, so that every label still has `shots` examples.

    Raises RequestError where there are too few classes, a class has too few examples, or 2 wrong_shots > shots: then
    most of a label's examples could be of another class.

    >>> found = sample_episodes(
    ...     [torch.zeros(3, 1), torch.ones(3, 1)], tasks=4, ways=2, shots=1, queries=2, generator=torch.Generator()
    ... )
    >>> found.support_x.shape, found.query_y[0].tolist()
    (torch.Size([4, 2, 1]), [0, 0, 1, 1])
    """
    if len(classes) < ways or ways < 2:
        raise RequestError(f"{ways} ways out of {len(classes)} classes: needed are 2 ways or more, and as many classes")
    for place, members in enumerate(classes):
        if len(members) < shots + queries:
            raise RequestError(
                f"class {place} has {len(members)} examples, and {shots} shots and {queries} queries need "
                f"{shots + queries}; give more of it, or ask for fewer"
            )
    if not 0 <= 2 * wrong_shots <= shots:
        raise RequestError(f"{wrong_shots} wrong of {shots} shots: needed is at most half, for most to be right")
    support, query = [], []
    for _ in range(tasks):
        chosen = torch.randperm(len(classes), generator=generator)[:ways].tolist()
        drawn = [classes[c][torch.randperm(len(classes[c]), generator=generator)[: shots + queries]] for c in chosen]
        support.append(torch.cat([d[:shots] for d in drawn]))
        query.append(torch.cat([d[shots:] for d in drawn]))
    own = torch.arange(ways).repeat_interleave(shots)
    wrong = torch.arange(shots).repeat(ways) < wrong_shots
    labels = torch.where(wrong, (own + 1) % ways, own)
    query_y = torch.arange(ways).repeat_interleave(queries)
    return Episodes(
        torch.stack(support),
        labels.expand(tasks, -1),
        torch.stack(query),
        query_y.expand(tasks, -1),
        wrong.expand(tasks, -1),
    )


def adapt_and_query(
    student: nn.Module,
    episodes: Episodes,
    loss: ExampleLoss,
    weigher: SupportWeights | None = None,
    *,
    lr: float = 0.1,
    steps: int = 3,
) -> tuple[Tensor, Tensor]:
    """Return the loss of each task's queries `[tasks]` and the outputs for them `[tasks, queries, c]`.

    Differentiable by the parameters of both modules, through the inner steps. Both need to work for one task under
    `torch.func.vmap`: no BatchNorm, no dropout. steps = 0: no adaptation.

    Raises RequestError where lr <= 0 or steps < 0.
    """
    if not lr > 0 or steps < 0:
        raise RequestError(f"lr = {lr}, steps = {steps}: needed are a rate above 0 and 0 or more inner steps")
    theta: dict[str, Tensor] = dict(student.named_parameters())

    def one(sx: Tensor, sy: Tensor, qx: Tensor, qy: Tensor) -> tuple[Tensor, Tensor]:
        weights = 1.0 if weigher is None else weigher(sx, sy)

        def inner(p: dict[str, Tensor]) -> Tensor:
            return (weights * loss(functional_call(student, p, (sx,)), sy)).mean()

        p = theta
        for _ in range(steps):
            slopes = grad(inner)(p)
            p = {name: x - lr * slopes[name] for name, x in p.items()}
        outputs = functional_call(student, p, (qx,))
        return loss(outputs, qy).mean(), outputs

    return vmap(one)(episodes.support_x, episodes.support_y, episodes.query_x, episodes.query_y)


def meta_train(
    student: nn.Module,
    loss: ExampleLoss,
    episodes: Iterator[Episodes],
    weigher: SupportWeights | None = None,
    *,
    meta_steps: int,
    meta_lr: float = 2e-3,
    lr: float = 0.1,
    steps: int = 3,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[float]:
    """Learn the student's start, and the weigher, in place (Adam); return the query loss of each step.

    Raises RequestError, naming the step, where the loss is not finite: the inner rate is too large.
    """
    modules = [student] if weigher is None else [student, weigher]
    adam = torch.optim.Adam([p for module in modules for p in module.parameters()], lr=meta_lr)
    losses = []
    for step in range(meta_steps):
        value = adapt_and_query(student, next(episodes), loss, weigher, lr=lr, steps=steps)[0].mean()
        if not bool(value.isfinite()):
            raise RequestError(f"step {step}: the loss after the inner steps is {value.item()}; give a smaller lr")
        adam.zero_grad()
        value.backward()
        adam.step()
        losses.append(value.item())
        if progress is not None:
            progress("meta-training", step + 1, meta_steps)
    return losses

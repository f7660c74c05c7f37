"""SwAV: a view of a thing is to predict to which prototypes another view of it was assigned, in equal shares.

    s_v = z_v c',   p_v = softmax(s_v / tau)                                        predictions of view v
    q_f = argmax_{Q >= 0} sum_ik w_i Q_ik (s_f)_ik + epsilon H(wQ),   sum_k Q_ik = 1,  sum_i w_i Q_ik = sum_i w_i / K
    l_i = mean_{f full} mean_{v != f} -sum_k q_f,ik log p_v,ik                      swapped prediction

z_v `[n, e]` unit rows of view v, c `[k, e]` unit prototypes (learned), w `[n]` how often a thing counts (1). The codes
q (`weigher.pairs.codes`) are constants of the gradient, made from the full views alone; small crops learn from them.
Every prototype gets an equal share of the batch, which keeps all of them from becoming one, without negatives.

Balance is one of codes, and a code is balanced also where all embeddings are alike. What tells a collapse is how many
prototypes are nearest to some row (`used_prototypes`), and a loss that stays at log k, that of knowing nothing.

Source: Caron, Misra, Mairal, Goyal, Bojanowski, Joulin 2020, arXiv 2006.09882. Unlike there: codes in the log domain,
at any scale of the scores and any epsilon; weights; codes and queue of all workers together; prototypes are made unit
where they are used, so that their gradient lies along the sphere; each view is a pass of the encoder of its own, where
the paper joins those of one size, so that batch norm goes by one view.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weigher.core.contrast import unit
from weigher.errors import RequestError
from weigher.pairs.checks import check_positive, check_views
from weigher.pairs.codes import balanced_codes, clean, imbalance, used_prototypes
from weigher.pairs.queue import EmbeddingQueue
from weigher.pairs.workers import everyones, mean_over_workers
from weigher.train.distribution import gather, rank

if TYPE_CHECKING:
    from jaxtyping import Float, Real

_STUCK = 0.99  # a loss above this share of log k: predictions say nothing


@dataclass(frozen=True)
class SwAVConfig:
    """Prototypes, how they are assigned and predicted, and for how long they are held."""

    prototypes: int = 64
    """Prototypes; a few times the kinds of things there are, and no more than rows of a batch and the queue."""
    embedding: int = 64
    """Numbers of an embedding."""
    temperature: float = 0.1
    """Temperature of the predictions."""
    epsilon: float = 0.05
    """Strength of the entropy of the codes; smaller is harder. The default suits a projection with batch norm; without
    it, embeddings start in a narrow cone, where codes as soft as that say nothing: take 0.01."""
    iterations: int = 3
    """Updates of the balance; 0 assigns each row for itself, which collapses."""
    hard: bool = False
    """Round codes to the most likely prototype."""
    full_views: int = 2
    """The first views, of full size: codes are made from these."""
    frozen_steps: int = 0
    """First steps during which prototypes stay as they were drawn; one epoch is usual."""
    queue: int = 0
    """Rows of earlier batches, of all workers, that are assigned together with a batch; for batches that are small."""
    queue_after: int = 0
    """Steps after which the queue is filled and used; early embeddings change too fast."""
    alarm_after: int = 100
    """Steps in a row that look collapsed before a warning is given; 0: never."""

    def __post_init__(self) -> None:
        check_positive(temperature=self.temperature, epsilon=self.epsilon)
        if min(self.prototypes, self.embedding, self.full_views) < 1:
            raise RequestError(
                f"prototypes = {self.prototypes}, embedding = {self.embedding}, full_views = {self.full_views}: each "
                "must be at least 1; without a full view there are no codes"
            )
        for name in ("iterations", "frozen_steps", "queue", "queue_after", "alarm_after"):
            if getattr(self, name) < 0:
                raise RequestError(f"{name} = {getattr(self, name)}: it must be at least 0")


class SwAVLoss(nn.Module):
    """The loss of two or more views as a module for `weigher.pairs.pretraining`; it holds prototypes and a queue.

    >>> loss = SwAVLoss(SwAVConfig(prototypes=4, embedding=4))
    >>> _ = loss.prototypes.data.copy_(torch.eye(4))
    >>> rows = torch.eye(4)
    >>> {name: round(value.item(), 3) for name, value in loss(rows, rows).items()}
    {'loss': 0.0, 'of_chance': 0.0, 'used': 4.0, 'imbalance': 0.0}
    """

    steps: Tensor
    stuck: Tensor

    def __init__(self, config: SwAVConfig | None = None, *, generator: torch.Generator | None = None):
        super().__init__()
        self.config = config or SwAVConfig()
        drawn = torch.randn(self.config.prototypes, self.config.embedding, generator=generator)
        self.prototypes = nn.Parameter(unit(drawn))
        queues = self.config.full_views if self.config.queue else 0
        self.queues = nn.ModuleList(EmbeddingQueue(self.config.queue, self.config.embedding) for _ in range(queues))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("stuck", torch.zeros((), dtype=torch.int64))

    def scores(self, embeddings: Float[Tensor, "n e"]) -> Float[Tensor, "n k"]:
        """Return the cosine of each row to each prototype; the highest names the row's cluster.

        Rows may lie on another device than the prototypes; cosines lie on that of the prototypes.

        Raises: RequestError for embeddings of another width than the prototypes.
        """
        return self._scores(unit(embeddings.to(self.prototypes.device)), unit(self.prototypes))

    def forward(self, *views: Float[Tensor, "n e"], weight: Real[Tensor, " n"] | None = None) -> Mapping[str, Tensor]:
        """Return the loss over the rows of all workers, and figures of how the prototypes are used.

        `of_chance` is the loss as a share of log k; `used` the effective number of prototypes that are nearest to a row
        of a full view; `imbalance` how far the prototypes' shares of the codes, those of the queue included, are from
        equal ones, in [0, 2).

        Shapes: each view `[n, e]` of any length, made unit here, those of full size first; weight `[n]` of the things.
        Raises: RequestError for less than two views or less than `full_views`, for views that differ in shape or hold
        what is not finite, for weights out of range, and where no row counts. Warns: of fewer rows, in a batch and the
        queue, than prototypes, and of a collapse.
        """
        config, step = self.config, int(self.steps)
        self._check(views, weight)
        frozen = self.training and step < config.frozen_steps
        prototypes = unit(self.prototypes.detach() if frozen else self.prototypes)
        own = [unit(view, weight=weight) for view in views]
        counted = torch.ones_like(own[0][:, 0]) if weight is None else weight.to(own[0].dtype)
        (*everyone, counts), offset = everyones(*(rows.detach() for rows in own[: config.full_views]), counted)
        if self.training:
            self._warn_of_few(int((counts > 0).sum()), step)  # rows of weight 0 are not there
        here = slice(offset, offset + len(counted))
        queues = self._queues() if step >= config.queue_after else []
        assigned = [
            self._assign(rows, counts, prototypes.detach(), queue)
            for rows, queue in zip(everyone, queues or [None] * len(everyone), strict=True)
        ]
        codes, scores = [q[here] for q, _ in assigned], [self._scores(rows, prototypes) for rows in own]
        each = swapped_prediction(codes, scores, temperature=config.temperature, weight=counted)
        loss = mean_over_workers(each, counted)
        with torch.no_grad():
            joint, twice = torch.cat(everyone), counts.repeat(len(everyone))
            used = used_prototypes(self._scores(joint, prototypes), weight=twice)
            level = gather(loss.detach()[None]).mean() / max(math.log(config.prototypes), torch.finfo(loss.dtype).tiny)
            uneven = torch.stack([imbalance(q, weight=counts_of_q) for q, counts_of_q in assigned]).mean()
        if self.training:
            for rows, queue in zip(everyone, queues, strict=False):
                queue.push(rows, counts)
            self.steps += 1
            self._watch(level, used, most=min(config.prototypes, int((twice > 0).sum())), frozen=frozen)
        return {"loss": loss, "of_chance": level, "used": used, "imbalance": uneven}

    def _queues(self) -> list[EmbeddingQueue]:
        return [queue for queue in self.queues if isinstance(queue, EmbeddingQueue)]

    def _assign(
        self, rows: Tensor, counts: Tensor, prototypes: Tensor, queue: EmbeddingQueue | None
    ) -> tuple[Tensor, Tensor]:
        """Return the codes and weights of the rows of all workers, and after them of what the queue holds."""
        together, weight = rows, counts
        if queue is not None and len(queue):
            together = torch.cat([rows, queue.rows().to(rows.dtype)])
            weight = torch.cat([counts, queue.weights().to(rows.dtype)])
        codes = balanced_codes(
            self._scores(together, prototypes),
            epsilon=self.config.epsilon,
            iterations=self.config.iterations,
            weight=weight,
        )
        return (F.one_hot(codes.argmax(-1), codes.shape[-1]).to(codes.dtype) if self.config.hard else codes), weight

    def _scores(self, rows: Tensor, prototypes: Tensor) -> Tensor:
        if rows.shape[-1] != prototypes.shape[-1]:
            raise RequestError(
                f"embeddings of {rows.shape[-1]} numbers and prototypes of {prototypes.shape[-1]}: give the loss "
                f"SwAVConfig(embedding={rows.shape[-1]})"
            )
        with torch.autocast(rows.device.type, enabled=False):  # of bfloat16, 1 / epsilon would leave two digits
            return rows @ prototypes.to(rows.dtype).T

    def _check(self, views: Sequence[Tensor], weight: Tensor | None) -> None:
        full = self.config.full_views
        if len(views) < max(2, full):
            raise RequestError(f"{len(views)} views of which the first {full} are full: at least {max(2, full)} needed")
        check_views(views, weight, least=1)

    def _warn_of_few(self, rows: int, step: int) -> None:
        """Warn, where a kind of batch begins, of less rows to assign than prototypes: a batch, then the queue, too."""
        config = self.config
        held = config.queue if step >= config.queue_after else 0
        begins = step == 0 or (config.queue > 0 and step == config.queue_after)
        if begins and rank() == 0 and rows + held < config.prototypes:
            beside = f" and a queue of {held}" if held else ""
            until = f" until the queue is used after {config.queue_after} steps" if config.queue > held else ""
            warnings.warn(
                f"a batch of {rows} rows{beside} for {config.prototypes} prototypes "
                f"({(rows + held) / config.prototypes:.2f} a prototype){until}: they cannot be used alike; take fewer, "
                f"larger batches, or a {'longer ' if held else ''}queue",
                stacklevel=3,
            )

    def _watch(self, level: Tensor, used: Tensor, *, most: int, frozen: bool) -> None:
        """Count the steps in a row that look collapsed, and warn once in a row of them."""
        after = self.config.alarm_after
        looks_so = (level > _STUCK) | (used < 1 + (most - 1) / 20)
        self.stuck.copy_((self.stuck + 1) * looks_so * (not frozen))
        if after and int(self.stuck) == after and rank() == 0:
            advice = (
                f"Lower epsilon ({self.config.epsilon:g}), keep the prototypes frozen for longer, or take milder "
                "views, fewer small crops, a shorter queue"
                if self.config.iterations
                else "Balance the codes: iterations = 3"
            )
            warnings.warn(
                f"SwAV has collapsed, or is about to: in {after} steps in a row the loss was that of knowing nothing, "
                f"or most rows shared a prototype. Now the loss is {float(level):.3f} of log {self.config.prototypes}, "
                f"and {float(used):.1f} of {most} prototypes are used. {advice}",
                stacklevel=3,
            )


def swapped_prediction(
    codes: Sequence[Float[Tensor, "*s n k"]],
    scores: Sequence[Float[Tensor, "*s n k"]],
    *,
    temperature: float = 0.1,
    weight: Real[Tensor, "*s n"] | None = None,
) -> Float[Tensor, "*s n"]:
    """Return how badly the other views of each thing predict the code of each full view.

        l_i = mean_f mean_{v != f} -sum_k q_f,ik log softmax_k(s_v,ik / tau)

    `codes` are those of the first views, `scores` those of all. Rows of weight 0 may hold anything; they get 0. Weights
    beyond that are for `balanced_codes`, and for the mean that follows.

    Shapes: codes and scores `[..., n, k]`, weight `[..., n]` -> `[..., n]`, in [0, inf), no less than the mean entropy
    of the codes. Its slope by the scores of view v is the sum over f != v of (p_v - q_f) / (tau F (V - 1)), for F codes
    and V views.
    Raises: RequestError for a temperature out of range, less than two views, no codes, more codes than views, and
    shapes that differ.

    >>> codes, scores = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.2, 0.1]])
    >>> swapped_prediction([codes, codes], [scores, scores])
    tensor([0.3133])
    """
    check_positive(temperature=temperature)
    if len(scores) < 2 or not 1 <= len(codes) <= len(scores):
        raise RequestError(f"{len(codes)} codes and scores of {len(scores)} views: at least 1 of 2 are needed")
    named = {f"codes {place}": given for place, given in enumerate(codes, 1)}
    named |= {f"scores of view {place}": given for place, given in enumerate(scores, 1)}
    for name, given in named.items():
        if given.shape != scores[0].shape:
            raise RequestError(
                f"{name} of shape {list(given.shape)}, those of view 1 {list(scores[0].shape)}: row i of all must be "
                "one thing"
            )
    logs = [(clean(one, weight)[0] / temperature).log_softmax(-1) for one in scores]
    total = torch.stack(logs).sum(0)
    parts = [(clean(q, weight)[0] * (total - own)).sum(-1) for q, own in zip(codes, logs, strict=False)]
    each = -torch.stack(parts).sum(0) / (len(codes) * (len(scores) - 1))
    if weight is not None:
        each = torch.where(weight > 0, each, 0)
    return each.to(scores[0].dtype)

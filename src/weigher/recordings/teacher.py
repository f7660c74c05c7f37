"""The teacher: on a training recording, its cast tells when each of its people speaks, with no times given.

The head learns to tell all C labels apart; the cast says which few can be there. Restricted to them and smoothed by a
sticky hidden Markov model, the head's evidence becomes near-certain frame posteriors:

    r_tc = log p(c | x_t) - log p(c)                              evidence of label c in frame t
    states: nobody, with constant evidence `threshold`, and every label of the cast
    P(s_t = s_{t-1}) = stay + (1 - stay) / k,    posteriors by forward-backward

At the start all evidence is nearly zero and every label of a cast gets an equal share: learning from that is learning
from partial labels, and what two recordings share is the only thing that explains both. Expectation-maximisation then
sharpens it. The weigher, the student, never sees a cast.

Symbols: evidence [b, t, c], cast int [b, m] (-1 where there is none), posteriors [b, t, 1 + m], nobody first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from weigher.core.weights import safe_ratio, widen
from weigher.errors import RequestError

_NEVER = -1e4  # log-evidence of a label that is not in the cast


@dataclass(frozen=True)
class TeacherConfig:
    """How the teacher reads the head."""

    stay_seconds: float = 1.3
    """Expected time between two draws of a new state."""
    temper: float = 0.5
    """Evidence is multiplied by this: neighbouring frames see overlapping stretches and are not independent."""
    threshold: float = 1.2
    """Evidence of nobody: a person has to be this much more likely than before looking (natural logarithm). Among few
    labels evidence is small, at most the logarithm of their number, and half of that is enough."""

    def __post_init__(self) -> None:
        if not (self.stay_seconds > 0 and self.temper > 0):
            raise RequestError(
                f"stay_seconds = {self.stay_seconds}, temper = {self.temper}; the teacher needs both above 0"
            )


def sticky_posteriors(evidence: Tensor, prior: Tensor, stay: float) -> Tensor:
    """Posterior of each state under a hidden Markov model that keeps its state with probability `stay`.

        P(s_1) = prior,   P(s_t | s_{t-1}) = stay [s_t = s_{t-1}] + (1 - stay) prior(s_t),   p(x_t | s) ∝ exp(evidence)

    Shapes: evidence [b, t, k] (finite), prior [b, k] summing to 1 (0 for a state that cannot be) -> [b, t, k] summing
    to 1 over k. Computed on the CPU, vectorised over the batch, O(b t k). Source: Rabiner 1989.

    >>> even = sticky_posteriors(torch.zeros(1, 3, 2), torch.tensor([[0.5, 0.5]]), stay=0.9)
    >>> even.tolist()
    [[[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]]
    """
    # what a state that cannot be would say must not push the others below the smallest number there is
    scores = evidence.detach().masked_fill((prior == 0)[:, None], _NEVER).double().cpu()
    likely = np.ascontiguousarray((scores - scores.amax(-1, keepdim=True)).exp().numpy().transpose(1, 0, 2))
    start = prior.detach().double().cpu().numpy()
    forward = np.empty_like(likely)
    state = start * likely[0] if len(likely) else start
    for t in range(len(likely)):
        if t:
            state = (stay * state + (1 - stay) * start) * likely[t]
        state = state / state.sum(-1, keepdims=True)
        forward[t] = state
    backward = np.ones_like(start)
    for t in range(len(likely) - 2, -1, -1):
        coming = backward * likely[t + 1]
        backward = stay * coming + (1 - stay) * (start * coming).sum(-1, keepdims=True)
        backward /= backward.sum(-1, keepdims=True)
        forward[t] *= backward
    forward /= forward.sum(-1, keepdims=True)
    return torch.from_numpy(forward.transpose(1, 0, 2)).to(evidence)


def label_evidence(logits: Tensor, share: Tensor) -> Tensor:
    """Evidence r = log p(c | x) - log p(c) of labels with prior shares: logits [b, t, c], share [c] -> [b, t, c].

    The head is trained with log p(c) added to its logits, so rare labels are not drowned by frequent ones.

    >>> label_evidence(torch.zeros(1, 1, 2), torch.tensor([0.5, 0.5])).tolist()
    [[[0.0, 0.0]]]
    """
    prior = share.clamp(min=1e-6).log()
    return torch.log_softmax(widen(logits) + prior, -1) - prior


def teach(
    logits: Tensor,
    cast: Tensor,
    share: Tensor,
    hop_seconds: float,
    config: TeacherConfig,
    *,
    sharpness: float = 1.0,
    with_nobody: bool = True,
    mask: Tensor | None = None,
) -> Tensor:
    """Posteriors of nobody and of each label of the cast, for every frame.

    Shapes: logits [b, t, c], cast int [b, m] (-1: none), share [c] -> [b, t, 1 + m]. `sharpness` in [0, 1] anneals
    the evidence; without nobody, its column is 0; frames outside `mask` bool [b, t] say nothing. A row without cast
    gives nobody 1.

    >>> logits = torch.tensor([[[4.0, 0.0, 0.0]] * 5])
    >>> cast = torch.tensor([[0, 2]])
    >>> teach(logits, cast, torch.full((3,), 1 / 3), 0.04, TeacherConfig(), with_nobody=False).argmax(-1).tolist()
    [[1, 1, 1, 1, 1]]
    """
    evidence = cast_evidence(label_evidence(logits, share), cast)
    present = cast >= 0
    nobody = torch.full_like(evidence[..., :1], min(config.threshold, math.log(len(share)) / 2))
    states = torch.cat([nobody, evidence], -1) * (config.temper * sharpness)
    if mask is not None:  # padding has no evidence for or against anybody
        states = states * mask[..., None]
    empty = ~present.any(1, keepdim=True)
    possible = torch.cat([empty | torch.full_like(empty, with_nobody), present], 1)
    prior = possible / possible.sum(1, keepdim=True)
    stay = 1 - min(1.0, hop_seconds / config.stay_seconds)
    return sticky_posteriors(states.masked_fill(~possible[:, None], _NEVER), prior, stay)


def cast_evidence(evidence: Tensor, cast: Tensor) -> Tensor:
    """Pick the evidence of the cast: [b, t, c], cast int [b, m] -> [b, t, m], far below all where the cast has -1.

    >>> cast_evidence(torch.tensor([[[1.0, 2.0]]]), torch.tensor([[1, -1]])).tolist()
    [[[2.0, -10000.0]]]
    """
    picked = evidence.gather(2, cast.clamp(min=0)[:, None].expand(-1, evidence.shape[1], -1))
    return picked.masked_fill((cast < 0)[:, None], _NEVER)


def partial_label_loss(logits: Tensor, cast: Tensor, posteriors: Tensor, share: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy of the head against the teacher, over frames where there is somebody.

        L = - sum_t sum_{c in cast} q_tc log softmax(z_t + log p)_c / sum_t sum_c q_tc

    Shapes: logits [b, t, c], cast [b, m], posteriors [b, t, 1 + m], share [c], mask bool [b, t] -> scalar. Source:
    logit adjustment as in Menon et al. 2021 (arXiv 2007.07314), progressive partial labels as in Lv et al. 2020
    (arXiv 2002.08053).

    >>> logits, cast = torch.tensor([[[50.0, 0.0]]]), torch.tensor([[0]])
    >>> there = torch.ones(1, 1, dtype=torch.bool)
    >>> partial_label_loss(logits, cast, torch.tensor([[[0.0, 1.0]]]), torch.tensor([0.5, 0.5]), there).item()
    -0.0
    """
    log_p = torch.log_softmax(widen(logits) + share.clamp(min=1e-6).log(), -1)
    picked = log_p.gather(2, cast.clamp(min=0)[:, None].expand(-1, logits.shape[1], -1))
    q = posteriors[..., 1:] * (mask[..., None] & (cast >= 0)[:, None])
    return -safe_ratio((q * picked).sum(), q.sum())


def label_shares(cast: Tensor, posteriors: Tensor, labels: int) -> Tensor:
    """Share of each label in what the posteriors assign: cast [b, m], posteriors [b, t, 1 + m] -> [c], sum 1.

    >>> label_shares(torch.tensor([[2, 0]]), torch.tensor([[[0.5, 0.25, 0.25]]]), 3).tolist()
    [0.5, 0.0, 0.5]
    """
    mass = posteriors[..., 1:].sum(1) * (cast >= 0)
    total = mass.new_zeros(labels).index_add(0, cast.clamp(min=0).flatten(), mass.flatten())
    return safe_ratio(total, total.sum())


def clear_frames(logits: Tensor, cast: Tensor, share: Tensor, hop_seconds: float, config: TeacherConfig) -> Tensor:
    """Say whose every frame clearly is: index into the cast, -1 nobody, -2 unclear (also where two may overlap).

    A frame is clear where the posterior is above 0.9 and, over the third of a second around it, the label's evidence
    leads that of every other label of the cast by 3 (natural logarithm). Shapes: logits [b, t, c], cast [b, m] -> int
    [b, t].

    >>> logits = torch.tensor([[[9.0, 0.0]] * 50])
    >>> cast, share = torch.tensor([[0, 1]]), torch.tensor([0.5, 0.5])
    >>> clear_frames(logits, cast, share, 0.04, TeacherConfig(threshold=0.1))[0, 25]
    tensor(0)
    """
    posteriors = teach(logits, cast, share, hop_seconds, config)
    width = 2 * round(0.17 / hop_seconds) + 1
    evidence = cast_evidence(label_evidence(logits, share), cast).mT
    around = F.avg_pool1d(F.pad(evidence, (width // 2, width // 2), mode="replicate"), width, 1).mT  # [b, t, m]
    likely, state = posteriors.max(-1)
    own = F.one_hot((state - 1).clamp(min=0), cast.shape[1]).bool()
    lead = (around * own).sum(-1) - around.masked_fill(own, _NEVER).amax(-1)
    clear = (likely > 0.9) & ((state == 0) | (lead > 3))
    return torch.where(clear, state - 1, -2)

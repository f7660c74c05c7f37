"""Losses over logits for any number of right answers among C classes, none of them reduced, and the reduction.

Which one when
    bce                   independent classes, calibrated probabilities; C - 1 easy negatives drown one positive
    class_balanced_bce    positives and negatives weigh alike, easy negatives still dilute the hard ones
    focal, asymmetric     easy elements fade by a power; two or three numbers to set
    softmax_cross_entropy classes compete: one answer, closed set
    wbce                  independent classes, the negatives weighted by how much they are believed; nothing to set

`bce`, `class_balanced_bce`, `focal` and `asymmetric` return one value per class, `[..., c]`: reduce them over classes
with `weighted_reduce(loss, weight, dim=-1)`. In `softmax_cross_entropy` and `wbce` the classes share one denominator,
so they return one value per slot, `[...]`. Targets are bool, or 1 for right and 0 for wrong. `weight` (real, broadcast
to `[..., c]`) says how often a class counts, see `weigher.core.weights`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from weigher.core.weights import apply_weight, log_softmax, safe_ratio, softmax, widen
from weigher.errors import RequestError

if TYPE_CHECKING:
    from jaxtyping import Float, Real, Shaped
    from torch import Tensor


def weighted_reduce(
    loss: Float[Tensor, "*s"],
    weight: Shaped[Tensor, "*w"] | None = None,
    dim: int | tuple[int, ...] | None = None,
) -> Float[Tensor, "*r"]:
    """Average losses under weights over `dim` (None: over everything).

        L = sum_i w_i l_i / sum_i w_i

    The denominator is the sum of the weights after they are broadcast to the shape of the loss, over the reduced axes
    alone: neither the size of the batch nor padding of weight 0 enters it, and without weights it is the number of
    elements. Where it is 0 the result is 0 with gradient 0. An infinite or undefined loss at weight 0 is removed (a
    gradient of 0 reaches it; what comes before it must not turn that into 0 * inf).

    Shapes: loss `[...]`, weight broadcasts to it -> loss without `dim`. Range: weight in [0, inf).
    Raises: RequestError where weight has another number of axes than loss.

    >>> loss = torch.tensor([[1.0, 4.0], [7.0, 7.0]])
    >>> weighted_reduce(loss, torch.tensor([[2.0, 1.0], [0.0, 0.0]]), dim=1).tolist()
    [2.0, 0.0]
    """
    wide, counted = apply_weight(loss, weight=weight)
    axes = tuple(range(wide.dim())) if dim is None else dim
    return safe_ratio((counted * wide).sum(axes), counted.sum(axes)).to(loss.dtype)


def bce(logits: Float[Tensor, "*s c"], targets: Shaped[Tensor, "*s c"]) -> Float[Tensor, "*s c"]:
    """Return the binary cross-entropy of every class: l_c = -y_c log p_c - (1 - y_c) log(1 - p_c), p = sigmoid(z).

    Shapes: logits z `[..., c]`, targets y `[..., c]` in [0, 1] (soft ones allowed) -> `[..., c]` in [0, inf).

    >>> [round(value, 4) for value in bce(torch.tensor([0.0, 2.0]), torch.tensor([1, 0])).tolist()]
    [0.6931, 2.1269]
    """
    z = widen(logits)
    y = targets.to(z.dtype)
    return (-y * F.logsigmoid(z) - (1 - y) * F.logsigmoid(-z)).to(logits.dtype)


def class_balanced_bce(
    logits: Float[Tensor, "*s c"],
    targets: Shaped[Tensor, "*s c"],
    *,
    weight: Real[Tensor, "*w"] | None = None,
) -> Float[Tensor, "*s c"]:
    """Return the cross-entropy of every class, scaled so that a slot's positives and negatives weigh alike.

        l_c = bce_c C / (k C_pos) for positives,  bce_c C / (k C_neg) for negatives

    C_pos and C_neg count the positive and negative classes of the slot (under `weight`), C is their sum, k how many of
    the two exist (1 or 2). The mean over classes is then (mean over positives + mean over negatives) / 2, or plain BCE
    where only one kind exists. For class frequencies over a whole data set pass a weight per class to
    `weighted_reduce` instead.

    Shapes: logits `[..., c]`, targets 0 or 1, weight `[..., c]` -> `[..., c]` in [0, inf).
    Source: the class balance of Xie, Tu 2015, arXiv 1504.06375, with the scale of BCE.

    >>> logits, targets = torch.zeros(4), torch.tensor([1, 0, 0, 0])
    >>> [round(value, 4) for value in (class_balanced_bce(logits, targets) / bce(logits, targets)).tolist()]
    [2.0, 0.6667, 0.6667, 0.6667]
    """
    z, counted = apply_weight(logits, weight=weight)
    positive = targets > 0.5
    of_positives = torch.where(positive, counted, 0).sum(-1, keepdim=True)
    of_negatives = torch.where(positive, 0, counted).sum(-1, keepdim=True)
    kinds = (of_positives > 0).to(z.dtype) + (of_negatives > 0)
    scale = safe_ratio(of_positives + of_negatives, kinds * torch.where(positive, of_positives, of_negatives))
    return (scale * bce(z, positive)).to(logits.dtype)


def focal(
    logits: Float[Tensor, "*s c"],
    targets: Shaped[Tensor, "*s c"],
    *,
    gamma: float = 2.0,
    alpha: float | None = 0.25,
) -> Float[Tensor, "*s c"]:
    """Return the focal loss of every class: elements that are already right fade.

        l_c = -a_c (1 - q_c)^gamma log q_c,   q = p and a = alpha for positives, 1 - p and 1 - alpha for negatives

    Shapes: logits `[..., c]`, targets 0 or 1 -> `[..., c]` in [0, inf). gamma in [0, inf), 0 is BCE; alpha in [0, 1],
    None leaves both sides at 1.
    Raises: RequestError for gamma or alpha out of range.
    Source: Lin, Goyal, Girshick, He, Dollár 2017, arXiv 1708.02002.

    >>> round(focal(torch.tensor([0.0]), torch.tensor([1])).item(), 4)
    0.0433
    """
    if gamma < 0 or (alpha is not None and not 0 <= alpha <= 1):
        raise RequestError(
            f"focal loss with gamma={gamma}, alpha={alpha}: gamma must be >= 0 and alpha in 0..1 or None"
        )
    z = widen(logits)
    positive = targets > 0.5
    towards_right = torch.where(positive, z, -z)
    # (1 - q)^gamma through its logarithm: no loss of digits where q is near 1, finite slope where it is near 0
    fade = (gamma * F.logsigmoid(-towards_right)).exp()
    side = 1.0 if alpha is None else torch.where(positive, alpha, 1 - alpha)
    return (-side * fade * F.logsigmoid(towards_right)).to(logits.dtype)


def asymmetric(
    logits: Float[Tensor, "*s c"],
    targets: Shaped[Tensor, "*s c"],
    *,
    gamma_positive: float = 0.0,
    gamma_negative: float = 4.0,
    margin: float = 0.05,
) -> Float[Tensor, "*s c"]:
    """Return the asymmetric loss (ASL) of every class: negatives fade faster than positives, very easy ones vanish.

        l_c = -(1 - p_c)^gamma_positive log p_c             for positives
        l_c = -r_c^gamma_negative log(1 - r_c)              for negatives,   r_c = max(p_c - margin, 0)

    Shapes: logits `[..., c]`, targets 0 or 1 -> `[..., c]` in [0, inf). Both gammas in [0, inf), margin in [0, 1);
    all 0 is BCE. The defaults are those the paper recommends; gradients flow through the fading factors, as in its
    analysis.
    Raises: RequestError for a gamma or margin out of range.
    Source: Ridnik et al. 2021, arXiv 2009.14119.

    >>> [round(value, 4) for value in asymmetric(torch.tensor([0.0, -3.0]), torch.tensor([0, 0])).tolist()]
    [0.0245, 0.0]
    """
    if min(gamma_positive, gamma_negative) < 0 or not 0 <= margin < 1:
        raise RequestError(
            f"asymmetric loss with gamma_positive={gamma_positive}, gamma_negative={gamma_negative}, margin={margin}: "
            "the gammas must be >= 0 and the margin in [0, 1)"
        )
    z = widen(logits)
    log_p, log_not_p = F.logsigmoid(z), F.logsigmoid(-z)
    loss_positive = -(gamma_positive * log_not_p).exp() * log_p
    shifted = z.sigmoid() - margin
    live = shifted > 0
    fade = (gamma_negative * torch.where(live, shifted, 1).log()).exp()
    # log(1 - p + margin), so that a certain wrong answer without margin gives |z| and not log 0
    log_not_shifted = torch.logaddexp(log_not_p, torch.tensor(margin, dtype=z.dtype, device=z.device).log())
    loss_negative = torch.where(live, -fade * log_not_shifted.clamp(max=0), 0)
    return torch.where(targets > 0.5, loss_positive, loss_negative).to(logits.dtype)


def softmax_cross_entropy(
    logits: Float[Tensor, "*s c"],
    targets: Shaped[Tensor, "*s c"],
    *,
    weight: Real[Tensor, "*w"] | None = None,
) -> Float[Tensor, "*s"]:
    """Return the cross-entropy of each slot's softmax, averaged over its right classes.

        L = -sum_c w_c y_c log p_c / sum_c w_c y_c,   p_c = exp z_c / sum_k w_k exp z_k

    Shapes: logits `[..., c]`, targets in [0, inf) (soft ones allowed), weight `[..., c]` -> `[...]` in [0, inf) for
    weights of at least 1. A slot without right classes gives 0: a softmax cannot say "none of them".

    >>> round(softmax_cross_entropy(torch.zeros(4), torch.tensor([1, 0, 0, 0])).item(), 4)
    1.3863
    """
    z, counted = apply_weight(logits, weight=weight)
    surprise = -log_softmax(z, -1, weight=counted)
    return weighted_reduce(surprise, counted * targets.to(z.dtype), -1).to(logits.dtype)


def wbce(
    logits: Float[Tensor, "*s c"],
    targets: Shaped[Tensor, "*s c"],
    *,
    weight: Real[Tensor, "*w"] | None = None,
    detach: bool = True,
) -> Float[Tensor, "*s"]:
    """Return the weighted binary cross-entropy of each slot: every negative counts as much as it is believed.

        L = mean_{c in P} -log p_c  +  sum_{c in N} p_c (-log(1 - p_c)) / sum_{c in N} p_c,     p = sigmoid(z)

    P and N are the slot's right and wrong classes (under `weight`); a side without classes gives 0. The second term is
    the self-weighted mean of `weigher.core.pooling` applied to negatives: hundreds of easy ones cannot drown the one
    positive, and a single hard one keeps its full size. This formula is the project's own derivation, not taken from a
    paper.

    It equals BCE for one class; is non-negative and 0 only at the right answer; needs no competition between classes
    (any set of right answers, also none, can reach 0); does not grow with the number of classes (a copy of every
    negative changes nothing); and its gradient vanishes at a confident right answer. The weights live in log space, so
    negatives whose p underflows still share weight 1.

    With `detach=True` the weights p_c / sum p are constants of the gradient, a_c p_c for negatives: none is ever pushed
    up. With `detach=False` the gradient is exact, a_c (p_c + (1 - p_c) (l_c - mean l)), and raises easy negatives to
    take weight off the hard ones. Either way p is not calibrated: a slot that knows nothing settles at 1/2, not at 1/C.

    Shapes: logits `[..., c]`, targets 0 or 1, weight `[..., c]` in [0, inf) -> `[...]` in [0, inf).

    >>> targets = torch.tensor([True, False, False])
    >>> round(wbce(torch.tensor([3.0, 2.0, -9.0]), targets).item(), 4)
    2.1752
    >>> round(bce(torch.tensor([3.0, 2.0, -9.0]), targets).mean().item(), 4)
    0.7252
    """
    z, counted = apply_weight(logits, weight=weight)
    positive = targets > 0.5
    log_p = F.logsigmoid(z)
    loss_positive = weighted_reduce(-log_p, torch.where(positive, counted, 0), -1)
    share = softmax(log_p, -1, ~positive, weight=counted)
    loss_negative = (-(share.detach() if detach else share) * F.logsigmoid(-z)).sum(-1)
    return (loss_positive + loss_negative).to(logits.dtype)

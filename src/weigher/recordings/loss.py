"""The set loss: slots are matched to the labels of a file, one to one; who is matched should be somebody.

    matching   Hungarian on  - log p(label | slot)  +  track cost where times are known
    matched    class loss of the slot's logits, confidence to 1
    unmatched  confidence to 0, tracks to 0
    tracks     binary cross-entropy of every round's tracks against who speaks when

In training from casts, the times are those of the conversations the teacher made possible
(`weigher.recordings.recompose`) or its posteriors. Classification and confidence are separate outputs, unlike DETR
(Carion et al. 2020, arXiv 2005.12872).

Symbols: labels int [b, m] (-1: none), activity [b, t, m] in [0, 1], tracks [b, t, n], class logits [b, n, c].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from weigher.core.losses import asymmetric, bce, class_balanced_bce, focal, softmax_cross_entropy, wbce
from weigher.core.matching import Matching, match
from weigher.core.weights import safe_ratio, widen
from weigher.recordings.weigher import Weighed

ClassLoss = Literal["wbce", "bce", "class-balanced", "focal", "asymmetric", "softmax"]


@dataclass(frozen=True)
class LossConfig:
    """How the parts of the loss weigh."""

    classes: ClassLoss = "bce"
    """Loss of a matched slot's logits against its label."""
    class_weight: float = 0.2
    """Weight of the class loss."""
    confidence_weight: float = 0.3
    """Weight of the confidence loss."""
    speech_weight: float = 1.0
    """Weight of telling speech from silence."""


def class_loss(kind: ClassLoss, logits: Tensor, labels: Tensor) -> Tensor:
    """Loss of each slot against its one label: logits [k, c], labels int [k] -> [k].

    >>> class_loss("wbce", torch.tensor([[30.0, -30.0]]), torch.tensor([0])).round().tolist()
    [0.0]
    """
    targets = F.one_hot(labels, logits.shape[-1])
    if kind == "wbce":
        return wbce(logits, targets)
    if kind == "softmax":
        return softmax_cross_entropy(logits, targets)
    if kind == "class-balanced":
        # the effective number of samples of a class is unknown here; every slot has one positive and c - 1 negatives
        return class_balanced_bce(logits, targets).sum(-1)
    if kind == "focal":
        return focal(logits, targets).sum(-1)
    if kind == "asymmetric":
        return asymmetric(logits, targets).sum(-1)
    return bce(logits, targets).sum(-1)


def track_cost(logits: Tensor, activity: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean binary cross-entropy of every slot against every label, and against silence.

    Shapes: logits [b, t, n], activity [b, t, m], mask bool [b, t] -> [b, n, m] and [b, n].

    >>> cost, silent = track_cost(torch.zeros(1, 4, 2), torch.ones(1, 4, 3), torch.ones(1, 4, dtype=torch.bool))
    >>> cost.shape, round(silent[0, 0].item(), 3)
    (torch.Size([1, 2, 3]), 0.693)
    """
    z = widen(logits)
    weight = mask.to(z.dtype) / mask.sum(1, keepdim=True).clamp(min=1)
    silent = (F.softplus(z) * weight[..., None]).sum(1)
    with torch.autocast(z.device.type, enabled=False):  # a difference of sums: half precision could make it negative
        # -log p - (-log(1 - p)) = -z: one matrix product gives all pairs
        return silent[:, :, None] - z.mT @ (activity.to(z.dtype) * weight[..., None]), silent


def set_loss(
    weighed: Weighed,
    class_logits: Tensor,
    labels: Tensor,
    activity: Tensor | None,
    config: LossConfig,
    *,
    matching: Callable[[Tensor, Tensor], Matching] = match,
) -> dict[str, Tensor]:
    """Compute the set loss of a batch, as scalars: loss, tracks, classes, confidence, speech.

    `activity` None: only the cast of each file is known. The order of labels does not matter, nor what stands in the
    activity of a label that is not there. `matching` pairs slots with labels, from costs [b, n, m] and the number of
    labels [b]. Raises RequestError for a file with more labels than slots.
    """
    present = labels >= 0
    order = present.int().argsort(dim=1, descending=True, stable=True)  # the labels that are there first
    labels, present = labels.gather(1, order), present.gather(1, order)
    log_p = F.logsigmoid(widen(class_logits))
    wanted = labels.clamp(min=0)[:, None].expand(-1, class_logits.shape[1], -1)
    cost = -config.class_weight * log_p.gather(2, wanted)
    pairs_by_round: list[tuple[Tensor, Tensor]] = []
    mask = weighed.frames.mask
    if activity is not None:
        activity = activity.gather(2, order[:, None].expand(-1, activity.shape[1], -1))
        activity = activity.masked_fill(~present[:, None], 0.0)
        pairs_by_round = [track_cost(logits, activity, mask) for logits in weighed.logits]
        cost = cost + pairs_by_round[0][0] + pairs_by_round[-1][0]
    found = matching(cost, present.sum(1))
    confidence = widen(weighed.confidence)
    somebody = torch.zeros_like(confidence).index_put((found.batch, found.slot), confidence.new_ones(()))
    chosen = widen(class_logits[found.batch, found.slot])
    answers = labels[found.batch, found.label]
    with torch.autocast(confidence.device.type, enabled=False):  # autocast refuses probabilities on a GPU
        certainty = F.binary_cross_entropy(confidence.clamp(1e-4, 1 - 1e-4), somebody)
    parts = {
        "classes": class_loss(config.classes, chosen, answers).sum() / max(1, len(answers)),
        "confidence": certainty,
    }
    loss = config.class_weight * parts["classes"] + config.confidence_weight * parts["confidence"]
    if activity is not None:
        tracks = cost.new_zeros(())
        for pair, silent in pairs_by_round:
            tracks = tracks + pair[found.batch, found.slot, found.label].sum() + (silent * (1 - somebody)).sum()
        anybody = activity.amax(2)
        speech = F.binary_cross_entropy_with_logits(widen(weighed.speech_logits), anybody, reduction="none")
        parts["tracks"] = tracks / len(labels)
        parts["speech"] = safe_ratio((speech * mask).sum(), mask.sum().to(speech.dtype))
        loss = loss + parts["tracks"] + config.speech_weight * parts["speech"]
    return {"loss": loss, **parts}

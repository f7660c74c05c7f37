"""Area under the margin: training examples whose margin stays low while a network learns are likely labelled wrong.

    m_i(t) = z_i[y_i] - max_{k != y_i} z_i[k]       margin of example i when it is seen the t-th time
    AUM_i  = mean over t of m_i(t)                  no further forward pass: the logits of training, before the step
    alpha  = 99th percentile of AUM over examples that were given a class C of their own: surely wrong
    flagged: AUM_i <= alpha

A right label is lifted by what is learned from its class-mates; a wrong one works against it. Pass r gives another
random set of examples, floor(N / (C + 1)) of them, the extra class; sets are disjoint, so that with two passes every
example has at least one AUM under its own label. Stop recording before the learning rate drops: from then on wrong
labels are learned by heart. Examples of a held-out set that slipped in cannot be told from others.

Where an example may have several labels, each membership has a margin of its own, z_k where k is said to be there and
-z_k where not: that of two classes, "there" and "not there". Their means rank all memberships; there is no cut-off,
for any set of labels is a possible one, and none is surely wrong.

Symbols: z logits [b, c], y labels int [b], ids int [b], N examples, C classes, R passes. Source: Pleiss, Zhang,
Elenberg, Weinberger 2020 (arXiv 2001.10528). Its code takes sets of floor(N / C), skips the first epoch and rounds
logits to half precision; here sets are the paper's, skipping is a setting, and nothing is rounded. Several labels are
this project's.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import nn

from weigher.core.margins import label_margin, multi_label_margin
from weigher.core.randomness import generator_for
from weigher.core.records import Records
from weigher.errors import RequestError
from weigher.train.distribution import gather

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

Combine = Literal["all", "any"]
Train = Callable[["Tensor", int, int], "Tensor"]
"""Maps (labels [N], outputs of the head, number of the pass) to the AUM [N] of one training run on these labels."""

PERCENTILE = 99.0


class AreaUnderMargin(nn.Module):
    """The mean margin of every training example, recorded as training goes.

    It is a module so that what was recorded is saved and resumed with the rest (`state_dict`). Every worker holds what
    all of them saw, so that it may be part of a model that is trained by several, and the state of one will do to
    resume them all. An example seen twice is counted twice, even in one batch.
    With `num_labels` an example has any set of so many labels, and each (example, label) a mean of its own.

    >>> aum = AreaUnderMargin(3)
    >>> aum.update(torch.tensor([[1.0, 2.0, 3.0], [6.0, 5.0, 4.0]]), torch.tensor([1, 0]), torch.tensor([2, 0]))
    >>> aum.update(torch.tensor([[7.0, 8.0, 9.0]]), torch.tensor([2]), torch.tensor([2]))
    >>> aum.records.mean().tolist()
    [1.0, nan, 0.0]
    >>> several = AreaUnderMargin(1, num_labels=2)
    >>> several.update(torch.tensor([[2.0, 3.0]]), torch.tensor([[True, False]]), torch.tensor([0]))
    >>> several.compute().tolist()
    [[2.0, -3.0]]
    """

    def __init__(
        self, num_samples: int, *, num_labels: int | None = None, skip_epochs: int = 0, ignore_index: int = -100
    ) -> None:
        """Take N examples, numbered 0 to N - 1; the first `skip_epochs` epochs are not recorded."""
        super().__init__()
        if skip_epochs < 0:
            raise RequestError(f"skip_epochs = {skip_epochs}; needed is 0 or more")
        if num_labels is not None and num_labels < 1:
            raise RequestError(f"num_labels = {num_labels}; needed is 1 or more, or None for one label an example")
        self.num_labels, self.skip_epochs, self.ignore_index = num_labels, skip_epochs, ignore_index
        self.records = Records(num_samples) if num_labels is None else Records(num_samples, num_labels)

    @torch.no_grad()
    def update(
        self,
        logits: Float[Tensor, "b c"],
        labels: Int[Tensor, " b"] | Bool[Tensor, "b c"],
        ids: Int[Tensor, " b"],
        *,
        epoch: int | None = None,
    ) -> None:
        """Record one batch: logits of the training step, the label each example is said to have, and its number.

        Give logits or log-softmax, not probabilities; with mixed or smoothed targets, the label of the example itself.
        Examples labelled `ignore_index` are left out. With `num_labels`, give the logits of sigmoids and for each
        whether its label is said to be there. `epoch`, counted from 0, is needed to skip epochs. With several workers
        all have to call it, each with its part of the batch, which may be empty. Raises RequestError (a
        ValueError), and records nothing, for logits that are not [b, c] with 2 classes or more, for logits or margins
        that are not finite, for labels and ids that do not fit, and for ids out of range.
        """
        if logits.dim() != 2:
            raise RequestError(f"logits have the shape {list(logits.shape)}; needed is [batch, classes]")
        self._check_fit(logits, labels, ids)
        if self.skip_epochs and epoch is None:
            raise RequestError(f"skip_epochs = {self.skip_epochs} needs to know the epoch; give epoch=0, 1, ...")
        if epoch is not None and epoch < self.skip_epochs:
            return
        labels, ids = labels.to(logits.device), ids.to(logits.device)
        if self.num_labels is None:
            heeded = labels != self.ignore_index
            logits, labels, ids = logits[heeded], labels[heeded], ids[heeded]
        _check_finite("logits", logits, ids)
        if self.num_labels is None:
            c = logits.shape[1]
            if len(labels) and not labels.is_floating_point() and int(labels.max()) == c:
                raise RequestError(
                    f"label {c} and a head of {c} outputs: the extra class of a threshold pass needs one output more, "
                    f"{c + 1} in all"
                )
            margins = label_margin(logits, labels)
        else:
            margins = multi_label_margin(logits, labels)
        _check_finite("margin", margins[:, None], ids)
        self.records.add(gather(ids), gather(margins))

    def _check_fit(self, logits: Tensor, labels: Tensor, ids: Tensor) -> None:
        """Check that there is a label, or a set of them, and an id for each row of logits."""
        told = f"labels are {labels.dtype} of shape {list(labels.shape)} for logits of shape {list(logits.shape)}"
        if self.num_labels is not None:
            if labels.dtype != torch.bool or not labels.shape == logits.shape == (len(ids), self.num_labels):
                raise RequestError(
                    f"{told} and {len(ids)} ids; needed are bool members and logits, {len(ids)} x {self.num_labels}"
                )
        elif labels.dtype == torch.bool and labels.dim() == 2:
            raise RequestError(f"{told}; for sets of labels make it with num_labels={logits.shape[1]}")
        elif labels.shape != ids.shape or labels.shape != logits.shape[:1]:
            raise RequestError(
                f"{told}, ids of shape {list(ids.shape)}; needed is one label and one id for each row of logits"
            )

    def compute(self) -> Float[Tensor, " n *c"]:
        """Return the AUM of every example [N], or membership [N, num_labels], float64, of all workers together.

        NaN (and a warning) where an example was never seen. Raises RequestError before anything was recorded.
        """
        records = self.records
        unseen = int((records.count == 0).sum())
        if unseen == len(records.count):
            raise RequestError("no margin was recorded yet; call update(logits, labels, ids) in every training step")
        if unseen:
            warnings.warn(f"{unseen} of {len(records.count)} examples were never seen; their AUM is NaN", stacklevel=2)
        return records.mean()


def _check_finite(name: str, values: Tensor, ids: Tensor) -> None:
    """Check values [b, ...] of these examples."""
    finite = torch.isfinite(values).flatten(1).all(1)
    if not finite.all():
        raise RequestError(
            f"not finite: the {name} of example {ids[~finite][0].item()}; one such value would spoil its mean for "
            "ever, so nothing of this batch was recorded"
        )


def check_cut(percentile: float, combine: Combine) -> None:
    """Raise RequestError for a percentile out of (0, 100], or for no known way to put the passes together."""
    if not 0 < percentile <= 100:
        raise RequestError(f"percentile = {percentile}; needed is a number above 0, at most 100")
    if combine not in get_args(Combine):
        raise RequestError(f"combine = {combine!r}; needed is 'all' or 'any'")


class ThresholdClass:
    """Labels for R passes; in each, another random set of floor(N / (C + 1)) examples is given the extra class C.

    >>> plan = ThresholdClass(torch.tensor([0, 1, 0, 1, 0, 1]), num_classes=2, passes=2, seed=0)
    >>> plan.labels(0).tolist(), int((plan.chosen(0) & plan.chosen(1)).sum())
    ([2, 1, 0, 1, 0, 2], 0)
    """

    def __init__(self, labels: Int[Tensor, " n"], num_classes: int, *, passes: int = 2, seed: int = 0) -> None:
        """Draw the sets; RequestError for labels out of 0..C - 1, or too few examples for R disjoint sets."""
        if labels.dim() != 1 or labels.is_floating_point() or labels.dtype == torch.bool:
            raise RequestError(f"labels are {labels.dtype} of shape {list(labels.shape)}; needed are whole numbers [N]")
        if num_classes < 2 or passes < 1:
            raise RequestError(f"num_classes = {num_classes}, passes = {passes}; needed are 2 or more, and 1 or more")
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
            raise RequestError(
                f"labels from {int(labels.min())} to {int(labels.max())}; needed are 0 to {num_classes - 1}"
            )
        size = len(labels) // (num_classes + 1)
        if size < 1 or size * passes > len(labels):
            raise RequestError(
                f"{len(labels)} examples of {num_classes} classes cannot give {passes} disjoint sets of "
                f"{max(size, 1)}, as large as a class; give more examples or fewer passes"
            )
        self.num_classes, self.passes = num_classes, passes
        self._labels = labels.detach().clone()
        order = torch.randperm(len(labels), generator=generator_for("threshold class", seed)).to(labels.device)
        self._sets = [order[size * r : size * (r + 1)] for r in range(passes)]

    def labels(self, number: int) -> Int[Tensor, " n"]:
        """Return the labels of a pass, counted from 0: the head needs C + 1 outputs."""
        return self._labels.index_fill(0, self._sets[number], self.num_classes)

    def chosen(self, number: int) -> Bool[Tensor, " n"]:
        """Return which examples have the extra class in a pass."""
        return torch.zeros_like(self._labels, dtype=torch.bool).index_fill(0, self._sets[number], True)

    def thresholds(
        self, aum: Float[Tensor, "r n"] | Sequence[Float[Tensor, " n"]], percentile: float = PERCENTILE
    ) -> Float[Tensor, " r"]:
        """Return alpha of each pass: that percentile (linear between two) of the AUM [R, N] of its extra class.

        Raises RequestError for a percentile out of (0, 100], an AUM of another shape, or an extra class never seen.
        """
        check_cut(percentile, "all")
        found = []
        for number, row in enumerate(self._table(aum)):
            extra = row[self.chosen(number)]
            extra = extra[~extra.isnan()]
            if not len(extra):
                raise RequestError(f"no example of the extra class was ever seen in pass {number}; train longer")
            found.append(torch.quantile(extra, percentile / 100))
        return torch.stack(found)

    def flag(
        self,
        aum: Float[Tensor, "r n"] | Sequence[Float[Tensor, " n"]],
        percentile: float = PERCENTILE,
        combine: Combine = "all",
    ) -> Bool[Tensor, " n"]:
        """Say which labels are likely wrong, from the AUM of every pass.

        A pass judges the examples that had their own label in it and were seen: AUM <= alpha. "all": flagged by every
        pass that judged it, as in the paper's code; "any": by one, which finds more and errs more. An example that no
        pass judged is not flagged.
        """
        check_cut(percentile, combine)
        alpha, aum = self.thresholds(aum, percentile), self._table(aum)
        judged = ~aum.isnan() & ~torch.stack([self.chosen(number) for number in range(self.passes)])
        low = judged & (aum <= alpha[:, None])
        return low.any(0) if combine == "any" else judged.any(0) & (low == judged).all(0)

    def _table(self, aum: Tensor | Sequence[Tensor]) -> Tensor:
        """AUM of the passes as one tensor [R, N]."""
        table = aum if torch.is_tensor(aum) else torch.stack(tuple(aum))
        if tuple(table.shape) != (self.passes, len(self._labels)):
            raise RequestError(
                f"AUM of shape {list(table.shape)}; needed is [passes, examples] = {[self.passes, len(self._labels)]}"
            )
        return table


@dataclass(frozen=True, eq=False)
class LabelErrors:
    """What the recipe found.

    flagged bool [N]: labels that are likely wrong; aum [N]: mean over the passes in which an example had its own label
    (the ranking: lowest first); thresholds [R] and per_pass [R, N]: alpha and AUM of each pass.
    """

    flagged: Tensor
    aum: Tensor
    thresholds: Tensor
    per_pass: Tensor

    def ranking(self) -> Int[Tensor, " n"]:
        """Return the examples, likeliest errors first; those never judged last."""
        return torch.where(self.aum.isnan(), math.inf, self.aum).argsort(stable=True)


def find_label_errors(
    train_fn: Train,
    labels: Int[Tensor, " n"] | Sequence[int],
    num_classes: int,
    *,
    passes: int = 2,
    percentile: float = PERCENTILE,
    combine: Combine = "all",
    seed: int = 0,
) -> LabelErrors:
    """Run the whole recipe but the last training: R threshold passes, their cut-offs, and the flags together.

    `train_fn(labels, outputs, number)` trains a new network with that many outputs (C + 1) on the labels of pass
    `number` and returns the AUM of each example (`AreaUnderMargin.compute`). Then train anew, with C outputs, on
    `~flagged`. Raises RequestError as `ThresholdClass`, and where `train_fn` gives anything but N numbers.

    >>> def train(labels, outputs, number):  # a network that knows: examples 0 to 4 are of class 0, the others of 1
    ...     truth = torch.arange(10) // 5
    ...     return torch.where(labels == truth, 5.0, -1.0)
    >>> find_label_errors(train, [0, 0, 1, 0, 0, 1, 1, 1, 1, 1], num_classes=2).flagged.nonzero()[:, 0].tolist()
    [2]
    """
    check_cut(percentile, combine)  # before hours of training
    labels = torch.as_tensor(labels)
    plan = ThresholdClass(labels, num_classes, passes=passes, seed=seed)
    rows = []
    for number in range(passes):
        found = torch.as_tensor(train_fn(plan.labels(number), num_classes + 1, number))
        if found.shape != labels.shape:
            raise RequestError(
                f"train_fn returned a tensor of shape {list(found.shape)}; needed is the AUM of each of the "
                f"{len(labels)} examples"
            )
        rows.append(found.to(labels.device, torch.float64))
    aum = torch.stack(rows)
    own = torch.stack([~plan.chosen(number) for number in range(passes)])
    flagged = plan.flag(aum, percentile, combine)
    mean = torch.where(own, aum, torch.nan).nanmean(0)
    return LabelErrors(flagged=flagged, aum=mean, thresholds=plan.thresholds(aum, percentile), per_pass=aum)

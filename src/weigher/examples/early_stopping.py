"""Stopping early where labels may be wrong: a rule that needs no right labels, and a record of what is memorised.

A wide network first fits the right labels, close to where it began, and has to travel far to fit the wrong ones.

    noisy = (1 - r) a + r (1 - a) / (c - 1)       accuracy on held-out labels of which a share r is wrong

    a         accuracy on the right labels; r < (c - 1) / c, with c classes and errors spread evenly over the others
    distance  |theta - theta_0| / |theta_0|, from the parameters at the beginning

The noisy accuracy rises with the true one, so the step that is best on noisy held-out labels is best on the right ones,
up to chance: the stopping rule needs no others. Errors that depend on the example are outside of this. The quantities
of the theory are in `weigher.examples.label_noise`.

Source: Li, Soltanolkotabi and Oymak 2020, arXiv 1903.11680. The rule (patience on noisy held-out labels) is practice;
the paper proves that a good step exists.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from weigher.core.randomness import generator_for
from weigher.errors import RequestError


def corrupt_labels(labels: Tensor, share: float, *, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return labels of which exactly round(share n) are another class, evenly drawn, and which those are, bool `[n]`.

    Raises RequestError for labels that are not int64 `[n]` in 0 ... classes - 1, a share outside [0, 1), and one of
    (classes - 1) / classes or more: then the right label is no longer the most frequent one.

    >>> given, wrong = corrupt_labels(torch.zeros(10, dtype=torch.int64), 0.3, classes=3, seed=0)
    >>> int((given != 0).sum()), bool(((given != 0) == wrong).all())
    (3, True)
    """
    if labels.dim() != 1 or labels.dtype != torch.int64:
        raise RequestError(f"labels of shape {list(labels.shape)} and type {labels.dtype}: needed are int64 [n]")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise RequestError(f"labels from {int(labels.min())} to {int(labels.max())}: needed are 0 to {classes - 1}")
    _check_share(share, classes)
    generator = generator_for("wrong labels", seed)
    wrong = torch.zeros(len(labels), dtype=torch.bool)
    wrong[torch.randperm(len(labels), generator=generator)[: round(share * len(labels))]] = True
    moved = torch.randint(1, max(classes, 2), (len(labels),), generator=generator)
    return torch.where(wrong, (labels + moved) % classes, labels), wrong


def noisy_accuracy(accuracy: float, share: float, *, classes: int) -> float:
    """Return the accuracy on labels of which a `share` is evenly wrong, for one who is right on a share `accuracy`.

    >>> round(noisy_accuracy(1.0, 0.3, classes=10), 3), round(noisy_accuracy(0.1, 0.3, classes=10), 3)
    (0.7, 0.1)
    """
    _check_share(share, classes)
    return (1 - share) * accuracy + share * (1 - accuracy) / (classes - 1)


def true_accuracy(noisy: float, share: float, *, classes: int) -> float:
    """Return the accuracy on right labels behind a noisy one: the inverse of `noisy_accuracy`.

    >>> round(true_accuracy(noisy_accuracy(0.8, 0.3, classes=10), 0.3, classes=10), 6)
    0.8
    """
    _check_share(share, classes)
    even = share / (classes - 1)
    return (noisy - even) / (1 - share - even)


@dataclass(frozen=True, slots=True)
class Moment:
    """What a network has learned at one step; accuracies in [0, 1], None where the right labels are not known."""

    step: int
    distance: float
    """|theta - theta_0| / |theta_0|"""
    given: float
    """Accuracy on the labels as given."""
    true: float | None
    """Accuracy on the right labels."""
    wrong_given: float | None
    """On wrongly labelled examples: share that repeats the wrong label, memorised."""
    wrong_true: float | None
    """On wrongly labelled examples: share that says the right label all the same."""


class MemorisationMonitor:
    """Records how far a network has moved from its beginning, and which labels it repeats.

    Made before training: it keeps a copy of the parameters that require a gradient, the start of all distances. A run
    that may be resumed saves it (`state_dict`). `labels` are the given ones `[n]`; `true_labels`, where they are known,
    tell memorised from learned. Raises RequestError where there is nothing to train, or labels differ in length.

    >>> model = nn.Linear(2, 2)
    >>> monitor = MemorisationMonitor(model, torch.tensor([0, 1]))
    >>> monitor.record(0, torch.tensor([0, 0]))
    Moment(step=0, distance=0.0, given=0.5, true=None, wrong_given=None, wrong_true=None)
    """

    def __init__(self, model: nn.Module, labels: Tensor, true_labels: Tensor | None = None) -> None:
        self.places = [p for p in model.parameters() if p.requires_grad]
        self.start = [p.detach().clone() for p in self.places]
        if not self.start:
            raise RequestError("the network has no parameters that require a gradient; nothing would move")
        if true_labels is not None and true_labels.shape != labels.shape:
            raise RequestError(f"{len(labels)} given labels and {len(true_labels)} right ones; needed are as many")
        self.labels, self.true_labels = labels, true_labels
        self.moments: list[Moment] = []

    def distance(self) -> float:
        """Return |theta - theta_0| / |theta_0|; infinite where it began at 0."""
        moved = math.sqrt(
            sum(float((p.detach() - s).square().sum()) for p, s in zip(self.places, self.start, strict=True))
        )
        size = math.sqrt(sum(float(s.square().sum()) for s in self.start))
        return moved / size if size else (math.inf if moved else 0.0)

    def record(self, step: int, predicted: Tensor) -> Moment:
        """Record a step from the predicted labels `[n]` of the training examples, and return what is recorded.

        Warns where the first record comes after step 0 and nothing has moved since the monitor was made: that is too
        late. One that was made late and has seen training since cannot be told from one that was made in time.
        """
        if predicted.shape != self.labels.shape:
            raise RequestError(f"{list(predicted.shape)} predictions for labels of shape {list(self.labels.shape)}")
        true = wrong_given = wrong_true = None
        if self.true_labels is not None:
            true = _share(predicted == self.true_labels)
            wrong = self.labels != self.true_labels
            if bool(wrong.any()):
                wrong_given = _share((predicted == self.labels)[wrong])
                wrong_true = _share((predicted == self.true_labels)[wrong])
        given, distance = _share(predicted == self.labels), self.distance()
        if not self.moments and step > 0 and distance == 0:
            warnings.warn(
                f"at step {step} the network stands where the monitor first saw it: make the monitor before training "
                "begins, or distances are not from its start",
                stacklevel=2,
            )
        self.moments.append(Moment(step, distance, given, true, wrong_given, wrong_true))
        return self.moments[-1]

    def state_dict(self) -> dict[str, Any]:
        """Return the start and the moments, for `torch.save` beside the model."""
        return {"start": self.start, "moments": [asdict(moment) for moment in self.moments]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state; RequestError where it is of another network."""
        shapes, saved = ([list(part.shape) for part in parts] for parts in (self.start, state["start"]))
        if shapes != saved:
            raise RequestError(f"the state is of parameters of shapes {saved}, and this network has {shapes}")
        self.start = [part.to(like) for part, like in zip(state["start"], self.start, strict=True)]
        self.moments = [Moment(**moment) for moment in state["moments"]]


class NoiseRobustStopping:
    """Says when to stop, from accuracy on held-out examples whose labels may be as wrong as those of training.

    Stops after `patience` checks without a better one, or beyond `most_distance` (of a monitor), and keeps the
    parameters and buffers of the best check. What is not a finite number is never best.

    >>> model, stopping = nn.Linear(2, 2), NoiseRobustStopping(patience=2)
    >>> [stopping.check(step, score, model) for step, score in enumerate([0.3, 0.5, 0.4, float("nan")])]
    [False, False, False, True]
    >>> stopping.best_step, stopping.best_score
    (1, 0.5)
    """

    def __init__(self, patience: int = 10, *, most_distance: float = math.inf) -> None:
        if patience < 1:
            raise RequestError(f"patience = {patience}: needed is 1 check or more")
        if not most_distance > 0:
            raise RequestError(f"most_distance = {most_distance}: needed is a share of |theta_0| above 0")
        self.patience, self.most_distance = patience, most_distance
        self.best_step: int | None = None
        self.best_score = -math.inf
        self.kept: dict[str, Tensor] = {}
        self.waited = 0

    def check(self, step: int, score: float, model: nn.Module, *, distance: float = 0.0) -> bool:
        """Take note of a score, higher is better, and say whether to stop."""
        if distance > self.most_distance:
            return True
        if math.isfinite(score) and score > self.best_score:
            self.best_step, self.best_score, self.waited = step, score, 0
            self.kept = {name: value.detach().clone() for name, value in model.state_dict().items()}
        else:
            self.waited += 1
        return self.waited >= self.patience

    def restore(self, model: nn.Module) -> None:
        """Give the model the parameters of the best check, bit for bit; RequestError where no check had a score."""
        if self.best_step is None:
            raise RequestError("no check had a finite score, so there is nothing to go back to")
        model.load_state_dict(self.kept)

    def state_dict(self) -> dict[str, Any]:
        """Return the best check and how long it has stood, for `torch.save` beside the model."""
        return {name: getattr(self, name) for name in ("best_step", "best_score", "kept", "waited")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.best_step, self.best_score = state["best_step"], state["best_score"]
        self.kept, self.waited = state["kept"], state["waited"]


def _share(right: Tensor) -> float:
    if not right.numel():
        raise RequestError("there are no examples to count; give at least one")
    return float(right.double().mean())


def _check_share(share: float, classes: int) -> None:
    if classes < 2:
        raise RequestError(f"classes = {classes}: labels can be wrong only where there are two or more")
    if not 0 <= share < 1:
        raise RequestError(f"a share of {share} wrong labels: needed is 0 or more, below 1")
    if share >= (classes - 1) / classes:
        raise RequestError(
            f"a share of {share:g} wrong labels among {classes} classes: the majority is wrong, and no method can tell "
            f"them; needed is less than {(classes - 1) / classes:g}"
        )

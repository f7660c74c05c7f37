"""What the study of the area under the margin does with one set, one kind of planted noise and one seed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from weigher.core.margins import label_margin
from weigher.core.randomness import generator_for
from weigher.examples.area_under_margin import ThresholdClass
from weigher.examples.early_stopping import corrupt_labels
from weigher.examples.suspects import SuspectConfig, Suspects, find_suspects, fit, logits_of, scaled
from weigher.io.image_sets import read_images
from weigher.studies.aum_names import (
    ACCURACY,
    ALL,
    ASYMMETRIC,
    AUM,
    AUROC,
    CLEANLAB,
    F1,
    FLAGGED,
    GAP,
    HELD_OUT,
    LAST,
    ORACLE,
    PRECISION,
    RECALL,
    STRICT,
    UNIFORM,
    World,
)
from weigher.studies.harness import Figures

CLASSES = 10
DROPS = (0.5, 0.75)


@dataclass(frozen=True, eq=False)
class Images:
    """Images [n, c, h, w] with right labels, to train on and to test."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


@dataclass(frozen=True, eq=False)
class Found:
    """What the picture needs of one run."""

    suspects: Suspects
    given: Tensor
    wrong: Tensor


def digits(train: int, test: int, seed: int) -> Images:
    """Return scikit-learn's digits, split anew for each seed."""
    from sklearn.datasets import load_digits

    images, labels = (np.asarray(part) for part in load_digits(return_X_y=True))
    return _split(torch.from_numpy(images).reshape(-1, 1, 8, 8).float(), labels, train, test, seed)


def mnist(path: Path, train: int, test: int, seed: int) -> Images:
    """Return a part of MNIST, split anew for each seed."""
    pixels, labels = read_images(path)
    return _split(torch.from_numpy(pixels).permute(0, 3, 1, 2).float(), labels, train, test, seed)


def cifar(path: Path, train: int, test: int, seed: int) -> Images:
    """Return a part of CIFAR-10: drawn from thrice as many for each seed to train on, the first of the test set."""
    pixels, labels = read_images(path / "train.parquet", 3 * train)
    test_pixels, test_labels = read_images(path / "test.parquet", test)
    chosen = np.random.default_rng(seed).permutation(len(labels))[:train]
    x, test_x = (torch.from_numpy(p).permute(0, 3, 1, 2).float() for p in (pixels[chosen], test_pixels))
    return Images(x, torch.from_numpy(labels[chosen]), test_x, torch.from_numpy(test_labels))


def planted(labels: Tensor, kind: str, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return labels of which exactly round(share n) are wrong, and which: any other class, or the next one.

    >>> given, wrong = planted(torch.tensor([0, 9, 4, 4]), "asymmetric", 0.5, 0)
    >>> int(wrong.sum()), bool((given[wrong] == (torch.tensor([0, 9, 4, 4])[wrong] + 1) % 10).all())
    (2, True)
    """
    given, wrong = corrupt_labels(labels, share, classes=CLASSES, seed=seed)
    if kind == ASYMMETRIC:
        return torch.where(wrong, (labels + 1) % CLASSES, labels), wrong
    if kind != UNIFORM:
        raise ValueError(f"noise {kind!r}; needed is {UNIFORM!r} or {ASYMMETRIC!r}")
    return given, wrong


def figures(images: Images, world: World, kind: str, share: float, seed: int) -> tuple[Figures, Found]:
    """Plant wrong labels, look for them in four ways, and train anew without what two of them flag."""
    config = replace(world.config, seed=seed)
    x, test_x = _scaled_alike(images.x, images.test_x)
    given, wrong = planted(images.y, kind, share, seed)
    found = find_suspects(images.x, given, CLASSES, config)
    last = found.margins[:, -1].double()
    plan = ThresholdClass(given, CLASSES, passes=config.passes, seed=seed)
    held = held_out_logits(x, given, config, world.folds)
    flagged, quality = by_cleanlab(held, given)
    beside = label_margin(held, given)
    told: Figures = {
        AUM: among(found.errors.flagged, -found.errors.aum, wrong),
        STRICT: among(plan.flag(found.errors.per_pass, world.strict), -found.errors.aum, wrong),
        LAST: among(plan.flag(last), -torch.where(found.chosen, torch.nan, last).nanmean(0), wrong),
        HELD_OUT: among(beside < 0, -beside, wrong),
        CLEANLAB: among(flagged, -quality, wrong),
    }
    if bool(wrong.any()):
        told[AUM][GAP] = threshold_gap(found, wrong)
    final = replace(config, epochs=world.final_epochs)
    for method, kept in ((AUM, ~found.errors.flagged), (CLEANLAB, ~flagged), (ALL, wrong | True), (ORACLE, ~wrong)):
        network = fit(x[kept], given[kept], CLASSES, final, seed=seed + 1000, drops=DROPS)
        right = (logits_of(network, test_x).argmax(1) == images.test_y).float().mean()
        told.setdefault(method, {})[ACCURACY] = 100 * float(right)
    return told, Found(found, given, wrong)


def held_out_logits(x: Tensor, given: Tensor, config: SuspectConfig, folds: int) -> Tensor:
    """Return logits [n, classes] of each example by a network that learned from the other folds."""
    order = torch.randperm(len(x), generator=generator_for("folds", config.seed))
    logits = torch.empty(len(x), CLASSES)
    for number, part in enumerate(order.tensor_split(folds)):
        others = torch.ones(len(x), dtype=torch.bool)
        others[part] = False
        network = fit(x[others], given[others], CLASSES, config, seed=config.seed + 100 + number)
        logits[part] = logits_of(network, x[part])
    return logits


def by_cleanlab(logits: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
    """Return what cleanlab flags, bool [n], and its score of each label [n], low where it is likely wrong."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    labels, probabilities = given.numpy(), logits.double().softmax(1).numpy()
    flagged = np.asarray(find_label_issues(labels, probabilities, n_jobs=1))
    return torch.from_numpy(flagged), torch.from_numpy(np.asarray(get_label_quality_scores(labels, probabilities)))


def among(flagged: Tensor, suspicion: Tensor, wrong: Tensor) -> dict[str, float]:
    """Return the share flagged and, where labels are wrong, precision, recall, F1 and the area under the ROC curve.

    Where nothing is flagged, precision counts as 0.

    >>> found = among(torch.tensor([True, True, False]), torch.tensor([3.0, 1.0, 2.0]), torch.tensor([True, False, 0]))
    >>> [round(value, 2) for value in found.values()]
    [66.67, 0.5, 1.0, 0.67, 1.0]
    """
    from sklearn.metrics import roc_auc_score

    wrong = wrong.bool()
    told = {FLAGGED: 100 * float(flagged.float().mean())}
    if bool(wrong.any()):
        hits = int((flagged & wrong).sum())
        told[PRECISION] = hits / max(int(flagged.sum()), 1)
        told[RECALL] = hits / int(wrong.sum())
        told[F1] = 2 * hits / (int(flagged.sum()) + int(wrong.sum()))
        told[AUROC] = float(roc_auc_score(wrong.numpy(), suspicion.numpy()))
    return told


def threshold_gap(found: Suspects, wrong: Tensor) -> float:
    """Return how far the mean AUM of threshold examples lies from that of wrong labels: 1 is as far as right ones."""
    every, own = found.errors.per_pass, ~found.chosen
    extra, bad, good = (float(every[part].mean()) for part in (found.chosen, own & wrong, own & ~wrong))
    return abs(extra - bad) / abs(good - bad)


def _scaled_alike(x: Tensor, test_x: Tensor) -> tuple[Tensor, Tensor]:
    """Scale the test images as those of training."""
    low, spread = float(x.double().mean()), float(x.double().std(correction=0))
    return scaled(x), ((test_x.double() - low) / spread).float()


def _split(x: Tensor, labels: np.ndarray, train: int, test: int, seed: int) -> Images:
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(x)))
    first, other, y = order[:train], order[train : train + test], torch.from_numpy(labels).long()
    return Images(x[first], y[first], x[other], y[other])

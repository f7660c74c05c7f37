"""Labelled data as a weighted set of points with classes: checked once, with every complaint in plain words."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weigher.errors import RequestError

_UNEQUAL = 1e3  # ratio of the widest to the narrowest, feature or set, from which they are said to differ in scale

Embed = Callable[[Any], Any]
"""Turns examples as they come into vectors [n, d]."""


@dataclass(frozen=True, eq=False)
class LabelledSet:
    """A labelled data set: every example counts with its weight, and none has the weight 0."""

    features: Tensor
    """float64 [n, d]; keeps its gradient."""
    label: Tensor
    """int64 [n], the place of each example's class in `classes`."""
    classes: tuple[Any, ...]
    """The labels as they were given, sorted."""
    weight: Tensor
    """float64 [n], sums to 1."""
    place: Tensor
    """int64 [n], which of the given examples each one is."""
    weighted: bool
    """Whether weights were given."""

    def __len__(self) -> int:
        return len(self.features)

    def only(self, chosen: Tensor) -> LabelledSet:
        """Return the examples at these places, equally weighted, with all classes that this set has."""
        equal = self.weight.new_full((len(chosen),), 1 / len(chosen))
        return LabelledSet(
            self.features[chosen], self.label[chosen], self.classes, equal, self.place[chosen], weighted=False
        )

    def at(self, features: Tensor) -> LabelledSet:
        """Return the same examples at other places, float64 [n, d]."""
        return replace(self, features=features)


def labelled_set(
    features: Any, labels: Any, *, weight: Any = None, name: str = "the data set", embed: Embed | None = None
) -> LabelledSet:
    """Check a data set: features [n, d] (more axes are flattened), labels [n] of integers or strings, weights [n].

    `embed` is applied to the features first. Examples of weight 0 are left out, whatever they hold. Tensors keep their
    device and gradient.
    Raises: RequestError for no examples, NaN or infinity, labels that are no list of classes, and wrong weights.

    >>> found = labelled_set([[0.0, 1.0], [2.0, 3.0]], ["b", "a"])
    >>> found.classes, found.label.tolist(), found.weight.tolist()
    (('a', 'b'), [1, 0], [0.5, 0.5])
    """
    x = embed(features) if embed is not None else features
    x = torch.as_tensor(x if isinstance(x, Tensor) else np.asarray(x, np.float64)).to(torch.float64)
    if x.dim() < 2 or x.numel() == 0:
        raise RequestError(f"{name} has features of shape {list(x.shape)}; needed are [examples, features], not empty")
    x = x.flatten(1)
    kinds = _labels(labels, len(x), name)
    w = torch.ones_like(x[:, 0]) if weight is None else torch.as_tensor(weight).to(x)
    w = w.detach()
    if w.shape != x.shape[:1] or not bool((w >= 0).all()) or not bool(w.isfinite().all()) or not bool(w.sum() > 0):
        raise RequestError(
            f"{name} has weights of shape {list(w.shape)}; needed is one finite number >= 0 for each of {len(x)} "
            "examples, and one above 0"
        )
    place = torch.arange(len(x), device=x.device)[w > 0]
    x, w, kinds = x[place], w[place], kinds[place.cpu().numpy()]
    wrong = int((~x.isfinite()).sum())
    if wrong:
        raise RequestError(f"{name} holds {wrong} features that are NaN or infinite; leave those examples out")
    classes, label = np.unique(kinds, return_inverse=True)
    return LabelledSet(
        x,
        torch.from_numpy(label.reshape(-1)).to(x.device),
        tuple(classes.tolist()),
        w / w.sum(),
        place,
        weight is not None,
    )


def unequal_scales(*sets: LabelledSet) -> str:
    """Return what to say where features of a set, or whole sets, differ in scale by more than 1000; else "".

    The widest would decide alone. The scale is the span of a feature's values (pixels at the border of images, rarely
    above 0, are no case of it), and of a set that of its widest feature.

    >>> unequal_scales(labelled_set([[0.0, 0.0], [1.0, 5000.0]], [0, 1]))[:33]
    'features span from 1 to 5e+03, so'
    >>> unequal_scales(labelled_set([[0.0, 3.0], [1.0, 3.0]], [0, 1]))
    ''
    """
    widths = []
    for data in sets:
        x = data.features.detach()
        spans = x.amax(0) - x.amin(0)
        spans = spans[spans > 0]
        if not len(spans):
            continue
        low, high = float(spans.min()), float(spans.max())
        if high > _UNEQUAL * low:
            return (
                f"features span from {low:.3g} to {high:.3g}, so that the widest decide the distance; standardise both "
                "sets with the same numbers"
            )
        widths.append(high)
    if widths and max(widths) > _UNEQUAL * min(widths):
        return (
            f"one data set spans {max(widths):.3g} and another {min(widths):.3g}: {max(widths) / min(widths):.3g} "
            "times as wide, as where pixels are 0 to 255 here and 0 to 1 there; standardise both sets"
        )
    return ""


def check_same_width(sets: Sequence[LabelledSet]) -> None:
    """Raise RequestError where two data sets differ in their number of features."""
    shapes = {tuple(one.features.shape[1:]) for one in sets}
    if len(shapes) > 1:
        told = " and ".join(str(list(one.features.shape)) for one in sets)
        raise RequestError(
            f"the data sets have features of shape {told}; distances need the same features on both sides: bring them "
            "there with `embed` (one network for both), or compare distances within each (Gromov-Wasserstein)"
        )


def stratified(data: LabelledSet, size: int, generator: np.random.Generator) -> LabelledSet:
    """Draw `size` examples by weight, each class with its share: every k-th along the sorted classes.

    An example's expected number of draws is size * weight, so the drawn ones weigh alike. A set that is not larger
    stays as it is.

    >>> data = labelled_set(np.arange(8.0)[:, None], [0, 0, 0, 0, 1, 1, 2, 2])
    >>> stratified(data, 4, np.random.default_rng(0)).label.tolist()
    [0, 0, 1, 2]
    """
    if len(data) <= size:
        return data
    shuffled = generator.permutation(len(data))
    label = data.label.cpu().numpy()
    order = shuffled[np.argsort(label[shuffled], kind="stable")]
    ends = np.cumsum(data.weight.cpu().numpy()[order])
    stops = (np.arange(size) + generator.uniform()) / size * ends[-1]
    chosen = order[np.minimum(np.searchsorted(ends, stops, side="right"), len(order) - 1)]
    return data.only(torch.from_numpy(np.sort(chosen)).to(data.features.device))


def cluster_labels(features: Any, classes: int, *, seed: int = 0) -> np.ndarray:
    """Make labels for a data set that has none: k-means (of 5 starts the tightest); int64 [n].

    Distances are then between clusters, and depend on how many there are; compare with label_weight 0.

    >>> found = cluster_labels([[0.0], [0.1], [9.0], [9.1]], 2)
    >>> bool(found[0] == found[1] != found[2] == found[3])
    True
    """
    from scipy.cluster.vq import kmeans2

    x = np.asarray(features, np.float64)
    x = x.reshape(len(x), -1)
    if not 1 <= classes <= len(x):
        raise RequestError(f"{classes} clusters of {len(x)} examples are asked for; needed are 1 to {len(x)}")
    best, tightest = np.zeros(len(x), np.int64), np.inf
    rng = np.random.default_rng(seed)
    for _ in range(5):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a cluster without examples: another start has none
            centres, label = kmeans2(x, classes, minit="++", rng=rng)
        loose = float(((x - centres[label]) ** 2).sum())
        if loose < tightest:
            best, tightest = label.astype(np.int64), loose
    return best


def _labels(labels: Any, count: int, name: str) -> np.ndarray:
    if labels is None:
        raise RequestError(f"{name} has no labels; make them with cluster_labels(features, classes), or from its files")
    found = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if found.ndim == 2:
        raise RequestError(
            f"{name} has labels of shape {list(found.shape)}; needed is one class each: labels.argmax(1)"
        )
    if found.ndim != 1 or len(found) != count:
        raise RequestError(f"{name} has {count} examples and labels of shape {list(found.shape)}; needed is one each")
    if found.dtype.kind not in "iubU":
        raise RequestError(
            f"{name} has labels of type {found.dtype}; needed are integers or strings: labels.astype(int) for classes "
            "stored as floats, numpy.digitize for a quantity"
        )
    return found

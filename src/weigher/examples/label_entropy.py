"""What an example leaves open about its label, and how much more of it an augmentation leaves open: H(Y|X), H(Y'|X).

    H(Y|X) = -sum_{x, y} p(x, y) log p(y | x)                 nats; 0: a model can know all labels by heart
    p(x, y') = sum_eps p(eps) p(x, {y: g(eps, y) = y'})       all keys of an augmentation counted

Tasks that are drawn are measured by counting (`label_table`); augmentations with countable keys exactly. Symbols: a
table [x, y] has a row for each example (or class) and a column for each label; eps keys, g the augmentation.
Source: Rajendran, Irpan and Jang 2020, arXiv 2007.05549, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor

from weigher.core.weights import entropy, normalise
from weigher.errors import RequestError

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped

    from weigher.examples.episodes import Episodes
    from weigher.examples.meta_augmentation import Augmentation


@runtime_checkable
class Countable(Protocol):
    """An augmentation with a number of keys, all equally likely."""

    def keys(self) -> Tensor:
        """Return them all: [k, ...]."""
        ...

    def apply(self, key: Tensor, y: Tensor) -> Tensor:
        """As `Augmentation.apply`."""
        ...


def conditional_entropy(joint: Float[Tensor, "x y"]) -> Float[Tensor, ""]:
    """Return H(Y|X) in nats, from 0 to log y: what knowing x leaves open about y.

        H(Y|X) = sum_x p(x) H(p(. | x))

    `joint` are probabilities or counts, >= 0, in any scale. Raises RequestError where all or any is not usable.

    >>> conditional_entropy(torch.eye(3)).item(), round(conditional_entropy(torch.ones(5, 2)).item(), 4)
    (0.0, 0.6931)
    """
    if joint.dim() != 2 or not bool((joint >= 0).all()) or not bool(joint.isfinite().all()) or not bool(joint.any()):
        raise RequestError(f"a table of shape {list(joint.shape)}; needed are counts [x, y] >= 0, not all 0")
    return (normalise(joint.sum(1), 0) * entropy(joint, 1)).sum()


def augmented_joint(
    joint: Float[Tensor, "x y"], values: Shaped[Tensor, " y"], augmentation: Augmentation
) -> Float[Tensor, "x z"]:
    """Return p(x, y') of the labels after an augmentation, all keys counted; columns are the distinct y', sorted.

    `values` are the y of the columns of `joint`. Values are the same where they agree to 9 digits.

    >>> from weigher.examples.meta_augmentation import Permute
    >>> augmented_joint(torch.eye(2), torch.tensor([0, 1]), Permute(2)).tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    """
    if not isinstance(augmentation, Countable):
        raise RequestError(f"{augmentation} has no keys() to be counted; use one with levels")
    keys = augmentation.keys()
    y = values.double() if values.is_floating_point() else values
    changed = augmentation.apply(keys, y.expand(len(keys), -1))
    changed = changed.round(decimals=9) if changed.is_floating_point() else changed
    found, place = torch.unique(changed, return_inverse=True)
    share = joint / len(keys)
    result = joint.new_zeros(len(joint), len(found))
    for columns in place:
        result.index_add_(1, columns, share)
    return result


def entropy_gain(joint: Float[Tensor, "x y"], values: Shaped[Tensor, " y"], augmentation: Augmentation) -> float:
    """Return H(Y'|X) - H(Y|X) in nats: how many nats a task's support set has to tell.

    >>> import math
    >>> from weigher.examples.meta_augmentation import DiscreteShift, Permute
    >>> table, y = torch.eye(3).double(), torch.arange(3)
    >>> for augmentation, labels in ((Permute(3), y), (DiscreteShift(2, 0.5), y.double())):
    ...     print(round(math.exp(entropy_gain(table, labels, augmentation)), 6))
    3.0
    2.0
    """
    return float(conditional_entropy(augmented_joint(joint, values, augmentation)) - conditional_entropy(joint))


def label_table(episodes: Sequence[Episodes]) -> Float[Tensor, "x y"]:
    """Count how often each example (or class, by `support_id` and `query_id`) is shown under each label.

    `conditional_entropy` of it estimates H(Y|X) of a way to make tasks, from below where examples are seen seldom.
    Raises RequestError for episodes without ids, or with real targets.

    >>> y, ids = torch.tensor([[0, 1], [1, 0]]), torch.tensor([[4, 7], [4, 7]])
    >>> from weigher.examples.episodes import Episodes
    >>> label_table([Episodes(y, y, y, y, ids, ids)]).tolist()
    [[2.0, 2.0], [2.0, 2.0]]
    """
    ids, labels = [], []
    for one in episodes:
        if one.support_id is None or one.query_id is None or one.support_y.is_floating_point():
            raise RequestError("a table of labels needs episodes with support_id and query_id, and whole labels")
        ids += [one.support_id.flatten(), one.query_id.flatten()]
        labels += [one.support_y.flatten(), one.query_y.flatten()]
    if not ids:
        raise RequestError("no episode was given; needed is one or more")
    names, row = torch.unique(torch.cat(ids), return_inverse=True)
    column = torch.cat(labels)
    table = torch.zeros(len(names), int(column.max()) + 1, dtype=torch.float64, device=row.device)
    return table.index_put((row, column), torch.ones_like(row, dtype=torch.float64), accumulate=True)

"""How good features are that were learned without labels: linear probe, nearest neighbours, few labels.

    linear probe    multinomial logistic regression on frozen features: min sum CE + ||W||^2 / (2 C)
    k-NN            the label that most of the k nearest training rows (by cosine) have
    few labels      the linear probe on some rows of each class, the mean over several draws of them

Features are centred, and scaled by one number for all of them: what an encoder has made small stays small, which counts
with few labels. With many labels even random convolutions do well on small images: compare encoders by few.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weigher.core.contrast import unit
from weigher.errors import RequestError
from weigher.pairs.checks import check_rows

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from weigher.pairs.pretraining import ImageEncoder

_ROWS = 512  # images, or rows to find neighbours of, at a time
_BEYOND = 2.0  # how far outside of 0 to 1 images may lie before it is said: those made to have a mean of 0 still do


class TooFewError(RequestError):
    """Too few rows or classes to take some away and ask about them."""


@torch.no_grad()
def encode(
    encoder: ImageEncoder, images: Float[Tensor, "n c h w"], *, embeddings: bool = False
) -> Float[Tensor, "n f"]:
    """Return the features of images, or with `embeddings` what the projection makes of them, in evaluation mode.

    Raises RequestError for other axes, another number of colours, whole numbers, NaN and infinity. Warns of images far
    outside of 0 to 1, where those of `weigher pretrain` lie: the card of an encoder tells what became 0 and 1.

    >>> from weigher.pairs.pretraining import ImageEncoder
    >>> encode(ImageEncoder(), torch.zeros(3, 1, 8, 8)).shape
    torch.Size([3, 256])
    """
    _check_images(images, encoder.config.colours)
    was_training = encoder.training
    encoder.eval()
    weight = next(encoder.parameters())
    call = encoder if embeddings else encoder.features
    found = torch.cat([call(part.to(weight)).cpu() for part in images.split(_ROWS)])
    encoder.train(was_training)
    return found


def _check_images(images: Tensor, colours: int) -> None:
    if not isinstance(images, Tensor) or images.dim() != 4 or not images.is_floating_point() or not len(images):
        given = f"{images.dtype} {list(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise RequestError(
            f"images are a floating tensor [n, colours, height, width], given are {given}: torch.from_numpy makes a "
            "tensor of an array, [:, None] adds the axis of grey, bytes are divided by 255"
        )
    if images.shape[1] != colours:
        raise RequestError(f"images of {images.shape[1]} colours for an encoder of {colours}; convert them")
    check_rows(images, torch.ones(len(images), dtype=torch.bool, device=images.device), "the images")
    least, most = float(images.min()), float(images.max())
    if least < -_BEYOND or most > 1 + _BEYOND:
        warnings.warn(
            f"images from {least:g} to {most:g}; an encoder of `weigher pretrain` was taught on 0 to 1: scale them as "
            "its card says",
            stacklevel=4,  # beyond the decorator of `encode`
        )


@dataclass(frozen=True)
class LinearProbe:
    """A fitted logistic regression: W `[f, c]`, b `[c]`, over features less `centre` `[f]`, divided by `scale` `[]`."""

    centre: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor

    def logits(self, features: Float[Tensor, "n f"]) -> Float[Tensor, "n c"]:
        """Return the logits of classes 0 to c - 1."""
        return (features.double() - self.centre) / self.scale @ self.weight + self.bias

    def accuracy(self, features: Float[Tensor, "n f"], labels: Int[Tensor, " n"]) -> float:
        """Return the share of rows whose label has the highest logit."""
        _check_labelled(features, labels)
        return float((self.logits(features).argmax(1) == labels).double().mean())


def linear_probe(features: Float[Tensor, "n f"], labels: Int[Tensor, " n"], *, strength: float = 1.0) -> LinearProbe:
    """Fit the linear probe by L-BFGS, in float64, to the end.

    Shapes: features `[n, f]`, labels `[n]` from 0. `strength` is C, the inverse of the penalty, in (0, inf).
    Raises: RequestError for no rows, labels of another number, or below 0, and features that are not finite.

    >>> x = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]])
    >>> linear_probe(x, torch.tensor([0, 0, 1, 1])).accuracy(x, torch.tensor([0, 0, 1, 1]))
    1.0
    """
    _check_labelled(features, labels)
    x = features.detach().double()
    centre = x.mean(0)
    spread = (x - centre).square().mean().sqrt()
    scale = torch.where(spread > 0, spread, 1)  # one row has no spread
    x = (x - centre) / scale
    classes = int(labels.max()) + 1
    weight = nn.Parameter(x.new_zeros(x.shape[1], classes))
    bias = nn.Parameter(x.new_zeros(classes))
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=300, tolerance_grad=1e-5, tolerance_change=1e-9, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        solver.zero_grad()
        fitted = F.cross_entropy(x @ weight + bias, labels, reduction="sum")
        value = fitted + weight.square().sum() / (2 * strength)
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(closure)
    return LinearProbe(centre, scale, weight.detach(), bias.detach())


@torch.no_grad()
def nearest_labels(
    features: Float[Tensor, "n f"],
    labels: Int[Tensor, " n"],
    queries: Float[Tensor, "q f"] | None = None,
    *,
    k: int = 5,
) -> Int[Tensor, " q"]:
    """Return the label of most of the k nearest rows, by cosine; among equal votes that of the nearer rows.

    Without `queries` every row is asked about itself, and it is not among its own neighbours.

    Raises: RequestError where there are no k rows to be near, and otherwise as `linear_probe`.

    >>> rows = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    >>> nearest_labels(rows, torch.tensor([7, 7, 3]), torch.tensor([[1.0, 0.2]]), k=2).tolist()
    [7]
    """
    alone = queries is None
    if not 1 <= k <= len(features) - alone:
        raise RequestError(f"{k} nearest of {len(features) - alone} rows; give k from 1 to that number")
    _check_labelled(features, labels)
    if queries is not None:
        check_rows(queries, torch.ones(len(queries), dtype=torch.bool), "the queries")
    rows, asked = unit(features), unit(features if queries is None else queries)
    found = []
    for start in range(0, len(asked), _ROWS):
        near = asked[start : start + _ROWS] @ rows.T
        if alone:
            near.diagonal(offset=start).fill_(-torch.inf)
        cosine, place = near.topk(k)
        votes = near.new_zeros(len(near), int(labels.max()) + 1)
        # a vote is 1; the cosines, in all less than half a vote, part equal votes
        votes.scatter_add_(1, labels[place], 1 + cosine / (2 * k + 1))
        found.append(votes.argmax(1))
    return torch.cat(found)


def _check_labelled(features: Tensor, labels: Tensor) -> None:
    if len(features) != len(labels) or not len(labels) or int(labels.min()) < 0:
        raise RequestError(f"{len(features)} rows of features and {len(labels)} labels: one label from 0 for each")
    # of NaN the first class would be the answer, and a dead encoder look like one that has learned nothing
    check_rows(features, torch.ones_like(labels, dtype=torch.bool), "the features")


def few_labels(
    train: tuple[Float[Tensor, "n f"], Int[Tensor, " n"]],
    test: tuple[Float[Tensor, "m f"], Int[Tensor, " m"]],
    per_class: int,
    generator: np.random.Generator,
    *,
    draws: int = 5,
) -> float:
    """Return the accuracy on `test` of a linear probe that has seen `per_class` labels of each class, over `draws`.

    `train` and `test` are (features, labels). Raises: RequestError where a class has fewer rows.

    >>> x, y = torch.eye(2).repeat(4, 1), torch.tensor([0, 1]).repeat(4)
    >>> few_labels((x, y), (x, y), 1, np.random.default_rng(0), draws=2)
    1.0
    """
    features, labels = train
    classes, counts = labels.unique(return_counts=True)
    if int(counts.min()) < per_class or per_class < 1:
        raise RequestError(f"{per_class} labels of each class are asked for, and one class has {int(counts.min())}")
    figures = []
    for _ in range(draws):
        places = [(labels == c).nonzero()[:, 0].numpy() for c in classes]
        chosen = torch.from_numpy(
            np.concatenate([generator.choice(place, per_class, replace=False) for place in places])
        )
        figures.append(linear_probe(features[chosen], labels[chosen]).accuracy(*test))
    return float(np.mean(figures))


def probed(
    features: Float[Tensor, "n f"], labels: Int[Tensor, " n"], seed: int = 0, *, per_class: int = 10, k: int = 5
) -> dict[str, float]:
    """Return three accuracies on a fifth of the rows, by the labels of the others (per class: as many as there are).

    Raises: TooFewError where there are less than 10 rows, or no two classes among those that labels are taken from.

    >>> x, y = torch.eye(2).repeat(10, 1), torch.tensor([0, 1]).repeat(10)
    >>> probed(x, y, per_class=3)
    {'linear probe': 1.0, '5 nearest neighbours': 1.0, '3 labels of each class': 1.0}
    """
    generator = np.random.default_rng(seed)
    order = torch.from_numpy(generator.permutation(len(features)))
    train, test = order[len(order) // 5 :], order[: len(order) // 5]
    classes, counts = labels[train].unique(return_counts=True)
    if len(features) < 10 or len(classes) < 2:
        raise TooFewError(f"{len(features)} rows of {len(labels.unique())} classes: 10 rows and 2 classes are needed")
    x, y, asked, told = features[train], labels[train], features[test], labels[test]
    few, near = min(per_class, int(counts.min())), min(k, len(x))
    by_neighbours = nearest_labels(x, y, asked, k=near)
    return {
        "linear probe": linear_probe(x, y).accuracy(asked, told),
        f"{near} nearest neighbour{'s' * (near > 1)}": float((by_neighbours == told).double().mean()),
        f"{few} label{'s' * (few > 1)} of each class": few_labels((x, y), (asked, told), few, generator),
    }

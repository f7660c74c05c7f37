"""Commentaries: what a teacher says about training examples, learned so that a student trained with it does well.

    phi = argmin_phi L_V(theta(phi), phi),   theta(phi) = what training on L_T(., phi) gives         (`teaching.teach`)

    weights    L_T = (1/b) sum_i w_i l_i,   w_i = 2 sigmoid(g_i)                    `ExampleWeights`, `WeightNet`
    mixing     x'_i = a x_i + (1 - a) x_j,   a = 1 - sigmoid(g_ij) / 2,
               L_T = (1/b) sum_i a l(x'_i, y_i) + (1 - a) l(x'_i, y_j)              `PairMixer`, `PairNet`
    masks      x'_i = m_i x_i + (1 - m_i) background,   m_i = sigmoid(g_i)          `Masks`, `MaskNet`

    g          what is learned: a table (one entry for each example, or pair of classes), or a network of the example
               (and of its label, and of how far training is)
    l          the student's loss for each example [b]; j is a random partner of i in its batch
    L_V        plain mean of l on held-out examples; with masks these are masked too

Weights begin at exactly 1, so that training begins as plain training; the paper's sigmoid is half of ours. A network
that sees the time is a curriculum. Any module may be a commentary: derive from `Commentary`.

Source: Raghu, Raghu, Kornblith, Duvenaud and Hinton 2021, "Teaching with commentaries", arXiv 2011.03037. There
the time is one more channel of the image; here it joins the embedding, so that the network may be any encoder.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from weigher.core.losses import weighted_reduce
from weigher.errors import RequestError, WeigherError

Predict = Callable[[Tensor], Tensor]
"""The student with its parameters: inputs [b, ...] -> outputs."""
ExampleLoss = Callable[[Tensor, Tensor], Tensor]
"""(outputs, targets) -> loss of each example [b], not reduced."""


class CommentaryError(WeigherError):
    """A commentary that has come to nothing, such as weights that are all 0."""


@dataclass(frozen=True, eq=False, slots=True)
class Batch:
    """Some examples and when they are trained on."""

    x: Tensor
    """Inputs [b, ...]."""
    y: Tensor
    """Targets [b, ...]."""
    ids: Tensor
    """Places of the examples in their data set, int64 [b] (in the held-out set for held-out examples)."""
    time: float = 0.0
    """How far training is, from 0 to 1."""
    held_out: bool = False
    """Whether these are held-out examples, which measure the student."""
    generator: torch.Generator | None = None
    """What random partners are drawn from."""


class Commentary(nn.Module, ABC):
    """Something learned that shapes a student's training loss; its parameters are phi.

    A class of your own defines `training_loss`, and `held_out_loss` where held-out examples are changed too.
    """

    def forward(self, batch: Batch, predict: Predict, loss: ExampleLoss) -> Tensor:
        """Return the loss of a batch, a scalar."""
        return (self.held_out_loss if batch.held_out else self.training_loss)(batch, predict, loss)

    @abstractmethod
    def training_loss(self, batch: Batch, predict: Predict, loss: ExampleLoss) -> Tensor:
        """Return L_T of a batch."""

    def held_out_loss(self, batch: Batch, predict: Predict, loss: ExampleLoss) -> Tensor:
        """Return L_V of a batch: the plain mean."""
        return each_loss(predict(batch.x), batch.y, loss).mean()


class _Weights(Commentary):
    """Commentaries that say one weight for each example."""

    def __init__(self, *, normalised: bool) -> None:
        super().__init__()
        self.normalised = normalised

    @abstractmethod
    def logits(self, batch: Batch) -> Tensor:
        """Return g, one number for each example `[b]`."""

    def weights(self, batch: Batch) -> Tensor:
        """Return the weight of each example `[b]`, in (0, 2)."""
        return self._of(self.logits(batch))

    def _of(self, g: Tensor) -> Tensor:
        # a sum that is divided out would let all logits drift to where a sigmoid has no slope
        return 2 * (g - g.mean() if self.normalised else g).sigmoid()

    def training_loss(self, batch: Batch, predict: Predict, loss: ExampleLoss) -> Tensor:
        """Return the weighted mean."""
        return weighted_mean_loss(
            each_loss(predict(batch.x), batch.y, loss), self.weights(batch), normalised=self.normalised
        )


class ExampleWeights(_Weights):
    """One learned weight for each of `count` training examples: a table, by place.

    normalised: g less its mean over the batch, and the loss divided by the sum of the weights instead of b, so that
    weights cannot change the student's rate.

    >>> commentary = ExampleWeights(3)
    >>> commentary.table().tolist()
    [1.0, 1.0, 1.0]
    """

    def __init__(self, count: int, *, normalised: bool = False) -> None:
        if count < 1:
            raise RequestError(f"count = {count}: needed is the number of training examples")
        super().__init__(normalised=normalised)
        self.logit = nn.Parameter(torch.zeros(count))

    def logits(self, batch: Batch) -> Tensor:
        """Return g of the batch's examples."""
        return self.logit[batch.ids]

    def table(self) -> Tensor:
        """Return the weights of all examples `[count]`, in (0, 2); 1: as if there were no weights."""
        return self._of(self.logit.detach())


class WeightNet(_Weights):
    """A weight from a network of the example and the time, and of its label where `classes` are given: a curriculum.

        g_i = head([encoder(x_i), time, onehot(y_i)])

    encoder: x -> [b, e]. The head has one hidden layer, and begins at g = 0. normalised: as for `ExampleWeights`.

    >>> commentary = WeightNet(nn.Linear(4, 8), embedding=8)
    >>> batch = Batch(torch.randn(5, 4), torch.zeros(5), torch.arange(5), time=0.5)
    >>> commentary.weights(batch).tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0]
    """

    def __init__(
        self, encoder: nn.Module, *, embedding: int, classes: int = 0, hidden: int = 32, normalised: bool = False
    ) -> None:
        super().__init__(normalised=normalised)
        self.encoder, self.classes = encoder, classes
        self.head = weight_head(embedding + 1 + classes, hidden)

    def logits(self, batch: Batch) -> Tensor:
        """Return g of the batch's examples."""
        seen = self.encoder(batch.x)
        parts = [seen, seen.new_full((len(seen), 1), 2 * batch.time - 1)]
        if self.classes:
            parts.append(nn.functional.one_hot(class_numbers(batch.y, self.classes), self.classes).to(seen.dtype))
        return self.head(torch.cat(parts, 1))[:, 0]


class _Mixer(Commentary):
    """Commentaries that say how much of each example stays when it is mixed with a partner."""

    @abstractmethod
    def shares(self, batch: Batch, partner: Tensor) -> Tensor:
        """Return a `[b]`, in (1/2, 1): what stays of each example when mixed with `partner` (int64 `[b]`)."""

    def training_loss(self, batch: Batch, predict: Predict, loss: ExampleLoss) -> Tensor:
        """Return the mean of the mixed losses, for a random partner of each."""
        partner = torch.randperm(len(batch.x), generator=batch.generator)
        return mixed_loss(batch, partner, self.shares(batch, partner), predict, loss)


class PairMixer(_Mixer):
    """Learned mixup: one share for each ordered pair of classes.

        a = 1 - sigmoid(table[y_i, y_j]) / 2

    The table begins at -1: a = 0.866. Targets are class numbers.

    >>> round(PairMixer(3).table()[0, 1].item(), 3)
    0.866
    """

    def __init__(self, classes: int) -> None:
        if classes < 2:
            raise RequestError(f"classes = {classes}: mixing needs at least two")
        super().__init__()
        self.logit = nn.Parameter(torch.full((classes, classes), -1.0))

    def shares(self, batch: Batch, partner: Tensor) -> Tensor:
        """Return a of the batch's pairs."""
        y = class_numbers(batch.y, len(self.logit))
        return 1 - self.logit[y, y[partner]].sigmoid() / 2

    def table(self) -> Tensor:
        """Return a for all pairs of classes `[c, c]`: what stays of the first when mixed with the second."""
        return 1 - self.logit.detach().sigmoid() / 2


class PairNet(_Mixer):
    """Learned mixup from a network of both examples and of the time.

        a = 1 - sigmoid(head([encoder(x_i), encoder(x_j), time]) - 1) / 2

    encoder: x -> [b, e]. It begins at a = 0.866 for every pair.

    >>> commentary = PairNet(nn.Linear(4, 8), embedding=8)
    >>> batch = Batch(torch.randn(2, 4), torch.zeros(2), torch.arange(2))
    >>> [round(a, 3) for a in commentary.shares(batch, torch.tensor([1, 0])).tolist()]
    [0.866, 0.866]
    """

    def __init__(self, encoder: nn.Module, *, embedding: int, hidden: int = 32) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = weight_head(2 * embedding + 1, hidden)

    def shares(self, batch: Batch, partner: Tensor) -> Tensor:
        """Return a of the batch's pairs."""
        seen = self.encoder(batch.x)
        time = seen.new_full((len(seen), 1), 2 * batch.time - 1)
        return 1 - (self.head(torch.cat([seen, seen[partner], time], 1))[:, 0] - 1).sigmoid() / 2


class Masks(Commentary):
    """Masks over images: which pixels count, in training and when measured.

    network: images [b, c, h, w] -> g [b, 1, h, w], such as `MaskNet`. background: what takes the place of pixels that
    do not count, a number or a tensor that broadcasts to an image. area_cost: what a mask that keeps everything adds to
    the held-out loss, so that masks keep what is needed.

    >>> masks = Masks(MaskNet(1))
    >>> masks.masks(torch.randn(2, 1, 28, 28)).shape
    torch.Size([2, 1, 28, 28])
    """

    def __init__(self, network: nn.Module, *, background: float | Tensor = 0.0, area_cost: float = 0.0) -> None:
        if not area_cost >= 0:
            raise RequestError(f"area_cost = {area_cost}: needed is 0 or more")
        super().__init__()
        self.network, self.area_cost = network, area_cost
        self.background: Tensor
        self.register_buffer("background", torch.as_tensor(background))

    def masks(self, x: Tensor) -> Tensor:
        """Return m `[b, 1, h, w]`, in (0, 1)."""
        return self.network(x).sigmoid()

    def masked(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return the images with the background where they do not count."""
        return mask * x + (1 - mask) * self.background

    def training_loss(self, batch: Batch, predict: Predict, loss: ExampleLoss) -> Tensor:
        """Return the mean loss on masked images."""
        return each_loss(predict(self.masked(batch.x, self.masks(batch.x))), batch.y, loss).mean()

    def held_out_loss(self, batch: Batch, predict: Predict, loss: ExampleLoss) -> Tensor:
        """Return the mean loss on masked images and the cost of their area."""
        mask = self.masks(batch.x)
        each = each_loss(predict(self.masked(batch.x, mask)), batch.y, loss)
        return each.mean() + self.area_cost * mask.mean()


class MaskNet(nn.Module):
    """A small U-Net: images `[b, channels, h, w]`, h and w multiples of 4 -> `[b, 1, h, w]`. It begins at `keep`.

    keep: g at the start; 2 keeps 88 % of every pixel.
    """

    def __init__(self, channels: int, width: int = 8, *, keep: float = 2.0) -> None:
        super().__init__()
        self.fine, self.middle = _block(channels, width), _block(width, 2 * width)
        self.coarse = _block(2 * width, 2 * width)
        self.up, self.top = _block(4 * width, width), _block(2 * width, width)
        self.out = nn.Conv2d(width, 1, 1)
        nn.init.zeros_(self.out.weight)
        self.out.bias = nn.Parameter(torch.tensor([keep]))

    def forward(self, x: Tensor) -> Tensor:
        """Return g."""
        if x.shape[-1] % 4 or x.shape[-2] % 4:
            raise RequestError(f"images of {list(x.shape[-2:])} pixels: both sides need to be multiples of 4")
        fine = self.fine(x)
        middle = self.middle(nn.functional.avg_pool2d(fine, 2))
        coarse = self.coarse(nn.functional.avg_pool2d(middle, 2))
        middle = self.up(torch.cat([middle, nn.functional.interpolate(coarse, scale_factor=2.0)], 1))
        return self.out(self.top(torch.cat([fine, nn.functional.interpolate(middle, scale_factor=2.0)], 1)))


def class_numbers(y: Tensor, classes: int) -> Tensor:
    """Return targets as they are; RequestError where they are no whole numbers `[b]` from 0 to classes - 1.

    >>> class_numbers(torch.tensor([1, 0]), 2).tolist()
    [1, 0]
    """
    if y.dim() != 1 or y.is_floating_point() or (len(y) and not 0 <= int(y.min()) <= int(y.max()) < classes):
        told = "" if y.is_floating_point() or not y.numel() else f" from {int(y.min())} to {int(y.max())}"
        raise RequestError(
            f"targets are {y.dtype} of shape {list(y.shape)}{told}; a commentary of {classes} classes needs whole "
            f"numbers 0 to {classes - 1}, one for each example"
        )
    return y


def each_loss(outputs: Tensor, targets: Tensor, loss: ExampleLoss) -> Tensor:
    """Return the loss of each example `[b]`; RequestError where `loss` gives another shape, as a mean does.

    >>> each_loss(torch.zeros(2, 3), torch.tensor([0, 1]), nn.CrossEntropyLoss(reduction="none")).shape
    torch.Size([2])
    """
    each = loss(outputs, targets)
    if each.shape != (len(outputs),):
        raise RequestError(
            f"the loss of {len(outputs)} examples has the shape {list(each.shape)}; needed is one number for each "
            f'[{len(outputs)}]: use reduction="none", and take means over further axes'
        )
    return each


def weighted_mean_loss(each: Tensor, weights: Tensor, *, normalised: bool) -> Tensor:
    """Return (1/b) sum w_i l_i, or sum w_i l_i / sum w_i where `normalised`; both `[b]`.

    Raises RequestError where the shapes differ, CommentaryError where no weight is above 0.001.

    >>> weighted_mean_loss(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 1.0]), normalised=False).item()
    1.5
    """
    if weights.shape != each.shape:
        raise RequestError(f"weights of shape {list(weights.shape)} for losses of shape {list(each.shape)}")
    if not bool((weights.detach() > 1e-3).any()):
        raise CommentaryError(
            "all weights of a batch are 0, and nothing is learned any more; give normalised=True, a smaller rate of "
            "the commentary, or more held-out examples"
        )
    return weighted_reduce(each, weights) if normalised else (weights * each).mean()


def mixed_loss(batch: Batch, partner: Tensor, share: Tensor, predict: Predict, loss: ExampleLoss) -> Tensor:
    """Return the mean loss of examples mixed with their partners: `share` `[b]` of each stays.

    >>> loss = nn.CrossEntropyLoss(reduction="none")
    >>> batch = Batch(torch.randn(4, 3), torch.tensor([0, 1, 2, 0]), torch.arange(4))
    >>> keep = mixed_loss(batch, torch.tensor([1, 0, 3, 2]), torch.ones(4), lambda x: x, loss)
    >>> bool(keep == loss(batch.x, batch.y).mean())
    True
    """
    wide = share.reshape(-1, *[1] * (batch.x.dim() - 1))
    outputs = predict(wide * batch.x + (1 - wide) * batch.x[partner])
    own, other = each_loss(outputs, batch.y, loss), each_loss(outputs, batch.y[partner], loss)
    return (share * own + (1 - share) * other).mean()


def weight_head(inputs: int, hidden: int) -> nn.Sequential:
    """Return a network with one hidden layer, `[b, inputs]` -> `[b, 1]`, that begins at 0 everywhere."""
    last = nn.Linear(hidden, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), last)


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(1, outputs), nn.SiLU())

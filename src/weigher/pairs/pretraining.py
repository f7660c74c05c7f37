"""Teaching an encoder without labels, by any loss of pairs: one small loop, for images and whatever views are made of.

    for each batch: two views of every thing -> encoder -> embeddings of each view -> loss(*embeddings)

The loss is a module whose call takes the embeddings `[b, e]` of each view, and returns "loss" and figures to be logged;
what it has of parameters and buffers (prototypes, a queue) is trained and saved with the encoder. `pretrain` takes
images in memory, `pretrain_drawn` anything that views can be drawn of (`weigher.pairs.sequences`: recordings). With a
`target_momentum` m the loss is also given `targets`, the embeddings by a copy that follows the encoder slowly:

    step k > 1:  copy <- m_k copy + (1 - m_k) encoder,   m_k = 1 - (1 - m) (cos(pi (k - 1) / steps) + 1) / 2

`weigher.train.fit` does the rest: checkpoints that resume bit for bit, `torchrun`, metrics. `weigher.pairs.evaluation`
says how good the encoder has become.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from weigher.errors import RequestError, WeigherError, check_ranges
from weigher.pairs.checks import DeadRowsError
from weigher.pairs.views import ViewConfig, random_views
from weigher.train.distribution import rank, tensors_in, to_device, world_size
from weigher.train.loop import History, LoopConfig, fit

if TYPE_CHECKING:
    from jaxtyping import Float

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ImageEncoderConfig:
    """The shape of an encoder of small images."""

    colours: int = 1
    """Channels of the images."""
    channels: tuple[int, ...] = (16, 32, 64)
    """Channels of the convolutions; each after the first halves the image."""
    first_stride: int = 1
    """Step of the first convolution: 2 halves the image there, too."""
    hidden: int = 128
    """Width of the projection between features and embedding, where batch norm stands."""
    embedding: int = 64
    """Numbers of an embedding; 2 lie on the circle."""

    def __post_init__(self) -> None:
        sizes = ("colours", "first_stride", "hidden", "embedding")
        ranges = {name: (getattr(self, name) >= 1, "1 or more") for name in sizes}
        channels = (min(self.channels, default=0) >= 1, "one number or more, each 1 or more")
        check_ranges(self, {**ranges, "channels": channels})


class ImageEncoder(nn.Module):
    """Convolutions, features of a 2 x 2 grid, and a projection with batch norm that only pre-training looks at.

    In training an embedding depends on the other images of its batch (of its worker, where there are several), of which
    at least two are needed; in evaluation mode it does not. Features never do.

    >>> encoder = ImageEncoder()
    >>> encoder.features(torch.zeros(3, 1, 8, 8)).shape, encoder(torch.zeros(3, 1, 8, 8)).shape
    (torch.Size([3, 256]), torch.Size([3, 64]))
    """

    def __init__(self, config: ImageEncoderConfig | None = None):
        super().__init__()
        self.config = config or ImageEncoderConfig()
        layers: list[nn.Module] = []
        before = self.config.colours
        for place, after in enumerate(self.config.channels):
            stride = 2 if place else self.config.first_stride
            layers += [nn.Conv2d(before, after, 3, stride=stride, padding=1), nn.ReLU()]
            before = after
        self.backbone = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        hidden = self.config.hidden
        # without batch norm embeddings start in a narrow cone, where codes as soft as those of SwAV say nothing
        self.projection = nn.Sequential(
            nn.Linear(4 * before, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, self.config.embedding)
        )

    def features(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        """Return what a task builds on: `[b, f]`, f four times the last channels."""
        # colours side by side in memory: convolutions on a CPU are faster so
        return self.backbone(images.contiguous(memory_format=torch.channels_last))

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b e"]:
        """Return embeddings, of any length, for a loss of pairs.

        Raises: RequestError for one image alone in training.
        """
        if self.training and len(images) == 1:
            raise RequestError(
                "one image alone in training: batch norm needs two at least; give more, or call eval() before"
            )
        return self.projection(self.features(images))


@dataclass(frozen=True)
class PretrainConfig:
    """How long and how fast to pre-train, on what views."""

    epochs: int = 40
    """Times each image, or crop of a recording, is seen."""
    batch: int = 256
    """Images or crops in a batch, over all workers."""
    learning_rate: float = 3e-3
    """Highest learning rate."""
    weight_decay: float = 1e-4
    """Decay of weight matrices per unit of learning rate."""
    views: ViewConfig = field(default_factory=ViewConfig)
    """How views of images differ."""
    target_momentum: float | None = None
    """How slowly a copy of the encoder follows it at first, such as 0.99; None: there is no copy."""
    seed: int = 0
    """Seed of everything that is drawn."""

    def __post_init__(self) -> None:
        momentum = self.target_momentum
        check_ranges(
            self,
            {
                "epochs": (self.epochs >= 1, "1 or more"),
                "batch": (self.batch >= 2, "2 or more"),
                "target_momentum": (momentum is None or 0 <= momentum < 1, "from 0 to below 1, such as 0.99, or none"),
            },
        )
        self.loop_config(1)  # raises for the others

    def loop_config(self, steps: int, validate_every: int = 1) -> LoopConfig:
        """Return the settings of `fit` for so many steps; RequestError for what is out of range."""
        return LoopConfig(
            steps=steps,
            learning_rate=self.learning_rate,
            warmup_steps=steps // 20,
            weight_decay=self.weight_decay,
            validate_every=validate_every,
            precision="float32",
            seed=self.seed,
        )


class _Target(nn.Module):
    """A slow copy of an encoder; its tensors are buffers, so that they are saved, and restored after a failed step.

    Batch norm in it goes by the batch, as in the encoder, and changes the running figures of the copy alone.
    """

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.names = tuple(encoder.state_dict())
        for place, tensor in enumerate(encoder.state_dict().values()):
            self.register_buffer(f"tensor_{place}", tensor.detach().clone())

    @torch.no_grad()
    def follow(self, encoder: nn.Module, momentum: float) -> None:
        tensors = encoder.state_dict()
        for name, own in self.tensors().items():
            if own.is_floating_point():
                own.lerp_(tensors[name], 1 - momentum)
            else:
                own.copy_(tensors[name])

    def tensors(self) -> dict[str, Tensor]:
        return {name: self.get_buffer(f"tensor_{place}") for place, name in enumerate(self.names)}

    @torch.no_grad()
    def apply_as(self, encoder: nn.Module, view: tuple[Tensor, ...]) -> Any:
        return functional_call(encoder, self.tensors(), view)


class _Pretrained(nn.Module):
    def __init__(self, encoder: nn.Module, loss: nn.Module, *, with_target: bool):
        super().__init__()
        self.encoder, self.loss = encoder, loss
        self.target = _Target(encoder) if with_target else None


def pretrain(
    encoder: nn.Module,
    loss: nn.Module,
    images: Float[Tensor, "n c h w"],
    config: PretrainConfig | None = None,
    *,
    views: Callable[[Tensor, np.random.Generator], list[Tensor]] | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    resume: bool = False,
    device: str | torch.device = "auto",
    progress: Progress | None = None,
) -> History:
    """Teach `encoder` in place and return what happened; images of the last, smaller batch wait for the next epoch.

    `views(images, generator)` makes the views of a batch (two random ones of `config.views` where left out); they may
    be of different sizes if the encoder takes them. Every number that the loss returns is logged.

    Raises: RequestError for less than two images or a shape that is not `[n, c, h, w]`; what `weigher.train.fit`
    raises.

    >>> from weigher.pairs.info_nce import InfoNCELoss
    >>> encoder = ImageEncoder(ImageEncoderConfig(channels=(4,), hidden=8, embedding=4))
    >>> history = pretrain(encoder, InfoNCELoss(), torch.rand(8, 1, 8, 8), PretrainConfig(epochs=2, batch=4))
    >>> history.step
    4
    """
    config = config or PretrainConfig()
    if images.dim() != 4 or len(images) < 2:
        raise RequestError(f"images of shape {list(images.shape)}: needed are at least two, [n, c, h, w]")

    def two_views(chosen: Tensor, generator: np.random.Generator) -> list[Tensor]:
        return [random_views(chosen, config.views, generator) for _ in range(2)]

    make = views or two_views

    def draw(chosen: np.ndarray, generator: np.random.Generator) -> list[tuple[Tensor, ...]]:
        return [(view,) for view in make(images[torch.from_numpy(chosen)], generator)]

    return pretrain_drawn(
        encoder, loss, len(images), draw, config, run_dir=run_dir, resume=resume, device=device, progress=progress
    )


def pretrain_drawn(
    encoder: nn.Module,
    loss: nn.Module,
    count: int,
    draw: Callable[[np.ndarray, np.random.Generator], Sequence[tuple[Tensor, ...]]],
    config: PretrainConfig,
    *,
    run_dir: str | os.PathLike[str] | None = None,
    resume: bool = False,
    device: str | torch.device = "auto",
    progress: Progress | None = None,
) -> History:
    """Teach `encoder` in place from `count` things of any kind; each is seen once an epoch.

    `draw(chosen, generator)` makes the views of the things numbered `chosen` `[b]`: a tuple of tensors each, which the
    encoder is called with. What it returns goes to the loss as it is. `config.views` is not heeded.

    Raises: RequestError for less than two things, or less than two for each worker; WeigherError where the encoder
    makes NaN, infinity or nothing but zeros of views that are finite; what `weigher.train.fit` raises.
    """
    batch = min(config.batch, count)
    if batch < 2 * world_size():
        raise RequestError(f"a batch of {batch} for {world_size()} workers: each needs at least two")
    per_epoch = count // batch
    steps = config.epochs * per_epoch

    @lru_cache(maxsize=1)  # of the epoch that is going on: of many things, an order takes longer than a step
    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng([config.seed, epoch]).permutation(count)

    def batches(k: int, generator: np.random.Generator) -> dict[str, Any]:
        epoch, place = divmod(k - 1, per_epoch)
        chosen = order(epoch)[place * batch : (place + 1) * batch][rank() :: world_size()]
        return {"views": draw(chosen, generator), "step": k}

    def step(model: nn.Module, given: dict[str, Any]) -> Mapping[str, Tensor]:
        parts = cast(_Pretrained, model)
        embeddings = [parts.encoder(*view) for view in given["views"]]
        targets = {}
        if parts.target is not None and config.target_momentum is not None:
            if given["step"] > 1:
                fading = (math.cos(math.pi * (given["step"] - 1) / steps) + 1) / 2
                parts.target.follow(parts.encoder, 1 - (1 - config.target_momentum) * fading)
            targets["targets"] = [parts.target.apply_as(parts.encoder, view) for view in given["views"]]
        try:
            return parts.loss(*embeddings, **targets)
        except DeadRowsError as error:
            if not all(tensor.isfinite().all() for view in given["views"] for tensor in view):
                raise
            raise WeigherError(
                f"training broke at step {given['step']}, of finite views: {error}. Begin anew with a lower learning "
                f"rate ({config.learning_rate:g} at most here)"
            ) from error

    loop = config.loop_config(steps, validate_every=min(10 * per_epoch, 500))  # steps between two saved states
    model = _Pretrained(encoder, loss, with_target=config.target_momentum is not None)
    history = fit(model, step, batches, loop, run_dir=run_dir, resume=resume, device=device, progress=progress)
    _check_taught(encoder, draw(np.arange(2), np.random.default_rng(config.seed)), config)
    return history


@torch.no_grad()
def _check_taught(encoder: nn.Module, views: Sequence[tuple[Tensor, ...]], config: PretrainConfig) -> None:
    """Raise WeigherError where the last step has broken the encoder, which no later one can find out."""
    was_training, device = encoder.training, next(encoder.parameters()).device
    encoder.eval()
    made = [encoder(*to_device(view, device)) for view in views]
    encoder.train(was_training)
    if not all(tensor.isfinite().all() for _, tensor in tensors_in(made)):
        raise WeigherError(
            "training broke in its last step: the encoder makes NaN or infinity. Begin anew with a lower learning "
            f"rate ({config.learning_rate:g} at most here)"
        )

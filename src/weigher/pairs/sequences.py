"""Teaching an encoder of sequences, such as recordings, without labels: crops of them for the self-supervised loop.

    aligned      both views are of the same frames: frame t of the one belongs to frame t of the other (SeqCLR)
    neighbours   the views are two crops of one sequence that begin at most some seconds from each other; what the
                 encoder makes of each is averaged over its frames, projected, and given to any loss of pairs

The encoder is any module that takes values `[b, t, f]` and lengths `[b]` and returns frames `[b, t', e]` and how many
of each row are real `[b]`. An epoch sees each sequence once for every crop that it is long, each time at another place
nearby.

Two moments of a conversation are often one voice, and one place always: neighbours keep what stays the same for a
while. Aligned views keep what changes, too.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from weigher.core.pooling import mean_pool
from weigher.core.weights import length_mask
from weigher.errors import RequestError, check_ranges
from weigher.pairs.checks import check_positive
from weigher.pairs.methods import LossConfig, Method, pair_loss
from weigher.pairs.pretraining import PretrainConfig, Progress, pretrain_drawn
from weigher.pairs.seqclr import SeqCLRConfig, SeqCLRLoss
from weigher.pairs.sequence_views import SpeechViewConfig, furthest, speech_view, speech_views
from weigher.pairs.swav import SwAVConfig
from weigher.train.loop import History

if TYPE_CHECKING:
    from jaxtyping import Float, Int

# of four, by how well voices are told: the best for neighbours; level with 0.1 for windows (`weigher study seqclr`)
_TEMPERATURE_OF_WINDOWS, _TEMPERATURE_OF_NEIGHBOURS = 0.05, 0.02


@dataclass(frozen=True)
class SequenceConfig:
    """What is cut out of sequences, how its views differ, and what is asked of them."""

    method: Method = "info-nce"
    """seqclr: aligned views; any other loss: two neighbouring crops, averaged."""
    crop_seconds: float = 2.0
    """Length of a crop; shorter sequences are taken whole."""
    apart_seconds: float = 2.0
    """How far apart two neighbouring crops begin, at most."""
    views: SpeechViewConfig = field(default_factory=SpeechViewConfig)
    """How views differ."""
    seqclr: SeqCLRConfig = field(default_factory=lambda: SeqCLRConfig(windows=10, temperature=_TEMPERATURE_OF_WINDOWS))
    """What is compared of aligned views."""
    losses: LossConfig = field(
        default_factory=lambda: LossConfig(temperature=_TEMPERATURE_OF_NEIGHBOURS, swav=SwAVConfig(epsilon=0.01))
    )
    """The losses of neighbouring crops; the epsilon of swav suits a projection without batch norm."""
    hidden: int = 128
    """Width of the projection of neighbouring crops, which only pre-training looks at."""
    embedding: int = 64
    """Numbers of an embedding of neighbouring crops."""

    def __post_init__(self) -> None:
        check_ranges(
            self,
            {
                "crop_seconds": (0 < self.crop_seconds < math.inf, "a finite number above 0"),
                "apart_seconds": (0 <= self.apart_seconds < math.inf, "a finite number, 0 or more"),
                "hidden": (self.hidden >= 1, "1 or more"),
                "embedding": (self.embedding >= 1, "1 or more"),
            },
        )
        try:
            self.losses.check_queue(self.method)
        except RequestError as error:
            raise RequestError(f"losses.{error}") from error

    def least_frames(self, hop_seconds: float, stride: int) -> tuple[int, str]:
        """Return how many frames a sequence needs, and why: a quarter of a crop, room for all windows at any speed.

        >>> SequenceConfig(crop_seconds=2.0).least_frames(0.01, stride=4)
        (50, 'a quarter of crop_seconds = 2')
        """
        quarter = max(1, round(self.crop_seconds / hop_seconds / 4))
        room = 2 * self.seqclr.windows * stride
        if self.method == "seqclr" and room > quarter:
            return room, f"room for windows = {self.seqclr.windows} at any speed"
        return quarter, f"a quarter of crop_seconds = {self.crop_seconds:g}"


class Crops:
    """Places of crops in sequences, and the crops themselves, drawn anew each time.

    >>> crops = Crops([np.zeros((500, 3)), np.zeros((80, 3))], 200)
    >>> len(crops)  # two in the first, and the second whole
    3
    >>> values, lengths = crops.draw(np.array([0, 2]), crops.begins(np.array([0, 2]), np.random.default_rng(0)))
    >>> values.shape, lengths.tolist()
    (torch.Size([2, 200, 3]), [200, 80])
    """

    def __init__(self, sequences: Sequence[np.ndarray], frames: int):
        self.sequences, self.frames = sequences, frames
        counts = [max(1, len(one) // frames) for one in sequences]
        self.owner = np.repeat(np.arange(len(sequences)), counts)
        self.place = np.concatenate([frames * np.arange(count) for count in counts])
        self.last = np.maximum(0, np.array([len(one) for one in sequences]) - frames)[self.owner]

    def __len__(self) -> int:
        return len(self.owner)

    def begins(
        self, chosen: np.ndarray, generator: np.random.Generator, around: np.ndarray | None = None, apart: int = 0
    ) -> np.ndarray:
        """Return where crops begin: half a crop at most from their places, or `apart` at most from `around`."""
        middle, most = (self.place[chosen], self.frames // 2) if around is None else (around, apart)
        return np.clip(middle + generator.integers(-most, most + 1, len(chosen)), 0, self.last[chosen])

    def draw(self, chosen: np.ndarray, begins: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return values float `[b, frames, f]`, zeros behind what is shorter, and lengths `[b]`."""
        values = np.zeros((len(chosen), self.frames, self.sequences[0].shape[1]), np.float32)
        lengths = np.zeros(len(chosen), np.int64)
        for row, (owner, begin) in enumerate(zip(self.owner[chosen], begins, strict=True)):
            piece = self.sequences[owner][begin : begin + self.frames]
            values[row, : len(piece)], lengths[row] = piece, len(piece)
        return torch.from_numpy(values), torch.from_numpy(lengths)


class Pooled(nn.Module):
    """An encoder of sequences with one embedding for each of them: the mean of its frames, projected.

    Values `[b, t, f]` and lengths `[b]` -> `[b, e]`, of any length.
    """

    def __init__(self, encoder: nn.Module, features: int, hidden: int, embedding: int):
        super().__init__()
        self.encoder = encoder
        self.projection = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, embedding))

    def forward(self, values: Float[Tensor, "b t f"], lengths: Int[Tensor, " b"]) -> Float[Tensor, "b e"]:
        """Embed sequences."""
        frames, real = self.encoder(values, lengths)
        return self.projection(mean_pool(frames, 1, length_mask(real, frames.shape[1])[..., None]))


class Aligned(nn.Module):
    """A loss of two views of sequences as one of what the encoder returns: (frames, lengths) of each view."""

    def __init__(self, loss: nn.Module):
        super().__init__()
        self.loss = loss

    def forward(self, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Return what the loss of the frames returns."""
        return self.loss(first[0], second[0], lengths=first[1], second_lengths=second[1])


def pretrain_sequences(
    encoder: nn.Module,
    features: int,
    sequences: Sequence[Float[np.ndarray, "t f"]],
    config: SequenceConfig | None = None,
    loop: PretrainConfig | None = None,
    *,
    hop_seconds: float,
    run_dir: str | os.PathLike[str] | None = None,
    resume: bool = False,
    device: str | torch.device = "auto",
    progress: Progress | None = None,
) -> History:
    """Teach an encoder of sequences in place and return what happened.

    `features` is the number e of features that a frame of the encoder has, `hop_seconds` the time from one frame of the
    sequences to the next. `loop.views` is not heeded; `loop.seed` also draws what stands behind the encoder.

    Raises: RequestError for no sequences, empty ones, or ones of different widths, for crops shorter than a frame, less
    than two crops, a slow copy of the encoder where the loss makes no use of it, and views that may hide all of a
    crop; of aligned views, hidden stretches that are longer than a window of a whole crop (in shorter ones
    less is hidden), and a sequence of which the encoder makes fewer frames than windows; what
    `weigher.pairs.pretraining.pretrain_drawn` and the loss raise.
    """
    config, loop = config or SequenceConfig(), loop or PretrainConfig()
    check_positive(hop_seconds=hop_seconds)
    widths = {one.shape[1:] for one in sequences}
    if len(widths) != 1 or len(next(iter(widths))) != 1 or not all(map(len, sequences)):
        shapes = sorted({one.shape for one in sequences})[:3]
        raise RequestError(f"{len(sequences)} sequences of shapes such as {shapes}: needed are frames of one width")
    frames = round(config.crop_seconds / hop_seconds)
    if frames < 1:
        raise RequestError(
            f"crop_seconds = {config.crop_seconds} is less than one frame of {hop_seconds:g} s; take crops of many "
            "frames"
        )
    crops = Crops(sequences, min(frames, max(map(len, sequences))))
    apart = min(round(config.apart_seconds / hop_seconds), max(map(len, sequences)))
    if len(crops) < 2:
        raise RequestError(
            f"{len(sequences)} sequence gives one crop of {config.crop_seconds:g} s; at least two are compared, give "
            "more or longer ones"
        )
    aligned = config.method == "seqclr"
    with torch.random.fork_rng():
        torch.manual_seed(loop.seed)
        if aligned and loop.target_momentum is None:
            model, loss = encoder, Aligned(SeqCLRLoss(config.seqclr, features))
        else:
            model = Pooled(encoder, features, config.hidden, config.embedding)
            with_target = loop.target_momentum is not None
            loss = pair_loss(config.method, config.losses, config.embedding, with_target=with_target)

    _check_hidden(config, frames)
    if aligned and config.seqclr.mapping == "window":
        _check_room(config.seqclr.windows, encoder, [one[:frames] for one in sequences])
    parts = config.seqclr.windows if config.seqclr.mapping == "window" else 1

    def draw(chosen: np.ndarray, generator: np.random.Generator) -> list[tuple[Tensor, Tensor]]:
        begins = crops.begins(chosen, generator)
        if aligned:
            whole = crops.draw(chosen, begins)
            first, second, lengths = speech_views(*whole, config.views, generator, instances=parts)
            return [(first, lengths), (second, lengths)]
        # at their own speed: crops that were stretched taught voices no better in any of three seeds, and worse in one
        both = [crops.draw(chosen, place) for place in (begins, crops.begins(chosen, generator, begins, apart))]
        return [(speech_view(values, lengths, config.views, generator), lengths) for values, lengths in both]

    return pretrain_drawn(
        model, loss, len(crops), draw, loop, run_dir=run_dir, resume=resume, device=device, progress=progress
    )


@torch.no_grad()
def encode_sequences(
    encoder: nn.Module, sequences: Sequence[Float[np.ndarray, "t f"]], *, frames: int = 3000
) -> Float[Tensor, "n e"]:
    """Return the mean frame of each sequence, of its first `frames` rows, in evaluation mode; at least one is needed.

    `encoder` is one of frames, as `pretrain_sequences` takes it. `weigher.pairs.evaluation` says how good they are.
    """
    was_training = encoder.training
    encoder.eval()
    device = next(encoder.parameters()).device
    found = []
    for one in sequences:
        values = torch.from_numpy(np.asarray(one[:frames], np.float32))[None].to(device)
        made, real = encoder(values, torch.tensor([values.shape[1]], device=device))
        found.append(mean_pool(made, 1, length_mask(real, made.shape[1])[..., None]).cpu())
    encoder.train(was_training)
    return torch.cat(found)


def _check_hidden(config: SequenceConfig, frames: int) -> None:
    """Raise RequestError where nothing to compare may be left of a crop, or of an instance of aligned ones.

    Single frames as instances are hidden by any stretch: of these nothing more is asked.
    """
    stretches, each = config.views.time_masks, config.views.time_mask_frames
    longest = 2 * furthest(frames, config.seqclr.mapping, config.seqclr.windows)
    if config.method == "seqclr" and config.seqclr.mapping != "frame" and stretches and each > longest:
        raise RequestError(
            f"time_mask_frames = {each} in a crop of {frames} frames, whose instances have {longest:.3g}: nothing of "
            "an instance would be left to compare; hide less, take longer crops, or fewer windows"
        )
    if stretches * each > frames:
        raise RequestError(
            f"time_masks = {stretches} of time_mask_frames = {each} in a crop of {frames} frames (crop_seconds = "
            f"{config.crop_seconds:g}) could hide all of it; hide less, or take longer crops"
        )


@torch.no_grad()
def _check_room(windows: int, encoder: nn.Module, sequences: Sequence[np.ndarray]) -> None:
    """Raise RequestError where the encoder makes fewer frames of a sequence, as it is, than there are windows."""
    least = min(range(len(sequences)), key=lambda place: len(sequences[place]))
    device = next(encoder.parameters()).device
    values = torch.from_numpy(np.asarray(sequences[least], np.float32))[None].to(device)
    was_training = encoder.training
    encoder.eval()  # a look must not move the statistics of a norm
    made = int(encoder(values, torch.tensor([values.shape[1]], device=device))[1])
    encoder.train(was_training)
    if made < windows:
        raise RequestError(
            f"sequence {least} has {len(sequences[least])} frames, of which the encoder makes {made}, for {windows} "
            "windows: leave out sequences that short, or take fewer windows"
        )

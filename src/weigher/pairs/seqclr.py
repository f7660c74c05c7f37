"""SeqCLR: contrastive learning of sequences, where what is compared are parts of them in their order.

    R = encoder(x) [b, t, f]    ->    P = head(R) [b, t, e]    ->    Z = map(P) [b, m, e], the instances
    l(a_i) = -log( exp(cos(a_i, b_i) / tau) / sum_{u != a_i} exp(cos(a_i, u) / tau) ),   u over A and B
    L = mean_i (l(a_i) + l(b_i)) / 2

A, B are the instances of two views of the whole batch: instance r of sequence i in the one view belongs to instance r
of sequence i in the other, and is kept apart from all others, those of its own sequence included. These share its
style (writer, voice, channel), so that style does not tell a pair. What is an instance is the map's to say:

    frame    every frame                                         m = t
    window   frames floor(r t / k) ... ceil((r + 1) t / k) - 1   m = k, averaged; neighbours share a frame at most
    all      the whole sequence, averaged                        m = 1: plain NT-Xent of sequences (SimCLR)

Few instances forgive views that are not quite in time, many give more negatives. Views must keep the order and, to
within half an instance, the time (`weigher.pairs.sequence_views`). The head is thrown away after pre-training. Equal
letters of one line are negatives of each other: nothing can be done about it, and it harms frames most.

Source: Aberdam, Litman, Tsiper, Anschel, Slossberg, Mazor, Manmatha, Perona 2021, arXiv 2012.10873. Unlike there:
lengths (padding never counts), weights of instances, all workers compared, and no matrix of all similarities in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from weigher.core.contrast import BLOCK, nt_xent, unit
from weigher.core.pooling import weighted_mean
from weigher.core.weights import length_mask
from weigher.errors import RequestError
from weigher.pairs.checks import check_count, check_embedded, check_positive, check_same, check_weight
from weigher.pairs.workers import everyones, mean_over_workers
from weigher.train.distribution import gather

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Real
    from torch import Tensor

InstanceMapping = Literal["frame", "window", "all"]
HeadKind = Literal["none", "mlp", "bilstm"]


@dataclass(frozen=True)
class SeqCLRConfig:
    """What an instance is, what stands between encoder and loss, and how sharp the loss is."""

    mapping: InstanceMapping = "window"
    """What an instance is: every frame, the mean of a window of frames, or the mean of all."""
    windows: int = 5
    """Windows that each sequence is cut into (window); at least as many as it has letters, words or sounds."""
    head: HeadKind = "mlp"
    """Projection of each frame that only pre-training looks at: none, mlp, or bilstm, which sees the other frames."""
    temperature: float = 0.1
    """Temperature of the loss."""
    hidden: int = 128
    """Width within the head (of bilstm: in each direction)."""
    embedding: int = 64
    """Numbers of an instance after the head."""

    def __post_init__(self) -> None:
        check_positive(temperature=self.temperature)
        _check_mapping(self.mapping, self.windows)
        if self.head not in get_args(HeadKind):
            raise RequestError(f"head = {self.head!r}: give one of {', '.join(get_args(HeadKind))}")
        if min(self.hidden, self.embedding) < 1:
            raise RequestError(f"hidden = {self.hidden}, embedding = {self.embedding}: both must be at least 1")


def instances(
    features: Float[Tensor, "b t e"],
    lengths: Int[Tensor, " b"] | None = None,
    mapping: InstanceMapping = "window",
    windows: int = 5,
) -> tuple[Float[Tensor, "b m e"], Bool[Tensor, "b m"]]:
    """Return the instances of each sequence, and which of them are real; the others are zeros.

    Shapes: features `[b, t, e]`, lengths `[b]` in 1..t (t where left out) -> `[b, m, e]` and bool `[b, m]`, m = t
    (frame), `windows` (window) or 1 (all). What lies beyond a length may hold anything and gets no gradient.
    Raises: RequestError for another number of axes, lengths out of range, and, naming the row, more windows than
    frames: windows would repeat each other, and then be told from each other.

    >>> line = torch.arange(1.0, 6.0).view(1, 5, 1)
    >>> instances(line, mapping="window", windows=2)[0].flatten().tolist()
    [2.0, 4.0]
    >>> instances(line, torch.tensor([4]), mapping="window", windows=2)[0].flatten().tolist()
    [1.5, 3.5]
    """
    _check_mapping(mapping, windows)
    lengths = checked_lengths(features, lengths)
    b, t, _ = features.shape
    real = length_mask(lengths, t)
    if mapping == "frame":
        return features.masked_fill(~real[..., None], 0), real
    if mapping == "all":
        return weighted_mean(features, real[..., None].to(features.dtype), real), real[:, :1]
    short = (lengths < windows).nonzero()
    if len(short):
        row = int(short[0])
        raise RequestError(
            f"row {row} has {int(lengths[row])} frames for {windows} windows: they would hold the same frames; give at "
            "most as many windows as the shortest sequence has frames, or leave such sequences out"
        )
    frame, cell = torch.arange(t, device=lengths.device), torch.arange(windows, device=lengths.device)
    first = cell * lengths[:, None] // windows  # [b, k]
    after = -((cell + 1) * lengths[:, None] // -windows)
    member = (frame[None, :, None] >= first[:, None]) & (frame[None, :, None] < after[:, None])  # [b, t, k]
    pooled = weighted_mean(features, member.to(features.dtype), real)
    return pooled, torch.ones(b, windows, dtype=torch.bool, device=features.device)


def instance_losses(
    first: Float[Tensor, "b m e"],
    second: Float[Tensor, "b m e"],
    real: Bool[Tensor, "b m"] | None = None,
    *,
    temperature: float = 0.1,
    weight: Real[Tensor, "b w"] | None = None,
    block: int = BLOCK,
) -> Float[Tensor, "b m"]:
    """Return NT-Xent of each instance against all other instances of both views, of all sequences, on all workers.

    Shapes: both views `[b, m, e]` of any length, made unit here; `real` `[b, m]`; `weight` `[b, m]`, or `[b, 1]` for
    whole sequences, in [0, inf): 0 removes an instance, 2 is two copies of it -> `[b, m]`, 0 where nothing is real.
    Workers may hold different numbers of sequences and instances. Memory: O(b m e + block^2).
    An instance alone has the loss 0, up to rounding. Raises: RequestError for views of different shapes or other axes,
    weights of others, and weights out of range.

    >>> line = torch.eye(3)[None]
    >>> instance_losses(line, line, temperature=1.0)
    tensor([[0.9048, 0.9048, 0.9048]])
    """
    check_same(first, second)
    if first.dim() != 3 or (real is not None and real.shape != first.shape[:2]):
        raise RequestError(
            f"instances of shape {list(first.shape)}, real {None if real is None else list(real.shape)}: expected are "
            "[b, m, e] and [b, m]"
        )
    if real is None:
        real = torch.ones(first.shape[:2], dtype=torch.bool, device=first.device)
    given = None if weight is None else _spread(weight, (len(real), real.shape[1]))[real]
    one, two = (unit(view[real], weight=given) for view in (first, second))
    counted = torch.ones_like(one[:, 0]) if given is None else given.to(one.dtype)
    (*everyone, counts), offset = everyones(one, two, counted)
    each = nt_xent(
        one,
        two,
        everyone=(everyone[0], everyone[1]),
        temperature=temperature,
        weight=None if given is None else counts,
        offset=offset,
        block=block,
    )
    return each.new_zeros(real.shape).masked_scatter(real, each)


class SequenceHead(nn.Module):
    """The projection of each frame, for `SeqCLRLoss`: none, two layers, or a recurrence both ways and one layer.

    >>> head = SequenceHead(8, SeqCLRConfig(head="bilstm", hidden=6, embedding=4))
    >>> head(torch.zeros(2, 5, 8), torch.tensor([5, 3])).shape
    torch.Size([2, 5, 4])
    """

    def __init__(self, features: int, config: SeqCLRConfig):
        super().__init__()
        self.recurrent = None
        self.layers: nn.Module = nn.Identity()
        if config.head == "mlp":
            self.layers = nn.Sequential(
                nn.Linear(features, config.hidden), nn.ReLU(), nn.Linear(config.hidden, config.embedding)
            )
        elif config.head == "bilstm":
            self.recurrent = nn.LSTM(features, config.hidden, batch_first=True, bidirectional=True)
            self.layers = nn.Linear(2 * config.hidden, config.embedding)

    def forward(self, features: Float[Tensor, "b t f"], lengths: Int[Tensor, " b"]) -> Float[Tensor, "b t e"]:
        """Project features `[b, t, f]`, of which `lengths` frames of each row are real; the rest may hold anything."""
        t = features.shape[1]
        frames = features.masked_fill(~length_mask(lengths, t)[..., None], 0)
        if self.recurrent is not None:
            packed = pack_padded_sequence(frames, lengths.cpu(), batch_first=True, enforce_sorted=False)
            frames, _ = pad_packed_sequence(self.recurrent(packed)[0], batch_first=True, total_length=t)
        return self.layers(frames)


class SeqCLRLoss(nn.Module):
    """The loss of two views of sequences as a module; its head is trained with the encoder and saved with it.

    >>> frames = torch.eye(4)[None]
    >>> loss = SeqCLRLoss(SeqCLRConfig("frame", head="none", temperature=0.5), features=4)
    >>> {name: round(value.item(), 4) for name, value in loss(frames, frames).items()}
    {'loss': 0.5944, 'cosine': 1.0, 'instances': 4}
    """

    def __init__(self, config: SeqCLRConfig | None = None, features: int = 256):
        super().__init__()
        self.config = config or SeqCLRConfig()
        self.features = features
        self.head = SequenceHead(features, self.config)

    def forward(
        self,
        first: Float[Tensor, "b t f"],
        second: Float[Tensor, "b u f"],
        lengths: Int[Tensor, " b"] | None = None,
        second_lengths: Int[Tensor, " b"] | None = None,
        weight: Real[Tensor, "b w"] | None = None,
    ) -> Mapping[str, Tensor]:
        """Return the loss over the instances of all workers, the mean cosine of pairs, and how many instances count.

        Shapes: features `[b, t, f]` of two aligned views, of which `lengths` `[b]` frames are real in both, or
        `second_lengths` in the second; `weight` as in `instance_losses`.
        Raises: RequestError as `instances` and `instance_losses`; for views of different numbers of frames under
        "frame"; for real frames that are not finite, but in sequences without any weight, which may hold anything; for
        less than two instances that count, over all workers.
        """
        views = (first, second)
        alive = None if weight is None else self._counting(weight, first)
        counts = [
            checked_lengths(view, given, alive)
            for view, given in zip(views, (lengths, lengths if second_lengths is None else second_lengths), strict=True)
        ]
        self._check(views, counts)
        alive = torch.ones_like(counts[0], dtype=torch.bool) if alive is None else alive
        check_count(gather(alive.sum()[None]).sum(), "sequences", least=1)
        # a sequence without weight may hold anything, and must not reach the head
        views = [view.masked_fill(~alive[:, None, None], 0) for view in views]
        for place, (view, count) in enumerate(zip(views, counts, strict=True), 1):
            check_embedded(view.masked_fill(~length_mask(count, view.shape[1])[..., None], 0), alive, f"view {place}")
        found = [
            instances(self.head(view, count), count, self.config.mapping, self.config.windows)
            for view, count in zip(views, counts, strict=True)
        ]
        (one, real), (two, _) = found
        kept = real if weight is None else real & (weight > 0)
        for place, view in enumerate((one, two), 1):  # what a head made of sound features
            check_embedded(view[real], kept[real], f"view {place}, its instances,")
        each = instance_losses(one, two, real, temperature=self.config.temperature, weight=weight)
        counted = (real if weight is None else torch.where(real, weight, 0)).to(each.dtype)
        count = everyones(counted[real])[0][0].gt(0).sum()
        check_count(count, "instances")
        cosine = (unit(one, weight=counted) * unit(two, weight=counted)).sum(-1)
        return {
            "loss": mean_over_workers(each[real], counted[real]),
            "cosine": mean_over_workers(cosine[real], counted[real]).detach(),
            "instances": count,
        }

    def _check(self, views: Sequence[Tensor], lengths: list[Tensor]) -> None:
        if len(views[0]) != len(views[1]):
            raise RequestError(f"{len(views[0])} sequences in the first view and {len(views[1])} in the second")
        if self.config.mapping == "frame" and (
            views[0].shape[1] != views[1].shape[1] or not torch.equal(lengths[0], lengths[1])
        ):
            raise RequestError(
                f"views of {views[0].shape[1]} and {views[1].shape[1]} frames, or of other lengths: frame r of both "
                "must be a pair; use mapping 'window' or 'all' for views of different lengths"
            )
        for place, view in enumerate(views, 1):
            if view.shape[2] != self.features:
                raise RequestError(
                    f"view {place} has {view.shape[2]} features and the head was made for {self.features}"
                )

    def _counting(self, weight: Tensor, first: Tensor) -> Tensor:
        """Return which sequences `[b]` have any weight."""
        _check_sequences(first)
        parts = {"frame": first.shape[1], "window": self.config.windows, "all": 1}[self.config.mapping]
        return (_spread(weight, (len(first), parts)) > 0).any(1)


def checked_lengths(
    features: Float[Tensor, "b t f"], lengths: Int[Tensor, " b"] | None, alive: Bool[Tensor, " b"] | None = None
) -> Int[Tensor, " b"]:
    """Return the length of each sequence; RequestError, naming the row, where one is not in 1..t.

    One that is not `alive` may have any, and gets t.

    >>> checked_lengths(torch.zeros(2, 3, 1), None)
    tensor([3, 3])
    """
    _check_sequences(features)
    b, t, _ = features.shape
    if lengths is None:
        lengths = torch.full((b,), t)
    if lengths.shape != (b,) or lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise RequestError(
            f"lengths {lengths.dtype} {list(lengths.shape)} for {b} sequences: one whole number for each"
        )
    lengths = lengths.to(features.device)
    if alive is not None:
        lengths = torch.where(alive, lengths, t)
    wrong = ((lengths < 1) | (lengths > t)).nonzero()
    if len(wrong):
        row = int(wrong[0])
        raise RequestError(f"row {row} has the length {int(lengths[row])}: it must lie in 1..{t}, the frames there are")
    return lengths


def _check_sequences(features: Tensor) -> None:
    if features.dim() != 3:
        raise RequestError(f"features of shape {list(features.shape)}: expected are (batch, time, feature)")


def _check_mapping(mapping: str, windows: int) -> None:
    if mapping not in get_args(InstanceMapping):
        raise RequestError(f"mapping = {mapping!r}: give one of {', '.join(get_args(InstanceMapping))}")
    if windows < 1:
        raise RequestError(f"windows = {windows}: at least 1 is needed")


def _spread(weight: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return a weight `[b, m]` or `[b, 1]` as `[b, m]`."""
    if weight.dim() != 2 or len(weight) != shape[0] or weight.shape[1] not in (1, shape[1]):
        raise RequestError(
            f"weight of shape {list(weight.shape)} for {list(shape)} instances: one for each, or [b, 1] for whole "
            "sequences"
        )
    check_weight(weight, weight.shape)
    return weight.expand(shape)

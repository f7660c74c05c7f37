"""The two kinds of runs of ``weigher pretrain``: their settings, and the parts of the library that each joins."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weigher.cli import console
from weigher.cli.pretrain_place import Place, Progress, beginning
from weigher.errors import RequestError, check_ranges
from weigher.io.folders import WEIGHTS
from weigher.io.unlabelled import Images, read_unlabelled_images
from weigher.pairs.crops import CropConfig, multi_crop
from weigher.pairs.evaluation import TooFewError, encode, probed
from weigher.pairs.methods import LossConfig, Method, pair_loss
from weigher.pairs.pretrained import save_image_encoder
from weigher.pairs.pretraining import ImageEncoder, ImageEncoderConfig, PretrainConfig, pretrain
from weigher.pairs.sequences import SequenceConfig, encode_sequences, pretrain_sequences
from weigher.pairs.views import ViewConfig
from weigher.recordings.encoder import EncoderConfig, FrameEncoder
from weigher.recordings.pretrained_encoder import Hearing, save_encoder
from weigher.recordings.unlabelled import Unlabelled, read_unlabelled
from weigher.train.distribution import rank
from weigher.train.loop import History
from weigher.train.provenance import commit, versions

_MELS = 40
_PROBED, _HEARD = 10_000, 2_000  # images, recordings; more labels tell no more
_EACH = 5  # recordings of a person, or images of a label, from which a probe is asked about them
_DARK = 0.5  # of white: bytes that stay below may be of another scale
_ENOUGH = 20  # steps from which a loss says whether anything is learned
_SMALL = (0.05, 0.4)  # share of an image's area in a small crop
_ROWS = 4096  # frames or images that are read at a time to tell data apart


@dataclass(frozen=True)
class RecordingSettings:
    """Everything that shapes pre-training on recordings."""

    mels: int = _MELS
    """Bands of audio; the same as in the training that begins from it. Of features it is not heeded."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    sequences: SequenceConfig = field(default_factory=SequenceConfig)
    loop: PretrainConfig = field(default_factory=lambda: PretrainConfig(epochs=20, batch=64, learning_rate=2e-3))


@dataclass(frozen=True)
class ImageSettings:
    """Everything that shapes pre-training on images."""

    method: Method = "info-nce"
    encoder: ImageEncoderConfig = field(default_factory=ImageEncoderConfig)
    """Its colours are those of the images, and kept so."""
    losses: LossConfig = field(default_factory=LossConfig)
    small_crops: int = 0
    """Crops of half the height and width that are compared with two of the full size (swav, relic); 0: two views of the
    whole image."""
    loop: PretrainConfig = field(default_factory=PretrainConfig)

    def __post_init__(self) -> None:
        check_ranges(self, {"small_crops": (self.small_crops >= 0, "0 or more")})
        if self.small_crops and self.method not in ("swav", "relic"):
            raise RequestError(
                f"small_crops = {self.small_crops} with {self.method}: more than two views are for swav and relic"
            )
        if self.small_crops and self.method == "swav" and self.losses.swav.full_views != 2:
            raise RequestError(
                f"losses.swav.full_views = {self.losses.swav.full_views} with small_crops: an image has two crops of "
                "the full size"
            )

    def views(self, height: int, width: int) -> Callable[[Tensor, np.random.Generator], list[Tensor]] | None:
        """Return what makes views of images of this size; None for the two views that need no words."""
        if not self.small_crops:
            return None
        size = min(height, width)
        small = CropConfig(self.small_crops, max(1, size // 2), _SMALL)
        return multi_crop(CropConfig(2, size), small, changes=self.loop.views)


def recordings_run(settings: RecordingSettings, place: Place) -> dict[str, Any]:
    """Teach a frame encoder and keep it; returns what is told of it. Raises as `read_unlabelled` and `fit`."""
    stride = 1 if settings.encoder.kind == "linear" else settings.encoder.stride
    heard = read_unlabelled(
        place.data,
        settings.mels,
        least=lambda hop_seconds: settings.sequences.least_frames(hop_seconds, stride),
        progress=place.progress,
    )
    if settings.loop.views != ViewConfig():
        _warn("loop.views is of images, and not heeded; sequences.views is of recordings")
    if heard.front.kind == "features" and settings.mels != _MELS:
        _warn(f"mels = {settings.mels} is of audio, and {place.data} holds features: not heeded")
    frames = sum(map(len, heard.values))
    counted = {"recordings": len(heard.values), "hours": round(frames * heard.hop_seconds / 3600, 3)}
    held = {"recordings": len(heard.values), "frames": frames, "values": _digest(heard.values)}
    torch.manual_seed(settings.loop.seed)
    encoder = FrameEncoder(heard.values[0].shape[1], settings.encoder)
    hearing = Hearing(encoder, additive=heard.front.additive)
    start = deepcopy(hearing)
    with beginning(place, settings, held):
        history = pretrain_sequences(
            hearing,
            settings.encoder.embedding,
            heard.values,
            settings.sequences,
            settings.loop,
            hop_seconds=heard.hop_seconds,
            run_dir=place.out,
            resume=place.resume,
            device=place.device,
            progress=place.progress,
        )
    told = _told(settings.sequences.method, place, counted, settings.loop, history)
    _check_fallen(told, settings.sequences.losses)
    return _kept(
        place,
        told,
        heard.skipped,
        partial(save_encoder, place.out / "encoder", encoder, heard.front),
        lambda: _told_apart(heard, {"random start": start, "pre-trained": hearing}, settings.loop.seed, place.progress),
    )


def images_run(settings: ImageSettings, place: Place) -> dict[str, Any]:
    """Teach an encoder of images, keep it, and try it where there are labels; returns what is told of it."""
    images = read_unlabelled_images(place.data)
    x = torch.from_numpy(images.values)
    if len(x) < 2:
        raise RequestError(f"{place.data} holds one image; at least two are compared, give more")
    colours = x.shape[1]
    if settings.encoder.colours not in (ImageEncoderConfig().colours, colours):
        _warn(f"encoder.colours = {settings.encoder.colours} is not heeded: the images of {place.data} have {colours}")
    if images.scale == (0, 255) and images.values.max() < _DARK:
        _warn(
            f"the images of {place.data} are bytes of at most {255 * images.values.max():.0f}, divided by 255 all the "
            "same; if that is their white, give them as other numbers, which are scaled"
        )
    if (images.values == images.values[0]).all():
        _warn(f"all images of {place.data} are the same: nothing tells one from another")
    settings = replace(settings, encoder=replace(settings.encoder, colours=colours))
    torch.manual_seed(settings.loop.seed)
    encoder = ImageEncoder(settings.encoder)
    start = deepcopy(encoder)
    with_target = settings.loop.target_momentum is not None
    loss = pair_loss(settings.method, settings.losses, settings.encoder.embedding, with_target=with_target)
    held = {"images": len(x), "shape": list(x.shape[1:]), "values": _digest([images.values])}
    with beginning(place, settings, held):
        history = pretrain(
            encoder,
            loss,
            x,
            settings.loop,
            views=settings.views(*x.shape[2:]),
            run_dir=place.out,
            resume=place.resume,
            device=place.device,
            progress=place.progress,
        )
    counted = {"images": len(x), "scale": list(images.scale)}
    told = _told(settings.method, place, counted, settings.loop, history)
    _check_fallen(told, settings.losses)
    return _kept(
        place,
        told,
        images.skipped,
        partial(save_image_encoder, place.out / "encoder", encoder),
        lambda: _tried(images, {"random start": start, "pre-trained": encoder}, settings.loop.seed, place.progress),
    )


def _kept(
    place: Place,
    told: dict[str, Any],
    skipped: tuple[str, ...],
    save: Callable[[dict[str, Any]], None],
    tried: Callable[[], dict[str, dict[str, float]]],
) -> dict[str, Any]:
    """Keep what was taught, then try it, and keep with it what came of that; returns what is told of the run."""
    folder = place.out / "encoder"
    told["accuracy"] = {}
    if rank() == 0:
        try:
            if not (folder / WEIGHTS).is_file():  # a finished run is tried once more, and keeps what is known of it
                save(told)
            told["accuracy"] = tried()
            if told["accuracy"]:
                save(told)
        except KeyboardInterrupt as interrupt:
            raise KeyboardInterrupt(f"{folder} was not kept and tried to the end; --resume does that") from interrupt
    return {"encoder": str(folder), **told, "skipped": list(skipped)}


def _warn(text: str) -> None:
    if rank() == 0:
        console.message(f"warning: {text}")


def _digest(arrays: Sequence[np.ndarray]) -> str:
    """Return a short name of what arrays hold, each a part of its own."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype}{array.shape}".encode())
        for start in range(0, len(array), _ROWS):
            found.update(np.ascontiguousarray(array[start : start + _ROWS]).data)
    return found.hexdigest()[:16]


def _told(
    method: Method, place: Place, counted: dict[str, Any], loop: PretrainConfig, history: History
) -> dict[str, Any]:
    """What a run was: for the card, the folder and whoever asked."""
    return {
        "method": method,
        "data": place.data.name,
        **counted,
        "epochs": loop.epochs,
        "steps": history.step,
        "seed": loop.seed,
        "loss": _ends(history, loop.epochs),
        "seconds": round(history.seconds, 1),
        "commit": commit(),
        "versions": versions(),
    }


def _ends(history: History, epochs: int) -> dict[str, float | None]:
    """Mean loss at the beginning and at the end; None where metrics of a resumed run are lost.

    Each is over an epoch at least, as batches differ by more than is learned in some steps, but half the run at most.
    """
    steps = history.step
    share = max(1, min(max(steps // 20, steps // epochs), steps // 2))
    losses = {record["step"]: record["loss"] for record in history.train}
    parts = {"first": range(1, share + 1), "last": range(steps - share + 1, steps + 1)}
    return {
        name: float(np.mean([losses[k] for k in part])) if losses.keys() >= set(part) else None
        for name, part in parts.items()
    }


def _check_fallen(told: dict[str, Any], settings: LossConfig) -> None:
    """Warn of a loss that has not fallen; with a queue that fills it may rise of itself."""
    first, last = told["loss"]["first"], told["loss"]["last"]
    grows = settings.queue or (told["method"] == "swav" and settings.swav.queue)
    enough = told["steps"] >= _ENOUGH and told["epochs"] > 1
    if None not in (first, last) and last >= first and enough and not grows:
        _warn(
            f"the loss has not fallen ({first:.3f} -> {last:.3f}): nothing was learned; look at the learning rate, and "
            "at how much of the views is hidden or noise"
        )


def _tried(
    images: Images, encoders: dict[str, ImageEncoder], seed: int, progress: Progress
) -> dict[str, dict[str, float]]:
    """Accuracies of each encoder on images whose labels it is not told; nothing where there are too few labels."""
    if images.labels is None:
        return {}
    chosen = _often(images.labels.tolist(), seed)[:_PROBED]
    x = torch.from_numpy(images.values[chosen])
    ways = {name: partial(encode, one, x) for name, one in encoders.items()}
    return _probed(ways, images.labels[chosen], seed, progress)


def _told_apart(
    heard: Unlabelled, encoders: dict[str, Hearing], seed: int, progress: Progress
) -> dict[str, dict[str, float]]:
    """Accuracies of telling who speaks by mean frames; nothing where too few recordings of one person are named."""
    chosen = _often(heard.names, seed)[:_HEARD]
    values = [heard.values[place] for place in chosen]
    ways = {name: partial(encode_sequences, one, values) for name, one in encoders.items()}
    return _probed(ways, np.array([heard.names[place] for place in chosen]), seed, progress)


def _often(names: Sequence[Any], seed: int) -> np.ndarray:
    """Return in a random order the places of names that come often enough for a fifth of them to be asked about."""
    counts = Counter(name for name in names if name is not None)
    named = [place for place, name in enumerate(names) if name is not None and counts[name] >= _EACH]
    return np.random.default_rng(seed).permutation(named).astype(np.int64)


def _probed(
    encoded: Mapping[str, Callable[[], Tensor]], labels: np.ndarray, seed: int, progress: Progress
) -> dict[str, dict[str, float]]:
    kinds, numbers = np.unique(labels, return_inverse=True)
    if len(kinds) < 2:
        return {}
    y, found = torch.from_numpy(numbers.astype(np.int64)), {}
    for done, (name, features) in enumerate(encoded.items(), 1):
        made = features()
        try:
            found[name] = probed(made, y, seed)
        except TooFewError:  # a handful, or one class among those that labels are taken from
            return {}
        progress("try on labels", done, len(encoded))
    return found

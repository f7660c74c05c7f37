"""``weigher pretrain``: teach an encoder from recordings or images without any labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from weigher.cli import console
from weigher.cli.run_folder import check_place
from weigher.errors import RequestError

if TYPE_CHECKING:
    from weigher.cli.pretrain_runs import ImageSettings, RecordingSettings

_BEGINNING = ("method", "epochs", "batch", "seed", "config")


@dataclass(frozen=True)
class Options:
    """Teach an encoder without labels: from recordings (then `weigher train --from` it), or from images."""

    data: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATA")]
    """Recordings: a folder of audio or of features (.npz) at any depth, a list as `weigher train` reads it, or a
    container of features. Images: a folder, .npz (images or x), .parquet or .zip."""
    out: Annotated[Path, tyro.conf.arg(metavar="RUN")]
    """Folder for the settings, metrics, checkpoints and, at the end, the encoder (RUN/encoder)."""
    method: Literal["info-nce", "align-uniform", "swav", "relic", "seqclr"] | None = None
    """What is asked of views; info-nce is the default. Recordings: seqclr compares the parts of two aligned views, all
    others two neighbouring crops as wholes. Images: seqclr is not for them."""
    epochs: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Times each image, or crop of a recording, is seen (default 40; recordings 20)."""
    batch: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Images or crops in a batch (default 256; recordings 64)."""
    config: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """JSON file of settings laid over the defaults; RUN/config.json of any run shows them all."""
    seed: Annotated[int | None, tyro.conf.arg(metavar="S")] = None
    """Seed of everything that is drawn (default 0)."""
    resume: bool = False
    """Go on with a run that was stopped, with the settings it began with."""
    device: str = "auto"
    """cpu, cuda, cuda:1, or auto for the best there is."""
    quiet: bool = False
    """No progress on stderr."""
    json: bool = False
    """Print one JSON object at the end."""


def run(options: Options) -> int:
    """Teach and save; RequestError for data that cannot be used."""
    from weigher.cli.pretrain_runs import ImageSettings, Place, RecordingSettings, images_run, recordings_run
    from weigher.io.unlabelled import kind_of
    from weigher.train.distribution import rank

    _check(options)
    hears = kind_of(options.data) == "recordings"
    settings = _resolved(options, RecordingSettings() if hears else ImageSettings())
    speaks = rank() == 0  # under torchrun, one worker writes and prints for all
    with console.progress_bar(options.quiet or not speaks) as progress:
        place = Place(options.data, options.out, options.resume, options.device, progress)
        if isinstance(settings, RecordingSettings):
            done = recordings_run(settings, place)
        else:
            done = images_run(settings, place)
    if not speaks:
        return 0
    for reason in done["skipped"]:
        console.message(f"left out: {reason}")
    if options.json:
        console.print_json(done)
    else:
        _print(done)
    return 0


def _check(options: Options) -> None:
    check_place(options.out, new=not options.resume, beginning=("config.json", "data.json", "metrics.jsonl"))
    if not options.resume:
        return
    if not (options.out / "last.safetensors").exists():
        raise RequestError(f"there is no run to resume in {options.out}; leave --resume out to begin one")
    for name in _BEGINNING:
        if getattr(options, name) is not None:
            raise RequestError(f"--resume goes on with the settings that the run began with; leave --{name} out")


def _resolved(options: Options, settings: RecordingSettings | ImageSettings) -> RecordingSettings | ImageSettings:
    """Lay the file and the options over the defaults; a resumed run keeps its own settings."""
    from weigher.cli.pretrain_runs import CONFIG
    from weigher.recordings.configs import read_config

    if options.resume:
        return read_config(options.out / CONFIG, settings)
    settings = _with_method(settings, options.method)  # before the file, whose other settings may be for this method
    if options.config is not None:
        settings = _with_method(read_config(options.config, settings), options.method)
    given = {name: getattr(options, name) for name in ("epochs", "batch", "seed")}
    return replace(
        settings, loop=replace(settings.loop, **{name: value for name, value in given.items() if value is not None})
    )


def _with_method(settings: RecordingSettings | ImageSettings, method: Any) -> RecordingSettings | ImageSettings:
    from weigher.cli.pretrain_runs import RecordingSettings

    if method is None:
        return settings
    if isinstance(settings, RecordingSettings):
        return replace(settings, sequences=replace(settings.sequences, method=method))
    return replace(settings, method=method)


def _print(done: dict[str, Any]) -> None:
    what = f"{done['images']} images" if "images" in done else f"{done['recordings']} recordings ({done['hours']:g} h)"
    loss = f"loss {done['loss']['first']:.3f} -> {done['loss']['last']:.3f}"
    steps = f"{done['steps']} step" + "s" * (done["steps"] != 1)
    print(f"{done['encoder']}: taught by {done['method']} on {what} in {steps}, {loss}")
    for name, figures in done.get("accuracy", {}).items():
        print(f"  {name}: " + ", ".join(f"{figure} {value:.1%}" for figure, value in figures.items()))

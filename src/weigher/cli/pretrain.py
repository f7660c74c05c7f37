"""``weigher pretrain``: teach an encoder from recordings or images without any labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from weigher.cli import console
from weigher.cli.arguments import one_of, optional
from weigher.cli.run_folder import check_place
from weigher.errors import RequestError

if TYPE_CHECKING:
    from weigher.cli.pretrain_runs import ImageSettings, RecordingSettings

_Method = Literal["info-nce", "align-uniform", "swav", "relic", "seqclr"]  # as pairs.methods, which needs torch
_BEGINNING = ("method", "epochs", "batch", "seed", "config")


@dataclass(frozen=True)
class Options:
    """Teach an encoder without labels: from recordings (then `weigher train --from` it), or from images."""

    data: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATA")]
    """Recordings: a folder of audio or of features (.npz) at any depth, a list as `weigher train` reads it, or a
    container of features. Images: a folder, .npz (images or x), .parquet or .zip."""
    out: Annotated[Path, tyro.conf.arg(metavar="RUN")]
    """Folder for the settings, metrics, checkpoints and, at the end, the encoder (RUN/encoder)."""
    method: Annotated[_Method | None, one_of(_Method), optional()] = None
    """What is asked of views; info-nce is the default. Recordings: seqclr compares the parts of two aligned views, all
    others two neighbouring crops as wholes. Images: seqclr is not for them."""
    epochs: Annotated[int | None, optional("N")] = None
    """Times each image, or crop of a recording, is seen (default 40; recordings 20)."""
    batch: Annotated[int | None, optional("N")] = None
    """Images or crops in a batch (default 256; recordings 64)."""
    config: Annotated[Path | None, optional("FILE")] = None
    """JSON file of settings laid over the defaults; RUN/config.json of any run shows them all."""
    seed: Annotated[int | None, optional("S")] = None
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
    from weigher.cli.pretrain_place import Place
    from weigher.cli.pretrain_runs import ImageSettings, RecordingSettings, images_run, recordings_run
    from weigher.io.unlabelled import kind_of
    from weigher.train.distribution import rank

    _check(options)
    kind = kind_of(options.data)
    hears = kind == "recordings"
    if options.resume:
        _check_kind(options, kind)
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
    from weigher.cli.pretrain_place import LAST, left_by_kill

    check_place(options.out, new=not options.resume, beginning=left_by_kill(options.out))
    if not options.resume:
        return
    if not (options.out / LAST).exists():
        raise RequestError(f"there is no run to resume in {options.out}; leave --resume out to begin one")
    for name in _BEGINNING:
        if getattr(options, name) is not None:
            raise RequestError(f"--resume goes on with the settings that the run began with; leave --{name} out")


def _resolved(options: Options, settings: RecordingSettings | ImageSettings) -> RecordingSettings | ImageSettings:
    """Lay the file and the options over the defaults; a resumed run keeps its own settings."""
    from weigher.cli.pretrain_place import CONFIG
    from weigher.recordings.configs import read_config

    if options.resume:
        return read_config(options.out / CONFIG, settings)
    settings = _with_method(settings, options.method)  # before the file, whose other settings may be for this method
    if options.config is not None:
        settings = _with_method(_read(options.config, settings), options.method)
    given = {name: getattr(options, name) for name in ("epochs", "batch", "seed")}
    return replace(
        settings, loop=replace(settings.loop, **{name: value for name, value in given.items() if value is not None})
    )


def _check_kind(options: Options, kind: str) -> None:
    """Raise RequestError where a run is resumed with images that began with recordings, or the other way round."""
    from weigher.cli.pretrain_place import DATA
    from weigher.io.folders import read_json

    held = read_json(options.out / DATA)
    began = next((word for word in ("images", "recordings") if isinstance(held, dict) and word in held), kind)
    if began != kind:
        raise RequestError(f"{options.out} began with {began}, and {options.data} holds {kind}; give the same data")


def _read(path: Path, settings: RecordingSettings | ImageSettings) -> RecordingSettings | ImageSettings:
    """Lay a file of settings over others; RequestError that says so where they are those of the other kind of data."""
    from weigher.cli.pretrain_runs import ImageSettings, RecordingSettings
    from weigher.recordings.configs import read_config

    try:
        return read_config(path, settings)
    except RequestError as error:
        if isinstance(settings, RecordingSettings):
            ours, other, known = "recordings", "images", ImageSettings()
        else:
            ours, other, known = "images", "recordings", RecordingSettings()
        if _is_for(path, known, settings):
            raise RequestError(f"{path} has settings for {other}, and the data are {ours} ({error})") from error
        raise


def _is_for(path: Path, known: RecordingSettings | ImageSettings, others: RecordingSettings | ImageSettings) -> bool:
    """Say whether a file names parts that are only in `known`, or all of it can be laid over that."""
    from weigher.io.folders import read_json
    from weigher.recordings.configs import read_config

    try:
        if (read_json(path).keys() - vars(others).keys()) & vars(known).keys():
            return True
        read_config(path, known)
    except (RequestError, AttributeError):  # no file, no JSON, no object of settings, or fit for neither
        return False
    return True


def _with_method(settings: RecordingSettings | ImageSettings, method: Any) -> RecordingSettings | ImageSettings:
    from weigher.cli.pretrain_runs import RecordingSettings

    if method is None:
        return settings
    if isinstance(settings, RecordingSettings):
        return replace(settings, sequences=replace(settings.sequences, method=method))
    return replace(settings, method=method)


def _print(done: dict[str, Any]) -> None:
    if "images" in done:
        what = _count(done["images"], "image")
        if done["scale"] not in ([0, 1], [0, 255]):
            what += " ({:g} to {:g}, scaled to 0 to 1)".format(*done["scale"])
    else:
        what = f"{_count(done['recordings'], 'recording')} ({done['hours']:g} h)"
    first, last = ("lost" if value is None else f"{value:.3f}" for value in done["loss"].values())
    loss = f"loss {first} -> {last}"
    print(f"{done['encoder']}: taught by {done['method']} on {what} in {_count(done['steps'], 'step')}, {loss}")
    for name, figures in done.get("accuracy", {}).items():
        print(f"  {name}: " + ", ".join(f"{figure} {value:.1%}" for figure, value in figures.items()))


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"

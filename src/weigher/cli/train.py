"""``weigher train``: learn from recordings labelled only with who appears in them."""

from __future__ import annotations

import json as json_format
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from weigher.cli import console
from weigher.cli.arguments import one_of, optional
from weigher.cli.run_folder import alone_in, check_place, nothing_left
from weigher.errors import RequestError

if TYPE_CHECKING:
    from weigher.io.manifest import Manifest
    from weigher.recordings.adapt import Start
    from weigher.recordings.diarizer import DiarizerConfig

_Frozen = Literal["encoder", "nothing"]
_Front = Literal["log-mel", "features", "wavlm"]
_PLANTED = 0.1  # share of the casts, with --audit
_PHASES = ("learn.listen", "learn.weigh")
_MAY_CHANGE = ("steps", "patience", "validate_every", "time_limit_seconds")  # of a phase, when a run is resumed


@dataclass(frozen=True)
class Options:
    """Learn who speaks from a cast list: recordings, and who appears in each; no times."""

    cast: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CAST")]
    """Manifest: CSV (file_name,speakers with `;` between names), JSON lines, RTTM whose times are dropped, NeMo,
    Hugging Face metadata, Kaldi's wav.scp, pyannote's database.yml, or the folder of one of these."""
    out: Annotated[Path, tyro.conf.arg(metavar="RUN")]
    """Folder for the settings, metrics, checkpoints and, at the end, the model (RUN/model)."""
    config: Annotated[Path | None, optional("FILE")] = None
    """JSON file of settings laid over the defaults; RUN/config.json of any run shows them all."""
    resume: bool = False
    """Go on with a run that was stopped, with the settings it began with; steps and limits of time alone may differ."""
    start: Annotated[Path | None, optional("MODEL", name="from")] = None
    """Begin from what a model has learned: a run, whose names are kept and new ones added, a model folder, or an
    encoder of `weigher pretrain` (RUN/encoder)."""
    freeze: Annotated[_Frozen | None, one_of(_Frozen), optional()] = None
    """With --from, what stays as it is: the encoder, and with it how voices are compared, so that people known by name
    stay known (the default), or nothing, for recordings that sound very different (the default from an encoder)."""
    replay: Annotated[Path | None, optional("OLD_CAST")] = None
    """With --from, a list whose recordings are mixed in, such as the one the model was trained on, so that it does not
    forget them; a recording in both lists is taken from CAST."""
    audit: bool = False
    """Let one cast in ten name, while listening, somebody who is not there, so that `weigher audit` can tell from where
    on names are likely wrong."""
    seed: Annotated[int | None, optional("S")] = None
    """Seed of everything that is drawn (default 0)."""
    slots: Annotated[int | None, optional("N")] = None
    """Most people in one recording (default 8)."""
    front: Annotated[_Front | None, one_of(_Front), optional()] = None
    """Front end; told by the recordings' endings when not given (.npz: features, else log-mel)."""
    wavlm: Annotated[str | None, optional("MODEL")] = None
    """Local folder or hub name of a WavLM (implies --front wavlm)."""
    listen_steps: Annotated[int | None, optional("STEPS")] = None
    """Steps of the first phase, in which labels are told apart."""
    weigh_steps: Annotated[int | None, optional("STEPS")] = None
    """Steps of the last phase, in which tracks are learned."""
    device: str = "auto"
    """cpu, cuda, cuda:1, or auto for the best there is."""
    skip_bad: bool = False
    """Leave out recordings that cannot be read, and list them, instead of stopping."""
    tensorboard: bool = False
    """Write TensorBoard logs beside the metrics (needs the [log] extra)."""
    quiet: bool = False
    """No progress on stderr."""
    json: bool = False
    """Print one JSON object at the end."""


def run(options: Options) -> int:
    """Train and save; RequestError for casts or recordings that cannot be used."""
    from weigher.io.manifest import indistinguishable, read_manifest
    from weigher.recordings.adapt import START, kept_start
    from weigher.recordings.diarizer import Diarizer
    from weigher.train.distribution import rank

    speaks = rank() == 0  # under torchrun, one worker writes and prints for all
    if speaks:
        check_place(options.out, new=not options.resume)
    manifest = read_manifest(options.cast, skip_bad=options.skip_bad)
    start = _start(options)
    if options.replay is not None:
        manifest = _mixed(manifest, read_manifest(options.replay, skip_bad=options.skip_bad))
    for warning in indistinguishable(manifest.recordings) if speaks else ():
        console.message(f"warning: {warning}")
    config = _resolved(options, [recording.path for recording in manifest.recordings], start)
    if options.resume:
        start = kept_start(options.out, config.model)
        if start is None and config.learn.begun_from != "nothing":
            raise RequestError(
                f"{options.out} began from a model, and its {START} is gone; begin a new run with --from"
            )
    diarizer = Diarizer(config=config, device=options.device)
    with _keeping(config, options, speaks), console.progress_bar(options.quiet or not speaks) as progress:
        diarizer.fit(
            manifest,
            start=start,
            run_dir=options.out,
            resume=options.resume,
            skip_bad=options.skip_bad,
            tensorboard=options.tensorboard,
            progress=progress,
        )
    if not speaks:
        return 0
    folder = options.out / "model"
    diarizer.save_pretrained(folder)
    for reason in diarizer.skipped_:
        console.message(f"left out: {reason}")
    history = diarizer.history_ or ()
    done = {
        "model": str(folder),
        "people": len(diarizer.labels_),
        "recordings": len(manifest.recordings) + len(manifest.skipped) - len(diarizer.skipped_),
        "skipped": list(diarizer.skipped_),
        "steps": [phase.step for phase in history],
        "seconds": round(sum(phase.seconds for phase in history), 1),
    }
    if options.json:
        console.print_json(done)
    else:
        print(f"{folder}: learned from {done['recordings']} recordings of {done['people']} people")
    return 0


@contextmanager
def _keeping(config: DiarizerConfig, options: Options, speaks: bool) -> Iterator[None]:
    """Keep the settings of a run in its folder, unless it is refused before it begins or goes on."""
    from weigher.io.atomic import writing
    from weigher.recordings.adapt import START
    from weigher.recordings.configs import to_plain
    from weigher.recordings.training_list import LIST

    if not speaks:
        yield
        return
    kept, settings = options.out / "config.json", json_format.dumps(to_plain(config), indent=2)
    if not options.resume:
        names, listen = (kept.name, LIST, START), options.out / "listen"
        is_ours = False
        with nothing_left(options.out, names, is_kept=lambda: not is_ours or listen.exists()), alone_in(options.out):
            check_place(options.out, new=True)  # once more: another run may have begun meanwhile
            is_ours = True
            with writing(kept, "w") as file:
                file.write(settings)
            yield
        return
    before = kept.read_text(encoding="utf-8")
    with alone_in(options.out):
        if settings == before:
            yield
            return
        with writing(kept, "w") as file:
            file.write(settings)
        try:
            yield
        except RequestError:
            with writing(kept, "w") as file:
                file.write(before)
            raise


def _start(options: Options) -> Start | None:
    """Read what training begins from; RequestError for options that contradict it."""
    from weigher.recordings.adapt import read_start

    if options.start is None:
        for name in ("freeze", "replay"):
            if getattr(options, name) is not None and not (name == "replay" and options.resume):
                raise RequestError(f"--{name} says how to train on from a model; name the model with --from")
        return None
    if options.resume:
        raise RequestError("--from begins a run, --resume goes on with one and knows what it began from; give one")
    start = read_start(options.start)
    for name in ("slots", "front", "wavlm") if start.whole else ("front", "wavlm"):
        if getattr(options, name) is not None:
            raise RequestError(f"--{name} shapes a new model, and {options.start} has its shape; leave --{name} out")
    return start


def _mixed(manifest: Manifest, old: Manifest) -> Manifest:
    """Add to a list the recordings of another one that it does not have."""
    own = {recording.path.resolve() for recording in manifest.recordings}
    added = tuple(recording for recording in old.recordings if recording.path.resolve() not in own)
    return replace(manifest, recordings=manifest.recordings + added, skipped=manifest.skipped + old.skipped)


def _resolved(options: Options, paths: list[Path], start: Start | None):
    """Lay the file and the options over the defaults; a resumed run keeps its own settings."""
    from weigher.recordings.configs import from_plain, read_config
    from weigher.recordings.diarizer import DiarizerConfig

    config, begun = DiarizerConfig(), None
    if start is not None:
        _check_paths(paths, start.model.config.front.kind, options.start)
        config = from_plain(DiarizerConfig, dict(start.settings), options.start or "")  # it was trained with these
        frozen = options.freeze or ("encoder" if start.whole else "nothing")
        config = replace(config, learn=replace(config.learn, frozen=frozen, planted=0.0))
    if options.wavlm is not None:  # what suits its features; a file of settings may say otherwise
        encoder, weigher = replace(config.model.encoder, kind="linear"), config.model.weigher
        weigher = replace(weigher, channel_reduction=12, time_reduction=15)
        config = replace(config, model=replace(config.model, encoder=encoder, weigher=weigher))
    kept = options.out / "config.json"
    if options.resume:
        if not kept.is_file():
            raise RequestError(f"there is no run to resume in {options.out}; leave --resume out to begin one")
        config = begun = read_config(kept, config)
    if options.config is not None:
        config = read_config(options.config, config)
    if start is not None and not start.fits(config.model):
        what = "`model`" if start.whole else "`front` and `encoder` of `model`"
        raise RequestError(f"{options.config} changes the shape of the model in {options.start}; leave {what} out")
    front, phases, weigher = config.model.front, config.learn, config.model.weigher
    if options.wavlm is not None:
        # a folder by its whole name: the model is applied from other places, too
        wavlm = str(Path(options.wavlm).resolve()) if Path(options.wavlm).is_dir() else options.wavlm
        front = replace(front, kind="wavlm", wavlm=wavlm)
    elif options.front is not None:
        front = replace(front, kind=options.front)
    elif options.config is None and start is None and not options.resume and all(p.suffix == ".npz" for p in paths):
        front = replace(front, kind="features")
    if options.slots is not None:
        weigher = replace(weigher, slots=options.slots)
    if options.seed is not None:
        phases = replace(
            phases, listen=replace(phases.listen, seed=options.seed), weigh=replace(phases.weigh, seed=options.seed)
        )
    if options.audit:
        phases = replace(phases, planted=_PLANTED)
    if options.listen_steps is not None:
        phases = replace(phases, listen=replace(phases.listen, steps=options.listen_steps))
    if options.weigh_steps is not None:
        phases = replace(phases, weigh=replace(phases.weigh, steps=options.weigh_steps))
    if not options.resume:
        phases = replace(phases, begun_from="nothing" if start is None else "model" if start.whole else "encoder")
    config = replace(config, model=replace(config.model, front=front, weigher=weigher), learn=phases)
    if begun is not None:
        _check_goes_on(begun, config, options.out)
    return config


def _check_goes_on(begun: DiarizerConfig, config: DiarizerConfig, run: Path) -> None:
    """Raise RequestError where a run is resumed with settings that shape its results and that it did not begin with."""
    from weigher.recordings.configs import to_plain

    now = dict(_leaves(to_plain(config)))
    for name, was in _leaves(to_plain(begun)):
        phase, _, setting = name.rpartition(".")
        if now[name] != was and not (phase in _PHASES and setting in _MAY_CHANGE):
            raise RequestError(
                f"{run} began with {name} = {was!r}, and {now[name]!r} is given; --resume takes other steps and limits "
                "of time only: leave the setting out, or begin a new run"
            )


def _leaves(plain: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each setting by its path.

    >>> list(_leaves({"learn": {"weigh": {"seed": 0}}, "window_seconds": 30.0}))
    [('learn.weigh.seed', 0), ('window_seconds', 30.0)]
    """
    for name, value in plain.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{path}{name}.")
        else:
            yield path + name, value


def _check_paths(paths: list[Path], kind: str, model: Path | None) -> None:
    """Say before anything is read where a model of audio is given features, or the other way round."""
    hears_features = kind == "features"
    other = next((path for path in paths if (path.suffix == ".npz") != hears_features), None)
    if other is not None:
        hears = "features (.npz)" if hears_features else f"audio ({kind})"
        raise RequestError(f"{model} hears {hears}, and {other} is none; give recordings like those it was trained on")

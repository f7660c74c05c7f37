"""``weigher train``: learn from recordings labelled only with who appears in them."""

from __future__ import annotations

import json as json_format
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from weigher.cli import console
from weigher.errors import RequestError


@dataclass(frozen=True)
class Options:
    """Learn who speaks from a cast list: recordings, and who appears in each; no times."""

    cast: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CAST")]
    """Manifest: CSV (file_name,speakers with `;` between names), JSON lines, RTTM whose times are dropped, NeMo,
    Hugging Face metadata, Kaldi's wav.scp, pyannote's database.yml, or the folder of one of these."""
    out: Annotated[Path, tyro.conf.arg(metavar="RUN")]
    """Folder for the settings, metrics, checkpoints and, at the end, the model (RUN/model)."""
    config: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """JSON file of settings laid over the defaults; RUN/config.json of any run shows them all."""
    resume: bool = False
    """Go on with a run that was stopped, with the settings it began with."""
    seed: Annotated[int | None, tyro.conf.arg(metavar="S")] = None
    """Seed of everything that is drawn (default 0)."""
    slots: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Most people in one recording (default 8)."""
    front: Literal["log-mel", "features", "wavlm"] | None = None
    """Front end; told by the recordings' endings when not given (.npz: features, else log-mel)."""
    wavlm: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    """Local folder or hub name of a WavLM (implies --front wavlm)."""
    listen_steps: Annotated[int | None, tyro.conf.arg(metavar="STEPS")] = None
    """Steps of the first phase, in which labels are told apart."""
    weigh_steps: Annotated[int | None, tyro.conf.arg(metavar="STEPS")] = None
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
    from weigher.io.atomic import writing
    from weigher.io.manifest import indistinguishable, read_manifest
    from weigher.recordings.configs import to_plain
    from weigher.recordings.diarizer import Diarizer
    from weigher.train.distribution import rank

    speaks = rank() == 0  # under torchrun, one worker writes and prints for all
    manifest = read_manifest(options.cast, skip_bad=options.skip_bad)
    for warning in indistinguishable(manifest.recordings) if speaks else ():
        console.message(f"warning: {warning}")
    config = _resolved(options, [recording.path for recording in manifest.recordings])
    diarizer = Diarizer(config=config, device=options.device)
    if not options.resume:
        if (options.out / "listen" / "last.safetensors").exists():
            raise RequestError(f"{options.out} holds a run already; give --resume to go on with it, or another folder")
        if speaks:
            with writing(options.out / "config.json", "w") as file:
                json_format.dump(to_plain(config), file, indent=2)
    with console.progress_bar(options.quiet or not speaks) as progress:
        diarizer.fit(
            manifest,
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


def _resolved(options: Options, paths: list[Path]):
    """Lay the file and the options over the defaults; a resumed run keeps its own settings."""
    from weigher.recordings.configs import read_config
    from weigher.recordings.diarizer import DiarizerConfig

    config = DiarizerConfig()
    if options.wavlm is not None:  # what suits its features; a file of settings may say otherwise
        encoder, weigher = replace(config.model.encoder, kind="linear"), config.model.weigher
        weigher = replace(weigher, channel_reduction=12, time_reduction=15)
        config = replace(config, model=replace(config.model, encoder=encoder, weigher=weigher))
    kept = options.out / "config.json"
    if options.resume:
        if not kept.is_file():
            raise RequestError(f"there is no run to resume in {options.out}; leave --resume out to begin one")
        config = read_config(kept, config)
    if options.config is not None:
        config = read_config(options.config, config)
    front, phases, weigher = config.model.front, config.learn, config.model.weigher
    if options.wavlm is not None:
        # a folder by its whole name: the model is applied from other places, too
        wavlm = str(Path(options.wavlm).resolve()) if Path(options.wavlm).is_dir() else options.wavlm
        front = replace(front, kind="wavlm", wavlm=wavlm)
    elif options.front is not None:
        front = replace(front, kind=options.front)
    elif options.config is None and not options.resume and all(path.suffix == ".npz" for path in paths):
        front = replace(front, kind="features")
    if options.slots is not None:
        weigher = replace(weigher, slots=options.slots)
    if options.seed is not None:
        phases = replace(
            phases, listen=replace(phases.listen, seed=options.seed), weigh=replace(phases.weigh, seed=options.seed)
        )
    if options.listen_steps is not None:
        phases = replace(phases, listen=replace(phases.listen, steps=options.listen_steps))
    if options.weigh_steps is not None:
        phases = replace(phases, weigh=replace(phases.weigh, steps=options.weigh_steps))
    return replace(config, model=replace(config.model, front=front, weigher=weigher), learn=phases)

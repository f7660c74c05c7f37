"""``weigher apply``: tell who speaks when in new recordings, how many people there are, and how sure that is."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from weigher.cli import console
from weigher.errors import RequestError


@dataclass(frozen=True)
class Options:
    """Tell who speaks when; prints RTTM when no output folder is named."""

    model: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MODEL")]
    """Model folder, as `weigher train` wrote it (RUN/model)."""
    audio: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="AUDIO")]
    """Recordings: any format libsndfile reads, any rate, any channels; .npz for a model on features."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder for one .rttm file and one .json file for each recording."""
    min_speakers: Annotated[int | None, tyro.conf.arg(metavar="K")] = None
    """At least so many people."""
    max_speakers: Annotated[int | None, tyro.conf.arg(metavar="K")] = None
    """At most so many people."""
    num_speakers: Annotated[int | None, tyro.conf.arg(metavar="K")] = None
    """Exactly so many people."""
    device: str = "auto"
    """cpu, cuda, cuda:1, or auto for the best there is."""
    skip_bad: bool = False
    """Go on after a recording that cannot be read, and list it at the end."""
    quiet: bool = False
    """No progress and no summary on stderr."""
    json: bool = False
    """Print one JSON object with all recordings instead of RTTM."""


def run(options: Options) -> int:
    """Apply the model to each recording; RequestError for a model or recording that cannot be read."""
    import json as json_format

    from weigher.io.atomic import writing
    from weigher.recordings.diarizer import Diarizer

    if not options.audio:
        raise RequestError("no recording was given; name one file or more after the model folder")
    names = [path.stem for path in options.audio]
    if options.out is not None and len(set(names)) < len(names):
        raise RequestError(
            "two recordings have the same name, and one result would replace the other; apply them apart"
        )
    diarizer = Diarizer.from_pretrained(options.model, device=options.device)
    plain, failed = [], []
    with console.progress_bar(options.quiet) as progress:
        for done, path in enumerate(options.audio, start=1):
            try:
                result = diarizer.predict(
                    path,
                    min_speakers=options.min_speakers,
                    max_speakers=options.max_speakers,
                    num_speakers=options.num_speakers,
                    progress=progress if len(options.audio) == 1 else None,
                )
            except RequestError as error:
                if not options.skip_bad:
                    raise
                failed.append({"file": str(path), "reason": str(error)})
                continue
            if options.out is not None:
                options.out.mkdir(parents=True, exist_ok=True)
                with writing(options.out / f"{result.file_id}.rttm", "w") as file:
                    file.write(result.to_rttm())
                with writing(options.out / f"{result.file_id}.json", "w") as file:
                    file.write(result.to_json())
            elif not options.json:
                sys.stdout.write(result.to_rttm())
            plain.append(json_format.loads(result.to_json()))
            if len(options.audio) > 1:
                progress("apply", done, len(options.audio))
            if not options.quiet:
                sure = ", ".join(
                    f"{name} {sure:.2f}" for name, sure in zip(result.speakers, result.confidence, strict=True)
                )
                console.message(f"{path}: {len(result.speakers)} people ({sure or 'nobody'})")
    for failure in failed:
        console.message(f"left out: {failure['reason']}")
    if options.json:
        console.print_json({"recordings": plain, "failed": failed})
    return 1 if failed and not plain else 0

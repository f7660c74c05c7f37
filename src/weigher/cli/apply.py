"""``weigher apply``: tell who speaks when in new recordings, how many people there are, and how sure that is."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from weigher.cli import console
from weigher.cli.arguments import optional
from weigher.errors import RequestError


@dataclass(frozen=True)
class Options:
    """Tell who speaks when; prints RTTM when no output folder is named.

    A folder stands for all recordings in it and below. Its results in DIR have the same names and folders; those that
    are there already are kept, so that a run that was stopped goes on, and a recording that cannot be read is listed at
    the end (exit code 1).
    """

    model: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MODEL")]
    """Model folder, as `weigher train` wrote it (RUN/model)."""
    audio: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="AUDIO")]
    """Recordings or folders of them: any format libsndfile reads, any rate, any channels; .npz for features."""
    out: Annotated[Path | None, optional("DIR")] = None
    """Folder for the results: one .json file for each recording, and one file in each format."""
    format: tyro.conf.UseAppendAction[tuple[Literal["rttm", "json", "csv", "audacity", "elan"], ...]] = ()
    """Format of the results, once or more often: RTTM (the default), JSON, CSV with the fields of CTM, Audacity labels
    (.txt), or an ELAN document (.eaf)."""
    min_speakers: Annotated[int | None, optional("K")] = None
    """At least so many people."""
    max_speakers: Annotated[int | None, optional("K")] = None
    """At most so many people."""
    num_speakers: Annotated[int | None, optional("K")] = None
    """Exactly so many people."""
    speech: Annotated[Path | None, optional("FILE")] = None
    """Where somebody speaks, as another program found it: RTTM, UEM, or the Audacity labels (.txt) of one recording.
    Outside of it nobody is said to speak. A recording in a folder goes by its path there without the ending."""
    workers: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    """Processes that share the recordings of a folder, each with the model in memory."""
    ray: bool = False
    """Share the recordings of a folder out with Ray Data, to a cluster named by RAY_ADDRESS (needs the [ray] extra)."""
    device: str = "auto"
    """cpu, cuda, cuda:1, or auto for the best there is."""
    skip_bad: bool = False
    """Go on after a recording that cannot be read, and list it at the end; with a folder that is so in any case."""
    quiet: bool = False
    """No progress and no summary on stderr."""
    json: bool = False
    """Print one JSON object with all recordings instead of RTTM."""


def run(options: Options) -> int:
    """Apply the model to each recording; RequestError for a model or recording that cannot be read."""
    if not options.audio:
        raise RequestError("no recording was given; name one file or more after the model folder")
    if any(path.is_dir() for path in options.audio) or options.workers != 1 or options.ray:
        return _apply_archive(options)
    return _apply_files(options)


def _apply_archive(options: Options) -> int:
    from weigher.recordings.apply_archive import apply_archive

    if options.out is None:
        raise RequestError("the results of many recordings need a folder; name one with --out DIR")
    with console.progress_bar(options.quiet) as progress:
        report = apply_archive(
            options.model,
            options.audio,
            options.out,
            formats=options.format or ("rttm",),
            min_speakers=options.min_speakers,
            max_speakers=options.max_speakers,
            num_speakers=options.num_speakers,
            workers=options.workers,
            with_ray=options.ray,
            device=options.device,
            speech=options.speech,
            progress=progress,
        )
    for outcome in report.failed:
        console.message(f"left out: {outcome.reason}")
    counts = {status: report.count(status) for status in ("done", "redone", "kept", "failed")}
    if not options.quiet:
        told = [f"{counts['done']} done", f"{counts['kept']} finished before", f"{counts['failed']} left out"]
        if counts["redone"]:
            told.insert(1, f"{counts['redone']} done again (another model or other settings had made their results)")
        console.message(f"{len(report.outcomes)} recordings: {', '.join(told)}")
    if options.json:
        recordings = [
            {
                "file": str(outcome.source.path),
                "result": str(options.out / f"{outcome.source.name}.json"),
                "status": outcome.status,
                "people": outcome.people,
            }
            for outcome in report.outcomes
            if outcome.status != "failed"
        ]
        failed = [{"file": str(outcome.source.path), "reason": outcome.reason} for outcome in report.failed]
        console.print_json({"recordings": recordings, "failed": failed, "counts": counts})
    return 1 if report.failed else 0


def _apply_files(options: Options) -> int:
    from weigher.io.atomic import writing
    from weigher.io.speech import read_speech
    from weigher.recordings.archive_files import FORMAT_SUFFIXES, as_text, check_ours
    from weigher.recordings.diarizer import Diarizer

    formats = options.format or ("rttm",)
    _check_printable(options)
    diarizer = Diarizer.from_pretrained(options.model, device=options.device)
    plain, failed = [], []
    with console.progress_bar(options.quiet) as progress:
        for done, path in enumerate(options.audio, start=1):
            try:
                if options.out is not None:
                    check_ours(options.out, path.stem, formats)
                result = diarizer.predict(
                    path,
                    min_speakers=options.min_speakers,
                    max_speakers=options.max_speakers,
                    num_speakers=options.num_speakers,
                    speech=None if options.speech is None else read_speech(options.speech, path.stem),
                    progress=progress if len(options.audio) == 1 else None,
                )
            except RequestError as error:
                if not options.skip_bad:
                    raise
                failed.append({"file": str(path), "reason": str(error)})
                continue
            if options.out is not None:
                for kind in dict.fromkeys(("json", *formats)):  # JSON vouches for the others
                    with writing(options.out / f"{result.file_id}{FORMAT_SUFFIXES[kind]}", "w") as file:
                        file.write(as_text(result, kind, path))
            elif not options.json:
                text = as_text(result, formats[0], path)
                # of several recordings, one table
                sys.stdout.write(text.split("\n", 1)[1] if formats[0] == "csv" and plain else text)
            plain.append({"file": str(path), **result.to_dict()})
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


def _check_printable(options: Options) -> None:
    """Raise RequestError for results that would replace or run into each other."""
    from weigher.io.rttm import recording_ids

    if options.speech is not None and options.speech.suffix.lower() == ".txt" and len(options.audio) > 1:
        raise RequestError("Audacity labels tell of one recording; name one, or give RTTM or UEM with --speech")
    if options.out is not None or not options.json:
        recording_ids(options.audio)
    if options.out is not None:
        return
    if len(set(options.format)) > 1:
        raise RequestError("results in several formats need a folder; name one with --out DIR")
    if len(options.audio) > 1 and options.format and options.format[0] not in ("rttm", "csv"):
        raise RequestError(
            f"several recordings cannot be printed as one {options.format[0]} file; name a folder with --out DIR"
        )

"""``weigher identify``: tell who speaks when by the names of people who are known; "unknown" is an answer too."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from weigher.cli import console
from weigher.cli.arguments import optional
from weigher.errors import RequestError

if TYPE_CHECKING:
    from weigher.recordings.identify import Named


@dataclass(frozen=True)
class Options:
    """Tell who speaks when by name; prints RTTM, in which people who are not known are unknown1, unknown2, ..."""

    model: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MODEL")]
    """Model folder, the one that people were enrolled with."""
    audio: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="AUDIO")]
    """Recordings: any format libsndfile reads, any rate, any channels; .npz for a model on features."""
    index: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder of the index that `weigher enroll` made."""
    remember: bool = False
    """Keep the voices of these recordings in the index, so that `weigher search` finds them; makes one if need be."""
    min_speakers: Annotated[int | None, optional("K")] = None
    """At least so many people."""
    max_speakers: Annotated[int | None, optional("K")] = None
    """At most so many people."""
    num_speakers: Annotated[int | None, optional("K")] = None
    """Exactly so many people."""
    device: str = "auto"
    """cpu, cuda, cuda:1, or auto for the best there is."""
    skip_bad: bool = False
    """Go on after a recording that cannot be read, and list it at the end."""
    quiet: bool = False
    """No progress and no summary on stderr."""
    json: bool = False
    """Print one JSON object with all recordings, names and scores instead of RTTM."""


def run(options: Options) -> int:
    """Name the voices of each recording; RequestError for a model, an index or a recording that cannot be used."""
    from weigher.io.rttm import recording_ids
    from weigher.recordings.diarizer import Diarizer
    from weigher.recordings.identify import as_recorded, identify, open_index, recording_name

    if not options.audio:
        raise RequestError("no recording was given; name one file or more after the model folder")
    if not options.json:  # which tells of paths
        recording_ids(options.audio)
    diarizer = Diarizer.from_pretrained(options.model, device=options.device)
    index = open_index(diarizer, options.index, create=options.remember)
    if not options.remember and not any(person.vectors for person in index.people()):
        raise RequestError(f"the index {options.index} knows nobody yet; make people known with `weigher enroll`")
    bounds = {name: getattr(options, name) for name in ("min_speakers", "max_speakers", "num_speakers")}
    thresholds = index.thresholds()
    plain, failed = [], []
    with console.progress_bar(options.quiet) as progress:
        for done, path in enumerate(options.audio, start=1):
            try:
                one = progress if len(options.audio) == 1 else None
                named = identify(diarizer, index, path, progress=one, **bounds)
            except RequestError as error:
                if not options.skip_bad:
                    raise
                failed.append({"file": str(path), "reason": str(error)})
                continue
            if options.remember:
                index.remember([as_recorded(named.result, recording_name(path))])
            plain.append(_plain(path, named))
            if not options.json:
                sys.stdout.write(named.result.to_rttm())
            if len(options.audio) > 1:
                progress("identify", done, len(options.audio))
            if not options.quiet:
                console.message(f"{path}: {_summary(plain[-1]['speakers'])}")
    for failure in failed:
        console.message(f"left out: {failure['reason']}")
    if options.json:
        console.print_json({"recordings": plain, "failed": failed, "threshold": thresholds.to_dict()["name"]})
    elif not options.quiet:
        console.message(thresholds.said())
    return 1 if failed and not plain else 0


def _plain(path: Path, named: Named) -> dict[str, Any]:
    told = named.result.to_dict()
    for speaker, naming in zip(told["speakers"], named.namings, strict=True):
        speaker |= {"known": naming.name is not None, "score": round(naming.score, 6), "nearest": naming.nearest}
    return {"file": str(path), **told}


def _summary(speakers: list[dict[str, Any]]) -> str:
    """Return who is there, how alike, and to whom.

    >>> _summary([{"name": "Ann", "score": 0.91, "nearest": "Ann", "known": True}])
    'Ann 0.91'
    >>> _summary([{"name": "unknown1", "score": 0.3, "nearest": "Ann", "known": False}])
    'unknown1 (nearest is Ann, 0.30)'
    """
    told = []
    for speaker in speakers:
        near = f" (nearest is {speaker['nearest']}, {speaker['score']:.2f})" if speaker["nearest"] else ""
        told.append(f"{speaker['name']} {speaker['score']:.2f}" if speaker["known"] else speaker["name"] + near)
    return ", ".join(told) or "nobody"

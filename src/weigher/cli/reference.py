"""``weigher reference``: read who speaks when off a call that has one party on each of its two channels."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from weigher.cli import console
from weigher.cli.arguments import optional


@dataclass(frozen=True)
class Options:
    """Take who speaks when from a two-channel call, as a reference to score against; prints RTTM without --out."""

    recording: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="STEREO")]
    """The call, one party on each channel: any format libsndfile reads, any rate."""
    out: Annotated[Path | None, optional("RTTM")] = None
    """RTTM file to write, with speakers channel1 and channel2."""
    quiet: bool = False
    """No progress and no summary on stderr."""
    json: bool = False
    """Print one JSON object instead of RTTM."""


def run(options: Options) -> int:
    """Print or write the turns; RequestError where the recording cannot be read or is no two-channel call."""
    from weigher.io.audio import audio_seconds
    from weigher.io.rttm import format_rttm, write_rttm
    from weigher.recordings.turn_statistics import statistics
    from weigher.recordings.two_channel import PARTIES, read_turns

    name = options.recording.stem
    with console.progress_bar(options.quiet) as progress:
        turns = read_turns(options.recording, progress=progress)
    if options.out is not None:
        write_rttm(options.out, {name: turns})
    elif not options.json:
        sys.stdout.write(format_rttm(name, turns))
    seconds = audio_seconds(options.recording)
    taken = statistics(turns, seconds)
    spoken = {party: sum(turn.end - turn.start for turn in turns if turn.speaker == party) for party in PARTIES}
    if options.json:
        console.print_json(
            {
                "recording": str(options.recording),
                "seconds": seconds,
                "spoken_seconds": spoken,
                "statistics": asdict(taken),
                "segments": [asdict(turn) for turn in turns],
            }
        )
    if not options.quiet:
        heard = ", ".join(f"{party} speaks {total:.1f} s" for party, total in spoken.items())
        console.message(
            f"{options.recording}: {heard} of {seconds:.1f} s, both at once in {100 * taken.overlap_fraction:.1f} % of "
            f"it, {taken.switches_per_minute:.1f} switches a minute"
        )
    return 0

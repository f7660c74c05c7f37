"""The main job in a few minutes: voices -> recordings with casts -> training -> people never heard before.

Run by `make demo`. Takes real voices where there are any, else downloads a small open set, else synthesises some, and
says which. Everything it makes is kept in the folder it names at the end.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.table import Table

from weigher.cli import console
from weigher.cli.arguments import optional
from weigher.cli.main import run_as_command
from weigher.errors import RequestError

if TYPE_CHECKING:
    from weigher.io.voices import Voices
    from weigher.recordings.diarizer import Diarizer, DiarizerConfig
    from weigher.recordings.turns import TurnLaw

_MARK = "made-by-the-demo.txt"  # tells a folder of the demo, whole or cut short, from one that holds somebody's work
_LEAST = {"speakers": 3, "recordings": 1, "listen_steps": 1, "weigh_steps": 1, "tests": 1, "seed": 0}


@dataclass(frozen=True)
class Options:
    """Make recordings out of voices, learn from their casts, and find out who speaks when in the voices of others."""

    out: Path = Path("demo-run")
    """Folder for everything the demo makes; an earlier demo in it is replaced."""
    data: Annotated[Path | None, optional("DIR")] = None
    """Data folder; WEIGHER_DATA or ../shared/data where not given."""
    offline: bool = False
    """Do not look for voices: synthesise them."""
    speakers: int = 125
    """People, a fifth of whom training never hears."""
    recordings: int = 400
    """Recordings to learn from."""
    listen_steps: int = 260
    """Steps of the first phase."""
    weigh_steps: int = 220
    """Steps of the last phase."""
    tests: int = 48
    """Recordings of the unseen people."""
    seed: int = 0
    """Seed of everything."""


def main(argv: Sequence[str] | None = None, config: DiarizerConfig | None = None) -> int:
    """Run the demo as a command; returns the exit code, with the same meaning as those of `weigher`."""

    def work() -> int:
        demonstrate(tyro.cli(Options, prog="weigher.cli.demo", args=argv), config)
        return 0

    return run_as_command("demo", work)


def demonstrate(options: Options, config: DiarizerConfig | None = None) -> None:
    """Run the demo; `config` (default: the diarizer's own, with 5 slots) sets the sizes of model and training.

    The steps and the seed of `options` are laid over it. Raises RequestError for a request that cannot be served.
    """
    from weigher.recordings.simulate import simulate, write

    _check(options)
    voices, law = _voices(options), _law(options)
    people = voices.speakers[: options.speakers]
    if len(people) < _LEAST["speakers"]:
        raise RequestError(f"the voices are of {len(people)} people; 2 to learn from and another to test on are needed")
    _clear(options.out)
    unseen = people[:: max(2, len(people) // max(1, len(people) // 5))]
    known = [name for name in people if name not in set(unseen)]
    console.message(f"{len(known)} people to learn from, {len(unseen)} others to test on")
    with console.progress_bar() as progress:
        for part, chosen, count in (("train", known, options.recordings), ("test", unseen, options.tests)):
            conversations = simulate(
                voices.only(chosen),
                law,
                recordings=count,
                seconds=20.0,
                max_speakers=min(4, len(chosen)),
                noise_db=30.0,
                seed=options.seed,
                progress=progress,
            )
            write(conversations, options.out / part, law)
    diarizer = _trained(options, config)
    _report(options, diarizer)


def _check(options: Options) -> None:
    """Refuse, before anything is made or removed, what could only fail later."""
    for name, least in _LEAST.items():
        if getattr(options, name) < least:
            option = f"--{name.replace('_', '-')}"
            raise RequestError(f"{option} is {getattr(options, name)}; at least {least} is needed")
    if options.out.exists() and not options.out.is_dir():
        raise RequestError(f"{options.out} is a file; name a folder with --out")
    if options.out.exists() and any(options.out.iterdir()) and not (options.out / _MARK).is_file():
        raise RequestError(f"{options.out} holds something that is no earlier demo; name another folder with --out")


def _clear(out: Path) -> None:
    """Remove an earlier demo, whole or cut short; its mark stays until the end, in case this is cut short too."""
    out.mkdir(parents=True, exist_ok=True)
    (out / _MARK).write_text("The next demo removes what is in this folder.\n", encoding="utf-8")
    for entry in [*out.iterdir()]:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != _MARK:
            entry.unlink()


def _voices(options: Options) -> Voices:
    from weigher.io.datasets import find_voices
    from weigher.io.voices import read_voices
    from weigher.recordings.synthesise import synthesise_voices

    folder = None
    if not options.offline:
        with console.progress_bar() as progress:
            folder = find_voices(options.data, say=console.message, progress=progress)
    if folder is not None:
        return read_voices(folder)
    console.message(
        "voices: synthesised (source and filter, in numpy), as no real ones could be had; figures tell little"
    )
    return synthesise_voices(None, speakers=options.speakers, utterances=3, seconds=6.0, seed=options.seed)


def _law(options: Options) -> TurnLaw:
    from weigher.io.datasets import find_data
    from weigher.recordings.turns import RandomWalkTurns, RecordedTurns

    data = find_data(options.data)
    timings = None if data is None else data / "speech" / "timings" / "ami" / "train"
    if timings is not None and timings.is_dir():
        console.message(f"turn taking: drawn from the real meetings in {timings}")
        return RecordedTurns.read(timings)
    console.message("turn taking: a random walk picks who speaks, as no real timings are at hand")
    return RandomWalkTurns()


def _trained(options: Options, config: DiarizerConfig | None) -> Diarizer:
    """Learn from the casts, and from nothing else."""
    from weigher.recordings.diarizer import Diarizer

    diarizer = Diarizer(slots=5 if config is None else None, seed=options.seed, config=config)
    phases = diarizer.config.learn
    phases = replace(
        phases,
        listen=replace(phases.listen, steps=options.listen_steps),
        weigh=replace(phases.weigh, steps=options.weigh_steps),
    )
    diarizer.config = replace(diarizer.config, learn=phases)
    console.message(f"training on {options.out / 'train' / 'cast.csv'}: who is in each recording, never when")
    with console.progress_bar() as progress:
        diarizer.fit(options.out / "train" / "cast.csv", run_dir=options.out / "run", progress=progress)
    diarizer.save_pretrained(options.out / "model")
    return diarizer


def _report(options: Options, diarizer: Diarizer) -> None:
    """Apply the model to the unseen people, score it beside clustering, and draw a picture."""
    from weigher.io.audio import SAMPLE_RATE, read_audio
    from weigher.io.manifest import read_manifest
    from weigher.io.rttm import read_rttm_tree, write_rttm
    from weigher.studies import diarization as shared

    assert diarizer.model_ is not None
    truth = read_rttm_tree(options.out / "test" / "rttm")
    talks = []
    for recording in read_manifest(options.out / "test" / "cast.csv").recordings:
        samples, name = read_audio(recording.path), recording.path.stem
        talks.append(shared.Talk(name, samples, tuple(truth[name]), len(samples) / SAMPLE_RATE))
    results = shared.apply(diarizer, talks)
    found = {result.file_id: list(result.segments) for result in results}
    write_rttm(options.out / "test.found.rttm", found)
    table = Table(
        "method",
        title="Who speaks when, for people never heard before",
        caption="the clusterings are given the true number of people and the true speech; the weigher is given nothing",
    )
    for column in ("DER %", "miss", "false alarm", "confusion", "count %"):
        table.add_column(column, justify="right")
    rows = [("weigher", shared.figures(talks, found))]
    embeddings = [shared.frame_embeddings(diarizer, talk) for talk in talks]
    for method in shared.METHODS:
        for smooth in (False, True):
            turns = shared.clustered(
                talks, embeddings, method, diarizer.model_.hop_seconds, smooth=smooth, seed=options.seed
            )
            label = f"{method}{', 1 s mean' if smooth else ''}"
            rows.append((label, shared.figures(talks, turns)))
    for label, figures in rows:
        table.add_row(
            label,
            *(f"{figures[f'{part} %, collar 0']:.1f}" for part in ("DER", "miss", "false alarm", "confusion")),
            f"{figures['count right %']:.0f}" if label == "weigher" else "given",
        )
    Console().print(table)
    index = _telling(talks)
    picture = options.out / "tracks.png"
    results[index].plot(picture, reference=talks[index].segments, samples=talks[index].values)
    print(results[index].to_rttm(), end="")
    console.message(
        f"the picture: {picture}; the model: {options.out / 'model'}; all turns: {options.out}/test.found.rttm"
    )


def _telling(talks) -> int:
    """The recording to show: three people or as near as there is, many turns."""
    return max(range(len(talks)), key=lambda i: (-abs(len(talks[i].cast) - 3), len(talks[i].segments)))


if __name__ == "__main__":
    sys.exit(main())

"""Apply a model to many recordings: resumable, in one process, in several, or through Ray Data on a cluster.

What is finished stays finished (see `weigher.recordings.archive_files`), a recording that cannot be read is listed and
does not stop the rest, and the results do not depend on how the work was shared out. Threads of torch are divided among
the processes; sums of another number of threads may differ in the last bit, which is less than what is written.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from weigher.errors import RequestError, WeigherError
from weigher.io.audio import LIBSNDFILE_SUFFIXES
from weigher.io.speech import read_speech_of_all
from weigher.recordings.archive_files import (
    Format,
    Job,
    Outcome,
    Source,
    apply_one,
    find_recordings,
    fingerprint,
    standing,
)
from weigher.recordings.decode import choose_slots
from weigher.recordings.diarizer import Diarizer
from weigher.recordings.link import MOST_PEOPLE

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ArchiveReport:
    """What became of every recording, in order of their names."""

    outcomes: tuple[Outcome, ...]

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """The recordings without a result."""
        return tuple(outcome for outcome in self.outcomes if outcome.status == "failed")

    def count(self, status: str) -> int:
        """Return how many recordings have that status."""
        return sum(outcome.status == status for outcome in self.outcomes)


def apply_archive(
    model: str | os.PathLike[str],
    places: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    formats: Sequence[Format] = ("rttm",),
    min_speakers: int | None = None,
    max_speakers: int | None = None,
    num_speakers: int | None = None,
    workers: int = 1,
    with_ray: bool = False,
    device: str = "auto",
    speech: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> ArchiveReport:
    """Apply the model folder `model` to recordings and folders of them; results go to the folder `out`.

    `workers` processes share the work, each with the model in memory; a script that asks for more than one needs
    Python's `if __name__ == "__main__":`. `with_ray` hands the same work to Ray Data: to the cluster that is connected
    or named by RAY_ADDRESS (whose machines see the same folders), else to a Ray of this machine for the time of the
    call. `speech` is a file that tells where somebody speaks in each recording, by the name of its result (`sub/a`);
    see `weigher.io.speech`. `progress` gets "apply", done, total.

    Raises RequestError for a model, a place or bounds that cannot be used, and without the [ray] extra; WeigherError
    where the work cannot go on (the disk is full, a process was killed). What was finished until then is kept.
    """
    if workers < 1:
        raise RequestError(f"{workers} workers are asked for; needed is 1 or more")
    job = Job(
        Path(model).absolute(),
        fingerprint(Path(model)),
        Path(out).absolute(),
        tuple(dict.fromkeys(formats)),
        min_speakers,
        max_speakers,
        num_speakers,
        device,
        None if speech is None else read_speech_of_all(speech),
    )
    diarizer = Diarizer.from_pretrained(job.model, device=device if workers == 1 and not with_ray else "cpu")
    # bounds that contradict each other; how many people there can be depends on the length of each recording
    choose_slots(np.zeros(MOST_PEOPLE), **job.bounds)
    features = diarizer.config.model.front.kind == "features"
    sources = find_recordings(
        [Path(place) for place in places], frozenset({".npz"}) if features else LIBSNDFILE_SUFFIXES
    )
    outcomes, left = _sorted_out(job, sources)
    _check_writable(job.out)  # before hours of work
    if with_ray:
        from weigher.recordings.archive_ray import through_ray

        found = through_ray(job, left, workers)
    elif workers == 1 or len(left) < 2:
        found = (apply_one(diarizer, job, source) for source in left)
    else:
        found = _in_processes(job, left, min(workers, len(left)))
    if progress is not None:
        progress("apply", len(outcomes), len(sources))
    for outcome in found:
        outcomes.append(outcome)
        if progress is not None:
            progress("apply", len(outcomes), len(sources))
    return ArchiveReport(tuple(sorted(outcomes, key=lambda outcome: (outcome.source.name, str(outcome.source.path)))))


def _check_writable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise RequestError(f"no results can be written to {out} ({error.strerror}); name another folder") from error


def _sorted_out(job: Job, sources: Sequence[Source]) -> tuple[list[Outcome], list[Source]]:
    """The recordings that are finished or cannot be told apart, and those that are left to do."""
    named: dict[str, list[Path]] = {}
    for source in sources:
        named.setdefault(source.name, []).append(source.path)
    outcomes: list[Outcome] = []
    left: list[Source] = []
    for source in sources:
        twins = [str(path) for path in named[source.name] if path != source.path]
        if twins:
            reason = (
                f"{source.path}: its result would be that of {', '.join(twins)} too, {source.name}.json; rename one"
            )
            outcomes.append(Outcome(source, "failed", reason=reason))
            continue
        state, people = standing(job, source)
        if state == "finished":
            outcomes.append(Outcome(source, "kept", people))
        else:
            left.append(source)
    return outcomes, left


_WORKER: dict[str, tuple[Diarizer, Job]] = {}  # of this process, where it is one of several


def _in_processes(job: Job, sources: Sequence[Source], workers: int) -> Iterator[Outcome]:
    """Yield outcomes as they come; leaving early, by Ctrl-C too, ends the processes at once."""
    threads = max(1, torch.get_num_threads() // workers)
    others = multiprocessing.active_children()
    # spawned, not forked: a fork copies locks that threads of torch hold, and cannot use a GPU
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(job, threads))
    try:
        for future in as_completed([executor.submit(_work, source) for source in sources]):
            yield future.result()
    except BrokenProcessPool as error:
        raise WeigherError(
            f"one of {workers} processes was ended from outside, perhaps for want of memory; what is finished is kept: "
            "run again, with fewer workers"
        ) from error
    except BaseException:
        for child in multiprocessing.active_children():
            if child not in others:
                child.terminate()  # results appear whole or not at all, so nothing is lost but what was under way
        raise
    finally:
        executor.shutdown(cancel_futures=True)


def _start_worker(job: Job, threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _WORKER["this"] = Diarizer.from_pretrained(job.model, device=job.device), job


def _end_with_parent() -> None:
    """Wait for the first process to end, killed or not: nobody would stop this one."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(source: Source) -> Outcome:
    return apply_one(*_WORKER["this"], source)

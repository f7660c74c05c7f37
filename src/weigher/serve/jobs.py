"""Work that waits its turn: a bounded queue, one worker, progress, cancelling, and nothing left behind.

    admitted -> queued -> running -> done | failed | cancelled -> removed

Each job has a folder of its own under one private folder, for the recording it is about. The folder goes when the job
is removed: because somebody says so, because nobody has asked for it for a while or others have been asked for since,
because it failed or was cancelled, and all of them when the queue closes. Whoever knows the number of a job may ask for
it, and nobody can guess one.

Work is cancelled through its progress hook, which raises `JobCancelledError`.
"""

from __future__ import annotations

import logging
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Literal, TypeVar

from weigher.errors import RequestError, WeigherError

Progress = Callable[[str, int, int], None]
State = Literal["queued", "running", "done", "failed", "cancelled"]
ENDED: tuple[State, ...] = ("done", "failed", "cancelled")
_Result = TypeVar("_Result")
_KEPT = 4  # results for each place in the queue, so that many short jobs do not fill the disk
_log = logging.getLogger("weigher.serve")


class JobCancelledError(Exception):
    """Raised inside the work that somebody cancelled."""


class QueueFullError(WeigherError):
    """So many recordings wait already that no other is taken in."""


class NoSuchJobError(RequestError):
    """Nothing is known of a job: there was none, or it has been removed."""


class NotDoneError(RequestError):
    """The job has no result, or none yet."""


@dataclass(frozen=True)
class Status:
    """How a job stands."""

    id: str
    name: str
    state: State
    stage: str
    """What is being done now."""
    done: int
    """Steps of this stage that are done."""
    total: int
    """Steps of this stage; 0 where nobody knows."""
    ahead: int
    """Jobs that are worked on before this one."""
    error: str | None
    """Why it failed."""


@dataclass(eq=False)
class _Job(Generic[_Result]):
    id: str
    name: str
    folder: Path
    work: Callable[[Progress], _Result]
    touched: float
    state: State = "queued"
    progress: tuple[str, int, int] = ("waiting", 0, 0)
    error: str | None = None
    result: _Result | None = None
    cancel: threading.Event = field(default_factory=threading.Event)


class Jobs(Generic[_Result]):
    """A queue of at most `capacity` unfinished jobs under `folder`; ended ones are kept `keep_seconds` after a look.

    >>> import tempfile
    >>> jobs = Jobs(Path(tempfile.mkdtemp()), capacity=2, keep_seconds=60)
    >>> with jobs.admit() as folder:
    ...     number = jobs.submit(folder, "talk.wav", lambda progress: "who speaks when")
    >>> jobs.wait(number).state, jobs.result(number)
    ('done', 'who speaks when')
    >>> jobs.close()
    """

    def __init__(
        self, folder: Path, *, capacity: int, keep_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.folder = folder
        self._capacity, self._keep, self._clock = capacity, keep_seconds, clock
        self._jobs: dict[str, _Job[_Result]] = {}
        self._admitted: set[Path] = set()
        self._closed = False
        self._changed = threading.Condition()
        self._worker = threading.Thread(target=self._run, name="weigher-jobs", daemon=True)
        self._worker.start()

    @contextmanager
    def admit(self) -> Iterator[Path]:
        """Hold a place in the queue and give an empty folder for the recording; QueueFullError where there is no place.

        The folder is removed at the end of the block, unless a job was submitted with it.
        """
        with self._changed:
            self._sweep()
            unfinished = sum(job.state not in ENDED for job in self._jobs.values())
            if self._closed or unfinished + len(self._admitted) >= self._capacity:
                raise QueueFullError(
                    f"{self._capacity} recordings are waiting already, as many as may; try again later"
                )
            folder = self.folder / secrets.token_hex(8)
            folder.mkdir(mode=0o700)
            self._admitted.add(folder)
        try:
            yield folder
        finally:
            with self._changed:
                kept = folder not in self._admitted
                self._admitted.discard(folder)
            if not kept:
                shutil.rmtree(folder, ignore_errors=True)

    def submit(self, folder: Path, name: str, work: Callable[[Progress], _Result]) -> str:
        """Put work in the queue, about what is in an admitted folder, and return the number of the job."""
        with self._changed:
            if folder not in self._admitted:
                raise RequestError("this folder was not admitted; submit a job within `admit`")
            self._admitted.remove(folder)
            job = _Job(secrets.token_urlsafe(16), name, folder, work, self._clock())
            self._jobs[job.id] = job
            self._changed.notify_all()
            return job.id

    def status(self, number: str) -> Status:
        """Return how a job stands; NoSuchJobError where nothing is known of it."""
        with self._changed:
            return self._status(self._find(number))

    def wait(self, number: str, timeout: float = 60.0) -> Status:
        """Return how a job stands once it has ended, or the time in seconds is over."""
        with self._changed:
            job = self._find(number)
            self._changed.wait_for(lambda: job.state in ENDED, timeout)
            return self._status(job)

    def result(self, number: str) -> _Result:
        """Return what came of a job; NoSuchJobError, or NotDoneError where there is nothing (yet)."""
        with self._changed:
            return self._done(number)[1]

    def update(self, number: str, change: Callable[[_Result], _Result]) -> _Result:
        """Put a changed result in the place of that of one job, and return it; raises as `result` does."""
        with self._changed:
            job, result = self._done(number)
            job.result = change(result)
            return job.result

    def update_all(self, change: Callable[[_Result], _Result]) -> None:
        """Put changed results in the place of all that there are."""
        with self._changed:
            for job in self._jobs.values():
                if job.result is not None:
                    job.result = change(job.result)

    def cancel(self, number: str) -> None:
        """Stop a job that has not ended; what it is about is removed. NoSuchJobError where nothing is known of it."""
        with self._changed:
            job = self._find(number)
            job.cancel.set()
            if job.state == "queued":
                self._end(job, "cancelled")

    def remove(self, number: str) -> None:
        """Stop a job and forget it, its result and its recording; NoSuchJobError where nothing is known of it."""
        with self._changed:
            self.cancel(number)
            job = self._jobs.pop(number)
            job.result = None
            if job.state != "running":  # else its folder goes when the worker lets go of it
                shutil.rmtree(job.folder, ignore_errors=True)

    def close(self) -> None:
        """Cancel everything, wait for the worker to stop, and remove all folders."""
        with self._changed:
            self._closed = True
            for number in list(self._jobs):
                self.remove(number)
            self._changed.notify_all()
        self._worker.join(timeout=60)
        for folder in self._admitted:
            shutil.rmtree(folder, ignore_errors=True)

    def _find(self, number: str) -> _Job[_Result]:
        self._sweep()
        job = self._jobs.get(number)
        if job is None:
            raise NoSuchJobError(
                "there is no such recording (any more); results are removed after a while: send it again"
            )
        job.touched = self._clock()
        return job

    def _done(self, number: str) -> tuple[_Job[_Result], _Result]:
        job = self._find(number)
        if job.result is None:
            why = f": {job.error}" if job.error else ""
            raise NotDoneError(f"there is no result of {job.name}: it is {job.state}{why}")
        return job, job.result

    def _status(self, job: _Job[_Result]) -> Status:
        order = list(self._jobs.values())
        before = order[: order.index(job)] if job in order else []
        ahead = sum(other.state not in ENDED for other in before) if job.state == "queued" else 0
        return Status(job.id, job.name, job.state, *job.progress, ahead, job.error)

    def _sweep(self) -> None:
        """Remove what has ended and nobody has asked for, and the longest unasked of too many."""
        latest = self._clock() - self._keep
        ended = sorted((job for job in self._jobs.values() if job.state in ENDED), key=lambda job: job.touched)
        for place, job in enumerate(ended):
            if job.touched <= latest or len(ended) - place > _KEPT * self._capacity:
                del self._jobs[job.id]
                job.result = None
                shutil.rmtree(job.folder, ignore_errors=True)

    def _end(self, job: _Job[_Result], state: State, error: str | None = None) -> None:
        job.state, job.error, job.touched = state, error, self._clock()
        if state != "done" or job.id not in self._jobs:
            shutil.rmtree(job.folder, ignore_errors=True)
        self._changed.notify_all()

    def _next(self) -> _Job[_Result] | None:
        """Wait for a job; None when the queue closes."""
        with self._changed:
            while not self._closed:
                self._sweep()
                job = next((job for job in self._jobs.values() if job.state == "queued"), None)
                if job is not None:
                    job.state = "running"
                    return job
                self._changed.wait(timeout=min(self._keep, 30.0))
        return None

    def _run(self) -> None:
        while (job := self._next()) is not None:
            self._work(job)

    def _work(self, job: _Job[_Result]) -> None:
        def progress(stage: str, done: int, total: int) -> None:
            job.progress = (stage, done, total)
            if job.cancel.is_set():
                raise JobCancelledError
            with self._changed:
                self._sweep()

        try:
            result = job.work(progress)
        except JobCancelledError:
            state, error, result = "cancelled", None, None
        except WeigherError as found:
            state, error, result = "failed", _without_path(str(found), job), None
        except Exception as found:  # a fault of ours, or memory is out: the worker lives on
            _log.exception("a job failed")
            state, error, result = "failed", f"{type(found).__name__}; the server's messages tell more", None
        else:
            state, error = ("cancelled", None) if job.cancel.is_set() else ("done", None)
        with self._changed:
            if state == "done" and job.id in self._jobs:
                job.result = result
            self._end(job, state, error)


def _without_path(message: str, job: _Job) -> str:
    """Say the name that the user knows in the place of a path on this machine."""
    for path in sorted(job.folder.glob("*"), reverse=True):
        message = message.replace(str(path), job.name)
    return message.replace(str(job.folder), job.name)

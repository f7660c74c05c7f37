"""What page and API both do: take a recording in, tell how it stands, name people, remove it."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from weigher.errors import RequestError
from weigher.recordings.diarizer import Diarizer
from weigher.recordings.index import PeopleIndex
from weigher.serve.hearing import Heard, Listener, with_person_renamed
from weigher.serve.jobs import Jobs, Progress
from weigher.serve.limits import Limits, display_name

RECORDING = "recording"
"""What every upload is called on disk: without an ending, so that its content alone tells the format."""


class Service:
    """A listener with a queue before it; all files are under one private folder."""

    def __init__(self, diarizer: Diarizer, index: PeopleIndex | None, limits: Limits, folder: Path) -> None:
        self.limits, self.listener = limits, Listener(diarizer, index, limits)
        self._naming = threading.Lock()  # what is named must not change between reading it and writing it back
        self.jobs: Jobs[Heard] = Jobs(folder, capacity=limits.queue, keep_seconds=limits.keep_minutes * 60)

    @contextmanager
    def admit(self) -> Iterator[Path]:
        """Hold a place and give the path that the recording is to be written to; QueueFullError where none is free."""
        with self.jobs.admit() as folder:
            yield folder / RECORDING

    def submit(self, path: Path, told_name: str | None, bounds: Mapping[str, int | None]) -> str:
        """Put an admitted recording in the queue and return the number of its job.

        Raises AudioError for what is no audio, TooLargeError for what is too long, RequestError for impossible bounds.
        """
        name, bounds = display_name(told_name), dict(bounds)
        try:
            seconds = self.limits.check_recording(path)
        except RequestError as error:  # the name that the sender knows, not a path on this machine
            raise type(error)(str(error).replace(str(path), name)) from error
        self.listener.check_bounds(bounds, seconds)

        def work(progress: Progress) -> Heard:
            return self.listener.listen(path, name, bounds, progress)

        return self.jobs.submit(path.parent, name, work)

    def submit_file(self, source: Path, told_name: str | None, bounds: Mapping[str, int | None]) -> str:
        """Put a file that is on this machine already in the queue, as a copy; raises as `admit` and `submit` do."""
        self.limits.check_bytes(source.stat().st_size)
        with self.admit() as path:
            shutil.copyfile(source, path)
            return self.submit(path, told_name, bounds)

    def name_voice(self, job: str, speaker: str, name: str) -> Heard:
        """Say whose a voice of a recording is; raises as `Jobs.result` and `Listener.name_voice` do."""
        with self._naming:
            heard = self.listener.name_voice(self.jobs.result(job), speaker, name)
            return self.jobs.update(job, lambda _: heard)

    def rename_person(self, old: str, new: str) -> str:
        """Give a person another name, in the index and in all results; raises as `Listener.rename_person`."""
        with self._naming:
            new = self.listener.rename_person(old, new)
            self.jobs.update_all(lambda heard: with_person_renamed(heard, old, new))
            return new

    def close(self) -> None:
        """Cancel all work and remove all recordings."""
        self.jobs.close()

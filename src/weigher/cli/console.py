"""What a person sees while work goes on: progress and messages on stderr, results as JSON on stdout."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

ProgressHook = Callable[[str, int, int], None]
"""Called as ``progress(stage, done, total)``; a total of 0 means that nobody knows."""

QUIET_SECONDS = 2.0
"""Work that ends sooner shows no progress at all."""
LINE_SECONDS = 10.0
"""Least time between two lines where there is no terminal; it grows with the work, so that logs stay short."""

stderr = Console(stderr=True)


def message(text: str) -> None:
    """Print one message on stderr, word for word (square brackets are no markup)."""
    stderr.print(text, markup=False, highlight=False, soft_wrap=True)


def print_json(obj: object) -> None:
    """Print one object as JSON on stdout; a NaN raises ValueError, as JSON has none.

    >>> print_json({"der": 22.42})
    {
      "der": 22.42
    }
    """
    print(json.dumps(obj, indent=2, allow_nan=False), file=sys.stdout)


@contextmanager
def progress_bar(quiet: bool = False) -> Iterator[ProgressHook]:
    """Give a progress hook: a bar on a terminal, now and then a plain line elsewhere, nothing when ``quiet``.

    >>> with progress_bar(quiet=True) as progress:
    ...     progress("train", 1, 10)
    """
    if quiet:
        yield _nothing
    elif stderr.is_terminal:
        bar = _Bar()
        try:
            yield bar
        finally:
            bar.close()
    else:
        yield _Lines()


def _nothing(stage: str, done: int, total: int) -> None:
    """Show no progress."""


class _Bar:
    """One live bar for each stage, first drawn once the work has lasted two seconds."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.tasks: dict[str, TaskID] = {}
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=stderr,
        )

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage not in self.tasks:
            self.tasks[stage] = self.progress.add_task(stage, completed=done)  # a resumed run does not start at 0
        self.progress.update(self.tasks[stage], completed=done, total=total or None)
        if time.monotonic() - self.started >= QUIET_SECONDS:
            self.progress.start()  # a second start does nothing

    def close(self) -> None:
        self.progress.stop()


class _Lines:
    """A line of progress at sensible intervals, for logs and pipes."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.first: dict[str, tuple[float, int]] = {}  # when each stage was first heard of, and how much was done then
        self.due = QUIET_SECONDS

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic() - self.started
        started, done_before = self.first.setdefault(stage, (now, done))
        ended = 0 < total == done and now - started >= QUIET_SECONDS
        if now >= self.due or ended:
            self.due = now + max(LINE_SECONDS, now / 20)
            steps = done - done_before
            left = (now - started) / steps * (total - done) if steps > 0 else None
            message(progress_line(stage, done, total, left))


def progress_line(stage: str, done: int, total: int, left_seconds: float | None) -> str:
    """Return one line of progress, with the time a stage still needs where that can be told.

    >>> progress_line("train", 30, 120, 95.0)
    'train: 30/120 (25 %), about 1:35 left'
    >>> progress_line("read", 7, 0, None)
    'read: 7'
    """
    if total <= 0:
        return f"{stage}: {done}"
    line = f"{stage}: {done}/{total} ({100 * done // total} %)"
    return line if left_seconds is None or done >= total else f"{line}, about {clock(left_seconds)} left"


def clock(seconds: float) -> str:
    """Return a duration as minutes and seconds, with hours where there are any.

    >>> clock(65), clock(3725)
    ('1:05', '1:02:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

"""Commands that are cut off at one place of their progress."""

import os
import signal
from contextlib import contextmanager

from weigher.cli import console


def cut_by(monkeypatch, stage, at, how):
    """Have the next call end at one place of its progress: by an exception at once, or by the "signal" of Ctrl-C."""

    def hook(now, done, total):
        if (now, done) == (stage, at):
            if how == "signal":
                os.kill(os.getpid(), signal.SIGINT)
            else:
                raise KeyboardInterrupt

    @contextmanager
    def progress_bar(quiet):
        yield hook

    monkeypatch.setattr(console, "progress_bar", progress_bar)

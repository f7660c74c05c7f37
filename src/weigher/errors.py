"""Errors a user can act on: each message says what was given, what is needed, and what to do."""

from collections.abc import Mapping


class WeigherError(Exception):
    """The work failed for a reason the user can understand; the command line ends with exit code 1."""


class RequestError(WeigherError, ValueError):
    """The request itself cannot be served (wrong manifest, missing model); the command line ends with exit code 2."""


def check_ranges(settings: object, ranges: Mapping[str, tuple[bool, str]]) -> None:
    """Raise RequestError for the first setting that does not fit; `ranges` says of each whether, and what would.

    >>> from types import SimpleNamespace
    >>> check_ranges(SimpleNamespace(steps=0), {"steps": (0 >= 1, "1 or more")})
    Traceback (most recent call last):
        ...
    weigher.errors.RequestError: steps = 0 is out of range; needed is 1 or more
    """
    for name, (fits, needed) in ranges.items():
        if not fits:
            raise RequestError(f"{name} = {getattr(settings, name)!r} is out of range; needed is {needed}")

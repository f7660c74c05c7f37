"""Errors a user can act on: each message says what was given, what is needed, and what to do."""


class WeigherError(Exception):
    """The work failed for a reason the user can understand; the command line ends with exit code 1."""


class RequestError(WeigherError, ValueError):
    """The request itself cannot be served (wrong manifest, missing model); the command line ends with exit code 2."""

"""The command ``weigher``: looks at the verb, and only then imports what that verb needs."""

import importlib
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from weigher import __version__
from weigher.errors import RequestError, WeigherError

_OF_PEOPLE = ("list", "rename", "merge", "forget")  # verbs of `weigher people`

VERBS = {
    "simulate": "make conversations with cast lists out of recordings of single voices",
    "pretrain": "teach an encoder from recordings or images without any labels, for train to begin from",
    "train": "learn who speaks from recordings labelled only with who appears in them",
    "apply": "tell who speaks when in new recordings, how many people there are, and how sure that is",
    "enroll": "make people known by name, from recordings of them alone or from casts",
    "identify": "tell who speaks when by the names of people who are known",
    "search": "find the recordings in which a voice appears, and when",
    "audit": "rank the names of a training list that are likely wrong or missing",
    "serve": "open a page to look and listen, with a JSON API under it",
    "people": "list, rename, merge, forget, export and map the people who are known",
    "export": "write a model as ONNX, from features to tracks, to run it without PyTorch",
    "reference": "take who speaks when from a call that has one party on each of its two channels",
    "score": "compare RTTM files: diarization error, Jaccard error, speaker count accuracy",
    "compare": "tell how far two corpora lie apart: is a new archive unlike the old one?",
    "examples": "rank the labelled examples of a set that are likely labelled wrong",
    "tokens": "learn which words count from texts with labels of two kinds",
    "explain": "tell what each word of a text adds to the answer of such a model",
    "study": "measure one method against its baseline on real data, or list the studies",
    "doctor": "show versions, extras, devices and data found, for a report or before a long run",
}
"""Each verb with its line of help; the verb's module is ``weigher.cli.<verb>``."""

SUCCESS, FAILED, BAD_REQUEST, INTERRUPTED, PIPE_CLOSED = 0, 1, 2, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one ``weigher`` command and return its exit code.

    >>> main(["--version"])
    weigher 0.1.0
    0
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    verb = arguments[0] if arguments else ""
    return run_as_command(f"weigher {verb}" if verb in VERBS else "weigher", lambda: _run(verb, arguments[1:]))


def run_as_command(command: str, work: Callable[[], int]) -> int:
    """Run ``work``, which returns an exit code, and turn its failures into exit codes too.

    0: done. 1: the work failed. 2: the request cannot be served. 130: interrupted by Ctrl-C. 141: the reader of our
    standard output went away. Failures of these kinds are one message on stderr; anything else is a fault in weigher
    and keeps its traceback. Warnings are messages too, without the place in the code.
    """
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            code = work()
        sys.stdout.flush()
        return code
    except RequestError as error:
        return _fail(command, error, BAD_REQUEST)
    except BrokenPipeError:
        # Python flushes stdout once more at exit; pointed at nothing, that flush cannot fail a second time.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except (WeigherError, OSError) as error:
        return _fail(command, error, FAILED)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "weigher":
            raise
        needs = f"this needs the Python package {error.name}, which is not installed"
        return _fail(command, f"{needs}; `weigher doctor` shows the pip line of each extra", BAD_REQUEST)
    except KeyboardInterrupt as interrupt:  # training says where it stopped, and that it can be resumed
        return _fail(command, str(interrupt) or "interrupted", INTERRUPTED)


def _warn(text: Warning | str, category: type[Warning], *place: object, **more: object) -> None:
    from weigher.cli import console  # only now: it imports rich, and --help is to be quick

    console.message(f"warning: {text}")


def usage() -> str:
    """Return what ``weigher --help`` prints."""
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {summary}" for verb, summary in VERBS.items())
    return f"""usage: weigher VERB [OPTIONS]

weigher learns what counts: diarization trained from cast lists alone.

verbs:
{verbs}

`weigher VERB --help` shows the options of a verb; `weigher --version` the version.
Exit code: 0 done, 1 the work failed, 2 the request was wrong, 130 interrupted (Ctrl-C)."""


def _run(verb: str, rest: list[str]) -> int:
    if verb in VERBS:
        return _run_verb(verb, rest)
    if verb in ("-h", "--help"):
        print(usage())
        return SUCCESS
    if verb == "--version":
        print(f"weigher {__version__}")
        return SUCCESS
    raise RequestError(_unknown(verb))


def _run_verb(verb: str, rest: list[str]) -> int:
    import tyro

    module = importlib.import_module(f"weigher.cli.{verb}")
    run: Callable[[object], int] = module.run
    try:
        options = tyro.cli(
            module.Options,
            prog=f"weigher {verb}",
            args=rest,
            # `--json` needs no `--no-json` beside it, and comments in the source are no help texts.
            config=(tyro.conf.FlagCreatePairsOff, tyro.conf.HelptextFromCommentsOff),
        )
    except SystemExit as exit_:  # tyro has already printed the help, or what is wrong with the request
        return exit_.code if isinstance(exit_.code, int) else BAD_REQUEST
    _check_paths(options, rest)
    return run(options)


def _check_paths(options: Any, given: list[str]) -> None:
    """Raise RequestError for a path that is given as an empty text: it would be the folder we are in."""
    pairs = zip(["", *given], given, strict=False)
    empty = [now.removesuffix("=") or before for before, now in pairs if _is_empty(now)]
    for part in fields(options) if empty else ():
        value = getattr(options, part.name)
        if Path() in (value if isinstance(value, tuple) else (value,)):
            name = next((option for option in empty if option.startswith("--")), part.name.upper())
            raise RequestError(f"{name} is given nothing; is a variable of the shell empty?")


def _is_empty(argument: str) -> bool:
    return not argument or (argument.startswith("--") and argument.endswith("="))


def _unknown(verb: str) -> str:
    import difflib

    known = f"the verbs are {', '.join(VERBS)} (`weigher --help` explains them)"
    if not verb:
        return f"no verb was given; {known}"
    nearest = [f"people {verb}"] if verb in _OF_PEOPLE else difflib.get_close_matches(verb, VERBS, n=1)
    meant = f"did you mean `weigher {nearest[0]}`? " if nearest else ""
    return f"`{verb}` is no verb of weigher; {meant}{known}"


def _fail(command: str, message: object, code: int) -> int:
    print(f"{command}: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())

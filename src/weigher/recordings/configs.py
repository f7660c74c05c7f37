"""Settings as plain data and back: nested frozen dataclasses <-> JSON, with every wrong key or value named."""

from __future__ import annotations

import json
import math
import sys
import types
from dataclasses import fields, is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from reprlib import Repr
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from weigher.errors import RequestError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

C = TypeVar("C", bound="DataclassInstance")

_WORDS = {int: "a whole number", float: "a finite number", bool: "true or false", str: "a text"}
_BRIEF = Repr()  # a value may be long, or nested deeper than repr can go
_BRIEF.maxstring = _BRIEF.maxother = 80


def to_plain(config: Any) -> Any:
    """Turn nested dataclasses and tuples into dictionaries and lists, fit for JSON.

    >>> from weigher.recordings.encoder import EncoderConfig
    >>> to_plain(EncoderConfig())["dilations"]
    [1, 2, 4, 8]
    """
    if is_dataclass(config) and not isinstance(config, type):
        return {part.name: to_plain(getattr(config, part.name)) for part in fields(config)}
    return [to_plain(part) for part in config] if isinstance(config, tuple) else config


def from_plain(kind: type[C], plain: Any, source: str | Path) -> C:
    """Build a dataclass from plain data; what is left out keeps its default.

    Raises RequestError that names the source and the key, for a key that does not exist or a value of the wrong kind.

    >>> from weigher.recordings.encoder import EncoderConfig
    >>> from_plain(EncoderConfig, {"stride": 2}, "config.json").stride
    2
    >>> from_plain(EncoderConfig, {"strides": 2}, "config.json")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    weigher.errors.RequestError: config.json: there is no setting 'strides'; did you mean 'stride'? known are kind, ...
    """
    return overlay(kind(), plain, source)


def overlay(config: C, plain: Any, source: str | Path, path: str = "") -> C:
    """Return `config` with the plain values laid over it; raises as `from_plain`.

    >>> from weigher.recordings.encoder import EncoderConfig
    >>> overlay(EncoderConfig(channels=96), {"stride": 2}, "config.json").channels
    96
    """
    if not isinstance(plain, dict):
        raise RequestError(
            f"{source}: {path.rstrip('.') or 'the file'} is {_BRIEF.repr(plain)}; needed is an object of settings"
        )
    kind = type(config)
    hints = get_type_hints(kind)
    known = [part.name for part in fields(kind)]
    for name in plain:
        if name not in known:
            nearest = get_close_matches(str(name), known, n=1)
            meant = f"did you mean {path + nearest[0]!r}? " if nearest else ""
            raise RequestError(
                f"{source}: there is no setting {path + str(name)!r}; {meant}known are {', '.join(known)}"
            )
    changes = {}
    for name, value in plain.items():
        now = getattr(config, name)
        if is_dataclass(now) and not isinstance(now, type):
            changes[name] = overlay(now, value, source, f"{path}{name}.")
        else:
            changes[name] = _checked(hints[name], value, f"{source}: {path}{name}")
    try:
        return replace(config, **changes)
    except RequestError as error:  # the dataclass knows what fits together, but not where it came from
        raise RequestError(f"{source}: {path}{error}") from error


def read_config(path: str | Path, config: C) -> C:
    """Lay a JSON file of settings over `config`."""
    try:
        plain = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"the settings {path} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{path} is no JSON ({error}); needed is an object of settings") from error
    return overlay(config, plain, path)


def _checked(hint: Any, value: Any, where: str) -> Any:
    """Return a value that fits its annotation, or say why it does not."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        # by type too: True == 1 == 1.0
        if not any(type(value) is type(choice) and value == choice for choice in inner):
            raise RequestError(f"{where} is {_BRIEF.repr(value)}; it can be {', '.join(map(repr, inner))}")
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        (hint,) = [part for part in inner if part is not type(None)]
        return _checked(hint, value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise RequestError(f"{where} is {_BRIEF.repr(value)}; needed is a list")
        return tuple(_checked(inner[0], part, where) for part in value)
    if hint is float and type(value) is int and abs(value) <= sys.float_info.max:
        value = float(value)
    if type(value) is not hint or (hint is float and not math.isfinite(value)):
        raise RequestError(f"{where} is {_BRIEF.repr(value)}; needed is {_WORDS[hint]}")
    return value

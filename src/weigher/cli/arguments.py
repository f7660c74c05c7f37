"""Options that may be left out: their help says what happens then, without `default: None` beside it."""

from __future__ import annotations

from typing import cast, get_args

import tyro
from tyro.constructors import PrimitiveConstructorSpec


def optional(metavar: str | None = None, *, name: str | None = None) -> object:
    """Return the marking of an option whose default is None."""
    return tyro.conf.arg(metavar=metavar, name=name, help_behavior_hint="")


def one_of(literal: object) -> object:
    """Return the marking of an option that is one word of a Literal, or None where it is left out."""
    words = cast(tuple[str, ...], get_args(literal))

    def read(given: list[str]) -> str:
        if given[0] not in words:
            raise ValueError(f"it can be {', '.join(words)}")
        return given[0]

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="{" + ",".join(words) + "}",
        instance_from_str=read,
        is_instance=lambda value: value is None or value in words,
        str_from_instance=lambda value: [str(value)],
    )

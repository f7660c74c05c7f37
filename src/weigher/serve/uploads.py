"""Forms with a recording in them, refused as soon as they are seen to be too slow; `bodies` refuses too large ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request

from weigher.errors import RequestError
from weigher.serve.limits import Limits

_FIELDS = 16


class SlowUploadError(RequestError):
    """An upload that takes longer than it may."""


@asynccontextmanager
async def received_form(request: Request, limits: Limits) -> AsyncIterator[FormData]:
    """Give the form of a request, of at most one file.

    The file lies in memory, or once it is above 1 MB in a file without a name that goes with this block or process.
    Raises SlowUploadError when the time is over, RequestError for what is no such form.
    """
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise RequestError("a recording is sent as multipart/form-data, in the field `audio`")
    form = request.form(max_files=1, max_fields=_FIELDS)
    try:
        async with asyncio.timeout(limits.upload_seconds), form as fields:
            yield fields
    except TimeoutError as error:
        raise SlowUploadError(f"the upload took more than {limits.upload_seconds:g} s") from error
    except HTTPException as error:  # starlette's word for a form that is broken
        raise RequestError(f"the form cannot be read: {error.detail}") from error


def count_field(form: FormData, name: str) -> int | None:
    """Return a field that holds a number of speakers; None where it is absent or empty.

    Raises RequestError for what is no whole number from 0 on.
    """
    told = form.get(name)
    if told is None or told == "":
        return None
    if not isinstance(told, str) or not told.isascii() or not told.isdigit() or len(told) > 6:
        raise RequestError(f"{name} is {told!r}; needed is a whole number, 0 or more")
    return int(told)

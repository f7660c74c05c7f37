"""How much a request may bring, and how much of the disk the uploads of the page may take.

Every body is counted while it comes in, whether its length was told or not: an upload may be as large as the limits
say, anything else 64 KB. What the page takes in stays in a folder of its own until it is old; together that is no more
than the uploads of a full queue.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from pathlib import Path

from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from weigher.serve.limits import Limits

UPLOAD, PAGE_UPLOAD = "/api/jobs", "/gradio_api/upload"
"""Where recordings come in: from programs, and from the page."""
ENVELOPE = 64 * 1024
"""Bytes that a body may have beside its recording."""
_FILES = 256  # that the page may hold for each place in the queue, were they empty


class Bodies:
    """ASGI middleware; `uploads` is where the page keeps its uploads, a folder that nobody else uses.

    What lies there longer than a result is kept is removed: Gradio forgets files in fields that it does not know.
    """

    def __init__(self, app: ASGIApp, limits: Limits, uploads: Path) -> None:
        self.app, self.limits, self.uploads = app, limits, uploads
        self._coming = 0  # bytes that uploads of the page may bring which are under way

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 413 to what is too large, 503 and 408 to uploads of the page, and pass the rest on."""
        path, limits = scope["path"], self.limits
        most = ENVELOPE + (limits.bytes if path in (UPLOAD, PAGE_UPLOAD) else 0)
        size = _length(scope, most)
        if size > most:
            await self._too_large(most)(scope, receive, send)
        elif path != PAGE_UPLOAD:
            await self._counted(scope, receive, send, most)
        else:
            self._coming += size
            try:
                held = await asyncio.to_thread(self._held)
                if held + self._coming - size >= limits.queue * limits.bytes:
                    await _refusal(503, "as many uploads are kept as may be; try again later")(scope, receive, send)
                else:
                    until = asyncio.get_running_loop().time() + limits.upload_seconds
                    await self._counted(scope, receive, send, most, until)
            finally:
                self._coming -= size

    async def _counted(self, scope: Scope, receive: Receive, send: Send, most: int, until: float | None = None) -> None:
        """Pass a request on whose body is at most so large; an upload of the page has to be through `until` a time."""
        received, more, begun = 0, True, False
        refusal: JSONResponse | None = None

        async def receiving() -> Message:
            nonlocal received, more, refusal
            # Gradio and Starlette remove the parts of a form that they hold where this error comes up, and for no other
            try:
                async with asyncio.timeout_at(until if more else None):
                    message = await receive()
            except TimeoutError as error:
                refusal = _refusal(408, f"the upload took more than {self.limits.upload_seconds:g} s")
                raise MultiPartException("too slow") from error
            if until is not None and more and message["type"] == "http.disconnect":
                raise MultiPartException("broken off")
            received += len(message.get("body", b""))
            more = message.get("more_body", False)
            if received > most:
                refusal = self._too_large(most)
                raise MultiPartException("too large")
            return message

        async def sending(message: Message) -> None:
            nonlocal begun
            if refusal is None or begun:  # else the application answers to the error above, each part in its own way
                begun = True
                await send(message)

        try:
            await self.app(scope, receiving, sending)
        except Exception:
            if refusal is None or begun:
                raise
        if refusal is not None and not begun:
            await refusal(scope, receive, send)

    def _held(self) -> float:
        """Remove old files of the page, and return the bytes of those that stay, a small one counted as a larger."""
        least = self.limits.bytes / _FILES
        oldest, held = time.time() - self.limits.keep_minutes * 60, 0
        for folder, _, names in os.walk(self.uploads):
            for path in (Path(folder, name) for name in names):
                with suppress(FileNotFoundError):  # Gradio renames and removes meanwhile
                    known = path.lstat()
                    if known.st_ctime < oldest:
                        path.unlink()
                    else:
                        held += max(known.st_size, least)
        return held

    def _too_large(self, most: int) -> JSONResponse:
        what = (
            "request is larger than 64 KB"
            if most == ENVELOPE
            else f"upload is larger than {self.limits.megabytes:g} MB"
        )
        return _refusal(413, f"the {what}, the most that this server takes")


def _length(scope: Scope, most: int) -> int:
    """Return the length of a body as it is told; `most` where nobody tells it, or it is no number."""
    told = Headers(scope=scope).get("content-length", "")
    if not told.isascii() or not told.isdigit():
        return most
    return int(told[:20])  # a longer one is too large in any case, and Python refuses to read thousands of digits


def _refusal(code: int, why: str) -> JSONResponse:
    return JSONResponse({"detail": why}, code, {"Retry-After": "30"} if code == 503 else None)

"""What every request and every answer passes: other sites cannot use a visitor's browser to reach this server.

- A server on the loopback answers to loopback names only, so that a name of somebody's own that points at 127.0.0.1
  (DNS rebinding) gets nothing.
- A request that changes something and comes from a page must come from a page of this server.
- Answers tell the browser to load from here alone, so that no library can fetch fonts, scripts or pictures elsewhere.
- Every body has a limit, see `weigher.serve.bodies`.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from weigher.serve.bodies import Bodies
from weigher.serve.limits import Limits

_SAFE = ("GET", "HEAD", "OPTIONS")
_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-DNS-Prefetch-Control": "off",
}


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine alone.

    >>> [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "example.org")]
    [True, True, True, False, False]
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """ASGI middleware; `host` is the address that the server listens on, `uploads` as `Bodies` has it."""

    def __init__(self, app: ASGIApp, host: str, limits: Limits, uploads: Path) -> None:
        self.app, self.bodies, self.local = app, Bodies(app, limits, uploads), is_loopback(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403 to what must not be, and pass the rest on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        asked, origin = headers.get("host", ""), headers.get("origin")
        if self.local and not is_loopback(_hostname(asked)):
            refusal = f"this server answers to 127.0.0.1 and localhost only, not to {asked!r}"
        elif scope["method"] not in _SAFE and origin is not None and _place(origin) != asked:
            refusal = f"a page of {origin!r} may change nothing here"
        else:
            await self.bodies(scope, receive, _with_headers(send))
            return
        await JSONResponse({"detail": refusal}, status_code=403)(scope, receive, _with_headers(send))


def _hostname(asked: str) -> str:
    try:
        return urlsplit(f"//{asked}").hostname or ""
    except ValueError:
        return ""


def _place(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers[name] = value
        await send(message)

    return sending

"""The server: model, index, API and page in one process, on the loopback unless told otherwise.

All files that it makes are under one private folder, which is removed at the end; what a killed server left behind is
removed by the next one. Nothing is fetched from elsewhere and nothing is reported to anybody.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from weigher.errors import RequestError
from weigher.io.locks import try_lock
from weigher.recordings.diarizer import Diarizer
from weigher.recordings.identify import open_index
from weigher.serve.api import build_api
from weigher.serve.guard import Guard
from weigher.serve.limits import Limits
from weigher.serve.service import Service

_PREFIX, _LOCK = "weigher-serve-", "lock"
_UPLOADS = "GRADIO_TEMP_DIR"
# Gradio reads these when it is imported and when it is used
_SETTINGS = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}


def serve(
    model: str | os.PathLike[str],
    *,
    people: str | os.PathLike[str] | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    limits: Limits | None = None,
    device: str = "auto",
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve a model folder until somebody stops the process; `ready` is told the address once it can be asked.

    With `people` voices are named from that index, which is made where there is none, and names given are written to
    it. Port 0 is any free one. Raises RequestError for a model, an index or a port that cannot be used.
    """
    diarizer = Diarizer.from_pretrained(Path(model), device=device)
    index = None if people is None else open_index(diarizer, people, create=True)
    with _listening(host, port) as listener, private_folder() as folder:
        app = build_app(Service(diarizer, index, limits or Limits(), folder), host)
        address = listener.getsockname()
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5, server_header=False)
        server = _Server(config, lambda: ready and ready(f"http://{shown}:{address[1]}"))
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the folder goes then too
        server.run(sockets=[listener])


def build_app(service: Service, host: str = "127.0.0.1") -> FastAPI:
    """Return API and page as one application; at its end the service is closed.

    Not to be called in an event loop, and only within `private_folder`, where the page keeps its uploads.
    """
    # where none is running, Gradio makes several event loops and closes none of them
    app = asyncio.run(_with_page(build_api(service), service))
    app.add_middleware(Guard, host=host, limits=service.limits, uploads=Path(os.environ[_UPLOADS]))
    return app


async def _with_page(app: FastAPI, service: Service) -> FastAPI:
    os.environ.update(_SETTINGS)
    import gradio as gr

    from weigher.serve.actions import Actions, from_uploads
    from weigher.serve.page import CSS, lay_out, theme

    keep = round(service.limits.keep_minutes * 60)
    with gr.Blocks(title="weigher", analytics_enabled=False, delete_cache=(60, keep)) as page:
        Actions(service, lay_out(service)).wire()
    for block in page.blocks.values():
        # Gradio would fetch any address, and copy any file of this machine, that a visitor names in place of an upload
        block.async_move_resource_to_block_cache = from_uploads
    return gr.mount_gradio_app(
        app,
        page,
        path="/",
        footer_links=[],
        run_history=False,
        max_file_size=service.limits.bytes,
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
        theme=theme(),
        css=CSS,
    )


@contextmanager
def private_folder() -> Iterator[Path]:
    """Give a folder that nobody else may read, for as long as the block lasts; Gradio's uploads go into it too."""
    _sweep()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    before = os.environ.get(_UPLOADS)
    os.environ[_UPLOADS] = str(folder / "page")
    try:
        with (folder / _LOCK).open("w") as lock:
            try_lock(lock.fileno())
            yield folder
    finally:
        if before is None:
            del os.environ[_UPLOADS]
        else:
            os.environ[_UPLOADS] = before
        shutil.rmtree(folder, ignore_errors=True)


def _sweep() -> None:
    """Remove the folders of servers that were killed: nobody holds their lock."""
    for lock in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_LOCK}"):
        with suppress(OSError), lock.open("a") as file:
            if try_lock(file.fileno()):
                shutil.rmtree(lock.parent, ignore_errors=True)


class _Server(uvicorn.Server):
    """Uvicorn that says when it can be asked."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], object]) -> None:
        super().__init__(config)
        self.ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then say so."""
        await super().startup(sockets)
        if self.started:
            self.ready()


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    if not 0 <= port < 1 << 16:
        raise RequestError(f"the port is {port}; needed is a number from 0 to 65535")
    with ExitStack() as stack:
        try:
            family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            listener = stack.enter_context(socket.socket(family, kind, number))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError as error:
            why = f"cannot listen on {host} port {port}: {error}"
            raise RequestError(f"{why}; name others by --host and --port") from error
        yield listener

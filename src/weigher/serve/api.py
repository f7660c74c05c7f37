"""The JSON API: recordings in, who speaks when out. Described by /openapi.json, and for people by /docs.

POST   /api/jobs                          a recording (multipart), at most so many speakers -> 202 and a job
GET    /api/jobs/{job}                    how it stands: state, stage, done, total
DELETE /api/jobs/{job}                    cancel it, or remove its result and its recording
GET    /api/jobs/{job}/result?format=     json, rttm, csv, audacity, elan
GET    /api/jobs/{job}/audio?start=&end=  a part of the recording, to listen to
PATCH  /api/jobs/{job}/speakers/{name}    say whose a voice is
GET    /api/people                        who is known
PATCH  /api/people/{name}                 rename somebody
GET    /api/health                        that it is alive, and its limits
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from weigher import __version__
from weigher.errors import RequestError, WeigherError
from weigher.io.audio import AudioError
from weigher.recordings.archive_files import FORMAT_SUFFIXES, Format, as_text
from weigher.serve.hearing import Heard, as_wav, read_cut
from weigher.serve.jobs import NoSuchJobError, NotDoneError, QueueFullError
from weigher.serve.limits import TooLargeError
from weigher.serve.reference import reference_page
from weigher.serve.service import Service
from weigher.serve.uploads import SlowUploadError, count_field, received_form

_MEDIA_TYPES: dict[Format, str] = {
    "rttm": "text/plain",
    "json": "application/json",
    "csv": "text/csv",
    "audacity": "text/plain",
    "elan": "application/xml",
}
_CODES: tuple[tuple[type[Exception], int], ...] = (
    (NoSuchJobError, 404),
    (NotDoneError, 409),
    (QueueFullError, 503),
    (TooLargeError, 413),
    (SlowUploadError, 408),
    (AudioError, 415),
    (RequestError, 400),
    (WeigherError, 500),
)
_UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["audio"],
                    "properties": {
                        "audio": {"type": "string", "format": "binary", "description": "The recording."},
                        **{f"{bound}_speakers": {"type": "integer", "minimum": 0} for bound in ("min", "max", "num")},
                    },
                }
            }
        },
    }
}


class JobStatus(BaseModel):
    """How a recording stands."""

    id: str
    name: str
    state: str = Field(description="queued, running, done, failed or cancelled")
    stage: str = Field(description="What is being done now.")
    done: int
    total: int = Field(description="Steps of this stage; 0 where nobody knows.")
    ahead: int = Field(description="Recordings that are heard before this one.")
    error: str | None


class Name(BaseModel):
    """A name to give."""

    name: str = Field(max_length=200)


class PersonKnown(BaseModel):
    """Somebody whom the index knows."""

    name: str
    vectors: int
    recordings: int


class Health(BaseModel):
    """That the server is alive, and what it takes."""

    status: str
    version: str
    slots: int = Field(description="Most speakers in one window; a longer recording may have more.")
    people: bool = Field(description="Whether voices are named from an index of people.")
    max_megabytes: float
    max_minutes: float
    queue: int


class Problem(BaseModel):
    """What went wrong, and what to do."""

    detail: str


def build_api(service: Service) -> FastAPI:
    """Return the application; its end (not its start) closes the service."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.close)

    app = FastAPI(
        title="weigher",
        version=__version__,
        summary="Who speaks when, who they are, and how sure that is.",
        docs_url=None,  # FastAPI's pages load their scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    app.include_router(_recordings(service))
    app.include_router(_people(service))

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return HTMLResponse(reference_page(app.openapi()))

    app.add_exception_handler(RequestValidationError, _not_understood)
    for kind, code in _CODES:
        app.add_exception_handler(kind, _answer(code))
    return app


def _answer(code: int):
    def handler(_: Request, error: Exception) -> JSONResponse:
        headers = {"Retry-After": "30"} if code == 503 else None
        return JSONResponse({"detail": str(error)}, status_code=code, headers=headers)

    return handler


async def _not_understood(_: Request, error: Exception) -> JSONResponse:
    """Say what is wrong and where, without what was sent: that may be long, and somebody's own."""
    assert isinstance(error, RequestValidationError)
    told = [{key: each[key] for key in ("type", "loc", "msg")} for each in error.errors()]
    return JSONResponse({"detail": told}, status_code=422)


def _problems(*codes: int) -> dict[int | str, dict[str, Any]]:
    return {code: {"model": Problem} for code in codes}


def _recordings(service: Service) -> APIRouter:
    router = APIRouter(prefix="/api/jobs", tags=["recordings"])
    jobs = service.jobs

    @router.post("", status_code=202, openapi_extra=_UPLOAD, responses=_problems(400, 408, 413, 415, 503))
    async def send(request: Request, response: Response) -> JobStatus:
        """Send a recording: any format libsndfile reads, told by its content; optionally bounds on its speakers."""
        with service.admit() as path:
            async with received_form(request, service.limits) as form:
                audio = form.get("audio")
                if not isinstance(audio, UploadFile):
                    raise RequestError("no recording was sent; send one as the multipart field `audio`")
                bounds = {
                    f"{bound}_speakers": count_field(form, f"{bound}_speakers") for bound in ("min", "max", "num")
                }
                with path.open("wb") as file:
                    while block := await audio.read(1 << 20):
                        await asyncio.to_thread(file.write, block)
                number = await run_in_threadpool(service.submit, path, audio.filename, bounds)
        response.headers["Location"] = f"/api/jobs/{number}"
        return JobStatus(**asdict(jobs.status(number)))

    @router.get("/{job}", responses=_problems(404))
    def status(job: str) -> JobStatus:
        """Tell how a recording stands."""
        return JobStatus(**asdict(jobs.status(job)))

    @router.delete("/{job}", status_code=204, responses=_problems(404))
    def remove(job: str) -> None:
        """Cancel, and remove the recording and its result."""
        jobs.remove(job)

    @router.get("/{job}/result", response_class=Response, responses=_problems(400, 404, 409))
    def result(job: str, format: Format = "json") -> Response:
        """Tell who speaks when, in one of five formats; JSON also tells how sure, and who is known."""
        return _download(jobs.result(job), format)

    @router.get("/{job}/audio", response_class=Response, responses=_problems(400, 404, 409, 415))
    def audio(job: str, start: float, end: float) -> Response:
        """Return a part of the recording as WAV, mono at 16 kHz; at most five minutes of it."""
        return Response(as_wav(read_cut(jobs.result(job), start, end)), media_type="audio/wav")

    @router.patch("/{job}/speakers/{speaker:path}", responses=_problems(400, 404, 409))
    def name_voice(job: str, speaker: str, told: Annotated[Name, ...]) -> dict[str, Any]:
        """Say whose a voice is: where there is an index, it is enrolled under that name. Returns the result."""
        return service.name_voice(job, speaker, told.name).to_dict()

    return router


def _people(service: Service) -> APIRouter:
    router = APIRouter(prefix="/api")
    listener, limits = service.listener, service.limits

    @router.get("/people", tags=["people"], responses=_problems(400))
    def people() -> list[PersonKnown]:
        """List everybody whom the index knows."""
        return [PersonKnown(**asdict(person)) for person in listener.people().people()]

    @router.patch("/people/{name:path}", tags=["people"], responses=_problems(400))
    def rename(name: str, told: Annotated[Name, ...]) -> Name:
        """Give a person another name, in the index and in every result that is held."""
        return Name(name=service.rename_person(name, told.name))

    @router.get("/health", tags=["server"])
    def health() -> Health:
        """Tell that the server is alive, and what it takes."""
        return Health(
            status="ok",
            version=__version__,
            slots=listener.diarizer.config.model.weigher.slots,
            people=listener.index is not None,
            max_megabytes=limits.megabytes,
            max_minutes=limits.minutes,
            queue=limits.queue,
        )

    return router


def _download(heard: Heard, kind: Format) -> Response:
    named = heard.result.file_id + FORMAT_SUFFIXES[kind]
    if kind == "json":
        text = json.dumps(heard.to_dict(), indent=2, allow_nan=False) + "\n"
    else:
        # ELAN is given a name beside the document, not a path on this machine
        text = as_text(heard.result, kind, heard.path) if kind != "elan" else heard.result.to_elan()
    disposition = f"attachment; filename*=UTF-8''{quote(named, safe='')}"
    return Response(text, media_type=_MEDIA_TYPES[kind], headers={"Content-Disposition": disposition})

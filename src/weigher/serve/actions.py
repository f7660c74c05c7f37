"""What happens on the page: hearing a recording, playing a turn, giving a name.

All work goes through the same service as the API: the page hands a recording in, asks how it stands until it has ended,
and shows what came of it. What a visitor holds is the number of one job, in their session.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from gradio.utils import get_upload_folder
from starlette.concurrency import run_in_threadpool

from weigher.errors import RequestError, WeigherError
from weigher.io.audio import SAMPLE_RATE
from weigher.serve.drawing import clock, draw
from weigher.serve.hearing import Heard, read_cut
from weigher.serve.jobs import ENDED, Status
from weigher.serve.page import ANY, Widgets
from weigher.serve.service import Service

_LOOK_SECONDS = 0.2
_LONGEST_NUMBER = 6
_STAGES = {"waiting": "Waiting", "read": "Reading the recording", "apply": "Listening"}
_RENAME, _OTHER = "rename", "other"
Update = dict[Any, Any]


class Actions:
    """The answers of the page to its visitors."""

    def __init__(self, service: Service, widgets: Widgets) -> None:
        self.service, self.on = service, widgets

    def wire(self) -> None:
        """Connect parts and answers."""
        on = self.on
        result = [on.shown, on.picture, on.table, on.voice, on.name, on.way, on.player]
        # the queue before the model is that of the service; here everybody is answered at once
        how: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": None}
        on.start.click(
            self.listen,
            [on.recording, on.least, on.most, on.job],
            [on.status, on.job, on.start, on.cancel, *result],
            **how,
        )
        on.cancel.click(self.stop, on.job, None, queue=False, **how)
        on.picture.click(self.hear_clicked, on.job, [on.player, on.voice, on.status], **how)
        on.table.select(self.hear_chosen, on.job, [on.player, on.voice, on.status], **how)
        on.voice.change(self.choose, [on.job, on.voice], [on.way, on.status], **how)
        on.save.click(self.give_name, [on.job, on.voice, on.name, on.way], [on.status, *result], **how)

    async def listen(self, sound: str | None, least: str, most: str, before: str | None) -> AsyncIterator[Update]:
        """Hand a recording in, tell how it stands, and show the result."""
        on, jobs = self.on, self.service.jobs
        idle = {on.start: gr.update(interactive=True), on.cancel: gr.update(visible=False)}
        number, ended = None, False
        try:
            path = _uploaded(sound)
            bounds = {"min_speakers": _bound(least), "max_speakers": _bound(most), "num_speakers": None}
            if before is not None:
                self.drop(before)  # the page shows one recording at a time
            number = await run_in_threadpool(self.service.submit_file, path, path.name, bounds)
            busy = {on.start: gr.update(interactive=False), on.cancel: gr.update(visible=True)}
            yield {on.job: number, on.shown: gr.update(visible=False), **busy, on.status: _bar("Waiting", 0.0)}
            while (found := jobs.status(number)).state not in ENDED:
                yield {on.status: _standing(found)}
                await asyncio.sleep(_LOOK_SECONDS)
            ended = True
            if found.state == "done":
                yield {on.status: "", **idle, **self._shown(jobs.result(number), number)}
            else:
                yield {on.status: _wrong(found.error or "Cancelled."), **idle}
        except WeigherError as error:
            yield {on.status: _wrong(str(error)), **idle}
        finally:
            if number is not None and not ended:  # who closed the page meanwhile does not come back for the result
                self.drop(number)

    def stop(self, number: str | None) -> None:
        """Cancel what is being heard."""
        try:
            self.service.jobs.cancel(number or "")
        except RequestError as error:
            raise gr.Error(str(error)) from error

    def drop(self, number: str) -> None:
        """Remove a job, if it is still there."""
        try:
            self.service.jobs.remove(number)
        except RequestError:
            return

    def hear_clicked(self, number: str | None, event: gr.EventData) -> Update:
        """Play the turn that was clicked in the picture."""
        told = event._data
        return self.hear(number, told.get("turn") if isinstance(told, dict) else None)

    def hear_chosen(self, number: str | None, event: gr.SelectData) -> Update:
        """Play the turn whose row was chosen in the table."""
        return self.hear(number, event.index[0] if isinstance(event.index, list | tuple) else None)

    def hear(self, number: str | None, turn: Any) -> Update:
        """Play a turn, and choose its voice to be named."""
        on = self.on
        try:
            heard = self.service.jobs.result(number or "")
            if not isinstance(turn, int) or not 0 <= turn < len(heard.result.segments):
                raise RequestError("there is no such turn")
            chosen = heard.result.segments[turn]
            samples = read_cut(heard, chosen.start, chosen.end)
        except WeigherError as error:
            return {on.status: _wrong(str(error))}
        label = f"{chosen.speaker}, {clock(chosen.start)} to {clock(chosen.end)}"
        sound = (SAMPLE_RATE, np.round(samples * 32767).astype(np.int16))
        return {on.player: gr.update(value=sound, label=label, visible=True), on.voice: chosen.speaker, on.status: ""}

    def choose(self, number: str | None, speaker: str | None) -> Update:
        """Ask what is wrong with the name of a voice that has one."""
        try:
            heard = self.service.jobs.result(number or "")
        except WeigherError as error:
            return {self.on.status: _wrong(str(error))}
        return {self.on.way: _ways(heard, speaker)}

    def give_name(self, number: str | None, speaker: str | None, called: Any, how: str | None) -> Update:
        """Give a voice a name, or a person another one, and show the result under it."""
        number, speaker, called = number or "", speaker or "", str(called or "")
        try:
            heard = self.service.jobs.result(number)
            row = heard.result.speakers.index(speaker) if speaker in heard.result.speakers else 0
            known = _known_as(heard, speaker)
            if known is not None and how == _RENAME:
                self.service.rename_person(known, called)
                heard = self.service.jobs.result(number)
            else:
                heard = self.service.name_voice(number, speaker, called)
        except WeigherError as error:
            return {self.on.status: _wrong(str(error))}
        return {self.on.status: "", **self._shown(heard, number, row), self.on.player: gr.skip()}

    def _shown(self, heard: Heard, number: str, row: int = 0) -> Update:
        """Everything that shows a result; `row` is the voice that is chosen to be named."""
        on, speakers, index = self.on, heard.result.speakers, self.service.listener.index
        chosen = speakers[row] if speakers else None
        return {
            on.shown: gr.update(visible=True),
            on.picture: draw(heard, number),
            on.table: [
                [clock(turn.start), clock(turn.end), f"{turn.end - turn.start:.1f}", turn.speaker]
                for turn in heard.result.segments
            ],
            on.voice: gr.update(choices=list(speakers), value=chosen),
            on.name: gr.update(choices=[] if index is None else [person.name for person in index.people()], value=None),
            on.way: _ways(heard, chosen),
            on.player: gr.update(value=None, visible=False),
        }


async def from_uploads(url_or_file_path: str | Path | None) -> str | None:
    """Stand in for Gradio's fetching of what a visitor names as the recording: only uploads, no addresses, no paths.

    Raises gr.Error for anything that was not uploaded here.
    """
    if url_or_file_path is None:
        return None
    return str(_uploaded(str(url_or_file_path)))


def _uploaded(sound: str | None) -> Path:
    if sound is None:
        raise RequestError("drop a recording first, or record one")
    path = Path(sound).resolve()
    if not path.is_relative_to(Path(get_upload_folder()).resolve()) or not path.is_file():
        raise RequestError("this recording was not uploaded here; drop it once more")
    return path


def _known_as(heard: Heard, speaker: str | None) -> str | None:
    """Return the person in the index whose a voice is; None where nobody's."""
    if speaker not in heard.result.speakers:
        return None
    return heard.namings[heard.result.speakers.index(speaker)].name


def _ways(heard: Heard, speaker: str | None) -> Any:
    known = _known_as(heard, speaker)
    if known is None:
        return gr.update(visible=False)
    choices = [(f"{known} is called otherwise", _RENAME), (f"this voice is not {known}", _OTHER)]
    return gr.update(choices=choices, value=_RENAME, visible=True)


def _bound(told: Any) -> int | None:
    told = str(told or ANY).strip()
    if told == ANY:
        return None
    if not told.isascii() or not told.isdigit() or len(told) > _LONGEST_NUMBER:
        raise RequestError(f"{told[:20]!r} speakers are asked for; needed is a whole number, or {ANY!r}")
    return int(told)


def _standing(status: Status) -> str:
    if status.state == "queued":
        return _bar(f"Waiting: {status.ahead} before this one", 0.0)
    share = status.done / status.total if status.total else 0.0
    told = f", {status.done} of {status.total}" if status.stage == "apply" else ""
    return _bar(_STAGES.get(status.stage, status.stage) + told, share)


def _bar(told: str, share: float) -> str:
    return (
        f'<div role="status">{escape(told)}</div><div class="weigher-track">'
        f'<i style="width:{100 * min(share, 1.0):.0f}%"></i></div>'
    )


def _wrong(message: str) -> str:
    return f'<div class="weigher-wrong" role="alert">{escape(message[:1].upper() + message[1:])}</div>'

"""The page: drop or record audio, see who speaks when, click a turn to hear it, give people their names.

Gradio draws it; what its parts do is told in `actions`. Nothing on it is loaded from elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr
from gradio.themes import Default

from weigher.serve.drawing import STYLE
from weigher.serve.service import Service

ANY = "any"
"""What stands in the place of a number of speakers that is not bounded."""
_COLUMNS = ["from", "to", "seconds", "speaker"]
_WAVE = {"waveform_progress_color": "#3b82f6"}
_TURNS = """
const hear = (event) => {
  const turn = event.target.closest('[data-turn]');
  if (!turn || (event.type === 'keydown' && event.key !== 'Enter' && event.key !== ' ')) return;
  event.preventDefault();
  trigger('click', {turn: Number(turn.dataset.turn)});
};
element.addEventListener('click', hear);
element.addEventListener('keydown', hear);
"""
CSS = f"""{STYLE}
.weigher-track {{ height: .5rem; border-radius: .25rem; overflow: hidden; margin-top: .3rem;
  background: var(--background-fill-secondary); }}
.weigher-track i {{ display: block; height: 100%; background: var(--color-accent); transition: width .2s; }}
.weigher-naming {{ align-items: end; }}
.weigher-wrong {{ color: #b91c1c; overflow-wrap: anywhere; }}
.dark .weigher-wrong {{ color: #fca5a5; }}
"""


@dataclass(frozen=True, eq=False)
class Widgets:
    """The parts of the page that take or show something."""

    job: gr.State
    recording: gr.Audio
    least: gr.Dropdown
    most: gr.Dropdown
    start: gr.Button
    cancel: gr.Button
    status: gr.HTML
    shown: gr.Column
    picture: gr.HTML
    player: gr.Audio
    voice: gr.Dropdown
    name: gr.Dropdown
    way: gr.Radio
    save: gr.Button
    table: gr.Dataframe


def theme() -> Default:
    """Return a theme whose fonts are those of the visitor's system: nothing to fetch."""
    return Default(primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])


def lay_out(service: Service) -> Widgets:
    """Put the parts on the page that is being made."""
    limits, slots = service.limits, service.listener.diarizer.config.model.weigher.slots
    job = gr.State(None, time_to_live=round(limits.keep_minutes * 60))
    gr.Markdown("# Who speaks when")
    with gr.Row(equal_height=True):
        with gr.Column(scale=3):
            recording = gr.Audio(
                sources=["upload", "microphone"],
                type="filepath",
                label="Drop a recording here, or record one",
                editable=False,
                buttons=[],
                waveform_options=_WAVE,
                elem_id="recording",
            )
        with gr.Column(scale=1, min_width=200):
            least, most = (
                gr.Dropdown(
                    [ANY, *map(str, range(1, slots + 1))],
                    value=ANY,
                    allow_custom_value=True,  # a recording longer than a window may have more speakers than slots
                    label=f"{word} so many speakers",
                )
                for word in ("At least", "At most")
            )
            start = gr.Button("Who speaks when?", variant="primary", elem_id="start")
            cancel = gr.Button("Cancel", variant="stop", visible=False, elem_id="cancel")
    status = gr.HTML(elem_id="status")
    with gr.Column(visible=False) as shown:
        picture = gr.HTML(elem_id="picture", js_on_load=_TURNS, container=True, padding=True)
        player = gr.Audio(
            label="A turn",
            interactive=False,
            autoplay=True,
            buttons=[],
            elem_id="player",
            visible=False,
            waveform_options=_WAVE,
        )
        with gr.Row(elem_classes="weigher-naming"):
            voice = gr.Dropdown(label="Voice", elem_id="voice", scale=1, min_width=160)
            name = gr.Dropdown(label="Name", allow_custom_value=True, elem_id="name", scale=2, min_width=200)
            way = gr.Radio(label="What is wrong", visible=False, elem_id="way", scale=2)
            save = gr.Button("Save name", elem_id="save", scale=0, min_width=140)
        gr.Markdown(f"<small>{_what_names_do(service)}</small>")
        with gr.Accordion("All turns", open=False):
            table = gr.Dataframe(headers=_COLUMNS, datatype="str", interactive=False, elem_id="turns", max_height=400)
    gr.Markdown(
        f"<small>Up to {limits.megabytes:g} MB and {limits.minutes:g} minutes. Recordings and results are removed "
        f"{limits.keep_minutes:g} minutes after the last look at them. For programs: "
        '<a href="docs">the API</a>.</small>'
    )
    return Widgets(
        job, recording, least, most, start, cancel, status, shown, picture, player, voice, name, way, save, table
    )


def _what_names_do(service: Service) -> str:
    if service.listener.index is None:
        return "A name is kept with this recording only: the server was started without an index of people."
    return "Choose somebody known, or write a new name: the index of people will know this voice from now on."

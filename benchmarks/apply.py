"""How fast a model is applied, and how much memory that takes: 1 minute, 10 minutes, 1 hour and 4 hours of audio.

    python benchmarks/apply.py [--model FOLDER] [--every-slot] [--threads T] [--quick] [--out FILE]

Each length is heard by a process of its own, so that its peak memory is its own. The recordings are conversations of
four synthesised voices in FLAC. Without --model, the model is the default one, not trained: its speed is that of any
other, but it hears nobody, so that linking and decoding have little to do. --every-slot takes every slot of every
window for a person who talks half of the time, with an embedding that is like no other: the most that linking can get.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from measure import Stopwatch, hardware, peak_megabytes, store

LENGTHS = {"1 min": 60.0, "10 min": 600.0, "1 h": 3600.0, "4 h": 14400.0}
QUICK = {"5 s": 5.0, "40 s": 40.0}
STAGES = ("reading + features", "model", "linking", "decoding", "other")
VOICES, VOICE_SECONDS = 4, 20.0


def write_conversation(path: Path, seconds: float, seed: int = 0) -> None:
    """Write a conversation piece by piece: turns of about 3 s, pieces of four voices, soft noise throughout."""
    import soundfile

    from weigher.io.audio import SAMPLE_RATE
    from weigher.recordings.synthesise import draw_speakers, synthesise

    rng = np.random.default_rng(seed)
    speakers = draw_speakers(VOICES, rng)
    voices = [synthesise(speaker, min(seconds, VOICE_SECONDS), rng) for speaker in speakers]
    left = round(seconds * SAMPLE_RATE)
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1) as file:
        while left > 0:
            turn = min(left, round(SAMPLE_RATE * rng.uniform(1.0, 5.0)))
            voice = voices[rng.integers(VOICES)]
            begin = int(rng.integers(0, max(1, len(voice) - turn)))
            sound = 0.002 * rng.standard_normal(turn)
            said = voice[begin : begin + turn]
            sound[: len(said)] += said
            file.write(sound.astype(np.float32))
            left -= turn


def hear(path: Path, model: Path | None, every_slot: bool, threads: int | None) -> dict[str, Any]:
    """Apply a model to one recording in this process: seconds by stage, and memory before and after."""
    import torch

    from weigher.recordings import diarizer as diarizing
    from weigher.recordings import windows
    from weigher.recordings.diarizer import Diarizer
    from weigher.recordings.link import Linker
    from weigher.recordings.model import RecordingModel

    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    if model is None:
        diarizer = Diarizer(slots=8, device="cpu")
        diarizer.model_ = RecordingModel(diarizer.config.model).eval()
    else:
        diarizer = Diarizer.from_pretrained(model, device="cpu")
    body = diarizer.model_
    assert body is not None
    if every_slot:
        diarizer.config = replace(diarizer.config, decode=replace(diarizer.config.decode, threshold=0.0))
        body.register_forward_hook(strangers)
    watch = Stopwatch()
    watch.watch(body, "model")
    with ExitStack() as stack:

        def replaced(owner: Any, name: str, timed: Any) -> None:
            stack.enter_context(mock.patch.object(owner, name, timed))

        stream = watch.wrapped_generator(windows.stream_audio, "reading + features")
        replaced(windows, "stream_audio", stream)
        replaced(body, "values", watch.wrapped(body.values, "reading + features"))
        for name in ("add", "finish"):
            replaced(Linker, name, watch.wrapped(getattr(Linker, name), "linking"))
        replaced(diarizing, "decode_slots", watch.wrapped(diarizing.decode_slots, "decoding"))
        before, began = peak_megabytes(), time.perf_counter()
        found = diarizer.predict(path)
        total = time.perf_counter() - began
    stages = {stage: watch.seconds.get(stage, 0.0) for stage in STAGES}
    stages["other"] = total - sum(stages.values())
    return {
        "seconds": found.seconds,
        "wall_seconds": total,
        "real_time_factor": total / found.seconds,
        "start_megabytes": before,
        "peak_megabytes": peak_megabytes(),
        "people": len(found.speakers),
        "turns": len(found.segments),
        "stage_seconds": stages,
        "hardware": hardware("cpu"),
    }


def strangers(model: Any, _: Any, weighed: Any) -> Any:
    """Put voices that are like no other, and tracks that come and go, in the place of what the model says."""
    import torch

    with torch.inference_mode():
        tracks = torch.rand(weighed.tracks[:, ::25].shape).round().repeat_interleave(25, 1)
        return replace(
            weighed,
            tracks=tracks[:, : weighed.tracks.shape[1]],
            embeddings=torch.randn_like(weighed.embeddings),
            confidence=torch.full_like(weighed.confidence, 0.8),
        )


def hear_in_fresh_process(path: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Apply the model in a new process.

    On Linux a process starts with the peak of the one that started it, so this one must never hold much: it imports no
    torch.
    """
    command = [sys.executable, __file__, "--hear", str(path)]
    command += ["--model", str(asked.model)] if asked.model else []
    command += ["--every-slot"] if asked.every_slot else []
    command += ["--threads", str(asked.threads)] if asked.threads else []
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def show(rows: list[dict[str, Any]]) -> None:
    """Draw the rows: speed and memory, then the share of each stage."""
    from rich.console import Console
    from rich.table import Table

    drawn = Table(title="apply: speed, peak memory, and per cent of the time by stage")
    headers = ("recording", "seconds", "real-time factor", "peak MB", "of which at start", "people", *STAGES)
    for header in headers:
        drawn.add_column(header, justify="left" if header == "recording" else "right")
    for row in rows:
        shares = (f"{100 * row['stage_seconds'][stage] / row['wall_seconds']:.1f}" for stage in STAGES)
        figures = (f"{row['wall_seconds']:.2f}", f"{row['real_time_factor']:.5f}", f"{row['peak_megabytes']:.0f}")
        drawn.add_row(row["recording"], *figures, f"{row['start_megabytes']:.0f}", str(row["people"]), *shares)
    Console(width=150).print(drawn)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, help="folder of a trained model; the default model untrained if left out")
    parser.add_argument("--every-slot", action="store_true", help="give linking the worst there can be")
    parser.add_argument("--threads", type=int, help="threads of torch; all cores where left out")
    parser.add_argument("--quick", action="store_true", help="5 s and 40 s only, to see that it runs")
    parser.add_argument("--longest", choices=LENGTHS, default="4 h", help="leave out longer recordings")
    parser.add_argument("--note", default="", help="words kept with the figures, such as what else was running")
    parser.add_argument("--out", type=Path, help="file for the figures (JSON)")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)  # these three are for the processes it starts
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--hear", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.write:
        write_conversation(asked.write, asked.seconds)
        return
    if asked.hear:
        print(json.dumps(hear(asked.hear, asked.model, asked.every_slot, asked.threads)))
        return
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        lengths = QUICK if asked.quick else {name: s for name, s in LENGTHS.items() if s <= LENGTHS[asked.longest]}
        for name, seconds in lengths.items():
            path = Path(folder) / "conversation.flac"
            subprocess.run([sys.executable, __file__, "--write", str(path), "--seconds", str(seconds)], check=True)
            rows.append({"recording": name, **hear_in_fresh_process(path, asked)})
            print(f"{name}: {rows[-1]['wall_seconds']:.1f} s", file=sys.stderr)
    machine = rows[0]["hardware"]
    show(rows)
    settings = {"model": "given" if asked.model else "default, not trained", "every_slot": asked.every_slot}
    store(
        asked.out, {"benchmark": "apply", "hardware": machine, "note": asked.note, "settings": settings, "rows": rows}
    )


if __name__ == "__main__":
    main()

"""The model card: what is known of how a model came about, and nothing else.

`Origin` is written into the model folder's `config.json`, so that a model that is loaded and saved again keeps it. What
is not known has no line in the card.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch

from weigher.io.cards import one_line, section
from weigher.recordings.archive import Archive
from weigher.train.loop import History
from weigher.train.provenance import commit, versions

HELD_OUT = "track loss on conversations made of stretches that training never heard (lower is better)"
OWN_SCORE = "score of the training script's own validation (higher is better)"


@dataclass(frozen=True)
class Origin:
    """What a model was made from, how, and with what; a default stands for what is not known."""

    data: str = ""
    """Name of the list of recordings."""
    recordings: int = 0
    people: int = 0
    hours: float = 0.0
    cast_least: int = 0
    cast_most: int = 0
    cast_mean: float = 0.0
    steps: tuple[int, ...] = ()
    """Of each phase."""
    minutes: float = 0.0
    seed: int | None = None
    device: str = ""
    measure: str = ""
    """What was validated."""
    best: float | None = None
    best_step: int | None = None
    commit: str | None = None
    versions: tuple[str, ...] = ()


def origin_of(
    archive: Archive,
    history: tuple[History, History],
    *,
    data: str,
    step_seconds: float,
    seed: int,
    device: torch.device,
    own_score: bool,
) -> Origin:
    """Say how a model came about that has just learned from `archive`; a row of its values is `step_seconds` long."""
    sizes = [len(cast) for cast in archive.casts]
    best = history[1].best_score
    validated = best is not None
    return Origin(
        data=data,
        recordings=len(sizes),
        people=len({label for cast in archive.casts for label in cast}),
        hours=round(sum(map(len, archive.values)) * step_seconds / 3600, 3),
        cast_least=min(sizes),
        cast_most=max(sizes),
        cast_mean=round(sum(sizes) / len(sizes), 2),
        steps=tuple(phase.step for phase in history),
        minutes=round(sum(phase.seconds for phase in history) / 60, 1),
        seed=seed,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        measure=(OWN_SCORE if own_score else HELD_OUT) if validated else "",
        best=(best if own_score else -best) if best is not None else None,
        best_step=history[1].best_step if validated else None,
        commit=commit(),
        versions=tuple(f"{name} {version}" for name, version in versions().items()),
    )


def card_of(origin: Origin, config: dict[str, Any]) -> str:
    """Return the model card as Markdown; `config` is the diarizer's configuration as plain data.

    >>> text = card_of(Origin(data="cast.csv", recordings=30, people=4), {"model": {}, "learn": {}})
    >>> [line for line in text.splitlines() if line.startswith("- ")]
    ['- List of recordings: `cast.csv`', '- Recordings: 30', '- People: 4']
    """
    front = config.get("model", {}).get("front", {}).get("kind")
    slots = config.get("model", {}).get("weigher", {}).get("slots")
    cast = f"{origin.cast_least} to {origin.cast_most} people, {origin.cast_mean:g} on average"
    best = "" if origin.best is None else f"{origin.best:.4g} at step {origin.best_step}; {origin.measure}"
    data = {
        "List of recordings": origin.data and f"`{one_line(origin.data)}`",
        "Recordings": origin.recordings,
        "Hours": origin.hours and f"{origin.hours:g}",
        "People": origin.people,
        "Cast of a recording": cast if origin.cast_most else "",
    }
    protocol = {
        "Steps": " + ".join(map(str, origin.steps)) and f"{' + '.join(map(str, origin.steps))} (listen + weigh)",
        "Time": origin.minutes and f"{origin.minutes:g} minutes",
        "Device": one_line(origin.device),
        "Seed": "" if origin.seed is None else str(origin.seed),
        "Front end": front,
        "Slots, the most people in one window": slots,
    }
    made_with = {
        "Commit": origin.commit and f"`{one_line(origin.commit)}`",
        "Versions": one_line(", ".join(origin.versions)),
    }
    parts = [
        ("Data", "Learned from recordings labelled only with who appears in them; no times.", data),
        ("Protocol", "", protocol),
        ("Figures", "From training; how it does on other recordings, `weigher score` tells.", {"Best": best}),
        ("Made with", "", made_with),
    ]
    return _HEAD + "".join(section(*part) for part in parts) + _TAIL.format(settings=json.dumps(config, indent=2))


_HEAD = """---
library_name: weigher
tags: [speaker-diarization, weak-supervision]
---

# Diarizer learned from casts

Tells who speaks when in a recording, how many people there are, and how sure that is.
"""
_TAIL = """
## Use

```python
from weigher.recordings.diarizer import Diarizer

print(Diarizer.from_pretrained("this folder").predict("meeting.wav").to_rttm())
```

## Settings

```json
{settings}
```
"""

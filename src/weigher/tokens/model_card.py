"""The model card of a classifier: what is known of how it came about, and nothing else.

`Origin` is written into the model folder's `config.json`, so that a model that is loaded and saved again keeps it. What
is not known has no line in the card.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from weigher.io.cards import one_line, section
from weigher.tokens.learning import ClassifierConfig
from weigher.train.loop import History
from weigher.train.provenance import commit, versions


@dataclass(frozen=True)
class Origin:
    """What a classifier learned from, how, and with what; a default stands for what is not known."""

    data: str = ""
    """Name of the file of texts."""
    texts: int = 0
    held_out: int = 0
    """Of the texts, those that chose the epoch and were not learned from."""
    accuracy: float | None = None
    """Share of the held-out texts that are put right."""
    minutes: float = 0.0
    device: str = ""
    commit: str | None = None
    versions: tuple[str, ...] = ()


def origin_of(history: History, config: ClassifierConfig, *, data: str, texts: int, device: torch.device) -> Origin:
    """Say how a classifier came about that has just learned from so many texts."""
    best = next((record for record in history.validation if record["step"] == history.best_step), None)
    return Origin(
        data=data,
        texts=texts,
        held_out=config.held_out_of(texts),
        accuracy=None if best is None else float(best["accuracy"]),
        minutes=round(history.seconds / 60, 1),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        commit=commit(),
        versions=tuple(f"{name} {version}" for name, version in versions().items()),
    )


def card_of(origin: Origin, config: ClassifierConfig, classes: Sequence[object], *, different: int, kind: str) -> str:
    """Return the model card as Markdown; the model knows so many `different` tokens of a `kind` ("words", "ids").

    >>> text = card_of(Origin(data="a.csv", texts=120), ClassifierConfig(), ("neg", "pos"), different=8, kind="words")
    >>> [line for line in text.splitlines() if line.startswith("- ")][:4]
    ['- Data: `a.csv`', '- Texts: 120', '- Vectors for: 8 different words', '- Classes: neg, pos']
    """
    accuracy = "" if origin.accuracy is None else f"{origin.accuracy:.1%} of {origin.held_out} held-out texts"
    data = {
        "Data": origin.data and f"`{one_line(origin.data)}`",
        "Texts": origin.texts,
        "Vectors for": f"{different} different {kind}",
        "Classes": one_line(", ".join(map(str, classes))),
    }
    protocol = {
        "Epochs": config.epochs,
        "Seed": str(config.seed),
        "Time": origin.minutes and f"{origin.minutes:g} minutes",
        "Device": one_line(origin.device),
    }
    made_with = {
        "Commit": origin.commit and f"`{one_line(origin.commit)}`",
        "Versions": one_line(", ".join(origin.versions)),
    }
    parts = [
        ("Data", "", data),
        ("Protocol", "", protocol),
        ("Figures", "These texts chose the best epoch; other texts tell better.", {"Right": accuracy}),
        ("Made with", "", made_with),
    ]
    return _HEAD.format(model=config.scorer.model) + "".join(section(*part) for part in parts) + _TAIL


_HEAD = """---
library_name: weigher
tags: [text-classification, interpretability]
---

# Which words count: {model}

Tells two classes of texts apart. Every prediction is the sum of what its words say, times how much each counts.
"""
_TAIL = """
## Use

```python
from weigher.tokens import SentimentClassifier

print(SentimentClassifier.from_pretrained("this folder").explain("Not what I expected").to_dict())
```
"""

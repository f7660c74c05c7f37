"""What a run was trained on and how, kept beside it: with other texts, labels, settings or vectors none goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weigher.errors import RequestError
from weigher.io.atomic import writing
from weigher.io.folders import read_json
from weigher.tokens.inputs import Label
from weigher.tokens.learning import ClassifierConfig
from weigher.tokens.sequences import Sequences

DATA = "texts.json"
_NONE = "none"


@dataclass(frozen=True)
class TrainingData:
    """The classes, the number of texts, a hash of their tokens and labels as training sees them, and all settings.

    `vectors` is a hash of the given word vectors that training begins with, or "none".
    """

    classes: tuple[Label, Label]
    texts: int
    sha256: str
    settings: dict[str, Any]
    vectors: str

    @classmethod
    def of(
        cls,
        classes: tuple[Label, Label],
        corpus: Sequences,
        targets: np.ndarray,
        known: Sequence[Label],
        config: ClassifierConfig,
        *,
        vectors: Mapping[str, np.ndarray],
    ) -> TrainingData:
        """Take numbered texts with their targets `[n]`, and the words or ids that the numbers stand for.

        `vectors` are those found for words, none where training begins without.
        """
        found = hashlib.sha256(json.dumps(list(known)).encode())
        for numbers in (corpus.offsets, corpus.tokens, targets):
            found.update(numbers.astype("<i8").tobytes())
        settings = _flat(json.loads(json.dumps(asdict(config))))
        return cls(classes, len(corpus), found.hexdigest(), settings, _hash_of(vectors))


def keep_data(run_dir: Path, told: TrainingData, *, resume: bool) -> None:
    """Keep what is told in the folder of a new run.

    Raises RequestError where the folder holds a run that is not to be resumed, and where one is to be resumed that is
    no such run, or that began with other texts, labels, settings or vectors.
    """
    path, last = run_dir / DATA, run_dir / "last.safetensors"
    if not resume:
        if last.exists():
            raise RequestError(f"{run_dir} holds a run already; resume it, or give another folder")
        with writing(path, "w") as file:
            json.dump(asdict(told), file, indent=2)
        return
    if not path.is_file() or not last.is_file():
        raise RequestError(
            f"{run_dir} holds no run of this kind to resume ({DATA} and {last.name}); give the folder of one, or begin "
            "one without resuming"
        )
    plain = read_json(path)
    try:
        before = TrainingData(**{**plain, "classes": tuple(plain["classes"]), "settings": dict(plain["settings"])})
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(
            f"{path} is damaged, or of another version ({error!r}); begin another run in a new folder"
        ) from error
    if before.sha256 == told.sha256 and before.vectors != told.vectors:  # first: the width of vectors is a setting, too
        began, now = ("no", "some") if before.vectors == _NONE else ("given", "others")
        now = "none" if told.vectors == _NONE else now
        raise RequestError(
            f"{run_dir} began with {began} word vectors, and now {now} are given; resume with those it began with, or "
            "begin another run"
        )
    names = [name for name in told.settings if before.settings.get(name) != told.settings[name]]
    if names:
        shown = ", ".join(f"{name} = {before.settings.get(name)} (now {told.settings[name]})" for name in names)
        raise RequestError(f"{run_dir} began with {shown}; resume with the same settings, or begin another run")
    if (before.classes, before.texts, before.sha256) != (told.classes, told.texts, told.sha256):
        raise RequestError(
            f"{run_dir} began with {before.texts} texts labelled {before.classes[0]!r} or {before.classes[1]!r}, and "
            f"these {told.texts}, labelled {told.classes[0]!r} or {told.classes[1]!r}, are not the same texts with the "
            "same labels in the same order; resume with those it began with"
        )


def _hash_of(vectors: Mapping[str, np.ndarray]) -> str:
    """A hash of words and their vectors, in whatever order they were found."""
    if not vectors:
        return _NONE
    found = hashlib.sha256(json.dumps(sorted(vectors)).encode())
    for word in sorted(vectors):
        found.update(vectors[word].astype("<f4").tobytes())
    return found.hexdigest()


def _flat(plain: dict[str, Any]) -> dict[str, Any]:
    """Nested settings by their names: {"scorer": {"window": 5}} as {"scorer.window": 5}."""
    found: dict[str, Any] = {}
    for name, value in plain.items():
        inner = _flat(value) if isinstance(value, dict) else None
        found |= {name: value} if inner is None else {f"{name}.{under}": one for under, one in inner.items()}
    return found

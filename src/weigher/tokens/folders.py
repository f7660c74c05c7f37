"""The model folder of a classifier: `config.json`, `model.safetensors`, `vocabulary.json` (words or ids), a model card.

A folder may come from anywhere. Nothing in it is executed, and its parts are compared with each other before memory is
asked for in the sizes that one of them names.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from weigher.errors import RequestError
from weigher.io.folders import CARD, CONFIG, WEIGHTS, read_folder, read_json, write_folder
from weigher.tokens.inputs import Label
from weigher.tokens.learning import ClassifierConfig
from weigher.tokens.model_card import Origin, card_of
from weigher.tokens.token_scores import ScorerConfig, TokenScorer
from weigher.tokens.words import KnownIds, Vocabulary
from weigher.train.state import load_weights

_FORMAT, _VOCABULARY = "weigher.token-scores.2", "vocabulary.json"


@dataclass(frozen=True, eq=False)
class Saved:
    """What a model folder holds; `known` are the tokens with a vector of their own."""

    config: ClassifierConfig
    model: TokenScorer
    known: Vocabulary | KnownIds
    classes: tuple[Label, Label]
    origin: Origin


def write_classifier(folder: Path, saved: Saved) -> None:
    """Write a model folder; raises as `weigher.io.folders.write_folder`."""
    if isinstance(saved.known, Vocabulary):
        kind, known = "words", list(saved.known.words)
    else:
        kind, known = "ids", saved.known.ids.tolist()
    card = card_of(saved.origin, saved.config, saved.classes, different=len(known), kind=kind)
    texts = {CARD: card, _VOCABULARY: json.dumps({kind: known})}
    plain = {
        "learned": "ids" if kind == "ids" else "texts",
        "tokens": len(known),
        "classes": saved.classes,
        "config": asdict(saved.config),
        "origin": asdict(saved.origin),
    }
    write_folder(folder, _FORMAT, saved.model.state_dict(), plain, texts)


def read_classifier(folder: Path) -> Saved:
    """Read a model folder; RequestError that says what is wrong, before memory is asked for in vain."""
    plain, weights = read_folder(folder, _FORMAT)
    try:
        config, origin = _config(plain["config"]), _origin(plain.get("origin", {}))
        classes, tokens = _classes(plain["classes"]), plain["tokens"]
        with torch.device("meta"):  # shapes without memory
            model = TokenScorer(tokens, config.scorer)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise RequestError(f"{folder / CONFIG} does not describe a model of this version ({error})") from error
    known = (
        _words(folder / _VOCABULARY, tokens) if plain.get("learned") == "texts" else _ids(folder / _VOCABULARY, tokens)
    )
    for name, needed in model.state_dict().items():
        if name in weights and weights[name].shape != needed.shape:
            raise RequestError(
                f"{folder / WEIGHTS}: {name} has the shape {list(weights[name].shape)}, and by {CONFIG} it needs to be "
                f"{list(needed.shape)}; the two are of different models, copy the folder anew"
            )
    missing = next((name for name in model.state_dict() if name not in weights), None)
    if missing is not None:
        raise RequestError(f"{folder / WEIGHTS}: {missing} is missing; copy the folder anew")
    model.to_empty(device="cpu")
    load_weights(model, weights, folder / WEIGHTS)
    return Saved(config, model.eval(), known, classes, origin)


def _config(plain: Any) -> ClassifierConfig:
    scorer = {**plain["scorer"], "layers": tuple(plain["scorer"]["layers"])}
    config = ClassifierConfig(**{**plain, "scorer": ScorerConfig(**scorer)})
    for given, usual in ((config, ClassifierConfig()), (config.scorer, ScorerConfig())):
        for part in fields(given):
            value, default = getattr(given, part.name), getattr(usual, part.name)
            kinds = (int, float) if isinstance(default, float) else (type(default),)
            if type(value) not in kinds or (isinstance(value, float) and not math.isfinite(value)):
                raise TypeError(f"{part.name} is {value!r}"[:80])
    if any(type(size) is not int for size in config.scorer.layers):
        raise TypeError("layers need to be whole numbers")
    return config


def _origin(plain: Any) -> Origin:
    origin = Origin(**{**plain, "versions": tuple(plain.get("versions", ()))})
    kinds = {"accuracy": (int, float, type(None)), "commit": (str, type(None)), "minutes": (int, float)}
    for part in fields(origin):
        value = getattr(origin, part.name)
        if type(value) not in kinds.get(part.name, (type(part.default),)):
            raise TypeError(f"{part.name} of its origin is {value!r}"[:80])
    if any(type(version) is not str for version in origin.versions):
        raise TypeError("the versions of its origin are no texts")
    return origin


def _classes(plain: Any) -> tuple[Label, Label]:
    first, second = plain
    if type(first) is not type(second) or type(first) not in (int, str) or first == second:
        raise TypeError(f"classes are {plain!r}"[:80] + "; needed are two whole numbers, or two words")
    return first, second


def _words(path: Path, tokens: int) -> Vocabulary:
    words = _listed(path, "words")
    if len(words) != tokens or any(type(word) is not str for word in words):
        raise RequestError(f"{path} is not the vocabulary of this model, {tokens} words; copy the folder anew")
    return Vocabulary(words)


def _ids(path: Path, tokens: int) -> KnownIds:
    ids = _listed(path, "ids")
    if (
        len(ids) != tokens
        or any(type(one) is not int or not 0 <= one < 2**63 for one in ids)
        or len(set(ids)) != tokens
    ):
        raise RequestError(f"{path} is not the list of ids of this model, {tokens} of them; copy the folder anew")
    return KnownIds(np.array(ids, np.int64))


def _listed(path: Path, kind: str) -> list[Any]:
    """What a vocabulary lists; nothing, which is the vocabulary of no model, where it is something else."""
    plain = read_json(path)
    found = plain.get(kind) if isinstance(plain, dict) else None
    return found if isinstance(found, list) else []

"""Speech for the study of SeqCLR: the frame encoder of recordings, taught without labels, and voices never heard."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from weigher.core.contrast import unit
from weigher.io.voices import Voices, read_voices
from weigher.pairs.methods import LossConfig
from weigher.pairs.pretraining import PretrainConfig
from weigher.pairs.seqclr import InstanceMapping, SeqCLRConfig
from weigher.pairs.sequences import SequenceConfig, encode_sequences, pretrain_sequences
from weigher.recordings.encoder import EncoderConfig, FrameEncoder
from weigher.recordings.pretrained_encoder import Hearing
from weigher.studies.diarization import equal_error_rate

ENCODER = EncoderConfig(channels=64, embedding=64, dilations=(1, 2, 4))


@dataclass(frozen=True)
class SpeechSize:
    """How much speech there is, and how long it is learned from."""

    people: int = 120
    """Speakers to learn from; a fifth of all are never heard."""
    each: int = 6
    """Utterances of a speaker to learn from."""
    strangers: int = 40
    """Speakers of the test."""
    tested: int = 8
    """Utterances of each."""
    epochs: int = 1
    """Times every crop is heard."""
    batch: int = 32
    """Crops in a batch."""


@dataclass(frozen=True, eq=False)
class Speech:
    """Utterances float [t, f] to learn from, and to test on; whose they are tells how to choose, and how to test."""

    seen: list[np.ndarray]
    seen_who: np.ndarray
    unseen: list[np.ndarray]
    who: np.ndarray
    hop_seconds: float


def read_utterances(path: Path, size: SpeechSize, seed: int) -> Speech:
    """Split speakers in those to learn from and those to be told apart, and read some utterances of each."""
    voices = read_voices(path)
    generator = np.random.default_rng([seed, 20])
    people = list(generator.permutation(voices.speakers))
    least = len(people) // 5
    strangers, known = people[:least][: size.strangers], people[least:][: size.people]
    seen, seen_who = _some(voices.only(known), size.each, generator)
    unseen, who = _some(voices.only(strangers), size.tested, generator)
    return Speech(seen, seen_who, unseen, who, voices.hop_seconds)


def _some(voices: Voices, each: int, generator: np.random.Generator) -> tuple[list[np.ndarray], np.ndarray]:
    by_speaker: dict[str, list[int]] = {}
    for index, utterance in enumerate(voices.utterances):
        by_speaker.setdefault(utterance.speaker, []).append(index)
    chosen = [k for of in by_speaker.values() for k in generator.permutation(of)[:each]]
    return [voices.utterances[k].load() for k in chosen], np.array([voices.utterances[k].speaker for k in chosen])


def speech_encoder(features: int, seed: int) -> FrameEncoder:
    """Return the encoder that every method of a seed starts from."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return FrameEncoder(features, ENCODER)


def taught_by_speech(
    speech: Speech,
    mapping: InstanceMapping | None,
    size: SpeechSize,
    seed: int,
    *,
    temperature: float = 0.1,
    windows: int = 10,
) -> FrameEncoder:
    """Teach an encoder by SeqCLR with this mapping; without one by InfoNCE of two neighbouring crops, averaged."""
    encoder = speech_encoder(speech.seen[0].shape[1], seed)
    config = SequenceConfig(
        method="info-nce" if mapping is None else "seqclr",
        seqclr=SeqCLRConfig(mapping or "all", windows, temperature=temperature),
        losses=LossConfig(temperature=temperature),
    )
    loop = PretrainConfig(epochs=size.epochs, batch=size.batch, seed=seed)
    pretrain_sequences(
        Hearing(encoder), ENCODER.embedding, speech.seen, config, loop, hop_seconds=speech.hop_seconds, device="cpu"
    )
    return encoder


def utterance_embeddings(encoder: FrameEncoder, utterances: list[np.ndarray]) -> Tensor:
    """Return the mean of all frame embeddings of each utterance [n, e], in evaluation mode."""
    return encode_sequences(Hearing(encoder), utterances, frames=max(map(len, utterances)))


def voices_apart(embeddings: Tensor, who: np.ndarray, centre: Tensor) -> tuple[float, float]:
    """Return the equal error rate of "is this the same person", and the precision of the nearest other one, per cent.

    Every two utterances are compared by the cosine of their embeddings [n, e] less `centre` [e].

    >>> rows = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    >>> voices_apart(rows, np.array(["a", "a", "b", "b"]), torch.zeros(2))
    (0.0, 100.0)
    """
    rows = unit(embeddings - centre)
    alike = (rows @ rows.T).numpy()
    same = who[:, None] == who
    i, j = np.triu_indices(len(who), 1)
    np.fill_diagonal(alike, -np.inf)
    nearest = same[np.arange(len(who)), alike.argmax(1)]
    return equal_error_rate(alike[i, j], same[i, j]), 100 * float(nearest.mean())


def speech_figures(
    path: Path, method: InstanceMapping | str, temperature: float, size: SpeechSize, seed: int
) -> tuple[float, float, float]:
    """Teach by a method ("frame", "window", "all", "neighbours"; "start": not at all) and tell people apart.

    Returns error and nearest of strangers, and the error of those who were heard, which may choose a temperature.
    """
    speech = read_utterances(path, size, seed)
    if method == "start":
        encoder = speech_encoder(speech.seen[0].shape[1], seed)
    elif method in ("frame", "window", "all"):
        encoder = taught_by_speech(speech, method, size, seed, temperature=temperature)
    else:
        encoder = taught_by_speech(speech, None, size, seed, temperature=temperature)
    seen, unseen = (utterance_embeddings(encoder, part) for part in (speech.seen, speech.unseen))
    error, nearest = voices_apart(unseen, speech.who, seen.mean(0))
    return error, nearest, voices_apart(seen, speech.seen_who, seen.mean(0))[0]

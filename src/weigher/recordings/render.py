"""Pieces of single voices -> one recording: everything adds up in the power domain (features) or as samples (audio).

A recording has one silence, one room and one noise, shared by all who speak in it: none of them tells who it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.signal import fftconvolve, lfilter

from weigher.recordings.voicebank import CROSS_FADE, LEVEL, AudioBank, FeatureBank

TAIL_SHARE = 0.5  # energy of the reverberation over that of the direct sound: -3 dB, a small meeting room
_SILENCE_DB = -50.0  # the recording's own noise under the level of speech, in audio
_NOISE_SHAPE = 8.0  # gamma shape of one noise energy: about as many spectral values lie under one mel filter


@dataclass(frozen=True, slots=True)
class Piece:
    """`length` units (frames or samples) of an utterance from `start` on, placed at `at`, `gain_db` louder."""

    utterance: int
    start: int
    length: int
    at: int
    gain_db: float


def render_features(
    bank: FeatureBank,
    pieces: Sequence[Piece],
    length: int,
    *,
    noise_db: float | None = None,
    reverb_seconds: float = 0.0,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return log-mel energies float32 [length, f]: log(power of the pieces in the room + noise + silence).

    The room is a one-pole tail that falls by 60 dB in `reverb_seconds`; the noise lies `noise_db` under the mean power
    of active speech, its spectrum by chance between flat over channels and rising by 9 dB; the silence is made of
    randomly drawn quiet frames of the voices.
    """
    power = np.zeros((length, len(bank.floor)), dtype=np.float32)
    for piece in pieces:
        gain = np.float32(10 ** (piece.gain_db / 10))
        taken = bank.piece(piece.utterance)[piece.start : piece.start + piece.length]
        power[piece.at : piece.at + piece.length] += gain * taken
    if reverb_seconds > 0:
        decay = 10 ** (-6 * bank.unit_seconds / reverb_seconds)
        later = np.zeros_like(power)
        later[1:] = power[:-1]
        power += np.asarray(lfilter([TAIL_SHARE * (1 - decay)], [1, -decay], later, axis=0), dtype=np.float32)
    if noise_db is not None:
        slope = np.exp(rng.uniform(0, 2.1) * np.linspace(-0.5, 0.5, power.shape[1]))
        level = bank.level.mean() * 10 ** (-noise_db / 10) * slope / slope.mean()
        power += level.astype(np.float32) * (rng.standard_gamma(_NOISE_SHAPE, power.shape, np.float32) / _NOISE_SHAPE)
    silence = np.exp(bank.quiet[rng.integers(len(bank.quiet), size=length)]) * bank.floor
    return np.log(power + silence).astype(np.float32)


def render_audio(
    bank: AudioBank,
    pieces: Sequence[Piece],
    length: int,
    *,
    noise_db: float | None = None,
    reverb_seconds: float = 0.0,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return samples float32 [length] within ±1: the cross-faded pieces in one room, plus noise.

    The room's impulse response is 1 followed by Gaussian noise that falls by 60 dB in `reverb_seconds`; its tail holds
    half the energy of the direct sound. The noise lies `noise_db` (never less than 50 dB) under the level of active
    speech, by chance between white and pink.
    """
    mix = np.zeros(length + CROSS_FADE)
    rise = np.sin(np.pi / 2 * (np.arange(CROSS_FADE) + 0.5) / CROSS_FADE) ** 2
    for piece in pieces:
        # 10 ms more than asked: they fade out under the next piece
        taken = bank.piece(piece.utterance)[piece.start : piece.start + piece.length + CROSS_FADE]
        taken = taken * 10 ** (piece.gain_db / 20)
        taken[:CROSS_FADE] *= rise
        taken[-CROSS_FADE:] *= rise[::-1]
        mix[piece.at : piece.at + len(taken)] += taken
    mix = mix[:length]
    if reverb_seconds > 0:
        mix = fftconvolve(mix, _room(reverb_seconds, bank.unit_seconds, rng))[:length] / np.sqrt(1 + TAIL_SHARE)
    mix += _noise(length, rng) * LEVEL * 10 ** (_SILENCE_DB / 20)
    if noise_db is not None:
        mix += _noise(length, rng) * LEVEL * 10 ** (-noise_db / 20)
    return (mix * min(1.0, 0.99 / np.abs(mix).max())).astype(np.float32)


def _room(reverb_seconds: float, unit_seconds: float, rng: np.random.Generator) -> np.ndarray:
    times = np.arange(1, round(reverb_seconds / unit_seconds)) * unit_seconds
    tail = rng.standard_normal(len(times)) * 10 ** (-3 * times / reverb_seconds)
    return np.append(1.0, tail * np.sqrt(TAIL_SHARE / np.sum(tail**2)))


def _noise(length: int, rng: np.random.Generator) -> np.ndarray:
    """Noise of root mean square 1, its power falling by 0 (white) to 3 dB (pink) per octave above 50 Hz."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    frequencies = np.maximum(np.linspace(0, 8000, len(spectrum)), 50.0)
    noise = np.fft.irfft(spectrum * frequencies ** (-rng.uniform(0, 0.5)), length)
    return noise / np.sqrt(np.mean(noise**2))

"""Crude artificial voices from nothing: a source-filter synthesiser, for where no recorded voices can be had.

Source: a train of glottal pulses at a wandering pitch, plus breath. Filter: four resonances of the vocal tract that
glide from vowel to vowel, applied frame by frame in the short-time Fourier domain. Between vowels stand hissing
consonants, closures and pauses. The result is babble that differs from speaker to speaker in pitch, tract length,
resonances, timbre and speed; it shows that a pipeline works, never how well it works on people.

Source-filter model: Fant 1960, "Acoustic Theory of Speech Production".
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from scipy.signal import lfilter

from weigher.errors import RequestError
from weigher.io.audio import SAMPLE_RATE, write_audio
from weigher.io.voices import Utterance, Voices, read_voices

# First four resonances in Hz of eight vowels of a middle-sized vocal tract; the last is almost the same for all.
_VOWELS = np.array([
    [280, 2250, 2950, 3600], [400, 2000, 2600, 3550], [560, 1780, 2500, 3500], [760, 1250, 2480, 3450],
    [580, 870, 2450, 3400], [430, 780, 2400, 3350], [310, 720, 2300, 3300], [500, 1450, 2450, 3500],
])  # fmt: skip
_BANDWIDTHS = np.array([70.0, 90.0, 130.0, 200.0])  # Hz
_HOP, _FFT = 128, 512  # samples: controls every 8 ms, filters over 32 ms


@dataclass(frozen=True, slots=True)
class Speaker:
    """What makes a voice: mean pitch in Hz, its spread in octaves and jitter (relative, per period); `tract_scale`
    multiplies all resonances (short tract: above 1), `resonance_scales` [4] each of them; `tilt` in [0, 1) darkens the
    source; `breath` is noise over voice; `syllables_per_second` is the speed.
    """

    pitch_hz: float
    pitch_octaves: float
    jitter: float
    tract_scale: float
    resonance_scales: tuple[float, ...]
    tilt: float
    breath: float
    syllables_per_second: float


def draw_speakers(count: int, rng: np.random.Generator) -> list[Speaker]:
    """Return `count` speakers spread evenly over each property (Latin hypercube), so that no two are near twins.

    >>> [round(s.pitch_hz) > 70 for s in draw_speakers(2, np.random.default_rng(0))]
    [True, True]
    """
    places = (np.argsort(rng.random((11, count)), axis=1) + rng.random((11, count))) / count
    pitch, spread, jitter, tract, *resonances, tilt, breath, speed = places
    return [
        Speaker(
            pitch_hz=float(85 * 3 ** pitch[i]),
            pitch_octaves=float(0.1 + 0.15 * spread[i]),
            jitter=float(0.003 + 0.012 * jitter[i]),
            # high voices tend to come from short tracts
            tract_scale=float(0.85 + 0.2 * tract[i] + 0.1 * pitch[i]),
            resonance_scales=tuple(float(0.93 + 0.14 * r[i]) for r in resonances),
            tilt=float(0.75 + 0.22 * tilt[i]),
            breath=float(0.02 + 0.2 * breath[i] ** 2),
            syllables_per_second=float(3.2 + 2.4 * speed[i]),
        )
        for i in range(count)
    ]


def synthesise(speaker: Speaker, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Return `seconds` of babble of one speaker, float32 [samples] at 16 kHz, largest value 0.5."""
    length = round(seconds * SAMPLE_RATE)
    frames = -(-length // _HOP) + 3  # a frame starts three hops before the first sample, and so on to the last
    vowels, voiced, hiss, centre = _syllables(speaker, frames, rng)
    resonances = vowels * np.array(speaker.resonance_scales) * speaker.tract_scale
    frequencies = np.fft.rfftfreq(_FFT, 1 / SAMPLE_RATE)
    noise = _spectra(rng.standard_normal((frames + 3) * _HOP))
    source = _spectra(_glottal(speaker, _interpolated(_pitch(speaker, frames, rng), (frames + 3) * _HOP), rng))
    band = np.exp(-0.5 * ((frequencies - centre[:, None]) / (0.25 * centre[:, None])) ** 2)
    voice = voiced[:, None] * _tract(frequencies, resonances) * (source + speaker.breath * noise)
    samples = _overlap_added(voice + 0.5 * hiss[:, None] * band * noise)[3 * _HOP :][:length]
    return (samples * (0.5 / max(float(np.abs(samples).max()), 1e-9))).astype(np.float32)


def _spectra(x: np.ndarray) -> np.ndarray:
    """Windowed spectra [frames, bins] every `_HOP` samples of x [(frames + 3) * _HOP]."""
    return np.fft.rfft(np.lib.stride_tricks.sliding_window_view(x, _FFT)[::_HOP] * np.hanning(_FFT + 1)[:-1])


def _overlap_added(spectra: np.ndarray) -> np.ndarray:
    """Samples [(frames + 3) * _HOP]: windowed again and added up; the squared windows sum to 1.5 at a quarter's hop."""
    frames = np.fft.irfft(spectra) * (np.hanning(_FFT + 1)[:-1] / 1.5)
    added = np.zeros((len(frames) + 3, _HOP))
    for quarter in range(4):
        added[quarter : quarter + len(frames)] += frames[:, quarter * _HOP : (quarter + 1) * _HOP]
    return added.ravel()


def synthesise_voices(
    out_dir: str | Path | None, *, speakers: int, utterances: int, seconds: float, seed: int = 0
) -> Voices:
    """Return `speakers` voices with `utterances` of `seconds` each, named synth000 ...

    With `out_dir` they are written as SPEAKER/NNN.flac and read from there; without, made anew at each load.

    >>> voices = synthesise_voices(None, speakers=2, utterances=3, seconds=1.0, seed=0)
    >>> voices.speakers, len(voices.utterances), voices.utterances[0].load().shape
    (('synth000', 'synth001'), 6, (16000,))
    """
    if speakers < 1 or utterances < 1 or not seconds >= 0.5:
        given = f"{speakers} speakers, {utterances} utterances of {seconds:g} s"
        raise RequestError(f"{given}: synthesised voices need one of each at least, of 0.5 s or more.")
    drawn = draw_speakers(speakers, np.random.default_rng([seed, 0]))
    made = tuple(
        Utterance(f"synth{s:03d}", f"{u:03d}.flac", partial(_load, drawn[s], seconds, (seed, 1, s, u)))
        for s in range(speakers)
        for u in range(utterances)
    )
    if out_dir is None:
        return Voices("audio", 1 / SAMPLE_RATE, made)
    for utterance in made:
        write_audio(Path(out_dir) / utterance.speaker / utterance.name, utterance.load())
    return read_voices(out_dir)


def _load(speaker: Speaker, seconds: float, seed: tuple[int, ...]) -> np.ndarray:
    return synthesise(speaker, seconds, np.random.default_rng(seed))


def _syllables(speaker: Speaker, frames: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Controls per frame: resonances [frames, 4], loudness of voice and of hiss, and the hiss's centre in Hz."""
    count = int(frames * _HOP / SAMPLE_RATE * speaker.syllables_per_second * 2) + 2
    per_second = SAMPLE_RATE / _HOP
    lengths = per_second / speaker.syllables_per_second * rng.uniform(0.6, 1.5, count)
    pauses = (rng.random(count) < 0.12) * rng.uniform(0.15, 0.45, count) * per_second
    starts = np.concatenate([[0.0], np.cumsum(lengths + pauses)[:-1]])
    consonants = lengths * rng.uniform(0.15, 0.4, count)
    hissing = rng.random(count) < 0.6  # the others are closures: silence before the vowel
    time = np.arange(frames)
    which = np.searchsorted(starts, time, side="right") - 1
    inside = time - starts[which]
    voiced = (inside >= consonants[which]) & (inside < lengths[which])
    hiss = (inside < consonants[which]) & hissing[which]
    vowels = _VOWELS[rng.integers(len(_VOWELS), size=count)] * rng.uniform(0.95, 1.05, (count, 4))
    centres = rng.uniform(2500, 6000, count) * speaker.tract_scale
    stress = rng.uniform(0.5, 1.0, count)
    return (
        _smoothed(vowels[which], 0.035),
        _smoothed(voiced * stress[which], 0.012),
        _smoothed(hiss * stress[which], 0.008),
        np.minimum(centres[which], 7000.0),
    )


def _smoothed(track: np.ndarray, seconds: float) -> np.ndarray:
    """A one-pole lag run forwards and backwards: no delay, `seconds` each way."""
    decay = np.exp(-_HOP / SAMPLE_RATE / seconds)
    for _ in range(2):
        start = decay * track[:1]
        track = np.asarray(lfilter([1 - decay], [1, -decay], track, axis=0, zi=start)[0])[::-1]
    return track


def _pitch(speaker: Speaker, frames: int, rng: np.random.Generator) -> np.ndarray:
    """Pitch in Hz per frame: slow wander of the wanted spread, falling over phrases of about 2 s."""
    wander = _smoothed(rng.standard_normal(frames), 0.15)
    wander /= max(float(wander.std()), 1e-9)
    phrase = (np.arange(frames) * _HOP / SAMPLE_RATE / rng.uniform(1.6, 2.4) + rng.random()) % 1.0
    return speaker.pitch_hz * 2 ** (speaker.pitch_octaves * (wander + 0.5 - phrase))


def _interpolated(track: np.ndarray, length: int) -> np.ndarray:
    return np.interp(np.arange(length), np.arange(len(track)) * _HOP, track)


def _glottal(speaker: Speaker, pitch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One pulse at each whole number of the phase, darkened by two poles at `tilt`."""
    phase = np.cumsum(pitch) / SAMPLE_RATE
    periods = np.arange(1, int(phase[-1]) + 1)
    at = np.searchsorted(phase, periods + speaker.jitter * rng.standard_normal(len(periods)))
    pulses = np.zeros(len(pitch))
    np.add.at(pulses, np.minimum(at, len(pitch) - 1), 1 + 0.05 * rng.standard_normal(len(at)))
    dark = np.asarray(lfilter([(1 - speaker.tilt) ** 2], [1, -2 * speaker.tilt, speaker.tilt**2], pulses))
    dark = np.asarray(lfilter([1, -0.97], [1], dark))  # the sound that leaves the lips is the flow's derivative
    return dark / max(float(dark.std()), 1e-9)


def _tract(frequencies: np.ndarray, resonances: np.ndarray) -> np.ndarray:
    """Gain [frames, bins] of a cascade of four resonances [frames, 4], each 1 at 0 Hz."""
    gain = np.ones((len(resonances), len(frequencies)))
    for k in range(4):
        centre, half = resonances[:, k, None], _BANDWIDTHS[k] / 2
        squared = (frequencies**2 - centre**2 - half**2) ** 2 + (2 * half * frequencies) ** 2
        gain *= (centre**2 + half**2) / np.sqrt(squared)
    return gain

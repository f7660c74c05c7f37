"""Who speaks when in a call with one party on each channel: the louder channel, and nobody below the floor.

Channel c has in frame t (20 ms) the level L_c, in dB, of the 60 ms around it. Everything is measured on the call, so
that gains do not matter:

    floor_c = max(silence_c + 6 dB, loud_c - 35 dB)       silence, loud: 2 % and 99 % quantiles of L_c
    c is louder  <=>  L_c - L_other >= even_c             midway between the differences of either party alone
    E_c = L_c - the most of L_other in the last 0.4 s, of frames where the other was louder: an echo comes later
    leak_c = 75 % quantile of E_c where the other is louder: how much of the other is heard in this channel
    c speaks  <=>  L_c >= floor_c  and  E_c >= leak_c + (5 dB where c is louder, else 8 dB)

So both speak at once where the softer party's channel, too, holds 8 dB more than the other's leak explains; where the
parties lie so near each other that this cannot be told (less than 20 dB apart), the louder one alone. Parties who speak
at once for more than a quarter of the time lose some of it: it is taken for leak.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

import numpy as np
from scipy.ndimage import maximum_filter1d, uniform_filter1d
from scipy.special import expit

from weigher.errors import RequestError
from weigher.io.audio import SAMPLE_RATE, audio_channels, audio_seconds, stream_channels
from weigher.io.rttm import Segment
from weigher.recordings.decode import DecodeConfig, decode_slots

HOP_SECONDS = 0.02
PARTIES = ("channel1", "channel2")
_FRAME = round(HOP_SECONDS * SAMPLE_RATE)
_AROUND = 3  # frames that one level is averaged over
_TINY = 1e-10  # power: -100 dB of full scale, below the last bit of 16
_NO_SIGNAL_DB = -95.0  # digital silence: a line that is not open yet says nothing about its noise
_SILENCE, _LOUD = 0.02, 0.99  # quantiles over time: a party may speak nearly all of it
_ABOVE_SILENCE_DB, _BELOW_LOUD_DB = 6.0, 35.0  # noise wavers by less; the soft ends of words lie within the second
_ALONE = 0.005  # quantile of level differences that stands for one party alone: it may speak that little
_LEAK = 0.75  # quantile of E: room above it for the moments when both speak, little below it for an echo's spread
_LEAST_APART_DB = 6.0  # two microphones of one room lie further apart than that
_ONE_PARTY_DB = 15.0  # what a leak alone wavers by at most
_LOUDER_OVER_LEAK_DB, _SOFTER_OVER_LEAK_DB = 5.0, 8.0
_TOLD_APART_DB = 20.0
_ECHO_SECONDS = 0.4
_SOFTNESS_DB = 4.0  # evidence of so many dB is a track of 0.73
_DECODE = DecodeConfig(onset=0.5, offset=0.3, min_speech_seconds=0.2, min_gap_seconds=0.3)


def read_turns(
    path: str | os.PathLike[str], *, progress: Callable[[str, int, int], None] | None = None
) -> tuple[Segment, ...]:
    """Return who speaks when in a recording with one party on each of its two channels, "channel1" and "channel2".

    The recording is streamed: an hour of it takes about 20 MB. Raises RequestError where it has not two channels, where
    both hold the same sound, and as `weigher.io.audio.read_audio` does.

    >>> import tempfile, pathlib, soundfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "call.wav"
    >>> sound = np.random.default_rng(0).normal(0, 0.1, (10 * 8000, 2))
    >>> sound[:32000, 1] *= 0.01; sound[32000:, 0] *= 0.01
    >>> soundfile.write(path, sound, 8000)
    >>> [(round(turn.start, 1), round(turn.end, 1), turn.speaker) for turn in read_turns(path)]
    [(0.0, 4.0, 'channel1'), (4.0, 10.0, 'channel2')]
    """
    channels = audio_channels(path)
    if channels != len(PARTIES):
        only = "only 1 channel" if channels == 1 else f"{channels} channels"
        raise RequestError(
            f"{path} has {only}; who speaks when can be read off a recording with one party on each of 2 channels: "
            "give the call as it was before its channels were mixed, or the two channels that hold the parties"
        )
    seconds = audio_seconds(path)
    try:
        return call_turns(channel_levels(_counted(stream_channels(path), seconds, progress)), seconds)
    except RequestError as error:
        raise RequestError(f"{path}: {error}") from error


def channel_levels(blocks: Iterable[np.ndarray]) -> np.ndarray:
    """Return the level of each channel in dB of full scale, [ceil(samples / 320), c], from blocks [samples, c].

    L = 10 log10(1e-10 + power), with the power without its mean in 20 ms at 16 kHz, averaged over three of them.

    >>> channel_levels([np.tile([[1.0, 0.0], [-1.0, 0.0]], (800, 1))]).round(3).tolist()[:2]
    [[0.0, -100.0], [0.0, -100.0]]
    """
    powers, held = [], None
    for block in blocks:
        held = block if held is None else np.concatenate([held, block])
        whole = len(held) // _FRAME * _FRAME
        powers.append(held[:whole].reshape(-1, _FRAME, held.shape[1]).var(axis=1, dtype=np.float64))
        held = held[whole:]
    if held is not None and len(held):
        powers.append(held.var(axis=0, dtype=np.float64)[None])
    if not powers:
        raise RequestError("there is no sound to measure the level of; give at least one block of samples")
    around = uniform_filter1d(np.concatenate(powers), _AROUND, axis=0, mode="nearest")
    return 10 * np.log10(around + _TINY)


def call_turns(levels: np.ndarray, duration_seconds: float) -> tuple[Segment, ...]:
    """Return turns of "channel1" and "channel2" from levels [t, 2] in dB: `party_tracks`, decoded.

    Pauses of one party under 0.3 s are closed, then turns under 0.2 s dropped. Raises as `party_tracks` does.
    """
    tracks = party_tracks(levels)
    found = decode_slots(tracks, np.ones(2), HOP_SECONDS, duration_seconds=duration_seconds, config=_DECODE)
    party = {name: PARTIES[slot] for name, slot in zip(found.speakers, found.slots, strict=True)}
    return tuple(Segment(turn.start, turn.end, party[turn.speaker]) for turn in found.segments)


def party_tracks(levels: np.ndarray) -> np.ndarray:
    """Return how clearly each party speaks, [t, 2] in [0, 1], from levels [t, 2] in dB; 0.5 is the module's condition.

    track = sigmoid(evidence / 4 dB), evidence = min(L_c - floor_c, E_c - leak_c - 5 or 8 dB). Where all differences
    lie on one side, the softer channel holds only the other's leak, and its party is silent throughout. Raises
    RequestError where both channels hold the same sound.
    """
    over_floor = levels - np.array([_floor(channel) for channel in levels.T])
    evidence = np.minimum(over_floor, _over_leak(levels, over_floor >= 0))
    silent = (evidence >= 0).sum(axis=0) < round(_DECODE.min_speech_seconds / HOP_SECONDS)
    return expit(np.where(silent[::-1], over_floor, evidence) / _SOFTNESS_DB)  # beside nobody there is no leak to fear


def _floor(levels: np.ndarray) -> float:
    signal = levels[levels > _NO_SIGNAL_DB]
    if not len(signal):
        return np.inf
    silence, loud = np.quantile(signal, (_SILENCE, _LOUD))
    return max(silence + _ABOVE_SILENCE_DB, loud - _BELOW_LOUD_DB)


def _over_leak(levels: np.ndarray, above: np.ndarray) -> np.ndarray:
    """By how many dB each channel exceeds what is needed beyond the other's leak, [t, 2]."""
    if not above.any(axis=0).all():
        return np.full(levels.shape, np.inf)  # the floor says it all
    difference = levels[:, 0] - levels[:, 1]
    low = float(np.quantile(difference[above[:, 1]], _ALONE))
    high = float(np.quantile(difference[above[:, 0]], 1 - _ALONE))
    apart, even = high - low, (high + low) / 2
    if apart < _LEAST_APART_DB and abs(even) < _LEAST_APART_DB:
        raise RequestError(
            "both channels hold the same sound, so they cannot tell who speaks; needed is one party on each channel"
        )
    if low * high > 0 and apart < _ONE_PARTY_DB:
        return np.where(np.array([even > 0, even < 0]), np.inf, -np.inf) * np.ones(levels.shape)
    louder = np.column_stack([difference >= even, difference < even])
    echo_frames = round(_ECHO_SECONDS / HOP_SECONDS) // 2 * 2
    spoken = np.where(louder, levels, -np.inf)
    lately = maximum_filter1d(spoken, echo_frames + 1, axis=0, mode="nearest", origin=echo_frames // 2)
    beyond = levels - lately[:, ::-1]
    leak = np.array([_leak(beyond[above[:, 1 - c] & louder[:, 1 - c], c]) for c in (0, 1)])
    softer = _SOFTER_OVER_LEAK_DB if apart >= _TOLD_APART_DB else np.inf
    return beyond - leak - np.where(louder, _LOUDER_OVER_LEAK_DB, softer)


def _leak(beyond: np.ndarray) -> float:
    return float(np.quantile(beyond, _LEAK)) if len(beyond) else -np.inf


def _counted(
    blocks: Iterable[np.ndarray], seconds: float, progress: Callable[[str, int, int], None] | None
) -> Iterable[np.ndarray]:
    samples = 0
    for block in blocks:
        yield block
        samples += len(block)
        if progress is not None:
            progress("seconds heard", round(samples / SAMPLE_RATE), round(seconds))


def render_call(
    parties: np.ndarray,
    *,
    leak_db: float = -25.0,
    leak_seconds: float = 0.0,
    gains_db: tuple[float, float] = (0.0, 0.0),
) -> np.ndarray:
    """Return the call [samples, 2] that two parties, each recorded alone, would make: the model behind `read_turns`.

        channel_c = 10^(gain_c / 20) * (party_c + 10^(leak / 20) * party_other, leak_seconds later)

    Shapes: parties [samples, 2] at 16 kHz. The whole is scaled down where it would pass full scale.

    >>> render_call(np.array([[0.5, 0.0], [0.0, 0.1]]), leak_db=-20, gains_db=(0, -20)).round(3).tolist()
    [[0.5, 0.005], [0.01, 0.01]]
    """
    later = round(leak_seconds * SAMPLE_RATE)
    leak = np.zeros_like(parties)
    leak[later:] = parties[: len(parties) - later, ::-1]
    call = (parties + 10 ** (leak_db / 20) * leak) * 10 ** (np.array(gains_db) / 20)
    return call / max(1.0, float(np.abs(call).max()))

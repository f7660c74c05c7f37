"""The silence of a recording, and where it is quiet for long: nobody speaks there, whatever the teacher believes.

An encoder frame hears more than a second around it, so that in a gap between turns it still hears its neighbours, and
evidence from labels hardly tells a gap from a turn. The level does, and needs no label: it is measured against the
recording's own silence. Only long quiet counts, a short pause belongs to whoever speaks around it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from weigher.errors import RequestError

Mix = Literal["log-power", "waveform", "replace"]
"""How two voices add up: log of summed powers (log-mel), sum (samples), or the later replaces the earlier (others)."""

WIDEST_NATS = 80.0
"""350 dB: log energies that spread wider, or lie higher, are no natural logarithms: their power overflows float32."""

_SILENCE = 0.05  # quantile over time that is taken for the silence of a recording
_LOUD = 0.95  # and the one for its speech
_SHARE = 0.25  # quiet is what lies within this share of the way, in decibels, from silence to speech
_LEAST_SECONDS = 0.6  # pauses between words are shorter than that
_TINY = 1e-10  # power, below that of the last bit of 16


def check_nats(values: np.ndarray, source: str | Path) -> None:
    """Raise RequestError, naming the source, for features [t, f] that cannot be natural logarithms of power.

    >>> check_nats(np.array([[-40.0], [60.0]]), "a.npz")
    Traceback (most recent call last):
        ...
    weigher.errors.RequestError: a.npz: the features span 100, up to 60; voices are added as powers, which needs ...
    """
    if np.ptp(values) > WIDEST_NATS or np.max(values) > WIDEST_NATS:
        raise RequestError(
            f"{source}: the features span {np.ptp(values):.0f}, up to {np.max(values):.0f}; voices are added as "
            "powers, which needs energies in natural logarithm, not dB. For features that do not add up, such as "
            'embeddings, set "additive": false in the config ({"model": {"front": {"additive": false}}})'
        )


def silence_power(values: np.ndarray) -> np.ndarray:
    """Power [f] of a recording's silence: the 5 % quantile of each band of log-power values [t, f].

    >>> silence_power(np.log([[1.0, 2.0]] * 9 + [[50.0, 60.0]])).round(3).tolist()
    [1.0, 2.0]
    """
    return np.exp(np.quantile(np.asarray(values, np.float32), _SILENCE, axis=0)).astype(np.float32)


def quiet_frames(values: np.ndarray, steps_per_frame: int, hop_seconds: float, mix: Mix) -> np.ndarray:
    """Say which frames lie in a quiet stretch of 0.6 s or more.

        level_t = mean over bands of log(p_tf / silence_f),   quiet: level_t < 0.25 * (95 % quantile of level)

    with p the power in a frame, and silence the 5 % quantile over time. Shapes: values [t, f] log-power or [t] samples
    (`mix` "waveform") -> bool [ceil(t / steps_per_frame)], one for each frame of `hop_seconds`. Raises RequestError for
    features of other kinds, which have no level.

    >>> talk = np.zeros((300, 2)); talk[:100] = 8; talk[130:200] = 8
    >>> quiet = quiet_frames(talk, 1, 0.01, "log-power")
    >>> int(quiet.sum()), bool(quiet[200:].all())
    (100, True)
    """
    if mix == "replace":
        raise RequestError("quiet is told by level, and features that are not log-power have none")
    sound = np.asarray(values, np.float32)
    power = np.exp(sound) if mix == "log-power" else np.square(sound)[:, None]
    edges = np.arange(0, len(power), steps_per_frame)
    if not len(edges):
        return np.zeros(0, bool)
    counts = np.diff(edges, append=len(power))
    power = np.add.reduceat(power, edges) / counts[:, None] + _TINY
    level = np.log(power / np.quantile(power, _SILENCE, axis=0)).mean(1)
    soft = level < _SHARE * np.quantile(level, _LOUD)
    return _long(soft, round(_LEAST_SECONDS / hop_seconds))


def _long(soft: np.ndarray, least: int) -> np.ndarray:
    """Keep runs of `least` frames or more."""
    edges = np.flatnonzero(np.diff(soft, prepend=False, append=False)).reshape(-1, 2)
    kept = edges[edges[:, 1] - edges[:, 0] >= least]
    marks = np.zeros(len(soft) + 1, np.int64)
    marks[kept[:, 0]] += 1
    marks[kept[:, 1]] -= 1
    return np.cumsum(marks[:-1]) > 0

"""Speech that was found elsewhere, laid over the tracks of a window: outside it nobody speaks.

    X'_tn = X_tn where the middle of frame t lies in a region, else 0
    q'_n  = q_n where X'_n reaches `least` anywhere, else 0

A slot whose track stands outside all regions is nobody (a noise, music); one that speaks in them keeps its confidence.
"""

from __future__ import annotations

import numpy as np

from weigher.io.speech import Regions


def within(regions: Regions, times: np.ndarray) -> np.ndarray:
    """Tell which times [t], in seconds, lie in regions that are in order and apart: bool [t].

    >>> within(((0.0, 1.0), (2.0, 3.0)), np.array([0.0, 1.0, 1.5, 2.5, 9.0])).tolist()
    [True, False, False, True, False]
    """
    edges = np.array(regions, np.float64).reshape(-1)
    return np.searchsorted(edges, times, side="right") % 2 == 1


def only_in_speech(
    tracks: np.ndarray, confidence: np.ndarray, times: np.ndarray, regions: Regions, least: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return tracks [t, n] and confidence [n] as they are where somebody speaks only in regions; times [t] of frames.

    >>> tracks = np.array([[0.9, 0.1], [0.2, 0.8]])
    >>> tracks, sure = only_in_speech(tracks, np.array([0.9, 0.8]), np.array([0.5, 1.5]), ((0.0, 1.0),), 0.3)
    >>> tracks.tolist(), sure.tolist()
    ([[0.9, 0.1], [0.0, 0.0]], [0.9, 0.0])
    """
    heard = tracks * within(regions, times)[:, None].astype(tracks.dtype)
    return heard, np.where(heard.max(0, initial=0) >= least, confidence, 0.0).astype(confidence.dtype)

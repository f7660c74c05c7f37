"""Who speaks when by clustering frame embeddings: the baselines that a weigher has to beat.

All take the true number of speakers, see no time but for an optional moving average, and give each frame of speech to
one speaker. Frames count by direction (cosine), as is the habit for speaker embeddings:

    kmeans         Lloyd's algorithm on unit vectors, best of 10 k-means++ starts
    agglomerative  average linkage on 1 - cosine
    ward           Ward's linkage on unit vectors, whose squared distance is 2 - 2 cosine
    spectral       each frame joined to its p nearest by cosine, p tuned by the eigengap at the given number of speakers

Memory and time grow with the square of the frames of speech (the cube for `spectral`): made for thousands, not for
hours. Sources: D. Arthur and S. Vassilvitskii, "k-means++", 2007; A. Ng, M. Jordan and Y. Weiss, "On Spectral
Clustering", 2002; T. J. Park et al., "Auto-Tuning Spectral Clustering for Speaker Diarization Using Normalized Maximum
Eigengap", 2020. Unlike in the last, the gap is read at the true number of speakers instead of telling it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from scipy.linalg import eigh

from weigher.errors import RequestError

Method = Literal["kmeans", "agglomerative", "ward", "spectral"]

_SAME = 6  # decimals of a unit vector: frames that agree so far are one point
_SILENT = 1e-12  # of the longest vector: what rounding may leave of a sum that is zero
_STARTS = 10
_SHARES = (0.02, 0.05, 0.1, 0.2)  # neighbours tried by `spectral`, as a share of the frames
_NO_GAP = 1e-10


def cluster_frames(
    embeddings: np.ndarray,
    speech: np.ndarray,
    speakers: int,
    method: Method = "kmeans",
    *,
    smooth_frames: int = 1,
    seed: int = 0,
) -> np.ndarray:
    """Return who speaks in each frame, bool `[t, speakers]`: one speaker where there is speech, nobody elsewhere.

    Speakers are numbered by first appearance. With `smooth_frames` above 1 each embedding becomes the mean over the
    frames of speech among the `smooth_frames` around it. Where there are fewer different frames of speech than
    speakers, the last speakers stay silent.

    Shapes: embeddings `[t, e]` (finite where there is speech), speech bool `[t]`; speakers >= 0, smooth_frames >= 1.
    Raises: RequestError for shapes or values that do not fit, and where scikit-learn is not installed.

    >>> voices = np.array([[1.0, 0.1], [0.9, 0.0], [0.0, 0.0], [0.1, 1.0], [1.0, 0.0]])
    >>> cluster_frames(voices, np.array([True, True, False, True, True]), speakers=2).astype(int).T
    array([[1, 1, 0, 0, 1],
           [0, 0, 0, 1, 0]])
    """
    embeddings, speech = np.asarray(embeddings), np.asarray(speech)
    if embeddings.ndim != 2 or speech.shape != embeddings.shape[:1] or speech.dtype != bool:
        raise RequestError(
            f"embeddings of shape {embeddings.shape} and speech of shape {speech.shape} ({speech.dtype}) are given; "
            "needed are [frames, dimensions] and bool [frames]"
        )
    if speakers < 0 or smooth_frames < 1:
        raise RequestError(
            f"speakers is {speakers} and smooth_frames {smooth_frames}; at least 0 and at least 1 are needed"
        )
    if method not in get_args(Method):
        raise RequestError(f"the method of clustering is {method!r}; use one of {', '.join(get_args(Method))}")
    if not np.isfinite(embeddings[speech]).all():
        raise RequestError("the embedding of a frame of speech holds NaN or infinity; compute the embeddings again")
    activity = np.zeros((len(speech), speakers), dtype=bool)
    frames = np.flatnonzero(speech)
    if not speakers or not frames.size:
        return activity
    points = _directions(_smooth(embeddings.astype(np.float64), speech, smooth_frames)[frames])
    different = len(np.unique(np.round(points, _SAME), axis=0))
    groups = min(speakers, different)
    labels = np.zeros(len(points), dtype=np.int64) if groups == 1 else _METHODS[method](points, groups, seed)
    _, first, labels = np.unique(labels, return_index=True, return_inverse=True)
    activity[frames, np.argsort(np.argsort(first))[labels]] = True
    return activity


def _smooth(embeddings: np.ndarray, speech: np.ndarray, smooth_frames: int) -> np.ndarray:
    """Return the sum over the frames of speech from (s - 1) // 2 frames before each frame to s // 2 after it.

    The mean has the same direction, and only that counts.
    """
    if smooth_frames == 1:
        return embeddings
    frame = np.arange(len(speech))
    low = np.maximum(frame - (smooth_frames - 1) // 2, 0)
    high = np.minimum(frame + smooth_frames // 2 + 1, len(speech))
    sums = np.pad(np.cumsum(np.where(speech[:, None], embeddings, 0.0), axis=0), ((1, 0), (0, 0)))
    return sums[high] - sums[low]


def _directions(points: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(points, axis=1, keepdims=True)
    return np.divide(points, length, out=np.zeros_like(points), where=length > _SILENT * length.max())


def _kmeans(points: np.ndarray, groups: int, seed: int) -> np.ndarray:
    cluster, errors = _sklearn()
    with warnings.catch_warnings():
        # groups that rounding alone keeps apart may come out as fewer, and that is right
        warnings.simplefilter("ignore", errors.ConvergenceWarning)
        return cluster.KMeans(groups, n_init=_STARTS, random_state=seed).fit_predict(points)


def _agglomerative(points: np.ndarray, groups: int, seed: int) -> np.ndarray:
    cluster, _ = _sklearn()
    tree = cluster.AgglomerativeClustering(groups, metric="precomputed", linkage="average")
    return tree.fit_predict(np.clip(1.0 - points @ points.T, 0.0, 2.0))


def _ward(points: np.ndarray, groups: int, seed: int) -> np.ndarray:
    cluster, _ = _sklearn()
    return cluster.AgglomerativeClustering(groups, linkage="ward").fit_predict(points)


def _spectral(points: np.ndarray, groups: int, seed: int) -> np.ndarray:
    cosine = points @ points.T
    nearest = np.argsort(-cosine, axis=1, kind="stable")
    best, chosen = np.inf, points
    for neighbours in sorted({max(2, round(share * len(points))) for share in _SHARES}):
        joined = np.zeros_like(cosine)
        np.put_along_axis(joined, nearest[:, :neighbours], 1.0, axis=1)
        joined = (joined + joined.T) / 2
        laplacian = np.diag(joined.sum(axis=1)) - joined
        values, vectors = eigh(laplacian)
        gap = (values[min(groups, len(points) - 1)] - values[groups - 1]) / values[-1]
        ratio = neighbours / max(gap, _NO_GAP)  # a large gap is easily had with many neighbours
        if ratio < best:
            best, chosen = ratio, vectors[:, :groups]
    return _kmeans(chosen, groups, seed)


def _sklearn():
    try:
        from sklearn import cluster, exceptions
    except ImportError as error:
        raise RequestError("clustering needs scikit-learn; run: pip install 'weigher[study]'") from error
    return cluster, exceptions


_METHODS: dict[Method, Callable[[np.ndarray, int, int], np.ndarray]] = {
    "kmeans": _kmeans,
    "agglomerative": _agglomerative,
    "ward": _ward,
    "spectral": _spectral,
}

"""The map of voices: one point for each, near each other where they are alike, in the colour of the name.

Places are those of t-SNE on cosine distances, started from the two main directions: near points are alike, far points
are not, and distances between groups say little more. Four voices or fewer, or all alike, stand on their main
directions. Source: van der Maaten and Hinton 2008, "Visualizing Data using t-SNE".
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from weigher.errors import RequestError
from weigher.plot.fonts import drawable, font_family
from weigher.plot.tracks import PALETTE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_UNKNOWN, _INK = "#B8B8B8", "#222222"
_MARKERS = "os^vDP"  # another form for each ten names, as there are ten colours
_LABELLED = 40  # names, the most frequent first
_FEW, _PERPLEXITY = 5, 30.0


def lay_out(vectors: np.ndarray, seed: int = 0) -> np.ndarray:
    """Place vectors [m, e] on a plane: float64 [m, 2], the same for the same vectors.

    Raises RequestError for what are no vectors, and where scikit-learn is not installed.

    >>> places = lay_out(np.repeat(np.eye(3), 5, axis=0) + 0.01 * np.random.default_rng(0).normal(size=(15, 3)))
    >>> gaps = np.linalg.norm(places[:, None] - places, axis=2)
    >>> bool(gaps[:5, :5].max() < gaps[:5, 5:].min())
    True
    """
    vectors = np.asarray(vectors, np.float64)
    if vectors.ndim != 2 or not np.isfinite(vectors).all():
        raise RequestError(f"vectors of shape {vectors.shape} are given; needed are finite numbers [voices, e]")
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
    centred = unit - unit.mean(0, keepdims=True) if len(unit) else unit
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    main = np.zeros((len(unit), 2))
    count = min(2, left.shape[1])
    main[:, :count] = left[:, :count] * sizes[:count]
    spread = main[:, 0].std() if len(unit) else 0.0
    if len(unit) < _FEW or spread < 1e-6:
        return main
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise RequestError("the map of voices needs scikit-learn; run: pip install 'weigher[plot]'") from error
    start: Any = (main / spread * 1e-4).astype(np.float32)  # as PCA starts it; the stubs know words only
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of one version's defaults or another's
        tsne = TSNE(
            perplexity=min(_PERPLEXITY, (len(unit) - 1) / 3),
            metric="cosine",
            init=start,
            learning_rate="auto",
            random_state=seed,
        )
        return tsne.fit_transform(unit.astype(np.float32)).astype(np.float64)


def plot_embedding_map(
    places: np.ndarray,
    names: Sequence[str | None],
    *,
    enrolled: np.ndarray | None = None,
    title: str = "",
) -> Figure:
    """Draw places [m, 2] of voices in the colours of their names (None: unknown, grey).

    Voices that `enrolled` bool [m] marks are larger and framed. The most frequent names stand below their voices.
    Raises RequestError for shapes that do not fit, and where matplotlib is not installed.

    >>> figure = plot_embedding_map(np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 0.0]]), ["Ann", "Ben", None])
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['Ann', 'Ben']
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise RequestError("pictures need matplotlib; run: pip install 'weigher[plot]'") from error
    places = np.asarray(places, np.float64)
    marked = np.zeros(len(names), bool) if enrolled is None else np.asarray(enrolled, bool)
    if places.shape != (len(names), 2) or marked.shape != (len(names),):
        raise RequestError(
            f"places of shape {places.shape}, {len(names)} names and marks of shape {marked.shape} are given; needed "
            "are [voices, 2] and one name and one mark for each voice"
        )
    figure = Figure(figsize=(8, 7), dpi=160, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes, family = figure.subplots(), font_family()
    axes.set_axis_off()
    axes.set_aspect("equal", adjustable="datalim")
    order = [name for name, _ in Counter(name for name in names if name is not None).most_common()]
    every = np.array([-1 if name is None else order.index(name) for name in names])
    for number in range(-1, len(order)):
        colour = _UNKNOWN if number < 0 else PALETTE[number % len(PALETTE)]
        form = "." if number < 0 else _MARKERS[number // len(PALETTE) % len(_MARKERS)]
        for framed in (False, True):
            x, y = places[(every == number) & (marked == framed)].T
            size, frame, width = (70, _INK, 0.9) if framed else (26, "none", 0.0)
            style: dict[str, Any] = {"facecolors": colour, "marker": form, "alpha": 0.9, "zorder": 2 + framed}
            axes.scatter(x, y, size, edgecolors=frame, linewidths=width, **style)
    for number, name in enumerate(order[:_LABELLED]):
        own = places[every == number]
        below = np.median(own[:, 0]), np.quantile(own[:, 1], 0.05)  # most of the voices stand above their name
        colour = PALETTE[number % len(PALETTE)]
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1.0}
        words = {"fontsize": 9, "fontweight": "bold", "ha": "center", "va": "top", "bbox": box, "zorder": 5}
        words |= {"xytext": (0, -7), "textcoords": "offset points", "color": colour, "family": family}
        axes.annotate(drawable(name, family), below, parse_math=False, **words)
    axes.set_title(
        drawable(title, family), loc="left", fontsize=12, fontweight="bold", color=_INK, family=family, parse_math=False
    )
    return figure

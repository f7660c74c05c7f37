"""Which names of a training list are likely wrong, and which are likely missing, from what listening recorded.

    wrong     listed names, least clearly heard first: lowest A_ik first
    missing   names that are not listed, most clearly heard first: highest A_ik first
    likely    wrong: A <= the p-th percentile of names that were planted where they are not
              missing: A >= the (100 - p)-th percentile of the names that are listed

A_ik is the area under the margin of name k in its best half second of recording i (`weigher.recordings.cast_margins`).
Planted names are treated like any listed ones, so that wrong names lie where they lie: of wrong ones p per cent are
expected below the cut-off, and how many right ones there are, too, depends on how briefly people speak. The paper's p
is 99, on classes of images. Names that were never heard enough to be recorded are counted, not judged.

Symbols: r recordings, k names of which something is known. Source: Pleiss et al. 2020 (arXiv 2001.10528), adapted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from weigher.errors import RequestError
from weigher.recordings.cast_margins import Heard, heard_in
from weigher.recordings.training_list import TrainingList, read_list
from weigher.train.state import load_tensors

PERCENTILE = 50.0
_PLACES = 3  # times to listen to, of one name
_SEVERAL = 3  # recordings that list a name; fewer may well all be wrong
_AROUND_SECONDS = 0.5
_STATE = Path("listen") / "last.safetensors"


@dataclass(frozen=True)
class Suspect:
    """A name (label number) of a recording, how clearly it is heard there, and where: (start, end) in seconds.

    Of a listed name, the times are those at which the listed person would be, if anywhere.
    """

    kind: Literal["wrong", "missing"]
    recording: int
    label: int
    margin: float
    likely: bool
    times: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Audit:
    """The ranking, likeliest first, both cut-offs, the names planted to learn the first, and those not judged.

    `wrong_below` is None where nothing was planted; `every_name` is False where the archive was too large to record
    names that are not listed: then nothing can be missing. `lost` are labels that several recordings list and all of
    these are likely wrong to: sooner than that, training never came to know the voice.
    """

    wrong: tuple[Suspect, ...]
    missing: tuple[Suspect, ...]
    wrong_below: float | None
    missing_above: float
    planted: int
    unheard: int
    every_name: bool
    lost: tuple[int, ...]


def audit(
    heard: Heard,
    casts: Sequence[Sequence[int]],
    block_seconds: float,
    *,
    top: int | None = None,
    percentile: float = PERCENTILE,
) -> Audit:
    """Rank the pairs of recording and name; the `top` of each kind (default: all).

    Raises RequestError for a percentile out of (0, 100], and where nothing was recorded.
    """
    if not 0 < percentile <= 100:
        raise RequestError(f"percentile = {percentile}; needed is a number above 0, at most 100")
    listed, planted = said(heard, casts)
    known = np.isfinite(heard.best)
    if not (listed & known).any():
        raise RequestError("nothing was recorded of any name; listening has to come further than two fifths")
    below = float(np.percentile(heard.best[planted & known], percentile)) if (planted & known).any() else None
    above = float(np.percentile(heard.best[listed & known], 100 - percentile))

    def suspects(kind: Literal["wrong", "missing"], pairs: np.ndarray) -> tuple[Suspect, ...]:
        recording, column = np.nonzero(pairs)
        margin = heard.best[recording, column]
        order = np.argsort(margin if kind == "wrong" else -margin, kind="stable")[:top]
        found = []
        for i, k, m in zip(recording[order], column[order], margin[order], strict=True):
            likely = m >= above if kind == "missing" else below is not None and m <= below
            times = places(heard.blocks[i][:, k], block_seconds)
            found.append(Suspect(kind, int(i), int(heard.names[i, k]), float(m), bool(likely), times))
        return tuple(found)

    return Audit(
        wrong=suspects("wrong", listed & known),
        missing=suspects("missing", ~listed & ~planted & known & (heard.names >= 0)),
        wrong_below=below,
        missing_above=above,
        planted=int((planted & known).sum()),
        unheard=int((listed & ~known).sum()),
        every_name=heard.every_name,
        lost=() if below is None else _lost(heard.names[listed & known], heard.best[listed & known] <= below),
    )


def _lost(labels: np.ndarray, is_wrong: np.ndarray) -> tuple[int, ...]:
    """Labels, of listed pairs [p], that stand in several of them and are likely wrong in all."""
    every, wrong = np.bincount(labels), np.bincount(labels, weights=is_wrong)
    return tuple(int(label) for label in np.flatnonzero((every >= _SEVERAL) & (wrong == every)))


def said(heard: Heard, casts: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Which names are listed and which were planted, bool [r, k] each.

    >>> heard = Heard(np.array([[0, 1, 2]]), np.zeros((1, 3)), [np.zeros((4, 3))], np.array([2]), True)
    >>> [table.tolist() for table in said(heard, [[0]])]
    [[[True, False, False]], [[False, False, True]]]
    """
    listed = np.stack([np.isin(names, cast) for names, cast in zip(heard.names, casts, strict=True)])
    planted = (heard.names == heard.planted[:, None]) & (heard.planted >= 0)[:, None]
    return listed & (heard.names >= 0), planted


def places(margins: np.ndarray, block_seconds: float) -> tuple[tuple[float, float], ...]:
    """Return where to listen: around the three clearest blocks of margins [b] (NaN: unheard), in order of time.

    >>> places(np.array([-5.0, 2.0, 1.5, -4.0, -4.0, -4.0, -4.0, np.nan, 3.0]), 0.5)
    ((0.0, 2.0), (3.5, 4.5))
    """
    order = np.argsort(-np.where(np.isnan(margins), -np.inf, margins), kind="stable")[:_PLACES]
    last, found = len(margins) * block_seconds, []
    for block in sorted(order[~np.isnan(margins[order])]):
        start = max(0.0, block * block_seconds - _AROUND_SECONDS)
        end = min(last, (block + 1) * block_seconds + _AROUND_SECONDS)
        if found and start <= found[-1][1]:
            start = found.pop()[0]
        found.append((round(float(start), 2), round(float(end), 2)))
    return tuple(found)


def audit_run(run_dir: Path, *, top: int | None = None, percentile: float = PERCENTILE) -> tuple[Audit, TrainingList]:
    """Audit the list of a run, finished or not, from its last saved state; nothing is trained or applied.

    Raises RequestError where the folder is no run, or has not recorded anything yet.
    """
    told = read_list(run_dir)
    if not (run_dir / _STATE).is_file():
        raise RequestError(f"{run_dir} has not begun to listen; audit it when some of the training is done")
    tensors, _ = load_tensors(run_dir / _STATE)
    mark = "model.margins."
    state = {name.removeprefix(mark): value for name, value in tensors.items() if name.startswith(mark)}
    if not state:
        raise RequestError(f"{run_dir / _STATE} holds no margins; train with this version of weigher")
    number = {name: index for index, name in enumerate(told.labels)}
    casts = [[number[name] for name in cast] for cast in told.casts]
    found = audit(heard_in(state, len(told.labels)), casts, told.block_seconds, top=top, percentile=percentile)
    return found, told

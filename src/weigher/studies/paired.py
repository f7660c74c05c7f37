"""Methods compared seed by seed: of one seed they share data, start and views, and their difference spreads less."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from weigher.studies.harness import Figures, Row, clearly_less, find_row

Comparison = tuple[str, str, str]
"""A method, another one, and the metric by which they are compared."""


def with_differences(found: Figures, compared: Iterable[Comparison]) -> Figures:
    """Add to one seed's figures how much more of a metric one method has than another, as a method "one less other".

    >>> found = with_differences({"ours": {"EER %": 20.0}, "theirs": {"EER %": 25.0}}, [("ours", "theirs", "EER %")])
    >>> found["ours less theirs"]
    {'EER %': -5.0}
    """
    added: Figures = {}
    for method, other, metric in compared:
        added.setdefault(f"{method} less {other}", {})[metric] = found[method][metric] - found[other][metric]
    return {**found, **added}


def clearly_more(method: str, other: str, metric: str, rows: Sequence[Row]) -> tuple[str, bool]:
    """Say the figures of two methods, and whether the first one's is clearly the higher, seed by seed."""
    shown, difference = _compared(method, other, metric, rows)
    return shown, clearly_less(level(0.0), difference)


def clearly_fewer(method: str, other: str, metric: str, rows: Sequence[Row]) -> tuple[str, bool]:
    """Say the figures of two methods, and whether the first one's is clearly the lower, seed by seed."""
    shown, difference = _compared(method, other, metric, rows)
    return shown, clearly_less(difference, level(0.0))


def level(value: float) -> Row:
    """Return a figure without spread, to compare a row with.

    >>> clearly_less(level(0.0), Row.of("ours less theirs", "accuracy %", [1.0, 1.2]))
    True
    """
    return Row.of("level", "level", [value])


def _compared(method: str, other: str, metric: str, rows: Sequence[Row]) -> tuple[str, Row]:
    one, two = (find_row(rows, name, metric).mean for name in (method, other))
    difference = find_row(rows, f"{method} less {other}", metric)
    spread = "" if difference.std is None else f" ± {difference.std:.1f}"
    return f"{one:.1f} against {two:.1f}: {difference.mean:+.1f}{spread}", difference

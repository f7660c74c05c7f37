"""The pages of the documentation that quote figures, made from the kept results: nothing in them is typed in.

`results_page` shows every study with its claims, its picture and all its figures; `papers_page` shows, paper by paper,
what is said about a method and what was measured. ``weigher study --pages DIR`` writes both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from weigher.studies.harness import Result, Row, Study

RESULTS, PAPERS = "results.md", "papers.md"
"""Names of the two files; pictures lie in the folder ``results`` beside them."""

_MADE = "<!-- Made by `weigher study --pages`; change the studies or their results, not this page. -->"

Kept = Sequence[tuple[Study, Result | None]]
"""Studies, each with its kept result."""


def results_page(kept: Kept, pictures: Iterable[str] = ()) -> str:
    """Write a page of all figures; `pictures` names the studies whose picture is kept.

    >>> study = Study("coin", "00", "Heads against tails", lambda context: [])
    >>> print(results_page([(study, None)]).splitlines()[-1])
    No result is kept yet: `weigher study coin`.
    """
    pictures = set(pictures)
    parts = [_MADE, "", "# Results", ""]
    parts += ["All figures of the kept results, mean ± standard deviation over the seeds."]
    for study, result in kept:
        parts += ["", f"## {study.name}", "", f"{study.title}.", ""]
        if result is None:
            parts.append(f"No result is kept yet: `weigher study {study.name}`.")
            continue
        parts += [_told(result), ""]
        if study.name in pictures:
            parts += [f"![{study.title}](results/{study.name}.png)", ""]
        parts += _claims(result)
        parts += ["<details><summary>All figures</summary>", "", *_figures(result.rows), "", "</details>"]
    return _joined(parts)


def papers_page(kept: Kept) -> str:
    """Write a page of what is claimed, where, and what was measured, by paper.

    >>> study = Study("coin", "00", "Heads against tails", lambda context: [], paper="Bernoulli 1713")
    >>> "## Bernoulli 1713" in papers_page([(study, None)])
    True
    """
    by_paper: dict[tuple[str, str], list[tuple[Study, Result | None]]] = {}
    for study, result in kept:
        by_paper.setdefault((study.card, study.paper), []).append((study, result))
    parts = [_MADE, "", "# Papers", "", "What is said about each method, and what was measured here."]
    for (_, paper), studies in sorted(by_paper.items()):
        parts += ["", f"## {paper or 'Without a paper'}"]
        for study, result in studies:
            parts += ["", f"**{study.title}** ([figures]({RESULTS}#{study.name.replace('_', '-')}))", ""]
            parts += (
                [_told(result), "", *_claims(result)] if result else [f"Not yet run: `weigher study {study.name}`."]
            )
    return _joined(parts)


def _told(result: Result) -> str:
    command = f"weigher study {result.study} --seeds {result.seeds} --budget {result.budget}"
    return f"`{command}`, commit {result.commit}, {result.seconds / 60:.0f} min on {result.versions['hardware']}."


def _claims(result: Result) -> list[str]:
    if not result.claims:
        return []
    lines = ["| claim | said by | measured | held |", "|---|---|---|---|"]
    for claim in result.claims:
        measured = claim.measured if isinstance(claim.measured, str) else f"{claim.measured:.4g}"
        lines.append(_line(claim.claim, claim.source, measured, "yes" if claim.held else "**no**"))
    return [*lines, ""]


def _figures(rows: Sequence[Row]) -> list[str]:
    methods = list(dict.fromkeys(row.method for row in rows))  # in order of appearance
    ordered = sorted(rows, key=lambda row: methods.index(row.method))
    lines = ["| method | metric | mean ± std | seeds |", "|---|---|---|---|"]
    return lines + [_line(row.method, row.metric, _figure(row), str(row.n)) for row in ordered]


def _figure(row: Row) -> str:
    return f"{row.mean:.4g}" + ("" if row.std is None else f" ± {row.std:.2g}")


def _line(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _joined(lines: Sequence[str]) -> str:
    """Join lines, with never two empty ones in a row, nor one at the end."""
    kept = [line for before, line in zip(["", *lines], lines, strict=False) if line or before]
    return "\n".join(kept).rstrip() + "\n"

"""Figures with a spread in the guides are those of the kept results of the studies that a guide names."""

import re
from pathlib import Path

import pytest

from weigher.studies.harness import Row, find_studies, stored_result

ROOT = Path(__file__).parents[2]
ELSEWHERE = {
    "README.md": {"16.3 ± 0.1", "20.8 ± 1.2"},  # of a longer run, which the page says is told in the lab notes alone
    "docs/swav.md": {"81.9 ± 3.4"},  # of another encoder, at the commit that the page names
}
"""Figures that a page says come from somewhere else."""
NOTES = {"docs/lab-notes.md", "docs/results.md", "docs/papers.md"}  # what was tried on the way; and what is made
FIGURE = re.compile(r"([-+]?\d[\d,]*(?:\.\d+)?) ± (\d+(?:\.\d+)?)")


def named_in(text):
    """Names of the studies with results that a page names."""
    return [
        name
        for name in find_studies()
        if re.search(rf"weigher study {name}\b|results\.md#{name.replace('_', '-')}\b|results/{name}\.", text)
        and stored_result(name) is not None
    ]


def rounds_to(value, said):
    """Whether a value is what is said, at the digits that are said; without a sign ("less by 0.4") of either sign."""
    said = said.replace(",", "")
    if said[0] not in "+-":
        value = abs(value)
    return abs(value - float(said)) <= 0.5 * 10 ** -len(said.partition(".")[2]) + 1e-9


def foreign(text, rows):
    """Figures of a text that no row has, as they are or as a percentage."""
    return [
        f"{mean} ± {std}"
        for mean, std in FIGURE.findall(text)
        if not any(
            rounds_to(factor * row.mean, mean) and rounds_to(factor * (row.std or 0.0), std)
            for row in rows
            for factor in (1, 100)
        )
    ]


PAGES = [
    str(path.relative_to(ROOT))
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if str(path.relative_to(ROOT)) not in NOTES and FIGURE.search(path.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize("page", PAGES)
def test_figures_of_a_guide_are_those_of_the_kept_results(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    rows = [row for name in named_in(text) for row in stored_result(name).rows]
    assert set(foreign(text, rows)) == ELSEWHERE.get(page, set())


def test_a_figure_that_is_rounded_wrong_or_turned_round_is_found():
    rows = [Row("ours", "gain", -0.944, 1.646, 5), Row("theirs", "share", 0.4249, None, 5)]
    assert foreign("-0.9 ± 1.6 points, worse by 0.9 ± 1.6, -0.94 ± 1.65; 42.5 ± 0 and 0.42 ± 0.0", rows) == []
    wrong = ["-0.9 ± 1.7", "-1.0 ± 1.6", "+0.9 ± 1.6", "0.43 ± 0.0", "42.5 ± 1"]
    assert foreign(", ".join(wrong), rows) == wrong

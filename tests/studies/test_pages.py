"""The pages made from kept results: on made-up results, and as they stand in the documentation."""

from pathlib import Path

import pytest

from weigher.cli.main import main
from weigher.studies.harness import Result, Row, Study, Verdict, find_studies, judge, kept_results, stored_result
from weigher.studies.pages import papers_page, results_page

DOCS = Path(__file__).parents[2] / "docs"


def study(name, card="00", paper="Bernoulli 1713"):
    return Study(name, card, f"All about {name}", lambda context: [], paper=paper)


def result(name, *, held=True, measured: str | float = 0.123456):
    rows = [Row.of("a|b", "heads %", [40.0, 60.0]), Row.of("fair", "heads %", [50.0]), Row.of("a|b", "tails %", [50.0])]
    claims = [Verdict("heads fall", "the coin's maker", measured, held)]
    return Result(name, "00", "full", 2, ["coins"], rows, claims, 125.0, {"hardware": "a table"}, "c0ffee")


def test_every_figure_and_verdict_is_on_the_page():
    page = results_page([(study("coin"), result("coin", held=False))], ["coin", "other"])
    assert "| heads fall | the coin's maker | 0.1235 | **no** |" in page
    assert "| a\\|b | heads % | 50 ± 14 | 2 |\n| a\\|b | tails % | 50 | 1 |\n| fair | heads % | 50 | 1 |" in page
    assert "`weigher study coin --seeds 2 --budget full`, commit c0ffee, 2 min on a table." in page
    assert "![All about coin](results/coin.png)" in page
    assert "![" not in results_page([(study("coin"), result("coin"))])


def test_a_paper_has_all_its_studies_and_papers_follow_their_cards():
    kept = [
        (study("late", card="07", paper="Later 1950"), None),
        (study("coin"), result("coin", measured="half of them")),
        (study("dice"), None),
    ]
    page = papers_page(kept)
    assert page.index("## Bernoulli 1713") < page.index("`weigher study dice`") < page.index("## Later 1950")
    assert page.count("## ") == 2
    assert "| heads fall | the coin's maker | half of them | yes |" in page
    assert "\n\n\n" not in page


@pytest.mark.parametrize(("name", "make"), [("results.md", results_page), ("papers.md", papers_page)])
def test_the_documentation_says_what_the_kept_results_say(name, make):
    kept = [(study, stored_result(study.name)) for study in find_studies().values()]
    pictures = [study.name for study, _ in kept if (kept_results() / f"{study.name}.png").is_file()]
    made = make(kept, pictures) if make is results_page else make(kept)
    assert (DOCS / name).read_text(encoding="utf-8") == made, "run `weigher study --pages docs`"


@pytest.mark.parametrize("name", [name for name in find_studies() if stored_result(name) is not None])
def test_kept_verdicts_are_those_of_todays_rules_on_the_kept_rows(name):
    kept = stored_result(name)
    assert kept is not None
    assert list(kept.claims) == [judge(claim, kept.rows) for claim in find_studies()[name].claims]


def test_the_command_writes_both_pages(tmp_path, capsys):
    assert main(["study", "--pages", str(tmp_path)]) == 0
    for name in ("results.md", "papers.md"):
        assert (tmp_path / name).read_bytes() == (DOCS / name).read_bytes()
    assert capsys.readouterr().err.count("written: ") == 2

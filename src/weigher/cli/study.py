"""``weigher study``: run one experiment against its baseline, or list them all with their last results."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from weigher.cli import console
from weigher.cli.arguments import optional
from weigher.errors import RequestError
from weigher.io.atomic import writing
from weigher.io.datasets import find_data
from weigher.studies import harness, pages


@dataclass(frozen=True)
class Options:
    """Measure one method against the baseline it is said to beat, on real data."""

    name: tyro.conf.Positional[str] = ""
    """Which study to run."""
    list_: Annotated[bool, tyro.conf.arg(name="list")] = False
    """Show every study, its card, and its last stored result; run none."""
    pages: Annotated[Path | None, optional("DIR")] = None
    """Write results.md and papers.md, made from the stored results, into this folder; run no study."""
    data: Annotated[Path | None, optional("DIR")] = None
    """Folder of data laid out like the one the studies know; found through WEIGHER_DATA where not given."""
    seeds: int = 3
    """How many seeds to run: 0 to K - 1."""
    budget: Literal["small", "full"] = "small"
    """small: some minutes on two cores. full: the figures the documentation quotes."""
    out: Annotated[Path | None, optional("DIR")] = None
    """Folder for results.json and the picture; run/studies/NAME where not given."""
    resume: bool = False
    """Go on with a study that was stopped: parts that it finished, kept in --out, are not run again."""
    json: bool = False
    """Print one JSON object instead of tables."""
    quiet: bool = False
    """Show no progress."""


def run(options: Options) -> int:
    """Run or list studies; RequestError where the study, its data or its options are not right."""
    if options.list_:
        _list(options)
        return 0
    if options.pages is not None:
        _write_pages(options.pages)
        return 0
    if not options.name:
        raise RequestError("name a study to run, or see what there is with `weigher study --list`")
    if options.seeds < 1:
        raise RequestError(f"--seeds is {options.seeds}; a study needs at least one seed")
    study = harness.find_study(options.name)
    out = options.out or Path("run", "studies", study.name)
    with console.progress_bar(options.quiet) as progress:
        context = harness.Context(
            data=find_data(options.data),
            seeds=tuple(range(options.seeds)),
            budget=options.budget,
            out=out,
            progress=progress,
            resume=options.resume,
        )
        result = harness.run_study(study, context)
    if options.json:
        console.print_json(result.to_dict())
    else:
        Console().print(harness.report(result))
        console.message(f"written: {out / 'results.json'}")
    return 0


def _write_pages(folder: Path) -> None:
    kept = [(study, harness.stored_result(name)) for name, study in harness.find_studies().items()]
    pictures = [study.name for study, _ in kept if (harness.kept_results() / f"{study.name}.png").is_file()]
    for name, text in ((pages.RESULTS, pages.results_page(kept, pictures)), (pages.PAPERS, pages.papers_page(kept))):
        with writing(folder / name, "w") as file:
            file.write(text)
        console.message(f"written: {folder / name}")


def _list(options: Options) -> None:
    studies = [(study, harness.stored_result(name)) for name, study in harness.find_studies().items()]
    if options.json:
        rows = [
            {"name": study.name, "card": study.card, "title": study.title, "last": last and last.to_dict()}
            for study, last in studies
        ]
        console.print_json({"studies": rows})
        return
    table = Table("study", "card", "what it measures", "last result")
    for study, last in studies:
        table.add_row(*map(escape, (study.name, study.card, study.title, _summary(last))))
    Console().print(table)


def _summary(result: harness.Result | None) -> str:
    """Return a stored result in one line.

    >>> claims = [harness.Verdict("a is small", "here", 1.0, True)]
    >>> _summary(harness.Result("coin", "00", "small", 3, [], [], claims, 2.5, {}, "c0ffee"))
    '1 of 1 claims held (small, 3 seeds, commit c0ffee)'
    """
    if result is None:
        return "none kept"
    held = sum(verdict.held for verdict in result.claims)
    return f"{held} of {len(result.claims)} claims held ({result.budget}, {result.seeds} seeds, commit {result.commit})"

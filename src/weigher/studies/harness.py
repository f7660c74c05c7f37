"""What every study shares: its parts, its seeds and data, and a result whose claims are judged by rules.

A study is a module ``weigher.studies.<name>`` with a constant ``STUDY = Study(name="<name>", ...)``. Its ``run`` gets
a `Context` and returns rows; each `Claim` carries the rule that decides from those rows whether it held, so that
neither a figure nor a verdict is ever typed in.

``results.json`` holds ``study, card, budget, seeds, data, rows[{method, metric, mean, std, n}], claims[{claim, source,
measured, held}], seconds, versions, commit``. ``seeds`` is their number K (seeds 0 to K - 1), ``data`` names what was
read below the data folder, ``std`` is null where there was one seed, ``versions`` also says what ``hardware`` it was.
``seconds`` is the time that the work took; of a study that was stopped and resumed, with that of its kept parts.
"""

import difflib
import importlib
import importlib.util
import json
import math
import os
import pkgutil
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import Group
from rich.markup import escape
from rich.table import Table

import weigher.studies
from weigher import __version__
from weigher.errors import RequestError
from weigher.io.atomic import writing
from weigher.train import provenance
from weigher.train.provenance import versions

Budget = Literal["small", "full"]


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of one method: mean and sample standard deviation over `n` seeds (`std` is None where n = 1)."""

    method: str
    metric: str
    mean: float
    std: float | None
    n: int

    @classmethod
    def of(cls, method: str, metric: str, values: Iterable[float]) -> "Row":
        """Make a row from one finite value per seed.

        mean = sum v / n, std = sqrt(sum (v - mean)^2 / (n - 1)). Raises ValueError where there is no value, or one
        that is not finite.

        >>> Row.of("k-means", "DER %", [20.0, 22.0])
        Row(method='k-means', metric='DER %', mean=21.0, std=1.4142135623730951, n=2)
        """
        figures = [float(value) for value in values]
        if not figures or not all(map(math.isfinite, figures)):
            raise ValueError(f"{method}, {metric}: a row needs at least one value, all of them finite; got {figures}")
        std = statistics.stdev(figures) if len(figures) > 1 else None
        return cls(method, metric, statistics.fmean(figures), std, len(figures))


Figures = dict[str, dict[str, float]]
"""Method -> metric -> figure of one seed."""


class Tally:
    """Figures over seeds, by method and metric, in the order in which they came.

    >>> tally = Tally()
    >>> for seed in range(2):
    ...     tally.add({"ours": {"DER %": 10.0 + seed}}, "calls")
    >>> tally.rows()[0].metric, tally.rows()[0].mean
    ('calls: DER %', 10.5)
    """

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], list[float]] = {}

    def add(self, figures: Mapping[str, Mapping[str, float]], of: str = "") -> None:
        """Add one seed's figures {method: {metric: value}}; metrics are called "of: metric" where `of` is given."""
        for method, metrics in figures.items():
            for metric, value in metrics.items():
                self._values.setdefault((method, f"{of}: {metric}" if of else metric), []).append(value)

    def rows(self) -> list[Row]:
        """Return a row for each method and metric."""
        return [Row.of(method, metric, values) for (method, metric), values in self._values.items()]


Rule = Callable[[Sequence[Row]], tuple[str | float, bool]]


@dataclass(frozen=True, slots=True)
class Claim:
    """Something said about a method, where it was said, and the rule that gives (measured, held) from the rows."""

    claim: str
    source: str
    rule: Rule


@dataclass(frozen=True, slots=True)
class Verdict:
    """A claim after its rule has seen the rows."""

    claim: str
    source: str
    measured: str | float
    held: bool


@dataclass(frozen=True, slots=True)
class Result:
    """What one run of a study gave; its fields are the keys of ``results.json``, in that order."""

    study: str
    card: str
    budget: Budget
    seeds: int
    data: list[str]
    rows: list[Row]
    claims: list[Verdict]
    seconds: float
    versions: dict[str, str]
    commit: str | None

    def to_dict(self) -> dict[str, object]:
        """Return the object that ``results.json`` holds."""
        return asdict(self)

    @classmethod
    def read(cls, path: Path) -> "Result":
        """Read a ``results.json``."""
        stored = json.loads(path.read_text(encoding="utf-8"))
        stored["rows"] = [Row(**row) for row in stored["rows"]]
        stored["claims"] = [Verdict(**claim) for claim in stored["claims"]]
        return cls(**stored)


def _code() -> dict[str, str | None]:
    return {"weigher": __version__, "commit": commit(), "changes": provenance.changes(_root())}


@dataclass(frozen=True, slots=True)
class Context:
    """What a study may use: the data folder (None where there is none), seeds, budget, a folder for its output."""

    data: Path | None
    seeds: tuple[int, ...]
    budget: Budget
    out: Path
    progress: Callable[[str, int, int], None]
    resume: bool = False
    used: list[str] = field(default_factory=list)
    kept_seconds: list[float] = field(default_factory=list)
    """What each part that was taken as it stands had taken when it was made."""
    code: Mapping[str, str | None] = field(default_factory=_code)
    """Version, commit and changes at the start: files may change while the work goes on, and what runs does not."""

    def has(self, name: str) -> bool:
        """Say whether `name` (such as ``speech/timings/ami``) lies in the data folder."""
        return self.data is not None and (self.data / name).exists()

    def path(self, name: str) -> Path:
        """Return where `name` lies, and note in the result that it was used; RequestError where it is missing."""
        if self.data is None:
            raise RequestError(f"this study reads {name} and no data folder was found; {_DATA_ADVICE}")
        if not self.has(name):
            raise RequestError(f"this study reads {name}, which is not in {self.data}; {_DATA_ADVICE}")
        label = f"{self.data.resolve().name}/{name}"
        if label not in self.used:
            self.used.append(label)
        return self.data / name

    def part(self, name: str, compute: Callable[[], Any]) -> Any:
        """Return what `compute` gives (plain data), and keep it in `out`, so that a stopped study can be resumed.

        With `resume` a part that is kept is taken as it stands. RequestError where other code, another data folder or
        another budget made it.
        """
        path = self.out / "parts" / f"{name}.json"
        made_by = {**self.code, "data": self.data and str(self.data.resolve()), "budget": self.budget}
        if self.resume and path.is_file():
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept["made_by"] != made_by:
                raise RequestError(
                    f"{path} was made by {kept['made_by']} and this is {made_by}; resume with the same code, "
                    "data and budget, or begin anew without --resume"
                )
            self.used.extend(name for name in kept["data"] if name not in self.used)
            self.kept_seconds.append(kept["seconds"])
            return kept["value"]
        started = time.perf_counter()
        value = compute()
        seconds = round(time.perf_counter() - started, 3)
        told = {"made_by": made_by, "seconds": seconds, "data": self.used, "value": value}
        with writing(path, "w") as file:
            json.dump(told, file, indent=2, allow_nan=False)
        return value


_DATA_ADVICE = "give the folder that holds it with --data DIR or in the environment variable WEIGHER_DATA"


@dataclass(frozen=True, slots=True)
class Study:
    """One experiment: `run` gives the rows, `claims` are judged from them, `plot(result, path)` draws one picture."""

    name: str
    card: str
    title: str
    run: Callable[[Context], Sequence[Row]]
    claims: tuple[Claim, ...] = ()
    plot: Callable[[Result, Path], None] | None = None
    paper: str = ""
    """Whom the method comes from, as a reader would cite it."""


def find_row(rows: Sequence[Row], method: str, metric: str) -> Row:
    """Return the row of a method and a metric; KeyError, naming what there is, where there is none.

    >>> find_row([Row.of("a", "DER %", [1.0])], "a", "DER %").mean
    1.0
    """
    for row in rows:
        if (row.method, row.metric) == (method, metric):
            return row
    raise KeyError(f"no row {method!r}, {metric!r} among {[(row.method, row.metric) for row in rows]}")


def clearly_less(a: Row, b: Row, factor: float = 1.0) -> bool:
    """Say whether a < factor * b by more than two standard errors of the difference over the seeds.

    a.mean + 2 sqrt(a.std^2 / a.n + factor^2 b.std^2 / b.n) < factor * b.mean, and not by round-off, a billionth of the
    largest of these figures. A row of one value adds no spread; two such rows show nothing, and the answer is False.

    >>> few, many = Row.of("a", "DER %", [9.0, 11.0]), Row.of("b", "DER %", [20.0, 22.0])
    >>> clearly_less(few, many), clearly_less(few, many, factor=0.5)
    (True, False)
    """
    if a.std is None and b.std is None:
        return False
    spread = math.sqrt((a.std or 0.0) ** 2 / a.n + (factor * (b.std or 0.0)) ** 2 / b.n)
    border = factor * b.mean
    return border - a.mean - 2 * spread > 1e-9 * max(abs(border), abs(a.mean), 2 * spread)


def find_studies() -> dict[str, Study]:
    """Import every module of `weigher.studies` and return the studies among them by name."""
    studies = {name: _study_in(name) for name in sorted(_module_names())}
    return {name: study for name, study in studies.items() if study is not None}


def find_study(name: str) -> Study:
    """Return one study, importing no other; RequestError, with the names there are, where it does not exist."""
    study = _study_in(name) if name in _module_names() else None
    if study is not None:
        return study
    known = list(find_studies())
    nearest = difflib.get_close_matches(name, known, n=1)
    meant = f"did you mean {nearest[0]!r}? " if nearest else ""
    raise RequestError(f"there is no study {name!r}; {meant}the studies are: {', '.join(known) or 'none yet'}")


def _module_names() -> set[str]:
    return {module.name for module in pkgutil.iter_modules(weigher.studies.__path__) if not module.ispkg}


def _study_in(name: str) -> Study | None:
    study = getattr(importlib.import_module(f"weigher.studies.{name}"), "STUDY", None)
    if isinstance(study, Study) and study.name != name:
        raise ValueError(f"the study in weigher/studies/{name}.py calls itself {study.name!r}; the two must agree")
    return study if isinstance(study, Study) else None


def run_study(study: Study, context: Context) -> Result:
    """Run a study, judge its claims, and write ``results.json`` and the picture ``<name>.png`` into `context.out`.

    Raises RequestError before any work where the picture cannot be drawn or a file not be written; ValueError where a
    study gives no rows, or two for one method and metric.
    """
    if study.plot is not None and importlib.util.find_spec("matplotlib") is None:
        raise RequestError("studies draw a picture, and matplotlib is not installed: pip install 'weigher[study]'")
    written, picture = context.out / "results.json", context.out / f"{study.name}.png"
    for path in (written, picture):
        _try_writing(path)
    started = time.perf_counter()
    rows = list(study.run(context))
    if len({(row.method, row.metric) for row in rows}) != len(rows) or not rows:
        raise ValueError(f"the study {study.name} must give rows, one for each method and metric; got {rows}")
    result = Result(
        study=study.name,
        card=study.card,
        budget=context.budget,
        seeds=len(context.seeds),
        data=list(context.used),
        rows=rows,
        claims=[judge(claim, rows) for claim in study.claims],
        seconds=round(time.perf_counter() - started + sum(context.kept_seconds), 1),
        versions={**versions(), "hardware": hardware()},
        commit=context.code["commit"],
    )
    with writing(written, "w") as file:
        file.write(json.dumps(result.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    if study.plot is not None:
        study.plot(result, picture)
    return result


class _Tried(Exception):  # noqa: N818 (it is no error)
    pass


def _try_writing(path: Path) -> None:
    """Raise as `writing` does where `path` cannot be written; what stands there stays."""
    with suppress(_Tried), writing(path, "w"):
        raise _Tried


def judge(claim: Claim, rows: Sequence[Row]) -> Verdict:
    """Apply the claim's rule to the rows; where it fails, or measures no number, the claim is not held.

    >>> judge(Claim("a is half of b", "here", lambda rows: (1 / 0, True)), [])
    Verdict(claim='a is half of b', source='here', measured='ZeroDivisionError: division by zero', held=False)
    """
    try:
        measured, held = claim.rule(rows)
        measured, held = measured if isinstance(measured, str) else float(measured), bool(held)
    except Exception as error:  # the rows may be the work of hours, and a rule must not lose them
        measured, held = f"{type(error).__name__}: {error}", False
    if isinstance(measured, float) and not math.isfinite(measured):  # JSON has no such numbers
        measured, held = str(measured), held and not math.isnan(measured)
    return Verdict(claim.claim, claim.source, measured, held)


def stored_result(name: str) -> Result | None:
    """Return the result kept with the source (``docs/results/<name>.json``), or None outside a checkout."""
    path = kept_results() / f"{name}.json"
    return Result.read(path) if path.is_file() else None


def kept_results() -> Path:
    """Return the folder of the results and pictures that are kept with the source."""
    return _root() / "docs" / "results"


def report(result: Result) -> Group:
    """Return the tables of rows and claims for a terminal (print with `rich`)."""
    figures = Table("method", "metric", title=f"{result.study} ({result.budget}, {result.seconds:.0f} s)")
    for header in ("mean", "± std", "seeds"):
        figures.add_column(header, justify="right")
    for row in result.rows:
        spread = "" if row.std is None else f"{row.std:.2g}"
        figures.add_row(escape(row.method), escape(row.metric), f"{row.mean:.4g}", spread, str(row.n))
    if not result.claims:
        return Group(figures)
    claims = Table("claim", "source", "measured", "held")
    for verdict in result.claims:
        measured = verdict.measured if isinstance(verdict.measured, str) else f"{verdict.measured:.4g}"
        claims.add_row(*map(escape, (verdict.claim, verdict.source, measured)), "yes" if verdict.held else "no")
    return Group(figures, claims)


def hardware() -> str:
    """Return the machine in a few words: system, processor, cores, accelerator."""
    import torch

    words = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return f"{words}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else words


def commit() -> str | None:
    """Return the commit of the checkout weigher runs from, with ``-dirty`` where files differ from it, or None."""
    return provenance.commit(_root())


def _root() -> Path:
    """Return the folder of the checkout, if weigher runs from one: the folder above ``src``."""
    return Path(weigher.studies.__file__).resolve().parents[3]

import json
import statistics
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

import weigher.studies
from weigher.errors import RequestError
from weigher.studies import harness
from weigher.studies.harness import Claim, Context, Result, Row, Study

FAKES = Path(__file__).parent / "fakes"
ROOT = Path(__file__).parents[2]
KEYS = ["study", "card", "budget", "seeds", "data", "rows", "claims", "seconds", "versions", "commit"]


@pytest.fixture
def fakes(monkeypatch):
    monkeypatch.setattr(weigher.studies, "__path__", [*weigher.studies.__path__, str(FAKES)])


def context(out, *, seeds=3, data=None, progress=lambda stage, done, total: None):
    return Context(data=data, seeds=tuple(range(seeds)), budget="small", out=out, progress=progress)


def test_row_gives_mean_and_sample_standard_deviation():
    values = [1.0, 2.0, 4.0, 9.0]
    row = Row.of("m", "x", iter(values))
    assert (row.mean, row.n) == (4.0, 4)
    assert row.std == pytest.approx(statistics.stdev(values))
    assert Row.of("m", "x", [2.0]) == Row("m", "x", 2.0, None, 1)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_row_refuses_what_is_no_figure(values):
    with pytest.raises(ValueError, match="finite"):
        Row.of("m", "x", values)


def test_clearly_less_counts_the_spread():
    # Two standard errors of the difference: 2 * sqrt(1/4 + 1/4) = 1.414.
    at_ten = Row("b", "x", 10.0, 1.0, 4)
    assert harness.clearly_less(Row("a", "x", 8.5, 1.0, 4), at_ten)
    assert not harness.clearly_less(Row("a", "x", 8.6, 1.0, 4), at_ten)
    # Half of b: 2 * sqrt(1/4 + 0.25/4) = 1.118, so the border lies at 5 - 1.118 = 3.882.
    assert harness.clearly_less(Row("a", "x", 3.88, 1.0, 4), at_ten, factor=0.5)
    assert not harness.clearly_less(Row("a", "x", 3.89, 1.0, 4), at_ten, factor=0.5)


def test_round_off_is_no_difference():
    third, tenths = Row("a", "x", 0.3, 0.0, 3), Row("b", "x", 0.1 + 0.2, 0.0, 3)
    assert third.mean < tenths.mean
    assert not harness.clearly_less(third, tenths)
    assert not harness.clearly_less(Row("a", "x", -0.3, 0.0, 3), Row("b", "x", 0.1, 0.0, 3), factor=-3 + 1e-15)
    assert harness.clearly_less(third, Row("b", "x", 0.3001, 0.0, 3))
    assert harness.clearly_less(Row("a", "x", 0.0, 0.0, 3), Row("b", "x", 1e-12, 0.0, 3))


def test_one_seed_shows_nothing():
    assert not harness.clearly_less(Row("a", "x", 1.0, None, 1), Row("b", "x", 100.0, None, 1))
    assert harness.clearly_less(Row("a", "x", 1.0, 0.1, 3), Row("b", "x", 100.0, None, 1))


def test_find_row_names_what_there_is():
    rows = [Row.of("a", "x", [1.0]), Row.of("a", "y", [2.0])]
    assert harness.find_row(rows, "a", "y").mean == 2.0
    with pytest.raises(KeyError, match="'a', 'x'"):
        harness.find_row(rows, "b", "x")


def test_result_has_exactly_the_schema_and_survives_storing(tmp_path, fakes):
    seen = []
    study = harness.find_study("precision")
    result = harness.run_study(study, context(tmp_path, progress=lambda *call: seen.append(call)))
    stored = json.loads((tmp_path / "results.json").read_text())
    assert list(stored) == KEYS
    assert [list(row) for row in stored["rows"]] == [["method", "metric", "mean", "std", "n"]] * 2
    assert [list(claim) for claim in stored["claims"]] == [["claim", "source", "measured", "held"]]
    assert (stored["study"], stored["card"], stored["budget"], stored["seeds"], stored["data"]) == (
        "precision",
        "00",
        "small",
        3,
        [],
    )
    assert {"weigher", "python", "torch", "numpy", "hardware"} <= set(stored["versions"])
    assert Result.read(tmp_path / "results.json") == result
    assert (tmp_path / "precision.png").stat().st_size > 1000
    assert seen == [("seeds", 1, 3), ("seeds", 2, 3), ("seeds", 3, 3)]


def test_figures_are_those_of_the_closed_form(tmp_path, fakes):
    # Plain mean of 10 readings with sigma uniform on [a, b]: E[sigma^2] / 10 = (a^2 + ab + b^2) / 30 = 0.3103.
    result = harness.run_study(harness.find_study("precision"), context(tmp_path, seeds=20))
    plain = harness.find_row(result.rows, "plain mean", "squared error")
    assert plain.std is not None
    assert plain.mean == pytest.approx((0.01 + 0.3 + 9.0) / 30, abs=4 * plain.std / 20**0.5)
    assert result.claims[0].held


def test_same_seeds_same_figures(tmp_path, fakes):
    study = harness.find_study("precision")
    first, second = (harness.run_study(study, context(tmp_path / name)) for name in "ab")
    assert first.rows == second.rows
    assert first.rows != harness.run_study(study, context(tmp_path, seeds=2)).rows


def test_held_follows_from_the_rows_and_is_plain_json(tmp_path):
    import numpy as np

    claim = Claim("a is small", "here", lambda rows: (np.float32(rows[0].mean), np.bool_(rows[0].mean < 1)))
    assert harness.judge(claim, [Row.of("a", "x", [0.5])]).held is True
    assert harness.judge(claim, [Row.of("a", "x", [1.5])]).held is False
    study = Study("s", "00", "t", run=lambda context: [Row.of("a", "x", [0.5])], claims=(claim,))
    harness.run_study(study, context(tmp_path))
    assert json.loads((tmp_path / "results.json").read_text())["claims"][0]["measured"] == 0.5


def broken(rows):
    return rows[0].mean / 0, True


@pytest.mark.parametrize(
    ("rule", "measured", "held"),
    [
        (broken, "ZeroDivisionError: float division by zero", False),
        (lambda rows: rows[0].mean, "TypeError: cannot unpack non-iterable float object", False),
        (lambda rows: (float("nan"), True), "nan", False),
        (lambda rows: (float("inf"), True), "inf", True),
    ],
)
def test_a_rule_that_fails_costs_no_row_and_is_not_held(tmp_path, rule, measured, held):
    claims = (Claim("a is small", "here", rule), Claim("b is small", "here", lambda rows: (1.0, True)))
    study = Study("s", "00", "t", run=lambda context: [Row.of("a", "x", [0.5])], claims=claims)
    result = harness.run_study(study, context(tmp_path))
    assert [(verdict.measured, verdict.held) for verdict in result.claims] == [(measured, held), (1.0, True)]
    assert Result.read(tmp_path / "results.json") == result


@pytest.mark.parametrize("blocked", ["out", "results.json", "s.png"])
def test_no_work_is_done_where_the_result_cannot_be_written(tmp_path, blocked):
    out = tmp_path / "out"
    if blocked == "out":
        out.write_text("a file")
    else:
        (out / blocked).mkdir(parents=True)
    asked = []
    study = Study("s", "00", "t", run=asked.append, plot=lambda result, path: None)
    with pytest.raises(RequestError, match="cannot write"):
        harness.run_study(study, context(out))
    assert asked == []


def test_what_stood_in_the_folder_stays_until_there_is_a_new_result(tmp_path):
    (tmp_path / "results.json").write_text("{}")

    def run(context):
        assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
        assert (tmp_path / "results.json").read_text() == "{}"
        return [Row.of("a", "x", [0.5])]

    harness.run_study(Study("s", "00", "t", run=run), context(tmp_path))


@pytest.mark.parametrize("rows", [[], [Row.of("a", "x", [1.0])] * 2])
def test_rows_must_be_there_and_be_unique(tmp_path, rows):
    with pytest.raises(ValueError, match="one for each"):
        harness.run_study(Study("s", "00", "t", run=lambda context: rows), context(tmp_path))
    assert not (tmp_path / "results.json").exists()


def test_no_work_is_done_where_the_picture_cannot_be_drawn(tmp_path, monkeypatch, fakes):
    study = harness.find_study("precision")
    monkeypatch.setattr(harness.importlib.util, "find_spec", lambda name: None)
    calls = []
    with pytest.raises(RequestError, match=r"weigher\[study\]"):
        harness.run_study(study, context(tmp_path, progress=lambda *call: calls.append(call)))
    assert calls == []


def test_data_is_found_noted_once_and_asked_for(tmp_path):
    (tmp_path / "data" / "speech").mkdir(parents=True)
    here = context(tmp_path, data=tmp_path / "data")
    assert here.has("speech")
    assert not here.has("song")
    assert here.path("speech") == here.path("speech") == tmp_path / "data" / "speech"
    assert here.used == ["data/speech"]
    with pytest.raises(RequestError, match=r"song, which is not in .*--data DIR.*WEIGHER_DATA"):
        here.path("song")
    nowhere = context(tmp_path)
    assert not nowhere.has("speech")
    with pytest.raises(RequestError, match="no data folder was found"):
        nowhere.path("speech")


def test_parts_are_kept_and_taken_up_again_by_the_same_code_only(tmp_path, monkeypatch):
    asked = []

    def compute():
        asked.append(1)
        return {"der": 12.5, "time": len(asked)}

    monkeypatch.setattr(harness, "commit", lambda: "one")
    first = context(tmp_path)
    assert first.part("seed 0, casts", compute)["time"] == 1
    anew = context(tmp_path)
    anew.used.append("data/speech")
    assert anew.part("seed 0, casts", compute)["time"] == 2  # nothing is taken up unless asked for
    resumed = replace(context(tmp_path), resume=True)
    assert resumed.part("seed 0, casts", compute) == {"der": 12.5, "time": 2}
    assert resumed.used == ["data/speech"]
    assert resumed.part("seed 1, casts", compute)["time"] == 3
    refused = pytest.raises(RequestError, match="same code, data and budget")
    with refused:
        replace(resumed, budget="full").part("seed 0, casts", compute)
    monkeypatch.setattr(harness, "commit", lambda: "another")
    assert resumed.part("seed 0, casts", compute)["time"] == 2  # the code is that of the start
    with refused:
        replace(context(tmp_path), resume=True).part("seed 0, casts", compute)
    assert len(asked) == 3
    assert context(tmp_path).part("seed 0, casts", compute)["time"] == 4  # begun anew, whatever is there


def test_parts_of_other_data_or_another_version_are_not_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "_root", lambda: tmp_path)  # no checkout: there is no commit to tell versions apart
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "link").symlink_to("a")
    assert context(tmp_path, data=tmp_path / "a").part("seed 0", lambda: 1) == 1

    def resumed(name):
        return replace(context(tmp_path, data=tmp_path / name), resume=True).part("seed 0", lambda: 2)

    assert resumed("link") == 1
    with pytest.raises(RequestError, match="same code, data and budget"):
        resumed("b")
    monkeypatch.setattr(harness, "__version__", "9.9")
    with pytest.raises(RequestError, match=r"9\.9.*same code, data and budget"):
        resumed("a")


def test_the_commit_of_a_result_is_that_of_its_start(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "commit", lambda: "start")

    def run(context):
        monkeypatch.setattr(harness, "commit", lambda: "end")
        return [Row.of("a", "x", [0.5])]

    assert harness.run_study(Study("s", "00", "t", run=run), context(tmp_path)).commit == "start"


def test_seconds_of_a_resumed_study_count_its_kept_parts(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(harness.time, "perf_counter", lambda: now[0])

    def work(seconds):
        now[0] += seconds
        return seconds

    def run(context):
        parts = {"first": 40.0, "second": 2.0}
        return [Row.of("a", "x", [context.part(name, partial(work, seconds)) for name, seconds in parts.items()])]

    study = Study("s", "00", "t", run=run)
    assert harness.run_study(study, context(tmp_path)).seconds == 42.0
    (tmp_path / "parts" / "second.json").unlink()
    assert harness.run_study(study, replace(context(tmp_path), resume=True)).seconds == 42.0
    assert now[0] == 44.0  # the first part was not computed again


def test_studies_are_discovered_and_helpers_are_not(fakes):
    found = harness.find_studies()
    assert found["precision"].title == "plain against precision-weighted mean"
    assert "harness" not in found


def test_unknown_study_names_the_nearest(fakes):
    with pytest.raises(RequestError, match="did you mean 'precision'"):
        harness.find_study("precison")
    with pytest.raises(RequestError, match="no study 'harness'"):
        harness.find_study("harness")


def test_a_study_must_bear_the_name_of_its_file(tmp_path, monkeypatch):
    source = "from weigher.studies.harness import Study\nSTUDY = Study('other', '00', 't', run=lambda context: [])\n"
    (tmp_path / "misnamed.py").write_text(source)
    monkeypatch.setattr(weigher.studies, "__path__", [str(tmp_path)])
    with pytest.raises(ValueError, match="calls itself 'other'"):
        harness.find_study("misnamed")


def test_the_walk_through_shows_the_study_that_is_tested():
    assert (FAKES / "precision.py").read_text() in (ROOT / "docs" / "adding-a-method.md").read_text()


def test_stored_result_is_read_from_the_checkout(tmp_path, monkeypatch, fakes):
    monkeypatch.setattr(harness, "_root", lambda: tmp_path)
    assert harness.stored_result("precision") is None
    result = harness.run_study(harness.find_study("precision"), context(tmp_path))
    (tmp_path / "docs" / "results").mkdir(parents=True)
    (tmp_path / "results.json").rename(tmp_path / "docs" / "results" / "precision.json")
    assert harness.stored_result("precision") == result


def test_commit_is_that_of_the_checkout_and_says_when_files_differ(tmp_path, monkeypatch):
    def git(*words):
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    monkeypatch.setattr(harness, "_root", lambda: tmp_path)
    assert harness.commit() is None
    git("init")
    assert harness.commit() is None
    file = tmp_path / "src" / "file"
    file.parent.mkdir()
    file.write_text("1")
    git("add", "src")
    git("commit", "-m", "first")
    git("tag", "-a", "v1", "-m", "v1")
    assert harness.commit() == git("rev-parse", "--short=12", "HEAD")
    file.write_text("2")
    assert harness.commit() == git("rev-parse", "--short=12", "HEAD") + "-dirty"

    def part(value):
        return replace(context(tmp_path / "out"), resume=True).part("seed 0", lambda: value)

    assert part(1) == part(2) == 1
    refused = pytest.raises(RequestError, match="same code, data and budget")
    file.write_bytes(b"\xff3")
    with refused:  # as dirty as before, and not the same
        part(2)
    file.write_text("2")
    assert part(2) == 1
    new = file.parent / "näme of a file"
    new.write_bytes(b"\xff1")
    with refused:  # git does not know it, and it is code all the same
        part(2)
    (tmp_path / "out").rename(tmp_path / "old")
    assert part(3) == part(4) == 3
    new.write_bytes(b"\xff2")
    with refused:
        part(4)


def test_report_shows_figures_and_verdicts_word_for_word():
    from rich.console import Console

    rows = [Row.of("a [b]", "DER %", [20.0, 22.0])]
    verdict = harness.Verdict("[x] is small", "here", 21.0, False)
    result = Result("s", "00", "small", 2, [], rows, [verdict], 1.0, {}, None)
    console = Console(width=100)
    with console.capture() as capture:
        console.print(harness.report(result))
    text = capture.get()
    for word in ("a [b]", "DER %", "21", "1.4", "[x] is small", "no"):
        assert word in text

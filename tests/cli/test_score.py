import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tyro

from weigher.cli.score import Options, run
from weigher.errors import RequestError
from weigher.io.rttm import Segment, write_rttm, write_uem

DATA = Path(os.environ.get("WEIGHER_DATA") or Path(__file__).parents[3] / "shared" / "data") / "speech"
AMI, VBX = DATA / "timings" / "ami" / "test", DATA / "scorer" / "ami_vbx"
needs_ami = pytest.mark.skipif(not (AMI.is_dir() and VBX.is_dir()), reason="AMI is not on this machine (WEIGHER_DATA)")

TRUTH = [Segment(0, 6, "Anna"), Segment(6, 10, "Bo")]
GUESS = [Segment(0, 5, "1"), Segment(5, 8, "2")]  # 2 s missed and 1 s confused out of 10 s


def scored(*args: object) -> int:
    return run(tyro.cli(Options, args=[str(arg) for arg in args]))


@pytest.fixture
def talk(tmp_path):
    """A reference and a hypothesis of one recording, as files."""
    write_rttm(tmp_path / "ref.rttm", {"talk": TRUTH})
    write_rttm(tmp_path / "hyp.rttm", {"talk": GUESS})
    return tmp_path / "ref.rttm", tmp_path / "hyp.rttm"


def test_files_as_one_json_object(talk, capsys):
    assert scored(*talk, "--json") == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert err == ""
    assert set(result) == {"der", "miss", "false_alarm", "confusion", "jer", "count_accuracy", "files", "collar"}
    assert (result["der"], result["miss"], result["false_alarm"], result["confusion"]) == pytest.approx((30, 20, 0, 10))
    assert (result["count_accuracy"], result["collar"]) == (100, 0)
    assert [file["file"] for file in result["files"]] == ["talk"]


def test_uem_and_collar_are_heeded(talk, tmp_path, capsys):
    write_uem(tmp_path / "parts.uem", {"talk": [(0, 9)]})
    assert scored(*talk, "--uem", tmp_path / "parts.uem", "--collar", "0.5", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["der"] == pytest.approx(20)
    assert result["collar"] == 0.5


def test_the_table_shows_every_recording_the_total_and_the_collar(tmp_path, capsys):
    for name, guess in (("one", TRUTH), ("[bold]two", GUESS)):
        write_rttm(tmp_path / "ref" / f"{name}.rttm", {name: TRUTH})
        write_rttm(tmp_path / "hyp" / f"{name}.rttm", {name: guess})
    assert scored(tmp_path / "ref", tmp_path / "hyp", "--collar", "0.25") == 0
    out, err = capsys.readouterr()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if "│" in line]
    # Scored are 9 s: 1.75 s of Bo missed, 0.75 s of Anna confused; JER is the mean of 1 - 4.75/5.5 and 1 - 1.75/4.25.
    assert rows == [
        ["[bold]two", "27.78", "19.44", "0.00", "8.33", "36.23", "2 of 2"],
        ["one", "0.00", "0.00", "0.00", "0.00", "0.00", "2 of 2"],
        ["all 2", "13.89", "9.72", "0.00", "4.17", "18.11", "100.00 % right"],
    ]
    assert "collar 0.25 s on each side" in out
    assert "no UEM" in out
    assert err == ""


def test_a_missing_recording_is_counted_marked_and_named(talk, tmp_path, capsys):
    write_rttm(tmp_path / "ref.rttm", {"talk": TRUTH, "lost [x]": TRUTH})
    write_rttm(tmp_path / "hyp.rttm", {"talk": TRUTH, "other": TRUTH})
    assert scored(*talk) == 0
    out, err = capsys.readouterr()
    assert "missing" in out
    assert "50.00" in out
    assert "not in the hypothesis, all of their speech counts as missed: lost [x]" in err
    assert "not in the reference, left out: other" in err
    assert scored(*talk, "--json") == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert {file["file"]: file["missing"] for file in files} == {"talk": False, "lost [x]": True}


def test_a_system_that_heard_nobody_missed_everything(tmp_path, capsys):
    write_rttm(tmp_path / "ref" / "talk.rttm", {"talk": TRUTH})
    write_rttm(tmp_path / "hyp" / "talk.rttm", {"talk": []})
    assert scored(tmp_path / "ref", tmp_path / "hyp", "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["miss"] == 100
    assert json.loads(out)["files"][0]["missing"] is False
    assert err == ""


@pytest.mark.parametrize("wrong", ["reference", "hypothesis", "uem", "collar", "empty folder", "no turns", "names"])
def test_a_wrong_request_is_refused_with_one_message(talk, tmp_path, capsys, wrong):
    reference, hypothesis = talk
    gone, empty = tmp_path / "gone", tmp_path / "empty"
    empty.mkdir()
    write_rttm(tmp_path / "strange.rttm", {"strange": GUESS})
    (tmp_path / "text.rttm").write_text("not an RTTM\n")
    args, complaint = {
        "reference": ((gone, hypothesis), "cannot read .*gone"),
        "hypothesis": ((reference, gone), "cannot read .*gone"),
        "uem": ((reference, hypothesis, "--uem", gone), "cannot read .*gone"),
        "collar": ((reference, hypothesis, "--collar", "-1"), "collar is -1"),
        "empty folder": ((empty, hypothesis), "no .* file in the folder"),
        "no turns": ((reference, tmp_path / "text.rttm"), r"text\.rttm, line 1: "),
        "names": ((reference, tmp_path / "strange.rttm"), r"\(strange\) is in the reference \(talk\)"),
    }[wrong]
    with pytest.raises(RequestError, match=complaint):
        scored(*args)
    assert capsys.readouterr().out == ""


def test_help_need_not_wait_for_scipy():
    probe = "import sys, weigher.cli.score; sys.exit('scipy' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0


@needs_ami
def test_known_figure_on_real_meetings(capsys):
    assert scored(AMI, VBX, "--uem", AMI, "--json") == 0
    assert round(json.loads(capsys.readouterr().out)["der"], 2) == 22.42
    assert scored(AMI, VBX, "--uem", AMI) == 0
    total = next(line for line in capsys.readouterr().out.splitlines() if "all 16" in line)
    assert "22.42" in total
    assert "27.35" in total

"""The frame of benchmarks whose figures are measured apart: one process each, with the threads that were asked for."""

import json
import os
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPT = """
import os

from measure.alone import Alone, timed


def figure(what):
    import torch

    figures, last = timed(lambda: len(b"." * what["size"] * 2**20), what["rounds"])
    return {**figures, "last": last, "process": os.getpid(), "threads": torch.get_num_threads()}


bench = Alone("nothing", "Nothing.", figure, rounds=3, quick="nothing")
bench.ask()
rows = [bench.measured({"size": size, "rounds": bench.rounds}) for size in (300,)]
bench.keep({"own": os.getpid()}, rows=rows)
"""


def test_each_figure_has_a_process_of_its_own_and_its_own_peak(tmp_path):
    (tmp_path / "nothing.py").write_text(SCRIPT, encoding="utf-8")
    out = tmp_path / "result.json"
    command = [sys.executable, tmp_path / "nothing.py", "--threads", "1", "--note", "a test", "--out", out]
    environment = os.environ | {"PYTHONPATH": str(BENCHMARKS)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text(encoding="utf-8"))
    assert (result["benchmark"], result["note"], result["settings"]["rounds"]) == ("nothing", "a test", 3)
    (row,) = result["rows"]
    assert (row["size"], row["last"], row["threads"]) == (300, 300 * 2**20, 1)
    assert row["process"] != result["settings"]["own"]
    assert 290 < row["megabytes"] < 700

"""The benchmark of contrastive losses runs in its quick mode, and its ways give the same loss."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_a_quick_run_gives_time_memory_and_one_loss_for_all_ways(tmp_path):
    out = tmp_path / "result.json"
    options = ["--quick", "--threads", "1", "--largest", "48", "--out", out]
    command = [sys.executable, BENCHMARKS / "contrast.py", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text(encoding="utf-8"))
    assert result["hardware"]["threads"] == 1
    *rows, largest = result["rows"]
    assert (largest["way"], largest["n"], largest["width"]) == ("one direction", 48, 128)
    assert {row["n"] for row in rows} == {32, 64}
    assert {"own", "whole", "align-uniform", "relic", "swav"} <= {row["way"] for row in rows}
    assert all(row["seconds"] > 0 <= row["megabytes"] for row in result["rows"])
    for n in (32, 64):
        losses = [row["loss"] for row in rows if row["n"] == n and row["way"] in ("own", "whole", "pml")]
        assert losses == pytest.approx([losses[0]] * len(losses), rel=1e-5)

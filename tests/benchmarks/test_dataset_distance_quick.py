"""The benchmark of distances runs in its quick mode, and its ways agree where they should."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_a_quick_run_gives_a_speed_for_each_way(tmp_path):
    out = tmp_path / "result.json"
    command = [sys.executable, BENCHMARKS / "dataset_distance.py", "--quick", "--threads", "1", "--features", "4"]
    done = subprocess.run([*command, "--out", out], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = {row["way"]: row for row in json.loads(out.read_text(encoding="utf-8"))["rows"]}
    assert set(rows) == {"ours", "unequal", "pot", "entropic", "sampled"}
    assert all(row["seconds"] > 0 and row["examples_per_second"] == 120 / row["seconds"] for row in rows.values())
    assert rows["pot"]["value"] == pytest.approx(rows["ours"]["value"], rel=1e-4)
    assert rows["sampled"]["value"] == pytest.approx(rows["ours"]["value"])
    assert rows["unequal"]["value"] == pytest.approx(rows["ours"]["value"], rel=0.1)
    assert rows["entropic"]["value"] == pytest.approx(rows["ours"]["value"], rel=0.2)

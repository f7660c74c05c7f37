"""The comparison with onnxruntime runs in its quick mode and writes figures of the stated shape."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "onnx_runtime.py"


def test_both_are_timed_on_every_window(tmp_path):
    out = tmp_path / "result.json"
    command = [sys.executable, SCRIPT, "--quick", "--threads", "1", "--note", "a test", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text(encoding="utf-8"))
    assert result["note"] == "a test"
    assert result["largest_difference"] <= 1e-4
    assert result["export_seconds"] > 0
    assert [(row["window_seconds"], row["batch"]) for row in result["rows"]] == [(1.0, 1), (1.0, 2)]
    for row in result["rows"]:
        assert row["speed_over_torch"] == pytest.approx(row["torch_seconds"] / row["onnxruntime_seconds"])

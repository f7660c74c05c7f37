"""Each benchmark runs in its quick mode and writes figures of the stated shape; how fast it is, is not judged."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
HARDWARE = {"processor", "threads", "system", "python", "torch"}


def _run(name: str, tmp_path: Path, *more: str) -> dict:
    out = tmp_path / "figures" / "result.json"
    command = [sys.executable, BENCHMARKS / name, "--quick", "--threads", "1", "--note", "a test", "--out", out, *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text(encoding="utf-8"))
    assert result["command"].startswith(f"python benchmarks/{name} --quick")
    assert result["note"] == "a test"
    assert result["hardware"].keys() == HARDWARE
    assert result["hardware"]["threads"] == 1
    return result


def test_training_gives_both_phases_in_both_formats(tmp_path):
    result = _run("training.py", tmp_path)
    rows = {(row["phase"], row["precision"]): row for row in result["rows"]}
    assert rows.keys() == {(phase, of) for phase in ("listen", "weigh") for of in ("float32", "bfloat16")}
    for (phase, precision), row in rows.items():
        stages = row["stage_seconds"]
        assert sum(stages.values()) == pytest.approx(row["step_seconds"])
        # what a phase does takes time, and what it does not do takes none
        done = {"batch making", "front", "encoder", "loss", "backward", "optimizer"}
        own, other = ("teacher", "weigher") if phase == "listen" else ("weigher", "teacher")
        assert all(stages[stage] > 0 for stage in done | {own})
        assert stages[other] == 0
        frames = 4 * 400 if phase == "listen" else 2 * 1000  # the tiny batches of the quick mode
        assert row["frames_per_second"] == pytest.approx(frames / row["step_seconds"])
        assert (row["speed_over_float32"] == 1) == (precision == "float32")


def test_apply_gives_speed_memory_and_stages_that_add_up(tmp_path):
    result = _run("apply.py", tmp_path, "--every-slot")
    assert [row["recording"] for row in result["rows"]] == ["5 s", "40 s"]
    for row, seconds in zip(result["rows"], (5.0, 40.0), strict=True):
        assert row["seconds"] == seconds
        assert row["real_time_factor"] == pytest.approx(row["wall_seconds"] / seconds)
        assert sum(row["stage_seconds"].values()) == pytest.approx(row["wall_seconds"])
        assert all(row["stage_seconds"][stage] > 0 for stage in ("reading + features", "model", "decoding"))
        assert 0 < row["start_megabytes"] <= row["peak_megabytes"]
        assert math.isfinite(row["peak_megabytes"])
        assert row["people"] >= 8
        assert row["turns"] > 0
    assert result["rows"][1]["stage_seconds"]["linking"] > 0


@pytest.mark.parametrize("name", ["training.json", "apply.json", "apply-every-slot.json", "index.json", "onnx.json"])
def test_results_kept_beside_the_scripts_name_their_command_and_hardware(name):
    result = json.loads((BENCHMARKS / "results" / name).read_text(encoding="utf-8"))
    assert f"--out benchmarks/results/{name}" in result["command"]
    assert result["hardware"].keys() == HARDWARE
    assert result["rows"]

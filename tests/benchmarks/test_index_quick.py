"""The benchmark of the index runs in its quick mode and writes figures of the stated shape; no time is judged."""

import json
import subprocess
import sys
from pathlib import Path

from weigher.recordings.cells import PROBES, cell_count

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_index_gives_recall_time_and_size(tmp_path):
    out = tmp_path / "figures" / "result.json"
    command = [sys.executable, BENCHMARKS / "index.py", "--quick", "--threads", "1", "--note", "a test", "--out", out]
    done = subprocess.run([*command, "--folder", tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text(encoding="utf-8"))
    assert result["command"].startswith("python benchmarks/index.py --quick")
    assert result["note"] == "a test"
    assert result["settings"] == {"slots": 2000, "width": 16, "queries": 10, "likeness": 0.7}
    rows = {row["method"]: row for row in result["rows"]}
    assert rows["brute force in memory"]["recall_at_10"] == 1
    assert rows["weigher, all slots"]["recall_at_10"] == 1
    recall = [rows[f"weigher, {n} of {cell_count(2000)} cells"]["recall_at_10"] for n in (PROBES // 4, PROBES)]
    assert 0.5 < recall[0] <= recall[1] <= 1
    for row in result["rows"]:
        assert 0 < row["query_milliseconds"] <= row["query_milliseconds_95"]
        assert row.get("disk_megabytes") is None or row["disk_megabytes"] > 2000 * 16 * 4 / 2**20
    assert result["operation_seconds"].keys() == {"search for 10 recordings", "add a recording", "forget a person"}
    assert not [path for path in tmp_path.iterdir() if path.name != "figures"]  # nothing is left behind

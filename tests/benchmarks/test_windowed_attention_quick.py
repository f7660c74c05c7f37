"""The benchmark of windowed attention runs in its quick mode, and its four ways give the same result."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark_module(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import windowed_attention

    yield windowed_attention
    for name in ("windowed_attention", "measure", "measure.alone"):  # other tests may import modules of these names
        sys.modules.pop(name, None)


@pytest.mark.parametrize("t", [5, 16, 50])
@pytest.mark.parametrize("window", [5, 33])
def test_the_four_ways_give_the_same(benchmark_module, t, window):
    qkv = [torch.randn(2, 3, t, 4, dtype=torch.float64) for _ in range(3)]
    bias = torch.randn(3, window, dtype=torch.float64)
    expected = benchmark_module.attend("own", qkv, window, bias)
    for way in benchmark_module.WAYS[1:]:
        assert torch.allclose(benchmark_module.attend(way, qkv, window, bias), expected), way


def test_a_quick_run_gives_time_memory_and_speed(tmp_path):
    out = tmp_path / "result.json"
    command = [sys.executable, BENCHMARKS / "windowed_attention.py", "--quick", "--threads", "1", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text(encoding="utf-8"))
    assert result["hardware"]["threads"] == 1
    found = {(row["way"], row["t"], row["train"]) for row in result["rows"]}
    ways = ("own", "fused", "full", "full fused")
    assert found == {(way, t, train) for way in ways for t in (64, 256) for train in (True, False)}
    assert all(row["seconds"] > 0 <= row["megabytes"] for row in result["rows"])
    assert [row["model"] for row in result["models"]] == [
        "rnn",
        "gru",
        "token-mlp",
        "weighted-mlp",
        "local-attention",
    ]
    assert all(row["tokens_per_second"] > 0 for row in result["models"])

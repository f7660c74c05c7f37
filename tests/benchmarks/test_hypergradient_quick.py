"""The benchmark of hypergradients: its ways are what they are called, and a quick run gives time and memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark_module(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import hypergradient

    yield hypergradient
    for name in ("hypergradient", "measure", "measure.alone"):  # other tests may import modules of these names
        sys.modules.pop(name, None)


@pytest.mark.parametrize("parameters", [10**4, 10**6, 10**7])
def test_students_have_about_the_parameters_asked_for(benchmark_module, parameters):
    width = benchmark_module.width_for(parameters)
    assert 64 * width + width**2 + 12 * width + 10 == pytest.approx(parameters, rel=0.02)


def test_the_ways_take_the_products_they_are_called_for(benchmark_module):
    ways = benchmark_module.prepared(1000)
    assert tuple(ways) == benchmark_module.WAYS
    products = {way: ways[way]().products for way in ways if way.startswith(("neumann", "conjugate"))}
    assert products == {"neumann 0": 0, "neumann 1": 1, "neumann 10": 10, "conjugate gradient": 10}


def test_a_quick_run_gives_time_and_memory(tmp_path):
    out = tmp_path / "result.json"
    command = [sys.executable, BENCHMARKS / "hypergradient.py", "--quick", "--threads", "1", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text(encoding="utf-8"))
    assert result["hardware"]["threads"] == 1
    assert len(result["rows"]) == 14
    assert all(row["seconds"] > 0 <= row["megabytes"] for row in result["rows"])

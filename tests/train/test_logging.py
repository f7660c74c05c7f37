import json
import math
import sys

import pytest
import torch
from torch import nn

from weigher.errors import RequestError
from weigher.train import LoopConfig, fit, read_metrics
from weigher.train.logging import Metrics


def test_lines_are_json_and_numbers_that_are_not_finite_are_null(tmp_path):
    metrics = Metrics(tmp_path / "new")
    metrics.add("train", 1, {"loss": 0.1 + 0.2, "accuracy": math.nan, "ratio": math.inf})
    metrics.add("validation", 1, {"score": -1.0})
    metrics.close()
    lines = (tmp_path / "new" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line, parse_constant=pytest.fail) for line in lines] == metrics.records
    assert metrics.records == [
        {"kind": "train", "step": 1, "loss": 0.1 + 0.2, "accuracy": None, "ratio": None},
        {"kind": "validation", "step": 1, "score": -1.0},
    ]


def test_a_line_is_there_as_soon_as_its_step_is_done(tmp_path):
    metrics = Metrics(tmp_path)
    metrics.add("train", 1, {"loss": 1.0})
    assert read_metrics(tmp_path / "metrics.jsonl") == metrics.records
    metrics.close()


def test_a_resumed_run_takes_over_what_its_state_knows(tmp_path):
    metrics = Metrics(tmp_path)
    for step in range(1, 6):
        metrics.add("train", step, {"loss": 1.0 / step})
        if step % 2 == 0:
            metrics.add("validation", step, {"score": step})
    metrics.close()
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write('{"kind": "train", "step": 6, "Zoë'.encode()[:-1])  # cut in the midst of a letter
    resumed = Metrics(tmp_path, 4, 2)
    assert [(record["kind"], record["step"]) for record in resumed.records] == [
        *(("train", 1), ("train", 2), ("validation", 2), ("train", 3), ("train", 4))
    ]
    resumed.close()
    assert read_metrics(tmp_path / "metrics.jsonl") == resumed.records
    fresh = Metrics(tmp_path)
    assert fresh.records == []
    fresh.close()


def short_run(folder, **settings):
    def batches(k, generator):
        return torch.as_tensor(generator.normal(size=(4, 2)), dtype=torch.float32)

    def step(model, x):
        return {"loss": model(x).square().mean()}

    config = LoopConfig(steps=3, validate_every=2)
    return fit(nn.Linear(2, 1), step, batches, config, run_dir=folder, device="cpu", **settings)


def test_tensorboard_gets_the_same_numbers(tmp_path):
    history = short_run(tmp_path, tensorboard=True, validate=lambda model: {"score": 2.5})
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    losses = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert losses == [(record["step"], pytest.approx(record["loss"])) for record in history.train]
    assert [event.step for event in events.Scalars("validation/score")] == [2, 3]


def test_tensorboard_that_is_not_installed_or_has_no_folder(tmp_path, monkeypatch):
    with pytest.raises(RequestError, match="without a folder"):
        short_run(None, tensorboard=True)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(RequestError, match=r"pip install 'weigher\[log\]'"):
        short_run(tmp_path, tensorboard=True)
    short_run(tmp_path)  # and nothing was left that would be taken for a run

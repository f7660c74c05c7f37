"""Checkpoints: what is saved comes back, a bad file is refused in words, and a full disk costs nothing saved before."""

import errno
import json
import os
import resource
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from weigher.errors import RequestError, WeigherError
from weigher.train import LoopConfig, batch_generator, fit, load_tensors, load_weights, save_tensors
from weigher.train.state import seed_step

CONFIG = LoopConfig(steps=6, validate_every=2, warmup_steps=0)


def net(width=8):
    torch.manual_seed(0)
    return nn.Linear(width, 1)


def step(model, x):
    return {"loss": (model(x) - 1).square().mean()}


def batches(k, generator):
    return torch.as_tensor(generator.normal(size=(4, 8)), dtype=torch.float32)


def train(folder, **settings):
    return fit(net(), step, batches, CONFIG, run_dir=folder, device="cpu", **settings)


TENSORS = {
    "float": torch.tensor([0.1, float("nan"), float("-inf")]),
    "double": torch.tensor([[1 / 3]], dtype=torch.float64),
    "half": torch.tensor([1.5, 2.5], dtype=torch.bfloat16),
    "whole": torch.tensor(2**62),
    "flag": torch.tensor([True, False]),
    "empty": torch.zeros(0, 3),
    "turned": torch.arange(6).view(2, 3).T,
}


def test_tensors_of_every_kind_and_the_record_come_back(tmp_path):
    tensors = {**TENSORS, "tied": TENSORS["float"]}
    record = {"name": "Zoë; 録音", "rate": 0.1 + 0.2, "none": None, "deep": {"list": [1, 2.5]}}
    save_tensors(tmp_path / "new" / "x.safetensors", tensors, record)
    back, told = load_tensors(tmp_path / "new" / "x.safetensors")
    assert told == record
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        torch.testing.assert_close(back[name], tensor, rtol=0, atol=0, equal_nan=True)


def test_the_file_is_one_that_the_format_s_own_library_reads(tmp_path):
    save_tensors(tmp_path / "x.safetensors", TENSORS, {})
    assert safetensors.torch.load_file(tmp_path / "x.safetensors").keys() == TENSORS.keys()
    plain = tmp_path / "plain"
    plain.touch()
    assert (tmp_path / "x.safetensors").stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, 0.99, -1])
def test_a_file_cut_short_is_refused(tmp_path, kept):
    train(tmp_path)
    path = tmp_path / "last.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    with pytest.raises(RequestError, match=r"last\.safetensors: the file is cut short or damaged.*new folder"):
        train(tmp_path, resume=True)


def rewritten(path, change):
    """Write a checkpoint anew after `change(tensors, note)` has had its way with it."""
    tensors, record = load_tensors(path)
    note = {"format": 1, "names": sorted(tensors), "record": record}
    change(tensors, note)
    safetensors.torch.save_file(tensors, path, metadata={"weigher": json.dumps(note)})


BAD_FILES = {
    "a tensor is gone": (lambda tensors, note: tensors.pop("model.bias"), "1 tensors are missing.*'model.bias'"),
    "a moment is gone": (lambda tensors, note: tensors.pop("optimizer.exp_avg.bias"), "missing.*exp_avg.bias"),
    "of a later version": (lambda tensors, note: note.update(format=2), "format 2.*newer weigher"),
    "weights alone": (lambda tensors, note: note["record"].pop("position"), "weights, not the state of a run"),
    "no parameter": (
        lambda tensors, note: tensors.update({"optimizer.step.other": torch.ones(())}),
        "other has an optimizer state but is no parameter",
    ),
    "another shape": (
        lambda tensors, note: tensors.update({"model.weight": torch.zeros(1, 9)}),
        r"different model.*weight is float32 \[1, 9\], the model needs float32 \[1, 8\]",
    ),
    "another type": (
        lambda tensors, note: tensors.update({"model.weight": torch.zeros(1, 8, dtype=torch.float64)}),
        "different model.*weight is float64",
    ),
    "one too many": (
        lambda tensors, note: tensors.update({"model.extra": torch.zeros(1)}),
        "different model.*extra is not part of the model",
    ),
}


@pytest.mark.parametrize("fault", BAD_FILES)
def test_a_file_that_does_not_fit_is_refused(tmp_path, fault):
    train(tmp_path)
    change, message = BAD_FILES[fault]
    rewritten(tmp_path / "last.safetensors", change)
    with pytest.raises(RequestError, match=message):
        train(tmp_path, resume=True)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(RequestError, match="no such file"):
        train(tmp_path, resume=True)
    path = tmp_path / "last.safetensors"
    safetensors.torch.save_file({"weight": torch.zeros(1, 8)}, path)
    with pytest.raises(RequestError, match="no checkpoint of weigher"):
        train(tmp_path, resume=True)
    safetensors.torch.save_file({"weight": torch.zeros(1, 8)}, path, {"weigher": '{"format": 1, "names": []}'})
    with pytest.raises(RequestError, match="damaged"):
        train(tmp_path, resume=True)
    torch.save({"weight": torch.zeros(1, 8)}, path)  # a pickle is not even opened
    with pytest.raises(RequestError, match="damaged"):
        train(tmp_path, resume=True)


def test_weights_of_a_different_model_leave_the_model_as_it_is(tmp_path):
    model = net()
    before = model.weight.detach().clone()
    others = {"weight": torch.zeros(1, 8), "bias": torch.zeros(2)}
    with pytest.raises(RequestError, match=r"best\.safetensors.*1 differences.*bias is float32 \[2\]"):
        load_weights(model, others, Path("best.safetensors"))
    assert torch.equal(model.weight, before)
    load_weights(model, {"weight": torch.zeros(1, 8), "bias": torch.zeros(1)}, Path("best.safetensors"))
    assert not model.weight.any()


def test_state_that_is_no_tensor_is_refused_before_any_work(tmp_path):
    class Odd(nn.Linear):
        def get_extra_state(self):
            return {"count": 3}

        def set_extra_state(self, state):
            pass

    drawn = []
    with pytest.raises(RequestError, match=r"'_extra_state' of Odd is a dict.*register_buffer"):
        fit(Odd(8, 1), step, lambda k, g: drawn.append(k), CONFIG, run_dir=tmp_path, device="cpu")
    assert drawn == []


@pytest.mark.parametrize("settings", [{"learning_rate": 0.5}, {"seed": 1}, {"clip_norm": None}, {"floor": 0.0}])
def test_a_run_is_not_resumed_with_settings_that_make_it_another(tmp_path, settings):
    train(tmp_path)
    other = LoopConfig(**{**vars(CONFIG), **settings})
    with pytest.raises(RequestError, match=f"started with {next(iter(settings))} = "):
        fit(net(), step, batches, other, run_dir=tmp_path, device="cpu", resume=True)


def test_a_run_is_not_written_over(tmp_path):
    train(tmp_path)
    data = (tmp_path / "last.safetensors").read_bytes()
    with pytest.raises(RequestError, match="holds a run already; resume it, or give another folder"):
        train(tmp_path)
    assert (tmp_path / "last.safetensors").read_bytes() == data
    with pytest.raises(RequestError, match="give run_dir"):
        fit(net(), step, batches, CONFIG, device="cpu", resume=True)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_fails_keeps_the_file_before(tmp_path, monkeypatch, code, call):
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"w": torch.ones(3)}, {"step": 1})

    def fail(*_):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        full = code in (errno.ENOSPC, errno.EDQUOT)
        with pytest.raises(WeigherError, match="the disk is full" if full else "could not be written") as caught:
            save_tensors(path, {"w": torch.zeros(3)}, {"step": 2})
    assert not isinstance(caught.value, RequestError)
    assert str(path) in str(caught.value)
    assert load_tensors(path)[1] == {"step": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.safetensors"]


@pytest.mark.parametrize(("width", "file"), [(8, "metrics.jsonl"), (500, "last.safetensors")])
def test_a_disk_that_fills_up_during_a_run(tmp_path, width, file):
    def wide_batches(k, generator):
        return torch.as_tensor(generator.normal(size=(4, width)), dtype=torch.float32)

    def limit(k, model):  # from step 5 on, the file may not grow beyond 100 bytes less than what it holds
        if k == 5:
            resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / file).stat().st_size - 100, hard))

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    arguments = step, wide_batches, CONFIG
    try:
        with pytest.raises(WeigherError, match=rf"{file}: the disk is full.*resume the run"):
            fit(net(width), *arguments, run_dir=tmp_path, device="cpu", on_step=limit)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.glob(".*"))
    assert load_tensors(tmp_path / "last.safetensors")[1]["position"]["step"] == 4
    resumed = fit(net(width), *arguments, run_dir=tmp_path, device="cpu", resume=True)
    whole = fit(net(width), *arguments, device="cpu")
    assert [record["loss"] for record in resumed.train] == [record["loss"] for record in whole.train]


def test_the_metrics_are_on_the_disk_before_the_state_that_counts_on_them(tmp_path, monkeypatch):
    real, synced = os.fsync, []

    def watched(descriptor):
        files = {entry.stat().st_ino: entry.name for entry in tmp_path.iterdir()}
        synced.append(files.get(os.fstat(descriptor).st_ino, "the folder"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    train(tmp_path)
    assert synced == 4 * ["metrics.jsonl", ".last.safetensors.partial", "the folder"]


def test_a_folder_that_cannot_be_made_is_found_out_before_any_work(tmp_path):
    (tmp_path / "file").write_text("")
    drawn = []
    with pytest.raises(WeigherError, match="could not be written"):
        fit(net(), step, lambda k, g: drawn.append(k), CONFIG, run_dir=tmp_path / "file" / "run", device="cpu")
    assert drawn == []


def test_each_step_and_worker_draws_its_own_numbers():
    drawn = {tuple(batch_generator(s, k, r).integers(2**60, size=4)) for s in (0, 1) for k in (0, 1, 2) for r in (0, 1)}
    assert len(drawn) == 12
    firsts = set()
    for k, r in [(1, 0), (1, 1), (2, 0)]:
        seed_step(0, k, r)
        firsts.add((torch.rand(()).item(), np.random.rand()))
    assert len(firsts) == 3

"""Devices, and two workers on a CPU started by `torchrun`: the same numbers as one process with both their batches."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from launching import torchrun
from weigher.errors import RequestError
from weigher.train import (
    LoopConfig,
    batch_generator,
    fit,
    gather,
    join_workers,
    load_tensors,
    rank,
    read_metrics,
    resolve_device,
    world_size,
)
from weigher.train.distribution import autocast, tensors_in

CONFIG = LoopConfig(steps=8, learning_rate=0.02, warmup_steps=2, validate_every=4, clip_norm=0.5)


class Staged(nn.Module):
    """One part frozen at first, one that some batches do not reach, running statistics, and a loss over all rows."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(rank())  # the workers start apart; worker 0's weights must win
            self.frozen, self.rare, self.main = (nn.Linear(3, 2, dtype=torch.float64) for _ in range(3))
        self.frozen.requires_grad_(False)
        self.register_buffer("steps", torch.zeros(()))


def draw(generator):
    return torch.as_tensor(generator.normal(size=(4, 3)))


def batches(k, generator):
    if world_size() == 1:
        return {"x": torch.cat([draw(batch_generator(0, k, worker)) for worker in (0, 1)])}
    return {"x": draw(generator)}


def contrast(rows):
    """A loss of every row against all rows of all workers."""
    everyone = gather(rows)
    return torch.logsumexp(rows @ everyone.T, dim=1).mean()


def step(model, batch):
    model.steps += 1
    x = batch["x"]
    loss = (model.main(x) + model.frozen(x) - x[:, :2]).square().mean() + 0.1 * contrast(model.main(x))
    if model.steps % 2 == 0:
        loss = loss + model.rare(x).square().mean()
    return {"loss": loss, "items": len(x), "mean": x.mean()}


def validate(model):
    score = -model.main.weight.square().sum().item()
    return {"score": -score if rank() else score}  # worker 1 would choose the other way: worker 0's count


def thaw(k, model):
    model.frozen.requires_grad_(k >= 4)


def train(folder, **settings):
    model = Staged()
    methods = {"validate": validate, "on_step": thaw, **settings}
    return model, fit(model, step, batches, CONFIG, run_dir=folder, device="cpu", **methods)


class Normed(nn.Module):
    """Running statistics, each worker's of its own rows; a flag and a buffer that holds nothing."""

    def __init__(self):
        super().__init__()
        self.norm, self.out = nn.BatchNorm1d(3, dtype=torch.float64), nn.Linear(3, 1, dtype=torch.float64)
        self.register_buffer("is_first", torch.tensor(False))
        self.register_buffer("nothing", torch.zeros(0))


def normed_step(model, batch):
    model.is_first.fill_(rank() == 0)
    return {"loss": model.out(model.norm(batch["x"])).square().mean()}


def assert_same_everywhere(model):
    for name, buffer in model.named_buffers():
        first, second = gather(buffer[None])
        assert torch.equal(first, second), name
    assert model.is_first  # worker 0's


def buffers_are_those_of_worker_0():
    """Before each validation, and at the end, whether it is with the weights of the best validation or the last."""
    scores = [0.9, 0.1]

    def validate(model):
        assert_same_everywhere(model)
        return {"score": scores.pop(0)}

    for hook in (validate, None):
        model = Normed()
        fit(model, normed_step, batches, CONFIG, validate=hook, device="cpu")
        assert_same_everywhere(model)
    assert scores == []


def worker(folder):
    """What each of the two workers does; an assertion that fails ends both."""
    assert world_size() == 2  # known before they have joined
    join_workers(torch.device("cpu"))
    mine = torch.full((2 + rank(), 3), float(rank() + 1), dtype=torch.float64, requires_grad=True)
    everyone = gather(mine)
    assert everyone[:, 0].tolist() == [1, 1, 2, 2, 2]
    places = torch.arange(15).view(5, 3)
    (everyone * places * (rank() + 1)).sum().backward()
    assert mine.grad is not None
    assert torch.equal(mine.grad, 3.0 * (places[:2] if rank() == 0 else places[2:]))  # the sum of both losses: 1 + 2

    drawn = []

    def thaw_and_draw(k, model):
        thaw(k, model)
        drawn.append(torch.rand(()))

    model, history = train(folder / "run", on_step=thaw_and_draw)
    assert len(set(gather(torch.stack(drawn)).tolist())) == 2 * CONFIG.steps  # each step and worker draws its own
    torch.save(model.state_dict(), folder / f"weights-{rank()}")
    (folder / f"loss-{rank()}").write_text(json.dumps([record["loss"] for record in history.train]))

    def ask(k, generator):
        if k == 5 and rank() == 1:
            os.kill(os.getpid(), 15)  # one worker is asked, all must stop after the same step
        return {"x": draw(generator)}

    with pytest.raises(KeyboardInterrupt, match="after step 5"):
        fit(Staged(), step, ask, CONFIG, run_dir=folder / "cut", device="cpu", validate=validate, on_step=thaw)
    resumed, _ = train(folder / "cut", resume=True)
    for name, value in resumed.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    buffers_are_those_of_worker_0()


def test_two_workers_give_what_one_process_gives_with_both_batches(tmp_path):
    code, _, errors = torchrun(__file__, tmp_path)
    assert (code, errors) == (0, "")  # no warning of torch's either
    model, history = train(tmp_path / "alone")
    losses = [record["loss"] for record in history.train]
    for other in (0, 1):
        weights = torch.load(tmp_path / f"weights-{other}", weights_only=True)
        for name, value in model.state_dict().items():
            torch.testing.assert_close(weights[name], value, rtol=1e-9, atol=1e-9, msg=name)
        assert json.loads((tmp_path / f"loss-{other}").read_text()) == pytest.approx(losses, rel=1e-9)
    alone, both = (read_metrics(tmp_path / folder / "metrics.jsonl") for folder in ("alone", "run"))
    assert len(alone) == len(both) == 10  # one line a step and a validation: worker 0 alone has written
    for one, two in zip(alone, both, strict=True):
        assert one["step"] == two["step"]
        for name in ("loss", "mean", "gradient_norm", "score"):
            assert (name in two) == (name in one)
            assert two.get(name, 0) == pytest.approx(one.get(name, 0), rel=1e-9)
    tensors, record = load_tensors(tmp_path / "run" / "last.safetensors")
    assert record["workers"] == 2
    with pytest.raises(RequestError, match="started with workers = 2, this request has 1"):
        train(tmp_path / "run", resume=True)
    moved = {name.removeprefix("optimizer.exp_avg.") for name in tensors if name.startswith("optimizer.exp_avg.")}
    assert {"frozen.weight", "rare.bias", "main.weight"} <= moved


def test_one_process_is_worker_0_of_1(monkeypatch):
    assert (rank(), world_size()) == (0, 1)
    monkeypatch.setenv("RANK", "3")  # left by some other launcher
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert (rank(), world_size()) == (0, 1)
    rows = torch.ones(2, 3, requires_grad=True)
    assert gather(rows) is rows
    join_workers(torch.device("cpu"))
    assert not torch.distributed.is_initialized()


def test_devices_that_are_there():
    assert resolve_device("cpu") == resolve_device(torch.device("cpu")) == torch.device("cpu")
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("device", ["gpu", "", "cuda:x", "meta", "xla"])
def test_what_is_no_device(device):
    with pytest.raises(RequestError, match=r"is no device.*auto, cpu, cuda"):
        resolve_device(device)


def test_a_gpu_asked_for_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RequestError, match=r"GPU 'cuda:1' was asked for, but .*; give cpu \(or auto\), or install"):
        resolve_device("cuda:1")
    with pytest.raises(RequestError, match="GPU 'cuda' was asked for"):
        fit(nn.Linear(1, 1), step, batches, CONFIG, device="cuda")
    assert resolve_device("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(RequestError, match="mps was asked for"):
        resolve_device("mps")


def test_each_worker_has_its_own_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda", 0)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(RequestError, match="GPU 2 was asked for, and there are 2"):
        resolve_device("cuda:2")
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8"}.items():
        monkeypatch.setenv(name, value)
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda", 1)
    assert (rank(), world_size()) == (5, 8)


@pytest.mark.parametrize(
    ("device", "has_it", "precision", "mixed"),
    [
        *(("cpu", True, "auto", True), ("cpu", False, "auto", False), ("cpu", False, "bfloat16", True)),
        *(("cuda", True, "auto", True), ("cuda", False, "auto", False)),
        *(("cuda", True, "float32", False), ("cuda", True, "bfloat16", True)),
    ],
)
def test_precision_is_mixed_where_the_device_has_it(monkeypatch, device, has_it, precision, mixed):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: has_it)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has_it}, raising=False)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    context = autocast(torch.device(device), precision)
    assert context._enabled is mixed
    assert context.fast_dtype is torch.bfloat16


@pytest.mark.parametrize(
    ("processor", "tiles", "mixed"),
    [("Intel Xeon", False, False), ("Intel Xeon", True, True), ("AMD EPYC", False, True)],
)
def test_vectors_of_bfloat16_are_not_enough_on_an_intel_processor(monkeypatch, processor, tiles, mixed):
    known = {"avx512_bf16": True, "amx_bf16": tiles, "cpu_name": processor}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    assert autocast(torch.device("cpu"), "auto")._enabled is mixed


def test_bfloat16_asked_for_on_a_gpu_without_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: False)
    with pytest.raises(RequestError, match="this GPU has none; give precision float32 or auto"):
        autocast(torch.device("cuda"), "bfloat16")


def test_the_places_of_tensors_in_a_batch_are_named():
    batch = {"x": torch.zeros(1), "pair": (torch.ones(2), {"deep": torch.ones(3)}), "name": "a"}
    assert [name for name, _ in tensors_in(batch)] == ["batch.x", "batch.pair.0", "batch.pair.1.deep"]


if __name__ == "__main__":
    worker(Path(sys.argv[1]))

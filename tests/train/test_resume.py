"""A run that was cut off anywhere and resumed is, bit for bit, the run that never was: the law of `weigher.train`."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from weigher.train import LoopConfig, fit, load_tensors, read_metrics, state

TIMES = {"seconds", "batch_seconds", "items_per_second"}
CONFIG = LoopConfig(steps=9, learning_rate=0.05, warmup_steps=3, validate_every=3, average_from=0.4, seed=5)


class Net(nn.Module):
    """Everything that carries state: dropout, running statistics, a buffer of its own, tied weights, a vector."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.inner, self.outer = nn.Linear(4, 4), nn.Linear(4, 1)
        self.tied = self.inner
        self.norm = nn.BatchNorm1d(4)
        self.dropout = nn.Dropout(0.4)
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("seen", torch.zeros(2, dtype=torch.int64))

    def forward(self, x):
        return self.scale * self.outer(self.dropout(self.norm(self.tied(self.inner(x))))).squeeze(1)


def batches(k, generator):
    return {"x": torch.as_tensor(generator.normal(size=(8, 4)), dtype=torch.float32)}


def step(model, batch):
    model.seen += torch.tensor([1, len(batch["x"])])
    noise = np.random.rand() + random.random()  # a method that draws from the global generators is repeated too
    return {"loss": ((model(batch["x"]) - batch["x"].sum(1)) ** 2).mean() + noise, "noise": noise}


def validate(model):
    x = torch.linspace(-1, 1, 32).view(8, 4)
    model.seen[0] += 100  # a validation that leaves traces, and draws
    return {"score": -((model(x) - x.sum(1)) ** 2).mean().item() + 0.01 * np.random.rand()}


def run(folder, *, resume=False, config=CONFIG, **hooks):
    model = Net()
    methods = {"step": step, "batches": batches, "validate": validate, **hooks}
    history = fit(model, config=config, run_dir=folder, resume=resume, device="cpu", **methods)
    return model, history


def timeless(records):
    return [{name: value for name, value in record.items() if name not in TIMES} for record in records]


def weights_in(model):
    return {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}


def outcome(folder, model, history):
    """All that a run leaves behind, but for the times it took."""
    files = {}
    for name in ("last", "best"):
        tensors, record = load_tensors(folder / f"{name}.safetensors")
        record.get("position", {}).pop("seconds", None)
        files[name] = ({key: tensor.numpy().tobytes() for key, tensor in tensors.items()}, record)
    weights = weights_in(model)
    told = (timeless(history.train), timeless(history.validation), history.step, history.stopped)
    lines = timeless(read_metrics(folder / "metrics.jsonl"))
    return files, weights, told, (history.best_step, history.best_score), lines


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return outcome(folder, *run(folder))


class Cut(BaseException):
    pass


def cutting(where, at, fault):
    """The hooks of a run, one of them with a fault at step `at`, before its work is done or after."""

    def raise_at(k):
        if k == at:
            raise fault

    def early(k, generator):
        raise_at(k)
        return batches(k, generator)

    def late_step(model, batch):
        outputs = step(model, batch)  # the buffers have changed, the weights have not
        raise_at(int(model.seen[0]) % 100)
        return outputs

    def late_validate(model):
        numbers = validate(model)
        raise_at(int(model.seen[0]) % 100)
        return numbers

    return {
        "on_step": {"on_step": lambda k, model: raise_at(k)},
        "batches": {"batches": early},
        "step": {"step": late_step},
        "validate": {"validate": late_validate},
        "progress": {"progress": lambda stage, done, total: raise_at(done)},
    }[where]


PLACES = [(where, at) for where in ("on_step", "batches", "step", "progress") for at in range(1, CONFIG.steps + 1)]
PLACES += [("validate", at) for at in range(3, CONFIG.steps + 1, 3)]


@pytest.mark.parametrize(("where", "at"), PLACES)
def test_a_run_cut_off_at_any_step_ends_as_if_it_had_not_been(tmp_path, whole, where, at):
    fault = KeyboardInterrupt() if at % 2 else Cut()
    with pytest.raises(type(fault)) as caught:
        run(tmp_path, **cutting(where, at, fault))
    assert caught.value is fault
    done = at if where in ("progress", "validate") else at - 1
    assert load_tensors(tmp_path / "last.safetensors")[1]["position"]["step"] == done
    assert outcome(tmp_path, *run(tmp_path, resume=True)) == whole


def test_a_run_cut_off_many_times_ends_as_if_it_had_not_been(tmp_path, whole):
    for at, where in enumerate(["step", "batches", "progress", "on_step", "step", "progress", "batches"], start=1):
        with pytest.raises(Cut):
            run(tmp_path, resume=at > 1, **cutting(where, at, Cut()))
    assert outcome(tmp_path, *run(tmp_path, resume=True)) == whole


def test_ctrl_c_while_the_state_is_written(tmp_path, whole, monkeypatch):
    real, calls = state.save_run, []

    def cut(path, model, optimizer, position, extra):
        calls.append(position.step)
        if calls == [0, 3]:  # the validation after step 3 is done
            raise KeyboardInterrupt
        real(path, model, optimizer, position, extra)

    monkeypatch.setattr(state, "save_run", cut)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert calls == [0, 3, 3]
    assert outcome(tmp_path, *run(tmp_path, resume=True)) == whole


def test_a_run_without_a_folder_ends_the_same(whole):
    model, history = run(None)
    _, weights, told, best, _ = whole
    assert weights_in(model) == weights
    assert (timeless(history.train), timeless(history.validation), history.step, history.stopped) == told
    assert (history.best_step, history.best_score) == best


def test_the_seed_and_nothing_else_decides_what_is_drawn(whole):
    torch.manual_seed(99)
    np.random.seed(99)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    model, _ = run(None)
    assert weights_in(model) == whole[1]
    assert torch.equal(torch.get_rng_state(), before[0])  # the caller's generators are as they were
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]
    other, _ = run(None, config=LoopConfig(steps=9, learning_rate=0.05, warmup_steps=3, validate_every=3, seed=6))
    assert weights_in(other) != whole[1]


def test_each_step_draws_its_own_numbers_and_each_validation_the_same():
    drawn = {"train": [], "validation": []}

    def drawing(kind):
        drawn[kind].append((torch.rand(()).item(), np.random.rand(), random.random()))

    def drawing_validation(model):
        drawing("validation")
        return validate(model)

    run(None, on_step=lambda k, model: drawing("train"), validate=drawing_validation)
    for numbers in zip(*drawn["train"], strict=True):
        assert len(set(numbers)) == CONFIG.steps
    assert len(drawn["validation"]) == 3
    assert len(set(drawn["validation"])) == 1


def test_a_finished_run_is_resumed_at_once_and_a_longer_one_goes_on(tmp_path, whole):
    run(tmp_path)
    drawn = []

    def counted(k, generator):
        drawn.append(k)
        return batches(k, generator)

    assert outcome(tmp_path, *run(tmp_path, resume=True, batches=counted)) == whole
    assert drawn == []
    longer = LoopConfig(**{**vars(CONFIG), "steps": 11})
    _, history = run(tmp_path, resume=True, config=longer, batches=counted)
    assert drawn == [10, 11]
    assert history.step == 11


@pytest.fixture
def clock(monkeypatch):
    """One second a batch, and no other time goes by."""
    now = [0.0]
    monkeypatch.setattr("weigher.train.loop.time", SimpleNamespace(monotonic=lambda: now[0]))

    def ticking(k, generator):
        now[0] += 1
        return batches(k, generator)

    return ticking


@pytest.mark.parametrize("at", range(1, CONFIG.steps + 1))
def test_a_run_stopped_by_its_time_limit_and_resumed_is_the_whole_run(tmp_path, whole, clock, at):
    _, first = run(tmp_path, config=replace(CONFIG, time_limit_seconds=at), batches=clock)
    assert (first.step, first.stopped) == (at, "time limit" if at < CONFIG.steps else "steps")
    assert first.validation[-1]["step"] == at  # what it ends with is measured, on the grid or not
    assert outcome(tmp_path, *run(tmp_path, resume=True, batches=clock)) == whole


@pytest.mark.parametrize("tempting", [1.0, 0.0])
def test_validations_at_a_time_limit_count_neither_for_patience_nor_for_the_best_of_a_resumed_run(
    tmp_path, clock, tempting
):
    scores = {3: 0.5, 6: 0.6, 9: 0.4, 12: 0.3}
    config = replace(CONFIG, steps=15, patience=2, average_from=None)

    def scored(model):
        k = int(model.seen[0]) % 100
        validate(model)  # it leaves traces in a buffer
        return {"score": scores.get(k, tempting)}

    plan = {"validate": scored, "batches": clock}
    expected = outcome(tmp_path / "whole", *run(tmp_path / "whole", config=config, **plan))
    assert expected[2][2:] == (12, "patience")
    assert expected[3] == (6, 0.6)
    for limit in (1, 4, 5, 7, 11):
        model, history = run(
            tmp_path / "cut", resume=limit > 1, config=replace(config, time_limit_seconds=limit), **plan
        )
        assert (history.step, history.stopped) == (limit, "time limit")
        if limit == 4:  # whoever had only that much time gets the best there was until then
            assert (history.best_step, history.best_score) == ((4, 1.0) if tempting else (3, 0.5))
            kept, told = load_tensors(tmp_path / "cut" / "best.safetensors")
            assert told == {"step": history.best_step, "score": history.best_score}
            assert {name: tensor.numpy().tobytes() for name, tensor in kept.items()} == weights_in(model)
    assert outcome(tmp_path / "cut", *run(tmp_path / "cut", resume=True, config=config, **plan)) == expected


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", [1, 3, 5, 9])
def test_a_signal_ends_the_step_saves_and_raises(tmp_path, whole, number, at):
    def ask(k, generator):
        if k == at:
            os.kill(os.getpid(), number)
        return batches(k, generator)

    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt, match=rf"after step {at}; its state is kept in .*last\.safetensors, resume"):
        run(tmp_path, batches=ask)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert load_tensors(tmp_path / "last.safetensors")[1]["position"]["step"] == at
    assert outcome(tmp_path, *run(tmp_path, resume=True)) == whole


def test_a_second_ctrl_c_does_not_wait_for_the_step(tmp_path, whole):
    waited = []

    def hang(k, generator):
        if k == 5:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)  # torchrun passes on what its workers have had: not a second wish
            waited.append(k)
            time.sleep(1.1)
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("the second Ctrl-C was not heard")
        return batches(k, generator)

    with pytest.raises(KeyboardInterrupt, match="at once"):
        run(tmp_path, batches=hang)
    assert waited == [5]
    assert load_tensors(tmp_path / "last.safetensors")[1]["position"]["step"] == 4
    assert outcome(tmp_path, *run(tmp_path, resume=True)) == whole


PATIENCE_SECONDS = 240  # on a machine that is busy with other work


@contextmanager
def in_a_process(role, folder):
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}  # sums depend on it, bit for bit
    command = [sys.executable, __file__, role, str(folder)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()  # does nothing where it has ended


def wait_for(condition):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "the process did not get there"
        time.sleep(0.01)


def test_ctrl_c_from_outside(tmp_path, whole):
    with in_a_process("slow", tmp_path) as process:
        wait_for((tmp_path / "at-4").exists)
        process.send_signal(signal.SIGINT)
        (tmp_path / "sent").touch()
        _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == -signal.SIGINT  # Python ends itself by the signal after an uncaught KeyboardInterrupt
    assert "training was stopped after step 4" in errors.decode()
    assert outcome(tmp_path, *run(tmp_path, resume=True)) == whole


def test_kill_in_the_midst_of_a_save_leaves_the_state_before(tmp_path, whole):
    with in_a_process("die", tmp_path) as process:
        _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == -signal.SIGKILL, errors.decode()
    assert (tmp_path / ".last.safetensors.partial").stat().st_size == 1000
    tensors, record = load_tensors(tmp_path / "last.safetensors")
    assert record["position"]["step"] == 3
    assert tensors
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "tra')  # a line cut short by the same kill
    assert outcome(tmp_path, *run(tmp_path, resume=True)) == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.safetensors", "last.safetensors", "metrics.jsonl"]


def slow(folder):
    def wait(k, generator):
        if k == 4:
            (folder / "at-4").touch()
            wait_for((folder / "sent").exists)
        return batches(k, generator)

    run(folder, batches=wait)


def die(folder):
    rename, done = os.replace, []

    def cut_short(source, target):
        if Path(target).name == "last.safetensors" and done[-1:] == [6]:
            os.truncate(source, 1000)
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target)

    os.replace = cut_short
    run(folder, progress=lambda stage, at, total: done.append(at))


if __name__ == "__main__":
    {"slow": slow, "die": die}[sys.argv[1]](Path(sys.argv[2]))

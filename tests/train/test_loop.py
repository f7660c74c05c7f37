"""The loop against torch's own optimizer and schedulers, and each of its promises on problems small enough to check."""

import json
import math
import time
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from weigher.errors import RequestError, WeigherError
from weigher.train import LoopConfig, batch_generator, fit, load_tensors


def mlp(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 1)).double()


def batches(k, generator):
    return torch.as_tensor(generator.normal(size=(6, 3)))


def step(model, x):
    return {"loss": (model(x) - x.sum(1, keepdim=True)).square().mean()}


def test_the_steps_are_those_of_torch_s_own_optimizer_and_schedulers():
    config = LoopConfig(
        steps=20, learning_rate=0.05, warmup_steps=5, floor=0.1, weight_decay=0.3, clip_norm=2.5, seed=3
    )
    ours = mlp()
    history = fit(ours, step, batches, config, device="cpu")

    truth = mlp()
    decay = [truth[0].weight, truth[3].weight]
    free = [truth[0].bias, truth[1].weight, truth[1].bias, truth[3].bias]
    groups = [{"params": decay, "weight_decay": 0.3}, {"params": free, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.05)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1 / 5, total_iters=4)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=15, eta_min=0.005)
    losses, norms, rates = [], [], []
    for k in range(1, 21):
        optimizer.zero_grad()
        loss = step(truth, batches(k, batch_generator(3, k)))["loss"]
        loss.backward()
        norm = torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in truth.parameters()]))
        for p in truth.parameters():
            p.grad *= min(1.0, 2.5 / norm.item())
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        (warmup if k < 5 else cosine).step()
        losses.append(loss.item())
        norms.append(norm.item())

    assert max(norms) > 2.5 > min(norms)  # some are clipped, some are not
    assert [record["loss"] for record in history.train] == pytest.approx(losses, rel=1e-4)
    assert [record["gradient_norm"] for record in history.train] == pytest.approx(norms, rel=1e-4)
    assert [record["learning_rate"] for record in history.train] == pytest.approx(rates, rel=1e-9)
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, truth.state_dict()[name], rtol=1e-4, atol=1e-6)  # torch clips by norm + 1e-6


def test_decay_alone_shrinks_matrices_by_the_formula():
    model = nn.Linear(3, 2).double()
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
    config = LoopConfig(steps=4, learning_rate=0.1, warmup_steps=4, weight_decay=0.5)
    fit(model, lambda model, x: {"loss": 0.0 * model(x).sum()}, batches, config, device="cpu")
    torch.testing.assert_close(model.weight, weight * math.prod(1 - 0.1 * k / 4 * 0.5 for k in range(1, 5)))
    torch.testing.assert_close(model.bias, bias, rtol=0, atol=0)


@pytest.mark.parametrize("clip_norm", [0.1, 1e6, None])
def test_gradients_are_shortened_and_the_log_tells_their_true_length(clip_norm):
    model = mlp()
    config = LoopConfig(steps=1, clip_norm=clip_norm)
    history = fit(model, step, batches, config, device="cpu")
    used = torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in model.parameters()])).item()
    told = history.train[0]["gradient_norm"]
    assert told > 0.5
    assert used == pytest.approx(min(told, clip_norm or math.inf), rel=1e-4)


def test_old_gradients_of_the_caller_do_not_count():
    models = mlp(), mlp()
    for parameter in models[0].parameters():
        parameter.grad = torch.full_like(parameter, 1e3)
    for model in models:
        fit(model, step, batches, LoopConfig(steps=2), device="cpu")
    assert torch.equal(models[0][0].weight, models[1][0].weight)


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_precision_is_that_of_the_forward_pass_alone(precision, dtype):
    seen = []

    def mixed_step(model, x):
        out = model(x)
        seen.append(out.dtype)
        return {"loss": out.float().square().mean()}

    def validate(model):
        seen.append(model(torch.ones(1, 3)).dtype)
        return {"score": 0.0}

    model = nn.Linear(3, 1)
    config = LoopConfig(steps=2, validate_every=2, precision=precision)
    fit(model, mixed_step, lambda k, g: torch.ones(2, 3), config, validate=validate, device="cpu")
    assert seen == [dtype, dtype, torch.float32]
    assert {model.weight.dtype, model.weight.grad.dtype} == {torch.float32}


def test_mixed_precision_learns_what_full_precision_learns():
    def line(model, x):
        return {"loss": (model(x).float() - x @ torch.tensor([[1.0], [-2.0], [0.5]])).square().mean()}

    model = nn.Linear(3, 1)
    config = LoopConfig(steps=300, learning_rate=0.05, warmup_steps=10, precision="bfloat16")
    history = fit(model, line, lambda k, g: batches(k, g).float(), config, device="cpu")
    assert history.train[0]["loss"] > 1
    assert history.train[-1]["loss"] < 0.01


def run_with_scores(scores, **settings):
    """Validate with the given scores in turn, and return the history and the weight after each validation."""
    left, weights = list(scores), []

    def validate(model):
        weights.append(model.weight.item())
        return {"score": left.pop(0), "extra": 7}

    model = nn.Linear(1, 1, bias=False)
    config = LoopConfig(**{"steps": 2 * len(scores), "validate_every": 2, **settings})
    slope = {"step": lambda model, x: {"loss": model(x).sum()}, "batches": lambda k, g: torch.ones(1, 1)}
    return fit(model, config=config, validate=validate, device="cpu", **slope), model.weight.item(), weights


@pytest.mark.parametrize(
    ("patience", "validations", "stopped"),
    [(None, 8, "steps"), (1, 3, "patience"), (2, 6, "patience"), (3, 8, "steps")],
)
def test_early_stopping_counts_validations_without_a_better_score(patience, validations, stopped):
    scores = [0.1, 0.5, 0.5, 0.6, 0.2, 0.55, 0.7, 0.1]
    history, weight, weights = run_with_scores(scores, patience=patience)
    best = max(range(validations), key=lambda i: scores[i])  # the first of equals
    assert (history.stopped, history.step) == (stopped, 2 * validations)
    assert [record["score"] for record in history.validation] == scores[:validations]
    assert (history.best_step, history.best_score) == (2 * (best + 1), scores[best])
    assert weight == weights[best]  # the model ends with its best weights
    assert len(set(weights)) == validations


def test_the_last_step_is_validated_and_without_validation_the_last_weights_stay():
    history, _, _ = run_with_scores([0.1, 0.2, 0.3], steps=5)
    assert [record["step"] for record in history.validation] == [2, 4, 5]
    model = mlp()
    history = fit(model, step, batches, LoopConfig(steps=3), device="cpu")
    assert (history.validation, history.best_step, history.best_score, history.step) == ((), None, None, 3)


@pytest.mark.parametrize(("share", "first"), [(0.0, 1), (0.5, 6), (0.55, 6), (0.9, 10)])
@pytest.mark.parametrize("validated", [False, True])
def test_the_mean_of_the_last_weights_is_what_is_validated_and_kept(share, first, validated):
    iterates, seen = {}, {}

    def remember(k, model):  # before step k the weights are those after step k - 1
        iterates[k - 1] = parameters(model)

    def validate(model):
        seen[len(iterates)] = parameters(model)
        return {"score": float(len(iterates))}

    def parameters(model):
        return nn.utils.parameters_to_vector(model.parameters()).detach().clone()

    plain, averaged = mlp(), mlp()
    plan = {"steps": 10, "learning_rate": 0.05, "warmup_steps": 2, "validate_every": 5}
    fit(plain, step, batches, LoopConfig(**plan), device="cpu")
    check = {"validate": validate} if validated else {}
    config = LoopConfig(**plan, average_from=share)
    fit(averaged, step, batches, config, device="cpu", on_step=remember, **check)
    iterates[10] = parameters(plain)  # averaging does not change where the steps lead

    def mean(last):
        return torch.stack([iterates[k] for k in range(first, last + 1)]).mean(0) if first <= last else iterates[last]

    assert torch.allclose(parameters(averaged), mean(10), rtol=1e-12)
    if validated:
        assert sorted(seen) == [5, 10]
        for k, weights in seen.items():
            assert torch.allclose(weights, mean(k), rtol=1e-12)


def test_only_means_compete_once_there_is_one():
    scores = [0.9, 0.5, 0.6, 0.4]
    assert run_with_scores(scores)[0].best_step == 2
    assert run_with_scores(scores, average_from=0.25)[0].best_step == 6  # the mean begins at step 3
    assert run_with_scores(scores, average_from=0.8)[0].best_step == 8
    _, weight, weights = run_with_scores(scores, average_from=0.25)
    assert weight == pytest.approx(weights[2])


def test_a_mean_once_begun_goes_on_where_a_run_is_made_longer(tmp_path):
    iterates, seen = {}, {}
    scores = {2: 0.95, 4: 0.9, 6: 0.2, 8: 0.3, 10: 0.4, 12: 0.5}  # step 2 is of no mean yet

    def remember(k, model):
        iterates[k - 1] = model.weight.item()

    def validate(model):
        seen[len(iterates)] = model.weight.item()
        return {"score": scores[len(iterates)]}

    def run(steps, resume):
        model = nn.Linear(1, 1, bias=False)
        config = LoopConfig(steps=steps, validate_every=2, average_from=0.5, learning_rate=0.1, warmup_steps=0)
        hooks = {"validate": validate, "on_step": remember, "run_dir": tmp_path, "resume": resume}
        slope = {"step": lambda model, x: {"loss": model(x).sum()}, "batches": lambda k, g: torch.ones(1, 1)}
        return fit(model, config=config, device="cpu", **slope, **hooks), model.weight.item()

    assert run(4, False)[0].best_step == 4
    history, weight = run(12, True)  # half of 12 is 6: no gap may open after step 4
    assert (history.best_step, history.best_score) == (4, 0.9)
    assert weight == seen[4]
    assert seen[10] == pytest.approx(np.mean([iterates[k] for k in range(3, 11)]))


def test_time_limit_counts_earlier_parts_of_the_run(tmp_path):
    def slow(k, generator):
        time.sleep(0.05)
        return batches(k, generator)

    def run(limit, resume):
        config = LoopConfig(steps=1000, time_limit_seconds=limit)
        arguments = {"validate": lambda model: {"score": 1.0}, "run_dir": tmp_path, "resume": resume, "device": "cpu"}
        return fit(mlp(), step, slow, config, **arguments)

    first = run(0.3, False)
    assert (first.stopped, first.validation[-1]["step"]) == ("time limit", first.step)
    assert first.seconds >= 0.3
    assert 1 <= first.step <= 7
    again = run(0.3, True)
    assert (again.stopped, again.step, again.train) == ("time limit", first.step, first.train)
    assert again.seconds == pytest.approx(first.seconds, abs=0.05)  # it is validated once more
    longer = run(first.seconds + 0.2, True)
    assert longer.step > first.step
    told = [record["seconds"] for record in longer.train]
    assert told == sorted(told)  # the clock goes on where it stood


class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.out = nn.BatchNorm1d(3), nn.Linear(3, 1)

    def forward(self, x):
        return self.out(self.norm(x))


def poisoned_batches(k, generator):
    x = torch.as_tensor(generator.normal(size=(6, 3)), dtype=torch.float32)
    if k == 5:
        x[2, 1] = float("nan")
    return {"features": x, "count": torch.tensor(6)}


def square(model, batch):
    return {"loss": model(batch["features"]).square().mean()}


def broken_gradient(model, x):
    out = model(x)
    zero = (out - out.detach()).abs().sum() * 0 + (out * 0).sum()
    return {"loss": out.square().mean() + zero.sqrt()}  # the loss is finite, d sqrt(0) is not


def test_a_loss_that_is_not_finite_names_the_step_and_the_batch_and_keeps_the_state_before(tmp_path):
    config = LoopConfig(steps=9, validate_every=100, seed=2)
    with pytest.raises(WeigherError) as caught:
        fit(Norm(), square, poisoned_batches, config, run_dir=tmp_path, device="cpu")
    assert not isinstance(caught.value, RequestError)
    for part in (
        *("broke at step 5: loss nan", "batch.features holds numbers that are not finite"),
        *("batches(5, batch_generator(2, 5, 0))", "the state after step 4 is kept in", "lower the learning rate"),
    ):
        assert part in str(caught.value)
    tensors, record = load_tensors(tmp_path / "last.safetensors")
    assert record["position"]["step"] == 4
    good = Norm()
    fit(good, square, poisoned_batches, LoopConfig(steps=4, seed=2), device="cpu")
    fit_of_nine = Norm()
    with pytest.raises(WeigherError, match="broke at step 5"):
        fit(fit_of_nine, square, poisoned_batches, config, device="cpu")
    for name, value in fit_of_nine.state_dict().items():  # running statistics too are those of step 4
        assert torch.equal(value, tensors[f"model.{name}"])
        assert torch.isfinite(value).all()
    assert torch.equal(fit_of_nine.norm.running_mean, good.norm.running_mean)


def test_a_gradient_that_is_not_finite_stops_before_the_weights_move():
    model = mlp()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(WeigherError, match=r"step 1: loss \d.*gradient norm nan.*the batch itself is finite"):
        fit(model, broken_gradient, batches, LoopConfig(steps=2), device="cpu")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_an_error_of_the_method_keeps_the_state_before_and_says_so(tmp_path):
    def unreadable(k, generator):
        if k == 4:
            raise RequestError("cast.csv line 7: meeting.wav is missing")
        return batches(k, generator)

    with pytest.raises(RequestError) as caught:
        fit(mlp(), step, unreadable, LoopConfig(steps=9), run_dir=tmp_path, device="cpu")
    assert str(caught.value) == "cast.csv line 7: meeting.wav is missing"
    assert caught.value.__notes__ == [f"the state after step 3 is kept in {tmp_path / 'last.safetensors'}"]
    assert load_tensors(tmp_path / "last.safetensors")[1]["position"]["step"] == 3


def test_an_interruption_while_the_weights_change_keeps_the_older_state(tmp_path, monkeypatch):
    real, calls = torch.optim.AdamW.step, []

    def torn(self, *arguments):
        calls.append(1)
        real(self, *arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(torch.optim.AdamW, "step", torn)
    with pytest.raises(KeyboardInterrupt) as caught:
        fit(mlp(), step, batches, LoopConfig(steps=9, validate_every=2), run_dir=tmp_path, device="cpu")
    assert "holds an earlier step" in caught.value.__notes__[0]
    assert load_tensors(tmp_path / "last.safetensors")[1]["position"]["step"] == 2


BAD_METHODS = {
    "no loss": ({"step": lambda m, x: {"lost": m(x).mean()}}, "needs a? ?'loss'"),
    "many": ({"step": lambda m, x: {"loss": m(x).mean(), "rows": m(x)}}, r"shapes: \{'rows': \[6, 1\]\}"),
    "own name": ({"step": lambda m, x: {"loss": m(x).mean(), "seconds": 1.0}}, "step returned.*'seconds'.*other names"),
    "no score": ({"validate": lambda m: {"accuracy": 1.0}}, "validate returned.*'score'"),
    "own name of validation": ({"validate": lambda m: {"score": 1.0, "step": 2}}, "validate returned.*'step'"),
    "score not finite": ({"validate": lambda m: {"score": math.nan}}, "gave the score nan"),
    "all frozen": ({"model": mlp().requires_grad_(False)}, "Sequential has no parameter to train"),
}


@pytest.mark.parametrize("fault", BAD_METHODS)
def test_a_method_that_breaks_the_interface_is_told_so(fault):
    change, message = BAD_METHODS[fault]
    arguments = {"model": mlp(), "step": step, "batches": batches, **change}
    with pytest.raises((ValueError, WeigherError), match=message):
        fit(config=LoopConfig(steps=1), device="cpu", **arguments)


class Pair(NamedTuple):
    x: torch.Tensor
    names: tuple[str, ...]


@dataclass(frozen=True)
class Batch:
    pair: Pair
    rest: list[dict[str, torch.Tensor]]


@pytest.mark.parametrize(("items", "count"), [(None, 5), (80, 80), (torch.tensor(30), 30)])
def test_batches_of_any_structure_arrive_and_items_are_counted(items, count):
    def structured(k, generator):
        return Batch(Pair(torch.ones(5, 3), ("a", "b")), [{"y": torch.zeros(7)}])

    def counting(model, batch):
        assert isinstance(batch, Batch)
        assert isinstance(batch.pair, Pair)
        assert batch.pair.names == ("a", "b")
        loss = model(batch.pair.x).mean() + batch.rest[0]["y"].sum()
        return {"loss": loss} if items is None else {"loss": loss, "items": items}

    began = time.monotonic()
    history = fit(nn.Linear(3, 1), counting, structured, LoopConfig(steps=3), device="cpu")
    took = time.monotonic() - began
    for record in history.train:
        assert "items" not in record
        assert record["items_per_second"] >= count / took
        assert 0 <= record["batch_seconds"] <= record["seconds"] <= took
    assert sum(count / record["items_per_second"] for record in history.train) <= took


def test_other_numbers_are_logged_and_hold_no_graph():
    def chatty(model, x):
        out = model(x)
        return {"loss": out.square().mean(), "mean": out.mean(), "fixed": 3, "undefined": float("nan")}

    history = fit(mlp(), chatty, batches, LoopConfig(steps=2), device="cpu")
    assert history.train[0]["mean"] == mlp()(batches(1, batch_generator(0, 1))).mean().item()
    assert history.train[1]["fixed"] == 3
    assert history.train[1]["undefined"] is None
    assert json.loads(json.dumps(history.train)) == list(history.train)


def test_modes_gradients_hooks_and_progress_during_a_run():
    model = nn.Sequential(nn.Linear(3, 2), nn.Sequential(nn.Linear(2, 1), nn.Dropout(0.5))).double()
    seen = []

    def freeze(k, model):
        model[1].eval()  # a part that stays in evaluation mode
        seen.append(("on_step", k))

    def watching_step(model, x):
        seen.append(("step", model.training, model[1].training, torch.is_grad_enabled()))
        return step(model, x)

    def validate(model):
        seen.append(("validate", model.training, model[1].training, torch.is_grad_enabled()))
        return {"score": 0.0}

    def progress(stage, done, total):
        seen.append((stage, done, total))

    config = LoopConfig(steps=2, validate_every=1)
    model.eval()
    hooks = {"validate": validate, "on_step": freeze, "progress": progress}
    fit(model, watching_step, batches, config, device="cpu", **hooks)
    one = [("step", True, False, True), ("train", 1, 2), ("validate", False, False, False)]
    two = [("step", True, False, True), ("train", 2, 2), ("validate", False, False, False)]
    assert seen == [("on_step", 1), *one, ("on_step", 2), *two]
    assert model.training
    assert not model[1].training


def test_a_stage_may_thaw_what_was_frozen():
    model = mlp()
    model[0].requires_grad_(False)
    before = model[0].weight.detach().clone()
    kept = []

    def stages(k, model):
        kept.append(torch.equal(model[0].weight, before))
        model[0].requires_grad_(k >= 3)

    fit(model, step, batches, LoopConfig(steps=4), on_step=stages, device="cpu")
    assert kept == [True, True, True, False]

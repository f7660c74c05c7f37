"""The study of commentaries: its tasks, its arithmetic, its rules on made-up rows, and a run too small to learn."""

import io
import zipfile
from functools import partial

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from weigher.examples.commentaries import Batch
from weigher.studies import commentaries as study
from weigher.studies import teaching_names as names
from weigher.studies import teaching_tasks as tasks
from weigher.studies.harness import Context, Row, find_row, judge, run_study
from weigher.studies.teaching_experiments import figures_of


def png(pixels):
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "PNG")
    return held.getvalue()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data folder of images too few to learn from."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for name in ("cifar10", "mnist10k", "omniglot"):
        (folder / name).mkdir()
    for part, count in (("train", 60), ("test", 20)):
        pixels = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
        rows = {"id": list(range(count)), "image": [png(p) for p in pixels], "label": [k % 10 for k in range(count)]}
        pyarrow.parquet.write_table(pyarrow.table(rows), folder / f"cifar10/{part}.parquet")
    digits = rng.integers(0, 256, (60, 28, 28), np.uint8)
    np.savez(folder / "mnist10k/mnist10k.npz", images=digits, labels=np.arange(60) % 10)
    for part in (1, 2):
        with zipfile.ZipFile(folder / f"omniglot/images_background_small{part}.zip", "w") as held:
            for character in range(6):
                for drawing in range(12):
                    ink = rng.random((105, 105)) < 0.1
                    held.writestr(f"x/Greek/character{character}/{drawing}.png", png(255 * (~ink).astype(np.uint8)))
    return folder


TINY = names.Size(
    digits=6,
    digits_taught=4,
    images=(20, 20, 10),
    image_steps=5,
    image_taught=1,
    mixed=(20, 20, 10),
    mixed_steps=4,
    mixed_taught=1,
    cluttered=(10, 20, 10),
    mask_steps=4,
    mask_taught=1,
    meta_steps=1,
    meta_tests=8,
)


def test_a_tiny_run_gives_all_rows_claims_and_the_picture(data, tmp_path, monkeypatch):
    monkeypatch.setitem(study.SIZES, "small", TINY)
    monkeypatch.setattr(tasks, "RATES", (0.1,))
    seen = []
    context = Context(data, (0,), "small", tmp_path, lambda stage, done, total: seen.append((done, total)))
    result = run_study(study.STUDY, context)
    assert seen[-1] == (7, 7)
    assert (tmp_path / "commentaries.png").stat().st_size > 10_000
    assert len(result.claims) == len(study.STUDY.claims)
    for task, method in (
        (names.DIGITS, names.KEPT),
        (names.CLEAN, names.NORMALISED),
        (names.FLIPPED, names.LARGER),
        (names.MIXING, names.FIXED),
        (names.MASKS, names.JOINT),
        (names.FEW_SHOTS[1], names.WEIGHED),
    ):
        assert 0 <= find_row(result.rows, method, f"{task}: {names.ACCURACY}").mean <= 100


def rows_of(task, **figures):
    return [Row.of(method, f"{task}: {names.ACCURACY}", values) for method, values in figures.items()]


def test_the_rules_hold_where_they_should_and_not_otherwise():
    claims = {claim.claim: claim for claim in study.STUDY.claims}
    in_time = claims["digits: with the commentary, two thirds of the steps reach the final accuracy of tuned training"]
    rows = {names.SHORT: [80.0, 82.0], names.PLAIN: [79.0, 81.0]}
    assert judge(in_time, rows_of(names.DIGITS, **rows)).held
    assert not judge(in_time, rows_of(names.DIGITS, **{**rows, names.SHORT: [78.0, 81.0]})).held
    assert not judge(in_time, rows_of(names.DIGITS, **{k: v[:1] for k, v in rows.items()})).held
    sooner = claims["masks: learned masks first reaches that accuracy in two thirds of the steps of training without"]
    steps = {names.MASKED: [56.0, 60.0], names.PLAIN: [98.0, 102.0]}
    for ours, held in (([56.0, 60.0], True), ([64.0, 66.0], False), ([40.0, 90.0], False)):
        rows = [Row.of(name, f"masks: {names.STEPS}", values) for name, values in {**steps, names.MASKED: ours}.items()]
        assert judge(sooner, rows).held is held
    gains = claims["curriculum: curriculum beats no commentary"]
    assert judge(gains, rows_of(names.CLEAN, **{names.CURRICULUM: [60.0, 61.0], names.PLAIN: [50.0, 51.0]})).held
    assert not judge(gains, rows_of(names.CLEAN, **{names.CURRICULUM: [60.0, 70.0], names.PLAIN: [55.0, 65.0]})).held
    mixing = claims["mixing: learned shares are not clearly below mixup, nor below random shares"]
    found = {names.MIXED: [50.0, 52.0], "mixup 0.2": [51.0, 53.0], "mixup 1": [40.0, 42.0], names.FIXED: [30.0, 32.0]}
    assert judge(mixing, rows_of(names.MIXING, **found)).held
    assert not judge(mixing, rows_of(names.MIXING, **{**found, names.FIXED: [60.0, 61.0]})).held
    told = claims["digits: learned weights tell wrong labels from right ones (AUROC above 0.9)"]
    for values, held in (([0.95, 0.96], True), ([0.85, 0.96], False)):
        assert judge(told, [Row.of(names.TABLE, "digits: AUROC of wrong labels", values)]).held == held
    salient = claims["masks: learned masks lie on the digit rather than on clutter"]
    metric = "masks: AUROC of the digit's pixels among all ink"
    for values, held in (([0.7, 0.8], True), ([0.4, 0.6], False)):
        assert judge(salient, [Row.of(names.MASKED, metric, values)]).held == held


def test_steps_to_a_level_and_the_accuracy_at_the_end():
    plain = tasks.Run("a", [(10, 20.0), (20, 50.0), (30, 60.0), (40, 40.0)])
    fast = tasks.Run("b", [(10, 55.0), (20, 55.0), (30, 70.0), (40, 70.0)])
    assert plain.final == 50
    assert plain.best == 60
    found = figures_of({"plain": plain, "fast": fast})
    assert found["plain"][names.STEPS] == 20
    assert found["fast"][names.STEPS] == 10
    assert found["fast"]["accuracy % at step 30"] == 70
    assert plain.steps_to(99) == 40


def test_flipped_labels_are_never_right_and_are_the_share_asked_for(data):
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    known = {tuple(image): label for image, label in zip(images / 16, labels, strict=True)}
    task = tasks.noisy_digits(0, flipped=0.5, steps=100)
    true = torch.tensor([known[tuple(x.tolist())] for x in task.train[0].double()])
    assert ((true != task.train[1]) == task.truth).all()
    assert 0.45 < task.truth.float().mean() < 0.55
    assert [len(pair[0]) for pair in (task.train, task.held_out, task.test)] == [1247, 50, 500]
    clean = tasks.images(data / "cifar10", 0, counts=(40, 20, 20), steps=10, batch=8)
    noisy = tasks.images(data / "cifar10", 0, counts=(40, 20, 20), steps=10, batch=8, flipped=0.4)
    assert torch.equal(clean.train[0], noisy.train[0])
    assert ((clean.train[1] != noisy.train[1]) == noisy.truth).all()
    assert 5 < noisy.truth.sum() < 28
    assert not clean.truth.any()
    assert len({tuple(x.flatten()[:9].tolist()) for x in torch.cat([clean.train[0], clean.held_out[0]])}) == 60


def test_clutter_leaves_the_digit_whole_and_truth_marks_it(data):
    bare = tasks.cluttered_digits(data / "mnist10k/mnist10k.npz", 0, counts=(20, 20, 20), steps=10, pieces=0)
    full = tasks.cluttered_digits(data / "mnist10k/mnist10k.npz", 0, counts=(20, 20, 20), steps=10)
    for task in (bare, full):
        x = task.test[0][:, 0]
        assert x.shape == task.truth.shape == (20, 32, 32)
        assert (x[task.truth] > 0.2).all()
    assert ((bare.test[0][:, 0] > 0.2) == bare.truth).all()
    assert ((full.test[0][:, 0] > 0.2) & ~full.truth).any()


@pytest.mark.parametrize("falls", [True, False])
def test_rates_fall_to_zero_or_stay(falls):
    weight = torch.nn.Parameter(torch.zeros(1))
    name = f"rate 0.1, {'falling' if falls else 'constant'}"
    optimiser, seen = tasks.optimisers(10)[name]([weight]), []
    for _ in range(10):
        seen.append(optimiser.param_groups[0]["lr"])
        weight.grad = torch.ones(1)
        optimiser.step()
    assert seen[0] == 0.1
    assert seen[-1] < 0.01 if falls else seen[-1] == 0.1


def test_the_setting_is_chosen_by_held_out_examples_and_judged_by_test():
    x = torch.randn(60, 3)
    y = (x[:, 0] > 0).long()
    pair = (x[:20], y[:20])
    make = partial(tasks.perceptron, 3, 8, 2)
    task = tasks.Task(pair, (x[20:40], y[20:40]), (x[40:], 1 - y[40:]), make, 40, 20, 10, y == 2)
    found = tasks.train_tuned(task, None, seed=0)
    assert found.final < 50  # the labels of the test are turned around, and the choice did not see them
    assert [step for step, _ in found.curve] == [10, 20, 30, 40]
    short = tasks.train_tuned(task, None, seed=0, steps=20, falling_only=True)
    assert "falling" in short.setting
    assert short.curve[-1][0] == 20


def test_mixup_and_fixed_shares_mix():
    batch = Batch(torch.randn(8, 3), torch.arange(8) % 3, torch.arange(8), generator=torch.Generator().manual_seed(0))
    seen = []

    def predict(x):
        seen.append(x)
        return torch.zeros(8, 3)

    for mixer in (tasks.Mixup(1.0, 0), tasks.FixedMixer(3, 0)):
        mixer(batch, predict, tasks.LOSS)
        assert not torch.equal(seen[-1], batch.x)
    assert ((tasks.FixedMixer(10, 0).shares >= 0.5) & (tasks.FixedMixer(10, 0).shares <= 1)).all()
    assert tasks.two_blocks(3, 10)(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    larger = tasks.residual_network(3, 10)
    assert larger(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    sizes = [sum(p.numel() for p in model.parameters()) for model in (tasks.two_blocks(3, 10), larger)]
    assert sizes[1] > 5 * sizes[0]


def test_characters_are_small_and_flat(data):
    characters = tasks.characters(data / "omniglot/images_background_small1.zip")
    assert len(characters) == 6
    assert characters.counts.tolist() == [12] * 6
    assert characters.x.shape == (72, 196)
    assert 0 <= characters.x.min() < characters.x.max() <= 1

"""The study of SwAV: its arithmetic, its rules on made-up rows, and a run too small to learn."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from weigher.pairs import ImageEncoderConfig
from weigher.studies import swav as study
from weigher.studies import swav_recipes as names
from weigher.studies import swav_runs as runs
from weigher.studies.harness import Context, Row, judge, run_study
from weigher.studies.paired import with_differences

MOST, BEATS, USES, ONE, BELOW_START, PURER, THAN_K_MEANS, SOFT, QUEUE, TINY, SMALL = study.STUDY.claims
D, M = names.DIGITS, names.MNIST

FIGURES = {
    (names.SWAV, f"{D}: {names.SHARE}"): 95.0,
    (names.SWAV, f"{D}: {names.FEW}"): 84.0,
    (names.SWAV, f"{D}: {names.USED}"): 60.0,
    (names.SWAV, f"{D}: {names.PURITY}"): 88.0,
    (names.INFO, f"{D}: {names.FEW}"): 87.0,
    (names.INFO, f"{D}: {names.PURITY}"): 74.0,
    (names.INFO, f"{D}: {names.K_MEANS}"): 90.0,
    (names.START, f"{D}: {names.FEW}"): 65.0,
    (names.UNBALANCED, f"{D}: {names.USED}"): 1.0,
    (names.UNBALANCED, f"{D}: {names.FEW}"): 50.0,
    (names.HARD, f"{D}: {names.FEW}"): 80.0,
    (names.SMALL_BATCH, f"{D}: {names.FEW}"): 70.0,
    (names.WITH_QUEUE, f"{D}: {names.FEW}"): 80.0,
    (names.TINY_CROPS, f"{D}: {names.FEW}"): 55.0,
    (names.TWO_CROPS, f"{M}: {names.BELOW}"): 70.0,
    (names.MANY_CROPS, f"{M}: {names.BELOW}"): 75.0,
}


def rows(std=0.01, changed=None):
    found: dict[str, dict[str, float]] = {}
    for (method, metric), value in {**FIGURES, **(changed or {})}.items():
        found.setdefault(method, {})[metric] = value
    compared = [(a, b, f"{D}: {metric}") for a, b, metric in study.COMPARED]
    a, b, metric = study.CROPS_COMPARED
    found = with_differences(found, [*compared, (a, b, f"{M}: {metric}")])
    spread = {method: 80.0 if " less " in method else None for method in found}  # a difference spreads as figures do
    return [
        Row(method, metric, value, std * (spread[method] or value), 5)
        for method, told in found.items()
        for metric, value in told.items()
    ]


@pytest.mark.parametrize(
    ("claim", "key", "value", "held"),
    [
        (MOST, (names.SWAV, f"{D}: {names.SHARE}"), 80.5, False),
        (BEATS, (names.SWAV, f"{D}: {names.FEW}"), 90.0, True),
        (USES, (names.SWAV, f"{D}: {names.USED}"), 40.0, False),
        (ONE, (names.UNBALANCED, f"{D}: {names.USED}"), 12.0, False),
        (BELOW_START, (names.UNBALANCED, f"{D}: {names.FEW}"), 66.0, False),
        (PURER, (names.SWAV, f"{D}: {names.PURITY}"), 74.5, False),
        (THAN_K_MEANS, (names.SWAV, f"{D}: {names.PURITY}"), 95.0, True),
        (SOFT, (names.HARD, f"{D}: {names.FEW}"), 85.0, False),
        (QUEUE, (names.WITH_QUEUE, f"{D}: {names.FEW}"), 70.2, False),
        (TINY, (names.TINY_CROPS, f"{D}: {names.FEW}"), 84.0, False),
        (SMALL, (names.MANY_CROPS, f"{M}: {names.BELOW}"), 69.0, False),
    ],
)
def test_claims_follow_from_the_rows(claim, key, value, held):
    assert judge(claim, rows()).held is not held
    assert judge(claim, rows(changed={key: value})).held is held


def test_the_spread_over_seeds_counts():
    assert judge(SOFT, rows()).held
    assert not judge(SOFT, rows(std=0.1)).held


def test_gains_are_over_the_start_of_the_seed():
    seed = {names.START: {names.FEW: 70.0}, names.INFO: {names.FEW: 60.0}, names.SWAV: {names.FEW: 75.0}}
    found = study.with_gains(seed)
    assert [found[name][names.GAIN] for name in (names.START, names.INFO, names.SWAV)] == [0, -10, 5]
    assert names.SHARE not in found[names.SWAV]


def test_small_crops_have_as_many_pixels_as_more_epochs():
    world = runs.World(torch.rand(3, 1, 28, 28), torch.zeros(3, dtype=torch.int64), ImageEncoderConfig(channels=(4,)))
    pixels = {}
    for name, recipe in names.crops(30, 0.01).items():
        if recipe.epochs:
            made = runs.views_of(world, small_crops=recipe.small_crops)(world.images, np.random.default_rng(0))
            pixels[name] = recipe.epochs * sum(view[0].numel() for view in made)
    assert pixels[names.TWO_CROPS] == pixels[names.MANY_CROPS]


def test_a_seed_starts_every_recipe_from_the_same_weights():
    world = runs.digits(40)
    models = [runs.taught(world, world.images, runs.Recipe(), seed)[0] for seed in (0, 0, 1)]
    one, two, other = (torch.cat([p.flatten() for p in model.parameters()]) for model in models)
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_settings_are_chosen_by_what_is_compared_and_by_no_label_of_the_unseen_images():
    world = runs.digits(300)
    (seen, _), _ = world.split(0)
    place = {image.numpy().tobytes() for image in seen}
    unseen = torch.tensor([image.numpy().tobytes() not in place for image in world.images])
    wrong = replace(world, labels=torch.where(unseen, (world.labels + 1) % 10, world.labels))
    one, two = (runs.figures(lambda told=told: told, runs.Recipe(), 0, 1) for told in (world, wrong))
    assert one[names.CHOICE] == two[names.CHOICE]
    assert abs(one[names.FEW] - two[names.FEW]) > 20
    assert abs(one[names.CHOICE] - one[names.FEW]) < 20  # the same probe, of other images


def test_both_families_are_tuned_with_as_many_settings_and_steps():
    tried = names.settings(names.SIZES["small"])
    families = [[recipe for recipe in tried.values() if recipe.loss == kind] for kind in ("info-nce", "swav")]
    assert len(families[0]) == len(families[1]) == 4
    assert len({(recipe.epochs, recipe.batch, recipe.learning_rate) for recipe in tried.values()}) == 1


def test_tuning_is_done_on_the_first_seed_and_its_choice_used_for_all(tmp_path, monkeypatch):
    (tmp_path / "mnist10k").mkdir()
    (tmp_path / "mnist10k" / "mnist10k.npz").touch()
    seen = []

    def figures(read, recipe, seed, draws):
        seen.append((recipe, seed))
        near = 50.0 + 10 * (recipe.temperature == 0.5) + 10 * (recipe.settings.get("epsilon") == 0.02) + seed
        metrics = dict.fromkeys((names.FEW, names.BELOW, names.USED, names.PURITY, names.K_MEANS), 60.0 + seed)
        return {**metrics, names.CHOICE: near, names.COUNTS: np.ones((64, 10), int).tolist()}

    monkeypatch.setattr(runs, "figures", figures)
    context = Context(data=tmp_path, seeds=(0, 1), budget="small", out=tmp_path / "out", progress=lambda *_: None)
    found = {(row.method, row.metric): row for row in study.run(context)}
    for setting in (*names.TEMPERATURES, *names.EPSILONS):
        assert found[setting, f"{D}: {names.CHOICE}"].n == 1
    assert found[names.SWAV, f"{D}: {names.FEW}"].n == 2
    assert found[names.INFO, f"{D}: {names.CHOICE}"].mean == 60.5
    later = [recipe for recipe, seed in seen if seed == 1]
    assert {recipe.temperature for recipe in later if recipe.loss == "info-nce"} == {0.5}
    assert {recipe.settings["epsilon"] for recipe in later if recipe.loss == "swav"} == {0.02}


def test_a_tiny_run_gives_every_method_its_rows_and_two_pictures(tmp_path, monkeypatch):
    data = tmp_path / "data"
    (data / "mnist10k").mkdir(parents=True)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (60, 16, 16), dtype=np.uint8)
    np.savez(data / "mnist10k" / "mnist10k.npz", images=images, labels=np.arange(60) % 2)
    for settings in (names.TEMPERATURES, names.EPSILONS):
        for name in list(settings)[1:]:
            monkeypatch.delitem(settings, name)
    size = names.Size(digits=360, epochs=1, small_batch_epochs=1, larger=((names.MNIST, 60, 1),), draws=1)
    monkeypatch.setitem(names.SIZES, "small", size)
    context = Context(data=data, seeds=(0,), budget="small", out=tmp_path / "out", progress=lambda *_: None)
    result = run_study(study.STUDY, context)
    found = {(row.method, row.metric): row.mean for row in result.rows}
    for method in (names.START, names.INFO, names.SWAV, names.UNBALANCED, names.HARD, names.WITH_QUEUE):
        for metric in (names.FEW, names.MANY, names.NEAR, names.BELOW, names.PURITY):
            assert 0 <= found[method, f"{D}: {metric}"] <= 100
        assert 1 <= found[method, f"{D}: {names.USED}"] <= 64
    assert found[names.START, f"{D}: {names.GAIN}"] == 0
    assert {names.TWO_CROPS, names.MANY_CROPS} <= {method for method, metric in found if metric.startswith(M)}
    assert len(result.claims) == len(study.STUDY.claims)
    assert result.data == ["data/mnist10k/mnist10k.npz"]
    for name in ("swav.png", "prototypes.png"):
        assert (context.out / name).stat().st_size > 10_000

"""The study of alignment and uniformity: its arithmetic, its rules on made-up rows, and a run too small to learn."""

import numpy as np
import pytest
import torch

from weigher.core.contrast import unit
from weigher.pairs.evaluation import encode
from weigher.pairs.relic import fisher_ratios
from weigher.studies import align_uniform as study
from weigher.studies import small_images
from weigher.studies.harness import Context, Row, judge, run_study
from weigher.studies.paired import with_differences

COLLAPSES, ALIGN_LITTLE, NEVER, UNIFORM_LITTLE, HAS_BOTH, RECOVERS, BEATS, ALL_BEAT, LABELS, TENDS = study.STUDY.claims

FIGURES = {
    (study.START, "uniformity"): -0.02,
    (study.ALIGN, "uniformity"): -0.01,
    (study.ALIGN, study.GAIN): 1.0,
    (study.UNIFORM, "alignment"): 1.6,
    (study.UNIFORM, study.GAIN): 3.0,
    (study.BOTH, study.GAIN): 12.0,
    (study.BOTH, study.SHARE): 95.0,
    (study.BOTH, study.FEW): 78.0,
    (study.ALL, study.FEW): 79.0,
    (study.INFO, study.FEW): 77.0,
    (study.INFO, "alignment"): 0.3,
    (study.INFO, "uniformity"): -2.6,
    (study.TAUGHT, "alignment"): 0.2,
    (study.TAUGHT, "uniformity"): -2.5,
    (study.INFO, "above its limit, M = 4"): 0.4,
    (study.INFO, "above its limit, M = 16"): 0.12,
    (study.INFO, "above its limit, M = 64"): 0.03,
}


def rows(std=0.1, **changed):
    found: dict[str, dict[str, float]] = {}
    for (method, metric), value in FIGURES.items():
        found.setdefault(method, {})[metric] = changed.get(f"{method}: {metric}", value)
    return [
        # a difference spreads as figures do
        Row(method, f"digits: {metric}", value, std * (80 if " less " in method else abs(value)), 5)
        for method, told in with_differences(found, study.COMPARED).items()
        for metric, value in told.items()
    ]


@pytest.mark.parametrize(
    ("claim", "changed", "held"),
    [
        (COLLAPSES, {}, True),
        (COLLAPSES, {f"{study.ALIGN}: uniformity": -2.0}, False),
        (COLLAPSES, {f"{study.ALIGN}: uniformity": -0.02}, False),
        (ALIGN_LITTLE, {}, True),
        (ALIGN_LITTLE, {f"{study.ALIGN}: {study.GAIN}": 7.0}, False),
        (NEVER, {}, True),
        (NEVER, {f"{study.UNIFORM}: alignment": 0.9}, False),
        (UNIFORM_LITTLE, {}, True),
        (UNIFORM_LITTLE, {f"{study.UNIFORM}: {study.GAIN}": 5.9}, False),
        (HAS_BOTH, {}, True),
        (HAS_BOTH, {f"{study.INFO}: alignment": 1.0}, False),
        (HAS_BOTH, {f"{study.INFO}: uniformity": -1.0}, False),
        (RECOVERS, {}, True),
        (RECOVERS, {f"{study.BOTH}: {study.SHARE}": 81.0}, False),
        (BEATS, {}, False),
        (BEATS, {f"{study.BOTH}: {study.FEW}": 99.0}, True),
        (ALL_BEAT, {}, False),
        (ALL_BEAT, {f"{study.ALL}: {study.FEW}": 99.0}, True),
        (LABELS, {}, True),
        (LABELS, {f"{study.TAUGHT}: uniformity": -1.0}, False),
        (LABELS, {f"{study.TAUGHT}: alignment": 1.0}, False),
        (TENDS, {}, True),
        (TENDS, {f"{study.INFO}: above its limit, M = 16": 0.25}, False),
        (TENDS, {f"{study.INFO}: above its limit, M = 64": 0.08}, False),
    ],
)
def test_claims_follow_from_the_rows(claim, changed, held):
    assert judge(claim, rows(**changed)).held is held


def test_the_spread_over_seeds_counts():
    assert not judge(ALIGN_LITTLE, rows(std=2.0)).held
    assert not judge(BEATS, rows(std=2.0, **{f"{study.BOTH}: {study.FEW}": 85.0})).held


def test_gains_are_those_of_each_seed():
    seeds = [
        {study.START: {study.FEW: start}, "a": {study.FEW: start + 10}, "b": {study.FEW: start + gain}}
        for start, gain in ((60.0, 5.0), (70.0, 12.0))
    ]
    found = study.with_gains(seeds, {study.INFO: "a", study.BOTH: "b"})
    assert [seed[study.BOTH][study.GAIN] for seed in found] == [5, 12]
    assert [seed[study.BOTH][study.SHARE] for seed in found] == [50, 120]
    assert [seed[study.INFO][study.GAIN] for seed in found] == [10, 10]
    assert "b" in found[0]
    assert study.SHARE not in study.with_gains(seeds[:1], {study.INFO: study.START, study.BOTH: "b"})[0][study.BOTH]


def test_settings_are_chosen_by_what_is_compared_and_by_no_label_of_the_unseen_images():
    images, labels = small_images.read(None, 300)
    (seen, _), _ = study._split(images, labels, 0)
    place = {image.numpy().tobytes() for image in seen}
    unseen = torch.tensor([image.numpy().tobytes() not in place for image in images])
    wrong = torch.where(unseen, (labels + 1) % 10, labels)
    size = study.Size({"digits": (300, 1)}, draws=1)
    one, two = (
        study._figures(size, lambda told=told: (images, told), "digits", study.START, 0) for told in (labels, wrong)
    )
    assert one[study.CHOICE] == two[study.CHOICE]
    assert abs(one[study.FEW] - two[study.FEW]) > 20
    assert abs(one[study.CHOICE] - one[study.FEW]) < 20  # the same probe, of other images


def test_the_gap_to_the_limit_of_crowded_rows_falls_with_the_negatives():
    generator = torch.Generator().manual_seed(0)
    first = unit(torch.randn(300, 3, generator=generator) + torch.tensor([1.0, 0.5, 0.0]))
    second = unit(first + 0.3 * torch.randn(300, 3, generator=generator))
    found = study.above_the_limit(first, second, 0.5, np.random.default_rng(0))
    four, sixteen, many = found.values()
    assert four > 0
    assert abs(sixteen) < four / 1.9
    assert abs(many) < four / 4


def test_a_seed_starts_every_method_from_the_same_weights():
    seen = small_images.read(None, 40)
    models = [study._trained("digits", study.START, seed, seen, epochs=1) for seed in (0, 0, 1)]
    one, two, other = (torch.cat([p.flatten() for p in model.parameters()]) for model in models)
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_an_encoder_that_is_taught_by_labels_parts_them():
    images, labels = small_images.read(None, 400)
    made = {
        told: study._trained("digits", study.TAUGHT, 0, (images, order), epochs=20)
        for told, order in (("right", labels), ("mixed", labels[torch.randperm(400, generator=torch.manual_seed(0))]))
    }
    apart = {told: fisher_ratios(encode(one, images, embeddings=True), labels).median() for told, one in made.items()}
    assert apart["right"] > 2 * apart["mixed"]


def test_a_tiny_run_gives_every_method_its_rows_and_two_pictures(tmp_path, monkeypatch):
    monkeypatch.setitem(study.SIZES, "small", study.Size({"digits": (400, 1)}, draws=1))
    context = Context(data=None, seeds=(0, 1), budget="small", out=tmp_path, progress=lambda *_: None)
    result = run_study(study.STUDY, context)
    found = {(row.method, row.metric): row for row in result.rows}
    for method in (*study.METHODS, study.INFO, study.BOTH, study.ALL):
        for metric in (study.FEW, study.MANY, study.NEAR, study.BELOW):
            assert 0 <= found[method, f"digits: {metric}"].mean <= 100
        assert found[method, "digits: uniformity"].mean <= 0
        assert found[method, "digits: alignment"].n == 2
    assert found[study.START, f"digits: {study.GAIN}"].mean == 0
    assert found[study.BOTH, "digits, on the circle: uniformity"].n == 1
    assert 0 <= found[study.BOTH, f"digits, on the circle: {study.NEAR}"].mean <= 100
    assert len(result.claims) == len(study.STUDY.claims)
    assert result.data == []
    for name in ("align_uniform.png", "circle.png"):
        assert (tmp_path / name).stat().st_size > 10_000
    assert len(list((tmp_path / "parts").iterdir())) == 2 * len(study.METHODS) + 1

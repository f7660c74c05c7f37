"""The study of meta-augmentation: its tasks, its rules on made-up rows, and a run too small to learn anything."""

import io
import math
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from weigher.errors import RequestError
from weigher.examples.episodes import Episodes
from weigher.examples.meta_learning import Bottleneck, Contextual, Maml, Metric
from weigher.studies import meta_augmentation as study
from weigher.studies import meta_figures, meta_tasks
from weigher.studies import meta_names as words
from weigher.studies.harness import Context, Row, judge, run_study


def write_drawings(path, alphabets, characters=6):
    """Drawings as Omniglot has them: ALPHABET/characterNN/*.png of one bit, 20 of each."""
    rng = np.random.default_rng(len(alphabets[0]))
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for alphabet in alphabets:
            for character in range(characters):
                for number in range(20):
                    image = Image.fromarray(rng.random((105, 105)) < 0.9)
                    content = io.BytesIO()
                    image.save(content, "PNG")
                    file.writestr(
                        f"{path.stem}/{alphabet}/character{character:02d}/{number:02d}.png", content.getvalue()
                    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_drawings(folder / "omniglot" / "images_background_small1.zip", ["Greek", "Latin"])
    write_drawings(folder / "omniglot" / "images_background_small2.zip", ["Greek", "Tagalog"])
    return folder


def test_held_out_characters_are_of_alphabets_that_training_never_saw(data, tmp_path):
    train, test = meta_tasks.character_pools(data / "omniglot", 28, seed=0)
    assert (len(train), len(test)) == (12, 6)
    assert train.x.shape == (240, 1, 28, 28)
    assert 0 <= float(train.x.min()) <= float(train.x.max()) <= 1
    assert 0.05 < float(train.x.mean()) < 0.15  # ink, not paper, is 1
    again, _ = meta_tasks.character_pools(data / "omniglot", 28, seed=1)
    tasks = [
        pool.draw(tasks=1, ways=5, grouping="fixed", generator=np.random.default_rng(0)) for pool in (train, again)
    ]
    assert not torch.equal(tasks[0].support_id // 20, tasks[1].support_id // 20)  # other groups for another seed
    for part in (1, 2):
        write_drawings(tmp_path / f"images_background_small{part}.zip", ["Greek"])
    with pytest.raises(RequestError, match="none is left to test on"):
        meta_tasks.character_pools(tmp_path, 28, seed=0)


def test_digits_are_split_by_digit():
    train, test = meta_tasks.digit_pools()
    assert (len(train), len(test)) == (12, 8)
    assert len(train.x) + len(test.x) == 2 * 1797


def test_a_fixed_task_of_digits_is_a_digit_and_its_own_turned_copy():
    from sklearn.datasets import load_digits

    x, digit = load_digits(return_X_y=True)
    known = {image.tobytes(): int(d) for image, d in zip((x / 16).astype(np.float32), digit, strict=True)}
    train, _ = meta_tasks.digit_pools()
    drawn = train.draw(tasks=30, ways=2, queries=3, grouping="fixed", generator=np.random.default_rng(0))
    digits = set()
    for images, label in zip(drawn.query_x[:, :, 0], drawn.query_y, strict=True):
        turned = images.rot90(-1, (1, 2))
        upright = torch.where(label[:, None, None] == 1, turned, images)
        of_task = {known[image.numpy().tobytes()] for image in upright}
        assert len(of_task) == 1
        digits |= of_task
    assert digits == set(range(6))


def test_maml_learns_fixed_tasks_of_digits_by_heart(data, tmp_path, monkeypatch):
    monkeypatch.setitem(words.SIZES, "small", words.Size(steps=40, toy_steps=2, tested=40, channels=2))
    jobs = meta_figures.jobs_of(
        Context(data=data, seeds=(0,), budget="small", out=tmp_path, progress=lambda stage, done, total: None)
    )
    (found,) = jobs[f"{words.DIGITS}, {words.MAML}, {words.FIXED}"](0).values()
    assert found[f"{words.DIGITS}: {words.MEMORISED}"] > 60


def test_moved_images_keep_their_labels_and_lose_at_most_an_edge():
    x = torch.zeros(2, 3, 1, 5, 5)
    x[..., 2, 2] = 1
    y = torch.tensor([[0, 1, 0]] * 2)
    found = meta_tasks.moved(Episodes(x, y, x, y), np.random.default_rng(0))
    places = found.support_x.flatten(2).argmax(-1)
    assert found.support_x.flatten(2).sum(-1).eq(1).all()
    assert places.unique().numel() > 1
    assert set((places // 5).flatten().tolist()) <= {1, 2, 3}
    assert set((places % 5).flatten().tolist()) <= {1, 2, 3}
    assert torch.equal(found.query_y, y)


def test_sinusoids_have_an_interval_each_and_new_ones_are_drawn_for_every_task():
    sinusoids, generator = meta_tasks.Sinusoids.drawn(3), np.random.default_rng(0)
    found = sinusoids.train(5, 10, generator, repeat=2)
    assert found.support_x.shape == (12, 5, 1)
    assert found.query_y.shape == (12, 10, 1)
    starts = found.query_x.amin((1, 2)).floor()
    assert starts[:6].unique().numel() == 6
    assert torch.equal(starts[:6], starts[6:])
    amplitude, phase = (torch.from_numpy(one[:6])[:, None, None] for one in sinusoids.waves)
    torch.testing.assert_close(
        found.query_y[6:].double(), amplitude * (found.query_x[6:] - phase).sin(), rtol=1e-4, atol=1e-4
    )
    new = sinusoids.new(5, 10, generator, where=range(6, 10), repeat=3)
    assert set(new.query_x.amin((1, 2)).floor().tolist()).isdisjoint(starts.tolist())
    assert len(new) == 12


def test_every_condition_is_made_as_its_name_says():
    found = meta_figures.conditions()
    assert set(found) == {words.UNTRAINED, *words.WAYS_OF_TASKS, *words.REGULARISERS}
    assert found[words.FIXED] == meta_tasks.Condition()
    assert found["weight decay 3"].weight_decay == 3
    assert found["dropout 0.5"].dropout == 0.5
    assert found["bottleneck 0.01"].price == 0.01
    assert found["moved images"].moved
    shape = meta_tasks.Shape(8, 0, 0.1, 3)
    kinds = {"MAML": Maml, "contextual": Contextual, "metric": Metric}
    for kind, made in kinds.items():
        assert isinstance(meta_tasks.image_learner(kind, found[words.FIXED], shape, 2), made)
    learner = meta_tasks.image_learner("MAML", found["bottleneck 0.01"], shape, 2)
    assert isinstance(learner, Bottleneck)
    dropped = [
        m
        for m in meta_tasks.image_learner("MAML", found["dropout 0.5"], shape, 2).modules()
        if type(m) is torch.nn.Dropout
    ]
    assert dropped
    assert all(one.p == 0.5 for one in dropped)


def rows(std=0.5, **changed):
    """Rows under which every claim holds; `changed` replaces the mean of one by (method, metric)."""
    found = {}
    held_out = f"{words.HELD_OUT}, {words.AFTER}"
    for images in (words.DIGITS, words.OMNIGLOT):
        for kind in words.LEARNERS:
            for name, mean in ((words.UNTRAINED, 60.0), (words.FIXED, 80.0), (words.PERMUTED, 90.0), (words.ANY, 92.0)):
                blind = kind == words.METRIC and name == words.PERMUTED
                found[f"{kind}, {name}", f"{images}: {held_out}"] = 80.5 if blind else mean
                found[f"{kind}, {name}", f"{images}: {words.MEMORISED}"] = 70.0 if name == words.FIXED else 3.0
    for name in words.REGULARISERS:
        found[f"{words.MAML}, {name}", f"{words.DIGITS}: {held_out}"] = 82.0
    for kind in (words.MAML, words.CONTEXTUAL):
        for name in (words.NUMBER, words.BIT):
            found[f"{kind}, {name}", words.relative(words.NEW)] = 0.4
    found |= changed.get("to", {})
    return [Row(*key, mean, std if mean > 2 else std / 100, 3) for key, mean in found.items()]


def test_every_claim_holds_on_rows_made_for_it():
    for claim in study.STUDY.claims:
        assert judge(claim, rows()).held, claim.claim


HELD_OUT = f"{words.DIGITS}: {words.HELD_OUT}, {words.AFTER}"


@pytest.mark.parametrize(
    ("key", "mean", "broken"),
    [
        ((f"MAML, {words.FIXED}", f"{words.DIGITS}: {words.MEMORISED}"), 50.0, "over half"),
        ((f"MAML, {words.PERMUTED}", f"{words.OMNIGLOT}: {words.MEMORISED}"), 12.0, "under 10 %"),
        ((f"contextual, {words.PERMUTED}", HELD_OUT), 80.2, "digits, contextual: labels permuted"),
        ((f"MAML, {words.ANY}", f"{words.OMNIGLOT}: {words.HELD_OUT}, {words.AFTER}"), 79.0, "Omniglot, MAML: any"),
        ((f"MAML, {words.UNTRAINED}", HELD_OUT), 93.0, "above the untrained network"),
        (("MAML, dropout 0.5", HELD_OUT), 90.0, "above dropout"),
        ((f"metric, {words.PERMUTED}", HELD_OUT), 82.0, "metric learner"),
        ((f"MAML, {words.BIT}", words.relative(words.NEW)), 1.2, "sinusoids, MAML"),
    ],
)
def test_a_claim_falls_with_its_row(key, mean, broken):
    verdicts = [judge(claim, rows(to={key: mean})) for claim in study.STUDY.claims]
    fallen = [verdict.claim for verdict in verdicts if not verdict.held]
    assert len(fallen) == 1
    assert broken in fallen[0]


def test_too_wide_a_spread_over_seeds_shows_nothing():
    held = {claim.claim: judge(claim, rows(std=100.0)).held for claim in study.STUDY.claims}
    assert not any(held[name] for name in held if "metric learner" not in name)


def test_a_tiny_run_gives_a_figure_for_every_learner_and_condition(data, tmp_path, monkeypatch):
    monkeypatch.setitem(words.SIZES, "small", words.Size(steps=2, toy_steps=2, tested=6, channels=2))
    stages = set()
    context = Context(
        data=data,
        seeds=(0,),
        budget="small",
        out=tmp_path,
        progress=lambda stage, done, total: stages.add(stage),
    )
    result = run_study(study.STUDY, context)
    found = {(row.method, row.metric): row.mean for row in result.rows}
    for images, names in (
        (words.DIGITS, (*words.WAYS_OF_TASKS, *words.REGULARISERS)),
        (words.OMNIGLOT, words.WAYS_OF_TASKS),
    ):
        for name in names:
            for where in (words.TRAINING, words.HELD_OUT):
                for when in (words.BEFORE, words.AFTER):
                    assert 0 <= found[f"MAML, {name}", f"{images}: {where}, {when}"] <= 100
        for name in words.WAYS_OF_TASKS:
            assert (f"metric, {name}", f"{images}: {words.MEMORISED}") in found
        assert found[words.FIXED, f"{images}: H(Y|X), nats"] == 0
    assert 0.3 < found[words.PERMUTED, f"{words.DIGITS}: H(Y|X), nats"] <= math.log(2)
    for name in (words.DECAY, words.NUMBER, words.BIT):
        own, plain = (found[f"contextual, {one}", f"{words.TOY}: {words.NEW}, error"] for one in (name, words.PLAIN))
        assert found[f"contextual, {name}", words.relative(words.NEW)] == pytest.approx(own / plain)
    assert not any(verdict.held for verdict in result.claims if "metric learner" not in verdict.claim)  # one seed
    assert (tmp_path / "meta_augmentation.png").stat().st_size > 1000
    assert "train, digits, MAML, dropout 0.2, seed 0" in stages
    assert result.data == [f"{data.name}/omniglot"]

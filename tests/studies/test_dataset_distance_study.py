"""The study of distances: its sources, its networks, its rules on made-up rows, and a run too small to learn."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from weigher.studies import dataset_distance as study
from weigher.studies import transfer_sources as transfer
from weigher.studies.harness import Context, Row, judge, run_study
from weigher.studies.transfer_sources import CLEAN, INVERTED, LABEL_LADDER, RELABELLED, TURN_LADDER, Images

CLAIMS = {claim.claim: claim for claim in study.STUDY.claims}


def images(n=60, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % 10)
    return Images((rng.uniform(0, 0.3, (n, 8, 8)) + np.eye(8)[labels % 8][:, None] / 2).clip(0, 1), labels)


def test_sources_are_what_they_are_called():
    clean = images(200)
    made = transfer.sources(clean, np.random.default_rng(0))
    assert len(made) == 17
    for share, name in LABEL_LADDER.items():
        assert np.array_equal(made[name].pixels, clean.pixels)
        changed = (made[name].labels != clean.labels).mean()
        assert changed == pytest.approx(0.9 * share / 100, abs=0.08)  # one in ten random labels is right
    renamed = made[RELABELLED].labels
    assert len({(a, b) for a, b in zip(clean.labels.tolist(), renamed.tolist(), strict=True)}) == 10
    assert np.allclose(made[TURN_LADDER[90]].pixels, np.rot90(clean.pixels, axes=(1, 2)), atol=1e-9)
    assert np.allclose(made[INVERTED].pixels, 1 - clean.pixels)
    assert np.array_equal(made["mirrored"].pixels[:, :, 0], clean.pixels[:, :, -1])
    assert np.allclose(made["moved by an eighth"].pixels[:, 1:, 1:], clean.pixels[:, :-1, :-1])
    assert made["right half covered"].pixels[:, :, 4:].max() == 0
    assert set(made["classes 0 to 4 alone"].labels) == set(range(5))
    assert all(source.pixels.min() >= -0.01 and source.pixels.max() <= 1.01 for source in made.values())


def test_networks_side_by_side_are_what_each_would_be_alone():
    data = images()
    layers = [layer.repeat(3, 1, 1) for layer in transfer._layers(64, torch.Generator().manual_seed(0))]
    x = torch.from_numpy(np.stack([data.rows(), data.rows()[::-1], 1 - data.rows()]))
    y = torch.from_numpy(np.stack([data.labels, data.labels[::-1], data.labels]))
    found = transfer._train(layers, x, y, 5, torch.Generator().manual_seed(1))
    for v in range(3):
        linear = [torch.nn.Linear(a, b) for a, b in ((64, 64), (64, 64), (64, 64), (64, 10))]
        alone = torch.nn.Sequential(*[part for one in linear for part in (one, torch.nn.ReLU())][:-1])
        with torch.no_grad():
            for place, one in enumerate(linear):
                one.weight.copy_(layers[2 * place][v].T)
                one.bias.copy_(layers[2 * place + 1][v, 0])
        optimizer = torch.optim.Adam(alone.parameters(), lr=3e-3)
        generator = torch.Generator().manual_seed(1)
        for _ in range(5):
            chosen = torch.randperm(60, generator=generator)[:100]
            loss = F.cross_entropy(alone(x[v, chosen]), y[v, chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        expected = alone(x[v])
        assert torch.allclose(transfer._logits(found, x)[v], expected, atol=1e-4)


def test_a_source_of_the_same_kind_helps_whatever_its_classes_are_called_and_noise_does_not():
    digits = study._digits()
    train, target, test = digits[:400], digits[400:430], digits[430:930]
    noise = Images(np.random.default_rng(0).uniform(0, 1, (400, 8, 8)), train.labels)
    renamed = Images(train.pixels, np.random.default_rng(1).permutation(10)[train.labels])
    made = {"same": train, "renamed": renamed, "noise": noise}
    each = [transfer.gains(made, target, test, steps=100, seed=seed) for seed in range(4)]
    gained = {name: np.mean([found[name] for found, _ in each]) for name in made}
    assert 10 < np.mean([alone for _, alone in each]) < 50
    assert gained["same"] > 15
    assert gained["same"] > gained["noise"] + 10
    assert abs(gained["same"] - gained["renamed"]) < 10


def test_distances_are_pots():
    a, b = images(40), images(30, seed=2)
    found = study.distances(a, b)
    assert set(found) == set(study.MEASURES)
    assert found[study.EXACT] == pytest.approx(study.by_pot(a, b), rel=1e-10)
    assert found[study.FEATURES] < found[study.OURS] <= found[study.EXACT]


def rows(std=0.1, **changes):
    """Rows of one world in which every claim but the last rule of thumb holds."""
    ladder = {name: 2 + 0.5 * step for step, name in enumerate(LABEL_LADDER.values())}
    ladder |= {name: 2 + 0.7 * step for step, name in enumerate(TURN_LADDER.values())}
    ladder |= {RELABELLED: 2.0, INVERTED: 9.0}
    distance = {**ladder, **changes.get("distance", {})}
    gain = {name: 60 - 10 * far for name, far in distance.items()} | changes.get("gain", {})
    made = []
    for name, far in distance.items():
        made.append(Row(name, "digits: gain %", gain[name], std, 3))
        made.append(Row(name, f"digits: {study.OURS}", far, std if name != RELABELLED else 0.0, 3))
        made.append(Row(name, f"digits: {study.FEATURES}", changes.get("plain", {}).get(name, 1.5), 0.0, 3))
    ranks = {study.OURS: -0.7, study.EXACT: -0.6, study.MEANS: -0.5, study.FEATURES: -0.4} | changes.get("rank", {})
    for name, rank in ranks.items():
        made.append(Row(name, f"digits: {study.RANK}", rank, 0.01, 3))
        if name != study.OURS:
            difference = ranks[study.OURS] - rank
            made.append(Row(study.OURS + study.LESS + name, f"digits: {study.RANK}", difference, 0.01, 3))
    made.append(Row(study.OURS, f"digits: {study.FOUND}", changes.get("found", 10.0), 0.0, 3))
    made.append(Row(study.OURS, f"digits: {study.ABOVE}", changes.get("above", 0.0), 0.0, 3))
    made.append(Row(study.EXACT, f"digits: {study.POT}", changes.get("pot", 1e-15), 0.0, 3))
    return made


@pytest.mark.parametrize("claim", CLAIMS)
def test_claims_hold_where_everything_is_as_it_should_be(claim):
    assert judge(CLAIMS[claim], rows()).held


@pytest.mark.parametrize(
    ("claim", "changes"),
    [
        ("random labels: farther at each rung", {"distance": {LABEL_LADDER[60]: 2.5}}),
        ("random labels: farther at each rung", {"std": 2.0}),
        ("random labels: plain transport of features sees nothing", {"plain": {LABEL_LADDER[30]: 1.6}}),
        ("random labels: the gain falls", {"gain": {LABEL_LADDER[100]: 40.0}}),
        ("turned images: farther at each rung", {"distance": {TURN_LADDER[90]: 3.0}}),
        ("turned images: the gain falls", {"gain": {TURN_LADDER[90]: 39.9}}),
        ("renaming all classes changes neither distance nor gain", {"distance": {RELABELLED: 2.1}}),
        ("renaming all classes changes neither distance nor gain", {"gain": {RELABELLED: 30.0}}),
        ("nearer sources gain more, better told than by features alone", {"rank": {study.FEATURES: -0.7}}),
        ("nearer sources gain more, better told than by means of classes", {"rank": {study.MEANS: -0.8}}),
        ("normal laws tell it better than exact distances of labels", {"rank": {study.EXACT: -0.7}}),
        ("the farthest source gains least", {"gain": {INVERTED: 30.0}}),
        ("each digit's nearest class is the same digit", {"found": 9.7}),
        ("normal laws are never above exact labels", {"above": 0.1}),
        ("distances with exact labels are POT's", {"pot": 1e-3}),
    ],
)
def test_claims_fail_where_something_is_not(claim, changes):
    assert not judge(CLAIMS[claim], rows(**changes)).held


def test_a_tiny_run_gives_every_source_its_rows(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    (tmp_path / "data/mnist10k").mkdir(parents=True)
    drawn = rng.integers(0, 255, (300, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "data/mnist10k/mnist10k.npz", images=drawn, labels=np.arange(300) % 10)
    size = study.Size(source=60, target=10, measured=40, test=50, steps=3, repeats=1)
    monkeypatch.setitem(study.SIZES, "small", size)
    context = Context(tmp_path / "data", (0, 1), "small", tmp_path / "out", lambda stage, done, total: None)
    result = run_study(study.STUDY, context)
    found = {(row.method, row.metric): row for row in result.rows}
    for world in (study.DIGITS, study.MNIST):
        assert found[CLEAN, f"{world}: {study.OURS}"].n == 2
        assert -1 <= found[study.FEATURES, f"{world}: {study.RANK}"].mean <= 1
        assert found[study.EXACT, f"{world}: {study.POT}"].mean < 1e-9
    assert len(result.claims) == 13
    assert result.data == ["data/mnist10k/mnist10k.npz"]
    assert (tmp_path / "out" / "dataset_distance.png").stat().st_size > 10_000


def test_without_the_data_folder_the_digits_of_scikit_learn_are_left(tmp_path, monkeypatch):
    size = study.Size(source=60, target=10, measured=20, test=50, steps=2, repeats=1)
    monkeypatch.setitem(study.SIZES, "small", size)
    found = study.run(Context(None, (0,), "small", tmp_path, lambda stage, done, total: None))
    assert study._worlds(found) == [study.DIGITS]

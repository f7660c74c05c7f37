"""Suspects of small sets: what is recorded is what the recipe says, and the settings do what they are called."""

import pytest
import torch

from weigher.core.margins import label_margin
from weigher.errors import RequestError
from weigher.examples import suspects
from weigher.examples.area_under_margin import ThresholdClass
from weigher.examples.early_stopping import corrupt_labels
from weigher.examples.suspects import SuspectConfig, find_suspects, fit, logits_of, scaled, small_network

CONFIG = SuspectConfig(epochs=6, batch=8, device="cpu")


def clouds(n=60, wrong=4):
    generator = torch.Generator().manual_seed(0)
    truth = torch.arange(n) % 3
    x = 0.5 * torch.randn(n, 5, generator=generator) + 4 * torch.eye(5)[truth]
    given = truth.clone()
    given[:wrong] = (truth[:wrong] + 1) % 3
    return x, given, truth


def test_areas_are_the_means_of_the_margins_and_the_extra_class_is_that_of_the_plan():
    x, given, truth = clouds()
    found = find_suspects(x, given, 3, CONFIG)
    assert found.margins.shape == (2, 6, 60)
    assert torch.allclose(found.errors.per_pass, found.margins.double().mean(1), atol=1e-6)
    plan = ThresholdClass(given, 3, passes=2, seed=0)
    assert torch.equal(found.chosen, torch.stack([plan.chosen(0), plan.chosen(1)]))
    assert torch.equal(found.errors.flagged, plan.flag(found.errors.per_pass))
    assert torch.allclose(found.curves().mean(0).double(), found.errors.aum, atol=1e-5)
    assert set(found.errors.ranking()[:4].tolist()) == {0, 1, 2, 3}
    assert torch.equal(found.taken_for[:4], truth[:4])
    assert not bool((found.taken_for == given).any())


def test_the_first_margins_are_those_of_the_network_before_any_step():
    x, given, _ = clouds()
    one_batch = SuspectConfig(epochs=1, batch=60, device="cpu", seed=5)
    found = find_suspects(x, given, 3, one_batch)
    for number, labels in enumerate(ThresholdClass(given, 3, passes=2, seed=5).labels(r) for r in (0, 1)):
        with torch.random.fork_rng():
            torch.manual_seed(5 + number)
            untrained = small_network((5,), 4)
        assert torch.allclose(found.margins[number, 0], label_margin(untrained(scaled(x)), labels), atol=1e-6)


def test_each_example_is_seen_once_an_epoch_and_the_seed_decides_everything():
    x, given, _ = clouds()
    seen = []
    one, two, other = (
        logits_of(fit(x, given, 3, CONFIG, seed=seed, seen=lambda epoch, ids, _: seen.append((epoch, ids))), x)
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    for epoch in range(6):
        ids = torch.cat([ids for number, ids in seen[: len(seen) // 3] if number == epoch])
        assert ids.sort().values.tolist() == list(range(60))


def test_the_global_generator_is_left_alone():
    x, given, _ = clouds()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    find_suspects(x, given, 3, CONFIG)
    assert torch.equal(torch.rand(2), expected)


def test_rates_drop_to_a_tenth(monkeypatch):
    rates = []
    step = torch.optim.SGD.step
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self: (rates.append(self.param_groups[0]["lr"]), step(self))[1])
    x, given, _ = clouds()
    fit(x, given, 3, SuspectConfig(epochs=4, batch=60, device="cpu"), seed=0, drops=(0.5, 0.75))
    assert rates == pytest.approx([0.05, 0.05, 0.005, 0.0005])


def test_images_are_moved_all_alike_and_mirrored_one_by_one():
    x = torch.arange(16.0).repeat(64, 1, 16, 1)  # brightness rises to the right
    generator = torch.Generator().manual_seed(0)
    assert suspects._varied(x, "none", generator) is x
    moved = suspects._varied(x, "shift", generator)
    assert moved.shape == x.shape
    assert torch.equal(moved, moved[:1].expand_as(moved))
    assert float((moved - x).abs().max()) <= 2
    mirrored = suspects._varied(x, "mirror", generator)
    falling = mirrored[:, 0, 0, 0] > mirrored[:, 0, 0, -1]
    assert 16 < int(falling.sum()) < 48
    features = torch.rand(3, 4)
    assert suspects._varied(features, "mirror", generator) is features


@pytest.mark.parametrize("network", ["small", "residual"])
def test_images_are_told_apart_by_either_network_and_by_nothing_but_the_seed(network):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 2
    x = torch.rand(60, 1, 12, 12, generator=generator) + (labels[:, None, None] * torch.eye(12))[:, None]
    config = SuspectConfig(network=network, width=4, batch=10, epochs=8, device="cpu")
    first, again, other = (fit(scaled(x), labels, 2, config, seed=seed) for seed in (3, 3, 4))
    assert (logits_of(first, scaled(x)).argmax(1) == labels).all()
    assert sum(isinstance(part, torch.nn.Conv2d) for part in first.modules()) == (3 if network == "small" else 7)
    weights = [torch.cat([p.flatten() for p in one.parameters()]) for one in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_last_example_alone_joins_the_batch_before_it():
    """Images of 12 pixels are one pixel before the last block, whose variance needs two examples at least."""
    config = SuspectConfig(network="residual", width=2, batch=8, epochs=1, device="cpu")
    seen = []
    fit(torch.rand(17, 1, 12, 12), torch.arange(17) % 2, 2, config, seed=0, seen=lambda epoch, ids, z: seen.append(ids))
    assert [len(ids) for ids in seen] == [8, 9]
    assert sorted(torch.cat(seen).tolist()) == list(range(17))


def test_columns_are_scaled_by_themselves_and_images_together():
    x = torch.rand(50, 3) * torch.tensor([1.0, 100.0, 0.0]) + 7
    found = scaled(x)
    assert torch.allclose(found.mean(0), torch.zeros(3), atol=1e-5)
    assert found.std(0, correction=0).tolist() == pytest.approx([1, 1, 0], abs=1e-5)
    images = scaled(torch.rand(4, 2, 5, 5) * torch.tensor([1.0, 10.0])[:, None, None])
    assert float(images.mean()) == pytest.approx(0, abs=1e-5)
    assert float(images.std(correction=0)) == pytest.approx(1, abs=1e-5)
    assert float(images[:, 1].std()) > 3 * float(images[:, 0].std())


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: find_suspects(torch.rand(5, 2), torch.arange(4) % 2, 2), "5 examples and 4 labels"),
        (lambda: find_suspects(torch.rand(6), torch.arange(6) % 2, 2), r"inputs have the shape \[6\]"),
        (lambda: find_suspects(torch.full((6, 2), torch.inf), torch.arange(6) % 2, 2), "example 0 holds NaN"),
        (lambda: find_suspects(torch.rand(6, 2), torch.arange(6) % 3, 2), "needed are 0 to 1"),
        (lambda: find_suspects(torch.rand(2, 2), torch.arange(2), 2), "cannot give 2 disjoint sets"),
        (lambda: SuspectConfig(epochs=0), "epochs = 0"),
        (lambda: SuspectConfig(learning_rate=-1.0), "learning_rate = -1"),
        (lambda: SuspectConfig(epochs=2.5), "epochs = 2.5; needed is a whole number"),
        (lambda: SuspectConfig(passes=0), "passes = 0"),
        (lambda: SuspectConfig(learning_rate=float("nan")), "learning_rate = nan"),
        (lambda: SuspectConfig(momentum=-1.0), "momentum = -1"),
        (lambda: SuspectConfig(momentum=float("nan")), "momentum = nan"),
        (lambda: SuspectConfig(weight_decay=-1.0), "weight_decay = -1"),
        (lambda: SuspectConfig(percentile=150.0), "percentile = 150"),
        (lambda: SuspectConfig(augment="turn"), "augment = 'turn'"),
        (lambda: SuspectConfig(combine="most"), "combine = 'most'"),
        (lambda: SuspectConfig(network="large"), "network = 'large'"),
        (
            lambda: find_suspects(*clouds()[:2], 3, SuspectConfig(epochs=3, learning_rate=1e12, device="cpu")),
            "training diverged in epoch",
        ),
    ],
)
def test_bad_requests_are_named(call, said):
    with pytest.raises(RequestError, match=said):
        call()


def test_the_first_pass_does_not_begin_with_its_threshold_examples():
    """With one generator for both, the first batches would hold nothing but the extra class, and the network say it."""
    labels = torch.arange(600) % 5
    chosen = ThresholdClass(labels, 5, seed=3).chosen(0)
    given, wrong = corrupt_labels(labels, 0.2, classes=5, seed=3)
    shown = []
    config = SuspectConfig(epochs=1, batch=50, seed=3)
    fit(torch.randn(600, 4), given, 6, config, seed=3, seen=lambda epoch, ids, logits: shown.append(ids))
    assert sorted(torch.cat(shown).tolist()) == list(range(600))
    for group in (chosen, wrong):
        shares = torch.stack([group[ids].float().mean() for ids in shown])
        assert shares.max() < 0.5  # of a batch; 1 where they come first
    assert 0.05 < chosen[wrong].float().mean() < 0.35  # a sixth, however the labels are

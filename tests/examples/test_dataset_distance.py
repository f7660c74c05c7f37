"""The distance of labelled data sets: exact identities, bounds, gradients, sampling, weights, and bad inputs."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from weigher.core.transport import relative_epsilon, sinkhorn, sinkhorn_divergence
from weigher.errors import RequestError
from weigher.examples.dataset_distance import (
    dataset_distance,
    pairwise_dataset_distance,
    rank_sources,
    sampled_dataset_distance,
)
from weigher.examples.label_distances import DistanceConfig, label_distance_matrix, prepare, squared_distances, to_power
from weigher.examples.labelled_sets import cluster_labels, labelled_set, stratified

GAUSSIAN, EXACT, MEANS = (
    DistanceConfig(),
    DistanceConfig(label_distance="exact"),
    DistanceConfig(label_distance="means"),
)
WAYS = (GAUSSIAN, EXACT, MEANS, DistanceConfig(label_distance="diagonal"), DistanceConfig(label_distance="upper"))


def data(n=24, d=3, classes=3, seed=0, shift=0.0):
    rng = np.random.default_rng(seed)
    label = np.arange(n) % classes
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + label[:, None] + shift, label


def value(a, b, config=GAUSSIAN, **more):
    return float(dataset_distance(*a, *b, config, **more).value)


def features_alone(x, y):
    """W_2 of two equally large sets by the definition."""
    from scipy.optimize import linear_sum_assignment

    cost = ((x[:, None] - y[None]) ** 2).sum(-1)
    return math.sqrt(cost[linear_sum_assignment(cost)].mean())


@pytest.mark.parametrize("config", WAYS, ids=lambda config: config.label_distance)
def test_symmetry_invariance_and_scale(config):
    a, b = data(), data(classes=2, seed=1)
    found = value(a, b, config)
    assert value(b, a, config) == pytest.approx(found, abs=1e-10)
    renamed = np.array(["cat", "ant", "bee"])[a[1]]
    assert value((a[0], renamed), b, config) == pytest.approx(found, abs=1e-10)
    order = np.random.default_rng(2).permutation(len(a[0]))
    assert value((a[0][order], a[1][order]), b, config) == pytest.approx(found, abs=1e-10)
    assert value((7 * a[0], a[1]), (7 * b[0], b[1]), config) == pytest.approx(7 * found, abs=1e-9)
    if config.label_distance != "diagonal":  # which depends on the axes
        turn = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
        moved = value((a[0] @ turn + 5, a[1]), (b[0] @ turn + 5, b[1]), config)
        assert moved == pytest.approx(found, abs=1e-9)


def test_a_set_lies_at_0_from_itself_and_a_shift_is_its_length():
    a = data(30)
    shift = np.array([1.0, -2.0, 2.0])
    for config in WAYS[:4]:
        assert value(a, a, config) == pytest.approx(0, abs=1e-7)
        assert value(a, (a[0] + shift, a[1]), config) == pytest.approx(math.sqrt(2) * 3, abs=1e-9)


def test_one_class_each_or_a_class_for_each_example_is_plain_transport():
    (x, _), (y, _) = data(), data(seed=1)
    plain = features_alone(x, y)
    one = np.zeros(24, int)
    assert value((x, one), (y, one), EXACT) == pytest.approx(math.sqrt(2) * plain, abs=1e-10)
    every = np.arange(24)
    for config in (GAUSSIAN, EXACT, MEANS):
        assert value((x, every), (y, every), config) == pytest.approx(math.sqrt(2) * plain, abs=1e-10)
    found = dataset_distance(x, every, y, one, replace(GAUSSIAN, label_weight=0.0))
    assert float(found.value) == pytest.approx(plain, abs=1e-10)
    assert float(found.label_part) == 0


def test_label_distances_stand_in_order_entry_by_entry():
    a, b = (labelled_set(*data(30, classes=3, seed=seed)) for seed in (0, 1))
    found = [
        label_distance_matrix(prepare(a, config), prepare(b, config), config) for config in (MEANS, *WAYS[:2], WAYS[4])
    ]
    for low, high in itertools.pairwise(found):
        assert bool((low <= high + 1e-12).all())


def test_the_card_of_ddof_two_points_against_one():
    two, one = ([[-1.0], [1.0]], [0, 0]), ([[0.0]], [0])
    assert float(dataset_distance(*two, *one, EXACT).label_distances) == pytest.approx(1)
    assert float(dataset_distance(*two, *one).label_distances) == pytest.approx(1)
    a = prepare(labelled_set(*two), replace(GAUSSIAN, ddof=1))
    assert a.laws is not None
    assert float(a.laws.variance) == pytest.approx(2)
    with pytest.raises(RequestError, match="ddof is 1"):
        dataset_distance(*two, *one, replace(GAUSSIAN, ddof=1))


def test_no_triple_breaks_the_triangle():
    sets = [data(8, 2, int(k), seed) for seed, k in enumerate(np.random.default_rng(0).integers(1, 4, 12))]
    for config in (GAUSSIAN, EXACT):
        table = pairwise_dataset_distance(sets, config)
        assert np.array_equal(table, table.T)
        through = (table[:, :, None] + table[None]).min(1)
        assert (table <= through + 1e-9).all()


def test_the_plan_its_marginals_and_its_parts():
    a, b = data(24), data(24, classes=2, seed=1)
    found = dataset_distance(*a, *b, DistanceConfig(feature_weight=2.0, label_weight=0.5))
    assert torch.allclose(found.plan.sum(0), found.weights[1])
    assert torch.allclose(found.plan.sum(1), found.weights[0])
    # a double loop over examples and over classes
    cost = torch.empty(24, 24).double()
    for i in range(24):
        for j in range(24):
            feature = ((a[0][i] - b[0][j]) ** 2).sum()
            cost[i, j] = 2 * feature + 0.5 * found.label_distances[a[1][i], b[1][j]]
    assert float(found.power) == pytest.approx(float((found.plan * cost).sum()), abs=1e-10)
    assert float(found.feature_part + found.label_part) == pytest.approx(float(found.power), abs=1e-12)
    assert float(found.squared) == pytest.approx(float(found.power))
    blocks = torch.zeros(3, 2).double()
    for i in range(24):
        for j in range(24):
            blocks[a[1][i], b[1][j]] += found.plan[i, j]
    assert torch.allclose(found.class_plan(), blocks)
    assert found.classes == ((0, 1, 2), (0, 1))


def test_p_1_is_not_p_2():
    a, b = data(20), data(20, seed=1)
    config = DistanceConfig(p=1.0, label_distance="exact", label_weight=0.0)
    cost = np.sqrt(((a[0][:, None] - b[0][None]) ** 2).sum(-1))
    from scipy.optimize import linear_sum_assignment

    assert value(a, b, config) == pytest.approx(cost[linear_sum_assignment(cost)].mean())
    line = [[0.0], [2.0]], [0, 1]
    moved = [[3.0], [5.0]], [0, 1]
    assert value(line, moved, DistanceConfig(p=1.0, label_distance="exact")) == pytest.approx(6)
    with pytest.raises(RequestError, match="p is 1"):
        DistanceConfig(p=1.0)


@pytest.mark.parametrize("way", ["gaussian", "exact", "means", "diagonal"])
def test_the_gradient_is_that_of_differences(way):
    (x, label), (y, other) = data(6, 2, 2), data(6, 2, 2, seed=1)
    leaves = [torch.tensor(part, requires_grad=True) for part in (x, y)]

    def power(x, y):
        return dataset_distance(x, label, y, other, DistanceConfig(label_distance=way)).value

    assert torch.autograd.gradcheck(power, leaves, eps=1e-6, atol=1e-5)


@pytest.mark.parametrize("debias", [True, False])
def test_the_gradient_of_entropic_distances_holds_too(debias):
    (x, label), (y, other) = data(5, 2, 2), data(4, 2, 2, seed=1)
    # epsilon follows the data and is a constant of the gradient: hold its scale, or differences would see it move
    leaves = [torch.tensor(part, requires_grad=True) for part in (x, y)]
    config = DistanceConfig(reg=0.3, debias=debias, tolerance=1e-11, iterations=50_000)
    found = dataset_distance(leaves[0], label, leaves[1], other, config)
    found.power.backward()

    def cost(x, y, first, second):
        p, q = (prepare(labelled_set(*one), config) for one in ((x, first), (y, second)))
        W = label_distance_matrix(p, q, config)
        return squared_distances(p.data.features, q.data.features) + W[p.data.label][:, q.data.label]

    def at(x, y):
        ab = cost(x, y, label, other)
        limits = {"epsilon": epsilon, "tolerance": 1e-12, "iterations": 50_000}
        if not debias:
            return float(sinkhorn(ab, **limits).value)
        return float(sinkhorn_divergence(ab, cost(x, x, label, label), cost(y, y, other, other), **limits).value)

    epsilon = float(relative_epsilon(cost(x, y, label, other), 0.3))
    assert float(found.power.detach()) == pytest.approx(at(x, y), abs=1e-9)
    step = np.zeros_like(x)
    step[2, 1] = 1e-5
    assert float(leaves[0].grad[2, 1]) == pytest.approx((at(x + step, y) - at(x - step, y)) / 2e-5, abs=1e-5)


def test_entropic_distances_near_the_exact_one_and_0_to_itself():
    a, b = data(20), data(16, seed=1, shift=3.0)
    near = DistanceConfig(reg=0.02, tolerance=1e-4)
    exact = float(dataset_distance(*a, *data(20, seed=1, shift=3.0)).power)
    found = dataset_distance(*a, *data(20, seed=1, shift=3.0), near)
    assert found.converged
    assert float(found.power) == pytest.approx(exact, rel=0.02)
    assert value(a, a, near) == pytest.approx(0, abs=1e-5)
    twice = DistanceConfig(label_distance="sinkhorn", reg=0.1, tolerance=1e-4)
    assert value(b, b, twice) == pytest.approx(0, abs=1e-3)
    plain = dataset_distance(*a, *b, replace(near, debias=False))
    assert float(plain.power) > float(dataset_distance(*a, *b, near).power)


def test_label_distances_of_sinkhorn_are_near_the_exact_ones_in_one_batch_of_unequal_classes():
    a, b = labelled_set(*data(20, 2)), labelled_set(*data(23, 2, 4, seed=1))
    exact = label_distance_matrix(prepare(a, EXACT), prepare(b, EXACT), EXACT)
    config = DistanceConfig(label_distance="sinkhorn", label_reg=0.05, tolerance=1e-5)
    found = label_distance_matrix(prepare(a, config), prepare(b, config), config)
    assert found.shape == (3, 4)
    assert torch.allclose(found, exact, rtol=0.06, atol=0.0)
    # what filling up does not change: each pair on its own
    for c in range(3):
        for k in range(4):
            x, y = a.features[a.label == c], b.features[b.label == k]
            ab, aa, bb = (squared_distances(*pair) for pair in ((x, y), (x, x), (y, y)))
            alone = sinkhorn_divergence(ab, aa, bb, epsilon=relative_epsilon(ab, 0.05), tolerance=1e-5)
            assert float(found[c, k]) == pytest.approx(float(alone.value), rel=1e-6)


def test_unconverged_transport_warns_with_its_error():
    config = DistanceConfig(reg=0.01, iterations=5, tolerance=1e-9)
    with pytest.warns(UserWarning, match="after 5 iterations with a marginal error of"):
        found = dataset_distance(*data(), *data(seed=1), config)
    assert not found.converged


def test_weights_are_copies_and_0_removes():
    (x, label), b = data(10, classes=2), data(7, classes=2, seed=1)
    weight = np.array([1, 2, 1, 0, 1, 1, 3, 1, 1, 1])
    dirty = x.copy()
    dirty[3] = np.nan
    copies = (np.repeat(x, weight, 0), np.repeat(label, weight))
    for config in (GAUSSIAN, EXACT, DistanceConfig(reg=0.2, tolerance=1e-9)):
        found = dataset_distance(dirty, label, *b, config, weight_a=weight * 2.5)
        assert float(found.value) == pytest.approx(value(copies, b, config), abs=1e-6)
        assert found.rows.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    uniform = value((x, label), b, weight_a=np.ones(10), weight_b=np.full(7, 3.0))
    assert uniform == pytest.approx(value((x, label), b), abs=1e-10)


def test_values_of_examples_are_slopes_and_find_the_one_that_lies_apart():
    x, label = data(12, 2, 2)
    x[5] += 40
    a, b = (x, label), data(12, 2, 2, seed=1)
    for config in (DistanceConfig(label_weight=0.0), DistanceConfig(reg=0.3, label_weight=0.0, tolerance=1e-10)):
        found = dataset_distance(*a, *b, config)
        values, others = found.example_values()
        assert int(values.argmax()) == 5
        assert float((values * found.weights[0]).sum()) == pytest.approx(0, abs=1e-9)
        assert others.shape == (12,)
    # a set pulls nowhere at itself once its own pull is taken off
    itself = dataset_distance(*b, *b, DistanceConfig(reg=0.3, tolerance=1e-11, iterations=50_000))
    assert all(float(values.abs().max()) < 1e-7 for values in itself.example_values())
    # the slope of the minimum as weight moves from all others to one
    step, i = 1e-6, 5
    limits = {"reg": 0.3, "debias": False, "label_weight": 0.0, "tolerance": 1e-11, "iterations": 50_000}
    found = dataset_distance(*a, *b, DistanceConfig(**limits))
    cost = squared_distances(*(torch.tensor(one[0]) for one in (a, b)))
    epsilon = 0.3 * cost.mean()

    def at(delta):
        weight = torch.full((12,), 1 / 12 - delta / 11, dtype=torch.float64)
        weight[i] = 1 / 12 + delta
        return float(sinkhorn(cost, weight, epsilon=epsilon, tolerance=1e-12, iterations=50_000).value)

    assert float(found.example_values()[0][i]) == pytest.approx((at(step) - at(-step)) / (2 * step), rel=1e-4)


def test_samples_are_stratified_reproducible_and_know_where_they_come_from():
    x, label = data(300, classes=3)
    x[label == 2] += 100
    b = data(200, seed=1)
    small = replace(GAUSSIAN, max_samples=30)
    one, two = (dataset_distance(x, label, *b, small, seed=4) for _ in range(2))
    assert float(one.value) == float(two.value)
    assert float(one.value) != value((x, label), b, small, seed=5)
    assert torch.bincount(one.labels[0]).tolist() == [10, 10, 10]
    assert label[one.rows.numpy()].tolist() == one.labels[0].tolist()
    assert torch.allclose(
        one.label_distances, dataset_distance(x, label, *b, replace(GAUSSIAN, max_samples=None)).label_distances
    )
    several = sampled_dataset_distance(x, label, *b, samples=30, repeats=4, seed=4)
    assert several.values[0] == float(one.value)
    assert len(set(several.values)) == 4
    assert several.mean == pytest.approx(np.mean(several.values))
    assert several.std == pytest.approx(np.std(several.values, ddof=1))


@pytest.mark.parametrize("reg", [None, 0.05])
def test_a_draw_keeps_symmetry_and_the_distance_0_to_itself(reg):
    a, b, c = data(90, seed=1), data(70, seed=2, shift=1.0), data(80, seed=3)
    config = replace(GAUSSIAN, max_samples=20, reg=reg)
    assert value(a, b, config) == pytest.approx(value(b, a, config), rel=1e-6)
    assert value(a, a, config) == pytest.approx(0, abs=1e-6)
    among = rank_sources(a, {"b": b, "c": c}, config)
    assert among["c"] == pytest.approx(rank_sources(a, {"c": c}, config)["c"], rel=1e-12)


def test_a_stratified_draw_follows_weights():
    drawn = labelled_set(np.arange(6.0)[:, None], [0, 0, 0, 1, 1, 1], weight=[1, 1, 1, 9, 0, 0])
    rng, counts = np.random.default_rng(0), np.zeros(6)
    for _ in range(200):
        places = stratified(drawn, 3, rng).place
        counts += np.bincount(places.numpy(), minlength=6)
    assert counts[3] / 200 == pytest.approx(3 * 9 / 12, abs=0.05)
    assert counts[:3].sum() / 200 == pytest.approx(3 * 3 / 12, abs=0.05)


def test_ranks_sources_nearest_first_and_embeds_first():
    target = data(20)
    sources = {"far": data(20, seed=1, shift=9.0), "same": data(20, seed=2), "middle": data(20, seed=3, shift=4.0)}
    found = rank_sources(target, sources)
    assert list(found) == ["same", "middle", "far"]
    assert found["far"] == pytest.approx(value(sources["far"], target))
    assert rank_sources(target, {"the target": sources["middle"]}) == {"the target": found["middle"]}
    flat = rank_sources(target, sources, embed=lambda x: np.asarray(x)[:, :1] * 0 + 1)
    assert set(flat.values()) == {0.0}


def test_images_are_flattened_and_tensors_keep_their_device_and_gradient():
    x = torch.randn(8, 2, 2, dtype=torch.float32, requires_grad=True)
    found = dataset_distance(x, torch.arange(8) % 2, x.detach() + 1, torch.arange(8) % 2)
    assert float(found.value.detach()) == pytest.approx(math.sqrt(2) * 2, abs=1e-5)
    found.power.backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32


def test_clusters_stand_in_for_labels():
    x, _ = data(30)
    spread = np.concatenate([x, x + 100])
    found = cluster_labels(spread, 2, seed=1)
    assert len(set(found[:30].tolist())) == len(set(found[30:].tolist())) == 1
    with pytest.raises(RequestError, match="61 clusters of 60"):
        cluster_labels(spread, 61)


X, Y = data(6)


@pytest.mark.parametrize(
    ("a", "config", "said"),
    [
        ((X[:, :2], Y), GAUSSIAN, r"\[6, 2\] and \[6, 3\].*embed.*Gromov"),
        ((np.zeros((0, 3)), []), GAUSSIAN, "not empty"),
        ((X, None), GAUSSIAN, "cluster_labels"),
        ((X, Y.astype(float)), GAUSSIAN, r"astype\(int\)"),
        ((X, np.eye(3)[Y]), GAUSSIAN, r"argmax\(1\)"),
        ((X, Y[:5]), GAUSSIAN, r"6 examples and labels of shape \[5\]"),
        ((np.where(np.arange(3) == 1, np.nan, X), Y), GAUSSIAN, "6 features that are NaN"),
        ((X, Y), DistanceConfig(most_bytes=1000), "6 examples against 6 need about 1,152 bytes.*max_samples"),
    ],
)
def test_bad_data_are_told(a, config, said):
    with pytest.raises(RequestError, match=said):
        dataset_distance(*a, X, Y, config)


def test_bad_weights_are_told():
    for weight in ([1.0], np.full(6, -1.0), np.zeros(6), [np.nan] * 6):
        with pytest.raises(RequestError, match="weights"):
            dataset_distance(X, Y, X, Y, weight_b=weight)


def test_to_power_of_2_is_the_square_itself():
    squares = torch.rand(3)
    assert to_power(squares, 2.0) is squares

"""Distances beside a distance: halves, shuffles by group, p-values, flows and maps."""

import numpy as np
import pytest

from weigher.errors import RequestError
from weigher.examples.dataset_distance import dataset_distance, distance_between
from weigher.examples.dataset_flow import dataset_flow
from weigher.examples.dataset_map import dataset_map
from weigher.examples.dataset_reference import Comparison, compare_datasets
from weigher.examples.label_distances import DistanceConfig


def groups(n, size, rng, spread=3.0):
    """Points in groups, such as voices in recordings: those of a group resemble each other."""
    centres = np.repeat(rng.normal(0, spread, (n, 2)), size, axis=0)
    return centres + rng.normal(0, 0.1, centres.shape), np.repeat(np.arange(n), size)


def test_shuffles_by_group_are_honest_where_single_examples_are_not():
    rng = np.random.default_rng(0)
    by_group = single = 0
    for seed in range(10):
        (x, of_x), (y, of_y) = groups(8, 5, rng), groups(8, 5, rng)
        same = np.zeros(40, int)
        limits = {"shuffles": 19, "halves": 0, "seed": seed}
        by_group += not compare_datasets(x, same, y, same, groups_a=of_x, groups_b=of_y, **limits).like
        single += not compare_datasets(x, same, y, same, **limits).like
    assert by_group <= 3  # one in twenty is to be expected
    assert single >= 6  # the same corpora, taken for samples of single points


def test_halves_are_of_the_first_set_and_shuffles_of_both():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(40, 2))
    y = rng.normal(size=(40, 2)) + np.array([6, 0])
    label = np.arange(40) % 2
    seen = []
    found = compare_datasets(
        x, label, y, label, halves=5, shuffles=19, progress=lambda stage, done, total: seen.append((stage, done, total))
    )
    assert max(found.halves) < 3 < float(found.distance.value)
    assert max(found.shuffled) < float(found.distance.value)
    assert min(found.shuffled) > 0.3
    assert found.p_value == 1 / 20
    assert found.spreads_beyond > 5
    assert seen[-1] == ("compare", 24, 24)
    again = compare_datasets(x, label, y, label, halves=5, shuffles=19)
    assert again.shuffled == found.shuffled


def test_shuffles_leave_as_many_groups_on_each_side_as_there_were(monkeypatch):
    sizes = []

    def noted(a, b, *settings, **more):
        sizes.append((len(a.data), len(b.data)))
        return distance_between(a, b, *settings, **more)

    monkeypatch.setattr("weigher.examples.dataset_reference.distance_between", noted)
    x = np.random.default_rng(3).normal(size=(18, 2))
    pairs = np.arange(18) // 2
    of_x, of_y = {"groups_a": pairs[:4], "groups_b": pairs[:14]}, [0] * 14
    compare_datasets(x[:4], [0] * 4, x[4:], of_y, **of_x, halves=1, shuffles=19)
    assert sizes == [(4, 14), (2, 2), *[(4, 14)] * 19]


def test_the_p_value_counts_the_real_one_in():
    distance = dataset_distance([[0.0]], [0], [[2.0]], [0])
    real = float(distance.value)
    found = Comparison(distance, (), (real + 1, real, real - 1, real - 2))
    assert found.p_value == pytest.approx(3 / 5)
    assert found.like
    assert Comparison(distance, (), (1.0, 1.0)).spreads_beyond is None


def test_a_set_of_one_group_has_no_halves():
    x = np.random.default_rng(2).normal(size=(6, 2))
    found = compare_datasets(x, [0] * 6, x + 1, [0] * 6, groups_a=["one"] * 6, groups_b=list("abcdef"), shuffles=19)
    assert found.halves == ()


def test_wrong_references_are_told():
    x = np.zeros((4, 2))
    with pytest.raises(RequestError, match="19 shuffles"):
        compare_datasets(x, [0] * 4, x, [0] * 4, shuffles=5)
    with pytest.raises(RequestError, match="groups of shape"):
        compare_datasets(x, [0] * 4, x, [0] * 4, groups_a=[1, 2])


def test_a_flow_ends_at_the_other_set_and_says_what_became_of_each_class():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 2))
    label = np.arange(30) % 3
    other = np.array(["north", "east", "south"])
    y = rng.normal(size=(30, 2)) * 0.3 + np.array([[0, 6], [6, 0], [0, -6]])[label]
    x = x + np.array([[0, 2], [2, 0], [0, -2]])[label]
    flow = dataset_flow(x, label, y, other[label], steps=25)
    assert flow.points.shape == (26, 30, 2)
    assert np.array_equal(flow.points[0], x)
    assert (np.diff(flow.distances) < 1e-6).all()
    assert flow.distances[-1] < 0.02 * flow.distances[0]
    assert flow.labels() == other[label].tolist()
    assert float(flow.last.value) == flow.distances[-1]


def test_one_step_of_rate_1_by_features_alone_is_the_mean_of_where_mass_goes():
    x, y = np.array([[0.0], [10.0]]), np.array([[1.0], [3.0], [12.0], [14.0]])
    flow = dataset_flow(x, [0, 0], y, [0] * 4, DistanceConfig(label_weight=0.0), steps=1, rate=1.0)
    assert np.allclose(flow.points[-1], [[2.0], [13.0]])


@pytest.mark.parametrize("weights", [(1.0, 1.0), (3.0, 0.5)])
def test_one_step_of_rate_1_undoes_a_shift_whatever_the_parts_weigh(weights):
    y = np.random.default_rng(4).normal(size=(9, 2))
    config = DistanceConfig(feature_weight=weights[0], label_weight=weights[1])
    flow = dataset_flow(y + np.array([30.0, -5.0]), [0] * 9, y, [0] * 9, config, steps=1, rate=1.0)
    assert np.allclose(flow.points[-1], y)


@pytest.mark.parametrize("settings", [{"rate": 0.0}, {"rate": 1.5}, {"steps": 0}])
def test_wrong_flows_are_told(settings):
    with pytest.raises(RequestError, match="needed"):
        dataset_flow([[0.0]], [0], [[1.0]], [0], **settings)
    with pytest.raises(RequestError, match="some would stay"):
        dataset_flow([[0.0], [1.0]], [0, 0], [[1.0]], [0], DistanceConfig(max_samples=1))


def test_a_map_of_points_in_the_plane_gives_their_distances_back():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(9, 2)) * [5, 1]
    table = np.linalg.norm(points[:, None] - points, axis=-1)
    found = dataset_map(table)
    assert found.stress < 1e-4
    assert np.allclose(np.linalg.norm(found.places[:, None] - found.places, axis=-1), table, atol=1e-2)
    assert found.places.std(0)[0] > found.places.std(0)[1]
    crowded = dataset_map(1 - np.eye(9))  # nine points as far from each other do not fit into a plane
    assert 0.1 < crowded.stress < 0.6
    assert dataset_map(np.zeros((1, 1))).places.shape == (1, 2)


@pytest.mark.parametrize("table", [np.ones((2, 2)), np.array([[0, 1.0], [2, 0]]), np.zeros((2, 3)), -1 + np.eye(2)])
def test_what_is_no_table_of_distances_is_told(table):
    with pytest.raises(RequestError, match="symmetric table"):
        dataset_map(table)

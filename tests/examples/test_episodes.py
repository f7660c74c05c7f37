"""Episodes: their shapes, how they are drawn, and what there is to draw."""

from collections import Counter
from math import factorial

import numpy as np
import pytest
import torch

from weigher.errors import RequestError
from weigher.examples.episodes import ClassPool, Episodes, all_tasks, mutual_exclusivity


@pytest.fixture
def pool():
    """4 classes named 10, 20, 30, 40 of 6 examples; the two features tell class and example."""
    name, number = torch.arange(4).repeat(6), torch.arange(24)
    return ClassPool(torch.stack([10.0 * (name + 1), number.double()], 1), 10 * (name + 1))


def draw(pool, seed=0, **asked):
    return pool.draw(
        **{"tasks": 50, "ways": 2, "shots": 2, "queries": 3} | asked, generator=np.random.default_rng(seed)
    )


def shown(episodes):
    """The tasks of drawn episodes, as classes in the order of their labels."""
    return [
        tuple(int(x[y == label][0, 0]) // 10 - 1 for label in range(int(y.max()) + 1))
        for x, y in zip(episodes.support_x, episodes.support_y, strict=True)
    ]


@pytest.mark.parametrize("grouping", ["fixed", "intrashuffle", "intershuffle"])
def test_every_task_there_is_is_drawn_and_equally_often(pool, grouping):
    drawn = Counter(shown(draw(pool, tasks=6000, grouping=grouping)))
    there = all_tasks(4, 2, grouping)
    assert set(drawn) == set(there)
    for count in drawn.values():
        assert count == pytest.approx(6000 / len(there), rel=0.2)


def test_four_classes_two_ways_have_2_and_4_and_12_tasks():
    counts = [len(all_tasks(4, 2, grouping)) for grouping in ("fixed", "intrashuffle", "intershuffle")]
    assert counts == [2, 4, 12]
    assert len(all_tasks(7, 3, "intershuffle")) == factorial(7) // factorial(4)
    assert all_tasks(5, 2, "fixed") == [(0, 1), (2, 3)]  # the last class fills no group


def test_support_and_query_share_no_example_and_agree_on_labels(pool):
    found = draw(pool, grouping="intershuffle")
    assert found.support_x.shape == (50, 4, 2)
    assert found.query_x.shape == (50, 6, 2)
    for task in range(50):
        seen = found.support_x[task, :, 1].tolist() + found.query_x[task, :, 1].tolist()
        assert len(set(seen)) == 10
        names = {}
        for x, y in ((found.support_x, found.support_y), (found.query_x, found.query_y)):
            for name, label in zip(x[task, :, 0].tolist(), y[task].tolist(), strict=True):
                assert names.setdefault(label, name) == name
        assert found.query_y[task].bincount().tolist() == [3, 3]
    assert torch.equal(pool.x[found.query_id], found.query_x)
    assert torch.equal(pool.x[found.support_id], found.support_x)


def test_the_generator_alone_decides_and_goes_on(pool):
    generator = np.random.default_rng(5)
    first, second = (draw_with(pool, generator) for _ in range(2))
    assert not torch.equal(first.support_x, second.support_x)
    again = np.random.default_rng(5)
    assert torch.equal(draw_with(pool, again).support_x, first.support_x)
    assert torch.equal(draw_with(pool, again).query_x, second.query_x)


def draw_with(pool, generator):
    return pool.draw(tasks=4, ways=3, queries=2, generator=generator)


def test_classes_of_unequal_size_give_only_their_own():
    pool = ClassPool(torch.arange(9.0)[:, None], torch.tensor([0, 0, 0, 0, 0, 0, 0, 1, 1]))
    found = pool.draw(tasks=200, ways=2, queries=1, grouping="fixed", generator=np.random.default_rng(0))
    of_small = torch.stack([found.support_x[:, 1, 0], found.query_x[:, 1, 0]], 1)
    assert of_small.sort(1).values.tolist() == [[7.0, 8.0]] * 200
    assert set(found.query_x[:, 0, 0].tolist()) == set(range(7))


def test_exclusivity_is_the_share_of_classes_with_several_labels():
    assert mutual_exclusivity(all_tasks(6, 3, "fixed")) == 0
    assert mutual_exclusivity(all_tasks(6, 3, "intrashuffle")) == 1
    assert mutual_exclusivity([(0, 1), (2, 0)]) == pytest.approx(1 / 3)
    with pytest.raises(RequestError, match="one or more"):
        mutual_exclusivity([])


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"shots": 4, "queries": 3}, "class 10 has 6 examples, and 4 shots with 3 queries need 7"),
        ({"ways": 5}, "4 classes and ways = 5"),
        ({"ways": 1}, "ways = 1"),
        ({"grouping": "any"}, "'any'"),
        ({"queries": 0}, "queries = 0"),
    ],
)
def test_what_cannot_be_drawn_is_named(pool, asked, words):
    with pytest.raises(RequestError, match=words):
        draw(pool, **asked)


def test_a_pool_needs_a_class_for_each_example():
    with pytest.raises(RequestError, match="whole numbers"):
        ClassPool(torch.zeros(3, 2), torch.zeros(2, dtype=torch.long))
    with pytest.raises(RequestError, match="float32"):
        ClassPool(torch.zeros(3, 2), torch.zeros(3))


X, Y = torch.zeros(2, 3, 4), torch.tensor([[0, 1, 1], [1, 0, 0]])


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ((X, Y, X[:1], Y[:1]), "as many tasks"),
        ((X, Y[:, :2], X, Y), "needed are"),
        ((X, Y, X[..., :3], Y), "alike examples"),
        ((X, Y, X, Y.float()), "be alike"),
        ((X, Y, X, torch.tensor([[0, 1, 2], [0, 0, 1]])), r"task 0 asks for the labels \[0, 1, 2\]"),
        ((X[:0], Y[:0], X[:0], Y[:0]), "needed are"),
    ],
)
def test_episodes_that_do_not_fit_are_refused(parts, words):
    with pytest.raises(RequestError, match=words):
        Episodes(*parts)


def test_real_targets_of_any_size_are_accepted():
    assert len(Episodes(X, torch.randn(2, 3), X, torch.randn(2, 3))) == 2
    assert len(Episodes(X, torch.randn(2, 3, 5), X[:, :1], torch.randn(2, 1, 5))) == 2

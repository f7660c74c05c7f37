"""Augmentations of labels: one key for each task, what undoes them, and the entropy they add, counted exactly."""

import itertools
import math

import numpy as np
import pytest
import torch

from weigher.errors import RequestError
from weigher.examples.episodes import ClassPool, Episodes
from weigher.examples.label_entropy import augmented_joint, conditional_entropy, entropy_gain, label_table
from weigher.examples.meta_augmentation import (
    CircularShift,
    DiscreteShift,
    MetaAugment,
    Permute,
    Shift,
    SoftenLabels,
    augment,
    circular_mse,
)


def generator(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture
def classes():
    """30 tasks of 3 ways, every label once in the support set."""
    x, y = torch.randn(30, 3, 2), torch.arange(3).expand(30, 3)
    return Episodes(x, y, torch.randn(30, 6, 2), torch.arange(3).repeat(2).expand(30, 6))


@pytest.fixture
def numbers():
    return Episodes(*[torch.rand(30, n, d, dtype=torch.float64) for n, d in ((5, 1), (5, 2), (7, 1), (7, 2))])


def test_support_and_query_share_the_key_and_tasks_do_not(classes):
    found, key = augment(classes, Permute(3), generator())
    for task in range(30):
        perm = dict(enumerate(key[task].tolist()))
        assert found.support_y[task].tolist() == [perm[y] for y in classes.support_y[task].tolist()]
        assert found.query_y[task].tolist() == [perm[y] for y in classes.query_y[task].tolist()]
    assert {tuple(one) for one in key.tolist()} == set(itertools.permutations(range(3)))
    assert found.query_x is classes.query_x
    assert torch.equal(Permute(3).apply(key.argsort(1), found.query_y), classes.query_y)


def test_outputs_are_permuted_as_their_classes_are(classes):
    shares = torch.nn.functional.one_hot(classes.support_y, 3).float()
    key = Permute(3).draw(shares, generator())
    assert torch.equal(Permute(3).apply(key, shares).argmax(-1), Permute(3).apply(key, classes.support_y))


def test_a_shift_keeps_differences_within_a_task_and_changes_them_between_tasks(numbers):
    for augmentation in (Shift(2.0), DiscreteShift(5, 0.3)):
        found, key = augment(numbers, augmentation, generator())
        moved = found.query_y - numbers.query_y
        torch.testing.assert_close(moved, moved[:, :1].expand_as(moved))
        torch.testing.assert_close(found.support_y - numbers.support_y, moved[:, :5])
        assert moved[:, 0].unique().numel() > 4
        torch.testing.assert_close(augmentation.apply(-key, found.query_y), numbers.query_y)


def test_a_shift_stays_in_its_range_and_moves_every_output_by_itself(numbers):
    key = Shift(0.5).draw(numbers.query_y.expand(30, 7, 2), generator())
    assert key.shape == (30, 2)
    assert 0.4 < key.abs().max() <= 0.5
    assert not torch.equal(key[:, 0], key[:, 1])


def test_a_bit_is_one_of_two_shifts(numbers):
    _, key = augment(numbers, DiscreteShift(2), generator())
    assert set(key.tolist()) == {0.0, 0.5}
    assert set(augment(numbers, DiscreteShift(2, 3.0), generator())[1].tolist()) == {0.0, 3.0}


def test_angles_stay_on_the_circle_and_can_be_turned_back(numbers):
    for augmentation in (CircularShift(), CircularShift(levels=4)):
        found, key = augment(numbers, augmentation, generator())
        assert found.query_y.min() >= 0
        assert found.query_y.max() < 1
        assert circular_mse(augmentation.apply(-key, found.query_y), numbers.query_y) < 1e-20
        moved = found.query_y - numbers.query_y
        assert circular_mse(moved, moved[:, :1].expand_as(moved)) < 1e-20  # one turn for a whole task


def test_the_circle_has_no_seam():
    a, b = torch.rand(100, dtype=torch.float64), torch.rand(100, dtype=torch.float64)
    near = (a - b).abs()
    expected = torch.minimum(near, 1 - near).square().mean()
    torch.testing.assert_close(circular_mse(a, b), expected)
    torch.testing.assert_close(circular_mse(360 * a, 360 * b, period=360.0), 360**2 * expected)


def test_softened_labels_sum_to_one_and_keep_their_largest(classes):
    shares = torch.nn.functional.one_hot(classes.query_y, 3).double()
    found = SoftenLabels().apply(SoftenLabels().draw(shares, generator()), shares)
    torch.testing.assert_close(found.sum(-1), torch.ones(30, 6, dtype=torch.float64))
    assert torch.equal(found.argmax(-1), classes.query_y)
    assert set(SoftenLabels().draw(torch.zeros(300, 1, 2), generator()).tolist()) == {k / 10 for k in range(10)}


def test_draws_repeat_by_seed_and_differ_from_step_to_step(numbers):
    one = generator(7)
    first, second = (augment(numbers, Shift(1.0), one)[1] for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(augment(numbers, Shift(1.0), generator(7))[1], first)


def test_no_labels_are_changed_in_evaluation_mode(classes):
    change = MetaAugment(Permute(3))
    assert not torch.equal(change(classes, generator()).query_y, classes.query_y)
    with pytest.raises(RequestError, match="evaluation mode"):
        change.eval()(classes, generator())


@pytest.mark.parametrize(
    ("augmentation", "y", "words"),
    [
        (Permute(3), torch.zeros(2, 4), "use Shift or DiscreteShift"),
        (Permute(3), torch.zeros(2, 4, 2), "use Shift"),
        (Permute(2), torch.tensor([[0, 2]]), "number the classes of every task anew"),
        (Permute(2), torch.tensor([[0, -1]]), "from -1 to 0"),
        (Shift(1.0), torch.tensor([[0, 1]]), "use Permute"),
        (DiscreteShift(2), torch.tensor([[0, 1]]), "use Permute"),
        (CircularShift(), torch.tensor([[0, 1]]), "use Permute"),
        (SoftenLabels(), torch.zeros(2, 3), "shares"),
    ],
)
def test_labels_of_the_wrong_kind_are_refused(augmentation, y, words):
    with pytest.raises(RequestError, match=words):
        augment(Episodes(y, y, y, y), augmentation, generator())


def test_settings_that_augment_nothing_are_refused_or_warned_of():
    with pytest.raises(RequestError, match="use Shift"):
        Permute(1)
    for wrong in (
        lambda: Shift(-1.0),
        lambda: DiscreteShift(0),
        lambda: CircularShift(0.0),
        lambda: CircularShift(1, 1),
    ):
        with pytest.raises(RequestError, match="needed"):
            wrong()
    with pytest.warns(UserWarning, match="no augmentation"):
        Shift(0.0)
    with pytest.warns(UserWarning, match="no augmentation"):
        DiscreteShift(1)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_a_permutation_adds_log_n_not_log_of_all_permutations(n):
    known = torch.eye(n, dtype=torch.float64)  # H(Y|X) = 0
    assert entropy_gain(known, torch.arange(n), Permute(n)) == pytest.approx(math.log(n), abs=1e-12)


def test_the_entropy_after_a_permutation_is_counted_by_brute_force():
    joint = torch.rand(5, 3, dtype=torch.float64)
    every = torch.stack([joint[:, list(perm)] for perm in itertools.permutations(range(3))]).mean(0)
    torch.testing.assert_close(augmented_joint(joint, torch.arange(3), Permute(3)), every)
    assert conditional_entropy(every) == pytest.approx(math.log(3), abs=1e-12)


def test_a_shift_adds_the_entropy_of_its_key_where_values_cannot_meet():
    joint = torch.rand(4, 3, dtype=torch.float64)
    assert entropy_gain(joint, torch.tensor([0.0, 1.0, 2.0]), DiscreteShift(4)) == pytest.approx(math.log(4), abs=1e-12)
    # 0 + 1/2 meets 1/2 + 0: of 0, 1/2, 1/2, 1 the middle has half of all, 3/2 bits in all, and 1 bit was there before
    met = entropy_gain(torch.ones(1, 2, dtype=torch.float64), torch.tensor([0.0, 0.5]), DiscreteShift(2))
    assert met == pytest.approx(0.5 * math.log(2), abs=1e-12)
    # on a circle of four places nothing is left to learn, whatever was known
    assert entropy_gain(torch.eye(2).double(), torch.tensor([0.25, 0.5]), CircularShift(levels=4)) == pytest.approx(
        math.log(4), abs=1e-12
    )


def test_conditional_entropy_by_its_definition():
    joint = torch.rand(6, 4, dtype=torch.float64)
    p = joint / joint.sum()
    expected = -(p * (p / p.sum(1, keepdim=True)).log()).sum()
    torch.testing.assert_close(conditional_entropy(7 * joint), expected)
    for wrong in (torch.zeros(2, 2), torch.tensor([[1.0, -1.0]]), torch.tensor([[math.inf]]), torch.ones(3)):
        with pytest.raises(RequestError, match="counts"):
            conditional_entropy(wrong)


def test_keys_that_cannot_be_counted_are_said_to_be():
    known, y = torch.eye(2), torch.tensor([0.0, 1.0])
    for augmentation, words in ((Shift(1.0), "levels"), (CircularShift(), "levels"), (Permute(9), "too many")):
        with pytest.raises(RequestError, match=words):
            entropy_gain(known, y, augmentation)


def test_counted_tasks_show_what_each_way_to_make_them_leaves_open():
    pool = ClassPool(torch.zeros(24, 1), torch.arange(24) // 4)
    found = {}
    for grouping in ("fixed", "intrashuffle", "intershuffle"):
        tasks = pool.draw(tasks=4000, ways=3, queries=2, grouping=grouping, generator=generator())
        found[grouping] = float(conditional_entropy(label_table([tasks])))
        if grouping == "fixed":
            permuted = label_table([augment(tasks, Permute(3), generator())[0]])
    assert found["fixed"] == 0
    assert found["intrashuffle"] == pytest.approx(math.log(3), abs=5e-3)
    assert found["intershuffle"] == pytest.approx(math.log(3), abs=5e-3)
    assert float(conditional_entropy(permuted)) == pytest.approx(math.log(3), abs=5e-3)
    y = torch.zeros(1, 2)
    for wrong, words in (([Episodes(y, y, y, y)], "support_id"), ([], "one or more")):
        with pytest.raises(RequestError, match=words):
            label_table(wrong)

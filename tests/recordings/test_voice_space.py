import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from weigher.errors import RequestError
from weigher.recordings.voice_space import VoiceSpace, shrunk_covariance, two_covariances


def people_and_rest(seed=0, *, people=60, each=6, size=12, between=1.0, channel=4.0):
    """Vectors around a far mean: people differ in half of the directions, one person's vectors most in another."""
    rng = np.random.default_rng(seed)
    spread = between * np.array([3.0, 1, 1, 1, 0.5, 0.5] + [0] * (size - 6))
    within = np.ones(size)
    within[-1] = channel
    names = np.repeat(np.arange(people), each)
    far = np.full(size, 30.0)  # so that setting the length changes next to nothing
    return far + (rng.normal(size=(people, size)) * spread)[names] + rng.normal(size=(len(names), size)) * within, names


def equal_error_rate(voices, names):
    rows = voices / np.linalg.norm(voices, axis=1, keepdims=True)
    upper = np.triu_indices(len(rows), 1)
    scores, same = (rows @ rows.T)[upper], (names[:, None] == names)[upper]
    order = np.argsort(-scores)
    missed, accepted = 1 - np.cumsum(same[order]) / same.sum(), np.cumsum(~same[order]) / (~same).sum()
    return missed[np.argmin(abs(missed - accepted))]


def test_shrinking_is_that_of_scikit_learn():
    rows = np.random.default_rng(0).normal(size=(50, 20)) * np.linspace(1, 4, 20)
    assert np.allclose(shrunk_covariance(rows), ledoit_wolf(rows, assume_centered=True)[0])


def test_the_weights_are_those_of_the_likelihood_ratio():
    """One direction, variances 3 and 1: log p(x, y | one person) - log p(x) p(y) has the cross term 3 / 7 x y."""
    from scipy.stats import multivariate_normal

    one = multivariate_normal(cov=[[4.0, 3.0], [3.0, 4.0]])
    two = multivariate_normal(cov=[[4.0, 0.0], [0.0, 4.0]])

    def ratio(x, y):
        return one.logpdf([x, y]) - two.logpdf([x, y])

    cross = (ratio(1, 1) - ratio(1, -1)) / 2
    assert cross == pytest.approx(3 / (2 * 3 + 1))


def test_the_directions_are_those_of_discriminant_analysis():
    rows, names = people_and_rest()
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    _, mapped = two_covariances(rows, names)
    first = mapped[np.linalg.norm(mapped, axis=1).argmax()]
    theirs = LinearDiscriminantAnalysis(solver="eigen", n_components=1).fit(unit, names).scalings_[:, 0]
    assert abs(np.corrcoef(unit @ first, unit @ theirs)[0, 1]) > 0.99


def test_others_are_told_apart_better():
    rows, names = people_and_rest()
    space = VoiceSpace(rows.shape[1])
    strangers, theirs = people_and_rest(seed=1)
    before = equal_error_rate(space(torch.from_numpy(strangers)).numpy(), theirs)
    space.fit(rows, names)
    after = equal_error_rate(space(torch.from_numpy(strangers)).numpy(), theirs)
    assert after < 0.75 * before
    assert torch.allclose(space(torch.from_numpy(strangers)).norm(dim=-1), torch.ones(len(strangers)))


def test_it_does_not_depend_on_order_or_names():
    rows, names = people_and_rest(people=25)
    order = np.random.default_rng(2).permutation(len(rows))
    mean, mapped = two_covariances(rows, names)
    again, turned = two_covariances(rows[order], 100 - names[order])
    assert np.allclose(mean, again)
    assert np.allclose(mapped.T @ mapped, turned.T @ turned)


def test_few_people_or_alike_ones_leave_all_directions_open():
    rows, names = people_and_rest(people=12)
    _, mapped = two_covariances(rows, names)
    assert np.linalg.matrix_rank(mapped) > 8
    rows, names = people_and_rest(people=30, between=0.0, each=3)
    _, mapped = two_covariances(rows, np.random.default_rng(0).permutation(names))
    assert np.isfinite(mapped).all()
    assert mapped.any()


def test_people_heard_once_and_too_few_people_are_an_error():
    rows, names = people_and_rest(people=9, each=2)
    for whose, count in ((np.arange(18), 18), (names, 9)):
        with pytest.raises(RequestError, match=f"18 voices of {count} people are given; needed are 10 people"):
            two_covariances(rows, whose)


def test_a_new_space_only_sets_the_length():
    x = torch.randn(3, 5)
    assert torch.allclose(VoiceSpace(5)(x), torch.nn.functional.normalize(x, dim=-1))

"""Settings and sizes of data set distances: what is refused or warned of before anything is computed."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

from weigher.errors import RequestError
from weigher.examples.dataset_distance import dataset_distance, pairwise_dataset_distance, rank_sources
from weigher.examples.label_distances import DistanceConfig

X, Y = np.random.default_rng(0).normal(size=(6, 3)), np.arange(6) % 3


@pytest.mark.parametrize(
    "settings",
    [
        {"reg": 0.0},
        {"reg": -1.0},
        {"label_reg": 0.0},
        {"p": 0.5, "label_distance": "exact"},
        {"feature_weight": -1.0},
        {"feature_weight": 0.0, "label_weight": 0.0},
        {"max_samples": 0},
        {"label_distance": "gausian"},
        {"ddof": 3},
        {"iterations": 0},
        {"tolerance": 0.0},
        {"most_bytes": 0},
    ],
)
def test_bad_settings_are_told(settings):
    with pytest.raises(RequestError, match=f"{next(iter(settings))}.*needed"):
        DistanceConfig(**settings)


def test_label_distances_need_no_memory_where_no_clouds_are_made():
    clouds = DistanceConfig(label_distance="exact", label_weight=0.0, max_samples=1, most_bytes=32)
    for config in (clouds, DistanceConfig(max_samples=1, most_bytes=32)):
        dataset_distance(X, Y, X, Y, config)


@pytest.mark.parametrize(
    ("label_distance", "least", "said"),
    [
        ("exact", 128, "2 examples of a class against 2 need about 128 bytes.*'gaussian'"),
        ("sinkhorn", 384, "2 examples of a class against 2, for 3 classes at once, need about 384 bytes.*'gaussian'"),
    ],
)
def test_clouds_of_classes_that_need_too_much_memory_are_told(label_distance, least, said):
    config = DistanceConfig(label_distance=label_distance, max_samples=1, most_bytes=least, label_reg=1.0)
    dataset_distance(X, Y, X, Y, config)
    with pytest.raises(RequestError, match=said):
        dataset_distance(X, Y, X, Y, replace(config, most_bytes=least - 1))


def test_debiased_transport_compares_each_set_with_itself_and_needs_memory_for_it():
    few, many = (np.zeros((2, 3)), [0, 1]), (np.eye(40, 3), np.arange(40) % 2)
    config = DistanceConfig(reg=0.5, max_samples=None, most_bytes=10_000)
    dataset_distance(*few, *many, replace(config, debias=False))
    for pair in ((*few, *many), (*many, *few)):
        with pytest.raises(RequestError, match="40 examples against 40 need"):
            dataset_distance(*pair, config)


def test_features_of_different_scales_are_warned_of():
    with pytest.warns(UserWarning, match="standardise"):
        dataset_distance(X * [1, 1, 1e5], Y, X, Y)
    for call in (
        lambda: dataset_distance(X, Y, 1e4 * X, Y),
        lambda: pairwise_dataset_distance([(X, Y), (X + 1, Y), (1e4 * X, Y)]),
        lambda: rank_sources((X, Y), {"other": (1e4 * X, Y)}),
    ):
        with pytest.warns(UserWarning, match="one data set.*times as wide.*standardise both"):
            call()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset_distance(X * [1, 1, 0], Y, X * [1, 1, 0], Y)  # a constant feature has no scale
        dataset_distance(X, Y, X[:1], Y[:1])  # nor has a single point
        dataset_distance(X, Y, X + 1e6, Y)

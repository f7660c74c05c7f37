"""Weights and pools against numpy, scipy and torch."""

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
import torch.nn.functional as F

from weigher.core.pooling import (
    attention_pool,
    auto_pool,
    mean_pool,
    noisy_or,
    power_pool,
    self_weighted_mean,
    weighted_mean,
    weighted_statistics,
)
from weigher.core.weights import entropy, log_softmax, normalise, softmax


@pytest.fixture
def drawn():
    rng = np.random.default_rng(0)
    return rng.random((4, 9)), rng.integers(0, 4, (4, 9)), rng.normal(size=(4, 9, 3))


def same(got, expected):
    torch.testing.assert_close(got, torch.as_tensor(np.asarray(expected)))


def test_normalise_is_torch_s(drawn):
    x = torch.from_numpy(drawn[0])
    torch.testing.assert_close(normalise(x, 1), F.normalize(x, p=1, dim=1))


def test_softmax_and_its_logarithm_are_scipy_s(drawn):
    x, counts, _ = drawn
    z = 8 * x
    same(softmax(torch.from_numpy(z), 1), scipy.special.softmax(z, axis=1))
    same(log_softmax(torch.from_numpy(z), 1), scipy.special.log_softmax(z, axis=1))
    same(
        log_softmax(torch.from_numpy(z), 1, weight=torch.from_numpy(counts)),
        z - scipy.special.logsumexp(z, axis=1, b=counts, keepdims=True),
    )


def test_entropy_is_scipy_s(drawn):
    same(entropy(torch.from_numpy(drawn[0]), 1), scipy.stats.entropy(drawn[0], axis=1))


def test_means_are_numpy_s_averages(drawn):
    x, counts, values = drawn
    tx, tc = torch.from_numpy(x), torch.from_numpy(counts)
    same(mean_pool(tx, 1, weight=tc), np.average(x, axis=1, weights=counts))
    same(self_weighted_mean(tx, 1, weight=tc), np.average(x, axis=1, weights=counts * x))
    same(power_pool(tx, 1, 2.5, weight=tc), np.average(x, axis=1, weights=counts * x**2.5))
    same(auto_pool(tx, 1, 4.0, weight=tc), np.average(x, axis=1, weights=counts * np.exp(4 * x)))
    same(
        weighted_mean(torch.from_numpy(values), tx[..., None])[:, 0],
        [np.average(v, axis=0, weights=w) for v, w in zip(values, x, strict=True)],
    )


def test_standard_deviation_is_numpy_s_weighted_covariance(drawn):
    x, _, values = drawn
    found = weighted_statistics(torch.from_numpy(values), torch.from_numpy(x)[..., None])
    expected = [np.sqrt(np.diag(np.cov(v.T, aweights=w, ddof=0))) for v, w in zip(values, x, strict=True)]
    same(found.std[:, 0], expected)


def test_noisy_or_is_the_binomial_chance_of_at_least_one():
    same(noisy_or(torch.full((6,), 0.2, dtype=torch.float64), 0), scipy.stats.binom.sf(0, 6, 0.2))


def test_attention_is_torch_s(drawn):
    _, _, values = drawn
    generator = torch.Generator().manual_seed(0)
    v = torch.from_numpy(values)
    query, key = (torch.randn(4, n, 5, dtype=torch.float64, generator=generator) for n in (2, 9))
    mask = torch.arange(9) < torch.tensor([9, 5, 1, 7])[:, None]
    expected = F.scaled_dot_product_attention(query, key, v, attn_mask=mask[:, None].expand(4, 2, 9))
    scores = key @ query.mT / 5**0.5
    torch.testing.assert_close(attention_pool(v, scores, mask), expected)

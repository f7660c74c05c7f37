"""Every weighted function of the core under the contract of weights."""

from functools import partial

import pytest
import torch

from contract import Subject, check_laws
from weigher.core.losses import (
    asymmetric,
    bce,
    class_balanced_bce,
    focal,
    softmax_cross_entropy,
    wbce,
    weighted_reduce,
)
from weigher.core.matching import permutation_invariant_loss
from weigher.core.pooling import (
    attention_pool,
    auto_pool,
    exp_softmax_pool,
    max_pool,
    mean_pool,
    noisy_or,
    power_pool,
    self_weighted_mean,
    weighted_mean,
    weighted_statistics,
)
from weigher.core.weights import effective_sample_size, entropy, log_softmax, normalise, softmax


def tracks(batch, size, generator):
    return (torch.rand(batch, size, 3, dtype=torch.float64, generator=generator),)


def frames(batch, size, generator):
    return (torch.randn(batch, size, 3, dtype=torch.float64, generator=generator),)


def frames_and_tracks(batch, size, generator):
    return frames(batch, size, generator) + tracks(batch, size, generator)


def answers(batch, size, generator):
    """Several right and several wrong ones: where a weight of 0 brings the first of its kind, the loss jumps."""
    logits = 3 * torch.randn(batch, size, dtype=torch.float64, generator=generator)
    return logits, (torch.arange(size) + torch.arange(batch)[:, None]) % 2 == 0


def labels_by_slots(batch, size, generator):
    return (torch.randn(batch, size, 12, dtype=torch.float64, generator=generator),)


def column(weight):
    return None if weight is None else weight[..., None]


def pool(function, *extra):
    return lambda x, weight=None: function(x, 1, *extra, weight=column(weight))


def masked(function):
    return lambda x, weight=None: function(x, 1, column(weight))


def per_class(function, **options):
    """Losses of single classes, averaged over the classes under the same weights."""
    return lambda logits, targets, weight=None: weighted_reduce(function(logits, targets, **options), weight, 1)


def balanced(logits, targets, weight=None):
    return weighted_reduce(class_balanced_bce(logits, targets, weight=weight), weight, 1)


def slot_embeddings(values, x, weight=None):
    return weighted_mean(values, x if weight is None else x * column(weight))


def both_statistics(values, x, weight=None):
    found = weighted_statistics(values, x if weight is None else x * column(weight))
    return torch.cat([found.mean, found.std], dim=-1)


def permutation_invariant(cost, weight=None):
    counts = None if weight is None else weight.sum(1)
    return permutation_invariant_loss(cost.mT, counts)


LEARNED_EXPONENT = torch.tensor([0.0, 0.5, 2.5], dtype=torch.float64)

# what takes no weight of its own cannot clean NaN out of the way back: those subjects get large finite padding
SUBJECTS = [
    Subject("normalise", masked(normalise), tracks, output="shared", weights="mask"),
    Subject("softmax", pool(softmax), frames, output="shared"),
    Subject("log_softmax", pool(log_softmax), frames, output="kept", normalised=False),
    Subject("entropy", masked(entropy), tracks, weights="mask"),
    Subject("effective_sample_size", masked(effective_sample_size), tracks, weights="mask"),
    Subject("mean_pool", pool(mean_pool), frames),
    Subject("max_pool", pool(max_pool), frames, jumps=True),
    Subject("noisy_or", pool(noisy_or), tracks, normalised=False),
    Subject("self_weighted_mean", pool(self_weighted_mean), tracks),
    Subject("power_pool", pool(power_pool, 2.5), tracks),
    Subject("power_pool per slot", pool(power_pool, LEARNED_EXPONENT), tracks),
    Subject("exp_softmax_pool", pool(exp_softmax_pool), tracks),
    Subject("auto_pool", pool(auto_pool, -3.0), frames),
    Subject("attention_pool", lambda v, s, weight=None: attention_pool(v, s, weight=weight), frames_and_tracks),
    Subject(
        "attention_pool mask", lambda v, s, weight=None: attention_pool(v, s, weight), frames_and_tracks, weights="mask"
    ),
    Subject("weighted_mean", slot_embeddings, frames_and_tracks, garbage=1e6),
    Subject(
        "weighted_mean mask", lambda v, x, weight=None: weighted_mean(v, x, weight), frames_and_tracks, weights="mask"
    ),
    Subject("weighted_statistics", both_statistics, frames_and_tracks, garbage=1e6),
    Subject(
        "weighted_statistics mask",
        lambda v, x, weight=None: weighted_statistics(v, x, weight).std,
        frames_and_tracks,
        weights="mask",
    ),
    Subject("bce", per_class(bce), answers, garbage=1e6),
    Subject("class_balanced_bce", balanced, answers),
    Subject("focal", per_class(focal), answers, garbage=1e6),
    Subject("asymmetric", per_class(asymmetric), answers, garbage=1e6),
    Subject(
        "asymmetric steep", per_class(asymmetric, gamma_positive=1, gamma_negative=0.5, margin=0), answers, garbage=1e6
    ),
    Subject("softmax_cross_entropy", softmax_cross_entropy, answers, normalised=False),
    Subject("wbce", wbce, answers, differentiable=False),
    Subject("wbce undetached", partial(wbce, detach=False), answers),
    Subject("permutation_invariant_loss", permutation_invariant, labels_by_slots, weights="mask", ordered=True),
]


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda s: s.name)
def test_core_keeps_the_laws(subject):
    assert len(check_laws(subject)) >= 9

"""Teaching: what a scorer is given to read, how much of it is padding, which weights are kept; and long texts."""

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils._python_dispatch import TorchDispatchMode

from weigher.tokens.learning import ClassifierConfig, learn, read_tokens
from weigher.tokens.sequences import Sequences
from weigher.tokens.token_scores import ScorerConfig, TokenScorer

WORDS = 30


def tiny(model="token-mlp"):
    return TokenScorer(WORDS, ScorerConfig(model, embedding=10, layers=(16,), heads=2))


def corpus_of(lengths):
    rng = np.random.default_rng(0)
    return Sequences.of([rng.integers(0, WORDS, length) for length in lengths])


def taught(corpus, **settings):
    scorer = tiny()
    settings = {"epochs": 1, "batch": 16, "held_out": 0.0, **settings}
    learn(scorer, corpus, np.arange(len(corpus)) % 2, ClassifierConfig(**settings))
    return scorer


@pytest.fixture
def given(monkeypatch):
    """What scorers are given to read from now on: whether they learn, ids and lengths."""
    calls, true = [], TokenScorer.forward

    def forward(self, ids, lengths):
        calls.append((self.training, ids, lengths))
        return true(self, ids, lengths)

    monkeypatch.setattr(TokenScorer, "forward", forward)
    return calls


def test_the_first_words_of_a_long_text_are_learned_from_and_all_of_them_are_applied(given):
    corpus = corpus_of([3000, *range(10, 80)])
    taught(corpus, longest=50, word_dropout=0.0)
    learned = [
        row[:length].tolist() for training, *batch in given if training for row, length in zip(*batch, strict=True)
    ]
    assert sorted(learned) == sorted(corpus[i][:50].tolist() for i in range(len(corpus)))
    assert max(ids.shape[1] for training, ids, _ in given if training) == 50
    assert max(ids.shape[1] for training, ids, _ in given if not training) == 3000  # where the bias is settled


def test_a_share_of_the_words_is_unknown_in_training_alone(given):
    taught(corpus_of([100] * 200), word_dropout=0.3)
    for training, share in ((True, 0.3), (False, 0.0)):
        ids = torch.cat([ids.flatten() for was_training, ids, _ in given if was_training == training])
        assert len(ids) == 20_000
        chance = 4 * (share * (1 - share) / len(ids)) ** 0.5
        assert (ids == WORDS).double().mean().item() == pytest.approx(share, abs=chance)


def test_batches_of_training_hold_little_padding(given):
    lengths = np.random.default_rng(0).lognormal(5.2, 0.6, 3000).astype(int)  # like film reviews
    taught(corpus_of(lengths), batch=32)
    places = sum(ids.numel() for training, ids, _ in given if training)
    words = sum(int(counts.sum()) for training, _, counts in given if training)
    assert words == np.minimum(lengths, 1000).sum()
    assert 1 - words / places < 0.15


@pytest.mark.parametrize(("averaged", "last"), [(0.0, 1), (0.3, 12), (1.0, 40)])
def test_what_is_kept_is_the_mean_of_the_last_weights(averaged, last):
    steps = []

    def keep(optimizer, args, kwargs):
        steps.append([parameter.detach().clone() for group in optimizer.param_groups for parameter in group["params"]])

    hook = register_optimizer_step_post_hook(keep)
    try:
        scorer = taught(corpus_of([20] * 64), epochs=5, batch=8, averaged=averaged)
    finally:
        hook.remove()
    assert len(steps) == 40
    means = [torch.stack(of_steps).mean(0) for of_steps in zip(*steps[-last:], strict=True)]
    kept = dict(scorer.named_parameters())
    del kept["head.2.bias"]  # is settled after that
    for name, parameter in kept.items():
        assert any(mean.shape == parameter.shape and torch.allclose(mean, parameter, atol=1e-6) for mean in means), name


class _Frugal(TorchDispatchMode):
    """Lets no operation make a tensor of more than so many numbers."""

    def __init__(self, most):
        super().__init__()
        self.most = most

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, tuple | list) else (found,):
            assert not isinstance(tensor, torch.Tensor) or tensor.numel() <= self.most
        return found


@pytest.mark.parametrize("model", ["token-mlp", "weighted-mlp", "local-attention"])
def test_the_vectors_of_a_long_text_never_stand_in_memory_at_once(model):
    words = 200_000
    ids, scorer = torch.randint(0, WORDS, (1, words)), tiny(model).eval()
    with _Frugal(3 * words):  # a few numbers for each word; a vector has 10
        found = read_tokens(scorer, ids, torch.tensor([words]))
    assert found.scores.shape == (1, words)

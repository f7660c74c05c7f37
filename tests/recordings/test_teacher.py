import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp

from weigher.errors import RequestError
from weigher.recordings.teacher import (
    TeacherConfig,
    cast_evidence,
    clear_frames,
    label_evidence,
    label_shares,
    partial_label_loss,
    sticky_posteriors,
    teach,
)


def by_enumeration(evidence, prior, stay):
    """Posteriors of one recording [t, k] as a sum over all paths of states."""
    t, k = evidence.shape
    posterior, total = np.zeros((t, k)), 0.0
    for path in itertools.product(range(k), repeat=t):
        weight = prior[path[0]]
        for before, now in itertools.pairwise(path):
            weight *= stay * (before == now) + (1 - stay) * prior[now]
        weight *= math.exp(sum(evidence[i, state] for i, state in enumerate(path)))
        total += weight
        for i, state in enumerate(path):
            posterior[i, state] += weight
    return posterior / total


def by_logarithms(evidence, prior, stay):
    """Posteriors of one recording [t, k] by forward-backward with a full transition matrix in the log domain."""
    t, k = evidence.shape
    with np.errstate(divide="ignore"):
        start = np.log(prior)
        move = np.log(stay * np.eye(k) + (1 - stay) * prior[None, :])
    forward, backward = np.empty((t, k)), np.zeros((t, k))
    forward[0] = start + evidence[0]
    for i in range(1, t):
        forward[i] = logsumexp(forward[i - 1][:, None] + move, axis=0) + evidence[i]
    for i in range(t - 2, -1, -1):
        backward[i] = logsumexp(move + (evidence[i + 1] + backward[i + 1])[None, :], axis=1)
    both = forward + backward
    return np.exp(both - logsumexp(both, axis=1, keepdims=True))


@given(
    st.integers(1, 5),
    st.integers(1, 3),
    st.floats(0, 0.999),
    st.integers(0, 2**31),
    st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_posteriors_are_the_sum_over_all_paths(t, k, stay, seed, impossible):
    rng = np.random.default_rng(seed)
    evidence, prior = rng.normal(0, 3, (2, t, k)), rng.dirichlet(np.ones(k), 2)
    if impossible and k > 1:
        prior[:, 0] = 0
        prior /= prior.sum(1, keepdims=True)
    got = sticky_posteriors(torch.from_numpy(evidence), torch.from_numpy(prior), stay).numpy()
    for row in range(2):
        np.testing.assert_allclose(got[row], by_enumeration(evidence[row], prior[row], stay), atol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 30.0, 1000.0])
def test_posteriors_are_those_of_the_log_domain(scale):
    rng = np.random.default_rng(0)
    evidence, prior = scale * rng.normal(size=(2, 300, 5)), rng.dirichlet(np.ones(5), 2)
    got = sticky_posteriors(torch.from_numpy(evidence), torch.from_numpy(prior), 0.97).numpy()
    for row in range(2):
        np.testing.assert_allclose(got[row], by_logarithms(evidence[row], prior[row], 0.97), atol=1e-9)


def test_an_impossible_state_is_0_whatever_its_evidence():
    evidence = torch.tensor([[[2000.0, 0.0, 1.0]] * 4])
    prior = torch.tensor([[0.0, 0.5, 0.5]])
    got = sticky_posteriors(evidence, prior, 0.9)
    torch.testing.assert_close(got[..., 1:], sticky_posteriors(evidence[..., 1:], prior[:, 1:], 0.9))
    assert not got[..., 0].any()


def test_posteriors_keep_type_and_rows_apart_and_take_no_frames():
    evidence, prior = torch.randn(3, 6, 4), torch.rand(3, 4)
    prior /= prior.sum(1, keepdim=True)
    together = sticky_posteriors(evidence, prior, 0.9)
    assert together.dtype == torch.float32
    torch.testing.assert_close(together.sum(-1), torch.ones(3, 6))
    for row in range(3):
        torch.testing.assert_close(
            together[row : row + 1], sticky_posteriors(evidence[row : row + 1], prior[row : row + 1], 0.9)
        )
    assert sticky_posteriors(evidence[:, :0], prior, 0.9).shape == (3, 0, 4)
    # a constant added to all evidence of a frame says nothing
    torch.testing.assert_close(sticky_posteriors(evidence + torch.randn(3, 6, 1), prior, 0.9), together)


def test_evidence_of_the_trained_posterior_is_the_likelihood_ratio():
    # three classes of unit normals: the head that gives log p(x | c) + anything(x) is the trained one
    share = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    x = torch.linspace(-3, 3, 9, dtype=torch.float64)
    log_likelihood = -((x[:, None] - torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)) ** 2) / 2
    evidence = label_evidence((log_likelihood + x[:, None])[None], share)[0]
    posterior = (log_likelihood.exp() * share) / (log_likelihood.exp() * share).sum(1, keepdim=True)
    torch.testing.assert_close(evidence, posterior.log() - share.log())


def test_a_label_without_share_has_finite_evidence():
    assert label_evidence(torch.randn(1, 3, 2), torch.tensor([1.0, 0.0])).isfinite().all()


CAST = torch.tensor([[3, 0, -1], [-1, 2, -1], [-1, -1, -1], [1, 2, 4]])


@pytest.mark.parametrize("with_nobody", [True, False])
def test_the_cast_is_all_that_can_be_there(with_nobody):
    logits, share = 5 * torch.randn(4, 7, 5), torch.full((5,), 0.2)
    posteriors = teach(logits, CAST, share, 0.04, TeacherConfig(), with_nobody=with_nobody)
    assert posteriors.shape == (4, 7, 4)
    torch.testing.assert_close(posteriors.sum(-1), torch.ones(4, 7))
    assert not posteriors[..., 1:][(CAST < 0)[:, None].expand(-1, 7, -1)].any()
    assert torch.equal(posteriors[2, :, 0], torch.ones(7))
    assert (posteriors[[0, 1, 3], :, 0] > 0).any() == with_nobody


def test_the_order_of_a_cast_and_its_padding_do_not_matter():
    logits, share = 3 * torch.randn(1, 9, 5), torch.rand(5)
    share /= share.sum()
    plain = teach(logits, torch.tensor([[4, 1]]), share, 0.04, TeacherConfig())
    moved = teach(logits, torch.tensor([[-1, 1, -1, 4]]), share, 0.04, TeacherConfig())
    torch.testing.assert_close(moved[..., [0, 4, 2]], plain)


def test_teach_is_the_hidden_markov_model_of_its_description():
    config = TeacherConfig(stay_seconds=0.4, temper=0.5, threshold=0.6)
    logits, share = (
        3 * torch.randn(1, 8, 4, dtype=torch.float64),
        torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64),
    )
    got = teach(logits, torch.tensor([[2, 0]]), share, 0.04, config, sharpness=0.7)[0].numpy()
    r = label_evidence(logits, share)[0, :, [2, 0]].numpy()
    evidence = 0.5 * 0.7 * np.concatenate([np.full((8, 1), 0.6), r], 1)
    np.testing.assert_allclose(got, by_logarithms(evidence, np.full(3, 1 / 3), 1 - 0.04 / 0.4), atol=1e-9)


def test_without_sharpness_everybody_of_the_cast_has_an_equal_share():
    got = teach(
        torch.randn(1, 5, 4), torch.tensor([[1, 3]]), torch.full((4,), 0.25), 0.04, TeacherConfig(), sharpness=0.0
    )
    torch.testing.assert_close(got, torch.full((1, 5, 3), 1 / 3))


def test_a_hop_longer_than_any_stay_is_no_chain():
    logits, share = torch.randn(1, 6, 3, dtype=torch.float64), torch.full((3,), 1 / 3, dtype=torch.float64)
    config = TeacherConfig(stay_seconds=0.5, temper=1.0)
    got = teach(logits, torch.tensor([[0, 1, 2]]), share, 2.0, config)
    nobody = torch.full((1, 6, 1), math.log(3) / 2, dtype=torch.float64)  # less than 1.2: there are three labels only
    torch.testing.assert_close(got, torch.softmax(torch.cat([nobody, label_evidence(logits, share)], -1), -1))


def test_teacher_settings_that_cannot_be():
    for wrong in ({"stay_seconds": 0.0}, {"temper": -1.0}, {"stay_seconds": math.nan}):
        with pytest.raises(RequestError, match=next(iter(wrong))):
            TeacherConfig(**wrong)


def test_evidence_of_a_cast_is_picked_by_label():
    evidence = torch.randn(4, 3, 5)
    picked = cast_evidence(evidence, CAST)
    for row, column in itertools.product(range(4), range(3)):
        label = CAST[row, column]
        expected = evidence[row, :, label] if label >= 0 else torch.full((3,), -1e4)
        assert torch.equal(picked[row, :, column], expected)


def test_partial_label_loss_is_its_formula():
    logits = torch.randn(4, 6, 5, dtype=torch.float64)
    share = torch.tensor([0.1, 0.3, 0.2, 0.15, 0.25], dtype=torch.float64)
    posteriors = torch.rand(4, 6, 4, dtype=torch.float64)
    mask = torch.arange(6) < torch.tensor([6, 3, 5, 0])[:, None]
    above = below = 0.0
    for b, t, m in itertools.product(range(4), range(6), range(3)):
        c = CAST[b, m]
        if mask[b, t] and c >= 0:
            weights = share * logits[b, t].exp()
            q = posteriors[b, t, 1 + m]
            above, below = above - q * (weights[c] / weights.sum()).log(), below + q
    torch.testing.assert_close(partial_label_loss(logits, CAST, posteriors, share, mask), above / below)
    assert torch.autograd.gradcheck(
        lambda z: partial_label_loss(z, CAST, posteriors, share, mask), (logits.requires_grad_(),)
    )


def test_partial_label_loss_of_nobody_is_zero_with_zero_gradient():
    logits = torch.randn(4, 6, 5, requires_grad=True)
    posteriors = F.one_hot(torch.zeros(4, 6, dtype=torch.long), 4).float()
    loss = partial_label_loss(logits, CAST, posteriors, torch.full((5,), 0.2), torch.ones(4, 6, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_partial_label_loss_is_least_where_the_head_says_the_posteriors():
    # one frame, all labels in the cast: the best logits are log q - log share
    share, q = torch.tensor([0.6, 0.3, 0.1]), torch.tensor([0.2, 0.5, 0.3])
    logits = (q.log() - share.log())[None, None].clone().requires_grad_()
    posteriors, mask = F.pad(q, (1, 0))[None, None], torch.ones(1, 1, dtype=torch.bool)
    loss = partial_label_loss(logits, torch.tensor([[0, 1, 2]]), posteriors, share, mask)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-6
    assert loss.item() == pytest.approx(-(q * q.log()).sum().item(), rel=1e-5)


def test_shares_of_labels_are_what_the_posteriors_assign():
    posteriors = torch.rand(4, 6, 4, dtype=torch.float64)
    expected = torch.zeros(5, dtype=torch.float64)
    for b, m in itertools.product(range(4), range(3)):
        if CAST[b, m] >= 0:
            expected[CAST[b, m]] += posteriors[b, :, 1 + m].sum()
    torch.testing.assert_close(label_shares(CAST, posteriors, 5), expected / expected.sum())
    assert not label_shares(torch.full((1, 2), -1), posteriors[:1, :, :3], 5).any()


def states_as_logits(states, labels, height=9.0):
    """Logits whose evidence is high for one label, for all (-2: overlap) or for none of the cast (-1)."""
    logits = torch.zeros(1, len(states), labels)
    for t, state in enumerate(states):
        if state >= 0:
            logits[0, t, state] = height
        elif state == -2:
            logits[0, t, :2] = height
        else:
            logits[0, t, -1] = height  # somebody who is not in the cast
    return logits


def test_clear_frames_of_clear_evidence():
    states = [0] * 40 + [-1] * 40 + [1] * 40 + [-2] * 40 + [0] * 40
    cast, share = torch.tensor([[0, 1]]), torch.full((3,), 1 / 3)
    got = clear_frames(states_as_logits(states, 3), cast, share, 0.04, TeacherConfig(threshold=0.1))[0]
    margin = 5  # a third of a second around a change nothing is clear
    for begin, wanted in ((0, 0), (40, -1), (80, 1), (120, -2), (160, 0)):
        assert (got[begin + margin : begin + 40 - margin] == wanted).all(), begin
    assert ((got == torch.tensor(states)) | (got == -2)).float().mean() > 0.97


def test_clear_frames_index_the_cast_and_nothing_else():
    cast, share = torch.tensor([[-1, 2, 0]]), torch.full((3,), 1 / 3)
    got = clear_frames(states_as_logits([0] * 30 + [2] * 30, 3), cast, share, 0.04, TeacherConfig(threshold=0.1))[0]
    assert (got[5:25] == 2).all()
    assert (got[35:55] == 1).all()
    alone = clear_frames(states_as_logits([0] * 30, 3), torch.tensor([[0]]), share, 0.04, TeacherConfig(threshold=0.1))
    assert (alone == 0).all()
    assert (clear_frames(torch.randn(1, 9, 3), torch.tensor([[-1]]), share, 0.04, TeacherConfig()) == -1).all()


def test_no_evidence_is_nobody_or_unclear_by_the_threshold():
    logits, cast, share = torch.zeros(1, 20, 3), torch.tensor([[0, 1]]), torch.full((3,), 1 / 3)
    assert (clear_frames(logits, cast, share, 0.04, TeacherConfig()) == -1).all()
    assert (clear_frames(logits, cast, share, 0.04, TeacherConfig(threshold=0.0)) == -2).all()


def test_casts_alone_teach_who_speaks_when():
    # 12 random prototypes, noise as strong as the prototypes; 160 recordings of 2-3 of them, only their casts known
    generator = torch.Generator().manual_seed(0)
    labels, files, length, dim = 12, 160, 60, 16
    prototypes = torch.randn(labels, dim, generator=generator)
    cast = torch.full((files, 3), -1)
    truth = torch.empty(files, length, dtype=torch.long)
    for row in range(files):
        size = int(torch.randint(2, 4, (), generator=generator))
        cast[row, :size] = torch.randperm(labels, generator=generator)[:size]
        state, turns = 0, torch.rand(length, generator=generator) < 0.1
        for t in range(length):
            state = int(torch.randint(size, (), generator=generator)) if turns[t] else state
            truth[row, t] = state
    speaker = cast.gather(1, truth)
    x = prototypes[speaker] + torch.randn(files, length, dim, generator=generator)
    head = torch.nn.Linear(dim, labels)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    share, config = torch.full((labels,), 1 / labels), TeacherConfig(stay_seconds=0.4, temper=1.0)
    optimizer = torch.optim.Adam(head.parameters(), 0.05)
    mask = torch.ones(files, length, dtype=torch.bool)
    first = teach(head(x), cast, share, 0.04, config, with_nobody=False)
    torch.testing.assert_close(first[0, :, 1:], (cast[0] >= 0) / (cast[0] >= 0).sum().expand(length, 3))
    for k in range(60):
        logits = head(x)
        posteriors = teach(logits, cast, share, 0.04, config, sharpness=min(1.0, k / 30), with_nobody=False)
        loss = partial_label_loss(logits, cast, posteriors, share, mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        share = share.lerp(label_shares(cast, posteriors, labels), 0.1)
    posteriors = teach(head(x), cast, share, 0.04, config, with_nobody=False)
    recovered = (posteriors[..., 1:].argmax(-1) == truth).float().mean().item()
    assert recovered > 0.95
    shuffled = cast[torch.randperm(files, generator=generator)]
    wrong = teach(head(x), shuffled, share, 0.04, config, with_nobody=False)[..., 1:].argmax(-1)
    assert (shuffled.gather(1, wrong) == speaker).float().mean().item() < 0.5


def test_padding_says_nothing_about_the_frames_before_it():
    generator = torch.Generator().manual_seed(0)
    logits, cast = torch.randn(1, 12, 3, generator=generator), torch.tensor([[0, 2]])
    share, config = torch.full((3,), 1 / 3), TeacherConfig()
    padded = torch.cat([logits, torch.full((1, 9, 3), 5.0)], 1)
    mask = torch.arange(21)[None] < 12
    alone = teach(logits, cast, share, 0.04, config)
    torch.testing.assert_close(teach(padded, cast, share, 0.04, config, mask=mask)[:, :12], alone)
    assert not torch.allclose(teach(padded, cast, share, 0.04, config)[:, :12], alone)

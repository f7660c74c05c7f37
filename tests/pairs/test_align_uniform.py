"""Alignment and uniformity: laws, closed forms, the optimum, the limit of InfoNCE, and a queue."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.special import i0, ive
from torch.autograd import gradcheck

from contract import Subject, check_laws
from weigher.core.contrast import info_nce, unit
from weigher.core.losses import weighted_reduce
from weigher.errors import RequestError
from weigher.pairs.align_uniform import (
    AlignUniformConfig,
    AlignUniformLoss,
    alignment,
    crowding,
    joint_uniformity,
    log_potential,
    pair_distances,
    uniformity,
    uniformity_bound,
    uniformity_optimum,
)
from weigher.pairs.diagnosis import contrastive_limit, diagnose
from weigher.pairs.info_nce import InfoNCELoss
from weigher.pairs.queue import EmbeddingQueue


def drawn(n=9, e=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return unit(torch.randn(n, e, dtype=torch.float64, generator=generator))


def rows(batch, size, generator):
    return (torch.randn(batch, size, 3, dtype=torch.float64, generator=generator),)


def pairs(batch, size, generator):
    return rows(batch, size, generator) + rows(batch, size, generator)


def test_uniformity_keeps_the_laws_with_weights_as_copies():
    # not free of scale: a row of weight 2 is two rows in one place, a pair of its own
    call = partial(log_potential, t=0.7)
    assert "gradcheck" in check_laws(Subject("log_potential", call, rows, normalised=False))


def test_crowding_keeps_the_laws():
    check_laws(Subject("crowding", partial(crowding, t=0.7), rows, output="kept", normalised=False))


@pytest.mark.parametrize("alpha", [1.0, 2.0, 3.0])
def test_alignment_keeps_the_laws(alpha):
    def call(first, second, weight=None):
        return weighted_reduce(pair_distances(first, second, alpha=alpha, weight=weight), weight, 1)

    check_laws(Subject(f"alignment, alpha {alpha}", call, pairs))


def direct(x, t):
    return torch.pdist(x).square().mul(-t).exp().mean().log()


@pytest.mark.parametrize("t", [0.5, 2.0, 5.0])
def test_uniformity_is_the_plain_formula_and_alignment_that_of_cosines(t):
    x, y = drawn(), drawn(seed=1)
    torch.testing.assert_close(uniformity(3 * x, t), direct(x, t), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(alignment(x, 5 * y), 2 - 2 * (x * y).sum(1).mean(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(alignment(x, y, 1.0), (x - y).norm(dim=1).mean(), rtol=1e-12, atol=1e-12)
    loose = 2 * drawn(seed=2)
    with pytest.warns(UserWarning, match=r"lengths 2 to 2"):
        torch.testing.assert_close(uniformity(loose, t, normalise=False), direct(loose, t), rtol=1e-12, atol=1e-12)


def test_the_mean_of_crowding_is_uniformity():
    x = drawn()
    torch.testing.assert_close(crowding(x).logsumexp(0) - math.log(len(x)), uniformity(x))
    x = torch.cat([x, x[:1] + 1e-3])
    assert set(crowding(x).argsort()[-2:].tolist()) == {0, 9}  # the two that lie together


def test_simplices_reach_the_lowest_value_and_one_point_the_highest():
    for n in (2, 3, 6):
        simplex = torch.eye(n, dtype=torch.float64) - 1 / n
        assert uniformity(simplex).item() == pytest.approx(uniformity_bound(n)) == pytest.approx(-4 * n / (n - 1))
    assert uniformity(drawn(6)) > uniformity_bound(6)
    point = drawn(1).expand(5, 4).clone().requires_grad_()
    assert uniformity(point).item() == pytest.approx(0, abs=1e-9)
    (gradient,) = torch.autograd.grad(uniformity(point), point)
    assert gradient.abs().max() < 1e-12  # stationary: only another force can move it


def test_the_least_asymmetry_frees_embeddings_that_have_collapsed():
    generator = torch.Generator().manual_seed(0)
    rows = drawn(1).expand(6, 4) + 1e-6 * torch.randn(6, 4, dtype=torch.float64, generator=generator)
    rows.requires_grad_()
    optimiser = torch.optim.SGD([rows], lr=0.5)
    before = uniformity(rows).item()
    for _ in range(400):
        optimiser.zero_grad()
        uniformity(rows).backward()
        optimiser.step()
    assert before == pytest.approx(0, abs=1e-9)
    assert uniformity(rows) < 0.9 * uniformity_bound(6)


def test_in_the_gradient_a_pair_weighs_by_how_near_it_is():
    x = drawn().requires_grad_()
    (slope,) = torch.autograd.grad(log_potential(x, t=2.0), x)
    apart = x[:, None] - x
    weight = apart.square().sum(-1).mul(-2.0).exp().fill_diagonal_(0)
    torch.testing.assert_close(slope, -4 * 2.0 * (weight[..., None] * apart).sum(1) / weight.sum())


def test_the_optimum_in_closed_form():
    for t in (0.3, 2.0, 30.0):
        assert uniformity_optimum(2, t) == pytest.approx(math.log(ive(0, 2 * t)))
        expected = math.log((1 - math.exp(-4 * t)) / (4 * t))
        assert uniformity_optimum(3, t) == pytest.approx(expected)
        assert uniformity_optimum(10**7, t) == pytest.approx(-2 * t, abs=1e-3)
    assert uniformity_optimum(2) == pytest.approx(-4 + math.log(i0(4)))
    assert uniformity_optimum(1) == pytest.approx(math.log((1 + math.exp(-8)) / 2))  # two points
    for e in (2, 3, 10):
        assert uniformity(drawn(4000, e).float()).item() == pytest.approx(uniformity_optimum(e), abs=0.02)


def test_rotations_change_nothing_and_permutations_only_what_is_paired():
    x, y = drawn(), drawn(seed=1)
    rotation = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    order = torch.randperm(9)
    torch.testing.assert_close(uniformity(x @ rotation), uniformity(x))
    torch.testing.assert_close(alignment(x @ rotation, y @ rotation), alignment(x, y))
    torch.testing.assert_close(uniformity(x[order]), uniformity(x))
    torch.testing.assert_close(alignment(x[order], y[order]), alignment(x, y))
    assert not torch.allclose(alignment(x[order], y), alignment(x, y))


def test_gradients_are_exact_and_tangent():
    x = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    y = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    gradcheck(uniformity, (x,))
    gradcheck(alignment, (x, y))
    loss = AlignUniformLoss(AlignUniformConfig(3.0, 1.0, 1.5, 1.0))
    gradcheck(lambda a, b: loss(a, b)["loss"], (x, y))
    (slope,) = torch.autograd.grad(uniformity(x), x)
    torch.testing.assert_close((slope * x).sum(1), torch.zeros(6, dtype=torch.float64))


def test_pairs_that_coincide_have_no_slope():
    x = drawn(3).requires_grad_()
    for alpha in (1.0, 0.5):
        (slope,) = torch.autograd.grad(pair_distances(x, x.detach(), alpha=alpha).sum(), x)
        assert not slope.any()


def test_where_the_plain_formula_underflows_the_blocks_do_not():
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert direct(x, 40.0) == -torch.inf
    assert uniformity(x, 40.0).item() == pytest.approx(-160)


def test_a_queue_adds_its_pairs_and_gets_no_gradient():
    x, queue = drawn(5).requires_grad_(), drawn(7, seed=1).requires_grad_()
    rows_made_unit = unit(x)
    near, far = torch.pdist(rows_made_unit).square(), torch.cdist(rows_made_unit, queue).square().flatten()
    for intra, squares in ((True, torch.cat([near, far])), (False, far)):
        expected = squares.mul(-2).exp().mean().log()
        found = uniformity(x, queue=queue, intra_batch=intra)
        torch.testing.assert_close(found, expected)
        to_x, to_queue = torch.autograd.grad(found, (x, queue), allow_unused=True)
        assert to_queue is None
        torch.testing.assert_close(to_x, torch.autograd.grad(expected, x, retain_graph=True)[0])
    assert uniformity(x[:1], queue=queue).item() == pytest.approx(
        torch.cdist(x[:1], queue).square().mul(-2).exp().mean().log().item()
    )
    with pytest.raises(RequestError, match="needs a queue"):
        uniformity(x, intra_batch=False)
    weight = torch.tensor([2.0, 1.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    copies = x[torch.tensor([0, 0, 1, 3, 4])]
    torch.testing.assert_close(uniformity(x, queue=queue, weight=weight), uniformity(copies, queue=queue))


def test_the_loss_is_the_weighted_sum_of_its_parts():
    x, y = drawn(), drawn(seed=1)
    config = AlignUniformConfig(align_weight=3.0, uniform_weight=0.5, alpha=1.0, t=3.0)
    parts = AlignUniformLoss(config)(2 * x, y)
    torch.testing.assert_close(parts["alignment"], alignment(x, y, 1.0))
    torch.testing.assert_close(parts["uniformity"], (uniformity(x, 3.0) + uniformity(y, 3.0)) / 2)
    torch.testing.assert_close(parts["loss"], 3 * parts["alignment"] + 0.5 * parts["uniformity"])
    weight = torch.tensor([1.0, 0, 2, 1, 1, 1, 0, 1, 1], dtype=torch.float64)
    kept = weight.long().repeat_interleave(1)
    copies = [v.repeat_interleave(kept, 0) for v in (x, y)]
    torch.testing.assert_close(
        AlignUniformLoss(config)(x, y, weight)["loss"], AlignUniformLoss(config)(*copies)["loss"]
    )
    torch.testing.assert_close(joint_uniformity(x, 2.0), uniformity(x))
    spoiled = torch.where(weight[:, None] > 0, x, math.nan).requires_grad_()
    loss = AlignUniformLoss(config)(spoiled, y, weight)["loss"]
    torch.testing.assert_close(loss, AlignUniformLoss(config)(x, y, weight)["loss"])
    assert torch.autograd.grad(loss, spoiled)[0].isfinite().all()


def test_the_contrastive_loss_can_be_a_part_of_it():
    x, y = (rows.clone().requires_grad_() for rows in (drawn(), drawn(seed=1)))
    plain = AlignUniformLoss()(x, y)
    assert "contrast" not in plain
    found = AlignUniformLoss(AlignUniformConfig(contrast_weight=0.7, temperature=0.4))(x, 3 * y)
    torch.testing.assert_close(found["contrast"], InfoNCELoss(0.4)(x, y)["loss"])
    torch.testing.assert_close(found["loss"], plain["loss"] + 0.7 * found["contrast"])
    alone = AlignUniformLoss(AlignUniformConfig(0.0, 0.0, contrast_weight=2.0))
    torch.testing.assert_close(alone(x, y)["loss"], 2 * InfoNCELoss()(x, y)["loss"])
    gradcheck(lambda a, b: AlignUniformLoss(AlignUniformConfig(contrast_weight=0.7))(a, b)["loss"], (x, y))


def test_a_slow_encoder_gives_keys_and_fills_the_queue():
    """The form of MoCo, in plain matrices: keys of the other view, then those of earlier batches."""
    config = AlignUniformConfig(3.0, 0.5, t=1.5, contrast_weight=0.7, temperature=0.4)
    both = AlignUniformLoss(config, EmbeddingQueue(8, 4)).double()
    contrast = InfoNCELoss(0.4, EmbeddingQueue(8, 4)).double()
    older = torch.zeros(0, 4, dtype=torch.float64)
    for step in range(3):
        x, y, slow_x, slow_y = (drawn(5, seed=10 * step + k).requires_grad_() for k in range(4))
        found = both(2 * x, y, targets=[slow_x, 3 * slow_y])
        aligned = (alignment(x, slow_y) + alignment(y, slow_x)) / 2
        torch.testing.assert_close(found["alignment"], aligned)
        parts = [uniformity(rows, 1.5, queue=older) if len(older) else uniformity(rows, 1.5) for rows in (x, y)]
        torch.testing.assert_close(found["uniformity"], (parts[0] + parts[1]) / 2)
        each = []
        for query, key in ((x, slow_y), (y, slow_x)):
            scores = unit(query) @ torch.cat([key, older]).T / 0.4
            each.append(torch.nn.functional.cross_entropy(scores, torch.arange(5)))
        expected = (each[0] + each[1]) / 2
        torch.testing.assert_close(found["contrast"], expected)
        torch.testing.assert_close(contrast(x, y, targets=[slow_x, slow_y])["loss"], expected)
        whole = 3 * aligned + 0.5 * (parts[0] + parts[1]) / 2 + 0.7 * expected
        torch.testing.assert_close(found["loss"], whole)
        slopes = torch.autograd.grad(found["loss"], (x, y, slow_x, slow_y), allow_unused=True)
        assert slopes[2] is slopes[3] is None
        for slope, other in zip(slopes[:2], torch.autograd.grad(whole, (x, y)), strict=True):
            torch.testing.assert_close(slope, other)
        older = torch.cat([older, slow_y.detach()])[-8:]
        for loss in (both, contrast):
            torch.testing.assert_close(loss.queue.rows(), older)
    both.eval()(x, y, targets=[slow_x, slow_y])
    torch.testing.assert_close(both.queue.rows(), older)
    with pytest.raises(RequestError, match="target_momentum"):
        contrast(x, y)


def test_what_is_queued_keeps_its_weight():
    weight = torch.tensor([1.0, 0.0, 3.0, 1.0, 1.0], dtype=torch.float64)
    times = weight.long()
    for make in (InfoNCELoss, lambda queue: AlignUniformLoss(queue=queue)):
        weighed, copied = (make(queue=EmbeddingQueue(9, 4)).double() for _ in range(2))
        for step in range(2):
            rows = [drawn(5, seed=10 * step + k) for k in range(4)]
            copies = [x.repeat_interleave(times, 0) for x in rows]
            rows = [torch.where(weight[:, None] > 0, x, math.nan) for x in rows]
            expected = copied(*copies[:2], targets=copies[2:])["loss"]
            torch.testing.assert_close(weighed(*rows[:2], weight, targets=rows[2:])["loss"], expected)
        assert weighed.queue.weights().tolist() == [1, 3, 1, 1] * 2


def cloud(n=400):
    generator = torch.Generator().manual_seed(3)
    centre = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
    first = unit(torch.randn(n, 3, dtype=torch.float64, generator=generator) + centre)
    return first, unit(first + 0.3 * torch.randn(n, 3, dtype=torch.float64, generator=generator))


def test_info_nce_tends_to_the_limit_and_the_limit_stays_below_its_bound():
    """Theorem 1, the negatives drawn from the rows themselves: the gap falls at least as fast as 1 / sqrt(M)."""
    first, second = cloud()
    for temperature in (0.3, 1.0):
        limit = contrastive_limit(first, second, temperature)
        term = (alignment(first, second).item() - 2) / (2 * temperature)
        assert limit.alignment_term == pytest.approx(term)
        assert limit.loss < limit.bound
    t = 1 / (2 * temperature)
    everywhere = torch.cdist(first, first).square().mul(-t).exp().mean().log().item()
    assert limit.bound == pytest.approx(alignment(first, second).item() / (2 * temperature) + everywhere)
    rng, gaps = np.random.default_rng(0), []
    limit = contrastive_limit(first, second, 0.5)
    for negatives in (4, 16, 64):
        drawn_rows = torch.from_numpy(rng.integers(400, size=(400 * 12, negatives)))
        queries, keys = (x.repeat(12, 1)[:, None] for x in (first, second))
        loss = info_nce(queries, keys, negatives=first[drawn_rows], temperature=0.5).mean().item()
        gaps.append(loss - math.log(negatives) - limit.loss)
    assert gaps[0] > 0
    assert abs(gaps[1]) < gaps[0] / 1.9
    assert abs(gaps[2]) < gaps[1] / 1.9


def test_equally_crowded_rows_reach_the_bound():
    square = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]], dtype=torch.float64)
    limit = contrastive_limit(square, square, 0.5)
    assert limit.loss == pytest.approx(limit.bound, abs=1e-12)


@pytest.mark.parametrize("far", [10.0, 100.0])
def test_distances_of_rows_far_from_0_keep_their_digits(far):
    rows = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)) + far

    def figures(x):
        return log_potential(x, t=0.5), crowding(x, t=0.5), joint_uniformity(x[:9], 0.5, None, (x, torch.ones(20)))

    for found, expected in zip(figures(rows), figures(rows.double()), strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("queue", [None, torch.eye(3, dtype=torch.bfloat16)])
def test_uniformity_of_half_precision_keeps_the_digits_of_single(queue):
    rows = torch.randn(30, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = uniformity(rows, queue=queue)
    assert found.dtype == torch.float32
    wide = uniformity(rows.double(), queue=None if queue is None else queue.double())
    assert found.item() == pytest.approx(wide.item(), abs=1e-5)


BAD = torch.tensor([[1.0, 0.0], [float("nan"), 0.0]])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: uniformity(torch.ones(1, 2)), "uniformity needs at least two points"),
        (lambda: uniformity(torch.ones(0, 2)), "uniformity needs at least two points"),
        (lambda: uniformity(torch.eye(3), weight=torch.tensor([1, 0, 0])), "at least two points, these are 1"),
        (lambda: uniformity(torch.eye(2), 0.0), "t = 0.0"),
        (lambda: uniformity(torch.eye(2), math.inf), "t = inf"),
        (lambda: uniformity(BAD), "1 of 2 rows hold NaN"),
        (lambda: uniformity(torch.zeros(3, 2)), "3 of 3 rows are zero"),
        (lambda: uniformity(torch.eye(2, dtype=torch.int64)), "torch.int64"),
        (lambda: uniformity(torch.ones(4)), r"\[4\]"),
        (lambda: uniformity(torch.eye(3), queue=torch.eye(2)), r"\[2, 2\]"),
        (lambda: alignment(torch.eye(3), torch.eye(2)), r"\[3, 3\] and \[2, 2\]"),
        (lambda: alignment(torch.eye(2), torch.eye(2), -1.0), "alpha = -1.0"),
        (lambda: alignment(torch.eye(2), BAD), "NaN"),
        (lambda: uniformity(torch.eye(2), queue=torch.ones(0, 2)), "the queue needs at least one point, these are 0"),
        (lambda: uniformity(torch.ones(0, 2), queue=torch.eye(2)), "uniformity needs at least one point, these are 0"),
        (lambda: uniformity(torch.eye(2), queue=BAD), "the queue: 1 of 2 rows hold NaN"),
        (lambda: pair_distances(torch.eye(3), torch.eye(3), weight=torch.ones(2)), r"weight of shape \[2, 1\]"),
        (lambda: crowding(torch.eye(3), weight=torch.ones(2)), r"weight of shape \[2, 1\]"),
        (lambda: alignment(torch.ones(0, 2), torch.ones(0, 2)), "at least one pair"),
        (lambda: AlignUniformConfig(align_weight=-1.0), "align_weight = -1.0"),
        (lambda: AlignUniformConfig(0.0, 0.0), "one above"),
        (lambda: AlignUniformConfig(math.inf), "align_weight = inf"),
        (lambda: AlignUniformConfig(t=0.0), "t = 0.0"),
        (lambda: AlignUniformLoss()(torch.eye(2), torch.eye(3)), r"\[3, 3\] and view 1 \[2, 2\]"),
        (lambda: AlignUniformConfig(contrast_weight=-1.0), "contrast_weight = -1.0"),
        (lambda: AlignUniformConfig(temperature=0.0), "temperature = 0.0"),
        (lambda: InfoNCELoss(math.inf), "temperature = inf"),
        (lambda: AlignUniformLoss(queue=EmbeddingQueue(3, 2))(torch.eye(2), torch.eye(2)), "give targets"),
        (lambda: uniformity_optimum(0), "dim"),
        (lambda: uniformity_bound(1), "two points"),
        (lambda: contrastive_limit(torch.eye(2), torch.eye(2), 0.0), "temperature"),
        (lambda: diagnose(torch.ones(1, 3)), "two points"),
        (lambda: diagnose(torch.eye(3), torch.eye(2)), r"\[2, 2\]"),
    ],
)
def test_bad_inputs_are_said(call, said):
    with pytest.raises(RequestError, match=said):
        call()


def test_a_power_below_one_and_rows_of_other_lengths_are_warned_of():
    with pytest.warns(UserWarning, match="alpha = 0.5"):
        alignment(drawn(), drawn(seed=1), 0.5)
    with pytest.warns(UserWarning, match="lengths 3 to 3"):
        alignment(3 * drawn(), 3 * drawn(seed=1), normalise=False)
    assert uniformity(torch.cat([drawn(), drawn() * math.nan]), weight=torch.arange(18) < 9).isfinite()

"""ReLIC: laws of its penalty, closed forms, directions, targets, several views, and Fisher's ratio."""

import math
from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from contract import Subject, check_laws
from peak_memory import growth, on_linux
from weigher.core.contrast import symmetric_info_nce, unit
from weigher.errors import RequestError
from weigher.pairs import relic
from weigher.pairs.relic import ReLICConfig, ReLICLoss, fisher_ratios, invariance

KINDS = ("forward", "reverse", "symmetric", "jensen-shannon")


def views(n=6, e=4, count=2):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, e, dtype=torch.float64, generator=generator) for _ in range(count)]


def pairs(batch, size, generator):
    return tuple(torch.randn(batch, size, 3, dtype=torch.float64, generator=generator) for _ in range(2))


@pytest.mark.parametrize("kind", KINDS)
def test_the_penalty_keeps_the_laws(kind):
    def call(first, second, weight=None):
        a, b = unit(first, weight=weight), unit(second, weight=weight)
        return invariance((a, b), (b, a), temperature=0.5, divergence=kind, weight=weight)

    check_laws(Subject(f"invariance, {kind}", call, pairs, output="kept"))


def matrices(a, b, temperature):
    s = unit(a) @ unit(b).T / temperature
    return s.log_softmax(1), s.T.log_softmax(1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_the_matrix_form_of_the_paper(kind):
    a, b = views()
    p, q = matrices(a, b, 0.3)
    kl = [F.kl_div(y, x, reduction="none", log_target=True).sum(1).mean() for x, y in ((p, q), (q, p))]
    middle = ((p.exp() + q.exp()) / 2).log()
    js = sum(F.kl_div(middle, x, reduction="none", log_target=True).sum(1).mean() for x in (p, q)) / 2
    expected = dict(zip(KINDS, (kl[0], kl[1], (kl[0] + kl[1]) / 2, js), strict=True))[kind]
    found = ReLICLoss(ReLICConfig(alpha=4.0, temperature=0.3, divergence=kind))(3 * a, b)
    contrast = -(p.diagonal() + q.diagonal()).mean() / 2
    torch.testing.assert_close(found["contrast"], contrast)
    torch.testing.assert_close(found["contrast"], symmetric_info_nce(unit(a), unit(b), temperature=0.3).mean())
    torch.testing.assert_close(found["invariance"], expected)
    torch.testing.assert_close(found["loss"], contrast + 4 * expected)
    assert expected > 0
    if kind == "jensen-shannon":
        assert expected < math.log(2)


@pytest.mark.parametrize("kind", KINDS)
def test_two_things_by_hand(kind):
    """Similarities ((a, b), (c, d)): from the first view rows are compared, from the second columns."""
    a, b, c, d = 0.9, -0.4, 0.3, 1.6

    def divergence(p, q):
        """Return KL(p || q) of two shares that sum to 1."""
        return sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))

    def shares(own, other):
        return [1 / (1 + math.exp(other - own)), 1 / (1 + math.exp(own - other))]

    def expected(p, q):
        there, back, middle = divergence(p, q), divergence(q, p), [(x + y) / 2 for x, y in zip(p, q, strict=True)]
        both = (divergence(p, middle) + divergence(q, middle)) / 2
        return dict(zip(KINDS, (there, back, (there + back) / 2, both), strict=True))[kind]

    first, second = 0.5 * torch.tensor([[a, b], [c, d]], dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    found = invariance((first, second), (second, first), temperature=0.5, divergence=kind)
    # of thing 1: a and b in its row, a and c in its column; of thing 2: c and d, b and d
    assert found.tolist() == pytest.approx([expected(shares(a, b), shares(a, c)), expected(shares(c, d), shares(b, d))])


@pytest.mark.parametrize("temperature", [0.01, 0.2, 5.0])
@pytest.mark.parametrize("kind", KINDS)
def test_of_views_nearly_alike_no_penalty_is_negative(kind, temperature):
    """Embeddings in a narrow cone, as an encoder begins with, have many neighbours, and sums that are long."""

    def penalty(a, b):
        return invariance((a, b), (b, a), temperature=temperature, divergence=kind)

    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        first = 2 + torch.randn(64, 8, generator=generator)
        a, b = unit(first), unit(first + 1e-4 * torch.randn(64, 8, generator=generator))
        found, expected = penalty(a, b), penalty(a.double(), b.double())
        assert found.min() >= 0
        assert (found - expected).abs().max() < 2e-7


@pytest.mark.parametrize(("kind", "reach"), [*((kind, 200.0) for kind in KINDS[:-1]), (KINDS[-1], math.log(2))])
def test_the_divergence_reaches_twice_the_inverse_temperature_and_stays_finite(kind, reach):
    """Thing 0 is nearest to 1 and farthest from 2 by the one order, and the other way round by the other."""
    first = torch.tensor([[1.0, 0.0], [0.0, -1.0], [0.0, 1.0]], requires_grad=True)
    second = torch.tensor([[0.0, 1.0], [1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    found = invariance((first, second), (second, first), temperature=0.01, divergence=kind)[0]
    assert found.item() == pytest.approx(reach, rel=1e-5)
    assert all(slope.isfinite().all() for slope in torch.autograd.grad(found, (first, second)))


def test_identities():
    a, b = views()
    loss = ReLICLoss()
    assert loss(a, a)["invariance"].item() == pytest.approx(0, abs=1e-12)  # a symmetric matrix
    same = torch.ones(6, 4, dtype=torch.float64)
    collapsed = loss(same, same)
    assert collapsed["invariance"].item() == pytest.approx(0, abs=1e-12)  # the penalty does not prevent collapse
    assert collapsed["contrast"].item() == pytest.approx(math.log(6))
    plain = ReLICLoss(ReLICConfig(alpha=0.0))(a, b)
    torch.testing.assert_close(plain["loss"], plain["contrast"])
    swapped = ReLICLoss(ReLICConfig(divergence="reverse"))(b, a)
    torch.testing.assert_close(swapped["invariance"], loss(a, b)["invariance"])
    tiny = ReLICLoss(ReLICConfig(temperature=1e-3))(a.float(), b.float())
    assert all(value.isfinite() for value in tiny.values())


def test_gradients_and_blocks(monkeypatch):
    a, b = (x.requires_grad_() for x in views(5, 3))
    loss = ReLICLoss(ReLICConfig(temperature=0.5))
    gradcheck(lambda x, y: loss(x, y)["loss"], (a, b))
    weight = torch.tensor([1.0, 2.5, 0.5, 1.0, 3.0], dtype=torch.float64, requires_grad=True)

    def slopes():
        keys = [2 * x.detach().requires_grad_() for x in (a, b)]
        each = invariance((a, keys[0]), (b, keys[1]), temperature=0.5, weight=weight)
        given = [a, b, *keys, weight]
        return [
            *torch.autograd.grad(loss(a, b)["invariance"], (a, b)),
            *torch.autograd.grad(each.square().sum(), given),
        ]

    whole = slopes()
    monkeypatch.setattr(relic, "BLOCK", 3)  # one row of 5 at a time
    for one, two in zip(slopes(), whole, strict=True):
        torch.testing.assert_close(one, two)


def direct(one, two, weight, *, temperature, kind, detach):
    """The penalty from whole matrices, in plain PyTorch."""
    counts = weight[..., None, :]
    scores = [a @ b.mT / temperature for a, b in (one, two)]
    p, q = (s - (s + counts.log()).logsumexp(-1, keepdim=True) for s in scores)  # of one copy each

    def kl(x, y):
        own = (counts * x.exp() * x).sum(-1)
        return (own.detach() if detach else own) - (counts * x.exp() * y).sum(-1)

    middle = torch.logaddexp(p, q) - math.log(2)
    return {
        "forward": lambda: kl(p, q),
        "reverse": lambda: kl(q, p),
        "symmetric": lambda: (kl(p, q) + kl(q, p)) / 2,
        "jensen-shannon": lambda: (kl(p, middle) + kl(q, middle)) / 2,
    }[kind]()


@pytest.mark.parametrize(
    ("kind", "detach"), [*((kind, False) for kind in KINDS), *((kind, True) for kind in KINDS[:-1])]
)
def test_blocks_give_the_values_and_gradients_of_whole_matrices(monkeypatch, kind, detach):
    """5 queries and 8 keys, in two batches; all that is differentiable, weights too."""
    generator = torch.Generator().manual_seed(0)
    x, y, k, r = (torch.randn(2, n, 3, dtype=torch.float64, generator=generator) for n in (5, 5, 8, 8))
    weight = 0.1 + torch.rand(2, 8, dtype=torch.float64, generator=generator)
    given = [part.requires_grad_() for part in (x, y, k, r, weight)]

    def both():
        settings = {"temperature": 0.4, "divergence": kind, "detach_target": detach}
        found = invariance((x, k), (y, r), weight=weight, **settings)
        return found, torch.autograd.grad((found * torch.arange(1, 6)).sum(), given)

    value = direct((x, k), (y, r), weight, temperature=0.4, kind=kind, detach=detach)
    slopes = torch.autograd.grad((value * torch.arange(1, 6)).sum(), given)
    for block in (100, 3):
        monkeypatch.setattr(relic, "BLOCK", block)
        found, own = both()
        torch.testing.assert_close(found, value)
        for place, (one, two) in enumerate(zip(own, slopes, strict=True)):
            torch.testing.assert_close(one, two, msg=lambda said, place=place: f"{place}: {said}")
    if not detach:

        def penalty(*parts):
            return invariance(parts[0::2][:2], parts[1::2][:2], temperature=0.4, divergence=kind, weight=parts[4])

        gradcheck(penalty, (x, y, k, r, weight))


def test_no_block_is_larger_or_thinner_than_it_need_be(monkeypatch):
    """12 queries and 64 keys in blocks of 4: a row of many keys at a time would be all overhead."""
    shapes = []

    class Products(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), named=None):
            made = function(*arguments, **(named or {}))
            if "mm" in str(function):
                shapes.append(tuple(made.shape[-2:]))
            return made

    monkeypatch.setattr(relic, "BLOCK", 4)
    queries, keys = torch.randn(2, 12, 5), torch.randn(2, 64, 5)
    with Products():
        invariance((queries[0], keys[0]), (queries[1], keys[1]))
    assert shapes
    assert set(shapes) == {(4, 4)}


def test_a_target_encoder_gives_the_keys_and_gets_no_gradient():
    a, b, slow_a, slow_b = (x.requires_grad_() for x in views(count=4))
    found = ReLICLoss(ReLICConfig(temperature=0.3))(a, b, targets=(slow_a, slow_b))
    p = (unit(a) @ unit(slow_b).T / 0.3).log_softmax(1)
    q = (unit(b) @ unit(slow_a).T / 0.3).log_softmax(1)
    torch.testing.assert_close(found["contrast"], -(p.diagonal() + q.diagonal()).mean() / 2)
    torch.testing.assert_close(found["invariance"], (p.exp() * (p - q)).sum(1).mean())
    to_a, to_slow = torch.autograd.grad(found["loss"], (a, slow_a), allow_unused=True)
    assert to_slow is None
    assert to_a.abs().sum() > 0


def test_a_detached_entropy_changes_the_gradient_and_not_the_value():
    a, b = (x.requires_grad_() for x in views())
    whole, cut = (ReLICLoss(ReLICConfig(detach_target=d))(a, b)["invariance"] for d in (False, True))
    torch.testing.assert_close(whole, cut)
    one, two = (torch.autograd.grad(value, a)[0] for value in (whole, cut))
    assert not torch.allclose(one, two)
    p, q = matrices(a, b, 0.2)
    expected = ((p.exp() * p).sum(1).detach() - (p.exp() * q).sum(1)).mean()
    torch.testing.assert_close(two, torch.autograd.grad(expected, a)[0])


def test_of_several_views_every_two_are_compared():
    rows = views(count=3)
    loss = ReLICLoss()
    parts = [loss(rows[i], rows[j])["loss"] for i, j in combinations(range(3), 2)]
    torch.testing.assert_close(loss(*rows)["loss"], torch.stack(parts).mean())


def test_weights_are_copies_and_removed_things_may_hold_anything():
    a, b = views()
    weight = torch.tensor([2.0, 1, 0, 1, 3, 1], dtype=torch.float64)
    times = weight.long()
    copies = ReLICLoss()(a.repeat_interleave(times, 0), b.repeat_interleave(times, 0))
    a[2] = math.nan
    found = ReLICLoss()(a, b, weight=weight)
    for name, value in copies.items():
        torch.testing.assert_close(found[name], value)


def test_fishers_ratio_is_scale_free_and_grows_with_distance():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 4, generator=generator)
    labels = torch.arange(60) % 3
    near, far = (x + shift * torch.eye(4)[labels] for shift in (1.0, 3.0))
    assert (fisher_ratios(far, labels) > fisher_ratios(near, labels)).all()
    torch.testing.assert_close(fisher_ratios(7 * far + 2, labels), fisher_ratios(far, labels), rtol=1e-3, atol=1e-4)
    means = [far[labels == k].mean(0) for k in range(3)]
    widths = [far[labels == k].var(0, unbiased=False).sum() for k in range(3)]
    direct = [((means[i] - means[j]) ** 2).sum() / (widths[i] + widths[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    torch.testing.assert_close(fisher_ratios(far, labels), torch.stack(direct))
    with pytest.warns(UserWarning, match="one member"):
        assert fisher_ratios(torch.eye(2), torch.tensor([0, 1])).tolist() == [math.inf]


@on_linux
def test_fishers_ratio_of_many_classes_needs_little_memory():
    """300 classes of 4,096 features: their 44,850 differences would take 735 MB, twice."""
    step = "fisher_ratios(torch.randn(n, 4096), torch.arange(n) % (n // 2))"
    assert growth("from weigher.pairs.relic import fisher_ratios", step, 4, 600) < 100  # megabytes


def test_fishers_ratio_of_half_precision_does_not_overflow():
    x = 300 * torch.tensor([[0.0], [2.0], [10.0], [12.0]])  # squares beyond 65,504
    labels = torch.tensor([0, 0, 1, 1])
    found = fisher_ratios(x.half(), labels)
    assert found.dtype == torch.float32
    assert found.tolist() == [50.0]


def test_classes_in_one_place_without_width_are_not_told_apart():
    x = torch.tensor([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0], [1.0, 2.0], [5.0, 2.0], [5.0, 2.0]])
    with pytest.warns(UserWarning, match="1 pairs of classes lie at one place"):
        assert fisher_ratios(x, torch.tensor([0, 0, 1, 1, 2, 2])).tolist() == [0, math.inf, math.inf]


@pytest.mark.parametrize("kind", KINDS)
def test_a_joint_rotation_changes_nothing(kind):
    a, b = views()
    rotation = torch.linalg.qr(views(4, 4)[0]).Q
    loss = ReLICLoss(ReLICConfig(divergence=kind))
    for name, value in loss(a, b).items():
        torch.testing.assert_close(loss(a @ rotation, b @ rotation)[name], value)
    assert not torch.allclose(loss(a @ rotation, b)["loss"], loss(a, b)["loss"])


@pytest.mark.parametrize("kind", KINDS)
def test_swapped_views_have_the_same_penalty_where_it_is_symmetric(kind):
    a, b = views()
    loss = ReLICLoss(ReLICConfig(divergence=kind))
    same = torch.allclose(loss(a, b)["invariance"], loss(b, a)["invariance"], rtol=1e-9, atol=0)
    assert same == (kind in ("symmetric", "jensen-shannon"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_penalty_falls_as_the_square_of_a_high_temperature(kind):
    a, b = (unit(x) for x in views())
    found = [
        invariance((a, b), (b, a), temperature=temperature, divergence=kind).mean().item()
        for temperature in (20.0, 40.0, 80.0)
    ]
    assert found[0] / found[1] == pytest.approx(4, rel=0.1)
    assert found[1] / found[2] == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_where_all_is_alike_the_penalty_has_no_slope(kind):
    same = [torch.ones(6, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    found = ReLICLoss(ReLICConfig(divergence=kind))(*same)
    assert found["invariance"].requires_grad
    for slope in torch.autograd.grad(found["invariance"], same):
        assert slope.abs().max() < 1e-12
    tilted = torch.tensor([[0.1], [0.0], [0.0], [0.0], [0.0], [0.0]], dtype=torch.float64) + same[0].cumsum(1)
    found = ReLICLoss(ReLICConfig(divergence=kind))(tilted, views()[0])["invariance"]
    assert torch.autograd.grad(found, same[0])[0].abs().max() > 1e-3


EYES = (torch.eye(3), torch.eye(3))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: ReLICLoss()(torch.eye(3), torch.eye(2)), r"\[2, 2\] and view 1 \[3, 3\]"),
        (lambda: ReLICLoss()(torch.eye(3)), "two views at least"),
        (lambda: fisher_ratios(torch.tensor([[1.0], [math.nan]]), torch.arange(2)), "row 1 of the features holds NaN"),
        (lambda: fisher_ratios(torch.eye(2, dtype=torch.int64), torch.arange(2)), "torch.int64"),
        (lambda: ReLICLoss()(torch.eye(3), torch.eye(3), targets=[torch.eye(3)]), "as many targets"),
        (lambda: ReLICLoss()(torch.ones(1, 3), torch.ones(1, 3)), "this batch has 1"),
        (lambda: ReLICLoss()(torch.eye(3), math.nan * torch.eye(3)), "view 2 holds NaN"),
        (lambda: ReLICConfig(temperature=0.0), "temperature"),
        (lambda: ReLICConfig(alpha=-1.0), "alpha = -1.0"),
        (lambda: invariance(EYES, EYES, divergence="hellinger"), "forward, reverse, symmetric, jensen-shannon"),
        (lambda: invariance(EYES, EYES, divergence="jensen-shannon", detach_target=True), "detach_target"),
        (lambda: invariance(EYES, (torch.eye(3), torch.eye(4)[:, :3])), r"\[3, 3\] and \[4, 3\]"),
        (lambda: invariance(EYES, (torch.eye(4)[:, :3], torch.eye(3))), r"\[3, 3\] and \[4, 3\]"),
        (lambda: invariance(EYES, EYES, weight=torch.ones(2)), r"weight of shape \[2\]"),
        (lambda: ReLICConfig(alpha=math.inf), "alpha = inf: it must be at least 0 and finite"),
        (lambda: ReLICConfig(divergence="hellinger"), "forward, reverse, symmetric, jensen-shannon"),
        (lambda: ReLICConfig(divergence="jensen-shannon", detach_target=True), "detach_target"),
        (lambda: fisher_ratios(torch.eye(3), torch.zeros(3)), "name 1"),
        (lambda: fisher_ratios(torch.eye(3), torch.zeros(2)), r"labels of shape \[2\]"),
        (lambda: fisher_ratios(torch.eye(3), torch.arange(3)[:, None]), r"labels of shape \[3, 1\]"),
    ],
)
def test_bad_inputs_are_said(call, said):
    with pytest.raises(RequestError, match=said):
        call()

"""Hypergradients against closed forms, finite differences, unrolled training and each other."""

import gc

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad
from torch.nn import functional as F

from weigher.core.hypergrad import (
    ConjugateGradient,
    Exact,
    HypergradientError,
    Neumann,
    alignment,
    descend,
    implicit_hypergradient,
    unrolled_hypergradient,
)
from weigher.errors import RequestError


def rand(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.fixture
def quadratic():
    """L_T = (theta - B phi)' A (theta - B phi) / 2, L_V = |theta - c|^2 / 2; eigenvalues of A from 0.3 to 1.7."""
    basis = torch.linalg.qr(rand(5, 5)).Q
    A = basis @ torch.diag(torch.linspace(0.3, 1.7, 5, dtype=torch.float64)) @ basis.T
    B, c, phi = rand(5, 3), rand(5), rand(3)

    def train(theta, phi):
        away = theta - B @ phi
        return away @ A @ away / 2

    return A, B, c, phi, train, lambda theta, _: ((theta - c) ** 2).sum() / 2


def test_quadratic_has_its_closed_form_at_the_minimum(quadratic):
    _, B, c, phi, train, val = quadratic
    best = B @ phi
    true = B.T @ (best - c)
    for inverse in (Exact(), ConjugateGradient(steps=5, tolerance=0), Neumann(lr=1.0, terms=150)):
        torch.testing.assert_close(implicit_hypergradient(train, val, best, phi, inverse).gradient, true)


def test_the_error_of_the_series_falls_as_its_smallest_eigenvalue_says(quadratic):
    _, B, c, phi, train, val = quadratic
    best = B @ phi
    true = B.T @ (best - c)
    errors = [
        (implicit_hypergradient(train, val, best, phi, Neumann(lr=0.5, terms=k)).gradient - true).norm().item()
        for k in range(0, 60, 10)
    ]
    bound = torch.linalg.matrix_norm(B, 2).item() * (best - c).norm().item()
    assert all(error <= bound * (1 - 0.5 * 0.3) ** (10 * k + 1) for k, error in enumerate(errors))
    assert errors[-1] < 1e-3 * errors[0]


@pytest.mark.parametrize("terms", [0, 1, 4])
def test_terms_of_the_series_are_steps_from_the_minimum(quadratic, terms):
    _, B, _, phi, train, val = quadratic
    best = B @ phi

    def step(theta, phi, k):
        return descend(lambda w: train(w, phi), theta, torch.zeros(5), lr=0.4)[0]

    unrolled, last = unrolled_hypergradient(step, best, phi, val, steps=terms + 1)
    implicit = implicit_hypergradient(train, val, best, phi, Neumann(lr=0.4, terms=terms))
    torch.testing.assert_close(implicit.gradient, unrolled.gradient)
    torch.testing.assert_close(last, best)
    assert (implicit.products, unrolled.products) == (terms, 0)


def test_one_step_from_anywhere_is_the_series_without_products_with_v_after_the_step(quadratic):
    _, _, c, phi, train, val = quadratic
    start = rand(5)
    stepped = start - 0.4 * grad(train)(start, phi)
    v = stepped - c
    unrolled, _ = unrolled_hypergradient(
        lambda w, phi, k: descend(lambda w: train(w, phi), w, torch.zeros(5), lr=0.4)[0], start, phi, val, steps=1
    )
    fixed = implicit_hypergradient(train, lambda w, _: w @ v, start, phi, Neumann(lr=0.4, terms=0))
    torch.testing.assert_close(fixed.gradient, unrolled.gradient)


def ridge(x, y, log_decay):
    return torch.linalg.solve(x.T @ x / len(x) + torch.diag(log_decay.exp()), x.T @ y / len(x))


def test_ridge_regression_with_a_decay_for_each_feature():
    x, y, x_val, y_val, log_decay = rand(40, 4), rand(40), rand(20, 4), rand(20), rand(4)

    def train(w, phi):
        return ((x @ w - y) ** 2).mean() / 2 + (phi.exp() * w**2).sum() / 2

    def val(w, phi):
        return ((x_val @ w - y_val) ** 2).mean()

    best = ridge(x, y, log_decay)
    true = torch.autograd.functional.jacobian(lambda phi: val(ridge(x, y, phi), phi), log_decay)
    for inverse in (Exact(), ConjugateGradient(tolerance=1e-12)):
        found = implicit_hypergradient(train, val, best, log_decay, inverse)
        torch.testing.assert_close(found.gradient, true)
    assert found.validation_loss == pytest.approx(val(best, None).item())


def network(bias=True):
    model = nn.Sequential(nn.Linear(4, 6, bias=bias), nn.Tanh(), nn.Linear(6, 3)).double()
    return model, {name: p.detach() for name, p in model.named_parameters()}


def test_a_network_and_trees_against_a_dense_solution():
    model, params = network()
    x, y, x_val, y_val = rand(20, 4), torch.randint(3, (20,)), rand(10, 4), torch.randint(3, (10,))
    hparams = {"weights": rand(20), "others": [rand(3), (rand(1),)]}

    def loss(params, phi):
        each = F.cross_entropy(functional_call(model, params, (x,)) + phi["others"][0], y, reduction="none")
        decay = sum((p**2).sum() for p in params.values())
        return (phi["weights"].sigmoid() * each).mean() + phi["others"][1][0].exp().sum() * decay

    def val(params, phi):
        return F.cross_entropy(functional_call(model, params, (x_val,)), y_val) + phi["others"][0][1]

    found = implicit_hypergradient(loss, val, params, hparams, Exact(damping=0.1)).gradient
    sizes = [p.numel() for p in params.values()]
    flat = torch.cat([p.flatten() for p in params.values()])

    def unflat(flat):
        parts = flat.split(sizes)
        return {name: part.view_as(p) for (name, p), part in zip(params.items(), parts, strict=True)}

    H = torch.autograd.functional.hessian(lambda t: loss(unflat(t), hparams), flat) + 0.1 * torch.eye(
        len(flat), dtype=torch.float64
    )
    v = grad(lambda t: val(unflat(t), hparams))(flat)
    p = torch.linalg.solve(H, v)
    slope = grad(lambda phi: grad(lambda t: loss(unflat(t), phi))(flat) @ p)(hparams)
    direct = grad(lambda phi: val(params, phi))(hparams)
    torch.testing.assert_close(found["weights"], direct["weights"] - slope["weights"])
    torch.testing.assert_close(found["others"][0], direct["others"][0] - slope["others"][0])
    torch.testing.assert_close(found["others"][1][0], direct["others"][1][0] - slope["others"][1][0])


def test_unrolled_training_with_momentum_against_finite_differences_and_sgd():
    model, params = network()
    x, y, x_val, y_val = rand(12, 4), torch.randint(3, (12,)), rand(10, 4), torch.randint(3, (10,))
    phi, n = rand(12), 5

    def loss(params, phi):
        return (phi.sigmoid() * F.cross_entropy(functional_call(model, params, (x,)), y, reduction="none")).mean()

    def step(state, phi, k):
        return descend(lambda p: loss(p, phi), *state, lr=0.5 / (k + 1), momentum=0.9)

    def val(state, _):
        return F.cross_entropy(functional_call(model, state[0], (x_val,)), y_val)

    def trained(phi):
        for p, start in zip(model.parameters(), params.values(), strict=True):
            p.data = start.clone()
        optimiser = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
        for k in range(n):
            optimiser.param_groups[0]["lr"] = 0.5 / (k + 1)
            optimiser.zero_grad()
            loss(dict(model.named_parameters()), phi).backward()
            optimiser.step()
        return F.cross_entropy(model(x_val), y_val).item()

    still = {name: torch.zeros_like(p) for name, p in params.items()}
    found, (last, _) = unrolled_hypergradient(step, (params, still), phi, val, steps=n)
    assert found.validation_loss == pytest.approx(trained(phi), abs=1e-12)
    unit, h = torch.eye(12, dtype=torch.float64), 1e-5
    differences = [(trained(phi + h * e) - trained(phi - h * e)) / (2 * h) for e in unit]
    torch.testing.assert_close(found.gradient, torch.tensor(differences, dtype=torch.float64), atol=1e-9, rtol=1e-5)
    assert not any(p.requires_grad for p in last.values())


def test_weights_have_the_closed_form_and_forward_mode_gives_the_same():
    model, params = network()
    x, y, x_val, y_val = rand(8, 4), torch.randint(3, (8,)), rand(10, 4), torch.randint(3, (10,))
    x[1], y[1] = x[0], y[0]

    def each(params):
        return F.cross_entropy(functional_call(model, params, (x,)), y, reduction="none")

    def val(params, _=None):
        return F.cross_entropy(functional_call(model, params, (x_val,)), y_val)

    w = torch.ones(8, dtype=torch.float64)
    found = implicit_hypergradient(lambda p, w: (w * each(p)).mean(), val, params, w, Neumann(lr=0.3, terms=0)).gradient
    torch.testing.assert_close(found, -0.3 / 8 * alignment(each, params, grad(val)(params)))
    torch.testing.assert_close(found[0], found[1])  # the same example twice


def test_a_mislabelled_example_is_worth_less():
    x = torch.tensor([[1.0], [2.0], [-1.0], [-2.0], [1.5]], dtype=torch.float64)
    y = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0], dtype=torch.float64)  # the last is wrong

    def train(w, weight):
        return (weight * F.binary_cross_entropy_with_logits(x[:, 0] * w, y, reduction="none")).mean() + 0.01 * w**2

    val = lambda w, _: F.binary_cross_entropy_with_logits(x[:4, 0] * w, y[:4])  # noqa: E731
    w = torch.tensor(1.0, dtype=torch.float64)
    for inverse in (Neumann(0.1, 1), Neumann(0.1, 0), ConjugateGradient(), Exact()):
        slope = implicit_hypergradient(train, val, w, torch.ones(5, dtype=torch.float64), inverse).gradient
        assert (slope[:4] < 0).all()
        assert slope[4] > 0


def test_conjugate_gradients_solve_an_ill_conditioned_system_and_stop_early():
    H = torch.diag(torch.logspace(0, 3, 6, dtype=torch.float64))
    v = [rand(6)]
    products = []

    def product(u):
        products.append(u)
        return [H @ u[0]]

    p = ConjugateGradient(steps=100, tolerance=1e-10)(product, v)
    torch.testing.assert_close(H @ p[0], v[0])
    assert len(products) <= 12
    assert ConjugateGradient()(product, [torch.zeros(6, dtype=torch.float64)])[0].tolist() == [0] * 6


def test_damping_is_added_to_the_hessian_by_every_way():
    A = rand(6, 6)
    H, v = A @ A.T / 6 - 0.2 * torch.eye(6, dtype=torch.float64), [rand(6)]
    assert torch.linalg.eigvalsh(H)[0] < 0
    true = torch.linalg.solve(H + 0.5 * torch.eye(6, dtype=torch.float64), v[0])
    ways = (Exact(0.5), ConjugateGradient(steps=50, tolerance=1e-12, damping=0.5), Neumann(0.3, 1000, damping=0.5))
    for way in ways:
        torch.testing.assert_close(way(lambda u: [H @ u[0]], v)[0], true)


def test_curvature_that_is_not_positive_is_told_at_once_and_stops_later():
    H = torch.diag(torch.tensor([2.0, -1.0]))
    with pytest.raises(HypergradientError, match="damping"):
        ConjugateGradient()(lambda u: [H @ u[0]], [torch.tensor([0.0, 1.0])])
    p = ConjugateGradient()(lambda u: [H @ u[0]], [torch.tensor([1.0, 0.1])])
    assert p[0].isfinite().all()
    with pytest.raises(HypergradientError, match="singular"):
        Exact()(lambda u: [0 * u[0]], [torch.ones(2)])


def test_memory_does_not_grow_with_calls():
    model, params = network()
    x, y, w = rand(8, 4), torch.randint(3, (8,)), rand(8)

    def loss(params, w):
        return (w.sigmoid() * F.cross_entropy(functional_call(model, params, (x,)), y, reduction="none")).mean()

    def tensors():
        gc.collect()
        return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())

    gc.disable()
    try:
        counts = []
        for k in range(200):
            w = w - implicit_hypergradient(loss, lambda p, _, w=w: loss(p, w), params, w, Neumann(0.1, 2)).gradient
            if k in (5, 199):
                counts.append(tensors())
    finally:
        gc.enable()
    assert counts[0] == counts[1]
    assert w.grad_fn is None
    assert all(p.grad is None for p in model.parameters())


def test_half_of_theta_may_be_unused_and_a_tensor_of_phi_too():
    params, phi = {"used": rand(3), "idle": rand(2)}, {"a": rand(3), "idle": rand(2)}
    found = implicit_hypergradient(
        lambda p, f: ((p["used"] - f["a"]) ** 2).sum(), lambda p, f: p["used"].sum(), params, phi, Neumann(0.1)
    )
    assert found.gradient["idle"].tolist() == [0, 0]
    torch.testing.assert_close(found.gradient["a"], torch.full((3,), 0.36, dtype=torch.float64))


def square(p, f):
    return ((p - f) ** 2).sum()


@pytest.mark.parametrize(
    ("train", "val", "say"),
    [
        (lambda p, f: (p**2).sum(), square, "does not reach the training loss"),
        (lambda p, f: square(p, f.detach()), square, "does not reach the training loss"),
        (lambda p, f: (p - f) ** 2, square, "take its mean"),
        (lambda p, f: p.sum(), square, "constant"),
        (square, lambda p, f: torch.ones(()), "validation loss does not depend"),
        (lambda p, f: square(p, f) / 0, square, "training loss is inf"),
    ],
)
def test_what_cannot_be_differentiated_is_said(train, val, say):
    with pytest.raises((RequestError, HypergradientError), match=say):
        implicit_hypergradient(train, val, torch.zeros(2), torch.ones(2), Neumann(0.1))


def test_other_refusals():
    for wrong in (lambda: Neumann(0), lambda: Neumann(-1), lambda: Neumann(float("nan")), lambda: Neumann(0.1, -1)):
        with pytest.raises(RequestError):
            wrong()
    for wrong in (lambda: ConjugateGradient(0), lambda: ConjugateGradient(tolerance=1), lambda: Exact(-1)):
        with pytest.raises(RequestError):
            wrong()
    with pytest.raises(RequestError, match="int64"):
        implicit_hypergradient(square, square, torch.zeros(2, dtype=torch.int64), torch.ones(2), Neumann(0.1))
    with pytest.raises(RequestError, match="too large"):
        Exact()(list, [torch.zeros(20_001)])
    with pytest.raises(RequestError, match="at least one step"):
        unrolled_hypergradient(lambda s, f, k: s, torch.ones(1), torch.ones(1), square, steps=0)
    with pytest.raises(RequestError, match="does not reach"):
        unrolled_hypergradient(lambda s, f, k: s, torch.ones(1), torch.ones(1), lambda s, f: s.sum(), steps=1)


def test_a_series_that_diverges_is_told():
    def steep(p, f):
        return 1e6 * ((p - f) ** 4).sum()

    with pytest.raises(HypergradientError, match=r"not finite.*smaller lr"):
        implicit_hypergradient(steep, square, torch.zeros(2), torch.ones(2), Neumann(10.0, 20))


def test_an_operation_without_second_derivative_is_named():
    q = torch.randn(1, 1, 4, 8)

    def attend(p, f):
        kernel = torch.nn.attention.SDPBackend.FLASH_ATTENTION
        with torch.nn.attention.sdpa_kernel(kernel):
            return f.sum() * (F.scaled_dot_product_attention(q * p, q, q) ** 2).mean()

    with pytest.raises(RequestError, match="no second derivative"):
        implicit_hypergradient(attend, lambda p, f: p.sum(), torch.ones(()), torch.ones(2), Neumann(0.1))

    def step(p, f, k):
        return descend(lambda p: attend(p, f), p, torch.zeros(()), lr=0.1)[0]

    with pytest.raises(RequestError, match="no second derivative"):
        unrolled_hypergradient(step, torch.ones(()), torch.ones(2), lambda p, f: p.sum(), steps=2)


def test_tensors_given_are_left_as_they_were():
    p, f = torch.zeros(2), torch.ones(2, requires_grad=True)
    implicit_hypergradient(square, square, p, f, Neumann(0.1))
    assert p.requires_grad is False
    assert f.grad is None
    assert p.grad is None

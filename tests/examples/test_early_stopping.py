"""Early stopping under label noise: the noise, the rule and the record; and the theory's quantities."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from weigher.errors import RequestError
from weigher.examples import label_noise as theory
from weigher.examples.early_stopping import (
    MemorisationMonitor,
    NoiseRobustStopping,
    corrupt_labels,
    noisy_accuracy,
    true_accuracy,
)


@given(st.integers(2, 12), st.floats(0, 0.99), st.integers(0, 5))
def test_corrupted_labels_are_exactly_the_share_and_never_the_same(classes, part, seed):
    share = part * (classes - 1) / classes
    labels = torch.arange(200) % classes
    given_, wrong = corrupt_labels(labels, share, classes=classes, seed=seed)
    assert int(wrong.sum()) == round(200 * share)
    assert torch.equal(given_ != labels, wrong)
    assert 0 <= int(given_.min()) <= int(given_.max()) < classes
    assert torch.equal(given_, corrupt_labels(labels, share, classes=classes, seed=seed)[0])
    if share == 0:
        assert torch.equal(given_, labels)


def test_errors_are_spread_over_all_other_classes():
    given_, wrong = corrupt_labels(torch.zeros(3000, dtype=torch.int64), 0.5, classes=4, seed=0)
    counts = given_[wrong].bincount(minlength=4)
    assert counts[0] == 0
    assert (counts[1:] - 500).abs().max() < 80


def test_noisy_accuracy_is_what_random_predictions_have():
    labels = torch.randint(5, (200_000,))
    given_, _ = corrupt_labels(labels, 0.4, classes=5, seed=0)
    right = torch.rand(len(labels)) < 0.7
    predicted = torch.where(right, labels, (labels + torch.randint(1, 5, (len(labels),))) % 5)
    measured = (predicted == given_).float().mean().item()
    assert measured == pytest.approx(noisy_accuracy(0.7, 0.4, classes=5), abs=0.005)
    assert true_accuracy(measured, 0.4, classes=5) == pytest.approx(0.7, abs=0.01)
    for accuracy in (0.0, 0.3, 1.0):
        found = true_accuracy(noisy_accuracy(accuracy, 0.4, classes=5), 0.4, classes=5)
        assert found == pytest.approx(accuracy, abs=1e-12)


def test_the_record_tells_learned_from_memorised():
    model = nn.Linear(2, 2, bias=False)
    true, labels = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([0, 1, 1, 0, 1])
    monitor = MemorisationMonitor(model, labels, true)
    with torch.no_grad():
        model.weight *= 1.5
    moment = monitor.record(7, torch.tensor([0, 1, 1, 1, 0]))
    assert moment.distance == pytest.approx(0.5)
    assert (moment.step, moment.given, moment.true, moment.wrong_given, moment.wrong_true) == (7, 0.6, 0.6, 0.5, 0.5)
    clean = MemorisationMonitor(model, labels, labels).record(0, labels)
    assert (clean.true, clean.wrong_given, clean.wrong_true) == (1.0, None, None)
    assert monitor.moments == [moment]
    zero = nn.Linear(2, 2, bias=False)
    nn.init.zeros_(zero.weight)
    monitor = MemorisationMonitor(zero, labels)
    assert monitor.distance() == 0
    nn.init.ones_(zero.weight)
    assert monitor.distance() == math.inf


def test_a_record_that_begins_after_training_began_says_so():
    model, labels = nn.Linear(2, 2), torch.tensor([0, 1])
    with pytest.warns(UserWarning, match=r"step 50 .*before training"):
        MemorisationMonitor(model, labels).record(50, labels)
    monitor = MemorisationMonitor(model, labels)
    monitor.record(0, labels)
    monitor.record(50, labels)  # it has seen the beginning: nothing is learned, and that is so


def test_the_best_check_is_restored_bit_for_bit():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    stopping, states = NoiseRobustStopping(patience=3), []
    for step, score in enumerate([0.1, 0.7, 0.7, float("nan"), 0.2, 0.9]):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_()
        model(torch.randn(5, 3))
        states.append({name: value.clone() for name, value in model.state_dict().items()})
        if stopping.check(step, score, model):
            break
    assert step == 4
    assert (stopping.best_step, stopping.best_score) == (1, 0.7)
    stopping.restore(model)
    assert all(torch.equal(value, states[1][name]) for name, value in model.state_dict().items())


def test_distance_stops_too_and_is_not_best():
    model, stopping = nn.Linear(1, 1), NoiseRobustStopping(most_distance=0.3)
    assert not stopping.check(0, 0.5, model, distance=0.3)
    assert stopping.check(1, 0.9, model, distance=0.31)
    assert stopping.best_step == 0


def test_a_resumed_run_knows_its_start_and_its_best_check(tmp_path):
    model, labels = nn.Linear(2, 2, bias=False), torch.tensor([0, 1])
    monitor, stopping = MemorisationMonitor(model, labels), NoiseRobustStopping(patience=2)
    stopping.check(0, 0.5, model)
    best = model.weight.detach().clone()
    with torch.no_grad():
        model.weight *= 1.5
    monitor.record(1, labels)
    stopping.check(1, 0.4, model)
    torch.save([model.state_dict(), monitor.state_dict(), stopping.state_dict()], tmp_path / "run.pt")
    states = torch.load(tmp_path / "run.pt", weights_only=True)
    again = nn.Linear(2, 2, bias=False)
    again.load_state_dict(states[0])
    later, rule = MemorisationMonitor(again, labels), NoiseRobustStopping(patience=2)
    later.load_state_dict(states[1])
    rule.load_state_dict(states[2])
    assert later.moments == monitor.moments
    assert later.distance() == pytest.approx(0.5)
    assert rule.check(2, 0.3, again)
    rule.restore(again)
    assert torch.equal(again.weight, best)
    with pytest.raises(RequestError, match=r"\[\[2, 2\]\], and this network has \[\[2, 3\]\]"):
        MemorisationMonitor(nn.Linear(3, 2, bias=False), labels).load_state_dict(states[1])


def unit(n, d):
    return torch.nn.functional.normalize(torch.randn(n, d, dtype=torch.float64))


def test_the_gram_matrix_is_jacobian_times_jacobian():
    x, network = unit(7, 4), theory.FixedOutputNetwork(4, width=10).double()
    J = torch.autograd.functional.jacobian(
        lambda W: torch.func.functional_call(network, {"W": W}, (x,))[:, 0], network.W.detach()
    )
    by_hand = (network.V[0] * torch.sigmoid(x @ network.W.detach().T))[:, :, None] * x[:, None]
    torch.testing.assert_close(J, by_hand)
    flat = J.flatten(1)
    torch.testing.assert_close(theory.gram(x, network.W.detach()), flat @ flat.T)


def test_the_gram_matrix_of_any_network_is_that_of_all_its_derivatives():
    x, network = unit(7, 4), theory.FixedOutputNetwork(4, width=10).double()
    torch.testing.assert_close(theory.output_jacobian_gram(network, x), theory.gram(x, network.W.detach()))
    deep = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    deep[0].bias.requires_grad_(False)
    found, rows = theory.output_jacobian_gram(deep, x), []
    for example in x:
        for output in deep(example[None])[0]:
            slopes = torch.autograd.grad(output, [p for p in deep.parameters() if p.requires_grad], retain_graph=True)
            rows.append(torch.cat([slope.flatten() for slope in slopes]))
    every = torch.stack(rows) @ torch.stack(rows).T
    torch.testing.assert_close(found, torch.stack([every[c::3, c::3] for c in range(3)]).sum(0))
    assert not found.requires_grad


def test_the_limit_of_the_rate_is_that_of_the_whole_spectrum():
    matrices = [theory.gram(unit(30, 5), torch.randn(40, 5, dtype=torch.float64)), torch.diag(torch.arange(9.0))]
    matrices.append(torch.diag(torch.tensor([2.0, 2.0, 1.0])))  # the largest one twice
    for matrix in matrices:
        limit = 2 / torch.linalg.eigvalsh(matrix)[-1].item()
        assert theory.rate_limit(matrix) == pytest.approx(limit, rel=1e-4)
    assert theory.rate_limit(torch.zeros(3, 3)) == math.inf


def test_descent_on_a_frozen_jacobian_is_the_filter_and_diverges_beyond_the_limit():
    x, W = unit(8, 4), torch.randn(50, 4, dtype=torch.float64)
    K, y = theory.gram(x, W), torch.randn(8, dtype=torch.float64)
    rate = 0.9 * theory.rate_limit(K)
    residual = y.clone()
    for _ in range(40):
        residual = residual - rate * K @ residual
    vectors = torch.linalg.eigh(K).eigenvectors.flip(1)
    left = 1 - theory.learned_share(K, rate, 40)
    torch.testing.assert_close(residual, vectors @ (left * (vectors.T @ y)), atol=1e-10, rtol=0)
    fast = y.clone()
    for _ in range(400):
        fast = fast - 1.3 * theory.rate_limit(K) * K @ fast
    assert fast.norm() > 1e6 * y.norm()
    with pytest.raises(RequestError, match="converges only between 0 and"):
        theory.learned_share(K, theory.rate_limit(K), 1)


def test_finite_networks_approach_the_covariance_and_relu_has_its_closed_form():
    C = unit(5, 6)
    exact = theory.neural_covariance(C, "relu")
    sampled = theory.gram(C, torch.randn(200_000, 6, dtype=torch.float64), "relu")
    assert (exact - sampled).abs().max() < 0.006
    limit = theory.neural_covariance(C, samples=200_000)
    errors = [
        torch.stack([(theory.gram(C, torch.randn(k, 6, dtype=torch.float64)) - limit).norm() for _ in range(30)]).mean()
        for k in (50, 5000)
    ]
    assert 5 < errors[0] / errors[1] < 20  # 10 where the error falls as 1 / sqrt(k)


def test_clusters_are_measured_and_two_equal_centres_have_no_condition():
    centres = unit(4, 8)
    cluster = torch.arange(40) % 4
    x = centres[cluster]
    values = torch.tensor([-1.0, 0.1, 1.0, 1.0], dtype=torch.float64)[cluster]
    found = theory.clusterability(x, values, cluster)
    assert found.radius < 1e-7
    assert found.separation == pytest.approx(0.9)
    assert (found.clusters, found.classes) == (4, 3)
    assert 1 < found.condition < math.inf
    far = theory.clusterability(10 * x, values, cluster)
    assert far.radius < 1e-7  # only directions count: the theory's inputs have norm 1
    assert far.condition == pytest.approx(found.condition)
    turned = 0.3
    pair = torch.tensor([[math.cos(a), math.sin(a)] for a in (turned, -turned, math.pi)], dtype=torch.float64)
    wide = theory.clusterability(pair * 3, torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0, 0, 1]))
    assert wide.radius == pytest.approx(2 * math.sin(turned / 2))
    centres[1] = centres[0]
    twins = theory.clusterability(centres[cluster], values, cluster)
    assert twins.condition == math.inf
    assert torch.linalg.eigvalsh(theory.neural_covariance(centres, "relu"))[0] == pytest.approx(0, abs=1e-9)


def test_shares_of_the_spectrum_sum_to_one_and_find_an_eigenvector():
    K = theory.gram(unit(9, 5), torch.randn(40, 5, dtype=torch.float64))
    vectors = torch.linalg.eigh(K).eigenvectors.flip(1)
    shares = theory.spectral_shares(K, torch.randn(9, 3, dtype=torch.float64))
    assert shares.sum().item() == pytest.approx(1)
    assert theory.spectral_shares(K, vectors[:, 2])[2].item() == pytest.approx(1)
    assert theory.spectral_shares(K, torch.zeros(9, dtype=torch.float64)).tolist() == [0] * 9


def fitted(apart, steps=3000):
    """Fit two inputs so far apart to +1 and -1, and return the network and the gap."""
    start = unit(1, 6)[0]
    other = torch.nn.functional.normalize(start + apart * unit(1, 6)[0], dim=0)
    x, y = torch.stack([start, other]), torch.tensor([1.0, -1.0], dtype=torch.float64)
    network = theory.FixedOutputNetwork(6, width=60).double()
    rate = 0.5 * theory.rate_limit(theory.gram(x, network.W.detach()))
    for _ in range(steps):
        slope = torch.autograd.grad(((network(x)[:, 0] - y) ** 2).sum() / 2, network.W)[0]
        network.W.data -= rate * slope
    out = network(x)[:, 0].detach()
    return network, float((out[0] - out[1]).abs()), float((x[0] - x[1]).norm())


def test_fitting_two_close_inputs_takes_the_distance_and_closer_ones_more():
    travelled = []
    for apart in (0.4, 0.2):
        network, gap, distance = fitted(apart)
        assert gap > 1.5
        moved = float((network.W.detach() - network.W_0).norm())
        least = theory.least_distance(gap, distance, network.W_0)
        assert 0 < least <= moved
        k = len(network.W_0)
        norm = float(torch.linalg.matrix_norm(network.W_0, 2))
        assert distance * least * (1 + (norm + least) / (4 * math.sqrt(k))) == pytest.approx(gap)
        travelled.append((moved, least))
    assert travelled[1][0] > travelled[0][0]
    assert travelled[1][1] > travelled[0][1]


def test_refusals():
    labels = torch.zeros(4, dtype=torch.int64)
    model = nn.Linear(1, 1)
    x = unit(4, 3)
    for wrong, say in (
        (lambda: corrupt_labels(labels, 0.5, classes=2, seed=0), "majority is wrong"),
        (lambda: corrupt_labels(labels, -0.1, classes=2, seed=0), "below 1"),
        (lambda: corrupt_labels(labels, 0.1, classes=1, seed=0), "two or more"),
        (lambda: corrupt_labels(labels + 3, 0.1, classes=3, seed=0), "needed are 0 to 2"),
        (lambda: corrupt_labels(labels.float(), 0.1, classes=3, seed=0), "int64"),
        (lambda: corrupt_labels(labels[None], 0.1, classes=3, seed=0), "shape"),
        (lambda: NoiseRobustStopping(patience=0), "patience"),
        (lambda: NoiseRobustStopping(most_distance=0.0), "most_distance"),
        (lambda: NoiseRobustStopping().restore(model), "no check"),
        (lambda: MemorisationMonitor(nn.ReLU(), labels), "no parameters"),
        (lambda: MemorisationMonitor(model, labels, labels[:2]), "as many"),
        (lambda: MemorisationMonitor(model, labels).record(0, labels[:2]), "predictions"),
        (lambda: MemorisationMonitor(model, labels[:0]).record(0, labels[:0]), "no examples"),
        (lambda: theory.FixedOutputNetwork(3, width=5), "even"),
        (lambda: theory.neural_covariance(2 * x), "divide each by its norm"),
        (lambda: theory.clusterability(x, torch.arange(4.0), labels), "several class values"),
        (lambda: theory.clusterability(x, torch.zeros(4), labels), "one class"),
        (lambda: theory.clusterability(0 * x, torch.zeros(4), labels), "example 0 is 0 everywhere"),
        (
            lambda: theory.clusterability(torch.tensor([[1.0], [-1.0]]), torch.zeros(2), labels[:2]),
            "cluster 0 cancel.*no direction",
        ),
        (lambda: theory.gram(x, x, "tanh"), "'tanh'; needed is one of softplus, relu"),
        (lambda: theory.neural_covariance(x, "tanh"), "'tanh'"),
        (lambda: theory.output_jacobian_gram(model, torch.zeros(20_001, 1)), "does not fit"),
        (lambda: theory.output_jacobian_gram(nn.ReLU(), x), "no parameters"),
        (lambda: theory.gram(torch.zeros(20_001, 1), torch.zeros(2, 1)), "does not fit"),
        (lambda: theory.least_distance(-1.0, 1.0, x), "0 or more"),
        (lambda: theory.learned_share(torch.eye(2), 0.5, -1), "steps"),
    ):
        with pytest.raises(RequestError, match=say):
            wrong()

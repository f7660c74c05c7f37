"""The diagnosis of embeddings: what its figures tell apart, weights, devices, and the lowest uniformity there is."""

import numpy as np
import pytest
import torch

from weigher.core.contrast import unit
from weigher.pairs.align_uniform import alignment, log_potential, uniformity, uniformity_bound
from weigher.pairs.diagnosis import diagnose


def drawn(n=9, e=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return unit(torch.randn(n, e, dtype=torch.float64, generator=generator))


def test_a_diagnosis_tells_a_cone_a_line_and_an_even_cloud_apart(tmp_path):
    even = diagnose(drawn(2000, 8).float())
    assert abs(even.gap) < 0.02
    assert even.effective_rank > 7.9
    assert abs(even.mean_cosine) < 0.01
    assert even.alignment is None
    cone = diagnose((drawn(500, 8) + torch.tensor([3.0] + [0.0] * 7)).numpy())
    assert cone.gap > 2
    assert cone.mean_cosine > 0.7
    assert cone.effective_rank < 5
    line = diagnose(torch.tensor([[1.0, 1.0], [2.0, 2.0], [-1.0, -1.0]]))
    assert line.effective_rank == pytest.approx(1, abs=1e-3)
    assert line.uniformity >= line.lowest
    x, y = drawn(50, 8), drawn(50, 8, seed=1)
    both = diagnose(x, 2 * y)
    assert both.alignment == pytest.approx(alignment(x, y).item())
    assert both.uniformity == pytest.approx(uniformity(x).item())
    cosines = (x @ x.T)[~torch.eye(50, dtype=torch.bool)]
    assert both.mean_cosine == pytest.approx(cosines.mean().item())
    singular = torch.linalg.svdvals(x)
    p = singular / singular.sum()
    assert both.effective_rank == pytest.approx((-(p * p.log()).sum()).exp().item())
    assert "alignment" in str(both)
    assert np.linalg.norm(both.plane, axis=1).max() <= 1 + 1e-6
    both.plot(tmp_path / "x.png", labels=list(range(50)), title="random")
    assert (tmp_path / "x.png").stat().st_size > 5000


def test_the_mean_cosine_is_one_of_pairs_whatever_the_weights():
    same = torch.ones(3, 2)
    for scale in (0.2, 0.5, 1.0, 3.0):  # rows in one place have a cosine of 1
        assert diagnose(same, weight=torch.full((3,), scale)).mean_cosine == pytest.approx(1)
    x = drawn(6).float()
    weight = torch.tensor([0.2, 0.9, 0.0, 0.4, 1.0, 0.3])
    cosines, pairs = x @ x.T, weight[:, None] * weight
    apart = ~torch.eye(6, dtype=torch.bool)
    expected = (pairs * cosines)[apart].sum().item() / pairs[apart].sum().item()
    for scale in (1.0, 0.1, 1e-6):  # weights below 1 have no scale
        assert diagnose(x, weight=scale * weight).mean_cosine == pytest.approx(expected, rel=1e-4)


def test_what_is_told_of_embeddings_elsewhere_is_brought_here(monkeypatch):
    brought, cpu, numpy = [], torch.Tensor.cpu, torch.Tensor.numpy

    def bring(tensor):
        brought.append(cpu(tensor).clone())
        return brought[-1]

    def read(tensor):
        assert any(tensor is one for one in brought), "a tensor of a GPU cannot be read as it is"
        return numpy(tensor)

    monkeypatch.setattr(torch.Tensor, "cpu", bring)
    monkeypatch.setattr(torch.Tensor, "numpy", read)
    found = diagnose(drawn(), drawn(seed=1))
    assert (found.plane.shape, found.distances.shape) == ((9, 2), (9,))


def test_second_views_and_weights_are_brought_to_the_embeddings(monkeypatch):
    asked, as_tensor = [], torch.as_tensor

    def spy(given, device=None):
        asked.append(device)
        return as_tensor(given, device=device)

    monkeypatch.setattr(torch, "as_tensor", spy)
    diagnose(drawn(), drawn(seed=1).numpy(), weight=torch.ones(9))
    assert asked == [None, torch.device("cpu"), torch.device("cpu")]


def least_uniformity(weight, e, seed, steps=150):
    """The lowest uniformity that descent finds for rows of these weights."""
    x = drawn(len(weight), e, seed).requires_grad_()
    optimizer = torch.optim.Adam([x], 0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        log_potential(unit(x), t=2.0, weight=weight).backward()
        optimizer.step()
    return diagnose(x.detach(), weight=weight)


def test_no_weighted_rows_go_below_the_lowest():
    two_of_three = diagnose(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]), weight=torch.tensor([1.0, 1.0, 1e-3]))
    assert -8 - 1e-3 < two_of_three.lowest < two_of_three.uniformity < -7.8  # three equal rows stay above -6
    assert diagnose(drawn(6), weight=torch.full((6,), 0.3)).lowest == pytest.approx(uniformity_bound(6))
    generator = torch.Generator().manual_seed(0)
    for seed in range(30):
        n, e = 2 + seed % 5, 2 + seed % 3
        weight = torch.rand(n, dtype=torch.float64, generator=generator) ** 3 + 1e-3
        if seed % 3 == 0:
            weight = 4 * weight  # some are copies
        found = least_uniformity(weight, e, seed)
        assert found.uniformity >= found.lowest - 1e-9
        assert diagnose(drawn(n, e, seed), weight=weight).uniformity >= found.lowest
    copies = torch.tensor([1.0, 3.0, 2.0])
    x = drawn(3).float()
    repeated = diagnose(x.repeat_interleave(copies.long(), 0))
    assert diagnose(x, weight=copies).lowest == pytest.approx(repeated.lowest) == pytest.approx(uniformity_bound(6))


def test_a_diagnosis_takes_arrays_and_embeddings_of_one_number(tmp_path):
    x, weight = drawn(6), torch.tensor([1.0, 2.0, 0.0, 3.0, 1.0, 1.0])
    found, whole = diagnose(x.numpy(), weight=weight.numpy()), diagnose(x, weight=weight)
    assert (found.uniformity, found.mean_cosine) == (whole.uniformity, whole.mean_cosine)
    line = diagnose(torch.tensor([[2.0], [-1.0], [0.5]]))
    assert line.plane.tolist() == [[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]]
    line.plot(tmp_path / "line.png")
    assert (tmp_path / "line.png").stat().st_size > 1000


def test_weights_in_a_diagnosis_are_copies():
    x, y = drawn(6), drawn(6, seed=1)
    weight = torch.tensor([1, 2, 0, 3, 1, 1])
    whole = diagnose(x.repeat_interleave(weight, 0), y.repeat_interleave(weight, 0))
    found = diagnose(x, y, weight=weight)
    for name in ("alignment", "uniformity", "effective_rank", "mean_cosine"):
        assert getattr(found, name) == pytest.approx(getattr(whole, name)), name

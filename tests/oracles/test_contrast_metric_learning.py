"""NT-Xent and InfoNCE against pytorch-metric-learning: the same values and gradients."""

import pytest
import torch

from weigher.core.contrast import info_nce, nt_xent, unit

losses = pytest.importorskip("pytorch_metric_learning.losses", reason="pytorch-metric-learning is not installed")


def drawn():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(12, 5, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(2)]


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_nt_xent_is_theirs_over_both_views(temperature):
    first, second = drawn()
    ours = nt_xent(unit(first), unit(second), temperature=temperature).mean()
    theirs = losses.NTXentLoss(temperature)(torch.cat([first, second]), torch.arange(12).repeat(2))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    for one, two in zip(*(torch.autograd.grad(loss, (first, second)) for loss in (ours, theirs)), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-8, atol=1e-9)


def test_info_nce_is_theirs_against_reference_rows_and_a_queue():
    first, second = drawn()
    queue = torch.randn(7, 5, dtype=torch.float64)
    ours = info_nce(unit(first), unit(second), temperature=0.2, negatives=unit(queue)).mean()
    theirs = losses.NTXentLoss(0.2)(
        first, torch.arange(12), ref_emb=torch.cat([second, queue]), ref_labels=torch.arange(19)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    for one, two in zip(*(torch.autograd.grad(loss, (first, second)) for loss in (ours, theirs)), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-8, atol=1e-9)

"""Losses of pairs on two workers started by `torchrun`: loss and gradients of one process with the joint batch."""

import sys
from pathlib import Path

import torch

from launching import saved_by_workers
from weigher.core.contrast import nt_xent, symmetric_info_nce, unit
from weigher.pairs.align_uniform import AlignUniformConfig, AlignUniformLoss
from weigher.pairs.info_nce import InfoNCELoss
from weigher.pairs.queue import EmbeddingQueue
from weigher.pairs.relic import ReLICLoss
from weigher.pairs.workers import everyones, mean_over_workers
from weigher.train import join_workers, rank

SIZES = (3, 5)  # rows of each worker: they differ


def batch():
    generator = torch.Generator().manual_seed(0)
    views = [torch.randn(sum(SIZES), 4, dtype=torch.float64, generator=generator) for _ in range(2)]
    return views, torch.tensor([1.0, 0.5, 2.0, 0.0, 1.0, 3.0, 1.5, 1.0], dtype=torch.float64)


def symmetric(first, second, weight):
    everyone, offset = everyones(unit(first), unit(second), weight)
    own = slice(offset, offset + len(first))
    each = symmetric_info_nce(
        unit(first), unit(second), everyone=everyone[:2], weight=everyone[2], offset=offset, temperature=0.5
    )
    return mean_over_workers(each, everyone[2][own])


def queued(first, second, weight):
    """The third of three steps with keys by another encoder, and those of the two before in the queue."""
    config = AlignUniformConfig(contrast_weight=0.5)
    losses = [AlignUniformLoss(config, EmbeddingQueue(12, 4)), InfoNCELoss(0.3, EmbeddingQueue(12, 4))]
    found = []
    for loss in losses:
        loss.double()
        for step in range(3):
            slow = [first.detach() + step, second.detach() - 0.3 * step]
            value = loss(first, second, weight, targets=slow)["loss"]
        found.append(value)
    return found[0] + found[1]


LOSSES = {
    "symmetric": symmetric,
    "nt_xent": lambda a, b, w: InfoNCELoss(0.3)(a, b, w)["loss"],
    "relic": lambda a, b, w: ReLICLoss()(a, b, weight=w)["loss"],
    "align_uniform": lambda a, b, w: AlignUniformLoss()(a, b, w)["loss"],
    "queued": queued,
}


def gradients(view_rows, weight):
    found = {}
    for name, loss in LOSSES.items():
        leaves = [x.clone().requires_grad_() for x in view_rows]
        value = loss(*leaves, weight)
        found[name] = [value.detach(), *torch.autograd.grad(value, leaves)]
    return found


def worker(folder):
    join_workers(torch.device("cpu"))
    views, weight = batch()
    cuts = {
        "uneven": slice(0, SIZES[0]) if rank() == 0 else slice(SIZES[0], None),
        "one each": slice(rank(), rank() + 1),
    }
    torch.save(
        {name: gradients([x[mine] for x in views], weight[mine]) for name, mine in cuts.items()},
        folder / f"{rank()}.pt",
    )


def test_two_workers_give_the_loss_and_gradients_of_the_joint_batch(tmp_path):
    parts = saved_by_workers(__file__, tmp_path)
    views, weight = batch()
    for cut, size in (("uneven", sum(SIZES)), ("one each", 2)):  # one row is enough where others have more
        for name, (value, *slopes) in gradients([x[:size] for x in views], weight[:size]).items():
            found = [part[cut][name] for part in parts]
            torch.testing.assert_close((found[0][0] + found[1][0]) / 2, value, rtol=1e-9, atol=1e-12, msg=name)
            for k, slope in enumerate(slopes, 1):
                # the training loop takes the mean over workers of every gradient
                joined = torch.cat([each[k] for each in found]) / 2
                torch.testing.assert_close(joined, slope, rtol=1e-9, atol=1e-12, msg=name)


def test_one_process_has_the_plain_mean():
    views, weight = batch()
    first, second = (unit(x) for x in views)
    each = nt_xent(first, second, weight=weight, temperature=0.3)
    expected = (weight * each).sum() / weight.sum()
    torch.testing.assert_close(LOSSES["nt_xent"](*views, weight), expected)


if __name__ == "__main__":
    worker(Path(sys.argv[1]))

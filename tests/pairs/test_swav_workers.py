"""SwAV on two workers started by `torchrun`: codes, queue, loss and gradients of one process with the joint batch."""

import sys
from pathlib import Path

import pytest
import torch

from launching import saved_by_workers
from weigher.pairs.swav import SwAVConfig, SwAVLoss
from weigher.train import join_workers, rank

SIZES = (3, 5)  # rows of each worker: they differ
STEPS = 3


def batch(step):
    generator = torch.Generator().manual_seed(step)
    views = [torch.randn(sum(SIZES), 4, dtype=torch.float64, generator=generator) for _ in range(3)]
    return views, torch.tensor([1.0, 0.5, 2.0, 0.0, 1.0, 3.0, 1.5, 1.0], dtype=torch.float64)


def run(mine):
    """Return figures and gradients of three steps, of which the last two use the queue, and the state at the end."""
    config = SwAVConfig(prototypes=6, embedding=4, queue=10, frozen_steps=1)
    loss = SwAVLoss(config, generator=torch.Generator().manual_seed(0)).double()
    found = []
    for step in range(STEPS):
        views, weight = batch(step)
        leaves = [view[mine].clone().requires_grad_() for view in views]
        loss.prototypes.grad = None
        figures = loss(*leaves, weight=weight[mine])
        figures["loss"].backward()
        slope = None if loss.prototypes.grad is None else loss.prototypes.grad.clone()
        numbers = {name: value.detach() for name, value in figures.items()}
        found.append({"figures": numbers, "views": [leaf.grad for leaf in leaves], "prototypes": slope})
    return {"steps": found, "state": loss.state_dict()}


def worker(folder):
    join_workers(torch.device("cpu"))
    mine = slice(0, SIZES[0]) if rank() == 0 else slice(SIZES[0], None)
    torch.save(run(mine), folder / f"{rank()}.pt")


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return saved_by_workers(__file__, tmp_path_factory.mktemp("workers"))


def close(found, expected, name):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12, msg=lambda said: f"{name}: {said}")


def test_two_workers_give_the_loss_and_gradients_of_the_joint_batch(parts):
    for step, whole in enumerate(run(slice(None))["steps"]):
        one, two = (part["steps"][step] for part in parts)
        for name, value in whole["figures"].items():
            close((one["figures"][name] + two["figures"][name]) / 2, value, f"{name}, step {step}")
        for k, slope in enumerate(whole["views"]):
            # the training loop takes the mean over workers of every gradient
            close(torch.cat([one["views"][k], two["views"][k]]) / 2, slope, f"view {k}, step {step}")
        if step == 0:
            assert one["prototypes"] is two["prototypes"] is whole["prototypes"] is None
        else:
            close((one["prototypes"] + two["prototypes"]) / 2, whole["prototypes"], f"prototypes, step {step}")


def test_both_hold_one_queue_and_count_alike(parts):
    whole = run(slice(None))["state"]
    for name, tensor in whole.items():
        for part in parts:
            close(part["state"][name], tensor, name)


if __name__ == "__main__":
    worker(Path(sys.argv[1]))

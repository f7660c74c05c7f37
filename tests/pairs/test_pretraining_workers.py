"""The self-supervised loop on two workers, started by `torchrun`: they learn what one learns of the joint batch."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from launching import saved_by_workers
from weigher.pairs.align_uniform import AlignUniformConfig, AlignUniformLoss
from weigher.pairs.info_nce import InfoNCELoss
from weigher.pairs.pretraining import PretrainConfig, pretrain_drawn
from weigher.pairs.queue import EmbeddingQueue
from weigher.pairs.relic import ReLICLoss
from weigher.pairs.seqclr import SeqCLRConfig, SeqCLRLoss
from weigher.pairs.sequences import Aligned
from weigher.pairs.swav import SwAVConfig, SwAVLoss
from weigher.train import join_workers, rank

COUNT, BATCH = 16, 7  # two batches an epoch, of which one worker has 4 rows and the other 3
LOOP = PretrainConfig(epochs=2, batch=BATCH, learning_rate=0.03)  # four steps
FRAMES = 6
UNTOLD = {"kind", "seconds", "batch_seconds", "items_per_second"}


class Frames(nn.Module):
    """An encoder of sequences, frame by frame."""

    def __init__(self):
        super().__init__()
        self.layers = rows_encoder()

    def forward(self, values, lengths):
        return self.layers(values), lengths


def rows_encoder():
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4))


def swav():
    # a queue of whole batches: which rows of a batch come last is a matter of how many workers there are
    return SwAVLoss(SwAVConfig(prototypes=5, embedding=4, queue=2 * BATCH, frozen_steps=1))


def seqclr():
    return Aligned(SeqCLRLoss(SeqCLRConfig(windows=2, head="bilstm", hidden=5, embedding=4), features=4))


CASES = {  # encoder, loss, momentum of the slow copy
    "info_nce": (rows_encoder, InfoNCELoss, None),
    "info_nce, queue": (rows_encoder, lambda: InfoNCELoss(0.2, EmbeddingQueue(2 * BATCH, 4)), 0.9),
    "align_uniform": (rows_encoder, lambda: AlignUniformLoss(AlignUniformConfig(contrast_weight=0.5)), None),
    "relic": (rows_encoder, ReLICLoss, 0.9),
    "swav": (rows_encoder, swav, None),
    "seqclr": (Frames, seqclr, None),
}


def learn(case):
    """Return what has been learned and told, of views that are the same in each epoch."""
    make_encoder, make_loss, momentum = CASES[case]
    generator = torch.Generator().manual_seed(0)
    shape = (COUNT, FRAMES, 5) if case == "seqclr" else (COUNT, 5)
    views = [torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(2)]
    lengths = torch.randint(2, FRAMES + 1, (COUNT,), generator=generator)

    def draw(chosen, _):
        if case == "seqclr":
            return [(view[chosen], lengths[chosen]) for view in views]
        return [(view[chosen],) for view in views]

    torch.manual_seed(rank())  # workers begin with other weights, and get those of worker 0
    # of double precision: AdamW makes steps of one size also of gradients that are nothing but rounding
    encoder, loss = make_encoder().double(), make_loss().double()
    config = replace(LOOP, target_momentum=momentum)
    history = pretrain_drawn(encoder, loss, COUNT, draw, config, device="cpu")
    told = [{name: value for name, value in record.items() if name not in UNTOLD} for record in history.train]
    learned = {f"{part}.{name}": x for part, m in (("encoder", encoder), ("loss", loss)) for name, x in state(m)}
    return {"learned": learned, "told": told}


def state(module):
    """Yield parameters and buffers, those of a queue in an order that does not depend on the workers."""
    for name, tensor in module.state_dict().items():
        yield name, tensor[tensor[:, 0].argsort()] if name.endswith("held") else tensor


def worker(folder):
    join_workers(torch.device("cpu"))
    torch.save({case: learn(case) for case in CASES}, folder / f"{rank()}.pt")


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return saved_by_workers(__file__, tmp_path_factory.mktemp("workers"))


@pytest.mark.parametrize("case", CASES)
def test_two_workers_learn_what_one_learns_of_the_joint_batch(parts, case):
    whole = learn(case)
    for part in parts:
        found = part[case]
        assert found["learned"].keys() == whole["learned"].keys()
        for name, tensor in whole["learned"].items():
            torch.testing.assert_close(
                found["learned"][name], tensor, rtol=1e-7, atol=1e-9, msg=lambda said, name=name: f"{name}: {said}"
            )
        # AdamW and the clipping hide the size of a gradient; its norm is told
        assert len(whole["told"]) == len(found["told"]) == 4
        for ours, theirs in zip(found["told"], whole["told"], strict=True):
            assert ours == pytest.approx(theirs, rel=1e-7, abs=1e-9)


if __name__ == "__main__":
    worker(Path(sys.argv[1]))

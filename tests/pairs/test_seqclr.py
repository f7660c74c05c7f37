"""SeqCLR: instances by brute force, laws, closed forms, an outside library, heads and lengths, two workers."""

import math
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from contract import Subject, check_laws
from launching import saved_by_workers
from weigher.core.contrast import nt_xent, unit
from weigher.errors import RequestError
from weigher.pairs import seqclr
from weigher.pairs.seqclr import SeqCLRConfig, SeqCLRLoss, SequenceHead, instance_losses, instances
from weigher.train import join_workers, rank

MAPPINGS = ("frame", "window", "all")
HEADS = ("none", "mlp", "bilstm")
LENGTHS = torch.tensor([7, 4, 9])


def drawn(b=3, t=9, e=4, count=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(b, t, e, dtype=torch.float64, generator=generator) for _ in range(count)]


def padded(x, lengths, garbage=math.nan):
    return x.masked_fill((torch.arange(x.shape[1]) >= lengths[:, None])[..., None], garbage)


def cells(t, k):
    return [range(r * t // k, math.ceil((r + 1) * t / k)) for r in range(k)]


@pytest.mark.parametrize("windows", [1, 2, 3, 4])
def test_windows_are_the_adaptive_means_of_each_row(windows):
    (x,) = drawn(count=1)
    found, real = instances(padded(x, LENGTHS), LENGTHS, "window", windows)
    assert real.all()
    for row, length in enumerate(LENGTHS.tolist()):
        by_hand = torch.stack([x[row, list(cell)].mean(0) for cell in cells(length, windows)])
        torch.testing.assert_close(found[row], by_hand)
        theirs = F.adaptive_avg_pool1d(x[row, :length].T, windows).T
        torch.testing.assert_close(found[row], theirs)


def test_mappings_agree_where_they_are_the_same():
    (x,) = drawn(t=8, count=1)
    frames, one_each = instances(x, mapping="frame"), instances(x, mapping="window", windows=8)
    torch.testing.assert_close(frames[0], one_each[0])
    torch.testing.assert_close(frames[0], x)
    whole, single = instances(x, mapping="all"), instances(x, mapping="window", windows=1)
    torch.testing.assert_close(whole[0], single[0])
    torch.testing.assert_close(whole[0], x.mean(1, keepdim=True))
    blocks = instances(x, mapping="window", windows=4)[0]
    torch.testing.assert_close(blocks, x.view(3, 4, 2, 4).mean(2))


def test_padding_is_no_instance():
    (x,) = drawn(count=1)
    found, real = instances(padded(x, LENGTHS), LENGTHS, "frame")
    assert real.sum(1).tolist() == LENGTHS.tolist()
    assert found.isfinite().all()
    assert not found[~real].any()
    torch.testing.assert_close(found[real], x[real])


@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("head", HEADS)
def test_padding_changes_neither_loss_nor_gradient(mapping, head):
    torch.manual_seed(0)
    loss = SeqCLRLoss(SeqCLRConfig(mapping, windows=3, head=head, hidden=5, embedding=3), features=4).double()
    first, second = drawn()
    longest = int(LENGTHS.max())
    plain = [x.clone().requires_grad_() for x in (first, second)]
    wide = [F.pad(padded(x, LENGTHS), (0, 0, 0, 4), value=math.nan).requires_grad_() for x in (first, second)]
    found, other = loss(*plain, LENGTHS), loss(*wide, LENGTHS)
    torch.testing.assert_close(found["loss"], other["loss"])
    if head != "none":
        of_head = [
            torch.autograd.grad(each["loss"], [*loss.parameters()], retain_graph=True) for each in (found, other)
        ]
        torch.testing.assert_close(*of_head)
    for one, two in zip(
        torch.autograd.grad(found["loss"], plain), torch.autograd.grad(other["loss"], wide), strict=True
    ):
        torch.testing.assert_close(two[:, :longest], one)
        assert not two[torch.arange(longest + 4) >= LENGTHS[:, None]].any()
    parts = [
        instances(loss.head(x[None, :n], n[None]), None, mapping, 3)[0][0] for x, n in zip(first, LENGTHS, strict=True)
    ]
    others = [
        instances(loss.head(x[None, :n], n[None]), None, mapping, 3)[0][0] for x, n in zip(second, LENGTHS, strict=True)
    ]
    rows = [unit(torch.cat(each)) for each in (parts, others)]
    torch.testing.assert_close(found["loss"], nt_xent(*rows, temperature=0.1).mean())
    assert int(found["instances"]) == sum(map(len, parts))
    torch.testing.assert_close(found["cosine"], (rows[0] * rows[1]).sum(1).mean())


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_the_loss_is_that_of_pytorch_metric_learning_on_the_instances(mapping):
    losses = pytest.importorskip("pytorch_metric_learning.losses", reason="pytorch-metric-learning is not installed")
    views = [x.requires_grad_() for x in drawn()]
    ours = SeqCLRLoss(SeqCLRConfig(mapping, windows=3, head="none", temperature=0.3), features=4)(*views, LENGTHS)[
        "loss"
    ]
    rows = [found[real] for found, real in (instances(x, LENGTHS, mapping, 3) for x in views)]
    theirs = losses.NTXentLoss(0.3)(torch.cat(rows), torch.arange(len(rows[0])).repeat(2))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    for one, two in zip(*(torch.autograd.grad(loss, views) for loss in (ours, theirs)), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-8, atol=1e-9)


def test_a_masked_matrix_of_all_instances_gives_the_same():
    first, second = drawn()
    found = instance_losses(first, second, temperature=0.2)
    rows = unit(torch.cat([first.flatten(0, 1), second.flatten(0, 1)]))
    n = len(rows) // 2
    scores = (rows @ rows.T / 0.2).fill_diagonal_(-torch.inf)
    each = F.cross_entropy(scores, torch.arange(2 * n).roll(n), reduction="none")
    torch.testing.assert_close(found.flatten(), (each[:n] + each[n:]) / 2)


def plain(mapping, windows=3, temperature=0.1):
    return SeqCLRLoss(SeqCLRConfig(mapping, windows, "none", temperature), features=4)


def test_order_counts_but_for_the_whole():
    first, _ = drawn()
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    second = first + 0.1 * drawn(seed=2)[0]
    frame = plain("frame")
    torch.testing.assert_close(frame(first[:, order], second[:, order])["loss"], frame(first, second)["loss"])
    assert frame(first[:, order], second)["loss"] > frame(first, second)["loss"] + 1
    for mapping in ("frame", "window"):
        assert plain(mapping)(first, first.flip(1))["loss"] > plain(mapping)(first, first)["loss"] + 1
    whole = plain("all")
    torch.testing.assert_close(whole(first, first.flip(1))["loss"], whole(first, first)["loss"])


def test_closed_forms():
    rows = torch.eye(6, dtype=torch.float64).view(2, 3, 6)  # six orthogonal instances, perfectly matched
    loss = SeqCLRLoss(SeqCLRConfig("frame", head="none", temperature=0.1), features=6)
    assert loss(rows, rows)["loss"].item() == pytest.approx(4.5390e-4, rel=1e-4)
    assert loss(rows, rows)["loss"].item() == pytest.approx(-math.log(math.exp(10) / (math.exp(10) + 10)))
    first, second = drawn(b=5)
    found = plain("frame", temperature=1e4)(first, second)["loss"]
    assert found.item() == pytest.approx(math.log(2 * 45 - 1), abs=1e-3)


def test_views_of_different_lengths_are_for_windows():
    first, second = drawn()
    shorter = torch.tensor([5, 4, 6])
    found = plain("window")(first, second[:, :6], LENGTHS, shorter)["loss"]
    rows = [instances(first, LENGTHS, "window", 3)[0], instances(second[:, :6], shorter, "window", 3)[0]]
    torch.testing.assert_close(found, instance_losses(*rows).mean())
    with pytest.raises(RequestError, match="'window' or 'all'"):
        plain("frame")(first, second[:, :6])
    with pytest.raises(RequestError, match="or of other lengths"):
        plain("frame")(first, second, LENGTHS, shorter)


def one_sequence_each(first, second, weight=None):
    """Each row of a batch `[b, n, e]` as a loss of its own over n instances, in turn as one sequence or as n."""
    found = []
    for row, (x, y) in enumerate(zip(first, second, strict=True)):
        as_one = row % 2 == 0
        shape = (1, -1) if as_one else (-1, 1)
        chosen = None if weight is None else weight[row].view(shape)
        each = instance_losses(x.view(*shape, x.shape[-1]), y.view(*shape, x.shape[-1]), weight=chosen, temperature=0.5)
        found.append(each.flatten())
    return torch.stack(found)


def test_weights_of_instances_keep_the_laws():
    def pairs(batch, size, generator):
        return tuple(torch.randn(batch, size, 3, dtype=torch.float64, generator=generator) for _ in range(2))

    check_laws(Subject("instance_losses", one_sequence_each, pairs, output="kept", normalised=False))


def test_a_weight_of_a_sequence_is_one_of_all_its_instances():
    first, second = drawn()
    weight = torch.tensor([[2.0], [0.0], [1.0]], dtype=torch.float64)
    first[1, 2] = math.nan
    found = instance_losses(first, second, weight=weight)
    torch.testing.assert_close(found, instance_losses(first, second, weight=weight.expand(3, 9)))
    copies = [x[[0, 0, 2]] for x in (first, second)]
    torch.testing.assert_close(found[[0, 0, 2]], instance_losses(*copies))
    loss = plain("frame")
    got, expected = loss(first, second, weight=weight), loss(*copies)
    for name in ("loss", "cosine"):
        torch.testing.assert_close(got[name], expected[name])
    assert int(got["instances"]) == 18


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_gradients_are_exact(mapping):
    views = [x.requires_grad_() for x in drawn(t=4, e=3)]
    lengths = torch.tensor([4, 2, 3])
    torch.manual_seed(0)
    for head in HEADS:
        config = SeqCLRConfig(mapping, 2, head, 0.5, hidden=3, embedding=3)
        loss = SeqCLRLoss(config, features=3).double()
        if head == "mlp":
            loss.head.layers[1] = torch.nn.Tanh()  # a kink has no finite difference
        assert gradcheck(lambda a, b, loss=loss: loss(a, b, lengths)["loss"], views)


def test_a_recurrent_head_sees_the_other_frames_and_no_padding():
    torch.manual_seed(0)
    (x,) = drawn(count=1)
    changed = x.clone()
    changed[:, 0] += 1
    for head, spreads in (("mlp", False), ("bilstm", True)):
        made = SequenceHead(4, SeqCLRConfig(head=head)).double()
        moved = (made(changed, LENGTHS) - made(x, LENGTHS)).abs().sum(-1)
        assert bool(moved[:, 3].any()) == spreads
    spoiled = padded(x, LENGTHS)
    for row, n in enumerate(LENGTHS.tolist()):
        torch.testing.assert_close(
            made(spoiled, LENGTHS)[row, :n], made(x[row : row + 1, :n], LENGTHS[row : row + 1])[0]
        )


def test_bfloat16_and_few_features():
    first, second = (x.bfloat16() for x in drawn())
    for mapping in MAPPINGS:
        found = plain(mapping)(first, second, LENGTHS)
        assert all(value.isfinite() for value in found.values())
        wide = plain(mapping)(first.double(), second.double(), LENGTHS)
        torch.testing.assert_close(found["loss"].double(), wide["loss"], rtol=0.02, atol=0.02)


def test_a_step_of_training_draws_pairs_together():
    torch.manual_seed(0)
    x = torch.randn(6, 12, 5)
    encoder, loss = torch.nn.Linear(5, 8), SeqCLRLoss(SeqCLRConfig(windows=4, head="bilstm", hidden=8, embedding=8), 8)
    optimizer = torch.optim.Adam([*encoder.parameters(), *loss.parameters()], lr=0.01)
    values = []
    for _ in range(40):
        found = loss(*(encoder(x + 0.3 * torch.randn_like(x)) for _ in range(2)))
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()
        values.append(found["loss"].item())
    assert values[0] > 2
    assert values[-1] < values[0] - 1


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_a_sequence_of_weight_0_may_have_any_length(mapping):
    first, second = drawn(b=4)
    loss = SeqCLRLoss(SeqCLRConfig(mapping, windows=3), features=4).double()
    weight = torch.tensor([[1.0], [0.0], [2.0], [0.0]])
    there = loss(first, second, torch.tensor([9, 2, 7, 0]), weight=weight)
    kept = weight[:, 0] > 0
    alone = loss(first[kept], second[kept], torch.tensor([9, 7]), weight=weight[kept])
    torch.testing.assert_close(there["loss"], alone["loss"])
    assert there["instances"] == alone["instances"]


def headed(value):
    """A loss whose head has come to one number everywhere."""
    loss = SeqCLRLoss(SeqCLRConfig(hidden=3, embedding=2), features=4)
    for parameter in loss.parameters():
        torch.nn.init.constant_(parameter, value)
    return loss


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: instances(torch.zeros(3, 4)), r"expected are \(batch, time, feature\)"),
        (lambda: instances(torch.zeros(2, 4, 1), mapping="window", windows=5), "row 0 has 4 frames for 5 windows"),
        (lambda: instances(torch.zeros(2, 6, 1), torch.tensor([6, 3])), "row 1 has 3 frames for 5 windows"),
        (lambda: instances(torch.zeros(2, 6, 1), torch.tensor([6, 0]), "all"), "row 1 has the length 0"),
        (lambda: instances(torch.zeros(2, 6, 1), torch.tensor([7, 6]), "all"), "row 0 has the length 7"),
        (lambda: instances(torch.zeros(2, 6, 1), torch.tensor([6]), "all"), "for 2 sequences"),
        (lambda: instances(torch.zeros(2, 6, 1), torch.tensor([6.0, 6.0]), "all"), "whole number"),
        (lambda: instances(torch.zeros(2, 6, 1), mapping="letter"), "frame, window, all"),
        (lambda: instances(torch.zeros(2, 6, 1), windows=0), "windows = 0"),
        (lambda: SeqCLRConfig(temperature=0.0), "temperature = 0.0"),
        (lambda: SeqCLRConfig(temperature=math.nan), "temperature"),
        (lambda: SeqCLRConfig(mapping="word"), "mapping = 'word'"),
        (lambda: SeqCLRConfig(head="linear"), "none, mlp, bilstm"),
        (lambda: SeqCLRConfig(hidden=0), "hidden = 0"),
        (lambda: plain("all")(torch.ones(1, 3, 4), torch.ones(1, 3, 4)), "this batch has 1;"),
        (lambda: plain("all")(torch.ones(1, 3, 4), torch.ones(2, 3, 4)), "1 sequences in the first view and 2"),
        (lambda: plain("all")(torch.ones(2, 3, 5), torch.ones(2, 3, 4)), "view 1 has 5 features"),
        (lambda: plain("frame")(torch.ones(2, 3, 4), math.inf * torch.ones(2, 3, 4)), "row 0 of view 2 holds NaN"),
        (lambda: instance_losses(torch.ones(2, 3, 4), torch.ones(2, 4, 4)), r"\[2, 3, 4\] and \[2, 4, 4\]"),
        (lambda: instance_losses(torch.ones(2, 3, 4), torch.ones(2, 3, 4), weight=torch.ones(2)), r"weight of shape"),
        (lambda: instance_losses(torch.ones(3, 4), torch.ones(3, 4)), r"instances of shape \[3, 4\]"),
        (lambda: instance_losses(*torch.ones(2, 2, 3, 4), torch.ones(2, 4) > 0), r"real \[2, 4\]: expected"),
        (lambda: headed(math.nan)(*torch.rand(2, 2, 6, 4)), "row 0 of view 1, its instances, holds NaN"),
        (lambda: headed(0.0)(*torch.rand(2, 2, 6, 4)), "all 10 rows of view 1, its instances, are zeros"),
        (lambda: plain("frame")(*torch.ones(2, 2, 1, 4), weight=torch.eye(2)[:, :1]), "this batch has 1;"),
        (lambda: plain("all")(*torch.ones(2, 2, 4), weight=torch.ones(2, 1)), r"expected are \(batch, time, feature\)"),
    ],
)
def test_bad_inputs_are_said(call, said):
    with pytest.raises(RequestError, match=said):
        call()


@pytest.mark.parametrize(
    ("name", "arguments", "named"),
    [
        ("instances", (torch.randn(2, 6, 3), torch.tensor([6, 5])), {"windows": 4}),
        ("instance_losses", (torch.randn(2, 6, 3), torch.randn(2, 6, 3)), {"weight": torch.rand(2, 1)}),
        ("instance_losses", (torch.randn(2, 6, 3), torch.randn(2, 6, 3), torch.rand(2, 6) > 0.2), {}),
        ("checked_lengths", (torch.randn(2, 6, 3), torch.tensor([6, 5])), {}),
    ],
)
def test_shapes_are_as_written(checked, name, arguments, named):
    checked(seqclr, name)(*arguments, **named)


SIZES = (3, 5)  # sequences of each worker: they differ, and so do the numbers of their instances


def joint(mapping, rows):
    first, second = (x[rows].clone().requires_grad_() for x in drawn(b=sum(SIZES)))
    lengths = torch.tensor([7, 4, 9, 5, 6, 9, 3, 8])[rows]
    weight = torch.tensor([1.0, 0.5, 2.0, 0.0, 1.0, 3.0, 1.5, 1.0], dtype=torch.float64)[rows, None]
    torch.manual_seed(0)
    loss = SeqCLRLoss(SeqCLRConfig(mapping, 3, "bilstm", 0.3, hidden=3, embedding=3), features=4).double()
    found = loss(first, second, lengths, weight=weight)
    slopes = torch.autograd.grad(found["loss"], (first, second, *loss.parameters()))
    return [value.detach().double() for value in found.values()], list(slopes)


def worker(folder):
    join_workers(torch.device("cpu"))
    rows = slice(0, SIZES[0]) if rank() == 0 else slice(SIZES[0], None)
    torch.save({mapping: joint(mapping, rows) for mapping in MAPPINGS}, folder / f"{rank()}.pt")


def test_two_workers_give_the_loss_and_gradients_of_the_joint_batch(tmp_path):
    parts = saved_by_workers(__file__, tmp_path)
    for mapping in MAPPINGS:
        figures, slopes = joint(mapping, slice(None))
        for k, value in enumerate(figures):
            torch.testing.assert_close((parts[0][mapping][0][k] + parts[1][mapping][0][k]) / 2, value)
        for k, slope in enumerate(slopes):
            one, two = (part[mapping][1][k] for part in parts)
            # the training loop takes the mean over workers of every gradient
            joined = torch.cat([one, two]) / 2 if k < 2 else (one + two) / 2
            torch.testing.assert_close(joined, slope, rtol=1e-9, atol=1e-12, msg=f"{mapping}, {k}")


if __name__ == "__main__":
    worker(Path(sys.argv[1]))

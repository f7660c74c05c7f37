"""Area under the margin: closed forms, the sets of threshold examples, and real images with flipped labels."""

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from launching import saved_by_workers
from weigher.errors import RequestError
from weigher.examples.area_under_margin import AreaUnderMargin, ThresholdClass, find_label_errors
from weigher.train.distribution import join_workers, rank

IDS = torch.arange(4)


def test_constant_logits_give_their_margin_and_no_graph():
    aum = AreaUnderMargin(4)
    logits = (torch.tensor([[1.0, 2.0, 3.0]] * 4) * 1).requires_grad_()
    for _ in range(1000):
        aum.update(logits * 2, torch.tensor([0, 1, 2, 2]), IDS)
    assert aum.compute().tolist() == [-4.0, -2.0, 2.0, 2.0]
    assert not aum.records.sum.requires_grad
    assert logits.grad is None


@given(st.integers(0, 2**31))
def test_the_stream_is_the_mean_of_the_margins_in_any_order(seed):
    rng = np.random.default_rng(seed)
    batches = [(rng.normal(size=(5, 3)), rng.integers(3, size=5), rng.integers(4, size=5)) for _ in range(6)]
    stored = {i: [] for i in range(4)}
    one, other, shards = AreaUnderMargin(4), AreaUnderMargin(4), [AreaUnderMargin(4), AreaUnderMargin(4)]
    for k, (z, y, ids) in enumerate(batches):
        for row, label, i in zip(z, y, ids, strict=True):
            stored[int(i)].append(row[label] - np.delete(row, label).max())
        batch = tuple(map(torch.from_numpy, (z, y, ids)))
        one.update(*batch)
        shards[k % 2].update(*batch)
    for z, y, ids in reversed(batches):
        other.update(*map(torch.from_numpy, (z, y, ids)))
    found = one.records.mean()
    merged = shards[0].records.merge(shards[1].records).mean()
    for i, margins in stored.items():
        if margins:
            assert found[i].item() == pytest.approx(np.mean(margins), abs=1e-12)
            assert min(margins) - 1e-12 <= found[i].item() <= max(margins) + 1e-12
        else:
            assert found[i].isnan()
    torch.testing.assert_close(other.records.mean(), found, rtol=0, atol=1e-12, equal_nan=True)
    torch.testing.assert_close(merged, found, rtol=0, atol=1e-12, equal_nan=True)


def test_unseen_examples_are_nan_with_a_warning_and_nothing_at_all_is_an_error():
    aum = AreaUnderMargin(3)
    with pytest.raises(RequestError, match="no margin was recorded"):
        aum.compute()
    aum.update(torch.tensor([[1.0, 0.0]]), torch.tensor([0]), torch.tensor([1]))
    with pytest.warns(UserWarning, match="2 of 3 examples were never seen"):
        found = aum.compute()
    assert found.isnan().tolist() == [True, False, True]


def test_epochs_are_skipped_ignored_labels_left_out_and_a_batch_of_one_counts():
    aum = AreaUnderMargin(2, skip_epochs=1)
    z = torch.tensor([[1.0, 0.0]])
    aum.update(z * 100, torch.tensor([0]), torch.tensor([0]), epoch=0)
    aum.update(z, torch.tensor([0]), torch.tensor([0]), epoch=1)
    aum.update(z.repeat(2, 1) * 3, torch.tensor([0, -100]), torch.tensor([0, 1]), epoch=2)
    assert aum.records.mean()[0].item() == 2.0
    assert aum.records.count.tolist() == [2, 0]
    with pytest.raises(RequestError, match="needs to know the epoch"):
        aum.update(z, torch.tensor([0]), torch.tensor([0]))
    aum = AreaUnderMargin(1)
    aum.update(torch.tensor([[2.0, 0.0], [4.0, 0.0]]), torch.tensor([0, 0]), torch.tensor([0, 0]))  # counts twice
    assert aum.records.count.item() == 2
    assert aum.compute().item() == 3.0


@pytest.mark.parametrize(
    ("logits", "labels", "ids", "said"),
    [
        (torch.zeros(2), torch.tensor([0, 1]), torch.tensor([0, 1]), r"\[2\]"),
        (torch.zeros(2, 1), torch.tensor([0, 0]), torch.tensor([0, 1]), "at least 2 classes"),
        (torch.zeros(2, 3), torch.tensor([0, 4]), torch.tensor([0, 1]), "needed are 0 to 2"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), torch.tensor([0, 1]), "one output more"),
        (torch.zeros(2, 3), torch.tensor([0.0, 1.0]), torch.tensor([0, 1]), "whole number"),
        (torch.zeros(2, 3), torch.tensor([0, 1]), torch.tensor([0, 4]), "needed are 0 to 3"),
        (torch.zeros(2, 3), torch.tensor([0, 1]), torch.tensor([0]), "one label and one id"),
        (torch.tensor([[0.0, 1.0], [0.0, float("nan")]]), torch.tensor([0, 0]), torch.tensor([2, 3]), "example 3"),
        (torch.tensor([[0.0, float("inf")]]), torch.tensor([0]), torch.tensor([1]), "example 1"),
        (torch.tensor([[0.0, 1.0], [3e38, -3e38]]), torch.tensor([0, 0]), torch.tensor([2, 3]), "margin of example 3"),
        (torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool), torch.tensor([0, 1]), "num_labels=3"),
    ],
)
def test_bad_batches_are_named_and_record_nothing(logits, labels, ids, said):
    aum = AreaUnderMargin(4)
    with pytest.raises(ValueError, match=said):
        aum.update(logits, labels, ids)
    assert aum.records.count.sum() == 0


def test_margins_of_half_precision_are_finite_and_keep_their_digits():
    aum, zero, one = AreaUnderMargin(2), torch.tensor([0]), torch.tensor([1])
    aum.update(torch.tensor([[6e4, -6e4]], dtype=torch.float16), zero, zero)
    aum.update(torch.tensor([[20.0, -0.05]], dtype=torch.bfloat16), zero, one)
    assert aum.compute().tolist() == pytest.approx([120_000, 20.05], rel=1e-5)


def test_labels_by_themselves_are_two_classes_each_and_any_set_has_a_margin():
    rng = torch.Generator().manual_seed(0)
    aum, single = AreaUnderMargin(3, num_labels=4), [AreaUnderMargin(3) for _ in range(4)]
    for _ in range(5):
        z, ids = torch.randn(3, 4, generator=rng), torch.randperm(3, generator=rng)
        members = torch.rand(3, 4, generator=rng) < 0.5
        members[0], members[1] = False, True  # nothing, and everything, is said to be there
        aum.update(z, members, ids)
        for k, one in enumerate(single):
            one.update(torch.stack([torch.zeros(3), z[:, k]], 1), members[:, k].long(), ids)
    found = aum.compute()
    assert found.shape == (3, 4)
    torch.testing.assert_close(found, torch.stack([one.compute() for one in single], 1))
    assert found.isfinite().all()
    again = AreaUnderMargin(3, num_labels=4)
    again.load_state_dict(aum.state_dict())
    torch.testing.assert_close(again.compute(), found)
    before = aum.records.sum.clone()
    for z, said, ids in (
        (torch.zeros(1, 4), torch.tensor([0]), torch.tensor([0])),
        (torch.zeros(1, 3), torch.zeros(1, 3, dtype=torch.bool), torch.tensor([0])),
        (torch.zeros(1, 4), torch.zeros(1, 4), torch.tensor([0])),
    ):
        with pytest.raises(RequestError, match=r"bool members .* 4"):
            aum.update(z, said, ids)
    assert torch.equal(aum.records.sum, before)
    with pytest.raises(RequestError, match="num_labels = 0"):
        AreaUnderMargin(3, num_labels=0)


def worker(folder):
    join_workers(torch.device("cpu"))
    whole = torch.nn.ModuleDict({"network": torch.nn.Linear(2, 2), "aum": AreaUnderMargin(4)})
    shared = torch.nn.parallel.DistributedDataParallel(_Recording(whole))
    own = [torch.tensor([0, 1, 3]), torch.tensor([2])][rank()]  # parts of different size
    for epoch in range(3):
        z = (epoch + 1.0) * torch.stack([own + 1.0, torch.zeros(len(own))], 1)
        shared(z, torch.zeros_like(own), own)
    once = whole["aum"].compute()
    resumed = AreaUnderMargin(4)
    state = [whole["aum"].state_dict()]
    dist.broadcast_object_list(state)  # what worker 0 saved, loaded by both
    resumed.load_state_dict(state[0])
    resumed.update(torch.zeros(len(own), 2), torch.zeros_like(own), own)
    torch.save((once, resumed.compute(), resumed.records.count), folder / f"{rank()}.pt")


class _Recording(torch.nn.Module):
    """A network that records its own margins; DistributedDataParallel sends worker 0's buffers before every pass."""

    def __init__(self, parts):
        super().__init__()
        self.parts = parts

    def forward(self, z, labels, ids):
        self.parts["aum"].update(z, labels, ids)
        return self.parts["network"](z)


def test_workers_hold_what_all_saw_within_a_shared_model_and_after_a_resume(tmp_path):
    for once, resumed, count in saved_by_workers(__file__, tmp_path):
        assert once.tolist() == [2.0, 4.0, 6.0, 8.0]  # (1 + 2 + 3) / 3 times the margin
        assert resumed.tolist() == [1.5, 3.0, 4.5, 6.0]
        assert count.tolist() == [4, 4, 4, 4]


def test_planted_wrong_memberships_come_first():
    """Six labels, each there in a third of the examples, mixed into twelve features; 3 % are turned around."""
    rng = torch.Generator().manual_seed(0)
    truth = torch.rand(400, 6, generator=rng) < 1 / 3
    x = truth.float() @ torch.randn(6, 12, generator=rng) + 0.2 * torch.randn(400, 12, generator=rng)
    wrong = torch.rand(400, 6, generator=rng) < 0.03
    members = truth ^ wrong
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(12, 32), torch.nn.ReLU(), torch.nn.Linear(32, 6))
    optimizer, aum = torch.optim.SGD(net.parameters(), lr=0.3, momentum=0.9), AreaUnderMargin(400, num_labels=6)
    for _ in range(12):
        for ids in torch.randperm(400).split(20):
            logits = net(x[ids])
            aum.update(logits, members[ids], ids)
            optimizer.zero_grad()
            torch.nn.functional.binary_cross_entropy_with_logits(logits, members[ids].float()).backward()
            optimizer.step()
    first = aum.compute().flatten().argsort()[: int(wrong.sum())]
    assert wrong.flatten()[first].double().mean() > 0.9
    for said in (True, False):  # those that are too much, and those that are missing
        assert wrong.flatten()[first][members.flatten()[first] == said].double().mean() > 0.8


def test_threshold_sets_are_disjoint_of_the_stated_size_and_the_same_again():
    labels = torch.arange(50) % 4
    plan, again = (ThresholdClass(labels, 4, passes=3, seed=7) for _ in range(2))
    sets = torch.stack([plan.chosen(r) for r in range(3)])
    assert sets.sum(1).tolist() == [10, 10, 10]  # floor(50 / 5)
    assert (sets.sum(0) <= 1).all()
    for r in range(3):
        assert torch.equal(plan.labels(r), again.labels(r))
        assert torch.equal(plan.labels(r)[~sets[r]], labels[~sets[r]])
        assert (plan.labels(r)[sets[r]] == 4).all()
    assert not torch.equal(plan.chosen(0), ThresholdClass(labels, 4, passes=3, seed=8).chosen(0))


def test_flags_follow_the_cut_off_of_each_pass():
    labels = torch.arange(12) % 2
    plan = ThresholdClass(labels, 2, passes=2, seed=0)
    high = torch.where(torch.stack([plan.chosen(0), plan.chosen(1)]), 0.0, 1.0)
    assert not plan.flag(high).any()  # all others lie above the cut-off
    free = (~plan.chosen(0) & ~plan.chosen(1)).nonzero()[:, 0]
    once = high.clone()
    once[0, free[0]] = -1.0
    assert plan.flag(once, combine="any").nonzero()[:, 0].tolist() == [free[0]]
    assert not plan.flag(once, combine="all").any()
    once[1, free[0]] = 0.0  # AUM equal to the cut-off is flagged
    assert plan.flag(list(once)).nonzero()[:, 0].tolist() == [free[0]]
    never = once.clone()
    never[:, free[0]] = torch.nan
    assert not plan.flag(never, combine="any").any()
    never[1, free[1]] = -1.0
    never[0, free[1]] = torch.nan  # seen in one pass only: that pass decides
    assert plan.flag(never).nonzero()[:, 0].tolist() == [free[1]]
    of_set = high.clone()
    of_set[0, plan.chosen(0)] = torch.tensor([0.0, 0.0, 4.0, 4.0])
    assert plan.thresholds(of_set, 50).tolist() == [2.0, 0.0]
    flags = plan.flag(of_set, 100, "any")
    assert not flags[plan.chosen(0)].any()  # the other pass judges these, and finds them right


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda plan, aum: plan.flag(aum, percentile=0), "percentile"),
        (lambda plan, aum: plan.flag(aum, percentile=101), "percentile"),
        (lambda plan, aum: plan.flag(aum, combine="most"), "'all' or 'any'"),
        (lambda plan, aum: plan.flag(aum[:1]), "passes, examples"),
        (lambda plan, aum: plan.flag(aum * torch.nan), "ever seen in pass 0"),
    ],
)
def test_bad_requests_of_flags(call, said):
    with pytest.raises(RequestError, match=said):
        call(ThresholdClass(torch.arange(9) % 2, 2), torch.zeros(2, 9))


@pytest.mark.parametrize(
    ("labels", "classes", "passes", "said"),
    [
        (torch.tensor([0, 1]), 2, 1, "disjoint"),
        (torch.arange(6) % 2, 2, 4, "disjoint"),
        (torch.tensor([0, 2, 1, 0]), 2, 1, "needed are 0 to 1"),
        (torch.zeros(9), 2, 1, "whole numbers"),
        (torch.zeros(9, dtype=torch.long), 1, 1, "2 or more"),
    ],
)
def test_labels_that_give_no_threshold_class(labels, classes, passes, said):
    with pytest.raises(RequestError, match=said):
        ThresholdClass(labels, classes, passes=passes)


@pytest.mark.parametrize("wrong", [{"percentile": 0}, {"percentile": float("nan")}, {"combine": "most"}])
def test_a_cut_that_cannot_be_is_refused_before_training(wrong):
    def train(labels, outputs, number):
        raise AssertionError("trained in vain")

    with pytest.raises(RequestError, match=next(iter(wrong))):
        find_label_errors(train, torch.arange(9) % 2, 2, **wrong)


def test_training_has_to_give_one_number_for_each_example():
    with pytest.raises(RequestError, match="each of the 9"):
        find_label_errors(lambda labels, outputs, number: torch.zeros(4), torch.arange(9) % 2, 2)


def test_flipped_digits_are_found_by_a_small_network():
    """Real images, a fifth of the labels flipped: the recipe beats the margins of the network it ends with."""
    from sklearn.datasets import load_digits
    from sklearn.metrics import roc_auc_score

    images, truth = load_digits(return_X_y=True)
    x = torch.from_numpy(images[:700] / 16).float()
    rng = np.random.default_rng(0)
    truth = torch.from_numpy(truth[:700])
    wrong = torch.from_numpy(rng.random(700) < 0.2)
    labels = torch.where(wrong, (truth + torch.from_numpy(rng.integers(1, 10, 700))) % 10, truth)
    last = []

    def train(labels, outputs, number):
        torch.manual_seed(number)
        net = torch.nn.Sequential(torch.nn.Linear(64, 96), torch.nn.ReLU(), torch.nn.Linear(96, outputs))
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        aum = AreaUnderMargin(len(labels))
        for _ in range(30):
            margins = AreaUnderMargin(len(labels))
            for ids in torch.randperm(len(labels)).split(35):
                logits = net(x[ids])
                aum.update(logits, labels[ids], ids)
                margins.update(logits, labels[ids], ids)
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(logits, labels[ids]).backward()
                optimizer.step()
        last.append(margins.compute())
        return aum.compute()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = find_label_errors(train, labels, 10)
    auroc, at_the_end = (roc_auc_score(wrong, -scores) for scores in (found.aum, torch.stack(last).mean(0)))
    assert auroc > 0.95
    assert 1 - auroc < 0.3 * (1 - at_the_end)
    assert (found.flagged & wrong).sum() / wrong.sum() > 0.85  # recall
    assert (found.flagged & wrong).sum() / found.flagged.sum() > 0.6  # precision
    assert found.ranking()[0] in wrong.nonzero()[:, 0]


if __name__ == "__main__":
    worker(Path(sys.argv[1]))

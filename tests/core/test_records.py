"""Records against plain lists: whatever the order, the batches and the shards, a mean is the mean of what was seen."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weigher.core.records import Records
from weigher.errors import RequestError

MEASURED = st.lists(st.tuples(st.integers(0, 4), st.floats(-1e6, 1e6)), min_size=1, max_size=40)


def recorded(pairs, batch, examples=5):
    records = Records(examples)
    for first in range(0, len(pairs), batch):
        ids, values = zip(*pairs[first : first + batch], strict=True)
        records.add(torch.tensor(ids), torch.tensor(values, dtype=torch.float64))
    return records


@given(MEASURED, st.integers(1, 7))
def test_a_mean_is_the_mean_of_what_was_stored(pairs, batch):
    found = recorded(pairs, batch).mean()
    for i in range(5):
        stored = [value for where, value in pairs if where == i]
        if stored:
            assert found[i].item() == pytest.approx(np.mean(stored), rel=1e-12, abs=1e-9)
        else:
            assert found[i].isnan()


@given(MEASURED, st.integers(0, 40))
def test_two_shards_merge_to_one_and_neither_changes(pairs, cut):
    one, two = Records(5), Records(5)
    for shard, part in ((one, pairs[:cut]), (two, pairs[cut:])):
        for i, value in part:
            shard.add(torch.tensor([i]), torch.tensor([value], dtype=torch.float64))
    before = one.sum.clone()
    merged, whole = one.merge(two), recorded(pairs, 3)
    torch.testing.assert_close(merged.sum, whole.sum, rtol=1e-12, atol=1e-6)
    assert torch.equal(merged.count, whole.count)
    assert torch.equal(one.sum, before)


def test_columns_are_recorded_side_by_side_and_an_unseen_row_is_nan():
    records = Records(3, 2)
    records.add(torch.tensor([2, 2]), torch.tensor([[1.0, 10.0], [3.0, 20.0]]))
    assert records.mean()[2].tolist() == [2.0, 15.0]
    assert records.mean()[:2].isnan().all()


def test_what_was_recorded_is_saved_and_goes_on(tmp_path):
    records = Records(2)
    records.add(torch.tensor([1]), torch.tensor([4.0]))
    again = Records(2)
    again.load_state_dict(records.state_dict())
    again.add(torch.tensor([1]), torch.tensor([6.0]))
    assert again.mean()[1].item() == 5.0
    assert again.sum.dtype == torch.float64
    assert again.count.dtype == torch.int64


def test_a_module_in_half_precision_keeps_its_records_whole():
    records = Records(2)
    records.add(torch.tensor([0]), torch.tensor([1 / 3], dtype=torch.float64))
    torch.nn.ModuleDict({"part": records}).to(torch.bfloat16)
    records.add(torch.tensor([0]), torch.tensor([1 / 3], dtype=torch.bfloat16))
    assert records.sum.dtype == torch.float64
    assert records.count.dtype == torch.int64
    assert abs(records.mean()[0].item() - 1 / 3) < 1e-3
    assert records.to("meta").sum.device.type == "meta"


def test_no_graph_is_kept():
    values = torch.ones(2, requires_grad=True) * 2
    records = Records(2)
    records.add(torch.tensor([0, 1]), values)
    assert not records.sum.requires_grad
    values.sum().backward()  # the graph of the caller is whole


@pytest.mark.parametrize(
    ("ids", "values", "said"),
    [
        (torch.tensor([0, 3]), torch.zeros(2), "needed are 0 to 2"),
        (torch.tensor([-1]), torch.zeros(1), "from -1"),
        (torch.tensor([0.0]), torch.zeros(1), "whole numbers"),
        (torch.tensor([True]), torch.zeros(1), "whole numbers"),
        (torch.tensor([0, 1]), torch.zeros(3), "one row for each id"),
        (torch.tensor([0]), torch.zeros(1, 2), "one row for each id"),
    ],
)
def test_what_does_not_fit_is_named_and_not_recorded(ids, values, said):
    records = Records(3)
    with pytest.raises(RequestError, match=said):
        records.add(ids, values)
    assert records.count.sum() == 0


def test_records_of_other_examples_are_not_merged():
    with pytest.raises(RequestError, match="same examples"):
        Records(2).merge(Records(3))
    with pytest.raises(RequestError, match="at least 1"):
        Records(0)

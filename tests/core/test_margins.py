"""Margins against the definition written out, one label at a time."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weigher.core.margins import every_label_margin, label_margin, multi_label_margin
from weigher.errors import RequestError

SMALL = st.integers(-3, 3)  # few values, so that ties are frequent
ROWS = st.integers(2, 6).flatmap(lambda c: st.lists(st.lists(SMALL, min_size=c, max_size=c), min_size=1, max_size=5))


def by_hand(row, label):
    return row[label] - max(z for k, z in enumerate(row) if k != label)


@given(ROWS, st.data())
def test_one_label_by_its_definition(rows, data):
    labels = [data.draw(st.integers(0, len(row) - 1)) for row in rows]
    logits = torch.tensor(rows, dtype=torch.float64)
    found = label_margin(logits, torch.tensor(labels)).tolist()
    assert found == [by_hand(row, label) for row, label in zip(rows, labels, strict=True)]
    every = every_label_margin(logits)
    assert every.gather(1, torch.tensor(labels)[:, None])[:, 0].tolist() == found
    for row, label, margin in zip(rows, labels, found, strict=True):
        best = [k for k, z in enumerate(row) if z == max(row)]
        assert (margin > 0) == (best == [label])
        assert (margin >= 0) == (label in best)
    assert ((every > 0).sum(1) <= 1).all()


@given(st.integers(0, 2**31))
def test_shifts_change_nothing_and_scales_scale(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(5, (4,), generator=generator)
    margin = label_margin(logits, labels)
    torch.testing.assert_close(label_margin(logits + torch.randn(4, 1, generator=generator), labels), margin)
    torch.testing.assert_close(label_margin(logits.log_softmax(1), labels), margin)
    torch.testing.assert_close(label_margin(3.5 * logits, labels), 3.5 * margin)
    order = torch.randperm(5, generator=generator)
    torch.testing.assert_close(label_margin(logits[:, order], order.argsort()[labels]), margin)
    assert not torch.allclose(label_margin(logits.softmax(1), labels), margin)
    two = logits[:, :2]
    torch.testing.assert_close(label_margin(two, labels * 0), -label_margin(two, labels * 0 + 1))


def test_labels_by_themselves_are_the_margins_of_two_classes():
    logits, members = torch.randn(3, 4), torch.rand(3, 4) < 0.5
    against_zero = torch.stack([torch.zeros(3, 4), logits], -1)
    torch.testing.assert_close(multi_label_margin(logits, members), label_margin(against_zero, members.long()))


def test_half_precision_loses_no_digits_and_does_not_overflow():
    far = torch.tensor([[6e4, -6e4]], dtype=torch.float16)
    near = torch.tensor([[20.0, -0.05]], dtype=torch.bfloat16)
    zero, members = torch.tensor([0]), torch.tensor([[True, False]])
    for logits in (far, near):
        wide = logits.double()
        for found, expected in (
            (label_margin(logits, zero), label_margin(wide, zero)),
            (every_label_margin(logits), every_label_margin(wide)),
            (multi_label_margin(logits, members), multi_label_margin(wide, members)),
        ):
            assert found.dtype == torch.float32
            torch.testing.assert_close(found.double(), expected, rtol=1e-7, atol=0)


def test_of_very_many_classes_the_matrix_is_not_copied():
    logits = torch.zeros(2, 50_000)
    logits[0, 7], logits[1, 8] = 3.0, 2.0
    assert label_margin(logits, torch.tensor([7, 7])).tolist() == [3.0, -2.0]


@pytest.mark.parametrize(
    ("logits", "labels", "said"),
    [
        (torch.zeros(2, 1), torch.tensor([0, 0]), "at least 2 classes"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), "needed are 0 to 2"),
        (torch.zeros(2, 3), torch.tensor([-1, 0]), "needed are 0 to 2"),
        (torch.zeros(2, 3), torch.tensor([0.0, 1.0]), "whole number"),
        (torch.zeros(2, 3), torch.tensor([0]), "one whole number for each row"),
    ],
)
def test_what_has_no_margin_is_refused(logits, labels, said):
    with pytest.raises(RequestError, match=said):
        label_margin(logits, labels)


def test_members_have_to_be_one_bool_for_each_logit():
    for members in (torch.zeros(2, 3), torch.zeros(3, dtype=torch.bool)):
        with pytest.raises(RequestError, match="one bool"):
            multi_label_margin(torch.zeros(2, 3), members)
    with pytest.raises(RequestError, match="at least 2"):
        every_label_margin(torch.zeros(3, 1))

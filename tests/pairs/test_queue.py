"""The ring of embeddings: what it holds after any pushes, weights, saving, and what does not fit."""

import math

import pytest
import torch

from weigher.errors import RequestError
from weigher.pairs.queue import EmbeddingQueue


@pytest.mark.parametrize("capacity", [1, 3, 7])
def test_it_holds_the_last_rows_in_their_order(capacity):
    queue, seen = EmbeddingQueue(capacity, 2), torch.zeros(0, 2)
    for size in (2, 1, 0, 4, 9, 3, 7):
        rows = torch.randn(size, 2)
        queue.push(rows)
        seen = torch.cat([seen, rows])
        assert len(queue) == min(len(seen), capacity)
        torch.testing.assert_close(queue.rows(), seen[-capacity:], rtol=0, atol=0)
    assert queue.weights().tolist() == [1.0] * capacity


def test_rows_of_weight_0_are_not_kept_and_other_weights_are():
    queue = EmbeddingQueue(4, 1)
    queue.push(torch.tensor([[1.0], [math.nan], [3.0]]), torch.tensor([2, 0, 1]))
    assert queue.rows().flatten().tolist() == [1, 3]
    assert queue.weights().tolist() == [2, 1]


def test_what_is_held_has_no_gradient_and_does_not_change_with_what_was_pushed():
    queue, rows = EmbeddingQueue(4, 2), torch.ones(3, 2, requires_grad=True)
    queue.push(rows.double())
    held = queue.rows()
    with torch.no_grad():
        rows.zero_()
    queue.push(torch.zeros(4, 2))
    assert not held.requires_grad
    assert torch.equal(held, torch.ones(3, 2))


def test_a_saved_queue_goes_on_where_it_was():
    queue, other = EmbeddingQueue(5, 2), EmbeddingQueue(5, 2)
    queue.push(torch.randn(7, 2))
    other.load_state_dict(queue.state_dict())
    more = torch.randn(3, 2)
    for one in (queue, other):
        one.push(more)
    assert torch.equal(queue.rows(), other.rows())
    assert len(other) == 5
    assert list(queue.parameters()) == []


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: EmbeddingQueue(0, 3), "0 rows of 3"),
        (lambda: EmbeddingQueue(4, 3).push(torch.zeros(2, 5)), r"\[2, 5\] for a queue of 3"),
        (lambda: EmbeddingQueue(4, 3).push(torch.zeros(3)), r"\[3\]"),
        (lambda: EmbeddingQueue(4, 3).push(torch.zeros(2, 3), torch.ones(3)), r"weight of shape \[3\]"),
        (lambda: EmbeddingQueue(4, 3).push(torch.zeros(2, 3), torch.tensor([1.0, -1.0])), "weight -1 at"),
        (lambda: EmbeddingQueue(4, 3).push(torch.full((2, 3), math.inf)), "NaN or infinity"),
    ],
)
def test_what_does_not_fit_is_said(call, said):
    with pytest.raises(RequestError, match=said):
        call()

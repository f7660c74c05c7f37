"""Columns of prototypes: their order, and what cannot be drawn."""

import numpy as np
import pytest

from weigher.errors import RequestError
from weigher.plot.prototypes import column_order, prototype_columns


def test_prototypes_of_a_kind_stand_together_the_highest_first_and_unused_ones_last():
    counts = np.array([[0, 0, 0], [0, 7, 1], [2, 1, 0], [9, 0, 0], [0, 0, 4], [0, 9, 9]])
    assert column_order(counts).tolist() == [3, 2, 5, 1, 4, 0]


def test_a_picture_of_two_methods(tmp_path):
    rng = np.random.default_rng(0)
    panels = {name: rng.integers(0, 9, (12, 11)) for name in ("one", "two")}
    prototype_columns(tmp_path / "a.png", panels, kinds=[str(kind) for kind in range(11)], title="Columns")
    assert (tmp_path / "a.png").stat().st_size > 10_000


@pytest.mark.parametrize("counts", [np.zeros((3, 2)), np.ones((3, 3)), np.ones(2)])
def test_what_cannot_be_drawn_is_said(tmp_path, counts):
    with pytest.raises(RequestError, match="for 2 kinds"):
        prototype_columns(tmp_path / "a.png", {"x": counts}, kinds=["a", "b"])

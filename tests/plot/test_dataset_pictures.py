"""Pictures of maps, flows and sources: names that can be read, and what cannot be drawn is told."""

import numpy as np
import pytest

from weigher.errors import RequestError
from weigher.plot.dataset_map import flow_picture, map_picture
from weigher.plot.names import LINE, name_places
from weigher.plot.transfer import Ladder, Source, transfer_picture


def test_names_of_crowded_points_do_not_lie_on_each_other():
    points = [(0.5, 0.5 + 0.01 * k) for k in range(5)]
    found = name_places(["a name"] * 5, points)
    for i, (x, y, side) in enumerate(found):
        for other, there, that_side in found[:i]:
            assert side != that_side or abs(y - there) >= LINE - 1e-9 or abs(x - other) > 0.06


def test_any_number_of_data_sets_has_a_map(tmp_path):
    for k in (1, 2, 12):
        places = np.random.default_rng(k).normal(size=(k, 2)) if k > 1 else np.zeros((1, 2))
        map_picture(tmp_path / f"{k}.png", [f"set $_{i}" for i in range(k)], places, title="maps", kinds=[0] * k)
        assert (tmp_path / f"{k}.png").stat().st_size > 1000
    with pytest.raises(RequestError, match="one of each"):
        map_picture(tmp_path / "no.png", ["a"], np.zeros((2, 2)), title="t")


def test_flows_outside_the_plane_are_told(tmp_path):
    with pytest.raises(RequestError, match="in the plane"):
        flow_picture(
            tmp_path / "no.png", (np.zeros((2, 3, 4)), [0] * 3), (np.zeros((2, 4)), [0] * 2), [1, 0], title="t"
        )


def test_worlds_stand_below_each_other(tmp_path):
    sources = [Source(f"source {k}", 1.0 + k, 10.0 - k, 1.0, k == 3) for k in range(4)]
    ladder = Ladder("%", (0, 50, 100), {"ours": (1, 2, 3), "plain": (1, 1, 1)})
    for worlds in (1, 2):
        drawn = {f"world {k}": (sources, [ladder, ladder]) for k in range(worlds)}
        transfer_picture(tmp_path / f"{worlds}.png", drawn, title="sources")
    assert (tmp_path / "2.png").stat().st_size > 1.5 * (tmp_path / "1.png").stat().st_size

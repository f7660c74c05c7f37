"""The map of voices: alike ones stand together, in the colour of their name, with any names and any number."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from weigher.errors import RequestError
from weigher.plot.embedding_map import lay_out, plot_embedding_map
from weigher.plot.tracks import PALETTE


def voices(people, each, size=24, noise=0.05):
    rng = np.random.default_rng(0)
    centres = np.linalg.qr(rng.normal(size=(size, size)))[0][:people]
    rows = np.repeat(centres, each, axis=0) + noise * rng.normal(size=(people * each, size))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_ones_nearest_neighbour_on_the_map_is_oneself():
    people, each = 12, 6  # more people than a plane has directions
    places = lay_out(voices(people, each))
    gaps = np.linalg.norm(places[:, None] - places, axis=2) + np.diag(np.full(len(places), np.inf))
    who = np.repeat(np.arange(people), each)
    assert (who[gaps.argmin(1)] == who).mean() > 0.95
    np.testing.assert_array_equal(places, lay_out(voices(people, each)))


@pytest.mark.parametrize(
    "vectors",
    [np.zeros((0, 4)), np.ones((1, 4)), np.eye(2), np.eye(4), np.ones((9, 3)), np.zeros((6, 3)), np.ones((7, 1))],
)
def test_few_alike_and_empty_voices_have_places(vectors):
    places = lay_out(vectors)
    assert places.shape == (len(vectors), 2)
    assert np.isfinite(places).all()
    names = [None] * len(vectors)
    assert plot_embedding_map(places, names).axes


def test_points_have_the_colour_of_their_name_and_a_frame_where_enrolled():
    places = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 0.0], [3.0, 3.0], [4.0, 0.0]])
    names = ["Ben", "Ann", None, "Ann", "Ann"]
    figure = plot_embedding_map(places, names, enrolled=np.array([False, True, False, False, False]), title="all")
    axes = figure.axes[0]
    drawn = {}
    for points in axes.collections:
        for place in points.get_offsets():
            frame = bool(np.max(points.get_linewidths()))
            drawn[tuple(np.asarray(place).tolist())] = (to_hex(points.get_facecolors()[0]).upper(), frame)
    assert drawn == {
        (1.0, 1.0): (PALETTE[0], True),  # the most frequent name comes first
        (3.0, 3.0): (PALETTE[0], False),
        (4.0, 0.0): (PALETTE[0], False),
        (0.0, 0.0): (PALETTE[1], False),
        (2.0, 0.0): ("#B8B8B8", False),
    }
    assert {text.get_text(): text.xy[0] for text in axes.texts} == {"Ann": 3.0, "Ben": 0.0}
    assert axes.get_title(loc="left") == "all"


def test_any_name_and_more_names_than_colours(tmp_path):
    names = [f"name {i}" for i in range(80)] + ["$x^", "王", "\n", "a" * 300]
    figure = plot_embedding_map(np.random.default_rng(0).normal(size=(84, 2)), names)
    figure.savefig(tmp_path / "map.png")
    forms = {
        points.get_paths()[0].vertices.tobytes() for points in figure.axes[0].collections if len(points.get_offsets())
    }
    assert len(forms) > 5


@pytest.mark.parametrize(
    ("places", "names", "enrolled"),
    [
        (np.zeros((2, 3)), ["a", "b"], None),
        (np.zeros((2, 2)), ["a"], None),
        (np.zeros((2, 2)), ["a", "b"], np.zeros(3, bool)),
    ],
)
def test_shapes_that_do_not_fit(places, names, enrolled):
    with pytest.raises(RequestError, match="given"):
        plot_embedding_map(places, names, enrolled=enrolled)


@pytest.mark.parametrize("vectors", [np.zeros(3), np.full((3, 2), np.nan)])
def test_what_are_no_vectors(vectors):
    with pytest.raises(RequestError, match="vectors"):
        lay_out(vectors)

"""Embeddings on the circle: the density of angles, and what cannot be drawn."""

import numpy as np
import pytest

from weigher.errors import RequestError
from weigher.plot.circle import Cloud, angle_density, circles

TURN = np.linspace(0, 2 * np.pi, 3601)[:-1]


def on_circle(angles):
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def test_the_density_of_angles_is_one():
    points = on_circle(np.random.default_rng(0).normal(1.0, 0.7, 50))
    assert angle_density(points, TURN).mean() == pytest.approx(1, rel=1e-6)
    assert TURN[angle_density(points, TURN).argmax()] == pytest.approx(1.0, abs=0.4)
    # only directions count; the origin has none
    stretched = np.concatenate([0.3 * points, np.zeros((5, 2))])
    assert angle_density(stretched, TURN) == pytest.approx(angle_density(points, TURN))
    assert not angle_density(np.zeros((3, 2)), TURN).any()


def test_turned_points_have_a_turned_density():
    angles = np.random.default_rng(1).uniform(0, 6, 20)
    turned = angle_density(on_circle(angles + TURN[100]), TURN)
    assert turned == pytest.approx(np.roll(angle_density(on_circle(angles), TURN), 100))


def test_pictures_with_and_without_labels_and_pairs(tmp_path):
    points = on_circle(np.linspace(0, 6, 30))
    circles(tmp_path / "a.png", [Cloud("plain", points), Cloud("disc", 0.5 * points, "figures", np.full(30, 0.4))])
    circles(tmp_path / "b.png", [Cloud("plain", points)], labels=[i % 12 for i in range(30)], title="Twelve kinds")
    sizes = [(tmp_path / name).stat().st_size for name in ("a.png", "b.png")]
    assert min(sizes) > 5000


@pytest.mark.parametrize(
    ("points", "labels", "said"),
    [
        (np.zeros((3, 3)), None, r"\[3, 3\]"),
        (np.full((3, 2), np.nan), None, "finite"),
        (np.zeros((3, 2)), [1, 2], "3 points and 2 labels"),
    ],
)
def test_what_cannot_be_drawn_is_said(tmp_path, points, labels, said):
    with pytest.raises(RequestError, match=said):
        circles(tmp_path / "x.png", [Cloud("x", points)], labels=labels)

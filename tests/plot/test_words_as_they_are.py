"""Names of files, labels and sets are drawn letter by letter: a pair of dollar signs is no formula."""

import numpy as np
import pytest

from weigher.plot.circle import Cloud, circles
from weigher.plot.dataset_map import map_picture
from weigher.plot.example_weights import plot_example_weights
from weigher.plot.margins import MarginPanel, margins_picture

WORDS = "$100_$"  # as a formula it ends in a ParseException, long after the training that it was to show


def draw_margins(path):
    areas = {WORDS: np.array([1.0, 2.0]), "flagged": np.array([0.0])}
    curves = {name: np.ones((3, len(values))) for name, values in areas.items()}
    panel = MarginPanel(WORDS, areas, curves, [0.5], np.zeros((2, 8, 8)), [WORDS, "b"])
    margins_picture(path, [panel], title=WORDS)


def draw_circles(path):
    clouds = [Cloud(WORDS, np.array([[0.0, 1.0], [1.0, 0.0]]), WORDS)]
    circles(path, clouds, labels=[WORDS, "b"], title=WORDS)


def draw_map(path):
    map_picture(path, [WORDS, "b"], np.array([[0.0, 0.0], [1.0, 2.0]]), title=WORDS, note=WORDS)


def draw_weights(path):
    plot_example_weights(path, np.array([0.1, 1.0]), np.zeros((2, 8, 8)), [WORDS, "b"], title=WORDS)


@pytest.mark.parametrize("draw", [draw_margins, draw_circles, draw_map, draw_weights])
def test_words_with_dollar_signs_are_no_formulas(tmp_path, draw):
    draw(tmp_path / "picture.svg")
    assert (tmp_path / "picture.svg").stat().st_size > 1000

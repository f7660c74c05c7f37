from types import SimpleNamespace

import numpy as np
import pytest

from weigher.plot.tracks import PALETTE
from weigher.plot.turn_taking import Call, Curve, Lane, plot_turn_taking

SPEAKERS = ("channel1", "channel2")


def turn(start, end, speaker):
    return SimpleNamespace(start=start, end=end, speaker=speaker)


@pytest.fixture
def figure():
    rng = np.random.default_rng(0)
    lanes = [
        Lane("made", [turn(0.0, 1.0, SPEAKERS[0]), turn(1.5, 4.0, SPEAKERS[1])], "1 switch"),
        Lane("nobody", []),
    ]
    levels = np.tile([-20.0, -50.0], (200, 1))
    call = Call(rng.normal(0, 0.1, (4 * 8000, 2)), 8000, levels, 0.02, SPEAKERS, lanes)
    curves = [Curve("real", [1.0, 2.0, 4.0], None), Curve("law", [0.1, 0.3, 1.0], "#009E73")]
    return plot_turn_taking(call, {"AMI": curves, "Vox": curves}, (0.25, 0.5, 0.75), title="Title", note="Note")


def test_envelopes_lanes_and_dwells_stand_where_the_figures_say(figure):
    _, over, lanes, ami, vox = figure.axes
    assert [line.get_color() for line in over.lines[1::2]] == list(PALETTE[:2])
    assert [np.median(line.get_ydata()) for line in over.lines[1::2]] == pytest.approx([-20, -50])
    boxes = [path.get_extents() for bars in lanes.collections for path in bars.get_paths()]
    assert [(box.x0, box.x1) for box in boxes] == [(0.0, 1.0), (1.5, 4.0)]
    assert boxes[0].y0 > boxes[1].y0 > 1  # the first channel above the second, both in the upper lane
    for axes in (ami, vox):
        assert [line.get_label() for line in axes.lines] == ["real", "law"]
        assert axes.lines[0].get_xdata().tolist() == [1.0, 2.0, 4.0]
        assert axes.lines[0].get_ydata().tolist() == [25, 50, 75]
    assert [text.get_text() for text in lanes.texts] == ["made", "1 switch", "nobody", ""]


def test_all_text_lies_on_the_page(figure):
    figure.canvas.draw()
    page = figure.bbox
    for axes in figure.axes:
        box = axes.get_tightbbox()
        assert page.x0 <= box.x0
        assert box.x1 <= page.x1
        assert page.y0 <= box.y0
        assert box.y1 <= page.y1

import io
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import StepPatch

from weigher.errors import RequestError
from weigher.plot.tracks import PALETTE, match_colours, plot_tracks


def turn(start, end, speaker):
    return SimpleNamespace(start=start, end=end, speaker=speaker)


def pixels(figure):
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]


def painted(figure, colour):
    """The share of the picture that has exactly this colour."""
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return float(np.mean((pixels(figure) == rgb).all(axis=-1)))


def ribbons(figure, colour):
    """[(heights in inches above the base, edges in seconds)] of the steps in one colour."""
    found = [p for p in figure.axes[0].patches if isinstance(p, StepPatch) and to_hex(p.get_facecolor()) == colour]
    return [(p.get_data().values - p.get_data().baseline, p.get_data().edges) for p in found]


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_heights_are_weights_and_frames_stand_at_their_times():
    tracks = np.array([[0.2, 0.0], [0.4, 1.0], [0.8, 0.5]])
    figure = plot_tracks(tracks, 0.5, ["a", "b"])
    for index in range(2):
        ((heights, edges),) = ribbons(figure, PALETTE[index].lower())
        assert heights / heights.max() == pytest.approx(tracks[:, index] / tracks[:, index].max())
        assert edges == pytest.approx([0, 0.5, 1.0, 1.5])
    first, second = (ribbons(figure, PALETTE[i].lower())[0][0] for i in range(2))
    assert first[1] / second[1] == pytest.approx(0.4)


def test_only_what_is_said_to_be_speech_is_in_full_colour():
    figure = plot_tracks(np.full((4, 1), 0.5), 1.0, ["a"], segments=[turn(1, 3, "a"), turn(0, 4, "b")])
    ((heights, _),) = ribbons(figure, PALETTE[0].lower())
    assert (heights > 1e-9).tolist() == [False, True, True, False]
    assert "2.0 s" in texts(figure)


def test_long_tracks_are_drawn_as_means_in_bounded_size():
    track = np.random.default_rng(0).random((50_000, 1))
    ((heights, edges),) = ribbons(plot_tracks(track, 0.02, ["a"]), PALETTE[0].lower())
    assert len(heights) <= 2000
    whole = ribbons(plot_tracks(np.full((10, 1), 1.0), 0.02, ["a"]), PALETTE[0].lower())[0][0].max()
    steps = np.round(edges / 0.02).astype(int)
    assert heights / whole == pytest.approx([track[a:b].mean() for a, b in itertools.pairwise(steps)])


def test_reference_speakers_get_the_colour_of_whom_they_share_most_time_with():
    colours = {"s1": "blue", "s2": "red", "s3": "green"}
    found = [turn(0, 5, "s1"), turn(5, 8, "s2"), turn(20, 21, "s3")]
    # s1 overlaps Bo most and Ann less; one to one, Ann goes to s2, and nobody is left for Zoe or s3
    truth = [turn(30, 40, "Zoe"), turn(4, 7, "Ann"), turn(0, 4, "Bo"), turn(50, 51, "Max")]
    matched = match_colours(colours, found, truth)
    assert list(matched) == ["Bo", "Ann", "Zoe", "Max"]
    assert (matched["Bo"], matched["Ann"]) == ("blue", "red")
    assert {matched["Zoe"], matched["Max"]}.isdisjoint(colours.values())
    assert match_colours(colours, found, []) == {}
    assert set(match_colours({}, [], truth)) == {"Zoe", "Ann", "Bo", "Max"}


def test_the_reference_is_painted_in_those_colours():
    bare = plot_tracks(np.zeros((10, 2)), 1.0, ["a", "b"], segments=[turn(0, 5, "a"), turn(5, 10, "b")])
    told = plot_tracks(
        np.zeros((10, 2)),
        1.0,
        ["a", "b"],
        segments=[turn(0, 5, "a"), turn(5, 10, "b")],
        reference=[turn(0, 4, "Bo"), turn(5, 10, "Ann")],
    )
    size = [np.prod(pixels(figure).shape[:2]) for figure in (bare, told)]
    more = [painted(told, colour) * size[1] - painted(bare, colour) * size[0] for colour in PALETTE[:2]]
    assert more[0] > 0
    assert more[1] / more[0] == pytest.approx(5 / 4, rel=0.02)
    assert {"Bo", "Ann", "reference"} <= set(texts(told))


def test_confidence_bars_are_as_long_as_the_confidence():
    lengths = {}
    for value in (0.0, 0.25, 0.5, 1.0):
        lengths[value] = painted(plot_tracks(np.zeros((4, 1)), 1.0, ["a"], confidence=np.array([value])), PALETTE[0])
    bar = {value: lengths[value] - lengths[0.0] for value in lengths}
    assert bar[1.0] > 0
    assert bar[0.5] / bar[1.0] == pytest.approx(0.5, abs=0.04)
    assert bar[0.25] / bar[1.0] == pytest.approx(0.25, abs=0.04)


def test_the_sound_is_the_envelope_of_all_samples():
    samples = np.zeros(8000)
    samples[4000:] = 0.25 * np.sin(np.arange(4000))
    figure = plot_tracks(np.zeros((4, 1)), 1.0, ["a"], samples=samples)
    strip = next(p for p in figure.axes[0].patches if isinstance(p, StepPatch))
    heights, edges, low = strip.get_data()
    assert (edges[0], edges[-1]) == (0, 4)
    assert (heights - low)[edges[1:] <= 2] == pytest.approx(0)
    assert (heights - low)[edges[:-1] >= 2].min() > 0.3


def test_every_speaker_has_a_row_a_name_and_a_confidence_in_sight():
    for k in (1, 3, 8, 14):
        names = [f"speaker{i + 1}" for i in range(k)]
        figure = plot_tracks(np.full((50, k), 0.7), 0.1, names, confidence=np.full(k, 0.5), title="talk")
        page = figure.canvas.get_renderer()
        assert texts(figure).count("0.50") == k
        assert set(names) <= set(texts(figure))
        boxes = [text.get_window_extent(page) for text in figure.axes[0].texts]
        for box in boxes:
            assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
            assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1
        for i, box in enumerate(boxes):
            for other in boxes[i + 1 :]:
                assert not box.overlaps(other)


@pytest.mark.parametrize(
    ("seconds", "labels"),
    [
        (0.3, ["0", "0.1", "0.2", "0.3 s"]),
        (4.2, ["0", "0.5", "1", "4 s"]),
        (30, ["0", "5", "25", "30 s"]),
        (90, ["0:00", "0:10", "1:30"]),
        (4 * 3600, ["0:00", "30:00", "1:00:00", "4:00:00"]),
    ],
)
def test_times_are_told_in_a_unit_that_fits(seconds, labels):
    shown = texts(plot_tracks(np.zeros((3, 1)), seconds / 3, ["a"]))
    assert set(labels) <= set(shown)
    assert len(shown) <= 14


def test_names_are_shown_as_they_are_whatever_the_letters():
    names = ["$x_1$", "Łucja", "김철수", "عمر", "a name that goes on and on", "\u0378"]
    figure = plot_tracks(np.zeros((3, 6)), 1.0, names, reference=[turn(0, 1, "$y^2$")], title="100 % of $\\frac$")
    figure.savefig(io.BytesIO())  # a warning of a letter no font has would be an error here
    shown = texts(figure)
    assert {"$x_1$", "Łucja", "a name that goe…", "$y^2$", "100 % of $\\frac$", "□"} <= set(shown)


def test_nobody_nothing_and_silence_can_be_drawn():
    assert "nobody speaks" in texts(plot_tracks(np.zeros((5, 0)), 0.1, [], confidence=np.zeros(0)))
    for samples in (np.zeros(100), np.zeros(0), np.full(100, np.nan), np.zeros(100, dtype=np.int16)):
        pixels(plot_tracks(np.zeros((0, 1)), 0.1, ["a"], samples=samples, seconds=2.0, segments=[]))
    pixels(plot_tracks(np.zeros((0, 0)), 0.1, [], reference=[turn(0, 3, "x")]))


def test_pyplot_keeps_no_figure():
    import matplotlib.pyplot as plt

    plot_tracks(np.zeros((3, 1)), 1.0, ["a"])
    assert plt.get_fignums() == []


@pytest.mark.parametrize(
    ("tracks", "confidence"), [(np.zeros((3, 2)), None), (np.zeros(3), None), (np.zeros((3, 1)), np.zeros(2))]
)
def test_shapes_that_do_not_fit_are_refused(tracks, confidence):
    with pytest.raises(RequestError, match=r"(is|are) given"):
        plot_tracks(tracks, 1.0, ["a"], confidence=confidence)

import itertools

import numpy as np
import pytest

from weigher.recordings.link import Linker

WINDOW, STEP = 20, 15


def directions(people, size=16, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0][:people]


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def windows_of(truth, names, rng, noise=0.1):
    """Cut tracks [t, k] into windows whose slots come in any order, only those who speak in it; with who is who."""
    for first in range(0, max(1, len(truth) - WINDOW + STEP), STEP):
        piece = truth[first : first + WINDOW]
        there = rng.permutation(np.flatnonzero(piece.any(0)))
        embeddings = unit(names[there] + noise * rng.normal(size=(len(there), names.shape[1])))
        yield first, piece[:, there], 0.6 + 0.4 * rng.random(len(there)), embeddings, there


def linked(truth, names, *, seed=0, threshold=0.5, most=None, noise=0.1):
    linker = Linker(threshold)
    for first, tracks, confidence, embeddings, _ in windows_of(truth, names, np.random.default_rng(seed), noise):
        linker.add(first, tracks, confidence, embeddings)
    return linker.finish(len(truth), most=most)


def match_columns(found, names):
    """For each column of the result, the person it is."""
    return (found.embeddings @ names.T).argmax(1)


def come_and_go(people, frames, rng):
    """Tracks [t, k]: everybody has stretches of silence longer than windows."""
    truth = np.zeros((frames, people))
    for person in range(people):
        for _ in range(6):
            begin = int(rng.integers(0, frames))
            truth[begin : begin + int(rng.integers(5, 60)), person] = rng.uniform(0.5, 1)
    return truth


@pytest.mark.parametrize("seed", range(5))
def test_people_who_come_and_go_are_put_together_exactly(seed):
    truth = come_and_go(5, 400, np.random.default_rng(seed))
    names = directions(5, seed=seed)
    found = linked(truth, names, seed=seed)
    order = match_columns(found, names)
    assert sorted(order) == list(range(5))
    np.testing.assert_allclose(found.tracks, truth[:, order].astype(np.float16), atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(found.embeddings, axis=1), 1, atol=1e-6)
    assert (np.diag(found.embeddings @ names[order].T) > 0.95).all()
    assert ((found.confidence > 0.6) & (found.confidence <= 1)).all()


def test_likeness_below_the_threshold_steers_nobody():
    """A stranger who is a little like Ann must not push Ann to Ben, to whom she is more like than the stranger is."""
    linker = Linker(threshold=0.5)
    linker.add(0, np.ones((4, 2)), np.array([0.9, 0.9]), np.array([[1, 0, 0], [0.6, 0.8, 0]]))
    stranger = np.array([0.41, -0.92, 0.0])
    linker.add(4, np.ones((4, 2)), np.array([0.9, 0.9]), np.stack([[1, 0, 0], stranger / np.linalg.norm(stranger)]))
    found = linker.finish(8)
    np.testing.assert_array_equal(found.tracks > 0, np.repeat([[1, 1, 0], [1, 0, 1]], 4, axis=0) > 0)
    np.testing.assert_allclose(found.embeddings[1], [0.6, 0.8, 0], atol=1e-6)


def test_one_window_is_given_back():
    truth = np.random.default_rng(0).random((12, 3)).astype(np.float16)
    linker = Linker(0.5)
    linker.add(0, truth, np.array([0.9, 0.2, 0.6]), directions(3))
    found = linker.finish(12)
    assert np.array_equal(found.tracks, truth.astype(np.float32))
    assert np.array_equal(found.confidence, [0.9, 0.2, 0.6])
    np.testing.assert_allclose(found.embeddings, directions(3))


@pytest.mark.parametrize("most", [None, 1])
def test_two_slots_of_one_window_are_never_one_person(most):
    # two slots with the same voice and the same track in each of three windows
    linker = Linker(0.5)
    for first in (0, 8, 16):
        linker.add(first, np.ones((10, 2)), np.full(2, 0.9), np.eye(1, 4).repeat(2, 0))
    found = linker.finish(26, most=most)
    assert found.tracks.shape == (26, 2)
    assert (found.tracks == 1).all()


def test_no_person_takes_two_slots_of_a_window_in_long_noisy_recordings():
    # every slot of a window has a value of its own, so that the tracks tell which slots each person got
    rng = np.random.default_rng(0)
    for most in (None, 4, 2):
        linker, windows = Linker(0.3), []
        for k in range(12):
            n = int(rng.integers(0, 5))
            levels = np.arange(n) + 1.0
            linker.add(10 * k, np.tile(levels, (10, 1)), rng.random(n), unit(rng.normal(size=(n, 3))))
            windows.append(n)
        found = linker.finish(120, most=most)
        for k, n in enumerate(windows):
            heard = found.tracks[10 * k : 10 * k + 10]
            assert (heard == heard[:1]).all()
            assert sorted(heard[0][heard[0] > 0]) == list(range(1, n + 1))


@pytest.mark.parametrize(("most", "expected"), [(None, 4), (4, 4), (3, 3), (2, 2), (1, 1), (9, 4)])
def test_most_is_honoured_and_the_most_alike_are_joined_first(most, expected):
    # four voices in windows of their own, at angles of 0, 10, 30 and 60 degrees
    angles = np.radians([0, 10, 30, 60])
    linker = Linker(0.999)
    for k, angle in enumerate(angles):
        linker.add(10 * k, np.full((10, 1), k + 1.0), np.array([0.9]), np.array([[np.cos(angle), np.sin(angle)]]))
    found = linker.finish(40, most=most)
    assert found.tracks.shape == (40, expected)
    assert sorted(found.tracks.sum(1)) == sorted([1.0, 2.0, 3.0, 4.0] * 10)
    groups = {frozenset(np.unique(column[column > 0]).astype(int)) for column in found.tracks.T}
    assert (
        groups
        == {
            4: {frozenset({1}), frozenset({2}), frozenset({3}), frozenset({4})},
            3: {frozenset({1, 2}), frozenset({3}), frozenset({4})},
            2: {frozenset({1, 2, 3}), frozenset({4})},
            1: {frozenset({1, 2, 3, 4})},
        }[expected]
    )


def test_people_alike_beyond_the_threshold_are_joined_at_the_end():
    # the third window's voice lies between those of the first two, which are not alike enough themselves
    linker = Linker(0.9)
    for k, degrees in enumerate((0, 28, 14)):
        angle = np.radians(degrees)
        linker.add(10 * k, np.ones((10, 1)), np.array([0.5]), np.array([[np.cos(angle), np.sin(angle)]]))
    assert len(linker.people) == 2
    assert linker.finish(30).tracks.shape == (30, 1)


def test_agreement_in_the_overlap_decides_between_like_voices():
    # both voices of the second window are equally like both people; who speaks in the shared frames tells them apart
    voice = np.array([[1.0, 0.0], [1.0, 0.0]])
    first, second = np.zeros((20, 2)), np.zeros((20, 2))
    first[:12, 0], first[12:, 1] = 1, 1
    second[:7, 0], second[7:, 1] = 1, 1  # slot 0 goes on with what slot 1 began
    linker = Linker(0.5)
    linker.add(0, first, np.full(2, 0.9), voice)
    linker.add(12, second, np.full(2, 0.9), voice)
    found = linker.finish(32)
    goes_on = found.tracks[:, found.tracks[15] > 0]
    assert goes_on.shape == (32, 1)
    assert goes_on[12:19].all()
    assert not goes_on[19:].any()


@pytest.mark.parametrize(("window", "step"), [(10, 8), (10, 5), (10, 10), (11, 3)])
def test_windows_are_laid_without_gaps_each_far_from_its_edges(window, step):
    # each window holds its own number: the seam lies in the middle of what two share
    linker, frames = Linker(0.5), 0
    for k in range(5):
        linker.add(k * step, np.full((window, 1), k + 1.0), np.array([0.9]), np.array([[1.0, 0.0]]))
        frames = k * step + window
    track = linker.finish(frames).tracks[:, 0]
    assert (track > 0).all()
    assert (np.diff(track) >= 0).all()
    for k in range(1, 5):
        seam = int((track <= k).sum())
        assert k * step + (window - step) // 2 == seam
    for short in (frames - 1, step + 1, 1, 0):
        assert np.array_equal(linker.finish(short).tracks[:, 0], track[:short])


def test_a_person_who_stops_in_the_overlap_keeps_it():
    # only the first window hears her: her track goes on to its end
    linker = Linker(0.5)
    linker.add(0, np.ones((10, 2)), np.full(2, 0.9), np.eye(2))
    linker.add(8, np.ones((10, 1)), np.full(1, 0.9), np.eye(2)[:1])
    found = linker.finish(18)
    stays, left = (found.tracks[:, found.embeddings[:, axis] > 0.5][:, 0] for axis in (0, 1))
    assert stays.all()
    assert left[:10].all()
    assert not left[10:].any()


def test_the_last_window_may_be_short_and_tracks_are_as_long_as_asked():
    linker = Linker(0.5)
    linker.add(0, np.ones((10, 1)), np.array([0.9]), np.array([[1.0]]))
    linker.add(8, np.ones((3, 1)), np.array([0.9]), np.array([[1.0]]))
    for frames in (11, 10, 9, 4, 15):
        track = linker.finish(frames).tracks[:, 0]
        assert track.shape == (frames,)
        assert track[: min(frames, 11)].all()
        assert not track[11:].any()


def test_nobody_at_all():
    assert Linker(0.5).finish(7).tracks.shape == (7, 0)
    linker = Linker(0.5)
    for first in (0, 8):
        linker.add(first, np.zeros((10, 0)), np.zeros(0), np.zeros((0, 4)))
    found = linker.finish(18, most=2)
    assert found.tracks.shape == (18, 0)
    assert found.confidence.shape == (0,)
    assert len(found.embeddings) == 0


def test_sure_slots_count_more_for_a_voice():
    linker = Linker(0.0)
    linker.add(0, np.ones((10, 1)), np.array([0.9]), np.array([[1.0, 0.0]]))
    linker.add(10, np.ones((10, 1)), np.array([0.3]), np.array([[0.0, 1.0]]))
    found = linker.finish(20)
    np.testing.assert_allclose(found.embeddings, unit(np.array([[0.9, 0.3]])))
    np.testing.assert_allclose(found.confidence, [0.9])


def test_finishing_twice_gives_the_same():
    truth, names = come_and_go(3, 200, np.random.default_rng(1)), directions(3)
    linker = Linker(0.5)
    for first, tracks, confidence, embeddings, _ in windows_of(truth, names, np.random.default_rng(1)):
        linker.add(first, tracks, confidence, embeddings)
    one, two = linker.finish(200, most=2), linker.finish(200, most=2)
    assert np.array_equal(one.tracks, two.tracks)
    assert np.array_equal(one.confidence, two.confidence)


def test_hours_of_windows():
    names = directions(4)
    truth = np.tile(np.repeat(np.eye(4), 5, 0), (500 * STEP // 20 + 1, 1))
    found = linked(truth, names)
    order = match_columns(found, names)
    assert sorted(order) == list(range(4))
    np.testing.assert_allclose(found.tracks, truth[:, order])


def test_hours_of_strangers_stay_bounded():
    # every slot has a voice of its own: who is most alike is joined on the way, and nothing that was heard is lost
    rng, linker, crowd = np.random.default_rng(0), Linker(0.9), []
    for k in range(150):
        linker.add(WINDOW * k, np.ones((WINDOW, 4)), np.full(4, 0.9), unit(rng.normal(size=(4, 32))))
        crowd.append(len(linker.people))
    assert crowd[20] == 84
    assert max(crowd) <= 204
    assert linker.finish(150 * WINDOW).tracks.shape[1] == 100
    found = linker.finish(150 * WINDOW, most=6)
    assert (found.tracks.sum(1) == 4).all()
    # more than 6 are left, because every two of them were heard in one window
    assert found.tracks.shape[1] < 50
    assert (found.tracks.T @ found.tracks).all()


def joined_by_definition(linker, threshold, most):
    """Join pairs, most alike first, as sets of slots: the plain way, everything computed anew each time."""
    people = [(person.total, person.windows) for person in linker.people]
    while len(people) > 1:
        pairs = [
            (float(unit(a[0]) @ unit(b[0])), i, j)
            for (i, a), (j, b) in itertools.combinations(enumerate(people), 2)
            if not a[1] & b[1]
        ]
        if not pairs:
            break
        alike, i, j = max(pairs)
        if alike < threshold and (most is None or len(people) <= most):
            break
        a, b = people[i], people[j]
        people = [person for k, person in enumerate(people) if k not in (i, j)]
        people.append((a[0] + b[0], a[1] | b[1]))
    return np.array([unit(total) for total, _ in people])


def test_people_can_be_held_apart_beyond_the_threshold():
    """Four people, two in each window, in two of whom nobody would tell the voices apart."""
    names = unit(directions(4) + 3 * directions(5)[4])  # cosines of 0.9
    windows = [(0, 1), (2, 3), (0, 1), (2, 3)]
    easy, held = Linker(0.5), Linker(0.5, hold=True)
    for place, there in enumerate(windows):
        for linker in (easy, held):
            linker.add(20 * place, np.ones((20, 2)), np.full(2, 0.9), names[list(there)])
    assert len(easy.finish(80).confidence) == len(held.finish(80).confidence) == 2
    found = held.finish(80, least=4, most=4)
    for column, person in enumerate(match_columns(found, names)):
        says = [person in there for there in windows]
        assert (found.tracks[:, column] > 0).reshape(4, 20).all(1).tolist() == says


@pytest.mark.parametrize("most", [None, 5, 3])
def test_joining_is_that_of_the_definition(most):
    rng, linker = np.random.default_rng(3), Linker(0.6)
    for k in range(15):
        linker.add(10 * k, np.ones((10, 2)), np.full(2, 0.9), unit(rng.normal(size=(2, 4))))
    np.testing.assert_allclose(linker.finish(150, most=most).embeddings, joined_by_definition(linker, 0.6, most))

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weigher.errors import RequestError
from weigher.recordings.cluster import cluster_frames

METHODS = ("kmeans", "agglomerative", "ward", "spectral")
each_method = pytest.mark.parametrize("method", METHODS)


def talk(rng, frames, speakers, *, noise, turn=10):
    """Unit voices by turns of `turn` frames, everybody at least once, and scaled at will: only direction counts."""
    voices = rng.standard_normal((speakers, 32))
    voices /= np.linalg.norm(voices, axis=1, keepdims=True)
    turns = -(-frames // turn)
    who = np.concatenate([np.arange(speakers), rng.integers(speakers, size=max(0, turns - speakers))])
    truth = np.repeat(who[:turns], turn)[:frames]
    loud = rng.uniform(0.2, 5.0, (frames, 1))
    return loud * (voices[truth] + noise * rng.standard_normal((frames, 32))), truth


def in_order(labels):
    """Labels renamed by first appearance."""
    return np.array([list(dict.fromkeys(labels.tolist())).index(label) for label in labels.tolist()])


@each_method
@pytest.mark.parametrize("speakers", [1, 2, 3, 5])
def test_voices_that_are_apart_are_told_apart(method, speakers):
    rng = np.random.default_rng(speakers)
    embeddings, truth = talk(rng, 300, speakers, noise=0.05)
    speech = rng.random(300) < 0.8
    embeddings[~speech] = np.nan  # what lies outside speech is never looked at
    activity = cluster_frames(embeddings, speech, speakers, method)
    assert activity.shape == (300, speakers)
    assert activity.dtype == bool
    assert not activity[~speech].any()
    assert (activity[speech].sum(axis=1) == 1).all()
    assert activity[speech].argmax(axis=1).tolist() == in_order(truth[speech]).tolist()


@each_method
def test_a_moving_average_helps_where_noise_is_strong(method):
    rng = np.random.default_rng(0)
    embeddings, truth = talk(rng, 400, 2, noise=0.5, turn=25)
    speech = np.ones(400, dtype=bool)

    def wrong(smooth_frames):
        found = cluster_frames(embeddings, speech, 2, method, smooth_frames=smooth_frames).argmax(axis=1)
        return min(np.mean(found != truth), np.mean(found == truth))

    assert wrong(9) < 0.08
    assert wrong(9) < wrong(1)


@each_method
@settings(deadline=None, max_examples=25)
@given(
    kind=st.sampled_from(["any", "constant", "zero", "two points", "nearly constant"]),
    sizes=st.tuples(st.integers(0, 12), st.integers(0, 5), st.integers(1, 15)),
    seed=st.integers(0, 99),
)
def test_whatever_comes_each_frame_of_speech_goes_to_one_speaker(method, kind, sizes, seed):
    frames, speakers, smooth_frames = sizes
    rng = np.random.default_rng(seed)
    speech = rng.random(frames) < 0.8
    embeddings = {
        "any": rng.standard_normal((frames, 3)),
        "constant": np.ones((frames, 3)),
        "zero": np.zeros((frames, 3)),
        "two points": np.eye(3)[rng.integers(2, size=frames)],
        "nearly constant": 1 + 1e-9 * rng.standard_normal((frames, 3)),
    }[kind]
    activity = cluster_frames(embeddings, speech, speakers, method, smooth_frames=smooth_frames, seed=seed)
    assert activity.shape == (frames, speakers)
    assert (activity.sum(axis=1) == (speech if speakers else 0)).all()
    assert np.array_equal(
        activity, cluster_frames(embeddings, speech, speakers, method, smooth_frames=smooth_frames, seed=seed)
    )
    firsts = [int(np.argmax(column)) for column in activity.T if column.any()]
    assert firsts == sorted(firsts)
    assert not activity[:, len(firsts) :].any()
    if kind in ("constant", "zero", "nearly constant") and speakers:
        assert len(firsts) == min(1, speech.sum())
    if kind == "two points" and smooth_frames == 1 and speakers >= 2 and speech.any():
        assert activity[speech].argmax(axis=1).tolist() == in_order(embeddings[speech].argmax(axis=1)).tolist()


@each_method
def test_the_seed_decides_where_nothing_else_does(method):
    noise, speech = np.random.default_rng(0).standard_normal((200, 16)), np.ones(200, dtype=bool)
    here, there = (cluster_frames(noise, speech, 5, method, seed=3) for _ in range(2))
    assert np.array_equal(here, there)
    if method == "kmeans":
        assert any(not np.array_equal(here, cluster_frames(noise, speech, 5, method, seed=seed)) for seed in (4, 5))


@each_method
def test_fewer_frames_than_speakers_get_one_speaker_each(method):
    activity = cluster_frames(np.eye(4)[[2, 0]], np.ones(2, dtype=bool), 4, method)
    assert activity.astype(int).tolist() == [[1, 0, 0, 0], [0, 1, 0, 0]]


@each_method
def test_the_order_of_frames_does_not_matter_without_smoothing(method):
    rng = np.random.default_rng(3)
    embeddings, _ = talk(rng, 120, 3, noise=0.1)
    order = rng.permutation(120)
    here = cluster_frames(embeddings, np.ones(120, dtype=bool), 3, method).argmax(axis=1)
    there = cluster_frames(embeddings[order], np.ones(120, dtype=bool), 3, method).argmax(axis=1)
    assert in_order(here[order]).tolist() == there.tolist()


@pytest.mark.parametrize("smooth_frames", [2, 3, 8])
def test_smoothing_is_the_mean_over_the_speech_in_the_window(smooth_frames):
    """Turns of one frame: who wins after smoothing is known by averaging in plain loops."""
    rng = np.random.default_rng(smooth_frames)
    speech = rng.random(40) < 0.7
    embeddings = rng.standard_normal((40, 2))
    smoothed = np.zeros_like(embeddings)
    for t in np.flatnonzero(speech):
        window = range(max(0, t - (smooth_frames - 1) // 2), min(40, t + smooth_frames // 2 + 1))
        smoothed[t] = np.mean([embeddings[i] for i in window if speech[i]], axis=0)
    for method in METHODS:
        expected = cluster_frames(smoothed, speech, 3, method)
        assert np.array_equal(cluster_frames(embeddings, speech, 3, method, smooth_frames=smooth_frames), expected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"speech": np.ones(4, dtype=bool)}, r"\(5, 2\).*\(4,\)"),
        ({"speech": np.ones(5)}, "float64"),
        ({"embeddings": np.zeros(5)}, r"\(5,\)"),
        ({"embeddings": np.full((5, 2), np.nan)}, "NaN"),
        ({"speakers": -1}, "speakers is -1"),
        ({"smooth_frames": 0}, "smooth_frames 0"),
        ({"method": "dbscan"}, "'dbscan'.*kmeans, agglomerative, ward, spectral"),
    ],
)
def test_what_does_not_fit_is_refused(change, words):
    request = {"embeddings": np.zeros((5, 2)), "speech": np.ones(5, dtype=bool), "speakers": 2} | change
    with pytest.raises(RequestError, match=words):
        cluster_frames(**request)


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(RequestError, match=r"weigher\[study\]"):
        cluster_frames(np.eye(2), np.ones(2, dtype=bool), 2)

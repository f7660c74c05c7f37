"""Names given to voices by casts alone, against the truth that was planted and against all assignments there are."""

import itertools

import numpy as np
import pytest

from weigher.errors import RequestError
from weigher.recordings.enrolment import assign_names


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def planted(rng, people, recordings, most=4, noise=0.15):
    """Voices in any order: embeddings, casts, and the voice of each name."""
    size = 16
    voices = unit(rng.standard_normal((people, size)))
    embeddings, casts, truth = [], [], []
    for _ in range(recordings):
        there = rng.choice(people, int(rng.integers(1, most + 1)), replace=False)
        order = rng.permutation(len(there))
        embeddings.append(unit(voices[there][order] + noise * rng.standard_normal((len(there), size))))
        casts.append([f"P{p}" for p in there])
        truth.append({f"P{p}": int(np.flatnonzero(order == i)[0]) for i, p in enumerate(there)})
    return embeddings, casts, truth, voices


@pytest.mark.parametrize("seed", range(6))
def test_planted_voices_get_their_names(seed):
    embeddings, casts, truth, _ = planted(np.random.default_rng(seed), people=12, recordings=40)
    found = assign_names(embeddings, casts)
    assert list(found.voices) == truth
    assert found.ambiguous == ()
    assert min(found.agreement.values()) > 0.5


def agreement(embeddings, choice):
    """Sum of the lengths of the sums of the vectors of each name, which k-means makes as great as it can."""
    sums = {}
    for vectors, found in zip(embeddings, choice, strict=True):
        for name, voice in found.items():
            sums[name] = sums.get(name, 0) + vectors[voice]
    return sum(float(np.linalg.norm(total)) for total in sums.values())


@pytest.mark.parametrize("seed", range(10))
def test_no_other_assignment_agrees_better(seed):
    rng = np.random.default_rng(seed)
    voices = unit(rng.standard_normal((4, 8)))
    casts = [["a", "b"], ["b", "c"], ["a", "c", "d"], ["d", "b"]]
    embeddings = [
        unit(voices[["abcd".index(n) for n in cast]] + 0.3 * rng.standard_normal((len(cast), 8))) for cast in casts
    ]
    every = itertools.product(*(itertools.permutations(range(len(cast))) for cast in casts))
    best = max(
        agreement(embeddings, [dict(zip(c, p, strict=True)) for c, p in zip(casts, way, strict=True)]) for way in every
    )
    assert agreement(embeddings, assign_names(embeddings, casts).voices) == pytest.approx(best)


def test_voices_and_names_may_differ_in_number():
    rng = np.random.default_rng(1)
    embeddings, casts, truth, _ = planted(rng, people=10, recordings=40)
    extra = {3, 10, 17}
    for row in extra:
        embeddings[row] = np.concatenate([embeddings[row], unit(rng.standard_normal((1, 16)))])  # a stranger's voice
    deaf = next(row for row, cast in enumerate(casts) if len(cast) == 3)
    embeddings[deaf] = np.delete(embeddings[deaf], truth[deaf][casts[deaf][0]], axis=0)  # a voice that was not heard
    casts.append(["P0", "P1"])
    embeddings.append(np.empty((0, 16)))
    found = assign_names(embeddings, casts)
    for row in extra:
        assert found.voices[row] == truth[row]
    assert set(found.voices[deaf]) == set(casts[deaf][1:])
    assert found.voices[-1] == {}


def test_a_name_in_one_recording_gets_the_voice_that_is_left():
    rng = np.random.default_rng(2)
    embeddings, casts, truth, _ = planted(rng, people=6, recordings=20)
    casts[4] = [*casts[4], "Guest"]
    embeddings[4] = np.concatenate([unit(rng.standard_normal((1, 16))), embeddings[4]])
    found = assign_names(embeddings, casts)
    assert found.voices[4]["Guest"] == 0
    assert "Guest" not in found.agreement
    assert {name: voice - 1 for name, voice in found.voices[4].items() if name != "Guest"} == truth[4]


def test_names_that_always_appear_together_get_no_voice_unless_they_are_known():
    rng = np.random.default_rng(3)
    a, b, c = unit(rng.standard_normal((3, 16)))
    embeddings = [np.stack([a, b, c]), np.stack([b, a]), c[None]]
    casts = [["A", "B", "C"], ["A", "B"], ["C"]]
    found = assign_names(embeddings, casts)
    assert found.ambiguous == (("A", "B"),)
    assert found.voices == ({"C": 2}, {}, {"C": 0})
    known = assign_names(embeddings, casts, {"B": b[None]})
    assert known.ambiguous == ()
    assert known.voices == ({"A": 0, "B": 1, "C": 2}, {"A": 1, "B": 0}, {"C": 0})


def test_one_recording_of_one_person_is_enough():
    found = assign_names([np.eye(3)[:1]], [["A"]])
    assert (found.voices, found.agreement, found.ambiguous) == (({"A": 0},), {}, ())


def test_people_known_before_help():
    rng = np.random.default_rng(4)
    embeddings, casts, truth, voices = planted(rng, people=8, recordings=2, noise=0.1)
    found = assign_names(embeddings, casts, {f"P{i}": voices[i : i + 1] for i in range(8)})
    assert list(found.voices) == truth


def test_agreement_is_the_mean_of_all_cosines():
    rng = np.random.default_rng(5)
    x = unit(rng.standard_normal((4, 6)))
    found = assign_names([x[:1], x[1:2], x[2:3]], [["A"]] * 3, {"A": x[3:]})
    assert found.agreement["A"] == pytest.approx(np.mean([x[i] @ x[j] for i in range(4) for j in range(4) if i != j]))


def test_casts_that_cannot_be():
    with pytest.raises(RequestError, match="one for each"):
        assign_names([np.eye(2)], [])
    with pytest.raises(RequestError, match="no name twice"):
        assign_names([np.eye(2)], [["A", "A"]])

import itertools

import numpy as np
import pytest

from weigher.recordings.naming import Gallery, name_voices, named_like


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.mark.parametrize("seed", range(40))
def test_names_are_the_best_of_all_matchings(seed):
    rng = np.random.default_rng(seed)
    threshold = 0.5
    people = {f"P{i}": unit(rng.standard_normal((int(rng.integers(1, 4)), 3))) for i in range(4)}
    gallery = Gallery.of(people, 3)
    voices = unit(rng.standard_normal((3, 3)))
    scores = np.array([[v @ unit(vectors.sum(0)) for vectors in people.values()] for v in voices])
    best = max(
        sum(max(scores[v, p] - threshold, 0) for v, p in enumerate(chosen))
        for chosen in itertools.permutations(range(4), 3)
    )
    found = name_voices(voices, gallery, threshold)
    names = [naming.name for naming in found if naming.name]
    assert len(set(names)) == len(names)
    assert sum(naming.score - threshold for naming in found if naming.name) == pytest.approx(best, abs=1e-5)
    for naming, row in zip(found, scores, strict=True):
        assert naming.nearest == f"P{row.argmax()}"
        if naming.name is None:
            assert naming.score == pytest.approx(row.max(), abs=1e-6)
        else:
            assert naming.score == pytest.approx(row[int(naming.name[1:])], abs=1e-6)
            assert naming.score >= threshold


def test_a_score_of_exactly_the_threshold_is_known():
    gallery = Gallery.of({"A": np.eye(2)[:1]}, 2)
    assert name_voices(np.eye(2)[:1], gallery, 1.0)[0].name == "A"
    assert name_voices(np.eye(2)[:1], gallery, np.nextafter(1.0, 2))[0].name is None


def test_nobody_to_compare_with():
    gallery = Gallery.of({}, 3)
    (naming,) = name_voices(np.eye(3)[:1], gallery, 0.0)
    assert (naming.name, naming.nearest, naming.score) == (None, None, 0.0)
    assert not named_like(np.eye(3), gallery, "A", 0.0).any()


def test_alone_each_voice_gets_its_nearest_person():
    rng = np.random.default_rng(3)
    gallery = Gallery.of({"A": unit(rng.standard_normal((2, 5))), "B": unit(rng.standard_normal((1, 5)))}, 5)
    voices = unit(rng.standard_normal((50, 5)))
    alone = [name_voices(voice[None], gallery, 0.3)[0].name == "B" for voice in voices]
    assert named_like(voices, gallery, "B", 0.3).tolist() == alone
    assert any(alone)

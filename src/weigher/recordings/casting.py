"""Who appears in which made-up recording, so that a cast list can tell every person from every other.

Two people who always appear together, or one who appears once, cannot be told apart by any learner that is given casts
only. The casts drawn here give every speaker the same number of recordings (up to one) and no two speakers the same
set of recordings, wherever the numbers allow it.
"""

from collections.abc import Sequence

import numpy as np

from weigher.errors import RequestError


def cast_sizes(
    recordings: int, max_speakers: int, weights: Sequence[float] | None, rng: np.random.Generator
) -> list[int]:
    """Return how many people each recording holds: 1 ... `max_speakers`, in proportion to `weights` (default: equal).

    The proportions are met as nearly as whole numbers can (systematic sampling), then shuffled.

    >>> sorted(cast_sizes(8, 4, None, np.random.default_rng(0)))
    [1, 1, 2, 2, 3, 3, 4, 4]
    """
    share = np.ones(max_speakers) if weights is None else np.asarray(weights, dtype=float)
    if share.shape != (max_speakers,) or (share < 0).any() or not share.sum() > 0:
        raise RequestError(f"speaker weights {weights}: give {max_speakers} numbers of 0 or more, not all 0.")
    places = (rng.random() + np.arange(recordings)) / recordings
    sizes = np.searchsorted(np.cumsum(share) / share.sum(), places, side="right") + 1
    return [int(k) for k in rng.permutation(np.minimum(sizes, np.flatnonzero(share)[-1] + 1))]


def balanced_casts(speakers: Sequence[str], sizes: Sequence[int], rng: np.random.Generator) -> list[tuple[str, ...]]:
    """Return one sorted cast per size, from a deck that deals every speaker once before anyone comes again.

    Where there are not places enough for two appearances each, fewer speakers are taken (by chance): a person seen
    once teaches nothing. Casts are then mended by swaps until no two speakers share all their recordings; whatever
    the sizes do not allow stays, and `weigher.io.manifest.indistinguishable` names it.

    >>> balanced_casts(["a", "b", "c"], [2, 2, 2], np.random.default_rng(1))
    [('a', 'b'), ('a', 'c'), ('b', 'c')]
    """
    if max(sizes) > len(speakers):
        raise RequestError(
            f"{max(sizes)} speakers in one recording, but the voices hold {len(speakers)}: ask for fewer."
        )
    used = min(len(speakers), max(sum(sizes) // 2, *sizes))
    people = [str(name) for name in rng.permutation(sorted(speakers))[:used]]
    deck: list[str] = []
    casts: list[set[str]] = []
    for size in sizes:
        cast: set[str] = set()
        while len(cast) < size:
            if not set(deck) - cast:
                deck = [str(name) for name in rng.permutation(people)] + deck
            place = next(i for i in range(len(deck) - 1, -1, -1) if deck[i] not in cast)
            cast.add(deck.pop(place))
        casts.append(cast)
    _part_twins(casts, rng)
    return [tuple(sorted(cast)) for cast in casts]


def twins(casts: Sequence[Sequence[str] | set[str]]) -> list[list[str]]:
    """Return the groups of speakers that appear in exactly the same recordings, each sorted.

    >>> twins([("a", "b"), ("a", "b", "c"), ("c",)])
    [['a', 'b']]
    """
    places: dict[str, list[int]] = {}
    for i, cast in enumerate(casts):
        for name in cast:
            places.setdefault(name, []).append(i)
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, where in places.items():
        groups.setdefault(tuple(where), []).append(name)
    return sorted(sorted(group) for group in groups.values() if len(group) > 1)


def _part_twins(casts: list[set[str]], rng: np.random.Generator) -> None:
    """Swap one twin for someone of another recording, in place, until no twins are left or nothing helps."""
    together = twins(casts)
    for _ in range(50 * len(casts)):
        if not together:
            return
        name = str(rng.choice(together[0]))
        here = int(rng.choice([i for i, cast in enumerate(casts) if name in cast]))
        there = int(rng.integers(len(casts)))
        others = sorted(casts[there] - casts[here])
        if not others or name in casts[there]:
            continue
        other = str(rng.choice(others))
        _swap(casts, (here, name), (there, other))
        after = twins(casts)
        if sum(map(len, after)) > sum(map(len, together)):
            _swap(casts, (here, other), (there, name))
        else:
            together = after


def _swap(casts: list[set[str]], one: tuple[int, str], two: tuple[int, str]) -> None:
    casts[one[0]] ^= {one[1], two[1]}
    casts[two[0]] ^= {one[1], two[1]}

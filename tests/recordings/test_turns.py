from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from weigher.errors import RequestError
from weigher.io.rttm import Segment, write_rttm
from weigher.recordings.turn_chain import BACK, SAME, THIRD, draw_chain, steps_of
from weigher.recordings.turns import (
    RandomWalkTurns,
    RecordedTurns,
    merge_turns,
    pooled_statistics,
    statistics,
)

TIMINGS = Path(__file__).parents[3] / "shared" / "data" / "speech" / "timings"
needs_timings = pytest.mark.skipif(not TIMINGS.is_dir(), reason="the shared reference timings are not here")


def random_talk(seed: int, speakers: int = 4, turns: int = 60, seconds: float = 120.0) -> list[Segment]:
    """Turns on a grid of 0.01 s, none of one speaker closer than 0.3 s to another of theirs."""
    rng = np.random.default_rng(seed)
    talk: list[Segment] = []
    for _ in range(turns):
        start = round(float(rng.uniform(0, seconds - 6)), 2)
        s = Segment(start, round(start + float(rng.uniform(0.2, 6)), 2), f"p{rng.integers(speakers)}")
        if all(o.speaker != s.speaker or o.end + 0.3 <= s.start or s.end + 0.3 <= o.start for o in talk):
            talk.append(s)
    return sorted(talk, key=lambda s: (s.start, s.end))


def frames(segments, seconds: float) -> np.ndarray:
    speakers = sorted({s.speaker for s in segments})
    grid = np.zeros((len(speakers), round(seconds * 100)), dtype=bool)
    for s in segments:
        grid[speakers.index(s.speaker), round(s.start * 100) : round(s.end * 100)] = True
    return grid


@pytest.mark.parametrize("seed", range(5))
def test_statistics_equal_a_count_of_frames(seed):
    talk = random_talk(seed)
    made = statistics(talk, seconds=120.0)
    voices = frames(talk, 120.0).sum(0)
    assert made.overlap_fraction == pytest.approx((voices >= 2).sum() / (voices >= 1).sum(), abs=1e-9)
    assert made.silence_fraction == pytest.approx((voices == 0).mean(), abs=1e-9)
    inner = voices[np.flatnonzero(voices)[0] : np.flatnonzero(voices)[-1] + 1]
    lengths = [len(run) for run in "".join("1" if v else "0" for v in inner).split("1") if run]
    assert made.gap_mean_seconds == pytest.approx(np.mean(lengths) / 100, abs=1e-9)
    assert made.turn_mean_seconds == pytest.approx(np.mean([s.end - s.start for s in talk]))
    changes = sum(talk[i].speaker != talk[i + 1].speaker for i in range(len(talk) - 1))
    assert made.switches_per_minute == pytest.approx(changes / 2)


def test_pooling_counts_every_second_once():
    one, two = random_talk(1), random_talk(2)
    shifted = [Segment(s.start + 120, s.end + 120, s.speaker) for s in two]
    pooled = pooled_statistics([(one, 120.0), (two, 120.0)])
    joined = statistics(one + shifted, seconds=240.0)
    assert pooled.overlap_fraction == pytest.approx(joined.overlap_fraction)
    assert pooled.silence_fraction == pytest.approx(joined.silence_fraction)
    assert pooled.turn_median_seconds == pytest.approx(joined.turn_median_seconds)


def test_statistics_without_a_length_run_from_first_to_last_word():
    made = statistics([Segment(5.0, 6.0, "a"), Segment(7.0, 9.0, "b")])
    assert made.minutes * 60 == pytest.approx(4.0)
    assert made.silence_fraction == pytest.approx(0.25)
    with pytest.raises(RequestError, match="no segments"):
        statistics([])


def test_merging_again_or_doubling_changes_nothing():
    talk = merge_turns(random_talk(3))
    assert merge_turns(talk) == talk
    assert merge_turns(talk + talk) == talk


def test_short_pauses_close_and_longer_ones_stay():
    pauses = [Segment(0.0, 1.0, "a"), Segment(1.19, 2.0, "a"), Segment(2.21, 3.0, "a"), Segment(1.0, 1.1, "b")]
    assert merge_turns(pauses) == [Segment(0.0, 2.0, "a"), Segment(1.0, 1.1, "b"), Segment(2.21, 3.0, "a")]
    inside = [Segment(0.0, 5.0, "a"), Segment(1.0, 2.0, "a")]
    assert merge_turns(inside) == inside[:1]


def test_speech_that_meets_the_least_exactly_counts_wherever_it_stands():
    for tenth in range(30):  # 0.5 s as a difference of two decimal fractions is often a little less than 0.5
        start = round(2 + tenth / 10, 2)
        talk = [Segment(0.0, 9.0, "a"), Segment(start, round(start + 0.5, 2), "b")]
        assert set(RecordedTurns({"talk": talk})._windows(8.0)) <= {1, 2}
        assert 2 in RecordedTurns({"talk": talk})._windows(8.0)


@pytest.mark.parametrize("seconds", [10.0, 12.5])
def test_index_counts_the_people_in_every_window(seconds):
    talk = random_talk(4)
    law = RecordedTurns({"talk": talk}, min_speech_seconds=0.5)
    grid = frames(talk, 140.0)
    expected: dict[int, list[int]] = {}
    for start in range(int(max(s.end for s in talk) - seconds) + 1):
        spoken = grid[:, start * 100 : round((start + seconds) * 100)].sum(1)
        expected.setdefault(int((spoken >= 50).sum()), []).append(start)
    found = {count: codes.tolist() for count, codes in law._windows(seconds).items()}
    assert found == expected


def test_nobody_in_a_chain_talks_over_themselves():
    steps = np.array([[BACK, -3.0, 4.0], [THIRD, -2.0, 0.5], [SAME, 0.3, 2.0]])
    for seed in range(20):
        turns = draw_chain(steps, 3, 30.0, pause_seconds=0.2, rng=np.random.default_rng(seed), in_turn=False)
        for name in "012":
            own = [t for t in turns if t.speaker == name]
            assert all(b.start - a.end >= 0.2 - 1e-9 for a, b in pairwise(own))


@pytest.mark.parametrize("speakers", [1, 2, 3, 4])
def test_a_draw_is_a_real_window_with_the_names_changed(speakers):
    talk = random_talk(5, turns=25)
    law = RecordedTurns({"other": random_talk(6), "talk": talk})
    rng = np.random.default_rng(0)
    for _ in range(20):
        drawn = law.draw(speakers, 8.0, rng)
        assert {s.speaker for s in drawn} == {str(k) for k in range(speakers)}
        assert all(0 <= s.start < s.end <= 8.0 for s in drawn)
        assert list(drawn) == sorted(drawn, key=lambda s: (s.start, s.end))
        assert any(same_but_names(drawn, cut) for cut in every_cut(law, 8.0))


def every_cut(law: RecordedTurns, seconds: float):
    """All windows of the law's source, cut by hand."""
    for talk in law.recordings:
        for start in range(int(max(s.end for s in talk) - seconds) + 1):
            cut = [Segment(max(s.start - start, 0.0), min(s.end - start, seconds), s.speaker) for s in talk]
            cut = [s for s in cut if s.end > s.start]
            heard = {n for n in {s.speaker for s in cut} if sum(s.end - s.start for s in cut if s.speaker == n) > 0.499}
            kept = [s for s in cut if s.speaker in heard and s.end - s.start >= 0.1]
            yield sorted(kept, key=lambda s: (s.start, s.end))


def same_but_names(one, two) -> bool:
    if len(one) != len(two):
        return False
    names = {(a.speaker, b.speaker) for a, b in zip(one, two, strict=True)}
    same_times = all(abs(a.start - b.start) + abs(a.end - b.end) < 1e-6 for a, b in zip(one, two, strict=True))
    return same_times and len(names) == len({a for a, _ in names}) == len({b for _, b in names})


def test_names_are_given_by_chance():
    law = RecordedTurns({"talk": [Segment(0.0, 4.0, "ann"), Segment(4.5, 9.0, "bob")]})
    rng = np.random.default_rng(0)
    first = [law.draw(2, 8.0, rng)[0].speaker for _ in range(200)]
    assert 60 < first.count("0") < 140


def test_who_hardly_speaks_is_left_out():
    talk = [Segment(0.0, 9.0, "ann"), Segment(2.0, 2.4, "bob"), Segment(9.0, 20.0, "cy")]
    drawn = RecordedTurns({"talk": talk}).draw(1, 8.0, np.random.default_rng(0))
    assert len({s.speaker for s in drawn}) == 1
    law = RecordedTurns({"talk": talk}, min_speech_seconds=0.3)
    assert len(law.draw(2, 8.0, np.random.default_rng(0))) == 2


def test_same_seed_same_turns_and_other_seed_other_turns():
    law = RecordedTurns({"talk": random_talk(7)})
    draws = [law.draw(3, 20.0, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_steps_of_an_answer_inside_a_long_turn():
    talk = [Segment(0.0, 10.0, "a"), Segment(4.0, 4.5, "b"), Segment(10.5, 12.0, "a"), Segment(13.0, 14.0, "c")]
    # a's second turn comes 0.5 s after a's first, not 6 s after b's answer
    np.testing.assert_allclose(steps_of(talk), [[THIRD, -6.0, 0.5], [SAME, 0.5, 1.5], [THIRD, 1.0, 1.0]])
    assert steps_of([Segment(0.0, 1.0, "a"), Segment(1.0, 2.0, "b"), Segment(2.0, 3.0, "a")])[1, 0] == BACK


def test_more_people_than_any_window_holds_come_from_the_chain():
    law = RecordedTurns({"talk": random_talk(8, speakers=2)})
    rng = np.random.default_rng(0)
    assert law.examples(5, 20.0, 10) == []
    for _ in range(20):
        drawn = law.draw(5, 20.0, rng)
        assert {s.speaker for s in drawn} == {"0", "1", "2", "3", "4"}
        assert all(0 <= s.start < s.end <= 20.0 for s in drawn)
        assert merge_turns(drawn) == list(drawn)  # nobody overlaps with themselves


@pytest.mark.parametrize("speakers", [1, 2, 3])
def test_a_source_of_two_turns_still_serves(speakers):
    law = RecordedTurns({"talk": [Segment(0.0, 3.0, "a"), Segment(2.5, 6.0, "b")]})
    drawn = law.draw(speakers, 20.0, np.random.default_rng(0))
    assert len({s.speaker for s in drawn}) == speakers
    with pytest.raises(RequestError, match="too few turns"):
        RecordedTurns({"talk": [Segment(0.0, 3.0, "a")]}).draw(speakers, 20.0, np.random.default_rng(0))


def test_chain_keeps_the_lengths_it_was_given():
    steps = steps_of(random_talk(9))
    rng = np.random.default_rng(0)
    turns = [t for _ in range(200) for t in draw_chain(steps, 4, 60.0, pause_seconds=0.2, rng=rng, in_turn=False)]
    inside = [t.end - t.start for t in turns if t.start > 0 and t.end < 60]
    assert set(np.round(inside, 2)) <= set(np.round(steps[:, 2], 2))
    assert np.median(inside) == pytest.approx(np.median(steps[:, 2]), rel=0.1)


@pytest.mark.parametrize("speakers", [1, 2, 4, 8])
def test_walk_fills_the_time_with_all_speakers(speakers):
    law = RandomWalkTurns()
    for seed in range(10):
        turns = law.draw(speakers, 20.3, np.random.default_rng(seed))
        assert turns[0].start == 0
        assert turns[-1].end == 20.3
        assert all(a.end == b.start and a.speaker != b.speaker for a, b in pairwise(turns))
        spoken = [sum(t.end - t.start for t in turns if t.speaker == str(k)) for k in range(speakers)]
        assert len(spoken) == speakers
        assert min(spoken) >= 0.5 - 1e-9


def test_walk_changes_speaker_far_less_than_a_coin():
    made = pooled_statistics((turns, 30.0) for turns in RandomWalkTurns().examples(2, 30.0, 100))
    assert 5 < made.switches_per_minute < 30  # a coin every 0.25 s: 120
    assert made.silence_fraction == pytest.approx(0.0, abs=1e-9)
    assert made.overlap_fraction == 0


def test_walk_stays_inside_and_gives_everyone_an_equal_share():
    law = RandomWalkTurns(spread_per_second=0.5, min_speech_seconds=0.0)
    walks = law.examples(4, 60.0, 100)
    share = [sum(t.end - t.start for w in walks for t in w if t.speaker == str(k)) / 6000 for k in range(4)]
    np.testing.assert_allclose(share, 0.25, atol=0.05)


@pytest.mark.parametrize("law", [RandomWalkTurns(), RecordedTurns({"a": random_talk(1)})])
@pytest.mark.parametrize(("speakers", "seconds"), [(0, 10.0), (30, 10.0)])
def test_people_who_do_not_fit_are_refused(law, speakers, seconds):
    with pytest.raises(RequestError, match=f"{speakers} speakers"):
        law.draw(speakers, seconds, np.random.default_rng(0))


def test_reading_a_tree_counts_a_recording_once(tmp_path):
    talk = [Segment(0.0, 4.0, "ann"), Segment(4.5, 9.0, "bob")]
    write_rttm(tmp_path / "deep" / "one.rttm", {"talk": talk})
    write_rttm(tmp_path / "all.rttm", {"talk": talk, "more": [Segment(0.0, 30.0, "cy")]})
    law = RecordedTurns.read(tmp_path)
    assert law.recordings == [[Segment(0.0, 30.0, "cy")], talk]
    assert RecordedTurns.read(tmp_path / "all.rttm").recordings == law.recordings
    with pytest.raises(RequestError, match="no RTTM file"):
        RecordedTurns.read(tmp_path / "nothing")
    (tmp_path / "empty.rttm").touch()
    with pytest.raises(RequestError, match="no speech"):
        RecordedTurns.read(tmp_path / "empty.rttm")


@needs_timings
def test_ami_listed_twice_is_read_once_and_draws_match_it():
    law = RecordedTurns.read(TIMINGS / "ami")  # each meeting is in a file of its own and in one of its whole part
    assert len(law.recordings) == 170
    assert law.statistics().overlap_fraction == pytest.approx(0.136, abs=0.002)
    rng = np.random.default_rng(0)
    for speakers in (1, 2, 3, 4):
        made = pooled_statistics((law.draw(speakers, 25.0, rng), 25.0) for _ in range(500))
        source = pooled_statistics((window, 25.0) for window in law.examples(speakers, 25.0, 500))
        assert made.speakers == source.speakers == speakers
        assert made.switches_per_minute == pytest.approx(source.switches_per_minute, rel=0.15, abs=0.1)
        assert made.turn_mean_seconds == pytest.approx(source.turn_mean_seconds, rel=0.15)
        assert made.silence_fraction == pytest.approx(source.silence_fraction, abs=0.04)
        assert made.overlap_fraction == pytest.approx(source.overlap_fraction, abs=0.04)

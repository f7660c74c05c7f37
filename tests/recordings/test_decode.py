import itertools
import time

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from weigher.errors import RequestError
from weigher.io.rttm import Segment
from weigher.recordings.decode import DecodeConfig, choose_slots, decode, decode_slots, hysteresis

# Tenths meet the thresholds exactly, which drawn floats would hardly ever do.
levels = st.integers(0, 10).map(lambda tenths: tenths / 10)
tracks_2d = arrays(np.float64, array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=14), elements=levels)
confidences = arrays(np.float32, st.integers(0, 6), elements=st.floats(0, 1, width=32))
hops = st.sampled_from([0.01, 0.02, 0.1, 0.3, 1.0])


@st.composite
def configs(draw):
    onset = draw(st.integers(1, 10))
    offset = draw(st.integers(1, onset))
    speech, gap = draw(st.sampled_from([0.0, 0.1, 0.3, 1.0, 2.0])), draw(st.sampled_from([0.0, 0.1, 0.3, 1.0, 2.0]))
    return DecodeConfig(onset / 10, offset / 10, speech, gap, draw(levels))


@st.composite
def requests(draw):
    tracks = draw(tracks_2d)
    confidence = draw(arrays(np.float64, tracks.shape[1], elements=levels))
    return tracks, confidence, draw(hops), draw(configs()), draw(st.none() | st.floats(0, 20))


def plain_turns(track, hop, duration, config):
    """One track, frame by frame, in whole units of a tenth of a millisecond."""
    unit = 10_000

    def units(seconds):
        return round(seconds * unit)

    turns, on = [], None
    for frame, value in enumerate(track):
        if frame * hop >= duration - 1e-6:
            break
        if on is None and value >= config.onset:
            on = frame
        elif on is not None and value < config.offset:
            turns.append([on * units(hop), frame * units(hop)])
            on = None
    else:
        frame = len(track)
    if on is not None:
        turns.append([on * units(hop), frame * units(hop)])
    turns = [[start / unit, min(end / unit, duration)] for start, end in turns]
    filled = []
    for start, end in turns:
        if filled and start - filled[-1][1] < config.min_gap_seconds - 1e-6:
            filled[-1][1] = end
        else:
            filled.append([start, end])
    return [(start, end) for start, end in filled if end - start >= config.min_speech_seconds - 1e-6]


@given(requests())
@example((np.full((3, 1), 0.5), np.array([0.5]), 1.0, DecodeConfig(0.5, 0.5), None))
@example((np.array([[1.0], [1.0], [0.0], [0.0], [0.0], [1.0]]), np.ones(1), 0.1, DecodeConfig(min_gap_seconds=0.3), 5))
@example((np.array([[1.0], [0.0], [1.0]]), np.ones(1), 1.0, DecodeConfig(min_gap_seconds=2.0), 1.5))
def test_turns_are_those_of_a_loop_over_frames(request):
    tracks, confidence, hop, config, duration = request
    result = decode_slots(tracks, confidence, hop, duration_seconds=duration, config=config)
    end = len(tracks) * hop if duration is None else duration
    expected = {
        slot: plain_turns(tracks[:, slot], hop, end, config)
        for slot in range(len(confidence))
        if confidence[slot] >= config.threshold
    }
    assert sorted(result.slots.tolist()) == sorted(expected)
    for name, slot in zip(result.speakers, result.slots.tolist(), strict=True):
        found = [(turn.start, turn.end) for turn in result.segments if turn.speaker == name]
        assert np.array(found).reshape(-1, 2) == pytest.approx(np.array(expected[slot]).reshape(-1, 2), abs=2e-6)


@given(requests())
def test_turns_lie_in_the_recording_are_sorted_and_obey_their_bounds(request):
    tracks, confidence, hop, config, duration = request
    segments = decode(tracks, confidence, hop, duration_seconds=duration, config=config)
    end = len(tracks) * hop if duration is None else duration
    assert [(s.start, s.end) for s in segments] == sorted((s.start, s.end) for s in segments)
    for segment in segments:
        assert 0 <= segment.start < segment.end <= end
        assert segment.end - segment.start >= config.min_speech_seconds - 2e-6
    for speaker in {s.speaker for s in segments}:
        own = [s for s in segments if s.speaker == speaker]
        for early, late in itertools.pairwise(own):
            assert late.start - early.end >= config.min_gap_seconds - 2e-6
            assert late.start > early.end


@given(requests())
def test_speakers_are_numbered_by_first_appearance(request):
    tracks, confidence, hop, config, duration = request
    result = decode_slots(tracks, confidence, hop, duration_seconds=duration, config=config)
    appeared = list(dict.fromkeys(s.speaker for s in sorted(result.segments, key=lambda s: s.start)))
    starts = [min(s.start for s in result.segments if s.speaker == name) for name in appeared]
    assert set(appeared) == set(result.speakers[: len(appeared)])
    by_number = [min(s.start for s in result.segments if s.speaker == n) for n in result.speakers[: len(appeared)]]
    assert by_number == starts
    ties = [(start, -confidence[slot]) for start, slot in zip(by_number, result.slots, strict=False)]
    assert ties == sorted(ties)


@given(requests(), st.randoms(use_true_random=False))
def test_the_order_of_slots_changes_names_at_most(request, rng):
    tracks, _, hop, config, duration = request
    confidence = np.linspace(0.3, 0.9, tracks.shape[1])  # no ties
    order = rng.sample(range(tracks.shape[1]), tracks.shape[1])
    here = decode(tracks, confidence, hop, duration_seconds=duration, config=config)
    there = decode(tracks[:, order], confidence[order], hop, duration_seconds=duration, config=config)
    assert here == there


@given(requests())
def test_single_precision_meets_thresholds_as_double_does(request):
    tracks, confidence, hop, config, duration = request
    double = decode(tracks, confidence, hop, duration_seconds=duration, config=config)
    single = decode(
        tracks.astype(np.float32), confidence.astype(np.float32), hop, duration_seconds=duration, config=config
    )
    assert single == double


@given(confidences, st.integers(0, 7) | st.none(), st.integers(0, 7) | st.none(), st.integers(0, 7) | st.none(), levels)
def test_the_number_of_speakers_is_honoured_or_refused(confidence, least, most, exactly, threshold):
    n = len(confidence)
    bounds = {"min_speakers": least, "max_speakers": most, "num_speakers": exactly}
    wrong = any(x is not None and x > n for x in (least, exactly)) or any(
        low is not None and high is not None and low > high
        for low, high in ((least, most), (least, exactly), (exactly, most))
    )
    if wrong:
        with pytest.raises(RequestError):
            choose_slots(confidence, threshold=threshold, **bounds)
        return
    kept = choose_slots(confidence, threshold=threshold, **bounds)
    allowed = [
        k
        for k in range(n + 1)
        if (exactly is None or k == exactly) and (least is None or k >= least) and (most is None or k <= most)
    ]
    wish = sum(float(q) >= np.float32(threshold) for q in confidence)
    assert len(kept) == min(allowed, key=lambda k: abs(k - wish))
    best = sorted(range(n), key=lambda i: (-confidence[i], i))
    assert kept.tolist() == best[: len(kept)]


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ({"num_speakers": 3}, "num_speakers is 3.*2 slots"),
        ({"min_speakers": 3}, "min_speakers is 3.*2 slots"),
        ({"min_speakers": 2, "max_speakers": 1}, "min_speakers is 2 and max_speakers is 1.*contradict"),
        ({"max_speakers": 1, "num_speakers": 2}, "contradict"),
        ({"min_speakers": 2, "num_speakers": 1}, "contradict"),
        ({"max_speakers": -1}, "max_speakers is -1"),
        ({"threshold": 1.5}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
    ],
)
def test_bounds_that_cannot_be_served_are_refused(bounds, words):
    with pytest.raises(RequestError, match=words):
        choose_slots(np.array([0.1, 0.9]), **bounds)


def test_more_speakers_than_slots_may_be_allowed_but_not_asked_for():
    assert choose_slots(np.array([0.1, 0.9]), max_speakers=9).tolist() == [1]


def test_a_gap_or_turn_of_just_the_bound_is_kept():
    track = np.array([1, 1, 1, 0, 0, 0, 1, 1, 0, 0, 1, 1, 1.0])[:, None]
    config = DecodeConfig(min_gap_seconds=0.3, min_speech_seconds=0.3)
    assert decode(track, np.ones(1), 0.1, config=config) == (
        Segment(0.0, 0.3, "speaker1"),
        Segment(0.6, 1.3, "speaker1"),
    )


def test_speakers_who_are_asked_for_speak():
    tracks = np.array([[0.9, 0.05, 0.0], [0.9, 0.3, 0.0], [0.9, 0.3, 0.0], [0.9, 0.05, 0.0]])
    confidence = np.array([0.9, 0.2, 0.1])
    for bounds in ({"num_speakers": 2}, {"min_speakers": 2}):
        assert decode(tracks, confidence, 1.0, **bounds) == (
            Segment(0.0, 4.0, "speaker1"),
            Segment(1.0, 3.0, "speaker2"),
        )
    assert len(decode(tracks, confidence, 1.0)) == 1
    longest = decode(tracks[:, 1:], confidence[1:], 0.01, num_speakers=1, config=DecodeConfig(min_speech_seconds=1))
    assert longest == (Segment(0.01, 0.03, "speaker1"),)


def test_a_speaker_who_is_asked_for_keeps_the_longest_of_short_turns():
    track = np.array([0.2, 0.0, 0.0, 0.0, 0.2, 0.2, 0.0, 0.0, 0.0, 0.2])[:, None]
    config = DecodeConfig(min_speech_seconds=0.5, min_gap_seconds=0.3)
    assert decode(track, np.zeros(1), 0.1, num_speakers=1, config=config) == (Segment(0.4, 0.6, "speaker1"),)


def test_a_slot_without_any_weight_stays_silent_even_if_asked_for():
    result = decode_slots(np.array([[0.0, 0.9]] * 3), np.array([0.9, 0.5]), 1.0, num_speakers=2)
    assert result.segments == (Segment(0.0, 3.0, "speaker1"),)
    assert (result.speakers, result.slots.tolist()) == (("speaker1", "speaker2"), [1, 0])


@given(requests(), st.data())
def test_as_many_speak_as_are_insisted_on(request, data):
    tracks, confidence, hop, config, _ = request
    tracks = np.maximum(tracks, 0.01)
    count = data.draw(st.integers(0, len(confidence)))
    segments = decode(tracks, confidence, hop, num_speakers=count, config=config)
    assert len({s.speaker for s in segments}) == (count if len(tracks) else 0)
    at_least = decode(tracks, confidence, hop, min_speakers=count, config=config)
    assert len({s.speaker for s in at_least}) >= (count if len(tracks) else 0)
    free = decode(tracks, confidence, hop, config=config)
    if len({s.speaker for s in free}) >= count:
        assert at_least == free or len(choose_slots(confidence, threshold=config.threshold)) < count


@pytest.mark.parametrize("frames", [0, 1])
def test_no_frames_or_no_slots_give_no_turns(frames):
    assert decode(np.zeros((frames, 0)), np.zeros(0), 0.1) == ()
    assert decode(np.zeros((frames, 2)), np.zeros(2), 0.1) == ()
    assert hysteresis(np.zeros((0, 2)), 0.5, 0.4).shape == (0, 2)


@pytest.mark.parametrize(
    "fields",
    [
        {"onset": 0.2},
        {"onset": 1.1},
        {"offset": 0.0},
        {"onset": float("nan")},
        {"min_speech_seconds": -1},
        {"min_gap_seconds": float("inf")},
        {"threshold": -0.1},
    ],
)
def test_settings_that_make_no_sense_are_refused(fields):
    with pytest.raises(RequestError):
        DecodeConfig(**fields)


def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(RequestError, match=r"\(3, 2\).*\(1,\)"):
        decode(np.zeros((3, 2)), np.zeros(1), 0.1)
    with pytest.raises(RequestError, match="NaN"):
        decode(np.full((3, 1), np.nan), np.ones(1), 0.1)
    with pytest.raises(RequestError, match="finite"):
        decode(np.zeros((3, 1)), np.full(1, np.nan), 0.1)
    with pytest.raises(RequestError, match="hop_seconds"):
        decode(np.zeros((3, 1)), np.ones(1), 0.0)
    with pytest.raises(RequestError, match="duration_seconds"):
        decode(np.zeros((3, 1)), np.ones(1), 0.1, duration_seconds=-1)


def test_four_hours_take_seconds_at_most():
    rng = np.random.default_rng(0)
    tracks = np.repeat(rng.random((72_000, 4)), 10, axis=0).astype(np.float32)
    started = time.process_time()
    segments = decode(tracks, np.ones(4), 0.02)
    assert time.process_time() - started < 10  # a loop over frames needs minutes; generous for a busy machine
    assert len(segments) > 10_000

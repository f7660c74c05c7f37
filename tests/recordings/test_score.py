import itertools
import json
import os
import tracemalloc
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from weigher.errors import RequestError
from weigher.io.rttm import Segment, read_rttm_tree, read_uem_tree
from weigher.recordings.score import score

DATA = Path(os.environ.get("WEIGHER_DATA") or Path(__file__).parents[3] / "shared" / "data") / "speech"
AMI, VBX = DATA / "timings" / "ami" / "test", DATA / "scorer" / "ami_vbx"
needs_ami = pytest.mark.skipif(not (AMI.is_dir() and VBX.is_dir()), reason="AMI is not on this machine (WEIGHER_DATA)")

END = 30  # seconds; times are whole numbers, so that a plain grid is an exact second opinion
spans = st.tuples(st.integers(0, END - 1), st.integers(1, 12)).map(lambda s: (float(s[0]), float(min(sum(s), END))))


def conversations(speakers: str):
    turn = st.builds(lambda span, name: Segment(*span, name), spans, st.sampled_from(speakers))
    return st.lists(turn, max_size=8)


references, hypotheses = conversations("ABC"), conversations("1234")
regions = st.none() | st.lists(spans, min_size=1, max_size=3)
collars = st.sampled_from([0.0, 1.0, 2.0])
RATES = ("der", "miss", "false_alarm", "confusion", "jer")


def rates(result) -> tuple[float, ...]:
    return tuple(getattr(result, name) for name in RATES)


def one(reference, hypothesis, *, uem=None, collar=0.0):
    return score({"f": reference}, {"f": hypothesis}, uem=None if uem is None else {"f": uem}, collar=collar)


def by_counting(reference, hypothesis, uem, collar):
    """The rates from a grid of 1 s cells and every possible mapping."""
    cells = np.arange(END) + 0.5

    def grid(turns):
        return {
            name: np.any([(cells > t.start) & (cells < t.end) for t in turns if t.speaker == name], axis=0)
            for name in sorted({t.speaker for t in turns})
        }

    inside = np.ones(END, bool) if uem is None else np.any([(cells > a) & (cells < b) for a, b in uem], axis=0)
    scored = inside.copy()
    for bound in itertools.chain.from_iterable((t.start, t.end) for t in reference):
        scored &= np.abs(cells - bound) > collar
    ref, hyp = grid(reference), grid(hypothesis)
    counts = tuple(sum((cells_ & inside).any() for cells_ in who.values()) for who in (ref, hyp))
    ref = [cells_ & scored for cells_ in ref.values() if (cells_ & scored).any()]
    hyp = [cells_ & scored for cells_ in hyp.values()] + [np.zeros(END, bool)] * len(ref)
    total, n_ref, n_hyp = sum(r.sum() for r in ref), sum(ref), sum(hyp)
    miss, false_alarm = np.maximum(n_ref - n_hyp, 0).sum(), np.maximum(n_hyp - n_ref, 0).sum()
    best = (np.inf, np.inf)  # confusion and Jaccard error: least of the first, then of the second
    for chosen in itertools.permutations(hyp, len(ref)):
        shared = sum((r & h).sum() for r, h in zip(ref, chosen, strict=True))
        jaccard = [1 - (r & h).sum() / (r | h).sum() for r, h in zip(ref, chosen, strict=True)]
        best = min(best, (np.minimum(n_ref, n_hyp).sum() - shared, np.mean(jaccard) if ref else np.inf))
    seconds = np.array([miss + false_alarm + best[0], miss, false_alarm, best[0]], float)
    if not ref:
        return (*(100.0 * (seconds > 0)), 100.0 * (false_alarm > 0)), counts
    return (*(100 * seconds / total), 100 * best[1]), counts


@settings(deadline=None)
@given(reference=references, hypothesis=hypotheses, uem=regions, collar=collars)
@example(reference=[Segment(0, 9, "A")], hypothesis=[Segment(0, 30, "1"), Segment(0, 12, "2")], uem=None, collar=0.0)
@example(reference=[Segment(0, 1, "A")], hypothesis=[Segment(0, 1, "1")], uem=None, collar=2.0)
@example(reference=[], hypothesis=[], uem=None, collar=0.0)
def test_rates_equal_plain_counting_over_every_mapping(reference, hypothesis, uem, collar):
    expected, (n_ref, n_hyp) = by_counting(reference, hypothesis, uem, collar)
    result = one(reference, hypothesis, uem=uem, collar=collar)
    assert rates(result) == pytest.approx(expected, abs=1e-5)
    (file,) = result.files
    assert (file.reference_speakers, file.hypothesis_speakers) == (n_ref, n_hyp)
    assert result.count_accuracy == (100.0 if n_ref == n_hyp else 0.0)
    assert result.der == pytest.approx(result.miss + result.false_alarm + result.confusion)


@settings(deadline=None)
@given(reference=references, hypothesis=hypotheses, uem=regions, collar=collars, rng=st.randoms(use_true_random=False))
def test_names_and_order_do_not_matter(reference, hypothesis, uem, collar, rng):
    names = dict(zip("1234", rng.sample(["9", "x", "A", "B"], 4), strict=True))
    renamed = [Segment(t.start, t.end, names[t.speaker]) for t in rng.sample(hypothesis, len(hypothesis))]
    shuffled = rng.sample(reference, len(reference))
    here, there = one(reference, hypothesis, uem=uem, collar=collar), one(shuffled, renamed, uem=uem, collar=collar)
    assert rates(here) == pytest.approx(rates(there), abs=1e-6)


@settings(deadline=None)
@given(reference=references, hypothesis=hypotheses, shift=st.floats(0, 1e5))
def test_shifting_all_times_changes_nothing(reference, hypothesis, shift):
    moved = [[Segment(t.start + shift, t.end + shift, t.speaker) for t in turns] for turns in (reference, hypothesis)]
    assert rates(one(*moved)) == pytest.approx(rates(one(reference, hypothesis)), abs=1e-4)


@pytest.mark.parametrize("start", np.arange(0, 3, 0.1))
def test_time_that_only_rounding_leaves_is_no_time(start):
    reference = [Segment(float(start), float(start) + 0.5, "A")]  # the two collars of 0.25 s meet in its middle
    result = one(reference, [Segment(0, 10, "1")], collar=0.25)
    assert result.files[0].reference_seconds == 0
    assert rates(result) == (100, 0, 100, 0, 100)


@settings(deadline=None)
@given(reference=references, hypothesis=hypotheses)
def test_turns_cut_in_two_or_given_twice_count_once(reference, hypothesis):
    def cut(turns):
        halves = [Segment(t.start, (t.start + t.end) / 2, t.speaker) for t in turns]
        return halves + [Segment(h.end, t.end, t.speaker) for h, t in zip(halves, turns, strict=True)] + turns

    assert rates(one(cut(reference), cut(hypothesis))) == pytest.approx(rates(one(reference, hypothesis)), abs=1e-6)


@settings(deadline=None)
@given(reference=references, uem=regions, collar=collars)
def test_the_truth_itself_scores_nothing_wrong(reference, uem, collar):
    result = one(reference, reference, uem=uem, collar=collar)
    assert rates(result) == pytest.approx((0, 0, 0, 0, 0), abs=1e-9)
    assert min(rates(result)) >= 0
    assert result.count_accuracy == 100


@pytest.mark.parametrize("seed", range(20))
def test_rounding_makes_no_rate_negative(seed):
    rng = np.random.default_rng(seed)
    truth = [Segment(s, s + d, "ABC"[k % 3]) for k, (s, d) in enumerate(rng.uniform(0.1, 20, (25, 2)).tolist())]
    assert min(rates(one(truth, truth))) >= 0
    assert rates(one(truth, truth)) == pytest.approx((0, 0, 0, 0, 0), abs=1e-9)


@settings(deadline=None)
@given(files=st.lists(st.tuples(references.filter(len), hypotheses), min_size=1, max_size=4), collar=collars)
def test_totals_pool_seconds_and_average_speakers(files, collar):
    reference = {f"f{k}": ref for k, (ref, _) in enumerate(files)}
    result = score(reference, {f"f{k}": hyp for k, (_, hyp) in enumerate(files)}, collar=collar)
    seconds = np.array([file.reference_seconds for file in result.files])
    if collar == 0:
        for name in ("der", "miss", "false_alarm", "confusion"):
            pooled = seconds @ [getattr(file, name) for file in result.files] / seconds.sum()
            assert getattr(result, name) == pytest.approx(pooled)
        speakers = np.array([file.reference_speakers for file in result.files])
        assert result.jer == pytest.approx(speakers @ [file.jer for file in result.files] / speakers.sum())
    right = [file.reference_speakers == file.hypothesis_speakers for file in result.files]
    assert result.count_accuracy == pytest.approx(100 * np.mean(right))
    assert [file.file for file in result.files] == list(reference)


def test_the_collar_lies_on_each_side_of_the_boundary():
    reference = [Segment(10, 20, "A")]
    late = [Segment(10.5, 20.5, "1")]
    assert one(reference, late).der == pytest.approx(10)
    assert one(reference, late, collar=0.25).der == pytest.approx(100 * 0.5 / 9.5)
    assert one(reference, late, collar=0.5).der == 0
    assert one(reference, late, collar=0.5).files[0].reference_seconds == pytest.approx(9)


def test_a_boundary_outside_the_uem_still_has_its_collar():
    assert one([Segment(0, 10, "A")], [], uem=[(9, 20)], collar=0.25).files[0].reference_seconds == pytest.approx(0.75)
    assert one([Segment(0, 10, "A")], [], uem=[(10.5, 20)], collar=0.25).der == 0


def test_a_boundary_within_a_speakers_speech_has_a_collar_too():
    reference = [Segment(0, 5, "A"), Segment(5, 10, "A")]
    assert one(reference, [], collar=1.0).files[0].reference_seconds == pytest.approx(6)


def test_a_turn_of_no_length_is_no_turn():
    result = one([Segment(0, 10, "A"), Segment(5, 5, "B")], [Segment(0, 10, "1"), Segment(3, 3, "2")], collar=1.0)
    assert result.files[0].reference_seconds == pytest.approx(8)
    assert result.count_accuracy == 100


def test_regions_of_a_uem_may_overlap():
    result = one([Segment(0, 10, "A")], [], uem=[(0, 6), (4, 8), (4, 5)])
    assert result.files[0].reference_seconds == pytest.approx(8)


def test_a_recording_the_hypothesis_does_not_name_is_all_missed():
    truth = [Segment(0, 10, "A"), Segment(10, 20, "B")]
    result = score({"a": truth, "b": truth}, {"a": truth})
    assert rates(result) == pytest.approx((50, 50, 0, 0, 50))
    assert result.count_accuracy == 50
    assert [file.missing for file in result.files] == [False, True]
    assert rates(result.files[1]) == (100, 100, 0, 0, 100)
    assert result.notes == ("not in the hypothesis, all of their speech counts as missed: b",)


def test_a_recording_named_with_no_turns_is_not_missing():
    result = score({"a": [Segment(0, 10, "A")]}, {"a": []})
    assert rates(result) == (100, 100, 0, 0, 100)
    assert not result.files[0].missing
    assert result.notes == ()


def test_a_hypothesis_without_any_turn_needs_no_common_name():
    for hypothesis in ({}, {"empty file": []}):
        result = score({"a": [Segment(0, 10, "A")]}, hypothesis)
        assert rates(result) == (100, 100, 0, 0, 100)
        assert result.files[0].missing


def test_recordings_of_the_hypothesis_alone_are_left_out_with_a_note():
    truth = [Segment(0, 10, "A")]
    result = score({"a": truth}, {"a": truth} | {f"x{k}": truth for k in range(7)})
    assert rates(result) == (0, 0, 0, 0, 0)
    assert [file.file for file in result.files] == ["a"]
    assert result.notes == ("not in the reference, left out: x0, x1, x2, x3, x4 and 2 more",)


def test_recordings_the_uem_does_not_name_are_left_out_with_a_note():
    truth = [Segment(0, 10, "A")]
    result = score({"a": truth, "b": truth}, {"a": truth}, uem={"a": [(0, 5)]})
    assert rates(result) == (0, 0, 0, 0, 0)
    assert result.notes == ("not in the UEM, left out: b",)


def test_silence_in_the_reference_gives_no_nan():
    speech = [Segment(0, 10, "A")]
    assert rates(one([], speech)) == (100, 0, 100, 0, 100)
    assert rates(one([], [])) == (0, 0, 0, 0, 0)
    assert rates(one(speech, speech, uem=[(20, 30)])) == (0, 0, 0, 0, 0)
    both = score({"a": speech, "b": []}, {"a": speech, "b": [Segment(0, 5, "1")]})
    assert rates(both) == pytest.approx((50, 0, 50, 0, 0))
    assert both.count_accuracy == 50


def test_a_score_is_plain_json():
    result = score({"a": [Segment(0, 8, "A")], "b": []}, {"a": [Segment(0, 4, "1")]}, collar=0.5)
    plain = result.to_dict()
    assert set(plain) == {"der", "miss", "false_alarm", "confusion", "jer", "count_accuracy", "files", "collar"}
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["files"] == [asdict(file) for file in result.files]
    assert plain["collar"] == 0.5
    assert plain["der"] == result.der


@pytest.mark.parametrize("collar", [-0.1, float("nan"), float("inf")])
def test_a_collar_that_is_none_is_refused(collar):
    with pytest.raises(RequestError, match="collar"):
        one([Segment(0, 1, "A")], [], collar=collar)


@pytest.mark.parametrize(("start", "end"), [(2, 1), (float("nan"), 1), (0, float("inf"))])
def test_times_that_are_none_are_refused_and_the_recording_is_named(start, end):
    good, bad = [Segment(0, 1, "A")], [Segment(0, 1, "A"), Segment(start, end, "A")]
    for reference, hypothesis in ((good, bad), (bad, good)):
        with pytest.raises(RequestError, match="'f' runs from"):
            one(reference, hypothesis)
    with pytest.raises(RequestError, match="'f' runs from"):
        one(good, good, uem=[(start, end)])


def test_nothing_to_score_is_refused():
    truth = [Segment(0, 10, "A")]
    with pytest.raises(RequestError, match="holds no recording"):
        score({}, {"a": truth})
    with pytest.raises(RequestError, match="UEM names no recording"):
        score({"a": truth}, {"a": truth}, uem={"b": [(0, 5)]})
    with pytest.raises(RequestError, match=r"\(a\.mix\) is in the reference \(a\)"):
        score({"a": truth}, {"a.mix": truth})


def test_memory_stays_small_when_every_turn_has_its_own_speaker():
    rng = np.random.default_rng(0)
    starts = np.sort(rng.uniform(0, 4 * 3600, 10000))
    reference = [Segment(s, s + 2, f"r{k % 8}") for k, s in enumerate(starts)]
    hypothesis = [Segment(s, s + 2, f"h{k}") for k, s in enumerate(starts + rng.normal(1, 0.1, starts.size))]
    tracemalloc.start()
    result = one(reference, hypothesis)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 90 < result.jer <= 100
    assert peak < 50e6  # as a dense [speakers, intervals] array it would be over 400 MB even at a byte a cell


@needs_ami
def test_known_figure_on_real_meetings():
    result = score(read_rttm_tree(AMI), read_rttm_tree(VBX), uem=read_uem_tree(AMI), collar=0.0)
    assert round(result.der, 2) == 22.42
    assert len(result.files) == 16
    assert result.notes == ()

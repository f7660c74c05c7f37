"""Our scores beside those of pyannote.metrics, whose `collar` is the whole width: twice ours."""

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st
from pyannote.core import Annotation, Timeline
from pyannote.core import Segment as Span
from pyannote.metrics.diarization import DiarizationErrorRate, JaccardErrorRate

from weigher.io.rttm import Segment, read_rttm, read_uem
from weigher.recordings.score import score

DATA = Path(os.environ.get("WEIGHER_DATA") or Path(__file__).parents[3] / "shared" / "data") / "speech"
AMI, VBX = DATA / "timings" / "ami" / "test", DATA / "scorer" / "ami_vbx"
needs_ami = pytest.mark.skipif(not (AMI.is_dir() and VBX.is_dir()), reason="AMI is not on this machine (WEIGHER_DATA)")

CENTISECONDS = 6000


@st.composite
def turns(draw, speakers: str, jitter: np.ndarray, *, min_size: int = 0):
    """Turns on a jittered grid; those of one speaker may touch and never overlap, those of two speakers may overlap."""
    segments = []
    for speaker in draw(st.lists(st.sampled_from(speakers), unique=True, min_size=min_size)):
        steps = st.tuples(st.integers(0, 1500), st.integers(1, 1500))  # silence, then speech
        time = 0
        for silence, speech in draw(st.lists(steps, min_size=1, max_size=5)):
            start, time = time + silence, time + silence + speech
            if time < CENTISECONDS:
                ends = [k / 100 + float(jitter[k]) for k in (start, time)]
                segments.append(Segment(*ends, speaker))
    return segments


@st.composite
def recordings(draw, min_size: int = 0):
    """Reference, hypothesis, and scored regions that do not overlap, or None."""
    seed = draw(st.none() | st.integers(0, 2**32 - 1))  # None: no jitter, boundaries fall together as in real files
    grid = np.zeros(CENTISECONDS) if seed is None else np.random.default_rng(seed).uniform(0, 0.009, CENTISECONDS)
    cuts = draw(st.none() | st.lists(st.integers(0, CENTISECONDS), min_size=2, max_size=6, unique=True).map(sorted))
    uem = None if cuts is None else [(a / 100, b / 100) for a, b in zip(cuts[::2], cuts[1::2], strict=False)]
    return draw(turns("ABCD", grid, min_size=min_size)), draw(turns("12345", grid)), uem


collars = st.sampled_from([0.0, 0.25]) | st.floats(0, 3)


def annotation(segments) -> Annotation:
    made = Annotation()
    for track, turn in enumerate(segments):
        made[Span(turn.start, turn.end), track] = turn.speaker
    return made


def region(reference: Annotation, hypothesis: Annotation, uem) -> Timeline:
    """Return the UEM as pyannote has it; without one, all the time there is (which it would warn about)."""
    if uem is not None:
        return Timeline([Span(*part) for part in uem])
    return Timeline([reference.get_timeline().extent() | hypothesis.get_timeline().extent()])


def best_mappings(reference: Annotation, hypothesis: Annotation) -> int:
    """Count the mappings of speakers that share the most time (to the microsecond)."""
    shared = reference * hypothesis
    shared = np.pad(shared, ((0, 0), (0, shared.shape[0])))  # a reference speaker may stay alone
    rows = np.arange(shared.shape[0])
    found = {}
    for columns in itertools.permutations(range(shared.shape[1]), shared.shape[0]):
        pairs = tuple((r, c) for r, c in zip(rows, columns, strict=True) if shared[r, c] > 0)
        found[pairs] = sum(shared[pair] for pair in pairs)
    return sum(total > max(found.values()) - 1e-6 for total in found.values())


@settings(deadline=None, max_examples=300)
@given(recording=recordings(), collar=collars)
@example(recording=([], [Segment(0.0, 1.0, "1")], None), collar=0.0)
@example(recording=([], [], [(0.0, 1.0)]), collar=0.25)
def test_diarization_error_and_its_parts(recording, collar):
    reference, hypothesis, uem = recording
    ours = score({"f": reference}, {"f": hypothesis}, uem=None if uem is None else {"f": uem}, collar=collar)
    ref, hyp = annotation(reference), annotation(hypothesis)
    metric = DiarizationErrorRate(collar=2 * collar)
    theirs = metric(ref, hyp, uem=region(ref, hyp, uem), detailed=True)
    assert ours.der == pytest.approx(100 * theirs["diarization error rate"], abs=0.01)
    assert ours.files[0].reference_seconds == pytest.approx(theirs["total"], abs=1e-4)
    if theirs["total"] > 0:
        scale = 100 / theirs["total"]
        assert ours.miss == pytest.approx(scale * theirs["missed detection"], abs=0.01)
        assert ours.false_alarm == pytest.approx(scale * theirs["false alarm"], abs=0.01)
        assert ours.confusion == pytest.approx(scale * theirs["confusion"], abs=0.01)


@settings(deadline=None, max_examples=300)
@given(recording=recordings(min_size=1), collar=collars)
def test_jaccard_error(recording, collar):
    reference, hypothesis, uem = recording
    ours = score({"f": reference}, {"f": hypothesis}, uem=None if uem is None else {"f": uem}, collar=collar)
    ref, hyp = annotation(reference), annotation(hypothesis)
    metric = JaccardErrorRate(collar=2 * collar)
    parts = region(ref, hyp, uem)
    cropped_ref, cropped_hyp = metric.uemify(ref, hyp, uem=parts, collar=2 * collar)
    theirs = 100 * metric(ref, hyp, uem=parts)
    if not cropped_ref.labels():
        event("nobody speaks in the reference")
        assert ours.jer == (100 if cropped_hyp.labels() else 0)  # theirs is 100 for two silent files, too
    elif best_mappings(cropped_ref, cropped_hyp) == 1:
        event("one best mapping")
        assert ours.jer == pytest.approx(theirs, abs=0.01)
    else:
        event("several mappings share the same time")  # theirs takes any of them, ours the one with the least JER
        assert ours.jer <= theirs + 0.01


@settings(deadline=None)
@given(recording=recordings())
def test_number_of_speakers(recording):
    reference, hypothesis, uem = recording
    (ours,) = score({"f": reference}, {"f": hypothesis}, uem=None if uem is None else {"f": uem}, collar=0.5).files
    ref, hyp = annotation(reference), annotation(hypothesis)
    parts = region(ref, hyp, uem)
    assert ours.reference_speakers == len(ref.crop(parts).labels())
    assert ours.hypothesis_speakers == len(hyp.crop(parts).labels())


@settings(deadline=None)
@given(files=st.lists(recordings(), min_size=1, max_size=4), collar=collars)
def test_totals_over_files(files, collar):
    names = [f"f{k}" for k in range(len(files))]
    references, hypotheses, uems = (dict(zip(names, part, strict=True)) for part in zip(*files, strict=True))
    uems = {name: uem or [(0.0, CENTISECONDS / 100)] for name, uem in uems.items()}
    ours = score(references, hypotheses, uem=uems, collar=collar)
    metric = DiarizationErrorRate(collar=2 * collar)
    for name in names:
        ref, hyp = annotation(references[name]), annotation(hypotheses[name])
        metric(ref, hyp, uem=region(ref, hyp, uems[name]))
    assert ours.der == pytest.approx(100 * abs(metric), abs=0.01)


@settings(deadline=None)
@given(recording=recordings(min_size=1))
def test_turns_of_one_speaker_that_overlap(recording):
    """pyannote.metrics counts such time once for each turn; merged first, as its `support` does, the two agree."""
    reference, hypothesis, uem = recording
    doubled = [*reference, *(Segment(t.start, t.end + 0.7, t.speaker) for t in reference)]
    ours = score({"f": doubled}, {"f": hypothesis}, uem=None if uem is None else {"f": uem})
    ref, hyp = annotation(doubled).support(), annotation(hypothesis)
    parts = region(ref, hyp, uem)
    assert ours.der == pytest.approx(100 * DiarizationErrorRate()(ref, hyp, uem=parts), abs=0.01)


@needs_ami
@pytest.mark.parametrize("collar", [0.0, 0.25])
def test_real_meetings(collar):
    metrics = DiarizationErrorRate(collar=2 * collar), JaccardErrorRate(collar=2 * collar)
    references, hypotheses, uems = {}, {}, {}
    for name in ("IS1009a", "TS3003a"):
        references |= read_rttm(AMI / f"{name}.rttm")
        hypotheses |= read_rttm(VBX / f"{name}.rttm")
        uems |= read_uem(AMI / f"{name}.uem")
        ref, hyp = annotation(references[name]), annotation(hypotheses[name])
        for metric in metrics:
            metric(ref, hyp, uem=region(ref, hyp, uems[name]))
    ours = score(references, hypotheses, uem=uems, collar=collar)
    assert (ours.der, ours.jer) == pytest.approx([100 * abs(metric) for metric in metrics], abs=1e-6)

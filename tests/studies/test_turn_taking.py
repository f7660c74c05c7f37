"""Turn taking: who has the word, laws whose parameters are known, rules on made-up rows, and a tiny run."""

import numpy as np
import pytest
from scipy.stats import ks_2samp

from weigher.io.audio import write_audio
from weigher.io.rttm import Segment, write_rttm
from weigher.recordings.synthesise import synthesise_voices
from weigher.recordings.turns import RecordedTurns
from weigher.studies import turn_laws
from weigher.studies import turn_taking as study
from weigher.studies.harness import Context, Row, judge, run_study
from weigher.studies.turn_laws import CHAIN, FLIPS, FRAMES, SEMI_MARKOV, WALK, changes, draw_talks, dwell_times, fit

TALKS = [(2, 600.0), (3, 900.0)]
RECORDED = [[Segment(4.0 * k, 4.0 * k + 3, "ab"[k % 2]) for k in range(100)]]
SELDOM, NEARER, HALF, STRICTER, NEAREST = study.STUDY.claims


def talk(*turns):
    return [Segment(start, end, speaker) for start, end, speaker in turns]


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([(0, 2, "a"), (3, 5, "b"), (6, 7, "b"), (8, 9, "a")], [0, 3, 8]),
        ([(0, 9, "a"), (2, 3, "b"), (10, 11, "a")], [0]),  # an answer inside a turn takes nobody's word
        ([(0, 4, "a"), (2, 6, "b"), (3, 5, "c")], [0, 4]),  # whoever began first of those who go on
        ([(0, 4, "a"), (2, 6, "b"), (3, 8, "c")], [0, 4, 6]),
        ([(2, 4, "b"), (0, 1, "a")], [0, 2]),
        ([], []),
    ],
)
def test_who_has_the_word(turns, expected):
    assert changes(talk(*turns)).tolist() == expected


def test_dwells_leave_out_both_ends_and_sum_to_the_time_between():
    times = np.array([0.0, 1.0, 1.5, 4.0, 4.25])
    assert dwell_times(times) == pytest.approx([0.5, 2.5, 0.2])  # 4.25 s is nearest to 4.2 s
    for few in (times[:2], times[:1], times[:0]):
        assert len(dwell_times(few)) == 0


def test_flips_have_geometric_dwells():
    dwells, switches = draw_talks(turn_laws.Law(turn_laws.draw_flips), (0.5,), TALKS, 20.0, [0])
    assert switches == pytest.approx(30, rel=0.03)
    assert dwells.mean() == pytest.approx(2.0, rel=0.03)
    assert (dwells < 0.15).mean() == pytest.approx(0.05, rel=0.15)


def test_the_first_to_take_the_word_is_no_switch():
    law = turn_laws.Law(lambda parameters, speakers, seconds, rng: np.array([0.0, 5.0, 10.0]))
    dwells, switches = draw_talks(law, (), [(2, 60.0)], 0.1, [0])
    assert switches == 2
    assert dwells.tolist() == [5.0] * 6


def test_independent_frames_change_as_often_as_two_draws_differ():
    _, two = draw_talks(turn_laws.laws(RECORDED)[FRAMES], (), [(2, 1000.0)], 2.0, [0])
    _, four = draw_talks(turn_laws.laws(RECORDED)[FRAMES], (), [(4, 1000.0)], 2.0, [0])
    assert (two, four) == (pytest.approx(300, rel=0.03), pytest.approx(450, rel=0.03))


def test_log_normal_dwells_have_their_median_and_spread():
    dwells, _ = draw_talks(turn_laws.Law(turn_laws.draw_dwells), (3.0, 0.5), [(2, 1e5)], 100.0, [0])
    assert np.median(dwells) == pytest.approx(3.0, rel=0.02)
    assert np.log(dwells).std() == pytest.approx(0.5, rel=0.02)


def test_a_quicker_walk_switches_more_and_is_where_a_walk_should_be():
    law = turn_laws.laws(RECORDED)[WALK]
    slow, quick = (draw_talks(law, (spread,), [(2, 1000.0)], 2.0, [0])[1] for spread in (0.05, 0.2))
    assert 0 < 2 * slow < quick
    # the walk lies evenly in [0, 1] and crosses 1/2 in a step of size s with probability s sqrt(2 / pi) on an even law
    expected = 600 * 0.2 * np.sqrt(0.1) * np.sqrt(2 / np.pi)
    assert quick == pytest.approx(expected, rel=0.1)


def test_the_chain_takes_over_the_dwells_of_its_turns():
    dwells, switches = draw_talks(turn_laws.laws(RECORDED)[CHAIN], (), [(2, 400.0)], 0.5, [0])
    assert np.unique(dwells.round(1)).tolist() == [4.0]
    assert switches == pytest.approx(15, rel=0.03)


def test_a_law_is_nearest_to_what_it_drew_and_its_parameters_come_back():
    known = turn_laws.laws(RECORDED)
    planted = {FLIPS: (0.2,), SEMI_MARKOV: (4.0, 1.2)}
    for name, parameters in planted.items():
        real, _ = draw_talks(known[name], parameters, TALKS, 20.0, [7])
        fitted = {law: fit(known[law], real, TALKS, 2.0, [1]) for law in (FLIPS, SEMI_MARKOV)}
        assert np.abs(np.log(np.array(fitted[name]) / parameters)).max() < 0.3
        far = {law: study.distance(draw_talks(known[law], fitted[law], TALKS, 10.0, [2])[0], real) for law in fitted}
        assert min(far, key=far.__getitem__) == name
        assert far[name] < 0.05 < 2 * far[({*fitted} - {name}).pop()]


def test_the_distance_is_that_of_the_two_sample_test():
    rng = np.random.default_rng(0)
    some, others = rng.integers(0, 30, 200) * 0.1, rng.integers(5, 40, 77) * 0.1
    assert study.distance(some, others) == pytest.approx(ks_2samp(some, others, method="asymp").statistic)
    assert study.distance(some, some[:0]) == 1.0


def rows(std=0.001, **distances):
    """Rows of three seeds, the same in both corpora."""
    methods = {"walk": WALK, "frames": FRAMES, "flips": FLIPS, "semi": SEMI_MARKOV}
    return [
        Row(methods[name], f"{c}: {study.KS}", far, std, 3) for c in study.CORPORA for name, far in distances.items()
    ]


@pytest.mark.parametrize(
    ("claim", "distances", "held"),
    [
        (NEARER, {"walk": 0.5, "frames": 0.9}, True),
        (NEARER, {"walk": 0.9, "frames": 0.5}, False),
        (NEARER, {"walk": 0.5, "frames": 0.9, "std": 0.4}, False),
        (HALF, {"walk": 0.4, "frames": 0.9}, True),
        (HALF, {"walk": 0.5, "frames": 0.9}, False),
        (STRICTER, {"walk": 0.1, "flips": 0.2}, True),
        (STRICTER, {"walk": 0.2, "flips": 0.1}, False),
        (NEAREST, {"semi": 0.1, "walk": 0.2, "flips": 0.3, "frames": 0.9}, True),
        (NEAREST, {"semi": 0.1, "walk": 0.2, "flips": 0.09, "frames": 0.9}, False),
    ],
)
def test_claims_follow_from_the_rows(claim, distances, held):
    assert judge(claim, rows(**distances)).held is held


def test_a_claim_holds_where_it_does_in_every_corpus():
    def switches(ami, vox):
        figures = {"AMI": ami, "VoxConverse": vox}
        real = [Row(study.REAL, f"{c}: switches per minute", figure, 0.1, 3) for c, figure in figures.items()]
        return real + [Row(FRAMES, f"{c}: switches per minute", 300.0, 1.0, 3) for c in figures]

    assert judge(SELDOM, switches(10.0, 10.0)).held
    assert not judge(SELDOM, switches(40.0, 10.0)).held
    verdict = judge(SELDOM, switches(10.0, 40.0))
    assert not verdict.held
    assert verdict.measured == "AMI 10 against 300; VoxConverse 40 against 300"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Timings of 12 talks whose dwells are log-normal, in the folders of two corpora, and four voices."""
    folder, rng = tmp_path_factory.mktemp("data") / "speech", np.random.default_rng(0)
    for part in ("ami/train", "ami/dev", "ami/test", "voxconverse/dev"):
        for number in range(4):
            times = np.cumsum(3 * np.exp(0.8 * rng.standard_normal(120)))
            turns = [
                Segment(a, b - 0.1 * (b - a), "xyz"[k % (2 + number % 2)])
                for k, (a, b) in enumerate(study.pairwise(times))
            ]
            write_rttm(folder / "timings" / part / f"{number}.rttm", {f"{part[-4:]}{number}": turns})
        write_rttm(folder / "timings" / part / "alone.rttm", {"alone": [Segment(0.0, 60.0, "x")]})
    made = synthesise_voices(None, speakers=4, utterances=1, seconds=6.0, seed=0)
    for utterance in made.utterances:
        write_audio(folder / "librispeech" / utterance.speaker / "said.flac", utterance.load())
    return folder.parent


def test_a_tiny_run_gives_every_row_a_picture_and_the_same_figures_again(data, tmp_path, monkeypatch):
    size = study.Size(fit_hours=0.03, judge_hours=0.2, calls=2, call_seconds=10.0)
    monkeypatch.setitem(study.SIZES, "small", size)

    def ran(out, resume=False):
        given = {"data": data, "seeds": (0, 1), "budget": "small", "progress": lambda *stage: None}
        return run_study(study.STUDY, Context(out=out, resume=resume, **given))

    result = ran(tmp_path / "one")
    found = {(row.method, row.metric): row.mean for row in result.rows}
    for corpus in study.CORPORA:
        for law in (FRAMES, FLIPS, WALK, SEMI_MARKOV, CHAIN, study.OTHER_HALF):
            assert 0 <= found[law, f"{corpus}: {study.KS}"] <= 1
        assert found[SEMI_MARKOV, f"{corpus}: fitted, median s"] == pytest.approx(3, rel=0.4)
        assert found[study.REAL, f"{corpus}: dwell s, 50 % quantile"] == pytest.approx(3, rel=0.2)
        assert found[FRAMES, f"{corpus}: {study.KS}"] > 0.8
    assert found[study.CHANNELS, "made calls: DER %, collar 0"] < 15
    assert len(result.claims) == 5
    assert len(result.data) == 5
    assert (tmp_path / "one" / "turn_taking.png").stat().st_size > 20_000

    assert ran(tmp_path / "two").rows == result.rows
    resumed = ran(tmp_path / "one", resume=True)
    assert (resumed.rows, resumed.data) == (result.rows, result.data)


def test_recordings_of_one_person_are_left_out(data, tmp_path):
    context = Context(data, (0,), "small", tmp_path, lambda *stage: None)
    assert len(RecordedTurns.read(data / "speech/timings/voxconverse/dev").recordings) == 5
    kept = study._recordings(context, "VoxConverse")
    assert len(kept) == 4
    assert all(segments[0].start == 0 for segments in kept)

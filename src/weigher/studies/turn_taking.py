"""How people take turns in real recordings, against laws: independent frames, flips, a bounded walk, semi-Markov.

The recordings of a corpus are split in halves by chance. A law has its parameters fitted on the one half, all laws in
the same way: of its candidates the one is taken whose dwell times (see `weigher.studies.turn_laws`) lie at the least
Kolmogorov-Smirnov distance from the real ones. It is judged on the other half, in talks as long and with as many people
as those there. The log-normal law has two parameters, fitted flips and the walk have one, independent frames none; the
chain of recorded turns is those of the first half.

There is no two-channel call among the data: calls are made of two real voices with the turns of real meetings, as
`weigher.recordings.two_channel` says a call is made, and who speaks when is then read off their channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import wasserstein_distance

from weigher.io.rttm import Segment
from weigher.studies.harness import Claim, Context, Figures, Result, Row, Study, Tally, clearly_less, find_row
from weigher.studies.turn_laws import (
    CHAIN,
    FLIPS,
    FRAMES,
    HOP_SECONDS,
    SEMI_MARKOV,
    WALK,
    changes,
    distance,
    draw_talks,
    dwell_times,
    fit,
    laws,
)

if TYPE_CHECKING:
    from weigher.recordings.simulate import Plan
    from weigher.recordings.voicebank import VoiceBank

CORPORA = {
    "AMI": tuple(f"speech/timings/ami/{part}" for part in ("train", "dev", "test")),
    "VoxConverse": ("speech/timings/voxconverse/dev",),
}
REAL, OTHER_HALF, CHANNELS = "real recordings", "real, the other half", "louder channel"
KS = "Kolmogorov-Smirnov distance of dwell times"
SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)
LEAK_DB, GAINS_DB = -25.0, (0.0, -8.0)
_PICTURE = "call.npz"


@dataclass(frozen=True)
class Size:
    """How much is done for a budget: hours that a law draws to be fitted and to be judged, and calls of a minute."""

    fit_hours: float
    judge_hours: float
    calls: int
    call_seconds: float = 60.0


SIZES = {"small": Size(2.0, 8.0, 10), "full": Size(10.0, 40.0, 50)}


def run(context: Context) -> list[Row]:
    """Split, fit and judge with each seed, and make calls; see the module."""
    tally = Tally()
    fitted: dict[str, Any] = {}
    done, total = 0, len(context.seeds) * (len(CORPORA) + 1)
    for seed in context.seeds:
        for corpus in CORPORA:
            context.progress("turn taking", done, total)
            part = context.part(f"{seed} {corpus}", partial(_judged, context, seed, corpus))
            fitted.setdefault(corpus, part["fitted"])
            tally.add(part["figures"], corpus)
            done += 1
        tally.add({CHANNELS: context.part(f"{seed} calls", partial(_read_calls, context, seed))}, "made calls")
        done += 1
    _keep_picture(context, fitted["AMI"])
    context.progress("turn taking", total, total)
    return tally.rows()


def _recordings(context: Context, corpus: str) -> list[list[Segment]]:
    """Recordings of two people or more, from the first word on."""
    from weigher.recordings.turns import RecordedTurns

    read = [segments for part in CORPORA[corpus] for segments in RecordedTurns.read(context.path(part)).recordings]
    moved = [[Segment(s.start - r[0].start, s.end - r[0].start, s.speaker) for s in r] for r in read]
    return [segments for segments in moved if len({s.speaker for s in segments}) > 1]


def _judged(context: Context, seed: int, corpus: str) -> dict[str, Any]:
    """Fit all laws on one half and judge them on the other: what each gives, and the parameters."""
    from weigher.recordings.turns import RecordedTurns

    size = SIZES[context.budget]
    recordings = _recordings(context, corpus)
    order = np.random.default_rng([seed, 0]).permutation(len(recordings))
    halves = [[recordings[i] for i in order[::2]], [recordings[i] for i in order[1::2]]]
    talks = [[(len({s.speaker for s in r}), max(s.end for s in r)) for r in half] for half in halves]
    times = [[changes(r) for r in half] for half in halves]
    train, test = (np.concatenate([dwell_times(each) for each in half]) for half in times)

    minutes = sum(seconds for _, seconds in talks[1]) / 60
    described = _described(test, sum(len(each) - 1 for each in times[1]) / minutes)
    taken = RecordedTurns({str(i): r for i, r in enumerate(halves[1])}).statistics()
    spoken = {
        "turns of another person per minute": taken.switches_per_minute,
        "two or more at once, % of speech": 100 * taken.overlap_fraction,
    }
    figures: Figures = {REAL: described | spoken, OTHER_HALF: _distances(train, test)}
    fitted = {}
    for name, law in laws(halves[0]).items():
        fitted[name] = fit(law, train, talks[0], size.fit_hours, [seed, 1])
        dwells, switches = draw_talks(law, fitted[name], talks[1], size.judge_hours, [seed, 2])
        figures[name] = _described(dwells, switches) | _distances(dwells, test)
        figures[name] |= {f"fitted, {each}": value for each, value in zip(law.names, fitted[name], strict=True)}
    return {"figures": figures, "fitted": fitted}


def _described(dwells: np.ndarray, switches_per_minute: float) -> dict[str, float]:
    quantiles = np.quantile(dwells, SHARES)
    return {
        "switches per minute": switches_per_minute,
        "switches, % of frames": 100 * switches_per_minute * HOP_SECONDS / 60,
        "dwell s, mean": float(dwells.mean()),
        **{_quantile_name(share): float(value) for share, value in zip(SHARES, quantiles, strict=True)},
    }


def _quantile_name(share: float) -> str:
    return f"dwell s, {100 * share:.0f} % quantile"


def _distances(some: np.ndarray, others: np.ndarray) -> dict[str, float]:
    return {KS: distance(some, others), "Wasserstein distance, s": float(wasserstein_distance(some, others))}


def _read_calls(context: Context, seed: int) -> dict[str, float]:
    """Error of what is read off the channels of made calls, against the turns they are made of."""
    from weigher.recordings.score import score
    from weigher.recordings.two_channel import call_turns, channel_levels

    plans, bank = _planned_calls(context, seed)
    truth, found, uem = {}, {}, {}
    for planned in plans:
        truth[planned.name] = list(planned.segments)
        found[planned.name] = list(call_turns(channel_levels([_call(planned, bank)]), planned.seconds))
        uem[planned.name] = [(0.0, planned.seconds)]
    exact, loose = score(truth, found, uem=uem), score(truth, found, uem=uem, collar=0.25)
    return {
        "DER %, collar 0": exact.der,
        "miss %, collar 0": exact.miss,
        "false alarm %, collar 0": exact.false_alarm,
        "confusion %, collar 0": exact.confusion,
        "DER %, collar 0.25": loose.der,
    }


def _planned_calls(context: Context, seed: int) -> tuple[list[Plan], VoiceBank]:
    """Calls of two real people each, with the turns of two people of real meetings."""
    from weigher.io.voices import read_voices
    from weigher.recordings.simulate import plan
    from weigher.recordings.turns import RecordedTurns
    from weigher.recordings.voicebank import voice_bank

    size = SIZES[context.budget]
    voices = read_voices(context.path("speech/librispeech"))
    people = np.random.default_rng([seed, 3]).permutation(voices.speakers)[: 2 * size.calls]
    some = voices.only(people.tolist())
    plans = plan(
        some.speakers,
        RecordedTurns.read(context.path(CORPORA["AMI"][-1])),
        recordings=size.calls,
        seconds=size.call_seconds,
        max_speakers=2,
        speaker_weights=[0.0, 1.0],
        seed=seed,
        name="call",
    )
    return plans, voice_bank(some)


def _call(planned: Plan, bank: VoiceBank) -> np.ndarray:
    """The samples [n, 2] of a made call: the parties apart, each heard softly in the other's channel."""
    from weigher.recordings.planning import fill
    from weigher.recordings.render import render_audio
    from weigher.recordings.two_channel import render_call
    from weigher.recordings.voicebank import AudioBank

    assert isinstance(bank, AudioBank)
    rng = np.random.default_rng(planned.seed)
    pieces = fill(planned, bank, level_jitter_db=2.0, rng=rng)
    owners = [bank.voices.utterances[piece.utterance].speaker for piece in pieces]
    length = round(planned.seconds / bank.unit_seconds)
    parties = [
        render_audio(bank, [p for p, owner in zip(pieces, owners, strict=True) if owner == who], length, rng=rng)
        for who in planned.cast
    ]
    return render_call(np.column_stack(parties), leak_db=LEAK_DB, gains_db=GAINS_DB)


def _keep_picture(context: Context, fitted: Mapping[str, Sequence[float]]) -> None:
    """Write what the picture shows of one call: its sound, and who speaks in it and in one draw of each law."""
    from weigher.io.atomic import writing
    from weigher.recordings.two_channel import PARTIES, call_turns, channel_levels

    plans, bank = _planned_calls(context, 0)
    samples = _call(plans[0], bank)
    party = dict(zip(plans[0].cast, PARTIES, strict=True))
    lanes = {
        "turns it is made of": [Segment(s.start, s.end, party[s.speaker]) for s in plans[0].segments],
        CHANNELS: list(call_turns(channel_levels([samples]), plans[0].seconds)),
    }
    known = laws(_recordings(context, "AMI"))
    for name in (SEMI_MARKOV, WALK, FRAMES):
        times = known[name].draw(tuple(fitted[name]), 2, plans[0].seconds, np.random.default_rng(0))
        borders = pairwise([*times.tolist(), plans[0].seconds])
        lanes[name] = [Segment(since, until, PARTIES[k % 2]) for k, (since, until) in enumerate(borders)]
    turns = [
        (lane, turn.start, turn.end, PARTIES.index(turn.speaker))
        for lane, given in enumerate(lanes.values())
        for turn in given
    ]
    with writing(context.out / _PICTURE) as file:
        np.savez_compressed(
            file, samples=np.round(samples * 32767).astype(np.int16), lanes=np.array(list(lanes)), turns=np.array(turns)
        )


def plot(result: Result, path: Path) -> None:
    """Draw the call kept beside `path`, who speaks in it and in the laws, and the dwell times of all corpora."""
    from weigher.io.audio import SAMPLE_RATE
    from weigher.plot.tracks import PALETTE
    from weigher.plot.turn_taking import Call, Curve, Lane, plot_turn_taking
    from weigher.recordings.two_channel import HOP_SECONDS as LEVEL_HOP_SECONDS
    from weigher.recordings.two_channel import PARTIES, channel_levels

    with np.load(path.parent / _PICTURE) as kept:
        samples = kept["samples"] / 32767
        turns: list[list[Segment]] = [[] for _ in kept["lanes"]]
        for lane, start, end, party in kept["turns"].tolist():
            turns[int(lane)].append(Segment(start, end, PARTIES[int(party)]))
        lanes = [
            Lane(name, given, f"{max(len(changes(given)) - 1, 0)} switches")
            for name, given in zip(kept["lanes"].tolist(), turns, strict=True)
        ]
    call = Call(samples, SAMPLE_RATE, channel_levels([samples]), LEVEL_HOP_SECONDS, PARTIES, lanes)
    colours = {REAL: None, CHAIN: PALETTE[5], SEMI_MARKOV: PALETTE[2], FLIPS: PALETTE[4], WALK: PALETTE[3]}
    dwells = {
        corpus: [
            Curve(name, [find_row(result.rows, name, f"{corpus}: {_quantile_name(q)}").mean for q in SHARES], colour)
            for name, colour in {**colours, FRAMES: "#8C8C8C"}.items()
        ]
        for corpus in CORPORA
    }
    figure = plot_turn_taking(
        call,
        dwells,
        SHARES,
        title="Who has the word: a call, and three laws of turn taking",
        note=f"A call made of two real voices with the turns of a real meeting; each leaks into the other's channel, "
        f"{-LEAK_DB:.0f} dB softer. Laws as fitted to AMI.",
    )
    figure.savefig(path)


def _in_all(rows: Sequence[Row], method: str, other: str, metric: str, factor: float) -> tuple[str, bool]:
    """Compare two methods by one metric in every corpus; the claim holds where it does in all."""
    words, held = [], True
    for corpus in CORPORA:
        a, b = (find_row(rows, name, f"{corpus}: {metric}") for name in (method, other))
        words.append(f"{corpus} {a.mean:.3g} against {b.mean:.3g}")
        held = held and clearly_less(a, b, factor)
    return "; ".join(words), held


def _nearest(rows: Sequence[Row]) -> tuple[str, bool]:
    words, held = [], True
    for corpus in CORPORA:
        ours, *others = (find_row(rows, name, f"{corpus}: {KS}") for name in (SEMI_MARKOV, FRAMES, FLIPS, WALK))
        best = min(others, key=lambda row: row.mean)
        words.append(f"{corpus} {ours.mean:.3g} against {best.mean:.3g} ({best.method})")
        held = held and all(clearly_less(ours, other) for other in others)
    return "; ".join(words), held


STUDY = Study(
    name="turn_taking",
    card="00",
    title="Which law real people take turns by: flips, a bounded random walk, or semi-Markov",
    paper="The weigher: the project's own, after a talk on diarization learned from labels of whole files",
    run=run,
    claims=(
        Claim(
            "real people switch at less than a tenth of the rate of independent frames",
            "the talk: real speech seldom switches",
            lambda rows: _in_all(rows, REAL, FRAMES, "switches per minute", 0.1),
        ),
        Claim(
            "a bounded random walk is nearer to real talk than independent frames",
            "the talk: it looks more like it",
            lambda rows: _in_all(rows, WALK, FRAMES, KS, 1.0),
        ),
        Claim(
            "a bounded random walk is at most half as far from real talk as independent frames",
            "the talk: it looks much more like it",
            lambda rows: _in_all(rows, WALK, FRAMES, KS, 0.5),
        ),
        Claim(
            "a bounded random walk is nearer to real talk than flips whose rate is fitted as its spread is",
            "the project's stricter check",
            lambda rows: _in_all(rows, WALK, FLIPS, KS, 1.0),
        ),
        Claim("a log-normal semi-Markov law is nearer than flips and walk are", "the project's check", _nearest),
    ),
    plot=plot,
)

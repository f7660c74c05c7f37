"""Training on from a model: new people on a narrow line, and what becomes of the old ones.

A model learns from casts of some people. Then come a few recordings of others, heard over a line that carries two
thirds of the bands. Five ways to learn from these, all with the same steps, beside the model as it was:

    encoder held        `weigher train NEW --from RUN`: encoder and voices stay, weigher and names learn, and voices
                        that the run remembers of the old names are rehearsed
    not rehearsed       the same without that
    nothing held        `--freeze nothing`
    old ones mixed in   `--freeze nothing --replay OLD`
    from scratch        a new model on the new recordings alone

Error (DER) on conversations of old and of new people that nobody trained on, each on its own line, and how many of
their voices get the right name among all names that the model knows. In the small budget a seed takes about 12 minutes
on one core.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from weigher.studies.harness import Claim, Context, Figures, Result, Row, Study, Tally, clearly_less, find_row

if TYPE_CHECKING:
    from weigher.recordings.diarizer import Diarizer
    from weigher.studies.diarization import Talk

BEFORE, HELD, FREE, MIXED, SCRATCH = "before", "encoder held", "nothing held", "old ones mixed in", "from scratch"
UNREHEARSED = "encoder held, not rehearsed"
OLD, NEW = "old people", "new people"
DER, NAMED = "DER %", "named right %"


@dataclass(frozen=True)
class Size:
    """How much is done for a budget: people and recordings, old and new; steps of both phases, first and after."""

    people: tuple[int, int]
    recordings: tuple[int, int]
    first: tuple[int, int]
    after: tuple[int, int]
    batch: tuple[int, int]
    test: int
    seconds: float = 20.0


SIZES = {
    "small": Size((100, 30), (800, 120), (600, 600), (150, 150), (64, 12), 40),
    "full": Size((120, 40), (2000, 200), (1200, 2000), (200, 300), (96, 20), 100),
}


def narrowed(values: np.ndarray) -> np.ndarray:
    """Leave the upper third of the bands [t, f] constant, as a narrow line does.

    >>> narrowed(np.arange(6.0).reshape(1, 6)).tolist()
    [[0.0, 1.0, 2.0, 3.0, 0.0, 0.0]]
    """
    kept = values.copy()
    kept[:, values.shape[1] * 2 // 3 :] = 0.0
    return kept


def run(context: Context) -> list[Row]:
    """Train once and on in every way with each seed; see the module."""
    tally = Tally()
    for seed in context.seeds:
        tally.add(context.part(f"{seed}", partial(_seed, context, seed)))
    return tally.rows()


def _seed(context: Context, seed: int) -> Figures:
    from weigher.recordings.adapt import Start
    from weigher.recordings.archive import Archive
    from weigher.studies.diarization import archive_of

    size = SIZES[context.budget]
    talks, hop_seconds = _talks(context, size, seed)
    tests = {OLD: talks[OLD, "test"], NEW: talks[NEW, "test"]}
    first = _diarizer(size, size.first, seed, talks[OLD, "train"], hop_seconds)

    def archive(*groups: str, start: Start | None = None) -> Archive:
        some = [talk for group in groups for talk in talks[group, "train"]]
        plain = archive_of(some, [talk.values.astype(np.float16) for talk in some])
        if start is None:
            return plain
        labels = start.names(plain.labels)
        casts = [[labels.index(plain.labels[label]) for label in cast] for cast in plain.casts]
        return replace(plain, casts=casts, labels=labels)

    first.fit(archive(OLD), progress=context.progress)
    assert first.model_ is not None
    start = Start(first.model_, {}, first.labels_, first.head_, voices=first.voices_)
    found = {BEFORE: _figures(first, tests)}
    for arm, groups, frozen, begun in (
        (HELD, (NEW,), "encoder", start),
        (UNREHEARSED, (NEW,), "encoder", replace(start, voices=None)),
        (FREE, (NEW,), "nothing", start),
        (MIXED, (NEW, OLD), "nothing", start),
        (SCRATCH, (NEW,), "nothing", None),
    ):
        diarizer = _diarizer(size, size.after, seed, talks[OLD, "train"], hop_seconds)
        diarizer.config = replace(diarizer.config, learn=replace(diarizer.config.learn, frozen=frozen))
        diarizer.fit(archive(*groups, start=begun), start=begun, progress=context.progress)
        found[arm] = _figures(diarizer, tests)
    return found


def _talks(context: Context, size: Size, seed: int) -> tuple[dict[tuple[str, str], list[Talk]], float]:
    """Conversations of old and new people to train and to test on; what is said in the test is not said in training."""
    from weigher.io.voices import read_voices
    from weigher.recordings.simulate import simulate
    from weigher.recordings.turns import RecordedTurns
    from weigher.recordings.voicebank import voice_bank
    from weigher.studies.diarization import Talk, words_apart

    voices = read_voices(context.path("speech/read_speech_fbank40.npz"))
    timings = context.path("speech/timings/ami")
    people = np.random.default_rng(seed).permutation(voices.speakers)
    found: dict[tuple[str, str], list[Talk]] = {}
    for group, some, count in (
        (OLD, people[: size.people[0]], size.recordings[0]),
        (NEW, people[size.people[0] : sum(size.people)], size.recordings[1]),
    ):
        for part, words, number in zip(
            ("train", "test"), words_apart(voices.only(some)), (count, size.test), strict=True
        ):
            made = simulate(
                words,
                RecordedTurns.read(timings / part),
                recordings=number,
                seconds=size.seconds,
                max_speakers=4,
                bank=voice_bank(words),
                seed=seed,
                progress=context.progress,
            )
            talks = [Talk.of(each) for each in made]
            if group == NEW:
                talks = [replace(talk, values=narrowed(talk.values)) for talk in talks]
            found[group, part] = talks
    return found, voices.hop_seconds


def _diarizer(size: Size, steps: tuple[int, int], seed: int, talks: Sequence[Talk], hop_seconds: float) -> Diarizer:
    from weigher.recordings.diarizer import Diarizer
    from weigher.recordings.model import FrontConfig

    diarizer = Diarizer(slots=5, seed=seed)
    phases = diarizer.config.learn

    def loop(of, count):
        return replace(of, steps=count, warmup_steps=min(of.warmup_steps, count // 4), validate_every=count)

    phases = replace(
        phases,
        listen=loop(phases.listen, steps[0]),
        weigh=loop(phases.weigh, steps[1]),
        listen_batch=size.batch[0],
        weigh_batch=size.batch[1],
    )
    front = FrontConfig(kind="features", features=talks[0].values.shape[1], hop_seconds=hop_seconds)
    diarizer.config = replace(diarizer.config, model=replace(diarizer.config.model, front=front), learn=phases)
    return diarizer


def _figures(diarizer: Diarizer, tests: dict[str, list[Talk]]) -> dict[str, float]:
    from weigher.studies import diarization as shared

    found = {}
    for group, talks in tests.items():
        turns = {result.file_id: list(result.segments) for result in shared.apply(diarizer, talks)}
        found[f"{group}: {DER}"] = shared.figures(talks, turns)["DER %, collar 0"]
        if set(diarizer.labels_) & {name for talk in talks for name in talk.cast}:
            found[f"{group}: {NAMED}"] = named_right(diarizer, talks)
    return found


def named_right(diarizer: Diarizer, talks: Sequence[Talk]) -> float:
    """Per cent of the people of talks whose slot gets their name, among all names the model knows.

    A person's slot is the one that training would have matched to them by their times.
    """
    import torch

    from weigher.studies.diarization import activity
    from weigher.studies.variants import matched_slots

    model, head = diarizer.model_, diarizer.head_
    assert model is not None
    assert head is not None
    right = total = 0
    with torch.inference_mode():
        for talk in talks:
            values = torch.as_tensor(np.asarray(talk.values, np.float32), device=diarizer.device)[None]
            weighed = model(values, torch.tensor([values.shape[1]], device=diarizer.device))
            tracks = weighed.tracks[0].float().cpu().numpy()
            whose = matched_slots(tracks, activity(talk.segments, talk.cast, len(tracks), model.hop_seconds))
            said = head(weighed.embeddings)[0].argmax(-1).tolist()
            for slot, person in enumerate(whose):
                if person >= 0:
                    total += 1
                    right += diarizer.labels_[said[slot]] == talk.cast[person]
    return 100 * right / max(1, total)


def _less(rows: Sequence[Row], metric: str, ours: str, other: str) -> tuple[str, bool]:
    a, b = find_row(rows, ours, metric), find_row(rows, other, metric)
    return f"{a.mean:.1f} % ({ours}) against {b.mean:.1f} % ({other})", clearly_less(a, b)


def _keeps(rows: Sequence[Row]) -> tuple[str, bool]:
    metric = f"{OLD}: {NAMED}"
    after, before = find_row(rows, HELD, metric), find_row(rows, BEFORE, metric)
    return f"{after.mean:.1f} % after {before.mean:.1f} % before", not clearly_less(after, before, factor=0.9)


def plot(result: Result, path: Path) -> None:
    """Draw how many voices of old and new people get the right name after each way to learn."""
    from weigher.plot.bars import horizontal_bars

    rows = [row for row in result.rows if row.metric.endswith(NAMED)]
    rows = sorted(rows, key=lambda row: (row.metric, row.mean))
    horizontal_bars(
        path,
        [f"{row.metric.split(':')[0]}, {row.method}" for row in rows],
        [row.mean for row in rows],
        [row.std or 0.0 for row in rows],
        title="New names learned by a model of others, and what becomes of the old ones",
        axis="voices given the right name among all that the model knows, %",
        marked=[row.metric.startswith(NEW) for row in rows],
    )


STUDY = Study(
    name="adapt",
    card="00",
    title="Training on from a model: new people, and what becomes of the old ones",
    paper="The weigher: the project's own, after a talk on diarization learned from labels of whole files",
    run=run,
    claims=(
        Claim(
            "new people: fewer errors than a model trained on them alone for as long",
            "the project's check",
            lambda rows: _less(rows, f"{NEW}: {DER}", HELD, SCRATCH),
        ),
        Claim(
            "new people: fewer errors than before",
            "the project's check",
            lambda rows: _less(rows, f"{NEW}: {DER}", HELD, BEFORE),
        ),
        Claim("old people are named as well as before (nine tenths at least)", "the project's check", _keeps),
        Claim(
            "rehearsing remembered voices keeps old names",
            "the project's check",
            lambda rows: _less(rows, f"{OLD}: {NAMED}", UNREHEARSED, HELD),
        ),
        Claim(
            "with nothing held, old names are forgotten",
            "the project's check",
            lambda rows: _less(rows, f"{OLD}: {NAMED}", FREE, BEFORE),
        ),
        Claim(
            "with old recordings mixed in, they are not forgotten as much",
            "the project's check",
            lambda rows: _less(rows, f"{OLD}: {NAMED}", FREE, MIXED),
        ),
    ),
    plot=plot,
)

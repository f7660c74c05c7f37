"""The label set of a file from its frames: six poolings of multiple-instance learning against the weigher.

Files of real voices pass through one frozen encoder per seed, trained from casts. Every method then learns from the
same frames, from the head that named frames for the teacher, as many steps on as many files, and chooses its settings
by mAP on the files to check on, of the first seed; all tries are rows. Poolings choose among six settings (learning
rate, BCE or wBCE), the weigher among two (learning rate). The weigher's tracks learn from the teacher's posteriors,
which know casts and no times (`weigher.studies.frame_tagging`). A sceptic's row: the teacher's own head, with the best
of the poolings and nothing more to learn.

small: about 40 minutes for three seeds on one core.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weigher.studies.harness import Claim, Context, Result, Row, Study, Tally, clearly_less, find_row

if TYPE_CHECKING:  # torch is loaded by a run, not by listing the studies
    from weigher.studies.label_sets import Ears, Heard
    from weigher.train.loop import LoopConfig

WEIGHER, TEACHER = "weigher", "teacher's own head"
POOLINGS = ("max", "mean", "attention", "noisy-or", "exp-softmax", "linear softmax")
METHODS = (WEIGHER, *POOLINGS, TEACHER)
MAP, AUC, AUC_SPEECH = "file-level mAP %", "frame AUC %", "frame AUC %, within speech"
RATES, WEIGHER_RATES = (0.003, 0.01, 0.03), (0.001, 0.003)
LOSSES = ("BCE", "wBCE")


@dataclass(frozen=True)
class Size:
    """How much is done for a budget; files are counted per person."""

    people: int
    listen: int
    listen_batch: int
    steps: int
    train_files: int
    test_files: int
    batch: int = 8
    seconds: float = 16.0


SIZES = {
    "small": Size(people=40, listen=600, listen_batch=64, steps=500, train_files=12, test_files=4),
    "full": Size(people=160, listen=1500, listen_batch=96, steps=2000, train_files=12, test_files=4),
}


@dataclass(frozen=True, eq=False)
class Material:
    """Ears that have listened, and files to train, check and test on as they hear them."""

    ears: Ears
    train: Heard
    dev: Heard
    test: Heard


def run(context: Context) -> list[Row]:
    """Tune on the first seed, then train and test with each; see the module."""
    tried: list[Row] = []
    chosen: dict[str, str] = {}
    tally = Tally()
    for seed in context.seeds:
        material = cache(partial(_material, context, seed))
        for done, method in enumerate(METHODS):
            context.progress("methods", done, len(METHODS))
            if method not in chosen:
                tries = context.part(f"tries {method}", partial(_tries, context, seed, material, method))
                chosen[method] = max(tries, key=lambda setting: tries[setting])
                tried += [Row.of(method, f"mAP % to choose by, {setting}", [value]) for setting, value in tries.items()]
            found = context.part(f"{seed} {method}", partial(_tested, context, seed, material, method, chosen[method]))
            tally.add({method: found})
    return tally.rows() + tried


def settings(method: str) -> dict[str, dict[str, Any]]:
    """What a method may choose among.

    >>> [len(settings(method)) for method in ("weigher", "max", "teacher's own head")]
    [2, 6, 5]
    """
    if method == TEACHER:
        return {f"pooled by {pool}": {"pool": pool} for pool in POOLINGS if pool != "attention"}
    if method == WEIGHER:
        return {f"rate {rate:g}": {"rate": rate} for rate in WEIGHER_RATES}
    return {f"rate {rate:g}, {loss}": {"rate": rate, "kind": loss} for rate in RATES for loss in LOSSES}


def _tries(context: Context, seed: int, material: Callable[[], Material], method: str) -> dict[str, float]:
    """Setting -> mAP on the files to check on."""
    from weigher.studies.label_sets import mean_average_precision

    made = material()
    return {
        setting: mean_average_precision(
            _scorer(context, seed, made, method, setting)[0](made.dev).files, made.dev.casts
        )
        for setting in settings(method)
    }


def _tested(
    context: Context, seed: int, material: Callable[[], Material], method: str, setting: str
) -> dict[str, float]:
    from weigher.studies.frame_tagging import figures

    made = material()
    scorer, parameters = _scorer(context, seed, made, method, setting)
    return {**figures(scorer(made.test), made.test), "trained parameters": parameters}


def _scorer(context: Context, seed: int, material: Material, method: str, setting: str):
    """Train a method; returns what scores heard files by it, and how many numbers were trained."""
    from weigher.recordings.loss import LossConfig
    from weigher.studies import frame_tagging as tagging
    from weigher.studies import label_sets as shared

    ears, heard, dev, size = material.ears, material.train, material.dev, SIZES[context.budget]
    given = settings(method)[setting]
    if method == TEACHER:
        return partial(tagging.score_listener, ears, given["pool"]), 0
    loop = _loop(size.steps, given["rate"], seed)
    if method == WEIGHER:

        def check_weigher(both: shared.WeigherAndHead) -> dict[str, float]:
            return {"score": shared.mean_average_precision(tagging.score_weigher(ears, both, dev).files, dev.casts)}

        both = shared.WeigherAndHead(ears, tagging.starting_head(ears))
        shared.train_weigher(
            ears, heard, both, LossConfig(), loop, batch=size.batch, validate=check_weigher, progress=context.progress
        )
        return partial(tagging.score_weigher, ears, both), _count(both)

    def check_tagger(tagger: tagging.FrameTagger) -> dict[str, float]:
        return {"score": shared.mean_average_precision(tagging.score_tagger(ears, tagger, dev).files, dev.casts)}

    head = tagging.starting_head(ears)
    tagger = tagging.FrameTagger(method, head, heard.hidden.shape[1])
    tagging.train_tagger(
        ears,
        heard,
        tagger,
        loop,
        kind=given["kind"],
        batch=size.batch,
        validate=check_tagger,
        progress=context.progress,
    )
    return partial(tagging.score_tagger, ears, tagger), _count(tagger)


def _count(model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _loop(steps: int, rate: float, seed: int) -> LoopConfig:
    from weigher.train.loop import LoopConfig

    return LoopConfig(
        steps=steps,
        learning_rate=rate,
        warmup_steps=steps // 10,
        clip_norm=2.0,
        validate_every=max(1, steps // 5),
        precision="float32",  # in bfloat16, which some machines have, a probability near 1 is 1
        seed=seed,
    )


def _material(context: Context, seed: int) -> Material:
    """Let an encoder learn from casts, and hear files of the same people with other words and turns."""
    import numpy as np

    from weigher.io.voices import read_voices
    from weigher.studies import label_sets as shared

    size = SIZES[context.budget]
    voices = read_voices(context.path("speech/read_speech_fbank40.npz"))
    timings = context.path("speech/timings/ami")
    some = voices.only(np.random.default_rng(seed).permutation(voices.speakers)[: size.people].tolist())
    talks = {
        part: shared.talks_of(
            some, timings, part, count=round(per_person * size.people), seconds=size.seconds, seed=[seed]
        )
        for part, per_person in (
            ("train", size.train_files),
            ("dev", size.test_files / 2),
            ("test", size.test_files),
        )
    }
    ears = shared.listened(
        talks["train"],
        some.speakers,
        voices.hop_seconds,
        steps=size.listen,
        batch=size.listen_batch,
        seed=seed,
        progress=context.progress,
    )
    heard = {part: shared.hear(ears, talks[part], ears.labels, with_teacher=part == "train") for part in talks}
    return Material(ears, heard["train"], heard["dev"], heard["test"])


def _against_each(rows: Sequence[Row], metric: str) -> tuple[str, bool]:
    """The weigher is clearly above every one of the poolings."""
    ours = find_row(rows, WEIGHER, metric)
    others = sorted((find_row(rows, pool, metric) for pool in POOLINGS), key=lambda row: -row.mean)
    words = ", ".join(f"{row.method} {row.mean:.1f}" for row in others)
    return f"{ours.mean:.1f} against {words}", all(clearly_less(row, ours) for row in others)


def _against(rows: Sequence[Row], better: str, worse: str, metric: str) -> tuple[str, bool]:
    a, b = find_row(rows, better, metric), find_row(rows, worse, metric)
    return f"{a.mean:.1f} against {b.mean:.1f}", clearly_less(b, a)


def plot(result: Result, path: Path) -> None:
    """Draw mAP and frame AUC of every method, best first."""
    from weigher.plot.bars import horizontal_bars

    rows = [
        row
        for metric in (MAP, AUC, AUC_SPEECH)
        for row in sorted((r for r in result.rows if r.metric == metric), key=lambda r: -r.mean)
    ]
    horizontal_bars(
        path,
        [f"{row.metric.replace(' %', '')}: {row.method}" for row in rows],
        [row.mean for row in rows],
        [row.std or 0.0 for row in rows],
        title="Who is in a file, and when, from labels of files",
        axis="%",
        marked=[row.method == WEIGHER for row in rows],
    )


STUDY = Study(
    name="pooling",
    card="00",
    title="Label sets and their places from the same frames: six poolings per label against the weigher's slots",
    paper="The weigher: the project's own, after a talk on diarization learned from labels of whole files",
    run=run,
    claims=(
        Claim(
            "the weigher is above each of six poolings by file-level mAP",
            "the project's target",
            lambda rows: _against_each(rows, MAP),
        ),
        Claim(
            "the weigher is above each of six poolings by frame AUC",
            "the project's target",
            lambda rows: _against_each(rows, AUC),
        ),
        Claim(
            "the weigher is above each of six poolings by frame AUC within speech: silence is not all it knows",
            "the project's stricter check",
            lambda rows: _against_each(rows, AUC_SPEECH),
        ),
        Claim(
            "the weigher is above the head that its teacher reads, however pooled, by file-level mAP",
            "the sceptic's check",
            lambda rows: _against(rows, WEIGHER, TEACHER, MAP),
        ),
        Claim(
            "linear softmax finds the places better than noisy-or",
            "Wang, Li, Metze 2018, arXiv 1810.09050",
            lambda rows: _against(rows, "linear softmax", "noisy-or", AUC),
        ),
    ),
    plot=plot,
)

"""What each part of the weigher is worth: one factor at a time is changed from the default.

    matching         Hungarian; greedy; fixed order            `weigher.studies.alternatives`
    channels         of the encoder to one of the blocks: 2; 1, 4, 12
    time             frames to one step of the blocks: 5; 1, 15
    restoring time   repetition; learned up-convolution        `weigher.studies.alternatives`
    slots            5; 4, 8, 12
    names missing    share of the names that casts lack: 0; 20, 40 %
    names wrong      share of the names that are somebody else's: 0; 20, 40 %
    files            in which a person of training appears: 10; 2, 50

The first of each is the default. Read speech, casts only, tested on people never heard. With each seed variants of the
weigher start from one listening; where casts or files change, the model listens anew to those. All weigh as many steps.
Memory is what a forward pass keeps for the gradients, parameters aside: it limits the batch, and is the same on every
machine. Differences from the default are taken within a seed.

`small` is made to fit 45 minutes for two seeds on two idle cores: 180 steps of weighing for each arm, and a step with
time reduction 1 takes as long as eight others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from weigher.studies.harness import Claim, Context, Result, Row, Study, clearly_less, find_row

if TYPE_CHECKING:  # torch is loaded by a run, not by listing the studies
    from weigher.recordings.archive import Archive
    from weigher.recordings.diarizer import Diarizer
    from weigher.studies.diarization import ReadSpeech
    from weigher.studies.variants import Listened

DEFAULT = "default"
GREEDY, FIXED, UP_CONVOLUTION = "matching: greedy", "matching: fixed order", "restoring time: up-convolution"
DER, COUNT = "DER %, collar 0", "count right %"
MEMORY, SECONDS = "MB kept for the gradients", "seconds per step"
LENGTH_SECONDS = 25.0
_MEAN_CAST = 2.5  # casts of one to four people are equally likely


@dataclass(frozen=True)
class Casts:
    """What the model is told: share of names that are missing or wrong, and files for each person."""

    missing: float = 0.0
    wrong: float = 0.0
    files: int = 10


@dataclass(frozen=True)
class Arm:
    """One change from the default: of the weigher's settings, of a part the name tells, or of the casts."""

    name: str
    weigher: dict[str, int] = field(default_factory=dict)
    casts: Casts = Casts()


ARMS = (
    Arm(DEFAULT),
    Arm(GREEDY),
    Arm(FIXED),
    *(Arm(f"channels: {k}", {"channel_reduction": k}) for k in (1, 4, 12)),
    *(Arm(f"time: {k}", {"time_reduction": k}) for k in (1, 15)),
    Arm(UP_CONVOLUTION),
    *(Arm(f"slots: {k}", {"slots": k}) for k in (4, 8, 12)),
    *(Arm(f"names missing: {100 * share:.0f} %", casts=Casts(missing=share)) for share in (0.2, 0.4)),
    *(Arm(f"names wrong: {100 * share:.0f} %", casts=Casts(wrong=share)) for share in (0.2, 0.4)),
    *(Arm(f"files: {count}", casts=Casts(files=count)) for count in (2, 50)),
)

REDUCTIONS = {"channels: 12": "channels: 1", "time: 15": "time: 1"}
"""What the talk reduces, and what is not reduced."""
PAIRS = (*((arm.name, DEFAULT) for arm in ARMS[1:]), *REDUCTIONS.items())


@dataclass(frozen=True)
class Size:
    """How much is done for a budget: steps, conversations in a step of weighing, recordings to test on."""

    listen: int
    weigh: int
    batch: int
    test: int


SIZES = {
    "small": Size(listen=250, weigh=180, batch=10, test=60),
    "full": Size(listen=1500, weigh=2000, batch=20, test=200),
}


def run(context: Context) -> list[Row]:
    """Train and test every arm with each seed; see the module."""
    values: dict[tuple[str, str], list[float]] = {}
    for seed in context.seeds:
        speech = cache(partial(_speech, context, seed))  # made when the first part asks for it
        listened = lru_cache(maxsize=1)(partial(_listened, context, seed, speech))  # arms of one cast come in a row
        found = {}
        for arm in ARMS:
            part = partial(_figures, context, arm, speech, listened)
            found[arm.name] = context.part(f"{seed} {arm.name.replace(': ', ' ')}", part)
        _collect(values, found)
    return [Row.of(method, metric, figures) for (method, metric), figures in values.items()]


def _collect(values: dict[tuple[str, str], list[float]], found: Mapping[str, Mapping[str, float]]) -> None:
    """Add what one seed gives, arm -> metric -> figure, and the differences within it."""
    for arm, metrics in found.items():
        for metric, value in metrics.items():
            values.setdefault((arm, metric), []).append(value)
    for a, b in PAIRS:
        for metric in (DER, COUNT):
            values.setdefault((_difference(a, b), metric), []).append(found[a][metric] - found[b][metric])


def _difference(a: str, b: str) -> str:
    return f"{a} minus {b}"


def _speech(context: Context, seed: int) -> ReadSpeech:
    """Conversations to train on, as many as any arm needs, and to test on."""
    from weigher.io.voices import read_voices
    from weigher.studies.diarization import read_speech

    people = 0.8 * len(read_voices(context.path("speech/read_speech_fbank40.npz")).speakers)
    most = max(arm.casts.files for arm in ARMS) * people / _MEAN_CAST
    test = SIZES[context.budget].test
    return read_speech(context, train=round(1.1 * most), unseen=test, seconds=LENGTH_SECONDS, seed=seed)


def _listened(context: Context, seed: int, speech: Callable[[], ReadSpeech], casts: Casts) -> Listened:
    """Listen to as many files as there should be, with the names that casts are said to hold."""
    from weigher.studies.variants import Training, archive_with_quiet, listen_once

    material, size = speech(), SIZES[context.budget]
    everybody = [talk.cast for talk in material.train]
    count = files_for(everybody, casts.files)
    archive = archive_with_quiet(material.train[:count], material.hop_seconds)
    told = names_wrong(archive.casts, len(archive.labels), casts.wrong, np.random.default_rng([seed, 1]))
    archive = with_casts(archive, names_missing(told, casts.missing, np.random.default_rng([seed, 2])))
    training = Training(size.listen, size.weigh, size.batch, slots=5)
    return listen_once(archive, material.hop_seconds, training, seed=seed, progress=context.progress)


def files_for(casts: Sequence[Sequence[str]], files: int) -> int:
    """How many recordings, from the first on, until each of all people appears in so many on average; all if too few.

    >>> files_for([["a"], ["a", "b"], ["b"], ["a"]], 1)
    2
    """
    people = len({name for cast in casts for name in cast})
    appearances = np.cumsum([len(cast) for cast in casts])
    return min(int(np.searchsorted(appearances, files * people)) + 1, len(casts))


def names_missing(casts: Sequence[Sequence[int]], share: float, rng: np.random.Generator) -> list[list[int]]:
    """Leave out each name of each cast with the probability `share`.

    >>> names_missing([[3, 5], [2]], 1.0, np.random.default_rng(0))
    [[], []]
    """
    return [[name for name in cast if rng.random() >= share] for cast in casts]


def names_wrong(casts: Sequence[Sequence[int]], labels: int, share: float, rng: np.random.Generator) -> list[list[int]]:
    """Put somebody who is not there in the place of each name of each cast with the probability `share`.

    >>> names_wrong([[0, 1]], 3, 1.0, np.random.default_rng(0))  # of three people one was not there
    [[2, 1]]
    """
    told = []
    for cast in casts:
        names = list(cast)
        for place in range(len(names)):
            strangers = np.setdiff1d(np.arange(labels), [*cast, *names])
            if rng.random() < share and len(strangers):
                names[place] = int(rng.choice(strangers))
        told.append(names)
    return told


def with_casts(archive: Archive, casts: Sequence[Sequence[int]]) -> Archive:
    """Put other casts into an archive; a recording without any name is in no list of casts, and goes."""
    rows = [row for row, cast in enumerate(casts) if len(cast)]
    assert archive.quiet is not None
    return replace(
        archive,
        values=[archive.values[row] for row in rows],
        casts=[casts[row] for row in rows],
        quiet=[archive.quiet[row] for row in rows],
    )


def _figures(
    context: Context, arm: Arm, speech: Callable[[], ReadSpeech], listened: Callable[[Casts], Listened]
) -> dict[str, float]:
    """Train one arm and test it: metric -> figure."""
    from weigher.studies.variants import answers, error_rates

    start = listened(arm.casts)
    diarizer = _trained(arm, start, context)
    assert diarizer.history_ is not None
    found = answers(diarizer, speech().unseen)
    rates = error_rates(found, diarizer, diarizer.config.decode.threshold)
    kept = (DER, "miss %, collar 0", "false alarm %, collar 0", "confusion %, collar 0", COUNT)
    moments = [record["seconds"] for record in diarizer.history_[1].train]
    return {
        **{metric: rates[metric] for metric in kept},
        SECONDS: float(np.median(np.diff(moments))) if len(moments) > 1 else moments[0],
        MEMORY: _kept_megabytes(diarizer, SIZES[context.budget].batch),
        "recordings": len(start.archive.values),
    }


def _trained(arm: Arm, start: Listened, context: Context) -> Diarizer:
    from weigher.core.matching import match
    from weigher.studies.alternatives import UpConvolvedWeigher, fixed_order, greedy
    from weigher.studies.variants import plain_weigher, variant

    return variant(
        start,
        replace(start.config.model.weigher, **arm.weigher),
        build=UpConvolvedWeigher if arm.name == UP_CONVOLUTION else plain_weigher,
        matching={GREEDY: greedy, FIXED: fixed_order}.get(arm.name, match),
        progress=context.progress,
    )


def _kept_megabytes(diarizer: Diarizer, batch: int) -> float:
    """What a step of weighing keeps for its gradients, in float32: the same whatever the recordings hold."""
    import torch

    from weigher.studies.variants import kept_bytes

    model = diarizer.model_
    assert model is not None
    length = round(diarizer.config.learn.recompose.seconds / model.step_seconds)
    values = torch.zeros(batch, length, diarizer.config.model.front.features, device=diarizer.device)
    lengths = torch.full((batch,), length, device=diarizer.device)
    return kept_bytes(lambda: model(values, lengths), model.parameters()) / 1e6


def _cheap(rows: Sequence[Row], reduced: str) -> tuple[str, bool]:
    """Held where the error clearly grows by less than a tenth, within seeds."""
    small, whole = (find_row(rows, name, DER) for name in (reduced, REDUCTIONS[reduced]))
    gap = find_row(rows, _difference(reduced, REDUCTIONS[reduced]), DER)
    words = f"{small.mean:.1f} % against {whole.mean:.1f} %, {_signed(gap)} within seeds"
    return words, clearly_less(gap, Row("allowed", DER, 0.1 * whole.mean, None, 1))


def _saves(rows: Sequence[Row], reduced: str) -> tuple[str, bool]:
    small, whole = (find_row(rows, name, MEMORY) for name in (reduced, REDUCTIONS[reduced]))
    return f"{small.mean:.0f} MB against {whole.mean:.0f} MB", clearly_less(small, whole, factor=0.5)


def _worse(rows: Sequence[Row], arm: str) -> tuple[str, bool]:
    """Held where the error is clearly above that of the default, within seeds."""
    ours, default, gap = (find_row(rows, name, DER) for name in (arm, DEFAULT, _difference(arm, DEFAULT)))
    words = f"{ours.mean:.1f} % against {default.mean:.1f} %, {_signed(gap)} within seeds"
    return words, clearly_less(Row("nothing", DER, 0.0, None, 1), gap)


def _signed(gap: Row) -> str:
    return f"{gap.mean:+.1f}" + ("" if gap.std is None else f" ± {gap.std:.1f}")


def plot(result: Result, path: Path) -> None:
    """Draw the error of every arm, factor by factor, the default in colour."""
    from weigher.plot.bars import horizontal_bars

    rows = [find_row(result.rows, arm.name, DER) for arm in ARMS]
    horizontal_bars(
        path,
        [row.method for row in rows],
        [row.mean for row in rows],
        [row.std or 0.0 for row in rows],
        title="One thing changed at a time",
        axis="DER %, collar 0, overlap scored, people never heard before",
        marked=[row.method == DEFAULT for row in rows],
    )


STUDY = Study(
    name="weigher_ablation",
    card="00",
    title="What each part of the weigher is worth, and how it bears wrong and few casts",
    paper="The weigher: the project's own, after a talk on diarization learned from labels of whole files",
    run=run,
    claims=(
        Claim(
            "12 times fewer channels cost less than a tenth of the error",
            "the talk: costs almost no quality",
            lambda rows: _cheap(rows, "channels: 12"),
        ),
        Claim(
            "15 times fewer time steps cost less than a tenth of the error",
            "the talk: costs almost no quality",
            lambda rows: _cheap(rows, "time: 15"),
        ),
        Claim(
            "12 times fewer channels take at most half the memory",
            "the talk: saves much memory",
            lambda rows: _saves(rows, "channels: 12"),
        ),
        Claim(
            "15 times fewer time steps take at most half the memory",
            "the talk: saves much memory",
            lambda rows: _saves(rows, "time: 15"),
        ),
        Claim(
            "a learned up-convolution is worse than repetition",
            "the talk",
            lambda rows: _worse(rows, UP_CONVOLUTION),
        ),
        Claim(
            "labels matched to slots in a fixed order are worse than by the Hungarian method",
            "the project's check: slots have no order",
            lambda rows: _worse(rows, FIXED),
        ),
    ),
    plot=plot,
)

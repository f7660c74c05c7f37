"""Audit: names planted wrongly in a training list, and names left out of it, are searched for by how they were heard.

Read speech, conversations of one to four people with the turn taking of real meetings. A fifth of the casts get one
error: somebody is listed who is not there, or one of two or more people who are there is left out. One run listens,
with one name in ten casts planted for the cut-off, and three rankings of the pairs of recording and name are compared:

    area under the margin    recorded in training, as `weigher audit` reads it
    last margin              the same margins, of the network as it is in the end, over whole recordings
    last probability         likewise what it holds for the probability of the name

The baselines are favoured: they hear every recording whole, in a pass of their own. k is the number of errors there are
of a kind. In the small budget a seed takes 4 minutes on two cores.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from weigher.studies.harness import Claim, Context, Figures, Result, Row, Study, Tally, clearly_less, find_row

if TYPE_CHECKING:
    from weigher.recordings.archive import Archive
    from weigher.recordings.learn import Listener
    from weigher.recordings.model import RecordingModel

AREA, MARGIN, PROBABILITY, CHANCE = "area under the margin", "last margin", "last probability", "chance"
WRONG, MISSING = "wrong", "missing"
CUTS = (50, 99)
ERRORS, PLANTED = 0.2, 0.1


@dataclass(frozen=True)
class Size:
    """How much is done for a budget."""

    recordings: int
    people: int
    steps: int
    batch: int
    seconds: float = 20.0


SIZES = {"small": Size(500, 60, 400, 64), "full": Size(3000, 160, 1500, 96)}


@dataclass(frozen=True, eq=False)
class List:
    """Casts as they are and as they are listed, int lists, with the pairs (recording, label) that differ."""

    truth: list[list[int]]
    listed: list[list[int]]
    wrong: list[tuple[int, int]]
    missing: list[tuple[int, int]]


def spoil(truth: Sequence[Sequence[int]], labels: int, share: float, rng: np.random.Generator) -> List:
    """Put one error into a share of the casts: by turns a name too few (never the only one) and one too many.

    >>> spoiled = spoil([[0, 1]] * 4, 5, 0.5, np.random.default_rng(0))
    >>> len(spoiled.wrong), len(spoiled.missing), sorted(map(len, spoiled.listed))
    (1, 1, [1, 2, 2, 3])
    """
    listed = [list(cast) for cast in truth]
    wrong, missing = [], []
    for turn, index in enumerate(rng.permutation(len(truth))[: round(share * len(truth))]):
        cast = listed[int(index)]
        if turn % 2 and len(cast) > 1:
            missing.append((int(index), cast.pop(int(rng.integers(len(cast))))))
        else:
            added = int(rng.choice([label for label in range(labels) if label not in cast]))
            cast.append(added)
            wrong.append((int(index), added))
    return List([list(cast) for cast in truth], listed, wrong, missing)


def auroc(scores: np.ndarray, sought: np.ndarray) -> float:
    """Per cent of pairs (sought, other) in which the sought one has the higher score; ties count half.

    >>> auroc(np.array([3.0, 2.0, 1.0, 2.0]), np.array([True, True, False, False]))
    87.5
    """
    from scipy.stats import rankdata

    ranks, n = rankdata(scores), int(sought.sum())
    return float(100 * (ranks[sought].sum() - n * (n + 1) / 2) / (n * (len(scores) - n)))


def precision_at_k(scores: np.ndarray, sought: np.ndarray) -> float:
    """Per cent of the k highest scores that are sought, where k is how many there are.

    >>> precision_at_k(np.array([3.0, 2.0, 1.0, 0.0]), np.array([True, False, True, False]))
    50.0
    """
    best = np.argsort(-scores, kind="stable")[: int(sought.sum())]
    return float(100 * sought[best].mean())


def run(context: Context) -> list[Row]:
    """Listen to a spoiled list with each seed, and rank; see the module."""
    tally = Tally()
    for seed in context.seeds:
        tally.add(context.part(f"{seed}", partial(_seed, context, seed)))
    return tally.rows()


def _seed(context: Context, seed: int) -> Figures:
    import torch

    from weigher.recordings.learn import LearnConfig, listen
    from weigher.recordings.model import FrontConfig, ModelConfig, RecordingModel

    size = SIZES[context.budget]
    archive, spoiled, hop_seconds = _spoiled_archive(context, size, seed)
    config = LearnConfig(planted=PLANTED, listen_batch=size.batch)
    warm = min(config.listen.warmup_steps, size.steps // 4)
    loop = replace(config.listen, steps=size.steps, warmup_steps=warm, validate_every=size.steps, seed=seed)
    torch.manual_seed(seed)
    front = FrontConfig(kind="features", features=archive.values[0].shape[1], hop_seconds=hop_seconds)
    model = RecordingModel(ModelConfig(front=front))
    listener, _ = listen(model, archive, replace(config, listen=loop), progress=context.progress)
    heard = listener.margins.heard()
    margin, probability = at_the_end(model, listener, archive)
    scores = {AREA: heard.best, MARGIN: margin, PROBABILITY: probability}
    planted = np.zeros(heard.best.shape, bool)
    rows = np.flatnonzero(heard.planted >= 0)
    planted[rows, heard.planted[rows]] = True
    return figures(scores, spoiled, planted)


def _spoiled_archive(context: Context, size: Size, seed: int) -> tuple[Archive, List, float]:
    from weigher.io.voices import read_voices
    from weigher.recordings.archive import Archive
    from weigher.recordings.simulate import simulate
    from weigher.recordings.turns import RecordedTurns
    from weigher.recordings.voicebank import voice_bank
    from weigher.studies.diarization import Talk

    voices = read_voices(context.path("speech/read_speech_fbank40.npz"))
    rng = np.random.default_rng(seed)
    some = voices.only(rng.permutation(voices.speakers)[: size.people])
    made = simulate(
        some,
        RecordedTurns.read(context.path("speech/timings/ami") / "train"),
        recordings=size.recordings,
        seconds=size.seconds,
        max_speakers=4,
        bank=voice_bank(some),
        seed=seed,
        progress=context.progress,
    )
    talks = [Talk.of(conversation) for conversation in made]
    labels = tuple(sorted({name for talk in talks for name in talk.cast}))
    number = {name: index for index, name in enumerate(labels)}
    spoiled = spoil([[number[name] for name in talk.cast] for talk in talks], len(labels), ERRORS, rng)
    values = [talk.values.astype(np.float16) for talk in talks]
    return Archive(values, spoiled.listed, labels), spoiled, voices.hop_seconds


def at_the_end(model: RecordingModel, listener: Listener, archive: Archive) -> tuple[np.ndarray, np.ndarray]:
    """Margins and probabilities [r, c] of names in their best block of each whole recording, as the network now is."""
    import torch
    import torch.nn.functional as F

    from weigher.core.margins import every_label_margin
    from weigher.recordings.cast_margins import block_frames

    model.eval()
    listener.eval()
    block, found = block_frames(model.hop_seconds), []
    device = listener.share.device
    with torch.inference_mode():
        for values in archive.values:
            tensor = torch.as_tensor(values.astype(np.float32), device=device)[None]
            logits = listener.head(model.frames(tensor, torch.tensor([len(values)], device=device)).embeddings).float()
            likely = (logits + listener.share.clamp(min=1e-6).log()).softmax(-1)
            both = torch.cat([every_label_margin(logits), likely])
            width = min(block, both.shape[1])
            found.append(F.avg_pool1d(both.mT, width, width).amax(-1).cpu().numpy())
    margin, probability = np.stack(found, 1)
    return margin, probability


def figures(scores: dict[str, np.ndarray], spoiled: List, planted: np.ndarray) -> Figures:
    """Return what scores [r, c], high where a name is clearly heard; planted bool [r, c], show."""
    some = next(iter(scores.values()))
    listed, there = np.zeros(some.shape, bool), np.zeros(some.shape, bool)
    for i, (cast, truth) in enumerate(zip(spoiled.listed, spoiled.truth, strict=True)):
        listed[i, cast] = True
        there[i, truth] = True
    found: Figures = defaultdict(dict)
    unlisted = ~listed & ~planted
    for method, each in scores.items():
        finite = np.where(np.isfinite(each), each, each[np.isfinite(each)].min())
        for kind, pairs, sign in ((WRONG, listed, -1), (MISSING, unlisted, 1)):
            sought = there[pairs] if kind == MISSING else ~there[pairs]
            found[method][f"{kind}: AUROC %"] = auroc(sign * finite[pairs], sought)
            found[method][f"{kind}: precision at k %"] = precision_at_k(sign * finite[pairs], sought)
    for kind, pairs, sought in ((WRONG, listed, listed & ~there), (MISSING, unlisted, unlisted & there)):
        found[CHANCE][f"{kind}: precision at k %"] = 100 * float(sought.sum() / pairs.sum())
    area = scores[AREA]
    for kind, group in (("planted", planted), (WRONG, listed & ~there), ("right", listed & there)):
        found[AREA][f"mean margin of {kind} names"] = float(area[group & np.isfinite(area)].mean())
    for cut in CUTS:
        below = np.percentile(area[planted & np.isfinite(area)], cut)
        above = np.percentile(area[listed & np.isfinite(area)], 100 - cut)
        for kind, marked, sought in (
            (WRONG, listed & (area <= below), listed & ~there),
            (MISSING, unlisted & (area >= above), unlisted & there),
        ):
            right = float((marked & sought).sum())
            found[AREA][f"{kind}: precision % at cut-off {cut}"] = 100 * right / max(1.0, float(marked.sum()))
            found[AREA][f"{kind}: recall % at cut-off {cut}"] = 100 * right / max(1.0, float(sought.sum()))
    return found


def _higher(rows: Sequence[Row], metric: str, than: str) -> tuple[str, bool]:
    ours, other = find_row(rows, AREA, metric), find_row(rows, than, metric)
    return f"{ours.mean:.1f} % against {other.mean:.1f} %", clearly_less(other, ours)


def _many_times_chance(rows: Sequence[Row], kind: str) -> tuple[str, bool]:
    metric = f"{kind}: precision at k %"
    ours, chance = find_row(rows, AREA, metric), find_row(rows, CHANCE, metric)
    return f"{ours.mean:.1f} % against {chance.mean:.2f} %", clearly_less(chance, ours, factor=0.2)


def _alike(rows: Sequence[Row]) -> tuple[str, bool]:
    planted, wrong, right = (
        find_row(rows, AREA, f"mean margin of {kind} names").mean for kind in ("planted", WRONG, "right")
    )
    words = f"planted {planted:.2f}, wrong {wrong:.2f}, right {right:.2f}"
    return words, abs(planted - wrong) < 0.2 * (right - wrong)


def _as_said(rows: Sequence[Row]) -> tuple[str, bool]:
    row = find_row(rows, AREA, f"{WRONG}: recall % at cut-off {CUTS[0]}")
    spread = 2 * (row.std or 0.0) / row.n**0.5
    return f"{row.mean:.0f} %", abs(row.mean - CUTS[0]) < 10 + spread


def plot(result: Result, path: Path) -> None:
    """Draw how well each ranking tells errors of either kind from the rest."""
    from weigher.plot.bars import horizontal_bars

    rows = [row for row in result.rows if row.metric.endswith("AUROC %")]
    rows = sorted(rows, key=lambda row: (row.metric, row.mean))
    horizontal_bars(
        path,
        [f"{row.metric.split(':')[0]} names, {row.method}" for row in rows],
        [row.mean for row in rows],
        [row.std or 0.0 for row in rows],
        title="Errors planted in a fifth of the casts, found again",
        axis="AUROC, per cent",
        marked=[row.method == AREA for row in rows],
    )


_PAPER = "Pleiss et al. 2020, on classes of images"
STUDY = Study(
    name="audit",
    card="34",
    title="Wrong and missing names in a training list, found by how they were heard in training",
    paper="Pleiss et al. 2020, Identifying Mislabeled Data using the Area Under the Margin Ranking",
    run=run,
    claims=(
        Claim(
            "wrong names: better ranked than by the last margin",
            _PAPER,
            lambda rows: _higher(rows, f"{WRONG}: AUROC %", MARGIN),
        ),
        Claim(
            "wrong names: better ranked than by the last probability",
            _PAPER,
            lambda rows: _higher(rows, f"{WRONG}: AUROC %", PROBABILITY),
        ),
        Claim(
            "missing names: better ranked than by the last margin",
            "the project's check",
            lambda rows: _higher(rows, f"{MISSING}: AUROC %", MARGIN),
        ),
        Claim(
            "wrong names: five times as precise as chance",
            "the project's check",
            lambda rows: _many_times_chance(rows, WRONG),
        ),
        Claim(
            "missing names: five times as precise as chance",
            "the project's check",
            lambda rows: _many_times_chance(rows, MISSING),
        ),
        Claim("planted names lie where wrong ones lie", "Pleiss et al. 2020, the central assumption", _alike),
        Claim("a cut-off of 50 finds half of the wrong names", "the project's check", _as_said),
    ),
    plot=plot,
)

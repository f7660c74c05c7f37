"""Seven losses for naming labels, from the same slots, the same start, the same batches and with the same tuning.

Files of 40 and of 160 real voices (40 more are never heard in training) pass through one frozen encoder and one weigher
per seed, trained from casts without a class loss; made-up slots stand in for 856 and 5,000 people. Only the projection
and the head learn, each time anew, from file labels alone (`weigher.studies.slot_naming`).

    file-level mAP        which labels a file has: slot scores of the held-out files, mean over labels
    slot retrieval        which slots of other files are the same person's, for people never seen
    steps to the level    until the files to check on stand at 90 % of the best mAP of any loss (all: it never did)

Every loss may choose among the same settings, by mAP on the files to check on, of the first seed; all tries are rows.
With 5,000 people it keeps what it chose with 856. small: about 20 minutes for three seeds on two cores.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weigher.studies.harness import Claim, Context, Result, Row, Study, Tally, clearly_less, find_row

if TYPE_CHECKING:  # torch is loaded by a run, not by listing the studies
    from weigher.studies.slot_naming import World

BCE, SOFTMAX, WBCE, UNDETACHED = "BCE", "softmax cross-entropy", "wBCE", "wBCE, weights not detached"
LOSSES = (BCE, "class-balanced BCE", "focal", "asymmetric", SOFTMAX, WBCE, UNDETACHED)
FEW, MANY = "40 voices", "160 voices"
MADE_UP = {"856 made up": 856, "5000 made up": 5000}
WORLDS = (FEW, MANY, *MADE_UP)
TUNED_AS = {"5000 made up": "856 made up"}
RATES, BIASES = (0.01, 0.03, 0.1), ("fixed", "prior")
MAP, EER, STEPS = "file-level mAP %", "slot retrieval EER %", "steps to the level"
LEVEL = 0.9


@dataclass(frozen=True)
class Size:
    """How much is done for a budget; files are counted per label, and `labels` of made-up worlds can be made fewer."""

    listen: int
    listen_batch: int
    weigh: int
    steps: int
    batch: int = 64
    seconds: float = 16.0
    train_files: int = 4
    test_files: int = 2
    people: tuple[int, int] = (40, 160)
    labels: float = 1.0


SIZES = {
    "small": Size(listen=300, listen_batch=48, weigh=200, steps=300),
    "full": Size(listen=1500, listen_batch=96, weigh=1500, steps=2000, train_files=8, test_files=4),
}
Trained = dict[str, dict[str, Any]]
"""Loss -> metric -> figure, with "curve": the mAP on the files to check on by step."""


def run(context: Context) -> list[Row]:
    """Tune on the first seed, then train and test with each; see the module."""
    rows: list[Row] = []
    chosen: dict[str, dict[str, str]] = {}
    tally = Tally()
    for seed in context.seeds:
        voices = cache(partial(_worlds_of_voices, context, seed))
        for name in WORLDS:
            world = cache(partial(_world, context, seed, name, voices))
            if name not in chosen:
                tries = {} if name in TUNED_AS else context.part(f"tries {name}", partial(_tries, context, seed, world))
                chosen[name] = _best(tries) if tries else chosen[TUNED_AS[name]]
                rows += [
                    Row.of(loss, f"{name}: mAP % to choose by, {setting}", [value])
                    for loss, found in tries.items()
                    for setting, value in found.items()
                ]
            found = context.part(f"{seed} {name}", partial(_trained, context, seed, world, chosen[name]))
            tally.add(with_steps(found), name)
    return tally.rows() + rows


def settings(labels: int) -> dict[str, tuple[float, float]]:
    """What every loss may choose among: learning rate, and bias of the head at the start.

    >>> len(settings(40)), settings(40)["rate 0.01, fixed bias"]
    (6, (0.01, -4.0))
    """
    from weigher.recordings.model import prior_bias

    start = {"fixed": -4.0, "prior": prior_bias(labels)}
    return {f"rate {rate:g}, {bias} bias": (rate, start[bias]) for rate in RATES for bias in BIASES}


def _best(tries: dict[str, dict[str, float]]) -> dict[str, str]:
    return {loss: max(found, key=lambda setting: found[setting]) for loss, found in tries.items()}


def with_steps(found: Trained) -> dict[str, dict[str, float]]:
    """Replace each loss's curve by the step at which it reaches 90 % of the highest point of all curves.

    >>> found = {"a": {"curve": [[1, 10.0], [2, 80.0]]}, "b": {"curve": [[1, 75.0], [2, 78.0]]}}
    >>> {loss: figures[STEPS] for loss, figures in with_steps(found).items()}
    {'a': 2, 'b': 1}
    """
    from weigher.studies.slot_naming import steps_to

    level = LEVEL * max(score for figures in found.values() for _, score in figures["curve"])
    return {
        loss: {
            **{metric: value for metric, value in figures.items() if metric != "curve"},
            STEPS: steps_to(figures["curve"], level),
        }
        for loss, figures in found.items()
    }


def _tries(context: Context, seed: int, world: Callable[[], World]) -> dict[str, dict[str, float]]:
    """Loss -> setting -> highest mAP on the files to check on."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    done, total = 0, len(LOSSES) * len(settings(2))
    for loss in LOSSES:
        for setting in settings(world().labels):
            context.progress("tuning", done, total)
            found[loss][setting] = max(score for _, score in _train(context, seed, world(), loss, setting).curve)
            done += 1
    return found


def _trained(context: Context, seed: int, world: Callable[[], World], chosen: dict[str, str]) -> Trained:
    from weigher.studies.label_sets import mean_average_precision
    from weigher.studies.slot_naming import file_scores, retrieval

    found: Trained = {}
    for done, loss in enumerate(LOSSES):
        context.progress("losses", done, len(LOSSES))
        named = _train(context, seed, world(), loss, chosen[loss])
        test = world().test
        found[loss] = {
            MAP: mean_average_precision(file_scores(named.namer, loss, test), test.casts),
            **retrieval(named.namer, world().unseen),
            "curve": named.curve,
        }
    return found


def _train(context: Context, seed: int, world: World, loss: str, setting: str):
    from weigher.studies.slot_naming import train_namer

    size = SIZES[context.budget]
    rate, bias = settings(world.labels)[setting]
    return train_namer(world, loss, learning_rate=rate, bias=bias, steps=size.steps, batch=size.batch, seed=seed)


def _world(context: Context, seed: int, name: str, voices: Callable[[], dict[str, World]]) -> World:
    """The slots of one world."""
    import numpy as np

    from weigher.studies.slot_naming import made_up

    if name not in MADE_UP:
        return voices()[name]
    size = SIZES[context.budget]
    labels = max(2, round(MADE_UP[name] * size.labels))
    rng = np.random.default_rng([seed, MADE_UP[name]])
    return made_up(
        labels, files=size.train_files * labels, test=min(1000, 2 * labels), unseen=min(200, labels), rng=rng
    )


def _worlds_of_voices(context: Context, seed: int) -> dict[str, World]:
    """Let an encoder and a weigher learn from casts of the many; hear files of the many, of the few, of the unseen."""
    import numpy as np

    from weigher.io.voices import read_voices
    from weigher.recordings.loss import LossConfig
    from weigher.studies import label_sets as shared
    from weigher.studies.slot_naming import World, slots_of
    from weigher.train.loop import LoopConfig

    size = SIZES[context.budget]
    voices = read_voices(context.path("speech/read_speech_fbank40.npz"))
    timings = context.path("speech/timings/ami")
    order = np.random.default_rng(seed).permutation(voices.speakers).tolist()
    few, many = size.people
    groups = {FEW: order[:few], MANY: order[:many], "unseen": order[many:]}

    def talks(group: str, part: str, per_person: float):
        people = groups[group]
        count = round(per_person * len(people))
        key = [seed, list(groups).index(group)]
        return shared.talks_of(voices.only(people), timings, part, count=count, seconds=size.seconds, seed=key)

    train = talks(MANY, "train", size.train_files)
    ears = shared.listened(
        train,
        sorted(groups[MANY]),
        voices.hop_seconds,
        steps=size.listen,
        batch=size.listen_batch,
        seed=seed,
        progress=context.progress,
    )
    heard = shared.hear(ears, train, ears.labels, with_teacher=True)
    loop = LoopConfig(
        steps=size.weigh,
        learning_rate=2e-3,
        warmup_steps=size.weigh // 10,
        clip_norm=2.0,
        validate_every=size.weigh,
        seed=seed,
    )
    embedding = ears.model.encoder.config.embedding
    weigher = shared.WeigherAndHead(ears, shared.fresh_head(len(ears.labels), embedding, seed))
    # a class loss would favour itself
    shared.train_weigher(ears, heard, weigher, LossConfig(class_weight=0.0), loop, batch=8, progress=context.progress)

    def slots(group: str, part: str, per_person: float):
        heard = shared.hear(ears, talks(group, part, per_person), sorted(groups[group]))
        return slots_of(ears, weigher, heard)

    unseen = slots("unseen", "test", 2.0)
    return {
        group: World(
            labels=len(groups[group]),
            embedding=embedding,
            train=slots_of(ears, weigher, heard) if group == MANY else slots(group, "train", size.train_files),
            dev=slots(group, "dev", size.test_files / 2),
            test=slots(group, "test", size.test_files),
            unseen=unseen,
        )
        for group in (FEW, MANY)
    }


def _in_all(rows: Sequence[Row], loss: str, other: str, metric: str, *, higher: bool) -> tuple[str, bool]:
    """Compare two losses in every world; the claim holds where the one is clearly better in all."""
    words, held = [], True
    for world in WORLDS:
        a, b = (find_row(rows, name, f"{world}: {metric}") for name in (loss, other))
        words.append(f"{world} {a.mean:.1f} against {b.mean:.1f}")
        held = held and (clearly_less(b, a) if higher else clearly_less(a, b))
    return "; ".join(words), held


def _not_beaten(rows: Sequence[Row]) -> tuple[str, bool]:
    """No loss is clearly above wBCE by mAP in any world."""
    words, held = [], True
    for world in WORLDS:
        ours = find_row(rows, WBCE, f"{world}: {MAP}")
        others = [find_row(rows, name, f"{world}: {MAP}") for name in LOSSES if name != WBCE]
        best = max(others, key=lambda row: row.mean)
        words.append(f"{world} {ours.mean:.1f}, best other {best.mean:.1f} ({best.method})")
        held = held and not any(clearly_less(ours, other) for other in others) and ours.n > 1
    return "; ".join(words), held


def mean_ranks(rows: Sequence[Row]) -> dict[str, float]:
    """Mean rank of each loss, 1 the best, over all worlds and the three metrics; equals share their ranks."""
    from scipy.stats import rankdata

    tables = [
        rankdata([sign * find_row(rows, loss, f"{world}: {metric}").mean for loss in LOSSES])
        for world in WORLDS
        for metric, sign in ((MAP, -1), (EER, 1), (STEPS, 1))
    ]
    means = [sum(ranks) / len(tables) for ranks in zip(*tables, strict=True)]
    return dict(sorted(zip(LOSSES, map(float, means), strict=True), key=lambda item: item[1]))


def _default_is_best(rows: Sequence[Row]) -> tuple[str, bool]:
    from weigher.recordings.loss import LossConfig
    from weigher.studies.slot_naming import KINDS

    ranks = mean_ranks(rows)
    first = next(iter(ranks))
    words = ", ".join(f"{loss} {rank:.1f}" for loss, rank in ranks.items())
    return f"mean rank: {words}", KINDS.get(first) == LossConfig().classes


def plot(result: Result, path: Path) -> None:
    """Draw the mAP of every loss in every world, best first."""
    from weigher.plot.bars import horizontal_bars

    rows = [
        (world, row)
        for world in WORLDS
        for row in sorted((r for r in result.rows if r.metric == f"{world}: {MAP}"), key=lambda r: -r.mean)
    ]
    horizontal_bars(
        path,
        [f"{world}: {row.method}" for world, row in rows],
        [row.mean for _, row in rows],
        [row.std or 0.0 for _, row in rows],
        title="Which labels a file has, by the loss that taught it",
        axis=MAP,
        marked=[row.method.startswith(WBCE) for _, row in rows],
    )


STUDY = Study(
    name="wbce",
    card="00",
    title="Seven losses for naming labels: mAP of files, retrieval of strangers, steps to a level",
    paper="The weigher: the project's own, after a talk on diarization learned from labels of whole files",
    run=run,
    claims=(
        Claim(
            "wBCE tells the labels of files better than BCE, at every number of labels",
            "the talk: it improved results",
            lambda rows: _in_all(rows, WBCE, BCE, MAP, higher=True),
        ),
        Claim("no loss is clearly above wBCE by file-level mAP", "the project's check", _not_beaten),
        Claim(
            "slots of strangers are found better after wBCE than after BCE",
            "the project's check",
            lambda rows: _in_all(rows, WBCE, BCE, EER, higher=False),
        ),
        Claim(
            "wBCE needs fewer steps than BCE",
            "the project's check",
            lambda rows: _in_all(rows, WBCE, BCE, STEPS, higher=False),
        ),
        Claim(
            "wBCE is better with its weights detached, by file-level mAP",
            "the project's derivation",
            lambda rows: _in_all(rows, WBCE, UNDETACHED, MAP, higher=True),
        ),
        Claim(
            "the default class loss has the best mean rank over all worlds, by mAP, EER and steps",
            "the rule by which the project chooses",
            _default_is_best,
        ),
    ),
    plot=plot,
)

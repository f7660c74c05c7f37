"""What the study of meta-augmentation trains and scores, for one learner and one seed at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor

from weigher.examples.episodes import ClassPool, Episodes, Grouping
from weigher.examples.label_entropy import conditional_entropy, label_table
from weigher.examples.memorisation import memorisation_report, scores
from weigher.examples.meta_augmentation import Augmentation, DiscreteShift, Permute, Shift, augment
from weigher.examples.meta_learning import MetaLearner, meta_train
from weigher.studies import meta_names as study
from weigher.studies import meta_tasks
from weigher.studies.harness import Context, Figures
from weigher.studies.meta_tasks import Condition
from weigher.train.loop import LoopConfig

_TASKS = 8  # of images in a step
_DIGIT = meta_tasks.Shape(side=8, channels=0, inner_lr=0.1, inner_steps=3)
_CHARACTER = meta_tasks.Shape(side=28, channels=16, inner_lr=0.4, inner_steps=1, learning_rate=6e-3)


@dataclass(frozen=True, eq=False)
class Images:
    """A set of images and how tasks are made of it."""

    name: str
    ways: int
    queries: int
    shape: meta_tasks.Shape
    pools: Callable[[int], tuple[ClassPool, ClassPool]]
    """Seed -> classes to train on, held-out classes."""


@dataclass(frozen=True)
class Run:
    """One training: in which study, how long, by what seed, and what to call it."""

    context: Context
    words: str
    steps: int
    seed: int
    learning_rate: float = 2e-3
    weight_decay: float = 0.0

    def train(
        self,
        make: Callable[[], MetaLearner],
        draw: Callable[[np.random.Generator], Episodes],
        augmentation: Augmentation | None,
    ) -> MetaLearner:
        """Make a learner, its first weights by the seed alone, and train it, if for any steps."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            learner = make()
        if not self.steps:
            return learner
        config = LoopConfig(
            steps=self.steps,
            learning_rate=self.learning_rate,
            warmup_steps=min(100, self.steps),
            weight_decay=self.weight_decay,
            clip_norm=10.0,
            validate_every=self.steps,
            seed=self.seed,
        )

        def progress(stage: str, done: int, total: int) -> None:
            self.context.progress(f"{stage}, {self.words}, seed {self.seed}", done, total)

        meta_train(learner, draw, config, augmentation=augmentation, progress=progress)
        return learner


def jobs_of(context: Context) -> dict[str, Callable[[int], Figures]]:
    """Return every part of the study by its name; called with a seed it gives its figures."""
    size, folder = study.SIZES[context.budget], context.path("omniglot")
    digits, characters = meta_tasks.digit_pools(), partial(meta_tasks.character_pools, folder, _CHARACTER.side)
    sets = (
        Images(study.DIGITS, 2, 15, _DIGIT, lambda _: digits),
        Images(study.OMNIGLOT, 5, 5, replace(_CHARACTER, channels=size.channels), lru_cache(1)(characters)),
    )
    jobs: dict[str, Callable[[int], Figures]] = {}
    for images in sets:
        jobs[f"{images.name}, entropies"] = partial(_entropies, images, size)
        for kind in study.LEARNERS:
            regularised = study.REGULARISERS if (kind, images.name) == (study.MAML, study.DIGITS) else ()
            for name in (study.UNTRAINED, *study.WAYS_OF_TASKS, *regularised):
                jobs[f"{images.name}, {kind}, {name}"] = partial(_image_figures, context, images, kind, name)
    for kind in (study.MAML, study.CONTEXTUAL):
        jobs[f"{study.TOY}, {kind}"] = partial(_toy_figures, context, kind)
    return jobs


def conditions() -> dict[str, Condition]:
    """Return every condition for images by its name."""
    found = {
        study.UNTRAINED: Condition(),
        study.FIXED: Condition(),
        study.PERMUTED: Condition(permute=True),
        study.ANY: Condition(grouping="intershuffle"),
    }
    for name in study.REGULARISERS:
        kind, _, strength = name.rpartition(" ")
        found[name] = {
            "dropout": lambda s: Condition(dropout=float(s)),
            "weight decay": lambda s: Condition(weight_decay=float(s)),
            "moved": lambda _: Condition(moved=True),
            "bottleneck": lambda s: Condition(price=float(s)),
        }[kind](strength)
    return found


def _image_figures(context: Context, images: Images, kind: str, name: str, seed: int) -> Figures:
    """Train one learner on images and score it."""
    size, condition = study.SIZES[context.budget], conditions()[name]
    train, test = images.pools(seed)
    # a metric learner cannot notice a permutation, and training warns of one: let its tasks come permuted
    from_pool = condition.permute and kind == study.METRIC

    def tasks(pool: ClassPool, grouping: Grouping, count: int, generator: np.random.Generator) -> Episodes:
        return pool.draw(tasks=count, ways=images.ways, queries=images.queries, grouping=grouping, generator=generator)

    def draw(generator: np.random.Generator) -> Episodes:
        drawn = tasks(train, "intrashuffle" if from_pool else condition.grouping, _TASKS, generator)
        return meta_tasks.moved(drawn, generator) if condition.moved else drawn

    run = Run(
        context,
        f"{images.name}, {kind}, {name}",
        0 if name == study.UNTRAINED else size.steps,
        seed,
        images.shape.learning_rate,
        condition.weight_decay,
    )
    learner = run.train(
        lambda: meta_tasks.image_learner(kind, condition, images.shape, images.ways),
        draw,
        Permute(images.ways) if condition.permute and not from_pool else None,
    )
    generator = np.random.default_rng([seed, 3])
    own = tasks(train, condition.grouping, size.tested, generator)
    held_out = tasks(test, "intershuffle", size.tested, generator)
    report = memorisation_report(learner, own, held_out, chance=1 / images.ways)
    metrics = {
        f"{study.TRAINING}, {study.BEFORE}": 100 * report.train_before,
        f"{study.TRAINING}, {study.AFTER}": 100 * report.train_after,
        f"{study.HELD_OUT}, {study.BEFORE}": 100 * report.test_before,
        f"{study.HELD_OUT}, {study.AFTER}": 100 * report.test_after,
        # who has learned nothing knows nothing by heart
        study.MEMORISED: 100 * report.memorisation if report.train_after > report.chance else 0.0,
    }
    return {f"{kind}, {name}": {f"{images.name}: {metric}": figure for metric, figure in metrics.items()}}


def _entropies(images: Images, size: study.Size, seed: int) -> Figures:
    """H(Y|X) of the three ways to make tasks, X the class of an image, counted over as many as training sees."""
    train, _ = images.pools(seed)
    generator, found = np.random.default_rng([seed, 4]), {}
    for name in study.WAYS_OF_TASKS:
        drawn = train.draw(
            tasks=_TASKS * size.steps,
            ways=images.ways,
            queries=images.queries,
            grouping=conditions()[name].grouping,
            generator=generator,
        )
        if name == study.PERMUTED:
            drawn, _ = augment(drawn, Permute(images.ways), generator)
        assert drawn.support_id is not None
        assert drawn.query_id is not None
        # counted by class: an image is seen too seldom for its own count to be near the truth
        by_class = replace(drawn, support_id=train.label[drawn.support_id], query_id=train.label[drawn.query_id])
        found[name] = {f"{images.name}: H(Y|X), nats": float(conditional_entropy(label_table([by_class])))}
    return found


def _toy_figures(context: Context, kind: str, seed: int) -> Figures:
    """Train one kind of learner on sinusoids: plainly, with weight decay, and with two kinds of shifts."""
    size, sinusoids, found = study.SIZES[context.budget], meta_tasks.Sinusoids.drawn(seed), {}
    changes = {study.PLAIN: None, study.DECAY: None, study.NUMBER: Shift(1.0), study.BIT: DiscreteShift(2, 2.0)}
    for name, augmentation in changes.items():
        decay = 1.0 if name == study.DECAY else 0.0
        learner = Run(context, f"{study.TOY}, {kind}, {name}", size.toy_steps, seed, weight_decay=decay).train(
            lambda: meta_tasks.sinusoid_learner(kind), partial(sinusoids.train, 5, 10), augmentation
        )
        generator, repeat = np.random.default_rng([seed, 5]), max(1, size.tested // meta_tasks.TRAINED)
        same, others = range(meta_tasks.TRAINED), range(meta_tasks.TRAINED, meta_tasks.INTERVALS)
        tested = {
            study.TRAINING: sinusoids.train(5, 10, generator, repeat=repeat),
            study.NEW: sinusoids.new(5, 10, generator, where=same, repeat=repeat),
            study.ELSEWHERE: sinusoids.new(5, 10, generator, where=others, repeat=repeat),
        }
        metrics = {}
        for where, tasks in tested.items():
            before, after = scores(learner, tasks, _squared_error)
            metrics |= {f"{study.TOY}: {where}, error without support": before, f"{study.TOY}: {where}, error": after}
        found[f"{kind}, {name}"] = metrics
    plain = found[f"{kind}, {study.PLAIN}"]
    for method, metrics in found.items():
        if metrics is not plain:
            for where in (study.NEW, study.ELSEWHERE):
                metric = f"{study.TOY}: {where}, error"
                found[method][study.relative(where)] = metrics[metric] / plain[metric]
    return found


def _squared_error(answers: Tensor, targets: Tensor) -> float:
    return (answers - targets).square().mean().item()

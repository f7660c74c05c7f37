"""What the study of commentaries does with one seed, experiment by experiment."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from weigher.examples.commentaries import Batch, ExampleWeights, MaskNet, Masks, PairMixer, WeightNet
from weigher.examples.episodes import ClassPool, Episodes
from weigher.examples.few_shot import SupportWeights, WeighedMaml, mislabel
from weigher.examples.meta_learning import Maml, meta_train
from weigher.examples.teaching import TeachConfig, teach
from weigher.studies import teaching_tasks as tasks
from weigher.studies.harness import Figures
from weigher.studies.teaching_names import (
    ACCURACY,
    BEST,
    CURRICULUM,
    FIXED,
    JOINT,
    KEPT,
    LARGER,
    LARGER_PLAIN,
    LAST,
    MAML,
    MASKED,
    MIXED,
    MIXUPS,
    NORMALISED,
    PLAIN,
    SHORT,
    STEPS,
    TABLE,
    VALIDATION,
    WEIGHED,
    Size,
)
from weigher.train.loop import LoopConfig


def figures_of(runs: dict[str, tasks.Run]) -> Figures:
    """Return the figures of runs of one task, the first of which is the one without commentary."""
    level = next(iter(runs.values())).final
    return {
        method: {
            ACCURACY: run.final,
            BEST: run.best,
            STEPS: float(run.steps_to(level)),
            **{f"accuracy % at step {step}": accuracy for step, accuracy in run.curve},
        }
        for method, run in runs.items()
    }


def two_thirds(steps: int) -> int:
    """Return two thirds of a number of steps, rounded down.

    >>> two_thirds(500)
    333
    """
    return 2 * steps // 3


def digits(size: Size, seed: int) -> Figures:
    """Learn a table of weights for digits of which half are labelled wrong."""
    from sklearn.metrics import roc_auc_score

    task = tasks.noisy_digits(seed, flipped=0.5, steps=size.digits)
    commentary = ExampleWeights(len(task.truth))
    life = size.digits // 2
    config = TeachConfig(hyper_steps=size.digits_taught, reset_every=life, seed=seed)
    taught = teach(commentary, task.student, tasks.LOSS, task.train, task.held_out, config=config)
    kept = ExampleWeights(len(task.truth))
    kept.logit.data = torch.where(commentary.logit.data > 0, 0.0, -100.0)
    larger = partial(tasks.perceptron, 64, 256, 256, 256, 10)
    alone = tasks.Task(
        task.held_out, task.held_out, task.test, task.student, task.steps, 50, task.check_every, task.truth
    )
    train = partial(tasks.train_tuned, task, seed=seed)
    figures = figures_of(
        {
            PLAIN: train(None),
            TABLE: train(commentary),
            SHORT: train(commentary, steps=two_thirds(task.steps)),
            KEPT: train(kept),
            VALIDATION: tasks.train_tuned(alone, None, seed=seed),
        }
    )
    figures |= figures_of({LARGER_PLAIN: train(None, student=larger), LARGER: train(commentary, student=larger)})
    figures[LAST] = {ACCURACY: tasks.accuracy(taught.student, task.test)}
    weights, wrong = commentary.table(), task.truth
    figures[TABLE] |= {
        "AUROC of wrong labels": float(roc_auc_score(wrong.numpy(), -weights.numpy())),
        "mean weight, wrong label": float(weights[wrong].mean()),
        "mean weight, right label": float(weights[~wrong].mean()),
    }
    return figures


def curriculum(size: Size, path: Path, flipped: float, seed: int) -> Figures:
    """Learn a network of image, label and time, as it is and with weights that sum to the batch."""
    task = tasks.images(path, seed, counts=size.images, steps=size.image_steps, batch=64, flipped=flipped)
    runs = {PLAIN: tasks.train_tuned(task, None, seed=seed, falling_only=True)}
    found: dict[str, WeightNet] = {}
    for name, normalised in ((CURRICULUM, False), (NORMALISED, True)):
        torch.manual_seed(seed)
        encoder = tasks.two_blocks(3, 32)
        commentary = WeightNet(encoder, embedding=32, classes=10, normalised=normalised)
        config = TeachConfig(
            hyper_steps=size.image_taught,
            window=5,
            reset_every=5 * (size.image_steps // 5),
            batch=64,
            held_out_batch=256,
            lr=0.03,
            commentary_lr=1e-2,
            seed=seed,
        )
        teach(commentary, task.student, tasks.LOSS, task.train, task.held_out, config=config)
        found[name] = commentary.eval()
        runs[name] = tasks.train_tuned(task, commentary, seed=seed, falling_only=True)
    commentary = found[NORMALISED]  # the other may only have learned a rate
    train = partial(tasks.train_tuned, task, seed=seed, falling_only=True)
    runs[SHORT] = train(commentary, steps=two_thirds(task.steps))
    figures = figures_of(runs)
    larger = partial(tasks.residual_network, 3, 10)
    figures |= figures_of({LARGER_PLAIN: train(None, student=larger), LARGER: train(commentary, student=larger)})
    some = torch.arange(min(500, len(task.truth)))
    for name, commentary in found.items():
        for time in (0.0, 0.5, 1.0):
            with torch.no_grad():
                weights = commentary.weights(Batch(task.train[0][some], task.train[1][some], some, time))
            figures[name][f"mean weight at time {time:g}"] = float(weights.mean())
            figures[name][f"spread of weights at time {time:g}"] = float(weights.std())
    return figures


def mixing(size: Size, path: Path, seed: int) -> Figures:
    """Learn a share for each pair of classes."""
    task = tasks.images(path, seed, counts=size.mixed, steps=size.mixed_steps, batch=64)
    learned = PairMixer(10)
    config = TeachConfig(
        hyper_steps=size.mixed_taught,
        window=2,
        reset_every=2 * (size.mixed_steps // 2),
        batch=64,
        held_out_batch=256,
        lr=0.03,
        commentary_lr=0.03,
        seed=seed,
    )
    teach(learned, task.student, tasks.LOSS, task.train, task.held_out, config=config)
    train = partial(tasks.train_tuned, task, seed=seed, falling_only=True)
    figures = figures_of(
        {
            PLAIN: train(None),
            **{name: train(tasks.Mixup(alpha, seed)) for name, alpha in MIXUPS.items()},
            FIXED: train(tasks.FixedMixer(10, seed)),
            MIXED: train(learned),
            SHORT: train(learned, steps=two_thirds(task.steps)),
        }
    )
    shares = learned.table()
    figures[MIXED] |= {"mean share": float(shares.mean()), "spread of shares": float(shares.std())}
    return figures


def masks(size: Size, path: Path, seed: int) -> Figures:
    """Learn masks for digits among clutter."""
    from sklearn.metrics import roc_auc_score

    task = tasks.cluttered_digits(path, seed, counts=size.cluttered, steps=size.mask_steps)
    torch.manual_seed(seed)
    learned = Masks(MaskNet(1, 6), area_cost=0.1)
    config = TeachConfig(
        hyper_steps=size.mask_taught,
        window=2,
        reset_every=2 * (size.mask_steps // 2),
        batch=64,
        held_out_batch=128,
        lr=0.03,
        commentary_lr=0.01,
        seed=seed,
    )
    teach(learned, task.student, tasks.LOSS, task.train, task.held_out, config=config)

    def masked(x: Tensor) -> Tensor:
        return learned.masked(x, learned.masks(x))

    class SelfMasked(nn.Module):
        """A student with a mask network of its own."""

        def __init__(self) -> None:
            super().__init__()
            self.masks, self.student = Masks(MaskNet(1, 6)), task.student()

        def forward(self, x: Tensor) -> Tensor:
            return self.student(self.masks.masked(x, self.masks.masks(x)))

    train = partial(tasks.train_tuned, task, seed=seed, falling_only=True)
    figures = figures_of(
        {PLAIN: train(None), JOINT: train(None, student=SelfMasked), MASKED: train(learned, see=masked)}
    )
    x = task.test[0]
    with torch.no_grad():
        mask = torch.cat([learned.masks(part)[:, 0] for part in x.split(500)])
    ink = x[:, 0] > 0.2
    figures[MASKED] |= {
        "AUROC of the digit's pixels among all ink": float(roc_auc_score(task.truth[ink].numpy(), mask[ink].numpy())),
        "mean mask": float(mask.mean()),
    }
    return figures


def few_shots(size: Size, paths: Sequence[Path], wrong: int, seed: int) -> Figures:
    """Meta-train with and without weights on one set of alphabets, test on the other."""
    known, others = (tasks.characters(path) for path in paths)

    def draw(pool: ClassPool, generator: np.random.Generator) -> tuple[Episodes, Tensor]:
        drawn = pool.draw(tasks=8, ways=5, shots=5, queries=5, generator=generator)
        return mislabel(drawn, ways=5, wrong_shots=wrong)

    def mean_loss(answers: Tensor, y: Tensor) -> Tensor:
        return tasks.LOSS(answers, y).mean()

    config = LoopConfig(
        steps=size.meta_steps,
        learning_rate=2e-3,
        warmup_steps=min(20, size.meta_steps),
        clip_norm=10.0,
        validate_every=size.meta_steps,
        precision="float32",
        seed=seed,
    )
    figures: Figures = {}
    for method in (MAML, WEIGHED):
        torch.manual_seed(seed)
        student = tasks.perceptron(196, 64, 64, 5)
        learner = Maml(student, mean_loss, test_steps=10)
        if method == WEIGHED:
            weigher = SupportWeights(tasks.perceptron(196, 64, 32), ways=5)
            learner = WeighedMaml(student, tasks.LOSS, weigher, test_steps=10)
        meta_train(learner, lambda generator: draw(known, generator)[0], config)
        learner.eval()
        generator, right, weights = np.random.default_rng(1000 + seed), [], []
        for _ in range(-(-size.meta_tests // 8)):
            drawn, mistaken = draw(others, generator)
            with torch.no_grad():
                outputs = learner.predict(drawn.support_x, drawn.support_y, drawn.query_x)
                right.append((outputs.argmax(2) == drawn.query_y).float().mean().item())
                if isinstance(learner, WeighedMaml):
                    found = torch.func.vmap(learner.weigher)(drawn.support_x, drawn.support_y)
                    weights.append((found[mistaken].mean().item(), found[~mistaken].mean().item()))
        figures[method] = {ACCURACY: 100 * sum(right) / len(right)}
        if wrong and weights:
            of_wrong, of_right = (sum(part) / len(weights) for part in zip(*weights, strict=True))
            figures[method] |= {"mean weight, wrong label": of_wrong, "mean weight, right label": of_right}
    return figures

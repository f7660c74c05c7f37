"""What the study of class losses trains: slots that are given once and for all name the labels of their file.

    e_n = P x_n,   z_n = head(e_n),   cost of slot n for label c:  -log p_nc - log q_n,   loss of the matched slots
    score of a file for label c:  max_n (log q_n + log p_nc)

Tracks and confidences come from one weigher per seed, trained without a class loss; with the tracks held, a slot is the
mean of its hidden frames. So every loss has the same slots, the same start, the same batches and the same head, and
training on file labels alone takes seconds. p is the softmax for softmax cross-entropy, else the sigmoid. Made-up slots
stand in for more people than there are recordings of.

Symbols: f files, n slots, d features of a slot, m people of a file, c labels, k matched slots.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weigher.core.losses import wbce
from weigher.core.matching import match
from weigher.core.weights import normalise
from weigher.recordings.loss import ClassLoss, class_loss
from weigher.studies.diarization import equal_error_rate
from weigher.studies.label_sets import (
    Ears,
    Heard,
    WeigherAndHead,
    average_precision,
    fresh_head,
    mean_average_precision,
)
from weigher.train.loop import LoopConfig, fit

KINDS: dict[str, ClassLoss] = {
    "BCE": "bce",
    "class-balanced BCE": "class-balanced",
    "focal": "focal",
    "asymmetric": "asymmetric",
    "softmax cross-entropy": "softmax",
    "wBCE": "wbce",
}
UNDETACHED = "wBCE, weights not detached"
LOSSES = (*KINDS, UNDETACHED)


@dataclass(frozen=True, eq=False)
class SlotFiles:
    """Slots of files: vectors [f, n, d], confidence [f, n], casts int [f, m] (-1: none), and to score retrieval by
    alone whose slot it is, int [f, n] (-1: nobody's).
    """

    vectors: Tensor
    confidence: Tensor
    casts: Tensor
    whose: Tensor


@dataclass(frozen=True, eq=False)
class World:
    """Slots of C labels to train, check and test on, slots of people never seen, and the size of embeddings."""

    labels: int
    embedding: int
    train: SlotFiles
    dev: SlotFiles
    test: SlotFiles
    unseen: SlotFiles


@torch.inference_mode()
def slots_of(ears: Ears, trained: WeigherAndHead, heard: Heard, batch: int = 16) -> SlotFiles:
    """Pool the hidden frames of files under the tracks of a weigher; a person's slot shares most time with them."""
    vectors, confidence, shared = [], [], []
    active = torch.from_numpy(heard.active).float()
    for rows in torch.arange(len(heard.casts)).split(batch):
        weighed = trained.weigher(heard.frames(ears, rows))
        vectors.append(normalise(weighed.tracks, 1).mT @ weighed.frames.hidden)
        confidence.append(weighed.confidence)
        shared.append(weighed.tracks.mT @ active[rows])
    pairs = match(-torch.cat(shared), (heard.casts >= 0).sum(1))
    whose = torch.full(torch.cat(confidence).shape, -1)
    whose[pairs.batch, pairs.slot] = heard.casts[pairs.batch, pairs.label]
    return SlotFiles(torch.cat(vectors), torch.cat(confidence), heard.casts, whose)


def made_up(labels: int, files: int, test: int, unseen: int, rng: np.random.Generator) -> World:
    """Slots of a world that is stated, not recorded.

    A label is a normal random vector of 64 numbers. Each time it appears it is moved along 16 directions that the whole
    world shares (spread 4: channels, moods) and by noise in all (spread 1.2), and takes up to 30 % of another label of
    its file. Files have one to three labels in four slots; the others are mixtures of the file's slots with confidence
    below 0.5, true ones have 0.5 to 1.
    """
    size, shared, slots, most = 64, 16, 4, 3
    directions = np.linalg.qr(rng.normal(size=(size, shared)))[0].T
    means = rng.normal(size=(labels + unseen, size))

    def drawn(count: int, low: int, high: int) -> SlotFiles:
        people = rng.integers(1, most + 1, size=count)
        casts = rng.integers(low, high, size=(count, most))
        while (again := _repeats(casts)).any():
            casts[again] = rng.integers(low, high, size=(int(again.sum()), most))
        x = means[casts] + 4 * rng.normal(size=(count, most, shared)) @ directions
        x = x + 1.2 * rng.normal(size=x.shape)
        leak = 0.3 * rng.uniform(size=(count, most, 1)) * (people > 1)[:, None, None]
        neighbour = (np.arange(most) + 1) % people[:, None]
        x = (1 - leak) * x + leak * np.take_along_axis(x, neighbour[..., None], 1)
        there = np.arange(most) < people[:, None]
        mixing = rng.dirichlet(np.ones(most), size=(count, slots)) * there[:, None]
        vectors = normalise(torch.from_numpy(mixing), -1).numpy() @ x
        vectors[:, :most][there] = x[there]
        casts[~there] = -1
        whose = np.pad(casts, ((0, 0), (0, slots - most)), constant_values=-1)
        confidence = rng.uniform(0, 0.5, size=(count, slots)) + 0.5 * (whose >= 0)
        return SlotFiles(
            torch.from_numpy(vectors).float(),
            torch.from_numpy(confidence).float(),
            torch.from_numpy(casts),
            torch.from_numpy(whose),
        )

    return World(
        labels,
        size,
        train=drawn(files, 0, labels),
        dev=drawn(test // 2, 0, labels),
        test=drawn(test, 0, labels),
        unseen=drawn(2 * unseen, labels, labels + unseen),
    )


def _repeats(casts: np.ndarray) -> np.ndarray:
    """Rows of int [f, m] that hold a number twice."""
    ordered = np.sort(casts, 1)
    return (ordered[:, 1:] == ordered[:, :-1]).any(1)


class Namer(nn.Module):
    """Projection and label head on slots [..., d], which are first brought to mean 0 and spread 1 in each feature."""

    mean: Tensor
    spread: Tensor

    def __init__(self, world: World, bias: float, seed: int) -> None:
        super().__init__()
        of_cast = world.train.vectors.flatten(0, 1)
        self.register_buffer("mean", of_cast.mean(0))
        self.register_buffer("spread", of_cast.std(0).clamp(min=1e-3))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.projection = nn.Linear(of_cast.shape[1], world.embedding)
        self.head = fresh_head(world.labels, world.embedding, seed)
        nn.init.constant_(self.head.bias, bias)

    def embed(self, vectors: Tensor) -> Tensor:
        """Slot embeddings [..., e]."""
        return self.projection((vectors - self.mean) / self.spread)

    def forward(self, vectors: Tensor) -> Tensor:
        """Logits [..., c]."""
        return self.head(self.embed(vectors))


def loss_of(name: str, logits: Tensor, answers: Tensor) -> Tensor:
    """Loss of each slot against its one label, [k, c] and int [k] -> [k].

    >>> logits, answers = torch.zeros(1, 3), torch.tensor([0])
    >>> [round(loss_of(name, logits, answers).item(), 3) for name in ("BCE", "softmax cross-entropy", "wBCE")]
    [2.079, 1.099, 1.386]
    """
    if name == UNDETACHED:
        return wbce(logits, F.one_hot(answers, logits.shape[-1]), detach=False)
    return class_loss(KINDS[name], logits, answers)


def log_probability(name: str, logits: Tensor) -> Tensor:
    """Log of what a head trained by this loss takes for the probability of each label: [..., c] -> [..., c]."""
    return logits.log_softmax(-1) if KINDS.get(name) == "softmax" else F.logsigmoid(logits)


@dataclass(frozen=True, eq=False)
class Named:
    """A trained namer, and the file-level mAP on the files to check on, by step."""

    namer: Namer
    curve: tuple[tuple[int, float], ...]


def train_namer(
    world: World,
    name: str,
    *,
    learning_rate: float,
    bias: float,
    steps: int,
    batch: int,
    seed: int,
    progress: Callable[[str, int, int], None] | None = None,
) -> Named:
    """Train by one loss on file labels alone, keep the weights with the highest mAP on the files to check on."""
    namer, files = Namer(world, bias, seed), world.train

    def batches(k: int, generator: np.random.Generator) -> Tensor:
        return torch.from_numpy(generator.integers(len(files.casts), size=batch))

    def step(namer: Namer, rows: Tensor) -> dict[str, Tensor]:
        casts = files.casts[rows]
        order = (casts >= 0).int().argsort(dim=1, descending=True, stable=True)
        casts = casts.gather(1, order)
        logits = namer(files.vectors[rows])
        sure = files.confidence[rows].clamp(min=1e-6).log()
        wanted = casts.clamp(min=0)[:, None].expand(-1, logits.shape[1], -1)
        cost = -log_probability(name, logits.detach()).gather(2, wanted) - sure[..., None]
        found = match(cost, (casts >= 0).sum(1))
        losses = loss_of(name, logits[found.batch, found.slot], casts[found.batch, found.label])
        return {"loss": losses.mean()}

    every = max(1, steps // 20)
    config = LoopConfig(
        steps=steps,
        learning_rate=learning_rate,
        warmup_steps=steps // 20,
        clip_norm=None,  # Adam is blind to the size of a loss, clipping is not
        validate_every=every,
        precision="float32",  # of logits in bfloat16 two digits are left, on machines that have it
        seed=seed,
    )
    history = fit(
        namer,
        step,
        batches,
        config,
        validate=lambda namer: {"score": mean_average_precision(file_scores(namer, name, world.dev), world.dev.casts)},
        device="cpu",
        progress=progress,
    )
    namer.eval()
    return Named(namer, tuple((int(each["step"]), float(each["score"])) for each in history.validation))


@torch.no_grad()
def file_scores(namer: Namer, name: str, files: SlotFiles) -> np.ndarray:
    """Score of every file for every label, [f, c]."""
    found = []
    for vectors, confidence in zip(files.vectors.split(200), files.confidence.split(200), strict=True):
        likely = log_probability(name, namer(vectors))
        found.append((likely + confidence.clamp(min=1e-6).log()[..., None]).amax(1))
    return torch.cat(found).numpy()


@torch.no_grad()
def retrieval(namer: Namer, files: SlotFiles) -> dict[str, float]:
    """Find slots of the same person in other files by cosine: equal error rate, and mAP with every slot as a query."""
    where, slot = torch.nonzero(files.whose >= 0, as_tuple=True)
    embeddings = F.normalize(namer.embed(files.vectors[where, slot]), dim=-1)
    alike, whose, file = (embeddings @ embeddings.T).numpy(), files.whose[where, slot].numpy(), where.numpy()
    apart = file[:, None] != file
    same = (whose[:, None] == whose) & apart
    i, j = np.nonzero(np.triu(apart, 1))
    precision = average_precision(np.where(apart, alike, -2.0), same)
    return {
        "slot retrieval EER %": equal_error_rate(alike[i, j], same[i, j]),
        "slot retrieval mAP %": float(100 * precision[same.any(0)].mean()) if same.any() else 0.0,
    }


def steps_to(curve: tuple[tuple[int, float], ...], level: float) -> int:
    """First step at which a curve stands at the level or above; the last step where it never does.

    >>> steps_to(((10, 20.0), (20, 60.0), (30, 50.0)), 50.0)
    20
    """
    return next((step for step, score in curve if score >= level), curve[-1][0])

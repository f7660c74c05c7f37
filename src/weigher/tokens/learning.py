"""Teaching a token scorer, and applying one to many sequences: batches of like length, memory that stays bounded."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import root_scalar
from scipy.special import expit
from torch import Tensor

from weigher.errors import WeigherError, check_ranges
from weigher.tokens.sequences import Sequences, plan_batches
from weigher.tokens.token_scores import ScorerConfig, TokenScorer, TokenScores
from weigher.train.loop import History, LoopConfig, fit

Progress = Callable[[str, int, int], None]

_PLACES = 65_536  # tokens of a batch, padding included
_PIECE = 4096  # longer sequences are read in pieces of this many tokens, which stay in the cache
_ROWS = 256  # of a batch that is only applied
_LEAST_HELD_OUT = 20
_GENTLE_STEPS = 50
_SETTLED_BY = 2000  # texts: enough for a bias within a few hundredths


@dataclass(frozen=True)
class ClassifierConfig:
    """Everything that shapes a classifier and its training."""

    scorer: ScorerConfig = field(default_factory=ScorerConfig)
    epochs: int = 5
    """Times each text is read."""
    batch: int = 64
    """Texts in a batch."""
    learning_rate: float = 2e-3
    """Highest learning rate, above 0."""
    weight_decay: float = 0.1
    """Decay of word vectors and matrices per unit of learning rate; 0: none."""
    least_count: int = 2
    """Times a word, or an id, has to occur in training to have a vector of its own."""
    most_words: int = 10_000
    """Most words, or ids, with a vector of their own, the most frequent ones; rare ones, mostly names, would be learned
    by heart."""
    word_dropout: float = 0.2
    """Share of tokens that are taken for unknown ones in training, which teaches what an unknown word says."""
    neighbours: int = 5
    """Places around each word in the texts from which its first vector is made; 0: vectors begin at random."""
    averaged: float = 0.3
    """Last share of the training whose weights are averaged, as far as to the best epoch where texts are held out; 0:
    single weights count alone."""
    held_out: float = 0.05
    """Share of the texts that choose the best epoch and are not learned from; none where these are under 20. Where
    weights are averaged, only epochs that end with their mean compete."""
    longest: int = 1000
    """Training reads the first so many tokens of a text, and takes the last of these for its end; a model that is
    applied reads all."""
    seed: int = 0
    """Seed of everything that is drawn; 0 or more."""

    def __post_init__(self) -> None:
        check_ranges(
            self,
            {
                "epochs": (self.epochs >= 1, "1 or more"),
                "batch": (self.batch >= 1, "1 or more"),
                "learning_rate": (0 < self.learning_rate < math.inf, "a finite number above 0"),
                "weight_decay": (0 <= self.weight_decay < math.inf, "a finite number, 0 or more"),
                "least_count": (self.least_count >= 1, "1 or more"),
                "most_words": (self.most_words >= 1, "1 or more"),
                "word_dropout": (0 <= self.word_dropout < 1, "a share from 0 to below 1"),
                "neighbours": (self.neighbours >= 0, "0 or more"),
                "averaged": (0 <= self.averaged <= 1, "a share from 0 to 1"),
                "held_out": (0 <= self.held_out < 1, "a share from 0 to below 1"),
                "longest": (self.longest >= 1, "1 or more"),
                "seed": (self.seed >= 0, "0 or more"),
            },
        )

    def held_out_of(self, texts: int) -> int:
        """Return how many of so many texts choose the best epoch.

        >>> ClassifierConfig(held_out=0.05).held_out_of(1000), ClassifierConfig(held_out=0.05).held_out_of(100)
        (50, 0)
        """
        count = int(self.held_out * texts)
        return count if count >= _LEAST_HELD_OUT else 0


def settling_bias(logits: np.ndarray, targets: np.ndarray) -> float:
    """Return what to add to all logits, so that the mean probability is the share of the targets.

        sum_i sigmoid(z_i + c) = sum_i y_i

    Shapes: logits z `[n]` (real), targets y `[n]` (0 or 1) -> c; 0 where all targets are alike, which no c satisfies.

    >>> round(settling_bias(np.array([0.0, 0.0, 0.0, 0.0]), np.array([1, 1, 1, 0])), 6)  # log 3
    1.098612
    """
    if not 0 < targets.sum() < len(targets):
        return 0.0
    most = float(np.abs(logits).max()) + math.log(len(logits)) + 1  # there all of them say the same class
    found = root_scalar(lambda bias: (expit(logits + bias) - targets).sum(), bracket=(-most, most))
    return float(found.root)


Batch = tuple[Tensor, Tensor, Tensor]
"""ids [b, t], lengths [b], targets [b] (0 or 1)."""


def learn(
    model: TokenScorer,
    corpus: Sequences,
    targets: np.ndarray,
    config: ClassifierConfig,
    *,
    run_dir: Path | None = None,
    resume: bool = False,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> History:
    """Teach a model which of two classes each sequence has (`targets` 0 or 1, `[n]`), by binary cross-entropy.

    Every epoch draws other neighbours; the epoch that is best on the held-out texts is kept. At last the bias is
    settled (`settling_bias`): the words and channels that dropout left out are back, and what a network makes of all of
    them is not what it made of a part on average. "items" in the records are real tokens. Raises what
    `weigher.train.fit` raises.
    """
    rng = np.random.default_rng([config.seed, 0])
    order, count = rng.permutation(len(corpus)), config.held_out_of(len(corpus))
    held, rows = order[:count], order[count:]
    lengths = np.minimum(corpus.lengths[rows], config.longest)
    plan = [batch for _ in range(config.epochs) for batch in plan_batches(lengths, config.batch, _PLACES, rng)]
    labels = torch.from_numpy(targets.astype(np.float32))
    unknown = model.embedding.num_embeddings - 1

    def batches(k: int, generator: np.random.Generator) -> Batch:
        chosen = rows[plan[k - 1]]
        ids, counts = corpus.padded(chosen, config.longest)
        forgotten = torch.from_numpy(generator.random(ids.shape) < config.word_dropout)
        return ids.masked_fill(forgotten, unknown), counts, labels[torch.from_numpy(chosen)]

    def step(scorer: TokenScorer, batch: Batch) -> Mapping[str, Tensor]:
        ids, counts, wanted = batch
        loss = F.binary_cross_entropy_with_logits(scorer(ids, counts).logits, wanted)
        return {"loss": loss, "items": counts.sum()}

    def bias_of(scorer: TokenScorer, progress: Progress | None = None) -> float:
        few = rows[:_SETTLED_BY]
        return settling_bias(decide(scorer, corpus, few, progress, stage="settle"), targets[few])

    def validate(scorer: TokenScorer) -> Mapping[str, float]:
        logits = torch.from_numpy(decide(scorer, corpus, held) + bias_of(scorer))
        loss = F.binary_cross_entropy_with_logits(logits, labels[torch.from_numpy(held)].double()).item()
        accuracy = ((logits.numpy() > 0) == targets[held]).mean()
        return {"score": -loss, "accuracy": float(accuracy)}

    warmup = len(plan) // 20
    if config.scorer.model == "rnn":
        # its state begins as a plain sum: a full step away from the identity, to the power of a long text, is no number
        warmup = max(warmup, min(_GENTLE_STEPS, len(plan) // 2))
    loop = LoopConfig(
        steps=len(plan),
        learning_rate=config.learning_rate,
        warmup_steps=warmup,
        weight_decay=config.weight_decay,
        average_from=1 - config.averaged if config.averaged else None,
        validate_every=-(-len(plan) // config.epochs),
        precision="float32",  # hundreds of steps of a recurrence add up their rounding
        seed=config.seed,
    )
    history = fit(
        model,
        step,
        batches,
        loop,
        validate=validate if len(held) else None,
        run_dir=run_dir,
        resume=resume,
        device=device,
        progress=progress,
    )
    model.add_bias(bias_of(model, progress))
    return history


@torch.no_grad()
def read_tokens(model: TokenScorer, ids: Tensor, lengths: Tensor) -> TokenScores:
    """Apply a model to a padded batch; a long one is read in pieces, so that its vectors need not fit in memory."""
    device = model.embedding.weight.device
    ids, lengths = ids.to(device), lengths.to(device)
    return model(ids, lengths) if ids.shape[1] <= _PIECE else model.read_in_pieces(ids, lengths, _PIECE)


def decide(
    model: TokenScorer,
    corpus: Sequences,
    rows: np.ndarray | None = None,
    progress: Progress | None = None,
    *,
    stage: str = "apply",
) -> np.ndarray:
    """Return the logits of sequences (all, or some `rows`) in evaluation mode, float64 `[n]`; 0 for an empty one.

    `progress` gets `stage`, done, total. Raises WeigherError, naming the sequence, for a logit that is not finite.

    >>> decide(TokenScorer(9, ScorerConfig()), Sequences.of([[1, 2], []])).shape
    (2,)
    """
    was_training = model.training
    model.eval()
    rows = np.arange(len(corpus)) if rows is None else rows
    logits, done = np.zeros(len(rows)), 0
    try:
        for batch in plan_batches(corpus.lengths[rows], _ROWS, _PLACES):
            logits[batch] = read_tokens(model, *corpus.padded(rows[batch])).logits.double().cpu().numpy()
            done += len(batch)
            broken = rows[batch][~np.isfinite(logits[batch])]
            if len(broken):
                raise no_finite_logit(model, f"texts[{broken[0]}]", int(corpus.lengths[broken[0]]))
            if progress is not None:
                progress(stage, done, len(rows))
    finally:
        model.train(was_training)
    return logits


def no_finite_logit(model: TokenScorer, which: str, length: int) -> WeigherError:
    """Return the error for a text of so many tokens whose logit is NaN or infinite: why, and what to do."""
    broken = next((name for name, value in model.state_dict().items() if not torch.isfinite(value).all()), None)
    if broken is not None:
        why = f"{broken} of the model holds NaN or infinity; copy its folder or train it anew"
    elif model.config.model == "rnn":
        why = (
            "a state of ReLU may grow with every word that it reads; shorten the text, train on texts as long as this "
            "one, or train a gru, whose state stays between -1 and 1"
        )
    else:
        why = "what the model multiplies is too large for float32; train it anew with a lower learning rate"
    return WeigherError(f"{which} has {length:,} tokens and no finite logit: {why}")

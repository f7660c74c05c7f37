"""What the study of poolings trains: labels of a file from its frames, pooled per label or through a weigher's slots.

    poolings   p_tc = sigmoid(head(f_t))_c      file q_c = pool_t p_tc           frame score p_tc
    weigher    p_nc = sigmoid(head(e_n))_c      file max_n (q_n p_nc)            frame score max_n (X_tn p_nc)

Attention weighs the frames of each label by a softmax of scores of its own, from a second head; its frame score is p_tc
too, as in Wang, Li, Metze 2018 (arXiv 1810.09050). Frame AUC: the chance that a frame in which somebody speaks scores
higher for them than one of the same file in which they do not, averaged over files and their people.

Symbols: b, f files, t frames, e embedding, n slots, m people of a file, c labels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import rankdata
from torch import Tensor, nn

from weigher.core.losses import bce, wbce
from weigher.core.pooling import attention_pool, exp_softmax_pool, max_pool, mean_pool, noisy_or, self_weighted_mean
from weigher.recordings.model import LabelHead
from weigher.studies.label_sets import Ears, Heard, WeigherAndHead, label_table, mean_average_precision
from weigher.train.loop import LoopConfig, fit

POOLS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "max": max_pool,
    "mean": mean_pool,
    "noisy-or": noisy_or,
    "exp-softmax": exp_softmax_pool,
    "linear softmax": self_weighted_mean,
}
ATTENTION = "attention"


@dataclass(frozen=True, eq=False)
class Scores:
    """What a method says of files: scores of labels [f, c], and of its own people in each frame [f, t, m]."""

    files: np.ndarray
    frames: np.ndarray


class FrameTagger(nn.Module):
    """A label head on frames, and the pooling of its probabilities; attention has a second head for its weights."""

    def __init__(self, pool: str, head: LabelHead, frames: int) -> None:
        super().__init__()
        self.pool, self.head = pool, head
        labels, embedding = head.vectors.shape
        self.attend = nn.Linear(embedding, labels) if pool == ATTENTION else None
        if self.attend is not None:
            nn.init.zeros_(self.attend.weight)  # attention starts as the mean
            nn.init.zeros_(self.attend.bias)
        if pool == "noisy-or":  # chances add up over the frames of a file
            with torch.no_grad():
                head.bias.sub_(float(np.log(frames)))

    def forward(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Frames [b, t, e] -> probabilities of frames [b, t, c] and of files [b, c]."""
        p = self.head(embeddings).sigmoid()
        if self.attend is None:
            return p, POOLS[self.pool](p, 1)
        weighed = attention_pool(p.mT[..., None], self.attend(embeddings).mT[..., None])  # [b, c, 1, 1]
        return p, weighed[..., 0, 0]


def starting_head(ears: Ears) -> LabelHead:
    """Make the head every method starts from, a copy of the one that named frames for the teacher."""
    return copy.deepcopy(ears.listener.head).requires_grad_(True)


def tag_loss(kind: str, q: Tensor, there: Tensor) -> Tensor:
    """BCE or wBCE of a file's labels: probabilities [b, c], bool [b, c] -> [b].

    >>> q, there = torch.tensor([[0.5, 0.5]]), torch.tensor([[True, False]])
    >>> [round(tag_loss(kind, q, there).item(), 3) for kind in ("BCE", "wBCE")]
    [1.386, 1.386]
    """
    logits = q.clamp(1e-6, 1 - 1e-6).logit()
    return wbce(logits, there) if kind == "wBCE" else bce(logits, there).sum(-1)


def train_tagger(
    ears: Ears,
    heard: Heard,
    tagger: FrameTagger,
    loop: LoopConfig,
    *,
    kind: str,
    batch: int,
    validate: Callable[[FrameTagger], Mapping[str, float]] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> None:
    """Train in place on the label sets of heard files."""
    there = torch.from_numpy(label_table(heard.casts, len(ears.labels)))

    def batches(k: int, generator: np.random.Generator) -> Tensor:
        return torch.from_numpy(generator.integers(len(heard.casts), size=batch))

    def step(tagger: FrameTagger, rows: Tensor) -> dict[str, Tensor]:
        _, files = tagger(heard.frames(ears, rows).embeddings)
        return {"loss": tag_loss(kind, files, there[rows]).mean()}

    fit(tagger, step, batches, loop, validate=validate, device="cpu", progress=progress)
    tagger.eval()


def _in_parts(heard: Heard, score: Callable[[Tensor], tuple[Tensor, Tensor]], batch: int = 16) -> Scores:
    """Join what `score(rows)` gives: scores of files [b, c], and of the frames of their casts [b, t, m]."""
    with torch.inference_mode():
        parts = [score(rows) for rows in torch.arange(len(heard.casts)).split(batch)]
    files, frames = (torch.cat(each).float().numpy() for each in zip(*parts, strict=True))
    return Scores(files, frames)


def of_cast(x: Tensor, casts: Tensor) -> Tensor:
    """Pick the labels of a cast: [b, t, c], int [b, m] -> [b, t, m] (anything where the cast has -1).

    >>> of_cast(torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([[2, 0]])).tolist()
    [[[3.0, 1.0]]]
    """
    return x.gather(2, casts.clamp(min=0)[:, None].expand(-1, x.shape[1], -1))


def score_tagger(ears: Ears, tagger: FrameTagger, heard: Heard) -> Scores:
    """Let a tagger score files and frames."""

    def score(rows: Tensor) -> tuple[Tensor, Tensor]:
        p, files = tagger(heard.frames(ears, rows).embeddings)
        return files, of_cast(p, heard.casts[rows])

    return _in_parts(heard, score)


def score_weigher(ears: Ears, both: WeigherAndHead, heard: Heard) -> Scores:
    """Let a weigher score files by its surest slot of a label, and frames by track times label probability."""

    def score(rows: Tensor) -> tuple[Tensor, Tensor]:
        weighed = both.weigher(heard.frames(ears, rows))
        likely = F.logsigmoid(both.head(weighed.embeddings))  # [b, n, c]
        files = (likely + weighed.confidence.clamp(min=1e-6).log()[..., None]).amax(1)
        people = of_cast(likely, heard.casts[rows]).exp()  # [b, n, m]
        return files, (weighed.tracks[..., None] * people[:, None]).amax(2)

    return _in_parts(heard, score)


def score_listener(ears: Ears, pool: str, heard: Heard) -> Scores:
    """Pool what the teacher's own head says of frames, which no pooling has trained: softmax(z + log share)."""

    def score(rows: Tensor) -> tuple[Tensor, Tensor]:
        logits = ears.listener.head(heard.frames(ears, rows).embeddings)
        p = (logits + ears.listener.share.clamp(min=1e-6).log()).softmax(-1)
        return POOLS[pool](p, 1), of_cast(p, heard.casts[rows])

    return _in_parts(heard, score)


def frame_auc(scores: np.ndarray, active: np.ndarray, *, within_speech: bool = False) -> float:
    """Mean area under the ROC curve, per cent, of frames [f, t, m] against who speaks, bool [f, t, m].

    Pairs of file and person with frames of both kinds count; `within_speech`: frames in which nobody speaks do not. 50
    where there is no such pair.

    >>> frame_auc(np.array([[[0.9], [0.1], [0.8]]]), np.array([[[True], [False], [False]]]))
    100.0
    """
    found = []
    for of_file, of_people in zip(scores, active, strict=True):
        counted = of_people.any(1) if within_speech else np.ones(len(of_people), bool)
        truth = of_people[counted]
        ranks, hits = rankdata(of_file[counted], axis=0), truth.sum(0)
        pairs = hits * (len(truth) - hits)
        above = (ranks * truth).sum(0) - hits * (hits + 1) / 2
        found += (above[pairs > 0] / pairs[pairs > 0]).tolist()
    return 100 * float(np.mean(found)) if found else 50.0


def figures(scores: Scores, heard: Heard) -> dict[str, float]:
    """File-level mAP, and frame AUC over all frames and within speech, in per cent."""
    return {
        "file-level mAP %": mean_average_precision(scores.files, heard.casts),
        "frame AUC %": frame_auc(scores.frames, heard.active),
        "frame AUC %, within speech": frame_auc(scores.frames, heard.active, within_speech=True),
    }

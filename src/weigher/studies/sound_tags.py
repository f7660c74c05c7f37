"""Labels need not be people: the weigher, unchanged, on files tagged with the words that occur in them.

A file of some seconds holds spoken words over faint noise; its tags are the kinds of word in it, and nobody says where
they are or who speaks them. Words to test on are spoken by people who are not heard in training. The library learns as
it does from casts (`listen`, `weigh`); only the head, which names tags, is kept for the test.

    file score of tag c    max_n (q_n p_nc)          tag mAP over the tags that occur
    frame score            max_n (X_tn p_nc)         frame AUC: where each tag is, averaged over files and their tags

Symbols: t frames, n slots, c tags, confidence q, tracks X, probability of a tag p.

small: about 4 minutes a seed on two cores.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from weigher.studies.harness import Claim, Context, Result, Row, Study, Tally, clearly_less, find_row

if TYPE_CHECKING:  # torch is loaded by a run, not by listing the studies
    from weigher.io.voices import Utterance
    from weigher.studies.diarization import Talk

TAGS, SHUFFLED, HEAD = "weigher, tags", "weigher, shuffled tags", "head of listening, linear softmax"
MAP, AUC, WITHIN = "tag mAP %", "frame AUC %", "frame AUC % among words"
SLOTS = 5
_RATE = 16000
_LOUD = 0.1  # root mean square of a word
_NOISE_DB = 30.0  # below it
_QUIET_DB = 25.0  # what of a word is softer than its loudest 10 ms by this much, at either end, is not the word


@dataclass(frozen=True)
class Size:
    """How much is done for a budget."""

    train_files: int
    test_files: int
    listen: int
    weigh: int
    seconds: float = 12.0


SIZES = {"small": Size(600, 150, 400, 300), "full": Size(2000, 500, 1500, 3000)}


def run(context: Context) -> list[Row]:
    """Train and test with each seed; see the module."""
    tally = Tally()
    for seed in context.seeds:
        for arm in (TAGS, SHUFFLED):
            tally.add(context.part(f"{seed} {arm}", partial(_trained, context, seed, arm)))
    return tally.rows()


def tag_of(utterance: Utterance) -> str:
    """Return the word of a file called WORD_anything.

    >>> from weigher.io.voices import Utterance
    >>> tag_of(Utterance("00000001", "zoom-in_00000001_NO_05", lambda: np.zeros(1)))
    'zoom-in'
    """
    return utterance.name.partition("_")[0]


def spoken(samples: np.ndarray) -> np.ndarray:
    """Cut the quiet from both ends of a word, samples [n], and bring what is left to one level.

    >>> spoken(np.r_[np.zeros(1600), np.ones(1600), np.zeros(3200)]).round(6).tolist() == [0.1] * 1600
    True
    """
    frame = _RATE // 100
    power = np.square(samples[: len(samples) // frame * frame].astype(float)).reshape(-1, frame).mean(1)
    loud = np.flatnonzero(power >= power.max() * 10 ** (-_QUIET_DB / 10))
    word = samples[loud[0] * frame : (loud[-1] + 1) * frame].astype(float)
    return _LOUD * word / max(float(np.sqrt(np.square(word).mean())), 1e-9)


def tagged_files(
    words: Sequence[Utterance], count: int, seconds: float, generator: np.random.Generator, *, most: int = 4
) -> list[Talk]:
    """Put words into files: each has one to `most` kinds of word, each kind one to three times, at random places.

    Words do not overlap; those for which there is no room are left out. Talks hold samples; who "speaks" is the tag.
    """
    from weigher.io.rttm import Segment
    from weigher.studies.diarization import Talk

    by_tag: dict[str, list[Utterance]] = defaultdict(list)
    for word in words:
        by_tag[tag_of(word)].append(word)
    tags = sorted(by_tag)
    talks = []
    for index in range(count):
        kinds = generator.choice(len(tags), size=generator.integers(1, min(most, len(tags)) + 1), replace=False)
        asked = [tags[kind] for kind in kinds for _ in range(generator.integers(1, 4))]
        samples = _LOUD * 10 ** (-_NOISE_DB / 20) * generator.standard_normal(round(seconds * _RATE))
        told: list[Segment] = []
        generator.shuffle(asked)
        for tag in asked:
            word = spoken(by_tag[tag][generator.integers(len(by_tag[tag]))].load())
            start = _room(told, len(word) / _RATE, seconds, generator)
            if start is None:
                continue
            begin = round(start * _RATE)
            samples[begin : begin + len(word)] += word[: len(samples) - begin]
            told.append(Segment(start, start + len(word) / _RATE, tag))
        talks.append(Talk(f"file{index:05}", samples.astype(np.float32), tuple(sorted(told, key=_start)), seconds))
    return talks


def _start(segment) -> float:
    return segment.start


def _room(told: Sequence, length: float, seconds: float, generator: np.random.Generator) -> float | None:
    """Return a start at which `length` seconds overlap nothing, None where 20 tries find none."""
    for start in generator.uniform(0, max(0.0, seconds - length), size=20):
        if all(start + length <= one.start or start >= one.end for one in told):
            return round(float(start), 2)
    return None


def _trained(context: Context, seed: int, arm: str) -> dict[str, dict[str, float]]:
    """Train one arm, score its files and frames; the head of listening, pooled, is scored beside the true tags."""
    import torch

    from weigher.io.voices import read_voices
    from weigher.recordings.learn import LearnConfig, listen, weigh
    from weigher.recordings.model import FrontConfig, ModelConfig, RecordingModel
    from weigher.recordings.weigher import WeigherConfig
    from weigher.studies.diarization import archive_of

    size, generator = SIZES[context.budget], np.random.default_rng(seed)
    voices = read_voices(context.path("speech/arabic_commands"))
    people = generator.permutation(voices.speakers)
    unseen = max(1, len(people) // 5)
    heard = tagged_files(voices.only(people[unseen:]).utterances, size.train_files, size.seconds, generator)
    test = tagged_files(voices.only(people[:unseen]).utterances, size.test_files, size.seconds, generator)
    torch.manual_seed(seed)
    model = RecordingModel(ModelConfig(front=FrontConfig(), weigher=WeigherConfig(slots=SLOTS)))
    shuffled = generator if arm == SHUFFLED else None
    archive = archive_of(heard, [model.values(talk.values).astype(np.float16) for talk in heard], shuffled=shuffled)
    config = LearnConfig()
    phases = {
        name: replace(
            loop, steps=steps, warmup_steps=min(loop.warmup_steps, steps // 4), validate_every=steps, seed=seed
        )
        for name, loop, steps in (("listen", config.listen, size.listen), ("weigh", config.weigh, size.weigh))
    }
    config = replace(config, **phases)
    listener, _ = listen(model, archive, config, device="cpu", progress=context.progress)
    found = {}
    if arm == TAGS:
        found[HEAD] = _figures(test, archive.labels, _listened(model, listener, test, archive.labels), model)
    weigh(model, listener, archive, config, device="cpu", progress=context.progress)
    model.eval()
    found[arm] = _figures(test, archive.labels, _weighed(model, listener.head, test, archive.labels), model)
    return found


def _columns(talk: Talk, labels: Sequence[str]) -> list[int]:
    """Return the column of each tag of a file; a tag that no training file has is nobody's."""
    return [labels.index(tag) for tag in talk.cast if tag in labels]


def _weighed(model, head, talks: Sequence[Talk], labels: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Scores of each file's tags [c], and of its own tags in each frame [t, m], by the weigher."""
    import torch
    import torch.nn.functional as F

    found = []
    with torch.inference_mode():
        for talk in talks:
            values = torch.from_numpy(model.values(talk.values))[None]
            weighed = model(values, torch.tensor([values.shape[1]]))
            p = F.logsigmoid(head(weighed.embeddings).float()).exp()[0]  # [n, c]
            files = (p * weighed.confidence[0].float()[:, None]).amax(0)
            frames = (weighed.tracks[0].float()[..., None] * p[:, _columns(talk, labels)]).amax(1)
            found.append((files.numpy(), frames.numpy()))
    return found


def _listened(model, listener, talks: Sequence[Talk], labels: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    """The same by the head that named frames in listening, whose probabilities are pooled as sum p^2 / sum p."""
    import torch

    from weigher.core.pooling import self_weighted_mean

    model.eval()
    found = []
    with torch.inference_mode():
        for talk in talks:
            values = torch.from_numpy(model.values(talk.values))[None]
            logits = listener.head(model.frames(values, torch.tensor([values.shape[1]])).embeddings).float()
            p = (logits + listener.share.clamp(min=1e-6).log()).softmax(-1)[0]
            found.append((self_weighted_mean(p, 0).numpy(), p[:, _columns(talk, labels)].numpy()))
    return found


def _figures(
    talks: Sequence[Talk], labels: Sequence[str], scores: Sequence[tuple[np.ndarray, np.ndarray]], model
) -> dict[str, float]:
    from weigher.studies.diarization import activity
    from weigher.studies.frame_tagging import frame_auc
    from weigher.studies.label_sets import average_precision

    truth = np.array([[label in talk.cast for label in labels] for talk in talks])
    precision = average_precision(np.stack([files for files, _ in scores]), truth)
    known = [[tag for tag in talk.cast if tag in labels] for talk in talks]
    frames, most = min(len(one) for _, one in scores), max(map(len, known))
    said = np.zeros((len(talks), frames, most))
    active = np.zeros((len(talks), frames, most), bool)
    for row, (talk, tags, (_, one)) in enumerate(zip(talks, known, scores, strict=True)):
        said[row, :, : len(tags)] = one[:frames]
        active[row, :, : len(tags)] = activity(talk.segments, tags, frames, model.hop_seconds)
    return {
        MAP: float(100 * np.nanmean(precision)),
        AUC: frame_auc(said, active),
        WITHIN: frame_auc(said, active, within_speech=True),
    }


def _more(rows: Sequence[Row], metric: str, than: str) -> tuple[str, bool]:
    ours, other = find_row(rows, TAGS, metric), find_row(rows, than, metric)
    return f"{ours.mean:.1f} % against {other.mean:.1f} %", clearly_less(other, ours)


def plot(result: Result, path: Path) -> None:
    """Draw which tags are there (mAP) and where they are (frame AUC), with the spread over seeds."""
    from weigher.plot.bars import horizontal_bars

    rows = sorted((row for row in result.rows if row.metric in (MAP, WITHIN)), key=lambda row: (row.metric, row.mean))
    horizontal_bars(
        path,
        [f"{row.method}: {row.metric.replace(' %', '')}" for row in rows],
        [row.mean for row in rows],
        [row.std or 0.0 for row in rows],
        title="Spoken words as tags of files, by people never heard before",
        axis="per cent",
        marked=[row.method == TAGS for row in rows],
    )


STUDY = Study(
    name="sound_tags",
    card="00",
    title="Labels that are no people: spoken words as tags of files, and where each of them is",
    paper="The weigher: the project's own, after a talk on diarization learned from labels of whole files",
    run=run,
    claims=(
        Claim(
            "any tags on files will do: tags are found far better than with shuffled ones",
            "the talk: labels need not be people",
            lambda rows: _more(rows, MAP, SHUFFLED),
        ),
        Claim("and it is found where they are", "the project's check", lambda rows: _more(rows, WITHIN, SHUFFLED)),
        Claim(
            "slots name the tags of a file better than its frames, pooled by a linear softmax",
            "the project's check",
            lambda rows: _more(rows, MAP, HEAD),
        ),
    ),
    plot=plot,
)

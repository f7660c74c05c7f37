"""Does an encoder that was pre-trained without labels make more of few casts? The flagship, from scratch and from it.

Conversations of people who read aloud, as audio; a quarter, a half or all of them have casts. An encoder hears all of
them without any (`weigher pretrain`): by SeqCLR (temperature 0.05), and by InfoNCE of neighbouring crops (0.02); in the
study of SeqCLR this tells voices best, and that as well as 0.1, the best of windows. Then the weigher learns from the
casts, from scratch and from each encoder (`weigher train --from`), with the same steps, batches and draws. What
pre-training takes comes on top. Everything is measured on people never heard, with nothing told:

    DER %              error of the weigher, and with it confusion and how often the count is right
    clustering DER %   error of k-means on one-second means of frame embeddings, true count and true speech given
    voice EER %        telling by mean embeddings of what people say alone whether two recordings hold one person
    voice rank 1 %     the voice that is nearest, in other recordings, is the same person's

The last three need no casts: they are also those of the encoders before any. Gains are seed by seed, from scratch less
pre-trained (rank 1: the other way round), so that above 0 pre-training is better.

small: the people, model and steps of the demo, with which training is steady; about 70 minutes a seed on one core.
full: all people, ten times the steps.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from weigher.studies.harness import Claim, Context, Figures, Result, Row, Study, Tally, clearly_less, find_row
from weigher.studies.paired import level

if TYPE_CHECKING:  # torch is loaded by a run, not by listing the studies
    from weigher.recordings.diarizer import Diarizer
    from weigher.recordings.encoder import FrameEncoder
    from weigher.studies.diarization import ReadSpeech, Talk

SCRATCH, SEQCLR, NEIGHBOURS = "from scratch", "SeqCLR", "InfoNCE of neighbours"
UNTAUGHT, ONE = "random start", "one speaker throughout"
DER, CLUSTERED, EER, RANK = "DER %", "clustering DER %", "voice EER %", "voice rank 1 %"
SHARES = (25, 50, 100)
_METHODS: dict[str, Literal["seqclr", "info-nce"]] = {SEQCLR: "seqclr", NEIGHBOURS: "info-nce"}
_PAPER = "Aberdam et al. 2021, of handwriting"
_SHORTEST = 1.0  # seconds alone from which a voice is compared


@dataclass(frozen=True)
class Size:
    """How much is done for a budget."""

    people: int | None
    """Of whom a fifth are only heard in the test; None: all there are."""
    recordings: int
    test: int
    epochs: int
    """Of pre-training: times that each 2 s of the recordings are heard."""
    listen: int
    weigh: int


SIZES = {"small": Size(125, 400, 100, 20, 260, 220), "full": Size(None, 2000, 200, 40, 2600, 2200)}


def run(context: Context) -> list[Row]:
    """Pre-train, train and test with each seed; see the module."""
    tally = Tally()
    for seed in context.seeds:
        tally.add(with_gains(_seed(context, seed)))
    return tally.rows()


def of(method: str, share: int) -> str:
    """Return what the row of a method with a share of the casts is called.

    >>> of("from scratch", 25)
    'from scratch, 25 % of the casts'
    """
    return f"{method}, {share} % of the casts"


def with_gains(found: Figures) -> Figures:
    """Add to one seed's figures by how much each pre-trained encoder is better than the start without it."""
    gains: dict[str, dict[str, float]] = {}
    for method in _METHODS:
        for share in SHARES:
            ours, other = found[of(method, share)], found[of(SCRATCH, share)]
            gains[f"{of(method, share)}, gain"] = {
                metric: (ours[metric] - other[metric]) * (1 if metric == RANK else -1)
                for metric in (DER, CLUSTERED, EER, RANK)
            }
        few, all_of_them = (gains[f"{of(method, share)}, gain"] for share in (SHARES[0], SHARES[-1]))
        gains[f"{method}, gain with few less gain with all casts"] = {m: few[m] - all_of_them[m] for m in few}
    return {**found, **gains}


def _seed(context: Context, seed: int) -> Figures:
    trial = _Trial(context, SIZES[context.budget], seed)
    found: dict[str, dict[str, float]] = {}
    for method in (UNTAUGHT, *_METHODS):
        name = method if method == UNTAUGHT else f"{method}, no casts"
        found[name] = context.part(f"{seed} {name}", partial(trial.before, method))
    for share in SHARES:
        for method in (SCRATCH, *_METHODS):
            found[of(method, share)] = context.part(f"{seed} {of(method, share)}", partial(trial.after, method, share))
    found[ONE] = context.part(f"{seed} {ONE}", trial.nobody)
    return found


class _Trial:
    """One seed: its conversations, what is heard of them, and pre-trained encoders, made when a part asks for them."""

    def __init__(self, context: Context, size: Size, seed: int) -> None:
        self.context, self.size, self.seed = context, size, seed
        self.encoders: dict[str, tuple[FrameEncoder, float]] = {}

    @cached_property
    def speech(self) -> ReadSpeech:
        from weigher.studies.diarization import read_speech

        size = self.size
        return read_speech(
            self.context,
            train=size.recordings,
            unseen=size.test,
            seconds=20.0,
            corpus="speech/librispeech",
            people=size.people,
            noise_db=30.0,
            seed=self.seed,
        )

    @cached_property
    def values(self) -> list[np.ndarray]:
        """Features of the recordings to learn from, as a model takes them."""
        from weigher.studies.diarization import prepared

        return prepared(_diarizer(self.size, self.seed), self.speech.train)

    @cached_property
    def strangers(self) -> list[Talk]:
        """The test, of features in place of samples."""
        from weigher.studies.diarization import prepared

        heard = prepared(_diarizer(self.size, self.seed), self.speech.unseen)
        return [replace(talk, values=values) for talk, values in zip(self.speech.unseen, heard, strict=True)]

    def encoder(self, method: str) -> tuple[FrameEncoder, float]:
        """The encoder that training starts from, and the minutes it took; `UNTAUGHT` has learned nothing."""
        if method not in self.encoders:
            self.encoders[method] = _pretrained(self, method)
        return self.encoders[method]

    def nobody(self) -> dict[str, float]:
        from weigher.studies import diarization as shared

        talks = self.speech.unseen
        return {DER: shared.figures(talks, shared.one_speaker(talks))["DER %, collar 0"]}

    def before(self, method: str) -> dict[str, float]:
        """What an encoder is good for without any cast."""
        encoder, minutes = self.encoder(method)
        return {**_voices(encoder, self.strangers), "pre-training minutes": minutes}

    def after(self, method: str, share: int) -> dict[str, float]:
        """Train with a share of the casts, and test."""
        from weigher.recordings.adapt import Start
        from weigher.recordings.model import RecordingModel
        from weigher.studies import diarization as shared

        speech, start = self.speech, None
        diarizer = _diarizer(self.size, self.seed)
        if method != SCRATCH:
            model = RecordingModel(diarizer.config.model)
            model.encoder.load_state_dict(self.encoder(method)[0].state_dict())
            start = Start(model, {}, whole=False)
        some = len(speech.train) * share // 100
        archive = shared.archive_of(speech.train[:some], self.values[:some])
        diarizer.fit(archive, start=start, progress=self.context.progress)
        results = shared.apply(diarizer, speech.unseen)
        told = shared.figures(speech.unseen, {result.file_id: list(result.segments) for result in results})
        assert diarizer.model_ is not None
        return {
            DER: told["DER %, collar 0"],
            "confusion %": told["confusion %, collar 0"],
            "count right %": told["count right %"],
            "slot EER %": shared.retrieval_eer(speech.unseen, results),
            **_voices(diarizer.model_.encoder, self.strangers),
        }


def _diarizer(size: Size, seed: int) -> Diarizer:
    from weigher.recordings.diarizer import Diarizer

    diarizer = Diarizer(slots=5, seed=seed, device="cpu")
    phases = diarizer.config.learn

    def loop(like, steps: int):
        return replace(like, steps=steps, warmup_steps=min(like.warmup_steps, steps // 8), validate_every=steps)

    phases = replace(phases, listen=loop(phases.listen, size.listen), weigh=loop(phases.weigh, size.weigh))
    diarizer.config = replace(diarizer.config, learn=phases)
    return diarizer


def _pretrained(trial: _Trial, method: str) -> tuple[FrameEncoder, float]:
    import torch

    from weigher.pairs.pretraining import PretrainConfig
    from weigher.pairs.sequences import SequenceConfig, pretrain_sequences
    from weigher.recordings.model import RecordingModel
    from weigher.recordings.pretrained_encoder import Hearing

    config = _diarizer(trial.size, trial.seed).config.model
    with torch.random.fork_rng():
        torch.manual_seed(trial.seed)  # as training from scratch begins
        model = RecordingModel(config)
    encoder = model.encoder
    began = time.monotonic()
    if method != UNTAUGHT:
        pretrain_sequences(
            Hearing(encoder),
            config.encoder.embedding,
            trial.values,
            SequenceConfig(_METHODS[method]),
            PretrainConfig(epochs=trial.size.epochs, batch=64, learning_rate=2e-3, seed=trial.seed),
            hop_seconds=model.step_seconds,
            device="cpu",
            progress=trial.context.progress,
        )
    return encoder, (time.monotonic() - began) / 60


def _voices(encoder: FrameEncoder, talks: Sequence[Talk]) -> dict[str, float]:
    """What the frame embeddings of an encoder are good for, before any weigher."""
    import torch

    from weigher.recordings.pretrained_encoder import Hearing
    from weigher.studies import diarization as shared

    hearing = Hearing(encoder).eval()
    device = next(encoder.parameters()).device
    with torch.inference_mode():
        frames = [
            hearing(torch.as_tensor(talk.values, dtype=torch.float32, device=device)[None], lengths)[0][0].cpu().numpy()
            for talk in talks
            for lengths in [torch.tensor([len(talk.values)], device=device)]
        ]
    hop = talks[0].seconds / len(talks[0].values) * encoder.stride
    turns = shared.clustered(talks, frames, "kmeans", hop, smooth=True, seed=0)
    vectors, names, where = voice_vectors(talks, frames, hop)
    return {
        CLUSTERED: shared.figures(talks, turns)["DER %, collar 0"],
        EER: voice_eer(vectors, names, where),
        RANK: rank_one(vectors, names, where),
    }


def voice_vectors(
    talks: Sequence[Talk], frames: Sequence[np.ndarray], hop_seconds: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a unit vector for each person of each talk, whose it is, and in which talk.

    It is the mean, over what they say alone (a second of it at least), of frame embeddings less the mean of all.
    """
    from weigher.studies.diarization import activity

    centre = np.concatenate(list(frames)).mean(0)
    vectors, names, where = [], [], []
    for index, (talk, points) in enumerate(zip(talks, frames, strict=True)):
        active = activity(talk.segments, talk.cast, len(points), hop_seconds)
        alone = active & (active.sum(1, keepdims=True) == 1)
        for column, name in enumerate(talk.cast):
            if alone[:, column].sum() * hop_seconds >= _SHORTEST:
                mean = points[alone[:, column]].mean(0) - centre
                vectors.append(mean / max(float(np.linalg.norm(mean)), 1e-12))
                names.append(name)
                where.append(index)
    return np.array(vectors), np.array(names), np.array(where)


def voice_eer(vectors: np.ndarray, names: np.ndarray, where: np.ndarray) -> float:
    """Equal error rate, in per cent, of telling by their cosine whether voices of two talks are one person's."""
    from weigher.studies.diarization import equal_error_rate

    i, j = np.triu_indices(len(vectors), 1)
    apart = where[i] != where[j]
    i, j = i[apart], j[apart]
    return equal_error_rate((vectors[i] * vectors[j]).sum(1), names[i] == names[j])


def rank_one(vectors: np.ndarray, names: np.ndarray, where: np.ndarray) -> float:
    """Per cent of voices whose nearest one in another talk is the same person's, of those that have such a one.

    >>> rank_one(np.eye(2)[[0, 0, 1]], np.array(["a", "a", "b"]), np.array([0, 1, 1]))
    100.0
    """
    alike = np.where(where[:, None] != where, vectors @ vectors.T, -np.inf)
    same = (names[:, None] == names) & (where[:, None] != where)
    asked = same.any(1)
    return 100 * float(same[np.arange(len(names)), alike.argmax(1)][asked].mean()) if asked.any() else 0.0


def _learns(rows: Sequence[Row]) -> tuple[str, bool]:
    ours, nobody = find_row(rows, of(SCRATCH, 100), DER), find_row(rows, ONE, DER)
    return f"{ours.mean:.1f} % against {nobody.mean:.1f} %", clearly_less(ours, nobody)


def _gains(ours: str, metric: str, share: int, rows: Sequence[Row]) -> tuple[str, bool]:
    gain = find_row(rows, f"{of(ours, share)}, gain", metric)
    own, other = (find_row(rows, of(method, share), metric).mean for method in (ours, SCRATCH))
    return f"{own:.1f} % against {other:.1f} %: {gain.mean:+.1f} points", clearly_less(level(0.0), gain)


def _most_with_few(rows: Sequence[Row]) -> tuple[str, bool]:
    row = find_row(rows, f"{SEQCLR}, gain with few less gain with all casts", DER)
    return f"{row.mean:+.1f} points", clearly_less(level(0.0), row)


def _tells_voices(method: str, than: str, rows: Sequence[Row]) -> tuple[str, bool]:
    ours, other = (find_row(rows, name, EER) for name in (f"{method}, no casts", than))
    return f"{ours.mean:.1f} % against {other.mean:.1f} %", clearly_less(ours, other)


def plot(result: Result, path: Path) -> None:
    """Draw the errors by share of the casts: of the weigher, and of clustering the embeddings."""
    from weigher.plot.curves import Curve, panels_of_curves

    def curve(method: str, metric: str) -> Curve:
        rows = [find_row(result.rows, of(method, share), metric) for share in SHARES]
        return [share / 100 for share in SHARES], [row.mean for row in rows], [row.std or 0.0 for row in rows]

    panels = {"the weigher: DER": DER, "k-means, true count: DER": CLUSTERED, "telling voices: EER": EER}
    nobody = find_row(result.rows, ONE, DER).mean
    panels_of_curves(
        path,
        {title: {method: curve(method, metric) for method in (SCRATCH, *_METHODS)} for title, metric in panels.items()},
        title="People never heard: from scratch, and from an encoder pre-trained without labels",
        x_axis="share of the casts",
        y_axis="error, % (dashed: one speaker throughout)",
        levels={title: nobody for title, metric in panels.items() if metric != EER},
        strong=[SCRATCH],
    )


STUDY = Study(
    name="pretraining",
    card="36",
    title="Pre-training the encoder of recordings without labels: 25, 50 and 100 % of the casts",
    run=run,
    claims=(
        Claim(
            "from scratch, with all casts, the weigher makes less errors than one speaker throughout would",
            "the project's check: nothing can be compared otherwise",
            _learns,
        ),
        *(
            Claim(f"SeqCLR lowers the error with {share} % of the casts", _PAPER, partial(_gains, SEQCLR, DER, share))
            for share in SHARES
        ),
        Claim("SeqCLR: with 25 % of the casts voices are told better (EER)", _PAPER, partial(_gains, SEQCLR, EER, 25)),
        Claim("SeqCLR gains most where casts are few: 25 against 100 %", _PAPER, _most_with_few),
        Claim(
            "SeqCLR, without any cast, tells voices better than a random start",
            "the project's check",
            partial(_tells_voices, SEQCLR, UNTAUGHT),
        ),
        *(
            Claim(
                f"InfoNCE of neighbouring crops lowers the error with {share} % of the casts",
                "the project's question",
                partial(_gains, NEIGHBOURS, DER, share),
            )
            for share in SHARES
        ),
        Claim(
            "without any cast, neighbouring crops teach voices better than SeqCLR does",
            "the project's question",
            partial(_tells_voices, NEIGHBOURS, f"{SEQCLR}, no casts"),
        ),
    ),
    plot=plot,
    paper="Sequence-to-sequence contrastive learning: Aberdam et al. 2021, arXiv 2012.10873",
)

"""The estimator: learn from a cast list, then say who speaks when in any recording, people never heard before included.

>>> Diarizer(slots=4, seed=1).config.model.weigher.slots
4
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from weigher.errors import RequestError
from weigher.io.features import Features, read_features
from weigher.io.manifest import Manifest, Recording, check_cast_sizes, check_readable, read_manifest
from weigher.io.rttm import read_rttm_tree, recording_ids
from weigher.io.speech import joined
from weigher.recordings.adapt import Start, keep_start
from weigher.recordings.archive import Archive, check_archive
from weigher.recordings.cast_margins import block_frames
from weigher.recordings.configs import from_plain, to_plain
from weigher.recordings.decode import DecodeConfig, decode_slots
from weigher.recordings.features import compact
from weigher.recordings.learn import LearnConfig, Progress, learn
from weigher.recordings.link import MOST_PEOPLE, Linker
from weigher.recordings.model import LabelHead, ModelConfig, RecordingModel
from weigher.recordings.model_card import Origin, card_of, origin_of
from weigher.recordings.outside_speech import only_in_speech
from weigher.recordings.pretrained import load_folder, save_folder
from weigher.recordings.remembered import Remembered, keep_voices
from weigher.recordings.result import Diarization
from weigher.recordings.score import Score, score
from weigher.recordings.silence import check_nats
from weigher.recordings.training_list import TrainingList, keep_list
from weigher.recordings.windows import least_values, window_count, windows
from weigher.train.distribution import rank, resolve_device
from weigher.train.loop import History


@dataclass(frozen=True)
class DiarizerConfig:
    """Everything that shapes a diarizer and its training."""

    model: ModelConfig = field(default_factory=ModelConfig)
    learn: LearnConfig = field(default_factory=LearnConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    window_seconds: float = 30.0
    """Longer recordings are heard in windows of this length."""
    overlap_seconds: float = 5.0
    """What two windows share."""
    link_threshold: float = 0.5
    """Cosine from which slots of two windows are one person."""

    def __post_init__(self) -> None:
        if not 0 <= self.overlap_seconds < self.window_seconds < math.inf:
            raise RequestError(
                f"windows of {self.window_seconds:g} s cannot overlap by {self.overlap_seconds:g} s; "
                "overlap_seconds needs to be from 0 to below window_seconds"
            )
        if not -1 <= self.link_threshold <= 1:
            raise RequestError(f"link_threshold = {self.link_threshold:g}; needed is a cosine, from -1 to 1")


class Diarizer:
    """Diarization learned from cast lists.

    `fit(cast)` takes a manifest (CSV, JSON lines, RTTM whose times are dropped), `predict(recording)` returns a
    `Diarization`, `transform(recordings)` slot embeddings, `score(recordings, references)` error rates in per cent.
    After fit: `labels_` (names of training), `history_` (phases listen and weigh), `model_`, `head_` and `voices_` (of
    the names).

        model = Diarizer(slots=8, seed=0).fit("cast.csv")
        print(model.predict("meeting.wav", max_speakers=4).to_rttm())
    """

    def __init__(
        self,
        slots: int | None = None,
        seed: int | None = None,
        *,
        config: DiarizerConfig | None = None,
        device: str = "auto",
    ) -> None:
        config = config or DiarizerConfig()
        if slots is not None:
            model = replace(config.model, weigher=replace(config.model.weigher, slots=slots))
            config = replace(config, model=model)
        if seed is not None:
            phases = config.learn
            phases = replace(phases, listen=replace(phases.listen, seed=seed), weigh=replace(phases.weigh, seed=seed))
            config = replace(config, learn=phases)
        self.config = config
        self.device = resolve_device(device)
        self.model_: RecordingModel | None = None
        self.head_: LabelHead | None = None
        self.labels_: tuple[str, ...] = ()
        self.history_: tuple[History, History] | None = None
        self.voices_: Remembered | None = None
        self.skipped_: tuple[str, ...] = ()
        self.origin_ = Origin()
        self._labels = 0  # of a model that was loaded, of which names are not known

    def fit(
        self,
        cast: str | Path | Manifest | Archive,
        *,
        start: Start | None = None,
        run_dir: str | Path | None = None,
        resume: bool = False,
        skip_bad: bool = False,
        tensorboard: bool = False,
        validate: Callable[[RecordingModel], dict[str, float]] | None = None,
        progress: Progress | None = None,
    ) -> Diarizer:
        """Learn from recordings of which only the cast is known.

        `cast` is a manifest (path or read already) or an `Archive` in memory. `start` is what a model of this
        configuration has learned before (`weigher.recordings.adapt.read_start`); the labels of an archive then begin
        with those it knows (`Start.names`). `run_dir` holds, beside the phases of training, the list of recordings.
        With `skip_bad`, unreadable recordings are left out and listed in `skipped_`. Raises RequestError for casts or
        audio that cannot be used (all of them named) and for an encoder to be held without a start, WeigherError where
        training fails.
        """
        if start is None and self.config.learn.frozen == "encoder":
            raise RequestError(
                "an encoder that has learned nothing is to be held (`frozen`); give a start, or hold none"
            )
        folder = None if run_dir is None else Path(run_dir)
        if folder is not None and rank() == 0 and start is not None and not resume:
            keep_start(folder, start)  # before hours of audio are read: a run cut off there goes on from it
        known = start.labels if start is not None else ()
        recordings: Sequence[Recording] = ()
        if isinstance(cast, Archive):
            archive = cast
        else:
            recordings, values = self._read(cast, skip_bad, progress)
            archive = _archive(recordings, values, start)
        check_archive(archive, self.config.model)
        if archive.labels[: len(known)] != known:
            raise RequestError("the labels of the archive do not begin with those the model knows; see Start.names")
        torch.manual_seed(self.config.learn.listen.seed)
        model = RecordingModel(self.config.model)
        head = LabelHead(self.config.model.encoder.embedding, len(archive.labels))
        if start is not None:
            start.give(model, head)
        if folder is not None and rank() == 0 and recordings:
            block_seconds = block_frames(model.hop_seconds) * model.hop_seconds
            keep_list(folder, TrainingList.of(recordings, archive.labels, block_seconds), resume=resume)
        learned = learn(
            model,
            archive,
            self.config.learn,
            head=head,
            run_dir=folder,
            resume=resume,
            remembered=None if start is None else start.voices,
            device=self.device,
            tensorboard=tensorboard,
            validate=validate,
            progress=progress,
        )
        if folder is not None and rank() == 0:
            keep_voices(folder, learned.voices)
        self.history_, self.voices_ = (learned.listened, learned.weighed), learned.voices
        self.head_ = head.eval()
        self.origin_ = origin_of(
            archive,
            self.history_,
            data="" if isinstance(cast, Archive) else (cast.source if isinstance(cast, Manifest) else Path(cast)).name,
            step_seconds=model.step_seconds,
            seed=self.config.learn.listen.seed,
            device=self.device,
            own_score=validate is not None,
        )
        self.model_ = model.to(self.device).eval()
        self.labels_ = archive.labels
        return self

    def _read(
        self, cast: str | Path | Manifest, skip_bad: bool, progress: Progress | None
    ) -> tuple[Sequence[Recording], dict[Path, np.ndarray]]:
        """Read all recordings of a manifest into memory as the model's values."""
        manifest = cast if isinstance(cast, Manifest) else read_manifest(cast, skip_bad=skip_bad)
        check_cast_sizes(manifest.recordings, self.config.model.weigher.slots)  # said before hours of audio are read
        front = self.config.model.front
        if front.kind == "features" and not front.features:
            firsts: list[Features] = []

            def look(path: Path) -> None:
                if not firsts:
                    firsts.append(read_features(path))

            manifest = check_readable(manifest, look, skip_bad=skip_bad)
            front = replace(front, features=firsts[0].values.shape[1], hop_seconds=firsts[0].hop_seconds)
            self.config = replace(self.config, model=replace(self.config.model, front=front))
        model = RecordingModel(self.config.model)
        values: dict[Path, np.ndarray] = {}

        def read(path: Path) -> None:
            heard = model.read(path)
            if len(heard) < least_values(model):
                raise RequestError(f"{path} is too short to learn from; it needs 25 ms or more")
            if front.kind == "features" and model.mix == "log-power":
                check_nats(heard, path)
            if front.kind == "features":
                values[path] = compact(heard)  # log-mel energies are at home in float16, others may not be
            else:
                values[path] = heard.astype(np.float32 if front.kind == "wavlm" else np.float16)

        manifest = check_readable(manifest, read, skip_bad=skip_bad, progress=progress)
        self.skipped_ = tuple(f"line {skipped.line}: {skipped.reason}" for skipped in manifest.skipped)
        return manifest.recordings, values

    def predict(
        self,
        recording: str | Path | np.ndarray,
        *,
        min_speakers: int | None = None,
        max_speakers: int | None = None,
        num_speakers: int | None = None,
        speech: Iterable[tuple[float, float]] | None = None,
        file_id: str | None = None,
        progress: Progress | None = None,
    ) -> Diarization:
        """Say who speaks when: a path (audio, or .npz for a model on features), or values in memory.

        In memory: samples [n] at 16 kHz, or rows [t, f] of the model's features. `speech` is what another program
        found, (start, end) in seconds: outside of it nobody speaks. Raises RequestError for a recording that cannot be
        read, bounds that contradict each other, times that cannot be, or a model that was not fitted.
        """
        model = self._fitted()
        regions = None if speech is None else joined(speech)
        linker = Linker(self.config.link_threshold)
        # where more people are asked for than are found, the likeliest slots of each window stay apart to the end
        insistent = Linker(self.config.link_threshold, hold=True)
        least = (min_speakers if num_speakers is None else num_speakers) or 0
        seconds, frames = 0.0, 0
        single: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        cut = windows(model, recording, self.config.window_seconds, self.config.overlap_seconds)
        for index, (first, values, total) in enumerate(cut):
            tracks, confidence, embeddings = self._weigh(values)
            if regions is not None:
                times = (first + np.arange(len(tracks)) + 0.5) * model.hop_seconds
                tracks, confidence = only_in_speech(tracks, confidence, times, regions, self.config.decode.offset)
            seconds = total
            frames = max(frames, first + len(tracks))
            single = (tracks, confidence, embeddings) if index == 0 else None
            kept = confidence >= self.config.decode.threshold
            linker.add(first, tracks[:, kept], confidence[kept], embeddings[kept])
            if least:
                kept |= confidence >= np.sort(confidence)[-least:][0]
                insistent.add(first, tracks[:, kept], confidence[kept], embeddings[kept])
            if progress is not None:
                progress("apply", index + 1, self._count(total))
        if single is not None:  # one window: every slot stays a candidate
            tracks, confidence, embeddings = single
        else:
            most = num_speakers if num_speakers is not None else max_speakers
            linked = linker.finish(frames, least=least, most=most)
            if len(linked.confidence) < least:
                linked = insistent.finish(frames, least=least, most=most)
            tracks, confidence, embeddings = linked.tracks, linked.confidence, linked.embeddings
        decoded = decode_slots(
            tracks,
            confidence,
            model.hop_seconds,
            duration_seconds=seconds,
            min_speakers=min_speakers,
            max_speakers=max_speakers,
            num_speakers=num_speakers,
            config=self.config.decode,
        )
        named = Path(recording).stem if isinstance(recording, str | Path) else "recording"
        return Diarization(
            file_id=file_id or named,
            segments=decoded.segments,
            speakers=decoded.speakers,
            confidence=confidence[decoded.slots],
            embeddings=embeddings[decoded.slots],
            tracks=_columns(tracks, decoded.slots),
            hop_seconds=model.hop_seconds,
            seconds=seconds,
        )

    def transform(self, recordings: Sequence[str | Path]) -> list[np.ndarray]:
        """Return the unit embeddings [k, e] of the people found in each recording, in order of appearance."""
        return [self.predict(recording).embeddings for recording in recordings]

    def score(self, recordings: Sequence[str | Path], references: str | Path, *, collar: float = 0.0) -> Score:
        """Return the error rates of `predict` against reference RTTM (a file or a folder), in per cent.

        A recording goes by its file name without ending; an empty file of that name says that nobody speaks in it.
        Raises RequestError for two recordings of one name, those the references do not tell of, and as `predict`.
        """
        names, told = recording_ids(recordings), read_rttm_tree(references)
        untold = [name for name in names if name not in told]
        if untold:
            raise RequestError(
                f"{references} tells nothing of {untold[0]!r}, but of {', '.join(list(told)[:5]) or 'nothing'}; add it "
                "(an empty file of its name where nobody speaks), or leave the recording out"
            )
        found = {name: self.predict(path).segments for name, path in zip(names, recordings, strict=True)}
        return score({name: told[name] for name in names}, found, collar=collar)

    def save_pretrained(self, folder: str | Path, *, card: str = "") -> None:
        """Write `config.json`, `model.safetensors` and a model card; the label head stays behind."""
        model = self._fitted()
        labels = len(self.labels_) or self._labels
        config = {"config": to_plain(self.config), "labels": labels, "origin": to_plain(self.origin_)}
        save_folder(Path(folder), model, config, card or card_of(self.origin_, to_plain(self.config)))

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, device: str = "auto") -> Diarizer:
        """Load a model folder; nothing in it is executed. Raises RequestError that says what is wrong."""
        plain, load = load_folder(Path(folder))
        config = from_plain(DiarizerConfig, plain.get("config", {}), Path(folder) / "config.json")
        diarizer = cls(config=config, device=device)
        diarizer._labels = plain.get("labels", 0)
        diarizer.origin_ = from_plain(Origin, plain.get("origin", {}), Path(folder) / "config.json")
        model = RecordingModel(config.model)
        load(model)
        diarizer.model_ = model.to(diarizer.device).eval()
        return diarizer

    def export_onnx(self, path: str | Path) -> float:
        """Write the model from features to tracks as ONNX, and return by how much its numbers differ (1e-4 at most).

        Raises as `weigher.recordings.onnx_export.export_onnx`.
        """
        from weigher.recordings.onnx_export import export_onnx

        return export_onnx(self._fitted(), path)

    def _fitted(self) -> RecordingModel:
        if self.model_ is None:
            raise RequestError("this diarizer has learned nothing yet; call fit(cast) or from_pretrained(folder) first")
        return self.model_

    def most_speakers(self, seconds: float) -> int:
        """Return how many speakers can be asked for in a recording so long: all slots of its windows, at most 100.

        >>> Diarizer(slots=4, device="cpu").most_speakers(10.0), Diarizer(slots=4, device="cpu").most_speakers(70.0)
        (4, 12)
        """
        slots, windows = self.config.model.weigher.slots, self._count(seconds)
        return slots if windows == 1 else min(MOST_PEOPLE, slots * windows)

    def _count(self, seconds: float) -> int:
        return window_count(seconds, self.config.window_seconds, self.config.overlap_seconds)

    @torch.inference_mode()
    def _weigh(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tracks [t, n], confidence [n] and voices [n, e] (unit embeddings) of one window."""
        model = self._fitted()
        slots = self.config.model.weigher.slots
        if len(values) < least_values(model):
            size = self.config.model.encoder.embedding
            return np.zeros((0, slots), np.float32), np.zeros(slots, np.float32), np.zeros((slots, size), np.float32)
        tensor = torch.as_tensor(np.asarray(values, np.float32), device=self.device)[None]
        out = model(tensor, torch.tensor([len(values)], device=self.device))
        voices = model.voice(out.embeddings)
        tracks, confidence, vectors = (part[0].float().cpu().numpy() for part in (out.tracks, out.confidence, voices))
        return tracks, confidence, vectors


def _columns(tracks: np.ndarray, slots: np.ndarray) -> np.ndarray:
    """Those slots of tracks [t, n] as float32 [t, k], one by one: of a long recording two copies are too many."""
    chosen = np.empty((len(tracks), len(slots)), np.float32)
    for column, slot in enumerate(slots):
        chosen[:, column] = tracks[:, slot]
    return chosen


def _archive(recordings: Sequence[Recording], values: dict[Path, np.ndarray], start: Start | None) -> Archive:
    names = sorted({name for recording in recordings for name in recording.cast})
    labels = start.names(names) if start is not None else tuple(names)
    number = {name: index for index, name in enumerate(labels)}
    return Archive(
        values=[values[recording.path] for recording in recordings],
        casts=[[number[name] for name in recording.cast] for recording in recordings],
        labels=labels,
    )

"""Gathering what training goes on with: clear stretches of one person, quiet ones, and in the end all voices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from itertools import groupby

import numpy as np
import torch
from torch import Tensor, nn

from weigher.core.matching import match
from weigher.recordings.archive import Archive
from weigher.recordings.model import RecordingModel
from weigher.recordings.recompose import Stretches, runs
from weigher.recordings.teacher import TeacherConfig, clear_frames

_STRETCH_SECONDS = 0.4
_QUIET_SECONDS = 0.2
_VOICE_SECONDS = 30.0  # heard of a recording for its voices
_AT_ONCE = 16  # recordings of half a minute that are heard at once, fewer of longer ones
_WINDOW_SECONDS, _OVERLAP_SECONDS = 30.0, 5.0  # of what a WavLM hears at once
_MOST_RECORDINGS = 1000  # that are heard for voices: some thousand vectors are enough for 256 dimensions
_HELD_OUT = 20  # one recording in so many validates what is learned


@torch.inference_mode()
def gather(
    model: RecordingModel,
    head: nn.Module,
    share: Tensor,
    archive: Archive,
    config: TeacherConfig,
    *,
    progress: Callable[[str, int, int], None] | None = None,
) -> Stretches:
    """Phase 2: find the stretches of an archive that are clearly one person's, and quiet ones.

    With `archive.times` they take the place of the teacher. Quiet is what `archive.quiet` says, where it is known.
    """
    device = next(head.parameters()).device
    model.to(device).eval()
    head.eval()
    per_frame = round(model.hop_seconds / model.step_seconds)
    found: list[np.ndarray] = []
    table = archive.cast_table()
    for rows in _alike(archive.values, _AT_ONCE * round(_WINDOW_SECONDS / model.step_seconds)):
        if archive.times is None:
            values = torch.as_tensor(np.stack([archive.values[i] for i in rows]).astype(np.float32), device=device)
            cast = table[rows].to(device)
            logits = head(_embeddings(model, values))
            states = clear_frames(logits, cast, share, model.hop_seconds, config).cpu().numpy()
        else:
            states = [_states_of_times(archive.times[i]) for i in rows]
        for index, state in zip(rows, states, strict=True):
            starts, ends, kinds = runs(
                state if archive.quiet is None else _nobody_where_quiet(state, archive.quiet[index])
            )
            least = np.where(kinds == -1, _QUIET_SECONDS, _STRETCH_SECONDS) / model.hop_seconds
            keep = (kinds > -2) & (ends - starts >= least)
            names = np.array([*archive.casts[index], -1])[kinds[keep]]  # kind -1 takes the last, which is -1
            stop = np.minimum(ends[keep] * per_frame, len(archive.values[index]))
            found.append(np.stack([np.full(keep.sum(), index), starts[keep] * per_frame, stop, names], 1))
        if progress is not None:
            progress("gather", len(found), len(archive.values))
    return Stretches(*np.concatenate(found).T)


@torch.inference_mode()
def gather_voices(model: RecordingModel, head: nn.Module, archive: Archive) -> tuple[np.ndarray, np.ndarray]:
    """After training: embeddings [m, e] of the slots that answer for the casts, and their label numbers int [m].

    The labels of a cast are given to slots one to one, by the head; slots that are less than half sure stay out. The
    first 30 s of a recording are heard, and of a large archive 1,000 recordings.
    """
    device = next(head.parameters()).device
    model.to(device).eval()
    head.eval()
    steps = round(_VOICE_SECONDS / model.step_seconds)
    chosen = np.unique(np.linspace(0, len(archive.values) - 1, _MOST_RECORDINGS).round().astype(int))
    heard = [archive.values[index][:steps] for index in chosen]
    vectors, labels = [np.empty((0, model.encoder.config.embedding), np.float32)], [np.empty(0, int)]
    table = archive.cast_table()
    for rows in _alike(heard, _AT_ONCE * steps):
        values = torch.as_tensor(np.stack([heard[i] for i in rows]).astype(np.float32), device=device)
        out = model(values, torch.full((len(rows),), values.shape[1], device=device))
        cast = table[chosen[rows]].to(device)
        logits = head(out.embeddings).gather(2, cast.clamp(min=0)[:, None].expand(-1, out.embeddings.shape[1], -1))
        pairs = match(-logits, (cast >= 0).sum(1))
        sure = out.confidence[pairs.batch, pairs.slot] >= 0.5
        vectors.append(out.embeddings[pairs.batch, pairs.slot][sure].float().cpu().numpy())
        labels.append(cast[pairs.batch, pairs.label][sure].cpu().numpy())
    return np.concatenate(vectors), np.concatenate(labels)


def _alike(values: Sequence[np.ndarray], steps: int) -> Iterator[list[int]]:
    """Yield numbers of recordings of one length, so that no batch is padded: 16 at most, and `steps` in all.

    One that is longer than that is alone.
    """
    order = sorted(range(len(values)), key=lambda i: len(values[i]))
    for length, group in groupby(order, key=lambda i: len(values[i])):
        same, most = list(group), max(1, min(_AT_ONCE, steps // max(1, length)))
        yield from (same[first : first + most] for first in range(0, len(same), most))


def _embeddings(model: RecordingModel, values: Tensor) -> Tensor:
    """Embeddings [b, t, e] of all frames of recordings of one length, values [b, n, f] or [b, samples].

    The attention of a WavLM holds [t, t], so it hears windows; where two overlap, each tells of its own half.
    """
    per_frame = round(model.hop_seconds / model.step_seconds)
    window, half = (round(seconds / model.hop_seconds) for seconds in (_WINDOW_SECONDS, _OVERLAP_SECONDS / 2))
    frames, step = -(-values.shape[1] // per_frame), window - 2 * half

    def heard(part: Tensor) -> Tensor:
        return model.frames(part, torch.full((len(part),), part.shape[1], device=part.device)).embeddings

    if model.wavlm is None or frames <= window:
        return heard(values)
    parts = []
    for begin in range(0, frames - 2 * half, step):
        part = heard(values[:, begin * per_frame : (begin + window) * per_frame])
        parts.append(part[:, half if begin else 0 : half + step if begin + window < frames else None])
    return torch.cat(parts, 1)


def _states_of_times(times: np.ndarray) -> np.ndarray:
    """Who speaks alone in each frame: index into the cast, -1 nobody, -2 several; times bool [t, m] -> int [t]."""
    count = times.sum(1)
    return np.where(count == 1, times.argmax(1), np.where(count == 0, -1, -2))


def _nobody_where_quiet(states: np.ndarray, quiet: np.ndarray) -> np.ndarray:
    """Put nobody (-1) where it is quiet, and there alone: what the head does not know may still be a voice."""
    quiet = np.pad(quiet[: len(states)], (0, max(0, len(states) - len(quiet))))
    return np.where(quiet, -1, np.where(states == -1, -2, states))


def hold_out(stretches: Stretches, recordings: int) -> tuple[Stretches, Stretches | None]:
    """Set one recording in 20 apart to validate on, where there are enough for people to meet there."""
    apart = np.isin(stretches.recording, np.random.default_rng(0).permutation(recordings)[: recordings // _HELD_OUT])
    if recordings < 3 * _HELD_OUT or len(np.unique(stretches.label[apart & (stretches.label >= 0)])) < 2:
        return stretches, None
    if len(np.unique(stretches.label[~apart & (stretches.label >= 0)])) < 2:
        return stretches, None

    def part(chosen: np.ndarray) -> Stretches:
        return Stretches(*(getattr(stretches, each.name)[chosen] for each in fields(stretches)))

    return part(~apart), part(apart)

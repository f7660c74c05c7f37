"""Audio in any libsndfile format, at any rate, with any channels -> mono float32 at 16 kHz, whole, in part or streamed.

One path serves all three: blocks are decoded, checked, averaged over channels and fed to a streaming resampler, so a
window of a stream, a part and a slice of the whole file are the same numbers, and memory does not grow with length.
Where channels are people, as in a call, `stream_channels` keeps them apart.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr

from weigher.errors import RequestError
from weigher.io.atomic import writing

SAMPLE_RATE = 16000
"""Hz; every array of audio in this package has this rate unless its name says otherwise."""

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au", ".caf", ".w64", ".rf64", ".sph")
"""File-name endings, in lower case, that are looked for where audio is named without one."""

_OTHERS = ".aifc .snd .avr .htk .svx .8svx .iff .mat .mpc .mp1 .mp2 .oga .paf .pvf .sd2 .sds .sf .voc .wve .xi .nist"
LIBSNDFILE_SUFFIXES = frozenset({*AUDIO_SUFFIXES, *_OTHERS.split()})
"""Endings, in lower case, of all formats that libsndfile reads by themselves; raw samples do not say what they are."""

_BLOCK_VALUES = 1 << 17  # values (frames x channels) decoded at a time: 0.5 MB
_CONTEXT = 2048  # samples of the slower rate around a part; soxr's filter reaches 183 of them at most
_RATES = (1_000, 1_000_000)  # Hz; a damaged header's 3 Hz would make hours of a file of some kilobytes
_UNKNOWN_LENGTH = 1 << 62  # libsndfile's "as long as it goes" is 2^63 - 1


class AudioError(RequestError):
    """An audio file that is missing, unreadable, empty, cut short, or holds values that are no sound."""


def read_audio(
    path: str | os.PathLike[str], *, start_seconds: float = 0.0, duration_seconds: float | None = None
) -> np.ndarray:
    """Read a recording, or a part of it, as mono float32 [samples] at 16 kHz.

    Sample k of the whole is at k / 16000 s; a part equals that slice of the whole, and only its neighbourhood is
    decoded. A part that runs over the end is shorter than asked; `duration_seconds=None` means to the end. Full scale
    is ±1; float files and resampling may pass it slightly.

    Raises AudioError (file named) when the file is missing, is no audio, is empty or cut short, holds NaN or infinity
    (the time of the first is given), when the part begins after the end, or is too short to hold a sample.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "tone.wav"
    >>> soundfile.write(path, np.zeros((8000, 2)), 8000)  # one second, stereo, 8 kHz
    >>> read_audio(path, start_seconds=0.5).shape
    (8000,)
    """
    if not 0 <= start_seconds < math.inf:
        raise AudioError(f"start_seconds is {start_seconds}; it needs to be 0 or more")
    if duration_seconds is not None and not 0 < duration_seconds < math.inf:
        raise AudioError(f"duration_seconds is {duration_seconds}; it needs to be more than 0")
    last = None
    with _open(path) as file:
        length = file.frames / file.samplerate
        first = round(min(start_seconds, length) * SAMPLE_RATE)  # times beyond the end may be too large to be counted
        if first >= round(length * SAMPLE_RATE):
            raise AudioError(f"{path} is {length:.3f} s long; a part from {start_seconds:g} s on is not in it")
        if duration_seconds is not None:
            last = round(min(start_seconds + duration_seconds, length + 1) * SAMPLE_RATE)
            if last <= first:
                raise AudioError(
                    f"{path}: a part of {duration_seconds:g} s from {start_seconds:g} s on holds no sample; ask for "
                    f"{1 / SAMPLE_RATE} s or more"
                )
        return np.concatenate(list(_blocks(file, path, first, last)))


def stream_audio(
    path: str | os.PathLike[str], *, window_seconds: float, step_seconds: float
) -> Iterator[tuple[float, np.ndarray]]:
    """Yield (start in seconds, mono float32 samples at 16 kHz) windows of a recording, with flat memory.

    Window k starts at k * step and equals that slice of `read_audio`. The last one is the first that reaches the end
    of the recording, and may be shorter than the others; a recording shorter than a window is one window.

    Raises AudioError as `read_audio` does, and when not 0 < step <= window (parts would be left out).

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "tone.wav"
    >>> write_audio(path, np.zeros(5 * SAMPLE_RATE))
    >>> [(start, len(x) / SAMPLE_RATE) for start, x in stream_audio(path, window_seconds=3, step_seconds=1.5)]
    [(0.0, 3.0), (1.5, 3.0), (3.0, 2.0)]
    """
    window = round(window_seconds * SAMPLE_RATE)
    step = round(step_seconds * SAMPLE_RATE)
    if not 0 < step <= window:
        raise AudioError(
            f"windows of {window_seconds} s every {step_seconds} s: the step needs to be above 0 and no longer "
            "than the window, or parts of the recording would be left out"
        )
    with _open(path):  # fail here, at the call, not at the first window
        pass
    return _windows(path, window, step)


def stream_channels(path: str | os.PathLike[str]) -> Iterator[np.ndarray]:
    """Yield all channels of a recording from start to end, float32 blocks [samples, channels] at 16 kHz.

    Blocks are of any length; memory is flat, and their mean over channels is what `read_audio` gives. Raises AudioError
    as `read_audio` does.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "call.wav"
    >>> soundfile.write(path, np.tile([0.0, 0.5], (8000, 1)), 8000)
    >>> call = np.concatenate(list(stream_channels(path)))
    >>> call.shape, call[8000].round(2).tolist()
    ((16000, 2), [0.0, 0.5])
    """
    with _open(path):
        pass
    return _all_channels(path)


def audio_channels(path: str | os.PathLike[str]) -> int:
    """Number of channels of a recording, from its header; raises AudioError as `audio_seconds` does.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "mono.wav"
    >>> write_audio(path, np.zeros(8000))
    >>> audio_channels(path)
    1
    """
    with _open(path) as file:
        return file.channels


def audio_seconds(path: str | os.PathLike[str]) -> float:
    """Length of a recording in seconds, from its header; raises AudioError when it is missing, no audio or empty.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "half.flac"
    >>> write_audio(path, np.zeros(8000))
    >>> audio_seconds(path)
    0.5
    """
    with _open(path) as file:
        return file.frames / file.samplerate


def write_audio(path: str | os.PathLike[str], samples: np.ndarray, sample_rate: int = SAMPLE_RATE) -> None:
    """Write mono samples [samples] within ±1 as 16-bit FLAC or WAV (by the suffix of `path`), whole or not at all.

    Raises AudioError on another suffix, another shape, no samples, NaN, infinity, or values beyond full scale (they
    would be clipped: scale the signal first); WeigherError when the disk is full.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "tone.flac"
    >>> write_audio(path, 0.5 * np.sin(np.arange(1600)))
    >>> read_audio(path).shape
    (1600,)
    """
    kind = {".flac": "FLAC", ".wav": "WAV"}.get(Path(path).suffix.lower())
    if kind is None:
        raise AudioError(f"cannot write {path}: its name needs to end in .flac or .wav")
    samples = np.asarray(samples)
    if samples.ndim != 1 or not samples.size:
        raise AudioError(f"cannot write {path}: samples have the shape {samples.shape}; needed is [samples], not empty")
    peak = float(np.abs(samples).max())
    if not peak <= 1:
        raise AudioError(f"cannot write {path}: the largest value is {peak}; scale the samples into -1 ... 1")
    encoded = io.BytesIO()  # libsndfile swallows a failed write; encoded in memory, the bytes go out by Python's own
    levels = np.minimum(np.round(samples * 2.0**15), 2**15 - 1).astype(np.int16)  # libsndfile would round down, not off
    soundfile.write(encoded, levels, sample_rate, format=kind, subtype="PCM_16")
    with writing(path) as file:
        file.write(encoded.getbuffer())


def _open(path: str | os.PathLike[str]) -> soundfile.SoundFile:
    """Open audio that has at least one sample, or say what is wrong with the file."""
    if not os.path.exists(path):
        raise AudioError(f"{path} does not exist; check the name and the folder it is taken from")
    if not os.path.isfile(path):
        raise AudioError(f"{path} is not a file; give the name of one recording")
    if not os.access(path, os.R_OK):  # libsndfile would speak of a "system error"
        raise AudioError(f"{path} cannot be read (permission denied); make it readable, or leave it out")
    if not os.path.getsize(path):
        raise AudioError(f"{path} is empty (0 bytes); copy or record it again, or leave it out")
    try:
        os.fsdecode(path).encode()
    except UnicodeEncodeError as error:  # results are called after it, and RTTM and JSON are UTF-8
        shown = os.fsencode(path).decode("utf-8", "backslashreplace")
        raise AudioError(f"the name {shown} is not UTF-8; rename the file") from error
    try:
        file = soundfile.SoundFile(os.fspath(path))
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: .raw, which has no header to say its rate
        reason = getattr(error, "error_string", str(error))
        raise AudioError(
            f"{path} cannot be read as audio ({reason}); it may be cut short or of a kind libsndfile does not know: "
            "copy it again, or convert it to FLAC or WAV"
        ) from error
    frames, rate = file.frames, file.samplerate
    likely = _RATES[0] <= rate <= _RATES[1]
    if likely and frames < _UNKNOWN_LENGTH and round(frames * SAMPLE_RATE / rate) > 0:
        return file
    file.close()
    if not likely:
        raise AudioError(
            f"{path} says it has {rate} samples a second; needed are {_RATES[0]} to {_RATES[1]}: its header is "
            "damaged, copy it again"
        )
    if frames >= _UNKNOWN_LENGTH:
        raise AudioError(f"{path} does not say how long it is (made through a pipe?); convert it to FLAC or WAV again")
    raise AudioError(f"{path} is empty: it has a header and {frames} samples; record it again, or leave it out")


def _all_channels(path: str | os.PathLike[str]) -> Iterator[np.ndarray]:
    with _open(path) as file:
        yield from _blocks(file, path, mono=False)


def _blocks(
    file: soundfile.SoundFile,
    path: str | os.PathLike[str],
    first: int = 0,
    last: int | None = None,
    *,
    mono: bool = True,
) -> Iterator[np.ndarray]:
    """Yield samples first:last of the recording at 16 kHz, block by block: [samples], or not `mono`, with channels."""
    rate = file.samplerate
    if rate == SAMPLE_RATE:
        yield from _decoded(file, path, first, last, mono)
        return
    # Begin where a source sample and a 16 kHz sample coincide, far enough ahead for the filter: the phase, and with it
    # every value, is then that of the whole file.
    divisor = math.gcd(rate, SAMPLE_RATE)
    source_step, target_step = rate // divisor, SAMPLE_RATE // divisor
    context = math.ceil(_CONTEXT * SAMPLE_RATE / min(rate, SAMPLE_RATE))
    begin = max(0, first - context) // target_step
    end = None if last is None else math.ceil((last + context) * rate / SAMPLE_RATE)
    position = begin * target_step
    resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1 if mono else file.channels, dtype="float32")
    nothing = np.empty(0 if mono else (0, file.channels), np.float32)
    for block in _decoded_then_end(file, path, begin * source_step, end, mono):
        flush = block is None
        resampled = resampler.resample_chunk(nothing if flush else block, last=flush)
        kept = resampled[max(0, first - position) : None if last is None else max(0, last - position)]
        position += len(resampled)
        if len(kept):
            yield kept


def _decoded_then_end(file, path, first: int, last: int | None, mono: bool) -> Iterator[np.ndarray | None]:
    yield from _decoded(file, path, first, last, mono)
    yield None


def _decoded(
    file: soundfile.SoundFile, path: str | os.PathLike[str], first: int, last: int | None, mono: bool
) -> Iterator[np.ndarray]:
    """Yield frames first:last at the file's own rate, `mono`: mean over channels; AudioError on a damaged file."""
    end = file.frames if last is None else min(last, file.frames)
    block_frames = max(1, _BLOCK_VALUES // file.channels)
    position = first
    try:
        if first:
            file.seek(first)
        while position < end:
            block = file.read(min(block_frames, end - position), dtype="float32", always_2d=True)
            if not len(block):
                raise AudioError(_cut_short(path, position, file))
            finite = np.isfinite(block).all(axis=1)
            if not finite.all():
                seconds = (position + int(np.argmin(finite))) / file.samplerate
                raise AudioError(
                    f"{path} holds a value that is no number (NaN or infinity) at {seconds:.4f} s; "
                    "write the file again from its source, or cut that place out"
                )
            position += len(block)
            yield block.mean(axis=1) if mono else block
    except soundfile.LibsndfileError as error:
        raise AudioError(_cut_short(path, position, file)) from error


def _cut_short(path: str | os.PathLike[str], position: int, file: soundfile.SoundFile) -> str:
    return (
        f"{path} is damaged or cut short: its header promises {file.frames / file.samplerate:.2f} s, but it cannot be "
        f"read past {position / file.samplerate:.2f} s; copy it again, or convert what is left of it"
    )


def _windows(path: str | os.PathLike[str], window: int, step: int) -> Iterator[tuple[float, np.ndarray]]:
    first = 0
    held = np.empty(0, np.float32)
    with _open(path) as file:
        for block in _blocks(file, path):
            held = np.concatenate([held, block])
            while len(held) > window:  # more follows, so this window is not the last
                yield first / SAMPLE_RATE, held[:window].copy()
                held = held[step:]
                first += step
    yield first / SAMPLE_RATE, held

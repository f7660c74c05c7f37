"""Log-mel energies of a waveform: the default front end, with nothing to download.

For frame t with samples x[160 t ... 160 t + 399], w a Hann window, M the mel filters and k the bins of a 512-point
Fourier transform:

    y_tm = log max( sum_k M_km |FFT(w x_t)_k|^2, floor )

A frame is kept only where its whole window lies inside the recording: there is no padding at the ends, so frame t
covers 10 t ... 10 t + 25 ms, and what follows a recording in a batch never reaches its frames.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from weigher.errors import RequestError
from weigher.io.audio import SAMPLE_RATE

WINDOW_SAMPLES = 400
"""Samples under one window: 25 ms."""
HOP_SAMPLES = 160
"""Samples from one frame to the next: 10 ms."""
FFT_SAMPLES = 512
"""Length of the Fourier transform; the window is followed by zeros."""

_LOST = 0.01  # of a feature's spread, that rounding may take
_FRAMES_AT_ONCE = 1 << 14  # over the batch; about 70 MB beside input and output, however long the recording


@dataclass(frozen=True)
class LogMelConfig:
    """What log-mel energies to compute."""

    mels: int = 80
    """Bands; 40, 64 and 80 are usual."""
    low_hertz: float = 20.0
    """Lower edge of the lowest band."""
    high_hertz: float = 8000.0
    """Upper edge of the highest band; 8000 at most."""
    floor: float = 1e-7
    """Smallest energy, for samples in [-1, 1]; the noise of 16-bit samples lies below it, so that digital silence and
    dithered silence look alike."""
    remove_mean: bool = True
    """Subtract each band's mean over the real frames of the recording."""

    def __post_init__(self) -> None:
        """Refuse bands that cannot be computed."""
        if self.mels < 1:
            raise RequestError(f"mels is {self.mels}; at least 1 is needed, and 40, 64 or 80 are usual")
        if not 0 <= self.low_hertz < self.high_hertz <= SAMPLE_RATE / 2:
            raise RequestError(
                f"low_hertz is {self.low_hertz:g}, high_hertz is {self.high_hertz:g}; "
                f"they need to be in order and between 0 and {SAMPLE_RATE // 2}"
            )
        if not self.floor > 0:
            raise RequestError(f"floor is {self.floor:g}; the logarithm needs a floor above 0, such as 1e-7")


def frames(samples: int) -> int:
    """Count the frames of a recording: 1 + floor((samples - 400) / 160), and 0 below 400 samples (25 ms).

    >>> frames(399), frames(400), frames(16000)
    (0, 1, 98)
    """
    return max(0, 1 + (samples - WINDOW_SAMPLES) // HOP_SAMPLES)


def frame_mask(counts: Tensor, length: int) -> Tensor:
    """Mark the real frames: counts int [b], length t -> bool [b, t], True for the first counts[b] frames.

    >>> frame_mask(torch.tensor([3, 0]), 4).tolist()
    [[True, True, True, False], [False, False, False, False]]
    """
    return torch.arange(length, device=counts.device) < counts[:, None]


def checked_lengths(waveform: Tensor, lengths: Tensor | None) -> list[int]:
    """Return the samples of each recording in a batch: waveform [b, samples], lengths int [b] or None for all.

    Raises RequestError when the waveform is not [b, samples] or a length is not between 0 and samples.

    >>> checked_lengths(torch.zeros(2, 5), torch.tensor([3, 5])), checked_lengths(torch.zeros(2, 5), None)
    ([3, 5], [5, 5])
    """
    if waveform.ndim != 2:
        raise RequestError(f"the waveform has shape {tuple(waveform.shape)}; it needs to be [batch, samples]")
    batch, samples = waveform.shape
    if lengths is None:
        return [samples] * batch
    counts = [int(length) for length in lengths.tolist()]
    if len(counts) != batch or any(not 0 <= count <= samples for count in counts):
        raise RequestError(f"lengths is {counts}; {batch} numbers of samples between 0 and {samples} are needed")
    return counts


def mel_filters(mels: int, low_hertz: float, high_hertz: float) -> Tensor:
    """Make triangular filters with peaks of 1, equally spaced on the HTK mel scale: float64 [257, mels].

    Mel m = 2595 log10(1 + f / 700); filter k rises linearly in hertz from edge k to k + 1 and falls to edge k + 2.

    Raises RequestError when a band is so narrow that no Fourier bin (31.25 Hz apart) lies in it.

    >>> mel_filters(40, 20.0, 8000.0).shape
    torch.Size([257, 40])
    """
    low, high = 2595 * np.log10(1 + np.array([low_hertz, high_hertz]) / 700)
    edges = 700 * (10 ** (np.linspace(low, high, mels + 2) / 2595) - 1)
    bins = np.linspace(0, SAMPLE_RATE / 2, FFT_SAMPLES // 2 + 1)[:, None]
    rise = (bins - edges[:-2]) / np.diff(edges[:-1])
    fall = (edges[2:] - bins) / np.diff(edges[1:])
    filters = np.maximum(0, np.minimum(rise, fall))
    empty = int((filters.sum(axis=0) == 0).sum())
    if empty:
        raise RequestError(
            f"{mels} bands between {low_hertz:g} and {high_hertz:g} Hz leave {empty} without a Fourier bin; "
            "ask for fewer mels or a wider range"
        )
    return torch.from_numpy(filters)


def log_mel(
    waveform: Tensor,
    window: Tensor,
    filters: Tensor,
    *,
    floor: float = LogMelConfig.floor,
    frames_at_once: int = _FRAMES_AT_ONCE,
) -> Tensor:
    """Compute log-mel energies (natural logarithm) of whole batches, a stretch of frames at a time.

    Shapes: waveform [b, samples] in [-1, 1], window [400], filters [257, m] -> [b, t, m] with t = frames(samples).
    Memory beside input and output does not grow with length; the stretch changes no number beyond rounding.

    >>> y = log_mel(torch.zeros(1, 16000), torch.hann_window(400), mel_filters(40, 20.0, 8000.0).float())
    >>> y.shape, round(y.max().item(), 3)
    (torch.Size([1, 98, 40]), -16.118)
    """
    batch, samples = waveform.shape
    total = frames(samples)
    step = max(1, frames_at_once // max(1, batch))
    pieces = [waveform.new_empty(batch, 0, filters.shape[1])]
    for first in range(0, total, step):
        last = min(first + step, total) - 1
        stretch = waveform[:, first * HOP_SAMPLES : last * HOP_SAMPLES + WINDOW_SAMPLES]
        windows = stretch.unfold(-1, WINDOW_SAMPLES, HOP_SAMPLES) * window  # [b, t, 400]
        spectrum = torch.fft.rfft(windows, n=FFT_SAMPLES)  # [b, t, 257]
        energy = spectrum.real.square() + spectrum.imag.square()
        pieces.append((energy @ filters).clamp(min=floor).log())
    return torch.cat(pieces, dim=1)


def compact(values: np.ndarray) -> np.ndarray:
    """Return features float32 `[t, f]` as float16, or as they are where that would lose what they say.

    That is where rounding is more than a hundredth of the spread of one of them, or a value beyond float16.

    >>> rows = np.linspace(0, 1, 10, dtype=np.float32)[:, None]
    >>> compact(rows).dtype, compact(2000 + rows).dtype, compact(1e6 * rows).dtype
    (dtype('float16'), dtype('float32'), dtype('float32'))
    """
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    lost = np.sqrt(np.square(half.astype(np.float32) - values, dtype=np.float64).mean(0))
    is_constant = values.max(0) == values.min(0)
    fits = np.isfinite(half).all(0) & (is_constant | (lost <= _LOST * values.std(0, dtype=np.float64)))
    return half if fits.all() else values.astype(np.float32, copy=False)


def remove_mean(features: Tensor, mask: Tensor, mean: Tensor | None = None) -> Tensor:
    """Subtract each feature's mean over the real frames, which takes away level and channel.

    Shapes: features [b, t, f], mask bool [b, t] -> [b, t, f], zero where the mask is False. `mean` [b, 1, f] is
    subtracted instead where it is given: for a window of a long recording, the mean over the whole of it.

    >>> remove_mean(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]])).flatten().tolist()
    [-1.0, 1.0, 0.0]
    """
    if mean is None:
        mean = recording_mean(features, mask)
    return (features - mean).masked_fill(~mask[..., None], 0.0)


def recording_mean(features: Tensor, mask: Tensor) -> Tensor:
    """Average over the real frames: features [b, t, f], mask bool [b, t] -> [b, 1, f]; 0 where there is none.

    >>> recording_mean(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]])).item()
    2.0
    """
    total = features.masked_fill(~mask[..., None], 0.0).sum(dim=1, keepdim=True)
    return total / mask.sum(dim=1).clamp(min=1)[:, None, None]


class LogMel(nn.Module):
    """Waveform at 16 kHz -> log-mel features with their mask; no parameters.

    Shapes: waveform [b, samples], lengths int [b] (samples that are real; all when None) -> features [b, t, mels] and
    mask bool [b, t], t = frames(samples); features are zero where the mask is False. Computed in float32 at least, also
    under autocast: energies span more than half precision holds. Raises RequestError when a setting cannot be
    served (see `LogMelConfig`, `mel_filters`) or lengths do not fit.

    >>> front = LogMel(LogMelConfig(mels=40))
    >>> features, mask = front(torch.randn(2, 16000), torch.tensor([16000, 8000]))
    >>> features.shape, mask.sum(dim=1).tolist()
    (torch.Size([2, 98, 40]), [98, 48])
    """

    hop_seconds = HOP_SAMPLES / SAMPLE_RATE
    window: Tensor
    filters: Tensor

    def __init__(self, config: LogMelConfig | None = None) -> None:
        super().__init__()
        self.config = config or LogMelConfig()
        filters = mel_filters(self.config.mels, self.config.low_hertz, self.config.high_hertz)
        self.register_buffer("window", torch.hann_window(WINDOW_SAMPLES, dtype=torch.float64).float(), persistent=False)
        self.register_buffer("filters", filters.float(), persistent=False)
        self.features = self.config.mels

    def frames(self, samples: int) -> int:
        """Count the frames of a recording of so many samples."""
        return frames(samples)

    def forward(self, waveform: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Compute features [b, t, mels] and mask [b, t] of waveform [b, samples]."""
        counts = torch.tensor([frames(n) for n in checked_lengths(waveform, lengths)], device=waveform.device)
        mask = frame_mask(counts, frames(waveform.shape[1]))
        dtype = torch.promote_types(waveform.dtype, torch.float32)
        with torch.autocast(waveform.device.type, enabled=False):
            window, filters = self.window.to(dtype), self.filters.to(dtype)
            values = log_mel(waveform.to(dtype), window, filters, floor=self.config.floor)
            if self.config.remove_mean:
                return remove_mean(values, mask), mask
            return values.masked_fill(~mask[..., None], 0.0), mask

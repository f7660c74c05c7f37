"""Single voices made ready for joining: trimmed, level and channel equalised, so that no splice gives a voice away.

A bank answers for each utterance of a `Voices`: how long is what is left of it (`length`), and give it to me (`piece`).
What a listener (or a network) could use instead of the voice is taken out here: the long-term level, the long-term
spectrum (microphone, room, and with them part of the timbre), and, in features, the silence between the words, which
after mean removal is another constant in every utterance.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from scipy.ndimage import binary_closing, binary_dilation
from scipy.signal import fftconvolve

from weigher.errors import RequestError
from weigher.io.voices import Utterance, Voices
from weigher.recordings.silence import WIDEST_NATS

LEVEL = 0.05  # root mean square of active speech, full scale = 1: -26 dB
CROSS_FADE = 160  # samples: 10 ms
_SURVEY = {"features": 256, "audio": 64}  # utterances that the common spectrum is averaged over
_FRAME, _FFT = 160, 512  # samples: energies every 10 ms, spectra over 32 ms
_SHORTEST = 800  # samples: a stretch under 50 ms gives no spectrum to equalise
_CACHED_SAMPLES = 2**26  # of prepared utterances: 256 MB
_CEPSTRA = 12  # the equaliser follows the spectrum's broad shape and leaves formants and harmonics alone
_GAIN_LIMIT = 12 * np.log(10) / 20  # nats of amplitude: 12 dB
_TAPS = 257


def active_frames(energies: np.ndarray) -> np.ndarray:
    """Return where an utterance sounds [t] bool: above 0.3 of the way from quiet to loud log energies [t] (nats).

    Quiet and loud are the 5 % and 95 % quantiles; where they lie closer than 6 dB (1.4 nats) all of it is active.

    >>> active_frames(np.array([0.0, 0.0, 9.0, 8.0, 0.5])).tolist()
    [False, False, True, True, False]
    """
    quiet, loud = np.quantile(energies, (0.05, 0.95))
    if loud - quiet < 1.4:
        return np.ones(len(energies), dtype=bool)
    return energies > quiet + 0.3 * (loud - quiet)


def kept_frames(active: np.ndarray, hop_seconds: float) -> np.ndarray:
    """Return which frames [t] stay when silence is cut: pauses up to 0.3 s, and 50 ms around what sounds.

    A turn cut from what is kept holds speech all the way, so the reference times agree with what is heard.

    >>> active = np.zeros(100, dtype=bool)
    >>> active[[20, 40, 80]] = True
    >>> np.flatnonzero(kept_frames(active, 0.01)).tolist() == [*range(15, 46), *range(75, 86)]
    True
    """
    pause, margin = round(0.3 / hop_seconds), round(0.05 / hop_seconds)
    padded = np.pad(active, pause + margin)
    closed = binary_closing(padded, np.ones(pause + 1, dtype=bool)) | padded
    kept = binary_dilation(closed, np.ones(2 * margin + 1, dtype=bool)) if margin else closed
    return kept[pause + margin : len(padded) - pause - margin]


class FeatureBank:
    """Utterances as log-mel energies (natural logarithm); `piece` gives their power [t, f] without the silence's.

    With x the energies, m_c the mean of channel c over active frames and q_c its 5 % quantile, both per utterance,
    frames are active by log mean_c exp(x - q) (`active_frames`), and
    offset_c = common mean_c - m_c (with `equalise_channel`; else the mean of that over channels: level only), and
    power = max(exp(x + offset) - exp(q + offset), 0). `floor` [f] is the power of the common silence, the mean of
    q + offset over utterances, and `quiet` [n, f] holds what the quietest 5 % of frames add to it, in nats.
    """

    def __init__(self, voices: Voices, *, equalise_channel: bool) -> None:
        self.voices = voices
        self.of_speaker = _by_speaker(voices)
        self.unit_seconds = voices.hop_seconds
        self._equalise_channel = equalise_channel
        survey = [self._measure(_loaded(voices.utterances[i])) for i in _survey(voices)]
        self._common = np.mean([mean for mean, _, _, _ in survey], axis=0)
        offsets = [self._offset(mean) for mean, _, _, _ in survey]
        self.floor = np.exp(np.mean([low + d for (_, low, _, _), d in zip(survey, offsets, strict=True)], axis=0))
        self.quiet = np.concatenate([quiet - low for _, low, _, quiet in survey]).astype(np.float32)
        self.level = np.mean(
            [np.exp(active + d).mean(0) for (_, _, active, _), d in zip(survey, offsets, strict=True)], 0
        )
        self._recipe = lru_cache(maxsize=None)(self._make_recipe)  # small, and slower to make than to follow
        self.piece: Callable[[int], np.ndarray] = lru_cache(maxsize=512)(self._piece)

    def length(self, index: int) -> int:
        """Return how many frames of the utterance are kept."""
        return int(self._recipe(index)[0].sum())

    def _measure(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        low, active, energies = _quiet_and_active(x)
        quietest = x[np.argsort(energies, kind="stable")[: max(1, len(x) // 20)]]
        return x[active].mean(0), low, x[active], quietest

    def _offset(self, mean: np.ndarray) -> np.ndarray:
        offset = self._common - mean
        return offset if self._equalise_channel else np.full_like(offset, offset.mean())

    def _make_recipe(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Frames to keep [t], offset [f], and power of the utterance's own silence after it [f]."""
        x = _loaded(self.voices.utterances[index])
        low, active, _ = _quiet_and_active(x)
        offset = self._offset(x[active].mean(0)).astype(np.float32)
        return kept_frames(active, self.unit_seconds), offset, np.exp(low + offset)

    def _piece(self, index: int) -> np.ndarray:
        kept, offset, silence = self._recipe(index)
        return np.maximum(np.exp(_loaded(self.voices.utterances[index])[kept] + offset) - silence, 0.0)


class AudioBank:
    """Utterances as 16 kHz samples; `piece` gives them trimmed, at the common level, with the common broad spectrum.

    The equaliser is a symmetric filter of 257 taps per utterance, whose gain is (common - own) log spectrum over active
    frames, smoothed to 12 cepstral coefficients and held within 12 dB. `length` leaves the last 10 ms for cross-fades.
    """

    def __init__(self, voices: Voices, *, equalise_channel: bool) -> None:
        self.voices = voices
        self.of_speaker = _by_speaker(voices)
        self.unit_seconds = voices.hop_seconds
        self._equalise_channel = equalise_channel
        survey = [x for x in (_loaded(voices.utterances[i]) for i in _survey(voices)) if len(x) >= _SHORTEST]
        self._common = np.mean([_broad_spectrum(x) for x in survey] or [np.zeros(_FFT // 2 + 1)], axis=0)
        held = int(_CACHED_SAMPLES // max(_SHORTEST, np.mean([len(x) for x in survey] or [0])))
        self.length = lru_cache(maxsize=None)(lambda index: max(0, len(self.piece(index)) - CROSS_FADE))
        self.piece: Callable[[int], np.ndarray] = lru_cache(maxsize=held)(self._piece)

    def _piece(self, index: int) -> np.ndarray:
        x = _loaded(self.voices.utterances[index])
        if len(x) < _SHORTEST:
            return np.zeros(0, dtype=np.float32)
        if self._equalise_channel:
            x = _filtered(x, self._common - _broad_spectrum(x))
        active = active_frames(_log_energies(x))
        sounding = np.repeat(active, _FRAME)
        x = x * (LEVEL / max(float(np.sqrt(np.mean(x[: len(sounding)][sounding] ** 2))), 1e-9))
        kept = np.repeat(kept_frames(active, _FRAME * self.unit_seconds), _FRAME)
        return _joined(x[: len(kept)], kept).astype(np.float32)


VoiceBank = FeatureBank | AudioBank


def voice_bank(voices: Voices, *, equalise_channel: bool = True) -> VoiceBank:
    """Return the bank for the kind of `voices`; build it once where several simulations draw on the same voices.

    Without `equalise_channel` only the level is equalised. Raises `RequestError` where there are no utterances.
    """
    if not voices.utterances:
        raise RequestError("the voices hold no utterance: give at least one per speaker.")
    bank = FeatureBank if voices.kind == "features" else AudioBank
    return bank(voices, equalise_channel=equalise_channel)


def _by_speaker(voices: Voices) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for i, utterance in enumerate(voices.utterances):
        found.setdefault(utterance.speaker, []).append(i)
    return found


def _loaded(utterance: Utterance) -> np.ndarray:
    values = utterance.load()
    if not len(values):
        raise RequestError(f"utterance {utterance.name!r} of speaker {utterance.speaker!r} is empty: leave it out.")
    return values


def _survey(voices: Voices) -> np.ndarray:
    """Evenly spaced utterances, which for voices sorted by speaker also spread over speakers."""
    count = len(voices.utterances)
    return np.unique(np.linspace(0, count - 1, min(count, _SURVEY[voices.kind])).astype(int))


def _quiet_and_active(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Quiet level per channel [f], active frames [t], and the log energies over it [t] that decide on them."""
    if np.ptp(x) > WIDEST_NATS:
        raise RequestError(f"features span {np.ptp(x):.0f}: needed are log-mel energies in natural logarithm, not dB.")
    low = np.quantile(x, 0.05, axis=0).astype(np.float32)
    energies = np.log(np.exp(x - low).mean(1))
    return low, active_frames(energies), energies


def _log_energies(x: np.ndarray) -> np.ndarray:
    frames = x[: len(x) // _FRAME * _FRAME].reshape(-1, _FRAME).astype(np.float64)
    return np.log(np.mean(frames**2, axis=1) + 1e-10)


def _broad_spectrum(x: np.ndarray) -> np.ndarray:
    """Mean log power spectrum of active frames in nats [257], smoothed over frequency, without its level."""
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(x, (0, _FFT)), _FFT)[::_FRAME]
    active = active_frames(_log_energies(x))
    power = np.abs(np.fft.rfft(frames[: len(active)][active] * np.hanning(_FFT))) ** 2
    cepstrum = np.fft.irfft(np.log(power.mean(0) + 1e-10))
    cepstrum[_CEPSTRA + 1 : -_CEPSTRA] = 0.0
    cepstrum[0] = 0.0
    return np.fft.rfft(cepstrum).real


def _filtered(x: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """`x` through a symmetric filter with this log power gain in nats [257]."""
    amplitude = np.exp(np.clip(gain / 2, -_GAIN_LIMIT, _GAIN_LIMIT))
    response = np.roll(np.fft.irfft(amplitude), _TAPS // 2)[:_TAPS] * np.hanning(_TAPS + 2)[1:-1]
    return fftconvolve(x, response, mode="same")


def _joined(x: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The kept runs of `x`, each cross-faded over 10 ms with the next."""
    borders = np.flatnonzero(np.diff(np.pad(kept.astype(np.int8), 1)))
    joined = x[borders[0] : borders[1]]
    for start, stop in zip(borders[2::2], borders[3::2], strict=True):
        fade = min(CROSS_FADE, len(joined), stop - start)
        rise = (np.arange(fade) + 0.5) / fade
        middle = joined[-fade:] * (1 - rise) + x[start : start + fade] * rise
        joined = np.concatenate([joined[:-fade], middle, x[start + fade : stop]])
    return joined

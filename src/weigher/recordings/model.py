"""The whole model: front end, frame encoder, weigher, the space of voices, and the label head that only training needs.

Values of a recording are what the archive holds in memory: log-mel energies, features that were computed before, or
samples (WavLM). They pass through `RecordingModel.frames` and `Weigher`; the head names the labels of training. What
people hear of is `RecordingModel.voice` of the slot embeddings, which compares voices that training never heard.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weigher.errors import RequestError
from weigher.io.audio import SAMPLE_RATE, read_audio
from weigher.io.features import read_features
from weigher.recordings.encoder import EncoderConfig, FrameEncoder, Frames
from weigher.recordings.features import HOP_SAMPLES, LogMel, LogMelConfig, remove_mean
from weigher.recordings.silence import Mix
from weigher.recordings.voice_space import VoiceSpace
from weigher.recordings.weigher import Weighed, Weigher, WeigherConfig


@dataclass(frozen=True)
class FrontConfig:
    """Where features come from."""

    kind: Literal["log-mel", "features", "wavlm"] = "log-mel"
    """Log-mel energies of audio; .npz files of features computed before; a WavLM of transformers."""
    mels: int = 40
    """Bands (log-mel)."""
    wavlm: str = ""
    """Local folder or hub name of the WavLM."""
    fine_tune: bool = False
    """Train the WavLM too, not only the mix of its layers."""
    features: int = 0
    """Size of one row (features); read from the first recording."""
    hop_seconds: float = 0.0
    """Seconds from one row to the next (features); read from the first recording."""
    additive: bool = True
    """The features are natural logarithms of power, so that voices can be added (features); False for embeddings."""


@dataclass(frozen=True)
class ModelConfig:
    """Everything that shapes the model."""

    front: FrontConfig = field(default_factory=FrontConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    weigher: WeigherConfig = field(default_factory=WeigherConfig)


def prior_bias(labels: int) -> float:
    """Bias at which somebody of whom nothing is known has one right label among all: log 1 / (C - 1).

    >>> round(prior_bias(3), 4)
    -0.6931
    """
    return -math.log(max(labels - 1, 1))


class LabelHead(nn.Module):
    """Logits of C labels from an embedding: scaled cosines with one bias for all, z = a cos(e, v_c) + b.

    >>> LabelHead(256, 40)(torch.randn(2, 5, 256)).shape
    torch.Size([2, 5, 40])
    >>> [round(LabelHead(8, labels).bias.item(), 2) for labels in (3, 1000)]
    [-4.0, -6.91]
    """

    def __init__(self, embedding: int, labels: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.randn(labels, embedding) / math.sqrt(embedding))
        self.scale = nn.Parameter(torch.tensor(12.0))
        # From far above the prior of hundreds of labels the first steps are spent on their number; and where labels are
        # few, a pooling that weighs frames by their own probability cannot begin with all of them likely.
        self.bias = nn.Parameter(torch.tensor(min(-4.0, prior_bias(labels))))

    def forward(self, embeddings: Tensor) -> Tensor:
        """Score embeddings [..., e] -> [..., c]."""
        cosines = F.linear(F.normalize(embeddings.float(), dim=-1), F.normalize(self.vectors, dim=-1))
        return self.scale * cosines + self.bias


class RecordingModel(nn.Module):
    """Values of recordings -> frames, tracks, embeddings, confidences.

    >>> model = RecordingModel(ModelConfig(weigher=WeigherConfig(slots=3))).eval()
    >>> out = model(torch.randn(2, 400, 40), torch.tensor([400, 300]))
    >>> out.tracks.shape, round(model.hop_seconds, 3)
    (torch.Size([2, 100, 3]), 0.04)
    """

    def __init__(self, config: ModelConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or ModelConfig()
        front = config.front
        self.wavlm: nn.Module | None = None
        self.mix: Mix = "log-power"
        if front.kind == "log-mel":
            self.log_mel = LogMel(LogMelConfig(mels=front.mels, remove_mean=False))
            size, self.step_seconds, feature_hop = front.mels, HOP_SAMPLES / SAMPLE_RATE, HOP_SAMPLES / SAMPLE_RATE
        elif front.kind == "features":
            if front.features < 1 or front.hop_seconds <= 0:
                raise RequestError(
                    "a model on features needs their size and hop_seconds; give both in the front config"
                )
            size, self.step_seconds, feature_hop = front.features, front.hop_seconds, front.hop_seconds
            self.mix = "log-power" if front.additive else "replace"
        else:
            if not front.wavlm:
                raise RequestError("the WavLM front end needs a local folder or a hub name; give it as `wavlm`")
            from weigher.recordings.wavlm import WavLMFeatures

            self.wavlm = body = WavLMFeatures(front.wavlm, fine_tune=front.fine_tune)
            size, self.step_seconds, feature_hop = body.features, 1 / SAMPLE_RATE, body.hop_seconds
            self.mix = "waveform"
        self.encoder = FrameEncoder(size, config.encoder)
        self.weigher = Weigher(self.encoder.channels, config.encoder.embedding, config.weigher)
        self.voice = VoiceSpace(config.encoder.embedding)
        self.hop_seconds = feature_hop * self.encoder.stride

    def read(self, path: str | Path) -> np.ndarray:
        """Read a recording as this model's values: float32 [t, f] rows or [samples]."""
        if self.config.front.kind == "features":
            features = read_features(path)
            if features.values.shape[1] != self.config.front.features or not math.isclose(
                features.hop_seconds, self.config.front.hop_seconds, rel_tol=1e-3
            ):
                raise RequestError(
                    f"{path} holds {features.values.shape[1]} features every {features.hop_seconds:g} s; this model "
                    f"needs {self.config.front.features} every {self.config.front.hop_seconds:g} s, computed alike"
                )
            return features.values
        return self.values(read_audio(path))

    @torch.inference_mode()
    def values(self, samples: np.ndarray) -> np.ndarray:
        """Turn samples at 16 kHz into values: log-mel energies [t, f], or the samples themselves (WavLM)."""
        if self.config.front.kind == "wavlm":
            return samples
        device = self.log_mel.filters.device
        return self.log_mel(torch.from_numpy(samples)[None].to(device))[0][0].cpu().numpy()

    def frames(self, values: Tensor, lengths: Tensor) -> Frames:
        """Encode values [b, t, f] or [b, samples] of which the first lengths int [b] are real."""
        if self.wavlm is not None:
            features, mask = self.wavlm(values, lengths)
        else:
            mask = torch.arange(values.shape[1], device=values.device) < lengths[:, None]
            features = values
            if self.mix == "log-power":
                features = remove_mean(features, mask)
        return self.encoder(features, mask)

    def forward(self, values: Tensor, lengths: Tensor) -> Weighed:
        """Weigh values [b, t, f] or [b, samples] of which the first lengths int [b] are real."""
        return self.weigher(self.frames(values, lengths))

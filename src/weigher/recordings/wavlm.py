"""WavLM as a front end: a pretrained speech model of `transformers`, frozen under a learned layer mix or fine-tuned.

With H_l the hidden states after layer l (l = 0 enters the first layer) and one learned number a_l for each:

    y = sum_l softmax(a)_l H_l

Reference: Chen et al. 2021, "WavLM", arXiv 2110.13900; the layer mix is that of SUPERB (arXiv 2105.01051).
"""

import math
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from weigher.errors import RequestError
from weigher.io.audio import SAMPLE_RATE
from weigher.recordings.features import checked_lengths, frame_mask

_UNUSED = "masked_spec_embed"  # stands in for masked frames in pre-training; nothing is masked here


class WavLMFeatures(nn.Module):
    """Waveform at 16 kHz -> WavLM features at 50 Hz with their mask.

    Shapes: waveform [b, samples] in [-1, 1], lengths int [b] (samples that are real; all when None) -> features
    [b, t, f] (f = 768 for the base models, 1024 for the large one) and mask bool [b, t]; features are zero where the
    mask is False. A recording below 400 samples (25 ms) has no frame.

    `source` is a folder (read without network) or a name on the Hugging Face hub. Weights are read from safetensors
    only, since other formats can run code. Frozen, the body has no gradient and stays in evaluation mode, and the
    layer mix learns; with `fine_tune` all learn. LayerDrop and SpecAugment are off: the first would take layers away
    from the mix, the second draws from numpy's global generator.

    A padded batch gives the numbers of its single files because recordings of one length go through the model
    together and others apart. It cannot be had otherwise: the base models normalise their first convolution over
    all of the time axis (`feat_extract_norm="group"`), so padding would shift every frame. Batches of one length are
    fastest. Attention holds [b, heads, t, t]: cut long recordings into windows.

    Raises RequestError when transformers is missing or the model cannot be loaded whole.

    >>> import tempfile
    >>> from transformers import WavLMConfig, WavLMModel
    >>> size = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, conv_dim=(4,) * 7)
    >>> folder = tempfile.mkdtemp()
    >>> WavLMModel(WavLMConfig(**size, num_conv_pos_embedding_groups=2)).save_pretrained(folder)
    >>> front = WavLMFeatures(folder)
    >>> features, mask = front(torch.randn(2, 16000), torch.tensor([16000, 8000]))
    >>> features.shape, mask.sum(dim=1).tolist(), front.hop_seconds
    (torch.Size([2, 49, 8]), [49, 24], 0.02)
    """

    def __init__(self, source: str | Path, *, fine_tune: bool = False) -> None:
        super().__init__()
        self.fine_tune = fine_tune
        self.model, self.standardise = _load(source)
        config = self.model.config
        self.features: int = config.hidden_size
        self.hop_seconds: float = math.prod(config.conv_stride) / SAMPLE_RATE
        self.layer_logits = nn.Parameter(torch.zeros(config.num_hidden_layers + 1))
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(fine_tune and name != _UNUSED)  # distributed training wants every gradient used
        self.train()

    def train(self, mode: bool = True) -> "WavLMFeatures":
        """Switch training on or off; a frozen body stays in evaluation mode, without dropout."""
        super().train(mode)
        self.model.train(mode and self.fine_tune)
        return self

    def frames(self, samples: int) -> int:
        """Count the frames of a recording: floor((n - kernel) / stride) + 1 for each convolution in turn."""
        for kernel, stride in zip(self.model.config.conv_kernel, self.model.config.conv_stride, strict=True):
            samples = max(0, (samples - kernel) // stride + 1)
        return samples

    def forward(self, waveform: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Compute features [b, t, f] and mask [b, t] of waveform [b, samples]."""
        samples = checked_lengths(waveform, lengths)
        counts = torch.tensor([self.frames(n) for n in samples], device=waveform.device)
        features = waveform.new_zeros(len(samples), self.frames(waveform.shape[1]), self.features)
        for length in sorted(set(samples)):
            if count := self.frames(length):
                rows = [row for row, n in enumerate(samples) if n == length]
                features[rows, :count] = self._mixed(waveform[rows, :length]).to(features.dtype)
        return features, frame_mask(counts, features.shape[1])

    def _mixed(self, waveform: Tensor) -> Tensor:
        if self.standardise:
            variance, mean = torch.var_mean(waveform, dim=1, keepdim=True, correction=0)
            waveform = (waveform - mean) / torch.sqrt(variance + 1e-7)  # the epsilon of the model's own preprocessor
        with torch.set_grad_enabled(self.fine_tune and torch.is_grad_enabled()):
            output = self.model(waveform, output_hidden_states=True)
        # some versions of transformers leave out the last LayerNorm of the large models in hidden_states
        layers = (*output.hidden_states[:-1], output.last_hidden_state)
        mixed = torch.zeros_like(layers[0])
        for weight, layer in zip(self.layer_logits.softmax(dim=0), layers, strict=True):
            mixed = mixed + weight * layer
        return mixed


def _load(source: str | Path) -> tuple[Any, bool]:
    """Return the model and whether it wants recordings of mean 0 and variance 1."""
    try:
        from transformers import Wav2Vec2FeatureExtractor, WavLMModel
    except ImportError as error:
        raise RequestError("WavLM features need the transformers package; run: pip install 'weigher[wavlm]'") from error
    local = Path(source).is_dir()
    try:
        loaded = WavLMModel.from_pretrained(
            str(source),
            local_files_only=local,
            use_safetensors=True,
            output_loading_info=True,
            add_adapter=False,
            layerdrop=0.0,
            apply_spec_augment=False,
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise RequestError(_advice(source, local, str(error).strip())) from error
    model, info = cast(tuple[Any, dict[str, Any]], loaded)
    model.float()  # files in half precision are read as such
    missing = sorted(set(info["missing_keys"]) - {_UNUSED})
    if missing:  # transformers would go on with random numbers in their place
        raise RequestError(_advice(source, local, f"its weights lack {len(missing)} of the model's, as {missing[0]}"))
    try:
        extractor = Wav2Vec2FeatureExtractor.from_pretrained(str(source), local_files_only=local)
    except OSError:  # no preprocessor_config.json; models with layer norm in front are trained on standardised audio
        return model, model.config.feat_extract_norm == "layer"
    if extractor.sampling_rate != SAMPLE_RATE:
        raise RequestError(_advice(source, local, f"it works at {extractor.sampling_rate} Hz, not {SAMPLE_RATE}"))
    return model, bool(extractor.do_normalize)


def _advice(source: str | Path, local: bool, reason: str) -> str:
    """Say what was given, what is needed and what to do."""
    given = "a folder" if local else "no folder here, so taken as a name on the Hugging Face hub"
    return (
        f"cannot load WavLM from '{source}' ({given}): {reason}. Needed: a folder with config.json and "
        "model.safetensors, or the name of a model on the hub and a network. A model that has only pytorch_model.bin "
        'can be turned into such a folder once: python -c "from transformers import WavLMModel; '
        "WavLMModel.from_pretrained('microsoft/wavlm-base-plus').save_pretrained('wavlm')\""
    )

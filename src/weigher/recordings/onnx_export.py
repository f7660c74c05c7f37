"""The part of a model from features to tracks as one ONNX graph, to be run without PyTorch.

    features [b, t, f] float32, lengths [b] int64  ->  tracks [b, t', n], embeddings [b, n, e], confidence [b, n], mask

t' = ceil(t / stride); the first `lengths` rows of each file are real, whatever stands in the others; mask bool [b, t']
says which frames of the tracks are. Batch and time may be of any size from 1 on. The numbers are those of
`Diarizer.predict` on one window: windows, linking and decoding are left to the caller. The file's metadata name the
model's sizes and times (`hop_seconds` of a track's frames, `step_seconds` of a feature's row).

The graph is traced: the exporter of torch that goes through `torch.export` takes minutes for this model, and more where
it works out all its lengths as formulas. Three operations that the tracing one lacks are given here. Source: ONNX,
operators of opset 17.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.onnx import utils as onnx_utils

from weigher import __version__
from weigher.errors import RequestError, WeigherError
from weigher.io.atomic import writing
from weigher.recordings.model import RecordingModel

INPUTS = ("features", "lengths")
OUTPUTS = ("tracks", "embeddings", "confidence", "mask")
TOLERANCE = 1e-4
"""The most by which a number may differ from the model's own."""

_OPSET = 17
_ROWS, _TRIED = 403, ((1, 1), (2, 700), (3, 1999))  # rows of the example that is traced; batches and rows of the check
_DYNAMIC = {
    "features": {0: "batch", 1: "rows"},
    "lengths": {0: "batch"},
    "tracks": {0: "batch", 1: "frames"},
    "embeddings": {0: "batch"},
    "confidence": {0: "batch"},
    "mask": {0: "batch", 1: "frames"},
}


class FeaturesToTracks(nn.Module):
    """What is exported: (features, lengths) -> (tracks, embeddings, confidence, mask)."""

    def __init__(self, model: RecordingModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Weigh features [b, t, f] of which the first lengths [b] rows are real."""
        out = self.model(features, lengths)
        return out.tracks, self.model.voice(out.embeddings), out.confidence, out.frames.mask


def export_onnx(model: RecordingModel, path: str | os.PathLike[str]) -> float:
    """Write the graph to `path`, whole or not at all, and return by how much its numbers differ from the model's.

    Before it is written it is run by onnxruntime on padded batches of several lengths. Raises RequestError for a model
    that hears samples (WavLM) and where the `[onnx]` extra is missing; WeigherError where the numbers differ by more
    than 1e-4.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise RequestError("export to ONNX needs two packages more; run: pip install 'weigher[onnx]'") from error
    if model.wavlm is not None:
        raise RequestError(
            "this model hears samples through a WavLM, which is no part of the export from features to tracks; export "
            "a model on log-mel energies or on features of your own (--front features)"
        )
    whole = FeaturesToTracks(deepcopy(model).cpu()).eval()
    width = model.config.front.mels if model.config.front.kind == "log-mel" else model.config.front.features
    graph = onnx.load_from_string(_traced(whole, width))
    for key, value in _metadata(model, width).items():
        graph.metadata_props.add(key=key, value=value)
    content = graph.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    difference = _difference(whole, session, width)
    if not difference <= TOLERANCE:
        raise WeigherError(
            f"the exported numbers differ from the model's by {difference:.2g}, more than {TOLERANCE:g}; nothing was "
            "written: try other versions of torch and onnxruntime"
        )
    with writing(path) as file:
        file.write(content)
    return difference


def _traced(whole: FeaturesToTracks, features: int) -> bytes:
    generator = torch.Generator().manual_seed(0)
    example = torch.randn(2, _ROWS, features, generator=generator), torch.tensor([_ROWS, _ROWS - 100])
    with tempfile.TemporaryDirectory() as folder, _operators(), warnings.catch_warnings():
        # the tracing exporter says that it is the older one, and that branches are traced as the example takes them
        warnings.simplefilter("ignore")
        torch.onnx.export(
            whole,
            example,
            Path(folder, "traced.onnx"),
            dynamo=False,
            opset_version=_OPSET,
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            dynamic_axes=_DYNAMIC,
        )
        return Path(folder, "traced.onnx").read_bytes()


def _metadata(model: RecordingModel, width: int) -> dict[str, str]:
    front = model.config.front
    return {
        "weigher": __version__,
        "front": front.kind,
        "features": str(width),
        "slots": str(model.config.weigher.slots),
        "step_seconds": json.dumps(model.step_seconds),
        "hop_seconds": json.dumps(model.hop_seconds),
    }


def _difference(whole: FeaturesToTracks, session: Any, features: int) -> float:
    """The greatest difference of any number on padded batches of noise; inf where shapes differ."""
    generator = torch.Generator().manual_seed(1)
    worst = 0.0
    for batch, rows in _TRIED:
        x = torch.randn(batch, rows, features, generator=generator)
        lengths = torch.tensor([rows] + [max(1, rows // (2 + row)) for row in range(batch - 1)])
        with torch.inference_mode():
            expected = whole(x, lengths)
        found = session.run(list(OUTPUTS), {"features": x.numpy(), "lengths": lengths.numpy()})
        for ours, theirs in zip(expected, found, strict=True):
            if tuple(ours.shape) != theirs.shape:
                return float("inf")
            worst = max(worst, float(np.abs(ours.float().numpy() - theirs.astype(np.float32)).max(initial=0.0)))
    return worst


@contextmanager
def _operators() -> Iterator[None]:
    """Give the exporter what it lacks, for the time of one export."""
    given: dict[str, Callable[..., Any]] = {"aten::mT": _transposed, "aten::cummax": _cummax, "aten::unfold": _unfold}
    for name, symbolic in given.items():
        onnx_utils.register_custom_op_symbolic(name, symbolic, _OPSET)
    try:
        yield
    finally:
        for name in given:
            onnx_utils.unregister_custom_op_symbolic(name, _OPSET)


def _constant(g: Any, value: int | list[int]) -> Any:
    return g.op("Constant", value_t=torch.tensor(value, dtype=torch.int64))


def _transposed(g: Any, x: Any) -> Any:
    rank = x.type().dim()
    return g.op("Transpose", x, perm_i=[*range(rank - 2), rank - 1, rank - 2])


def _cummax(g: Any, x: Any, axis: Any) -> tuple[Any, Any]:
    """Running maximum of [b, n, t] over the slots n, its only use here; where it stands is asked for by nobody."""
    slots = g.op("Range", _constant(g, 0), _length(g, x, 1), _constant(g, 1))
    so_far = g.op("LessOrEqual", slots, g.op("Unsqueeze", slots, _constant(g, [1])))
    so_far = g.op("Unsqueeze", so_far, _constant(g, [2]))
    nothing = g.op("Constant", value_t=torch.tensor(-math.inf))
    several = g.op("Where", so_far, g.op("Unsqueeze", x, _constant(g, [1])), nothing)  # [b, n, n, t]
    values = g.op("ReduceMax", several, axes_i=[2], keepdims_i=0)
    return values, values


def _unfold(g: Any, x: Any, dim: Any, size: Any, step: Any) -> Any:
    """Windows [..., count, size] over the last axis, its only use here, by a table of places."""
    zero, one = _constant(g, 0), _constant(g, 1)
    count = g.op("Add", g.op("Div", g.op("Sub", _length(g, x, -1), size), step), one)
    first = g.op("Mul", g.op("Range", zero, count, one), step)
    places = g.op("Add", g.op("Unsqueeze", first, _constant(g, [1])), g.op("Range", zero, size, one))
    return g.op("Gather", x, places, axis_i=-1)


def _length(g: Any, x: Any, axis: int) -> Any:
    return g.op("Gather", g.op("Shape", x), _constant(g, axis), axis_i=0)

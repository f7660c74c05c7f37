"""The words of the study of SeqCLR: its methods and metrics, and how much is done."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Literal

from weigher.studies.paired import Comparison

if TYPE_CHECKING:  # torch is loaded by a run, not by listing the studies
    from weigher.pairs.seqclr import SeqCLRConfig

LINES, PLAIN, SPEECH = "lines", "lines without a style", "speech"
MNIST_FILE, SPEECH_FILE = "mnist10k/mnist10k.npz", "speech/read_speech_fbank40.npz"
START, SCRATCH = "random start", "supervised alone"
INFO, TUNED = "InfoNCE over whole lines, tuned", "SeqCLR, tuned"
CONTEXT = "SeqCLR, window, head mlp, features of an LSTM"
PLACES, CHOICE = "digits told at their places %", "digits told at their places %, to choose by"
GAIN = "gain over whole lines, points"
STYLE = f"{GAIN}, with a style less without"
RIGHT, WRONG, FROZEN = "lines read rightly %", "digits misread %", "frozen"
EER, NEAREST = "equal error rate %", "nearest is the same voice %"
CHOICE_EER = "equal error rate %, people heard"
NEIGHBOURS = "InfoNCE, neighbouring crops"
SHARES = (5, 10, 100)
"""Per cent of the lines that have labels."""

Mapping = Literal["frame", "window", "all"]
Head = Literal["none", "mlp", "bilstm"]


@dataclass(frozen=True)
class Setting:
    """How instances are made and compared."""

    mapping: Mapping
    head: Head = "mlp"
    temperature: float = 0.1
    context: bool = False

    def config(self, windows: int) -> SeqCLRConfig:
        """Return it as the loss takes it."""
        from weigher.pairs.seqclr import SeqCLRConfig

        return SeqCLRConfig(self.mapping, windows, self.head, self.temperature, hidden=64, embedding=64)


_MAPPINGS: tuple[Mapping, ...] = ("frame", "window", "all")
_HEADS: tuple[Head, ...] = ("none", "mlp", "bilstm")


def arm(mapping: Mapping, head: Head) -> str:
    """Return the name of a mapping with a head.

    >>> arm("all", "none")
    'whole lines, head none'
    """
    return f"whole lines, head {head}" if mapping == "all" else f"SeqCLR, {mapping}, head {head}"


WINDOW, WHOLE = arm("window", "mlp"), arm("all", "mlp")
FRAME, HEADLESS = arm("frame", "mlp"), arm("window", "none")
ABLATION = {arm(mapping, head): Setting(mapping, head) for mapping, head in product(_MAPPINGS, _HEADS)}
SETTINGS = [name for name, setting in ABLATION.items() if setting.mapping != "all"]
"""What SeqCLR may choose from."""
INFOS = {f"InfoNCE, temperature {tau:g}": Setting("all", "mlp", tau) for tau in (0.01, 0.02, 0.05, 0.2, 0.5)}
TEMPERATURES = [arm("all", "mlp"), *INFOS]
"""What InfoNCE may choose from, as many; the first has the temperature 0.1."""
SPEECH_METHODS = {
    START: "start",
    "SeqCLR, frame": "frame",
    "SeqCLR, window": "window",
    "whole crops": "all",
    NEIGHBOURS: "neighbours",
}
SPEECH_TEMPERATURES = (0.01, 0.02, 0.05, 0.1)
"""What each way of teaching speech may choose from, by telling apart, with the first seed, the people it has heard."""


def labels(share: int | str) -> str:
    """Return how a share of labels, or a frozen encoder, is called.

    >>> labels(5), labels("frozen")
    ('5 % of the labels', 'frozen encoder')
    """
    return f"{share} % of the labels" if isinstance(share, int) else f"{share} encoder"


COMPARED: list[Comparison] = [
    (WINDOW, START, PLACES),
    (TUNED, INFO, PLACES),
    (TUNED, INFO, f"{WRONG}, {labels(FROZEN)}"),
    *((TUNED, SCRATCH, f"{WRONG}, {labels(share)}") for share in SHARES),
    *((WINDOW, other, PLACES) for other in (FRAME, WHOLE, HEADLESS)),
    (CONTEXT, WINDOW, PLACES),
]
VOICES_COMPARED: list[Comparison] = [
    *((method, START, EER) for method in SPEECH_METHODS if method != START),
    ("whole crops", "SeqCLR, window", EER),
]
"""What is compared seed by seed."""


@dataclass(frozen=True)
class Size:
    """How much is done for a budget."""

    epochs: int
    """Times an encoder sees each line."""
    steps: int
    """Batches that a recogniser learns from."""
    speech_epochs: int
    people: int
    """Speakers to learn from."""
    lines: int = 600
    chosen: int = 200
    """Lines to choose settings by."""
    tested: int = 400
    probed: int = 30
    """Lines whose digits are labelled at their places."""
    windows: int = 8
    sets: tuple[str, ...] = field(default=("digits",))


SIZES = {
    "small": Size(epochs=8, steps=900, speech_epochs=1, people=120),
    "full": Size(epochs=40, steps=1500, speech_epochs=8, people=160, lines=3000, sets=("digits", "MNIST")),
}

"""Puts this folder on the import path, so that a test can say `from contract import Subject`; what every test has."""

import signal
import sys
from pathlib import Path

import hypothesis
import jaxtyping
import pytest
import torch
from beartype import beartype

sys.path.insert(0, str(Path(__file__).parent))

# a shell that starts the tests in the background has Ctrl-C ignored, in all that they start too
signal.signal(signal.SIGINT, signal.default_int_handler)

# no deadline: how long an example takes says how busy the machine is; the same examples in every run
hypothesis.settings.register_profile("weigher", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("weigher")


@pytest.fixture(autouse=True)
def _torch_seed():
    """A test that draws from torch without a generator draws the same every time and in any order."""
    torch.manual_seed(0)


@pytest.fixture
def checked(monkeypatch):
    """Give a function's module the names that only type checkers import, and have its annotations enforced."""

    def check(module, name):
        for annotation in ("Bool", "Float", "Int", "Real", "Shaped"):
            monkeypatch.setattr(module, annotation, getattr(jaxtyping, annotation), raising=False)
        monkeypatch.setattr(module, "Tensor", torch.Tensor, raising=False)
        return jaxtyping.jaxtyped(typechecker=beartype)(getattr(module, name))

    return check

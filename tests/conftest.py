"""Puts this folder on the import path, so that every test can say `from contract import Subject, check_laws`."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _torch_seed():
    """A test that draws from torch without a generator draws the same every time and in any order."""
    torch.manual_seed(0)

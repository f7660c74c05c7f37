"""Losses and figures that compare all rows with all others: their memory does not grow with the square of the rows."""

import pytest

from peak_memory import growth, on_linux

IMPORTS = """
from weigher.core.contrast import info_nce, nt_xent, unit
from weigher.pairs.align_uniform import AlignUniformLoss, uniformity
from weigher.pairs.diagnosis import diagnose
from weigher.pairs.relic import ReLICLoss, fisher_ratios
from weigher.pairs.seqclr import instance_losses
"""
ROWS = "first, second = (torch.randn(n, 4, requires_grad=True) for _ in range(2))\n"


@on_linux
@pytest.mark.parametrize(
    "call",
    [
        "info_nce(unit(first), unit(second)).sum().backward()",
        "nt_xent(unit(first), unit(second)).sum().backward()",
        "uniformity(first).backward()",
        'AlignUniformLoss()(first, second)["loss"].backward()',
        'ReLICLoss()(first, second)["loss"].backward()',
        "instance_losses(first.view(-1, 8, 4), second.view(-1, 8, 4)).sum().backward()",
        "diagnose(first.detach(), second.detach())",
    ],
    ids=lambda call: call.partition("(")[0],
)
def test_memory_grows_with_the_rows_not_with_their_square(call):
    """From 2,000 rows, which fill blocks, to 8,000: one matrix of all against all would grow by 240 MB.

    A loss has more than two of them on the way back.
    """
    assert growth(IMPORTS, ROWS + call, 2000, 8000) < 128  # megabytes

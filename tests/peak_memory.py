"""How much memory a piece of work needs more for much than for little, in a process of its own."""

import subprocess
import sys
import textwrap

import pytest

on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

# The peak is read from /proc: what `getrusage` tells of a new process begins at the peak of the one that started it,
# and under a test run that has once been large it would not move.
_CODE = """
import torch
torch.set_num_threads(1)
{imports}
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
def step(n):
{step}
step({few})
before = peak()
step({many})
print(peak() - before)
"""


def growth(imports: str, step: str, few: int, many: int) -> float:
    """Return by how many megabytes the peak of `step`, lines that are given `n`, grows from few to many."""
    code = _CODE.format(imports=imports, step=textwrap.indent(step, "    "), few=few, many=many)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return float(done.stdout)

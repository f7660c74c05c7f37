import ast
import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).parents[1]
CORE = ROOT / "src" / "weigher" / "core"
CORE_MAY_IMPORT = {*sys.stdlib_module_names, "torch", "numpy", "scipy", "weigher.core", "weigher.errors"}


def imported(node):
    """Names that a module imports when it runs; what stands under `if TYPE_CHECKING:` is for type checkers alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (name.name for name in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield "." * child.level + (child.module or "")
        elif not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from imported(child)


def foreign(source):
    heads = [
        ".".join(name.split(".")[: 2 if name.startswith("weigher") else 1]) for name in imported(ast.parse(source))
    ]
    return [head for head in heads if head not in CORE_MAY_IMPORT]


def test_arrows_run_one_way(capsys):
    code = lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True, no_logo=True)
    assert code == 0, capsys.readouterr().out


@pytest.mark.parametrize("path", sorted(CORE.glob("*.py")), ids=lambda path: path.name)
def test_core_imports_arrays_only(path):
    assert foreign(path.read_text(encoding="utf-8")) == []


def test_the_check_of_core_sees_every_kind_of_import():
    source = """
import rich.table
from weigher.io import audio
def f():
    from ..io import rttm
if TYPE_CHECKING:
    import jaxtyping
import torch.nn
"""
    assert foreign(source) == ["rich", "weigher.io", ""]


def test_import_of_the_package_brings_no_torch():
    code = "import sys, weigher; print([name for name in ('torch', 'numpy', 'rich') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "[]\n"

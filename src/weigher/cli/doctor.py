"""``weigher doctor``: what is installed, what it runs on and which data it finds, for a report of a fault.

It imports nothing beforehand that may be what is broken: base packages are tried one by one, each under a guard.
"""

import importlib
import importlib.metadata
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from weigher.cli.console import print_json
from weigher.errors import RequestError
from weigher.train import provenance

BASE = ("torch", "numpy", "scipy", "safetensors", "soundfile", "soxr", "rich", "tyro")
"""The packages that weigher does not work without."""
DEVELOPER_EXTRAS = {"test", "docs"}
"""Extras that only work on weigher itself needs; `make` installs them."""


@dataclass(frozen=True)
class Options:
    """Show versions, extras, devices, threads, data and disk space; exit code 1 where a base package does not load."""

    json: bool = False
    """Print one JSON object instead of a table."""


@dataclass(frozen=True)
class Extra:
    """An optional part of weigher: whether its packages are there, which are not, and how to install them."""

    present: bool
    missing: list[str]
    install: str


@dataclass(frozen=True)
class Checkup:
    """What doctor found; `problems` says what keeps weigher from working."""

    versions: dict[str, str]
    extras: dict[str, Extra]
    devices: list[str]
    threads: dict[str, int | str | None]
    data: str | None
    disk_free_gib: float
    commit: str | None
    problems: list[str]


def run(options: Options) -> int:
    """Print the check-up; 0 where weigher can work, else 1."""
    found = examine()
    if options.json:
        print_json(asdict(found))
    else:
        Console().print(_table(found))
    return 1 if found.problems else 0


def examine() -> Checkup:
    """Look at this installation and this machine."""
    problems: list[str] = []
    loaded = {name for name in BASE if _loads(name, problems)}
    devices, torch_threads = _torch(problems) if "torch" in loaded else ([], None)
    return Checkup(
        versions=provenance.versions() | (_libsndfile() if "soundfile" in loaded else {}),
        extras=extras(),
        devices=devices,
        threads={
            "cores": os.cpu_count(),
            "torch": torch_threads,
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        },
        data=_data(problems),
        disk_free_gib=round(shutil.disk_usage(Path.cwd()).free / 2**30, 1),
        commit=provenance.commit(),
        problems=problems,
    )


def extras() -> dict[str, Extra]:
    """Return each extra a user may want, as weigher's own metadata lists them."""
    needs: dict[str, list[str]] = {}
    for requirement in importlib.metadata.requires("weigher") or []:
        match = re.match(r"""([\w.-]+).*extra\s*==\s*['"]([\w-]+)['"]""", requirement)
        if match and match[2] not in DEVELOPER_EXTRAS:
            needs.setdefault(match[2], []).append(match[1])
    found: dict[str, Extra] = {}
    for extra, packages in sorted(needs.items()):
        missing = [package for package in packages if not _installed(package)]
        found[extra] = Extra(present=not missing, missing=missing, install=f"pip install 'weigher[{extra}]'")
    return found


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _loads(package: str, problems: list[str]) -> bool:
    try:
        importlib.import_module(package)
    except Exception as error:  # ImportError, OSError for a C library, and whatever else a broken build raises
        problems.append(f"{package} does not load: {error}; install it again")
        return False
    return True


def _libsndfile() -> dict[str, str]:
    import soundfile

    return {"soundfile": soundfile.__version__, "libsndfile": soundfile.__libsndfile_version__}


def _torch(problems: list[str]) -> tuple[list[str], int]:
    import torch

    devices = ["cpu"]
    try:
        devices += [f"cuda:{index} {torch.cuda.get_device_name(index)}" for index in range(torch.cuda.device_count())]
        devices += ["mps"] if torch.backends.mps.is_available() else []
    except Exception as error:  # torch loads, and its driver does not
        problems.append(f"the GPU cannot be asked: {error}; install a driver that this build of torch can use")
    return devices, torch.get_num_threads()


def _data(problems: list[str]) -> str | None:
    try:
        from weigher.io.datasets import find_data

        found = find_data()
    except RequestError as error:  # WEIGHER_DATA names a folder that is not there
        problems.append(str(error))
        return None
    except Exception as error:  # what reads audio does not load
        problems.append(f"no data was looked for: {error}")
        return None
    return None if found is None else str(found)


def _table(found: Checkup) -> Table:
    table = Table(show_header=False, box=None)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    lines = [
        *found.versions.items(),
        ("commit", found.commit or "not a checkout"),
        *((f"extra {name}", "present" if extra.present else extra.install) for name, extra in found.extras.items()),
        ("devices", "; ".join(found.devices) or "none"),
        ("threads", ", ".join(f"{name} {value}" for name, value in found.threads.items() if value is not None)),
        ("data", found.data or "none found; name its folder in WEIGHER_DATA"),
        ("disk free", f"{found.disk_free_gib} GiB here"),
        *(("problem", problem) for problem in found.problems),
    ]
    for name, value in lines:
        table.add_row(name, escape(value))
    return table

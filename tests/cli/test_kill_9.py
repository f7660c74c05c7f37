"""`weigher train` and `weigher enroll` killed at random moments: what was finished stays, and a rerun completes.

`apply` has its own in tests/recordings/test_apply_archive.py, the database in tests/recordings/test_index.py, and one
save in tests/train/test_resume.py; here whole commands are cut off wherever they happen to be.
"""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from made_up import brief_settings
from weigher.cli.main import main
from weigher.io.features import Features, write_features
from weigher.io.manifest import write_cast_csv
from weigher.recordings.diarizer import Diarizer
from weigher.recordings.index import PeopleIndex
from weigher.train.state import load_tensors

HOP, BANDS, PEOPLE = 0.02, 8, ("Ann", "Ben", "Cid")
SETTINGS = {
    **brief_settings(listen=12, weigh=6, crops=6),
    "decode": {"threshold": 0.0, "onset": 0.05, "offset": 0.02},  # so little training leaves nobody sure
}
# says when the verb itself begins, so that moments are drawn while it works and not in the imports
COMMAND = """
import sys
import weigher.recordings.identify, weigher.cli.train, weigher.cli.enroll
from weigher.cli.main import main
print("begun", flush=True)
sys.exit(main(sys.argv[1:]))
"""


def talk(cast, rng):
    rows = []
    for turn in range(6):
        spectrum = 2 * np.cos(np.arange(BANDS) * (PEOPLE.index(cast[turn % len(cast)]) + 1) * np.pi / BANDS)
        rows += [spectrum + rng.normal(0, 0.7, (int(rng.integers(40, 80)), BANDS)), rng.normal(-2, 0.3, (20, BANDS))]
    return np.concatenate(rows).astype(np.float32)


@pytest.fixture(scope="module")
def casts(tmp_path_factory):
    folder, rng, rows = tmp_path_factory.mktemp("casts"), np.random.default_rng(0), []
    for index in range(8):
        cast = tuple(str(name) for name in rng.choice(PEOPLE, int(rng.integers(1, 3)), replace=False))
        write_features(folder / f"r{index}.npz", Features(talk(cast, rng), HOP))
        rows.append((f"r{index}.npz", cast))
    write_cast_csv(folder / "cast.csv", rows)
    write_features(folder / "zoe.npz", Features(talk(PEOPLE[:1], rng), HOP))
    (folder / "config.json").write_text(json.dumps(SETTINGS))
    return folder


def here(*arguments):
    """Run a command in this process; returns how long it took."""
    torch.set_num_threads(1)  # as in those that are killed: sums depend on it, bit for bit
    began = time.monotonic()
    assert main([str(argument) for argument in arguments]) == 0
    return time.monotonic() - began


def killed(seconds, *arguments):
    """Run a command in another process and kill it so many seconds after it has begun; tells whether it was at work."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", COMMAND, *map(str, arguments)]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        time.sleep(seconds)
        process.kill()
        _, errors = process.communicate(timeout=300)
    assert process.returncode in (0, -signal.SIGKILL), errors
    return process.returncode != 0


def training(casts, run):
    command = ("train", casts / "cast.csv", "--out", run, "--quiet", "--device", "cpu")
    if (run / "config.json").is_file():
        return (*command, "--resume")
    return (*command, "--config", casts / "config.json", "--front", "features")


@pytest.fixture(scope="module")
def whole(casts, tmp_path_factory):
    """A run that nothing disturbed, and how long it took."""
    run = tmp_path_factory.mktemp("whole") / "run"
    threads = torch.get_num_threads()
    yield run, here(*training(casts, run))
    torch.set_num_threads(threads)


def test_train_killed_again_and_again_ends_as_if_it_had_not_been(casts, whole, tmp_path):
    undisturbed, seconds = whole
    run, rng = tmp_path / "run", np.random.default_rng(int(seconds * 1e6))
    kills, before = 0, [0, 0]
    for _ in range(2):
        kills += killed(float(rng.uniform(0.1, 0.6)) * seconds, *training(casts, run))
        steps = [_step(run / phase / "last.safetensors") for phase in ("listen", "weigh")]
        assert all(now >= then for now, then in zip(steps, before, strict=True))  # what was saved stays
        before = steps
        if (run / "model" / "model.safetensors").is_file():
            Diarizer.from_pretrained(run / "model")  # its weights come last
    assert kills > 0
    here(*training(casts, run))
    ours, theirs = (load_file(each / "model" / "model.safetensors") for each in (run, undisturbed))
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)
    Diarizer.from_pretrained(run / "model")


def _step(checkpoint):
    return load_tensors(checkpoint)[1]["position"]["step"] if checkpoint.is_file() else 0


def test_enroll_killed_again_and_again_loses_nobody(casts, whole, tmp_path):
    model, index, rng = whole[0] / "model", tmp_path / "index", np.random.default_rng(1)

    def commands(place):
        options = ("--model", model, "--index", place, "--quiet")
        return ("enroll", "Zoe", casts / "zoe.npz", *options), ("enroll", "--cast", casts / "cast.csv", *options)

    first, second = commands(tmp_path / "undisturbed")
    here(*first)
    seconds = here(*second)
    first, second = commands(index)
    here(*first)
    before = PeopleIndex(index).export(["Zoe"])["people"]
    kills = 0
    for _ in range(2):
        kills += killed(float(rng.uniform(0, 1)) * seconds, *second)
        found = PeopleIndex(index)
        assert found.export(["Zoe"])["people"] == before  # who was enrolled is still there, bit for bit
        people = {person.name for person in found.people()}
        assert people in ({"Zoe"}, {"Zoe", *PEOPLE})  # one command enrols all or nobody
    assert kills > 0
    here(*second)
    ours, theirs = (PeopleIndex(place).export()["people"] for place in (index, tmp_path / "undisturbed"))
    assert ours == theirs
    assert sorted(path.name for path in index.iterdir()) == ["people.sqlite"]

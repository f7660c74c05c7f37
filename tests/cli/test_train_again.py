"""Runs that begin from a model, are cut off or refused, and go on with other settings: what their folder says.

A few steps of each phase on plain spectra: what is learned does not matter here.
"""

import json

import numpy as np
import pytest

from interrupting import cut_by
from made_up import brief_settings
from weigher.cli.main import main
from weigher.cli.train import _MAY_CHANGE
from weigher.errors import RequestError
from weigher.io.features import Features, write_features
from weigher.io.manifest import write_cast_csv
from weigher.train import loop

HOP, BANDS, PEOPLE = 0.02, 12, ("Ann", "Ben", "Cid")
SETTINGS = brief_settings(listen=4, weigh=2, crops=4)


def train(folder, name, *options):
    command = ["train", str(folder / "cast.csv"), "--out", str(folder / name), "--quiet", "--device", "cpu"]
    return main([*command, *map(str, options)])


def kept(folder, name):
    return json.loads((folder / name / "config.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Eight recordings of three people and a run that has learned from them."""
    folder, rng, rows = tmp_path_factory.mktemp("world"), np.random.default_rng(0), []
    for index in range(8):
        cast = (PEOPLE[index % 3], PEOPLE[(index + 1) % 3])
        turns = [2 * np.cos(np.arange(BANDS) * (PEOPLE.index(name) + 1)) for name in cast * 3]
        values = np.concatenate([turn + rng.normal(0, 0.7, (60, BANDS)) for turn in turns])
        write_features(folder / f"r{index}.npz", Features(values.astype(np.float32), HOP))
        rows.append((f"r{index}.npz", cast))
    write_cast_csv(folder / "cast.csv", rows)
    (folder / "settings.json").write_text(json.dumps(SETTINGS), encoding="utf-8")
    assert train(folder, "run", "--config", folder / "settings.json", "--front", "features") == 0
    return folder


def test_a_beginning_from_a_model_that_was_cut_off_while_reading_goes_on_from_that_model(world, capsys):
    assert train(world, "once", "--from", world / "run") == 0
    with pytest.MonkeyPatch.context() as patch:
        cut_by(patch, "check", 3, "raise")
        assert train(world, "twice", "--from", world / "run") == 130
    assert kept(world, "twice")["learn"]["begun_from"] == "model"
    assert train(world, "twice", "--resume") == 0
    model = "model/model.safetensors"
    assert (world / "twice" / model).read_bytes() == (world / "once" / model).read_bytes()


def test_a_run_that_has_lost_what_it_began_from_is_not_resumed(world, capsys):
    with pytest.MonkeyPatch.context() as patch:
        cut_by(patch, "listen", 2, "raise")
        assert train(world, "lost", "--from", world / "run/model", "--freeze", "nothing") == 130
    (world / "lost/start.safetensors").unlink()
    assert train(world, "lost", "--resume") == 2
    assert "start.safetensors" in capsys.readouterr().err
    assert kept(world, "run")["learn"]["begun_from"] == "nothing"


def test_an_encoder_that_has_learned_nothing_is_not_held(world, tmp_path, capsys):
    settings = world / "held.json"
    settings.write_text(json.dumps({**SETTINGS, "learn": {**SETTINGS["learn"], "frozen": "encoder"}}))
    assert train(world, "held", "--config", settings, "--front", "features") == 2
    assert "learned nothing" in capsys.readouterr().err
    assert not (world / "held").exists()


def test_other_steps_of_a_resumed_run_are_kept_with_it(world):
    options = ["--config", world / "settings.json", "--front", "features"]
    with pytest.MonkeyPatch.context() as patch:
        cut_by(patch, "listen", 2, "raise")
        assert train(world, "longer", *options) == 130
    assert train(world, "longer", "--resume", "--listen-steps", "6") == 0
    assert kept(world, "longer")["learn"]["listen"]["steps"] == 6
    assert kept(world, "longer")["learn"]["weigh"]["steps"] == 2
    (world / "longer/weigh/last.safetensors").unlink()
    assert train(world, "longer", "--resume") == 0
    assert json.loads((world / "longer/model/config.json").read_text())["config"]["learn"]["listen"]["steps"] == 6


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--seed", "5"], "learn.listen.seed"),
        (["--slots", "2"], "model.weigher.slots"),
        (["--audit"], "learn.planted"),
        (["--config", "{}/warmer.json"], "learn.listen.warmup_steps"),
        (["--config", "{}/faster.json", "--listen-steps", "9"], "learn.weigh.learning_rate"),
    ],
)
def test_a_run_is_not_resumed_with_settings_it_did_not_begin_with(world, capsys, options, said):
    (world / "faster.json").write_text('{"learn": {"weigh": {"learning_rate": 0.5}}}', encoding="utf-8")
    (world / "warmer.json").write_text('{"learn": {"listen": {"warmup_steps": 3}}}', encoding="utf-8")
    before = kept(world, "run")
    assert train(world, "run", "--resume", *(option.format(world) for option in options)) == 2
    assert said in capsys.readouterr().err
    assert kept(world, "run") == before


def test_what_a_resumed_run_may_change_is_what_the_loop_lets_it():
    assert _MAY_CHANGE == loop._FREE


def test_a_resumed_run_that_is_refused_keeps_its_settings(world, capsys):
    before = kept(world, "run")
    write_cast_csv(world / "other.csv", [("r0.npz", PEOPLE[:2]), ("r1.npz", PEOPLE[1:])])
    command = ["train", str(world / "other.csv"), "--out", str(world / "run"), "--quiet", "--device", "cpu"]
    assert main([*command, "--resume", "--listen-steps", "9"]) == 2
    assert "another one" in capsys.readouterr().err
    assert kept(world, "run") == before


def test_a_request_refused_after_its_list_was_kept_leaves_the_folder_free(world, monkeypatch):
    def refuse(*_, **__):
        raise RequestError("no")

    monkeypatch.setattr("weigher.recordings.diarizer.learn", refuse)
    assert train(world, "refused", "--from", world / "run") == 2
    assert not (world / "refused").exists()

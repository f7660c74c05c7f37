"""Audit and adaptation from the command line, on voices that are plain spectra: what was planted in a list is found."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from weigher.cli.main import main
from weigher.io.features import Features, write_features
from weigher.io.manifest import write_cast_csv
from weigher.recordings.adapt import kept_start, read_start
from weigher.recordings.audit import audit_run

HOP, BANDS, PEOPLE = 0.02, 12, ("Ann", "Ben Ü", "Cid", "Dee", "Eve", "Flo")
CONFIG = {
    "model": {
        "encoder": {"channels": 24, "embedding": 16, "stride": 2, "dilations": [1]},
        "weigher": {"slots": 4, "heads": 2, "layers": 1},
    },
    "learn": {
        "listen": {"steps": 480, "learning_rate": 0.004, "warmup_steps": 20, "validate_every": 240},
        "listen_batch": 48,
        "listen_seconds": 2.0,
        "weigh": {"steps": 4, "learning_rate": 0.005, "warmup_steps": 1, "validate_every": 2},
        "weigh_batch": 4,
        "recompose": {"seconds": 4.0, "max_speakers": 3},
        "teacher": {"threshold": 0.5},
    },
}
WRONG, MISSING = {"r3.npz": "Cid", "r8.npz": "Ann"}, {"r5.npz": 1, "r12.npz": 0}


def recording(rng, cast):
    """Turns of about a second and pauses; a voice is a spectrum with a little noise, silence is soft."""
    rows = []
    for turn in range(8):
        spectrum = 3 * np.cos(np.arange(BANDS) * (PEOPLE.index(cast[turn % len(cast)]) + 1) * np.pi / BANDS)
        rows += [spectrum + rng.normal(0, 0.7, (int(rng.integers(40, 70)), BANDS)), rng.normal(-8, 0.3, (10, BANDS))]
    return np.concatenate(rows).astype(np.float32)


def train(folder, name, cast, *options):
    command = ["train", str(folder / cast), "--out", str(folder / name), "--quiet", "--device", "cpu"]
    return main([*command, *options])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """40 recordings of four people with two wrong and two missing names, an audited run, a list of two new people."""
    folder, rng = tmp_path_factory.mktemp("world"), np.random.default_rng(0)
    rows, new = [], []
    for index in range(40):
        name = f"r{index}.npz"
        cast = [str(one) for one in rng.choice(PEOPLE[:4], int(rng.integers(1, 4)), replace=False)]
        if name in WRONG:
            cast = [one for one in cast if one != WRONG[name]] or ["Dee"]
        if name in MISSING:
            cast = ["Ben Ü", "Dee"]
        write_features(folder / name, Features(recording(rng, cast), HOP))
        said = [*cast, WRONG[name]] if name in WRONG else cast
        rows.append((name, [one for k, one in enumerate(said) if k != MISSING.get(name)]))
    for index in range(16):
        cast = [str(one) for one in rng.choice(PEOPLE[3:], int(rng.integers(1, 3)), replace=False)]
        write_features(folder / f"n{index}.npz", Features(recording(rng, cast), HOP))
        new.append((f"n{index}.npz", cast))
    write_cast_csv(folder / "cast.csv", rows)
    write_cast_csv(folder / "new.csv", new)
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    assert (
        train(folder, "run", "cast.csv", "--config", str(folder / "config.json"), "--front", "features", "--audit") == 0
    )
    return folder


def test_what_is_wrong_in_the_list_comes_first(world, capsys):
    capsys.readouterr()
    assert main(["audit", str(world / "run"), "--json", "--top", "4"]) == 0
    found = json.loads(capsys.readouterr().out)
    pairs = {kind: [] for kind in ("wrong", "missing")}
    for row in found["suspects"]:
        pairs[row["kind"]].append((row["file_name"].rpartition("/")[2], row["name"]))
        assert row["times"]
    assert set(WRONG.items()) <= set(pairs["wrong"]), pairs
    assert {("r5.npz", "Dee"), ("r12.npz", "Ben Ü")} <= set(pairs["missing"]), pairs
    assert found["planted"] == 4
    assert found["wrong_below"] < found["missing_above"]


def test_the_table_and_the_file_hold_the_same_rows(world, capsys, tmp_path):
    assert main(["audit", str(world / "run"), "--top", "3"]) == 0
    shown = capsys.readouterr().out
    assert main(["audit", str(world / "run"), "--top", "3", "--out", str(tmp_path / "found.csv")]) == 0
    assert capsys.readouterr().out == ""
    with (tmp_path / "found.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["kind"] for row in rows] == ["wrong"] * 3 + ["missing"] * 3
    for row in rows:
        assert row["file_name"] in shown
        assert row["times"] in shown
    assert shown.count("*") - 2 == sum(row["likely"] == "yes" for row in rows)  # two in the titles


def test_a_voice_that_training_lost_is_named(world, capsys, monkeypatch):
    found, told = audit_run(world / "run", top=1)
    assert found.lost == ()
    monkeypatch.setattr("weigher.recordings.audit.audit_run", lambda *_, **__: (replace(found, lost=(1,)), told))
    capsys.readouterr()
    assert main(["audit", str(world / "run"), "--json"]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["lost"] == ["Ben Ü"]
    assert "every recording that lists Ben Ü is marked" in " ".join(output.err.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "no run"),
        (["run", "--top", "0"], "--top"),
        (["run", "--percentile", "0"], "percentile"),
        (["run/model"], "no run"),
        (["begun"], "not begun to listen"),
    ],
)
def test_requests_for_an_audit_that_cannot_be_served(world, capsys, arguments, said):
    (world / "begun").mkdir(exist_ok=True)
    (world / "begun/list.json").write_bytes((world / "run/list.json").read_bytes())
    assert main(["audit", str(world / arguments[0]), *arguments[1:]]) == 2
    assert said in capsys.readouterr().err


def test_a_run_without_planted_names_ranks_and_says_that_it_has_no_cut_off(world, capsys):
    quick = ["--config", str(world / "config.json"), "--front", "features", "--listen-steps", "20"]
    assert train(world, "plain", "cast.csv", *quick) == 0
    capsys.readouterr()
    assert main(["audit", str(world / "plain"), "--json"]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["wrong_below"] is None
    assert "no cut-off" in output.err


def test_new_names_stand_beside_the_old_ones_which_stay_what_they_are(world):
    quick = ["--listen-steps", "60", "--weigh-steps", "3"]
    assert train(world, "more", "new.csv", "--from", str(world / "run"), *quick) == 0
    old, new = read_start(world / "run"), read_start(world / "more")
    assert old.labels == ("Ann", "Ben Ü", "Cid", "Dee")
    assert new.labels == ("Ann", "Ben Ü", "Cid", "Dee", "Eve", "Flo")
    before, after = (start.head.vectors / start.head.vectors.norm(dim=1, keepdim=True) for start in (old, new))
    np.testing.assert_allclose(after[:3].detach(), before[:3].detach(), atol=1e-6)  # nobody says their names now
    assert np.abs((after[3] - before[3]).detach().numpy()).max() > 1e-4  # Dee is in the new list too, and learned on
    for name, value in old.model.encoder.state_dict().items():  # the norms' statistics too
        assert value.equal(new.model.encoder.state_dict()[name]), name
    assert old.model.voice.map.equal(new.model.voice.map)
    assert new.voices.means[:3].equal(old.voices.means[:3])
    assert kept_start(world / "more", old.model.config).voices.spread.equal(old.voices.spread)
    changed = new.model.weigher.state_dict()
    assert any(not value.equal(changed[name]) for name, value in old.model.weigher.state_dict().items())


@pytest.mark.parametrize("folder", ["run", "run/model"])
def test_what_is_there_is_not_replaced(world, capsys, folder):
    before = {path: path.read_bytes() for path in (world / "run").rglob("*.*") if path.is_file()}
    assert train(world, folder, "cast.csv", "--listen-steps", "1") == 2
    assert "holds a run or a model already" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (world / "run").rglob("*.*") if path.is_file()} == before


def test_a_request_that_is_refused_leaves_no_run_behind(world, capsys):
    assert train(world, "few", "cast.csv", "--slots", "1", "--listen-steps", "1") == 2
    assert not (world / "few").exists()


def test_an_adaptation_that_was_stopped_goes_on_without_the_old_model(world, capsys):
    quick = ["--listen-steps", "20", "--weigh-steps", "2", "--freeze", "nothing"]
    assert train(world, "once", "new.csv", "--from", str(world / "run/model"), *quick) == 0
    model = (world / "once/model/model.safetensors").read_bytes()
    assert train(world, "twice", "new.csv", "--from", str(world / "run/model"), *quick) == 0
    for part in ("weigh/last.safetensors", "weigh/best.safetensors", "model/model.safetensors"):
        (world / "twice" / part).unlink(missing_ok=True)
    assert train(world, "twice", "new.csv", "--resume") == 0
    assert (world / "twice/model/model.safetensors").read_bytes() == model
    assert train(world, "twice", "cast.csv", "--resume") == 2
    assert "another one" in capsys.readouterr().err


def test_old_recordings_are_mixed_in(world):
    options = ["--from", str(world / "run"), "--replay", str(world / "cast.csv"), "--listen-steps", "2"]
    assert train(world, "mixed", "new.csv", *options, "--weigh-steps", "1") == 0
    told = json.loads((world / "mixed/list.json").read_text(encoding="utf-8"))
    assert len(told["recordings"]) == 56
    assert told["labels"] == ["Ann", "Ben Ü", "Cid", "Dee", "Eve", "Flo"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--from", "{}/run", "--resume"], "--from begins a run"),
        (["--from", "{}/nowhere"], "no model folder"),
        (["--from", "{}"], "needs model.safetensors"),
        (["--from", "{}/run", "--slots", "3"], "--slots shapes a new model"),
        (["--from", "{}/run", "--config", "{}/shape.json"], "changes the shape"),
        (["--from", "{}/unfinished"], "not finished"),
        (["--freeze", "nothing"], "name the model with --from"),
        (["--replay", "{}/cast.csv"], "name the model with --from"),
    ],
)
def test_beginnings_that_make_no_sense(world, capsys, tmp_path, options, said):
    (world / "unfinished/listen").mkdir(parents=True, exist_ok=True)
    (world / "shape.json").write_text('{"model": {"encoder": {"channels": 48}}}', encoding="utf-8")
    filled = [option.format(world) for option in options]
    assert main(["train", str(world / "new.csv"), "--out", str(tmp_path / "out"), "--quiet", *filled]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_recordings_of_another_front_end_or_width_are_refused(world, capsys, tmp_path):
    write_features(world / "wide.npz", Features(np.zeros((200, BANDS + 1), np.float32), HOP))
    write_cast_csv(world / "wide.csv", [("wide.npz", ("Eve", "Flo"))])
    assert train(world, "wide", "wide.csv", "--from", str(world / "run")) == 2
    error = capsys.readouterr().err
    assert "wide.npz holds 13 features" in error
    (world / "sound.wav").write_bytes(b"RIFF")
    write_cast_csv(world / "sound.csv", [("sound.wav", ("Eve", "Flo"))])
    assert train(world, "sound", "sound.csv", "--from", str(world / "run")) == 2
    assert "hears features" in capsys.readouterr().err

"""The flagship from a cast list to turns, through the command line, on voices that are four plain spectra."""

import json

import numpy as np
import pytest

from weigher.cli.main import main
from weigher.io.audio import write_audio
from weigher.io.features import Features, write_features
from weigher.io.manifest import write_cast_csv
from weigher.io.rttm import Segment, read_rttm, write_rttm

HOP, BANDS, PEOPLE = 0.02, 12, ("Ann", "Ben Ü", "Cid", "Dee")
CONFIG = {
    "model": {
        "encoder": {"channels": 24, "embedding": 16, "stride": 2, "dilations": [1]},
        "weigher": {"slots": 3, "heads": 2, "layers": 1},
    },
    "learn": {
        "listen": {"steps": 80, "learning_rate": 0.01, "warmup_steps": 5},
        "listen_batch": 24,
        "listen_seconds": 2.0,
        "weigh": {"steps": 100, "learning_rate": 0.005, "warmup_steps": 5, "validate_every": 100},
        "weigh_batch": 8,
        "recompose": {"seconds": 5.0, "max_speakers": 3},
    },
}


def recording(rng, cast):
    """Turns of about a second and pauses; a voice is a spectrum with a little noise, silence is soft."""
    rows, turns, t = [], [], 0
    for turn in range(8):
        name = cast[turn % len(cast)]
        length, pause = int(rng.integers(30, 70)), int(rng.integers(5, 20))
        spectrum = 3 * np.cos(np.arange(BANDS) * (PEOPLE.index(name) + 1) * np.pi / BANDS)
        rows += [spectrum + rng.normal(0, 0.7, (length, BANDS)), -8 + rng.normal(0, 0.3, (pause, BANDS))]
        turns.append(Segment(round(t * HOP, 3), round((t + length) * HOP, 3), name))
        t += length + pause
    return np.concatenate(rows).astype(np.float32), turns


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """24 recordings with their casts, one more to apply to, and a model trained on the casts."""
    folder, rng = tmp_path_factory.mktemp("world"), np.random.default_rng(0)
    rows = []
    for index in range(24):
        cast = tuple(rng.choice(PEOPLE, int(rng.integers(1, 4)), replace=False))
        values, _ = recording(rng, cast)
        write_features(folder / f"r{index}.npz", Features(values, HOP))
        rows.append((f"r{index}.npz", cast))
    write_cast_csv(folder / "cast.csv", rows)
    values, turns = recording(rng, PEOPLE[:2])
    write_features(folder / "new.npz", Features(values, HOP))
    write_rttm(folder / "new.rttm", {"new": turns})
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    command = ["train", str(folder / "cast.csv"), "--out", str(folder / "run"), "--config", str(folder / "config.json")]
    assert main([*command, "--front", "features", "--quiet", "--device", "cpu"]) == 0
    return folder


def test_apply_writes_turns_that_can_be_scored(world, capsys):
    assert main(["apply", str(world / "run/model"), str(world / "new.npz"), "--out", str(world / "found")]) == 0
    assert "people" in capsys.readouterr().err
    assert main(["score", str(world / "new.rttm"), str(world / "found/new.rttm"), "--collar", "0.1", "--json"]) == 0
    score = json.loads(capsys.readouterr().out)
    assert score["der"] == pytest.approx(score["miss"] + score["false_alarm"] + score["confusion"])
    assert score["der"] < 75.0  # speech is found, whoever it is given to
    written = json.loads((world / "found/new.json").read_text(encoding="utf-8"))
    assert written["file_id"] == "new"
    assert 1 <= len(written["speakers"]) <= 3
    assert all(0.5 <= speaker["confidence"] <= 1 for speaker in written["speakers"])


def test_apply_prints_rttm_or_one_object(world, capsys, tmp_path):
    model, audio = str(world / "run/model"), str(world / "new.npz")
    assert main(["apply", model, audio, "--quiet"]) == 0
    (tmp_path / "out.rttm").write_text(capsys.readouterr().out, encoding="utf-8")
    assert read_rttm(tmp_path / "out.rttm")["new"]
    assert main(["apply", model, audio, "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["recordings"][0]["segments"]


@pytest.mark.parametrize(("option", "low", "high"), [("--num-speakers", 3, 3), ("--max-speakers", 0, 1)])
def test_bounds_on_the_number_of_people_are_honoured(world, capsys, option, low, high):
    assert (
        main(["apply", str(world / "run/model"), str(world / "new.npz"), option, str(high), "--json", "--quiet"]) == 0
    )
    assert low <= len(json.loads(capsys.readouterr().out)["recordings"][0]["speakers"]) <= high


def test_a_finished_run_is_resumed_to_the_same_model_and_not_overwritten(world, capsys):
    before = (world / "run/model/model.safetensors").read_bytes()
    again = ["train", str(world / "cast.csv"), "--out", str(world / "run"), "--quiet", "--device", "cpu"]
    assert main(again) == 2
    assert "holds a run or a model already" in capsys.readouterr().err
    assert main([*again, "--resume"]) == 0
    assert (world / "run/model/model.safetensors").read_bytes() == before


def test_recordings_the_model_cannot_hear_are_named(world, capsys, tmp_path):
    write_audio(tmp_path / "quiet.wav", np.zeros(16000, np.float32))
    assert main(["apply", str(world / "run/model"), str(tmp_path / "quiet.wav")]) == 2  # audio, and a model on features
    assert "quiet.wav" in capsys.readouterr().err
    assert main(["apply", str(world / "run/model"), str(tmp_path / "none.npz")]) == 2
    assert "none.npz" in capsys.readouterr().err


BAD_ROWS = {
    "missing": ("gone.npz,Ann\n", "gone.npz"),
    "twice": ("r0.npz,Ann\n", "listed twice"),
    "empty cast": ("new.npz,\n", "line"),
    "too many people": ("new.npz,A;B;C;D\n", "raise slots"),
    "unreadable": ("broken.npz,Ann\n", "broken.npz"),
}


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_bad_rows_are_named_and_can_be_skipped(world, capsys, tmp_path, kind):
    row, said = BAD_ROWS[kind]
    (world / "broken.npz").write_bytes(b"PK\x03\x04 nonsense")
    cast = world / f"{kind.replace(' ', '_')}.csv"
    cast.write_text((world / "cast.csv").read_text(encoding="utf-8") + row, encoding="utf-8")
    command = ["train", str(cast), "--out", str(tmp_path / "run"), "--config", str(world / "config.json"), "--quiet"]
    command += ["--front", "features", "--device", "cpu", "--listen-steps", "1", "--weigh-steps", "1"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--config", "{folder}/wrong.json"], "no setting"),
        (["--resume"], "no run to resume"),
        (["--device", "cuda:7"], "GPU"),
        (["--wavlm", "{folder}/no-such-folder"], "no-such-folder"),
    ],
)
def test_requests_that_cannot_be_served(world, capsys, tmp_path, change, said):
    (world / "wrong.json").write_text('{"lern": {}}', encoding="utf-8")
    command = ["train", str(world / "cast.csv"), "--out", str(tmp_path / "run"), "--quiet"]
    assert main([*command, *(part.format(folder=world) for part in change)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_model_folders_that_cannot_be_loaded(world, capsys, tmp_path):
    assert main(["apply", str(tmp_path / "none"), str(world / "new.npz")]) == 2
    assert "no model folder" in capsys.readouterr().err
    broken = tmp_path / "broken"
    broken.mkdir()
    whole = world / "run/model"
    (broken / "config.json").write_text((whole / "config.json").read_text(encoding="utf-8"), encoding="utf-8")
    (broken / "model.safetensors").write_bytes((whole / "model.safetensors").read_bytes()[:-1000])
    assert main(["apply", str(broken), str(world / "new.npz")]) == 2
    assert "model.safetensors" in capsys.readouterr().err
    (broken / "model.safetensors").unlink()
    (broken / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    assert main(["apply", str(broken), str(world / "new.npz")]) == 2
    assert "pickle" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("verb", "extra"),
    [
        ("apply", ()),
        ("apply", ("--out", "found")),
        ("apply", ("--out", "found", "--json")),
        ("apply", ("--format", "csv")),
        ("identify", ("--index", "index")),
    ],
)
def test_two_recordings_of_one_name_are_told_apart_by_nothing_in_rttm(capsys, tmp_path, verb, extra):
    """No model is there: it is said before one is loaded."""
    for first, second in (("a/new.npz", "b/new.npz"), ("a/e\u0301.npz", "b/\xe9.npz")):
        assert main([verb, "no model", str(tmp_path / first), str(tmp_path / second), *extra]) == 2
        assert "the same name" in capsys.readouterr().err
    assert main([verb, "no model", str(tmp_path / first), str(tmp_path / "other.npz"), *extra]) == 2
    assert "no model folder" in capsys.readouterr().err


def test_two_recordings_of_one_name_are_told_apart_by_their_paths_in_json(world, capsys, tmp_path):
    write_features(tmp_path / "new.npz", Features(recording(np.random.default_rng(1), PEOPLE[:1])[0], HOP))
    paths = [str(world / "new.npz"), str(tmp_path / "new.npz")]
    assert main(["apply", str(world / "run/model"), *paths, "--json", "--quiet"]) == 0
    assert [one["file"] for one in json.loads(capsys.readouterr().out)["recordings"]] == paths

"""`weigher compare`: corpora of recordings heard by a model, and files of features; like ones and unlike ones."""

import json
import sys

import numpy as np
import pytest

from made_up import small_settings
from weigher.cli.main import main
from weigher.io.features import Features, write_features
from weigher.io.manifest import write_cast_csv
from weigher.recordings.configs import overlay
from weigher.recordings.corpus_voices import corpus_voices
from weigher.recordings.diarizer import Diarizer, DiarizerConfig

HOP, BANDS, PEOPLE = 0.02, 12, ("Ann", "Ben", "Cid", "Dee")
SETTINGS = small_settings(channels=16, listen=30, weigh=30, weigh_rate=0.006, warmup=3, crops=24)


def talk(cast, rng, tilt):
    rows = []
    for turn in range(6):
        spectrum = 2 * np.cos(np.arange(BANDS) * (PEOPLE.index(cast[turn % len(cast)]) + 1) * np.pi / BANDS)
        spectrum = spectrum + tilt * np.linspace(-1, 1, BANDS)
        rows.append(spectrum + rng.normal(0, 0.7, (int(rng.integers(50, 90)), BANDS)))
        rows.append(rng.normal(-2, 0.3, (int(rng.integers(15, 50)), BANDS)))
    return np.concatenate(rows).astype(np.float32)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A model, and three corpora: the one it learned, one like it, and one recorded through another microphone."""
    folder, rng = tmp_path_factory.mktemp("world"), np.random.default_rng(0)
    for name, tilt in (("known", 0.0), ("like", 0.0), ("unlike", 4.0)):
        rows = []
        (folder / name).mkdir()
        for index in range(24 if name == "known" else 12):
            cast = tuple(str(each) for each in rng.choice(PEOPLE, int(rng.integers(1, 4)), replace=False))
            write_features(folder / name / f"r{index}.npz", Features(talk(cast, rng, tilt), HOP))
            rows.append((f"{name}/r{index}.npz", cast))
        write_cast_csv(folder / f"{name}.csv", rows)
    config = overlay(DiarizerConfig(), SETTINGS, "these tests")
    Diarizer(config=config, seed=1, device="cpu").fit(folder / "known.csv").save_pretrained(folder / "model")
    return folder


def compare(*arguments):
    return main(["compare", *(str(argument) for argument in arguments)])


def compared(capsys, *arguments):
    assert compare(*arguments, "--json", "--quiet", "--shuffles", 39, "--halves", 4) == 0
    return json.loads(capsys.readouterr().out)


def test_an_archive_like_the_known_one_and_one_unlike_it(world, capsys):
    found = {
        name: compared(capsys, world / "known.csv", world / f"{name}.csv", "--model", world / "model")
        for name in ("like", "unlike")
    }
    assert found["like"]["verdict"] == "like"
    assert found["unlike"]["verdict"] == "unlike"
    assert found["unlike"]["p_value"] == pytest.approx(1 / 40)
    assert found["unlike"]["distance"] > found["like"]["distance"]
    assert found["unlike"]["spreads_beyond"] > 3
    for told in found.values():
        assert told["squared"] == pytest.approx(told["feature_part"] + told["label_part"])
        assert told["label_part"] > 0
        assert (told["a"]["groups"], told["b"]["groups"]) == (24, 12)
        assert len(told["shuffled"]) == 39
        assert len(told["halves_of_a"]) == 4


def test_folders_have_voices_and_no_people(world, capsys):
    assert compare(world / "known", world / "unlike", "--model", world / "model", "--shuffles", 19) == 0
    shown = capsys.readouterr()
    assert "unlike: none of 19 shuffles lies as far apart (p = 0.05)" in shown.out
    assert "halves of A" in shown.out
    assert "people were not compared" in shown.err


def test_voices_bear_the_names_of_the_cast(world):
    diarizer = Diarizer.from_pretrained(world / "model", device="cpu")
    told = corpus_voices(diarizer, world / "known.csv")
    assert told.named
    assert set(told.labels) == set(PEOPLE)
    assert len(told.vectors) == len(told.labels) == len(told.recordings)
    people = {name: told.vectors[[label == name for label in told.labels]] for name in PEOPLE}
    alike = np.mean([(vectors @ vectors.mean(0)).mean() for vectors in people.values()])
    assert alike > np.mean([(people[a] @ people[b].mean(0)).mean() for a in PEOPLE for b in PEOPLE if a != b])
    plain = corpus_voices(diarizer, world / "like")
    assert not plain.named
    assert len(set(plain.labels)) == len(plain.labels)


def test_files_of_features_need_no_model(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name, shift in (("a", 0.0), ("b", 0.0), ("c", 3.0)):
        labels = np.arange(60) % 3
        features = rng.normal(size=(60, 4)) + labels[:, None] + shift
        np.savez(tmp_path / f"{name}.npz", features=features, labels=labels, groups=np.arange(60) // 2)
    assert compared(capsys, tmp_path / "a.npz", tmp_path / "b.npz")["verdict"] == "like"
    found = compared(capsys, tmp_path / "a.npz", tmp_path / "c.npz")
    assert found["verdict"] == "unlike"
    assert found["a"] == {"corpus": str(tmp_path / "a.npz"), "points": 60, "groups": 30, "labels": 3}


def test_a_recording_that_cannot_be_read_is_left_out_on_request(world, capsys):
    broken = world / "like" / "broken.npz"
    broken.write_bytes(b"nothing")
    try:
        arguments = (world / "like", world / "known", "--model", world / "model", "--shuffles", 19)
        assert compare(*arguments) == 2
        assert "broken.npz" in capsys.readouterr().err
        assert compare(*arguments, "--skip-bad", "--json") == 0
        shown = capsys.readouterr()
        assert json.loads(shown.out)["failed"][0]["file"] == str(broken)
        assert "left out" in shown.err
    finally:
        broken.unlink()


def test_wrong_requests_are_told(world, tmp_path, capsys):
    np.savez(tmp_path / "bare.npz", features=np.zeros((3, 2)))
    np.savez(tmp_path / "words.npz", features=np.array(["a", "b"]), labels=np.zeros(2, int))
    for arguments, said in (
        ((world / "known.csv", world / "like.csv"), "--model"),
        ((world / "known.csv", tmp_path / "bare.npz"), "two kinds"),
        ((tmp_path / "bare.npz", tmp_path / "bare.npz"), "labels"),
        ((tmp_path / "words.npz", tmp_path / "words.npz"), "needed are numbers"),
        ((world / "none.csv", world / "like.csv", "--model", world / "model"), "none.csv"),
        ((world / "known.csv", world / "like.csv", "--model", tmp_path, "--shuffles", 5), "--shuffles 5: needed is 19"),
        ((world / "known.csv", world / "like.csv", "--model", tmp_path, "--halves", -1), "--halves -1: needed is 0"),
        ((world / "known.csv", world / "like.csv", "--model", tmp_path, "--max-samples", 0), "--max-samples 0: needed"),
        ((world / "known.csv", world / "like.csv", "--model", tmp_path, "--seed", -1), "--seed -1: needed is 0"),
    ):
        assert compare(*arguments) == 2
        assert said in capsys.readouterr().err


def test_a_missing_solver_is_told_before_anything_is_heard(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ot", None)
    assert compare(tmp_path / "none.csv", tmp_path / "none.csv") == 2
    assert "weigher[examples]" in capsys.readouterr().err

"""From voices to scored recordings on the command line: what `simulate` writes is what the other verbs read."""

import errno
import json
import os
import shutil
import subprocess
import sys
import unicodedata
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from weigher.cli.main import main
from weigher.io import atomic
from weigher.io.audio import audio_seconds, write_audio
from weigher.io.manifest import read_manifest
from weigher.io.rttm import Segment, read_rttm_tree, write_rttm
from weigher.io.voices import read_voices
from weigher.recordings.synthesise import synthesise_voices

NAMES = ("Ana López", "Bo; Bo", "50% 晓明", "plain")
REQUEST = ("--recordings", 8, "--max-speakers", 3, "--seconds", "4-6", "--noise-db", 25, "--quiet")


def call(*args: object) -> int:
    return main([str(arg) for arg in args])


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder of voices of people whose names are awkward in CSV and RTTM, and a folder of turn timings."""
    folder = tmp_path_factory.mktemp("given")
    synthesise_voices(folder / "made", speakers=4, utterances=2, seconds=1.5, seed=0)
    (folder / "voices").mkdir()
    for voice, name in zip(sorted((folder / "made").iterdir()), NAMES, strict=True):
        # some systems write names of folders so
        voice.rename(folder / "voices" / f" {unicodedata.normalize('NFD', name)}")
    for talk in ("one", "two"):
        turns = [Segment(9.0 * k, 9.0 * k + 8 + k % 3, "abc"[k % 3]) for k in range(20)]
        write_rttm(folder / "timings" / f"{talk}.rttm", {talk: turns})
    return folder / "voices", folder / "timings"


@pytest.fixture(scope="module")
def made(given, tmp_path_factory):
    """What one call of `simulate` wrote."""
    out = tmp_path_factory.mktemp("made") / "set"
    assert call(*request(given, out)) == 0
    return out


def request(given, out: Path, seed: int = 1) -> tuple[object, ...]:
    return ("simulate", given[0], "--timings", given[1], "--out", out, "--seed", seed, *REQUEST)


# --- what is written is what is read ----------------------------------------------------------------------------------


def test_casts_and_turns_name_the_same_people_whatever_their_names(made):
    manifest = read_manifest(made / "cast.csv")
    turns = read_rttm_tree(made / "rttm")
    assert manifest.skipped == ()
    assert {r.path.stem: set(r.cast) for r in manifest.recordings} == {
        name: {segment.speaker for segment in segments} for name, segments in turns.items()
    }
    assert {name for recording in manifest.recordings for name in recording.cast} == set(NAMES)
    for recording in manifest.recordings:
        seconds = audio_seconds(recording.path)
        assert 4 <= seconds <= 6
        assert all(0 <= s.start < s.end <= seconds for s in turns[recording.path.stem])


def test_names_in_a_container_of_features_are_taken_the_same_way(tmp_path):
    np.savez(
        tmp_path / "voices.npz",
        features=np.zeros((8, 2), np.float32),
        offsets=np.arange(0, 9, 2),
        speaker=[f" {unicodedata.normalize('NFD', name)} " for name in NAMES],
        utterance=["1", "2", "3", "4"],
    )
    assert set(read_voices(tmp_path / "voices.npz").speakers) == set(NAMES)


def test_its_turns_scored_against_themselves_are_without_error(made, capsys):
    assert call("score", made / "rttm", made / "rttm", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert [result[rate] for rate in ("der", "miss", "false_alarm", "confusion", "jer")] == [0.0] * 5
    assert result["count_accuracy"] == 100.0
    assert len(result["files"]) == 8
    assert call("score", made / "rttm", made / "rttm") == 0
    out, err = capsys.readouterr()
    total = next(line for line in out.splitlines() if "all 8" in line)
    assert total.count(" 0.00 ") == 5
    assert "100.00 % right" in total
    assert err == ""


def test_names_do_not_count_and_one_name_for_all_is_confusion(made, tmp_path, capsys):
    truth = read_rttm_tree(made / "rttm")
    other = {name: f"speaker {index}" for index, name in enumerate(reversed(NAMES))}
    renamed = {file: [replace(s, speaker=other[s.speaker]) for s in turns] for file, turns in truth.items()}
    write_rttm(tmp_path / "renamed.rttm", renamed)
    assert call("score", made / "rttm", tmp_path / "renamed.rttm", "--json") == 0
    assert json.loads(capsys.readouterr().out)["der"] == 0.0
    write_rttm(tmp_path / "one.rttm", {f: [replace(s, speaker="1") for s in turns] for f, turns in truth.items()})
    assert call("score", made / "rttm", tmp_path / "one.rttm", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    alone = sum(len({s.speaker for s in turns}) == 1 for turns in truth.values())
    assert result["count_accuracy"] == pytest.approx(100 * alone / 8)
    assert result["confusion"] > 5
    assert result["false_alarm"] == 0


# --- the same again ---------------------------------------------------------------------------------------------------


def test_another_process_and_a_copy_of_the_voices_make_the_same_bytes(given, made, tmp_path):
    # copied in the opposite order, so that the folders are listed in another one; strings hash differently, too
    for source in given:
        for file in sorted((path for path in source.rglob("*") if path.is_file()), reverse=True):
            copy = tmp_path / source.name / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
    command = [sys.executable, "-m", "weigher.cli.main", "simulate", "voices", "--timings", "timings", "--out", "again"]
    command += ["--seed", "1", *map(str, REQUEST)]
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0)
    assert files(tmp_path / "again") == files(made)


def test_another_seed_makes_other_sound_and_other_turns(given, made, tmp_path):
    assert call(*request(given, tmp_path / "set", seed=2)) == 0
    one, other = files(made), files(tmp_path / "set")
    assert set(one) == set(other)
    assert [name for name in one if name.startswith("audio/") and one[name] == other[name]] == []
    assert read_rttm_tree(made / "rttm") != read_rttm_tree(tmp_path / "set" / "rttm")


# --- a full disk ------------------------------------------------------------------------------------------------------

FULL = OSError(errno.ENOSPC, "No space left on device")
ORDER = [f"{kind}/conv{k:05d}.{end}" for k in range(8) for kind, end in (("audio", "flac"), ("rttm", "rttm"))]
ORDER += ["statistics.json", "cast.csv"]
PLACES = ("audio/conv00000.flac", "rttm/conv00002.rttm", "statistics.json", "cast.csv")


def watched(place: int, moment: str) -> type:
    """Files of which the one that is opened after `place` others meets a full disk, at a write or at the fsync."""
    opened = []

    class Watched(atomic._WatchedFile):
        def __init__(self, path, mode):
            super().__init__(path, mode)
            opened.append(self)

        def write(self, b, /):
            if moment == "write" and len(opened) > place:
                super().write(bytes(b)[: len(b) // 2])  # half of it still fits
                self.failure = FULL
                raise FULL
            return super().write(b)

        def fileno(self):
            if moment == "fsync" and len(opened) > place:
                raise FULL  # nobody else asks for the number
            return super().fileno()

    return Watched


@pytest.mark.parametrize("fault", [*product(PLACES, ("write", "fsync"))], ids="-".join)
def test_a_full_disk_leaves_whole_files_or_none_and_no_cast_list(given, made, tmp_path, capsys, fault):
    (where, moment), out = fault, tmp_path / "set"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atomic, "_WatchedFile", watched(ORDER.index(where), moment))
        assert call(*request(given, out)) == 1
    printed, said = capsys.readouterr()
    assert f"the disk is full: {out / where} could not be written" in said
    assert said.count("\n") == 1
    assert printed == ""
    whole, left = files(made), files(out)
    assert set(left) == set(ORDER[: ORDER.index(where)])
    assert all(left[name] == whole[name] for name in left)
    assert call(*request(given, out)) == 0  # with space again
    assert files(out) == whole


# --- requests that cannot be served -----------------------------------------------------------------------------------


def spoilt(folder, kind):
    """Make one thing wrong; returns the options that name it and what must be said about it."""
    folder.mkdir()
    if kind == "an empty folder of timings":
        return ("--timings", folder), f"no RTTM file under '{folder}'"
    if kind == "timings without turns":
        (folder / "a.rttm").write_text(";; nobody speaks\n")
        return ("--timings", folder), "no speech in the turn timings"
    if kind == "timings that are no RTTM":
        (folder / "a.rttm").write_text(
            "SPEAKER a 1 0 1 <NA> <NA> x <NA> <NA>\nSPEAKER a 1 soon 1 <NA> <NA> x <NA> <NA>\n"
        )
        return ("--timings", folder), f"{folder / 'a.rttm'}, line 2: the start is 'soon'"
    if kind == "out is a file":
        (folder / "out").write_text("mine")
        return ("--out", folder / "out"), "cannot write"
    if kind == "out is in a file":
        (folder / "file").write_text("mine")
        return ("--out", folder / "file" / "out"), "cannot write"
    raise AssertionError(kind)


@pytest.mark.parametrize(
    "kind",
    [
        "an empty folder of timings",
        "timings without turns",
        "timings that are no RTTM",
        "out is a file",
        "out is in a file",
    ],
)
def test_wrong_folders_end_with_code_2_and_one_message(given, tmp_path, capsys, kind):
    wrong, reason = spoilt(tmp_path / "wrong", kind)
    before = files(tmp_path / "wrong")
    assert call("simulate", given[0], "--out", tmp_path / "set", "--timings", given[1], "--quiet", *wrong) == 2
    out, err = capsys.readouterr()
    assert reason in err
    assert err.count("\n") == 1
    assert out == ""
    assert not (tmp_path / "set").exists()
    assert files(tmp_path / "wrong") == before


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (("--max-speakers", 0), "up to 0 speakers"),
        (("--seconds", 1, "--max-speakers", 4), "4 speakers in 1 s"),
        (("--noise-db", "nan"), "noise_db"),
        (("--recordings", "ten"), "--recordings"),
    ],
)
def test_wrong_numbers_end_with_code_2_and_nothing_written(given, tmp_path, capsys, wrong, reason):
    assert call("simulate", given[0], "--out", tmp_path / "set", "--timings", given[1], "--quiet", *wrong) == 2
    out, err = capsys.readouterr()
    assert reason in err
    assert "Traceback" not in err
    assert out == ""
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("kind", ["no folder", "nothing in it", "no folder for each", "cut short", "silent"])
def test_voices_that_cannot_be_used_are_named(given, tmp_path, capsys, kind):
    voices = tmp_path / "voices"
    if kind != "no folder":
        voices.mkdir()
    if kind == "no folder for each":
        write_audio(voices / "a.flac", np.zeros(1600))
    if kind == "cut short":
        whole = next((given[0] / " plain").iterdir())
        (voices / "Eve").mkdir()
        (voices / "Eve" / "half.flac").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    if kind == "silent":
        write_audio(voices / "Eve" / "half.flac", np.zeros(400))  # 25 ms: no voice has been heard in that
    options = ("--recordings", 2, "--max-speakers", 1, "--seconds", 3, "--quiet")
    assert call("simulate", voices, "--timings", given[1], "--out", tmp_path / "set", *options) == 2
    out, err = capsys.readouterr()
    assert ("'Eve'" if kind == "silent" else str(voices)) in err
    assert err.count("\n") == 1
    assert out == ""
    assert files(tmp_path / "set") == {}

"""From audio files and a cast list to turns on the command line: every kind of file, runs cut off anywhere, workers."""

import errno
import json
import shutil
from functools import partial

import numpy as np
import pytest
import soundfile
import torch
from transformers import WavLMConfig, WavLMModel

from interrupting import cut_by
from launching import torchrun
from weigher.cli.main import main
from weigher.io import atomic
from weigher.io.manifest import write_cast_csv
from weigher.io.rttm import read_rttm
from weigher.recordings.diarizer import Diarizer
from weigher.train import read_metrics, state

PITCH = {"Ann": 110, "Ben Ü": 150, "Cid; jr": 200}
RATE = 16000
PHASE = {"steps": 4, "warmup_steps": 1, "validate_every": 2}
CONFIG = {
    "model": {
        "front": {"mels": 16},
        "encoder": {"channels": 8, "embedding": 8, "dilations": [1]},
        "weigher": {"slots": 3, "heads": 2, "layers": 1, "channel_reduction": 2, "time_reduction": 5},
    },
    "learn": {
        **{"listen": PHASE, "listen_batch": 4, "listen_seconds": 1.0},
        **{"weigh": PHASE, "weigh_batch": 2, "recompose": {"seconds": 2.0}},
        "teacher": {"threshold": -5.0, "temper": 3.0},  # finds a stretch in anything
    },
}
CASTS = [("Ann", "Ben Ü"), ("Ben Ü", "Cid; jr"), ("Cid; jr", "Ann"), ("Ann",), ("Ben Ü",), ("Cid; jr",)]


def talk(cast, rate=RATE, seconds=2.0, seed=0):
    """Six turns by one person after the other; a voice is a pitch with its overtones, all below 2 kHz.

    Noise, the same at any rate, reaches up to 7.5 kHz or what the rate can hold: no band is left to the rounding.
    """
    t = np.arange(round(seconds * rate)) / rate
    noise = {75 * k: a for k, a in enumerate(np.random.default_rng(seed).normal(size=101)) if 75 * k < 0.48 * rate}
    sound = 0.01 * sum(a * np.sin(2 * np.pi * hertz * t) for hertz, a in noise.items())
    for turn in range(6):
        on = (t >= turn * seconds / 6) & (t < (turn + 0.8) * seconds / 6)
        pitch = PITCH[cast[turn % len(cast)]]
        sound += on * 0.1 * sum(np.sin(2 * np.pi * pitch * k * t) / k for k in range(1, 9))
    return sound.clip(-0.99, 0.99)


def call(*args: object) -> int:
    return main([str(arg) for arg in args])


def train(folder, cast, out, *more):
    return call("train", cast, "--out", out, "--config", folder / "config.json", "--device", "cpu", "--quiet", *more)


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Six plain recordings, their casts, and settings of a tiny model that takes four steps in each phase."""
    folder = tmp_path_factory.mktemp("world")
    for index, cast in enumerate(CASTS):
        soundfile.write(folder / f"r{index}.wav", talk(cast, seed=index), RATE)
    write_cast_csv(folder / "cast.csv", [(f"r{index}.wav", cast) for index, cast in enumerate(CASTS)])
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def whole(world):
    """The folder of a run that nothing has cut off."""
    assert train(world, world / "cast.csv", world / "run") == 0
    return world / "run"


def weights(run):
    return (run / "model" / "model.safetensors").read_bytes()


# --- kinds of audio ---------------------------------------------------------------------------------------------------

GOOD = {
    "phone at 8 kHz.wav": (8000, 1, "PCM_16"),
    "cd; stereo, 24 bit.wav": (44100, 2, "PCM_24"),
    "schön 晓明.flac": (16000, 1, "PCM_16"),
    "float.wav": (16000, 1, "FLOAT"),
    "six channels.wav": (48000, 6, "PCM_16"),
}


def write_kinds(folder):
    """The same talk in files of every kind."""
    for name, (rate, channels, subtype) in GOOD.items():
        soundfile.write(folder / name, np.stack([talk(CASTS[0], rate)] * channels, 1), rate, subtype=subtype)
    soundfile.write(folder / "digital silence.wav", np.zeros(2 * RATE), RATE)


@pytest.fixture(scope="module")
def kinds(world):
    """A folder with audio of every kind, casts as CSV and as JSON lines, and the model trained on the former."""
    folder = world / "kinds"
    folder.mkdir()
    write_kinds(folder)
    rows = [(name, CASTS[k % 3]) for k, name in enumerate([*GOOD, "digital silence.wav"])]
    rows += [(f"../r{k}.wav", cast) for k, cast in enumerate(CASTS)]
    write_cast_csv(folder / "cast.csv", rows)
    lines = [
        json.dumps({"file_name": name, "speakers": cast}, ensure_ascii=k % 2 > 0) for k, (name, cast) in enumerate(rows)
    ]
    (folder / "cast.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert train(world, folder / "cast.csv", folder / "run") == 0
    return folder


def test_csv_and_json_lines_teach_the_same(world, kinds, tmp_path, capsys):
    assert train(world, kinds / "cast.jsonl", tmp_path / "run", "--json") == 0
    assert weights(tmp_path / "run") == weights(kinds / "run")
    told = json.loads(capsys.readouterr().out)
    assert (told["people"], told["recordings"], told["skipped"], told["steps"]) == (3, 12, [], [4, 4])


def test_one_talk_has_the_same_tracks_at_every_rate_and_in_any_channels(kinds):
    model = Diarizer.from_pretrained(kinds / "run/model", device="cpu")
    heard = partial(model.predict, num_speakers=3)
    reference = heard(kinds / "float.wav").tracks
    other_talks = min(np.abs(heard(kinds / f"../r{k}.wav").tracks - reference).max() for k in range(1, 6))
    for name, (rate, _, _) in GOOD.items():
        found = heard(kinds / name)
        assert found.seconds == pytest.approx(2.0, abs=1e-3)
        # what the telephone cuts off is missed; all else is the same but for rounding and the resampler
        limit = other_talks / (2 if rate == 8000 else 100)
        assert np.abs(found.tracks - reference).max() < limit, name


def test_apply_names_its_turns_after_the_files(kinds, tmp_path, capsys):
    names = [*GOOD, "digital silence.wav"]
    asked = ("apply", kinds / "run/model", *(kinds / name for name in names), "--num-speakers", 2, "--device", "cpu")
    assert call(*asked, "--quiet") == 0
    printed, said = capsys.readouterr()
    assert said == ""
    (tmp_path / "all.rttm").write_text(printed, encoding="utf-8")
    found = read_rttm(tmp_path / "all.rttm")
    assert set(found) <= {name.rpartition(".")[0] for name in names}
    assert "cd; stereo, 24 bit" in found
    assert call(*asked, "--json", "--out", tmp_path / "found") == 0
    printed, said = capsys.readouterr()
    for name, told in zip(names, json.loads(printed)["recordings"], strict=True):
        stem = name.rpartition(".")[0]
        assert f"{kinds / name}: 2 people" in said
        assert told.pop("file") == str(kinds / name)
        assert told["file_id"] == stem
        assert read_rttm(tmp_path / "found" / f"{stem}.rttm").get(stem, []) == found.get(stem, [])
        assert json.loads((tmp_path / "found" / f"{stem}.json").read_text(encoding="utf-8")) == told


def write_bad(folder):
    """Files that cannot be used, by name, each with what must be said about it."""
    (folder / "no bytes.wav").touch()
    soundfile.write(folder / "no samples.wav", np.zeros(0), RATE)
    soundfile.write(folder / "short; ü.wav", np.zeros(399), RATE)
    holed = talk(("Ann",)).astype(np.float32)
    holed[RATE // 2] = np.nan
    soundfile.write(folder / "holed.wav", holed, RATE, subtype="FLOAT")
    (folder / "half.flac").write_bytes((folder / "schön 晓明.flac").read_bytes()[:9000])
    (folder / "words.wav").write_text("no sound at all")
    return {
        "no bytes.wav": "0 bytes",
        "no samples.wav": "0 samples",
        "short; ü.wav": "too short",
        "holed.wav": "at 0.5000 s",
        "half.flac": "cut short",
        "words.wav": "cannot be read as audio",
    }


@pytest.fixture(scope="module")
def bad(world):
    """A folder in which files of every kind, good and bad, take turns; its manifest, and what must be said by line."""
    folder = world / "bad"
    folder.mkdir()
    write_kinds(folder)
    faults = write_bad(folder)
    names = [name for pair in zip(faults, [*GOOD, "digital silence.wav"], strict=True) for name in pair]
    write_cast_csv(folder / "cast.csv", [(name, CASTS[k % 3]) for k, name in enumerate(names)])
    told = {2 + names.index(name): (folder / name, reason) for name, reason in faults.items()}
    return folder, told


def test_audio_that_cannot_be_used_is_named_with_its_line(world, bad, tmp_path, capsys):
    folder, told = bad
    assert train(world, folder / "cast.csv", tmp_path / "run") == 2
    printed, said = capsys.readouterr()
    assert printed == ""
    assert "Traceback" not in said
    assert "6 rows at fault" in said
    for line, (path, reason) in told.items():
        (row,) = [row for row in said.splitlines() if row.startswith(f"  line {line}: ")]
        assert str(path) in row
        assert reason in row
    assert not files(tmp_path)


def test_skip_bad_goes_on_and_lists_what_is_left_out(world, bad, tmp_path, capsys):
    """With rows at fault of the manifest's own among them: a file that is not there, and one that is listed twice."""
    folder, told = bad
    last = len((folder / "cast.csv").read_text(encoding="utf-8").splitlines())
    rows = (folder / "cast.csv").read_text(encoding="utf-8") + 'gone ü.wav,Ann\n"./float.wav",Ben Ü\n'
    (folder / "more.csv").write_text(rows, encoding="utf-8")
    told = {
        **told,
        last + 1: (folder / "gone ü.wav", "does not exist"),
        last + 2: (folder / "float.wav", "listed twice"),
    }
    assert train(world, folder / "more.csv", tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert [f"line {line}: " in said for line in told] == [False] * 6 + [True] * 2  # before any audio is read
    assert train(world, folder / "more.csv", tmp_path / "run", "--skip-bad", "--json") == 0
    printed, said = capsys.readouterr()
    summary = json.loads(printed)
    assert (summary["recordings"], len(summary["skipped"])) == (6, 8)
    for skipped, (line, (path, reason)) in zip(summary["skipped"], sorted(told.items()), strict=True):
        assert skipped.startswith(f"line {line}: {path}")
        assert reason in skipped
        assert f"left out: {skipped}\n" in said
    assert weights(tmp_path / "run")


def test_apply_skips_and_lists_recordings_that_cannot_be_heard(kinds, bad, capsys):
    folder, told = bad
    del told[6]  # apply hears nobody in what is shorter than a frame
    paths = [path for path, _ in told.values()]
    command = ("apply", kinds / "run/model", *paths, folder / "gone.wav", folder / "float.wav", "--device", "cpu")
    assert call(*command, "--json") == 2
    printed, said = capsys.readouterr()
    assert (printed, said.count("\n")) == ("", 1)
    assert f"{paths[0]} is empty" in said
    assert call(*command, "--json", "--skip-bad") == 0
    summary = json.loads(capsys.readouterr().out)
    assert [failure["file"] for failure in summary["failed"]] == [*map(str, paths), str(folder / "gone.wav")]
    for failure, (path, reason) in zip(summary["failed"], told.values(), strict=False):
        assert str(path) in failure["reason"]
        assert reason in failure["reason"]
    assert [recording["file_id"] for recording in summary["recordings"]] == ["float"]


def test_more_people_than_slots_are_told_before_the_audio_is_read(world, bad, tmp_path, capsys):
    folder, _ = bad
    assert train(world, folder / "cast.csv", tmp_path / "run", "--slots", 1) == 2
    said = capsys.readouterr().err
    assert "raise slots to 2" in said
    assert f"line 2: {folder / 'no bytes.wav'} has 2 names" in said


# --- runs that are cut off --------------------------------------------------------------------------------------------


CUTS = {
    "reading": [("check", 4, "raise")],
    "listening": [("listen", 3, "raise")],
    "listening, Ctrl-C": [("listen", 2, "signal")],
    "between": [("gather", 6, "raise")],
    "weighing": [("weigh", 3, "raise")],
    "weighing, Ctrl-C": [("weigh", 1, "signal")],
    "everywhere": [("listen", 1, "raise"), ("listen", 4, "raise"), ("weigh", 1, "raise"), ("weigh", 4, "raise")],
}


@pytest.mark.parametrize("kind", CUTS)
def test_a_run_cut_off_and_resumed_is_the_run_that_never_was(world, whole, tmp_path, capsys, kind):
    run, resume = tmp_path / "run", []
    for stage, at, how in CUTS[kind]:
        with pytest.MonkeyPatch.context() as patch:
            cut_by(patch, stage, at, how)
            assert train(world, world / "cast.csv", run, *resume) == 130
        printed, said = capsys.readouterr()
        assert (printed, said.count("\n")) == ("", 1)
        if how == "signal":
            assert f"stopped after step {at + 1}; its state is kept in {run / stage / 'last.safetensors'}" in said
        assert not (run / "model").exists()
        resume = ["--resume"]
    assert train(world, world / "cast.csv", run, "--resume") == 0
    assert weights(run) == weights(whole)
    for phase in ("listen", "weigh"):
        losses, expected = (
            [(record["step"], record["loss"]) for record in read_metrics(folder / phase / "metrics.jsonl")]
            for folder in (run, whole)
        )
        assert losses == expected
        assert len(losses) == 4


FULL = OSError(errno.ENOSPC, "No space left on device")


WRITTEN = ("list.json", "model.safetensors", "config.json", "README.md")


@pytest.mark.parametrize("name", WRITTEN)
def test_a_full_disk_at_the_end_loses_nothing(whole, tmp_path, capsys, monkeypatch, name):
    world, run, place = whole.parent, tmp_path / "run", WRITTEN.index(name)
    opened = []

    class Watched(atomic._WatchedFile):
        def write(self, b, /):
            opened.extend([self] * (self not in opened))
            if opened.index(self) == place:
                super().write(bytes(b)[:10])  # so much still fits
                raise FULL
            return super().write(b)

    shutil.copytree(whole, run, ignore=shutil.ignore_patterns("model"))
    before = files(run)
    monkeypatch.setattr(atomic, "_WatchedFile", Watched)
    assert train(world, world / "cast.csv", run, "--resume") == 1
    printed, said = capsys.readouterr()
    assert printed == ""
    assert said.count("\n") == 1
    assert f"the disk is full: {run / (name if place == 0 else 'model')}" in said
    assert files(run) == before
    monkeypatch.undo()
    assert train(world, world / "cast.csv", run, "--resume") == 0
    assert weights(run) == weights(whole)
    before = files(run)
    opened.clear()
    monkeypatch.setattr(atomic, "_WatchedFile", Watched)
    assert train(world, world / "cast.csv", run, "--resume") == 1  # the model that is there survives, too
    assert files(run) == before


def test_a_full_disk_while_training_keeps_the_state_before(world, whole, tmp_path, capsys, monkeypatch):
    run, saved = tmp_path / "run", []

    def full(path, mode):
        if path.parent.name == "weigh":
            saved.append(path)
            if len(saved) == 2:  # the state after step 2; that of step 0 was kept
                raise FULL
        return open(path, mode)

    monkeypatch.setattr(state, "open", full, raising=False)
    assert train(world, world / "cast.csv", run) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{run / 'weigh' / 'last.safetensors'}: the disk is full" in said
    assert state.load_tensors(run / "weigh/last.safetensors")[1]["position"]["step"] == 0
    assert train(world, world / "cast.csv", run, "--resume") == 0
    assert weights(run) == weights(whole)


# --- other front ends, workers and devices ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wavlm(tmp_path_factory):
    """A folder that holds a folder `tiny` with a WavLM of random weights."""
    folder = tmp_path_factory.mktemp("wavlm")
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    size |= {"conv_dim": (8,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        WavLMModel(WavLMConfig(**size, num_buckets=16, max_bucket_distance=20)).save_pretrained(folder / "tiny")
    return folder


def test_wavlm_from_a_folder_is_trained_on_applied_and_loaded_again(bad, wavlm, tmp_path, monkeypatch, capsys):
    world = bad[0].parent
    asked = ("--wavlm", "tiny", "--listen-steps", 2, "--weigh-steps", 2)
    monkeypatch.chdir(wavlm)
    assert train(world, bad[0] / "cast.csv", tmp_path / "run", *asked, "--skip-bad", "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["recordings"], len(summary["skipped"]), summary["steps"]) == (6, 6, [2, 2])
    monkeypatch.chdir(tmp_path)  # its folder was named from another place
    config = json.loads((tmp_path / "run/model/config.json").read_text(encoding="utf-8"))["config"]["model"]
    assert (config["front"]["kind"], config["encoder"]["kind"]) == ("wavlm", "linear")
    model, audio = tmp_path / "run/model", world / "r0.wav"
    assert call("apply", model, audio, "--num-speakers", 2, "--json", "--device", "cpu", "--quiet") == 0
    told = json.loads(capsys.readouterr().out)["recordings"][0]
    assert told["seconds"] == 2.0
    assert told["hop_seconds"] == 0.02
    again = Diarizer.from_pretrained(model, device="cpu").predict(audio, num_speakers=2)
    assert {"file": str(audio), **json.loads(again.to_json())} == told
    (wavlm / "tiny").rename(wavlm / "moved")
    assert call("apply", model, audio, "--device", "cpu") == 2
    assert f"cannot load WavLM from '{wavlm / 'tiny'}'" in capsys.readouterr().err


def test_two_workers_train_one_model_and_speak_once(world, tmp_path):
    rows = (world / "cast.csv").read_text(encoding="utf-8").replace("r5.wav", "gone.wav") + "r5.wav,Eve\n"
    (world / "workers.csv").write_text(rows, encoding="utf-8")
    command = ["-m", "weigher.cli.main", "train", world / "workers.csv", "--json", "--out", tmp_path / "run"]
    command += ["--config", world / "config.json", "--device", "cpu"]
    command += ["--listen-steps", 2, "--weigh-steps", 2, "--skip-bad", "--quiet"]
    code, printed, said = torchrun(*command)
    assert code == 0, said
    assert json.loads(printed)["steps"] == [2, 2]
    warned, left_out = said.splitlines()  # and nothing of torch's
    assert warned == (
        "warning: 1 name appears in one recording only and cannot be learned apart from its company: Eve (r5.wav)"
    )
    assert left_out.startswith("left out: line 7: ")
    for phase in ("listen", "weigh"):
        assert [record["step"] for record in read_metrics(tmp_path / "run" / phase / "metrics.jsonl")] == [1, 2]
        assert state.load_tensors(tmp_path / "run" / phase / "last.safetensors")[1]["workers"] == 2
    model = Diarizer.from_pretrained(tmp_path / "run/model", device="cpu")
    assert np.isfinite(model.predict(world / "r0.wav", num_speakers=3).tracks).all()


@pytest.mark.parametrize("verb", ["train", "apply"])
def test_a_gpu_asked_for_where_there_is_none(whole, tmp_path, capsys, monkeypatch, verb):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    world = whole.parent
    given = (world / "cast.csv",) if verb == "train" else (whole / "model", world / "r0.wav")
    assert call(verb, *given, "--out", tmp_path / "out", "--device", "cuda") == 2
    printed, said = capsys.readouterr()
    assert (printed, said.count("\n")) == ("", 1)
    assert said.startswith(f"weigher {verb}: the GPU 'cuda' was asked for, but ")
    assert "give cpu (or auto)" in said
    assert not (tmp_path / "out").exists()

"""Many recordings: the same results however the work is shared out, and nothing finished is ever lost."""

import importlib.util
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from weigher.errors import RequestError, WeigherError
from weigher.io.audio import LIBSNDFILE_SUFFIXES, audio_seconds, write_audio
from weigher.io.features import Features, write_features
from weigher.io.rttm import read_rttm
from weigher.recordings import archive_files
from weigher.recordings.apply_archive import ArchiveReport, apply_archive
from weigher.recordings.archive_files import Source, find_recordings
from weigher.recordings.configs import from_plain
from weigher.recordings.diarizer import Diarizer, DiarizerConfig
from weigher.recordings.model import RecordingModel

NAMES = ("a", "c", "sub/b", "sub/deep/ñ ;'d")
FILES = ("a.wav", "c.WAV", "sub/b.flac", "sub/deep/ñ ;'d.ogg")
TINY = {
    "model": {
        "encoder": {"channels": 8, "embedding": 8, "dilations": [1]},
        "weigher": {"slots": 3, "heads": 2, "layers": 1},
    }
}


def write_model(folder: Path, seed: int, front: dict | None = None) -> Path:
    plain = {"model": {**TINY["model"], **({"front": front} if front else {})}}
    config = from_plain(DiarizerConfig, plain, folder / "config.json")
    torch.manual_seed(seed)
    diarizer = Diarizer(config=config, device="cpu")
    diarizer.model_ = RecordingModel(config.model).eval()
    diarizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return [write_model(folder / str(seed), seed) for seed in range(2)]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Noise of several lengths, and beside it what is no recording, or a bad one."""
    folder, rng = tmp_path_factory.mktemp("archive"), np.random.default_rng(0)
    for index, name in enumerate(FILES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, rng.uniform(-0.5, 0.5, 12000 + 4000 * index), 16000)
    (folder / ".a.wav").write_bytes(b"hidden")
    (folder / ".git").mkdir()
    (folder / ".git" / "x.wav").write_bytes(b"hidden")
    (folder / "notes.txt").write_text("no recording")
    return folder


@pytest.fixture
def archive(recorded, tmp_path):
    return Path(shutil.copytree(recorded, tmp_path / "archive"))


def apply(model, places, out, **options) -> ArchiveReport:
    return apply_archive(model, places, out, **{"num_speakers": 2, "device": "cpu"} | options)


def told(report: ArchiveReport) -> list[tuple[str, str]]:
    return [(outcome.source.name, outcome.status) for outcome in report.outcomes]


def results(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def stamps(out: Path) -> dict[str, tuple[int, int]]:
    return {
        path.relative_to(out).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in out.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def whole(recorded, models, tmp_path_factory):
    """The results of one process that nothing interrupted, on the files whose copies the tests use."""
    out = tmp_path_factory.mktemp("whole")
    apply(models[0], [recorded], out)
    return results(out)


# --- what comes out ---------------------------------------------------------------------------------------------------


def test_every_recording_has_its_result_where_its_name_says(archive, models, tmp_path):
    calls = []
    formats = ("rttm", "csv", "audacity", "elan")
    report = apply(models[0], [archive], tmp_path / "out", formats=formats, progress=lambda *call: calls.append(call))
    assert told(report) == [(name, "done") for name in NAMES]
    assert [outcome.people for outcome in report.outcomes] == [2] * 4
    assert calls == [("apply", done, 4) for done in range(5)]
    endings = (".rttm", ".csv", ".txt", ".eaf", ".json")
    assert set(results(tmp_path / "out")) == {name + ending for name in NAMES for ending in endings}
    diarizer = Diarizer.from_pretrained(models[0], device="cpu")
    for name, file in zip(NAMES, FILES, strict=True):
        result = diarizer.predict(archive / file, num_speakers=2, file_id=name)
        place = tmp_path / "out" / name
        assert read_rttm(f"{place}.rttm") == {name: list(result.segments)}
        assert Path(f"{place}.csv").read_text(encoding="utf-8") == result.to_csv()
        assert Path(f"{place}.txt").read_text(encoding="utf-8") == result.to_audacity()
        assert Path(f"{place}.eaf").read_text(encoding="utf-8") == result.to_elan(archive / file)
        record = json.loads(Path(f"{place}.json").read_text(encoding="utf-8"))
        assert {key: record[key] for key in result.to_dict()} == result.to_dict()
        assert record["formats"] == sorted(formats)


def test_bad_recordings_are_listed_and_do_not_stop_the_rest(archive, models, tmp_path, monkeypatch):
    (archive / "b.wav").write_bytes(b"no sound")
    (archive / "sub" / "empty.mp3").touch()
    (archive / "sub" / "b.wav").write_bytes((archive / "a.wav").read_bytes())
    (archive / "gone.wav").symlink_to(archive / "nowhere.wav")
    predict = Diarizer.predict

    def odd(self, path, **options):
        if path.name == "c.WAV":
            raise ZeroDivisionError("an odd file")
        return predict(self, path, **options)

    monkeypatch.setattr(Diarizer, "predict", odd)
    report = apply(models[0], [archive], tmp_path / "out")
    failed = {"b": "cannot be read as audio", "c": "ZeroDivisionError: an odd file", "gone": "does not exist"}
    failed |= {"sub/b": "sub/b.json; rename one", "sub/empty": "0 bytes"}
    assert {outcome.source.name for outcome in report.failed} == set(failed)
    for outcome in report.failed:
        assert failed[outcome.source.name] in outcome.reason
        assert str(outcome.source.path) in outcome.reason
    assert told(report) == [
        ("a", "done"),
        ("b", "failed"),
        ("c", "failed"),
        ("gone", "failed"),
        ("sub/b", "failed"),
        ("sub/b", "failed"),
        (NAMES[3], "done"),
        ("sub/empty", "failed"),
    ]
    assert set(results(tmp_path / "out")) == {f"{NAMES[i]}.{end}" for i in (0, 3) for end in ("json", "rttm")}


def test_a_full_disk_stops_the_work(archive, models, tmp_path, monkeypatch):
    def full(*_):
        raise WeigherError("the disk is full")

    monkeypatch.setattr(archive_files, "save", full)
    with pytest.raises(WeigherError, match="the disk is full"):
        apply(models[0], [archive], tmp_path / "out")


def test_a_model_on_features_takes_its_features(tmp_path):
    model = write_model(tmp_path / "model", 0, {"kind": "features", "features": 4, "hop_seconds": 0.02})
    for name in ("x", "y"):
        write_features(tmp_path / f"{name}.npz", Features(np.random.default_rng(0).normal(size=(90, 4)), 0.02))
    write_audio(tmp_path / "z.wav", np.zeros(1600))
    assert told(apply(model, [tmp_path], tmp_path / "out")) == [("x", "done"), ("y", "done")]


# --- going on ---------------------------------------------------------------------------------------------------------


def test_what_is_finished_is_kept(archive, models, tmp_path):
    apply(models[0], [archive], tmp_path / "out")
    before = stamps(tmp_path / "out")
    calls = []
    report = apply(models[0], [archive], tmp_path / "out", workers=2, progress=lambda *call: calls.append(call))
    assert told(report) == [(name, "kept") for name in NAMES]
    assert [outcome.people for outcome in report.outcomes] == [2] * 4
    assert stamps(tmp_path / "out") == before
    assert calls == [("apply", 4, 4)]
    write_audio(archive / "new.wav", np.zeros(8000))
    assert dict(told(apply(models[0], [archive], tmp_path / "out")))["new"] == "done"
    assert {name: stamp for name, stamp in stamps(tmp_path / "out").items() if "new" not in name} == before


def test_results_of_another_model_or_other_bounds_are_made_anew(archive, models, tmp_path):
    out = tmp_path / "out"
    apply(models[0], [archive], out)
    first = results(out)
    assert told(apply(models[1], [archive], out)) == [(name, "redone") for name in NAMES]
    second = results(out)
    assert all(first[name] != second[name] for name in first if name.endswith(".json"))
    assert told(apply(models[1], [archive], out, num_speakers=1)) == [(name, "redone") for name in NAMES]
    assert told(apply(models[0], [archive], out)) == [(name, "redone") for name in NAMES]
    assert results(out) == first
    moved = Path(shutil.copytree(models[0], tmp_path / "moved"))  # the model counts, not where it lies
    assert told(apply(moved, [archive], out)) == [(name, "kept") for name in NAMES]


def changed(archive, out):
    write_audio(archive / "a.wav", np.zeros(12000))
    return "redone"


def touched(archive, out):
    os.utime(archive / "a.wav", ns=(0, 0))
    return "redone"


def cut_short(archive, out):
    (out / "a.json").write_bytes((out / "a.json").read_bytes()[:-40])
    return "done"


def without_rttm(archive, out):
    (out / "a.rttm").unlink()
    return "redone"


@pytest.mark.parametrize("change", [changed, touched, cut_short, without_rttm])
def test_only_what_changed_is_done_again(archive, models, tmp_path, change):
    apply(models[0], [archive], tmp_path / "out")
    status = change(archive, tmp_path / "out")
    report = apply(models[0], [archive], tmp_path / "out")
    assert told(report) == [("a", status), *((name, "kept") for name in NAMES[1:])]
    assert told(apply(models[0], [archive], tmp_path / "out")) == [(name, "kept") for name in NAMES]


@pytest.mark.parametrize("name", ["a.json", "a.rttm"])
def test_what_something_else_made_is_left_alone(archive, models, tmp_path, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("[1]")
    assert dict(told(apply(models[0], [archive], tmp_path / "out")))["a"] == "failed"
    assert (tmp_path / "out" / name).read_text() == "[1]"


def test_speech_by_name_is_honoured_and_what_it_changes_is_made_anew(archive, models, tmp_path):
    speech, out = tmp_path / "speech.rttm", tmp_path / "out"

    def tell(*times):
        lines = (f"SPEAKER {name} 1 {start} {length} <NA> <NA> x <NA> <NA>\n" for name, start, length in times)
        speech.write_text("".join(lines))

    tell(("a", 0.2, 0.2), ("c", 0.0, 0.0), ("sub/b", 0.0, 9.0))
    first = apply(models[0], [archive], out, speech=speech, formats=("json",))
    assert told(first) == [(name, "done") for name in NAMES[:3]] + [(NAMES[3], "failed")]
    assert "tells nothing of" in first.failed[0].reason
    assert "but of 'a', 'c', 'sub/b'; add it" in first.failed[0].reason
    times = {name: json.loads((out / f"{name}.json").read_text())["segments"] for name in NAMES[:3]}
    assert times["a"]
    assert all(0.2 <= turn["start"] < turn["end"] <= 0.4 for turn in times["a"])
    assert not times["c"]
    tell(("a", 0.2, 0.2), ("c", 0.0, 0.0), ("sub/b", 0.1, 0.2))
    report = apply(models[0], [archive], out, speech=speech, formats=("json",), workers=2)
    assert told(report) == [("a", "kept"), ("c", "kept"), ("sub/b", "redone"), (NAMES[3], "failed")]
    assert told(apply(models[0], [archive / "a.wav"], out, formats=("json",))) == [("a", "redone")]
    with pytest.raises(RequestError, match="labels of one recording"):
        apply(models[0], [archive], out, speech=tmp_path / "labels.txt")


def test_a_run_that_was_killed_before_its_last_file_goes_on(archive, models, tmp_path, monkeypatch):
    write = archive_files.writing

    def killed(path, mode="wb"):
        if Path(path).suffix == ".csv":
            raise KeyboardInterrupt
        return write(path, mode)

    with monkeypatch.context() as patched:
        patched.setattr(archive_files, "writing", killed)
        with pytest.raises(KeyboardInterrupt):
            apply(models[0], [archive], tmp_path / "out", formats=("rttm", "csv"))
    report = apply(models[0], [archive], tmp_path / "out", formats=("rttm", "csv"))
    assert told(report) == [(name, "done") for name in NAMES]


def test_a_format_is_added_and_none_is_taken_for_that_of_another_model(archive, models, tmp_path):
    place, out = [archive / "a.wav"], tmp_path / "out"
    assert told(apply(models[0], place, out)) == [("a", "done")]
    assert told(apply(models[0], place, out, formats=("elan",))) == [("a", "redone")]
    assert told(apply(models[0], place, out, formats=("elan", "rttm"))) == [("a", "kept")]
    assert told(apply(models[1], place, out, formats=("rttm",))) == [("a", "redone")]
    assert told(apply(models[1], place, out, formats=("elan",))) == [("a", "redone")]  # a.eaf was the first model's


# --- shared out -------------------------------------------------------------------------------------------------------


def test_two_processes_write_what_one_writes(archive, recorded, models, tmp_path):
    (archive / "bad.wav").write_bytes(b"no sound")
    one = apply(models[0], [archive], tmp_path / "one")
    two = apply(models[0], [archive], tmp_path / "two", workers=2)
    assert two == one
    assert told(two)[1] == ("bad", "failed")
    assert results(tmp_path / "two") == results(tmp_path / "one")
    assert len(results(tmp_path / "one")) == 8
    assert multiprocessing.active_children() == []


def test_a_process_that_is_killed_is_told_and_what_is_finished_is_kept(archive, models, tmp_path):
    def kill_one(stage, done, total):
        if done == 1:
            multiprocessing.active_children()[0].kill()
            time.sleep(0.2)

    for index in range(20):
        shutil.copy(archive / "a.wav", archive / f"more{index}.wav")
    with pytest.raises(WeigherError, match="fewer workers"):
        apply(models[0], [archive], tmp_path / "out", workers=2, progress=kill_one)
    statuses = dict(told(apply(models[0], [archive], tmp_path / "out"))).values()
    assert set(statuses) == {"done", "kept"}
    assert len(statuses) == 24


def test_ctrl_c_ends_all_processes_and_keeps_what_is_finished(archive, models, tmp_path, whole):
    children = []

    def interrupt(stage, done, total):
        if done == 1:
            children.extend(multiprocessing.active_children())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        apply(models[0], [archive], tmp_path / "out", workers=2, progress=interrupt)
    assert [child.exitcode for child in children] == [-signal.SIGTERM] * 2  # not when they were done with theirs
    finished = finished_in(tmp_path / "out")
    assert finished
    report = apply(models[0], [archive], tmp_path / "out")
    assert report.count("kept") >= len(finished)
    assert without_times(results(tmp_path / "out")) == without_times(whole)


def finished_in(out: Path) -> set[str]:
    """What has its last file: a JSON that names the formats beside it."""
    whole = {name: text for name, text in results(out).items() if not Path(name).name.startswith(".weigher-")}
    told = {name: json.loads(text) for name, text in whole.items() if name.endswith(".json")}
    return {name.removesuffix(".json") for name, record in told.items() if record["formats"]}


def without_times(found: dict[str, bytes]) -> dict[str, object]:
    """Results without what a copy of the recordings does not have in common with them; nor what was cut off."""
    told: dict[str, object] = {}
    for name, text in found.items():
        if name.endswith(".json"):
            record = json.loads(text)
            del record["made_with"]["recording"]["modified_ns"]
            told[name] = record
        elif not Path(name).name.startswith(".weigher-"):
            told[name] = text
    return told


SCRIPT = """
import json, os, signal, sys
from weigher.recordings.apply_archive import apply_archive

def kill_at_two(stage, done, total):
    if done == 2:
        import multiprocessing
        print(*(child.pid for child in multiprocessing.active_children()), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    model, archive, out, workers, how = sys.argv[1:]
    report = apply_archive(
        model, [archive], out, num_speakers=2, device="cpu", workers=int(workers),
        with_ray=how == "ray", progress=kill_at_two if how == "kill" else None,
    )
    print(json.dumps([(outcome.source.name, outcome.status) for outcome in report.outcomes]))
"""


def in_another_process(folder, *arguments, timeout=120):
    (folder / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(folder / "script.py"), *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment, check=False)


@pytest.mark.parametrize("workers", [1, 2])
def test_kill_9_loses_nothing_and_leaves_nobody_behind(archive, models, tmp_path, whole, workers):
    killed = in_another_process(tmp_path, models[0], archive, tmp_path / "out", workers, "kill")
    assert killed.returncode == -signal.SIGKILL
    children = [int(pid) for pid in killed.stdout.split()]
    assert len(children) == (workers if workers > 1 else 0)
    patience = time.monotonic() + 20
    while any(is_running(pid) for pid in children):
        assert time.monotonic() < patience
        time.sleep(0.05)
    before = stamps(tmp_path / "out")
    finished = finished_in(tmp_path / "out")
    assert len(finished) >= 2
    report = apply(models[0], [archive], tmp_path / "out")
    assert {outcome.source.name for outcome in report.outcomes if outcome.status == "kept"} == finished
    assert report.failed == ()
    after = stamps(tmp_path / "out")
    assert all(after[f"{name}{end}"] == before[f"{name}{end}"] for name in finished for end in (".json", ".rttm"))
    assert without_times(results(tmp_path / "out")) == without_times(whole)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # ended, and nobody has asked how


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed (pip install 'weigher[ray]')")
def test_ray_with_two_workers_writes_what_one_process_writes(archive, models, tmp_path):
    (archive / "bad\udcff.wav").write_bytes(b"no sound")
    one = apply(models[0], [archive], tmp_path / "one")
    done = in_another_process(tmp_path, models[0], archive, tmp_path / "two", 2, "ray", timeout=300)
    assert done.returncode == 0, done.stderr
    assert [tuple(pair) for pair in json.loads(done.stdout)] == told(one)
    assert results(tmp_path / "two") == results(tmp_path / "one")
    assert len(results(tmp_path / "two")) == 8


def test_without_ray_the_extra_is_named(archive, models, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RequestError, match=r"weigher\[ray\]"):
        apply(models[0], [archive], tmp_path / "out", with_ray=True)


# --- requests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(soundfile.available_formats()))
def test_recordings_of_every_format_libsndfile_writes_are_found(kind, tmp_path):
    others = {"NIST": "sph", "SVX": "8svx", "IRCAM": "sf", "MAT4": "mat", "MAT5": "mat", "WAVEX": "wav", "MPC2K": "mpc"}
    path = tmp_path / f"x.{others.get(kind, kind).lower()}"
    assert (path.suffix in LIBSNDFILE_SUFFIXES) == (kind != "RAW")  # raw samples do not say what they are
    if kind != "RAW":
        assert any(write_in_any_subtype(path, kind, rate) for rate in (16000, 8000))
        assert audio_seconds(path) > 0


def write_in_any_subtype(path: Path, kind: str, rate: int) -> bool:
    for subtype in sorted(soundfile.available_subtypes(kind)):
        try:
            soundfile.write(path, np.zeros(rate), rate, format=kind, subtype=subtype)
        except (soundfile.LibsndfileError, ValueError):  # it has the format and does not write it so
            continue
        return True
    return False


def test_a_recording_named_twice_is_one(archive):
    places = [archive, archive / "a.wav", archive / "sub" / ".." / "a.wav"]
    assert [source.name for source in find_recordings(places, LIBSNDFILE_SUFFIXES)] == list(NAMES)
    assert find_recordings([archive / "sub" / "b.flac"], LIBSNDFILE_SUFFIXES) == [
        Source(archive / "sub" / "b.flac", "b")
    ]


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"places": ["none"]}, "none does not exist"),
        ({"places": ["nothing"]}, "there is no recording in"),
        ({"workers": 0}, "1 or more"),
        ({"num_speakers": 101}, "there are 100 slots"),
        ({"num_speakers": None, "min_speakers": 3, "max_speakers": 1}, "contradict each other"),
    ],
)
def test_requests_that_cannot_be_served(archive, models, tmp_path, request_, reason):
    (archive / "nothing").mkdir()
    places = [archive / name for name in request_.get("places", [""])]
    options = {name: value for name, value in request_.items() if name != "places"}
    with pytest.raises(RequestError, match=reason):
        apply(models[0], places, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_model_that_cannot_be_loaded(archive, models, tmp_path):
    with pytest.raises(RequestError, match=r"config\.json"):
        apply(tmp_path / "none", [archive], tmp_path / "out")

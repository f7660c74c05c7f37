"""The demo with few voices and steps, offline: it does what it says, and what it says is true."""

import contextlib
import hashlib
import http.server
import io
import os
import re
import subprocess
import sys
import tarfile
import threading
import urllib.error
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from matplotlib.image import imread

from weigher.cli import console, demo
from weigher.io import atomic, datasets
from weigher.io.audio import audio_seconds
from weigher.io.manifest import read_manifest
from weigher.io.rttm import Segment, read_rttm, read_rttm_tree, write_rttm
from weigher.recordings.configs import from_plain
from weigher.recordings.diarizer import Diarizer, DiarizerConfig
from weigher.recordings.score import score
from weigher.recordings.synthesise import synthesise_voices

CONFIG = {
    "model": {
        "encoder": {"channels": 24, "embedding": 16, "dilations": [1]},
        "weigher": {"slots": 5, "heads": 2, "layers": 1},
    },
    "learn": {
        "teacher": {"threshold": 0.2, "temper": 1.0},
        "listen": {"learning_rate": 0.01, "warmup_steps": 5},
        "listen_batch": 24,
        "listen_seconds": 2.0,
        "weigh": {"learning_rate": 0.005, "warmup_steps": 3},
        "weigh_batch": 4,
        "recompose": {"seconds": 5.0},
    },
}
SIZES = ["--speakers", "10", "--recordings", "20", "--listen-steps", "120", "--weigh-steps", "30", "--tests", "3"]
RATES = ("DER", "miss", "false alarm", "confusion")


def lonely(patch, folder: Path) -> None:
    """No data, no proxy, no earlier download, a current folder of the test's own, and progress from the start."""
    for name in [*os.environ]:
        if name.lower().endswith("_proxy"):
            patch.delenv(name)
    patch.delenv("WEIGHER_DATA", raising=False)
    patch.setenv("WEIGHER_CACHE", str(folder / "cache"))
    patch.setenv("COLUMNS", "100")
    (folder / "home" / "project").mkdir(parents=True)
    patch.chdir(folder / "home" / "project")
    patch.setattr(datasets, "__file__", str(folder / "away" / "a" / "b" / "c" / "datasets.py"))
    patch.setattr(console, "QUIET_SECONDS", 0.0)
    patch.setattr(console, "LINE_SECONDS", 0.0)


# --- the whole of it --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """One demo from synthesised voices to figures: its exit code, what it printed, and its folder."""

    def no_network(*args, **kwargs):
        raise AssertionError("the demo was told to stay offline")

    out, err = io.StringIO(), io.StringIO()
    config = from_plain(DiarizerConfig, CONFIG, Path("CONFIG"))
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("demo")
        lonely(patch, folder)
        patch.setattr(datasets.urllib.request, "urlopen", no_network)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = demo.main(["--offline", *SIZES, "--out", str(folder / "out")], config)
    return SimpleNamespace(code=code, out=out.getvalue(), err=err.getvalue(), folder=folder / "out")


@pytest.fixture(scope="module")
def table(shown):
    """The printed figures: {method: {column: cell}}."""
    lines = [re.split("[│┃]", line)[1:-1] for line in shown.out.splitlines() if re.search("[│┃]", line)]
    header, *rows = [[cell.strip() for cell in line] for line in lines]
    assert header == ["method", "DER %", "miss", "false alarm", "confusion", "count %"]
    return {name: dict(zip((*RATES, "count"), cells, strict=True)) for name, *cells in rows}


def test_it_ends_well_and_says_that_the_voices_are_synthesised(shown):
    assert shown.code == 0
    assert shown.err.startswith("voices: synthesised")
    assert "figures tell little" in shown.err
    assert "turn taking: a random walk" in shown.err
    assert "Traceback" not in shown.err
    assert not (shown.folder.parent / "cache").exists()


def test_every_stage_shows_its_progress_up_to_the_end(shown):
    done = dict(re.findall(r"^(\w+): (\d+/\d+) \(100 %\)$", shown.err, re.MULTILINE))
    assert done == {"simulate": "3/3", "check": "20/20", "listen": "120/120", "gather": "20/20", "weigh": "30/30"}
    assert "simulate: 20/20 (100 %)" in shown.err


def test_nobody_who_is_tested_on_was_heard_in_training(shown):
    known, unseen = (
        {name for recording in read_manifest(shown.folder / part / "cast.csv").recordings for name in recording.cast}
        for part in ("train", "test")
    )
    assert (len(known), len(unseen)) == (8, 2)
    assert not known & unseen
    assert "8 people to learn from, 2 others to test on" in shown.err


def test_the_printed_figures_are_those_of_the_files(shown, table):
    truth = read_rttm_tree(shown.folder / "test" / "rttm")
    found = read_rttm(shown.folder / "test.found.rttm")
    recordings = read_manifest(shown.folder / "test" / "cast.csv").recordings
    uem = {recording.path.stem: [(0.0, audio_seconds(recording.path))] for recording in recordings}
    again = score(truth, found, uem=uem)
    assert len(again.files) == len(uem) == 3
    # half a digit of what is printed, and the microseconds that files round to
    for column, rate in zip(RATES, (again.der, again.miss, again.false_alarm, again.confusion), strict=True):
        assert float(table["weigher"][column]) == pytest.approx(rate, abs=0.051)
    assert float(table["weigher"]["count"]) == pytest.approx(again.count_accuracy, abs=0.51)
    assert again.miss < 100


def test_the_clusterings_are_given_the_speech_and_the_number_of_people(table):
    clusterings = {name: row for name, row in table.items() if name != "weigher"}
    assert set(clusterings) == {
        f"{method}{smooth}" for method in ("kmeans", "agglomerative", "spectral") for smooth in ("", ", 1 s mean")
    }
    for row in clusterings.values():
        assert row["count"] == "given"
        assert float(row["false alarm"]) < 1  # only where a frame reaches over the end of a turn
        assert float(row["DER"]) == pytest.approx(sum(float(row[rate]) for rate in RATES[1:]), abs=0.2)
    assert len({(row["miss"], row["false alarm"]) for row in clusterings.values()}) == 1


def test_what_it_names_at_the_end_is_there(shown):
    named = re.fullmatch(r"the picture: (.+); the model: (.+); all turns: (.+)", shown.err.splitlines()[-1])
    assert named is not None
    picture, model, turns = map(Path, named.groups())
    assert {picture.parent, model.parent, turns.parent} == {shown.folder}
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert imread(picture)[..., :3].std() > 0.05
    found = read_rttm(turns)
    diarizer = Diarizer.from_pretrained(model, device="cpu")
    for recording in read_manifest(shown.folder / "test" / "cast.csv").recordings:
        again = diarizer.predict(recording.path)
        assert [(s.start, s.end, s.speaker) for s in found.get(recording.path.stem, [])] == [
            (pytest.approx(s.start, abs=1e-6), pytest.approx(s.end, abs=1e-6), s.speaker) for s in again.segments
        ]


def test_the_turns_of_the_recording_in_the_picture_are_printed(shown):
    printed = [line for line in shown.out.splitlines() if line.startswith("SPEAKER ")]
    written = (shown.folder / "test.found.rttm").read_text(encoding="utf-8").splitlines()
    name = printed[0].split()[1]
    assert printed == [line for line in written if line.split()[1] == name]
    truth = read_rttm_tree(shown.folder / "test" / "rttm")
    people = {name: len({turn.speaker for turn in turns}) for name, turns in truth.items()}
    assert people[name] == max(people.values())  # three, or as near as two people come to it


# --- which voices -----------------------------------------------------------------------------------------------------


class _EnoughError(Exception):
    """The recordings are made; what comes after is tested above."""


@pytest.fixture
def untrained(tmp_path, monkeypatch):
    """Nothing around, and no demo that gets as far as training."""

    def enough(*args):
        raise _EnoughError

    lonely(monkeypatch, tmp_path)
    monkeypatch.setattr(demo, "_trained", enough)


@pytest.fixture
def until_trained(untrained, tmp_path, capsys):
    """Runs the demo as far as training; gives the people in its casts and what it said."""

    def run(*arguments: object):
        with pytest.raises(_EnoughError):
            demo.main(["--recordings", "6", "--tests", "2", "--out", str(tmp_path / "out"), *map(str, arguments)])
        casts = [read_manifest(tmp_path / "out" / part / "cast.csv").recordings for part in ("train", "test")]
        return {name for recordings in casts for r in recordings for name in r.cast}, capsys.readouterr().err

    return run


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Four voices and the timings of one meeting, laid out as a folder of data."""
    folder = tmp_path_factory.mktemp("corpus")
    made = folder / "made"
    synthesise_voices(made, speakers=4, utterances=2, seconds=1.5, seed=0)
    for voice, name in zip(sorted(made.iterdir()), ("19", "26", "84", "1034"), strict=True):
        (folder / "speech" / "librispeech").mkdir(parents=True, exist_ok=True)
        voice.rename(folder / "speech" / "librispeech" / name)
    turns = [Segment(9.0 * k, 9.0 * k + 8 + k % 3, "abcd"[k % 4]) for k in range(60)]
    write_rttm(folder / "speech" / "timings" / "ami" / "train" / "talk.rttm", {"talk": turns})
    return folder


@pytest.fixture
def asked(monkeypatch):
    """Answers every request for a page with `asked.answer()`, and keeps the addresses."""

    def urlopen(url, timeout):
        state.urls.append(url)
        return state.answer()

    state = SimpleNamespace(urls=[], answer=io.BytesIO)
    monkeypatch.setattr(datasets.urllib.request, "urlopen", urlopen)
    return state


@pytest.mark.parametrize("how", ["WEIGHER_DATA", "--data", "beside"])
def test_real_voices_and_timings_are_taken_from_the_folder_of_data(until_trained, corpus, asked, how, monkeypatch):
    place = corpus
    if how == "WEIGHER_DATA":
        monkeypatch.setenv("WEIGHER_DATA", str(corpus))
    if how == "beside":
        place = Path.cwd().parent / "shared" / "data"
        place.parent.mkdir()
        place.symlink_to(corpus)
    people, said = until_trained(*(("--data", corpus) if how == "--data" else ()))
    assert people == {"19", "26", "84", "1034"}
    assert f"voices: {place / 'speech' / 'librispeech'}\n" in said
    assert f"turn taking: drawn from the real meetings in {place / 'speech' / 'timings' / 'ami' / 'train'}\n" in said
    assert "3 people to learn from, 1 others to test on" in said
    assert "synthesised" not in said
    assert asked.urls == []


def test_offline_real_voices_are_left_alone(until_trained, corpus, asked):
    people, said = until_trained("--offline", "--data", corpus, "--speakers", 3)
    assert people == {"synth000", "synth001", "synth002"}
    assert "voices: synthesised" in said
    assert asked.urls == []


@pytest.fixture
def download(corpus, monkeypatch):
    """An archive of the voices on a server on this machine, in the place of the one that the demo would download."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for file in sorted((corpus / "speech" / "librispeech").rglob("*.flac")):
            archive.add(file, f"LibriSpeech/set/{file.parent.name}/7/{file.name}")
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content.getvalue())

        def log_message(self, format, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    digest, size = hashlib.sha256(content.getvalue()).hexdigest(), len(content.getvalue())
    url = f"http://127.0.0.1:{server.server_port}/set.tar.gz"
    tiny = datasets.Archive("tiny", (url,), digest, size, "CC BY 4.0", "a tiny set, http://example.org")
    monkeypatch.setattr(datasets, "find_voices", partial(datasets.find_voices, archive=tiny))
    yield requests
    server.shutdown()
    thread.join()
    server.server_close()


def test_without_data_a_small_set_is_downloaded_once_and_its_licence_shown(until_trained, download, tmp_path):
    people, said = until_trained()
    assert people == {"19", "26", "84", "1034"}
    assert re.search(r"^downloading a tiny set, http://example\.org, \d+ MB; licence: CC BY 4\.0$", said, re.MULTILINE)
    assert re.search(r"^download: (\d+)/\1 \(100 %\)$", said, re.MULTILINE)
    assert re.search(r"^unpack: (\d+)/\1 \(100 %\)$", said, re.MULTILINE)
    assert "synthesised" not in said
    again, said = until_trained()
    assert again == people
    assert "downloaded earlier (a tiny set, http://example.org, CC BY 4.0)" in said
    assert download == ["/set.tar.gz"]
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == ["tiny"]


def refused():
    raise urllib.error.URLError("no route to host")


@pytest.mark.parametrize(
    ("answer", "reason"), [(partial(io.BytesIO, b"log in to the network first"), "SHA-256"), (refused, "no route")]
)
def test_a_download_that_is_not_the_known_set_is_refused_and_nothing_kept(
    until_trained, asked, tmp_path, answer, reason
):
    asked.answer = answer
    people, said = until_trained("--speakers", 4)
    assert asked.urls == [*datasets.MINI_LIBRISPEECH.urls]
    assert f"licence: {datasets.MINI_LIBRISPEECH.licence}" in said
    assert said.count(reason) == len(asked.urls)
    assert "name a folder of data with WEIGHER_DATA" in said
    assert "voices: synthesised" in said
    assert people == {"synth000", "synth001", "synth002", "synth003"}
    assert not (tmp_path / "cache").exists() or not [*(tmp_path / "cache").iterdir()]


# --- what is there already, and what cannot be done -------------------------------------------------------------------


def test_an_earlier_demo_is_replaced_even_one_cut_short(until_trained, tmp_path, monkeypatch, capsys):
    def ctrl_c(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("weigher.recordings.simulate.write_rttm", ctrl_c)
        arguments = ["--offline", "--speakers", "3", "--recordings", "9", "--out", str(tmp_path / "out")]
        assert demo.main(arguments) == 130
    assert capsys.readouterr().err.endswith("demo: interrupted\n")
    assert [*(tmp_path / "out" / "train" / "audio").iterdir()]
    until_trained("--offline", "--speakers", 3)
    until_trained("--offline", "--speakers", 3)
    assert len([*(tmp_path / "out" / "train" / "audio").iterdir()]) == 6


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("place", ["notes.txt", "train/cast.csv", "train/audio/a.flac"])
def test_nothing_but_an_earlier_demo_is_ever_removed(tmp_path, capsys, place):
    mine = tmp_path / "mine" / place
    mine.parent.mkdir(parents=True)
    mine.write_text("my work")
    for out, reason in ((tmp_path / "mine", "no earlier demo"), (mine, "is a file")):
        assert demo.main(["--offline", "--speakers", "3", "--recordings", "1", "--out", str(out)]) == 2
        assert reason in capsys.readouterr().err
    assert mine.read_text() == "my work"
    assert [path for path in (tmp_path / "mine").rglob("*") if path.is_file()] == [mine]


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (("--data", "nowhere"), "nowhere is not there"),
        (("--speakers", "2"), "--speakers is 2; at least 3"),
        (("--recordings", "0"), "--recordings is 0; at least 1"),
        (("--tests", "0"), "--tests is 0; at least 1"),
        (("--listen-steps", "0"), "--listen-steps is 0; at least 1"),
        (("--weigh-steps", "0"), "--weigh-steps is 0; at least 1"),
        (("--seed", "-1"), "--seed is -1; at least 0"),
    ],
)
def test_wrong_requests_end_with_code_2_and_leave_an_earlier_demo(tmp_path, capsys, wrong, reason):
    demo._clear(tmp_path / "out")
    (tmp_path / "out" / "test.found.rttm").write_text("an earlier demo's")
    assert demo.main([*wrong, "--out", str(tmp_path / "out")]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("demo: ")
    assert reason in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""
    assert (tmp_path / "out" / "test.found.rttm").read_text() == "an earlier demo's"


@pytest.mark.usefixtures("untrained")
def test_voices_of_two_people_are_too_few(tmp_path, capsys):
    synthesise_voices(tmp_path / "data" / "speech" / "librispeech", speakers=2, utterances=1, seconds=1.0)
    assert demo.main(["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]) == 2
    assert "demo: the voices are of 2 people" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("untrained")
def test_a_full_disk_is_one_message_and_code_1(tmp_path, monkeypatch, capsys):
    def full(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic._WatchedFile, "write", full)
    assert demo.main(["--offline", "--speakers", "3", "--out", str(tmp_path / "out")]) == 1
    assert "demo: the disk is full" in capsys.readouterr().err.splitlines()[-1]
    assert not [*(tmp_path / "out" / "train" / "audio").iterdir()]


def test_the_line_of_make_demo_answers(tmp_path):
    environment = {**os.environ, "WEIGHER_DATA": str(tmp_path / "nowhere")}
    command = [sys.executable, "-m", "weigher.cli.demo"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("demo: the folder WEIGHER_DATA names")
    assert done.stderr.count("\n") == 1
    assert not [*tmp_path.iterdir()]

import hashlib
import http.server
import io
import os
import resource
import shutil
import socket
import tarfile
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from weigher.errors import RequestError, WeigherError
from weigher.io import datasets
from weigher.io.datasets import MINI_LIBRISPEECH, Archive, DownloadError, download_voices, find_data, find_voices
from weigher.io.voices import read_voices


def sound(value: float) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, np.full(1600, value), 16000, format="FLAC")
    return content.getvalue()


def tarball(members: dict[str, bytes | tarfile.TarInfo]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, member in members.items():
            entry = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(member, bytes):
                entry.size = len(member)
            archive.addfile(entry, io.BytesIO(member) if isinstance(member, bytes) else None)
    return content.getvalue()


MEMBERS = {
    "LibriSpeech/LICENSE.TXT": b"CC BY 4.0",
    "LibriSpeech/CHAPTERS.TXT": b"not needed",
    "LibriSpeech/dev-clean-2/84/121/84-121-0000.flac": sound(0.1),
    "LibriSpeech/dev-clean-2/84/122/84-122-0000.flac": sound(0.2),
    "LibriSpeech/dev-clean-2/84/122/84-122.trans.txt": b"WORDS",
    "LibriSpeech/dev-clean-2/174/50/174-50-0000.flac": sound(0.3),
}


@pytest.fixture
def server():
    """Serves `pages` (path -> bytes, or the status to fail with) on this machine, and counts what is asked for."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            server.asked.append(self.path)
            page = server.pages.get(self.path, 404)
            if isinstance(page, int):
                self.send_error(page)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(page) + server.promised_beyond))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, format, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.pages, server.asked, server.promised_beyond = {}, [], 0
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """No data, no proxy, and a cache of the test's own."""
    for name in [*os.environ]:
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("WEIGHER_DATA", raising=False)
    monkeypatch.setenv("WEIGHER_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "home" / "project"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(datasets, "__file__", str(tmp_path / "away" / "a" / "b" / "c" / "datasets.py"))
    return tmp_path / "cache"


def archive_at(server, content: bytes, *paths: str) -> Archive:
    urls = tuple(f"http://127.0.0.1:{server.server_port}{path}" for path in paths or ("/a.tar.gz",))
    return Archive("tiny", urls, hashlib.sha256(content).hexdigest(), len(content), "CC BY 4.0", "a tiny set")


def left_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir()) if folder.exists() else []


# --- what is there already --------------------------------------------------------------------------------------------


def test_the_folder_of_data_is_found_in_this_order(tmp_path, monkeypatch):
    assert find_data() is None
    checkout = tmp_path / "away" / "shared" / "data"
    monkeypatch.setattr(
        datasets, "__file__", str(tmp_path / "away" / "repo" / "src" / "weigher" / "io" / "datasets.py")
    )
    checkout.mkdir(parents=True)
    assert find_data() == checkout
    beside = tmp_path / "home" / "shared" / "data"
    beside.mkdir(parents=True)
    assert find_data() == beside
    named = tmp_path / "named"
    named.mkdir()
    monkeypatch.setenv("WEIGHER_DATA", str(named))
    assert find_data() == named
    given = tmp_path / "given"
    given.mkdir()
    assert find_data(given) == given


def test_a_folder_that_was_asked_for_is_never_replaced_by_another(tmp_path, monkeypatch):
    (tmp_path / "home" / "shared" / "data").mkdir(parents=True)
    with pytest.raises(RequestError, match="none"):
        find_data(tmp_path / "none")
    monkeypatch.setenv("WEIGHER_DATA", str(tmp_path / "unset"))
    with pytest.raises(RequestError, match="WEIGHER_DATA"):
        find_data()


def test_real_voices_of_the_data_folder_come_first(tmp_path, server):
    voices = tmp_path / "data" / "speech" / "librispeech"
    voices.mkdir(parents=True)
    told = []
    assert find_voices(tmp_path / "data", archive=archive_at(server, b""), say=told.append) == voices
    assert str(voices) in told[0]
    assert server.asked == []


def test_the_cache_follows_the_conventions(tmp_path, monkeypatch):
    assert datasets.cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("WEIGHER_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert datasets.cache_folder() == Path("/x/weigher")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/h")
    assert datasets.cache_folder() == Path("/h/.cache/weigher")


def test_the_known_set_is_fully_described():
    assert len(bytes.fromhex(MINI_LIBRISPEECH.sha256)) == 32
    assert all(url.startswith("https://") for url in MINI_LIBRISPEECH.urls)
    assert MINI_LIBRISPEECH.licence == "CC BY 4.0"


# --- downloads --------------------------------------------------------------------------------------------------------


def test_a_good_download_becomes_a_folder_of_voices_once(server, cache):
    content = tarball(MEMBERS)
    server.pages["/a.tar.gz"] = content
    archive = archive_at(server, content)
    told, calls = [], []
    folder = find_voices(archive=archive, say=told.append, progress=lambda *call: calls.append(call))
    assert folder == cache / "tiny"
    assert "a tiny set" in told[0]
    assert "CC BY 4.0" in told[0]
    assert ("download", len(content), len(content)) in calls
    assert {stage for stage, _, _ in calls} == {"download", "unpack"}
    assert all(0 <= done <= total == len(content) for _, done, total in calls)
    voices = read_voices(folder)
    assert [(u.speaker, u.name) for u in voices.utterances] == [
        ("174", "174-50-0000.flac"),
        ("84", "84-121-0000.flac"),
        ("84", "84-122-0000.flac"),
    ]
    assert voices.utterances[2].load() == pytest.approx(0.2, abs=1e-4)
    assert (folder / "LICENSE.TXT").read_text() == "CC BY 4.0"
    assert left_in(cache) == ["tiny"]
    assert left_in(folder) == ["174", "84", "LICENSE.TXT"]
    assert find_voices(archive=archive, say=told.append) == folder
    assert server.asked == ["/a.tar.gz"]
    assert "CC BY 4.0" in told[-1]


def test_mirrors_are_tried_until_one_sends_the_right_bytes(server, cache):
    content = tarball(MEMBERS)
    server.pages |= {"/bad": b"<html>log in to the network first</html>", "/busy": 503, "/good": content}
    archive = archive_at(server, content, "/none", "/bad", "/busy", "/good", "/never")
    assert download_voices(archive) == cache / "tiny"
    assert server.asked == ["/none", "/bad", "/busy", "/good"]


@pytest.mark.parametrize("change", ["other", "longer", "shorter"])
def test_wrong_bytes_are_refused_and_not_kept(server, cache, change):
    content = tarball(MEMBERS)
    sent = {"other": content[:-1] + bytes([content[-1] ^ 1]), "longer": content + b"x", "shorter": content[:-1]}[change]
    server.pages["/a.tar.gz"] = sent
    archive = archive_at(server, content)
    with pytest.raises(DownloadError, match="SHA-256") as caught:
        download_voices(archive)
    assert "WEIGHER_DATA" in str(caught.value)
    assert "/a.tar.gz" in str(caught.value)
    assert left_in(cache) == []
    told = []
    assert find_voices(archive=archive, say=told.append) is None
    assert "SHA-256" in told[-1]


def test_a_connection_that_breaks_off(server, cache):
    content = tarball(MEMBERS)
    server.pages["/a.tar.gz"] = content[:-10]
    server.promised_beyond = 10
    with pytest.raises(DownloadError):
        download_voices(archive_at(server, content))
    assert left_in(cache) == []


def test_offline_there_are_no_voices_and_it_is_said(server, cache):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    archive = replace(archive_at(server, b"x"), urls=(f"http://127.0.0.1:{port}/a", f"http://127.0.0.1:{port}/b"))
    told = []
    assert find_voices(archive=archive, say=told.append) is None
    assert find_voices(archive=archive) is None
    assert "connect to the network" in told[-1]
    assert left_in(cache) == []


def test_ctrl_c_leaves_nothing_half_done_and_the_next_call_goes_on(server, cache):
    content = tarball(MEMBERS)
    server.pages["/a.tar.gz"] = content
    archive = archive_at(server, content)

    def stop_at(stage: str):
        def progress(now: str, done: int, total: int):
            if now == stage:
                raise KeyboardInterrupt

        return progress

    with pytest.raises(KeyboardInterrupt):
        download_voices(archive, progress=stop_at("download"))
    assert left_in(cache) == []
    with pytest.raises(KeyboardInterrupt):
        download_voices(archive, progress=stop_at("unpack"))
    assert left_in(cache) == ["tiny.tar.gz"]
    assert download_voices(archive) == cache / "tiny"
    assert server.asked == ["/a.tar.gz"] * 2  # not downloaded a third time
    assert left_in(cache) == ["tiny"]


def test_a_damaged_archive_in_the_cache_is_downloaded_again(server, cache):
    content = tarball(MEMBERS)
    server.pages["/a.tar.gz"] = content
    cache.mkdir()
    (cache / "tiny.tar.gz").write_bytes(content[:100])
    assert download_voices(archive_at(server, content)) == cache / "tiny"
    assert server.asked == ["/a.tar.gz"]


# --- hostile or unexpected archives -----------------------------------------------------------------------------------


def link(name: str, kind: bytes, target: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


def test_nothing_of_an_archive_reaches_another_place(server, cache, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    members = MEMBERS | {
        f"{outside}/speaker/x/absolute.flac": sound(0.0),
        "../../up.flac": sound(0.0),
        "a/../x/dots.flac": sound(0.0),
        "set/../../dots2.flac": sound(0.0),
        "set/s/c/.hidden.flac": sound(0.0),
        "set/s\\..\\x/c/back.flac": sound(0.0),
        "top.flac": sound(0.0),
        "set/84/c/symbolic.flac": link("set/84/c/symbolic.flac", tarfile.SYMTYPE, str(outside)),
        "set/84/c/hard.flac": link("set/84/c/hard.flac", tarfile.LNKTYPE, "LibriSpeech/LICENSE.TXT"),
        "set/84/c/pipe.flac": link("set/84/c/pipe.flac", tarfile.FIFOTYPE, ""),
    }
    content = tarball(members)
    server.pages["/a.tar.gz"] = content
    before = {path for path in tmp_path.rglob("*") if cache not in path.parents}
    folder = download_voices(archive_at(server, content))
    assert {path for path in tmp_path.rglob("*") if cache not in path.parents} - {cache} == before
    assert left_in(outside) == []
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    assert found == [
        "174/174-50-0000.flac",
        "84/84-121-0000.flac",
        "84/84-122-0000.flac",
        "LICENSE.TXT",
        "speaker/absolute.flac",
    ]
    assert not any(path.is_symlink() for path in folder.rglob("*"))


@pytest.mark.parametrize("content", [tarball({"a.txt": b"words"}), b"no archive", tarball(MEMBERS)[:300]])
def test_an_archive_that_is_not_what_it_should_be(server, cache, content):
    server.pages["/a.tar.gz"] = content
    with pytest.raises(WeigherError, match=r"tiny\.tar\.gz"):
        download_voices(archive_at(server, content))
    assert left_in(cache) == ["tiny.tar.gz"]


def test_a_full_disk_is_no_reason_to_say_offline(server, cache):
    members = MEMBERS | {"LibriSpeech/dev-clean-2/9/9/long.flac": bytes(2_000_000)}  # packs small, unpacks large
    content = tarball(members)
    server.pages["/a.tar.gz"] = content
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (1_000_000, 1000):  # full while unpacking, then while downloading
        cache.mkdir()
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(WeigherError, match="space on") as caught:
                find_voices(archive=archive_at(server, content))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert not isinstance(caught.value, DownloadError)
        assert left_in(cache) == (["tiny.tar.gz"] if limit > len(content) else [])
        shutil.rmtree(cache)

"""The server as a process of its own: started, asked, stopped, killed, started again."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from weigher.cli.main import main
from weigher.errors import RequestError
from weigher.serve.server import build_app, private_folder


def start(model, *arguments, temporary):
    command = [sys.executable, "-m", "weigher.cli.main", "serve", str(model), "--port", "0", *map(str, arguments)]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
    )
    watch = threading.Timer(120, process.kill)
    watch.start()
    said = []
    for line in process.stderr:
        said.append(line)
        if "http://" in line:
            break
    watch.cancel()
    assert said, "the server ended without a word"
    return process, next(word for word in said[-1].split() if word.startswith("http://")), said


@pytest.fixture
def processes():
    started = []
    yield started
    for process in started:
        process.kill()
        process.wait(30)
        process.stderr.close()


@pytest.fixture
def hear():
    with ExitStack() as opened:

        def hear(address, talk):
            client = opened.enter_context(httpx.Client(base_url=address, timeout=60, trust_env=False))
            sent = {"files": {"audio": ("talk.flac", talk.read_bytes())}, "data": {"min_speakers": "2"}}
            place = client.post("/api/jobs", **sent).headers["location"]
            while client.get(place).json()["state"] in ("queued", "running"):
                pass
            return client, place

        yield hear


def test_stopped_killed_and_started_again(model_folder, talk, tmp_path, processes, hear):
    people, temporary = tmp_path / "people", tmp_path / "tmp"
    temporary.mkdir()
    process, address, said = start(model_folder, "--people", people, temporary=temporary)
    processes.append(process)
    assert said[-1].startswith(f"serving {model_folder} on http://127.0.0.1:")
    client, place = hear(address, talk)
    client.patch(f"{place}/speakers/unknown1", json={"name": "Ann"})
    (left,) = temporary.glob("weigher-serve-*")
    assert left.stat().st_mode & 0o077 == 0  # nobody else may look
    assert list(left.glob("*/recording"))
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    assert left.exists()

    # the next one removes what the killed one left, knows whom it was told of, and leaves nothing when it is stopped
    process, address, _ = start(model_folder, "--people", people, temporary=temporary)
    processes.append(process)
    assert not left.exists()
    client, place = hear(address, talk)
    assert client.get(f"{place}/result").json()["speakers"][0]["name"] == "Ann"
    assert client.get("/api/jobs/of-the-killed-one").status_code == 404
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130
    assert list(temporary.iterdir()) == []


def test_an_upload_is_not_read_to_its_end_where_it_is_too_large(model_folder, tmp_path, processes):
    process, address, _ = start(model_folder, "--max-megabytes", 1, temporary=tmp_path)
    processes.append(process)
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(
            b"POST /api/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=b\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        head = b'--b\r\nContent-Disposition: form-data; name="audio"; filename="a.wav"\r\n\r\n'
        connection.sendall(b"%x\r\n%s\r\n" % (len(head), head))
        block = bytes(100_000)
        for _ in range(12):  # 1.2 MB; the end never comes
            connection.sendall(b"%x\r\n%s\r\n" % (len(block), block))
        assert connection.recv(12) == b"HTTP/1.1 413"
    # what a visitor of the page uploads is held to the same
    boundary = {"Content-Type": "multipart/form-data; boundary=b"}
    body = head.replace(b'"audio"', b'"files"') + bytes(2_000_000) + b"\r\n--b--\r\n"
    answer = httpx.post(f"{address}/gradio_api/upload", content=body, headers=boundary, timeout=60, trust_env=False)
    assert answer.status_code == 413
    (folder,) = tmp_path.glob("weigher-serve-*")
    assert [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > 1000] == []


@pytest.fixture
def limits():
    return {}


@pytest.fixture
def page(make_service, limits):
    app = make_service(**limits)
    with private_folder() as folder, TestClient(build_app(app), base_url="http://127.0.0.1") as client:
        yield client, folder


def asked(client, function, *arguments):
    """Call a function of the page as its own script does, and return all that comes back."""
    config = client.get("/config").json()
    number = next(each["id"] for each in config["dependencies"] if function in str(each.get("api_name")))
    join = {"data": list(arguments), "fn_index": number, "session_hash": "visitor"}
    client.post("/gradio_api/queue/join", json=join)
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": "visitor"}) as answer:
        return "".join(answer.iter_text())


def uploaded(client, *sizes, field="files"):
    files = [(field, (f"{index}.wav", bytes(size))) for index, size in enumerate(sizes)]
    return client.post("/gradio_api/upload", files=files)


def kept(folder):
    return [path for path in (folder / "page").rglob("*") if path.is_file()]


@pytest.mark.parametrize("limits", [{"megabytes": 0.5, "queue": 2}])
def test_a_visitor_of_the_page_cannot_fill_the_disk(page, limits):
    client, folder = page
    answer = uploaded(client, 300_000, 300_000)  # each of them is small enough
    assert answer.status_code == 413
    assert "0.5 MB" in answer.json()["detail"]
    assert kept(folder) == []
    assert [uploaded(client, size).status_code for size in (500_000, 400_000, 200_000, 1)] == [200, 200, 200, 503]
    assert sorted(path.stat().st_size for path in kept(folder)) == [200_000, 400_000, 500_000]


def test_an_upload_that_is_broken_off_leaves_nothing(page):
    client, folder = page
    head = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.wav"\r\n\r\n'
    coming = [
        {"type": "http.request", "body": head + bytes(100_000), "more_body": True},
        {"type": "http.disconnect"},
    ]
    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"multipart/form-data; boundary=b")]
    scope = {"type": "http", "method": "POST", "path": "/gradio_api/upload", "query_string": b"", "headers": headers}
    scope |= {"root_path": "", "http_version": "1.1", "scheme": "http", "server": ("127.0.0.1", 80)}
    begun = []

    async def receive():
        begun.append(kept(folder))
        return coming.pop(0)

    async def send(message):
        """Nobody listens any more."""

    client.portal.call(client.app, scope, receive, send)
    assert len(begun[1]) == 1
    assert kept(folder) == []


def test_an_upload_that_grows_too_large_leaves_nothing(page):
    client, folder = page

    def endless():
        yield b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.wav"\r\n\r\n'
        for _ in range(3000):
            yield bytes(100_000)

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    assert client.post("/gradio_api/upload", content=endless(), headers=headers).status_code == 413
    assert kept(folder) == []


@pytest.mark.filterwarnings("ignore:.*no_silent_downcasting")
@pytest.mark.parametrize("place", ["/etc/hostname", "http://127.0.0.1:9/a.wav", "https://example.org/a.wav"])
def test_only_uploads_are_heard_no_files_of_the_machine_and_no_addresses(page, place, monkeypatch):
    client, folder = page
    reached = []
    monkeypatch.setattr("socket.socket.connect", lambda _, address: reached.append(address))
    told = {"path": place, "meta": {"_type": "gradio.FileData"}}
    answer = asked(client, "listen", told, "any", "any", None)
    assert "process_completed" in answer
    assert "not uploaded here" in answer or '"success":false' in answer.replace(" ", "")
    assert reached == []
    assert [path for path in folder.rglob("*") if path.is_file() and path.name != "lock"] == []


def test_the_page_is_told_to_load_nothing_from_elsewhere(page):
    client, _ = page
    answer = client.get("/")
    assert answer.status_code == 200
    assert "connect-src" not in answer.headers["content-security-policy"]  # default-src 'self' stands for it
    for tag in ("<script src", "<link rel", "<img"):
        assert f'{tag}="http' not in answer.text
    assert "fonts.g" not in answer.text
    config = client.get("/config").json()
    assert config["analytics_enabled"] is False
    assert client.get("/api/health").json()["status"] == "ok"


def test_a_port_that_is_taken_and_a_model_that_is_none(model_folder, tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", str(model_folder), "--port", str(taken.getsockname()[1])]) == 2
    assert "cannot listen on 127.0.0.1" in capsys.readouterr().err
    assert main(["serve", str(tmp_path)]) == 2
    assert main(["serve", str(model_folder), "--port", "99999"]) == 2
    assert main(["serve", str(model_folder), "--queue", "0"]) == 2
    assert "queue" in capsys.readouterr().err


def test_a_host_that_all_can_reach_is_warned_of(model_folder, capsys):
    with socket.create_server(("0.0.0.0", 0)) as taken:
        assert main(["serve", str(model_folder), "--host", "0.0.0.0", "--port", str(taken.getsockname()[1])]) == 2
    said = capsys.readouterr().err
    assert "no password" in said.replace("\n", " ")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        main(["serve", str(model_folder), "--port", str(taken.getsockname()[1])])
    assert "password" not in capsys.readouterr().err


def test_the_private_folder_of_a_living_server_is_left_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with private_folder() as mine:
        with private_folder() as other:
            assert mine.exists()
            assert mine != other
            assert Path(os.environ["GRADIO_TEMP_DIR"]).parent == other
        assert Path(os.environ["GRADIO_TEMP_DIR"]).parent == mine
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_hears_no_sound_is_refused(diarizer, tmp_path):
    from dataclasses import replace

    from weigher.serve.hearing import Listener
    from weigher.serve.limits import Limits

    model = replace(diarizer.config.model, front=replace(diarizer.config.model.front, kind="features", features=12))
    other = type(diarizer)(config=replace(diarizer.config, model=model), device="cpu")
    with pytest.raises(RequestError, match="hears sound"):
        Listener(other, None, Limits())

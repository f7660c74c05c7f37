import asyncio
import time
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from weigher.serve.bodies import PAGE_UPLOAD, UPLOAD
from weigher.serve.guard import Guard
from weigher.serve.limits import Limits

LIMITS = Limits(megabytes=0.2, queue=2, keep_minutes=60)


async def take(request):
    return PlainTextResponse(str(len(await request.body())))


@pytest.fixture
def client(tmp_path):
    paths = ("/api/people/Ann", UPLOAD, PAGE_UPLOAD)
    app = Starlette(routes=[Route(path, take, methods=["POST", "PATCH"]) for path in paths])
    return TestClient(Guard(app, "127.0.0.1", LIMITS, tmp_path), base_url="http://127.0.0.1")


@pytest.mark.parametrize(("host", "code"), [("127.0.0.1", 403), ("::1", 403), ("localhost", 403), ("0.0.0.0", 200)])
def test_a_server_for_this_machine_alone_answers_to_its_names_alone(host, code):
    app = Guard(Starlette(routes=[Route("/", lambda _: PlainTextResponse("hello"))]), host, LIMITS, Path())
    client = TestClient(app)
    assert client.get("/", headers={"Host": "weigher.example"}).status_code == code
    assert client.get("/", headers={"Host": "127.0.0.1:9"}).text == "hello"


def test_reading_is_open_to_links_from_elsewhere():
    app = Guard(Starlette(routes=[Route("/", lambda _: PlainTextResponse("hello"))]), "127.0.0.1", LIMITS, Path())
    headers = {"Host": "127.0.0.1", "Origin": "https://example.org"}
    answer = TestClient(app).get("/", headers=headers)
    assert answer.text == "hello"
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize(
    ("path", "most", "says"),
    [("/api/people/Ann", 65_536, "64 KB"), (UPLOAD, 265_536, "0.2 MB"), (PAGE_UPLOAD, 265_536, "0.2 MB")],
)
def test_every_body_has_a_limit_whether_its_length_is_told_or_not(client, path, most, says, told):
    def pieces(size):
        yield from (bytes(min(1000, size - start)) for start in range(0, size, 1000))

    assert client.post(path, content=bytes(most) if told else pieces(most)).text == str(most)
    answer = client.post(path, content=bytes(most + 1) if told else pieces(most + 1))
    assert answer.status_code == 413
    assert says in answer.json()["detail"]
    assert "default-src 'self'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("length", ["9" * 5000, "-1", "x"])
def test_a_length_that_is_none_is_no_way_around_the_limit(client, length):
    answer = client.post("/api/people/Ann", content=iter([bytes(70_000)]), headers={"Content-Length": length})
    assert answer.status_code == 413


def test_uploads_of_the_page_wait_while_their_folder_is_full(client, tmp_path):
    (tmp_path / "a").mkdir()
    for index, size in enumerate((200_000, 199_000)):
        (tmp_path / "a" / str(index)).write_bytes(bytes(size))
    assert client.post(PAGE_UPLOAD, content=b"x").status_code == 200
    (tmp_path / "left-over").write_bytes(bytes(2_000))
    answer = client.post(PAGE_UPLOAD, content=b"x")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "30"
    assert "try again later" in answer.json()["detail"]
    assert client.post(UPLOAD, content=b"x").status_code == 200  # it has a queue of its own


def test_what_the_page_has_forgotten_goes_with_time(client, tmp_path, monkeypatch):
    (tmp_path / "left-over").write_bytes(bytes(500_000))
    now = time.time()
    monkeypatch.setattr("weigher.serve.bodies.time.time", lambda: now + 3590)
    assert client.post(PAGE_UPLOAD, content=b"x").status_code == 503
    monkeypatch.setattr("weigher.serve.bodies.time.time", lambda: now + 3610)
    assert client.post(PAGE_UPLOAD, content=b"x").status_code == 200
    assert list(tmp_path.iterdir()) == []


def test_many_empty_files_fill_the_folder_too(client, tmp_path):
    for index in range(2 * 256):
        (tmp_path / str(index)).touch()
    assert client.post(PAGE_UPLOAD, content=b"x").status_code == 503


def test_uploads_of_the_page_under_way_hold_their_place_for_so_long_and_no_longer(tmp_path):
    limits = Limits(megabytes=0.2, queue=1, upload_seconds=0.5)
    guard = Guard(Starlette(routes=[Route(PAGE_UPLOAD, take, methods=["POST"])]), "127.0.0.1", limits, tmp_path)
    scope = {"type": "http", "method": "POST", "path": PAGE_UPLOAD, "query_string": b"", "root_path": ""}
    scope["headers"] = [(b"host", b"127.0.0.1")]

    async def upload(arrives, seconds=0.0):
        codes = []

        async def receive():
            await asyncio.sleep(seconds)
            return {"type": "http.request", "body": b"x", "more_body": not arrives}

        async def send(message):
            codes.append(message.get("status"))

        await guard(scope, receive, send)
        return codes[0]

    async def visitors():
        slow = asyncio.create_task(upload(False, 0.1))
        await asyncio.sleep(0.2)
        return await upload(True), await slow, await upload(True)

    assert asyncio.run(visitors()) == (503, 408, 200)

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from weigher.serve.guard import Guard


@pytest.mark.parametrize(("host", "code"), [("127.0.0.1", 403), ("::1", 403), ("localhost", 403), ("0.0.0.0", 200)])
def test_a_server_for_this_machine_alone_answers_to_its_names_alone(host, code):
    app = Guard(Starlette(routes=[Route("/", lambda _: PlainTextResponse("hello"))]), host)
    client = TestClient(app)
    assert client.get("/", headers={"Host": "weigher.example"}).status_code == code
    assert client.get("/", headers={"Host": "127.0.0.1:9"}).text == "hello"


def test_reading_is_open_to_links_from_elsewhere():
    app = Guard(Starlette(routes=[Route("/", lambda _: PlainTextResponse("hello"))]), "127.0.0.1")
    headers = {"Host": "127.0.0.1", "Origin": "https://example.org"}
    answer = TestClient(app).get("/", headers=headers)
    assert answer.text == "hello"
    assert answer.headers["x-content-type-options"] == "nosniff"

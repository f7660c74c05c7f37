import json
import pickle
import threading
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from weigher.io.audio import read_audio, write_audio
from weigher.io.rttm import read_rttm
from weigher.serve import uploads
from weigher.serve.api import build_api
from weigher.serve.guard import Guard
from weigher.serve.reference import reference_page


@pytest.fixture
def api(make_service, tmp_path):
    """Make a client of a service with limits; its application is started, and at the end stopped."""
    opened = []

    def make(people=True, **limits):
        service = make_service(people, **limits)
        app = build_api(service)
        app.add_middleware(Guard, host="127.0.0.1", limits=service.limits, uploads=tmp_path)
        client = TestClient(app, base_url="http://127.0.0.1:7860").__enter__()
        client.service = service
        opened.append(client)
        return client

    yield make
    for client in opened:
        client.__exit__(None, None, None)


def send(client, sound, name="talk.flac", **fields):
    content = sound.read_bytes() if isinstance(sound, Path) else sound
    return client.post("/api/jobs", files={"audio": (name, content)}, data={"min_speakers": 2, **fields})


def heard(client, *arguments, **fields):
    number = send(client, *arguments, **fields).json()["id"]
    assert client.service.jobs.wait(number).state == "done"
    return number


def left(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


class Listening:
    """Stands in the place of listening: goes on, with progress, until it is told to end."""

    def __init__(self, client, monkeypatch):
        self.begun, self.end, self.really = threading.Event(), threading.Event(), client.service.listener.listen
        monkeypatch.setattr(client.service.listener, "listen", self)

    def __call__(self, path, name, bounds, progress):
        self.begun.set()
        while not self.end.wait(0.01):
            progress("apply", 3, 7)
        return self.really(path, name, bounds, progress)


def test_from_recording_to_every_format(api, talk, tmp_path):
    client = api()
    answer = send(client, talk, "../../etc/Über uns.flac")
    assert answer.status_code == 202
    status = answer.json()
    assert status["name"] == "Über uns.flac"
    place = answer.headers["location"]
    assert place == f"/api/jobs/{status['id']}"
    assert client.service.jobs.wait(status["id"]).state == "done"
    done = client.get(place).json()
    assert (done["state"], done["stage"], done["error"]) == ("done", "apply", None)
    assert done["done"] == done["total"] == 3
    told = client.get(f"{place}/result").json()
    assert told["file_id"] == "Über uns"
    assert [speaker["name"] for speaker in told["speakers"]] == ["unknown1", "unknown2"]
    assert told["seconds"] == 5.0
    assert all(0 <= speaker["confidence"] <= 1 for speaker in told["speakers"])
    rttm = client.get(f"{place}/result", params={"format": "rttm"})
    assert rttm.headers["content-disposition"] == "attachment; filename*=UTF-8''%C3%9Cber%20uns.rttm"
    (tmp_path / "found.rttm").write_text(rttm.text, encoding="utf-8")
    ((_, turns),) = read_rttm(tmp_path / "found.rttm").items()
    assert len(turns) == len(told["segments"])
    first = told["segments"][0]
    texts = {kind: client.get(f"{place}/result", params={"format": kind}).text for kind in ("csv", "audacity", "elan")}
    assert texts["csv"].startswith("file,channel,start,duration,speaker,confidence\nÜber uns,1,")
    assert texts["audacity"].startswith(f"{first['start']:.6f}\t{first['end']:.6f}\t{first['speaker']}\n")
    assert "MEDIA_URL" not in texts["elan"]  # no path of this machine
    assert client.get(f"{place}/result", params={"format": "pickle"}).status_code == 422


def test_parts_can_be_listened_to(api, talk, tmp_path):
    client = api()
    number = heard(client, talk)
    part = client.get(f"/api/jobs/{number}/audio", params={"start": 1, "end": 2.5})
    assert part.headers["content-type"] == "audio/wav"
    (tmp_path / "part.wav").write_bytes(part.content)
    assert read_audio(tmp_path / "part.wav") == pytest.approx(read_audio(talk)[16000:40000], abs=1e-4)
    assert client.get(f"/api/jobs/{number}/audio", params={"start": 3, "end": 2}).status_code == 400
    assert client.get(f"/api/jobs/{number}/audio", params={"start": 3, "end": "nan"}).status_code == 400
    for start, end in ((99, 100), (0, 0.00001), (1e305, 1.5e305)):
        answer = client.get(f"/api/jobs/{number}/audio", params={"start": start, "end": end})
        assert answer.status_code == 415
        assert answer.json()["detail"].startswith("talk.flac")  # no path of this machine


def test_the_answer_is_that_of_the_diarizer(api, diarizer, talk):
    client = api(people=False)
    told = client.get(f"/api/jobs/{heard(client, talk, max_speakers=2)}/result").json()
    plain = diarizer.predict(talk, min_speakers=2, max_speakers=2, file_id="talk").to_dict()
    assert told["segments"] == plain["segments"]
    assert [speaker["confidence"] for speaker in told["speakers"]] == [
        speaker["confidence"] for speaker in plain["speakers"]
    ]


class Bomb:
    def __reduce__(self):
        return (Path("went-off").touch, ())


@pytest.mark.parametrize(
    "case",
    [
        (b"", "empty"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", "cannot be read as audio"),
        (pickle.dumps(Bomb()), "cannot be read as audio"),
        (b"PK\x03\x04 an archive, an npz", "cannot be read as audio"),
        (bytes(range(256)) * 40, "cannot be read as audio"),
    ],
    ids=["empty", "header", "pickle", "archive", "bytes"],
)
def test_what_is_no_audio_is_refused_and_leaves_nothing(api, folder, case, tmp_path, monkeypatch):
    content, says = case
    monkeypatch.chdir(tmp_path)
    answer = send(api(), content, "sound.wav")
    assert answer.status_code == 415
    assert says in answer.json()["detail"]
    assert "sound.wav" in answer.json()["detail"]
    assert str(folder) not in answer.text
    assert left(folder) == []
    assert not Path("went-off").exists()


def test_audio_is_told_by_its_content_and_not_by_its_name(api, talk):
    assert send(api(), talk, "notes.pkl").status_code == 202


def test_a_recording_cut_short_fails_while_it_is_read(api, talk, folder):
    client = api()
    number = send(client, talk.read_bytes()[:-20_000], "talk.flac").json()["id"]
    status = client.service.jobs.wait(number)
    assert status.state == "failed"
    assert status.error.startswith("talk.flac is damaged or cut short")
    assert left(folder) == []
    answer = client.get(f"/api/jobs/{number}/result")
    assert answer.status_code == 409
    assert "cut short" in answer.json()["detail"]


def test_a_recording_that_is_too_long_is_refused(api, talk, folder):
    answer = send(api(minutes=0.05), talk)
    assert answer.status_code == 413
    assert "0.05 min" in answer.json()["detail"]
    assert left(folder) == []


def test_an_upload_that_says_it_is_too_large_is_refused_before_it_is_read(api, monkeypatch):
    client = api(megabytes=0.2)
    monkeypatch.setattr(uploads.Request, "form", lambda *_, **__: pytest.fail("the upload was read"))
    assert send(client, bytes(400_000)).status_code == 413


def test_an_upload_is_refused_as_soon_as_it_is_too_large(api, folder):
    client, taken = api(megabytes=0.2), []

    def endless():
        yield b'--b\r\nContent-Disposition: form-data; name="audio"; filename="a.wav"\r\n\r\n'
        for _ in range(100):
            taken.append(100_000)
            yield bytes(100_000)

    # without a length told beforehand
    answer = client.post("/api/jobs", content=endless(), headers={"Content-Type": "multipart/form-data; boundary=b"})
    assert answer.status_code == 413
    assert "0.2 MB" in answer.json()["detail"]
    assert left(folder) == []


@pytest.mark.parametrize(
    ("post", "says"),
    [
        ({"json": {"audio": "x"}}, "multipart/form-data"),
        ({"files": {"sound": b"x"}}, "field `audio`"),
        ({"data": {"audio": "x"}, "files": {"other": b"x"}}, "field `audio`"),
        ({"files": [("audio", b"x"), ("audio", b"y")]}, "Too many files"),
        ({"content": b"nonsense", "headers": {"Content-Type": "multipart/form-data"}}, "boundary"),
    ],
)
def test_forms_that_are_none_are_refused(api, post, says):
    answer = api().post("/api/jobs", **post)
    assert answer.status_code == 400
    assert says in answer.json()["detail"]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"min_speakers": "two"}, "min_speakers is 'two'"),
        ({"max_speakers": "-1"}, "max_speakers is '-1'"),
        ({"max_speakers": "1"}, "contradict"),
        ({"num_speakers": "10"}, "there are 9 slots"),  # of three windows
        ({"num_speakers": "9" * 5000}, "whole number"),
    ],
)
def test_numbers_of_speakers_that_cannot_be_are_refused(api, talk, folder, fields, says):
    answer = send(api(), talk, **fields)
    assert answer.status_code == 400
    assert says in answer.json()["detail"]
    assert left(folder) == []


def test_a_long_recording_may_have_more_speakers_than_a_window(api, talk, tmp_path):
    client = api()
    assert client.get("/api/health").json()["slots"] == 3
    number = heard(client, talk, min_speakers="", num_speakers=4)
    assert len(client.get(f"/api/jobs/{number}/result").json()["speakers"]) == 4
    write_audio(tmp_path / "short.wav", read_audio(talk, duration_seconds=1.5))
    answer = send(client, tmp_path / "short.wav", min_speakers="", num_speakers=4)
    assert answer.status_code == 400
    assert "there are 3 slots" in answer.json()["detail"]


def test_an_upload_that_takes_too_long_is_given_up(api, talk, monkeypatch):
    client = api(upload_seconds=0.05)

    async def dawdle(self):
        import asyncio

        await asyncio.sleep(5)

    monkeypatch.setattr("starlette.formparsers.MultiPartParser.parse", dawdle)
    assert send(client, talk).status_code == 408


def test_progress_is_told_and_work_can_be_cancelled(api, talk, folder, monkeypatch):
    client = api()
    listening = Listening(client, monkeypatch)
    number = send(client, talk).json()["id"]
    assert listening.begun.wait(10)
    status = client.get(f"/api/jobs/{number}").json()
    while status["stage"] != "apply":
        status = client.get(f"/api/jobs/{number}").json()
    assert (status["state"], status["done"], status["total"]) == ("running", 3, 7)
    assert client.get(f"/api/jobs/{number}/result").status_code == 409
    assert client.delete(f"/api/jobs/{number}").status_code == 204
    assert client.get(f"/api/jobs/{number}").status_code == 404
    listening.end.set()  # had it not been cancelled, it would go on, and have a result
    heard(client, talk)
    assert len(left(folder)) == 1


def test_two_users_wait_for_each_other_and_a_third_is_sent_away(api, talk, monkeypatch):
    client = api(queue=2)
    listening = Listening(client, monkeypatch)
    first = send(client, talk, "first.flac").json()
    assert listening.begun.wait(10)
    second = send(client, talk, "second.flac").json()
    assert (first["ahead"], second["ahead"]) == (0, 1)
    third = send(client, talk)
    assert third.status_code == 503
    assert third.headers["retry-after"] == "30"
    listening.end.set()
    for told, name in ((first, "first"), (second, "second")):
        assert client.service.jobs.wait(told["id"]).state == "done"
        assert client.get(f"/api/jobs/{told['id']}/result").json()["file_id"] == name
    assert first["id"] != second["id"]


def test_two_users_at_once_each_get_their_own(api, talk, tmp_path):
    client = api(people=False)
    answers = {}

    def user(name):
        number = heard(client, talk, f"{name}.flac")
        client.patch(f"/api/jobs/{number}/speakers/speaker1", json={"name": name})
        answers[name] = client.get(f"/api/jobs/{number}/result").json()

    users = [threading.Thread(target=user, args=(name,)) for name in ("ann", "ben", "cid")]
    for each in users:
        each.start()
    for each in users:
        each.join(30)
    assert {name: told["file_id"] for name, told in answers.items()} == {n: n for n in ("ann", "ben", "cid")}
    assert {name: told["speakers"][0]["name"] for name, told in answers.items()} == {
        n: n for n in ("ann", "ben", "cid")
    }


def test_removing_removes(api, talk, folder):
    client = api()
    number = heard(client, talk)
    assert len(left(folder)) == 1
    assert client.delete(f"/api/jobs/{number}").status_code == 204
    assert left(folder) == []
    for call in (client.get, client.delete):
        assert call(f"/api/jobs/{number}").status_code == 404


@pytest.mark.parametrize("number", ["nobody", "..%2f..%2fetc%2fpasswd", "%00", "a" * 5000])
def test_jobs_that_are_not_there(api, number):
    assert api().get(f"/api/jobs/{number}").status_code == 404


def test_people_are_named_listed_and_renamed(api, talk):
    client = api()
    number = heard(client, talk)
    assert client.get("/api/people").json() == []
    named = client.patch(f"/api/jobs/{number}/speakers/unknown1", json={"name": "Ann / Löf"})
    assert named.json()["speakers"][0]["name"] == "Ann / Löf"
    assert client.get("/api/people").json() == [{"name": "Ann / Löf", "vectors": 1, "recordings": 0}]
    again = client.get(f"/api/jobs/{heard(client, talk)}/result").json()
    assert [speaker["name"] for speaker in again["speakers"]] == ["Ann / Löf", "unknown1"]
    renamed = client.patch("/api/people/Ann%20%2F%20L%C3%B6f", json={"name": " Anna "})
    assert renamed.json() == {"name": "Anna"}
    assert client.get(f"/api/jobs/{number}/result").json()["speakers"][0]["name"] == "Anna"
    assert client.patch("/api/people/Ann", json={"name": "Zoe"}).status_code == 400
    refused = client.patch("/api/people/Anna", json={"name": "x" * 300})
    assert refused.status_code == 422
    assert "xxx" not in refused.text  # what was sent is not sent back
    assert refused.json()["detail"][0]["loc"] == ["body", "name"]
    assert client.patch("/api/people/Anna", json={"name": "x" * 70_000}).status_code == 413
    for name in ("", "unknown3", "a\nb"):
        assert client.patch(f"/api/jobs/{number}/speakers/unknown2", json={"name": name}).status_code == 400


def test_without_an_index_there_are_no_people(api):
    client = api(people=False)
    answer = client.get("/api/people")
    assert answer.status_code == 400
    assert "--people" in answer.json()["detail"]
    health = client.get("/api/health").json()
    assert (health["status"], health["people"], health["slots"], health["queue"]) == ("ok", False, 3, 8)


def test_the_description_covers_every_path_and_the_docs_load_nothing(api):
    client = api()
    described = client.get("/openapi.json").json()
    assert described["openapi"].startswith("3.")
    assert set(described["paths"]) == {
        "/api/jobs",
        "/api/jobs/{job}",
        "/api/jobs/{job}/result",
        "/api/jobs/{job}/audio",
        "/api/jobs/{job}/speakers/{speaker}",
        "/api/people",
        "/api/people/{name}",
        "/api/health",
    }
    upload = described["paths"]["/api/jobs"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert set(upload["properties"]) == {"audio", "min_speakers", "max_speakers", "num_speakers"}
    page = client.get("/docs").text
    assert page == reference_page(described)
    assert all(f"<code>{path}</code>" in page for path in described["paths"])
    assert "src=" not in page
    assert "//" not in page.replace("http://127.0.0.1:7860", "")
    json.dumps(described)


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Origin": "https://example.org"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Origin": "http://127.0.0.1:7860"}, 400),
        ({"Host": "example.org"}, 403),
        ({"Host": "127.0.0.1.example.org:7860"}, 403),
        ({"Host": "localhost:7860"}, 400),
        ({"Host": "[::1]:7860"}, 400),
        ({"Host": "[::1"}, 403),
    ],
)
def test_other_sites_cannot_reach_in(api, headers, code):
    # 400: it came through, and there was no recording in it
    answer = api().post("/api/jobs", json={}, headers=headers)
    assert answer.status_code == code
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert "access-control-allow-origin" not in answer.headers

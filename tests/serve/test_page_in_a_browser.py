"""The page as a person uses it, in a real browser without a window.

Needs the Python package playwright (in the [test] extra) and a browser of the system: Chromium or Chrome on the PATH
(`apt-get install chromium`), or the one that WEIGHER_BROWSER names. No browser is downloaded.
"""

import os
import re
import shutil
import threading
import time
from urllib.parse import urlsplit

import numpy as np
import pytest
import uvicorn
from playwright.sync_api import expect, sync_playwright

from weigher.io.audio import SAMPLE_RATE, read_audio, write_audio
from weigher.io.rttm import read_rttm
from weigher.recordings.identify import open_index
from weigher.serve.limits import Limits
from weigher.serve.server import build_app, private_folder
from weigher.serve.service import Service

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = os.environ.get("WEIGHER_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = [
    "--no-sandbox",  # as root there is none, and all that is shown is ours
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
]
PLAYED = """
window.played = 0;
const play = HTMLMediaElement.prototype.play;
HTMLMediaElement.prototype.play = function () {
  window.played += 1;
  return play.call(this);
};
"""
MOMENT = 30_000  # milliseconds that a slow machine may take for a step

pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="no browser: install chromium, or name one by WEIGHER_BROWSER"),
    pytest.mark.filterwarnings("ignore:.*no_silent_downcasting"),  # Gradio's own, of pandas 3
]


@pytest.fixture(scope="module")
def served(diarizer, tmp_path_factory):
    """A server in a thread: its service and its address."""
    with private_folder() as folder:
        index = open_index(diarizer, tmp_path_factory.mktemp("people"), create=True)
        service = Service(diarizer, index, Limits(megabytes=1, minutes=1), folder)
        servers = []

        def run():  # playwright keeps an event loop running in the main thread, and the page is not built in one
            config = uvicorn.Config(build_app(service), host="127.0.0.1", port=0, log_level="warning")
            servers.append(uvicorn.Server(config))
            servers[0].run()

        thread = threading.Thread(target=run)
        thread.start()
        while not (servers and servers[0].started):
            assert thread.is_alive()
            time.sleep(0.05)
        (server,) = servers
        yield service, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()
        assert not list(folder.glob("*/recording"))
    assert not folder.exists()


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def visit(browser, served):
    """Open the page as a new visitor; afterwards nothing has been asked of another machine, and nothing went wrong."""
    contexts, elsewhere, errors = [], [], []

    def open_page(**settings):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **settings})
        contexts.append(context)
        page = context.new_page()
        page.add_init_script(PLAYED)
        page.set_default_timeout(MOMENT)
        page.on("request", lambda request: elsewhere.append(request.url))
        page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(served[1])
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert {urlsplit(url).hostname for url in elsewhere if url.startswith("http")} == {"127.0.0.1"}
    assert errors == []


def upload(page, path):
    clear = page.locator("#recording button[aria-label=Clear]")
    if clear.is_visible():
        clear.click()
    page.locator("#recording input[type=file]").set_input_files(path)
    clear.wait_for()


def choose(page, label, option):
    box = page.get_by_label(label, exact=True)
    box.click()
    page.locator(f"#{box.get_attribute('aria-controls')}").get_by_role("option", name=option, exact=True).click()


def ask_for(page, word, count):
    choose(page, f"{word} so many speakers", str(count))


def hear(page, path):
    """Two speakers are asked for: the model of these tests has learned nothing, and is not sure of anybody."""
    upload(page, path)
    ask_for(page, "At least", 2)
    ask_for(page, "At most", 2)
    page.locator("#start").click()
    page.locator("#picture .weigher-tracks").wait_for()
    expect(page.locator("#start")).to_be_enabled()
    page.locator("#save").wait_for()


def names(page):
    return page.locator("#picture .who b").all_inner_texts()


def wait_for_sound(page, times=1):
    """Wait until the page has begun to play sound so many times; whether a loudspeaker follows is not its matter."""
    page.wait_for_function("times => window.played >= times", arg=times)


def test_upload_see_listen_and_download(visit, served, talk, tmp_path):
    page, (service, _) = visit(), served
    hear(page, talk)
    expect(page.locator("#picture .head b")).to_have_text("Über uns.flac")
    assert names(page) == ["unknown1", "unknown2"]
    assert page.locator("#picture [role=meter]").count() == 2
    assert page.locator("#picture path.full").count() == 2
    (job,) = [number for number in service.jobs._jobs]
    heard = service.jobs.result(job)
    turns = page.locator("#picture [data-turn]")
    assert turns.count() == len(heard.result.segments)

    # turns lie where they are in time
    last = max(range(turns.count()), key=lambda turn: heard.result.segments[turn].start)
    box, ribbon = (page.locator(place).bounding_box() for place in (f"[data-turn='{last}']", "#picture svg >> nth=0"))
    place = (box["x"] - ribbon["x"]) / ribbon["width"]
    assert place == pytest.approx(heard.result.segments[last].start / 5.0, abs=0.01)

    with page.expect_response(re.compile(r"audio\.wav$")) as response:
        segments = heard.result.segments
        longest = max(range(len(segments)), key=lambda turn: segments[turn].end - segments[turn].start)
        turns.nth(longest).click(force=True)
    wait_for_sound(page)
    clicked = segments[longest]
    expect(page.locator("#player label")).to_contain_text(clicked.speaker)
    (tmp_path / "turn.wav").write_bytes(response.value.body())
    part = read_audio(talk, start_seconds=clicked.start, duration_seconds=clicked.end - clicked.start)
    assert read_audio(tmp_path / "turn.wav") == pytest.approx(part, abs=1e-4)

    for title, text in (
        ("RTTM", heard.result.to_rttm()),
        ("CSV", heard.result.to_csv()),
        ("Audacity labels", heard.result.to_audacity()),
    ):
        with page.expect_download() as download:
            page.get_by_role("link", name=title).click()
        download.value.save_as(tmp_path / "got")
        assert (tmp_path / "got").read_text(encoding="utf-8") == text
        assert download.value.suggested_filename.startswith("Über uns.")
    with page.expect_download() as download:
        page.get_by_role("link", name="JSON").click()
    assert download.value.suggested_filename == "Über uns.json"


def test_a_turn_can_be_reached_by_the_keyboard_and_chosen_from_the_table(visit, talk):
    page = visit()
    hear(page, talk)
    turn = page.locator("#picture [data-turn]").first
    turn.press("Enter")
    expect(page.locator("#player label")).to_contain_text(turn.locator("title").text_content())
    page.get_by_role("button", name="All turns").click()
    start, speaker = (page.locator(f"#turns [data-row='1'][data-col='{column}']") for column in (0, 3))
    speaker.click()
    expect(page.locator("#player label")).to_contain_text(f"{speaker.inner_text()}, {start.inner_text()} to")


def give(page, name):
    page.get_by_label("Name", exact=True).fill(name)
    page.keyboard.press("Enter")
    page.locator("#save").click()
    page.locator("#picture .who b", has_text=re.compile(f"^{name}$")).wait_for()


def test_a_voice_is_named_then_known_then_renamed(visit, served, tmp_path):
    page, (service, _) = visit(), served
    rng = np.random.default_rng(5)
    write_audio(tmp_path / "a.wav", 0.2 * rng.uniform(-1, 1, 4 * SAMPLE_RATE))
    hear(page, tmp_path / "a.wav")
    give(page, "Ann Löf")
    assert [person.name for person in service.listener.index.people()] == ["Ann Löf"]
    page = visit()  # somebody else, later
    hear(page, tmp_path / "a.wav")
    assert "Ann Löf" in names(page)
    choose(page, "Voice", "Ann Löf")
    expect(page.get_by_label("Ann Löf is called otherwise")).to_be_checked()
    give(page, "Anna Berg")
    assert [person.name for person in service.listener.index.people()] == ["Anna Berg"]
    with page.expect_download() as download:
        page.get_by_role("link", name="RTTM").click()
    assert "Anna Berg" in {turn.speaker for turns in read_rttm(download.value.path()).values() for turn in turns}
    service.listener.index.forget(["Anna Berg"])


def test_a_long_job_shows_progress_and_can_be_cancelled(visit, served, talk, monkeypatch):
    page, (service, _) = visit(), served
    end, really = threading.Event(), service.listener.listen

    def listen(path, name, bounds, progress):
        while not end.wait(0.02):
            progress("apply", 2, 5)
        return really(path, name, bounds, progress)

    monkeypatch.setattr(service.listener, "listen", listen)
    upload(page, talk)
    page.locator("#start").click()
    expect(page.locator("#status")).to_contain_text("Listening, 2 of 5")
    expect(page.locator("#start")).to_be_disabled()
    page.locator("#cancel").click()
    expect(page.locator("#status")).to_contain_text("Cancelled.")
    expect(page.locator("#start")).to_be_enabled()
    end.set()
    monkeypatch.undo()
    hear(page, talk)


def test_what_cannot_be_heard_is_said(visit, tmp_path):
    page = visit()
    page.locator("#start").click()
    expect(page.locator("#status")).to_contain_text("Drop a recording first")
    rng = np.random.default_rng(0)
    write_audio(tmp_path / "long.flac", np.zeros(61 * SAMPLE_RATE))
    upload(page, tmp_path / "long.flac")
    page.locator("#start").click()
    expect(page.locator("#status")).to_contain_text("longer than 1 min")
    expect(page.locator("#start")).to_be_enabled()
    write_audio(tmp_path / "contradiction.wav", rng.uniform(-0.1, 0.1, SAMPLE_RATE))
    upload(page, tmp_path / "contradiction.wav")
    ask_for(page, "At least", 3)
    ask_for(page, "At most", 1)
    page.locator("#start").click()
    expect(page.locator("#status")).to_contain_text("contradict")
    box = page.get_by_label("At least so many speakers", exact=True)
    box.fill("many")
    box.press("Enter")
    page.locator("#start").click()
    expect(page.locator("#status")).to_contain_text("needed is a whole number")


def test_more_speakers_than_a_window_has_can_be_asked_for(visit, talk):
    page = visit()
    upload(page, talk)
    for word in ("At least", "At most"):
        box = page.get_by_label(f"{word} so many speakers", exact=True)
        box.fill("4")
        box.press("Enter")
    page.locator("#start").click()
    page.locator("#picture .weigher-tracks").wait_for()
    assert len(names(page)) == 4


def test_sound_can_be_recorded(visit):
    page = visit()
    page.get_by_label("Record audio").click()
    page.get_by_role("button", name="Record", exact=True).click()
    page.wait_for_timeout(2500)
    page.get_by_role("button", name="Stop", exact=True).click()
    page.locator("#recording button[aria-label=Clear]").wait_for()
    ask_for(page, "At least", 1)
    page.locator("#start").click()
    page.locator("#picture .weigher-tracks").wait_for()
    assert len(names(page)) >= 1


def test_two_visitors_see_each_their_own(visit, talk, tmp_path):
    (tmp_path / "theirs.flac").write_bytes(talk.read_bytes())
    one, two = visit(), visit()
    for page, path in ((one, talk), (two, tmp_path / "theirs.flac")):
        upload(page, path)
        page.locator("#start").click()
    expect(one.locator("#picture .head b")).to_have_text("Über uns.flac")
    expect(two.locator("#picture .head b")).to_have_text("theirs.flac")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_light_and_dark(visit, talk, scheme):
    page = visit(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    hear(page, talk)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    red = int(re.findall(r"\d+", ground)[0])
    assert (red > 200) if scheme == "light" else (red < 60)
    name, ribbon = (page.locator(f"#picture {part} >> nth=0").bounding_box() for part in (".who", "svg"))
    assert ribbon["y"] > name["y"] + name["height"] / 2
    assert ribbon["width"] > 250

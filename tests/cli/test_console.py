import io
import json

import pytest
from rich.console import Console

from weigher.cli import console


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

    monkeypatch.setattr(console.time, "monotonic", lambda: Clock.now)
    return Clock


def on(monkeypatch, *, terminal):
    screen = Console(file=io.StringIO(), force_terminal=terminal, width=120)
    monkeypatch.setattr(console, "stderr", screen)
    return screen


def work(clock, seconds, steps, quiet=False):
    with console.progress_bar(quiet) as progress:
        for done in range(1, steps + 1):
            clock.now += seconds / steps
            progress("train", done, steps)


def shown(screen):
    return screen.file.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_short_work_shows_nothing(monkeypatch, clock, terminal):
    screen = on(monkeypatch, terminal=terminal)
    work(clock, seconds=1.9, steps=100)
    assert shown(screen).strip() == ""


@pytest.mark.parametrize("terminal", [True, False])
def test_quiet_shows_nothing(monkeypatch, clock, terminal):
    screen = on(monkeypatch, terminal=terminal)
    work(clock, seconds=600, steps=100, quiet=True)
    assert shown(screen) == ""


def test_a_terminal_gets_a_bar(monkeypatch, clock):
    screen = on(monkeypatch, terminal=True)
    work(clock, seconds=4, steps=8)
    assert "train" in shown(screen)
    assert "8/8" in shown(screen)


def test_a_bar_ends_with_the_work_even_when_it_fails(monkeypatch, clock):
    screen = on(monkeypatch, terminal=True)

    def fail():
        with console.progress_bar() as progress:
            clock.now += 5
            progress("train", 1, 2)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    # The cursor, hidden while the bar is drawn, is back.
    assert shown(screen).rindex("\x1b[?25h") > shown(screen).rindex("\x1b[?25l")


def test_elsewhere_there_are_lines_at_sensible_intervals(monkeypatch, clock):
    screen = on(monkeypatch, terminal=False)
    work(clock, seconds=60, steps=600)
    lines = shown(screen).splitlines()
    assert 6 <= len(lines) <= 8
    assert lines[0].startswith("train: 2")
    assert lines[-1].startswith("train: 600/600 (100 %)")


def test_lines_grow_rarer_in_long_work(monkeypatch, clock):
    screen = on(monkeypatch, terminal=False)
    work(clock, seconds=36_000, steps=36_000)
    assert len(shown(screen).splitlines()) <= 130


def test_time_left_is_that_of_the_stage(monkeypatch, clock):
    screen = on(monkeypatch, terminal=False)
    with console.progress_bar() as progress:
        progress("read", 1, 1)
        clock.now += 50
        progress("train", 0, 10)
        clock.now += 20
        progress("train", 2, 10)
    assert shown(screen).splitlines()[-1] == "train: 2/10 (20 %), about 1:20 left"


def test_time_left_of_a_resumed_run_counts_only_its_own_steps(monkeypatch, clock):
    screen = on(monkeypatch, terminal=False)
    with console.progress_bar() as progress:
        progress("train", 900, 1000)
        clock.now += 20
        progress("train", 910, 1000)
    assert shown(screen).splitlines()[-1] == "train: 910/1000 (91 %), about 3:00 left"


def test_messages_stay_off_stdout_and_keep_their_brackets(capsys):
    console.message("pip install 'weigher[plot]'")
    captured = capsys.readouterr()
    assert captured.err == "pip install 'weigher[plot]'\n"
    assert captured.out == ""


def test_json_is_one_object_any_program_reads(capsys):
    console.print_json({"name": "Zoë \udc80", "der": 0.1})
    out = capsys.readouterr().out
    assert out.isascii()
    assert json.loads(out) == {"name": "Zoë \udc80", "der": 0.1}
    with pytest.raises(ValueError, match="not JSON compliant"):
        console.print_json({"der": float("nan")})

"""Speech found by other programs is read from their files, and what is wrong with them is named."""

import pytest

from weigher.errors import RequestError
from weigher.io.exports import format_audacity
from weigher.io.rttm import Segment, read_rttm, write_rttm, write_uem
from weigher.io.speech import joined, read_speech

TURNS = [Segment(0.5, 2.0, "Ann"), Segment(1.5, 3.0, "Ben"), Segment(4.0, 5.25, "Ann")]
SPEECH = ((0.5, 3.0), (4.0, 5.25))


def test_every_format_tells_the_same(tmp_path):
    write_rttm(tmp_path / "s.rttm", {"a talk": TURNS, "other": [Segment(7, 8, "x")]})
    write_uem(tmp_path / "s.uem", {"a talk": [(turn.start, turn.end) for turn in TURNS], "other": [(7, 8)]})
    (tmp_path / "s.txt").write_text(format_audacity(TURNS))
    for ending in ("rttm", "uem", "txt"):
        assert read_speech(tmp_path / f"s.{ending}", "a talk") == SPEECH
    assert read_speech(tmp_path / "s.uem", "other") == ((7.0, 8.0),)


def test_rttm_tells_of_silence_by_a_turn_of_no_length(tmp_path):
    (tmp_path / "s.rttm").write_text("SPEAKER a 1 0.5 0.0 <NA> <NA> x <NA> <NA>\n")
    assert read_speech(tmp_path / "s.rttm", "a") == ()
    assert read_rttm(tmp_path / "s.rttm") == {}  # of which a cast list or a reference makes nothing


def test_labels_as_audacity_writes_them(tmp_path):
    text = "0,500000\t3,000000\n\\\t100.0\t200.0\n4.000000\t5.250000\tAnn\tLee\r\n6.0\t6.0\tpoint\n\n"
    (tmp_path / "s.txt").write_text(text)
    assert read_speech(tmp_path / "s.txt", "x") == SPEECH
    (tmp_path / "none.txt").write_text("")
    assert read_speech(tmp_path / "none.txt", "x") == ()


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("s.rttm", "SPEAKER b 1 0 1 <NA> <NA> x <NA> <NA>\n", "tells nothing of 'a', but of 'b'"),
        ("s.uem", "", "nothing"),
        ("s.txt", "speech\n", "line 1"),
        ("s.txt", "0\t1\tx\nhi\t2\tx\n", "line 2"),
        ("s.txt", "2\t1\tx\n", "line 1"),
        ("s.txt", "-1\t1\tx\n", "line 1"),
        ("s.txt", "0\tinf\tx\n", "line 1"),
        ("s.txt", "A" * 100_000, "line 1"),
        ("s.wav", "", "needs to end in"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, text, told):
    (tmp_path / name).write_text(text)
    with pytest.raises(RequestError, match=told) as caught:
        read_speech(tmp_path / name, "a")
    assert len(str(caught.value)) < 1000
    with pytest.raises(RequestError):
        read_speech(tmp_path / f"gone-{name}", "a")


@pytest.mark.parametrize("region", [(2, 1), (-1, 1), (0, float("nan")), (0, float("inf"))])
def test_times_that_cannot_be(region):
    with pytest.raises(RequestError, match="speech from"):
        joined([region])

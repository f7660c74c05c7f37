import pytest

from weigher.errors import RequestError
from weigher.io.audio import AudioError
from weigher.serve.limits import Limits, TooLargeError


def test_limits_that_allow_nothing_are_refused():
    for name in ("megabytes", "minutes", "queue", "keep_minutes"):
        with pytest.raises(RequestError, match=name):
            Limits(**{name: 0})
    with pytest.raises(RequestError, match="minutes"):
        Limits(minutes=float("nan"))
    with pytest.raises(RequestError, match="megabytes"):
        Limits(megabytes=float("inf"))


def test_bytes_are_counted_to_the_last():
    limits = Limits(megabytes=0.5)
    limits.check_bytes(500_000)
    with pytest.raises(TooLargeError, match=r"0\.5 MB"):
        limits.check_bytes(500_001)


def test_a_recording_is_told_by_its_content(talk, tmp_path):
    (tmp_path / "notes.txt").write_bytes(talk.read_bytes())
    assert Limits().check_recording(tmp_path / "notes.txt") == 5.0
    (tmp_path / "sound.wav").write_bytes(b"no sound at all")
    with pytest.raises(AudioError):
        Limits().check_recording(tmp_path / "sound.wav")
    with pytest.raises(TooLargeError):
        Limits(minutes=0.08).check_recording(talk)

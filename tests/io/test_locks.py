import errno
import os
import sys

import pytest

from weigher.io.locks import try_lock

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_one_holds_a_lock_until_it_is_closed(tmp_path, kind):
    place = tmp_path
    if kind == "file":
        place = tmp_path / "lock"
        place.touch()
    one, two = (os.open(place, os.O_RDONLY) for _ in range(2))
    assert try_lock(one) is True
    assert try_lock(two) is False
    os.close(one)
    assert try_lock(two) is True
    os.close(two)


def test_a_disk_without_locks_is_told_from_one_where_it_is_held(tmp_path, monkeypatch):
    def refused(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refused)
    with (tmp_path / "lock").open("w") as file:
        assert try_lock(file.fileno()) is None

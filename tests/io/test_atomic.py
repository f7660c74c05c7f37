import os
import resource
import shutil
import stat
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from weigher.errors import RequestError, WeigherError
from weigher.io.atomic import writing

SMALL = 256 * 1024


@pytest.fixture(params=["limit", "tmpfs"])
def small_disk(request, tmp_path):
    """A folder that holds at most 256 KiB: a real small file system where we may mount one, else a file-size limit."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", str(folder)]
    may_mount = request.param == "tmpfs" and shutil.which("mount") and os.geteuid() == 0
    if may_mount and subprocess.run(mount, capture_output=True, check=False).returncode == 0:
        yield folder
        subprocess.run(["umount", str(folder)], check=True)
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, hard))
    yield folder
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def contents(folder: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in folder.iterdir()}


def test_bytes_and_text_arrive(tmp_path):
    with writing(tmp_path / "a.bin") as file:
        file.write(b"\x00\xff")
    with writing(tmp_path / "b.txt", "w") as file:
        file.write("Zoë\r\nñ\n")
    assert contents(tmp_path) == {"a.bin": b"\x00\xff", "b.txt": "Zoë\r\nñ\n".encode()}


def test_folder_is_made_and_long_names_fit(tmp_path):
    path = tmp_path / "new" / "deep" / ("x" * 250 + ".txt")
    with writing(path, "w") as file:
        file.write("1")
    assert path.read_text() == "1"


def test_nothing_stands_at_the_path_before_the_block_ends(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with writing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
        (hidden,) = [entry for entry in tmp_path.iterdir() if entry != path]
        assert hidden.parent == path.parent  # the same file system, so that the rename is one step
    assert contents(tmp_path) == {"a": b"new"}


@pytest.mark.parametrize("fault", [ValueError("bad"), KeyboardInterrupt(), SystemExit(3), FileNotFoundError("other")])
@pytest.mark.parametrize("mode", ["wb", "w"])
def test_a_failing_block_keeps_the_old_file_and_its_own_exception(tmp_path, fault, mode):
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def write_half():
        with writing(path, mode) as file:
            file.write(b"half" if mode == "wb" else "half")
            raise fault

    with pytest.raises(type(fault)) as caught:
        write_half()
    assert caught.value is fault
    assert contents(tmp_path) == {"a": b"old"}


def save_plain(file):
    file.write(bytes(2 * SMALL))


def save_in_drops(file):
    for _ in range(2 * SMALL // 64):
        file.write(bytes(64))


def save_torch(file):
    torch.save({"x": torch.rand(SMALL)}, file)


def save_npz(file):
    np.savez(file, x=np.random.default_rng(0).random(SMALL))


def save_hiding_the_cause(file):
    try:
        file.write(bytes(2 * SMALL))
    except OSError:
        raise RuntimeError("writer failed") from None


def save_to_the_last_byte_of_the_buffer(file):
    file.write(bytes(SMALL))
    file.write(b"one more, still in the buffer when the block ends")


WRITERS = [
    save_plain,
    save_in_drops,
    save_torch,
    save_npz,
    save_hiding_the_cause,
    save_to_the_last_byte_of_the_buffer,
]


@pytest.mark.parametrize("save", WRITERS, ids=lambda save: save.__name__)
def test_full_disk_keeps_the_old_file_and_says_so(small_disk, save):
    path = small_disk / "last.ckpt"
    path.write_bytes(b"good")
    with pytest.raises(WeigherError, match="disk is full") as caught, writing(path) as file:
        save(file)
    assert str(path) in str(caught.value)
    assert not isinstance(caught.value, RequestError)  # the work failed (exit 1); the request was right
    assert contents(small_disk) == {"last.ckpt": b"good"}
    with writing(path) as file:  # the space was given back
        file.write(bytes(SMALL // 2))
    assert path.stat().st_size == SMALL // 2


def test_full_disk_in_text_mode(small_disk):
    with pytest.raises(WeigherError, match="disk is full"), writing(small_disk / "a.csv", "w") as file:
        file.write("x" * 2 * SMALL)
    assert contents(small_disk) == {}


def test_other_errors_of_the_block_are_not_called_a_full_disk(tmp_path):
    with pytest.raises(RuntimeError, match=r"^mine$"), writing(tmp_path / "a"):
        raise RuntimeError("mine")


def test_a_folder_a_device_and_a_file_as_folder_are_refused(tmp_path):
    with pytest.raises(RequestError, match="a folder"), writing(tmp_path):
        pass
    with pytest.raises(RequestError, match="a device"), writing("/dev/null"):
        pass
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="cannot write"), writing(tmp_path / "file" / "a"):
        pass
    with pytest.raises(ValueError, match="'wb'"):
        writing(tmp_path / "a", "a")


def test_a_symbolic_link_survives_and_its_target_is_replaced(tmp_path):
    real = tmp_path / "real"
    real.write_text("old")
    link = tmp_path / "link"
    link.symlink_to(real)
    with writing(link, "w") as file:
        file.write("new")
    assert link.is_symlink()
    assert real.read_text() == "new"


def test_permissions_are_those_of_the_old_file_or_of_any_new_file(tmp_path):
    old, new, plain = tmp_path / "old", tmp_path / "new", tmp_path / "plain"
    old.write_text("")
    old.chmod(0o640)
    plain.write_text("")
    for path in (old, new):
        with writing(path):
            pass
    assert stat.S_IMODE(old.stat().st_mode) == 0o640
    assert new.stat().st_mode == plain.stat().st_mode


def test_writers_at_the_same_time_leave_one_whole_file(tmp_path):
    path = tmp_path / "a"

    def write(letter: bytes):
        for _ in range(20):
            with writing(path) as file:
                file.write(letter * 5000)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in (b"x", b"y")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert contents(tmp_path)["a"] in (b"x" * 5000, b"y" * 5000)
    assert len(contents(tmp_path)) == 1


def test_the_bytes_are_on_the_disk_before_the_name_is_taken(tmp_path, monkeypatch):
    steps = []
    sync, rename = os.fsync, os.replace

    def watched_sync(descriptor):
        steps.append(("sync", os.fstat(descriptor).st_size if stat.S_ISREG(os.fstat(descriptor).st_mode) else "folder"))
        sync(descriptor)

    def watched_rename(source, target):
        steps.append(("rename", Path(target).name))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", watched_sync)
    monkeypatch.setattr(os, "replace", watched_rename)
    with writing(tmp_path / "a", "w") as file:
        file.write("12345")
    assert steps == [("sync", 5), ("rename", "a"), ("sync", "folder")]

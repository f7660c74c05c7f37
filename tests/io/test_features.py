import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from weigher.errors import RequestError
from weigher.io.features import Features, load_arrays, read_features, write_features

GOOD = np.arange(12, dtype=np.float32).reshape(4, 3)


@given(
    values=arrays(np.float32, array_shapes(min_dims=2, max_dims=2), elements=st.floats(-(2.0**99), 2.0**99, width=32)),
    hop_seconds=st.floats(1e-4, 10),
)
@settings(max_examples=30, deadline=None)
def test_what_is_written_is_read_back(tmp_path_factory, values, hop_seconds):
    path = tmp_path_factory.getbasetemp() / "round.npz"
    write_features(path, Features(values, hop_seconds))
    back = read_features(path)
    assert back.values.dtype == np.float32
    assert np.array_equal(back.values, values)
    assert back.hop_seconds == hop_seconds


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_of_any_width(tmp_path, dtype):
    np.savez_compressed(tmp_path / "a.npz", features=GOOD.astype(dtype), hop_seconds=0.02)
    assert np.array_equal(read_features(tmp_path / "a.npz").values, GOOD)


def test_int8_is_multiplied_by_its_scale(tmp_path):
    stored = np.array([[-128, 0], [1, 127]], np.int8)
    np.savez(tmp_path / "a.npz", features=stored, scale=np.float32(0.25), hop_seconds=0.02)
    assert np.array_equal(read_features(tmp_path / "a.npz").values, [[-32, 0], [0.25, 31.75]])


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"features": GOOD}, "holds features; it also needs hop_seconds"),
        ({"hop_seconds": 0.1, "x": 1}, "it also needs features"),
        ({"features": GOOD[0], "hop_seconds": 0.1}, r"shape \(3,\)"),
        ({"features": GOOD[None], "hop_seconds": 0.1}, r"shape \(1, 4, 3\)"),
        ({"features": GOOD[:0], "hop_seconds": 0.1}, "not empty"),
        ({"features": GOOD[:, :0], "hop_seconds": 0.1}, "not empty"),
        ({"features": GOOD.astype(np.int8), "hop_seconds": 0.1}, "needs the number `scale`"),
        ({"features": GOOD.astype(np.int8), "hop_seconds": 0.1, "scale": 0.0}, "scale is"),
        ({"features": GOOD.astype(np.int8), "hop_seconds": 0.1, "scale": [1.0, 2.0]}, "scale is"),
        ({"features": GOOD.astype(np.int8), "hop_seconds": 0.1, "scale": 3e38}, "NaN or infinity"),
        ({"features": GOOD.astype(np.int64), "hop_seconds": 0.1}, "type int64"),
        ({"features": GOOD.astype(str), "hop_seconds": 0.1}, "type <U"),
        ({"features": GOOD + 1j, "hop_seconds": 0.1}, "type complex"),
        ({"features": GOOD, "hop_seconds": 0.0}, "hop_seconds is"),
        ({"features": GOOD, "hop_seconds": np.nan}, "hop_seconds is"),
        ({"features": GOOD, "hop_seconds": np.inf}, "hop_seconds is"),
        ({"features": GOOD, "hop_seconds": [0.1]}, "hop_seconds is"),
        ({"features": GOOD, "hop_seconds": "0.1"}, "hop_seconds is"),
        ({"features": np.where(GOOD == 7, np.nan, GOOD), "hop_seconds": 0.5}, r"in frame 2 \(1.000 s\)"),
        ({"features": np.where(GOOD == 11, 1e300, GOOD.astype(float)), "hop_seconds": 0.5}, r"in frame 3 \(1.500 s\)"),
    ],
)
def test_wrong_contents_are_named(tmp_path, arrays, match):
    path = tmp_path / "a.npz"
    np.savez(path, **arrays)
    with pytest.raises(RequestError, match=match) as caught:
        read_features(path)
    assert str(path) in str(caught.value)


def test_what_is_no_array_in_the_archive_is_named(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, features=GOOD)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("hop_seconds.npy", b"half a second")
    with pytest.raises(RequestError, match="hop_seconds is no array"):
        read_features(path)


class Trap:
    """Marks the disk when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (type(self.mark).touch, (self.mark,))


def test_pickles_are_never_loaded(tmp_path):
    mark = tmp_path / "unpickled"
    np.savez(tmp_path / "a.npz", features=np.array([Trap(mark)], object), hop_seconds=0.1)
    np.array([Trap(mark)], object).dump(tmp_path / "b.npz")
    for name in ("a.npz", "b.npz"):
        with pytest.raises(RequestError, match="without pickles"):
            read_features(tmp_path / name)
    assert not mark.exists()


def test_a_file_that_may_not_be_read_says_so(tmp_path, monkeypatch):
    write_features(tmp_path / "a.npz", Features(np.ones((3, 2), np.float32), 0.01))

    def refused(*given):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", refused)
        with pytest.raises(RequestError, match=r"a\.npz cannot be read \(Permission denied\)"):
            read_features(tmp_path / "a.npz")


def test_no_npz_at_all(tmp_path):
    with pytest.raises(RequestError, match="does not exist"):
        read_features(tmp_path / "none.npz")
    with pytest.raises(RequestError, match="not a file"):
        read_features(tmp_path)
    np.save(tmp_path / "lone.npy", GOOD)
    for name, content in [("0.npz", b""), ("text.npz", b"words"), ("lone.npz", (tmp_path / "lone.npy").read_bytes())]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RequestError, match=r"cannot be read as \.npz"):
            read_features(tmp_path / name)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_files_are_refused_or_read_but_nothing_else(tmp_path, save):
    path = tmp_path / "a.npz"
    save(path, features=np.random.default_rng(0).standard_normal((8, 3)), hop_seconds=0.1)
    content = path.read_bytes()
    rng = np.random.default_rng(1)
    refused = 0
    for trial in range(300):
        damaged = bytearray(content)
        if trial % 2:
            damaged = damaged[: rng.integers(len(content))]
        else:
            damaged[rng.integers(len(content))] ^= rng.integers(1, 256)
        path.write_bytes(damaged)
        try:
            read_features(path)
        except RequestError:
            refused += 1
    assert refused > 150  # all cut files at least


def test_what_cannot_be_read_back_is_not_written(tmp_path):
    path = tmp_path / "a.npz"
    write_features(path, Features(GOOD, 0.1))
    before = path.read_bytes()
    for values, hop in [(GOOD[0], 0.1), (GOOD[:0], 0.1), (GOOD * np.nan, 0.1), (GOOD, 0), (GOOD, np.nan)]:
        with pytest.raises(RequestError, match=r"a\.npz"):
            write_features(path, Features(values, hop))
    with pytest.raises(RequestError, match=r"end in \.npz"):
        write_features(tmp_path / "a.wav", Features(GOOD, 0.1))
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_optional_arrays_are_absent_where_they_are_not_there(tmp_path):
    np.savez(tmp_path / "a.npz", x=1, y=2)
    assert set(load_arrays(tmp_path / "a.npz", ("x",), optional=("y", "z"))) == {"x", "y"}

"""What a set is made of, told by names; images of folders and files, and what is refused of them."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from weigher.errors import RequestError
from weigher.io.unlabelled import holdings, kind_of, read_unlabelled_images


def drawn(path, shape=(6, 7), value=9):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(shape, value, np.uint8)).save(path)


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["sub/a.WAV", "cover.png"], "recordings"),
        (["a.npz"], "recordings"),
        (["cat/a.png", "notes.txt"], "images"),
        (["a.JPG"], "images"),
        ([".hidden.wav", "a.png"], "images"),
        (["a.png", "labels.mat"], "images"),
        (["a.oga"], "recordings"),
    ],
)
def test_a_folder_is_what_lies_in_it(tmp_path, names, kind):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert kind_of(tmp_path) == kind


def test_a_file_is_told_by_its_name_and_arrays(tmp_path):
    for name, arrays in {"x": {"x": np.ones(3)}, "features": {"features": np.ones((2, 2))}}.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
    (tmp_path / "cast.csv").touch()
    (tmp_path / "images.parquet").touch()
    told = {path.name: kind_of(path) for path in tmp_path.iterdir()}
    images, recordings = ("x.npz", "images.parquet"), ("features.npz", "cast.csv")
    assert told == {**dict.fromkeys(images, "images"), **dict.fromkeys(recordings, "recordings")}
    with pytest.raises(RequestError, match="does not exist"):
        kind_of(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match="no audio, no features"):
        kind_of(tmp_path / "empty")
    drawn(tmp_path / "one.png")
    with pytest.raises(RequestError, match="is one image; at least two"):
        kind_of(tmp_path / "one.png")
    (tmp_path / "empty" / "more").symlink_to(tmp_path)
    with pytest.raises(RequestError, match=r"links to folders are not followed: .*more"):
        kind_of(tmp_path / "empty")
    (tmp_path / "set").mkdir()
    np.savez(tmp_path / "set" / "a.npz", images=np.ones((3, 2, 2)))
    with pytest.raises(RequestError, match="is a set of images by itself; give this file"):
        kind_of(tmp_path / "set")


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    def refused(place):
        raise PermissionError(13, "Permission denied", str(place))

    monkeypatch.setattr("os.scandir", refused)
    for look in (kind_of, holdings):
        with pytest.raises(RequestError, match=r"cannot list .*Permission denied"):
            look(tmp_path)


def test_a_folder_of_folders_has_labels_and_one_of_files_has_none(tmp_path):
    drawn(tmp_path / "cat" / "a.png", value=0)
    drawn(tmp_path / "dog" / "deep" / "b.png", value=51)
    drawn(tmp_path / "dog" / "c.png", shape=(6, 7, 3), value=255)
    images = read_unlabelled_images(tmp_path)
    assert images.values.shape == (3, 3, 6, 7)  # one is in colour, so all are
    assert images.values[:, 0, 0, 0].tolist() == pytest.approx([0, 1, 0.2])
    assert images.labels.tolist() == ["cat", "dog", "dog"]
    assert images.skipped == ()
    drawn(tmp_path / "loose.png")
    mixed = read_unlabelled_images(tmp_path)
    assert mixed.labels is None
    assert len(mixed.skipped) == 1
    assert "names as labels, since" in mixed.skipped[0]
    assert "loose.png lies in none of them" in mixed.skipped[0]
    drawn(tmp_path / "cat" / "tall.png", shape=(8, 7))
    with pytest.raises(RequestError, match=r"loose\.png has 7 x 6 pixels and .*tall\.png 7 x 8"):
        read_unlabelled_images(tmp_path)


def test_a_broken_image_is_left_out_and_a_folder_of_nothing_else_refused(tmp_path):
    drawn(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:30])
    images = read_unlabelled_images(tmp_path)
    assert images.values.shape == (1, 1, 6, 7)
    assert "b.png cannot be read" in images.skipped[0]
    (tmp_path / "a.png").unlink()
    with pytest.raises(RequestError, match=r"no image of .*b\.png"):
        read_unlabelled_images(tmp_path)


@pytest.mark.parametrize(
    ("given", "expected", "scale"),
    [
        (np.array([0, 51, 255], np.uint8), [0, 0.2, 1], (0, 255)),
        (np.array([0.0, 0.25, 0.5]), [0, 0.25, 0.5], (0, 1)),
        (np.array([0, 4, 16]), [0, 0.25, 1], (0, 16)),
        (np.array([-1.0, 0.0, 1.0]), [0, 0.5, 1], (-1, 1)),
        (np.array([False, True, True]), [0, 1, 1], (0, 1)),
        (np.array([7.0, 7.0, 7.0]), [0, 0, 0], (7, 7)),
    ],
)
def test_numbers_end_between_0_and_1_and_it_is_told_from_where(tmp_path, given, expected, scale):
    np.savez(tmp_path / "x.npz", x=np.tile(given[:, None, None], (1, 2, 3)))
    images = read_unlabelled_images(tmp_path / "x.npz")
    assert images.values[:, 0, 0, 0].tolist() == pytest.approx(expected)
    assert images.values.dtype == np.float32
    assert images.labels is None
    assert images.scale == scale


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((2, 6, 7), (2, 1, 6, 7)),
        ((2, 6, 7, 1), (2, 1, 6, 7)),
        ((2, 6, 7, 4), (2, 4, 6, 7)),
        ((2, 1, 6, 7), (2, 1, 6, 7)),
        ((2, 3, 6, 7), (2, 3, 6, 7)),
        ((2, 3, 6, 3), (2, 3, 3, 6)),  # the last axis is asked first
    ],
)
def test_colours_stand_last_or_where_that_cannot_be_second(tmp_path, shape, expected):
    given = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    np.savez(tmp_path / "x.npz", x=given)
    read = read_unlabelled_images(tmp_path / "x.npz").values
    assert read.shape == expected
    told = given[:, None] if len(shape) == 3 else given if expected == shape else given.transpose(0, 3, 1, 2)
    assert np.array_equal(read, told.astype(np.float32) / 255)


def test_labels_beside_images_are_kept(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 4, 5, 3), np.uint8), labels=["cat", "dog"])
    images = read_unlabelled_images(tmp_path / "a.npz")
    assert images.values.shape == (2, 3, 4, 5)
    assert images.labels.tolist() == ["cat", "dog"]


@pytest.mark.parametrize("labels", [np.array([0.5, 1.5]), np.arange(3)])
def test_labels_of_no_use_stop_nothing(tmp_path, labels):
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 4, 5), np.uint8), labels=labels)
    images = read_unlabelled_images(tmp_path / "a.npz")
    assert images.labels is None
    assert images.skipped[0].startswith("labels: ")


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"y": np.ones(3)}, "neither images nor x"),
        ({"x": np.ones((3, 8))}, "needed are numbers"),
        ({"x": np.ones((0, 8, 8))}, "needed are numbers"),
        ({"x": np.array([[["a"]]])}, "needed are numbers"),
        ({"x": np.full((2, 3, 3), np.nan)}, "NaN"),
        ({"x": np.full((2, 3, 3), 1e300)}, "beyond float32"),
        ({"x": np.ones((2, 8, 8, 8))}, r"\[2, 8, 8, 8\] no axis can be one of colours"),
    ],
)
def test_arrays_that_are_no_images(tmp_path, arrays, said):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(RequestError, match=said):
        read_unlabelled_images(tmp_path / "a.npz")


def test_files_of_images_of_several_sizes_are_refused(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    encoded = []
    for width in (5, 6):
        file = io.BytesIO()
        Image.fromarray(np.zeros((4, width), np.uint8)).save(file, "png")
        encoded.append(file.getvalue())
    parquet.write_table(pyarrow.table({"image": encoded, "label": [0, 1]}), tmp_path / "a.parquet")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as held:
        for index, content in enumerate(encoded):
            held.writestr(f"a/{index}/x.png", content)
    for name in ("a.parquet", "b.zip"):
        with pytest.raises(RequestError, match="sizes"):
            read_unlabelled_images(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "kind", "given", "expected"),
    [
        ("png", np.uint16, [1000, 21000, 41000], [0, 0.5, 1]),
        ("tif", np.dtype(">u2"), [1000, 21000, 41000], [0, 0.5, 1]),
        ("tif", np.int32, [-500, 0, 1500], [0, 0.25, 1]),
        ("tif", np.float32, [0.0, 0.25, 0.5], [0, 0.25, 0.5]),
    ],
)
def test_images_of_more_than_8_bits_are_scaled_as_arrays_are(tmp_path, name, kind, given, expected):
    for index, value in enumerate(given):
        Image.fromarray(np.full((3, 4), value, kind)).save(tmp_path / f"{index}.{name}")
    images = read_unlabelled_images(tmp_path)
    assert images.skipped == ()
    assert images.values.shape == (3, 1, 3, 4)
    assert images.values[:, 0, 0, 0].tolist() == pytest.approx(expected)


def test_images_of_several_depths_have_no_common_scale(tmp_path):
    drawn(tmp_path / "a.png")
    Image.fromarray(np.full((6, 7), 9, np.uint16)).save(tmp_path / "b.png")
    with pytest.raises(RequestError, match=r"a\.png holds uint8 and .*b\.png uint16 values.*of one type"):
        read_unlabelled_images(tmp_path)

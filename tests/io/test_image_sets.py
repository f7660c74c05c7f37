"""Sets of labelled images: parquet, arrays, zips of drawings; and files that are none."""

import io
import zipfile
from decimal import Decimal

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from weigher.errors import RequestError
from weigher.io.image_sets import read_drawings, read_images


def png(pixels):
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "PNG")
    return held.getvalue()


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (5, 8, 6, 3), np.uint8)


@pytest.mark.parametrize("nested", [False, True])
def test_parquet_holds_encoded_images_plain_or_as_hugging_face_writes_them(tmp_path, pixels, nested):
    encoded = [png(p) for p in pixels]
    column = [{"bytes": e, "path": None} for e in encoded] if nested else encoded
    pyarrow.parquet.write_table(pyarrow.table({"image": column, "label": [3, 1, 4, 1, 5]}), tmp_path / "a.parquet")
    images, labels = read_images(tmp_path / "a.parquet")
    assert np.array_equal(images, pixels)
    assert labels.tolist() == [3, 1, 4, 1, 5]
    assert labels.dtype == np.int64
    images, labels = read_images(tmp_path / "a.parquet", most=2)
    assert np.array_equal(images, pixels[:2])
    assert labels.tolist() == [3, 1]


def test_arrays_hold_grey_or_coloured_images(tmp_path, pixels):
    for name, array in (("grey", pixels[..., 0]), ("colour", pixels)):
        np.savez(tmp_path / f"{name}.npz", images=array, labels=np.arange(5, dtype=np.uint8))
    images, labels = read_images(tmp_path / "grey.npz")
    assert np.array_equal(images, pixels[..., :1])
    assert labels.dtype == np.int64
    assert np.array_equal(read_images(tmp_path / "colour.npz", most=3)[0], pixels[:3])


def test_drawings_are_ink_by_alphabet_and_character(tmp_path):
    rng = np.random.default_rng(0)
    ink = rng.random((4, 9, 9)) < 0.2
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as held:
        for place, drawing in enumerate(ink):
            name = f"background/{'Greek' if place < 2 else 'Latin'}/character01/{place}.png"
            held.writestr(name, png(255 * (~drawing).astype(np.uint8)))
        held.writestr("__MACOSX/background/Greek/._0.png", b"not an image")
    found = read_drawings(tmp_path / "a.zip")
    assert list(found) == ["Greek/character01", "Latin/character01"]
    assert np.array_equal(found["Latin/character01"], ink[2:])


def test_files_that_are_none_are_refused(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"]}), tmp_path / "texts.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"image": [b"no"], "label": [0]}), tmp_path / "no-image.parquet")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    (tmp_path / "broken.parquet").write_bytes(b"no")
    (tmp_path / "broken.zip").write_bytes(b"no")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as held:
        held.writestr("readme.txt", "nothing")
    for wrong, say in (
        (lambda: read_images(tmp_path / "none.npz"), "does not exist"),
        (lambda: read_images(tmp_path / "other.npz"), "needed are images and labels"),
        (lambda: read_images(tmp_path / "texts.parquet"), "needed are image and label"),
        (lambda: read_images(tmp_path / "broken.parquet"), "damaged"),
        (lambda: read_images(tmp_path / "no-image.parquet"), "row 0 cannot be read as an image .of no known kind"),
        (lambda: read_images(tmp_path / "empty.zip"), r"\.parquet or \.npz"),
        (lambda: read_drawings(tmp_path / "none.zip"), "does not exist"),
        (lambda: read_drawings(tmp_path / "broken.zip"), "damaged"),
        (lambda: read_drawings(tmp_path / "empty.zip"), "holds no"),
    ):
        with pytest.raises(RequestError, match=say):
            wrong()


def truncated(content):
    """A PNG whose first chunk says that it is longer than the file."""
    return content[:8] + b"\xff" + content[9:]


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (truncated, "row 1 cannot be read as an image"),
        (lambda content: content[:40], "row 1 cannot be read as an image"),
        (lambda content: None, "row 1 holds None; needed are the bytes"),
        (lambda content: {"bytes": None, "path": "a.png"}, "row 1 holds None; needed are the bytes"),
    ],
)
def test_the_row_of_a_broken_image_is_named(tmp_path, pixels, image, says):
    good = png(pixels[0])
    broken = image(good)
    rows = [{"bytes": good, "path": None}, broken, broken] if isinstance(broken, dict) else [good, broken, broken]
    pyarrow.parquet.write_table(pyarrow.table({"image": rows, "label": [1, 2, 3]}), tmp_path / "a.parquet")
    with pytest.raises(RequestError, match=says):
        read_images(tmp_path / "a.parquet")


def test_a_column_of_words_is_no_column_of_images(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"image": ["a.png"], "label": [1]}), tmp_path / "a.parquet")
    with pytest.raises(RequestError, match=r"row 0 holds 'a\.png'; needed are the bytes of an encoded image"):
        read_images(tmp_path / "a.parquet")


def test_the_member_of_a_zip_that_is_broken_is_named(tmp_path, pixels):
    good = png(pixels[0])
    for name, content, says in (
        ("short", truncated(good), r"a/b/1\.png cannot be read as an image"),
        ("none", b"no", r"a/b/1\.png cannot be read as an image"),
    ):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as held:
            held.writestr("a/b/0.png", good)
            held.writestr("a/b/1.png", content)
        with pytest.raises(RequestError, match=says):
            read_drawings(tmp_path / f"{name}.zip")


def test_a_zip_that_is_damaged_or_encrypted_is_refused(tmp_path, pixels):
    with zipfile.ZipFile(tmp_path / "whole.zip", "w", zipfile.ZIP_DEFLATED) as held:
        held.writestr("a/b/0.png", bytes(5000))
    content = bytearray((tmp_path / "whole.zip").read_bytes())
    first = 30 + len("a/b/0.png")  # where the packed bytes of the first member begin
    (tmp_path / "damaged.zip").write_bytes(content[:first] + b"\xff" * 4 + content[first + 4 :])
    with pytest.raises(RequestError, match="is damaged or no zip file"):
        read_drawings(tmp_path / "damaged.zip")
    content[6] |= 1  # the sign of encryption, in the member and in the directory
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "encrypted.zip").write_bytes(content)
    with pytest.raises(RequestError, match="needed is a zip that is not encrypted"):
        read_drawings(tmp_path / "encrypted.zip")


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ([0.5, 1.9, 3.0], "row 0 holds 0.5, row 1 holds 1.9, row 2 holds 3.0"),
        ([7, None, 9], "row 1 holds None"),
        (["cat", "dog", None], "row 2 holds None"),
        ([7, 8, 12345678901234567890], "row 2 holds 12345678901234567890"),
        ([Decimal(7), Decimal(8), Decimal(9)], r"row 0 holds Decimal"),
        ([[1], [2], [3]], r"row 0 holds \[1\]"),
    ],
)
def test_labels_that_are_neither_whole_numbers_nor_words_are_refused_with_their_rows(tmp_path, pixels, labels, says):
    column = pyarrow.array(labels, pyarrow.uint64()) if labels[-1] == 12345678901234567890 else labels
    table = pyarrow.table({"image": [png(each) for each in pixels[:3]], "label": column})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(RequestError, match=says):
        read_images(tmp_path / "a.parquet")


def test_words_stay_words_and_arrays_are_held_to_the_same(tmp_path, pixels):
    np.savez(tmp_path / "words.npz", images=pixels, labels=list("abcde"))
    assert read_images(tmp_path / "words.npz")[1].tolist() == list("abcde")
    np.savez(tmp_path / "floats.npz", images=pixels, labels=np.linspace(0, 1, 5))
    with pytest.raises(RequestError, match=r"row 0 holds 0\.0, row 1 holds 0\.25"):
        read_images(tmp_path / "floats.npz")
    np.savez(tmp_path / "large.npz", images=pixels, labels=np.arange(5, dtype=np.uint64) + 2**63 - 1)
    with pytest.raises(RequestError, match="row 1 holds 9223372036854775808"):
        read_images(tmp_path / "large.npz")


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_images_of_more_than_8_bits_are_refused_and_not_made_white(tmp_path, kind):
    held = io.BytesIO()
    Image.fromarray(np.full((4, 5), 300, kind)).save(held, "TIFF")
    pyarrow.parquet.write_table(
        pyarrow.table({"image": [png(np.zeros((4, 5), np.uint8)), held.getvalue()], "label": [0, 1]}),
        tmp_path / "deep.parquet",
    )
    with pytest.raises(RequestError, match=r"row 1 holds an image of mode .* more than 8 bits"):
        read_images(tmp_path / "deep.parquet")
    with zipfile.ZipFile(tmp_path / "deep.zip", "w") as zipped:
        zipped.writestr("all/Greek/alpha/0.png", held.getvalue())
    with pytest.raises(RequestError, match=r"all/Greek/alpha/0\.png holds an image of mode .* more than 8 bits"):
        read_drawings(tmp_path / "deep.zip")

"""Labelled examples from files, with the labels that are there or others."""

import io

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from weigher.errors import RequestError
from weigher.io.labelled_data import read_labelled


def test_both_names_of_arrays_and_labels_of_whole_numbers_or_words(tmp_path):
    x, y = np.arange(12.0).reshape(4, 3), np.array([3, -1, 3, 0])
    np.savez(tmp_path / "xy.npz", x=x, y=y)
    np.savez(tmp_path / "images.npz", images=np.ones((4, 5, 6), np.uint8), labels=np.array(["a", "b", "a", "b"]))
    np.savez(tmp_path / "bare.npz", x=x)
    found = read_labelled(tmp_path / "xy.npz")
    assert np.array_equal(found.x, x)
    assert np.array_equal(found.labels, y)
    assert read_labelled(tmp_path / "images.npz").x.shape == (4, 5, 6)
    (tmp_path / "numbers.txt").write_text("7\n-2\n7\n0\n")
    (tmp_path / "words.txt").write_text("7\ncat\n 7 \n0")
    numbers = read_labelled(tmp_path / "xy.npz", tmp_path / "numbers.txt").labels
    assert numbers.dtype == np.int64
    assert numbers.tolist() == [7, -2, 7, 0]
    assert read_labelled(tmp_path / "bare.npz", tmp_path / "words.txt").labels.tolist() == ["7", "cat", "7", "0"]
    with pytest.raises(RequestError, match="needed are x and y"):
        read_labelled(tmp_path / "bare.npz")


def test_what_is_no_text_or_no_numbers_is_told(tmp_path):
    np.savez(tmp_path / "xy.npz", x=np.zeros((2, 3)), y=np.zeros((2, 1), int))
    (tmp_path / "labels.txt").write_bytes(b"\xff\xfe\n")
    with pytest.raises(RequestError, match="is no text in UTF-8"):
        read_labelled(tmp_path / "xy.npz", tmp_path / "labels.txt")
    with pytest.raises(RequestError, match=r"labels are int64 of shape \[2, 1\]"):
        read_labelled(tmp_path / "xy.npz")
    np.savez(tmp_path / "deep.npz", x=np.zeros((2, 1, 1, 1, 1)), y=np.zeros(2, int))
    with pytest.raises(RequestError, match=r"x is float64 of shape \[2, 1, 1, 1, 1\]"):
        read_labelled(tmp_path / "deep.npz")


def test_a_byte_order_mark_makes_no_class_of_its_own(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.zeros((3, 2)))
    (tmp_path / "labels.txt").write_text("cat\ndog\ncat\n", encoding="utf-8-sig")
    assert read_labelled(tmp_path / "x.npz", tmp_path / "labels.txt").labels.tolist() == ["cat", "dog", "cat"]
    (tmp_path / "labels.txt").write_text("3\n1\n3\n", encoding="utf-8-sig")
    assert read_labelled(tmp_path / "x.npz", tmp_path / "labels.txt").labels.tolist() == [3, 1, 3]


def test_numbers_beyond_64_bits_are_words(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.zeros((2, 2)))
    for longest in ("12345678901234567890", "9" * 5000):
        (tmp_path / "labels.txt").write_text(f"{longest}\n1\n")
        assert read_labelled(tmp_path / "x.npz", tmp_path / "labels.txt").labels.tolist() == [longest, "1"]


def test_parquet_with_words_as_labels(tmp_path):
    encoded = io.BytesIO()
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(encoded, "PNG")
    table = pyarrow.table({"image": [encoded.getvalue()] * 3, "label": ["cat", "dog", "cat"]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert read_labelled(tmp_path / "a.parquet").labels.tolist() == ["cat", "dog", "cat"]

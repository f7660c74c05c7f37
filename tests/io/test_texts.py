"""Texts with labels: the three kinds of file say the same, and whatever is wrong is named with its line."""

import csv
import json

import pyarrow
import pyarrow.parquet
import pytest

from weigher.io.texts import read_texts

TEXTS = ['He said "no", twice.', "line one\nline two", "", "naïve 映画 🎬", "x" * 200_000]
LABELS = [0, 1, 0, 1, 1]


def write_csv(path, texts=TEXTS, labels=LABELS, header=("id", "text", "label")):
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows([i, *row] for i, row in enumerate(zip(texts, labels, strict=True)))


def write_json(path, texts=TEXTS, labels=LABELS):
    rows = [json.dumps({"label": label, "text": text, "x": 1}) for text, label in zip(texts, labels, strict=True)]
    path.write_text("\n".join(rows) + "\n\n", encoding="utf-8")


def write_parquet(path, texts=TEXTS, labels=LABELS):
    pyarrow.parquet.write_table(pyarrow.table({"text": texts, "other": texts, "label": labels}), path)


WRITERS = {".csv": write_csv, ".jsonl": write_json, ".ndjson": write_json, ".parquet": write_parquet}


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_kind_of_file_says_the_same(tmp_path, suffix):
    path = tmp_path / f"reviews{suffix}"
    limit = csv.field_size_limit()
    for labels in (LABELS, ["pos", "neg", "pos", "neg", "neg"]):
        WRITERS[suffix](path, labels=labels)
        found = read_texts(path)
        assert found.texts == tuple(TEXTS)
        assert found.labels == tuple(labels)
    assert csv.field_size_limit() == limit


def test_byte_order_marks_blank_lines_and_booleans(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbftext, label\r\n\r\ngood,1\r\nbad, 0\r\n")
    assert read_texts(path).labels == (1, 0)
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "good", "label": true}\n{"text": "bad", "label": false}\n')
    assert read_texts(path).labels == (1, 0)
    path = tmp_path / "b.csv"
    path.write_text("text,label\na,1\nb,one\n")
    assert read_texts(path).labels == ("1", "one")  # all numbers, or none


@pytest.mark.parametrize("labels", [("01", "1"), ("1_0", "10"), ("+1", "1"), ("-0", "0"), ("\u0661", "1")])
def test_labels_of_csv_that_python_alone_takes_for_one_number_are_two_words(tmp_path, labels):
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "".join(f"good,{label}\n" for label in labels), encoding="utf-8")
    assert read_texts(path).labels == labels
    path.write_text("text,label\na,-1\nb,10\n")
    assert read_texts(path).labels == (-1, 10)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"good", "needs to end in .parquet"),
        ("a.csv", b"text,label\ngood,1\nr\xe9sum\xe9,0\n", "line 3: this is not UTF-8"),
        ("a.jsonl", b'{"text": "\xff", "label": 1}', "line 1: this is not UTF-8"),
        ("a.csv", b"", "holds no texts"),
        ("a.csv", b"text,label\n", "holds no texts"),
        ("a.csv", b"review,label\ngood,1\n", "line 1: the columns are review, label; needed are text and label"),
        ("a.csv", b"text,text,label\na,b,1\n", "each once"),
        ("a.csv", b"text,label\ngood, well,1\n", "line 2: 3 values where the header has 2"),
        ("a.csv", b'text,label\n"good,1\nbad,0\n', "check its quotes"),
        ("a.csv", b"text,label\ngood,\nbad,0\n", "line 2: the label is ''"),
        ("a.jsonl", b'{"text": "good"}\n', "line 1: the label is None"),
        ("a.jsonl", b'{"text": 5, "label": 1}\n', "line 1: the text is 5"),
        ("a.jsonl", b'{"text": "a", "label": 0.5}\n', "line 1: the label is 0.5"),
        ("a.jsonl", b'{"text": "a", "label": 1}\n{"text": "b", "label": "one"}', "line 2: the label is 'one', and one"),
        ("a.jsonl", b'{"text": "a", "label": 1}\nnot json\n', "line 2: this is no JSON"),
        ("a.jsonl", b"[1, 2]\n", "line 1: needed is"),
        ("a.parquet", b"PAR1 and no more", "damaged or no parquet"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_texts(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_parquet_of_other_columns_missing_values_or_broken_texts(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"review": ["a"], "label": [1]}), path)
    with pytest.raises(ValueError, match="the columns are review, label"):
        read_texts(path)
    write_parquet(path, ["a", None], [1, 0])
    with pytest.raises(ValueError, match="line 2: the text is None"):
        read_texts(path)
    write_parquet(path, ["a", "b"], [0.5, 1.0])
    with pytest.raises(ValueError, match=r"line 1: the label is 0\.5"):
        read_texts(path)
    broken = pyarrow.array([b"good", b"\xff\xfe"]).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"text": broken, "label": [1, 0]}), path)
    with pytest.raises(ValueError, match="not UTF-8"):
        read_texts(path)


def test_many_faults_are_counted(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": null, "label": 1}\n' * 15)
    with pytest.raises(ValueError, match=r"\(15\)(.|\n)*and 5 more"):
        read_texts(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        read_texts(tmp_path / "a.csv")

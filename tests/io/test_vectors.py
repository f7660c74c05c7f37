"""Word vectors: the two usual formats, and every fault with its line."""

import pytest

from weigher.io.vectors import read_vectors


class Any:
    def __contains__(self, word):
        return True


def test_glove_word2vec_and_words_with_blanks(tmp_path):
    path = tmp_path / "v.txt"
    path.write_text("the 0.5 -1e-2\n. . . 1 2\n\nthe 9 9\nÉté 3 4\r\n", encoding="utf-8")
    found = read_vectors(path, Any())
    assert {word: vector.tolist() for word, vector in found.items()} == {
        "the": pytest.approx([0.5, -0.01]),
        ". . .": [1, 2],
        "Été": [3, 4],
    }
    path.write_text("3 2\nthe 0.5 1\n", encoding="utf-8")
    assert read_vectors(path, ["the", "3"]).keys() == {"the"}
    assert read_vectors(path, ["the"])["the"].dtype == "float32"
    path.write_text("the 1 2\nat 5 3 4\nroom 5 5 6\n1 2 7 8\n")  # no words that are asked for, and a number in them
    assert read_vectors(path, ["the", "5"]).keys() == {"the"}
    assert read_vectors(path, ["the", "room 5"])["room 5"].tolist() == [5, 6]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"good 1 2\nbad 1 nan\n", "line 2, word 'bad': the vector holds NaN"),
        (b"good 1 inf\n", "line 1, word 'good'"),
        (b"good 1 1e39\n", "line 1, word 'good': the vector holds NaN or infinity"),  # beyond single precision
        (b"good 1 2\nbad 1 x\n", "line 2, word 'bad': could not convert"),
        (b"good 1 2\nbad 1\n", "line 2: needed is a word and 2 numbers"),
        (b"good\n", "line 1: needed is a word"),
        (b"bad 1 2\ngood 1 2 3\n", "line 2: the word 'good' has 3 numbers, and the first line has 2"),
        (b"bad 1 2\ngood -1e-3 nan 2 3\n", "line 2: the word 'good' has 4 numbers"),
        (b"good 1 2\nb\xe9 1 2\n", "line 2: this is not UTF-8"),
        (b"gut 1 2\n", "none of the words"),
        (b"", "none of the words"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, content, message):
    path = tmp_path / "v.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_vectors(path, ["good", "bad", "b"])


def test_a_file_that_is_not_there_and_progress(tmp_path):
    path = tmp_path / "v.txt"
    with pytest.raises(ValueError, match="does not exist"):
        read_vectors(path, ["a"])
    path.write_text("a 1\n" * 20_001)
    told = []
    read_vectors(path, ["a"], progress=lambda *args: told.append(args))
    assert told == [("vectors", 40_000, 80_004), ("vectors", 80_000, 80_004), ("vectors", 80_004, 80_004)]

"""`weigher examples aum`: wrong labels of features and of images are found; what cannot be used is told."""

import csv
import json
import zipfile

import numpy as np
import pytest

from weigher.cli.main import main

WRONG = (3, 20, 41)


def examples(*arguments):
    return main(["examples", "aum", *(str(argument) for argument in arguments)])


@pytest.fixture(scope="module")
def clouds(tmp_path_factory):
    """Three clouds by name, three examples of which bear the name of another one."""
    rng, names = np.random.default_rng(0), np.array(["ant", "bee", "cow"])
    truth = np.arange(90) % 3
    x = rng.normal(0, 0.5, (90, 4)) + 4 * np.eye(4)[truth]
    given = truth.copy()
    given[list(WRONG)] = (truth[list(WRONG)] + 1) % 3
    path = tmp_path_factory.mktemp("clouds") / "clouds.npz"
    np.savez(path, x=x, y=names[given])
    (path.parent / "right.txt").write_text("\n".join(names[truth]) + "\n")
    return path


def test_wrong_labels_come_first_with_what_they_are_taken_for(clouds, capsys):
    assert examples(clouds, "--json", "--quiet", "--top", 5) == 0
    told = json.loads(capsys.readouterr().out)
    first = told["suspects"][:3]
    assert sorted(row["example"] for row in first) == list(WRONG)
    assert [row["rank"] for row in told["suspects"]] == [1, 2, 3, 4, 5]
    for row in first:
        assert row["taken_for"] == told["classes"][row["example"] % 3]
        assert row["label"] == told["classes"][(row["example"] + 1) % 3]
        assert row["likely"]
        assert row["aum"] < 0
    assert told["examples"] == 90
    assert len(told["cut_offs"]) == 2
    assert 3 <= told["flagged"] < 20


def test_the_whole_ranking_is_written_and_the_rest_drawn(clouds, tmp_path, capsys):
    out, picture = tmp_path / "suspects.csv", tmp_path / "suspects.png"
    assert examples(clouds, "--out", out, "--picture", picture, "--top", 2, "--quiet", "--epochs", 5) == 0
    shown = capsys.readouterr().out
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["rank"]) for row in rows] == list(range(1, 91))
    assert [float(row["aum"]) for row in rows] == sorted(float(row["aum"]) for row in rows)
    flagged = sum(row["likely"] == "yes" for row in rows)
    assert f"{flagged} of 90 labels are likely wrong" in shown
    assert "taken for" in shown
    assert picture.stat().st_size > 10_000


@pytest.mark.parametrize("how", [("--json",), ()])
def test_the_ranking_is_told_before_anything_is_drawn(clouds, tmp_path, capsys, monkeypatch, how):
    def broken(*arguments, **settings):
        raise OSError("no space left on the device")

    monkeypatch.setattr("weigher.plot.margins.margins_picture", broken)
    out = tmp_path / "suspects.csv"
    arguments = (clouds, "--out", out, "--picture", tmp_path / "p.png", "--quiet", "--epochs", 3, *how)
    assert examples(*arguments) == 1
    told = capsys.readouterr()
    assert "no space left" in told.err
    assert len(out.read_text().splitlines()) == 91
    assert json.loads(told.out)["examples"] == 90 if how else "of 90 labels are likely wrong" in told.out


def test_labels_and_files_may_hold_what_looks_like_a_formula(tmp_path, capsys):
    rng, labels = np.random.default_rng(0), np.array(["$100_$", "b"])[np.arange(40) % 2]
    images = rng.integers(0, 60, (40, 8, 8)) + 150 * (labels == "b")[:, None, None]
    np.savez(tmp_path / "$100_$.npz", images=images.astype(np.uint8), labels=labels)
    picture = tmp_path / "p.svg"
    assert examples(tmp_path / "$100_$.npz", "--json", "--quiet", "--epochs", 2, "--picture", picture) == 0
    assert picture.stat().st_size > 10_000
    assert json.loads(capsys.readouterr().out)["classes"] == ["$100_$", "b"]


def test_labels_from_a_file_are_judged_instead(clouds, capsys):
    assert examples(clouds, "--labels", clouds.parent / "right.txt", "--json", "--quiet") == 0
    told = json.loads(capsys.readouterr().out)
    assert all(row["aum"] > 0 for row in told["suspects"])


def test_the_same_seed_says_the_same(clouds, capsys):
    said = []
    for seed in (1, 1, 2):
        assert examples(clouds, "--json", "--quiet", "--epochs", 3, "--seed", seed) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] != said[2]


def test_colour_images_are_learned_and_drawn(tmp_path, capsys):
    rng = np.random.default_rng(0)
    labels = np.arange(48) % 2
    images = rng.integers(0, 60, (48, 16, 16, 3))
    images[labels == 1, :, :8] += 150
    labels[10] = 1
    np.savez(tmp_path / "halves.npz", images=images.astype(np.uint8), labels=labels)
    settings = ("--json", "--quiet", "--width", 4, "--epochs", 8, "--picture", tmp_path / "p.svg", "--augment", "shift")
    settings += ("--network", "residual")
    assert examples(tmp_path / "halves.npz", *settings) == 0
    first = json.loads(capsys.readouterr().out)["suspects"][0]
    assert (first["example"], first["label"], first["taken_for"]) == (10, 1, 0)
    assert (tmp_path / "p.svg").stat().st_size > 10_000


def test_drawings_bear_the_names_of_their_folders(tmp_path, capsys):
    import io

    from PIL import Image

    with zipfile.ZipFile(tmp_path / "drawings.zip", "w") as held:
        for place in range(24):
            pixels = np.full((8, 8), 255, np.uint8)
            pixels[:, place % 2 * 4 : place % 2 * 4 + 3] = 0
            image = io.BytesIO()
            Image.fromarray(pixels).save(image, "PNG")
            held.writestr(f"set/Latin/{'ab'[place % 2]}/{place:02}.png", image.getvalue())
    assert examples(tmp_path / "drawings.zip", "--json", "--quiet", "--epochs", 3) == 0
    assert json.loads(capsys.readouterr().out)["classes"] == ["Latin/a", "Latin/b"]


def test_wrong_requests_are_told_before_anything_is_learned(clouds, tmp_path, capsys):
    def kept(name, **arrays):
        np.savez(tmp_path / name, **arrays)
        return tmp_path / name

    x, y = np.zeros((6, 2)), np.arange(6) % 2
    short, gap = tmp_path / "short.txt", tmp_path / "gap.txt"
    short.write_text("0\n1\n")
    gap.write_text("0\n\n1\n")
    (tmp_path / "data.csv").write_text("1,2\n")
    (tmp_path / "broken.npz").write_bytes(b"nothing")
    for arguments, said in (
        ((tmp_path / "none.npz",), "does not exist"),
        ((tmp_path / "data.csv",), "needed is .npz, .parquet or .zip"),
        ((tmp_path / "broken.npz",), "cannot be read as .npz"),
        ((kept("bare.npz", x=x),), "needed are x and y"),
        ((kept("real.npz", x=x, y=y / 2),), "labels are float64"),
        ((kept("words.npz", x=y.astype(str), y=y),), "needed are numbers"),
        ((kept("less.npz", x=x, y=y[:5]),), "holds 6 examples"),
        ((kept("one.npz", x=x, y=y * 0),), "two classes or more"),
        ((kept("few.npz", x=x[:2], y=y[:2]),), "cannot give 2 disjoint sets"),
        ((kept("nan.npz", x=x + np.where(y == 1, np.nan, 0)[:, None], y=y),), "example 1 holds NaN"),
        ((clouds, "--labels", short), "2 labels"),
        ((clouds, "--labels", gap), "line 2 is empty"),
        ((clouds, "--labels", tmp_path / "none.txt"), "none.txt does not exist"),
        ((clouds, "--top", 0), "--top 0"),
        ((clouds, "--epochs", 0), "epochs = 0"),
        ((clouds, "--percentile", 101), "--percentile 101"),
        ((clouds, "--picture", tmp_path / "p.doc"), "needs to end in .png"),
        ((clouds, "--picture", tmp_path / "none" / "p.png"), "the folder does not exist"),
        ((clouds, "--out", tmp_path), "is a folder; give the name of a file"),
        ((clouds, "--out", clouds / "p.csv"), "clouds.npz is no folder"),
        ((clouds, "--out", clouds.parent / "." / clouds.name), "would replace another file"),
        ((clouds, "--labels", short, "--out", short), "would replace another file"),
        ((clouds, "--out", tmp_path / "p.png", "--picture", tmp_path / "p.png"), "--picture"),
        ((clouds, "--seed", 2**64), "--seed"),
        ((clouds, "--learning-rate", "1e9", "--epochs", 3), "training diverged in epoch"),
    ):
        assert examples(*arguments, "--quiet") == 2, said
        assert said in " ".join(capsys.readouterr().err.split()), said
    assert main(["examples", "other", str(clouds)]) == 2

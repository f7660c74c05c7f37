"""`weigher pretrain` on images: what is told of them, small crops, two workers, what is left out or refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from launching import torchrun
from weigher.cli.main import main
from weigher.errors import RequestError
from weigher.pairs.pretrained import load_image_encoder
from weigher.pairs.pretraining import ImageEncoder
from weigher.train import load_tensors

IMAGES = {"encoder": {"channels": [4, 8], "hidden": 8, "embedding": 4}, "loop": {"epochs": 3, "batch": 16}}


def pretrain(data, out, *more):
    arguments = ("pretrain", data, "--out", out, "--device", "cpu", "--quiet", *more)
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with settings for a tiny encoder of images."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "images.json").write_text(json.dumps(IMAGES), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def drawings(tmp_path_factory):
    """A folder of upright and of level bars, 8 x 8 pixels."""
    folder, generator = tmp_path_factory.mktemp("drawings"), np.random.default_rng(0)
    for index in range(40):
        image = generator.integers(0, 40, (8, 8)).astype(np.uint8)
        place, upright = generator.integers(1, 7), index % 2
        image[(slice(None), place) if upright else (place, slice(None))] = 255
        path = folder / ("upright" if upright else "level") / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


def test_images_are_learned_and_tried_where_they_have_labels(world, drawings, tmp_path, capsys):
    options = ("--config", world / "images.json", "--json")
    assert pretrain(drawings, tmp_path / "run", *options) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["images"], told["steps"], told["scale"]) == (40, 6, [0, 255])
    assert set(told["accuracy"]) == {"random start", "pre-trained"}
    for figures in told["accuracy"].values():
        assert set(figures) == {"linear probe", "5 nearest neighbours", "10 labels of each class"}
        assert all(0 <= value <= 1 for value in figures.values())
    assert load_image_encoder(tmp_path / "run" / "encoder").config.channels == (4, 8)
    unlabelled = tmp_path / "x.npz"
    np.savez(unlabelled, x=np.random.default_rng(0).random((20, 8, 8, 3)))
    assert pretrain(unlabelled, tmp_path / "plain", "--config", world / "images.json", "--method", "relic") == 0
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert "taught by relic on 20 images in 3 steps" in printed
    assert load_image_encoder(str(tmp_path / "plain" / "encoder")).config.colours == 3
    assert json.loads((tmp_path / "plain" / "config.json").read_text())["encoder"]["colours"] == 3
    assert pretrain(unlabelled, tmp_path / "plain", "--resume") == 0


def test_images_that_were_scaled_say_so_in_the_line_and_the_folder(world, tmp_path, capsys):
    x = np.random.default_rng(0).integers(0, 17, (20, 8, 8))
    x[0, 0, :2] = 0, 16
    np.savez(tmp_path / "x.npz", x=x, y=np.arange(20))
    assert pretrain(tmp_path / "x.npz", tmp_path / "run", "--config", world / "images.json") == 0
    printed = capsys.readouterr().out
    assert "on 20 images (0 to 16, scaled to 0 to 1)" in printed
    assert printed.count("\n") == 1  # labels of one image each say nothing
    told = json.loads((tmp_path / "run" / "encoder" / "config.json").read_text(encoding="utf-8"))["told"]
    assert told["scale"] == [0, 16]


@pytest.mark.parametrize(("most", "is_dark"), [(16, True), (200, False)])
def test_bytes_far_below_white_are_warned_of(world, tmp_path, capsys, most, is_dark):
    x = np.random.default_rng(0).integers(0, most, (16, 8, 8), np.uint8)
    np.savez(tmp_path / "x.npz", x=x)
    assert pretrain(tmp_path / "x.npz", tmp_path / "run", "--config", world / "images.json", "--epochs", 1) == 0
    said = capsys.readouterr().err
    assert (f"are bytes of at most {x.max()}, divided by 255 all the same" in said) == is_dark


def test_colours_are_those_of_the_images(world, tmp_path, capsys):
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).random((16, 8, 8)))
    (tmp_path / "rgb.json").write_text(json.dumps({**IMAGES, "encoder": {**IMAGES["encoder"], "colours": 3}}))
    assert pretrain(tmp_path / "x.npz", tmp_path / "run", "--config", tmp_path / "rgb.json", "--epochs", 1) == 0
    assert "encoder.colours = 3 is not heeded: the images of" in capsys.readouterr().err
    assert load_image_encoder(tmp_path / "run" / "encoder").config.colours == 1


def test_images_that_are_all_the_same_are_warned_of(world, tmp_path, capsys):
    np.savez(tmp_path / "x.npz", x=np.full((8, 8, 8), 9, np.uint8))
    assert pretrain(tmp_path / "x.npz", tmp_path / "run", "--config", world / "images.json", "--epochs", 1) == 0
    assert "are the same: nothing tells one from another" in capsys.readouterr().err


def test_two_workers_teach_an_encoder_of_images(world, drawings, tmp_path):
    """Batch norm goes by each worker's own images; the encoder that is kept is one, with worker 0's running figures."""
    settings = {**IMAGES, "method": "relic", "loop": {"epochs": 1, "batch": 16, "target_momentum": 0.9}}
    (tmp_path / "slow.json").write_text(json.dumps(settings), encoding="utf-8")
    out = tmp_path / "run"
    command = ["-m", "weigher.cli.main", "pretrain", drawings, "--out", out, "--config", tmp_path / "slow.json"]
    status, printed, errors = torchrun(*command, "--device", "cpu", "--json", "--quiet")
    assert status == 0, errors
    assert json.loads(printed)["steps"] == 2
    norm = load_image_encoder(out / "encoder").projection[1]
    assert norm.num_batches_tracked == 4  # two views a step
    kept = load_tensors(out / "last.safetensors")[0]
    assert torch.equal(norm.running_var, kept["model.encoder.projection.1.running_var"])


def test_small_crops_join_two_of_the_full_size(world, drawings, tmp_path, monkeypatch):
    sizes = []
    features = ImageEncoder.features
    monkeypatch.setattr(ImageEncoder, "features", lambda self, x: sizes.append(x.shape[2]) or features(self, x))
    settings = {**IMAGES, "method": "swav", "small_crops": 3, "losses": {"swav": {"prototypes": 4}}}
    (tmp_path / "crops.json").write_text(json.dumps(settings), encoding="utf-8")
    assert pretrain(drawings, tmp_path / "run", "--config", tmp_path / "crops.json") == 0
    assert sizes[:5] == [8, 8, 4, 4, 4]


def test_settings_of_the_file_may_be_for_the_method_that_is_asked(drawings, tmp_path):
    settings = {"small_crops": 2, "losses": {"swav": {"prototypes": 4}}}
    (tmp_path / "small.json").write_text(json.dumps(settings), encoding="utf-8")
    asked = ("--method", "swav", "--epochs", 1, "--config", tmp_path / "small.json")
    assert pretrain(drawings, tmp_path / "run", *asked) == 0


def test_images_of_two_sizes_are_refused_and_broken_ones_left_out(world, drawings, tmp_path, capsys):
    for index in range(4):
        Image.fromarray(np.full((8, 8, 3), 40 * index, np.uint8)).save(tmp_path / f"{index}.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "0.png").read_bytes()[:40])
    (tmp_path / "words.jpg").write_text("no picture")
    assert pretrain(tmp_path, tmp_path / "run", "--config", world / "images.json", "--json") == 0
    shown = capsys.readouterr()
    told = json.loads(shown.out)
    assert (told["images"], told["accuracy"]) == (4, {})
    assert [any(name in line for line in told["skipped"]) for name in ("broken.png", "words.jpg")] == [True, True]
    assert shown.err.count("left out: ") == 2
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(tmp_path / "wide.png")
    assert pretrain(tmp_path, tmp_path / "second", "--config", world / "images.json") == 2
    assert "9 x 8" in capsys.readouterr().err


def test_other_images_of_the_same_size_are_refused(world, tmp_path, capsys):
    x = np.random.default_rng(0).random((20, 8, 8))
    np.savez(tmp_path / "x.npz", x=x)
    assert pretrain(tmp_path / "x.npz", tmp_path / "images", "--config", world / "images.json") == 0
    np.savez(tmp_path / "x.npz", x=np.where(np.arange(20)[:, None, None] == 19, x / 2, x))
    assert pretrain(tmp_path / "x.npz", tmp_path / "images", "--resume") == 2
    assert "began with images 20" in capsys.readouterr().err


def test_an_encoder_of_an_earlier_version_is_refused_with_what_to_do(world, drawings, tmp_path):
    assert pretrain(drawings, tmp_path / "run", "--config", world / "images.json") == 0
    config = tmp_path / "run" / "encoder" / "config.json"
    config.write_text(config.read_text(encoding="utf-8").replace("image-encoder.2", "image-encoder.1"), "utf-8")
    with pytest.raises(RequestError, match=r"before its projection had batch norm.*weigher pretrain"):
        load_image_encoder(config.parent)

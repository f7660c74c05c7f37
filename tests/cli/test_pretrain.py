"""`weigher pretrain`, from files to a folder that `weigher train --from` begins with; runs cut off; bad requests."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from interrupting import cut_by
from launching import torchrun
from weigher.cli.main import main
from weigher.cli.run_folder import alone_in
from weigher.errors import RequestError
from weigher.io.features import Features, write_features
from weigher.io.manifest import write_cast_csv
from weigher.pairs.pretrained import save_image_encoder
from weigher.pairs.pretraining import ImageEncoder
from weigher.pairs.sequences import pretrain_sequences
from weigher.recordings.adapt import read_start
from weigher.recordings.diarizer import Diarizer
from weigher.recordings.pretrained_encoder import load_encoder
from weigher.recordings.unlabelled import read_unlabelled
from weigher.train import load_tensors, read_metrics
from weigher.train.state import save_tensors

RATE = 16000
SETTINGS = {
    "mels": 16,
    "encoder": {"channels": 8, "embedding": 8, "dilations": [1]},
    "sequences": {
        "method": "seqclr",
        "crop_seconds": 0.6,
        "apart_seconds": 0.3,
        "seqclr": {"windows": 3, "hidden": 8, "embedding": 4},
    },
    "loop": {"epochs": 2, "batch": 4},
}
IMAGES = {"encoder": {"channels": [4, 8], "hidden": 8, "embedding": 4}, "loop": {"epochs": 3, "batch": 16}}
TRAINING = {
    "model": {"weigher": {"slots": 3, "heads": 2, "layers": 1, "channel_reduction": 2, "time_reduction": 5}},
    "learn": {
        **{"listen": {"steps": 2, "warmup_steps": 1, "validate_every": 2}, "listen_batch": 4, "listen_seconds": 1.0},
        **{"weigh": {"steps": 2, "warmup_steps": 1, "validate_every": 2}, "weigh_batch": 2},
        "recompose": {"seconds": 2.0},
        "teacher": {"threshold": -5.0, "temper": 3.0},
    },
}


def call(*arguments):
    return main([str(argument) for argument in arguments])


def pretrain(data, out, *more):
    return call("pretrain", data, "--out", out, "--device", "cpu", "--quiet", *more)


def voice(pitch, seed, seconds=1.5):
    t = np.arange(round(seconds * RATE)) / RATE
    noise = 0.02 * np.random.default_rng(seed).normal(size=len(t))
    return 0.1 * sum(np.sin(2 * np.pi * pitch * k * t) / k for k in range(1, 9)) * (1 + np.sin(9 * t)) + noise


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder of eight recordings in two folders, a cast list of them, and settings for tiny models."""
    folder = tmp_path_factory.mktemp("world")
    rows = []
    for index in range(8):
        path = folder / "audio" / f"part{index % 2}" / f"r{index}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, voice(110 + 40 * (index % 3), index), RATE)
        rows.append((path.relative_to(folder), (("Ann", "Ben", "Cid")[index % 3],)))
    write_cast_csv(folder / "cast.csv", rows)
    for name, settings in (("small", SETTINGS), ("images", IMAGES), ("training", TRAINING)):
        (folder / f"{name}.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def run(world):
    assert pretrain(world / "audio", world / "run", "--config", world / "small.json") == 0
    return world / "run"


def weights(folder):
    return (folder / "encoder" / "model.safetensors").read_bytes()


def test_audio_becomes_an_encoder_and_nothing_that_can_run(world, run):
    kept = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert kept == {
        *("config.json", "data.json", "metrics.jsonl", "last.safetensors"),
        *("encoder/config.json", "encoder/model.safetensors", "encoder/README.md"),
    }
    encoder, front = load_encoder(run / "encoder")
    assert (front.kind, front.mels, encoder.config.channels) == ("log-mel", 16, 8)
    assert [record["step"] for record in read_metrics(run / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6, 7, 8]
    settings = json.loads((run / "config.json").read_text(encoding="utf-8"))
    assert settings["sequences"]["method"] == "seqclr"
    assert settings["encoder"] == {"kind": "conv", "stride": 4, **SETTINGS["encoder"]}


@pytest.mark.parametrize("method", ["info-nce", "align-uniform", "relic", "swav"])
def test_every_loss_hears_neighbouring_crops(world, tmp_path, method, capsys):
    settings = {**SETTINGS, "sequences": {**SETTINGS["sequences"], "losses": {"swav": {"prototypes": 3}}}}
    (tmp_path / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    options = ("--config", tmp_path / "settings.json", "--method", method, "--json", "--epochs", 1)
    assert pretrain(world / "cast.csv", tmp_path / "run", *options) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["method"], told["recordings"], told["steps"], told["skipped"]) == (method, 8, 4, [])
    assert load_encoder(tmp_path / "run" / "encoder")[0].config.embedding == 8


def container(path, people, each, seed=0):
    """A container of features: in everybody's recordings, energy moves from band to band in a way of their own."""
    rng = np.random.default_rng(seed)
    spectra = {name: 2 * rng.normal(size=6) * np.linspace(-1, 1, 60)[:, None] for name in people}
    rows = [(name, str(k), spectra[name] + rng.normal(size=(60, 6))) for name in people for k in range(each)]
    features = np.concatenate([values for _, _, values in rows]).astype(np.float32)
    names = {"speaker": np.array([row[0] for row in rows]), "utterance": np.array([row[1] for row in rows])}
    np.savez(path, features=features, offsets=60 * np.arange(len(rows) + 1), hop_seconds=0.02, **names)
    return path


def test_voices_are_tried_where_they_have_names(world, tmp_path, capsys):
    options = ("--config", world / "small.json", "--method", "info-nce", "--epochs", 1)
    assert pretrain(container(tmp_path / "voices.npz", ("a", "b"), 10), tmp_path / "run", *options, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["accuracy"]) == {"random start", "pre-trained"}
    for figures in told["accuracy"].values():
        assert set(figures) == {"linear probe", "5 nearest neighbours", "8 labels of each class"}
        assert figures["linear probe"] == 1.0  # by anything but chance these two are told apart
    shown = json.loads((tmp_path / "run" / "encoder" / "config.json").read_text(encoding="utf-8"))
    assert shown["told"]["accuracy"] == told["accuracy"]
    few = container(tmp_path / "few.npz", ("a", "b", "c"), 4)
    assert pretrain(few, tmp_path / "second", *options) == 0
    assert capsys.readouterr().out.count("\n") == 1  # of each person too few to take a fifth of


def test_an_encoder_is_kept_before_it_is_tried(world, tmp_path, capsys):
    voices = container(tmp_path / "voices.npz", ("a", "b"), 5)
    options = ("--config", world / "small.json", "--method", "info-nce", "--epochs", 1)
    with pytest.MonkeyPatch.context() as patch:
        cut_by(patch, "try on labels", 1, "raise")
        assert pretrain(voices, tmp_path / "run", *options) == 130
    assert "was not kept and tried to the end; --resume does that" in capsys.readouterr().err
    kept = weights(tmp_path / "run")
    assert pretrain(voices, tmp_path / "run", "--resume") == 0
    assert "random start: linear probe" in capsys.readouterr().out
    assert weights(tmp_path / "run") == kept
    config = tmp_path / "run" / "encoder" / "config.json"
    before = config.read_text(encoding="utf-8")
    assert json.loads(before)["told"]["accuracy"]
    with pytest.MonkeyPatch.context() as patch:
        cut_by(patch, "try on labels", 1, "raise")
        assert pretrain(voices, tmp_path / "run", "--resume") == 130
    assert config.read_text(encoding="utf-8") == before


@pytest.mark.parametrize("by_signal", [True, False])
def test_a_run_cut_off_and_resumed_is_the_run_that_never_was(world, run, tmp_path, capsys, by_signal):
    with pytest.MonkeyPatch.context() as patch:
        cut_by(patch, "train", 3, "signal" if by_signal else "raise")
        assert pretrain(world / "audio", tmp_path / "run", "--config", world / "small.json") == 130
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert ("its state is kept" in said) == by_signal
    (tmp_path / "run" / "encoder").mkdir()  # a folder may be there before what it is to hold
    assert call("train", world / "cast.csv", "--from", tmp_path / "run", "--out", tmp_path / "trained") == 2
    assert "not finished" in capsys.readouterr().err
    assert pretrain(world / "audio", tmp_path / "run", "--resume") == 0
    assert weights(tmp_path / "run") == weights(run)
    steps = [(record["step"], record["loss"]) for record in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert steps == [(record["step"], record["loss"]) for record in read_metrics(run / "metrics.jsonl")]


# says when the verb itself begins, so that the moment is drawn while it works and not in the imports
COMMAND = """
import sys
import weigher.cli.pretrain_runs
from weigher.cli.main import main
print("begun", flush=True)
sys.exit(main(sys.argv[1:]))
"""


def test_a_killed_run_goes_on_bit_for_bit(world, tmp_path):
    begin = ("--config", world / "small.json", "--epochs", 40)
    arguments = ("pretrain", world / "audio", "--out", tmp_path / "run", *begin, "--device", "cpu", "--quiet")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", COMMAND, *map(str, arguments)]
    last = tmp_path / "run" / "last.safetensors"
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        while process.poll() is None and not (last.exists() and load_tensors(last)[1]["position"]["step"]):
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums depend on it, bit for bit
    try:
        assert pretrain(world / "audio", tmp_path / "run", "--resume") == 0
        assert pretrain(world / "audio", tmp_path / "whole", *begin) == 0
    finally:
        torch.set_num_threads(threads)
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def test_two_workers_teach_one_encoder_and_speak_once(world, tmp_path):
    data, out = world / "audio", tmp_path / "run"
    command = ["-m", "weigher.cli.main", "pretrain", data, "--out", out, "--config", world / "small.json"]
    status, printed, errors = torchrun(*command, "--device", "cpu", "--epochs", 1, "--json", "--quiet")
    assert status == 0, errors
    told = json.loads(printed)
    assert (told["steps"], told["recordings"]) == (4, 8)
    assert load_tensors(out / "last.safetensors")[1]["workers"] == 2
    assert load_encoder(out / "encoder")[0].config.channels == 8


# --- train --from ----------------------------------------------------------------------------------------------------


def train(world, out, *more):
    options = ("--config", world / "training.json", "--device", "cpu", "--quiet")
    return call("train", world / "cast.csv", "--out", out, *options, *more)


@pytest.mark.parametrize("where", ["run", "run/encoder"])
def test_training_begins_from_the_encoder(world, run, tmp_path, where):
    assert train(world, tmp_path / "held", "--from", world / where, "--freeze", "encoder", "--slots", 4) == 0
    ours, theirs = load_file(run / "encoder/model.safetensors"), load_file(tmp_path / "held/model/model.safetensors")
    assert all(value.equal(theirs[f"encoder.{name}"]) for name, value in ours.items())
    model = Diarizer.from_pretrained(tmp_path / "held" / "model", device="cpu")
    assert (model.config.model.front.mels, model.config.model.weigher.slots) == (16, 4)


def test_by_default_the_encoder_goes_on_learning_and_a_run_can_be_resumed(world, run, tmp_path, capsys):
    assert train(world, tmp_path / "once", "--from", run) == 0
    ours, theirs = load_file(run / "encoder/model.safetensors"), load_file(tmp_path / "once/model/model.safetensors")
    assert not any(value.equal(theirs[f"encoder.{name}"]) for name, value in ours.items() if name.endswith("weight"))
    start = read_start(run)
    assert (start.whole, start.labels, start.model.config.front.mels) == (False, (), 16)
    assert train(world, tmp_path / "twice", "--from", run, "--listen-steps", 1) == 0
    assert call("train", world / "cast.csv", "--out", tmp_path / "twice", "--resume", "--device", "cpu", "--quiet") == 0


@pytest.mark.parametrize("model", [{"front": {"mels": 40}}, {"encoder": {"channels": 16}}])
def test_an_encoder_of_another_shape_is_refused(world, run, tmp_path, capsys, model):
    (tmp_path / "other.json").write_text(json.dumps({"model": model}), encoding="utf-8")
    options = ("--from", run / "encoder", "--config", tmp_path / "other.json", "--device", "cpu", "--quiet")
    assert call("train", world / "cast.csv", "--out", tmp_path / "run", *options) == 2
    assert "changes the shape of the model" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_features_of_another_width_and_other_verbs_refuse_the_encoder(world, run, tmp_path, capsys):
    generator = np.random.default_rng(0)
    for index in range(4):
        write_features(tmp_path / f"{index}.npz", Features(generator.normal(size=(200, 12)).astype(np.float32), 0.02))
    assert pretrain(tmp_path, tmp_path / "run", "--config", world / "small.json") == 0
    front = load_encoder(tmp_path / "run" / "encoder")[1]
    assert (front.kind, front.features, front.hop_seconds) == ("features", 12, 0.02)
    write_features(tmp_path / "wide.npz", Features(np.ones((200, 13), np.float32), 0.02))
    write_cast_csv(tmp_path / "wide.csv", [("0.npz", ("Ann",)), ("wide.npz", ("Ben",))])
    options = ("--from", tmp_path / "run", "--out", tmp_path / "trained", "--device", "cpu", "--quiet")
    assert call("train", tmp_path / "wide.csv", *options) == 2
    assert "holds 13 features every 0.02 s; this model needs 12" in capsys.readouterr().err
    assert call("train", world / "cast.csv", *options) == 2
    assert "hears features (.npz)" in capsys.readouterr().err
    assert call("apply", run / "encoder", tmp_path / "0.npz") == 2
    assert "give a model of that kind" in capsys.readouterr().err


def test_training_says_what_it_can_begin_from(world, tmp_path, capsys):
    save_image_encoder(tmp_path / "drawings" / "encoder", ImageEncoder(), {})
    for place, said in (
        ("nowhere", "there is no model folder"),
        ("cast.csv", "there is no model folder"),
        ("audio", "holds no model"),
        (tmp_path / "drawings", "has the format 'weigher.image-encoder.2'"),
        (tmp_path / "drawings" / "encoder", "has the format 'weigher.image-encoder.2'"),
    ):
        assert train(world, tmp_path / "out", "--from", world / place) == 2
        error = capsys.readouterr().err
        assert said in error
        assert "RUN of `weigher pretrain` on recordings" in error


def test_a_run_is_resumed_with_data_of_its_kind(world, run, tmp_path, capsys):
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).random((20, 8, 8)))
    assert pretrain(tmp_path / "x.npz", run, "--resume") == 2
    assert f"{run} began with recordings, and {tmp_path / 'x.npz'} holds images" in capsys.readouterr().err


def test_a_finished_run_without_its_metrics_is_resumed(world, run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").unlink()
    assert pretrain(world / "audio", tmp_path / "run", "--resume") == 0
    assert "in 8 steps, loss lost -> lost" in capsys.readouterr().out
    assert pretrain(world / "audio", tmp_path / "run", "--resume", "--json") == 0
    assert json.loads(capsys.readouterr().out)["loss"] == {"first": None, "last": None}
    assert weights(tmp_path / "run") == weights(run)


def test_a_rate_that_breaks_the_encoder_fails_and_says_so(world, tmp_path, capsys):
    (tmp_path / "fast.json").write_text(json.dumps({**SETTINGS, "loop": {"batch": 4, "learning_rate": 1e30}}))
    assert pretrain(world / "audio", tmp_path / "run", "--config", tmp_path / "fast.json") == 1
    said = capsys.readouterr().err
    assert "training broke at step 2" in said
    assert "lower learning rate" in said


def test_what_is_not_heeded_and_what_is_not_learned_is_told(world, tmp_path, capsys):
    voices = container(tmp_path / "voices.npz", ("a", "b"), 4)
    still = {"learning_rate": 1e-12, "epochs": 20, "batch": 8, "views": {"noise": 3}}
    settings = {**SETTINGS, "sequences": {**SETTINGS["sequences"], "method": "info-nce"}, "loop": still}
    (tmp_path / "still.json").write_text(json.dumps(settings))
    assert pretrain(voices, tmp_path / "run", "--config", tmp_path / "still.json") == 0
    said = capsys.readouterr().err
    assert "mels = 16 is of audio, and" in said
    assert "loop.views is of images, and not heeded" in said
    assert "the loss has not fallen" in said


# --- requests that cannot be served ----------------------------------------------------------------------------------


def test_what_cannot_be_read_is_listed_and_left_out(world, tmp_path, capsys):
    soundfile.write(tmp_path / "good.wav", voice(120, 0, seconds=3.0), RATE)
    soundfile.write(tmp_path / "short.wav", voice(120, 0, seconds=0.1), RATE)
    (tmp_path / "words.wav").write_text("no sound at all")
    assert pretrain(tmp_path, tmp_path / "run", "--config", world / "small.json", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["recordings"] == 1
    assert len(told["skipped"]) == 2
    assert any("words.wav cannot be read as audio" in line for line in told["skipped"])
    assert any("short.wav is too short" in line for line in told["skipped"])
    (tmp_path / "good.wav").unlink()
    assert pretrain(tmp_path, tmp_path / "second", "--config", world / "small.json") == 2
    said = capsys.readouterr().err
    assert "can be used" in said
    assert "words.wav" in said
    assert not (tmp_path / "second").exists()


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (["nowhere"], "does not exist"),
        (["empty"], "no audio, no features (.npz) and no images"),
        (["audio", "--config", "{}/wrong.json"], "no setting 'mel'; did you mean 'mels'? known are mels, encoder, seq"),
        (["audio", "--resume"], "no run to resume"),
        (["audio", "--epochs", 0], "epochs = 0"),
        (["audio", "--device", "cuda:7"], "GPU"),
        (["audio/part0/r0.wav"], "at least two"),
        (["audio", "--out="], "--out is given nothing"),
        (["audio", "--method", "None"], "it can be info-nce, align-uniform"),
        (["audio", "--config", "{}/wide.json"], "frames, needed are 25000: a quarter of crop_seconds = 1000"),
        (["audio", "--config", "{}/windows.json"], "frames, needed are 4000: room for windows = 500 at any speed"),
        (["audio", "--config", "{}/hidden.json"], "could hide all of it"),
        (["audio", "--config", "{}/slow.json", "--method", "swav"], "no use of a slow copy"),
        (["audio", "--config", "{}/queue.json"], "set target_momentum"),
        (
            ["audio", "--config", "{}/rate.json"],
            "learning_rate = -1.0 is out of range; needed is a finite number",
        ),
        (["audio", "--config", "{}/images.json"], "has settings for images, and the data are recordings"),
        (["audio", "--config", "{}/crops.json"], "has settings for images, and the data are recordings"),
        (["audio", "--config", "{}/relic.json"], "sequences.losses.queue = 8 with relic"),
        (["audio", "--seed", 2**64], "is out of range; needed is a whole number from 0"),
        (["images.npz", "--config", "{}/small.json"], "has settings for recordings, and the data are images"),
        (["one.npz"], "holds one image"),
        (["one.png"], "is one image"),
        (["images.npz", "--config", "{}/none.json"], "channels = () is out of range; needed is one number or more"),
        (["images.npz", "--config", "{}/less.json"], "small_crops = -2 is out of range"),
        (["images.npz", "--method", "seqclr"], "give recordings"),
        (["images.npz", "--method", "swav", "--config", "{}/slow.json"], "no use of a slow copy"),
        (["images.npz", "--config", "{}/crops.json"], "are for swav and relic"),
        (["flat.npz"], "needed are numbers"),
    ],
)
def test_requests_that_cannot_be_served(world, tmp_path, capsys, request_, said):
    (world / "empty").mkdir(exist_ok=True)
    settings = {
        "wrong": {"mel": 40},
        "slow": {"loop": {"target_momentum": 0.9}},
        "crops": {"small_crops": 2},
        "less": {"small_crops": -2},
        "wide": {"sequences": {"crop_seconds": 1000}},
        "windows": {"sequences": {"method": "seqclr", "seqclr": {"windows": 500}}},
        "hidden": {"sequences": {"views": {"time_mask_frames": 1000}}},
        "queue": {"sequences": {"losses": {"queue": 8}}},
        "relic": {"sequences": {"method": "relic", "losses": {"queue": 8}}},
        "rate": {"loop": {"learning_rate": -1}},
        "none": {"encoder": {"channels": []}},
    }
    for name, plain in settings.items():
        (world / f"{name}.json").write_text(json.dumps(plain))
    np.savez(world / "images.npz", images=np.zeros((4, 8, 8), np.uint8))
    np.savez(world / "one.npz", images=np.zeros((1, 1, 8, 8), np.uint8))
    np.savez(world / "flat.npz", x=np.zeros((4, 8)))
    (world / "one.png").touch()
    data, *more = request_
    assert pretrain(world / data, tmp_path / "run", *(str(part).format(world) for part in more)) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()  # what was refused leaves nothing


def test_no_model_is_written_over_and_a_place_where_a_run_only_began_is_free(world, run, tmp_path, capsys):
    for what in ("encoder", "."):  # an encoder, and a finished run whose checkpoint was thrown away
        place = tmp_path / what.replace(".", "run")
        shutil.copytree(run / what, place)
        (place / "last.safetensors").unlink(missing_ok=True)
        before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
        assert pretrain(world / "audio", place) == 2
        assert "holds a run or a model already" in capsys.readouterr().err
        assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before
    killed = tmp_path / "killed"
    killed.mkdir()
    for name in ("config.json", "data.json"):
        shutil.copy(run / name, killed / name)
    (killed / "metrics.jsonl").touch()
    assert pretrain(world / "audio", killed, "--config", world / "small.json", "--epochs", 1) == 0
    shutil.rmtree(killed / "encoder")
    (killed / "metrics.jsonl").write_text("")  # lost; what was learned is there
    kept = (killed / "last.safetensors").read_bytes()
    assert pretrain(world / "audio", killed, "--config", world / "small.json", "--epochs", 1) == 2
    assert (killed / "last.safetensors").read_bytes() == kept
    tensors, record = load_tensors(killed / "last.safetensors")
    save_tensors(killed / "last.safetensors", tensors, {**record, "position": {**record["position"], "step": 0}})
    assert pretrain(world / "audio", killed, "--config", world / "small.json", "--epochs", 1) == 0


@pytest.mark.parametrize("held", [["config.json"], ["data.json"], ["metrics.jsonl"], ["config.json", "data.json"]])
def test_files_of_somebody_else_are_neither_written_over_nor_removed(world, tmp_path, held, capsys):
    for name in held:
        (tmp_path / name).write_text(json.dumps(SETTINGS))
    given = ("--config", tmp_path / held[0])
    for more in ((), ("--device", "cuda:7")):
        assert pretrain(world / "audio", tmp_path, *given, *more) == 2
        assert f"holds a run or a model already ({', '.join(held)})" in capsys.readouterr().err
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(held, json.dumps(SETTINGS))


def test_a_run_that_begins_while_the_data_are_read_stays_as_it_is(world, run, tmp_path, monkeypatch, capsys):
    other, names = tmp_path / "run", ("data.json", "config.json", "last.safetensors", "metrics.jsonl")

    def read(*given, **named):
        other.mkdir()
        for name in names:
            shutil.copy(run / name, other / name)
        return read_unlabelled(*given, **named)

    monkeypatch.setattr("weigher.cli.pretrain_runs.read_unlabelled", read)
    assert pretrain(world / "audio", other, "--config", world / "small.json") == 2
    assert "holds a run or a model already" in capsys.readouterr().err
    assert {name: (other / name).read_bytes() for name in names} == {name: (run / name).read_bytes() for name in names}


@pytest.mark.skipif(sys.platform == "win32", reason="a folder cannot be locked")
def test_two_runs_do_not_share_a_folder(world, run, tmp_path, capsys):
    """Not one that has only begun, not one that goes on: what is there stays as it is."""
    for place in (tmp_path / "new", tmp_path / "run"):
        if place.name == "run":
            shutil.copytree(run, place)
        with alone_in(place):
            before = {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()}
            more = ("--resume",) if before else ("--config", world / "small.json")
            assert pretrain(world / "audio", place, *more) == 2
            assert "another run is going on in" in capsys.readouterr().err
            assert {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()} == before
    with alone_in(tmp_path / "trained"):
        capsys.readouterr()
        assert train(world, tmp_path / "trained") == 2
        assert "another run is going on in" in capsys.readouterr().err
    assert list((tmp_path / "trained").iterdir()) == []


def test_a_disk_without_locks_stops_no_run(tmp_path, monkeypatch):
    monkeypatch.setattr("weigher.cli.run_folder.try_lock", lambda descriptor: None)
    with alone_in(tmp_path / "new"), alone_in(tmp_path / "new"):
        assert (tmp_path / "new").is_dir()


def test_what_was_learned_stays_where_a_later_step_is_refused(world, tmp_path, monkeypatch):
    def stops(*given, **named):
        pretrain_sequences(*given, **named)
        raise RequestError("no more")

    monkeypatch.setattr("weigher.cli.pretrain_runs.pretrain_sequences", stops)
    assert pretrain(world / "audio", tmp_path / "run", "--config", world / "small.json") == 2
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        *("config.json", "data.json", "metrics.jsonl", "last.safetensors"),
    }


def test_a_refused_request_leaves_no_folder_that_it_made_and_all_that_were_there(world, tmp_path):
    assert pretrain(world / "audio", tmp_path / "new" / "a" / "b", "--device", "cuda:7") == 2
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    assert pretrain(world / "audio", tmp_path / "old", "--device", "cuda:7") == 2
    assert list((tmp_path / "old").iterdir()) == []


def test_settings_that_were_changed_are_not_gone_on_with(world, run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    config = tmp_path / "run" / "config.json"
    before = config.read_text(encoding="utf-8")
    config.write_text(before.replace('"noise": 0.2', '"noise": 0.9'), encoding="utf-8")
    assert config.read_text(encoding="utf-8") != before
    assert pretrain(world / "audio", tmp_path / "run", "--resume") == 2
    assert "config.json was changed since the run began" in capsys.readouterr().err
    config.write_text(before, encoding="utf-8")
    data = json.loads((run / "data.json").read_text(encoding="utf-8"))
    del data["settings"]  # as runs of earlier versions have it
    (tmp_path / "run" / "data.json").write_text(json.dumps(data))
    assert pretrain(world / "audio", tmp_path / "run", "--resume") == 0


def test_a_run_is_not_written_over_and_goes_on_with_what_it_began_with(world, run, tmp_path, capsys):
    before = weights(run)
    assert pretrain(world / "audio", run) == 2
    assert "holds a run or a model already" in capsys.readouterr().err
    assert pretrain(world / "audio", run, "--resume", "--epochs", 3) == 2
    assert "leave --epochs out" in capsys.readouterr().err
    assert pretrain(world / "audio" / "part0", run, "--resume") == 2
    assert "began with recordings 8" in capsys.readouterr().err
    assert pretrain(world / "audio", run, "--resume") == 0
    assert weights(run) == before


def test_other_recordings_of_the_same_size_are_refused(world, tmp_path, capsys):
    voices = container(tmp_path / "voices.npz", ("a", "b"), 4)
    options = ("--config", world / "small.json", "--method", "info-nce", "--epochs", 1)
    assert pretrain(voices, tmp_path / "run", *options) == 0
    container(voices, ("a", "b"), 4, seed=1)
    assert pretrain(voices, tmp_path / "run", "--resume") == 2
    said = capsys.readouterr().err
    assert "began with recordings 8, frames 480, values " in said
    assert "give the data it began with" in said
    container(voices, ("a", "b"), 4)
    assert pretrain(voices, tmp_path / "run", "--resume") == 0

import json

import numpy as np
import pytest

from weigher.cli.main import main
from weigher.cli.simulate import seconds_range
from weigher.errors import RequestError
from weigher.io.audio import audio_seconds
from weigher.io.features import read_features
from weigher.io.manifest import read_manifest
from weigher.io.rttm import Segment, read_rttm_tree, write_rttm
from weigher.recordings.synthesise import synthesise_voices


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder of four voices, and one of turn timings."""
    folder = tmp_path_factory.mktemp("given")
    synthesise_voices(folder / "voices", speakers=4, utterances=2, seconds=1.5, seed=0)
    turns = [Segment(9.0 * k, 9.0 * k + 8 + k % 3, "abc"[k % 3]) for k in range(30)]
    write_rttm(folder / "timings" / "talk.rttm", {"talk": turns})
    return folder / "voices", folder / "timings"


def simulated(*args: object) -> int:
    return main(["simulate", *map(str, args)])


def test_audio_cast_rttm_and_one_json_object(given, tmp_path, capsys):
    voices, timings = given
    options = ("--recordings", 6, "--max-speakers", 2, "--seconds", 6, "--noise-db", 20, "--seed", 1, "--json")
    assert simulated(voices, "--timings", timings, "--out", tmp_path / "set", *options) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["recordings"], result["kind"], result["seed"]) == (6, "audio", 1)
    assert result["achieved"]["silence_fraction"] < 0.5
    assert result["sampled_from"]["speakers"] == pytest.approx(1.5)
    manifest = read_manifest(tmp_path / "set" / "cast.csv")
    turns = read_rttm_tree(tmp_path / "set" / "rttm")
    assert [audio_seconds(r.path) for r in manifest.recordings] == [6.0] * 6
    assert {r.path.stem: set(r.cast) for r in manifest.recordings} == {
        name: {s.speaker for s in segments} for name, segments in turns.items()
    }


def test_features_from_a_container(given, tmp_path, capsys):
    rng = np.random.default_rng(0)
    sound = np.where(np.arange(600)[:, None] % 200 < 120, 8.0, 0.0) + rng.normal(0, 0.5, (600, 5))
    np.savez(
        tmp_path / "voices.npz",
        features=(sound * 10).astype(np.int8),
        scale=np.float32(0.1),
        offsets=np.array([0, 200, 400, 600]),
        speaker=np.array(["Ann", "Ben", "Ann"]),
        utterance=np.array(["1", "2", "3"]),
    )
    request = (tmp_path / "voices.npz", "--timings", given[1], "--recordings", 4, "--max-speakers", 2)
    assert simulated(*request, "--seconds", "3-4", "--out", tmp_path / "set", "--quiet") == 0
    out, err = capsys.readouterr()
    assert "4 recordings" in out
    assert "overlap" in out
    assert err.strip().endswith("cast.csv")
    for recording in read_manifest(tmp_path / "set" / "cast.csv").recordings:
        features = read_features(recording.path)
        assert features.hop_seconds == 0.01
        assert features.values.shape[1] == 5
        assert 300 <= len(features.values) <= 400


def test_same_seed_same_files(given, tmp_path, capsys):
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        request = ("--recordings", 3, "--max-speakers", 2, "--seconds", 3, "--seed", seed, "--out", tmp_path / name)
        assert simulated(given[0], "--timings", given[1], *request) == 0
    one, two, other = (
        {p.relative_to(tmp_path / name): p.read_bytes() for p in sorted((tmp_path / name).rglob("*")) if p.is_file()}
        for name in ("one", "two", "other")
    )
    assert one == two
    assert one != other


def test_without_timings_a_random_walk_and_a_word_about_it(given, tmp_path, capsys):
    assert simulated(given[0], "--recordings", 2, "--max-speakers", 2, "--seconds", 5, "--out", tmp_path / "set") == 0
    out, err = capsys.readouterr()
    assert "random walk" in err
    assert "random walk" not in out


def test_people_the_casts_cannot_tell_apart_are_named(given, tmp_path, capsys):
    request = ("--recordings", 1, "--max-speakers", 1, "--seconds", 3, "--out", tmp_path / "set", "--json")
    assert simulated(given[0], *request) == 0
    out, err = capsys.readouterr()
    assert "warning: 1 name appears in one recording only" in err
    assert len(json.loads(out)["warnings"]) == 1


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (("--timings", "nowhere"), "no RTTM file"),
        (("--max-speakers", 9), "9 speakers in one recording"),
        (("--recordings", 0), "0 recordings"),
        (("--seconds", "long"), "--seconds is 'long'"),
        (("--seed", -1), "seed -1"),
        (("--reverb-seconds", -1), "reverb_seconds"),
    ],
)
def test_wrong_requests_end_with_code_2_one_message_and_nothing_written(given, tmp_path, capsys, wrong, reason):
    assert simulated(given[0], "--out", tmp_path / "set", "--recordings", 20, "--quiet", *wrong) == 2
    out, err = capsys.readouterr()
    assert reason in err
    assert "Traceback" not in err
    assert out == ""
    assert not (tmp_path / "set").exists()


def test_voices_that_are_not_there_and_a_full_folder_are_refused(given, tmp_path, capsys):
    assert simulated(tmp_path / "none", "--out", tmp_path / "set") == 2
    request = (given[0], "--out", tmp_path / "set", "--recordings", 2, "--max-speakers", 1, "--seconds", 2)
    assert simulated(*request) == 0
    before = (tmp_path / "set" / "cast.csv").read_bytes()
    capsys.readouterr()
    assert simulated(*request) == 2
    assert "there already" in capsys.readouterr().err
    assert (tmp_path / "set" / "cast.csv").read_bytes() == before


@pytest.mark.parametrize("text", ["", "0", "30-20", "20-", "-5", "1e3", "20-30-40", "nan"])
def test_seconds_that_are_no_length(text):
    with pytest.raises(RequestError, match="--seconds"):
        seconds_range(text)

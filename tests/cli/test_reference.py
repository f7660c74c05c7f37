import json

import numpy as np
import pytest
import soundfile

from weigher.cli.main import main
from weigher.io.rttm import read_rttm


@pytest.fixture
def call(tmp_path):
    """Noise bursts: the first channel from 1 to 3 s, the second from 4 to 7 s."""
    rng = np.random.default_rng(0)
    sound = rng.normal(0, 1e-3, (8 * 8000, 2))
    sound[8000:24000, 0] += rng.normal(0, 0.1, 16000)
    sound[32000:56000, 1] += rng.normal(0, 0.1, 24000)
    soundfile.write(tmp_path / "a call.wav", sound, 8000)
    return tmp_path / "a call.wav"


def test_rttm_on_stdout_and_a_summary_on_stderr(call, capsys):
    assert main(["reference", str(call)]) == 0
    out, err = capsys.readouterr()
    lines = [line.split(" ") for line in out.splitlines()]
    assert [(line[1], line[7]) for line in lines] == [("a%20call", "channel1"), ("a%20call", "channel2")]
    times = [(float(line[3]), float(line[4])) for line in lines]
    assert np.abs(np.array(times) - [(1, 2), (4, 3)]).max() < 0.1
    assert "both at once in 0.0 % of it, 7.5 switches a minute" in err


def test_the_file_holds_what_stdout_would(call, tmp_path, capsys):
    assert main(["reference", str(call), "--out", str(tmp_path / "call.rttm"), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert main(["reference", str(call), "--quiet"]) == 0
    assert (tmp_path / "call.rttm").read_text() == capsys.readouterr().out


def test_json_holds_the_same_turns(call, tmp_path, capsys):
    assert main(["reference", str(call), "--json", "--quiet", "--out", str(tmp_path / "call.rttm")]) == 0
    out, err = capsys.readouterr()
    given = json.loads(out)
    assert err == ""
    assert given["seconds"] == 8
    assert given["statistics"]["switches_per_minute"] == 7.5
    assert given["spoken_seconds"]["channel2"] == pytest.approx(3, abs=0.1)
    turns = read_rttm(tmp_path / "call.rttm")["a call"]
    assert [(s["start"], s["end"], s["speaker"]) for s in given["segments"]] == [
        (t.start, t.end, t.speaker) for t in turns
    ]
    assert main(["reference", str(call), "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out) == given


@pytest.mark.parametrize(
    ("channels", "said"), [(1, "has only 1 channel"), (4, "has 4 channels"), (2, "hold the same sound")]
)
def test_what_is_no_two_channel_call_is_a_wrong_request(tmp_path, capsys, channels, said):
    noise = np.random.default_rng(0).normal(0, 0.1, 8000) * np.repeat([1.0, 0.001], 4000)
    soundfile.write(tmp_path / "a.wav", np.tile(noise[:, None], channels), 8000)
    assert main(["reference", str(tmp_path / "a.wav"), "--out", str(tmp_path / "a.rttm")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("weigher reference: ")
    assert said in err
    assert not (tmp_path / "a.rttm").exists()
    assert main(["reference", str(tmp_path / "none.wav")]) == 2

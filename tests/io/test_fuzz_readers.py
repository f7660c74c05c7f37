"""Readers bear whatever a file may hold: a short run of `tests/fuzzing.py`, and files that were once not borne."""

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from fuzzing import READERS, mutated
from weigher.errors import RequestError
from weigher.io.audio import AudioError, audio_seconds, read_audio
from weigher.io.manifest import ManifestError, read_manifest
from weigher.io.rttm import read_rttm, read_uem

FUZZING = Path(__file__).parents[1] / "fuzzing.py"


def test_damaged_files_of_every_reader_are_borne(tmp_path):
    """In a process of its own, for it may crash, hang or run out of the 1 GB it is given."""
    command = [sys.executable, FUZZING, "--seconds", "6", "--keep", tmp_path / "kept"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[0]) >= 2 * len(READERS)  # the whole files, and each kind damaged


def test_the_same_seed_makes_the_same_damage():
    content = b"SPEAKER a 1 0 1 <NA> <NA> b <NA> <NA>\n" * 3
    damaged = [mutated(content, np.random.default_rng(seed)) for seed in range(40)]
    assert damaged == [mutated(content, np.random.default_rng(seed)) for seed in range(40)]
    assert len(set(damaged)) > 30


TEXT = st.lists(
    st.sampled_from(["SPEAKER", "a", "1", "0", "-1", "1e999", "nan", "<NA>", "\0", "%FF", "\t", "\n", "\r", ";;", " "])
    | st.text(max_size=5)
).map(" ".join)


@given(TEXT)
def test_any_text_is_turns_or_a_named_line(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("text") / "a.rttm"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    for read in (read_rttm, read_uem):
        told = "line"
        try:
            read(path)
        except RequestError as error:
            told = str(error)
        assert "line" in told


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["file_name", "speakers", "speaker", "audio_filepath", "rttm_filepath"])
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.lists(JSON, max_size=4))
def test_any_json_is_a_cast_list_or_a_named_problem(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("json") / "metadata.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(ManifestError, match=r"metadata\.jsonl"):  # no file it may name is there
        read_manifest(path)


def yml(folder, text):
    (folder / "database.yml").write_text(text, encoding="utf-8")
    return folder / "database.yml"


@pytest.mark.parametrize("merge", [False, True], ids=["aliases", "merge keys"])
def test_a_yaml_bomb_takes_no_memory(tmp_path, merge):
    if merge:
        lines = ["a0: &a0 {" + ", ".join(f"k{i}: 1" for i in range(50)) + "}"]
        lines += [f"a{k}: &a{k}\n  <<: [{', '.join([f'*a{k - 1}'] * 30)}]" for k in range(1, 9)]
    else:
        lines = ["a0: &a0 [x, x, x]"] + [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 12)]
        lines += ["Protocols: *a11", "Databases: {x: *a11}"]
    tracemalloc.start()
    with pytest.raises(ManifestError, match="more than" if merge else "no list|0 lists"):
        read_manifest(yml(tmp_path, "\n".join(lines)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6


def test_merge_keys_of_a_real_size_are_read(tmp_path):
    (tmp_path / "a.wav").touch()
    (tmp_path / "a.rttm").write_text("SPEAKER a 1 0 1 <NA> <NA> Ann <NA> <NA>\n")
    (tmp_path / "a.lst").write_text("a\n")
    text = """
common: &common {scope: database, annotation: "{uri}.rttm"}
Databases: {D: "{uri}.wav"}
Protocols: {D: {SpeakerDiarization: {P: {scope: database, train: {<<: *common, uri: a.lst}}}}}
"""
    assert [recording.cast for recording in read_manifest(yml(tmp_path, text)).recordings] == [("Ann",)]


@pytest.mark.parametrize(
    ("uri", "annotation", "audio"),
    [
        ("~nobody-at-all/a.lst", "a.rttm", "a.wav"),
        ("x" * 5000, "a.rttm", "a.wav"),
        ("a.lst", "~nobody-at-all/a.rttm", "{uri}.wav"),
        ("a.lst", "\\0.rttm", "{uri}.wav"),
        ("a.lst", "y" * 5000, "{uri}.wav"),
        ("a.lst", "a.rttm", "*\\0"),
        ("a.lst", "a.rttm", "z" * 5000 + "*"),
        ("a.lst", "a.rttm", "z" * 5000),
        ("a.lst", "a.rttm", "**/" * 500 + "*"),
    ],
)
def test_names_that_cannot_be_files_are_told(tmp_path, uri, annotation, audio):
    for name in ("a.wav", "a.lst"):
        (tmp_path / name).write_text("a\n")
    text = f"""
Databases: {{D: "{audio}"}}
Protocols: {{D: {{T: {{P: {{scope: global, train: {{uri: "{uri}", annotation: "{annotation}"}}}}}}}}}}
"""
    with pytest.raises(ManifestError) as caught:
        read_manifest(yml(tmp_path, text))
    assert len(str(caught.value)) < 20_000


def test_rttm_named_by_a_list_with_a_nul_byte(tmp_path):
    (tmp_path / "a.wav").touch()
    row = {"audio_filepath": "a.wav", "rttm_filepath": "a\0.rttm"}
    (tmp_path / "nemo.json").write_text(json.dumps(row) + "\n")
    with pytest.raises(ManifestError, match="line 1"):
        read_manifest(tmp_path / "nemo.json")


@pytest.mark.parametrize("rate", [1, 3, 999, 2_000_000_000])
def test_rates_that_no_sound_has_are_refused_at_once(tmp_path, rate):
    """By its header, the file of 6 kB would last for hours."""
    soundfile.write(tmp_path / "a.wav", np.zeros(3000), 16000)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[24:28] = rate.to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(content)
    for read in (audio_seconds, read_audio):
        with pytest.raises(AudioError, match=f"{rate} samples a second"):
            read(tmp_path / "a.wav")

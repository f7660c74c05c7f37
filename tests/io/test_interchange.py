"""Cast lists of other programs: NeMo, Hugging Face audiofolder, Kaldi, and pyannote.database beside itself."""

import json
import re
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from pyannote.core import Annotation, Timeline
from pyannote.core import Segment as Stretch
from pyannote.database import FileFinder
from pyannote.database.registry import Registry
from pyannote.database.util import load_rttm, load_uem

from weigher.errors import RequestError
from weigher.io.manifest import Manifest, ManifestError, read_manifest
from weigher.io.rttm import Segment, escape_name, read_rttm, read_uem, unescape_name, write_rttm, write_uem

# pandas, with which pyannote.database reads, takes these for "not there", and a quote at the start of a field for one
# that runs to the next quote
PANDAS_NOTHING = {"nan", "null", "none", "na", "n/a", "#n/a", "#na", "-nan", "1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan"}
LETTERS = st.characters(exclude_categories=("Cs", "Cc", "Cn"))
NAMES = st.text(st.one_of(st.sampled_from(" ;\"'%<>&,äñ名"), LETTERS), min_size=1, max_size=8).filter(str.strip)
PANDAS_NAMES = NAMES.filter(lambda name: name.lower() not in PANDAS_NOTHING)


@pytest.fixture
def folder(tmp_path):
    for name in ("a.wav", "b c.wav", "sub/d.wav", "ñ.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"sound")
    return tmp_path


def save(folder: Path, name: str, *lines: str | dict) -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / name).write_text(text + "\n", encoding="utf-8")
    return folder / name


def casts(manifest: Manifest) -> list[tuple[str, tuple[str, ...], int]]:
    return [(recording.path.name, recording.cast, recording.line) for recording in manifest.recordings]


def refused(path: Path, **options) -> str:
    with pytest.raises(ManifestError) as caught:
        read_manifest(path, **options)
    return str(caught.value)


# --- Hugging Face audiofolder ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("metadata.csv", ["file_name,transcription,speakers", "a.wav,hello,Zoë;Ben", "sub/d.wav,,Ann"]),
        (
            "metadata.jsonl",
            [
                {"file_name": "a.wav", "speakers": ["Zoë", "Ben"]},
                {"file_name": "sub/d.wav", "speakers": ["Ann"], "text": "x"},
            ],
        ),
    ],
)
def test_audiofolder_by_its_metadata_or_by_the_folder(folder, name, lines):
    path = save(folder, name, *lines)
    first = path.suffix == ".csv"
    wanted = [("a.wav", ("Zoë", "Ben"), 1 + first), ("d.wav", ("Ann",), 2 + first)]
    assert casts(read_manifest(path)) == wanted
    assert casts(read_manifest(folder)) == wanted
    assert read_manifest(folder).source == path


def test_audiofolder_with_one_speaker_in_each_row(folder):
    path = save(folder, "metadata.csv", "file_name,speaker_id", "a.wav,19", '"b c.wav","Lee; Ann"')
    assert casts(read_manifest(path)) == [("a.wav", ("19",), 2), ("b c.wav", ("Lee; Ann",), 3)]  # no list: one name
    path.unlink()
    save(folder, "metadata.jsonl", {"file_name": "a.wav", "speaker_id": 19}, {"file_name": "ñ.wav", "speaker": " Ann "})
    assert casts(read_manifest(folder)) == [("a.wav", ("19",), 1), ("ñ.wav", ("Ann",), 2)]


@pytest.mark.parametrize("value", [True, None, 1.5, ["Ann"]])
def test_a_speaker_that_is_no_name_is_at_fault(folder, value):
    save(folder, "metadata.jsonl", {"file_name": "a.wav", "speaker_id": value})
    assert "line 1: needed is" in refused(folder)


def test_a_folder_with_no_manifest_or_with_two(folder):
    assert "holds no manifest" in refused(folder)
    save(folder, "metadata.csv", "file_name,speaker", "a.wav,Ann")
    save(folder, "wav.scp", "a a.wav")
    assert "metadata.csv and wav.scp" in refused(folder)


# --- NeMo ------------------------------------------------------------------------------------------------------------


def test_nemo_takes_casts_from_rttm_or_labels_and_parts_together(folder):
    write_rttm(folder / "sub" / "a.rttm", {"a": [Segment(1, 2, "Ben Ü"), Segment(0, 3, "Ann"), Segment(4, 5, "Ann")]})
    write_rttm(folder / "both.rttm", {"b c": [Segment(0, 1, "Cid")], "other": [Segment(0, 1, "Dee")]})
    common = {"offset": 0, "duration": None, "text": "-", "num_speakers": None, "uem_filepath": None}
    path = save(
        folder,
        "list.json",
        {**common, "audio_filepath": "a.wav", "label": "infer", "rttm_filepath": "sub/a.rttm"},
        {**common, "audio_filepath": "b c.wav", "label": "infer", "rttm_filepath": str(folder / "both.rttm")},
        {"audio_filepath": "sub/d.wav", "offset": 0.0, "duration": 3.1, "label": "Eve"},
        "",
        {"audio_filepath": "sub/d.wav", "offset": 3.1, "duration": 2.0, "label": "Ann"},
        {"audio_filepath": "sub/d.wav", "offset": 9.1, "duration": 2.0, "label": "Eve"},
        {"audio_filepath": str(folder / "ñ.wav"), "label": 17, "rttm_filepath": None},
    )
    wanted = [
        ("a.wav", ("Ann", "Ben Ü"), 1),
        ("b c.wav", ("Cid",), 2),
        ("d.wav", ("Eve", "Ann"), 3),
        ("ñ.wav", ("17",), 7),
    ]
    assert casts(read_manifest(path)) == wanted
    assert casts(read_manifest(path.rename(folder / "list.jsonl"))) == wanted


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"audio_filepath": "a.wav", "label": "infer"}, "cast is empty"),
        ({"audio_filepath": "a.wav"}, "cast is empty"),
        ({"audio_filepath": "gone.wav", "label": "Ann"}, "does not exist"),
        ({"audio_filepath": 3, "label": "Ann"}, "needed is"),
        ({"label": "Ann"}, "needed is"),
        ("[1]", "needed is"),
        ("{", "no JSON"),
        ({"audio_filepath": "a.wav", "rttm_filepath": "gone.rttm"}, "gone.rttm"),
        ({"audio_filepath": "a.wav", "label": ["Ann"]}, "speaker is ['Ann']"),
        ({"audio_filepath": "a.wav", "speaker": 4.5, "label": None}, "speaker is 4.5"),
        ({"audio_filepath": "a.wav", "rttm_filepath": 3}, "rttm_filepath is 3"),
        ({"audio_filepath": "a.wav", "rttm_filepath": "two.rttm"}, "none is called 'a'"),
        ({"audio_filepath": "a.wav", "rttm_filepath": "broken.rttm"}, "broken.rttm, line 1"),
    ],
)
def test_a_nemo_line_at_fault_is_named_or_skipped(folder, row, reason):
    write_rttm(folder / "two.rttm", {"x": [Segment(0, 1, "Cid")], "y": [Segment(0, 1, "Dee")]})
    save(folder, "broken.rttm", "SPEAKER a 1 x")
    path = save(folder, "list.json", {"audio_filepath": "b c.wav", "label": "Ann"}, row)
    message = refused(path)
    assert "line 2: " in message
    assert reason in message
    manifest = read_manifest(path, skip_bad=True)
    assert casts(manifest) == [("b c.wav", ("Ann",), 1)]
    assert [skipped.line for skipped in manifest.skipped] == [2]


# --- Kaldi -----------------------------------------------------------------------------------------------------------


def test_kaldi_without_segments_an_utterance_is_a_recording(folder):
    path = save(folder, "wav.scp", "u1 a.wav", "", f"u2\t{folder}/b c.wav ")
    save(folder, "utt2spk", "u1  Zoë", "u2 Ben")
    wanted = [("a.wav", ("Zoë",), 1), ("b c.wav", ("Ben",), 3)]
    assert casts(read_manifest(folder)) == wanted
    assert casts(read_manifest(path)) == wanted


def test_kaldi_with_segments_a_cast_is_everybody_who_has_an_utterance(folder):
    save(folder, "wav.scp", "r1 a.wav", "r2 sub/d.wav")
    save(folder, "segments", "u1 r1 0.0 1.5", "u2 r1 1.5 2.5", "u3 r2 0 1", "u4 r1 3 4")
    save(folder, "utt2spk", "u4 Ben", "u3 Cid", "u2 Ann", "u1 Ben")
    assert casts(read_manifest(folder)) == [("a.wav", ("Ben", "Ann"), 1), ("d.wav", ("Cid",), 2)]


def test_kaldi_names_are_meant_from_its_folder_or_the_working_folder(folder, monkeypatch):
    save(folder, "data/train/wav.scp", "u1 sub/d.wav")
    save(folder, "data/train/utt2spk", "u1 Ann")
    assert "does not exist" in refused(folder / "data" / "train")
    monkeypatch.chdir(folder)
    assert casts(read_manifest(folder / "data" / "train")) == [("d.wav", ("Ann",), 1)]
    monkeypatch.chdir("/")
    assert casts(read_manifest(folder / "data" / "train", audio_folder=folder)) == [("d.wav", ("Ann",), 1)]


@pytest.mark.parametrize("command", ["touch {} |", "| tee {}", "sph2pipe -f wav x.sph > {} ; cat a.wav|"])
def test_kaldi_commands_are_refused_and_nothing_is_executed(folder, command):
    proof = folder / "proof"
    save(folder, "wav.scp", "u1 a.wav", f"u2 {command.format(proof)}")
    save(folder, "utt2spk", "u1 Ann", "u2 Ben")
    assert "line 2: " in refused(folder)
    assert "none is executed" in refused(folder)
    assert casts(read_manifest(folder, skip_bad=True)) == [("a.wav", ("Ann",), 1)]
    assert not proof.exists()


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"utt2spk": None}, "utt2spk does not exist"),
        ({"utt2spk": "u1 Ann Lee"}, "utt2spk, line 1: 3 fields where UTTERANCE SPEAKER is needed"),
        ({"utt2spk": "u1 Ann\nu1 Ben"}, "utt2spk, line 2: 'u1' is there twice, first on line 1"),
        ({"utt2spk": "u1 Ann\nu9 Ben"}, "utt2spk, line 2: there is no recording 'u9'"),
        ({"utt2spk": "u1 Ann\nu9 Ben", "segments": "u1 u1 0 1"}, "utt2spk, line 2: the utterance 'u9' is not in"),
        ({"segments": "u1 u1 0 1\nu2 u1 1 2"}, "segments, line 2: the utterance 'u2' has no speaker"),
        ({"segments": "u1 u9 0 1"}, "segments, line 1: there is no recording 'u9'"),
        ({"segments": "u1 u1 0"}, "segments, line 1: 3 fields"),
        ({"wav.scp": "u1 a.wav\nu1 sub/d.wav"}, "wav.scp, line 2: 'u1' is there twice"),
        ({"wav.scp": "u1"}, "wav.scp, line 1: 1 fields"),
        ({"wav.scp": "u1 a.wav\nu2 sub/d.wav"}, "line 2: .*cast is empty"),
        ({"wav.scp": ""}, "there is no recording 'u1'"),
    ],
)
def test_kaldi_files_that_do_not_fit_together(folder, files, reason):
    for name, text in ({"wav.scp": "u1 a.wav", "utt2spk": "u1 Ann"} | files).items():
        if text is not None:
            save(folder, name, text)
    assert re.search(reason, refused(folder / "wav.scp"))


# --- pyannote.database -----------------------------------------------------------------------------------------------


def database(folder: Path, subset: dict, *, audio: object = "{uri}.wav", scope: str | None = "global", **more) -> Path:
    protocol = {"train": subset} if scope is None else {"scope": scope, "train": subset}
    content = {
        "Databases": {"My": audio},
        "Protocols": {"My": {"SpeakerDiarization": {"Meetings": protocol} | more}},
    }
    return save(folder, "database.yml", yaml.safe_dump(content))


def as_pyannote_has_it(path: Path, name: str) -> dict[str, set[str]]:
    registry = Registry()
    registry.load_database(path)
    protocol = registry.get_protocol(f"My.SpeakerDiarization.{name}", {"audio": FileFinder(registry)})
    return {Path(file["audio"]).name: set(file["annotation"].labels()) for file in protocol.train()}


TURNS = {
    "a": [Segment(0, 1, "Zoë"), Segment(0.5, 2, "Ben"), Segment(3, 4, "Zoë")],
    "b%20c": [Segment(0, 1, "Cid")],
    "ñ": [Segment(0, 1, "名前")],
}


def lines_of(uri: str) -> str:
    return "".join(
        f"SPEAKER {uri} 1 {turn.start} {turn.end - turn.start} <NA> <NA> {turn.speaker} <NA> <NA>\n"
        for turn in TURNS[uri]
    )


@pytest.mark.parametrize("audio", ["{uri}.wav", ["no/{uri}.wav", "{uri}.wav"], "**/{uri}.wav"])
@pytest.mark.parametrize("template", [False, True])
def test_database_yml_gives_the_casts_pyannote_gives(folder, audio, template, monkeypatch):
    (folder / "b c.wav").rename(folder / "b%20c.wav")
    save(folder, "lists/train.lst", *TURNS)
    if template:
        for uri in TURNS:
            save(folder, f"truth/train/{uri}.rttm", lines_of(uri))
    else:
        save(folder, "all.rttm", *(lines_of(uri) for uri in TURNS))
    annotation = "truth/{subset}/{uri}.rttm" if template else "all.rttm"
    path = database(folder, {"uri": "lists/train.lst", "annotation": annotation}, audio=audio)
    manifest = read_manifest(path)
    assert casts(manifest) == [
        ("a.wav", ("Zoë", "Ben"), 1),
        ("b%20c.wav", ("Cid",), 2),
        ("ñ.wav", ("名前",), 3),
    ]
    assert manifest.source == folder / "lists" / "train.lst"
    assert {name: set(cast) for name, cast, _ in casts(manifest)} == as_pyannote_has_it(path, "Meetings")
    assert read_manifest(folder) == manifest
    monkeypatch.chdir(folder)
    assert casts(read_manifest("database.yml")) == casts(manifest)


def test_one_of_several_protocols_is_named_after_the_file(folder):
    save(folder, "train.lst", "a")
    save(folder, "dev.lst", "ñ")
    save(folder, "all.rttm", *(lines_of(uri) for uri in TURNS))
    lists = {"uri": "train.lst", "annotation": "all.rttm"}
    other = {"scope": "database", "train": lists, "development": lists | {"uri": "dev.lst"}}
    path = database(folder, lists, Others=other)
    message = refused(path)
    assert "has 2 lists to train from" in message
    assert "My.SpeakerDiarization.Others.development" in message
    name = f"{path}#My.SpeakerDiarization.Others"
    assert casts(read_manifest(name)) == [("a.wav", ("Zoë", "Ben"), 1)]
    assert casts(read_manifest(f"{name}.development")) == [("ñ.wav", ("名前",), 1)]
    assert "has no list 'My.SpeakerDiarization.Other'" in refused(Path(f"{path}#My.SpeakerDiarization.Other"))
    assert {name: set(cast) for name, cast, _ in casts(read_manifest(name))} == as_pyannote_has_it(path, "Others")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"scope": "file"}, "hold within one recording"),
        ({"scope": None}, "hold within one recording"),
        ({"subset": {"uri": "train.lst"}}, "names no file as 'annotation'"),
        ({"subset": {"annotation": "all.rttm"}}, "names no file as 'uri'"),
        ({"subset": {"uri": "gone.lst", "annotation": "all.rttm"}}, "gone.lst does not exist"),
        ({"subset": {"uri": "train.lst", "annotation": "gone.rttm"}}, r"gone\.rttm"),
        ({"subset": {"uri": "train.lst", "annotation": "{uri.__class__}{who}.rttm"}}, "{who}"),
        ({"audio": "gone/{uri}.wav"}, "there is no audio of 'a'"),
        ({"audio": ["{uri}.wav", "./{uri}.*"]}, "2 files fit 'a'"),
        ({"audio": None}, "does not say where the audio"),
        ({"audio": [3]}, "does not say where the audio"),
    ],
)
def test_database_yml_from_which_no_cast_can_be_taken(folder, change, reason):
    save(folder, "train.lst", "a")
    save(folder, "all.rttm", lines_of("a"))
    given = {"subset": {"uri": "train.lst", "annotation": "all.rttm"}} | change
    assert re.search(reason, refused(database(folder, given.pop("subset"), **given)))


@pytest.mark.parametrize(
    "text", ["", "[1, 2]", "Protocols: 3", "Protocols: {My: [1]}", "a: [", "!!python/object/apply:os.getcwd []", "\0"]
)
def test_yaml_that_is_no_database(folder, text):
    save(folder, "database.yml", text)
    assert "database.yml" in refused(folder)


def test_a_recording_of_which_the_truth_does_not_tell_has_no_cast(folder):
    save(folder, "train.lst", "a", "", "ñ")
    save(folder, "all.rttm", lines_of("a"))
    path = database(folder, {"uri": "train.lst", "annotation": "all.rttm"})
    assert "line 3: " in refused(path)
    assert "its cast is empty" in refused(path)
    assert casts(read_manifest(path, skip_bad=True)) == [("a.wav", ("Zoë", "Ben"), 1)]


def test_without_pyyaml_the_extra_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    save(folder, "database.yml", "Protocols: {}")
    with pytest.raises(RequestError, match=r"weigher\[yaml\]"):
        read_manifest(folder)


# --- RTTM and UEM against pyannote -----------------------------------------------------------------------------------

spans = st.tuples(st.integers(0, 9000), st.integers(1, 900)).map(lambda span: (span[0] / 8, sum(span) / 8))
turns = st.lists(st.tuples(spans, PANDAS_NAMES), min_size=1, max_size=5)


@given(PANDAS_NAMES, turns)
@example("a b", [((0.0, 1.0), "Ann; \"Lee\" 'x' 100%"), ((0.5, 2.0), "<NA>"), ((0.5, 2.0), ";;名\u3000Ñ")])
def test_pyannote_reads_the_rttm_we_write_name_for_name(tmp_path_factory, file_id, spoken):
    path = tmp_path_factory.getbasetemp() / "ours.rttm"
    write_rttm(path, {file_id: [Segment(*span, name) for span, name in spoken]})
    (loaded,) = load_rttm(path).values()
    assert unescape_name(loaded.uri) == file_id
    read = [(s.start, s.end, unescape_name(label)) for s, _, label in loaded.itertracks(yield_label=True)]
    assert sorted(read) == sorted((*span, name) for span, name in spoken)


@given(PANDAS_NAMES, turns)
def test_we_read_the_rttm_pyannote_writes(tmp_path_factory, file_id, spoken):
    # pyannote.core writes names as they are, so those with spaces need to be escaped before
    annotation = Annotation(uri=escape_name(file_id))
    for index, (span, name) in enumerate(spoken):
        annotation[Stretch(*span), index] = escape_name(name)
    path = tmp_path_factory.getbasetemp() / "theirs.rttm"
    with path.open("w", encoding="utf-8") as file:
        annotation.write_rttm(file)
    (read,) = read_rttm(path).items()
    assert read[0] == file_id
    assert sorted((t.start, t.end, t.speaker) for t in read[1]) == sorted((*span, name) for span, name in spoken)


@given(PANDAS_NAMES, st.lists(spans, min_size=1, max_size=4, unique=True))
def test_uem_goes_there_and_back(tmp_path_factory, file_id, regions):
    path = tmp_path_factory.getbasetemp() / "scored.uem"
    write_uem(path, {file_id: regions})
    (timeline,) = load_uem(path).values()
    assert unescape_name(timeline.uri) == file_id
    assert [(region.start, region.end) for region in timeline] == sorted(regions)
    with path.open("w", encoding="utf-8") as file:
        Timeline([Stretch(*region) for region in regions], uri=escape_name(file_id)).write_uem(file)
    assert read_uem(path) == {file_id: sorted(regions)}

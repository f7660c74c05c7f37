"""People known by name, through the command line, on voices that are plain spectra and a model that learned them."""

import json
import shutil

import numpy as np
import pytest

from made_up import small_settings
from weigher.cli.main import main
from weigher.io.features import Features, write_features
from weigher.io.manifest import write_cast_csv
from weigher.io.rttm import read_rttm
from weigher.recordings.configs import overlay
from weigher.recordings.diarizer import Diarizer, DiarizerConfig
from weigher.recordings.index import PeopleIndex

HOP, BANDS, PEOPLE = 0.02, 12, ("Ann Löf", "Ben; jr", "Cid", "Dee")
SETTINGS = small_settings(listen=100, weigh=100)


def talk(cast, rng, turns=8):
    """Turns of 1 to 2.4 s and pauses: rows [t, BANDS]."""
    rows = []
    for turn in range(turns):
        spectrum = 2 * np.cos(np.arange(BANDS) * (PEOPLE.index(cast[turn % len(cast)]) + 1) * np.pi / BANDS)
        rows.append(spectrum + rng.normal(0, 0.7, (int(rng.integers(50, 120)), BANDS)))
        rows.append(rng.normal(-2, 0.3, (int(rng.integers(15, 50)), BANDS)))
    return np.concatenate(rows).astype(np.float32)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Recordings with casts, recordings of single voices, silence, and a model folder."""
    folder, rng, rows = tmp_path_factory.mktemp("world"), np.random.default_rng(0), []

    def write(name, cast):
        write_features(folder / f"{name}.npz", Features(talk(cast, rng), HOP))

    for index in range(30):
        cast = tuple(str(name) for name in rng.choice(PEOPLE, int(rng.integers(1, 4)), replace=False))
        write(f"r{index}", cast)
        rows.append((f"r{index}.npz", cast))
    write_cast_csv(folder / "train.csv", rows)
    write_cast_csv(folder / "cast.csv", rows[:12])
    for i, name in enumerate(PEOPLE):
        for take in range(3):
            write(f"alone{i}{take}", (name,))
    write("meeting", PEOPLE[:2])
    write_features(folder / "silence.npz", Features(rng.normal(-2, 0.3, (300, BANDS)).astype(np.float32), HOP))
    write_features(folder / "hush.npz", Features(np.full((round(70 / HOP), BANDS), -2, np.float32), HOP))
    config = overlay(DiarizerConfig(), SETTINGS, "these tests")
    Diarizer(config=config, seed=1, device="cpu").fit(folder / "train.csv").save_pretrained(folder / "model")
    return folder


def weigher(*arguments):
    return main([str(argument) for argument in arguments])


def enroll(world, index, people=range(4), takes=range(2)):
    for i in people:
        files = [world / f"alone{i}{take}.npz" for take in takes]
        assert weigher("enroll", PEOPLE[i], *files, "--model", world / "model", "--index", index, "--quiet") == 0


@pytest.fixture
def index(world, tmp_path, capsys):
    enroll(world, tmp_path / "index")
    capsys.readouterr()
    return tmp_path / "index"


def printed(capsys):
    return json.loads(capsys.readouterr().out)


def test_enrolled_people_are_called_by_name_and_strangers_unknown(world, tmp_path, capsys):
    enroll(world, tmp_path / "index", people=range(3))
    capsys.readouterr()
    files = [world / f"alone{i}2.npz" for i in range(4)]
    assert (
        weigher("identify", world / "model", *files, "--index", tmp_path / "index", "--max-speakers", 1, "--json") == 0
    )
    found = printed(capsys)
    called = [[speaker["name"] for speaker in recording["speakers"]] for recording in found["recordings"]]
    assert called == [[PEOPLE[0]], [PEOPLE[1]], [PEOPLE[2]], ["unknown1"]]
    stranger = found["recordings"][3]["speakers"][0]
    assert not stranger["known"]
    assert stranger["nearest"] in PEOPLE[:3]
    assert stranger["score"] < found["threshold"]["threshold"]
    assert {turn["speaker"] for turn in found["recordings"][0]["segments"]} == {PEOPLE[0]}
    assert found["threshold"].keys() == {"threshold", "false_accept", "false_reject", "same", "different"}
    assert (found["threshold"]["same"], found["threshold"]["different"]) == (6, 6)


def test_identify_prints_rttm_that_reads_back_with_any_name(world, index, capsys, tmp_path):
    assert weigher("identify", world / "model", world / "meeting.npz", "--index", index, "--num-speakers", 2) == 0
    shown = capsys.readouterr()
    (tmp_path / "out.rttm").write_text(shown.out, encoding="utf-8")
    assert {turn.speaker for turn in read_rttm(tmp_path / "out.rttm")["meeting"]} == set(PEOPLE[:2])
    assert "false accept" in shown.err
    assert "false reject" in shown.err
    assert PEOPLE[0] in shown.err


def test_recordings_of_one_name_are_told_apart_by_their_paths_in_json(world, index, capsys, tmp_path):
    shutil.copy(world / "alone02.npz", tmp_path / "meeting.npz")
    files = [world / "meeting.npz", tmp_path / "meeting.npz"]
    assert weigher("identify", world / "model", *files, "--index", index, "--json", "--quiet") == 0
    assert [one["file"] for one in printed(capsys)["recordings"]] == [str(file) for file in files]
    assert weigher("identify", world / "model", *files, "--index", index) == 2
    assert "the same name" in capsys.readouterr().err


def test_a_cast_enrols_everybody_it_names(world, tmp_path, capsys):
    command = ("enroll", "--cast", world / "cast.csv", "--model", world / "model", "--index", tmp_path / "index")
    assert weigher(*command, "--json", "--quiet", "--false-accept", 0.1) == 0
    told = printed(capsys)
    assert {row["name"] for row in told["enrolled"]} == set(PEOPLE)
    assert sum(row["recordings"] for row in told["enrolled"]) >= 12
    assert told["ambiguous"] == told["failed"] == []
    assert told["thresholds"]["name"]["false_accept"] <= 0.1
    files = [world / f"alone{i}2.npz" for i in range(4)]
    command = ("identify", world / "model", *files, "--index", tmp_path / "index", "--max-speakers", 1, "--json")
    assert weigher(*command, "--quiet") == 0
    nearest = [recording["speakers"][0]["nearest"] for recording in printed(capsys)["recordings"]]
    assert sum(name == truth for name, truth in zip(nearest, PEOPLE, strict=True)) >= 3


def test_casts_that_tell_nobody_apart(world, tmp_path, capsys):
    write_cast_csv(world / "twins.csv", [("meeting.npz", PEOPLE[:2])])
    command = ("enroll", "--cast", world / "twins.csv", "--model", world / "model", "--index", tmp_path / "index")
    assert weigher(*command) == 2
    assert "always appear together" in capsys.readouterr().err


def test_search_says_in_which_recordings_and_when(world, index, capsys, monkeypatch):
    files = [world / "meeting.npz", world / "alone02.npz", world / "alone32.npz"]
    assert weigher("identify", world / "model", *files, "--index", index, "--remember", "--quiet") == 0
    capsys.readouterr()
    assert weigher("search", world / "model", world / "alone01.npz", "--index", index, "--top", 4, "--json") == 0
    found = printed(capsys)
    assert found["recordings"] == 11
    names = [hit["recording"] for hit in found["hits"]]
    assert names[0] == str(world / "alone01.npz")  # itself, which was enrolled
    assert set(names[1:]) == {str(world / f"{name}.npz") for name in ("alone00", "alone02", "meeting")}
    assert all(hit["same"] and hit["name"] == PEOPLE[0] for hit in found["hits"][:2])
    assert [hit["score"] for hit in found["hits"]] == sorted((hit["score"] for hit in found["hits"]), reverse=True)
    assert all(0 <= start < end < 30 for hit in found["hits"] for start, end in hit["turns"])
    assert found["threshold"]["false_accept"] is not None
    asked, search = [], PeopleIndex.search

    def spy(people, embedding, top, *, exact):
        asked.append(exact)
        return search(people, embedding, top, exact=exact)

    monkeypatch.setattr(PeopleIndex, "search", spy)
    one_by_one = ("search", world / "model", world / "alone01.npz", "--index", index, "--top", 4, "--exact", "--json")
    assert weigher(*one_by_one) == 0
    assert printed(capsys) == found  # of so few, all are compared in any case
    assert asked == [True]
    assert weigher("search", world / "model", world / "alone01.npz", "--index", index) == 0
    shown = capsys.readouterr()
    assert "same voice" in shown.out
    assert "false accept" in shown.err


def test_an_archive_is_searched_before_anybody_is_known(world, tmp_path, capsys):
    command = ("identify", world / "model", world / "meeting.npz", "--index", tmp_path / "new", "--remember", "--json")
    assert weigher(*command) == 0
    found = printed(capsys)
    assert all(speaker["name"].startswith("unknown") for speaker in found["recordings"][0]["speakers"])
    assert found["threshold"]["false_accept"] is None
    assert weigher("search", world / "model", world / "alone00.npz", "--index", tmp_path / "new", "--json") == 0
    assert [hit["recording"] for hit in printed(capsys)["hits"]] == [str(world / "meeting.npz")]
    assert weigher("people", "list", "--index", tmp_path / "new", "--json") == 0
    assert printed(capsys)["people"] == []


def test_people_are_listed_renamed_merged_exported_and_forgotten(world, index, capsys, tmp_path):
    assert weigher("people", "list", "--index", index) == 0
    shown = capsys.readouterr()
    assert all(name in shown.out for name in PEOPLE)
    assert "held-out pairs" in shown.err
    assert weigher("people", "rename", "Cid", "Çid ; 2", "--index", index, "--json") == 0
    assert printed(capsys) == {"renamed": "Cid", "to": "Çid ; 2"}
    assert weigher("people", "merge", "Dee", "Çid ; 2", "--index", index, "--json") == 0
    assert printed(capsys) == {"merged": ["Dee"], "into": "Çid ; 2"}
    assert weigher("people", "list", "--index", index, "--json") == 0
    listed = printed(capsys)
    assert [(row["name"], row["vectors"], row["recordings"]) for row in listed["people"]] == [
        ("Ann Löf", 2, 2),
        ("Ben; jr", 2, 2),
        ("Çid ; 2", 4, 4),
    ]
    assert (listed["width"], listed["recordings"], listed["slots"]) == (32, 8, 8)
    assert weigher("people", "export", "Ann Löf", "--index", index) == 0
    (ann,) = printed(capsys)["people"]
    vectors = [np.array(each["vector"], "<f4") for each in ann["vectors"]]
    assert [each["source"] for each in ann["vectors"]] == [str(world / f"alone0{take}.npz") for take in range(2)]
    out = tmp_path / "out" / "people.json"
    assert weigher("people", "export", "--index", index, "--out", out, "--json") == 0
    assert printed(capsys) == {"written": str(out), "people": 3}
    assert len(json.loads(out.read_text(encoding="utf-8"))["people"]) == 3
    assert weigher("people", "forget", "Ann Löf", "Ben; jr", "Ann Löf", "--index", index, "--json") == 0
    assert [(row["name"], row["vectors"]) for row in printed(capsys)["forgotten"]] == [("Ann Löf", 2), ("Ben; jr", 2)]
    assert weigher("people", "list", "--index", index, "--json") == 0
    assert [row["name"] for row in printed(capsys)["people"]] == ["Çid ; 2"]
    content = b"".join(path.read_bytes() for path in index.rglob("*") if path.is_file())
    assert all(vector.tobytes() not in content for vector in vectors)


def test_thresholds_stand_on_those_who_are_left(index, capsys):
    def pairs():
        assert weigher("people", "list", "--index", index, "--json") == 0
        return printed(capsys)["thresholds"]["name"]["same"]

    before = pairs()
    assert weigher("people", "forget", "Ben; jr", "--index", index, "--json") == 0
    capsys.readouterr()
    assert 0 < pairs() < before


WRONG = {
    "no name": (("enroll", "--model", "{model}", "--index", "{new}"), "nobody to enrol"),
    "no files": (("enroll", "Ann", "--model", "{model}", "--index", "{new}"), "nobody to enrol"),
    "no name but files": (("enroll", "{one}", "{one}", "--model", "{model}", "--index", "{new}"), "is a file"),
    "both": (("enroll", "Ann", "{one}", "--cast", "{cast}", "--model", "{model}", "--index", "{new}"), "both NAME"),
    "reserved": (("enroll", "unknown2", "{one}", "--model", "{model}", "--index", "{new}"), "unknown2"),
    "rate": (("enroll", "A", "{one}", "--model", "{model}", "--index", "{new}", "--false-accept", "1"), "below 1"),
    "no audio": (("enroll", "A", "{gone}", "--model", "{model}", "--index", "{new}"), "gone.npz"),
    "silence": (("enroll", "A", "{silence}", "--model", "{model}", "--index", "{new}"), "nobody is heard"),
    "no model": (("identify", "{gone}", "{one}", "--index", "{index}"), "no model folder"),
    "no recording": (("identify", "{model}", "--index", "{index}"), "no recording was given"),
    "no index": (("identify", "{model}", "{one}", "--index", "{new}"), "no index of people"),
    "nobody known": (("identify", "{model}", "{one}", "--index", "{empty}"), "knows nobody yet"),
    "nothing kept": (("search", "{model}", "{one}", "--index", "{empty}"), "holds no recordings"),
    "silent clip": (("search", "{model}", "{silence}", "--index", "{index}"), "nobody is heard"),
    "none asked for": (("search", "{model}", "{one}", "--index", "{index}", "--top", "0"), "--top is 0"),
    "other model": (("identify", "{other}", "{one}", "--index", "{index}"), "Use the model it was made with"),
    "other model, enrol": (("enroll", "A", "{one}", "--model", "{other}", "--index", "{index}"), "Use the model"),
    "unknown name": (("people", "rename", "Anne Löf", "A", "--index", "{index}"), "did you mean 'Ann Löf'"),
    "taken name": (("people", "rename", "Cid", "Dee", "--index", "{index}"), "merge 'Cid' into 'Dee'"),
    "one to merge": (("people", "merge", "Cid", "--index", "{index}"), "two names"),
    "forget whom": (("people", "forget", "--index", "{index}"), "nobody is named"),
    "forget a stranger": (("people", "forget", "Cid", "Zoë", "--index", "{index}"), "nobody called 'Zoë'"),
    "damaged": (("people", "list", "--index", "{damaged}"), "damaged"),
    "no place": (("enroll", "A", "{one}", "--model", "{model}", "--index", "{one}"), "cannot make the index folder"),
}


def test_nobody_is_named_in_a_long_hush(world, index, capsys):
    """Of several windows: where one person is found in none, there is not one voice to compare."""
    assert weigher("identify", world / "model", world / "hush.npz", "--index", index, "--max-speakers", 0) == 0
    assert weigher("identify", world / "model", world / "hush.npz", "--index", index, "--json") == 0
    capsys.readouterr()


@pytest.fixture(scope="module")
def places(world, tmp_path_factory):
    """What requests name: an index with people, an empty one, a damaged one, another model."""
    folder = tmp_path_factory.mktemp("places")
    enroll(world, folder / "index")
    enroll(world, folder / "empty", people=[0], takes=[0])
    assert weigher("people", "forget", PEOPLE[0], "--index", folder / "empty", "--json") == 0
    command = ("identify", world / "model", world / "silence.npz", "--index", folder / "empty", "--remember", "--quiet")
    assert weigher(*command) == 0
    (folder / "damaged").mkdir()
    (folder / "damaged" / "people.sqlite").write_bytes(b"nonsense" * 1000)
    other = Diarizer.from_pretrained(world / "model", device="cpu")
    assert other.model_ is not None
    with_change = dict(other.model_.named_parameters())
    next(iter(with_change.values())).data += 1e-3
    other.save_pretrained(folder / "other")
    names = {name: folder / name for name in ("index", "empty", "damaged", "other", "new")}
    names |= {"model": world / "model", "one": world / "alone00.npz", "silence": world / "silence.npz"}
    return names | {"gone": folder / "gone.npz", "cast": world / "cast.csv"}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_requests_are_one_message_and_code_2(places, capsys, kind):
    command, said = WRONG[kind]
    before = (places["index"] / "people.sqlite").read_bytes()
    assert weigher(*(part.format(**places) for part in command)) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""
    assert (places["index"] / "people.sqlite").read_bytes() == before
    shutil.rmtree(places["new"], ignore_errors=True)


def test_bad_recordings_are_left_out_on_request(world, index, capsys, tmp_path):
    (tmp_path / "bad.npz").write_bytes(b"PK nonsense")
    good, bad = world / "alone02.npz", tmp_path / "bad.npz"
    command = ("enroll", PEOPLE[0], good, bad, "--model", world / "model", "--index", index)
    assert weigher(*command) == 2
    assert "bad.npz" in capsys.readouterr().err
    assert weigher(*command, "--skip-bad", "--json") == 0
    shown = capsys.readouterr()
    told = json.loads(shown.out)
    assert told["enrolled"] == [{"name": PEOPLE[0], "recordings": 1, "agreement": pytest.approx(1, abs=1)}]
    assert [row["file"] for row in told["failed"]] == [str(bad)]
    assert "left out" in shown.err
    command = ("identify", world / "model", bad, good, "--index", index, "--skip-bad", "--json")
    assert weigher(*command) == 0
    found = printed(capsys)
    assert (len(found["recordings"]), len(found["failed"])) == (1, 1)
    assert weigher("identify", world / "model", bad, "--index", index, "--skip-bad", "--json") == 1

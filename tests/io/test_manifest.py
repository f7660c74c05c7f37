import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from weigher.errors import RequestError
from weigher.io.audio import audio_seconds, write_audio
from weigher.io.manifest import (
    Manifest,
    ManifestError,
    Recording,
    check_cast_sizes,
    check_readable,
    indistinguishable,
    read_manifest,
    write_cast_csv,
)

SPEECH = Path(__file__).parents[3] / "shared" / "data" / "speech"
HEADER = "file_name,speakers\n"


@pytest.fixture
def folder(tmp_path):
    for name in ("a.wav", "b c.flac", "ñ;,x.wav", "sub/d.wav", "e.v2.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"sound")
    return tmp_path


def save(folder: Path, content: str | bytes, name: str = "cast.csv") -> Path:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder / name


def casts(manifest: Manifest) -> dict[str, tuple[str, ...]]:
    return {
        recording.path.relative_to(manifest.source.parent).as_posix(): recording.cast
        for recording in manifest.recordings
    }


def refused(path: Path, **options) -> str:
    with pytest.raises(ManifestError) as caught:
        read_manifest(path, **options)
    assert isinstance(caught.value, RequestError)
    assert str(path) in str(caught.value)
    return str(caught.value)


# --- what is read -----------------------------------------------------------------------------------------------------


def test_csv(folder):
    content = HEADER + 'a.wav,Ann; Ben ;Zoë Ñandú\n\n"ñ;,x.wav", Ann \nsub/d.wav,"Smith, J.;Ben"\n,\n'
    manifest = read_manifest(save(folder, content))
    assert casts(manifest) == {
        "a.wav": ("Ann", "Ben", "Zoë Ñandú"),
        "ñ;,x.wav": ("Ann",),
        "sub/d.wav": ("Smith, J.", "Ben"),
    }
    assert [recording.line for recording in manifest.recordings] == [2, 4, 5]
    assert manifest.source == folder / "cast.csv"
    assert manifest.skipped == ()


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbffile_name,speakers\na.wav,Ann\n",
        b"file_name,speakers\r\na.wav,Ann\r\n",
        b"file_name,speakers\ra.wav,Ann",
        b"\n file_name , speakers \n a.wav ,\tAnn\n",
        b"note,speakers,seconds,file_name\nx,Ann,3,a.wav\n",
        b'"file_name","speakers"\n"a.wav","Ann"\n',
    ],
)
def test_csv_as_other_programs_write_it(folder, content):
    assert casts(read_manifest(save(folder, content))) == {"a.wav": ("Ann",)}


def test_lines_are_those_an_editor_shows_even_after_a_name_of_two_lines(folder):
    manifest = read_manifest(save(folder, HEADER + 'a.wav,"Ann\nLee;Ben"\nb c.flac,Ann\n'))
    assert [(recording.line, recording.cast[0]) for recording in manifest.recordings] == [(2, "Ann\nLee"), (4, "Ann")]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (r"a\;b;c", ("a;b", "c")),
        (r"a\\;b", ("a\\", "b")),
        (r"a\\\;b", ("a\\;b",)),
        (r"CORP\ann;b\n", ("CORP\\ann", "b\\n")),
        ("a\\", ("a\\",)),
        (r"\;", (";",)),
    ],
)
def test_escaped_names(folder, text, names):
    assert casts(read_manifest(save(folder, f"{HEADER}a.wav,{text}\n"))) == {"a.wav": names}


def test_json_lines(folder):
    rows = [
        {"file_name": "a.wav", "speakers": ["Ann;x", " Zoë "], "n": 1},
        {"file_name": "sub/d.wav", "speakers": ["B\\"]},
    ]
    text = "\ufeff" + "\r\n\n".join(json.dumps(row) for row in rows)
    manifest = read_manifest(save(folder, text, "cast.jsonl"))
    assert casts(manifest) == {"a.wav": ("Ann;x", "Zoë"), "sub/d.wav": ("B\\",)}
    assert [recording.line for recording in manifest.recordings] == [1, 3]


def test_rttm_without_its_times(folder):
    lines = [
        "SPEAKER sub/d 1 5.0 1.0 <NA> <NA> Ben <NA> <NA>",
        "SPEAKER a 1 0.5 1.0 <NA> <NA> Ann%20Lee <NA> <NA>",
        ";; a comment",
        "SPEAKER sub/d 1 0.5 1.0 <NA> <NA> Ben <NA> <NA>",
        "SPEAKER sub/d 1 0.1 0.2 <NA> <NA> Ann <NA> <NA>",
        "SPEAKER e.v2 1 0.1 0.2 <NA> <NA> Zoë <NA> <NA>",
        "SPEAKER b%20c 1 0.1 0.2 <NA> <NA> Zoë <NA> <NA>",
    ]
    manifest = read_manifest(save(folder, "\n".join(lines), "x.rttm"))
    found = {name: set(cast) for name, cast in casts(manifest).items()}
    assert found == {"sub/d.wav": {"Ann", "Ben"}, "a.wav": {"Ann Lee"}, "e.v2.wav": {"Zoë"}, "b c.flac": {"Zoë"}}
    assert {recording.path.name: recording.line for recording in manifest.recordings} == {
        "d.wav": 1,
        "a.wav": 2,
        "e.v2.wav": 6,
        "b c.flac": 7,
    }


def test_rttm_in_another_folder_and_with_two_files_that_fit(folder):
    (folder / "lists").mkdir()
    path = save(folder / "lists", "SPEAKER a 1 0.5 1.0 <NA> <NA> Ann <NA> <NA>\n", "x.rttm")
    assert "line 1" in refused(path)
    assert "does not exist" in refused(path)
    (recording,) = read_manifest(path, audio_folder=folder).recordings
    assert recording.path == folder / "a.wav"
    (folder / "a.flac").touch()
    assert "several files fit" in refused(path, audio_folder=folder)


def test_folder_of_the_audio_and_absolute_names(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    path = save(elsewhere, f"{HEADER}a.wav,Ann\n{folder / 'sub' / 'd.wav'},Ben\n")
    manifest = read_manifest(path, audio_folder=folder)
    assert [recording.path for recording in manifest.recordings] == [folder / "a.wav", folder / "sub" / "d.wav"]


@pytest.mark.parametrize("typed", ["NFC", "NFD"])
@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
def test_accents_typed_on_another_system(tmp_path, typed, on_disk):
    (tmp_path / unicodedata.normalize(on_disk, "ñ.wav")).touch()
    name = unicodedata.normalize(typed, "ñ.wav,Zoë")
    (recording,) = read_manifest(save(tmp_path, HEADER + name)).recordings
    assert recording.path.is_file()
    assert recording.cast == (unicodedata.normalize("NFC", "Zoë"),)


def test_the_spelling_in_the_manifest_wins_where_both_are_on_disk(tmp_path):
    names = [unicodedata.normalize(form, "ñ.wav") for form in ("NFC", "NFD")]
    for name in names:
        (tmp_path / name).touch()
    manifest = read_manifest(save(tmp_path, f"{HEADER}{names[0]},Ann\n{names[1]},Ben\n"))
    assert [recording.path.name for recording in manifest.recordings] == names


# --- what is refused --------------------------------------------------------------------------------------------------

BAD_ROWS = [
    ("none.wav,Ann", "none.wav does not exist"),
    ("sub,Ann", "is no file"),
    ("a.wav,Ben", "listed twice, first on line 2"),
    ("./sub/../a.wav,Ben", "listed twice, first on line 2"),
    ("b c.flac,", "its cast is empty"),
    ("b c.flac,Ann;Ben;Ann", "names 'Ann' twice"),
    ("b c.flac,Ann; Ann", "names 'Ann' twice"),
    ("b c.flac,Zoe\u0308;Zo\u00eb", "twice"),
    ("b c.flac,Ann;;Ben", "an empty name"),
    ("b c.flac,Ann;", "an empty name"),
    (",Ann", "names no file"),
    ("b c.flac", "1 value where the header has 2"),
    ("b c.flac,Ann,Ben", "3 values where the header has 2"),
]


@pytest.mark.parametrize(("row", "reason"), BAD_ROWS)
def test_a_row_at_fault_is_named_or_skipped(folder, row, reason):
    path = save(folder, f"{HEADER}a.wav,Ann\n{row}\nsub/d.wav,Ben\n")
    message = refused(path)
    assert "line 3: " in message
    assert reason in message
    manifest = read_manifest(path, skip_bad=True)
    assert casts(manifest) == {"a.wav": ("Ann",), "sub/d.wav": ("Ben",)}
    (skipped,) = manifest.skipped
    assert skipped.line == 3
    assert reason in skipped.reason
    named = row.split(",")[0].split("/")[-1]
    assert (skipped.path.name if skipped.path else "") in (named, "")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{", "no JSON"),
        ("[]", "needed is"),
        ('"a.wav"', "needed is"),
        ('{"file_name": "b c.flac"}', "needed is"),
        ('{"file_name": 3, "speakers": ["Ann"]}', "needed is"),
        ('{"file_name": "b c.flac", "speakers": "Ann"}', "needed is"),
        ('{"file_name": "b c.flac", "speakers": [1]}', "needed is"),
        ('{"file_name": "b c.flac", "speakers": []}', "cast is empty"),
        ('{"file_name": "b c.flac", "speakers": [" "]}', "an empty name"),
        ('{"file_name": "b c.flac", "speakers": ["\\ud800"]}', "no valid Unicode"),
        ('{"file_name": "none.wav", "speakers": ["Ann"]}', "does not exist"),
        ('{"file_name": "\\u0000", "speakers": ["Ann"]}', "does not exist"),
        ("[" * 100_000, "no JSON"),
    ],
)
def test_a_line_of_json_at_fault_is_named_or_skipped(folder, row, reason):
    path = save(folder, f'{{"file_name": "a.wav", "speakers": ["Ann"]}}\n{row}\n', "cast.jsonl")
    message = refused(path)
    assert "line 2: " in message
    assert reason in message
    manifest = read_manifest(path, skip_bad=True)
    assert [(skipped.line, reason in skipped.reason) for skipped in manifest.skipped] == [(2, True)]
    assert casts(manifest) == {"a.wav": ("Ann",)}


def test_all_problems_come_in_one_message_ten_of_them_in_full(folder):
    rows = [f"none{i}.wav,Ann" for i in range(13)]
    message = refused(save(folder, HEADER + "\n".join(["a.wav,Ann", *rows])))
    assert "13 rows at fault" in message
    assert "skip_bad" in message
    assert "--skip-bad" in message
    assert [f"line {i + 3}: " in message for i in range(13)] == [True] * 10 + [False] * 3
    assert "and 3 more" in message


def test_a_manifest_of_which_nothing_is_left(folder):
    path = save(folder, HEADER + "none.wav,Ann\na.wav,\n")
    assert "no row that can be used" in refused(path, skip_bad=True)
    assert "line 3" in refused(path, skip_bad=True)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("cast.csv", "", "lists no recordings"),
        ("cast.csv", "\n\n", "lists no recordings"),
        ("cast.csv", HEADER, "lists no recordings"),
        ("cast.jsonl", "\n", "lists no recordings"),
        ("x.rttm", "", "lists no recordings"),
        ("cast.csv", "a.wav,Ann\n", "line 1: the header is 'a.wav,Ann'"),
        ("cast.csv", "\nfile_name;speakers\na.wav;Ann\n", "line 2: the header"),
        ("cast.csv", "file_name,who\na.wav,Ann\n", "needs the columns file_name and speakers"),
        ("cast.csv", "file_name,speakers,speakers\na.wav,Ann,Ben\n", "each once"),
        ("cast.csv", HEADER + 'a.wav,Ann\nb c.flac,"Ben\nsub/d.wav,Ann\n', "line 3: this is no CSV"),
        ("cast.csv", HEADER.encode() + b"a.wav,Ann\nsub/d.wav,Zo\xeb\n", "line 3: this is not UTF-8"),
        ("cast.csv", HEADER.encode("utf-16"), "line 1: this is not UTF-8"),
        ("cast.txt", HEADER, "needs to end in .csv"),
    ],
)
@pytest.mark.parametrize("skip_bad", [False, True])
def test_files_that_are_no_manifest(folder, name, content, match, skip_bad):
    assert match in refused(save(folder, content, name), skip_bad=skip_bad)


def test_a_manifest_that_is_not_there_or_is_no_rttm(folder):
    assert "does not exist" in refused(folder / "none.csv")
    with pytest.raises(RequestError, match=r"x\.rttm, line 1"):
        read_manifest(save(folder, "SPEAKER a 1 x y\n", "x.rttm"))


# --- recordings that cannot be read -----------------------------------------------------------------------------------


def test_unreadable_recordings_are_named_with_their_lines_or_skipped(tmp_path):
    for name in ("a.wav", "d.wav"):
        write_audio(tmp_path / name, [0.0] * 160)
    (tmp_path / "b.wav").write_bytes(b"no sound")
    (tmp_path / "c.wav").touch()
    rows = "a.wav,Ann\nb.wav,Ann\nc.wav,Ben\nd.wav,Ben\nnone.wav,Ben\n"
    manifest = read_manifest(save(tmp_path, HEADER + rows), skip_bad=True)
    calls = []
    with pytest.raises(ManifestError) as caught:
        check_readable(manifest, audio_seconds, progress=lambda *call: calls.append(call))
    message = str(caught.value)
    assert calls == [("check", done, 4) for done in (1, 2, 3, 4)]
    assert "2 rows at fault" in message
    assert f"line 3: {tmp_path / 'b.wav'} cannot be read as audio" in message
    assert f"line 4: {tmp_path / 'c.wav'} is empty" in message
    left = check_readable(manifest, audio_seconds, skip_bad=True)
    assert [recording.path.name for recording in left.recordings] == ["a.wav", "d.wav"]
    assert [(skipped.line, skipped.path) for skipped in left.skipped] == [
        (3, tmp_path / "b.wav"),
        (4, tmp_path / "c.wav"),
        (6, tmp_path / "none.wav"),
    ]
    assert check_readable(left, audio_seconds) == left


# --- casts ------------------------------------------------------------------------------------------------------------


def recordings(*casts: str) -> list[Recording]:
    return [Recording(Path(f"{index}.wav"), tuple(cast), index + 2) for index, cast in enumerate(casts)]


def test_casts_larger_than_the_slots(tmp_path):
    check_cast_sizes(recordings("ab", "abc"), 3)
    with pytest.raises(ManifestError) as caught:
        check_cast_sizes(recordings("ab", "abc", "a", "abcd"), 2)
    message = str(caught.value)
    assert "raise slots to 4" in message
    assert "line 3: 1.wav has 3 names" in message
    assert "line 5: 3.wav has 4 names" in message
    assert "0.wav" not in message


@pytest.mark.parametrize(
    ("casts", "once", "together"),
    [
        (("ab", "ac", "bc"), "", []),
        (("ab", "ac", "b"), "c", []),
        (("ab", "ab", "c", "c"), "", ["ab"]),
        (("ab", "ab", "a"), "", []),  # b is never without a, but a is without b: that tells them apart
        (("abcx", "abcy", "xy"), "", ["abc"]),
        (("abcd", "abcd"), "", ["abcd"]),
        (("ab",), "ab", []),  # once is once: not named a second time as a pair
        (("ab", "ab", "cd", "cd"), "", ["ab", "cd"]),
    ],
)
def test_names_that_cannot_be_told_apart(casts, once, together):
    warnings = indistinguishable(recordings(*casts))
    expected = [
        *(["one recording only"] if once else []),
        *(f"{len(group)} names always appear together" for group in together),
    ]
    assert len(warnings) == len(expected)
    for warning, text, names in zip(warnings, expected, [once, *together] if once else together, strict=True):
        assert text in warning
        listed = warning.rsplit(": ", 1)[1].split(", ")
        assert [name[0] for name in listed] == list(names)


@given(st.lists(st.sets(st.sampled_from("abcdef"), min_size=1), min_size=1, max_size=8))
def test_always_together_means_the_same_recordings(sets):
    rows = recordings(*("".join(sorted(names)) for names in sets))
    where = {name: {i for i, names in enumerate(sets) if name in names} for name in set().union(*sets)}
    groups = {
        frozenset(other for other in where if where[other] == where[name]) for name in where if len(where[name]) > 1
    }
    told = [w.rsplit(": ", 1)[1].split(", ") for w in indistinguishable(rows) if "together" in w]
    assert {frozenset(names) for names in told} == {group for group in groups if len(group) > 1}


def test_long_lists_are_cut_and_counted():
    names = [chr(0x4E00 + i) for i in range(48)]
    warnings = indistinguishable(recordings("".join(names[:14])))
    assert "14 names" in warnings[0]
    assert "and 4 more" in warnings[0]
    pairs = ["".join(names[i : i + 2]) for i in range(0, 48, 2)]
    warnings = indistinguishable(recordings(*pairs, *pairs))
    assert len(warnings) == 11
    assert "14 more groups" in warnings[-1]


# --- writing ----------------------------------------------------------------------------------------------------------

NAMES = (
    (st.text(st.characters(exclude_categories=["Cs"]), min_size=1) | st.text(";\\, \"'\n\rñ", min_size=1))
    .map(lambda text: unicodedata.normalize("NFC", text.strip()))
    .filter(bool)
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(NAMES, min_size=1, max_size=4, unique=True), min_size=1, max_size=3))
@example([["a\rb", "c;\rd"], ["x\\", "y\ny", '"', "'"]])
def test_any_names_come_back(tmp_path_factory, rows):
    folder = tmp_path_factory.getbasetemp() / "round"
    folder.mkdir(exist_ok=True)
    files = ['a ,"b;.wav', "ñ.wav", "sub.flac"][: len(rows)]
    for file in files:
        (folder / file).touch()
    write_cast_csv(folder / "cast.csv", zip(files, rows, strict=True))
    manifest = read_manifest(folder / "cast.csv")
    assert casts(manifest) == {file: tuple(names) for file, names in zip(files, rows, strict=True)}


@pytest.mark.parametrize(
    ("file_name", "names"),
    [
        ("a.wav", []),
        ("a.wav", ["Ann", "Ann"]),
        ("a.wav", ["Zoe\u0308", "Zo\u00eb"]),
        ("a.wav", ["Ann", ""]),
        ("a.wav", [" Ann"]),
        ("a.wav", ["\ud800"]),
        ("", ["Ann"]),
        (" a.wav", ["Ann"]),
        ("\udcff.wav", ["Ann"]),
    ],
)
def test_what_would_not_come_back_is_not_written(tmp_path, file_name, names):
    path = save(tmp_path, "old")
    with pytest.raises(ManifestError, match=r"cast\.csv"):
        write_cast_csv(path, [("b.wav", ["Ben"]), (file_name, names)])
    assert path.read_text() == "old"


@pytest.mark.skipif(not SPEECH.is_dir(), reason="the real meeting excerpts of ../shared/data are not on this machine")
def test_real_rttm():
    with pytest.raises(ManifestError, match="trn00"):  # its file is called trñ00, and no list says so
        read_manifest(SPEECH / "ami_excerpts" / "debug.train.rttm")
    manifest = read_manifest(SPEECH / "ami_excerpts" / "debug.train.rttm", skip_bad=True)
    assert len(manifest.recordings) == 9
    assert len(manifest.skipped) == 1
    assert check_readable(manifest, audio_seconds) == manifest

import itertools
import os
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from weigher.errors import RequestError
from weigher.io.rttm import (
    Segment,
    escape_name,
    format_rttm,
    read_rttm,
    read_rttm_tree,
    read_uem,
    read_uem_tree,
    unescape_name,
    write_rttm,
    write_uem,
)

DATA = Path(os.environ.get("WEIGHER_DATA") or Path(__file__).parents[3] / "shared" / "data")
AMI = DATA / "speech" / "timings" / "ami" / "test"
needs_ami = pytest.mark.skipif(not AMI.is_dir(), reason="the AMI timings are not on this machine (WEIGHER_DATA)")

GOOD = "SPEAKER talk 1 0.5 1.5 <NA> <NA> Anna <NA> <NA>"
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
spans = st.tuples(st.integers(0, 10**10), st.integers(1, 10**10)).map(lambda s: (s[0] / 1e6, sum(s) / 1e6))
turns = st.lists(st.builds(lambda span, name: Segment(*span, name), spans, names), min_size=1, max_size=5)


def written(tmp_path: Path, text: str | bytes, name: str = "talk.rttm") -> Path:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_lines_are_read_as_the_format_says(tmp_path):
    text = f""";; a comment
SPKR-INFO talk 1 <NA> <NA> <NA> adult_female Anna <NA>

{GOOD}
SPEAKER talk A 0.1\t0.200 <NA>   <NA> Bo <NA>
SPEAKER other 1 3 1 <NA> <NA> Anna <NA> <NA>
SPEAKER talk 1 9 0 <NA> <NA> Nobody <NA> <NA>
"""
    for content in (text, text.replace("\n", "\r\n"), "\ufeff" + text):
        read = read_rttm(written(tmp_path, content))
        assert read == {
            "talk": [Segment(0.1, 0.3, "Bo"), Segment(0.5, 2.0, "Anna")],
            "other": [Segment(3.0, 4.0, "Anna")],
        }
        assert list(read) == ["talk", "other"]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("SPEAKER talk 1 0.5 1.5 <NA> <NA> Anna Löf <NA> <NA>", "%20 for a space"),
        ("SPEAKER talk 1 0.5", "10 fields"),
        ("talk 1 0.5 1.5", "no RTTM line"),
        ("speaker talk 1 0.5 1.5 <NA> <NA> Anna <NA> <NA>", "no RTTM line"),
        ("SPEAKER talk 1 half 1.5 <NA> <NA> Anna <NA> <NA>", "start is 'half'"),
        ("SPEAKER talk 1 nan 1.5 <NA> <NA> Anna <NA> <NA>", "start is 'nan'"),
        ("SPEAKER talk 1 -0.5 1.5 <NA> <NA> Anna <NA> <NA>", "start is '-0.5'"),
        ("SPEAKER talk 1 0.5 -1 <NA> <NA> Anna <NA> <NA>", "duration is '-1'"),
        ("SPEAKER talk 1 0.5 inf <NA> <NA> Anna <NA> <NA>", "duration is 'inf'"),
        ("SPEAKER talk 1 0.5 1.5 <NA> <NA> <NA> <NA> <NA>", "no speaker"),
        ("x" * 5000, "x" * 100 + r"\.\.\."),
    ],
)
def test_a_bad_line_is_named_with_file_and_line(tmp_path, line, complaint):
    path = written(tmp_path, f"{GOOD}\n\n{line}\n{GOOD}\n")
    with pytest.raises(RequestError, match=complaint) as caught:
        read_rttm(path)
    assert str(caught.value).startswith(f"{path}, line 3: ")
    assert len(str(caught.value)) < len(str(path)) + 350


def test_bytes_that_are_no_utf8_are_named_with_their_line(tmp_path):
    path = written(tmp_path, GOOD.encode() + b"\n" + GOOD.replace("Anna", "L\xf6f").encode("latin-1"))
    with pytest.raises(RequestError, match=r"line 2.*UTF-8"):
        read_rttm(path)


@pytest.mark.parametrize("read", [read_rttm, read_uem, read_rttm_tree, read_uem_tree])
def test_a_file_that_is_not_there_is_named(tmp_path, read):
    with pytest.raises(RequestError, match=r"cannot read .*gone\.txt"):
        read(tmp_path / "gone.txt")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(RequestError, match="cannot read"):
        read_rttm(tmp_path)


@settings(deadline=None)
@given(recordings=st.dictionaries(names, turns, max_size=3))
@example(recordings={"a b;c": [Segment(0.0, 1.0, "Åsa\u3000陳 100%")], ";;x": [Segment(0.0, 1.0, "<NA>")]})
@example(recordings={"%41": [Segment(0.0, 1.0, "%C3%96")], "\ufeff": [Segment(0.0, 1.0, "\x85\x00\n")]})
def test_what_is_written_is_read_back(tmp_path_factory, recordings):
    path = tmp_path_factory.mktemp("rttm") / "all.rttm"
    write_rttm(path, recordings)
    by_time = {file: sorted(t, key=lambda s: (s.start, s.end, s.speaker)) for file, t in recordings.items()}
    assert read_rttm(path) == by_time


@settings(deadline=None)
@given(name=names)
def test_a_name_is_one_field_for_every_reader(name):
    line = format_rttm(name, [Segment(0, 1, name)])
    assert len(line.split()) == 10
    assert line.splitlines() == [line.rstrip("\n")]
    assert unescape_name(escape_name(name)) == name


@settings(deadline=None)
@given(field=st.text())
def test_any_field_can_be_unescaped(field):
    assert "%" in field or unescape_name(field) == field
    assert unescape_name(unescape_name(field).replace("%", "%25")) == unescape_name(field)


@pytest.mark.parametrize("field", ["100%", "%", "%zz", "%FF", "%20%FF", "%C3", "a%2"])
def test_a_percent_sign_that_begins_no_escape_stays(field):
    assert unescape_name(field) == field


@pytest.mark.parametrize("name", ["Anna", "Åsa", "陳大文", "محمد", "a;b", "d'Arc", "<NA>x", "spk-0_1.a", "ف\u200cا"])
def test_names_without_spaces_are_left_alone(name):
    assert escape_name(name) == name


@pytest.mark.parametrize("name", ["", "\ud800"])
def test_names_that_cannot_be_written_are_refused(name):
    with pytest.raises(RequestError):
        escape_name(name)


@pytest.mark.parametrize("times", [(-1.0, 1.0), (2.0, 1.0), (0.0, float("nan")), (0.0, float("inf"))])
def test_wrong_times_are_refused_and_the_old_file_stays(tmp_path, times):
    path = written(tmp_path, GOOD)
    with pytest.raises(RequestError, match="'talk' runs from"):
        write_rttm(path, {"fine": [Segment(0, 1, "A")], "talk": [Segment(*times, "A")]})
    with pytest.raises(RequestError, match="'talk' runs from"):
        write_uem(path, {"talk": [times]})
    assert path.read_text() == GOOD
    assert [entry.name for entry in tmp_path.iterdir()] == ["talk.rttm"]


def test_touching_turns_still_touch_after_rounding(tmp_path):
    path = tmp_path / "talk.rttm"
    thirds = [Segment(k / 3, (k + 1) / 3, f"s{k % 2}") for k in range(100)]
    write_rttm(path, {"talk": thirds})
    read = read_rttm(path)["talk"]
    assert all(a.end == b.start for a, b in itertools.pairwise(read))
    assert all(abs(a.start - b.start) < 1e-6 for a, b in zip(read, thirds, strict=True))


def test_lines_are_written_in_the_order_of_time():
    later, sooner = Segment(2.5, 3.0, "A"), Segment(0.0, 1.25, "B")
    assert format_rttm("f", [later, sooner]) == (
        "SPEAKER f 1 0.000 1.250 <NA> <NA> B <NA> <NA>\nSPEAKER f 1 2.500 0.500 <NA> <NA> A <NA> <NA>\n"
    )


def test_a_turn_too_short_for_the_format_leaves_no_line():
    assert format_rttm("talk", [Segment(1.0, 1.0, "A"), Segment(1.0, 1.0000001, "A")]) == ""


def test_a_folder_is_read_with_the_folders_below(tmp_path):
    written(tmp_path, GOOD, "a.rttm")
    written(tmp_path, GOOD.replace("talk", "more"), "deep/er/b.rttm")
    written(tmp_path, ";; nobody\n", "silent room.rttm")
    written(tmp_path, "no RTTM at all", "notes.txt")
    anna = [Segment(0.5, 2.0, "Anna")]
    assert read_rttm_tree(tmp_path) == {"talk": anna, "more": anna, "silent room": []}
    assert read_rttm_tree(tmp_path / "a.rttm") == {"talk": anna}
    assert read_rttm_tree(tmp_path / "silent room.rttm") == {"silent room": []}


def test_an_empty_file_below_a_folder_is_called_as_apply_calls_it(tmp_path):
    (tmp_path / "d1").mkdir()
    written(tmp_path, GOOD, "talk.rttm")
    (tmp_path / "d1" / "x.1.rttm").touch()
    (tmp_path / "d1" / "e\u0301.rttm").touch()
    assert read_rttm_tree(tmp_path).keys() == {"talk", "d1/x.1", "d1/\xe9"}


def test_names_to_score_are_composed_however_they_were_typed(tmp_path):
    lines = ["SPEAKER e\u0301 1 2.0 1.0 <NA> <NA> b <NA> <NA>", "SPEAKER \xe9 1 0.5 1.0 <NA> <NA> a <NA> <NA>"]
    path = written(tmp_path, "\n".join(lines), "a.rttm")
    turns = {"\xe9": [Segment(0.5, 1.5, "a"), Segment(2.0, 3.0, "b")]}
    assert read_rttm_tree(tmp_path) == read_rttm_tree(path) == turns
    assert read_rttm(path).keys() == {"e\u0301", "\xe9"}  # as it stands there: a manifest looks for files so called
    region = written(tmp_path, "e\u0301 1 0 5", "a.uem")
    assert read_uem_tree(tmp_path) == read_uem_tree(region) == {"\xe9": [(0.0, 5.0)]}


def test_one_recording_in_two_files_is_refused(tmp_path):
    first, second = written(tmp_path, GOOD, "a.rttm"), written(tmp_path, GOOD, "b.rttm")
    with pytest.raises(RequestError, match="both tell of 'talk'") as caught:
        read_rttm_tree(tmp_path)
    assert str(first) in str(caught.value)
    assert str(second) in str(caught.value)


def test_a_folder_without_such_files_is_refused(tmp_path):
    written(tmp_path, GOOD, "a.txt")
    with pytest.raises(RequestError, match=r"no \*\.rttm file"):
        read_rttm_tree(tmp_path)
    with pytest.raises(RequestError, match=r"no \*\.uem file"):
        read_uem_tree(tmp_path)


@settings(deadline=None)
@given(regions=st.dictionaries(names, st.lists(spans, min_size=1, max_size=4), max_size=3))
@example(regions={";;a b": [(3.0, 4.0), (0.0, 1.0)], ";": [(0.0, 1.0)]})
def test_scored_regions_are_read_back(tmp_path_factory, regions):
    path = tmp_path_factory.mktemp("uem") / "all.uem"
    write_uem(path, regions)
    assert read_uem(path) == {file: sorted(spans) for file, spans in regions.items()}


@pytest.mark.parametrize(
    "line", ["talk 1 0", "my talk 1 0 5", "talk 1 5 5", "talk 1 5 4", "talk 1 -1 4", "talk 1 0 end"]
)
def test_a_bad_region_is_named_with_file_and_line(tmp_path, line):
    path = written(tmp_path, f";; parts\ntalk 1 0 5\n{line}\n", "a.uem")
    with pytest.raises(RequestError) as caught:
        read_uem(path)
    assert str(caught.value).startswith(f"{path}, line 3: ")


def test_a_region_without_length_is_not_written(tmp_path):
    with pytest.raises(RequestError, match="no length"):
        write_uem(tmp_path / "a.uem", {"talk": [(1.0, 1.0)]})
    assert not any(tmp_path.iterdir())


@needs_ami
def test_real_meetings_keep_every_turn(tmp_path):
    meetings = read_rttm_tree(AMI)
    assert len(meetings) == 16
    for name, read in meetings.items():
        lines = [line.split() for line in (AMI / f"{name}.rttm").read_text().splitlines()]
        plain = [(float(line[3]), float(line[3]) + float(line[4]), line[7]) for line in lines]
        assert [turn.speaker for turn in read] == [speaker for _, _, speaker in sorted(plain)]
        assert [(t.start, t.end) for t in read] == [pytest.approx(p[:2], abs=1e-9) for p in sorted(plain)]
    write_rttm(tmp_path / "all.rttm", meetings)
    assert read_rttm(tmp_path / "all.rttm") == meetings
    regions = read_uem_tree(AMI)
    assert regions["EN2002a"] == [(0.0, 2142.709375)]
    write_uem(tmp_path / "all.uem", regions)
    assert read_uem(tmp_path / "all.uem") == regions

"""Exports read back by the rules of their formats: csv, label lines, and an XML parser with the schema's order."""

import csv
import io
import itertools
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pyannote.core import Annotation
from pyannote.core import Segment as Stretch

from weigher.errors import RequestError
from weigher.io.exports import format_audacity, format_csv, format_elan
from weigher.io.rttm import Segment

LETTERS = st.one_of(st.sampled_from(" ;\"'%<>&,]äñ名\r\n\t"), st.characters(exclude_categories=("Cs", "Cc", "Cn")))
NAMES = st.text(LETTERS, min_size=1, max_size=8)
TIMES = st.tuples(st.integers(0, 5000), st.integers(1, 2000)).map(lambda t: (t[0] / 1e3, sum(t) / 1e3))
TURNS = st.lists(st.builds(lambda span, name: Segment(*span, name), TIMES, NAMES), max_size=6)
TALK = [Segment(1.0, 2.0, "Ben"), Segment(0.25, 1.5, "Ann"), Segment(2.0, 2.5, "Ben")]


def key(turn: Segment) -> tuple[float, float, str]:
    return turn.start, turn.end, turn.speaker


def spoken(turns: list[Segment]) -> dict[str, list[Stretch]]:
    """When each person speaks, as pyannote.core has it: what overlaps or touches is one stretch."""
    found = Annotation()
    for index, turn in enumerate(turns):
        found[Stretch(turn.start, turn.end), index] = turn.speaker
    return {name: list(found.label_timeline(name).support()) for name in found.labels()}


# --- CSV and Audacity ------------------------------------------------------------------------------------------------


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


@given(NAMES, TURNS)
@example("a\r", [Segment(0, 1, 'x"\ry,;'), Segment(0.5, 1, "\n")])
def test_csv_comes_back_whatever_the_names(file_id, turns):
    sure = {turn.speaker: index / 7 for index, turn in enumerate(turns)}
    rows = read_csv(format_csv(file_id, turns, sure))
    assert {(row["file"], row["channel"]) for row in rows} <= {(file_id, "1")}
    read = [
        Segment(float(row["start"]), round(float(row["start"]) + float(row["duration"]), 6), row["speaker"])
        for row in rows
    ]
    assert read == sorted(turns, key=key)
    assert [float(row["confidence"]) for row in rows] == [pytest.approx(sure[turn.speaker], abs=1e-6) for turn in read]


def test_csv_has_the_fields_of_ctm():
    assert format_csv("talk", TALK, {"Ann": 0.5, "Ben": 0.25}) == (
        "file,channel,start,duration,speaker,confidence\n"
        "talk,1,0.250,1.250,Ann,0.5\ntalk,1,1.000,1.000,Ben,0.25\ntalk,1,2.000,0.500,Ben,0.25\n"
    )
    assert format_csv("talk", []) == "file,channel,start,duration,speaker,confidence\n"
    assert read_csv(format_csv("talk", TALK))[0]["confidence"] == ""
    assert len(read_csv(format_csv("talk", [Segment(1, 1 + 1e-7, "Ann"), Segment(1, 1.000001, "Ann")]))) == 1


@given(TURNS)
def test_audacity_labels_come_back(turns):
    lines = format_audacity(turns).split("\n")
    assert lines.pop() == ""
    read = [line.split("\t") for line in lines]
    wanted = sorted(turns, key=key)
    assert [(float(start), float(end)) for start, end, _ in read] == [(turn.start, turn.end) for turn in wanted]
    for (_, _, label), turn in zip(read, wanted, strict=True):
        assert re.sub("[\r\n\t\u2028\u2029]+", " ", turn.speaker) == label


# --- ELAN ------------------------------------------------------------------------------------------------------------

CHILDREN = ["HEADER", "TIME_ORDER", "TIER", "LINGUISTIC_TYPE"]  # of the document, in the order of the schema
REQUIRED = {
    "ANNOTATION_DOCUMENT": {"AUTHOR", "DATE", "VERSION"},
    "MEDIA_DESCRIPTOR": {"MEDIA_URL", "MIME_TYPE"},
    "PROPERTY": set(),
    "HEADER": set(),
    "TIME_ORDER": set(),
    "TIME_SLOT": {"TIME_SLOT_ID"},
    "TIER": {"TIER_ID", "LINGUISTIC_TYPE_REF"},
    "ANNOTATION": set(),
    "ALIGNABLE_ANNOTATION": {"ANNOTATION_ID", "TIME_SLOT_REF1", "TIME_SLOT_REF2"},
    "ANNOTATION_VALUE": set(),
    "LINGUISTIC_TYPE": {"LINGUISTIC_TYPE_ID"},
}
ALLOWED = {
    "ANNOTATION_DOCUMENT": {"FORMAT", "{http://www.w3.org/2001/XMLSchema-instance}noNamespaceSchemaLocation"},
    "HEADER": {"MEDIA_FILE", "TIME_UNITS"},
    "PROPERTY": {"NAME"},
    "TIME_SLOT": {"TIME_VALUE"},
    "TIER": {"PARTICIPANT"},
    "LINGUISTIC_TYPE": {"TIME_ALIGNABLE", "GRAPHIC_REFERENCES"},
}
PARENTS = {
    "MEDIA_DESCRIPTOR": "HEADER",
    "PROPERTY": "HEADER",
    "TIME_SLOT": "TIME_ORDER",
    "ANNOTATION": "TIER",
    "ALIGNABLE_ANNOTATION": "ANNOTATION",
    "ANNOTATION_VALUE": "ALIGNABLE_ANNOTATION",
}


def checked(text: str) -> ET.Element:
    """The document, once everything the schema says about what is in it holds."""
    root = ET.fromstring(text.encode("utf-8"))
    assert root.tag == "ANNOTATION_DOCUMENT"
    order = [CHILDREN.index(child.tag) for child in root]
    assert order == sorted(order)
    assert [order.count(index) for index in (0, 1, 3)] == [1, 1, 1]
    for parent in root.iter():
        given_ = set(parent.attrib)
        assert REQUIRED[parent.tag] <= given_ <= REQUIRED[parent.tag] | ALLOWED.get(parent.tag, set())
        for child in parent:
            assert PARENTS.get(child.tag, "ANNOTATION_DOCUMENT") == parent.tag
    ids = [
        element.attrib[name]
        for element in root.iter()
        for name in ("TIME_SLOT_ID", "ANNOTATION_ID")
        if name in element.attrib
    ]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z]+\d+", name) for name in ids)  # xsd:ID begins with a letter
    tiers = [tier.attrib["TIER_ID"] for tier in root.iter("TIER")]
    assert len(set(tiers)) == len(tiers)
    types = {kind.attrib["LINGUISTIC_TYPE_ID"] for kind in root.iter("LINGUISTIC_TYPE")}
    assert {tier.attrib["LINGUISTIC_TYPE_REF"] for tier in root.iter("TIER")} <= types
    values = [slot.attrib["TIME_VALUE"] for slot in root.iter("TIME_SLOT")]
    assert all(re.fullmatch(r"\d+", value) for value in values)  # xsd:unsignedInt
    assert list(map(int, values)) == sorted(map(int, values))
    return root


def read_elan(root: ET.Element) -> list[Segment]:
    time = {slot.attrib["TIME_SLOT_ID"]: int(slot.attrib["TIME_VALUE"]) / 1e3 for slot in root.iter("TIME_SLOT")}
    found = []
    for tier in root.iter("TIER"):
        for part in tier.iter("ALIGNABLE_ANNOTATION"):
            (value,) = part
            assert value.text == tier.attrib["PARTICIPANT"] == tier.attrib["TIER_ID"]
            found.append(Segment(time[part.attrib["TIME_SLOT_REF1"]], time[part.attrib["TIME_SLOT_REF2"]], value.text))
    return found


@given(TURNS)
@example([Segment(0, 1, "<NA> ]]> & \"'"), Segment(1, 2, "\r\n\t "), Segment(0.5, 3, "<NA> ]]> & \"'")])
@example([Segment(0, 5, "Ann"), Segment(1, 2, "Ann"), Segment(4, 6, "Ann")])
def test_elan_holds_the_same_speech_and_keeps_to_the_schema(turns):
    found = read_elan(checked(format_elan(turns)))
    assert spoken(found) == spoken(turns)
    for name in {turn.speaker for turn in found}:
        own = sorted((turn.start, turn.end) for turn in found if turn.speaker == name)
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(own))


def test_elan_keeps_turns_that_touch_apart_and_orders_tiers_by_first_appearance():
    root = checked(format_elan(TALK))
    assert [tier.attrib["TIER_ID"] for tier in root.iter("TIER")] == ["Ann", "Ben"]
    assert sorted(read_elan(root), key=key) == sorted(TALK, key=key)
    assert read_elan(checked(format_elan([]))) == []
    assert read_elan(checked(format_elan([Segment(0, 0.0004, "Ann"), Segment(1, 1.0006, "Ann")]))) == [
        Segment(1, 1.001, "Ann")
    ]


@pytest.mark.parametrize(
    ("name", "mime"), [("a &b'\"ñ#.wav", "audio/x-wav"), ("a.MP3", "audio/mpeg"), ("a.flac", "unknown")]
)
def test_elan_names_the_recording_it_opens(tmp_path, name, mime):
    (media,) = checked(format_elan(TALK, media=tmp_path / name)).iter("MEDIA_DESCRIPTOR")
    address = urlsplit(media.attrib["MEDIA_URL"])
    assert (address.scheme, Path(unquote(address.path)), address.fragment) == ("file", tmp_path / name, "")
    assert media.attrib["MIME_TYPE"] == mime


@pytest.mark.parametrize("name", ["", "a\x00b", "\x0b", "\ud800", "\uffff"])
def test_names_that_xml_cannot_hold_are_refused(name):
    with pytest.raises(RequestError, match="rename it"):
        format_elan([Segment(0, 1, name)])


@pytest.mark.parametrize("times", [(-1, 2), (2, 1), (0, float("inf")), (float("nan"), 1)])
@pytest.mark.parametrize("form", [lambda turns: format_csv("talk", turns), format_audacity, format_elan])
def test_times_that_are_none_are_refused(form, times):
    with pytest.raises(RequestError, match="0 <= start <= end"):
        form([Segment(*times, "Ann")])

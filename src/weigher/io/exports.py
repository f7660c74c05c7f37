"""Who speaks when, as other programs read it: CSV in the manner of CTM, Audacity's labels, and ELAN's documents.

Each function takes the turns of one recording and returns the text of one file. The same turns give the same text.

Sources: NIST SCTK, "CTM" (file, channel, start, duration, word, confidence); the Audacity manual, "Importing and
Exporting Labels"; Max Planck Institute for Psycholinguistics, "EAF Annotation Format", schema EAFv3.0.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from weigher.errors import RequestError
from weigher.io.rttm import Segment

CSV_COLUMNS = ("file", "channel", "start", "duration", "speaker", "confidence")
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # the Char production of XML 1.0
_BREAKS = re.compile("[\t\n\x0b\x0c\r\x1c-\x1e\x85\u2028\u2029]+")  # where one reader or another ends a line
_MIME = {".wav": "audio/x-wav", ".mp3": "audio/mpeg"}
_SCHEMA = "http://www.mpi.nl/tools/elan/EAFv3.0.xsd"


def format_csv(file_id: str, segments: Iterable[Segment], confidence: Mapping[str, float] | None = None) -> str:
    r"""Return the turns as CSV with CTM's fields, the speaker in the place of the word, sorted by start.

    Header `file,channel,start,duration,speaker,confidence`; seconds to the microsecond; `confidence` in [0, 1] is that
    of the speaker (empty where none is given), channel is 1. Names are quoted as CSV needs it. Raises RequestError for
    times that are negative or not finite, and for turns that end before they start.

    >>> print(format_csv("talk", [Segment(0.5, 2.25, "Ann, Lee")], {"Ann, Lee": 0.9}), end="")
    file,channel,start,duration,speaker,confidence
    talk,1,0.500,1.750,"Ann, Lee",0.9
    """
    rows: list[Sequence[object]] = [CSV_COLUMNS]
    for turn in _sorted(file_id, segments):
        start, end = round(turn.start * 1e6), round(turn.end * 1e6)
        if end > start:
            sure = "" if confidence is None else round(float(confidence[turn.speaker]), 6)
            rows.append((file_id, 1, _seconds(start), _seconds(end - start), turn.speaker, sure))
    # Python's writer gives a lone carriage return no quotes where lines end in "\n", and no reader gets it back
    quoting = csv.QUOTE_ALL if any("\r" in str(value) for row in rows for value in row) else csv.QUOTE_MINIMAL
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n", quoting=quoting).writerows(rows)
    return text.getvalue()


def format_audacity(segments: Iterable[Segment]) -> str:
    r"""Return the turns as an Audacity label track: start, end and name between tabs, sorted by start.

    A tab or a line end would end the name early, so any run of them becomes a space. Raises as `format_csv` does.

    >>> format_audacity([Segment(0.5, 2.25, "Ann Lee")])
    '0.500000\t2.250000\tAnn Lee\n'
    """
    turns = _sorted("the recording", segments)
    return "".join(f"{turn.start:.6f}\t{turn.end:.6f}\t{_BREAKS.sub(' ', turn.speaker)}\n" for turn in turns)


def format_elan(segments: Iterable[Segment], *, media: Path | None = None) -> str:
    """Return the turns as an ELAN document (.eaf), one tier for each speaker in order of first appearance.

    Times are whole milliseconds; turns shorter than that are left out, and turns of one speaker that overlap become
    one, as a tier allows none that do. An annotation holds the name. `media` is the audio file that ELAN opens beside
    it; without one ELAN asks. The date is that of the epoch, so that the same turns give the same text.

    Raises as `format_csv` does, and RequestError for names that are empty or hold characters that XML cannot.

    >>> text = format_elan([Segment(0.5, 2.25, 'Ann "A" & Ben')])
    >>> '<TIME_SLOT TIME_SLOT_ID="ts2" TIME_VALUE="2250"/>' in text, "<ANNOTATION_VALUE>Ann" in text
    (True, True)
    """
    speakers = _by_speaker(segments)
    stretches = [(name, *times) for name, found in speakers.items() for times in found]
    # the schema wants slots in the order of time; where one turn ends as another starts, the end comes first
    ends = [
        (time, begins, row)
        for row, (_, *times) in enumerate(stretches)
        for begins, time in zip((1, 0), times, strict=True)
    ]
    slot_of = {(row, begins): f"ts{number}" for number, (_, begins, row) in enumerate(sorted(ends), start=1)}
    slots = [
        f'    <TIME_SLOT TIME_SLOT_ID="{slot_of[row, begins]}" TIME_VALUE="{time}"/>\n'
        for time, begins, row in sorted(ends)
    ]
    annotations = [
        f'    <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a{row + 1}" '
        f'TIME_SLOT_REF1="{slot_of[row, 1]}" TIME_SLOT_REF2="{slot_of[row, 0]}">'
        f"<ANNOTATION_VALUE>{_text(name)}</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>\n"
        for row, (name, *_) in enumerate(stretches)
    ]
    tiers = [
        f'  <TIER LINGUISTIC_TYPE_REF="default-lt" PARTICIPANT={quoteattr(name)} TIER_ID={quoteattr(name)}>\n'
        + "".join(line for line, (who, *_) in zip(annotations, stretches, strict=True) if who == name)
        + "  </TIER>\n"
        for name in speakers
    ]
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<ANNOTATION_DOCUMENT AUTHOR="weigher" DATE="1970-01-01T00:00:00+00:00" FORMAT="3.0" VERSION="3.0" '
        f'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:noNamespaceSchemaLocation="{_SCHEMA}">\n'
        f'  <HEADER MEDIA_FILE="" TIME_UNITS="milliseconds">\n{_media(media)}'
        f'    <PROPERTY NAME="lastUsedAnnotationId">{len(annotations)}</PROPERTY>\n  </HEADER>\n'
        f"  <TIME_ORDER>\n{''.join(slots)}  </TIME_ORDER>\n{''.join(tiers)}"
        '  <LINGUISTIC_TYPE GRAPHIC_REFERENCES="false" LINGUISTIC_TYPE_ID="default-lt" TIME_ALIGNABLE="true"/>\n'
        "</ANNOTATION_DOCUMENT>\n"
    )


def _by_speaker(segments: Iterable[Segment]) -> dict[str, list[tuple[int, int]]]:
    """Stretches of each speaker in milliseconds, none of which overlap."""
    found: dict[str, list[tuple[int, int]]] = {}
    for turn in _sorted("the recording", segments):
        if not turn.speaker or _NO_XML.search(turn.speaker):
            raise RequestError(f"the name {turn.speaker!r} cannot be written as XML; rename it")
        start, end = round(turn.start * 1e3), round(turn.end * 1e3)
        if end > start:
            stretches = found.setdefault(turn.speaker, [])
            if stretches and start < stretches[-1][1]:
                stretches[-1] = (stretches[-1][0], max(end, stretches[-1][1]))
            else:
                stretches.append((start, end))
    return found


def _media(media: Path | None) -> str:
    if media is None:
        return ""
    # a file name may hold bytes that are no text; in an address they are percent escapes
    url, mime = quoteattr(media.absolute().as_uri()), _MIME.get(media.suffix.lower(), "unknown")
    return f'    <MEDIA_DESCRIPTOR MEDIA_URL={url} MIME_TYPE="{mime}"/>\n'


def _text(name: str) -> str:
    return escape(name, {"\r": "&#13;"})  # as it stands, a reader would take it for a line end


def _sorted(file_id: str, segments: Iterable[Segment]) -> list[Segment]:
    turns = sorted(segments, key=lambda turn: (turn.start, turn.end, turn.speaker))
    for turn in turns:
        if not 0 <= turn.start <= turn.end < math.inf:
            raise RequestError(
                f"a turn of {file_id} runs from {turn.start} s to {turn.end} s; 0 <= start <= end is needed"
            )
    return turns


def _seconds(microseconds: int) -> str:
    return f"{microseconds / 1e6:.6f}".removesuffix("000")

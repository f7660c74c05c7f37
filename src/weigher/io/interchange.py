"""Cast lists of other programs, read as rows of a manifest: NeMo's JSON lines, and Kaldi's data folders.

Both may tell of parts of a recording. A recording is learned from as a whole here, so its cast is everybody whom any
of its parts names: lists that tell of some parts only leave people out who are heard in the rest.

Sources: NVIDIA NeMo, "Datasets" of speaker diarization and speaker recognition (the manifest's keys); Kaldi, "Data
preparation" (wav.scp, segments, utt2spk).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

from weigher.errors import RequestError
from weigher.io.rows import ManifestError, Row, json_lines, one_name, text_of, tidy
from weigher.io.rttm import Segment, read_rttm

_NOBODY = {"infer", "-"}  # what NeMo writes for a label that is to be found out
_COMMAND_SHOWN = 60


def is_nemo(text: str) -> bool:
    r"""Whether JSON lines are a NeMo manifest: the first object names its file by `audio_filepath`.

    >>> is_nemo('{"audio_filepath": "a.wav", "label": "Ann"}\n'), is_nemo('{"file_name": "a.wav"}\n')
    (True, False)
    """
    _, first, _ = next(json_lines(text), (0, None, ""))
    return first is not None and "audio_filepath" in first


def nemo_rows(source: Path, text: str) -> Iterator[Row]:
    """Yield the files of a NeMo manifest, each once, however many lines tell of its parts.

    The cast is that of the RTTM file in `rttm_filepath` (the recording called like the audio file, or the only one in
    it), and where none is named, the `speaker` or the `label`. File names are relative to the manifest.

    >>> import tempfile
    >>> lines = '{"audio_filepath": "a.wav", "label": "Ann"}', '{"audio_filepath": "a.wav", "label": "Ben"}'
    >>> [(row.line, row.file_name, row.names) for row in nemo_rows(Path("list.json"), "\\n".join(lines))]
    [(1, 'a.wav', ['Ann', 'Ben'])]
    """
    told: dict[str, tuple[int, dict[str, None]]] = {}
    problems: dict[str, str] = {}
    read = lru_cache(maxsize=1)(read_rttm)  # many lines in turn may name the same file
    for line, row, problem in json_lines(text):
        file_name = None if row is None else row.get("audio_filepath")
        if row is None or not isinstance(file_name, str) or not file_name:
            needed = 'needed is {"audio_filepath": "text", "rttm_filepath" or "label": "text"}'
            yield Row(line, problem=problem or needed)
            continue
        _, names = told.setdefault(file_name, (line, {}))
        try:
            names.update(dict.fromkeys(_nemo_names(source.parent, file_name, row, read)))
        except RequestError as error:
            problems.setdefault(file_name, str(error))
    for file_name, (line, names) in told.items():
        yield Row(line, file_name, list(names), problems.get(file_name, ""))


def _nemo_names(folder: Path, file_name: str, row: dict, read: Callable[[Path], dict[str, list[Segment]]]) -> list[str]:
    rttm = row.get("rttm_filepath")
    if rttm is None:
        keys = ("speaker", "label")
        name = one_name(row, keys)
        given = next((row[key] for key in keys if row.get(key) is not None), None)
        if name is None and given is not None:
            raise ManifestError(f"its speaker is {given!r}; needed is a text or a whole number")
        return [] if name is None or name in _NOBODY else [name]
    if not isinstance(rttm, str):
        raise ManifestError(f"its rttm_filepath is {rttm!r}; needed is the name of a file")
    turns = only_recording(folder / rttm, read(folder / rttm), Path(file_name).stem)
    return [tidy(turn.speaker) for turn in turns]


def only_recording(path: Path, recordings: dict[str, list[Segment]], file_id: str) -> list[Segment]:
    """Return the turns of the recording of that name, or of the only one an RTTM file tells of."""
    if file_id in recordings:
        return recordings[file_id]
    if len(recordings) > 1:
        raise ManifestError(f"{path} tells of {len(recordings)} recordings, and none is called {file_id!r}")
    return next(iter(recordings.values()), [])


def kaldi_rows(source: Path) -> Iterator[Row]:
    """Yield the recordings of a Kaldi data folder, `source` being its wav.scp; utt2spk stands beside it.

    Utterances are recordings, or parts of them where there is a file `segments`; a recording's cast is the speakers of
    its utterances. Relative file names are meant from the folder of wav.scp or from the working folder, as in Kaldi. A
    file name that is a command (it ends in `|`) makes the row one at fault: nothing is executed.

    Raises ManifestError where the files do not fit together: an utterance without a speaker, or of no recording.
    """
    segments, speakers = source.with_name("segments"), source.with_name("utt2spk")
    speaker_of = {fields[0]: (line, fields[1]) for line, fields in _fields(speakers, "UTTERANCE SPEAKER", 2)}
    recordings = list(_fields(source, "RECORDING FILE", 2, rest=True))
    known = {fields[0] for _, fields in recordings}
    casts: dict[str, dict[str, None]] = {}
    if segments.is_file():
        utterances = [(line, *fields[:2]) for line, fields in _fields(segments, "UTTERANCE RECORDING START END", 4)]
    else:
        utterances = [(line, utterance, utterance) for utterance, (line, _) in speaker_of.items()]
    for line, utterance, recording in utterances:
        place = f"{segments if segments.is_file() else speakers}, line {line}"
        if recording not in known:
            raise ManifestError(f"{place}: there is no recording {recording!r} in {source}; remove the line, or add it")
        if utterance not in speaker_of:
            raise ManifestError(f"{place}: the utterance {utterance!r} has no speaker in {speakers}; add it")
        casts.setdefault(recording, {})[tidy(speaker_of[utterance][1])] = None
    strangers = speaker_of.keys() - {utterance for _, utterance, _ in utterances}
    if strangers:
        first = min(strangers, key=lambda utterance: speaker_of[utterance][0])
        raise ManifestError(f"{speakers}, line {speaker_of[first][0]}: the utterance {first!r} is not in {segments}")
    for line, (recording, file_name) in recordings:
        if file_name.startswith("|") or file_name.endswith("|"):
            shown = file_name if len(file_name) <= _COMMAND_SHOWN else file_name[:_COMMAND_SHOWN] + "..."
            yield Row(line, problem=f"{shown!r} is a command, and none is executed; write its output to a file")
        else:
            yield Row(line, file_name, list(casts.get(recording, ())), or_here=True)


def _fields(path: Path, form: str, count: int, *, rest: bool = False) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the fields of each line, its first field being new; with `rest`, the last has spaces."""
    lines_of: dict[str, int] = {}
    for line, content in enumerate(re.split("\r\n|\n", text_of(path)), start=1):
        stripped = content.strip(" \t\r\f\v")  # no other spaces: Kaldi splits at those of ASCII alone
        if not stripped:
            continue
        fields = re.split("[ \t\r\f\v]+", stripped, maxsplit=count - 1 if rest else 0)
        if len(fields) != count:
            raise ManifestError(f"{path}, line {line}: {len(fields)} fields where {form} is needed")
        first = lines_of.setdefault(fields[0], line)
        if first != line:
            raise ManifestError(f"{path}, line {line}: {fields[0]!r} is there twice, first on line {first}")
        yield line, fields

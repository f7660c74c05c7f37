"""Damaged files for every reader: it must read them, or say in a WeigherError what is wrong, soon and in little memory.

    python tests/fuzzing.py [--seconds S] [--seed N] [--keep FOLDER] [READER ...]

For each reader there are whole files of its kind, which must be read, and mutations of them: cut off, bits flipped,
pieces repeated or taken out, huge numbers, deep nesting, NUL bytes, endless lines. A file that makes a reader raise
anything but a WeigherError, hang for 10 s, or ask for more than 1 GB is kept, with the seed that makes it again. A
process that dies (a crash of a C library) leaves the file it died of.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors.torch import save_file

from weigher.errors import WeigherError
from weigher.io import audio, features, manifest, rttm, texts, vectors, voices
from weigher.recordings.configs import to_plain
from weigher.recordings.diarizer import Diarizer, DiarizerConfig
from weigher.recordings.encoder import EncoderConfig
from weigher.recordings.index import PeopleIndex
from weigher.recordings.model import FrontConfig, ModelConfig, RecordingModel
from weigher.recordings.recorded import Recorded
from weigher.recordings.weigher import WeigherConfig
from weigher.tokens.classifier import ClassifierConfig, SentimentClassifier
from weigher.tokens.token_scores import ScorerConfig
from weigher.train.state import load_tensors, save_tensors

HANG_SECONDS, GIGABYTE = 10, 1 << 30


@dataclass(frozen=True)
class Reader:
    """A reader, a function that writes a whole file set into a folder, and the files of it that are damaged."""

    write: Callable[[Path], None]
    read: Callable[[Path], object]
    damaged: tuple[str, ...]


def _rttm(folder: Path) -> None:
    turns = [rttm.Segment(k, k + 0.5, f"Ann Löf {k % 3}") for k in range(20)]
    rttm.write_rttm(folder / "a.rttm", {"talk": turns, "other talk": turns[:3]})


def _uem(folder: Path) -> None:
    rttm.write_uem(folder / "a.uem", {"talk": [(0, 10), (20.5, 30)], "b c": [(1, 2)]})


def _recordings(folder: Path) -> None:
    for name in ("a.wav", "b c.wav", "talk.wav"):
        (folder / name).touch()


def _csv(folder: Path) -> None:
    _recordings(folder)
    manifest.write_cast_csv(folder / "cast.csv", [("a.wav", ["Ann", "B;n"]), ("b c.wav", ['"Zoë"', "x,y"])])


def _jsonl(folder: Path) -> None:
    _recordings(folder)
    rows = {"file_name": "a.wav", "speakers": ["Ann", "Bo"]}, {"file_name": "b c.wav", "speaker_id": 17}
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _nemo(folder: Path) -> None:
    _recordings(folder)
    _rttm(folder)
    rows = (
        {"audio_filepath": "talk.wav", "offset": 0, "duration": 3.5, "label": "infer", "rttm_filepath": "a.rttm"},
        {"audio_filepath": "a.wav", "label": "Ann"},
    )
    (folder / "nemo.json").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _kaldi(folder: Path) -> None:
    _recordings(folder)
    (folder / "wav.scp").write_text("r1 a.wav\nr2 b c.wav\n")
    (folder / "utt2spk").write_text("u1 Ann\nu2 Ben\nu3 Ann\n")
    (folder / "segments").write_text("u1 r1 0 1\nu2 r1 1 2\nu3 r2 0 2.5\n")


def _pyannote(folder: Path) -> None:
    _recordings(folder)
    rttm.write_rttm(folder / "talk.rttm", {"talk": [rttm.Segment(0, 1, "Ann")]})
    (folder / "train.lst").write_text("talk\n")
    subset = {"uri": "train.lst", "annotation": "{uri}.rttm", "scope": "database"}
    protocols = {"My": {"SpeakerDiarization": {"all": {"scope": "database", "train": subset}}}}
    content = {"Databases": {"My": ["{uri}.wav", "sub/*/{uri}.wav"]}, "Protocols": protocols}
    (folder / "database.yml").write_text(yaml.safe_dump(content))


def _features(folder: Path) -> None:
    np.savez(folder / "a.npz", features=np.ones((9, 3), np.int8), scale=0.5, hop_seconds=0.01)
    np.savez_compressed(folder / "b.npz", features=np.ones((9, 3), np.float32), hop_seconds=0.01)


def _voices(folder: Path) -> None:
    offsets, names = np.array([0, 4, 9]), np.array(["Ann", "Ben"])
    np.savez(folder / "v.npz", features=np.ones((9, 3), np.float16), offsets=offsets, speaker=names, utterance=names)


def _audio(folder: Path) -> None:
    samples = 0.3 * np.sin(np.arange(3000))
    for ending, kind in (("wav", {}), ("flac", {}), ("ogg", {}), ("au", {}), ("w64", {}), ("aiff", {}), ("caf", {})):
        audio.soundfile.write(folder / f"a.{ending}", np.stack([samples, samples], 1), 16000, **kind)


def _read_audio(folder: Path) -> None:
    for file in sorted(folder.glob("a.*")):
        _each(lambda file=file: (audio.audio_seconds(file), audio.audio_channels(file)))
        for _, samples in audio.stream_audio(file, window_seconds=60, step_seconds=60):
            assert np.isfinite(samples).all()
        audio.read_audio(file, duration_seconds=60)


def _each(read: Callable[[], object]) -> None:
    try:
        read()
    except WeigherError as error:
        if not str(error):
            raise AssertionError("an error without a word") from error


MODEL = DiarizerConfig(
    model=ModelConfig(
        FrontConfig(kind="features", features=3, hop_seconds=0.01),
        EncoderConfig(channels=4, embedding=4, dilations=(1,)),
        WeigherConfig(slots=2, heads=1, layers=1),
    )
)


def _model(folder: Path) -> None:
    torch.manual_seed(0)
    diarizer = Diarizer(config=MODEL, device="cpu")
    diarizer.model_ = RecordingModel(MODEL.model).eval()
    diarizer.save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["config"] == to_plain(MODEL)


def _index(folder: Path) -> None:
    index = PeopleIndex.create(folder, model="m", width=4)
    index.enroll({name: [(f"{name}{k}", np.eye(4)[k]) for k in range(3)] for name in ("Ann", "Ben")})
    index.remember([Recorded("r.wav", np.eye(4)[:2], np.ones(2), [np.array([[0.0, 1.0]])] * 2, [None] * 2)])
    index.recalibrate()
    index.keep_heard(Recorded("s.wav", np.eye(4)[:1], np.ones(1), [np.array([[0.0, 1.0]])], [None]), "m")


def _read_index(folder: Path) -> None:
    index = PeopleIndex(folder)
    for read in (
        index.people,
        index.count,
        index.vectors,
        index.export,
        lambda: index.search(np.ones(index.width)),
        lambda: index.name(np.ones((1, index.width))),
        lambda: index.heard_before({"s.wav": "m"}),
        index.recalibrate,
        lambda: index.rename("Ann", "Cid"),
        lambda: index.forget(["Ben"]),
    ):
        _each(read)


def _texts(folder: Path) -> None:
    (folder / "a.csv").write_text('text,label\ngood,1\n"bad, very",0\n')
    (folder / "a.jsonl").write_text('{"text": "good", "label": 1}\n{"text": "bad", "label": "x"}\n')


def _token_model(folder: Path) -> None:
    scorer = ScorerConfig("local-attention", embedding=4, layers=(4,), heads=2)
    config = ClassifierConfig(scorer=scorer, epochs=1, batch=8)
    learned = SentimentClassifier(config=config, device="cpu").fit(["good film", "bad film"] * 8, ["pos", "neg"] * 8)
    learned.save_pretrained(folder)


def _read_token_model(folder: Path) -> None:
    learned = SentimentClassifier.from_pretrained(folder, device="cpu")
    learned.explain("good, bad or neither").to_html()
    learned.save_pretrained(folder / "again")
    SentimentClassifier.from_pretrained(folder / "again", device="cpu")


def _vectors(folder: Path) -> None:
    (folder / "v.txt").write_text("2 3\ngood 0.5 1 2\nbad -1 0 1e3\n")


def _checkpoint(folder: Path) -> None:
    save_tensors(folder / "c.safetensors", {"w": torch.ones(3, 4), "b": torch.arange(3)}, {"step": 3})
    save_file({"w": torch.ones(2)}, folder / "foreign.safetensors")


def _every(read: Callable[[Path], object], *names: str) -> Callable[[Path], None]:
    return lambda folder: [_each(lambda name=name: read(folder / name)) for name in names] and None


READERS = {
    "rttm": Reader(_rttm, _every(rttm.read_rttm_tree, "a.rttm"), ("a.rttm",)),
    "uem": Reader(_uem, _every(rttm.read_uem_tree, "a.uem"), ("a.uem",)),
    "csv": Reader(_csv, _every(manifest.read_manifest, "cast.csv"), ("cast.csv",)),
    "hugging face": Reader(_jsonl, _every(manifest.read_manifest, "metadata.jsonl"), ("metadata.jsonl",)),
    "nemo": Reader(_nemo, _every(manifest.read_manifest, "nemo.json"), ("nemo.json", "a.rttm")),
    "kaldi": Reader(_kaldi, _every(manifest.read_manifest, "wav.scp"), ("wav.scp", "utt2spk", "segments")),
    "pyannote": Reader(
        _pyannote, _every(manifest.read_manifest, "database.yml"), ("database.yml", "train.lst", "talk.rttm")
    ),
    "features": Reader(_features, _every(features.read_features, "a.npz", "b.npz"), ("a.npz", "b.npz")),
    "voices": Reader(
        _voices, _every(lambda path: [u.load() for u in voices.read_voices(path).utterances], "v.npz"), ("v.npz",)
    ),
    "audio": Reader(_audio, _read_audio, tuple(f"a.{e}" for e in ("wav", "flac", "ogg", "au", "w64", "aiff", "caf"))),
    "model": Reader(_model, Diarizer.from_pretrained, ("config.json", "model.safetensors")),
    "token model": Reader(_token_model, _read_token_model, ("config.json", "model.safetensors", "vocabulary.json")),
    "people": Reader(_index, _read_index, ("people.sqlite",)),
    "texts": Reader(_texts, _every(texts.read_texts, "a.csv", "a.jsonl"), ("a.csv", "a.jsonl")),
    "vectors": Reader(_vectors, _every(lambda path: vectors.read_vectors(path, {"good"}), "v.txt"), ("v.txt",)),
    "checkpoint": Reader(_checkpoint, _every(load_tensors, "c.safetensors", "foreign.safetensors"), ("c.safetensors",)),
}

_NUMBERS = (b"\xff" * 4, b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\0" * 8, b"\xff" * 8, b"\xff" * 7 + b"\x7f")
_WORDS = (
    *(b"1e400", b"-1", b"nan", b"inf", b"9" * 400, b"9" * 5000, b"0x10", b"1_0", b"\xd9\xa3"),
    *(b"\0", b"\0" * 100, b"\xff\xfe", b"\n" * 100_000, b"\r", b"A" * 3_000_000, b'"' * 1001, b";" * 5000),
    *(b"[" * 100_000, b'{"a":' * 50_000, b"- " * 20_000, b"../" * 3000, b"~nobody/", b"{uri}", b"{x}"),
    *(b"**/" * 50, b"[a-", b"<NA>", b"%00", b"%F", b"|", b"!!python/object:os.system", b"&a [*a]", b"<<: *x"),
    *(b"null", b"true", b"[]", b"{}", b'""', b"\xe2\x80\xa8", b"\xed\xa0\x80", b"\\ud800", b"\\u0000"),
)


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """Damage bytes in one to four ways."""
    for _ in range(int(rng.integers(1, 5))):
        size = len(content)
        at = int(rng.integers(0, size + 1))
        end = min(size, at + int(rng.integers(1, 64)))
        match int(rng.integers(0, 9)):
            case 0:
                content = content[:at]
            case 1:
                flipped = bytearray(content)
                for place in rng.integers(0, max(size, 1), int(rng.integers(1, 9))):
                    if size:
                        flipped[place] ^= 1 << int(rng.integers(0, 8))
                content = bytes(flipped)
            case 2:
                content = content[:at] + content[end:]
            case 3:
                content = content[:end] + content[at:end] * int(rng.integers(1, 50)) + content[end:]
            case 4:
                number = _NUMBERS[rng.integers(len(_NUMBERS))]
                content = content[:at] + number + content[at + len(number) :]
            case 5 | 6:
                content = content[:at] + _WORDS[rng.integers(len(_WORDS))] + content[at:]
            case 7:  # in the place of a word or a number
                pieces = content.split(b" ")
                pieces[rng.integers(len(pieces))] = _WORDS[rng.integers(len(_WORDS))]
                content = b" ".join(pieces)
            case _:
                head = min(size, 64)  # headers say the most
                place = int(rng.integers(0, head + 1))
                content = content[:place] + rng.bytes(4) + content[place + 4 :]
    return content


def attack(name: str, folder: Path, seed: int) -> str | None:
    """Damage one set of files and read it; returns what went wrong, None where nothing did."""
    reader, rng = READERS[name], np.random.default_rng(seed)
    if seed:
        for file in rng.choice(reader.damaged, int(rng.integers(1, len(reader.damaged) + 1)), replace=False):
            path = folder / str(file)
            path.write_bytes(mutated(path.read_bytes(), rng))
    signal.signal(signal.SIGALRM, _hangs)
    signal.alarm(HANG_SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            reader.read(folder)
    except WeigherError as error:
        return None if seed and str(error) else f"{type(error).__name__}: {error}"
    except BaseException:
        return traceback.format_exc()
    finally:
        signal.alarm(0)
    return None


def _hangs(*_: object) -> None:
    raise TimeoutError(f"it hangs for more than {HANG_SECONDS} s")


def run(names: list[str], seconds: float, seed: int, keep: Path) -> tuple[int, list[str]]:
    """Attack the readers in turn for so long; returns how many files were read, and what was found."""
    until, count, found = time.monotonic() + seconds, 0, []
    with tempfile.TemporaryDirectory() as place:
        whole = {name: Path(place, "whole", name) for name in names}
        for name, folder in whole.items():
            folder.mkdir(parents=True)
            READERS[name].write(folder)
        while count < 2 * len(names) or time.monotonic() < until:  # each kind whole and damaged, however slow a machine
            name, turn = names[count % len(names)], count // len(names)
            folder = keep / f"{name.replace(' ', '-')}-{seed + turn if turn else 0}"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(whole[name], folder)
            problem = attack(name, folder, seed + turn if turn else 0)  # first the whole files, which must be read
            count += 1
            if problem is None:
                shutil.rmtree(folder)
            else:
                found.append(f"{folder}:\n{problem}")
                print(found[-1], flush=True)
    return count, found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "readers", nargs="*", metavar="READER", help=f"of {', '.join(READERS)}; all where none is named"
    )
    parser.add_argument(
        "--seconds", type=float, default=600.0, help="how long (600); each kind is read whole and damaged at least"
    )
    parser.add_argument("--seed", type=int, default=1, help="where the drawing of damage begins (1)")
    parser.add_argument("--keep", type=Path, default=Path("fuzz"), help="folder for the files not borne (fuzz)")
    asked = parser.parse_args()
    if unknown := set(asked.readers) - READERS.keys():
        parser.error(f"there is no reader {', '.join(sorted(unknown))}")
    faulthandler.enable()
    torch.set_num_threads(1)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + GIGABYTE, resource.RLIM_INFINITY))
    asked.keep.mkdir(parents=True, exist_ok=True)
    count, found = run(asked.readers or list(READERS), asked.seconds, asked.seed, asked.keep)
    if not any(asked.keep.iterdir()):
        asked.keep.rmdir()
    print(f"{count} sets of files, {len(found)} not borne" + (f"; they are in {asked.keep}" if found else ""))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

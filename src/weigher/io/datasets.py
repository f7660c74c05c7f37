"""Where the data are: a local folder, or a small open set of voices that is downloaded, checked and unpacked once."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from weigher.errors import RequestError, WeigherError
from weigher.io.atomic import writing
from weigher.io.audio import AUDIO_SUFFIXES

_CHUNK = 1 << 18  # bytes
_PATIENCE_SECONDS = 10  # without any byte from a mirror
_PAPERS = {"LICENSE.TXT", "README.TXT", "SPEAKERS.TXT"}  # who made the recordings and what may be done with them


class DownloadError(WeigherError):
    """A set that could not be had: no mirror answers (no network?), or none sends the right bytes."""


@dataclass(frozen=True)
class Archive:
    """A public .tar.gz of voices laid out as .../SPEAKER/CHAPTER/name.flac."""

    name: str
    urls: tuple[str, ...]
    """The same file on several servers, tried in this order."""
    sha256: str
    size: int
    """Bytes."""
    licence: str
    origin: str


MINI_LIBRISPEECH = Archive(
    name="mini-librispeech-dev-clean-2",
    urls=(
        "https://www.openslr.org/resources/31/dev-clean-2.tar.gz",
        "https://openslr.trmal.net/resources/31/dev-clean-2.tar.gz",
        "https://openslr.elda.org/resources/31/dev-clean-2.tar.gz",
    ),
    sha256="176ec501490eced2d6c1f89f4f0ddc7dfe799e649e5322f8ba49fe3ff50c8012",
    size=126_046_265,
    licence="CC BY 4.0",
    origin="Mini LibriSpeech (a part of LibriSpeech, Panayotov et al. 2015), https://www.openslr.org/31/",
)
"""1,089 utterances of 26 readers of audiobooks."""


def find_data(path: str | os.PathLike[str] | None = None) -> Path | None:
    """The folder of data: `path`, else the one WEIGHER_DATA names, else `../shared/data`, else None.

    `../shared/data` is looked for beside the current folder and beside a source checkout of this package. A folder that
    was asked for and is not there raises RequestError: something else is never taken in its place.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> find_data(folder) == Path(folder)
    True
    """
    for asked, what in ((path, "the data folder"), (os.environ.get("WEIGHER_DATA"), "the folder WEIGHER_DATA names,")):
        if asked:
            if not Path(asked).is_dir():
                raise RequestError(f"{what} {asked} is not there; give a folder of data, or leave it out")
            return Path(asked)
    checkout = Path(__file__).resolve().parents[3]
    candidates = [folder.parent / "shared" / "data" for folder in (Path.cwd(), checkout)]
    return next((folder for folder in candidates if folder.is_dir()), None)


def cache_folder() -> Path:
    """Where downloads are kept: WEIGHER_CACHE, else XDG_CACHE_HOME/weigher, else ~/.cache/weigher."""
    if asked := os.environ.get("WEIGHER_CACHE"):
        return Path(asked)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "weigher"


def find_voices(
    data: str | os.PathLike[str] | None = None,
    *,
    archive: Archive = MINI_LIBRISPEECH,
    say: Callable[[str], None] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Path | None:
    """A folder SPEAKER/*.flac of real voices: from the data folder, else downloaded, else None (then synthesise).

    `say` gets each line a person should see: what is taken from where, its licence, or why nothing could be had.
    Raises RequestError as `find_data` does, and WeigherError when the disk is full.
    """
    tell = say or (lambda line: None)
    found = find_data(data)
    if found is not None and (found / "speech" / "librispeech").is_dir():
        tell(f"voices: {found / 'speech' / 'librispeech'}")
        return found / "speech" / "librispeech"
    try:
        return download_voices(archive, say=say, progress=progress)
    except DownloadError as error:
        tell(str(error))
        return None


def download_voices(
    archive: Archive,
    *,
    say: Callable[[str], None] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Path:
    """Download, check and unpack a set of voices into the cache, once; returns its folder SPEAKER/*.flac.

    Mirrors are tried in turn; only bytes with the right SHA-256 are kept. The folder appears when it is whole: an
    interrupted call leaves nothing half done, and the next one starts where a whole step ended. `progress` gets
    "download" in bytes and "unpack" in bytes of the archive.

    Raises DownloadError when no mirror has it, WeigherError when the disk is full or the archive is not as described.
    """
    tell = say or (lambda line: None)
    folder = cache_folder() / archive.name
    if folder.is_dir():
        tell(f"voices: {folder}, downloaded earlier ({archive.origin}, {archive.licence})")
        return folder
    packed = folder.with_name(f"{archive.name}.tar.gz")
    if not packed.is_file() or _sha256(packed) != archive.sha256:
        tell(f"downloading {archive.origin}, {archive.size / 1e6:.0f} MB; licence: {archive.licence}")
        _download(archive, packed, progress)
    _unpack(packed, folder, progress)
    packed.unlink(missing_ok=True)
    tell(f"voices: {folder}")
    return folder


def _download(archive: Archive, target: Path, progress: Callable[[str, int, int], None] | None) -> None:
    failures = []
    for url in archive.urls:
        try:
            with writing(target) as file:
                _fetch(url, archive, file.write, progress)
            return
        except (OSError, http.client.HTTPException, _WrongBytesError) as error:
            failures.append(f"  {url}: {error}")
    raise DownloadError(
        f"{archive.name} could not be downloaded; connect to the network, or name a folder of data with WEIGHER_DATA:\n"
        + "\n".join(failures)
    )


class _WrongBytesError(Exception):
    pass


def _fetch(
    url: str, archive: Archive, write: Callable[[bytes], object], progress: Callable[[str, int, int], None] | None
) -> None:
    digest, done = hashlib.sha256(), 0
    with urllib.request.urlopen(url, timeout=_PATIENCE_SECONDS) as response:
        while chunk := response.read(_CHUNK):
            done += len(chunk)
            if done > archive.size:
                break  # not the file we know; no need to see the rest of it
            digest.update(chunk)
            write(chunk)
            if progress is not None:
                progress("download", done, archive.size)
    if digest.hexdigest() != archive.sha256:
        raise _WrongBytesError(f"what it sent ({done} bytes) is not the {archive.size} bytes with the known SHA-256")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unpack(packed: Path, folder: Path, progress: Callable[[str, int, int], None] | None) -> None:
    """Copy the audio out as SPEAKER/name and the papers as they are, then give the folder its name in one step.

    Stricter than tarfile's own filters: of each member only its bytes and the last parts of its path are used, and only
    of regular files, so no link, device, permission or path of the archive reaches the disk.
    """
    try:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
            making = Path(temporary) / folder.name
            making.mkdir()
            with packed.open("rb") as raw, tarfile.open(fileobj=raw, mode="r:gz") as members:
                for member in members:
                    place = _place(PurePosixPath(member.name).parts) if member.isreg() else None
                    content = members.extractfile(member) if place is not None else None
                    if place is not None and content is not None:
                        (making / place).parent.mkdir(exist_ok=True)
                        with content, (making / place).open("wb") as file:
                            shutil.copyfileobj(content, file)
                    if progress is not None:
                        progress("unpack", raw.tell(), packed.stat().st_size)
            if not any(entry.is_dir() for entry in making.iterdir()):
                raise WeigherError(f"{packed} holds no SPEAKER/CHAPTER/name.flac; it is not the archive it should be")
            try:
                making.rename(folder)
            except OSError:
                if not folder.is_dir():  # another run may have finished the same work meanwhile
                    raise
    except (OSError, tarfile.TarError, EOFError) as error:
        raise WeigherError(
            f"{packed} could not be unpacked beside itself ({error}); is there space on disk?"
        ) from error


def _place(parts: Sequence[str]) -> PurePosixPath | None:
    """Where a member of the archive goes, relative to the folder of voices; None for what is not needed."""
    if not parts:
        return None
    name = parts[-1]
    if name in _PAPERS:
        return PurePosixPath(name)
    if len(parts) < 3 or PurePosixPath(name).suffix.lower() not in AUDIO_SUFFIXES:
        return None
    speaker = parts[-3]
    plain = not any(part.startswith((".", "/")) or "\\" in part or ":" in part for part in (speaker, name))
    return PurePosixPath(speaker, name) if plain else None

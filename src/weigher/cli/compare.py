"""``weigher compare``: is a new archive unlike the one that a model was trained on?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from weigher.cli import console
from weigher.cli.arguments import optional
from weigher.errors import RequestError

if TYPE_CHECKING:
    from weigher.examples.dataset_reference import Comparison


@dataclass(frozen=True)
class Options:
    """Tell how far two corpora lie apart, and whether that is more than chance.

    A corpus is a cast list (CSV, JSON lines, RTTM whose times are dropped), a folder of recordings, or an .npz file
    with `features` [n, d], `labels` [n] and, where some belong together, `groups` [n]. Recordings are heard with MODEL,
    and the points are the embeddings of the people in them; with cast lists on both sides the people count too, without
    only the voices. The distance is that of optimal transport, with the distance of two people being that of their
    clouds of voices.

    Two measures stand beside it: halves of A against each other, and recordings shuffled between A and B. A and B are
    unlike where at most one shuffle of twenty lies as far apart.
    """

    a: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CORPUS_A")]
    """The known corpus, such as the cast list the model was trained on."""
    b: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CORPUS_B")]
    """The new one."""
    model: Annotated[Path | None, optional("MODEL")] = None
    """Model folder, as `weigher train` wrote it (RUN/model); not needed for .npz."""
    shuffles: Annotated[int, tyro.conf.arg(metavar="N")] = 99
    """Times that recordings are dealt out anew, 19 or more."""
    halves: Annotated[int, tyro.conf.arg(metavar="N")] = 10
    """Times that A is halved."""
    max_samples: Annotated[int, tyro.conf.arg(metavar="N")] = 1000
    """Voices of each side that are transported, drawn person by person where there are more."""
    seed: int = 0
    """Of draws and shuffles."""
    device: str = "auto"
    """cpu, cuda, cuda:1, or auto for the best there is."""
    skip_bad: bool = False
    """Leave out recordings that cannot be read, and list them."""
    quiet: bool = False
    """No progress and no notes on stderr."""
    json: bool = False
    """Print one JSON object instead of a table."""


@dataclass(frozen=True, eq=False)
class _Corpus:
    points: np.ndarray
    labels: np.ndarray
    groups: np.ndarray | None
    named: bool
    failed: tuple[tuple[str, str], ...] = ()


def run(options: Options) -> int:
    """Compare; RequestError for a corpus or a model that cannot be used."""
    from weigher.examples.dataset_reference import compare_datasets
    from weigher.examples.label_distances import DistanceConfig
    from weigher.examples.labelled_sets import labelled_set, unequal_scales

    _check(options)
    files = [path.suffix.lower() == ".npz" for path in (options.a, options.b)]
    if any(files) and not all(files):
        raise RequestError(f"{options.a} and {options.b} are of two kinds; give two .npz files, or two corpora to hear")
    with console.progress_bar(options.quiet) as progress:
        corpora = [_read(path) for path in (options.a, options.b)] if all(files) else _hear(options, progress)
        a, b = corpora
        config = DistanceConfig(max_samples=options.max_samples, label_weight=1.0 if a.named and b.named else 0.0)
        found = compare_datasets(
            a.points,
            a.labels,
            b.points,
            b.labels,
            config,
            groups_a=a.groups,
            groups_b=b.groups,
            halves=options.halves,
            shuffles=options.shuffles,
            seed=options.seed,
            progress=progress,
        )
    plain = _plain(options, corpora, found)
    if options.json:
        console.print_json(plain)
    else:
        Console().print(_table(plain))
        print(_verdict(plain))
    if not options.quiet:
        if not config.label_weight:
            console.message("people were not compared: that needs a cast list on both sides")
        if all(files):
            said = unequal_scales(*(labelled_set(corpus.points, corpus.labels) for corpus in corpora))
            if said:
                console.message(said)
        for corpus in corpora:
            for file, reason in corpus.failed:
                console.message(f"left out: {reason if file in reason else f'{file}: {reason}'}")
    return 0


def _check(options: Options) -> None:
    """Raise RequestError for numbers that cannot be used, or a solver that is missing, before anything is heard."""
    try:
        import ot  # noqa: F401, halves of an odd number and shuffled archives are seldom of one size
    except ModuleNotFoundError as error:
        raise RequestError(
            "comparing archives needs the package POT, for exact transport between unequal numbers of voices: pip "
            "install 'weigher[examples]'"
        ) from error
    least = {"shuffles": 19, "halves": 0, "max_samples": 1, "seed": 0}
    for name, needed in least.items():
        given = getattr(options, name)
        if given < needed:
            reason = ", for p to reach 0.05" if name == "shuffles" else ""
            raise RequestError(f"--{name.replace('_', '-')} {given}: needed is {needed} or more{reason}")


def _read(path: Path) -> _Corpus:
    from weigher.io.features import load_arrays

    arrays = load_arrays(path, ("features", "labels"), optional=("groups",))
    labels, groups = arrays["labels"], arrays.get("groups")
    if arrays["features"].dtype.kind not in "fiu" or arrays["features"].ndim < 2:
        raise RequestError(
            f"{path}: features are {arrays['features'].dtype} of shape {arrays['features'].shape}; "
            "needed are numbers [examples, features]"
        )
    return _Corpus(arrays["features"].astype(np.float64), labels, groups, named=True)


def _hear(options: Options, progress: console.ProgressHook) -> list[_Corpus]:
    from weigher.recordings.corpus_voices import corpus_voices
    from weigher.recordings.diarizer import Diarizer

    if options.model is None:
        raise RequestError("recordings are heard with a model; name its folder with --model (RUN/model)")
    diarizer = Diarizer.from_pretrained(options.model, device=options.device)
    found = []
    for path in (options.a, options.b):
        voices = corpus_voices(diarizer, path, skip_bad=options.skip_bad, progress=progress)
        labels, recordings = np.array(voices.labels), np.array(voices.recordings)
        found.append(_Corpus(voices.vectors, labels, recordings, voices.named, voices.failed))
    return found


def _plain(options: Options, corpora: list[_Corpus], found: Comparison) -> dict[str, Any]:
    beyond = found.spreads_beyond
    return {
        "a": _counted(options.a, corpora[0]),
        "b": _counted(options.b, corpora[1]),
        "distance": float(found.distance.value),
        "squared": float(found.distance.squared),
        "feature_part": float(found.distance.feature_part),
        "label_part": float(found.distance.label_part),
        "samples": [len(found.distance.rows), len(found.distance.columns)],
        "halves_of_a": list(found.halves),
        "shuffled": list(found.shuffled),
        "p_value": found.p_value,
        "spreads_beyond": beyond,
        "verdict": "like" if found.like else "unlike",
        "failed": [{"file": file, "reason": reason} for corpus in corpora for file, reason in corpus.failed],
    }


def _counted(path: Path, corpus: _Corpus) -> dict[str, Any]:
    groups = None if corpus.groups is None else len(np.unique(corpus.groups))
    return {
        "corpus": str(path),
        "points": len(corpus.points),
        "groups": groups,
        "labels": len(np.unique(corpus.labels)) if corpus.named else None,
    }


def _table(plain: dict[str, Any]) -> Table:
    table = Table("", "distance", "", title=escape(f"{plain['a']['corpus']} and {plain['b']['corpus']}"))
    total = plain["squared"]
    shares = [100 * plain[part] / total if total else 0.0 for part in ("feature_part", "label_part")]
    table.add_row(
        "A and B",
        f"{plain['distance']:.3f}",
        f"{shares[0]:.0f} % of its square by features, {shares[1]:.0f} % by labels",
    )
    for name, key in (("halves of A", "halves_of_a"), ("shuffled between A and B", "shuffled")):
        values = plain[key]
        if values:
            table.add_row(
                name, f"{np.mean(values):.3f}", f"{min(values):.3f} to {max(values):.3f}, {len(values)} times"
            )
    return table


def _verdict(plain: dict[str, Any]) -> str:
    """Return the answer in words.

    >>> _verdict({"verdict": "like", "p_value": 0.4, "shuffled": [1.0] * 19})
    'like: shuffles lie as far apart in 40 % of cases (p = 0.4)'
    """
    p, times = plain["p_value"], len(plain["shuffled"])
    if p <= 1 / (times + 1):
        return f"{plain['verdict']}: none of {times} shuffles lies as far apart (p = {p:.2g})"
    return f"{plain['verdict']}: shuffles lie as far apart in {100 * p:.0f} % of cases (p = {p:.2g})"

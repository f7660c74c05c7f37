"""``weigher examples``: which training examples are likely labelled wrong."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from weigher.cli import console
from weigher.cli.arguments import optional
from weigher.errors import RequestError

if TYPE_CHECKING:
    from weigher.examples.suspects import Suspects

_PICTURES = (".png", ".svg", ".pdf")
_SHOWN = 18


@dataclass(frozen=True)
class Options:
    """Rank labelled examples by how likely their label is wrong: the area under the margin (AUM).

    A small network learns DATA twice. By how much the label of an example leads all others, in the mean over training,
    is its AUM; wrong labels stay low. In each pass some examples are given a class of their own, surely wrong, and an
    example is flagged where it lies as low as these do in every pass that judged it. DATA is .npz with `x` ([n,
    features], [n, height, width] or with channels last) and `y` (or `images` and `labels`), .parquet with `image` and
    `label`, or .zip of folders of drawings.
    """

    what: Annotated[tyro.conf.Positional[Literal["aum"]], tyro.conf.arg(metavar="aum")]
    """How: by the area under the margin."""
    data: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATA")]
    """File of labelled examples."""
    labels: Annotated[Path | None, optional("FILE")] = None
    """Text file, one label a line: judged instead of the labels in DATA."""
    top: Annotated[int, tyro.conf.arg(metavar="N")] = 20
    """Rows to print, likeliest errors first."""
    out: Annotated[Path | None, optional("CSV")] = None
    """File for the whole ranking."""
    picture: Annotated[Path | None, optional("FILE")] = None
    """Picture (.png, .svg, .pdf) of AUM, margins by epoch and the worst images (needs the [plot] extra)."""
    epochs: Annotated[int, tyro.conf.arg(metavar="N")] = 20
    """Length of a pass; too long, and wrong labels are memorised."""
    learning_rate: Annotated[float, tyro.conf.arg(metavar="R")] = 0.05
    """Of stochastic gradient descent, the same throughout."""
    network: Literal["small", "residual"] = "small"
    """For images of 12 pixels or more: three convolutions, or seven with skip connections."""
    width: Annotated[int, tyro.conf.arg(metavar="N")] = 16
    """Channels of the first convolution, for images of 12 pixels or more."""
    augment: Literal["none", "shift", "mirror"] = "none"
    """Images in training: as they are, moved a little, or moved and mirrored."""
    percentile: Annotated[float, tyro.conf.arg(metavar="P")] = 99.0
    """Of the AUM of surely wrong examples, where the cut-off lies: more finds more and errs more."""
    seed: int = 0
    """Of networks, order and the extra class."""
    device: str = "auto"
    """cpu, cuda, cuda:1, or auto for the best there is."""
    quiet: bool = False
    """No progress on stderr."""
    json: bool = False
    """Print one JSON object instead of a table."""


def run(options: Options) -> int:
    """Find suspects; RequestError for data, labels or settings that cannot be used, before anything is learned."""
    import torch

    from weigher.examples.suspects import SuspectConfig, find_suspects
    from weigher.io.labelled_data import read_labelled

    _check(options)
    config = SuspectConfig(
        epochs=options.epochs,
        learning_rate=options.learning_rate,
        network=options.network,
        width=options.width,
        augment=options.augment,
        percentile=options.percentile,
        seed=options.seed,
        device=options.device,
    )
    data = read_labelled(options.data, options.labels)
    classes, labels = np.unique(data.labels, return_inverse=True)
    if len(classes) < 2:
        raise RequestError(f"{options.data}: all labels are {classes.tolist()}; needed are two classes or more")
    with console.progress_bar(options.quiet) as progress:
        inputs, given = torch.from_numpy(_channels_first(data.x)), torch.from_numpy(labels.astype(np.int64))
        found = find_suspects(inputs, given, len(classes), config, progress=progress)
    rows = _rows(found, labels, classes)
    if options.out is not None:
        _write(options.out, rows)
    flagged = sum(bool(row["likely"]) for row in rows)
    cuts = [float(cut) for cut in found.errors.thresholds]
    if options.json:
        counted = {"data": str(options.data), "examples": len(rows), "classes": classes.tolist(), "flagged": flagged}
        console.print_json({**counted, "cut_offs": cuts, "suspects": rows[: options.top]})
    else:
        Console().print(_table(rows[: options.top], escape(options.data.name)))
        at = " and ".join(f"{cut:.2f}" for cut in cuts)
        print(f"{flagged} of {len(rows)} labels are likely wrong (*): AUM at or below {at}, the cut-offs of the passes")
    if options.picture is not None:  # last: a picture that fails costs no figure
        _draw(options.picture, found, data.x, [str(label) for label in data.labels], title=options.data.name)
    return 0


def _check(options: Options) -> None:
    if options.top < 1:
        raise RequestError(f"--top {options.top}: needed is 1 or more")
    if not 0 < options.percentile <= 100:
        raise RequestError(f"--percentile {options.percentile:g}: needed is a number above 0, at most 100")
    if not 0 <= options.seed < 2**63:
        raise RequestError(f"--seed {options.seed}: needed is 0 to 2^63 - 1")
    _check_place("--out", options.out, options)
    _check_place("--picture", options.picture, options)
    if options.picture is None:
        return
    import matplotlib  # noqa: F401, not to learn for long and then miss it

    if options.picture.suffix.lower() not in _PICTURES:
        raise RequestError(f"--picture {options.picture}: its name needs to end in {', '.join(_PICTURES)}")
    if not options.picture.absolute().parent.is_dir():
        raise RequestError(f"--picture {options.picture}: the folder does not exist; make it first")


def _check_place(name: str, path: Path | None, options: Options) -> None:
    """Raise RequestError where a file could not be written after hours of learning, or would replace what is read."""
    if path is None:
        return
    others = [options.data, options.labels, options.out if name == "--picture" else None]
    if path.resolve() in [other.resolve() for other in others if other is not None]:
        raise RequestError(f"{name} {path} would replace another file of this request; give it a name of its own")
    nearest = next(parent for parent in path.absolute().parents if parent.exists())
    if path.is_dir() or not nearest.is_dir():
        where = path if path.is_dir() else nearest
        raise RequestError(
            f"{name} {path}: {where} is {'a folder' if where.is_dir() else 'no folder'}; give the name of a file"
        )


def _channels_first(x: np.ndarray) -> np.ndarray:
    """Return examples [n, f] as they are, images as [n, c, h, w].

    >>> _channels_first(np.zeros((5, 8, 9))).shape, _channels_first(np.zeros((5, 8, 9, 3))).shape
    ((5, 1, 8, 9), (5, 3, 8, 9))
    """
    if x.ndim == 2:
        return x
    return x[:, None] if x.ndim == 3 else np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def _rows(found: Suspects, labels: np.ndarray, classes: np.ndarray) -> list[dict[str, object]]:
    names, errors = classes.tolist(), found.errors
    taken_for, aum, flagged = found.taken_for.tolist(), errors.aum.tolist(), errors.flagged.tolist()
    return [
        {
            "rank": rank,
            "example": example,
            "label": names[labels[example]],
            "taken_for": names[taken_for[example]],
            "aum": round(aum[example], 4),
            "likely": flagged[example],
        }
        for rank, example in enumerate(errors.ranking().tolist(), 1)
    ]


def _table(rows: list[dict[str, object]], title: str) -> Table:
    table = Table("", "rank", "example", "label", "taken for", "AUM", title=title)
    for row in rows:
        words = (row["rank"], row["example"], row["label"], row["taken_for"])
        table.add_row("*" if row["likely"] else "", *(escape(str(word)) for word in words), f"{row['aum']:.2f}")
    return table


def _write(path: Path, rows: list[dict[str, object]]) -> None:
    import csv

    from weigher.io.atomic import writing

    with writing(path, "w") as file:
        table = csv.writer(file)
        table.writerow(rows[0])
        table.writerows([*list(row.values())[:-1], "yes" if row["likely"] else "no"] for row in rows)


def _draw(path: Path, found: Suspects, x: np.ndarray, labels: list[str], *, title: str) -> None:
    from weigher.plot.margins import MarginPanel, margins_picture

    errors, chosen = found.errors, found.chosen.numpy()
    flagged, curves, aum = errors.flagged.numpy(), found.curves().numpy(), errors.aum.numpy()
    extra_curves = np.concatenate([m[:, c] for m, c in zip(found.margins.numpy(), chosen, strict=True)], axis=1)
    lowest = errors.ranking()[:_SHOWN].numpy()
    panel = MarginPanel(
        title,
        {"kept": aum[~flagged], "flagged": aum[flagged], "extra class": errors.per_pass.numpy()[chosen]},
        {"kept": curves[:, ~flagged], "flagged": curves[:, flagged], "extra class": extra_curves},
        errors.thresholds.tolist(),
        _to_show(x[lowest]),
        [labels[example] for example in lowest],
    )
    margins_picture(path, [panel], title="Labels that are likely wrong: the area under the margin")


def _to_show(x: np.ndarray) -> np.ndarray | None:
    """Return images as grey [n, h, w] or colour [n, h, w, 3] between 0 and 1; None for what is no picture."""
    if x.ndim == 4 and x.shape[3] == 1:
        x = x[..., 0]
    if x.ndim == 2 or (x.ndim == 4 and x.shape[3] != 3):
        return None
    x = x.astype(np.float64)
    return (x - x.min()) / max(float(np.ptp(x)), 1e-12)

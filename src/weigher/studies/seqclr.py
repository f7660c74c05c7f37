"""SeqCLR on lines of digits and on speech: what an instance is, against InfoNCE over whole lines and against labels.

Lines of 3 to 6 handwritten digits, each line with a brightness, ground, stripes and slant of its own, are learned from
without labels: every mapping with every head, from one start and as long, and InfoNCE over whole lines at as many
temperatures as SeqCLR has settings. Both choose by lines neither learned from nor tested on, of the first seed.

    digits told at their places %        logistic regression of the frame in the middle of each digit, 30 labelled lines
    digits misread %, lines read rightly %
                                         CTC: a linear decoder on the frozen encoder, and all of it learned with 5, 10
                                         and 100 % of the labels, against the same network that starts from nothing
    lines without a style                the same of plain lines: is there less to gain over whole lines then?

The frame encoder of recordings learns from read speech without labels. People it has never heard are told apart by the
cosine of their utterances' mean frames:

    equal error rate %, nearest is the same voice %   over all pairs of utterances

Every way of teaching has its temperature chosen among four by the first seed, by the error on the people it has heard.

small: scikit-learn's digits, and speech of 120 people; about 18 minutes for five seeds on one core. full:
also MNIST, longer; hours.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from weigher.studies.harness import Claim, Context, Figures, Result, Row, Study, Tally, clearly_less, find_row
from weigher.studies.paired import clearly_fewer, clearly_more, level, with_differences
from weigher.studies.seqclr_names import (
    ABLATION,
    CHOICE,
    CHOICE_EER,
    COMPARED,
    CONTEXT,
    EER,
    FRAME,
    FROZEN,
    GAIN,
    HEADLESS,
    INFO,
    INFOS,
    MNIST_FILE,
    NEAREST,
    PLACES,
    PLAIN,
    RIGHT,
    SCRATCH,
    SETTINGS,
    SHARES,
    SIZES,
    SPEECH,
    SPEECH_FILE,
    SPEECH_METHODS,
    SPEECH_TEMPERATURES,
    START,
    STYLE,
    TEMPERATURES,
    TUNED,
    VOICES_COMPARED,
    WHOLE,
    WINDOW,
    WRONG,
    Setting,
    Size,
    labels,
)

if TYPE_CHECKING:  # torch is loaded by a run, not by listing the studies
    from weigher.pairs.lines import LineEncoder
    from weigher.studies.seqclr_lines import Lines

    _Made = Callable[[], tuple[Lines, Lines, Lines]]
    _Taught = Callable[[], LineEncoder]

_PAPER = "Aberdam et al. 2021"


def run(context: Context) -> list[Row]:
    """Teach and measure every method for each seed; see the module."""
    size = SIZES[context.budget]
    tally = Tally()
    for name in size.sets:
        chosen: dict[str, str] = {}
        for seed in context.seeds:
            tally.add(with_differences(_lines(context, name, size, seed, chosen), COMPARED), name)
    temperatures: dict[str, float] = {}
    for seed in context.seeds:
        tally.add(with_differences(_speech_of(context, size, seed, temperatures), VOICES_COMPARED), SPEECH)
    return tally.rows()


def _speech_of(context: Context, size: Size, seed: int, chosen: dict[str, float]) -> Figures:
    """Return one seed's figures of speech; the first seed also tries all temperatures, and fills `chosen`."""
    found: Figures = {}
    for done, (method, called) in enumerate(SPEECH_METHODS.items()):
        context.progress(f"{SPEECH}, seed {seed}", done, len(SPEECH_METHODS))
        among = (chosen[called],) if called in chosen else SPEECH_TEMPERATURES if method != START else (1.0,)
        tried = {
            tau: context.part(f"{SPEECH} {seed} {called} {tau:g}", partial(_speech, context, called, tau, size, seed))
            for tau in among
        }
        best_of = min(tried, key=lambda tau: tried[tau][CHOICE_EER])
        found[method] = {metric: tried[best_of][metric] for metric in (EER, NEAREST)}
        if len(tried) > 1:
            found[method] |= {f"{CHOICE_EER}, temperature {tau:g}": of[CHOICE_EER] for tau, of in tried.items()}
        chosen[called] = best_of
    return found


def _speech(context: Context, called: str, temperature: float, size: Size, seed: int) -> dict[str, float]:
    from weigher.studies.seqclr_speech import SpeechSize, speech_figures

    amount = SpeechSize(people=size.people, epochs=size.speech_epochs)
    figures = speech_figures(context.path(SPEECH_FILE), called, temperature, amount, seed)
    return dict(zip((EER, NEAREST, CHOICE_EER), figures, strict=True))


def _lines(context: Context, name: str, size: Size, seed: int, chosen: dict[str, str]) -> Figures:
    """Return one seed's figures of lines; the first seed also tries all temperatures, and fills `chosen`."""
    made = cache(partial(_made, context, name, size, seed))  # made when the first part asks for it
    taught = cache(lambda setting: _taught(made()[0], setting, size, seed))
    first = not chosen
    methods: dict[str, Setting | None] = {START: None, **ABLATION, CONTEXT: Setting("window", context=True)}
    methods |= INFOS if first else {each: INFOS[each] for each in chosen.values() if each in INFOS}
    found: Figures = {}
    for done, (method, setting) in enumerate(methods.items()):
        context.progress(f"lines of {name}, seed {seed}", done, len(methods))
        work = partial(_placed, made, partial(taught, setting), size)
        found[method] = context.part(f"{name} {seed} {method}", work)
    if first:
        chosen |= {kind: best(found, among) for kind, among in ((TUNED, SETTINGS), (INFO, TEMPERATURES))}
    found |= {kind: dict(found[method]) for kind, method in chosen.items()} | {SCRATCH: {}}
    readers = {START: (FROZEN,), SCRATCH: SHARES, INFO: (FROZEN, *SHARES), TUNED: (FROZEN, *SHARES)}
    for done, (method, given) in enumerate(readers.items()):
        context.progress(f"reading {name}, seed {seed}", done, len(readers))
        setting = methods[chosen[method]] if method in chosen else None
        work = partial(_read, made, partial(taught, setting), given, size, seed)
        found[method] |= context.part(f"{name} {seed} reading, {method}", work)
    plain = cache(partial(_made, context, name, size, seed, styled=False))
    for method in (START, WINDOW, WHOLE):
        work = partial(_placed, plain, partial(_taught_by, plain, methods[method], size, seed), size)
        figures = context.part(f"{name} {seed} {PLAIN}, {method}", work)
        found[method][f"{PLACES}, {PLAIN}"] = figures[PLACES]
    for metric, of in ((PLACES, ""), (f"{PLACES}, {PLAIN}", f", {PLAIN}")):
        found[WINDOW][GAIN + of] = found[WINDOW][metric] - found[WHOLE][metric]
    found[WINDOW][STYLE] = found[WINDOW][GAIN] - found[WINDOW][f"{GAIN}, {PLAIN}"]
    if name == "digits" and seed == context.seeds[0]:
        drawn = context.part("instances", partial(_compared, made, partial(taught, methods[WINDOW]), size))
        _picture(drawn, context.out / "instances.png")
    return found


def best(found: Figures, among: Sequence[str]) -> str:
    """Return the method with the highest figure to choose by.

    >>> best({"a": {CHOICE: 1.0}, "b": {CHOICE: 2.0}}, ["a", "b"])
    'b'
    """
    return max(among, key=lambda method: found[method][CHOICE])


def _made(context: Context, name: str, size: Size, seed: int, *, styled: bool = True) -> tuple[Lines, Lines, Lines]:
    """Return lines to learn from, to choose by, and to test on, no digit in two of them."""
    from weigher.studies.seqclr_lines import digit_images, digit_lines

    parts = digit_images(context.path(MNIST_FILE) if name == "MNIST" else None, seed)
    rng = np.random.default_rng([seed, 11])
    counts = (size.lines, size.chosen, size.tested)
    learn, choose, test = (digit_lines(*part, n, rng, styled=styled) for part, n in zip(parts, counts, strict=True))
    return learn, choose, test


def _taught(learn: Lines, setting: Setting | None, size: Size, seed: int) -> LineEncoder:
    from weigher.studies.seqclr_lines import line_encoder, teach

    encoder = line_encoder(learn, seed, "context" if setting is not None and setting.context else "visual")
    if setting is not None:
        teach(encoder, learn, setting.config(size.windows), epochs=size.epochs, seed=seed)
    return encoder


def _taught_by(made: _Made, setting: Setting | None, size: Size, seed: int) -> LineEncoder:
    return _taught(made()[0], setting, size, seed)


def _placed(made: _Made, taught: _Taught, size: Size) -> dict[str, float]:
    from weigher.studies.seqclr_lines import position_probe

    learn, choose, test = made()
    found = position_probe(taught(), learn[: size.probed], test, choose)
    return {metric: 100 * accuracy for metric, accuracy in zip((PLACES, CHOICE), found, strict=True)}


def _read(made: _Made, taught: _Taught, given: Sequence[int | str], size: Size, seed: int) -> dict[str, float]:
    """Return how well recognisers read that begin with an encoder: held frozen, or learning on with some labels."""
    from weigher.studies.seqclr_lines import Recogniser, reading_errors, train_recogniser

    learn, _, test = made()
    found: dict[str, float] = {}
    for share in given:
        recogniser = Recogniser(copy.deepcopy(taught()), seed)
        labelled = learn[: max(2, len(learn) * share // 100)] if isinstance(share, int) else learn
        train_recogniser(recogniser, labelled, steps=size.steps, frozen=share == FROZEN, seed=seed)
        right, wrong = reading_errors(recogniser, test)
        found |= {f"{RIGHT}, {labels(share)}": right, f"{WRONG}, {labels(share)}": wrong}
    return found


def _compared(made: _Made, taught: _Taught, size: Size) -> dict[str, Any]:
    """Return two views of a line that was never seen, its windows, and how alike these are to the encoder."""
    import torch

    from weigher.core.contrast import unit
    from weigher.pairs.seqclr import instances
    from weigher.pairs.sequence_views import line_view
    from weigher.studies.seqclr_lines import VIEWS, line_features

    test = made()[2][:100]
    rng = np.random.default_rng(12)
    views = [replace(test, images=line_view(test.images, test.widths, VIEWS, rng)) for _ in range(2)]
    found = [instances(*line_features(taught(), view), "window", size.windows)[0] for view in views]
    centre = torch.cat(found).mean((0, 1))
    row = int(test.lengths.argmax())
    first, second = (unit(each[row] - centre) for each in found)
    width = int(test.widths[row])
    return {
        "views": [view.images[row, 0, :, :width].tolist() for view in views],
        "cosines": (first @ second.T).tolist(),
    }


def _picture(drawn: dict[str, Any], path: Path) -> None:
    from weigher.plot.instances import instances_picture

    views, cosines = (np.array(drawn[name]) for name in ("views", "cosines"))
    instances_picture(path, views, cosines, title="Windows of two views of one line, never seen")


def _window_is_best(rows: Sequence[Row]) -> tuple[str, bool]:
    every = [clearly_more(WINDOW, other, f"digits: {PLACES}", rows) for other in (FRAME, WHOLE)]
    return f"frames: {every[0][0]}; whole lines: {every[1][0]}", all(held for _, held in every)


def _style_counts(rows: Sequence[Row]) -> tuple[str, bool]:
    styled, plain = (find_row(rows, WINDOW, f"digits: {GAIN}{of}").mean for of in ("", f", {PLAIN}"))
    apart = find_row(rows, WINDOW, f"digits: {STYLE}")
    return f"{styled:+.1f} points with a style, {plain:+.1f} without", clearly_less(level(0.0), apart)


def _voices(rows: Sequence[Row]) -> tuple[str, bool]:
    start, *taught = (find_row(rows, method, f"{SPEECH}: {EER}") for method in SPEECH_METHODS)
    shown = f"{start.mean:.1f} before; " + ", ".join(f"{row.method} {row.mean:.1f}" for row in taught)
    return shown, all(clearly_fewer(row.method, START, f"{SPEECH}: {EER}", rows)[1] for row in taught)


def plot(result: Result, path: Path) -> None:
    """Draw how well the digits of lines are told at their places after each way to learn."""
    from weigher.plot.bars import horizontal_bars

    rows = [find_row(result.rows, method, f"digits: {PLACES}") for method in (START, INFO, *ABLATION, CONTEXT)]
    horizontal_bars(
        path,
        [row.method for row in rows],
        [row.mean for row in rows],
        [row.std or 0.0 for row in rows],
        title="Digits of lines, 30 lines labelled",
        axis=PLACES,
        marked=[row.method.startswith("SeqCLR") for row in rows],
    )


STUDY = Study(
    name="seqclr",
    card="36",
    title="SeqCLR: parts of sequences as what is compared, on lines of digits and on speech",
    run=run,
    claims=(
        Claim(
            "SeqCLR, windows, tells digits better than the random start",
            _PAPER,
            partial(clearly_more, WINDOW, START, f"digits: {PLACES}"),
        ),
        Claim(
            "SeqCLR, tuned, tells digits better than InfoNCE over whole lines, tuned",
            _PAPER,
            partial(clearly_more, TUNED, INFO, f"digits: {PLACES}"),
        ),
        Claim(
            "a decoder on the frozen encoder misreads less after SeqCLR than after InfoNCE",
            _PAPER,
            partial(clearly_fewer, TUNED, INFO, f"digits: {WRONG}, {labels(FROZEN)}"),
        ),
        *(
            Claim(
                f"fine-tuned SeqCLR misreads less than the same network alone, {labels(share)}",
                _PAPER,
                partial(clearly_fewer, TUNED, SCRATCH, f"digits: {WRONG}, {labels(share)}"),
            )
            for share in SHARES
        ),
        Claim("windows do best of the three mappings", _PAPER, _window_is_best),
        Claim(
            "a head helps (mlp against none, windows)",
            _PAPER,
            partial(clearly_more, WINDOW, HEADLESS, f"digits: {PLACES}"),
        ),
        Claim(
            "features of an LSTM do better than those of convolutions alone",
            _PAPER,
            partial(clearly_more, CONTEXT, WINDOW, f"digits: {PLACES}"),
        ),
        Claim(
            "windows gain more over whole lines where lines have a style of their own",
            "a reviewer's conjecture",
            _style_counts,
        ),
        Claim(
            "every mapping tells strangers' voices apart better than the random start", "the project's target", _voices
        ),
        Claim(
            "whole crops teach voices better than windows, which share a voice and are kept apart",
            "the project's target",
            partial(clearly_fewer, "whole crops", "SeqCLR, window", f"{SPEECH}: {EER}"),
        ),
    ),
    plot=plot,
    paper="SeqCLR: Aberdam, Litman, Tsiper, Anschel, Slossberg, Mazor, Manmatha, Perona 2021, arXiv 2012.10873",
)

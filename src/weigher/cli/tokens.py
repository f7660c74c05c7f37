"""``weigher tokens``: learn from texts with labels of two kinds which of their words count."""

from __future__ import annotations

import json as json_format
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from weigher.cli import console
from weigher.cli.arguments import optional
from weigher.cli.run_folder import check_place
from weigher.errors import RequestError

if TYPE_CHECKING:
    from weigher.tokens.learning import ClassifierConfig


@dataclass(frozen=True)
class Options:
    """Learn which words count from texts with labels of two kinds; every word then carries a score."""

    data: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATA")]
    """Texts: parquet, CSV or JSON lines with the columns text and label. The first 1,000 words of each are learned
    from."""
    out: Annotated[Path, tyro.conf.arg(metavar="RUN")]
    """Folder for the settings, metrics, checkpoints and, at the end, the model (RUN/model)."""
    model: Literal["rnn", "gru", "token-mlp", "weighted-mlp", "local-attention"] = "local-attention"
    """How words are read: one after the other, each alone, each alone with a weight, or each among its neighbours."""
    vectors: Annotated[Path | None, optional("FILE")] = None
    """Text file of word vectors to begin with (GloVe, word2vec), for the 10,000 most frequent words of the
    texts; where not given, they begin by the words that stand around each other in the texts."""
    window: Annotated[int | None, optional("N")] = None
    """With local-attention, words that one word looks at, itself included; odd (default 5)."""
    hidden: Annotated[int | None, optional("N")] = None
    """With rnn and gru, channels of the state (default 64)."""
    epochs: Annotated[int | None, optional("N")] = None
    """Times each text is read (default 5)."""
    learning_rate: Annotated[float | None, optional("RATE")] = None
    """Highest learning rate (default 0.002)."""
    seed: Annotated[int, tyro.conf.arg(metavar="S")] = 0
    """Seed of everything that is drawn."""
    resume: bool = False
    """Go on with a run that was stopped; give the options it began with."""
    device: str = "auto"
    """cpu, cuda, cuda:1, or auto for the best there is."""
    quiet: bool = False
    """No progress on stderr."""
    json: bool = False
    """Print one JSON object at the end."""


def run(options: Options) -> int:
    """Train and save; RequestError for texts that cannot be used."""
    from statistics import median

    from weigher.io.atomic import writing
    from weigher.io.texts import read_texts
    from weigher.tokens.classifier import SentimentClassifier
    from weigher.tokens.training_data import DATA

    check_place(options.out, new=not options.resume)
    if options.resume and not (options.out / DATA).is_file():
        raise RequestError(
            f"{options.out} holds no run of `weigher tokens` to go on with (no {DATA}); leave --resume out"
        )
    classifier = SentimentClassifier(config=_resolved(options), device=options.device)
    data = read_texts(options.data)
    with console.progress_bar(options.quiet) as progress:
        classifier.fit(
            data.texts,
            data.labels,
            vectors=options.vectors,
            run_dir=options.out,
            resume=options.resume,
            data=options.data.name,
            progress=progress,
        )
    folder, history, config = options.out / "model", classifier.history_, classifier.config_
    assert history is not None
    assert config is not None
    with writing(options.out / "config.json", "w") as file:
        json_format.dump(asdict(config), file, indent=2)
    classifier.save_pretrained(folder)
    best = next((record for record in history.validation if record["step"] == history.best_step), None)
    done = {
        "model": str(folder),
        "texts": len(data.texts),
        "classes": classifier.classes_.tolist(),
        "accuracy": None if best is None else best["accuracy"],
        "seconds": round(history.seconds, 1),
        "tokens_per_second": median(record["items_per_second"] for record in history.train),
    }
    if options.json:
        console.print_json(done)
    else:
        right = "" if best is None else f", {best['accuracy']:.1%} of held-out texts right"
        print(f"{folder}: learned from {len(data.texts)} texts{right}; {done['tokens_per_second']:,.0f} tokens/s")
    return 0


def _resolved(options: Options) -> ClassifierConfig:
    """The defaults with what was asked for laid over them; RequestError for a size that the model has not."""
    from weigher.tokens.learning import ClassifierConfig
    from weigher.tokens.token_scores import ScorerConfig

    sizes = _given(window=options.window, hidden=options.hidden)
    for name, models in (("window", ("local-attention",)), ("hidden", ("rnn", "gru"))):
        if name in sizes and options.model not in models:
            raise RequestError(f"--{name} is for {' and '.join(models)}; {options.model} has none, leave it out")
    training = _given(epochs=options.epochs, learning_rate=options.learning_rate)
    return ClassifierConfig(scorer=ScorerConfig(options.model, **sizes), seed=options.seed, **training)


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}

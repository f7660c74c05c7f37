"""The model card says what is known, and only that; a model that is loaded and saved again keeps it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from weigher.errors import RequestError
from weigher.recordings.archive import Archive
from weigher.recordings.configs import to_plain
from weigher.recordings.diarizer import Diarizer, DiarizerConfig
from weigher.recordings.encoder import EncoderConfig
from weigher.recordings.model import FrontConfig, ModelConfig, RecordingModel
from weigher.recordings.model_card import HELD_OUT, OWN_SCORE, Origin, card_of, origin_of
from weigher.recordings.weigher import WeigherConfig
from weigher.train.loop import History
from weigher.train.provenance import versions

ARCHIVE = Archive(
    [np.zeros((360_000, 1), np.float16), np.zeros((180_000, 1), np.float16)], [[0, 1, 2], [2]], ("a", "b", "c", "d")
)
PHASES = (
    History((), (), 120, 90.0, "steps", None, None),
    History((), (), 200, 60.0, "steps", 150, -0.25),
)
CONFIG = DiarizerConfig(
    model=ModelConfig(
        FrontConfig(kind="features", features=3, hop_seconds=0.01),
        EncoderConfig(channels=4, embedding=4),
        WeigherConfig(slots=2, heads=1, layers=1),
    )
)


def origin(**changes):
    given = {"data": "cast.csv", "step_seconds": 0.01, "seed": 7, "device": torch.device("cpu"), "own_score": False}
    return origin_of(ARCHIVE, changes.pop("history", PHASES), **{**given, **changes})


def test_the_card_is_filled_in_from_what_was_learned():
    card = card_of(origin(), to_plain(CONFIG))
    for line in (
        "- List of recordings: `cast.csv`",
        "- Recordings: 2",
        "- Hours: 1.5",
        "- People: 3",  # of four labels, one is in no cast
        "- Cast of a recording: 1 to 3 people, 2 on average",
        "- Steps: 120 + 200 (listen + weigh)",
        "- Time: 2.5 minutes",
        "- Device: cpu",
        "- Seed: 7",
        "- Front end: features",
        "- Slots, the most people in one window: 2",
        f"- Best: 0.25 at step 150; {HELD_OUT}",
        f"- Versions: {', '.join(f'{name} {version}' for name, version in versions().items())}",
    ):
        assert line in card.splitlines()
    assert json.loads(card.split("```json\n")[1].split("```")[0]) == to_plain(CONFIG)
    assert card.startswith("---\nlibrary_name: weigher\n")


def test_a_score_of_ones_own_stays_as_it_is():
    assert f"- Best: -0.25 at step 150; {OWN_SCORE}" in card_of(origin(own_score=True), to_plain(CONFIG))


def test_what_is_not_known_has_no_line():
    nothing = card_of(Origin(), to_plain(CONFIG))
    assert [line for line in nothing.splitlines() if line.startswith("- ")] == [
        "- Front end: features",
        "- Slots, the most people in one window: 2",
    ]
    assert "## Figures" not in nothing
    unvalidated = (PHASES[0], replace(PHASES[1], best_step=None, best_score=None))
    assert "Best" not in card_of(origin(history=unvalidated), to_plain(CONFIG))
    assert "- Seed: 0" in card_of(origin(seed=0), to_plain(CONFIG))


def test_names_of_files_are_no_markdown():
    card = card_of(replace(origin(), data="a`\n# Title\n.csv"), to_plain(CONFIG))
    assert "- List of recordings: `a' # Title .csv`" in card.splitlines()


def test_a_model_that_is_loaded_and_saved_again_keeps_its_card(tmp_path):
    torch.manual_seed(0)
    diarizer = Diarizer(config=CONFIG, device="cpu")
    diarizer.model_, diarizer.origin_ = RecordingModel(CONFIG.model).eval(), origin()
    diarizer.save_pretrained(tmp_path / "one")
    again = Diarizer.from_pretrained(tmp_path / "one", device="cpu")
    assert again.origin_ == origin()
    again.save_pretrained(tmp_path / "two")
    one, two = ((tmp_path / name / "README.md").read_text(encoding="utf-8") for name in ("one", "two"))
    assert one == two
    assert "- People: 3" in one


def test_an_origin_that_makes_no_sense_is_named(tmp_path):
    diarizer = Diarizer(config=CONFIG, device="cpu")
    diarizer.model_ = RecordingModel(CONFIG.model).eval()
    diarizer.save_pretrained(tmp_path)
    plain = json.loads((tmp_path / "config.json").read_text())
    for wrong in ([], {"people": "many"}, {"nobody": 1}, {"versions": [[]]}):
        (tmp_path / "config.json").write_text(json.dumps({**plain, "origin": wrong}))
        with pytest.raises(RequestError, match=r"config\.json"):
            Diarizer.from_pretrained(tmp_path)
    del plain["origin"]  # a folder of an earlier version
    (tmp_path / "config.json").write_text(json.dumps(plain))
    assert Diarizer.from_pretrained(tmp_path).origin_ == Origin()

"""The estimator on four people who sound like four plain spectra: it learns them from casts, and bad input is named."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from made_up import small_settings
from weigher.errors import RequestError
from weigher.io.audio import write_audio
from weigher.io.features import Features, write_features
from weigher.io.manifest import write_cast_csv
from weigher.io.rttm import Segment, read_rttm, write_rttm
from weigher.recordings.archive import Archive
from weigher.recordings.configs import overlay
from weigher.recordings.diarizer import Diarizer, DiarizerConfig
from weigher.recordings.model import RecordingModel
from weigher.recordings.score import score

HOP, BANDS, PEOPLE = 0.02, 12, ("Ann", "Ben Ü", "Cid; jr", "Dee")
SETTINGS = small_settings(listen=120, weigh=200)
CONFIG = overlay(DiarizerConfig(), SETTINGS, "these tests")


def cast_of(rng):
    return tuple(str(name) for name in rng.choice(PEOPLE, int(rng.integers(1, 4)), replace=False))


def talk(cast, rng, turns=8):
    """Turns of 1 to 2.4 s and pauses; a voice is a spectrum with noise, silence is soft: rows [t, BANDS] and turns."""
    rows, said, t = [], [], 0
    for turn in range(turns):
        name, length, pause = cast[turn % len(cast)], int(rng.integers(50, 120)), int(rng.integers(15, 50))
        spectrum = 2 * np.cos(np.arange(BANDS) * (PEOPLE.index(name) + 1) * np.pi / BANDS)
        rows += [spectrum + rng.normal(0, 0.7, (length, BANDS)), rng.normal(-2, 0.3, (pause, BANDS))]
        said.append(Segment(round(t * HOP, 2), round((t + length) * HOP, 2), name))
        t += length + pause
    return np.concatenate(rows).astype(np.float32), said


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """40 recordings and their casts, in files."""
    folder, rng, rows = tmp_path_factory.mktemp("casts"), np.random.default_rng(0), []
    for index in range(40):
        cast = cast_of(rng)
        write_features(folder / f"r{index}.npz", Features(talk(cast, rng)[0], HOP))
        rows.append((f"r{index}.npz", cast))
    write_cast_csv(folder / "cast.csv", rows)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return Diarizer(config=CONFIG, seed=1, device="cpu").fit(folder / "cast.csv")


@pytest.fixture(scope="module")
def tests():
    rng = np.random.default_rng(99)
    return {f"t{k}": talk(cast_of(rng), rng) for k in range(8)}


@pytest.fixture(scope="module")
def long():
    """Two minutes of three people: several windows."""
    return talk(PEOPLE[:3], np.random.default_rng(5), turns=55)


def quick(**changes):
    """A config of 2 + 2 steps that finds a stretch in anything."""
    phases = CONFIG.learn
    phases = replace(
        phases,
        listen=replace(phases.listen, steps=2, validate_every=1),
        weigh=replace(phases.weigh, steps=2, validate_every=1),
        listen_batch=4,
        weigh_batch=2,
        teacher=replace(phases.teacher, threshold=-5.0, temper=3.0),
    )
    return replace(CONFIG, learn=replace(phases, **changes))


def test_casts_alone_teach_who_speaks_when(model, tests):
    assert model.labels_ == tuple(sorted(PEOPLE))
    assert [phase.step for phase in model.history_] == [120, 200]
    truth = {name: said for name, (_, said) in tests.items()}
    found = {name: list(model.predict(values, file_id=name).segments) for name, (values, _) in tests.items()}
    nothing = {name: [replace(turn, speaker="x") for turn in said] for name, said in truth.items()}
    ours, chance = score(truth, found), score(truth, nothing)
    assert chance.der > 35
    assert ours.der < 20, (ours.der, chance.der)
    assert ours.count_accuracy >= 75


def test_shuffled_names_teach_nothing_of_the_kind(model, tests):
    """The same measure, of answers that belong to other recordings: it does not pass by itself."""
    names = list(tests)
    found = {
        name: list(model.predict(tests[other][0]).segments)
        for name, other in zip(names, names[1:] + names[:1], strict=True)
    }
    assert score({name: said for name, (_, said) in tests.items()}, found).der > 35


def test_one_person_has_alike_embeddings_in_two_recordings(model):
    rng = np.random.default_rng(7)
    one, two, other = (
        model.predict(talk((name,), rng)[0], num_speakers=1).embeddings[0] for name in ("Ann", "Ann", "Dee")
    )
    assert np.linalg.norm(one) == pytest.approx(1, abs=1e-5)
    assert one @ two > 0.8
    assert one @ two > one @ other + 0.2


def test_files_are_arrays_and_results_are_written(model, tests, tmp_path):
    values, said = tests["t0"]
    path = tmp_path / "a talk ü.npz"
    write_features(path, Features(values, HOP))
    of_file, of_array = model.predict(path), model.predict(values, file_id="a talk ü")
    np.testing.assert_array_equal(of_file.tracks, of_array.tracks)
    assert of_file.to_json() == of_array.to_json()
    (tmp_path / "found.rttm").write_text(of_file.to_rttm(), encoding="utf-8")
    assert [turn.speaker for turn in read_rttm(tmp_path / "found.rttm")["a talk ü"]] == [
        turn.speaker for turn in of_file.segments
    ]
    assert json.loads(of_file.to_json())["seconds"] == pytest.approx(len(values) * HOP)
    np.testing.assert_array_equal(model.transform([path])[0], of_file.embeddings)
    write_rttm(tmp_path / "truth.rttm", {"a talk ü": said})
    expected = score({"a talk ü": said}, {"a talk ü": list(of_file.segments)}, collar=0.1).der
    assert model.score([path], tmp_path / "truth.rttm", collar=0.1).der == pytest.approx(expected)


def untrained(**changes):
    """A model of random weights that keeps everybody, for what does not depend on what it has learned."""
    front = replace(CONFIG.model.front, features=BANDS, hop_seconds=HOP)
    config = replace(CONFIG, model=replace(CONFIG.model, front=front), **changes)
    diarizer = Diarizer(config=config, device="cpu")
    torch.manual_seed(0)
    diarizer.model_ = RecordingModel(config.model).eval()
    return diarizer


def test_recordings_are_scored_by_names_of_their_own_that_the_references_tell_of(tmp_path):
    diarizer, paths = untrained(), [tmp_path / name for name in ("a/talk.npz", "b/talk.npz", "a/e\u0301.npz")]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        write_features(path, Features(np.random.default_rng(0).normal(size=(200, BANDS)).astype(np.float32), HOP))
    write_rttm(tmp_path / "truth.rttm", {"talk": [Segment(0, 1, "x")], "\xe9": [Segment(0, 1, "x")]})
    with pytest.raises(RequestError, match="have the same name, 'talk'"):
        diarizer.score(paths[:2], tmp_path / "truth.rttm")
    assert {file.file for file in diarizer.score(paths[1:], tmp_path / "truth.rttm").files} == {"talk", "\xe9"}
    write_rttm(tmp_path / "other.rttm", {"other": [Segment(0, 1, "x")]})
    with pytest.raises(RequestError, match=r"nothing of 'talk'.*other"):  # nobody speaks: an empty file of its name
        diarizer.score(paths[:1], tmp_path / "other.rttm")
    (tmp_path / "silent").mkdir()
    (tmp_path / "silent" / "talk.rttm").touch()
    assert diarizer.score(paths[:1], tmp_path / "silent").miss == 0


def test_saved_and_loaded_it_says_the_same(model, tests, tmp_path):
    model.save_pretrained(tmp_path / "model")
    again = Diarizer.from_pretrained(tmp_path / "model", device="cpu")
    assert again.config == model.config
    for values, _ in tests.values():
        np.testing.assert_array_equal(again.predict(values).tracks, model.predict(values).tracks)
    again.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "config.json").read_bytes() == (tmp_path / "model" / "config.json").read_bytes()
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "People: 4" in card
    assert "Steps: 120 + 200 (listen + weigh)" in card


@pytest.mark.parametrize("which", ["short", "long"])
def test_bounds_on_the_number_of_people_are_honoured(model, tests, long, which):
    values = long[0] if which == "long" else tests["t0"][0]
    for count in range(4):
        assert len(model.predict(values, num_speakers=count).speakers) == count
        assert len(model.predict(values, max_speakers=count).speakers) <= count
        assert len(model.predict(values, min_speakers=count).speakers) >= count
    with pytest.raises(RequestError, match="contradict"):
        model.predict(values, min_speakers=3, max_speakers=2)
    with pytest.raises(RequestError, match="0 or more"):
        model.predict(values, max_speakers=-1)


def test_more_people_than_are_heard_can_be_asked_for_in_a_long_recording(model):
    values = talk(("Ann",), np.random.default_rng(3), turns=40)[0]
    assert len(model.predict(values, num_speakers=3).speakers) == 3
    assert model.config.model.weigher.slots < 5
    assert len(model.predict(values, num_speakers=5).speakers) == 5  # as the windows differ in who is there
    with pytest.raises(RequestError, match="slots"):
        model.predict(values, num_speakers=300)


def test_long_recordings_are_linked_over_their_windows(model, long):
    values, said = long
    stages = []
    found = model.predict(values, file_id="long", progress=lambda *stage: stages.append(stage))
    assert len(values) * HOP > 90
    assert stages[-1][1] == stages[-1][2] == len(stages) >= 4
    assert found.tracks.shape[0] * found.hop_seconds == pytest.approx(found.seconds, abs=0.05)
    assert max(turn.end for turn in found.segments) <= found.seconds
    assert score({"long": said}, {"long": list(found.segments)}).der < 25
    # memory holds the tracks of windows in half precision
    whole = replace(model.config, window_seconds=1000.0)
    apart = Diarizer(config=whole, device="cpu")
    apart.model_ = model.model_
    at_once = apart.predict(values, file_id="long")
    assert score({"long": list(at_once.segments)}, {"long": list(found.segments)}).der < 20


def test_same_seed_same_model_other_seed_another(folder):
    def embeddings(seed):
        diarizer = Diarizer(config=quick(), seed=seed, device="cpu").fit(folder / "cast.csv")
        return {name: value.numpy() for name, value in diarizer.model_.state_dict().items()}

    one, two, other = embeddings(3), embeddings(3), embeddings(4)
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name], err_msg=name)
    assert any((value != other[name]).any() for name, value in one.items())


def test_unreadable_recordings_are_named_or_left_out(folder, tmp_path):
    (folder / "broken.npz").write_bytes(b"PK\x03\x04 nonsense")
    lines = (folder / "cast.csv").read_text(encoding="utf-8").splitlines()
    # the first one, from which the size of features is read
    bad = folder / "bad.csv"
    bad.write_text("\n".join([lines[0], "broken.npz,Ann", "gone.npz,Ann", *lines[1:]]), encoding="utf-8")
    with pytest.raises(RequestError, match=r"(?s)line 3: .*gone\.npz"):
        Diarizer(config=quick(), device="cpu").fit(bad)
    diarizer = Diarizer(config=quick(), device="cpu").fit(bad, skip_bad=True)
    assert [reason.split(":")[0] for reason in diarizer.skipped_] == ["line 2", "line 3"]
    assert "broken.npz" in diarizer.skipped_[0]
    assert "gone.npz" in diarizer.skipped_[1]


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_recordings_shorter_than_a_frame(model, folder, rows):
    values = talk(("Ann",), np.random.default_rng(0))[0][:rows]
    assert model.predict(values).seconds == pytest.approx(rows * HOP)
    archive = Archive(
        [values.astype(np.float16)] + [talk((name,), np.random.default_rng(0))[0] for name in PEOPLE[:2] * 3],
        [[0], *[[0], [1]] * 3],
        PEOPLE[:2],
    )
    for additive in (False, True):
        front = replace(CONFIG.model.front, features=BANDS, hop_seconds=HOP, additive=additive)
        config = replace(quick(), model=replace(CONFIG.model, front=front))
        assert Diarizer(config=config, device="cpu").fit(archive).labels_ == PEOPLE[:2]


def test_nobody_speaks_in_nothing_at_all_and_in_silence(model):
    noise = np.random.default_rng(3).normal(-2, 0.3, (1400, BANDS))  # as between the turns of the training recordings
    for values in (np.zeros((0, BANDS)), np.full((400, BANDS), -2.0), noise):
        found = model.predict(values)
        assert (found.speakers, found.segments) == ((), ())


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (np.zeros((100, 7)), r"shape \(100, 7\)"),
        (np.zeros(16000), r"shape \(16000,\)"),
        (np.zeros((2, 100, BANDS)), "shape"),
        (np.full((100, BANDS), np.nan), "NaN"),
    ],
)
def test_arrays_that_cannot_be_heard(model, values, told):
    with pytest.raises(RequestError, match=told):
        model.predict(values)


def test_features_of_another_kind_are_refused(model, tmp_path):
    for name, features in {
        "narrow": Features(np.zeros((9, 5), np.float32), HOP),
        "slow": Features(np.zeros((9, BANDS), np.float32), 0.1),
    }.items():
        write_features(tmp_path / f"{name}.npz", features)
        with pytest.raises(RequestError, match=rf"{name}\.npz.*computed alike"):
            model.predict(tmp_path / f"{name}.npz")


def test_windows_that_do_not_move_on_are_refused():
    diarizer = untrained(window_seconds=1.0, overlap_seconds=0.99)
    with pytest.raises(RequestError, match=r"window_seconds.*0\.04 s"):
        diarizer.predict(np.zeros((400, BANDS)))


def test_features_that_are_no_natural_logarithms_are_not_mixed(tmp_path):
    rows = []
    for index in range(4):
        values = talk(PEOPLE[:2], np.random.default_rng(index))[0] * 20  # decibels
        write_features(tmp_path / f"{index}.npz", Features(values, HOP))
        rows.append((f"{index}.npz", PEOPLE[index % 3 : index % 3 + 2]))
    write_cast_csv(tmp_path / "cast.csv", rows)
    front = replace(CONFIG.model.front, additive=True)
    with pytest.raises(RequestError, match=r'(?s)line 2: .*0\.npz.*natural logarithm.*"additive": false'):
        Diarizer(config=replace(quick(), model=replace(CONFIG.model, front=front)), device="cpu").fit(
            tmp_path / "cast.csv"
        )
    Diarizer(config=quick(), device="cpu").fit(tmp_path / "cast.csv")


def test_requests_before_anything_was_learned(tmp_path):
    diarizer = Diarizer(config=CONFIG, device="cpu")
    for ask in (lambda: diarizer.predict(np.zeros((9, BANDS))), lambda: diarizer.save_pretrained(tmp_path / "x")):
        with pytest.raises(RequestError, match="learned nothing yet"):
            ask()
    assert not (tmp_path / "x").exists()
    with pytest.raises(RequestError, match="at least 2 people"):
        diarizer.fit(Archive([np.zeros((50, BANDS), np.float32)], [[0]], ("Ann",)))
    with pytest.raises(RequestError, match="raise slots"):
        diarizer.fit(Archive([np.zeros((50, BANDS), np.float32)], [[0, 1, 2, 3]], PEOPLE))
    with pytest.raises(RequestError, match="cannot overlap"):
        DiarizerConfig(window_seconds=5.0, overlap_seconds=5.0)


def test_log_mel_model_hears_files_arrays_and_silence_alike(tmp_path):
    """A model on sound that has learned for two steps: what counts here is that all ways in agree."""
    rng, rows = np.random.default_rng(0), []
    for index in range(6):
        write_audio(tmp_path / f"{index}.flac", np.clip(rng.normal(0, 0.1, 40000), -1, 1))
        rows.append((f"{index}.flac", PEOPLE[index % 3 : index % 3 + 2]))
    write_cast_csv(tmp_path / "cast.csv", rows)
    front = replace(CONFIG.model.front, kind="log-mel")
    config = replace(quick(), model=replace(CONFIG.model, front=front), window_seconds=2.0, overlap_seconds=0.5)
    diarizer = Diarizer(config=config, device="cpu").fit(tmp_path / "cast.csv")
    diarizer.save_pretrained(tmp_path / "model")
    again = Diarizer.from_pretrained(tmp_path / "model", device="cpu")
    samples = (rng.normal(0, 0.1, 16000 * 7).clip(-1, 1) * 32767).round() / 32768  # what 16 bits hold
    write_audio(tmp_path / "long.flac", samples)
    for asked in (None, 2):
        of_file, of_array = (
            again.predict(tmp_path / "long.flac", num_speakers=asked),
            diarizer.predict(samples, num_speakers=asked),
        )
        np.testing.assert_allclose(of_file.tracks, of_array.tracks, atol=1e-5)
        assert of_file.segments == of_array.segments
    for length, frames in ((1, 0), (399, 0), (400, 1), (401, 1), (16000, 49)):  # 400 samples are one row, two a frame
        silent = again.predict(np.zeros(length))
        assert silent.seconds == pytest.approx(length / 16000)
        assert len(silent.tracks) == frames
        assert frames or not silent.speakers
        for asked in (1, 3):
            assert len(again.predict(np.zeros(length), num_speakers=asked).speakers) == asked

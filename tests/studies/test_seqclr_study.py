"""The study of SeqCLR: its lines, encoder and recogniser, its rules on made-up rows, and a run too small to learn."""

import math
from itertools import pairwise, product

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from weigher.errors import RequestError
from weigher.pairs.seqclr import SeqCLRConfig
from weigher.pairs.sequence_views import LineViewConfig
from weigher.studies import seqclr as study
from weigher.studies import seqclr_lines as lines
from weigher.studies import seqclr_names as names
from weigher.studies import seqclr_speech as speech
from weigher.studies.harness import Context, Row, judge, run_study
from weigher.studies.paired import with_differences

BETTER, TUNED, FROZEN, FIVE, TEN, ALL, WINDOW, HEAD, LSTM, STYLE, VOICES, WHOLE = study.STUDY.claims


def made(count=12, seed=0, *, styled=True):
    images, labels = lines.digit_images(None, seed)[0]
    return lines.digit_lines(images, labels, count, np.random.default_rng(seed), styled=styled)


def test_no_digit_is_in_two_parts():
    parts = lines.digit_images(None, 0)
    assert sum(len(labels) for _, labels in parts) == 1797
    seen = [{image.tobytes() for image in images} for images, _ in parts]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]


def test_a_plain_line_holds_its_digits_where_it_says():
    images = np.stack([np.full((8, 8), value, np.float32) for value in (0.25, 0.5, 1.0)])
    found = lines.digit_lines(images, np.array([1, 2, 3]), 30, np.random.default_rng(0), styled=False)
    ink = {1: 0.25, 2: 0.5, 3: 1.0}
    for row in range(30):
        length = int(found.lengths[row])
        assert 3 <= length <= 6
        digits, centres = found.digits[row], found.centres[row]
        assert (digits[length:] == -1).all()
        assert all(8 <= after - before <= 10 for before, after in pairwise(centres[:length].tolist()))
        for digit, centre in zip(digits[:length].tolist(), centres[:length].tolist(), strict=True):
            column = found.images[row, 0, :, int(centre)]
            assert column.max().item() == ink[digit]
            assert (column > 0).sum() == 8
        assert not found.images[row, 0, :, int(found.widths[row]) :].any()
        assert centres[length - 1] + 4 <= found.widths[row]
    part = found[torch.tensor([3, 4])]
    assert part.images.shape[3] == int(part.widths.max())


def test_a_style_is_of_the_line_and_not_of_the_digit():
    blank = np.zeros((1, 8, 8), np.float32)
    found = lines.digit_lines(blank, np.array([0]), 20, np.random.default_rng(0), styled=True)
    for row, width in enumerate(found.widths.tolist()):
        inside = found.images[row, 0, :, :width]
        torch.testing.assert_close(inside, inside[:, :1].expand(-1, width))  # stripes run along the line
    levels = found.images[:, 0, :, 0].mean(1)
    assert levels.std() > 0.03
    assert found.images.min() >= 0
    assert found.images.max() <= 0.35 + 1e-6


def test_a_seed_starts_from_the_same_weights():
    some = made(4)
    one, two, other = (torch.cat([p.flatten() for p in lines.line_encoder(some, s).parameters()]) for s in (0, 0, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_views_stay_within_half_an_instance(monkeypatch):
    some = made()
    encoder = lines.line_encoder(some, 0)
    assert int(made(300).widths.min()) / 2 >= names.SIZES["small"].windows  # a frame for every window
    for mapping in ("frame", "window", "all"):
        lines.teach(encoder, some, SeqCLRConfig(mapping, 8), epochs=1, seed=0)
    monkeypatch.setattr(lines, "VIEWS", LineViewConfig(shift_pixels=2.0))
    with pytest.raises(RequestError, match="half an instance"):
        lines.teach(encoder, some, SeqCLRConfig("window", 8), epochs=1, seed=0)


def paths(length, symbols):
    return product(range(symbols), repeat=length)


def test_ctc_is_the_sum_over_all_paths():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 11, dtype=torch.float64, generator=generator)
    digits, lengths = torch.tensor([[1, 1, -1], [0, -1, -1]]), torch.tensor([4, 3])
    logs, expected = logits.log_softmax(2), []
    for row, said in enumerate(([1, 1], [0])):
        n = int(lengths[row])
        symbols = [0, *sorted({digit + 1 for digit in said})]
        terms = [
            sum(logs[row, t, symbols[k]] for t, k in enumerate(path))
            for path in paths(n, len(symbols))
            if lines.spelled([symbols[k] for k in path]) == said
        ]
        expected.append(-torch.stack(terms).logsumexp(0) / len(said))
    torch.testing.assert_close(lines.ctc(logits, lengths, digits), torch.stack(expected).mean())


def test_edits_are_those_of_brute_force():
    def slow(a, b):
        if not a or not b:
            return len(a) + len(b)
        return min(slow(a[1:], b) + 1, slow(a, b[1:]) + 1, slow(a[1:], b[1:]) + (a[0] != b[0]))

    rng = np.random.default_rng(0)
    for _ in range(60):
        a, b = (rng.integers(0, 3, rng.integers(0, 6)).tolist() for _ in range(2))
        assert lines.edits(a, b) == slow(a, b)


class _Oracle(torch.nn.Module):
    """Features that tell the digit of a frame, and nothing between digits."""

    def __init__(self, some, wrong=()):
        super().__init__()
        self.some, self.wrong = some, wrong

    def forward(self, images, widths):
        rows = [int((self.some.images[:, 0, :, :20] == image[0, :, :20]).all((1, 2)).nonzero()[0]) for image in images]
        told = torch.zeros(len(rows), math.ceil(images.shape[3] / 2), dtype=torch.long)
        for place, row in enumerate(rows):
            for k in range(int(self.some.lengths[row])):
                digit = 9 - self.some.digits[row, k] if row in self.wrong and k == 0 else self.some.digits[row, k]
                told[place, (self.some.centres[row, k] / 2).long()] = digit + 1
        return F.one_hot(told, 11).float(), (widths + 1) // 2


def test_right_answers_are_counted_as_right():
    some = made(10)
    recogniser = lines.Recogniser(lines.line_encoder(some, 0), 0)
    recogniser.encoder, recogniser.decoder = _Oracle(some), torch.nn.Identity()
    assert lines.recognised(recogniser, some) == [[d for d in row if d >= 0] for row in some.digits.tolist()]
    assert lines.reading_errors(recogniser, some) == (100.0, 0.0)
    assert lines.position_probe(_Oracle(some), some, some, some[:4]) == [1.0, 1.0]
    recogniser.encoder = _Oracle(some, wrong=(2, 5))
    right, wrong = lines.reading_errors(recogniser, some)
    assert right == pytest.approx(80)
    assert wrong == pytest.approx(100 * 2 / int(some.lengths.sum()))


def test_learning_changes_what_it_is_to_change():
    some = made(24)
    encoder = lines.line_encoder(some, 0)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    history = lines.teach(encoder, some, SeqCLRConfig(windows=4), epochs=12, seed=0)
    losses = [record["loss"] for record in history.train]
    assert len(losses) == 12
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 0.5
    assert not encoder.training
    assert not torch.equal(before["visual.weight"], encoder.visual.weight)
    taught = {name: value.clone() for name, value in encoder.state_dict().items()}
    recogniser = lines.Recogniser(encoder, 0)
    lines.train_recogniser(recogniser, some, steps=3, frozen=True, seed=0)
    assert all(torch.equal(value, taught[name]) for name, value in encoder.state_dict().items())
    lines.train_recogniser(recogniser, some, steps=3, frozen=False, seed=0)
    assert not torch.equal(taught["visual.weight"], encoder.visual.weight)


def test_as_many_temperatures_as_settings():
    assert len(names.SETTINGS) == len(names.TEMPERATURES) == 6
    assert len(names.ABLATION) == 9
    assert names.ABLATION[names.TEMPERATURES[0]].temperature == 0.1
    temperatures = {names.INFOS[name].temperature for name in names.TEMPERATURES[1:]}
    assert len(temperatures | {0.1}) == 6


def test_voices_apart_knows_chance_and_certainty():
    generator = torch.Generator().manual_seed(0)
    who = np.repeat(np.arange(40), 5)
    noise = torch.randn(200, 16, generator=generator)
    error, nearest = speech.voices_apart(noise, who, torch.zeros(16))
    assert error == pytest.approx(50, abs=5)
    assert nearest < 8
    people = 5 * torch.randn(40, 16, generator=generator)[torch.from_numpy(who)]
    assert speech.voices_apart(people + 0.1 * noise, who, torch.zeros(16)) == (0.0, 100.0)
    cone = torch.tensor([[11.0, 0.1], [11.0, -0.1], [9.0, 0.1], [9.0, -0.1]])  # apart only as seen from their mean
    assert speech.voices_apart(cone, np.array(list("aabb")), cone.mean(0)) == (0.0, 100.0)
    assert speech.voices_apart(cone, np.array(list("aabb")), torch.zeros(2))[1] == 0.0


def test_strangers_are_never_learned_from(read_speech):
    path = read_speech / "speech/read_speech_fbank40.npz"
    found = speech.read_utterances(path, speech.SpeechSize(people=5, each=10, strangers=2, tested=10), 0)
    assert (len(found.seen), len(found.unseen)) == (50, 20)
    assert len(set(found.who)) == 2
    assert not {one.tobytes() for one in found.seen} & {one.tobytes() for one in found.unseen}
    encoder = speech.speech_encoder(40, 0)
    rows = speech.utterance_embeddings(encoder, found.unseen)
    short = [one[:150] for one in found.unseen[:1]]
    ragged = speech.utterance_embeddings(encoder, [*short, *found.unseen[1:]])
    torch.testing.assert_close(ragged[1:], rows[1:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ragged[:1], speech.utterance_embeddings(encoder, short), rtol=1e-4, atol=1e-5)


D, S = "digits: ", "speech: "
FIGURES = {
    (names.START, D + names.PLACES): 27.0,
    (study.WINDOW, D + names.PLACES): 50.0,
    (study.WHOLE, D + names.PLACES): 35.0,
    (names.FRAME, D + names.PLACES): 45.0,
    (names.HEADLESS, D + names.PLACES): 40.0,
    (names.CONTEXT, D + names.PLACES): 55.0,
    (names.TUNED, D + names.PLACES): 52.0,
    (names.INFO, D + names.PLACES): 38.0,
    (study.WINDOW, D + names.GAIN): 15.0,
    (study.WINDOW, f"{D}{names.GAIN}, {names.PLAIN}"): 2.0,
    (study.WINDOW, D + names.STYLE): 13.0,
    **{
        (method, f"{D}{names.WRONG}, {study.labels(given)}"): value
        for given in (names.FROZEN, *names.SHARES)
        for method, value in ((names.TUNED, 20.0), (names.INFO, 30.0), (names.SCRATCH, 40.0))
    },
    **{
        (method, S + names.EER): value for method, value in zip(names.SPEECH_METHODS, (35, 30, 28, 20, 25), strict=True)
    },
}


def rows(std=0.5, **changed):
    found: dict[str, dict[str, float]] = {}
    for (method, metric), value in FIGURES.items():
        found.setdefault(method, {})[metric] = changed.get(f"{method}: {metric}", value)
    compared = [(a, b, D + metric) for a, b, metric in names.COMPARED]
    found = with_differences(found, [*compared, *((a, b, S + metric) for a, b, metric in names.VOICES_COMPARED)])
    return [Row(method, metric, value, std, 5) for method, told in found.items() for metric, value in told.items()]


def at(method, metric):
    return f"{method}: {D}{metric}"


@pytest.mark.parametrize(
    ("claim", "change"),
    [
        (BETTER, {at(study.WINDOW, names.PLACES): 27.2}),
        (TUNED, {at(names.TUNED, names.PLACES): 38.1}),
        (FROZEN, {at(names.TUNED, f"{names.WRONG}, frozen encoder"): 31.0}),
        (FIVE, {at(names.SCRATCH, f"{names.WRONG}, 5 % of the labels"): 20.1}),
        (TEN, {at(names.SCRATCH, f"{names.WRONG}, 10 % of the labels"): 20.1}),
        (ALL, {at(names.SCRATCH, f"{names.WRONG}, 100 % of the labels"): 20.1}),
        (WINDOW, {at(names.FRAME, names.PLACES): 49.9}),
        (WINDOW, {at(study.WHOLE, names.PLACES): 51.0}),
        (HEAD, {at(names.HEADLESS, names.PLACES): 50.0}),
        (LSTM, {at(names.CONTEXT, names.PLACES): 50.0}),
        (STYLE, {at(study.WINDOW, names.STYLE): 0.2}),
        (VOICES, {f"SeqCLR, frame: {S}{names.EER}": 34.9}),
        (WHOLE, {f"whole crops: {S}{names.EER}": 27.9}),
    ],
)
def test_claims_follow_from_the_rows(claim, change):
    assert judge(claim, rows()).held
    assert not judge(claim, rows(**change)).held
    assert not judge(claim, rows(std=30.0)).held


def test_a_tiny_run_gives_every_method_its_rows_and_two_pictures(tmp_path, read_speech, monkeypatch):
    size = names.Size(
        epochs=1, steps=2, speech_epochs=1, people=6, lines=40, chosen=20, tested=20, probed=20, windows=4
    )
    monkeypatch.setitem(study.SIZES, "small", size)
    few = speech.SpeechSize(people=6, each=1, strangers=2, tested=2, batch=4)
    monkeypatch.setattr(speech, "SpeechSize", lambda **given: few)
    kept = (study.WINDOW, study.WHOLE, names.HEADLESS, names.FRAME)
    monkeypatch.setattr(study, "ABLATION", {name: names.ABLATION[name] for name in kept})
    monkeypatch.setattr(study, "SETTINGS", [name for name in kept if name != study.WHOLE])
    monkeypatch.setattr(study, "INFOS", {name: names.INFOS[name] for name in names.TEMPERATURES[1:2]})
    monkeypatch.setattr(study, "TEMPERATURES", names.TEMPERATURES[1:2])
    context = Context(data=read_speech, seeds=(0, 1), budget="small", out=tmp_path, progress=lambda *_: None)
    result = run_study(study.STUDY, context)
    found = {(row.method, row.metric): row for row in result.rows}
    for method in (names.START, *kept, names.CONTEXT, names.TUNED, names.INFO, names.TEMPERATURES[1]):
        assert found[method, D + names.PLACES].n == 2
    assert found[names.INFO, D + names.PLACES].mean == found[names.TEMPERATURES[1], D + names.PLACES].mean
    for method in (names.SCRATCH, names.TUNED, names.INFO):
        for share in names.SHARES:
            assert found[method, f"{D}{names.WRONG}, {study.labels(share)}"].mean >= 0
            assert 0 <= found[method, f"{D}{names.RIGHT}, {study.labels(share)}"].mean <= 100
    assert (names.START, f"{D}{names.WRONG}, frozen encoder") in found
    for method in names.SPEECH_METHODS:
        assert 0 <= found[method, S + names.EER].mean <= 100
        tried = [found.get((method, f"{S}{names.CHOICE_EER}, temperature {t:g}")) for t in names.SPEECH_TEMPERATURES]
        assert [row.n for row in tried if row] == ([] if method == names.START else [1] * 4)
    assert len(result.claims) == len(study.STUDY.claims)
    assert len(result.data) == 1
    for name in ("seqclr.png", "instances.png"):
        assert (tmp_path / name).stat().st_size > 10_000

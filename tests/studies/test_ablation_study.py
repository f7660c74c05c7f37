"""The study of the weigher's parts: what it compares with, its casts, its rules, and a run too small to learn."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from made_up import FEW_TURNS, write_read_speech
from weigher.core.matching import match
from weigher.recordings.archive import Archive
from weigher.recordings.encoder import Frames
from weigher.recordings.learn import LearnConfig
from weigher.recordings.loss import LossConfig, set_loss
from weigher.recordings.model import LabelHead
from weigher.recordings.recompose import RecomposeConfig
from weigher.recordings.teacher import TeacherConfig
from weigher.recordings.weigher import Weigher, WeigherConfig
from weigher.studies import variants
from weigher.studies import weigher_ablation as study
from weigher.studies.alternatives import UpConvolvedWeigher, fixed_order, greedy
from weigher.studies.harness import Context, Row, judge, run_study


def greedy_by_hand(table):
    pairs, table = [], table.copy()
    while np.isfinite(table).any():
        slot, label = np.unravel_index(np.argmin(table), table.shape)
        pairs.append((int(slot), int(label)))
        table[slot, :], table[:, label] = np.inf, np.inf
    return sorted(pairs)


def test_greedy_takes_the_cheapest_pair_of_those_left_and_costs_no_less_than_the_best():
    cost, counts = torch.randn(40, 5, 4, dtype=torch.float64), torch.arange(40) % 5
    found, best = greedy(cost, counts), match(cost, counts)
    for row in range(40):
        inside = found.batch == row
        pairs = list(zip(found.slot[inside].tolist(), found.label[inside].tolist(), strict=True))
        assert pairs == greedy_by_hand(cost[row, :, : counts[row]].numpy())
    assert found.batch.tolist() == best.batch.tolist()

    def total(pairs):
        return cost[pairs.batch, pairs.slot, pairs.label].sum().item()

    assert total(found) > total(best)


@pytest.mark.parametrize("matching", [match, greedy, fixed_order])
def test_all_matchings_agree_where_slots_answer_in_order_and_on_nobody(matching):
    cost = (1 - torch.eye(4))[None].expand(2, -1, -1) + torch.arange(4.0) / 10
    found = matching(cost, torch.tensor([3, 0]))
    assert [part.tolist() for part in (found.batch, found.slot, found.label)] == [[0] * 3, [0, 1, 2], [0, 1, 2]]
    nobody = matching(cost, torch.tensor([0, 0]))
    assert nobody.slot.shape == (0,)
    assert nobody.slot.dtype == torch.long


def test_the_order_of_labels_matters_to_the_loss_in_a_fixed_order_only():
    weigher = Weigher(8, 6, WeigherConfig(slots=3, heads=2, layers=1))
    frames = Frames(torch.randn(2, 20, 8), torch.randn(2, 20, 6), torch.ones(2, 20, dtype=torch.bool))
    weighed, labels = weigher(frames), torch.tensor([[0, 1, 2], [3, 1, -1]])
    named, active = torch.randn(2, 3, 5), torch.rand(2, 20, 3).round()
    swapped = [1, 0, 2]
    for matching, alike in ((match, True), (greedy, True), (fixed_order, False)):
        one = set_loss(weighed, named, labels, active, LossConfig(), matching=matching)["loss"]
        two = set_loss(weighed, named, labels[:, swapped], active[:, :, swapped], LossConfig(), matching=matching)
        assert torch.isclose(one, two["loss"]) == alike


@pytest.mark.parametrize("tracks", ["iterated", "linear"])
@pytest.mark.parametrize("ratio", [1, 3, 5])
def test_an_up_convolution_that_has_learned_to_repeat_is_repetition(ratio, tracks):
    config = WeigherConfig(slots=3, heads=2, layers=1, time_reduction=ratio, tracks=tracks)
    torch.manual_seed(0)
    plain = Weigher(8, 6, config)
    learned = UpConvolvedWeigher(8, 6, config, LabelHead(6, 2))
    variants.take_over(learned, plain)
    frames = Frames(torch.randn(2, 17, 8), torch.randn(2, 17, 6), torch.ones(2, 17, dtype=torch.bool))
    assert not torch.allclose(learned(frames).tracks, plain(frames).tracks)
    with torch.no_grad():
        for layer in (learned.up_numbers, learned.up_context):
            layer.weight.zero_()
            layer.bias.zero_()
            for channel in range(layer.weight.shape[0]):
                layer.weight[channel, channel, ratio : 2 * ratio] = 1
    got, expected = learned(frames), plain(frames)
    for part in ("tracks", "embeddings", "confidence", "speech_logits"):
        torch.testing.assert_close(getattr(got, part), getattr(expected, part))


def test_an_up_convolution_learns():
    weigher = UpConvolvedWeigher(8, 6, WeigherConfig(slots=3, heads=2, layers=1), LabelHead(6, 2))
    frames = Frames(torch.randn(2, 17, 8), torch.randn(2, 17, 6), torch.ones(2, 17, dtype=torch.bool))
    weigher(frames).tracks.square().sum().backward()
    for layer in (weigher.up_numbers, weigher.up_context):
        assert all(parameter.grad.abs().sum() > 0 for parameter in layer.parameters())


CASTS = [list(np.random.default_rng(row).choice(30, row % 4 + 1, replace=False)) for row in range(4000)]


@pytest.mark.parametrize("share", [0.0, 0.2, 0.4])
def test_so_many_names_are_missing(share):
    told = study.names_missing(CASTS, share, np.random.default_rng(0))
    names = sum(map(len, CASTS))
    assert sum(map(len, told)) / names == pytest.approx(1 - share, abs=0.02)
    assert all(set(some) <= set(cast) for some, cast in zip(told, CASTS, strict=True))


@pytest.mark.parametrize("share", [0.0, 0.2, 0.4])
def test_so_many_names_are_of_people_who_are_not_there(share):
    told = study.names_wrong(CASTS, 30, share, np.random.default_rng(0))
    pairs = list(zip(told, CASTS, strict=True))
    assert all(len(set(some)) == len(cast) for some, cast in pairs)  # as many, and nobody twice
    wrong = sum(len(set(some) - set(cast)) for some, cast in pairs) / sum(map(len, CASTS))
    assert wrong == pytest.approx(share, abs=0.02)
    strangers = np.bincount([name for some, cast in pairs for name in set(some) - set(cast)], minlength=30)
    if share:
        assert strangers.min() > 0.6 * strangers.mean()  # anybody may be named


def test_nobody_who_is_there_is_named_for_another():
    told = study.names_wrong([[0, 1, 2]] * 50, 6, 1.0, np.random.default_rng(0))
    assert all(set(some) == {3, 4, 5} for some in told)


@pytest.mark.parametrize("files", [1, 5, 20])
def test_people_appear_in_so_many_files_on_average(files):
    names = [[f"p{name}" for name in cast] for cast in CASTS]
    count = study.files_for(names, files)
    assert sum(map(len, CASTS[:count])) / 30 == pytest.approx(files, abs=4 / 30)
    assert study.files_for(names, 10_000) == len(names)


def test_a_recording_that_has_lost_its_names_goes():
    values, quiet = [np.full((4, 2), k) for k in range(3)], [np.full(1, k) for k in range(3)]
    archive = study.with_casts(Archive(values, [[0], [1], [0, 1]], ("a", "b"), quiet=quiet), [[], [1], [0]])
    assert [value[0, 0] for value in archive.values] == [1, 2]
    assert [part[0] for part in archive.quiet] == [1, 2]
    assert archive.casts == [[1], [0]]


CHANNELS, TIME, CHANNEL_MEMORY, TIME_MEMORY, UP, ORDER = study.STUDY.claims


def rows(noise=0.2, ders=None, memory=None):
    """Rows of two seeds: every arm at 20 % and 100 MB but those that are given."""
    found = []
    for sign in (-1, 1):
        found.append({arm.name: {study.DER: 20.0 + 3 * sign, study.COUNT: 50.0} for arm in study.ARMS})
        for place, (name, metrics) in enumerate(found[-1].items()):
            metrics[study.DER] = (ders or {}).get(name, 20.0) + 3 * sign + noise * sign * (place % 3 + 1)
            metrics[study.MEMORY] = (memory or {}).get(name, 100.0)
    values = {}
    for each in found:
        study._collect(values, each)
    return [Row.of(method, metric, figures) for (method, metric), figures in values.items()]


@pytest.mark.parametrize(
    ("claim", "figures", "held"),
    [
        (CHANNELS, {"ders": {"channels: 12": 20.5}}, True),
        (CHANNELS, {"ders": {"channels: 12": 22.5}}, False),
        (CHANNELS, {"ders": {"channels: 12": 15.0}}, True),
        (TIME, {"ders": {"time: 15": 20.5}}, True),
        (TIME, {"ders": {"time: 15": 22.5}}, False),
        (TIME, {"ders": {"time: 1": 15.0}}, False),
        (CHANNEL_MEMORY, {"memory": {"channels: 12": 40.0}}, True),
        (CHANNEL_MEMORY, {"memory": {"channels: 12": 60.0}}, False),
        (TIME_MEMORY, {"memory": {"time: 1": 300.0}}, True),
        (TIME_MEMORY, {}, False),
        (UP, {"ders": {study.UP_CONVOLUTION: 22.0}}, True),
        (UP, {"ders": {study.UP_CONVOLUTION: 20.2}}, False),
        (ORDER, {"ders": {study.FIXED: 40.0}}, True),
        (ORDER, {}, False),
    ],
)
def test_claims_follow_from_the_rows(claim, figures, held):
    assert judge(claim, rows(**figures)).held is held


def test_too_wide_a_spread_within_seeds_and_a_single_seed_hold_nothing():
    assert not judge(ORDER, rows(noise=15.0, ders={study.FIXED: 40.0})).held
    assert not judge(CHANNELS, rows(noise=15.0, ders={"channels: 12": 20.5})).held
    alone = [replace(row, std=None, n=1) for row in rows(ders={study.FIXED: 40.0}, memory={"time: 15": 1.0})]
    assert not any(judge(claim, alone).held for claim in study.STUDY.claims)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder laid out as the study knows it: 20 people of features with two utterances each, and turns."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    write_read_speech(folder / "speech", rng, people=20, said=2, turns=FEW_TURNS)
    return folder


def test_a_tiny_run_gives_every_row(data, tmp_path, monkeypatch):
    teacher = TeacherConfig(threshold=-5.0, temper=3.0)  # one that finds a stretch in anything
    plain = LearnConfig(teacher=teacher, listen_batch=4, listen_seconds=2.0, recompose=RecomposeConfig(seconds=3.0))
    monkeypatch.setattr(variants, "LearnConfig", lambda: plain)
    monkeypatch.setitem(study.SIZES, "small", study.Size(listen=1, weigh=2, batch=2, test=1))
    monkeypatch.setattr(study, "LENGTH_SECONDS", 8.0)
    fewer = [replace(arm, casts=replace(arm.casts, files={2: 1, 10: 2, 50: 4}[arm.casts.files])) for arm in study.ARMS]
    monkeypatch.setattr(study, "ARMS", tuple(fewer))
    listened = []
    once = variants.listen_once

    def listen_once(archive, *rest, **options):
        listened.append(archive)
        return once(archive, *rest, **options)

    monkeypatch.setattr(variants, "listen_once", listen_once)
    context = Context(data=data, seeds=(0,), budget="small", out=tmp_path, progress=lambda stage, done, total: None)
    result = run_study(study.STUDY, context)
    assert len(listened) == len({arm.casts for arm in fewer}) == 7
    found = {(row.method, row.metric): row.mean for row in result.rows}
    for arm in fewer:
        assert 0 <= found[arm.name, study.COUNT] <= 100
        assert found[arm.name, study.SECONDS] > 0
        assert found[arm.name, study.MEMORY] > 0
    memory = [found[name, study.MEMORY] for name in ("time: 1", study.DEFAULT, "time: 15")]
    assert memory == sorted(memory, reverse=True)
    memory = [found[f"channels: {k}", study.MEMORY] for k in (1, 4, 12)]
    assert memory == sorted(memory, reverse=True)
    recordings = [found[name, "recordings"] for name in ("files: 2", study.DEFAULT, "files: 50")]
    assert recordings == sorted(recordings)
    assert recordings[0] < recordings[2]
    gap = found[study._difference(study.FIXED, study.DEFAULT), study.DER]
    assert gap == pytest.approx(found[study.FIXED, study.DER] - found[study.DEFAULT, study.DER])
    assert (tmp_path / "weigher_ablation.png").stat().st_size > 1000

import itertools
import math
from dataclasses import replace
from typing import get_args

import pytest
import torch
import torch.nn.functional as F

from weigher.core.losses import wbce
from weigher.errors import RequestError
from weigher.recordings.encoder import Frames
from weigher.recordings.loss import ClassLoss, LossConfig, class_loss, set_loss, track_cost
from weigher.recordings.weigher import Weighed

KINDS = get_args(ClassLoss)
B, T, N, M, C = 4, 6, 4, 3, 7
LABELS = torch.tensor([[2, 5, 0], [4, -1, -1], [6, 1, -1], [-1, -1, -1]])


def weighed(logits, mask, confidence=None, speech=None):
    """What a weigher would give with these track logits, one tensor per round."""
    tracks = torch.sigmoid(logits[-1]) * mask[..., None]
    return Weighed(
        tracks=tracks,
        embeddings=tracks.mT @ tracks,
        confidence=tracks.mean(1) if confidence is None else confidence,
        logits=tuple(logits),
        speech_logits=logits[-1].amax(2) if speech is None else speech,
        frames=Frames(tracks, tracks, mask),
    )


def drawn(seed=0, dtype=torch.float64, labels=LABELS):
    """A batch with padding: what the weigher says, class logits, labels, and activity that is 0 without a label."""
    g = torch.Generator().manual_seed(seed)
    mask = torch.arange(T) < torch.tensor([6, 4, 5, 6])[:, None]
    logits = [2 * torch.randn(B, T, N, generator=g, dtype=dtype) for _ in range(3)]
    out = weighed(logits, mask, torch.rand(B, N, generator=g, dtype=dtype), torch.randn(B, T, generator=g, dtype=dtype))
    activity = (torch.rand(B, T, M, generator=g) < 0.5).to(dtype) * (labels >= 0)[:, None]
    return out, torch.randn(B, N, C, generator=g, dtype=dtype), labels, activity


def close(got, expected):
    assert got.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("kind", KINDS)
def test_class_losses_are_finite_and_small_only_at_the_right_answer(kind):
    labels = torch.tensor([1, 0])
    right = 20.0 * (2 * F.one_hot(labels, C) - 1)
    assert class_loss(kind, right, labels).max() < 1e-3
    assert (class_loss(kind, right.roll(1, 0), labels) > 1).all()
    for extreme in (torch.zeros(2, C), 1e4 * torch.randn(2, C), torch.randn(2, C).bfloat16()):
        logits = extreme.clone().requires_grad_()
        loss = class_loss(kind, logits, labels)
        assert loss.shape == (2,)
        assert loss.isfinite().all()
        loss.sum().backward()
        assert logits.grad is not None
        assert logits.grad.isfinite().all()


def test_class_losses_differ_and_have_their_closed_forms():
    logits, labels = torch.randn(5, C, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 6])
    targets = F.one_hot(labels, C)
    losses = {kind: class_loss(kind, logits, labels) for kind in KINDS}
    bce = F.binary_cross_entropy_with_logits(logits, targets.double(), reduction="none")
    torch.testing.assert_close(losses["bce"], bce.sum(1))
    torch.testing.assert_close(losses["softmax"], F.cross_entropy(logits, labels, reduction="none"))
    torch.testing.assert_close(losses["wbce"], wbce(logits, targets))
    own = bce.gather(1, labels[:, None])[:, 0]
    others = (bce.sum(1) - own) / (C - 1)
    torch.testing.assert_close(losses["class-balanced"], C * (own + others) / 2)
    for a, b in itertools.combinations(KINDS, 2):
        assert not torch.allclose(losses[a], losses[b])


def bce_by_loops(z, y, mask):
    """Mean over the real frames of -y log p - (1 - y) log(1 - p)."""
    total = count = 0.0
    for t in range(len(z)):
        if mask[t]:
            p = 1 / (1 + math.exp(-z[t]))
            total += -y[t] * math.log(p) - (1 - y[t]) * math.log(1 - p)
            count += 1
    return total / max(count, 1)


def test_track_cost_is_the_mean_cross_entropy_of_every_pair():
    out, _, _, activity = drawn()
    z, mask = out.logits[-1], out.frames.mask.clone()
    mask[3] = False
    activity = activity + 0.3 * (1 - activity)  # shares will do too
    cost, silent = track_cost(z, activity, mask)
    for b, n in itertools.product(range(B), range(N)):
        assert silent[b, n].item() == pytest.approx(bce_by_loops(z[b, :, n].tolist(), [0.0] * T, mask[b]))
        for m in range(M):
            expected = bce_by_loops(z[b, :, n].tolist(), activity[b, :, m].tolist(), mask[b])
            assert cost[b, n, m].item() == pytest.approx(expected)
    assert torch.autograd.gradcheck(lambda z: track_cost(z, activity, mask), (z.requires_grad_(),))


def set_loss_by_loops(out, class_logits, labels, activity, config):
    """The set loss of its description, the pairing found by trying all of them."""
    mask = out.frames.mask
    parts = {"classes": 0.0, "confidence": 0.0, "tracks": 0.0, "speech": 0.0}
    matched = real = 0
    for b in range(len(labels)):
        names = [(m, int(label)) for m, label in enumerate(labels[b]) if label >= 0]

        def pair(round_, n, m, b=b):
            y = [0.0] * T if m is None else activity[b, :, m].tolist()
            return bce_by_loops(out.logits[round_][b, :, n].tolist(), y, mask[b])

        def cost(slots, b=b, names=names, pair=pair):
            total = 0.0
            for n, (m, label) in zip(slots, names, strict=True):
                total -= config.class_weight * F.logsigmoid(class_logits[b, n, label]).item()
                total += pair(0, n, m) + pair(-1, n, m) if activity is not None else 0.0
            return total

        best = min(itertools.permutations(range(N), len(names)), key=cost)
        for n, (m, label) in zip(best, names, strict=True):
            parts["classes"] += class_loss(config.classes, class_logits[b, n][None], torch.tensor([label])).item()
            parts["tracks"] += 0.0 if activity is None else sum(pair(r, n, m) for r in range(len(out.logits)))
            matched += 1
        for n in range(N):
            q = min(max(out.confidence[b, n].item(), 1e-4), 1 - 1e-4)
            parts["confidence"] -= math.log(q) if n in best else math.log(1 - q)
            if n not in best and activity is not None:
                parts["tracks"] += sum(pair(r, n, None) for r in range(len(out.logits)))
        if activity is not None:
            y = [max(row) for row in activity[b].tolist()]
            parts["speech"] += bce_by_loops(out.speech_logits[b].tolist(), y, mask[b]) * int(mask[b].sum())
            real += int(mask[b].sum())
    parts["classes"] /= max(1, matched)
    parts["confidence"] /= len(labels) * N
    parts["tracks"] /= len(labels)
    parts["speech"] /= max(1, real)
    loss = config.class_weight * parts["classes"] + config.confidence_weight * parts["confidence"]
    if activity is None:
        return {"loss": loss, "classes": parts["classes"], "confidence": parts["confidence"]}
    return {**parts, "loss": loss + parts["tracks"] + config.speech_weight * parts["speech"]}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_set_loss_is_its_description_with_the_best_of_all_pairings(kind, timed, seed):
    out, class_logits, labels, activity = drawn(seed)
    config = LossConfig(classes=kind, class_weight=0.7, confidence_weight=0.4, speech_weight=1.3)
    got = set_loss(out, class_logits, labels, activity if timed else None, config)
    expected = set_loss_by_loops(out, class_logits, labels, activity if timed else None, config)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert got[name].shape == ()
        assert got[name].item() == pytest.approx(value, rel=1e-9, abs=1e-12), name


@pytest.mark.parametrize("timed", [True, False])
def test_the_order_of_labels_does_not_matter(timed):
    out, class_logits, labels, activity = drawn()
    plain = set_loss(out, class_logits, labels, activity if timed else None, LossConfig())
    for order in itertools.permutations(range(M)):
        moved = activity[..., list(order)] if timed else None
        close(set_loss(out, class_logits, labels[:, list(order)], moved, LossConfig()), plain)


@pytest.mark.parametrize("timed", [True, False])
def test_the_order_of_slots_and_of_recordings_does_not_matter(timed):
    out, class_logits, labels, activity = drawn()
    plain = set_loss(out, class_logits, labels, activity if timed else None, LossConfig())
    slots, rows = torch.tensor([2, 0, 3, 1]), torch.tensor([3, 1, 0, 2])
    moved = weighed(
        [each[rows][..., slots] for each in out.logits],
        out.frames.mask[rows],
        out.confidence[rows][:, slots],
        out.speech_logits[rows],
    )
    moved_activity = activity[rows] if timed else None
    close(set_loss(moved, class_logits[rows][:, slots], labels[rows], moved_activity, LossConfig()), plain)


@pytest.mark.parametrize("timed", [True, False])
def test_labels_that_are_not_there_change_nothing(timed):
    out, class_logits, labels, activity = drawn()
    plain = set_loss(out, class_logits, labels, activity if timed else None, LossConfig())
    wider = torch.full((B, 7), -1)
    garbage = torch.full((B, T, 7), math.nan, dtype=torch.float64)
    places = torch.tensor([1, 3, 6])
    wider[:, places] = labels
    # what stands in the activity of nobody does not matter either
    garbage[..., places] = torch.where((labels >= 0)[:, None], activity, 1.0)
    close(set_loss(out, class_logits, wider, garbage if timed else None, LossConfig()), plain)


def test_padded_frames_change_nothing():
    out, class_logits, labels, activity = drawn()
    plain = set_loss(out, class_logits, labels, activity, LossConfig())
    longer = weighed(
        [F.pad(each, (0, 0, 0, 3), value=7.0) for each in out.logits],
        F.pad(out.frames.mask, (0, 3)),
        out.confidence,
        F.pad(out.speech_logits, (0, 3), value=-7.0),
    )
    close(set_loss(longer, class_logits, labels, F.pad(activity, (0, 0, 0, 3), value=1.0), LossConfig()), plain)


@pytest.mark.parametrize("kind", KINDS)
def test_perfection_costs_nearly_nothing(kind):
    labels = torch.tensor([[2, 5, -1], [4, -1, -1]])
    activity = torch.zeros(2, T, M)
    activity[0, :3, 0], activity[0, 2:5, 1], activity[1, 1:, 0] = 1, 1, 1
    mask = torch.ones(2, T, dtype=torch.bool)
    # slot 3 holds the first label, slot 1 the second; the others are silent
    tracks = torch.zeros(2, T, N)
    tracks[..., 3], tracks[0, :, 1] = activity[..., 0], activity[0, :, 1]
    named = torch.full((2, N, C), -20.0)
    named[0, 3, 2], named[0, 1, 5], named[1, 3, 4] = 20, 20, 20
    sure = torch.zeros(2, N)
    sure[:, 3], sure[0, 1] = 1, 1
    out = weighed([40 * tracks - 20] * 3, mask, sure, 40 * activity.amax(2) - 20)
    parts = set_loss(out, named, labels, activity, LossConfig(classes=kind))
    assert all(0 <= value < 2e-4 for value in parts.values()), parts
    wrong = set_loss(out, named.roll(1, 2), labels, activity, LossConfig(classes=kind))
    assert wrong["loss"] > 1


def test_more_labels_than_slots_are_refused():
    out, class_logits, _, _ = drawn()
    labels = torch.full((B, 6), -1)
    labels[2, 1:] = torch.arange(5)
    activity = torch.zeros(B, T, 6, dtype=torch.float64)
    for times in (None, activity):
        with pytest.raises(RequestError, match="row 2 has 5 labels and only 4 slots"):
            set_loss(out, class_logits, labels, times, LossConfig())


def test_a_batch_without_any_label_teaches_silence():
    out, class_logits, _, activity = drawn()
    labels = torch.full((B, M), -1)
    class_logits.requires_grad_()
    parts = set_loss(out, class_logits, labels, activity, LossConfig())
    assert parts["classes"].item() == 0
    assert parts["confidence"].item() == pytest.approx(-(1 - out.confidence.clamp(1e-4, 1 - 1e-4)).log().mean().item())
    silence = F.softplus(out.logits[-1]) * out.frames.mask[..., None]
    assert parts["tracks"].item() > silence.sum().item() / T / B
    parts["loss"].backward()
    assert class_logits.grad is None or not class_logits.grad.any()


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"wbce"}))
@pytest.mark.parametrize("timed", [True, False])
def test_gradient_is_that_of_finite_differences(kind, timed):
    # without wbce, whose weights are detached on purpose
    out, class_logits, labels, activity = drawn()

    def run(class_logits, confidence, speech, *logits):
        said = weighed(logits, out.frames.mask, confidence, speech)
        return set_loss(said, class_logits, labels, activity if timed else None, LossConfig(classes=kind))["loss"]

    inputs = [class_logits, out.confidence.clamp(0.05, 0.95), out.speech_logits, *out.logits]
    assert torch.autograd.gradcheck(run, [x.clone().requires_grad_() for x in inputs], fast_mode=kind != "bce")


def test_autocast_leaves_the_loss_exact():
    # mixed precision is for the model: a cost is a difference of large sums, and a GPU refuses BCE of probabilities
    out, class_logits, labels, activity = drawn(dtype=torch.float32)
    plain = set_loss(out, class_logits, labels, activity, LossConfig())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = set_loss(out, class_logits, labels, activity, LossConfig())
    for name in plain:
        assert torch.equal(mixed[name], plain[name]), name


def test_probabilities_are_compared_outside_autocast(monkeypatch):
    # as on a GPU, whose autocast raises there
    real = F.binary_cross_entropy

    def refusing(*inputs):
        assert not torch.is_autocast_enabled("cpu")
        return real(*inputs)

    monkeypatch.setattr(F, "binary_cross_entropy", refusing)
    out, class_logits, labels, activity = drawn(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert set_loss(out, class_logits, labels, activity, LossConfig())["loss"].isfinite()


def test_class_logits_in_half_precision():
    out, class_logits, labels, activity = drawn(dtype=torch.float32)
    parts = set_loss(out, class_logits.bfloat16(), labels, activity, LossConfig())
    plain = set_loss(out, class_logits.bfloat16().float(), labels, activity, LossConfig())
    close(parts, plain)


def test_weights_of_the_parts():
    out, class_logits, labels, activity = drawn()
    config = LossConfig(class_weight=0.5, confidence_weight=0.25, speech_weight=2.0)
    parts = set_loss(out, class_logits, labels, activity, config)
    total = 0.5 * parts["classes"] + 0.25 * parts["confidence"] + parts["tracks"] + 2 * parts["speech"]
    torch.testing.assert_close(parts["loss"], total)
    # the class weight is part of the pairing, the other two are not
    other = set_loss(out, class_logits, labels, activity, replace(config, confidence_weight=9.0, speech_weight=0.0))
    for name in ("classes", "confidence", "tracks", "speech"):
        assert torch.equal(other[name], parts[name])

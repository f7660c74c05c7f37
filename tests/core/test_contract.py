"""The contract itself under test: faithful subjects keep every law, and each law goes red on a fault planted for it."""

import itertools
from dataclasses import replace

import pytest
import torch

from contract import LAWS, Subject, broken_laws, check_laws
from weigher.errors import RequestError


def vectors(batch, size, generator):
    return (torch.randn(batch, size, 2, dtype=torch.float64, generator=generator),)


def mean(x, weight=None):
    weight = torch.ones(x.shape[:2], dtype=x.dtype) if weight is None else weight.to(x.dtype)
    kept = torch.where((weight[..., None] > 0) | x.isfinite(), x, 0)  # the weight may be learned, and 0 for now
    total = weight.sum(1)[:, None]
    return torch.where(total > 0, (weight[..., None] * kept).sum(1) / torch.where(total > 0, total, 1), 0)


def centred(x, weight=None):
    weight = torch.ones(x.shape[:2], dtype=x.dtype) if weight is None else weight
    alive = weight[..., None] > 0
    return torch.where(alive, torch.where(alive, x, 0) - mean(x, weight)[:, None], 0)


def shares(x, weight=None):
    weight = torch.ones(x.shape[:2], dtype=x.dtype) if weight is None else weight
    terms = torch.where((weight[..., None] > 0) | x.isfinite(), x, 0).exp() * weight[..., None]
    total = terms.sum(1, keepdim=True)
    return terms / torch.where(total > 0, total, 1)


def differences(x, weight=None):
    """Order matters: each frame minus the one before it."""
    weight = torch.ones(x.shape[:2], dtype=torch.bool) if weight is None else weight
    kept = torch.where(weight[..., None], x, 0)
    return torch.where(weight[..., None], kept - kept.roll(1, dims=1).index_fill(1, torch.tensor([0]), 0), 0)


def refusing(x, weight=None):
    if weight is not None and not weight.any(1).all():
        raise RequestError("a row without frames was given")
    return mean(x, weight)


class Scale(torch.nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(factor, dtype=torch.float64))

    def forward(self, x, weight=None):
        return mean(x, weight) * self.factor


def reloaded(tmp_path, start):
    model = Scale(start)
    torch.save(Scale(2.0).state_dict(), tmp_path / "model.pt")
    model.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    return model


MEAN = Subject("mean", mean, vectors)
FAITHFUL = [
    MEAN,
    Subject("centred", centred, vectors, output="kept"),
    Subject("shares", shares, vectors, output="shared"),
    Subject("differences", differences, vectors, output="kept", weights="mask", ordered=True),
    Subject("refusing", refusing, vectors),
    Subject("sum", lambda x, weight=None: mean(x, weight) * weight_sum(x, weight), vectors, normalised=False),
]


def weight_sum(x, weight):
    return torch.tensor(float(x.shape[1])) if weight is None else weight.sum(1)[:, None]


@pytest.mark.parametrize("subject", FAITHFUL, ids=lambda s: s.name)
def test_faithful_subjects_keep_every_law_that_applies(subject):
    assert set(check_laws(subject)) == {name for name, (_, applies) in LAWS.items() if applies(subject)}


def test_laws_that_do_not_apply_are_known_by_name():
    def unasked(subject):
        return set(LAWS) - set(check_laws(subject))

    assert unasked(MEAN) == {"save, load, equal"}
    assert unasked(FAITHFUL[3]) == {
        "save, load, equal",
        "integer weight = repeated",
        "rescaling changes nothing",
        "weight 0 has its gradient",
    }
    assert unasked(FAITHFUL[5]) == {"save, load, equal", "rescaling changes nothing"}


def test_a_model_with_state_is_saved_and_loaded(tmp_path):
    subject = Subject("model", Scale(2.0), vectors, reload=lambda: reloaded(tmp_path, 7.0))
    assert "save, load, equal" in check_laws(subject)
    assert set(broken_laws(replace(subject, reload=lambda: Scale(7.0)))) == {"save, load, equal"}


def fault(name, law, call, **fields):
    return pytest.param(law, Subject(name, call, fields.pop("inputs", vectors), **fields), id=f"{law}: {name}")


def plain_sum(x, weight=None):
    return x.sum(1) if weight is None else mean(x, weight)


def by_position(x, weight=None):
    return mean(x * torch.linspace(1, 2, x.shape[1], dtype=x.dtype)[:, None], weight)


def never_removed(x, weight=None):
    return mean(x, None if weight is None else weight + 0.1)


def fixed_denominator(x, weight=None):
    weight = torch.ones(x.shape[:2], dtype=x.dtype) if weight is None else weight
    return (weight[..., None] * torch.where(weight[..., None] > 0, x, 0)).sum(1) / x.shape[1]


def multiplied_padding(x, weight=None):
    weight = torch.ones(x.shape[:2], dtype=x.dtype) if weight is None else weight.to(x.dtype)
    total = weight.sum(1)[:, None]
    return (weight[..., None] * x).sum(1) / torch.where(total > 0, total, 1)


def leaky_gradient(x, weight=None):
    """Right values for finite padding; the padding gets a gradient through the anchor."""
    anchor = x.mean(1) * 1e-3
    return mean(x, weight) + anchor - anchor.detach()


def clamped_above_the_top(x, weight=None):
    """Right values; elements of weight 0 count no more than the largest that counts."""
    weight = torch.ones(x.shape[:2], dtype=x.dtype) if weight is None else weight
    alive = weight[..., None] > 0
    top = torch.where(alive, x, -torch.inf).amax(1, keepdim=True).detach()
    return shares(torch.where(alive, x, x.clamp(max=torch.where(top.isfinite(), top, 0))), weight)


def lengths_of_first_row(x, weight=None):
    if weight is None or (weight > 0).all():
        return mean(x, weight)
    count = (weight[0] > 0).sum().clamp(min=1)
    return mean(x, weight) * (weight > 0).sum(1)[:, None] / count


def zero_over_zero(x, weight=None):
    weight = torch.ones(x.shape[:2], dtype=x.dtype) if weight is None else weight
    return (weight[..., None] * torch.where(weight[..., None] > 0, x, 0)).sum(1) / weight.sum(1)[:, None]


def nan_gradient_of_empty_rows(x, weight=None):
    weight = torch.ones(x.shape[:2], dtype=x.dtype) if weight is None else weight
    total = weight.sum(1)[:, None]
    return torch.where(total > 0, (weight[..., None] * x).sum(1) / total, 0)


COUNTER = itertools.count()

FAULTS = [
    fault("adds 0.1 to weights", "zero weight = removed", never_removed),
    fault("square root of weights", "integer weight = repeated", lambda x, weight=None: mean(x, root(weight))),
    fault("kept doubles", "integer weight = repeated", shares, output="kept"),
    fault("shared copies", "integer weight = repeated", centred, output="shared"),
    fault("sum without weights", "uniform = unweighted", plain_sum),
    fault("divides by the size", "rescaling changes nothing", fixed_denominator),
    fault("weights of a position", "permuting permutes", by_position),
    fault("adds the row number", "permuting permutes", lambda x, weight=None: mean(x, weight) + rows(x)),
    fault("divides by padded size", "padding is invisible", fixed_denominator, normalised=False),
    fault("0 * NaN", "padding is invisible", multiplied_padding),
    fault("gradient into padding", "padding is invisible", leaky_gradient, garbage=1e3),
    fault("one length for all", "ragged rows stand alone", lengths_of_first_row),
    fault("centres the batch", "batches of any size", lambda x, weight=None: mean(x, weight) - mean(x, weight).mean(0)),
    fault("squeezes", "batches of any size", lambda x, weight=None: mean(x, weight).squeeze(0)),
    fault("0 / 0", "empty row = zeros or error", zero_over_zero),
    fault("one for nobody", "empty row = zeros or error", lambda x, weight=None: mean(x, weight) + empty(x, weight)),
    fault("NaN gradient", "empty row = zeros or error", nan_gradient_of_empty_rows, garbage=1e3),
    fault("detached half", "gradcheck", lambda x, weight=None: mean(x, weight) * mean(x, weight).detach()),
    fault("detached weights", "gradcheck", lambda x, weight=None: mean(x, None if weight is None else weight.detach())),
    fault(
        "cleans values of weight 0", "weight 0 has its gradient", lambda x, weight=None: mean(only(x, weight), weight)
    ),
    fault("clamps above the top", "weight 0 has its gradient", clamped_above_the_top, output="shared"),
    fault("overflow", "finite in bf16", lambda x, weight=None: mean(x, weight) * 1e200 / 1e200),
    fault("a counter", "same seed, same result", lambda x, weight=None: mean(x, weight) + next(COUNTER)),
]


def root(weight):
    return None if weight is None else weight.sqrt()


def only(x, weight):
    return x if weight is None else torch.where(weight[..., None] > 0, x, 0)


def rows(x):
    return torch.arange(len(x), dtype=x.dtype)[:, None]


def empty(x, weight):
    return 0 if weight is None else (weight.sum(1)[:, None] == 0).to(x.dtype)


@pytest.mark.parametrize(("law", "subject"), FAULTS)
def test_each_law_goes_red_on_a_planted_fault(law, subject):
    assert law in broken_laws(subject)
    with pytest.raises(AssertionError, match=law):
        check_laws(subject)


def test_every_law_has_a_planted_fault():
    assert {param.values[0] for param in FAULTS} | {"save, load, equal"} == set(LAWS)


def test_a_crash_is_not_taken_for_a_broken_law():
    def crashes(x, weight=None):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        check_laws(Subject("crashes", crashes, vectors))

"""The laws every weighted function of this library obeys, written once and run on all of them.

A test describes what it examines as a `Subject` and calls `check_laws(subject)`. Each law is a function of its own,
`law(subject, seed)`, that raises AssertionError where the subject breaks it; `LAWS` lists them with the condition under
which they apply. A law that does not apply to a subject is decided by the subject's fields, never by a failure.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError, gradcheck

from weigher.errors import RequestError

BATCH, SIZE = 5, 7


@dataclass(frozen=True)
class Subject:
    """A function under the laws.

    call       `call(*inputs, weight=None)` -> Tensor with the batch as its first axis. `weight` is `[b, t]`: float64
               for `weights="real"`, bool (True = counts) for `weights="mask"`, or None for "everything counts".
    inputs     `inputs(batch, size, generator)` -> tensors `[b, t, ...]`, floating ones in float64.
    output     "pooled": axis t is gone. "kept": axis 1 of the output is t, and copies of an element get equal outputs.
               "shared": axis 1 is t, and copies of an element share its output between them (normalised weights).
    normalised the weights' scale does not matter.
    ordered    the order along t matters (convolutions, recurrences): only the end of a row can be removed.
    differentiable  the gradient is that of the value; False where something is detached on purpose.
    jumps      the value jumps where a weight leaves 0 (a maximum), so that there is no gradient by a weight of 0.
    garbage    what padding holds while the laws look at it; finite where a subject cannot take NaN.
    tolerance  absolute and relative, in float64.
    reload     saves and loads the subject and returns the new `call`; None for a function without state.
    """

    name: str
    call: Callable[..., Tensor]
    inputs: Callable[[int, int, torch.Generator], tuple[Tensor, ...]]
    output: Literal["pooled", "kept", "shared"] = "pooled"
    weights: Literal["real", "mask"] = "real"
    normalised: bool = True
    ordered: bool = False
    differentiable: bool = True
    jumps: bool = False
    garbage: float = math.nan
    tolerance: float = 1e-9
    reload: Callable[[], Callable[..., Tensor]] | None = None


def check_laws(subject: Subject, seed: int = 0) -> tuple[str, ...]:
    """Run every law that applies, report all that are broken at once, and return the names of those that were run."""
    broken = broken_laws(subject, seed)
    assert not broken, f"{subject.name} breaks\n" + "\n".join(f"  {law}: {why}" for law, why in broken.items())
    return tuple(name for name, (_, applies) in LAWS.items() if applies(subject))


def broken_laws(subject: Subject, seed: int = 0) -> dict[str, str]:
    """Return the laws the subject breaks, each with what was seen."""
    broken = {}
    for name, (law, applies) in LAWS.items():
        if applies(subject):
            try:
                law(subject, seed)
            except AssertionError as error:
                broken[name] = str(error)
    return broken


def zero_weight_is_removal(subject: Subject, seed: int = 0) -> None:
    """Weight 0 on some elements gives what deleting them gives."""
    inputs, weight, generator = _drawn(subject, seed)
    keep = torch.ones(SIZE, dtype=torch.bool)
    keep[-2:] = False
    if not subject.ordered:
        keep = keep[torch.randperm(SIZE, generator=generator)]
    got = _run(subject, inputs, weight * keep)
    expected = _run(subject, tuple(x[:, keep] for x in inputs), weight[:, keep])
    _close(subject, _cut(subject, got, keep), expected, "weight 0 differs from removal")


def integer_weight_is_repetition(subject: Subject, seed: int = 0) -> None:
    """Weights 0, 1, 2, 3 give what writing the elements down 0, 1, 2, 3 times gives."""
    inputs, _, generator = _drawn(subject, seed)
    times = torch.arange(SIZE)[torch.randperm(SIZE, generator=generator)] % 4
    got = _run(subject, inputs, times.double().expand(BATCH, SIZE))
    copies = _run(subject, tuple(x.repeat_interleave(times, dim=1) for x in inputs), None)
    if subject.output == "pooled":
        _close(subject, got, copies, "an integer weight differs from repetition")
        return
    owner = torch.arange(SIZE).repeat_interleave(times)
    summed = torch.zeros_like(got).index_add(1, owner, copies)
    if subject.output == "kept":
        alive = times > 0
        mean = summed[:, alive] / times[alive].view(-1, *[1] * (got.dim() - 2))
        _close(subject, got[:, alive], mean, "an integer weight differs from repetition")
        _close(subject, got[:, owner], copies, "copies of one element differ from each other")
    else:
        _close(subject, got, summed, "the copies of an element do not share its output")


def uniform_is_unweighted(subject: Subject, seed: int = 0) -> None:
    """Weight 1 everywhere gives what no weight gives."""
    inputs, weight, _ = _drawn(subject, seed)
    got = _run(subject, inputs, torch.ones_like(weight))
    _close(subject, got, _run(subject, inputs, None), "uniform weights differ from none")


def scale_of_weights_is_free(subject: Subject, seed: int = 0) -> None:
    """Multiplying the weights of a row by any positive number changes nothing."""
    inputs, weight, _ = _drawn(subject, seed)
    factors = torch.tensor([1e-3, 0.5, 3.0, 17.0, 1e4], dtype=torch.float64)[:, None]
    got = _run(subject, inputs, weight * factors)
    _close(subject, got, _run(subject, inputs, weight), "rescaled weights change the output")


def permutation_is_followed(subject: Subject, seed: int = 0) -> None:
    """Permuting rows permutes outputs; permuting elements permutes kept outputs and leaves pooled ones alone."""
    inputs, weight, generator = _drawn(subject, seed)
    base = _run(subject, inputs, weight)
    rows = torch.randperm(BATCH, generator=generator)
    got = _run(subject, tuple(x[rows] for x in inputs), weight[rows])
    _close(subject, got, base[rows], "permuted rows do not permute the output")
    if subject.ordered:
        return
    order = torch.randperm(SIZE, generator=generator).roll(1)
    got = _run(subject, tuple(x[:, order] for x in inputs), weight[:, order])
    expected = base if subject.output == "pooled" else base[:, order]
    _close(subject, got, expected, "permuted elements change the output")


def padding_is_invisible(subject: Subject, seed: int = 0) -> None:
    """Padding, whatever it holds and wherever it lies, changes neither outputs nor gradients and receives none."""
    inputs, weight, generator = _drawn(subject, seed)
    extra = 3
    longer = _spoil(subject, inputs, subject.inputs(BATCH, extra, generator))
    longer_weight = torch.cat([weight, torch.zeros(BATCH, extra, dtype=weight.dtype)], dim=1)
    place = torch.arange(SIZE + extra)
    if not subject.ordered:
        place = torch.randperm(SIZE + extra, generator=generator)
    real = place < SIZE
    plain, plain_gradients = _run_backward(subject, tuple(x[:, place[real]] for x in inputs), weight[:, place[real]])
    padded, padded_gradients = _run_backward(subject, tuple(x[:, place] for x in longer), longer_weight[:, place], real)
    assert padded.isfinite().all(), "padding makes the output infinite or NaN"
    _close(subject, _cut(subject, padded, real), plain, "padding changes the output")
    if subject.output == "shared":
        assert not padded[:, ~real].any(), "padding receives a share"
    for expected, got in zip(plain_gradients, padded_gradients, strict=True):
        _close(subject, got[:, real], expected, "padding changes a gradient")
        assert not got[:, ~real].any(), "padding receives a gradient"


def ragged_rows_stand_alone(subject: Subject, seed: int = 0) -> None:
    """Rows of different lengths in one padded batch give what each gives alone and unpadded."""
    inputs, weight, generator = _drawn(subject, seed)
    lengths = torch.randint(1, SIZE + 1, (BATCH,), generator=generator)
    valid = torch.arange(SIZE) < lengths[:, None]
    spoiled = tuple(
        x.masked_fill(~valid.view(BATCH, SIZE, *[1] * (x.dim() - 2)), subject.garbage) if x.is_floating_point() else x
        for x in inputs
    )
    got = _run(subject, spoiled, weight * valid)
    for row in range(BATCH):
        real = valid[row]
        alone = _run(subject, tuple(x[row : row + 1, real] for x in inputs), weight[row : row + 1, real])
        _close(subject, _cut(subject, got[row : row + 1], real), alone, f"row {row} of a ragged batch differs")


def batches_of_any_size(subject: Subject, seed: int = 0) -> None:
    """A batch of one, and a smaller last batch, give the rows of the whole batch."""
    inputs, weight, _ = _drawn(subject, seed)
    whole = _run(subject, inputs, weight)
    assert len(whole) == BATCH, f"the output has {len(whole)} rows for {BATCH}"
    one = _run(subject, tuple(x[:1] for x in inputs), weight[:1])
    _close(subject, one, whole[:1], "a batch of one differs from its row in a larger one")
    pieces = [_run(subject, tuple(x[i : i + 2] for x in inputs), weight[i : i + 2]) for i in range(0, BATCH, 2)]
    _close(subject, torch.cat(pieces), whole, "batches of 2, 2 and 1 differ from one of 5")


def empty_row_is_zero_or_error(subject: Subject, seed: int = 0) -> None:
    """A row without any weight gives zeros, with zero gradients, or a RequestError; the other rows do not notice."""
    inputs, weight, _ = _drawn(subject, seed)
    emptied = weight.clone()
    emptied[1] = 0
    try:
        got, gradients = _run_backward(subject, inputs, emptied)
    except RequestError:
        return
    assert got.isfinite().all(), "a row without weight gives NaN"
    assert not got[1].any(), f"a row without weight gives {got[1].flatten()[:3].tolist()}, not zeros"
    others = torch.arange(BATCH) != 1
    _close(subject, got[others], _run(subject, inputs, weight)[others], "a row without weight changes another")
    for gradient in gradients:
        assert gradient.isfinite().all(), "a row without weight makes a gradient NaN"
        assert not gradient[1].any(), "a row without weight receives a gradient"


def gradient_is_exact(subject: Subject, seed: int = 0) -> None:
    """The gradients agree with finite differences in float64: unweighted, weighted, and with removed elements."""
    generator = torch.Generator().manual_seed(seed)
    inputs = _with_gradient(subject.inputs(2, 4, generator))
    weight = torch.rand(2, 4, dtype=torch.float64, generator=generator) + 0.5
    removed = torch.tensor([[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
    _gradcheck(lambda *x: subject.call(*x, weight=None), inputs, "without weights")
    if subject.weights == "real":
        _gradcheck(lambda *x: subject.call(*x[:-1], weight=x[-1]), (*inputs, weight.requires_grad_()), "of the weights")
        removed = removed * weight.detach()
    _gradcheck(lambda *x: _run(subject, x, removed), inputs, "with removed elements")


def weight_0_has_its_gradient(subject: Subject, seed: int = 0) -> None:
    """The gradient by a weight of exactly 0 is the slope towards a little of it, also for the largest element."""
    generator = torch.Generator().manual_seed(seed)
    inputs = subject.inputs(2, 4, generator)
    full = torch.rand(2, 4, dtype=torch.float64, generator=generator) + 0.5
    step = 1e-8  # the largest element may be e^12 times what counts: a small step, of second order in it
    for place in [3] if subject.ordered else range(4):
        keep = torch.arange(4) != place

        def value(little: Tensor, keep: Tensor = keep) -> Tensor:
            output = _cut(subject, subject.call(*inputs, weight=torch.where(keep, full, little)), keep)
            return (torch.linspace(0.5, 1.5, output.numel(), dtype=output.dtype).view_as(output) * output).sum()

        zero = torch.zeros((), dtype=torch.float64, requires_grad=True)
        at_0 = value(zero)
        if at_0.requires_grad:
            at_0.backward()
        got = zero.grad if zero.grad is not None else torch.zeros_like(zero)
        at_0, at_1, at_2 = (value(torch.full_like(zero, steps * step)).detach() for steps in range(3))
        slope = (4 * at_1 - 3 * at_0 - at_2) / (2 * step)
        told = f"the gradient by a weight of 0 is {got.item():.6g} where the value rises by {slope.item():.6g}"
        assert torch.isclose(got, slope.to(got.dtype), rtol=1e-4, atol=1e-5), told  # NaN fails too


def finite_in_bfloat16(subject: Subject, seed: int = 0) -> None:
    """Values and gradients in bfloat16 are finite, with and without removed elements."""
    inputs, weight, _ = _drawn(subject, seed)
    low = tuple(x.bfloat16() if x.is_floating_point() else x for x in inputs)
    emptied = weight.clone()
    emptied[:, -2:] = 0
    for chosen in (weight, emptied):
        got, gradients = _run_backward(subject, low, chosen.bfloat16())
        assert got.isfinite().all(), "the output is infinite or NaN in bfloat16"
        assert all(gradient.isfinite().all() for gradient in gradients), "a gradient is infinite or NaN in bfloat16"


def same_seed_same_result(subject: Subject, seed: int = 0) -> None:
    """The same inputs under the same seed give the same bits."""
    results = []
    for _ in range(2):
        inputs, weight, _ = _drawn(subject, seed)
        torch.manual_seed(seed)
        results.append(_run(subject, inputs, weight))
    assert torch.equal(*results), "two runs with one seed differ"


def saved_and_loaded_is_equal(subject: Subject, seed: int = 0) -> None:
    """A saved and loaded subject gives the same bits."""
    assert subject.reload is not None
    inputs, weight, _ = _drawn(subject, seed)
    again = subject.reload()
    results = []
    for call in (subject.call, again):
        torch.manual_seed(seed)
        results.append(call(*inputs, weight=_as_given(subject, weight)))
    assert torch.equal(*results), "saving and loading changes the output"


LAWS: dict[str, tuple[Callable[[Subject, int], None], Callable[[Subject], bool]]] = {
    "zero weight = removed": (zero_weight_is_removal, lambda s: True),
    "integer weight = repeated": (integer_weight_is_repetition, lambda s: s.weights == "real" and not s.ordered),
    "uniform = unweighted": (uniform_is_unweighted, lambda s: True),
    "rescaling changes nothing": (scale_of_weights_is_free, lambda s: s.weights == "real" and s.normalised),
    "permuting permutes": (permutation_is_followed, lambda s: True),
    "padding is invisible": (padding_is_invisible, lambda s: True),
    "ragged rows stand alone": (ragged_rows_stand_alone, lambda s: True),
    "batches of any size": (batches_of_any_size, lambda s: True),
    "empty row = zeros or error": (empty_row_is_zero_or_error, lambda s: True),
    "gradcheck": (gradient_is_exact, lambda s: s.differentiable),
    "weight 0 has its gradient": (
        weight_0_has_its_gradient,
        lambda s: s.weights == "real" and s.differentiable and not s.jumps,
    ),
    "finite in bf16": (finite_in_bfloat16, lambda s: True),
    "same seed, same result": (same_seed_same_result, lambda s: True),
    "save, load, equal": (saved_and_loaded_is_equal, lambda s: s.reload is not None),
}


def _drawn(subject: Subject, seed: int) -> tuple[tuple[Tensor, ...], Tensor, torch.Generator]:
    """Draw inputs `[b, t, ...]` and a positive weight `[b, t]` (all 1 for a mask)."""
    generator = torch.Generator().manual_seed(seed)
    inputs = subject.inputs(BATCH, SIZE, generator)
    weight = torch.rand(BATCH, SIZE, dtype=torch.float64, generator=generator) + 0.5
    return inputs, torch.ones_like(weight) if subject.weights == "mask" else weight, generator


def _as_given(subject: Subject, weight: Tensor | None) -> Tensor | None:
    return weight > 0 if weight is not None and subject.weights == "mask" else weight


def _run(subject: Subject, inputs: tuple[Tensor, ...], weight: Tensor | None) -> Tensor:
    return subject.call(*inputs, weight=_as_given(subject, weight))


def _run_backward(
    subject: Subject, inputs: tuple[Tensor, ...], weight: Tensor, real: Tensor | None = None
) -> tuple[Tensor, list[Tensor]]:
    """Return the output and the gradients of a fixed, uneven sum over it (over its `real` elements, where it has t)."""
    leaves = _with_gradient(inputs)
    output = _run(subject, leaves, weight)
    looked_at = output if real is None else _cut(subject, output, real)
    slope = torch.linspace(0.5, 1.5, looked_at.numel(), dtype=looked_at.dtype).view_as(looked_at)
    wanted = [x for x in leaves if x.requires_grad]
    gradients = torch.autograd.grad((slope * looked_at).sum(), wanted, allow_unused=True, materialize_grads=True)
    return output.detach(), list(gradients)


def _with_gradient(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.detach().clone().requires_grad_(x.is_floating_point()) for x in inputs)


def _spoil(subject: Subject, inputs: tuple[Tensor, ...], extra: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Append elements to each input: garbage to floating ones, drawn values to the others."""
    fillers = [torch.full_like(x, subject.garbage) if x.is_floating_point() else x for x in extra]
    return tuple(torch.cat([x, filler], dim=1) for x, filler in zip(inputs, fillers, strict=True))


def _cut(subject: Subject, output: Tensor, keep: Tensor) -> Tensor:
    return output if subject.output == "pooled" else output[:, keep]


def _close(subject: Subject, got: Tensor, expected: Tensor, broken: str) -> None:
    assert got.shape == expected.shape, f"{broken}: shape {list(got.shape)} against {list(expected.shape)}"
    gap = (got - expected).abs() - subject.tolerance * expected.abs()
    worst = gap.max().item() if gap.numel() else 0.0
    assert worst <= subject.tolerance, f"{broken}: off by {worst:.3g}"  # NaN fails too


def _gradcheck(function: Callable[..., Tensor], inputs: tuple[Tensor, ...], which: str) -> None:
    try:
        gradcheck(function, inputs)
    except GradcheckError as error:
        raise AssertionError(f"the gradient {which} differs from finite differences: {error}") from error

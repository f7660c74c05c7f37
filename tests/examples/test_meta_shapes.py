"""The shapes written in the signatures of meta-augmentation, checked by jaxtyping at run time (in tests only)."""

import jaxtyping
import pytest
import torch
from beartype import beartype
from torch import Tensor

from weigher.examples import label_entropy, meta_augmentation

B, S, D, N = 3, 4, 2, 3
REAL, LABELS, KEY = torch.randn(B, S, D), torch.randint(N, (B, S)), torch.randn(B)
PERMUTATION = torch.arange(N).expand(B, N)


@pytest.fixture
def checked(monkeypatch):
    """Give a function's module the names that only type checkers import, and have its annotations enforced."""

    def check(module, function):
        for annotation in ("Float", "Int", "Shaped"):
            monkeypatch.setattr(module, annotation, getattr(jaxtyping, annotation), raising=False)
        monkeypatch.setattr(module, "Tensor", Tensor, raising=False)
        return jaxtyping.jaxtyped(typechecker=beartype)(function)

    return check


@pytest.mark.parametrize(
    ("module", "function", "arguments"),
    [
        (
            meta_augmentation,
            meta_augmentation.Shift.apply,
            (meta_augmentation.Shift(1.0), KEY[:, None].expand(B, D), REAL),
        ),
        (meta_augmentation, meta_augmentation.DiscreteShift.apply, (meta_augmentation.DiscreteShift(2), KEY, REAL)),
        (meta_augmentation, meta_augmentation.CircularShift.apply, (meta_augmentation.CircularShift(), KEY, REAL)),
        (meta_augmentation, meta_augmentation.SoftenLabels.apply, (meta_augmentation.SoftenLabels(), KEY, REAL)),
        (meta_augmentation, meta_augmentation.Permute.apply, (meta_augmentation.Permute(N), PERMUTATION, LABELS)),
        (label_entropy, label_entropy.conditional_entropy, (torch.ones(4, 2),)),
        (
            label_entropy,
            label_entropy.augmented_joint,
            (torch.ones(4, N), torch.arange(N), meta_augmentation.Permute(N)),
        ),
    ],
)
def test_shapes_are_as_written(checked, module, function, arguments):
    # names of the project that only type checkers import are left alone: they are no shapes
    function.__annotations__ = {
        name: written
        for name, written in function.__annotations__.items()
        if written.startswith(("Float", "Int", "Shaped", "tuple"))
    }
    enforced = checked(module, function)
    enforced(*arguments)
    place = next(i for i in range(len(arguments) - 1, -1, -1) if isinstance(arguments[i], Tensor))
    wrong = (*arguments[:place], arguments[place][0], *arguments[place + 1 :])
    with pytest.raises(jaxtyping.TypeCheckError):
        enforced(*wrong)

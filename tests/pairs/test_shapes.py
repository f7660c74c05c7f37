"""The shapes written in the signatures of losses of pairs, checked by jaxtyping at run time (in tests only)."""

import jaxtyping
import numpy as np
import pytest
import torch

from weigher.core import contrast
from weigher.pairs import align_uniform, diagnosis, evaluation, info_nce, relic, views, workers

S, N, M, E = 2, 5, 7, 3
ROWS, OTHERS, KEYS = torch.randn(S, N, E), torch.randn(S, N, E), torch.randn(S, M, E)
ONE, TWO, LABELS, WEIGHT = torch.randn(N, E), torch.randn(N, E), torch.arange(N) % 2, torch.rand(N)
BATCHED = torch.rand(S, N)


@pytest.mark.parametrize(
    ("module", "name", "arguments", "named"),
    [
        (contrast, "unit", (ROWS,), {"weight": BATCHED}),
        (contrast, "log_sum_exp", (ROWS, KEYS), {"weight": torch.rand(S, M), "own": 1}),
        (contrast, "info_nce", (ROWS, KEYS), {"negatives": torch.randn(S, 4, E), "temperature": torch.tensor(0.5)}),
        (contrast, "symmetric_info_nce", (ROWS, OTHERS), {"weight": torch.ones(S, N, dtype=torch.int64)}),
        (contrast, "nt_xent", (ROWS, OTHERS), {"everyone": (KEYS, KEYS), "offset": 2}),
        (align_uniform, "pair_distances", (ROWS, OTHERS), {"weight": BATCHED}),
        (align_uniform, "crowding", (ROWS,), {"weight": BATCHED}),
        (align_uniform, "log_potential", (ROWS,), {"weight": BATCHED}),
        (align_uniform, "joint_uniformity", (ONE, 2.0), {}),
        (align_uniform, "alignment", (ONE, TWO), {"weight": WEIGHT}),
        (align_uniform, "uniformity", (ONE,), {"weight": WEIGHT, "queue": torch.randn(4, E)}),
        (diagnosis, "diagnose", (ONE, TWO), {"weight": WEIGHT}),
        (diagnosis, "contrastive_limit", (ONE, TWO, 0.5), {}),
        (relic, "invariance", ((ROWS, KEYS), (OTHERS, KEYS)), {"weight": torch.rand(S, M)}),
        (relic, "fisher_ratios", (ONE, LABELS), {}),
        (evaluation, "linear_probe", (ONE, LABELS), {}),
        (evaluation, "nearest_labels", (ONE, LABELS, TWO), {"k": 2}),
        (evaluation, "few_labels", ((ONE, LABELS), (TWO, LABELS), 1, np.random.default_rng(0)), {"draws": 1}),
        (views, "random_views", (torch.rand(2, 1, 4, 4), views.ViewConfig(), np.random.default_rng(0)), {}),
        (workers, "everyones", (ONE, TWO), {}),
        (workers, "mean_over_workers", (WEIGHT, WEIGHT), {}),
    ],
)
def test_shapes_are_as_written(checked, module, name, arguments, named):
    checked(module, name)(*arguments, **named)


@pytest.mark.parametrize("loss", [info_nce.InfoNCELoss(), align_uniform.AlignUniformLoss(), relic.ReLICLoss()])
def test_every_loss_takes_two_views_and_weights(loss):
    found = loss(ONE, TWO, weight=WEIGHT)
    assert all(value.dim() == 0 for value in found.values())
    assert found["loss"].isfinite()


def test_a_wrong_shape_is_seen(checked):
    with pytest.raises(jaxtyping.TypeCheckError):
        checked(contrast, "log_sum_exp")(ROWS, KEYS[..., :2])

"""The settings of training: what is out of range is refused by name, and the learning rate follows its formula."""

import math

import numpy as np
import pytest

from weigher.errors import RequestError
from weigher.train.config import LoopConfig, learning_rate


def test_learning_rate_rises_in_a_line_and_falls_as_a_cosine():
    config = LoopConfig(steps=100, learning_rate=2.0, warmup_steps=20, floor=0.25)
    rates = [learning_rate(k, config) for k in range(1, 101)]
    assert rates[:20] == pytest.approx([0.1 * k for k in range(1, 21)])
    assert rates[59] == pytest.approx(2.0 * (0.25 + 0.75 / 2))
    assert rates[99] == pytest.approx(0.5)
    assert np.all(np.diff(rates[19:]) < 0)
    assert [learning_rate(k, LoopConfig(steps=2, learning_rate=1.0, warmup_steps=2)) for k in (1, 2)] == [0.5, 1.0]
    assert learning_rate(1, LoopConfig(steps=1, learning_rate=1.0, warmup_steps=0, floor=0.0)) == pytest.approx(0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("steps", 0), ("learning_rate", 0.0), ("learning_rate", math.nan), ("warmup_steps", -1), ("floor", 1.5)),
        *(("weight_decay", -0.1), ("clip_norm", 0.0), ("clip_norm", math.inf), ("validate_every", 0), ("patience", 0)),
        *(("precision", "float16"), ("seed", -1), ("time_limit_seconds", 0.0)),
        *(("average_from", 1.0), ("average_from", -0.1)),
    ],
)
def test_settings_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(RequestError, match=f"^{name} = {value!r} is out of range"):
        LoopConfig(**{name: value})

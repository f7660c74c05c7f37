"""The shapes written in the signatures of the token models, checked by jaxtyping at run time (in tests only)."""

import jaxtyping
import pytest
import torch

from weigher.tokens import local_attention, recurrent, token_scores

B, T, H, E, D, W = 2, 5, 3, 4, 6, 3
X, STATE = torch.randn(B, T, E), torch.randn(B, H)
ELMAN = (torch.randn(H, E), torch.randn(H, H), torch.randn(H))
GATED = (torch.randn(3 * H, E), torch.randn(3 * H, H), torch.randn(3 * H))
HEADS, MASK = torch.randn(B, H, T, D), torch.ones(B, T, dtype=torch.bool)
BIASED = {"bias": torch.randn(H, W), "mask": MASK}


@pytest.mark.parametrize(
    ("module", "name", "arguments", "named"),
    [
        (recurrent, "elman", (X, *ELMAN), {"state": STATE}),
        (recurrent, "gru", (X, *GATED), {"state": STATE, "after_bias": torch.randn(H)}),
        (local_attention, "windowed_attention", (HEADS,) * 3 + (W,), BIASED),
        (local_attention, "attention_in_blocks", (HEADS,) * 3 + (W, local_attention.by_fused), BIASED),
        (token_scores, "logit_changes", (torch.randn(B, T), MASK), {}),
        (token_scores, "place_bias", (torch.randn(2, H), MASK), {}),
    ],
)
def test_shapes_are_as_written(checked, module, name, arguments, named):
    function = checked(module, name)
    function(*arguments, **named)
    function(*arguments)
    with pytest.raises(jaxtyping.TypeCheckError):
        function(arguments[0][:, :, None], *arguments[1:])

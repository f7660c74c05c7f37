"""The attention of the encoder blocks against `WavLMAttention` of transformers with the same weights."""

import pytest
import torch
from transformers.models.wavlm.modeling_wavlm import WavLMAttention

from weigher.recordings.blocks import GatedAttention, RelativePositionBias, relative_buckets

# torch deprecates the pair of mask types that transformers hands it
pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask and attn_mask:UserWarning")


def pair(dim, heads, buckets, max_distance, first=True):
    theirs = WavLMAttention(
        dim, heads, num_buckets=buckets, max_distance=max_distance, has_relative_position_bias=first
    )
    torch.nn.init.normal_(theirs.gru_rel_pos_const)
    ours = GatedAttention(dim, heads)
    with torch.no_grad():
        projections = (theirs.q_proj, theirs.k_proj, theirs.v_proj)
        ours.projection.weight.copy_(torch.cat([p.weight for p in projections]))
        ours.projection.bias.copy_(torch.cat([p.bias for p in projections]))
        ours.output.load_state_dict(theirs.out_proj.state_dict())
        # they project to 8 numbers and add them up in fours
        ours.gate.weight.copy_(theirs.gru_rel_pos_linear.weight.view(2, 4, -1).sum(1))
        ours.gate.bias.copy_(theirs.gru_rel_pos_linear.bias.view(2, 4).sum(1))
        ours.reset_scale.copy_(theirs.gru_rel_pos_const.flatten())
    return theirs.eval(), ours.eval()


@pytest.mark.parametrize(("buckets", "max_distance"), [(320, 800), (32, 128), (16, 20)])
def test_buckets_agree_at_every_offset(buckets, max_distance):
    theirs = WavLMAttention(4, 2, num_buckets=buckets, max_distance=max_distance)
    offsets = torch.arange(-3 * max_distance, 3 * max_distance + 1)
    assert torch.equal(
        relative_buckets(offsets, buckets, max_distance), theirs._relative_positions_bucket(offsets.clone())
    )


@pytest.mark.parametrize(("length", "buckets", "max_distance"), [(1, 320, 800), (50, 320, 800), (70, 16, 20)])
def test_attention_agrees_first_block_and_later_ones(length, buckets, max_distance):
    torch.manual_seed(length)
    theirs, ours = pair(24, 3, buckets, max_distance)
    their_next, our_next = pair(24, 3, buckets, max_distance, first=False)
    bias = RelativePositionBias(3, buckets, max_distance)
    bias.embedding.load_state_dict(theirs.rel_attn_embed.state_dict())
    x = torch.randn(4, length, 24)
    with torch.no_grad():
        expected, _, shared = theirs(x)
        torch.testing.assert_close(ours(x, bias(length)), expected, rtol=0, atol=1e-5)
        expected, _, _ = their_next(x, position_bias=shared)
        torch.testing.assert_close(our_next(x, bias(length)), expected, rtol=0, atol=1e-5)


def test_attention_agrees_under_a_mask():
    torch.manual_seed(0)
    theirs, ours = pair(24, 3, 320, 800)
    bias = RelativePositionBias(3, 320, 800)
    bias.embedding.load_state_dict(theirs.rel_attn_embed.state_dict())
    mask = torch.arange(30) < torch.tensor([30, 11, 1])[:, None]
    x = torch.randn(3, 30, 24)
    with torch.no_grad():
        expected, _, _ = theirs(x, attention_mask=mask)
        torch.testing.assert_close(ours(x, bias(30), mask), expected, rtol=0, atol=1e-5)

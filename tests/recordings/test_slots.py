import math

import pytest
import torch
import torch.nn.functional as F

from weigher.recordings.blocks import RelativePositionBias
from weigher.recordings.slots import IteratedTracks, SlotBlock, likeness, seed_slots


def blobs(counts, dim=8, noise=0.05, seed=0):
    """Unit frames around as many unit directions, in turns, and whose each frame is."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64, generator=generator)).Q
    owner = torch.cat([torch.full((count,), k) for k, count in enumerate(counts)])
    g = directions[owner] + noise * torch.randn(len(owner), dim, dtype=torch.float64, generator=generator)
    return F.normalize(g, dim=-1)[None], owner, directions[: len(counts)]


@pytest.mark.parametrize("counts", [(20, 20), (30, 6), (5, 25), (12, 12, 12), (30, 10, 5)])
def test_seeds_find_each_of_several_blobs(counts):
    g, _, directions = blobs(counts)
    found = seed_slots(g, torch.ones(g.shape[:2], dtype=g.dtype), len(counts))[0]
    alike = found @ directions.T
    assert alike.max(0).values.min() > 0.99
    assert sorted(alike.argmax(1).tolist()) == list(range(len(counts)))


def test_first_seed_is_the_densest_place_and_a_lonely_frame_is_nobody():
    g, _, directions = blobs((15, 25))
    stray = F.normalize(-directions.sum(0) + directions[0], dim=-1)
    g = torch.cat([stray[None, None], g], 1)
    found = seed_slots(g, torch.ones(1, 41, dtype=g.dtype), 2)[0]
    assert (found[0] @ directions[1]) > 0.99
    assert (found[1] @ directions[0]) > 0.99


def test_frames_without_speech_seed_nothing():
    g, owner, directions = blobs((20, 20, 20))
    speech = (owner != 1).to(g.dtype)[None]
    found = seed_slots(g, speech, 2)[0]
    assert (found @ directions[1]).abs().max() < 0.2
    assert ((found @ directions.T)[:, [0, 2]].max(0).values > 0.99).all()


def test_doubtful_speech_still_seeds():
    g, _, directions = blobs((20, 20))
    found = seed_slots(g, torch.full((1, 40), 0.3, dtype=g.dtype), 2)[0]
    assert (found @ directions.T).max(0).values.min() > 0.99


def test_no_speech_gives_zeros_and_other_rows_do_not_notice():
    g, _, _ = blobs((8, 8))
    both = g.expand(2, -1, -1)
    speech = torch.ones(2, 16, dtype=g.dtype)
    speech[1] = 0
    found = seed_slots(both, speech, 3)
    assert not found[1].any()
    torch.testing.assert_close(found[:1], seed_slots(g, speech[:1], 3))


def test_seeds_are_unit_deterministic_without_gradient_and_follow_rotation():
    g, _, _ = blobs((9, 4, 7), noise=0.3)
    speech = torch.rand(1, 20, dtype=g.dtype)
    found = seed_slots(g.clone().requires_grad_(), speech, 5)
    assert not found.requires_grad
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(1, 5, dtype=g.dtype))
    assert torch.equal(found, seed_slots(g, speech, 5))
    turn = torch.linalg.qr(torch.randn(8, 8, dtype=g.dtype)).Q
    torch.testing.assert_close(seed_slots(g @ turn, speech, 5), found @ turn)


def test_order_of_frames_does_not_matter_to_seeds():
    g, _, _ = blobs((9, 4, 7), noise=0.3)
    speech = torch.rand(1, 20, dtype=g.dtype)
    order = torch.randperm(20)
    torch.testing.assert_close(seed_slots(g[:, order], speech[:, order], 4), seed_slots(g, speech, 4))


@pytest.mark.parametrize("length", [1, 2, 3, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_seeds_of_a_padded_row_are_those_of_the_row(length, dtype):
    g = F.normalize(torch.randn(1, length, 6, dtype=dtype), dim=-1)
    speech = torch.rand(1, length, dtype=dtype)
    alone = seed_slots(g, speech, 5)
    padded = seed_slots(F.pad(g, (0, 0, 0, 7)), F.pad(speech, (0, 7)), 5)
    torch.testing.assert_close(padded, alone)


def likeness_by_loops(g, slots):
    b, t, _ = g.shape
    n = slots.shape[1]
    out = torch.empty(b, n, t, 4, dtype=g.dtype)
    for row in range(b):
        for frame in range(t):
            own = [float(g[row, frame] @ slots[row, k]) for k in range(n)]
            for k in range(n):
                before = max(own[:k], default=-1.0)
                after = max(own[k + 1 :], default=-1.0)
                out[row, k, frame] = torch.tensor([own[k], before, after, own[k] - max(before, after)])
    return out


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_likeness_is_what_loops_give(slots):
    g = F.normalize(torch.randn(2, 6, 3, dtype=torch.float64), dim=-1)
    s = F.normalize(torch.randn(2, slots, 3, dtype=torch.float64), dim=-1)
    torch.testing.assert_close(likeness(g, s), likeness_by_loops(g, s))
    assert torch.autograd.gradcheck(likeness, (g.requires_grad_(), s.requires_grad_()))


def block(dim=4, seed=0):
    torch.manual_seed(seed)
    made = SlotBlock(dim, 2, 6).double()
    bias = RelativePositionBias(2, 8, 5).double()
    torch.nn.init.normal_(bias.embedding.weight)
    return made, bias


def test_block_treats_slots_alike():
    made, bias = block()
    x, mask = torch.randn(2, 5, 7, 4, dtype=torch.float64), torch.ones(2, 7, dtype=torch.bool)
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(made(x[:, order], bias(7), mask), made(x, bias(7), mask)[:, order])


def test_block_exchanges_between_slots():
    made, bias = block()
    x, mask = torch.randn(1, 3, 7, 4, dtype=torch.float64), torch.ones(1, 7, dtype=torch.bool)
    other = x.clone()
    other[:, 2] += torch.randn(7, 4, dtype=torch.float64)
    gap = (made(x, bias(7), mask) - made(other, bias(7), mask)).abs()
    assert gap[:, :2].amax() > 1e-3


def test_block_does_not_see_padding():
    made, bias = block()
    lengths = [6, 9, 2]
    x, mask = torch.randn(3, 3, 9, 4, dtype=torch.float64), torch.arange(9) < torch.tensor(lengths)[:, None]
    other = torch.where(mask[:, None, :, None], x, 100 * torch.randn_like(x))
    for padded in (x, other):
        together = made(padded, bias(9), mask)
        for row, length in enumerate(lengths):
            alone = made(x[row : row + 1, :, :length], bias(length), mask[row : row + 1, :length])
            torch.testing.assert_close(together[row : row + 1, :, :length], alone)


def test_block_gradient_is_that_of_finite_differences():
    made, bias = block()
    mask = torch.tensor([[True] * 3, [True, False, False]])
    x = torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: made(x, bias(3).detach(), mask)[mask[:, None].expand(2, 2, 3)], (x,))


def tracks(slots=3, rounds=2, seed=0):
    torch.manual_seed(seed)
    return IteratedTracks(4, 6, slots=slots, outputs=2, rounds=rounds, layers=1, heads=2, max_distance=20).double()


def test_iterated_tracks_shapes_and_one_result_per_round():
    rounds, context = tracks(slots=3, rounds=4)(
        torch.randn(2, 5, 4, dtype=torch.float64),
        torch.randn(2, 5, 6, dtype=torch.float64),
        torch.rand(2, 5, dtype=torch.float64),
        torch.ones(2, 5, dtype=torch.bool),
    )
    assert [each.shape for each in rounds] == [(2, 5, 3, 2)] * 4
    assert context.shape == (2, 3, 5, 4)
    assert (rounds[0] - rounds[1]).abs().max() > 0


def test_iterated_tracks_do_not_care_how_large_embeddings_are():
    made = tracks()
    context, pooled = torch.randn(1, 9, 4, dtype=torch.float64), torch.randn(1, 9, 6, dtype=torch.float64)
    speech, mask = torch.rand(1, 9, dtype=torch.float64), torch.ones(1, 9, dtype=torch.bool)
    plain, _ = made(context, pooled, speech, mask)
    scaled, _ = made(context, 7 * pooled, speech, mask)
    torch.testing.assert_close(scaled, plain)


def test_a_slot_too_many_gives_the_same_first_slots_of_seeds():
    # farthest-first is greedy: the first seeds do not depend on how many follow, before they are refined
    g, _, _ = blobs((9, 9, 9), noise=0.2)
    speech = torch.ones(1, 27, dtype=g.dtype)
    few, many = seed_slots(g, speech, 2, steps=0), seed_slots(g, speech, 5, steps=0)
    assert torch.equal(few, many[:, :2])


def test_seeds_without_steps_are_frames():
    g, _, _ = blobs((9, 9), noise=0.2)
    found = seed_slots(g, torch.ones(1, 18, dtype=g.dtype), 4, steps=0)[0]
    nearest = (found @ g[0].T).max(1).values
    torch.testing.assert_close(nearest, torch.ones(4, dtype=g.dtype))
    assert len({tuple(row) for row in found.tolist()}) == 4
    assert math.isclose(float(found.norm(dim=-1).min()), 1.0)

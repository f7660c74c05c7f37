"""SwAV: laws, slopes in closed form, brute force, the queue, frozen prototypes, the alarm, and a run that goes on."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from contract import Subject, check_laws
from weigher.core.contrast import unit
from weigher.errors import RequestError
from weigher.pairs import codes, crops, swav
from weigher.pairs.codes import balanced_codes
from weigher.pairs.crops import CropConfig, multi_crop
from weigher.pairs.pretraining import ImageEncoder, ImageEncoderConfig, PretrainConfig, pretrain
from weigher.pairs.swav import SwAVConfig, SwAVLoss, swapped_prediction
from weigher.pairs.views import ViewConfig


def draw(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def module(seed=0, **settings):
    config = SwAVConfig(**{"prototypes": 4, "embedding": 3, "epsilon": 0.05, "alarm_after": 0, **settings})
    return SwAVLoss(config, generator=torch.Generator().manual_seed(seed))


def three(batch, size, generator):
    return tuple(torch.rand(batch, size, 4, dtype=torch.float64, generator=generator) - 0.5 for _ in range(3))


def test_the_swapped_prediction_keeps_the_laws():
    def given_codes(first, second, raw, weight=None):
        codes = raw.nan_to_num().softmax(-1)
        return swapped_prediction([codes, codes.flip(-1)], [first, second], temperature=0.5, weight=weight)

    check_laws(Subject("swapped prediction", given_codes, three, output="kept"))


def test_the_loss_with_its_codes_keeps_the_laws():
    def whole(*views, weight=None):
        codes = [balanced_codes(view, weight=weight) for view in views[:2]]
        return swapped_prediction(codes, views, weight=weight)

    check_laws(Subject("SwAV", whole, three, output="kept", differentiable=False))


def test_slopes_are_those_of_the_closed_form_and_codes_get_none():
    scores = [draw(6, 4, seed=i, scale=0.2).requires_grad_() for i in range(3)]
    made = [balanced_codes(scores[i]) for i in range(2)]
    assert not any(q.requires_grad for q in made)
    loss = swapped_prediction(made, scores, temperature=0.3).mean()
    slopes = torch.autograd.grad(loss, scores)
    for v, (view, slope) in enumerate(zip(scores, slopes, strict=True)):
        expected = sum((view / 0.3).softmax(1) - q for f, q in enumerate(made) if f != v) / (0.3 * 6 * 2 * 2)
        torch.testing.assert_close(slope, expected.detach(), rtol=0, atol=1e-15)


def test_the_loss_is_no_less_than_the_entropy_of_the_codes():
    scores = [draw(6, 4, seed=i, scale=0.2) for i in range(2)]
    codes = [balanced_codes(one) for one in scores]
    bound = -sum((q * q.log()).sum(1) for q in codes) / 2
    assert (swapped_prediction(codes, scores) >= bound).all()
    best = [0.1 * codes[1].log(), 0.1 * codes[0].log()]
    torch.testing.assert_close(swapped_prediction(codes, best), bound)


def test_alike_embeddings_have_log_k_where_prototypes_are_as_far_and_more_elsewhere():
    loss, alike = module(embedding=4), torch.ones(8, 4).double()
    with torch.no_grad():
        loss.prototypes.copy_(torch.eye(4))
    assert loss(alike, alike)["loss"].item() == pytest.approx(math.log(4), abs=1e-12)
    found = module(embedding=4)(alike, alike)
    assert found["loss"] > math.log(4) + 0.01
    assert found["used"] == 1
    assert found["imbalance"].item() == pytest.approx(0, abs=1e-12)  # codes are balanced all the same


def test_the_module_is_the_brute_force_form():
    views = [draw(7, 3, seed=i) for i in range(4)]
    loss = module(full_views=2, temperature=0.2)
    scores = [F.normalize(view) @ F.normalize(loss.prototypes.double()).T for view in views]
    expected = 0.0
    for f in range(2):
        plan = (scores[f] / 0.05).exp()
        for _ in range(3):
            plan = plan / plan.sum(0)
            plan = plan / plan.sum(1, keepdim=True)
        for v in range(4):
            if v != f:
                expected = expected - (plan.detach() * (scores[v] / 0.2).log_softmax(1)).sum(1).mean() / (2 * 3)
    found = loss(*(k * view for k, view in enumerate(views, 1)))
    torch.testing.assert_close(found["loss"], expected, rtol=1e-6, atol=1e-6)
    assert found["of_chance"].item() == pytest.approx(found["loss"].item() / math.log(4))
    torch.testing.assert_close(loss.scores(views[0]), scores[0], rtol=1e-6, atol=1e-6)


def test_hard_codes_and_no_balance():
    views = [draw(6, 3, seed=i) for i in range(2)]
    hard = module(hard=True)
    scores = [hard.scores(view).detach() for view in views]
    codes = [F.one_hot(balanced_codes(one).argmax(1), 4).double() for one in scores]
    torch.testing.assert_close(hard(*views)["loss"], swapped_prediction(codes, scores).mean())
    alone = module(iterations=0)
    codes = [(one / 0.05).softmax(1) for one in scores]
    torch.testing.assert_close(alone(*views)["loss"], swapped_prediction(codes, scores).mean())


def test_gradients_reach_views_and_prototypes_and_those_lie_along_the_sphere():
    views = [draw(5, 3, seed=i).requires_grad_() for i in range(3)]
    loss = module().double().eval()
    frozen_codes = [balanced_codes(loss.scores(view)) for view in views[:2]]

    def value(*given):
        return swapped_prediction(frozen_codes, [loss.scores(view) for view in given]).sum()

    gradcheck(value, tuple(views))
    loss(*views)["loss"].backward()
    assert all(view.grad.abs().sum() > 0 for view in views)
    along = (loss.prototypes.grad * loss.prototypes).sum(1)
    torch.testing.assert_close(along, torch.zeros_like(along))


def test_weights_are_copies_and_removed_things_may_hold_anything():
    views = [draw(6, 3, seed=i) for i in range(3)]
    weight = torch.tensor([2, 1, 0, 1, 3, 1])
    copies = module()(*(view.repeat_interleave(weight, 0) for view in views))
    views[1][2] = math.nan
    found = module()(*views, weight=weight)
    for name, value in copies.items():
        torch.testing.assert_close(found[name], value)


def test_the_order_of_prototypes_does_not_matter():
    views = [draw(6, 3, seed=i) for i in range(2)]
    one, two = module(), module()
    with torch.no_grad():
        two.prototypes.copy_(one.prototypes[[2, 0, 3, 1]])
    for name, value in one(*views).items():
        torch.testing.assert_close(two(*views)[name], value)


def test_prototypes_are_frozen_at_first():
    views = [draw(6, 3, seed=i) for i in range(2)]
    loss = module(frozen_steps=2)
    for step in range(4):
        leaves = [view.clone().requires_grad_() for view in views]
        loss.prototypes.grad = None
        loss(*leaves)["loss"].backward()
        assert leaves[0].grad.abs().sum() > 0
        assert (loss.prototypes.grad is None) == (step < 2)
    assert loss.steps == 4


def test_each_full_view_has_a_queue_that_is_assigned_with_it_and_starts_late():
    batches = [[draw(5, 3, seed=10 * k + i) for i in range(3)] for k in range(4)]
    loss, plain = module(queue=8, queue_after=1).double(), module().double()
    for k, views in enumerate(batches):
        found = loss(*views)["loss"]
        if k < 2:  # nothing is held before the second batch
            torch.testing.assert_close(found, plain(*views)["loss"])
            continue
        scores = [plain.scores(view).detach() for view in views]
        codes = []
        for f in range(2):
            older = torch.cat([unit(batch[f]) for batch in batches[1:k]])[-8:]
            together = torch.cat([scores[f], plain.scores(older).detach()])
            codes.append(balanced_codes(together)[:5])
        torch.testing.assert_close(found, swapped_prediction(codes, scores).mean())


def test_things_in_the_queue_keep_their_weights():
    weight = torch.tensor([1, 0, 3, 1, 1])
    weighed, copied = (module(queue=9).double() for _ in range(2))
    for step in range(2):
        views = [draw(5, 3, seed=10 * step + i) for i in range(2)]
        copies = copied(*(view.repeat_interleave(weight, 0) for view in views))
        torch.testing.assert_close(weighed(*views, weight=weight)["loss"], copies["loss"])
    assert len(weighed.queues[1]) == 8
    assert weighed.queues[1].weights().tolist() == [1, 3, 1, 1] * 2


def test_evaluation_changes_nothing():
    loss = module(queue=8).double()
    views = [draw(5, 3, seed=i) for i in range(2)]
    loss(*views)
    before = {name: tensor.clone() for name, tensor in loss.state_dict().items()}
    loss.eval()(*views)
    assert all(torch.equal(before[name], tensor) for name, tensor in loss.state_dict().items())


def test_a_collapse_is_told_once_with_its_figures():
    alike = torch.ones(8, 3)
    loss = module(alarm_after=3, frozen_steps=1)
    for _ in range(3):
        loss(alike, alike)  # the first step is frozen and does not count
    with pytest.warns(UserWarning, match=r"collapsed.*3 steps in a row.*1\.0 of 4 prototypes.*epsilon \(0\.05\)"):
        loss(alike, alike)
    loss(alike, alike)
    # nothing is known where every row has a prototype of its own in each view, and others in the other one
    lost = module(alarm_after=1, embedding=4, temperature=100.0)
    rows = torch.eye(4)
    with torch.no_grad():
        lost.prototypes.copy_(torch.eye(4))
    with pytest.warns(UserWarning, match=r"1\.002 of log 4, and 4\.0 of 4"):
        lost(rows, rows.roll(1, 0))
    with pytest.warns(UserWarning, match="iterations = 3"):
        module(alarm_after=1, iterations=0)(alike, alike)
    fine = module(alarm_after=1)
    fine(*(draw(8, 3, seed=1, scale=k) for k in (1, 2)))
    assert fine.stuck == 0


def test_fewer_rows_than_prototypes_are_told_and_a_queue_helps():
    rows = draw(3, 3)
    with pytest.warns(UserWarning, match=r"3 rows for 4 prototypes \(0\.75"):
        module()(rows, rows)
    module(queue=4)(rows, rows)
    late = module(queue=4, queue_after=2)
    with pytest.warns(UserWarning, match=r"3 rows for 4 prototypes \(0\.75 a prototype\) until the queue .* 2 steps"):
        late(rows, rows)
    late(rows, rows)
    late(rows, rows)  # with the queue there are seven
    with pytest.warns(UserWarning, match=r"3 rows and a queue of 4 for 8 prototypes \(0\.88 .* a longer queue"):
        module(prototypes=8, queue=4)(rows, rows)
    short = module(prototypes=8, queue=4, queue_after=1)
    with pytest.warns(UserWarning, match="until the queue"):
        short(rows, rows)
    with pytest.warns(UserWarning, match="3 rows and a queue of 4"):
        short(rows, rows)
    short(rows, rows)
    module().eval()(rows, rows)
    one = module(prototypes=1)(rows, rows)
    assert one["loss"] == one["of_chance"] == 0
    with pytest.warns(UserWarning, match="3 rows for 4 prototypes"):  # those of weight 0 are not there
        module()(draw(8, 3), draw(8, 3), weight=torch.tensor([1, 0, 0, 2, 0, 0, 1, 0]))
    with pytest.warns(UserWarning, match="1 rows"):
        alone = module()(rows[:1], rows[:1])
    assert alone["loss"] >= math.log(4)  # its code is the same for all prototypes


def test_half_precision_and_autocast_give_the_loss_of_single_precision():
    views = [draw(6, 3, seed=i).float() for i in range(2)]
    whole = module()(*views)["loss"]
    torch.testing.assert_close(module()(*(1e4 * view.half() / 4 for view in views))["loss"], whole, rtol=0.01, atol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(module()(*views)["loss"], whole)


ROWS, WEIGHT = torch.rand(2, 5, 3) - 0.5, torch.rand(2, 5)


@pytest.mark.parametrize(
    ("module", "name", "arguments", "named"),
    [
        (codes, "balanced_codes", (ROWS,), {"weight": WEIGHT}),
        (codes, "imbalance", (ROWS.softmax(-1),), {"weight": WEIGHT}),
        (codes, "used_prototypes", (ROWS,), {}),
        (swav, "swapped_prediction", ([ROWS.softmax(-1)], [ROWS, ROWS]), {"weight": WEIGHT}),
        (crops, "random_crops", (torch.rand(2, 1, 9, 7), CropConfig(size=4), np.random.default_rng(0)), {}),
    ],
)
def test_shapes_are_as_written(checked, module, name, arguments, named):
    checked(module, name)(*arguments, **named)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: SwAVConfig(temperature=0.0), "temperature = 0.0"),
        (lambda: SwAVConfig(epsilon=-1.0), "epsilon = -1.0"),
        (lambda: SwAVConfig(full_views=0), "without a full view"),
        (lambda: SwAVConfig(queue=-1), "queue = -1"),
        (lambda: module()(draw(5, 3)), "1 views"),
        (lambda: module(full_views=3)(draw(5, 3), draw(5, 3)), "first 3 are full"),
        (lambda: module()(draw(5, 3), draw(5, 3), draw(4, 3)), r"view 3 has the shape \[4, 3\]"),
        (lambda: module()(draw(5, 3), math.nan * draw(5, 3)), "view 2 holds NaN"),
        (lambda: module()(draw(5, 2), draw(5, 2)), r"SwAVConfig\(embedding=2\)"),
        (lambda: module()(draw(5, 3), draw(5, 3), weight=torch.zeros(5)), "this batch has 0"),
        (lambda: swapped_prediction([], [draw(5, 3), draw(5, 3)]), "0 codes"),
        (lambda: swapped_prediction([draw(5, 3)], [draw(5, 3)]), "scores of 1 views"),
        (lambda: swapped_prediction([draw(5, 3)], [draw(5, 3)] * 2, temperature=-1.0), "temperature = -1.0"),
        (lambda: swapped_prediction([draw(1, 3)], [draw(5, 3)] * 2), r"\[1, 3\], those of view 1 \[5, 3\]"),
        (lambda: swapped_prediction([draw(5, 3)], [draw(5, 3), draw(1, 3)]), r"\[1, 3\], those of view 1 \[5, 3\]"),
        (lambda: balanced_codes(draw(5, 3), weight=torch.ones(4)), r"weight of shape \[4, 1\]"),
    ],
)
def test_bad_inputs_are_said(call, said):
    with pytest.raises(RequestError, match=said):
        call()


def bars(n=48):
    """Upright bars in even rows, level ones in odd rows."""
    generator = torch.Generator().manual_seed(0)
    made = 0.1 * torch.rand(n, 1, 8, 8, generator=generator)
    for i, place in enumerate(torch.randint(1, 7, (n,), generator=generator)):
        made[i, 0, place] += i % 2
        made[i, 0, :, place] += 1 - i % 2
    return made


def encoder(seed=0):
    torch.manual_seed(seed)
    return ImageEncoder(ImageEncoderConfig(channels=(4, 8), hidden=16, embedding=3))


def whole_state(*modules):
    return torch.cat([tensor.detach().flatten().double() for one in modules for tensor in one.state_dict().values()])


def test_rows_from_elsewhere_are_brought_to_the_prototypes(monkeypatch):
    """What `encode` returns lies on the CPU; of a loss that was trained on a GPU the prototypes do not."""
    met = []
    monkeypatch.setattr(SwAVLoss, "_scores", lambda _, rows, prototypes: met.append((rows, prototypes)))
    SwAVLoss(SwAVConfig(prototypes=4, embedding=3)).to("meta").scores(torch.ones(5, 3))
    assert [[part.device.type for part in pair] for pair in met] == [["meta", "meta"]]


def test_it_learns_in_the_small_loop_from_crops_of_two_sizes():
    torch.manual_seed(0)
    model = ImageEncoder(ImageEncoderConfig(channels=(4, 8), hidden=16, embedding=6))
    mild = ViewConfig(rotation_degrees=0, shift=0, scale=0, gain=0.2, noise=0.05)
    views = multi_crop(CropConfig(2, 8, (0.7, 1.0)), CropConfig(2, 6, (0.5, 0.7)), changes=mild)
    loss = module(embedding=6, epsilon=SwAVConfig.epsilon, alarm_after=25)  # and no alarm is given
    assert SwAVConfig.epsilon == 0.05  # the paper's
    history = pretrain(model, loss, bars(), PretrainConfig(epochs=30, batch=24), views=views, device="cpu")
    assert np.mean([record["of_chance"] for record in history.train[-6:]]) < 0.8
    assert np.mean([record["used"] for record in history.train[-6:]]) > 1.5
    assert history.train[-1]["imbalance"] < 1
    assert loss.steps == 60


def test_a_run_with_queue_and_frozen_prototypes_goes_on_bit_for_bit(tmp_path):
    x, config = bars(), PretrainConfig(epochs=4, batch=16)

    def made():
        return module(queue=20, queue_after=2, frozen_steps=4)

    whole, cut, resumed = (encoder(), made()), (encoder(), made()), (encoder(seed=9), made())
    pretrain(*whole, x, config, device="cpu")

    def stop(stage, done, total):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(*cut, x, config, run_dir=tmp_path, device="cpu", progress=stop)
    pretrain(*resumed, x, config, run_dir=tmp_path, resume=True, device="cpu")
    assert torch.equal(whole_state(*resumed), whole_state(*whole))
    assert len(resumed[1].queues[0]) == 20
    assert not torch.equal(resumed[1].prototypes, made().prototypes)

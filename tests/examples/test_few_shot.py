"""MAML with weighed support examples: against a loop, finite differences, and itself without weights."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from weigher.errors import RequestError, WeigherError
from weigher.examples.episodes import ClassPool
from weigher.examples.few_shot import SupportWeights, WeighedMaml, mislabel
from weigher.examples.meta_learning import Maml, meta_train
from weigher.train.loop import LoopConfig

LOSS = nn.CrossEntropyLoss(reduction="none")


def pooled(classes):
    return ClassPool(torch.cat(classes), torch.arange(len(classes)).repeat_interleave(len(classes[0])))


def classes(count=6, members=12, features=5, dtype=torch.float64):
    centres = 2 * torch.randn(count, 1, features, dtype=dtype)
    return list(centres + torch.randn(count, members, features, dtype=dtype))


def mistaken(wrong_shots=0, seed=0, pool=None, tasks=3, shots=5):
    generator = np.random.default_rng(seed)
    drawn = pooled(pool or classes()).draw(tasks=tasks, ways=3, shots=shots, queries=4, generator=generator)
    return mislabel(drawn, ways=3, wrong_shots=wrong_shots)


def episodes(*arguments, **named):
    return mistaken(*arguments, **named)[0]


def student(dtype=torch.float64):
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)


def weigher(dtype=torch.float64):
    found = SupportWeights(nn.Linear(5, 4), ways=3).to(dtype)
    nn.init.normal_(found.head[-1].weight)
    return found


def answers(learner, drawn):
    return learner.predict(drawn.support_x, drawn.support_y, drawn.query_x)


def test_all_tasks_at_once_are_a_loop_with_torch_s_own_steps():
    model, weigh, drawn = student(), weigher(), episodes(wrong_shots=1)
    learner = WeighedMaml(model, LOSS, weigh, inner_lr=0.3, inner_steps=3)
    outputs, losses = answers(learner, drawn), []
    for task in range(3):
        adapted = copy.deepcopy(model)
        x, y = drawn.support_x[task], drawn.support_y[task]
        optimiser = torch.optim.SGD(adapted.parameters(), lr=0.3)
        for _ in range(3):
            optimiser.zero_grad()
            (weigh(x, y).detach() * LOSS(adapted(x), y)).mean().backward()
            optimiser.step()
        torch.testing.assert_close(outputs[task], adapted(drawn.query_x[task]))
        losses.append(F.cross_entropy(adapted(drawn.query_x[task]), drawn.query_y[task]))
    torch.testing.assert_close(learner(drawn), torch.stack(losses).mean())


def test_both_gradients_agree_with_finite_differences():
    model, weigh, drawn = student(), weigher(), episodes(wrong_shots=1, tasks=2)
    learner = WeighedMaml(model, LOSS, weigh, inner_lr=0.3, inner_steps=2)

    def value():
        return learner(drawn)

    value().backward()
    for parameter in (*model.parameters(), *weigh.parameters()):
        with torch.no_grad():
            flat, place = parameter.view(-1), int(torch.randint(parameter.numel(), ()))
            h, kept = 1e-6, flat[place].item()
            flat[place] = kept + h
            up = value().item()
            flat[place] = kept - h
            down = value().item()
            flat[place] = kept
        assert parameter.grad.view(-1)[place].item() == pytest.approx((up - down) / (2 * h), rel=1e-4, abs=1e-8)


def test_weights_of_one_are_maml_and_no_steps_no_adaptation():
    model, drawn = student(), episodes()
    fresh = SupportWeights(nn.Linear(5, 4), ways=3).double()
    plain = Maml(model, F.cross_entropy)
    torch.testing.assert_close(answers(WeighedMaml(model, LOSS, fresh), drawn), answers(plain, drawn))
    unadapted = WeighedMaml(model, LOSS, fresh, inner_steps=0)
    torch.testing.assert_close(answers(unadapted, drawn), model(drawn.query_x))


def test_weights_follow_their_examples_and_not_the_numbers_of_the_labels():
    weigh, drawn = weigher(), episodes()
    x, y = drawn.support_x[0], drawn.support_y[0]
    order, names = torch.randperm(len(x)), torch.tensor([2, 0, 1])
    torch.testing.assert_close(weigh(x[order], names[y][order]), weigh(x, y)[order])


def test_fit_is_the_cosines_to_the_others_of_the_label_and_to_the_nearest_other_label():
    weigh, drawn = weigher(), episodes(wrong_shots=2)
    x, y = drawn.support_x[0], drawn.support_y[0]
    seen, found = F.normalize(weigh.encoder(x), dim=1), weigh.fit(x, y)
    for i in range(len(x)):
        rest = [j for j in range(len(x)) if y[j] == y[i] and j != i]
        own = F.cosine_similarity(seen[i], seen[rest].mean(0), dim=0)
        other = max(F.cosine_similarity(seen[i], seen[y == c].mean(0), dim=0) for c in range(3) if c != y[i])
        torch.testing.assert_close(found[i], torch.stack([own, other]))
    single = episodes(shots=1)
    assert (weigh.fit(single.support_x[0], single.support_y[0])[:, 0] == 0).all()
    WeighedMaml(student(), LOSS, weigh)(single).backward()
    assert all(p.grad.isfinite().all() for p in weigh.parameters())


def test_episodes_are_as_described():
    pool = [torch.full((12, 1), float(c)) for c in range(6)]
    drawn, mislabelled = mistaken(wrong_shots=2, pool=pool, tasks=20)
    assert drawn.support_x.shape == (20, 15, 1)
    for x, y, qx, qy, wrong in zip(
        drawn.support_x, drawn.support_y, drawn.query_x, drawn.query_y, mislabelled, strict=True
    ):
        of_label = {int(label): float(value) for label, value in zip(qy, qx[:, 0], strict=True)}
        assert len(set(of_label.values())) == 3
        assert [of_label[int(label)] == value for label, value in zip(y, x[:, 0], strict=True)] == (~wrong).tolist()
        assert y.bincount().tolist() == [5, 5, 5]
        assert wrong.sum() == 6
    assert len({tuple(x[:, 0].tolist()) for x in drawn.support_x}) > 15
    split = torch.arange(72, dtype=torch.float64).view(6, 12, 1)
    drawn = episodes(pool=list(split))
    assert not set(drawn.support_x[0].flatten().tolist()) & set(drawn.query_x[0].flatten().tolist())


def test_learning_lowers_the_weight_of_wrong_support_examples():
    pool, model, weigh = classes(8, 12, dtype=torch.float32), student(torch.float32), weigher(torch.float32)
    pool = pooled(pool)

    def draw(generator, tasks=4):
        return mislabel(pool.draw(tasks=tasks, ways=3, shots=5, queries=4, generator=generator), ways=3, wrong_shots=2)

    learner = WeighedMaml(model, LOSS, weigh)
    config = LoopConfig(steps=80, learning_rate=0.02, warmup_steps=1, validate_every=80, precision="float32")
    losses = [record["loss"] for record in meta_train(learner, lambda generator: draw(generator)[0], config).train]
    assert sum(losses[-20:]) < 0.8 * sum(losses[:20])
    drawn, wrong = draw(np.random.default_rng(1), tasks=20)
    weights = torch.stack([weigh(x, y) for x, y in zip(drawn.support_x, drawn.support_y, strict=True)])
    assert weights[wrong].mean() < weights[~wrong].mean() - 0.2


def test_refusals():
    for wrong, say in (
        (lambda: episodes(pool=classes(2)), "3"),
        (lambda: episodes(pool=classes(6, members=5)), "class 0 has 5 examples"),
        (lambda: episodes(wrong_shots=3), "at most half"),
        (lambda: WeighedMaml(student(), LOSS, weigher(), inner_lr=0.0), "a rate above 0"),
        (lambda: WeighedMaml(student(), LOSS, weigher(), inner_lr=float("inf")), "a rate above 0"),
    ):
        with pytest.raises(RequestError, match=say):
            wrong()
    with pytest.raises(WeigherError, match="smaller inner_lr"):
        answers(WeighedMaml(student(), LOSS, weigher(), inner_lr=1e308), episodes())

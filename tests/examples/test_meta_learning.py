"""MAML against its closed form, finite differences and a loop over tasks; the other learners by what defines them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from weigher.errors import RequestError, WeigherError
from weigher.examples.episodes import ClassPool, Episodes
from weigher.examples.meta_augmentation import Permute, Shift, augment
from weigher.examples.meta_learning import Bottleneck, Contextual, Maml, Matching, Metric, maml_adapt, meta_train
from weigher.train.loop import LoopConfig

LR = 0.07


def perceptron(inputs=3, outputs=2, width=5):
    return nn.Sequential(nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, outputs)).double()


def tasks(b=4, s=6, q=5):
    x, queries = torch.randn(b, s, 3, dtype=torch.float64), torch.randn(b, q, 3, dtype=torch.float64)
    support_y = torch.arange(2).repeat(s // 2).expand(b, s)
    return Episodes(x, support_y, queries, torch.randint(2, (b, q)))


def linear(w, support, asked, **how):
    """Loss of a linear model on queries after steps on its support."""
    (x, y), (queries, wanted) = support, asked

    def loss(params):
        return (x @ params["w"] - y).square().mean()

    adapted = maml_adapt(loss, {"w": w}, lr=LR, **how)["w"]
    return (queries @ adapted - wanted).square().mean()


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("first_order", [False, True])
def test_a_linear_model_has_the_closed_form(steps, first_order):
    x, queries = torch.randn(6, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    y, wanted = torch.randn(6, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    w = torch.randn(3, dtype=torch.float64, requires_grad=True)
    value = linear(w, (x, y), (queries, wanted), steps=steps, first_order=first_order)
    (found,) = torch.autograd.grad(value, w)
    p, jacobian = w.detach(), torch.eye(3, dtype=torch.float64)
    for _ in range(steps):
        p = p - LR * 2 / 6 * x.T @ (x @ p - y)
        if not first_order:
            jacobian = (torch.eye(3) - LR * 2 / 6 * x.T @ x) @ jacobian
    expected = jacobian.T @ (2 / 4 * queries.T @ (queries @ p - wanted))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_gradients_agree_with_finite_differences():
    model, episodes = perceptron(), tasks(b=2)
    names, values = zip(*model.named_parameters(), strict=True)

    def outer(lr, weights, *theta):
        params, total = dict(zip(names, theta, strict=True)), 0.0
        for task in range(2):

            def loss(p, task=task):
                each = F.cross_entropy(
                    functional_call(model, p, (episodes.support_x[task],)), episodes.support_y[task], reduction="none"
                )
                return (weights * each).mean()

            adapted = maml_adapt(loss, params, lr=lr, steps=2)
            total = total + F.cross_entropy(
                functional_call(model, adapted, (episodes.query_x[task],)), episodes.query_y[task]
            )
        return total

    lr = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(outer, (lr, weights, *values))


def test_the_gradient_of_the_learner_agrees_with_finite_differences():
    model, episodes = perceptron(), tasks()
    learner = Maml(model, F.cross_entropy, inner_lr=0.2, inner_steps=1)
    learner(episodes).backward()
    for parameter in model.parameters():
        flat = parameter.detach().view(-1)
        for place in range(0, len(flat), 4):
            kept, values = flat[place].item(), []
            for moved in (kept + 1e-5, kept - 1e-5):
                flat[place] = moved
                values.append(learner(episodes).item())
            flat[place] = kept
            slope = (values[0] - values[1]) / 2e-5
            assert parameter.grad.view(-1)[place].item() == pytest.approx(slope, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("first_order", [False, True])
def test_all_tasks_at_once_are_the_tasks_one_by_one(first_order):
    model, episodes = perceptron(), tasks()
    learner = Maml(model, F.cross_entropy, inner_lr=0.3, inner_steps=3, first_order=first_order)
    learner(episodes).backward()
    found = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    start = dict(model.named_parameters())
    for task in range(4):
        params = start
        for _ in range(3):
            loss = F.cross_entropy(
                functional_call(model, params, (episodes.support_x[task],)), episodes.support_y[task]
            )
            slopes = torch.autograd.grad(loss, list(params.values()), create_graph=not first_order)
            params = {name: p - 0.3 * g for (name, p), g in zip(params.items(), slopes, strict=True)}
        outer = F.cross_entropy(functional_call(model, params, (episodes.query_x[task],)), episodes.query_y[task])
        (outer / 4).backward()
    for parameter, gradient in zip(model.parameters(), found, strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-10, atol=1e-12)


def test_first_order_keeps_no_gradient_but_that_of_the_start():
    weights = torch.ones(3, dtype=torch.float64, requires_grad=True)
    start = {"w": torch.zeros(3, dtype=torch.float64, requires_grad=True)}
    for first_order in (True, False):
        found = maml_adapt(
            lambda p: (weights * (p["w"] - 1) ** 2).sum(), start, lr=0.1, steps=2, first_order=first_order
        )["w"]
        by_weights, by_start = torch.autograd.grad(found.sum(), (weights, start["w"]), allow_unused=True)
        assert (by_weights is None) is first_order
        assert torch.allclose(by_start, torch.ones(3).double()) is first_order
    with pytest.raises(RequestError, match="steps = -1"):
        maml_adapt(lambda p: p["w"].sum(), start, lr=0.1, steps=-1)


def test_without_steps_the_answer_is_that_of_the_start():
    learner, episodes = Maml(perceptron(), F.cross_entropy, inner_steps=0), tasks()
    given = episodes.support_x, episodes.support_y, episodes.query_x
    torch.testing.assert_close(learner.predict(*given), learner.model(episodes.query_x))
    torch.testing.assert_close(learner.unaided(*given), learner.predict(*given))


def test_frozen_parameters_stay_where_they_are():
    torch.manual_seed(0)
    trunk, head = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)
    trunk.requires_grad_(False)
    x, y = torch.randn(2, 6, 3), torch.randint(2, (2, 6))
    whole = Maml(torch.nn.Sequential(trunk, head), F.cross_entropy, inner_lr=0.5, inner_steps=3)
    of_head = Maml(head, F.cross_entropy, inner_lr=0.5, inner_steps=3)
    assert torch.allclose(whole.predict(x, y, x), of_head.predict(trunk(x), y, trunk(x)), atol=1e-6)
    with pytest.raises(RequestError, match=r"no parameter .* requires_grad"):
        Maml(torch.nn.Linear(3, 2).requires_grad_(False), F.cross_entropy)


def test_evaluation_takes_its_own_number_of_steps():
    learner, episodes = Maml(perceptron(), F.cross_entropy, inner_steps=1, test_steps=4), tasks()
    given = episodes.support_x, episodes.support_y, episodes.query_x
    torch.testing.assert_close(learner.predict(*given), learner.after(1, *given))
    torch.testing.assert_close(learner.eval().predict(*given), learner.after(4, *given))


def test_any_module_and_loss_convolutions_and_real_targets():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(1, 4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    x, y = torch.randn(3, 4, 1, 6, 6), torch.randn(3, 4, 2)
    model(x[0])
    learner = Maml(model, F.smooth_l1_loss, inner_lr=0.01, inner_steps=2)
    learner(Episodes(x, y, x, y)).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_tasks_draw_their_own_dropout_and_evaluation_draws_none():
    learner = Maml(nn.Sequential(nn.Linear(3, 50), nn.Dropout(0.5), nn.Linear(50, 2)), F.cross_entropy)
    x, y = torch.randn(1, 4, 3).expand(3, 4, 3), torch.tensor([[0, 1, 0, 1]] * 3)
    found = learner.predict(x, y, x)
    assert not torch.allclose(found[0], found[1])
    found = learner.eval().predict(x, y, x)
    torch.testing.assert_close(found[0], found[1])


def test_statistics_that_would_mix_tasks_and_wrong_settings_are_refused():
    with pytest.raises(RequestError, match="1 is a BatchNorm1d that keeps running statistics"):
        Maml(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), F.cross_entropy)
    Maml(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False)), F.cross_entropy)
    for recurrent in (nn.GRU(3, 4), nn.LSTMCell(3, 4)):
        with pytest.raises(RequestError, match=f"1 is a {type(recurrent).__name__}, which torch cannot run"):
            Maml(nn.Sequential(nn.Linear(3, 3), recurrent), F.cross_entropy)
    for setting in ({"inner_lr": 0.0}, {"inner_steps": -1}, {"test_steps": -1}, {"inner_lr": float("nan")}):
        with pytest.raises(RequestError, match=next(iter(setting))):
            Maml(nn.Linear(3, 2), F.cross_entropy, **setting)
    with pytest.raises(RequestError, match="price"):
        Bottleneck(nn.Linear(3, 4), Metric(nn.Identity(), F.cross_entropy, ways=2), price=-1)


def test_steps_that_lead_nowhere_name_the_rate():
    learner = Maml(nn.Linear(3, 1), F.mse_loss, inner_lr=1e20, inner_steps=5)
    x = torch.randn(2, 4, 3)
    with pytest.raises(WeigherError, match=r"smaller inner_lr than 1e\+20"):
        learner(Episodes(x, torch.randn(2, 4, 1), x, torch.randn(2, 4, 1)))


def test_labels_beyond_the_outputs_and_losses_of_every_example_are_told():
    episodes = tasks()
    x, y, queries = episodes.support_x, episodes.support_y, episodes.query_x
    with pytest.raises(RequestError, match="labels from 2 to 3 are more than the model has outputs"):
        Maml(perceptron(), F.cross_entropy).predict(x, y + 2, queries)
    with pytest.raises(RequestError, match=r"6 examples has the shape \[6\].*take its mean"):
        Maml(perceptron(), nn.CrossEntropyLoss(reduction="none")).predict(x, y, queries)


def contextual():
    return Contextual(perceptron(5, 6), perceptron(9, 2), F.cross_entropy, ways=2)


def metric():
    return Metric(perceptron(3, 4), F.cross_entropy, ways=2)


def matching():
    return Matching(perceptron(3, 4), F.cross_entropy, ways=2)


@pytest.mark.parametrize("make", [contextual, metric, matching])
def test_the_order_of_the_support_set_does_not_matter_and_its_labels_do(make):
    learner, episodes = make(), tasks()
    x, y, queries = episodes.support_x, episodes.support_y, episodes.query_x
    order = torch.randperm(6)
    torch.testing.assert_close(learner.predict(x[:, order], y[:, order], queries), learner.predict(x, y, queries))
    assert not torch.allclose(learner.predict(x, 1 - y, queries), learner.predict(x, y, queries))
    # one task does not see another
    torch.testing.assert_close(learner.predict(x[:1], y[:1], queries[:1]), learner.predict(x, y, queries)[:1])
    torch.testing.assert_close(learner.unaided(x, y, queries)[0], learner.predict(x[1:2], y[1:2], queries[:1])[0])
    # and the other support tells no rule that both tasks share: its classes are numbered anew
    torch.testing.assert_close(learner.unaided(x, y, queries)[1], learner.predict(x[2:3], 1 - y[2:3], queries[1:2])[0])
    with pytest.raises(RequestError, match="2 or more"):
        learner.unaided(x[:1], y[:1], queries[:1])


def test_a_rule_that_all_tasks_share_is_not_known_without_support_unless_it_is_learned_by_heart():
    y = torch.arange(6).repeat(8, 1) % 2
    x = (2.0 * y - 1)[..., None] + 0.1 * torch.randn(8, 6, 1)
    reader = Metric(nn.Identity(), F.cross_entropy, ways=2)
    assert torch.equal(reader.predict(x, y, x).argmax(-1), y)
    assert (reader.unaided(x, y, x).argmax(-1) == y).double().mean() == 0.5
    deaf = Contextual(nn.Linear(3, 1), nn.Linear(2, 2), F.cross_entropy, ways=2)
    with torch.no_grad():
        deaf.decoder.weight.copy_(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
        deaf.decoder.bias.zero_()
    assert torch.equal(deaf.unaided(x, y, x).argmax(-1), y)


def test_the_context_is_the_mean_over_the_support():
    learner, episodes = contextual(), tasks()
    seen = torch.cat([episodes.support_x[2], F.one_hot(episodes.support_y[2], 2).double()], -1)
    context = learner.encoder(seen).mean(0).expand(5, -1)
    expected = learner.decoder(torch.cat([episodes.query_x[2], context], -1))
    given = episodes.support_x, episodes.support_y, episodes.query_x
    torch.testing.assert_close(learner.predict(*given)[2], expected)


def test_images_are_embedded_before_they_are_summed_up():
    embed = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    learner = Contextual(nn.Linear(3 + 2, 4), nn.Linear(3 + 4, 2), F.mse_loss, embed=embed)
    found = learner.predict(torch.randn(3, 5, 1, 4, 4), torch.randn(3, 5, 2), torch.randn(3, 6, 1, 4, 4))
    assert found.shape == (3, 6, 2)


@pytest.mark.parametrize("make", [contextual, metric, matching])
def test_labels_that_are_not_numbered_by_task_are_refused(make):
    x = torch.randn(1, 2, 3, dtype=torch.float64)
    for y in (torch.tensor([[3, 7]]), torch.tensor([[-1, 0]]), torch.tensor([[0.0, 1.0]])):
        with pytest.raises(RequestError, match="number the classes of every task anew"):
            make().predict(x, y, x)


def test_prototypes_are_means_and_the_nearest_wins():
    learner = Metric(nn.Identity(), F.cross_entropy, ways=2)
    x = torch.tensor([[[0.0], [2.0], [10.0], [14.0]]])
    found = learner.predict(x, torch.tensor([[0, 0, 1, 1]]), torch.tensor([[[3.0]]]))
    assert found.tolist() == [[[-4.0, -81.0]]]


def test_support_examples_speak_for_their_class_by_their_cosine():
    learner, x = Matching(nn.Identity(), F.cross_entropy, ways=3), torch.randn(1, 5, 4, dtype=torch.float64)
    y, query = torch.tensor([[0, 2, 1, 0, 2]]), torch.randn(1, 1, 4, dtype=torch.float64)
    loud = F.cosine_similarity(x[0], query[0], dim=-1).exp()
    expected = torch.stack([loud[y[0] == c].sum() / loud.sum() for c in range(3)]).log()
    torch.testing.assert_close(learner.predict(x, y, query)[0, 0], expected)


@pytest.mark.parametrize("make", [Metric, Matching])
def test_a_class_that_the_support_does_not_show_is_never_the_answer(make):
    embed = nn.Linear(2, 2)
    learner = make(embed, F.cross_entropy, ways=3)
    x, queries = torch.randn(2, 4, 2) + 5, torch.zeros(2, 3, 2)
    found = learner.predict(x, torch.tensor([[0, 2, 0, 2]] * 2), queries)
    assert (found[..., 1] == -torch.inf).all()
    assert found[..., [0, 2]].isfinite().all()
    F.cross_entropy(found.flatten(0, 1), torch.zeros(6, dtype=torch.int64)).backward()
    assert all(parameter.grad.isfinite().all() for parameter in embed.parameters())


@pytest.mark.parametrize("make", [metric, matching])
def test_a_permutation_changes_nothing_for_a_metric_learner_and_training_says_so(make):
    learner, episodes = make(), tasks()
    changed, key = augment(episodes, Permute(2), np.random.default_rng(0))
    assert not torch.equal(key, torch.arange(2).expand(4, 2))
    torch.testing.assert_close(learner(changed), learner(episodes), rtol=0, atol=1e-6)
    with pytest.warns(UserWarning, match="answers the same"):
        meta_train(learner, lambda _: episodes, LoopConfig(steps=1, warmup_steps=1), augmentation=Permute(2))


def test_a_bottleneck_charges_the_divergence_from_noise():
    channel = nn.Linear(3, 8).double()
    learner = Bottleneck(channel, Metric(perceptron(4, 3), F.cross_entropy, ways=2), price=0.5)
    episodes = tasks()
    given = episodes.support_x, episodes.support_y, episodes.query_x
    found = learner.eval()(episodes)
    mu, log_sigma = channel(episodes.query_x).chunk(2, -1)
    law = torch.distributions.Normal(mu, log_sigma.exp())
    nats = torch.distributions.kl_divergence(law, torch.distributions.Normal(torch.zeros_like(mu), torch.ones_like(mu)))
    answers = learner.learner.predict(channel(episodes.support_x)[..., :4], episodes.support_y, mu)
    expected = F.cross_entropy(answers.flatten(0, 1), episodes.query_y.flatten()) + 0.5 * nats.sum(-1).mean()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(learner.predict(*given), answers)
    learner.train()
    assert not torch.allclose(learner.predict(*given), learner.predict(*given))
    assert learner.heeds_names is False


def test_training_learns_and_sees_new_tasks_and_keys_in_every_step():
    seen = []

    class Watched(Maml):
        def forward(self, episodes):
            seen.append(episodes)
            return super().forward(episodes)

    def draw(generator):
        x = torch.from_numpy(generator.uniform(-1, 1, (8, 10, 1))).float()
        return Episodes(x[:, :5], 2 * x[:, :5], x[:, 5:], 2 * x[:, 5:])

    learner = Watched(nn.Linear(1, 1), F.mse_loss, inner_lr=0.3, inner_steps=2)
    config = LoopConfig(steps=60, learning_rate=0.05, warmup_steps=1, weight_decay=0.0)
    history = meta_train(learner, draw, config, augmentation=Shift(1.0))
    assert history.train[-1]["loss"] < 0.5 * history.train[0]["loss"]
    assert not torch.equal(seen[0].support_x, seen[1].support_x)
    keys = [(one.support_y - 2 * one.support_x)[:, 0] for one in seen[:2]]
    assert keys[0].unique().numel() == 8
    assert not torch.allclose(keys[0], keys[1])
    torch.testing.assert_close((seen[0].query_y - 2 * seen[0].query_x)[:, 0], keys[0])


def test_the_two_kinds_of_tasks_are_learned_by_heart_and_from_the_support():
    """Six classes of points: with fixed groups the start knows the answers, with permuted labels it cannot."""
    centres = torch.randn(6, 8)
    label = torch.arange(6).repeat(20)
    pool = ClassPool(centres[label] + 0.3 * torch.randn(120, 8), label)

    def draw(generator):
        return pool.draw(tasks=8, ways=2, queries=5, grouping="fixed", generator=generator)

    right = {}
    for name, augmentation in (("fixed", None), ("permuted", Permute(2))):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
        learner = Maml(model, F.cross_entropy, inner_lr=0.1, inner_steps=1)
        config = LoopConfig(steps=80, learning_rate=2e-2, warmup_steps=1)
        meta_train(learner, draw, config, augmentation=augmentation)
        found = draw(np.random.default_rng(9))
        given = found.support_x, found.support_y, found.query_x
        for when, answers in (("before", learner.unaided(*given)), ("after", learner.predict(*given))):
            right[name, when] = (answers.argmax(-1) == found.query_y).double().mean().item()
    assert right["fixed", "before"] > 0.9
    assert abs(right["permuted", "before"] - 0.5) < 0.2
    assert right["permuted", "after"] > 0.9

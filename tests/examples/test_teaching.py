"""Teaching: hypergradients along a student's life, what is learned, what is left alone, and what is refused."""

import pytest
import torch
from torch import nn

from weigher.core.hypergrad import HypergradientError, Neumann, implicit_hypergradient
from weigher.errors import RequestError
from weigher.examples.commentaries import Batch, Commentary, ExampleWeights, PairMixer, WeightNet
from weigher.examples.teaching import TeachConfig, teach, train_student

LOSS = nn.CrossEntropyLoss(reduction="none")


@pytest.fixture
def data():
    """Two blobs; the labels of the last 30 of 120 examples are wrong."""
    y = torch.arange(160) % 2
    x = torch.randn(160, 3) + 3 * (y[:, None] - 0.5)
    given = y.clone()
    given[90:120] = 1 - y[90:120]
    return (x[:120], given[:120]), (x[120:], y[120:])


def new():
    return nn.Linear(3, 2)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"window": 5, "terms": 3, "damping": 0.1},
        {"method": "unrolled", "window": 5, "reset_every": 20},
        {"optimiser": lambda p: torch.optim.Adam(p, lr=0.05), "momentum": 0.0},
    ],
)
def test_wrong_labels_come_to_count_less_by_every_way(data, settings):
    train, held_out = data
    commentary = ExampleWeights(120)
    config = TeachConfig(**({"hyper_steps": 60, "reset_every": 30, "batch": 60} | settings))
    taught = teach(commentary, new, LOSS, train, held_out, config=config)
    table = commentary.table()
    assert table[90:].mean() < 0.7 < table[:90].mean()
    assert len(taught.held_out_losses) == 60
    assert taught.products == (0 if config.method == "unrolled" else 60 * config.terms)
    assert (taught.student(held_out[0]).argmax(1) == held_out[1]).float().mean() > 0.9


def test_a_curriculum_is_learned_by_a_network_and_used_by_a_larger_student(data):
    train, held_out = data
    commentary = WeightNet(nn.Linear(3, 8), embedding=8, classes=2)
    teach(commentary, new, LOSS, train, held_out, config=TeachConfig(hyper_steps=60, commentary_lr=0.01))
    weights = commentary.weights(Batch(*train, torch.arange(120), time=0.5)).detach()
    assert weights[90:].mean() < 0.7 * weights[:90].mean()
    larger = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 2))
    trained = train_student(larger, LOSS, train, commentary, steps=60)
    assert (trained.student(held_out[0]).argmax(1) == held_out[1]).float().mean() > 0.9
    assert all(p.grad is None and p.requires_grad for p in commentary.parameters())


def test_a_student_changes_nothing_of_the_commentary_it_is_trained_with(data):
    encoder = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
    commentary = WeightNet(encoder, embedding=8, classes=2)
    nn.init.normal_(commentary.head[2].weight)
    encoder[2].eval()
    before = {name: value.clone() for name, value in commentary.state_dict().items()}
    students = []
    for _ in range(2):
        torch.manual_seed(3)
        students.append(train_student(new(), LOSS, data[0], commentary, steps=10, seed=1).student)
        torch.rand(1)  # dropout of the commentary would draw from here
    assert torch.equal(students[0].weight, students[1].weight)
    torch.testing.assert_close(dict(commentary.state_dict()), before, rtol=0, atol=0)
    assert [commentary.training, encoder[1].training, encoder[2].training] == [True, True, False]


def test_training_with_weights_of_one_is_plain_training_bit_for_bit(data):
    states = []
    for commentary in (None, ExampleWeights(120)):
        torch.manual_seed(3)
        student = train_student(new(), LOSS, data[0], commentary, steps=30, batch=16, seed=1).student
        states.append(student.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True))


def test_plain_training_is_torch_s_own(data):
    torch.manual_seed(0)
    ours, theirs = new(), new()
    theirs.load_state_dict(ours.state_dict())
    seen = []

    def check(student):
        assert not student.training
        seen.append(student.weight.clone())
        return 0.5

    trained = train_student(ours, LOSS, data[0], steps=5, batch=120, check=check, check_every=2)
    optimiser = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9)
    for _ in range(5):
        optimiser.zero_grad()
        LOSS(theirs(data[0][0]), data[0][1]).mean().backward()
        optimiser.step()
    torch.testing.assert_close(trained.student.weight, theirs.weight)
    assert trained.curve == [(2, 0.5), (4, 0.5), (5, 0.5)]
    assert len(seen) == 3


class Times(Commentary):
    """Notes the times it is asked at."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.seen = []

    def training_loss(self, batch, predict, loss):
        self.seen.append((round(batch.time, 3), batch.held_out))
        return self.scale * loss(predict(batch.x), batch.y).mean()

    def held_out_loss(self, batch, predict, loss):
        self.seen.append((round(batch.time, 3), batch.held_out))
        return super().held_out_loss(batch, predict, loss)


def test_time_runs_through_every_life_and_stays_at_one_beyond_the_horizon(data):
    commentary = Times()
    births = []
    config = TeachConfig(hyper_steps=4, window=2, reset_every=4, method="unrolled")
    teach(commentary, lambda: births.append(1) or new(), LOSS, *data, config=config)
    assert commentary.seen == 2 * [(0.0, False), (0.25, False), (0.0, True), (0.5, False), (0.75, False), (0.5, True)]
    assert len(births) == 2
    commentary.seen.clear()
    teach(commentary, new, LOSS, *data, config=TeachConfig(hyper_steps=2, window=2, reset_every=4))
    walked = [(0.0, False), (0.25, False), (0.0, True), (0.5, False), (0.5, False), (0.75, False), (0.5, True)]
    assert commentary.seen == [*walked, (1.0, False)]  # the implicit gradient is of a batch after the window
    commentary.seen.clear()
    train_student(new(), LOSS, data[0], commentary, steps=4, horizon=2)
    assert [time for time, _ in commentary.seen] == [0.0, 0.5, 1.0, 1.0]


def test_the_hessian_is_divided_out_as_the_config_says(data, monkeypatch):
    asked = []

    def noted(*losses_and_places):
        asked.append(losses_and_places[-1])
        return implicit_hypergradient(*losses_and_places)

    monkeypatch.setattr("weigher.examples.teaching.implicit_hypergradient", noted)
    config = TeachConfig(hyper_steps=2, lr=0.05, terms=3, damping=0.2)
    assert teach(ExampleWeights(120), new, LOSS, *data, config=config).products == 6
    assert asked == 2 * [Neumann(lr=0.05, terms=3, damping=0.2)]


def test_runs_repeat_and_seeds_differ(data):
    tables = []
    for seed in (0, 0, 1):
        commentary = PairMixer(2)
        teach(commentary, new, LOSS, *data, config=TeachConfig(hyper_steps=5, seed=seed))
        tables.append(commentary.table())
    assert torch.equal(tables[0], tables[1])
    assert not torch.equal(tables[0], tables[2])


def test_a_student_with_norms_dropout_and_frozen_parts(data):
    def model():
        student = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 2))
        student[0].requires_grad_(False)
        return student

    taught = teach(ExampleWeights(120), model, LOSS, *data, config=TeachConfig(hyper_steps=10))
    assert taught.student[1].num_batches_tracked > 0
    assert not taught.student.training


@pytest.mark.parametrize("method", ["implicit", "unrolled"])
def test_nothing_is_left_out_by_chance_while_teaching(data, method):
    """Dropout of attention and of recurrent layers is an argument of theirs, and no layer that could be found."""
    seen = []

    class Student(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.out = nn.BatchNorm1d(3), nn.Linear(3, 2)
            self.recurrence = nn.GRU(3, 3, num_layers=2, dropout=0.5)

        def forward(self, x):
            seen.append((self.norm.training, self.recurrence.training, self.training))
            return self.out(nn.functional.dropout(self.norm(x), 0.5, self.training))

    teach(ExampleWeights(120), Student, LOSS, *data, config=TeachConfig(method=method, hyper_steps=2))
    assert set(seen) == {(True, False, False)}


def test_the_last_student_is_what_its_life_made_of_it(data):
    """Unrolled with a commentary that says nothing yet: the student of one window is five steps of SGD."""
    starts = []

    def noted():
        student = new()
        starts.append({name: p.clone() for name, p in student.state_dict().items()})
        return student

    config = TeachConfig(method="unrolled", hyper_steps=1, window=5, reset_every=5, batch=120)
    taught = teach(ExampleWeights(120), noted, LOSS, *data, config=config)
    plain = new()
    plain.load_state_dict(starts[0])
    train_student(plain, LOSS, data[0], steps=5, batch=120)
    torch.testing.assert_close(taught.student.weight, plain.weight)


def test_refusals(data):
    train, held_out = data
    commentary = ExampleWeights(120)
    frozen = new().requires_grad_(False)
    for wrong, say in (
        (lambda: teach(commentary, new, LOSS, train, (torch.zeros(0, 3), torch.zeros(0))), "held-out data is empty"),
        (lambda: teach(commentary, new, LOSS, train, (held_out[0], 0 * held_out[1])), "all 40 held-out targets are 0"),
        (lambda: teach(commentary, new, LOSS, (train[0], train[1][:5]), held_out), "120 inputs and 5 targets"),
        (lambda: teach(commentary, lambda: frozen, LOSS, train, held_out), "require a gradient"),
        (lambda: teach(commentary, new, nn.CrossEntropyLoss(), train, held_out), 'reduction="none"'),
        (lambda: train_student(new(), LOSS, train, steps=0), "steps = 0"),
        (lambda: train_student(new(), LOSS, train, steps=1, batch=0), "batch = 0"),
        (lambda: train_student(new(), LOSS, train, steps=1, check=lambda s: 0.0, check_every=0), "check_every = 0"),
        (lambda: train_student(new(), LOSS, train, steps=1, horizon=0), "horizon = 0"),
        (lambda: teach(ExampleWeights(7), new, LOSS, train, held_out), "7 weights for 120 training examples"),
        (lambda: train_student(new(), LOSS, train, ExampleWeights(7), steps=1), "7 weights for 120"),
        (lambda: train_student(new(), LOSS, (train[0], train[1] + 1), PairMixer(2), steps=1), "from 1 to 2; a comm"),
        (lambda: train_student(new(), LOSS, (train[0], train[1] / 2), PairMixer(2), steps=1), "are torch.float32"),
        (lambda: teach(WeightNet(nn.Linear(3, 4), embedding=4, classes=1), new, LOSS, train, held_out), "0 to 0, one"),
        (lambda: TeachConfig(method="unroled"), "'unroled'; needed is one of implicit, unrolled"),
        (lambda: TeachConfig(lr=0), "lr = 0"),
        (lambda: TeachConfig(terms=-1), "terms = -1"),
        (lambda: TeachConfig(window=7), "no multiple"),
        (lambda: TeachConfig(momentum=1.0), "momentum"),
        (lambda: TeachConfig(method="unrolled", optimiser=torch.optim.Adam), "leave optimiser out"),
    ):
        with pytest.raises(RequestError, match=say):
            wrong()


class Mute(Commentary):
    def __init__(self):
        super().__init__()
        self.idle = nn.Parameter(torch.ones(()))

    def training_loss(self, batch, predict, loss):
        return loss(predict(batch.x), batch.y).mean()


@pytest.mark.parametrize("settings", [{}, {"method": "unrolled"}])
def test_a_commentary_that_reaches_nothing_is_told_with_the_step(data, settings):
    with pytest.raises(RequestError, match=r"step 0 of the commentary.*does not reach"):
        teach(Mute(), new, LOSS, *data, config=TeachConfig(**settings))


def test_a_student_that_diverges_is_told_with_the_step(data):
    big = tuple((x * 1e18, y) for x, y in data)
    with pytest.raises(HypergradientError, match=r"step \d+ of the commentary.*smaller"):
        teach(ExampleWeights(120), new, LOSS, *big, config=TeachConfig(lr=1e20, hyper_steps=50))

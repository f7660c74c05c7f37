"""The small self-supervised loop: it learns, it can be resumed bit for bit, and any loss of pairs plugs into it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from weigher.errors import RequestError, WeigherError
from weigher.pairs.align_uniform import AlignUniformConfig, AlignUniformLoss
from weigher.pairs.diagnosis import diagnose
from weigher.pairs.evaluation import encode, few_labels, linear_probe, nearest_labels, probed
from weigher.pairs.info_nce import InfoNCELoss
from weigher.pairs.methods import LossConfig, pair_loss
from weigher.pairs.pretraining import ImageEncoder, ImageEncoderConfig, PretrainConfig, pretrain, pretrain_drawn
from weigher.pairs.queue import EmbeddingQueue
from weigher.pairs.relic import ReLICLoss
from weigher.pairs.views import ViewConfig, random_views
from weigher.train import load_tensors, read_metrics

SMALL = ImageEncoderConfig(channels=(4, 8), hidden=16, embedding=6)
BRIEF = PretrainConfig(epochs=4, batch=16)


def images(n=48):
    """Bars: upright in even rows, level in odd ones."""
    generator = torch.Generator().manual_seed(0)
    made = 0.1 * torch.rand(n, 1, 8, 8, generator=generator)
    place = torch.randint(1, 7, (n,), generator=generator)
    for i in range(n):
        if i % 2:
            made[i, 0, place[i]] = 1
        else:
            made[i, 0, :, place[i]] = 1
    return made, torch.arange(n) % 2


def encoder(seed=0, config=SMALL):
    torch.manual_seed(seed)
    return ImageEncoder(config)


def weights(model):
    """All that an encoder is, the running figures of its batch norm included."""
    return torch.cat([tensor.flatten().double() for tensor in model.state_dict().values()])


@pytest.mark.parametrize("loss", [InfoNCELoss(0.5), AlignUniformLoss(AlignUniformConfig(align_weight=3.0))])
def test_pre_training_lowers_the_loss_and_spreads_the_embeddings(loss):
    model, (x, _) = encoder(), images()
    before = diagnose(encode(model, x, embeddings=True))
    history = pretrain(model, loss, x, PretrainConfig(epochs=25, batch=16), device="cpu")
    assert history.step == 25 * 3
    losses = [record["loss"] for record in history.train]
    assert np.mean(losses[-6:]) < np.mean(losses[:6]) - 0.3
    after = diagnose(encode(model, x, embeddings=True))
    assert after.uniformity < before.uniformity - 0.5
    assert ("alignment" in history.train[0]) == isinstance(loss, AlignUniformLoss)


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path):
    x, _ = images()
    whole = encoder()
    pretrain(whole, InfoNCELoss(), x, BRIEF, device="cpu")
    cut = encoder()

    def stop(stage, done, total):
        assert (stage, total) == ("train", 12)
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(cut, InfoNCELoss(), x, BRIEF, run_dir=tmp_path, device="cpu", progress=stop)
    resumed = encoder(seed=9)
    pretrain(resumed, InfoNCELoss(), x, BRIEF, run_dir=tmp_path, resume=True, device="cpu")
    assert torch.equal(weights(resumed), weights(whole))
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 12


def test_the_projection_has_batch_norm_that_stands_still_in_evaluation():
    model, (x, _) = encoder(), images()
    assert [type(layer).__name__ for layer in model.projection] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    model.train()(100 + x)
    held = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    whole = encode(model, x, embeddings=True)
    torch.testing.assert_close(encode(model, x[:1], embeddings=True), whole[:1])  # one image alone is as among others
    assert all(torch.equal(tensor, held[name]) for name, tensor in model.state_dict().items())
    assert model.features(x[:1]).shape == (1, 32)
    with pytest.raises(RequestError, match=r"one image .* eval\(\)"):
        model(x[:1])


def test_the_slow_copy_has_running_figures_of_its_own(tmp_path):
    model, (x, _) = encoder(), images()
    pretrain(model, ReLICLoss(), x, replace(BRIEF, target_momentum=0.8), run_dir=tmp_path, device="cpu")
    assert model.projection[1].num_batches_tracked == 2 * 12  # its own two views a step, not those of the copy
    tensors, _ = load_tensors(tmp_path / "last.safetensors")
    names = list(model.state_dict())
    slow = tensors[f"model.target.tensor_{names.index('projection.1.running_mean')}"]
    assert slow.abs().sum() > 0
    assert not torch.equal(slow, model.projection[1].running_mean)


def test_an_epoch_is_ordered_once(monkeypatch):
    made, drawn_of = [], np.random.default_rng

    def spy(seed=None):
        made.append(seed)
        return drawn_of(seed)

    monkeypatch.setattr(np.random, "default_rng", spy)
    x, _ = images()
    pretrain(encoder(), InfoNCELoss(), x, replace(BRIEF, seed=123), device="cpu")
    orders = [seed for seed in made if isinstance(seed, list) and len(seed) == 2 and seed[0] == 123]
    assert orders == [[123, epoch] for epoch in range(4)]


class Prototypes(nn.Module):
    """A loss with parameters and a buffer of its own, over three views of two sizes."""

    def __init__(self):
        super().__init__()
        self.rows = nn.Parameter(torch.ones(3, 6))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, *views):
        self.seen += len(views)
        return {"loss": sum((view @ self.rows.T).square().mean() for view in views)}


def test_what_a_loss_has_of_parameters_is_trained_and_saved(tmp_path):
    x, _ = images(16)
    loss = Prototypes()

    def three(chosen, generator):
        local = chosen[:, :, 2:6, 2:6] * generator.uniform(0.5, 1)
        return [chosen, chosen.flip(3), local]

    pretrain(encoder(), loss, x, BRIEF, views=three, run_dir=tmp_path, device="cpu")
    assert loss.seen == 12
    assert not torch.equal(loss.rows, torch.ones(3, 6))
    tensors, _ = load_tensors(tmp_path / "last.safetensors")
    assert torch.equal(tensors["model.loss.rows"], loss.rows)


class Whole(nn.Module):
    """Images times one number."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, given):
        return given.flatten(1) * self.scale


def test_a_slow_copy_of_the_encoder_gives_the_targets():
    online, slow = [], []

    class Spy(nn.Module):
        def forward(self, first, second, targets):
            assert not any(target.requires_grad for target in targets)
            online.append(first.detach().mean().item())
            slow.append(targets[0].mean().item())
            return {"loss": (first - 3).square().mean()}

    still = ViewConfig(rotation_degrees=0, shift=0, scale=0, gain=0, noise=0)
    config = PretrainConfig(epochs=10, batch=4, views=still, target_momentum=0.9, learning_rate=0.1)
    pretrain(Whole(), Spy(), torch.ones(4, 1, 3, 3), config, device="cpu")
    expected = [online[0]]
    for k in range(2, 11):
        m = 1 - 0.1 * (np.cos(np.pi * (k - 1) / 10) + 1) / 2
        expected.append(m * expected[-1] + (1 - m) * online[k - 1])
    assert slow == pytest.approx(expected, rel=1e-5)
    assert 1 < slow[-1] < online[-1]


def test_a_run_with_a_slow_copy_goes_on_bit_for_bit(tmp_path):
    (x, _), config = images(), replace(BRIEF, target_momentum=0.8)
    whole, cut, resumed = encoder(), encoder(), encoder(seed=9)
    pretrain(whole, ReLICLoss(), x, config, device="cpu")

    def stop(stage, done, total):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(cut, ReLICLoss(), x, config, run_dir=tmp_path, device="cpu", progress=stop)
    pretrain(resumed, ReLICLoss(), x, config, run_dir=tmp_path, resume=True, device="cpu")
    assert torch.equal(weights(resumed), weights(whole))


@pytest.mark.parametrize("make", [lambda queue: InfoNCELoss(0.5, queue), lambda queue: AlignUniformLoss(queue=queue)])
def test_a_run_with_a_slow_copy_and_a_queue_goes_on_bit_for_bit(tmp_path, make):
    (x, _), config = images(), replace(BRIEF, target_momentum=0.8)
    whole, cut, resumed = encoder(), encoder(), encoder(seed=9)
    losses = [make(EmbeddingQueue(24, 6)) for _ in range(3)]
    pretrain(whole, losses[0], x, config, device="cpu")

    def stop(stage, done, total):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(cut, losses[1], x, config, run_dir=tmp_path, device="cpu", progress=stop)
    pretrain(resumed, losses[2], x, config, run_dir=tmp_path, resume=True, device="cpu")
    assert torch.equal(weights(resumed), weights(whole))
    assert torch.equal(losses[2].queue.rows(), losses[0].queue.rows())
    assert len(losses[2].queue) == 24


class Numbered(nn.Module):
    """Two tensors of a view, of which the second is a number for each row."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, values, number):
        return values * self.scale, number


def test_views_of_several_tensors_reach_the_encoder_and_its_slow_copy():
    seen = []

    class Spy(nn.Module):
        def forward(self, first, second, targets):
            assert torch.equal(first[1], second[1])
            assert [target[0].requires_grad for target in targets] == [False, False]
            assert torch.equal(targets[1][1], second[1])
            seen.extend(first[1].tolist())
            return {"loss": (first[0] - second[0] - 1).square().mean()}

    def draw(chosen, generator):
        number = torch.from_numpy(chosen)
        return [(torch.from_numpy(generator.normal(size=(len(chosen), 3))).float(), number) for _ in range(2)]

    config = PretrainConfig(epochs=2, batch=3, target_momentum=0.5)
    history = pretrain_drawn(Numbered(), Spy(), 7, draw, config, device="cpu")
    assert history.step == 4
    assert len(set(seen[:6])) == len(set(seen[6:])) == 6
    with pytest.raises(RequestError, match="at least two"):
        pretrain_drawn(Numbered(), Spy(), 1, draw, config, device="cpu")


def test_every_image_is_seen_once_an_epoch_and_views_of_a_pair_differ():
    x = torch.arange(12.0).view(12, 1, 1, 1).expand(12, 1, 4, 4).clone()
    seen = []

    class Spy(nn.Module):
        def forward(self, first, second):
            seen.append((first.detach(), second.detach()))
            return {"loss": 0 * (first + second).square().mean()}

    still = ViewConfig(rotation_degrees=0, shift=0, scale=0, gain=0, noise=1e-3)
    pretrain(Whole(), Spy(), x, PretrainConfig(epochs=3, batch=4, views=still), device="cpu")
    ids = [first.mean(1).round().long() for first, _ in seen]
    for epoch in range(3):
        assert sorted(torch.cat(ids[3 * epoch : 3 * epoch + 3]).tolist()) == list(range(12))
    assert not torch.equal(torch.cat(ids[:3]), torch.cat(ids[3:6]))
    assert all(torch.equal(a.mean(1).round(), b.mean(1).round()) and not torch.equal(a, b) for a, b in seen)


DEAD = torch.tensor([[1.0, 0.0, 0.0], [math.nan, 0.0, 0.0], [0.0, 0.0, 1.0]])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: pretrain(encoder(), InfoNCELoss(), torch.zeros(1, 1, 8, 8)), r"\[1, 1, 8, 8\]"),
        (lambda: pretrain(encoder(), InfoNCELoss(), torch.zeros(9, 8, 8)), r"\[9, 8, 8\]"),
        (lambda: PretrainConfig(batch=1), "batch = 1"),
        (lambda: PretrainConfig(target_momentum=1.0), "target_momentum = 1.0"),
        (lambda: PretrainConfig(learning_rate=-1.0), r"learning_rate = -1\.0 is out of range; needed is a finite"),
        (lambda: PretrainConfig(seed=-1), "seed = -1 is out of range; needed is a whole number from 0"),
        (lambda: PretrainConfig(seed=2**63), "is out of range; needed is a whole number from 0"),
        (lambda: LossConfig(temperature=0.0), "temperature = 0.0"),
        (lambda: pair_loss("relic", LossConfig(queue=4), 8), "queue = 4 with relic: it is for info-nce and align"),
        (lambda: pair_loss("swav", LossConfig(queue=4), 8), "that of swav is losses.swav.queue"),
        (lambda: ImageEncoderConfig(channels=()), "one number or more"),
        (lambda: ImageEncoderConfig(first_stride=0), "first_stride = 0"),
        (lambda: ViewConfig(scale=1.0), "scale = 1.0"),
        (lambda: InfoNCELoss(0.0), "temperature = 0.0"),
        (lambda: InfoNCELoss()(torch.eye(2)[:1], torch.eye(2)[:1]), "this batch has 1"),
        (lambda: linear_probe(torch.eye(2), torch.tensor([0])), "2 rows"),
        (lambda: linear_probe(torch.eye(2), torch.tensor([0, -1])), "from 0"),
        (lambda: nearest_labels(torch.eye(3), torch.arange(3), k=3), "3 nearest of 2"),
        (lambda: nearest_labels(torch.eye(3), torch.arange(2), k=1), "3 rows of features and 2 labels"),
        (lambda: nearest_labels(torch.eye(3), torch.arange(3), DEAD, k=1), "row 1 of the queries holds NaN"),
        (lambda: nearest_labels(DEAD, torch.arange(3), k=1), "row 1 of the features holds NaN"),
        (lambda: linear_probe(DEAD, torch.arange(3)), "row 1 of the features holds NaN"),
        (lambda: linear_probe(torch.eye(3), torch.arange(3)).accuracy(DEAD, torch.arange(3)), "row 1 of the features"),
        (lambda: ViewConfig(gain=2.0), "gain = 2.0"),
    ],
)
def test_what_cannot_be_served_is_said(call, said):
    with pytest.raises(RequestError, match=said):
        call()


@pytest.mark.parametrize("rate", [1e6, 1e30])
def test_a_rate_that_breaks_the_encoder_is_told_as_such_and_not_as_bad_data(rate, tmp_path):
    with pytest.raises(WeigherError, match=r"training broke at step \d.*lower") as caught:
        pretrain(encoder(), InfoNCELoss(), images()[0], replace(BRIEF, learning_rate=rate), device="cpu")
    assert not isinstance(caught.value, RequestError)


def test_an_encoder_that_the_last_step_has_broken_is_told():
    config = PretrainConfig(epochs=1, batch=48, learning_rate=1e30)
    with pytest.raises(WeigherError, match="training broke in its last step"):
        pretrain(encoder(), InfoNCELoss(), images()[0], config, device="cpu")


def test_views_that_are_not_finite_are_told_as_data():
    x = images()[0]
    x[3] = math.nan
    with pytest.raises(RequestError, match="holds NaN or infinity"):
        pretrain(encoder(), InfoNCELoss(), x, BRIEF, device="cpu")


def test_images_an_encoder_cannot_take_are_refused_and_those_of_another_scale_warned_of():
    model, x = encoder(), torch.rand(3, 1, 8, 8)
    assert torch.allclose(encode(model, x.double()), encode(model, x))
    wrong = [
        (x[:, 0], "floating tensor"),
        (x.numpy(), "ndarray"),
        ((255 * x).byte(), "divided by 255"),
        (x[:0], "floating tensor"),
        (x.expand(3, 3, 8, 8), "images of 3 colours for an encoder of 1"),
        (x.masked_fill(x > 0.9, math.nan), "of the images holds NaN"),
    ]
    for given, said in wrong:
        with pytest.raises(RequestError, match=said):
            encode(model, given)
    with pytest.warns(UserWarning, match=r"to 16; an encoder of `weigher pretrain` was taught on 0 to 1") as caught:
        encode(model, torch.full_like(x, 16.0))
    assert caught[0].filename == __file__


def test_views_are_made_again_from_the_same_generator_and_move_as_they_say():
    x, _ = images(12)
    config = ViewConfig(mirror=True)
    one, two, other = (random_views(x, config, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    still = dict(rotation_degrees=0.0, shift=0.0, scale=0.0, gain=0.0, noise=0.0)
    mirrored = random_views(x, ViewConfig(**still, mirror=True), np.random.default_rng(0))
    flipped = [torch.allclose(view, image.flip(2), atol=1e-5) for view, image in zip(mirrored, x, strict=True)]
    kept = [torch.allclose(view, image, atol=1e-5) for view, image in zip(mirrored, x, strict=True)]
    assert any(flipped)
    assert any(kept)
    assert all(a != b for a, b in zip(flipped, kept, strict=True))
    dot = torch.zeros(200, 1, 9, 9)
    dot[:, :, 4, 4] = 1
    centre = (torch.arange(9) - 4).float()
    moved = random_views(dot, ViewConfig(**{**still, "shift": 0.25}), np.random.default_rng(0))
    shift = (moved[:, 0].sum(1) * centre).sum(1) / moved.sum((1, 2, 3))
    assert 1.8 < shift.abs().max() <= 2.26  # a quarter of 9
    gained = random_views(torch.ones(200, 3, 4, 4), ViewConfig(**{**still, "gain": 0.3}), np.random.default_rng(0))
    assert 0.7 <= gained.min() < 0.75
    assert 1.25 < gained.max() <= 1.3
    assert (gained.std((2, 3)) < 1e-6).all()
    assert (gained.std(1) > 0).any()
    turned = random_views(x, ViewConfig(**{**still, "rotation_degrees": 90.0}), np.random.default_rng(3))
    assert not torch.allclose(turned, x)


def blobs(n=90, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    centres = rng.normal(0, 2, (classes, 5))
    return torch.from_numpy(centres[labels] + rng.normal(0, 1.5, (n, 5))), torch.from_numpy(labels)


def test_the_linear_probe_is_that_of_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    x, y = blobs()
    for strength in (0.1, 1.0):
        ours = linear_probe(x, y, strength=strength)
        scaled = ((x - x.mean(0)) / (x - x.mean(0)).square().mean().sqrt()).numpy()
        theirs = linear_model.LogisticRegression(C=strength, tol=1e-8, max_iter=1000).fit(scaled, y)
        # weights are the same but for a shift that all classes share
        gap = ours.weight.T.numpy() - theirs.coef_
        assert np.abs(gap - gap.mean(0)).max() < 1e-3
        assert ours.accuracy(x, y) == pytest.approx(theirs.score(scaled, y))
    assert linear_probe(x[:1], y[:1]).logits(x).isfinite().all()


def test_neighbours_are_those_of_scikit_learn_and_a_row_is_not_its_own():
    neighbors = pytest.importorskip("sklearn.neighbors", reason="scikit-learn is not installed")
    (x, y), (queries, _) = blobs(700), blobs(60, seed=0)
    theirs = neighbors.KNeighborsClassifier(1, metric="cosine").fit(x, y)
    assert nearest_labels(x, y, queries + 0.1, k=1).tolist() == theirs.predict(queries + 0.1).tolist()
    theirs = neighbors.KNeighborsClassifier(2, metric="cosine").fit(x, y)
    second = theirs.kneighbors(x, return_distance=False)[:, 1]
    assert nearest_labels(x, y, k=1).tolist() == y[torch.from_numpy(second)].tolist()
    rows = torch.tensor([[1.0, 0.0], [0.8, 0.2], [0.0, 1.0], [0.1, 1.0]])
    # two votes each: the nearer two win
    assert nearest_labels(rows, torch.tensor([4, 4, 1, 1]), torch.tensor([[1.0, 0.3]]), k=4).tolist() == [4]


def test_few_labels_are_drawn_class_by_class():
    x, y = blobs()
    figure = few_labels((x, y), (x, y), 2, np.random.default_rng(0), draws=3)
    assert 0.5 < figure < 1
    assert figure == few_labels((x, y), (x, y), 2, np.random.default_rng(0), draws=3)
    all_of_them = few_labels((x, y), (x, y), 30, np.random.default_rng(0), draws=1)
    assert all_of_them == pytest.approx(linear_probe(x, y).accuracy(x, y))
    with pytest.raises(RequestError, match="31 labels"):
        few_labels((x, y), (x, y), 31, np.random.default_rng(0))


def test_what_is_probed_is_a_fifth_that_no_label_was_taken_of():
    x, y = blobs(200)
    found = probed(x, y, seed=1)
    assert list(found) == ["linear probe", "5 nearest neighbours", "10 labels of each class"]
    assert all(0.5 < value < 1 for value in found.values())
    assert found == probed(x, y, seed=1)
    alone = torch.eye(50)  # each row a class of its own direction: nothing is to be learned of the others
    assert probed(alone, torch.arange(50) % 25)["linear probe"] < 0.3
    with pytest.raises(RequestError, match="10 rows and 2 classes"):
        probed(x[:9], y[:9])


def test_a_first_stride_of_two_looks_at_every_second_place():
    one, two = (encoder(config=ImageEncoderConfig(channels=(4,), first_stride=stride)) for stride in (1, 2))
    x, _ = images(5)
    everywhere = torch.nn.functional.conv2d(x, one.backbone[0].weight, one.backbone[0].bias, padding=1).relu()
    half = torch.nn.functional.adaptive_avg_pool2d(everywhere[:, :, ::2, ::2], 2).flatten(1)
    assert torch.allclose(two.features(x), half, atol=1e-6)
    assert not torch.allclose(one.features(x), half, atol=1e-3)


def test_encoding_leaves_the_encoder_as_it_was():
    model, (x, _) = encoder().train(), images(5)
    assert encode(model, x).shape == (5, 32)
    assert encode(model, x, embeddings=True).shape == (5, 6)
    assert model.training

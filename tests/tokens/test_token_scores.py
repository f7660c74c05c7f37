"""The five models: scores that add up, padding that says nothing, the laws, and pieces that equal the whole."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from contract import Subject, check_laws
from weigher.errors import RequestError
from weigher.tokens.token_scores import MODELS, ScorerConfig, TokenScorer, logit_changes, place_bias, token_network


def tiny(model, words=20, dropout=0.0, seed=0, place=True):
    torch.manual_seed(seed)
    config = ScorerConfig(model, embedding=6, hidden=5, layers=(16, 8), heads=2, dropout=dropout, place=place)
    scorer = TokenScorer(words, config).double().eval()
    nn.init.normal_(scorer.embedding.weight)
    for name, parameter in scorer.named_parameters():
        if parameter.dim() == 1 or name in ("attention.bias", "place"):
            nn.init.normal_(parameter)
        if name == "recurrence.state_weight":  # else a tiny ReLU state may explode in one test, or die in the next
            nn.init.normal_(parameter, std=0.3)
    return scorer


def ragged():
    lengths = torch.tensor([40, 17, 1, 5])
    ids = torch.randint(0, 21, (4, 40), generator=torch.Generator().manual_seed(3))
    return ids, lengths


@pytest.mark.parametrize("model", MODELS)
def test_padding_says_nothing(model):
    scorer, (ids, lengths) = tiny(model), ragged()
    found = scorer(ids, lengths)
    for row, length in enumerate(lengths.tolist()):
        assert not found.scores[row, length:].any()
        assert not found.weights[row, length:].any()
        alone = scorer(ids[row : row + 1, :length], lengths[row : row + 1])
        assert torch.allclose(alone.scores[0], found.scores[row, :length], rtol=1e-12, atol=1e-12)
        assert torch.allclose(alone.weights[0], found.weights[row, :length], rtol=1e-12, atol=1e-12)
    if scorer.config.is_recurrent:
        assert torch.equal(found.weights, (torch.arange(40) < lengths[:, None]).double())
    else:
        assert torch.allclose(found.weights.sum(1), torch.ones(4, dtype=torch.float64))


def by_the_formulas(scorer, ids):
    """Scores and weights of one text from the two outputs of its network, in numpy."""
    x = scorer.embedding(ids)[None]
    outputs = scorer.head(scorer.attention(x) if scorer.config.model == "local-attention" else x)[0].numpy()
    if scorer.config.model == "token-mlp":
        return outputs[:, 0], np.full(len(ids), 1 / len(ids))
    loudness, before = outputs[:, 1], np.arange(len(ids))
    if scorer.config.model == "local-attention" and scorer.config.place:
        for table, distance in zip(scorer.place.numpy(), (before, before[::-1]), strict=True):
            loudness = loudness + np.interp(np.log2(1 + distance), np.arange(len(table)), table)
    exponents = np.exp(loudness - loudness.max())
    return outputs[:, 0], exponents / exponents.sum()


@torch.no_grad()
@pytest.mark.parametrize(
    ("model", "place"),
    [("token-mlp", True), ("weighted-mlp", True), ("local-attention", True), ("local-attention", False)],
)
def test_scores_and_weights_are_those_of_the_formulas_and_add_up_to_the_logit(model, place):
    scorer, (ids, lengths) = tiny(model, place=place), ragged()
    found = scorer(ids, lengths)
    for row, length in enumerate(lengths.tolist()):
        scores, weights = by_the_formulas(scorer, ids[row, :length])
        assert found.scores[row, :length].numpy() == pytest.approx(scores, rel=1e-12, abs=1e-12)
        assert found.weights[row, :length].numpy() == pytest.approx(weights, rel=1e-5)  # places are read in float32
        assert found.logits[row].item() == pytest.approx((weights * scores).sum(), abs=1e-5)
        assert (np.ptp(weights) > 1e-3) == (model != "token-mlp" and length > 1)


@pytest.mark.parametrize("layers", [(512,), (512, 256, 256), (512, 256, 256, 256, 256)])
def test_signals_neither_fade_nor_grow_with_the_layers_of_a_network(layers):
    torch.manual_seed(0)
    x = torch.randn(2000, 300)
    sizes = [token_network(300, layers, 64)(x).square().mean() for _ in range(20)]
    # every layer doubles the mean square and its ReLU halves it; the output bears none
    assert torch.stack(sizes).mean().item() == pytest.approx(2, rel=0.2)
    assert all(not layer.bias.any() for layer in token_network(300, layers, 64) if isinstance(layer, nn.Linear))


@pytest.mark.parametrize("model", ["rnn", "gru"])
def test_recurrent_scores_add_up_to_what_the_last_state_says(model):
    scorer, (ids, lengths) = tiny(model), ragged()
    states = scorer.recurrence(scorer.embedding(ids))
    last = states[torch.arange(4), lengths - 1]
    assert torch.allclose(scorer(ids, lengths).logits, scorer.head(last)[:, 0], rtol=1e-12, atol=1e-12)


def test_a_word_alone_says_the_same_anywhere_only_without_context():
    ids = torch.tensor([[3, 4, 5, 6], [9, 3, 8, 7]])
    lengths = torch.tensor([4, 4])
    for model in MODELS:
        scores = tiny(model)(ids, lengths).scores
        same = torch.allclose(scores[0, 0], scores[1, 1], rtol=1e-9)
        assert same == (model in ("token-mlp", "weighted-mlp")), model


@pytest.mark.parametrize("distance", [2, 3])
def test_local_attention_sees_as_far_as_its_window(distance):
    scorer, ids = tiny("local-attention"), torch.arange(12)[None]
    other = ids.clone()
    other[0, 5 + distance] = 15
    length = torch.tensor([12])
    same = torch.allclose(scorer(ids, length).scores[0, 5], scorer(other, length).scores[0, 5], rtol=1e-12)
    assert same == (distance > 2)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("piece", [1, 7, 64])
def test_pieces_equal_the_whole(model, piece):
    scorer, (ids, lengths) = tiny(model), ragged()
    whole, pieces = scorer(ids, lengths), scorer.read_in_pieces(ids, lengths, piece)
    assert torch.allclose(pieces.scores, whole.scores, rtol=1e-12, atol=1e-12)
    assert torch.allclose(pieces.weights, whole.weights, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("model", MODELS)
def test_laws(model, tmp_path):
    scorer = tiny(model)

    def call_of(scorer):
        by_dtype = {torch.float64: scorer, torch.bfloat16: copy.deepcopy(scorer).bfloat16()}

        def call(x, weight=None):
            lengths = torch.full((len(x),), x.shape[1]) if weight is None else weight.sum(1)
            return by_dtype[x.dtype].read(x, lengths).logits

        return call

    def reload():
        torch.save(scorer.state_dict(), tmp_path / "scorer.pt")
        fresh = tiny(model, seed=9)
        fresh.load_state_dict(torch.load(tmp_path / "scorer.pt", weights_only=True))
        return call_of(fresh)

    check_laws(
        Subject(
            name=model,
            call=call_of(scorer),
            inputs=lambda b, t, g: (torch.randn(b, t, 6, dtype=torch.float64, generator=g),),
            weights="mask",
            ordered=True,
            reload=reload,
        )
    )


@pytest.mark.parametrize("model", ["token-mlp", "weighted-mlp"])
def test_order_is_nothing_to_models_of_single_words(model):
    scorer, ids = tiny(model), torch.arange(9)[None]
    order = torch.randperm(9)
    found, turned = scorer(ids, torch.tensor([9])), scorer(ids[:, order], torch.tensor([9]))
    assert torch.allclose(found.scores[:, order], turned.scores)
    assert torch.allclose(found.weights[:, order], turned.weights)
    assert torch.allclose(found.logits, turned.logits)


def test_place_is_read_off_tables_over_doublings_of_the_distance_to_both_ends():
    tables = torch.randn(2, 4, dtype=torch.float64)
    lengths = [30, 1, 9]
    mask = torch.arange(30) < torch.tensor(lengths)[:, None]
    found = place_bias(tables, mask)
    for row, length in enumerate(lengths):
        for t in range(length):
            both = zip(tables.numpy(), (t, length - 1 - t), strict=True)
            wanted = sum(np.interp(np.log2(1 + distance), range(4), table) for table, distance in both)
            assert found[row, t].item() == pytest.approx(wanted, abs=1e-6)


def test_place_moves_weights_of_local_attention_and_no_score():
    scorer, (ids, lengths) = tiny("local-attention"), ragged()
    without = copy.deepcopy(scorer)
    nn.init.zeros_(without.place)
    found, plain = scorer(ids, lengths), without(ids, lengths)
    assert torch.equal(found.scores, plain.scores)
    assert (found.weights[0] - plain.weights[0]).abs().max() > 1e-3
    assert torch.equal(found.weights[2], plain.weights[2])  # one word bears it all
    unplaced = TokenScorer(20, ScorerConfig("local-attention", place=False))
    assert not hasattr(unplaced, "place")
    assert not hasattr(TokenScorer(20, ScorerConfig("weighted-mlp")), "place")


@pytest.mark.parametrize("model", MODELS)
def test_a_bias_is_added_to_the_logit_of_every_text_that_has_words(model):
    scorer, (ids, lengths) = tiny(model), ragged()
    before = scorer(ids, lengths)
    scorer.add_bias(0.5)
    found = scorer(ids, lengths)
    assert torch.allclose(found.logits, before.logits + 0.5, rtol=1e-12)
    if scorer.config.is_recurrent:  # the first word bears it
        assert torch.allclose(found.scores[:, 0], before.scores[:, 0] + 0.5, rtol=1e-12)
        assert torch.allclose(found.scores[:, 1:], before.scores[:, 1:], rtol=1e-9)
    assert not scorer(ids[:, :1], torch.tensor([0, 0, 0, 0])).logits.any()


def test_logit_changes_are_differences_that_stop_with_the_text():
    logits = torch.tensor([[1.0, 4.0, 9.0], [2.0, 7.0, 5.0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    assert logit_changes(logits, mask).tolist() == [[1, 3, 5], [2, 5, 0]]


@pytest.mark.parametrize("model", MODELS)
def test_dropout_is_for_training_alone(model):
    scorer, (ids, lengths) = tiny(model, dropout=0.5), ragged()
    assert torch.equal(scorer(ids, lengths).logits, scorer(ids, lengths).logits)
    scorer.train()
    assert not torch.equal(scorer(ids, lengths).logits, scorer(ids, lengths).logits)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"model": "lstm"}, "there are rnn, gru"),
        ({"hidden": 0}, "hidden = 0"),
        ({"layers": (8, 0)}, r"layers\[1\] = 0"),
        ({"window": 4}, "odd number"),
        ({"dropout": 1.0}, "dropout = 1.0"),
        ({"embedding": 12}, "5 heads do not divide 12 channels evenly"),
    ],
)
def test_sizes_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(RequestError, match=message):
        ScorerConfig(**wrong)


def test_heads_are_those_of_local_attention_alone():
    assert ScorerConfig("weighted-mlp", embedding=12).heads == 5


def test_lengths_beyond_the_batch_are_refused():
    with pytest.raises(RequestError, match="lengths"):
        tiny("token-mlp")(torch.zeros(1, 3, dtype=torch.long), torch.tensor([4]))
